//! The keys of sockets, pinning, unanswered flows and clients' own addresses: what they mean, what is refused, and what is warned of.

#![allow(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

use std::{num::NonZeroUsize, time::Duration};

use edge_listener::client_ip::ClientIp;
use edge_listener::settings::{LegOptions, TcpSettings, UdpSettings};
use landfall::config::{Config, ConfigErrors, Diagnostic, Host};

fn host() -> Host {
    let congestion = ["reno", "cubic"].map(str::to_owned).into();
    Host {
        name: "lab".into(),
        cores: NonZeroUsize::new(4).unwrap(),
        descriptors: 524_288,
        congestion,
        ephemeral: Vec::new(),
        no_dispatcher: Some("a test".into()),
    }
}

/// A file whose listener has its further keys from line 10 on, and the only endpoint of its group at `address`.
fn file(protocol: &str, keys: &str, address: &str) -> String {
    format!(
        "name = \"game\"\nstatic_ips = [\"198.18.0.1\"]\nhash_seed = 7\n\n[[listeners]]\nname = \"l\"\nprotocol = \"{protocol}\"\n\
         ports = [80]\nendpoint_groups = [\"g\"]\n{keys}\n\
         [[endpoint_groups]]\nname = \"g\"\nhealth_check = {{ port = 1 }}\nendpoints = [{{ name = \"e\", address = \"{address}\" }}]\n"
    )
}

fn with(protocol: &str, keys: &str) -> String {
    file(protocol, keys, "10.0.1.10")
}

fn parse(text: &str) -> Config {
    let config = Config::parse(text, &host()).unwrap();
    let written = config.to_toml();
    let again = Config::parse(&written, &host()).unwrap();
    assert_eq!(again, config, "{written}");
    assert_eq!(again.to_toml(), written);
    config
}

fn tcp(text: &str) -> TcpSettings {
    parse(text).listeners[0].settings.tcp.clone().unwrap()
}

fn udp(text: &str) -> UdpSettings {
    parse(text).listeners[0].settings.udp.clone().unwrap()
}

fn warnings(text: &str) -> Vec<Diagnostic> {
    parse(text).warnings
}

/// The file has exactly this error, on line 10.
fn assert_refused(protocol: &str, keys: &str, key: &str, reason: &str, cure: &str) {
    let ConfigErrors(errors) = Config::parse(&with(protocol, keys), &host()).expect_err(keys);
    let [error] = &errors[..] else { panic!("{keys}: {errors:#?}") };
    assert_eq!((error.line, error.key.as_str()), (10, format!("listeners[0].{key}").as_str()), "{keys}");
    assert!(error.reason.contains(reason), "{keys}: {:?} lacks {reason:?}", error.reason);
    assert!(error.cure.contains(cure), "{keys}: {:?} lacks {cure:?}", error.cure);
}

#[test]
fn what_is_not_said_is_the_kernel_s_or_the_default() {
    let defaults = LegOptions { nodelay: true, keepalive: None, user_timeout: None, congestion: None };
    let tcp = tcp(&with("tcp", ""));
    assert_eq!((&tcp.client_socket, &tcp.endpoint_socket, tcp.client_ip), (&defaults, &defaults, ClientIp::None));
    let udp = udp(&with("udp", ""));
    assert_eq!((udp.unanswered_timeout, udp.carry_dscp), (Duration::from_secs(5), false));
    assert!(!parse(&with("tcp", "")).edge.pin);
}

#[test]
fn each_socket_has_its_own_options() {
    let keys = "client_socket = { nodelay = false, keepalive = \"9h 6m 7s\" }\n\
                endpoint_socket = { keepalive = \"1s\", user_timeout = \"7days\", congestion = \"cubic\" }";
    let tcp = tcp(&with("tcp_udp", keys));
    let client = LegOptions { nodelay: false, keepalive: Some(Duration::from_secs(32_767)), ..LegOptions::default() };
    let endpoint = LegOptions {
        nodelay: true,
        keepalive: Some(Duration::from_secs(1)),
        user_timeout: Some(Duration::from_secs(7 * 24 * 3600)),
        congestion: Some("cubic".into()),
    };
    assert_eq!((tcp.client_socket, tcp.endpoint_socket), (client, endpoint));
    assert_eq!(warnings(&with("tcp", keys)), []);
}

