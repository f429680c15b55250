//! `[anycast]` as an operator writes it: what is accepted, what is refused, and with which words.

#![allow(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

use std::{num::NonZeroUsize, time::Duration};

use anycast::{decide::WhenIsolated, reconcile::Carrier};
use landfall::config::{Anycast, Config, ConfigErrors, Host};

fn host() -> Host {
    Host {
        name: "lab".into(),
        cores: NonZeroUsize::MIN,
        descriptors: 524_288,
        congestion: Vec::new(),
        ephemeral: Vec::new(),
        no_dispatcher: Some("a test".into()),
    }
}

/// A file of two static IPs; `[anycast]` begins on line 5.
fn file(edge: &str, anycast: &str) -> String {
    format!(
        "name = \"game\"\nstatic_ips = [\"198.18.0.1\", \"fd00::1\"]\nhash_seed = 7\nedge = {{ {edge} }}\n[anycast]\n{anycast}\n\
         [[listeners]]\nname = \"l\"\nprotocol = \"tcp\"\nports = [80]\nendpoint_groups = [\"g\"]\n\
         [[endpoint_groups]]\nname = \"g\"\nendpoints = [{{ name = \"e\", address = \"10.0.1.10\" }}]\n"
    )
}

fn parse(text: &str) -> Config {
    Config::parse(text, &host()).unwrap()
}

fn errors(text: &str) -> Vec<(usize, String, String)> {
    let ConfigErrors(errors) = Config::parse(text, &host()).expect_err(text);
    errors.into_iter().map(|error| (error.line, error.key, error.reason)).collect()
}

const BIRD: &str = "speaker = \"bird\"\n";
const BOTH: &str = "bird_protocols = { \"198.18.0.1\" = \"landfall_1\", \"fd00:0::1\" = \"landfall_2\" }\n";
const LOW: &str = "bird_deprefer = { \"198.18.0.1\" = \"landfall_1_low\", \"fd00::1\" = \"landfall_2_low\" }\n";

