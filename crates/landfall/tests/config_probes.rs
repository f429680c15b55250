//! What probes ask, as an operator writes it: every key, every mistake, and the way back into a file.

#![allow(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

use std::{num::NonZeroUsize, process::Command};

use health_checker::{
    Exchange, Expect, ProbeKind,
    http::{Http, Method},
    preset::{DnsName, Preset, Protocol, Transport},
    quic::Quic,
    script::Pattern,
    tls::TlsSettings,
};
use landfall::config::{Config, ConfigErrors, Host};

/// Of nobody: its key was thrown away.
const CERTIFICATE: &str = include_str!("configs/ca.pem");

/// Where the health check stands in the file of [`with`].
const LINE: usize = 11;

fn host() -> Host {
    Host {
        name: "lab".into(),
        cores: NonZeroUsize::MIN,
        descriptors: 4096,
        congestion: Vec::new(),
        ephemeral: Vec::new(),
        no_dispatcher: Some("a test".into()),
    }
}

fn parse(text: &str) -> Config {
    Config::parse(text, &host()).unwrap()
}

fn errors(text: &str) -> Vec<(usize, String, String)> {
    let ConfigErrors(errors) = Config::parse(text, &host()).expect_err(text);
    errors.into_iter().map(|error| (error.line, error.key, error.reason)).collect()
}

/// A file whose only group is probed like that.
fn with(keys: &str) -> String {
    format!(
        "name = \"game\"\nstatic_ips = [\"198.18.0.1\"]\nhash_seed = 7\n\n[[listeners]]\nname = \"chat\"\nprotocol = \"tcp\"\n\
         ports = [80]\nendpoint_groups = [\"eu\"]\n[[endpoint_groups]]\nhealth_check = {{ {keys} }}\nname = \"eu\"\n\
         endpoints = [{{ name = \"eu-1\", address = \"10.0.1.10\" }}]\n"
    )
}

