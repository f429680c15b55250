//! What only the inside of the module can see: no text panics, and every key is documented.

use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::*;

const GUIDE: &str = include_str!("../../../../docs/CONFIG.md");
const DESIGN: &str = include_str!("../../tests/configs/design.toml");

fn host() -> Host {
    Host {
        name: "lab".into(),
        cores: NonZeroUsize::MIN,
        descriptors: 1 << 20,
        congestion: Vec::new(),
        ephemeral: Vec::new(),
        no_dispatcher: Some("a test".into()),
    }
}

/// A file in which every table of the contract stands, so that every reader asks for all its keys.
fn every_table() -> String {
    DESIGN
        .replace("protocol = \"udp\"\nports", "protocol = \"tcp_udp\"\nports")
        .replace("idle_timeout = \"30s\"", "idle_timeout = { tcp = \"1s\", udp = \"1s\" }")
        .replace("forwarding = \"auto\"", "client_socket = { keepalive = \"1s\" }\nendpoint_socket = { congestion = \"bbr\" }")
        .replace("on_unhealthy = \"move\"", "on_unhealthy = { tcp = \"keep\", udp = \"keep\" }")
        .replace(
            "send = \"ping\", expect = \"pong\"",
            "send = { hex = \"00\" }, expect = { regex = \"^p\" }, flap = { changes = 6, window = \"5m\" }",
        )
}

/// The part of the guide that documents the table of a key, and the key as it stands there.
fn place(asked: &str) -> (&'static str, &str) {
    for (prefix, heading) in [
        ("edge.", "`[edge]`"),
        ("anycast.", "`[anycast]`"),
        ("listeners[].", "`[[listeners]]`"),
        ("endpoint_groups[].health_check.", "`health_check`"),
        ("endpoint_groups[].", "`[[endpoint_groups]]`"),
    ] {
        if let Some(key) = asked.strip_prefix(prefix) {
            return (heading, key);
        }
    }
    ("Top level", asked)
}

#[test]
fn every_key_is_documented() {
    let (config, errors, asked) = read(&every_table(), &host());
    assert!(config.is_some(), "{errors:#?}");
    assert!(asked.len() > 70, "{asked:?}");
    for key in &asked {
        let (heading, key) = place(key);
        let section = GUIDE.split("\n## ").find(|section| section.starts_with(heading));
        let section = section.unwrap_or_else(|| panic!("docs/CONFIG.md has no section {heading}"));
        assert!(section.contains(&format!("`{key}`")), "docs/CONFIG.md, {heading}: `{key}` is missing");
    }
}

#[test]
fn every_documented_key_is_read() {
    let (_, _, asked) = read(&every_table(), &host());
    for section in GUIDE.split("\n## ").skip(1) {
        for row in section.lines().filter(|line| line.starts_with("| `")) {
            let key = row.trim_start_matches("| `").split('`').next().unwrap_or_default();
            let read = asked.iter().any(|asked| section.starts_with(place(asked).0) && place(asked).1 == key);
            assert!(read, "docs/CONFIG.md documents `{key}`, which no reader asks for");
        }
    }
}

/// Fragments of real files in any order, and noise between them.
fn garbage() -> impl Strategy<Value = String> {
    let fragments = DESIGN.split_inclusive([' ', '\n', '"']).map(str::to_owned).collect::<Vec<_>>();
    let noise = prop_oneof!["[\\[\\]{}=\"'.,#\n\r\\\\a-z0-9 -]{0,12}", "\\PC{0,8}", Just("[[listeners]]\n".to_owned())];
    let piece = prop_oneof![4 => proptest::sample::select(fragments), 1 => noise];
    proptest::collection::vec(piece, 0..80).prop_map(|pieces| pieces.concat())
}

/// A good file with one stretch replaced.
fn damaged() -> impl Strategy<Value = String> {
    let points = (any::<proptest::sample::Index>(), 0..40usize, "[\\[\\]{}=\"'.,#\n\r\\\\a-z0-9 -]{0,12}");
    (Just(every_table()), points).prop_map(|(text, (at, length, noise))| {
        let start = at.index(text.len());
        let end = (start + length).min(text.len());
        format!("{}{noise}{}", text.get(..start).unwrap_or_default(), text.get(end..).unwrap_or_default())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_panics(text in prop_oneof![garbage(), damaged(), any::<String>()]) {
        let lines = text.split('\n').count();
        match Config::parse(&text, &host()) {
            Ok(config) => prop_assert_eq!(Config::parse(&config.to_toml(), &host()), Ok(config)),
            Err(ConfigErrors(errors)) => {
                prop_assert!(!errors.is_empty());
                prop_assert!(errors.iter().all(|error| (1..=lines).contains(&error.line)));
                prop_assert!(errors.iter().all(|error| !error.reason.is_empty() && !error.cure.is_empty() && !error.key.is_empty()));
            }
        }
    }
}
