//! `landfall check` as a library function: what it prints, and with which status.

#![allow(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

use std::{num::NonZeroUsize, path::PathBuf};

use landfall::{
    check::{EXIT_CONFIG, EXIT_NO_INPUT, EXIT_OK, Format, Outcome, check},
    config::{Config, Host},
};

fn run(file: &str, format: Format) -> Outcome {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/configs").join(file);
    check(&path, &host(), format)
}

fn host() -> Host {
    Host { name: "lab".into(), cores: NonZeroUsize::new(4).unwrap(), descriptors: 524_288 }
}

#[test]
fn a_valid_file_is_shown_in_full_with_its_bounds() {
    let outcome = run("design.toml", Format::Text);
    assert_eq!(outcome.status, EXIT_OK);
    assert!(Config::parse(&outcome.text, &host()).is_ok(), "what is printed is a config file");
    let bound =
        "# endpoint group eu: 1.7 s = interval 1 s + timeout 0.2 s + 2 × max(fast_interval 0.2 s, timeout 0.2 s) + 0.1 s\n";
    assert!(outcome.text.contains(bound), "{}", outcome.text);
    assert!(outcome.text.contains("design.toml:22: listeners[0].connect_timeout: "), "{}", outcome.text);
}

#[test]
fn errors_are_printed_one_a_line() {
    let outcome = run("ten_mistakes.toml", Format::Text);
    assert_eq!((outcome.status, outcome.text.lines().count()), (EXIT_CONFIG, 10));
    assert!(outcome.text.lines().all(|line| line.contains("ten_mistakes.toml:") && line.contains("; ")), "{}", outcome.text);
}

#[test]
fn json_has_the_documented_fields_and_no_secret() {
    let outcome = run("design.toml", Format::Json);
    let json: serde_json::Value = serde_json::from_str(&outcome.text).unwrap();
    assert_eq!(json["errors"], serde_json::json!([]));
    assert_eq!(json["endpoint_groups"][0], serde_json::json!({ "name": "eu", "failover_bound_seconds": 1.7 }));
    assert!(!outcome.text.contains("hash_seed"));

    let outcome = run("ten_mistakes.toml", Format::Json);
    let json: serde_json::Value = serde_json::from_str(&outcome.text).unwrap();
    assert_eq!((outcome.status, json["errors"].as_array().unwrap().len()), (EXIT_CONFIG, 10));
    assert_eq!((&json["errors"][2]["line"], &json["errors"][2]["key"]), (&11.into(), &"listeners[0].prots".into()));
    assert_eq!((&json["errors"][2]["message"], &json["endpoint_groups"]), (&"unknown key".into(), &serde_json::json!([])));
}

#[test]
fn a_file_that_is_no_text_is_an_error_with_a_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("binary.toml");
    std::fs::write(&path, b"name = \"game\"\n# caf\xe9\n").unwrap();
    let outcome = check(&path, &host(), Format::Text);
    assert_eq!(outcome.status, EXIT_CONFIG);
    assert!(outcome.text.contains("binary.toml:2: "), "{}", outcome.text);
}

#[test]
fn a_file_that_is_not_there_is_an_error_of_its_own() {
    assert_eq!(run("absent.toml", Format::Text).status, EXIT_NO_INPUT);
    let json: serde_json::Value = serde_json::from_str(&run("absent.toml", Format::Json).text).unwrap();
    assert!(json["errors"][0]["message"].as_str().unwrap().starts_with("cannot read the file"));
}
