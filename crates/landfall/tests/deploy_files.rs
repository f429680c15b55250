//! The files that people copy are right: every example config parses, and every metric that a rule or a panel asks for exists.

#![allow(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

use std::{
    collections::BTreeSet,
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use landfall::config::{Config, Host};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Every file under `deploy/` whose name ends in one of `extensions`.
fn deploy_files(extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root().join("deploy")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn assert_valid(what: &str, text: &str) {
    let host = Host {
        name: "edge1".into(),
        cores: NonZeroUsize::new(4).unwrap(),
        descriptors: 524_288,
        congestion: Vec::new(),
        ephemeral: Vec::new(),
        no_dispatcher: Some("a test".into()),
    };
    let config = Config::parse(text, &host).unwrap_or_else(|errors| panic!("{what}: {errors:?}"));
    assert!(config.warnings.is_empty(), "{what}: {:?}", config.warnings);
}

#[test]
fn example_configs_have_neither_errors_nor_warnings() {
    let files = deploy_files(&["toml"]);
    assert!(!files.is_empty());
    for file in files {
        assert_valid(&file.display().to_string(), &fs::read_to_string(&file).unwrap());
    }
}

#[test]
fn the_configs_that_documents_show_are_whole_and_valid() {
    let mut shown = 0;
    for document in ["README.md", "docs/CONFIG.md"] {
        let text = read(document);
        for block in text.split("```toml\n").skip(1) {
            assert_valid(document, block.split("```").next().unwrap());
            shown += 1;
        }
    }
    assert!(shown >= 2);
}

#[test]
fn rules_and_panels_ask_for_metrics_that_exist() {
    let doc = read("docs/METRICS.md");
    let exists = |name: &str| doc.contains(&format!("\n| `{name}` |"));
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let mut asked = BTreeSet::new();
    for file in deploy_files(&["yml", "json"]) {
        let text = fs::read_to_string(file).unwrap();
        asked.extend(text.match_indices("landfall_").map(|(at, _)| {
            let rest = &text[at..];
            rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())].to_owned()
        }));
    }
    assert!(asked.len() > 5, "{asked:?}");
    for name in asked {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        assert!(exists(&name) || base.is_some_and(exists), "{name}");
    }
}

#[test]
fn dashboards_are_json() {
    let files = deploy_files(&["json"]);
    assert!(!files.is_empty());
    for file in files {
        let dashboard: serde_json::Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        assert!(dashboard["panels"].as_array().is_some_and(|panels| !panels.is_empty()));
    }
}

#[test]
fn the_scripts_for_transparent_agree_with_each_other_and_with_the_document() {
    let (setup, teardown) = (read("deploy/transparent/setup.sh"), read("deploy/transparent/teardown.sh"));
    let numbers = ["mark", "table", "priority"].map(|name| {
        let value = |script: &str| {
            let line = script.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap().to_owned()
        };
        assert_eq!(value(&setup), value(&teardown), "{name}");
        value(&setup)
    });
    let [mark, table, priority] = numbers;
    let guide = read("docs/OPERATIONS.md");
    for part in ["socket transparent", " tproxy "] {
        let is_rule = |line: &&str| line.contains(part) && !line.starts_with('#');
        let rule = setup.lines().find(is_rule).unwrap().trim().replace("$mark", &mark);
        assert!(guide.contains(&rule), "{rule}");
    }
    for family in ["-4", "-6"] {
        for verb in ["add", "del"] {
            let command = format!("ip {family} rule {verb} fwmark {mark} lookup {table} priority {priority}\n");
            assert!(guide.contains(&command), "{command}");
        }
        assert!(guide.contains(&format!("ip {family} route add local default dev lo table {table}\n")));
    }
}
