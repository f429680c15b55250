//! Every package that is built into Landfall or its tests has a licence that an Apache-2.0 program may use.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::process::Command;
use std::time::Duration;

use landfall_tests::process;

/// Licences without terms beyond those of Apache-2.0, as SPDX writes them.
const ALLOWED: [&str; 11] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

#[test]
fn every_package_has_a_licence_that_apache_2_may_use() {
    let packages = packages();
    assert!(packages.len() > 50, "cargo metadata lists only {} packages", packages.len());
    let refused: Vec<_> = packages
        .iter()
        .filter(|(_, licence)| !licence.as_deref().is_some_and(|licence| is_allowed(licence).unwrap_or(false)))
        .collect();
    assert!(refused.is_empty(), "not on the list of allowed licences: {refused:#?}; replace the package, or allow it here");
}

/// Name, version and licence of every package that is compiled for this platform.
fn packages() -> Vec<(String, Option<String>)> {
    let metadata = cargo(&["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform", &platform()]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let resolved: Vec<&str> =
        metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|node| node["id"].as_str().unwrap()).collect();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .filter(|package| resolved.contains(&package["id"].as_str().unwrap()))
        .map(|package| (format!("{} {}", package["name"], package["version"]), text(&package["license"])))
        .collect()
}

fn platform() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.arg("-vV");
    let version = process::run(None, command, None, Duration::from_secs(60)).unwrap();
    version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    process::run(None, command, None, Duration::from_secs(60)).unwrap()
}

/// Whether an SPDX expression can be satisfied with allowed licences alone; nothing if it is no such expression.
fn is_allowed(expression: &str) -> Option<bool> {
    // Packages from before SPDX write MIT/Apache-2.0 and mean OR.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let allowed = any(&mut words)?;
    words.next().is_none().then_some(allowed)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

/// `all OR all …`. Both sides are always read, so that a mistake in either is seen.
fn any(words: &mut Words) -> Option<bool> {
    let mut allowed = all(words)?;
    while words.next_if_eq(&"OR").is_some() {
        allowed |= all(words)?;
    }
    Some(allowed)
}

/// `one AND one …`
fn all(words: &mut Words) -> Option<bool> {
    let mut allowed = one(words)?;
    while words.next_if_eq(&"AND").is_some() {
        allowed &= one(words)?;
    }
    Some(allowed)
}

/// A licence, with its exception if it has one, or an expression in parentheses.
fn one(words: &mut Words) -> Option<bool> {
    match words.next()? {
        "(" => {
            let allowed = any(words)?;
            (words.next()? == ")").then_some(allowed)
        }
        ")" | "OR" | "AND" | "WITH" => None,
        licence if words.next_if_eq(&"WITH").is_some() => {
            Some(ALLOWED.contains(&format!("{licence} WITH {}", words.next()?).as_str()))
        }
        licence => Some(ALLOWED.contains(&licence)),
    }
}

#[test]
fn expressions_are_read_with_their_operators_and_parentheses() {
    for (expression, expected) in [
        ("MIT", Some(true)),
        ("GPL-3.0-only", Some(false)),
        ("MIT OR GPL-3.0-only", Some(true)),
        ("MIT AND GPL-3.0-only", Some(false)),
        ("MIT/Apache-2.0", Some(true)),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", Some(true)),
        ("(MIT OR Apache-2.0) AND OpenSSL", Some(false)),
        ("GPL-2.0-only OR MIT AND ISC", Some(true)),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0-only", Some(true)),
        ("MIT WITH Some-exception", Some(false)),
        ("(MIT", None),
        ("MIT Apache-2.0", None),
        ("", None),
    ] {
        assert_eq!(is_allowed(expression), expected, "{expression:?}");
    }
}