#[test]
fn a_speaker_means_what_it_says() {
    let carrier = |normal: &str, low: Option<&str>| Carrier { normal: normal.into(), low: low.map(str::to_owned) };
    let (one, two) = ("198.18.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
    let defaults = Anycast {
        device: "landfall0".into(),
        bird_socket: "/run/bird/bird.ctl".into(),
        carriers: vec![(one, carrier("landfall_1", None)), (two, carrier("landfall_2", None))],
        when_isolated: WhenIsolated::Keep,
        isolated_hold: Duration::from_secs(10),
        shutdown_wait: Duration::from_secs(2),
    };
    assert_eq!(parse(&file("", &format!("{BIRD}{BOTH}"))).anycast.unwrap(), defaults);
    let all =
        "device = \"lf.1\"\nbird_socket = \"/b\"\nisolated = \"deprefer\"\nisolated_hold = \"0s\"\nshutdown_wait = \"1s 1ms\"";
    let config = parse(&file("", &format!("{BIRD}{BOTH}{LOW}{all}")));
    let expected = Anycast {
        device: "lf.1".into(),
        bird_socket: "/b".into(),
        carriers: vec![
            (one, carrier("landfall_1", Some("landfall_1_low"))),
            (two, carrier("landfall_2", Some("landfall_2_low"))),
        ],
        when_isolated: WhenIsolated::Deprefer,
        isolated_hold: Duration::ZERO,
        shutdown_wait: Duration::from_millis(1001),
    };
    assert_eq!(config.anycast.as_ref(), Some(&expected));
    assert!(config.warnings.is_empty());
    let written = config.to_toml();
    assert_eq!(parse(&written), config, "{written}");
    assert_eq!(parse(&written).to_toml(), written);
    assert_eq!(parse(&file("", "")).anycast, None);
}

#[test]
fn an_edge_of_one_zone_needs_the_protocols_of_its_own_static_ips() {
    let one = format!("{BIRD}bird_protocols = {{ \"198.18.0.1\" = \"landfall_1\" }}");
    assert_eq!(parse(&file("announce = [\"198.18.0.1\"]", &one)).anycast.unwrap().carriers.len(), 1);
    // One file for all edges: protocols of the others may stand there.
    assert_eq!(parse(&file("announce = [\"fd00::1\"]", &format!("{BIRD}{BOTH}"))).anycast.unwrap().carriers.len(), 2);
}

#[test]
fn refuses_and_says_where() {
    for (edge, anycast, line, key, reason) in [
        ("", "speaker = \"frr\"", 6, "speaker", "unknown value"),
        ("announce = [\"fd00::1\"]", "speaker = \"bird\"", 5, "bird_protocols", "no protocol for fd00::1, which"),
        ("", "speaker = \"bird\"\nbird_protocols = { \"198.18.0.1\" = \"a\" }", 7, "bird_protocols", "no protocol for fd00::1"),
        ("", "speaker = \"bird\"\nbird_protocols = \"a\"", 7, "bird_protocols", "a text where a table belongs"),
        (
            "announce = [\"198.18.0.1\"]",
            "speaker = \"bird\"\nbird_protocols = { \"198.18.0.1\" = \"a\", \"198.18.0.9\" = \"b\" }",
            7,
            "198.18.0.9",
            "not one of static_ips",
        ),
        (
            "announce = [\"198.18.0.1\"]",
            "speaker = \"bird\"\nbird_protocols = { \"198.18.0.1\" = \"a\" }\nbird_deprefer = { \"fd00::1\" = \"b\" }",
            8,
            "bird_deprefer.\"fd00::1\"",
            "has no protocol in bird_protocols",
        ),
        ("", "bird_protocols = { \"x\" = \"a\" }", 6, "bird_protocols.x", "not an IP address"),
        ("", "bird_protocols = { \"fd00::1\" = \"a\", \"fd00:0::1\" = \"b\" }", 6, "bird_protocols.\"fd00::1\"", "listed twice"),
        ("", "bird_protocols = { \"fd00::1\" = \"all\" }", 6, "bird_protocols.\"fd00::1\"", "not the name of a protocol"),
        (
            "",
            "bird_protocols = { \"fd00::1\" = \"a; disable all\" }",
            6,
            "bird_protocols.\"fd00::1\"",
            "not the name of a protocol",
        ),
        ("", "bird_protocols = { \"fd00::1\" = 7 }", 6, "bird_protocols.\"fd00::1\"", "an integer where a text belongs"),
        ("", "bird_socket = \"bird.ctl\"", 6, "bird_socket", "not an absolute path"),
        ("", "device = \"a/b\"", 6, "device", "not a name for a device"),
        ("", "device = \"sixteen-letters-\"", 6, "device", "not a name for a device"),
        ("", "device = \"lf%d\"", 6, "device", "not a name for a device"),
        ("", "isolated = \"leave\"", 6, "isolated", "unknown value"),
        ("", "isolated_hold = \"-1s\"", 6, "isolated_hold", "not a duration"),
        ("", "shutdown_wait = 2", 6, "shutdown_wait", "an integer where a text belongs"),
        ("", "isolatd = \"keep\"", 6, "isolatd", "unknown key"),
    ] {
        let found = errors(&file(edge, anycast));
        let [(found_line, found_key, found_reason)] = &found[..] else { panic!("{anycast}: {found:#?}") };
        assert_eq!(*found_line, line, "{anycast}: {found:?}");
        assert!(found_key.starts_with("anycast.") && found_key.ends_with(key), "{anycast}: {found_key}");
        assert!(found_reason.contains(reason), "{anycast}: {found_reason:?} lacks {reason:?}");
    }
}

#[test]
fn all_errors_at_once() {
    let text = format!(
        "{BIRD}isolated = \"deprefer\"\nbird_protocols = {{ \"198.18.0.1\" = \"a\", \"fd00::1\" = \"a\", \"fd00::9\" = \"c\" }}\n\
         bird_deprefer = {{ \"198.18.0.1\" = \"c\" }}"
    );
    let found: Vec<_> = errors(&file("", &text)).into_iter().map(|(line, _, reason)| (line, reason)).collect();
    let expected = [
        (7, "\"deprefer\" needs a protocol for fd00::1"),
        (8, "fd00::9 is not one of static_ips"),
        (8, "the protocol \"a\" already stands for 198.18.0.1 on line 8"),
        (9, "the protocol \"c\" already stands for fd00::9 on line 8"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for ((line, reason), (expected_line, words)) in found.iter().zip(expected) {
        assert!(*line == expected_line && reason.contains(words), "{line}: {reason:?}, not {expected_line}: {words:?}");
    }
}

#[test]
fn keys_without_a_speaker_are_warned_of() {
    let config = parse(&file("", &format!("speaker = \"none\"\n{BOTH}isolated = \"keep\"")));
    let warned: Vec<_> = config.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(warned, ["anycast.bird_protocols", "anycast.isolated"]);
}

#[test]
fn a_change_needs_a_restart() {
    let old = parse(&file("", &format!("{BIRD}{BOTH}")));
    let new = |text: &str| old.restart_needed(&parse(&file("", text)));
    assert_eq!(new(""), ["anycast.speaker"]);
    assert_eq!(new(&format!("{BIRD}{BOTH}{LOW}")), ["anycast.bird_deprefer"]);
    let most = "device = \"d\"\nbird_socket = \"/b\"\nisolated = \"withdraw\"\nisolated_hold = \"1s\"\nshutdown_wait = \"1s\"";
    let keys = new(&format!("{BIRD}{BOTH}{most}"));
    assert_eq!(
        keys,
        ["anycast.device", "anycast.bird_socket", "anycast.isolated", "anycast.isolated_hold", "anycast.shutdown_wait"]
    );
    let swapped = BOTH.replace("landfall_1", "x");
    assert_eq!(new(&format!("{BIRD}{swapped}")), ["anycast.bird_protocols"]);
}