#[test]
fn sockets_refuse() {
    for (options, key, reason, cure) in [
        ("7", "", "an integer where a table belongs", "keepalive = "),
        ("{ nagle = true }", ".nagle", "unknown key", "\"nodelay\""),
        ("{ nodelay = 1 }", ".nodelay", "an integer where true or false belongs", "true or false"),
        ("{ keepalive = 60 }", ".keepalive", "an integer where a text belongs", "\"60s\""),
        ("{ keepalive = \"0s\" }", ".keepalive", "not what Linux takes", "1 to 32767"),
        ("{ keepalive = \"1500ms\" }", ".keepalive", "1.5s is not what Linux takes", "whole seconds"),
        ("{ keepalive = \"32768s\" }", ".keepalive", "32768s is not what Linux takes", "1 to 32767"),
        ("{ keepalive = \"soon\" }", ".keepalive", "is not a duration", "\"60s\""),
        ("{ user_timeout = \"0s\" }", ".user_timeout", "not what Linux takes", "\"30s\""),
        ("{ user_timeout = \"1500us\" }", ".user_timeout", "1.5ms is not what Linux takes", "whole milliseconds"),
        ("{ user_timeout = \"8days\" }", ".user_timeout", "too long", "7 days"),
        ("{ congestion = \"\" }", ".congestion", "is not the name", "such as \"bbr\""),
        ("{ congestion = \"sixteen_letters_\" }", ".congestion", "is not the name", "at most 15"),
        ("{ congestion = \"b br\" }", ".congestion", "is not the name", "such as \"bbr\""),
    ] {
        for socket in ["client_socket", "endpoint_socket"] {
            assert_refused("tcp", &format!("{socket} = {options}"), &format!("{socket}{key}"), reason, cure);
        }
    }
}

#[test]
fn a_congestion_control_that_the_host_does_not_allow_is_warned_of() {
    let text = with("tcp", "endpoint_socket = { congestion = \"bbr\" }");
    let [warning] = &warnings(&text)[..] else { panic!() };
    assert_eq!((warning.line, warning.key.as_str()), (10, "listeners[0].endpoint_socket.congestion"));
    assert!(warning.reason.contains("\"bbr\"") && warning.reason.ends_with("reno, cubic"), "{warning}");
    assert!(warning.cure.contains("modprobe tcp_bbr"), "{warning}");
    let silent = Host { congestion: Vec::new(), ..host() };
    assert_eq!(Config::parse(&text, &silent).unwrap().warnings, [], "nothing is known of such a host");
}

#[test]
fn an_unanswered_flow_ends_no_later_than_an_idle_one() {
    let timeout = |keys: &str| udp(&with("tcp_udp", keys)).unanswered_timeout;
    assert_eq!(timeout("idle_timeout = { udp = \"3s\" }"), Duration::from_secs(3));
    assert_eq!(timeout("idle_timeout = { tcp = \"3s\" }"), Duration::from_secs(5));
    assert_eq!(timeout("unanswered_timeout = \"30s\""), Duration::from_secs(30));
    assert_eq!(timeout("unanswered_timeout = \"1ms\"\nidle_timeout = \"1ms\""), Duration::from_millis(1));
    assert_refused(
        "udp",
        "unanswered_timeout = \"31s\"",
        "unanswered_timeout",
        "longer than idle_timeout, 30s",
        "at most \"30s\"",
    );
    let keys = "unanswered_timeout = \"4s\"\nidle_timeout = { udp = \"3s 999ms\" }";
    assert_refused("udp", keys, "unanswered_timeout", "longer than idle_timeout, 3s 999ms", "raise idle_timeout");
    assert_refused("udp", "unanswered_timeout = \"0s\"", "unanswered_timeout", "too short", "1 ms to 7 days");
    assert_refused("udp", "unanswered_timeout = 5", "unanswered_timeout", "an integer where a text belongs", "\"30s\"");
    assert_refused("udp", "carry_dscp = \"yes\"", "carry_dscp", "a text where true or false belongs", "true or false");
    // What an unreadable idle_timeout would be nobody knows.
    assert_refused("udp", "idle_timeout = \"3 s.\"\nunanswered_timeout = \"1m\"", "idle_timeout", "not a duration", "\"30s\"");
    assert!(udp(&with("udp", "carry_dscp = true")).carry_dscp);
}

