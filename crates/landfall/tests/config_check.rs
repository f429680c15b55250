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
    Host {
        name: "lab".into(),
        cores: NonZeroUsize::new(4).unwrap(),
        descriptors: 524_288,
        congestion: Vec::new(),
        ephemeral: Vec::new(),
        no_dispatcher: Some("a test".into()),
    }
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
fn the_division_of_descriptors_is_shown() {
    // 2 static IPs × 101 ports × 2 workers; no TCP, so nothing is kept for pipes.
    let line = "# capacity: 524288 descriptors = 404 listening sockets + 256 in reserve + 523628 for flows; max_flows of all listeners: 200000\n";
    let outcome = run("design.toml", Format::Text);
    assert!(outcome.text.contains(line), "{}", outcome.text);
    let json: serde_json::Value = serde_json::from_str(&run("design.toml", Format::Json).text).unwrap();
    let capacity = serde_json::json!({
        "descriptors": 524_288, "listening_sockets": 404, "reserved": 256, "for_flows": 523_628, "max_flows": 200_000,
    });
    assert_eq!(json["capacity"], capacity);
    let json: serde_json::Value = serde_json::from_str(&run("ten_mistakes.toml", Format::Json).text).unwrap();
    assert_eq!(json["capacity"], serde_json::Value::Null);
    // One TCP listener on one port of one static IP, four workers with 32 pipes of two descriptors each.
    let json: serde_json::Value = serde_json::from_str(&crowd(1, 128, 100.0).text).unwrap();
    let (reserved, left) = (256 + 4 * 64, 524_288 - 4 - 256 - 4 * 64);
    assert_eq!((&json["capacity"]["reserved"], &json["capacity"]["max_flows"]), (&reserved.into(), &(left / 2).into()));
}

#[test]
fn shares_are_those_of_the_slots() {
    let text = run("design.toml", Format::Text).text;
    let line = |name: &str| text.lines().find(|line| line.starts_with(&format!("#   {name} "))).unwrap().to_owned();
    let slots = |name: &str| line(name).split_whitespace().rev().nth(1).unwrap().parse::<usize>().unwrap();
    let (first, second) = (slots("eu-1"), slots("eu-2"));
    // Weights 128 and 64; `us` takes nothing while `eu`, at dial 100, is eligible.
    assert_eq!((first + second, slots("us-1")), (65_536, 0), "{text}");
    assert!(first.abs_diff(43_691) < 600, "{text}");

    let json: serde_json::Value = serde_json::from_str(&run("design.toml", Format::Json).text).unwrap();
    let shares = &json["listeners"][0]["shares"];
    assert_eq!(json["listeners"][0]["name"], "match");
    assert_eq!(shares["eu-1"].as_f64().unwrap(), first as f64 / 65_536.0);
    assert_eq!(shares["us-1"], 0.0);
}

/// `eu` with `count` endpoints of weight 128 and one of `weight`, at `dial`, then `us`.
fn crowd(count: usize, weight: u8, dial: f64) -> Outcome {
    use std::fmt::Write;
    let mut text = String::from("name = \"game\"\nstatic_ips = [\"198.18.0.1\"]\nhash_seed = 7\n");
    text.push_str("[[listeners]]\nname = \"match\"\nprotocol = \"tcp\"\nports = [7000]\nendpoint_groups = [\"eu\", \"us\"]\n");
    writeln!(text, "[[endpoint_groups]]\nname = \"eu\"\ntraffic_dial = {dial:?}\nendpoints = [").unwrap();
    for index in 0..count {
        writeln!(text, "{{ name = \"eu-{index}\", address = \"10.0.{}.{}\", weight = 128 }},", index / 250, index % 250 + 1)
            .unwrap();
    }
    writeln!(text, "{{ name = \"small\", address = \"10.9.0.1\", weight = {weight} }}]").unwrap();
    text.push_str("[[endpoint_groups]]\nname = \"us\"\nendpoints = [{ name = \"us-1\", address = \"10.8.0.1\" }]\n");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("crowd.toml");
    std::fs::write(&path, text).unwrap();
    check(&path, &host(), Format::Json)
}

fn share_warnings(outcome: &Outcome) -> Vec<String> {
    let json: serde_json::Value = serde_json::from_str(&outcome.text).unwrap();
    let warnings = json["warnings"].as_array().unwrap().iter().filter(|warning| warning["key"] == "endpoint_groups[0].endpoints");
    warnings.map(|warning| warning["message"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn few_slots_an_endpoint_are_warned_of() {
    // 65,536 slots over 129 endpoints are 508 each, over 301 about 218.
    assert_eq!(share_warnings(&crowd(128, 128, 100.0)), Vec::<String>::new());
    let [many] = &share_warnings(&crowd(300, 128, 100.0))[..] else { panic!() };
    assert!(many.contains("of 301 endpoints get fewer than 256 of the 65536 slots where it takes everything"), "{many}");
    let [small] = &share_warnings(&crowd(3, 1, 100.0))[..] else { panic!() };
    assert!(small.contains("1 of 4 endpoints") && small.contains("gets small: its share may be off by "), "{small}");
    // In full the group has enough for everyone, but this listener's dial leaves it 655 for four.
    let [dialled] = &share_warnings(&crowd(3, 128, 1.0))[..] else { panic!() };
    assert!(dialled.contains("4 of 4 endpoints") && dialled.contains("through listener match"), "{dialled}");
    // Weight 0 is no share that could be uneven.
    assert_eq!(share_warnings(&crowd(3, 0, 100.0)), Vec::<String>::new());
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

#[test]
fn sockets_that_only_user_space_would_need_are_told_as_such() {
    let line = |edge: &str, listener: &str| {
        let text = format!(
            "name = \"voice\"\nstatic_ips = [\"198.18.0.1\"]\nhash_seed = 7\n[edge]\nname = \"lab\"\n{edge}\n\
             [[listeners]]\nname = \"rtp\"\nports = [\"10000-20000\"]\nendpoint_groups = [\"eu\"]\n{listener}\n\
             [[endpoint_groups]]\nname = \"eu\"\nhealth_check = {{ protocol = \"tcp\", port = 80 }}\n\
             endpoints = [{{ name = \"eu-1\", address = \"192.0.2.10\" }}]\n"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let host = Host { no_dispatcher: None, ..host() };
        let text = check(file.path(), &host, Format::Text).text;
        text.lines().find(|line| line.contains("10001 ports")).map(str::to_owned)
    };
    let one = |sockets: usize| {
        format!("# listener rtp: {sockets} sockets take what comes for its 10001 ports, chosen by a program in the kernel")
    };
    let nat = "nat_addresses = [\"192.0.2.5\"]";
    let unless = "; those of UDP only if user space forwards it after all";
    assert_eq!(line("", "protocol = \"udp\""), Some(one(4)));
    assert_eq!(line(nat, "protocol = \"tcp\""), Some(one(4)));
    assert_eq!(line(nat, "protocol = \"udp\""), Some(one(4) + unless));
    assert_eq!(line(nat, "protocol = \"tcp_udp\""), Some(one(8) + unless));
    assert_eq!(line(nat, "protocol = \"tcp_udp\"\nforwarding = \"kernel\""), Some(one(4)));
    assert_eq!(line(nat, "protocol = \"udp\"\nforwarding = \"kernel\""), None);
}