/// One health check that is refused: its keys, the key that the error names, words in its reason.
type CheckRefusal = (&'static str, &'static str, &'static str);

fn assert_check_refused(cases: &[CheckRefusal]) {
    for (keys, key, reason) in cases {
        let file = with(keys);
        let found = errors(&file);
        let [(found_line, found_key, found_reason)] = &found[..] else {
            panic!("{keys:?}: not one error but {found:#?}");
        };
        assert_eq!(*found_line, LINE, "{keys:?}: {found:?}");
        assert_eq!(found_key, &format!("endpoint_groups[0].health_check.{key}"), "{keys:?}: {found:?}");
        assert!(found_reason.contains(reason), "{keys:?}: {found_reason:?} lacks {reason:?}");
    }
}

#[test]
fn questions_refuse() {
    assert_check_refused(&[
        ("send = { hex = \"5\" }", "send.hex", "not hexadecimal"),
        ("send = { text = \"a\", hex = \"61\" }", "send", "2 of the forms"),
        ("send = {}", "send", "0 of the forms"),
        ("send = { regex = \"a\" }, expect = \"x\"", "send.regex", "unknown key"),
        ("send = 5", "send", "an integer where a text belongs"),
        ("expect = { regex = \"(\" }", "expect.regex", "unclosed group"),
        ("expect = { regex = \"\\\\w{999}{999}\" }", "expect.regex", "too large"),
        ("expect = { regex = \"\" }", "expect.regex", "empty pattern"),
        ("expect = { regex = 1 }", "expect.regex", "an integer where a text belongs"),
        ("path = \"/\"", "path", "a probe of protocol \"tcp\" has no path"),
        ("protocol = \"http\", verify = true", "verify", "\"http\" has no verify"),
        ("protocol = \"stun\", send = \"x\"", "send", "\"stun\" has no send"),
        ("protocol = \"http\", path = \"health\"", "path", "not a path"),
        ("protocol = \"http\", path = \"/a b\"", "path", "not a path"),
        ("protocol = \"http\", path = \"/a#b\"", "path", "not a path"),
        ("protocol = \"http\", method = \"get\"", "method", "unknown value"),
        ("protocol = \"http\", method = \"HEAD\", expect = \"x\"", "expect", "has no body"),
        ("protocol = \"http\", host = \"a b\"", "host", "not a host"),
        ("protocol = \"http\", host = \"me@a\"", "host", "not a host"),
        ("protocol = \"http\", status = 200", "status", "an integer where a list belongs"),
        ("protocol = \"http\", status = []", "status", "no status is good"),
        ("protocol = \"http\", status = [99]", "status[0]", "out of range"),
        ("protocol = \"http\", status = [200, \"399-300\"]", "status[1]", "not a range"),
        ("protocol = \"quic\", verify = false", "alpn", "must offer a protocol"),
        ("protocol = \"quic\", verify = false, alpn = []", "alpn", "0 protocols"),
        ("protocol = \"quic\", verify = false, alpn = [\"\"]", "alpn[0]", "a protocol of 0 bytes"),
        ("protocol = \"quic\", verify = 0, alpn = [\"h3\"]", "verify", "an integer where true or false belongs"),
        ("protocol = \"https\", server_name = \"a b\"", "server_name", "neither a DNS name nor an address"),
        ("protocol = \"https\", ca = \"ca.pem\"", "ca", "not an absolute path"),
        ("protocol = \"https\", ca = \"/nowhere/ca.pem\"", "ca", "/nowhere/ca.pem: No such file"),
        ("protocol = \"https\", ca = \"/dev/null\"", "ca", "it is not a file"),
        (
            concat!("protocol = \"https\", ca = \"", env!("CARGO_MANIFEST_DIR"), "/Cargo.toml\""),
            "ca",
            "no certificate in PEM form",
        ),
        ("protocol = \"https\", ca = \"/ca.pem\", verify = false", "ca", "nothing to trust"),
        ("protocol = \"a2s\", transport = \"tcp\"", "transport", "a2s does not run over tcp"),
        ("protocol = \"mqtt\", transport = \"udp\"", "transport", "mqtt does not run over udp"),
        ("protocol = \"dns\", transport = \"tls\"", "transport", "unknown value"),
        ("protocol = \"dns\", query = \"a..b\"", "query", "not a DNS name"),
        ("source = \"here\"", "source", "not an IP address"),
        ("source = \"0.0.0.0\"", "source", "the unspecified address"),
        ("source = \"2001:db8::1\"", "source", "no probe gets from 2001:db8::1 to an endpoint at 10.0.1.10"),
    ]);
    let all = errors(&with("protocol = \"https\", path = \"x\", status = [1, 2], ca = \"x\", query = \"x\", timeout = \"2s\""));
    assert_eq!(all.len(), 6, "{all:#?}");
}

#[test]
fn every_question_means_what_it_says_and_survives_being_written_out() {
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), CERTIFICATE).unwrap();
    let path = ca.path().display();
    let no_check = || TlsSettings { verify: false, ..TlsSettings::default() };
    let trusting = |name: &str| TlsSettings {
        server_name: Some(name.to_owned().try_into().unwrap()),
        ca: Some(ca.path().into()),
        verify: true,
    };
    let regex = |text: &str| Expect::Regex(Pattern::new(text).unwrap());
    let preset = |protocol, transport| ProbeKind::Preset(Preset::new(protocol, Some(transport)).unwrap());
    let http = |http: Http| ProbeKind::Http(Box::new(http));
    let quic = |settings, alpn: &[&str]| {
        let alpn = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        ProbeKind::Quic(Box::new(Quic::new(settings, alpn).unwrap()))
    };
    let hosted = || Http { host: Some("a.example:8".parse().unwrap()), ..Http::default() };
    let cases = [
        (
            "send = { text = \"hex:\" }, expect = { hex = \"ff00\" }".to_owned(),
            ProbeKind::Tcp(Exchange::new("hex:", Expect::bytes([255, 0]))),
        ),
        ("expect = { text = \"220\" }".to_owned(), ProbeKind::Tcp(Exchange::new("", Expect::bytes("220")))),
        (
            "protocol = \"udp\", send = { hex = \"ffff\" }, expect = { regex = '(?-u)^\\xff\"' }".to_owned(),
            ProbeKind::Udp(Exchange::new([255, 255], regex("(?-u)^\\xff\""))),
        ),
        ("protocol = \"http\"".to_owned(), http(Http::default())),
        (
            "protocol = \"http\", path = \"/h?x=1\", method = \"HEAD\", host = \"a.example:8\", status = [204, \"300-308\"]"
                .to_owned(),
            http(Http { path: "/h?x=1".parse().unwrap(), method: Method::Head, status: vec![204..=204, 300..=308], ..hosted() }),
        ),
        ("protocol = \"http\", expect = { regex = \"ok$\" }".to_owned(), http(Http { body: regex("ok$"), ..Http::default() })),
        ("protocol = \"https\", verify = false".to_owned(), http(Http::default().over_tls(no_check()).unwrap())),
        (
            format!("protocol = \"https\", ca = \"{path}\", host = \"a.example:8\""),
            http(hosted().over_tls(trusting("a.example")).unwrap()),
        ),
        (
            format!("protocol = \"https\", ca = \"{path}\", host = \"a.example:8\", server_name = \"b.example\""),
            http(hosted().over_tls(trusting("b.example")).unwrap()),
        ),
        ("protocol = \"quic\", alpn = [\"h3\", \"game/1\"], verify = false".to_owned(), quic(no_check(), &["h3", "game/1"])),
        (
            format!("protocol = \"quic\", alpn = [\"h3\"], ca = \"{path}\", server_name = \"2001:db8::1\""),
            quic(trusting("2001:db8::1"), &["h3"]),
        ),
        ("protocol = \"a2s\"".to_owned(), preset(Protocol::A2s, Transport::Udp)),
        ("protocol = \"stun\", transport = \"tcp\"".to_owned(), preset(Protocol::Stun, Transport::Tcp)),
        ("protocol = \"sip_options\"".to_owned(), preset(Protocol::SipOptions, Transport::Udp)),
        ("protocol = \"mqtt\"".to_owned(), preset(Protocol::Mqtt, Transport::Tcp)),
        ("protocol = \"dns\"".to_owned(), preset(Protocol::Dns(DnsName::root()), Transport::Udp)),
        (
            "protocol = \"dns\", query = \"a.example.\", transport = \"tcp\"".to_owned(),
            preset(Protocol::Dns("a.example".parse().unwrap()), Transport::Tcp),
        ),
    ];
    for (keys, kind) in cases {
        let config = parse(&with(&format!("{keys}, source = \"10.0.0.9\"")));
        let check = &config.endpoint_groups[0].check;
        assert_eq!((check.kind(), check.source()), (&kind, Some([10, 0, 0, 9].into())), "{keys}");
        let written = config.to_toml();
        assert_eq!(parse(&written), config, "{written}");
        assert_eq!(parse(&written).to_toml(), written);
    }
    let frozen = parse(&with("")).endpoint_groups[0].check.kind().is_blind_to_frozen();
    assert!(frozen);
}

/// What `landfall check` says about a probe over HTTPS on a host that trusts what is in `certificates`.
fn check_where(certificates: &str) -> (bool, String) {
    let directory = tempfile::tempdir().unwrap();
    let (config, trusted) = (directory.path().join("landfall.toml"), directory.path().join("trusted.pem"));
    std::fs::write(&config, with("protocol = \"https\"")).unwrap();
    std::fs::write(&trusted, certificates).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_landfall"));
    command.args(["check", "--config"]).arg(config).env("SSL_CERT_FILE", trusted).env_remove("SSL_CERT_DIR");
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
}

#[test]
fn without_ca_the_host_s_trust_is_taken_if_it_has_any() {
    let (good, text) = check_where(CERTIFICATE);
    assert!(good && text.contains("# ca: what this host trusts"), "{text}");
    let (good, text) = check_where("");
    assert!(!good && text.contains("health_check.ca: this host has no trusted certificates"), "{text}");
    assert!(text.contains("; install ca-certificates, or write ca = "), "{text}");
}