#[test]
fn keys_of_a_protocol_that_is_not_served_are_warned_of() {
    let keys = "client_socket = {}\nendpoint_socket = { nodelay = true }\nunanswered_timeout = \"1m\"\ncarry_dscp = true";
    let warned = |protocol: &str| {
        let all = warnings(&with(protocol, keys));
        all.into_iter().map(|warning| format!("{} {}; {}", warning.line, warning.reason, warning.cure)).collect::<Vec<_>>()
    };
    let tcp = [
        "12 unanswered_timeout has no effect on a listener without udp; remove unanswered_timeout",
        "13 carry_dscp has no effect on a listener without udp; remove carry_dscp",
    ];
    assert_eq!(warned("tcp"), tcp);
    let keys = keys.replace("1m", "1s");
    let udp = warnings(&with("udp", &keys));
    let udp: Vec<_> = udp.iter().map(|warning| (warning.line, warning.key.as_str())).collect();
    assert_eq!(udp, [(10, "listeners[0].client_socket"), (11, "listeners[0].endpoint_socket")]);
}

#[test]
fn more_pinned_workers_than_processors_are_warned_of() {
    let pinned = |workers: usize| {
        let text = with("tcp", "").replacen(
            "hash_seed = 7\n",
            &format!("hash_seed = 7\nedge = {{ pin = true, workers = {workers} }}"),
            1,
        );
        let config = parse(&text);
        assert!(config.edge.pin);
        config.warnings
    };
    assert_eq!(pinned(4), []);
    let [warning] = &pinned(5)[..] else { panic!() };
    let shown = "4: edge.pin: 5 workers are to be pinned, and this host has 4 processors for them; write workers = 4 or fewer, or pin = false";
    assert_eq!(warning.to_string(), shown);
}

/// What is warned of besides what every transparent listener is told.
fn transparent(text: &str) -> Vec<(usize, String)> {
    let (standing, rest): (Vec<_>, Vec<_>) = warnings(text).into_iter().partition(|w| w.reason.contains("CAP_NET_ADMIN"));
    assert_eq!(standing.len(), text.matches("\"transparent\"").count());
    assert!(standing.iter().all(|w| w.key.ends_with(".client_ip") && w.reason.contains("must be routed through this edge")));
    rest.into_iter().map(|warning| (warning.line, warning.reason)).collect()
}

const TRANSPARENT: &str = "client_ip = \"transparent\"";

#[test]
fn transparent_is_for_both_protocols_and_says_what_it_needs() {
    let text = with("tcp_udp", TRANSPARENT);
    assert_eq!((tcp(&text).client_ip, udp(&text).client_ip), (ClientIp::Transparent, ClientIp::Transparent));
    assert_eq!(transparent(&text), []);
    assert_eq!(transparent(&file("udp", TRANSPARENT, "e.example.com:80")), [], "a name may lead anywhere");
}

#[test]
fn endpoints_of_a_family_without_clients_are_named() {
    let text = file("udp", TRANSPARENT, "2001:db8::1");
    let [(10, reason)] = &transparent(&text)[..] else { panic!("{:?}", transparent(&text)) };
    assert!(reason.contains("serves no IPv6 static IP") && reason.ends_with(": \"e\""), "{reason}");
    let both = text.replacen("[\"198.18.0.1\"]", "[\"198.18.0.1\", \"fd00::1\"]", 1);
    assert_eq!(transparent(&both), []);
    let one_of_both = both.replacen("hash_seed = 7\n", "hash_seed = 7\nedge = { announce = [\"198.18.0.1\"] }", 1);
    assert_eq!(transparent(&one_of_both).len(), 1, "what counts is what this edge serves");
    let more = text.replacen("endpoints = [", "endpoints = [{ name = \"a\", address = \"2001:db8::2\" }, ", 1);
    assert!(transparent(&more)[0].1.ends_with(": \"a\" and 1 more"));
}

#[test]
fn endpoints_that_two_ports_lead_to_are_named() {
    let second = |protocol: &str, ports: &str, keys: &str| {
        format!("[[listeners]]\nname = \"m\"\nprotocol = \"{protocol}\"\nports = [{ports}]\nendpoint_groups = [\"g\"]\n{keys}\n")
    };
    let meets = |text: &str| {
        let found = transparent(text);
        assert!(found.len() < 2, "{found:#?}");
        found.into_iter().next().map(|(_, reason)| reason)
    };
    // Each port leads to the same port of the endpoint.
    let (own, fixed) = (with("udp", TRANSPARENT), file("udp", TRANSPARENT, "10.0.1.10:9"));
    assert_eq!(meets(&(own.clone() + &second("udp", "81", TRANSPARENT))), None);
    let both = meets(&(fixed.clone() + &second("udp", "81", TRANSPARENT))).unwrap();
    assert!(both.starts_with("this listener and \"l\" both lead to 10.0.1.10:9,"), "{both}");
    assert!(both.contains("landfall_client_ip_fallbacks_total"), "{both}");
    // Other protocol; or other address; either way no collision.
    assert_eq!(meets(&(fixed.clone() + &second("tcp", "81", TRANSPARENT))), None);
    assert_eq!(meets(&(fixed.clone() + &second("udp", "81", "client_ip = \"none\""))), None);
    // Through an override of the group.
    let overridden = own + "port_overrides = [{ listener_port = 81, endpoint_port = 80 }]\n";
    assert!(meets(&(overridden.clone() + &second("udp", "81", TRANSPARENT))).unwrap().contains("10.0.1.10:80"));
    assert_eq!(
        meets(&(overridden.replace("endpoint_port = 80", "endpoint_port = 82") + &second("udp", "81", TRANSPARENT))),
        None
    );
    // Within one listener.
    let within = meets(&fixed.replace("[80]", "[\"80-81\"]")).unwrap();
    assert!(within.starts_with("two ports of this listener lead to 10.0.1.10:9,"), "{within}");
    assert!(meets(&overridden.replace("[80]", "[\"80-81\"]")).unwrap().contains("10.0.1.10:80"));
    assert_eq!(meets(&fixed), None);
}

#[test]
fn a_change_needs_a_restart() {
    let old = parse(&with("tcp_udp", ""));
    let all = "client_socket = { nodelay = false }\nendpoint_socket = { keepalive = \"1s\" }\nunanswered_timeout = \"1s\"\n\
               carry_dscp = true\nclient_ip = \"transparent\"";
    let keys = ["client_ip", "client_socket", "endpoint_socket", "unanswered_timeout", "carry_dscp"];
    assert_eq!(old.restart_needed(&parse(&with("tcp_udp", all))), keys.map(|key| format!("listeners[0].{key}")));
    let pinned = with("tcp_udp", "").replacen("hash_seed = 7\n", "hash_seed = 7\nedge = { pin = true }", 1);
    assert_eq!(old.restart_needed(&parse(&pinned)), ["edge.pin"]);
}
