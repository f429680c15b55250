//! Config files as an operator writes them: what is accepted, what is refused, and with which words.

#![allow(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

use std::{net::SocketAddr, num::NonZeroUsize, path::Path, time::Duration};

use edge_listener::settings::{Limits, ListenerSettings, OnUnhealthy, UdpSettings};
use edge_listener::{access::Access, client_ip::ClientIp};
use endpoint_group::{
    Affinity, Dial, Endpoint, EndpointGroup, MinHealthy, Name, Weight, WhenAllUnhealthy, model::FailbackPolicy,
};
use health_checker::{Exchange, Expect, HealthCheck, ProbeKind, Timing};
use landfall::config::{Config, ConfigErrors, Edge, FastPath, Forwarding, Group, Host, Listener, ProbePort, Proximity};

const DESIGN: &str = include_str!("configs/design.toml");
const TEN_MISTAKES: &str = include_str!("configs/ten_mistakes.toml");

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

fn parse(text: &str) -> Config {
    Config::parse(text, &host()).unwrap()
}

fn errors(text: &str) -> Vec<(usize, String, String)> {
    let ConfigErrors(errors) = Config::parse(text, &host()).expect_err(text);
    errors.into_iter().map(|error| (error.line, error.key, error.reason)).collect()
}

fn warnings(text: &str) -> Vec<(usize, String)> {
    parse(text).warnings.into_iter().map(|warning| (warning.line, warning.key)).collect()
}

/// A file of one tcp listener and two groups; each argument is put into its section.
fn file(root: &str, edge: &str, listener: &str, group: &str) -> String {
    format!(
        "name = \"game\"\nstatic_ips = [\"198.18.0.1\"]\nhash_seed = 7\n{root}\n\
         [edge]\n{edge}\n\
         [[listeners]]\nname = \"chat\"\nendpoint_groups = [\"eu\", \"us\"]\n{listener}\n\
         [[endpoint_groups]]\nname = \"eu\"\n{group}\n\
         [[endpoint_groups]]\nname = \"us\"\nhealth_check = {{ port = 80 }}\nendpoints = [{{ name = \"us-1\", address = \"10.0.2.10\" }}]\n"
    )
}

const LISTENER: &str = "protocol = \"tcp\"\nports = [80]";
const GROUP: &str = "endpoints = [{ name = \"eu-1\", address = \"10.0.1.10\" }]";

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

#[test]
fn the_design_s_example_means_what_it_says() {
    let second = Duration::from_secs;
    let endpoint = |text: &str, ip: &str, port, weight| Endpoint {
        name: name(text),
        ip: ip.parse().unwrap(),
        port,
        weight: Weight::new(weight),
    };
    let exchange = |send: &[u8], expect: &[u8]| ProbeKind::Udp(Exchange::new(send, Expect::bytes(expect)));
    let eu_timing = Timing { timeout: Duration::from_millis(200), ..Timing::default() };
    let expected = Config {
        name: name("game"),
        static_ips: vec!["198.18.0.1".parse().unwrap(), "198.18.0.2".parse().unwrap()],
        hash_seed: 7,
        edge: Edge {
            name: name("fra1"),
            workers: NonZeroUsize::new(2).unwrap(),
            pin: false,
            admin: "127.0.0.1:9900".parse().unwrap(),
            control: "/run/landfall/control.sock".into(),
            announce: vec!["198.18.0.1".parse().unwrap(), "198.18.0.2".parse().unwrap()],
            resolvers: Vec::new(),
            drain_timeout: second(30),
            fast_path: FastPath::Auto,
            fast_path_xdp: FastPath::Auto,
            nat_addresses: Vec::new(),
            nat_ports: 61_000..=65_535,
            fast_path_devices: None,
        },
        anycast: None,
        listeners: vec![Listener {
            settings: ListenerSettings {
                name: name("match"),
                ports: vec![7000..=7000, 7100..=7199],
                affinity: Affinity::None,
                tcp: None,
                udp: Some(UdpSettings {
                    idle_timeout: second(30),
                    unanswered_timeout: second(5),
                    carry_dscp: false,
                    on_unhealthy: OnUnhealthy::Leave,
                    client_ip: ClientIp::None,
                }),
                access: Access::default(),
                limits: Limits {
                    max_flows: 200_000,
                    max_flows_per_client: NonZeroUsize::new(500),
                    new_flows_per_client_per_second: None,
                },
            },
            default_max_flows: false,
            when_all_unhealthy: WhenAllUnhealthy::FailOpen,
            forwarding: Forwarding::Auto,
            groups: vec![0, 1],
            proximity: Proximity::Listed,
        }],
        endpoint_groups: vec![
            Group {
                group: EndpointGroup {
                    name: name("eu"),
                    region: "eu-central".into(),
                    dial: Dial::FULL,
                    min_healthy: MinHealthy::default(),
                    port_overrides: [(7000, 17000)].into(),
                    failback: FailbackPolicy { hold: second(5), ramp: second(10) },
                    endpoints: vec![endpoint("eu-1", "10.0.1.10", None, 128), endpoint("eu-2", "10.0.1.11", Some(9000), 64)],
                },
                check: HealthCheck::new(exchange(b"ping", b"pong"), eu_timing).unwrap(),
                probe_port: ProbePort::Fixed(7000),
                hosts: [].into(),
            },
            Group {
                group: EndpointGroup {
                    name: name("us"),
                    region: String::new(),
                    dial: Dial::FULL,
                    min_healthy: MinHealthy::default(),
                    port_overrides: [].into(),
                    failback: FailbackPolicy::default(),
                    endpoints: vec![endpoint("us-1", "2001:db8::1", Some(9000), 128)],
                },
                check: HealthCheck::new(exchange(b"PING", b""), Timing::default()).unwrap(),
                probe_port: ProbePort::OfListenerPort(7000),
                hosts: [].into(),
            },
        ],
        warnings: Vec::new(),
    };
    let config = parse(DESIGN);
    assert_eq!(config, expected);
    let warned: Vec<_> = config.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(warned, ["listeners[0].connect_timeout"]);
}

#[test]
fn ten_mistakes_are_ten_errors() {
    let found = errors(TEN_MISTAKES);
    let found: Vec<_> = found.iter().map(|(line, key, _)| (*line, key.as_str())).collect();
    assert_eq!(
        found,
        [
            (1, "name"),
            (2, "static_ips[1]"),
            (11, "listeners[0].prots"),
            (12, "listeners[0].ports[1]"),
            (13, "listeners[0].idle_timeout"),
            (14, "listeners[0].proximity"),
            (15, "listeners[0].endpoint_groups[1]"),
            (19, "endpoint_groups[0].traffic_dial"),
            (21, "endpoint_groups[0].health_check.timeout"),
            (22, "endpoint_groups[0].endpoints[0].weight"),
        ]
    );
}

#[test]
fn an_error_names_file_line_key_reason_and_cure() {
    let ConfigErrors(errors) = Config::parse(TEN_MISTAKES, &host()).unwrap_err();
    assert_eq!(
        errors[2].render(Path::new("edge.toml")),
        "edge.toml:11: listeners[0].prots: unknown key; did you mean \"ports\"?"
    );
}

/// Section, text put into it, key that the error names, words in its reason.
type Refusal = (Section, &'static str, &'static str, &'static str);

#[derive(Clone, Copy, Debug)]
enum Section {
    Root,
    Edge,
    Listener,
    /// In place of the listener's protocol and ports.
    Whole,
    Group,
    /// In place of the group's endpoints.
    Endpoints,
}
use Section::{Edge as E, Endpoints as P, Group as G, Listener as L, Root as R, Whole as W};

/// The file with `text` on a line of its own in its section, and that line.
fn with(section: Section, text: &str) -> (String, usize) {
    let marked = format!("#here\n{text}");
    let text = match section {
        R => file(&marked, "", LISTENER, GROUP),
        E => file("", &marked, LISTENER, GROUP),
        L => file("", "", &format!("{LISTENER}\n{marked}"), GROUP),
        W => file("", "", &marked, GROUP),
        G => file("", "", LISTENER, &format!("{GROUP}\n{marked}")),
        P => file("", "", LISTENER, &marked),
    };
    let line = text.lines().position(|line| line == "#here").unwrap() + 2;
    (text, line)
}

fn assert_refused(cases: &[Refusal]) {
    for (section, text, key, reason) in cases {
        let (file, line) = with(*section, text);
        let found = errors(&file);
        let [(found_line, found_key, found_reason)] = &found[..] else {
            panic!("{section:?} {text:?}: not one error but {found:#?}");
        };
        assert_eq!(*found_line, line, "{text:?}: {found:?}");
        assert!(found_key.ends_with(key), "{text:?}: {found_key:?} does not end with {key:?}");
        assert!(found_reason.contains(reason), "{text:?}: {found_reason:?} lacks {reason:?}");
    }
}

#[test]
fn what_comes_later_is_refused_not_ignored() {
    const LATER: &str = "not supported yet";
    assert_refused(&[
        (R, "flow_log = { path = \"x\" }", "flow_log", LATER),
        (R, "relays = [{ name = \"x\" }]", "relays", LATER),
        (E, "crash_grace = \"1s\"", "edge.crash_grace", LATER),
        (L, "tcp = \"passthrough\"", "tcp", LATER),
        (L, "reset_spread = \"1s\"", "reset_spread", LATER),
        (G, "via = \"x\"", "via", LATER),
    ]);
}

#[test]
fn edge_and_root_refuse() {
    assert_refused(&[
        (R, "nmae = 1", "nmae", "unknown key"),
        (E, "name = \"-x\"", "edge.name", "is not a name"),
        (E, "name = \"a#b\"", "edge.name", "'#'"),
        (E, "name = 7", "edge.name", "an integer where a text belongs"),
        (E, "workers = 0", "edge.workers", "out of range"),
        (E, "workers = -1", "edge.workers", "out of range"),
        (E, "workers = 1.5", "edge.workers", "a float where a whole number belongs"),
        (E, "pin = \"yes\"", "edge.pin", "a text where true or false belongs"),
        (E, "admin = \"127.0.0.1\"", "edge.admin", "not an address with a port"),
        (E, "admin = \"0.0.0.0:80\"", "edge.admin", "belongs to listener \"chat\""),
        (E, "control = \"run.sock\"", "edge.control", "not an absolute path"),
        (E, "announce = []", "edge.announce", "announces nothing"),
        (E, "announce = [\"198.18.0.9\"]", "edge.announce[0]", "not one of static_ips"),
        (E, "announce = [\"198.18.0.1\", \"198.18.0.1\"]", "edge.announce[1]", "listed twice"),
        (E, "drain_timeout = \"1 fortnight\"", "edge.drain_timeout", "not a duration"),
        (E, "drain_timeout = \"1year\"", "edge.drain_timeout", "too long"),
        (E, "drain_timeout = \"1us\"", "edge.drain_timeout", "too short"),
        (E, "drain_timeout = 30", "edge.drain_timeout", "an integer where a text belongs"),
        (E, "fast_path = \"of\"", "edge.fast_path", "unknown value"),
        (E, "fast_path_xdp = \"native\"", "edge.fast_path_xdp", "unknown value"),
        (E, "nat_addresses = [\"10.0.0.1\", \"10.0.0.1\"]", "edge.nat_addresses[1]", "listed twice"),
        (E, "nat_addresses = [\"0.0.0.0\"]", "edge.nat_addresses[0]", "unspecified"),
        (E, "nat_ports = \"9-1\"", "edge.nat_ports", "ends before it begins"),
        (E, "fast_path_devices = []", "edge.fast_path_devices", "takes no packets"),
    ]);
    for (ips, line, reason) in [
        ("[]", 2, "no static IP"),
        ("[\"0.0.0.0\"]", 2, "unspecified"),
        ("[\"224.0.0.1\"]", 2, "multicast"),
        ("[\"255.255.255.255\"]", 2, "broadcast"),
        ("[\"fe80::1\"]", 2, "link-local"),
        ("[\"x\"]", 2, "not an IP address"),
        ("[\n\"198.18.0.1\", \"::ffff:198.18.0.1\"]", 3, "listed twice"),
        ("[\"10.9.0.1\", \"10.9.0.2\", \"10.9.0.3\", \"10.9.0.4\", \"10.9.0.5\"]", 2, "5 static IPs"),
        ("\"198.18.0.1\"", 2, "a text where a list belongs"),
    ] {
        let text = file("", "", LISTENER, GROUP).replacen("[\"198.18.0.1\"]", ips, 1);
        let found = errors(&text);
        assert!(found.len() == 1 && found[0].0 == line && found[0].2.contains(reason), "{ips}: {found:?}");
    }
    for (seed, reason) in [("-1", "64 bits"), ("\"0xzz\"", "64 bits"), ("\"\"", "64 bits"), ("true", "a boolean where")] {
        let found = errors(&file("", "", LISTENER, GROUP).replacen("hash_seed = 7", &format!("hash_seed = {seed}"), 1));
        assert!(found.len() == 1 && found[0].0 == 3 && found[0].2.contains(reason), "{seed}: {found:?}");
    }
}

#[test]
fn listeners_refuse() {
    assert_refused(&[
        (W, "protocol = \"sctp\"\nports = [80]", "protocol", "unknown value"),
        (W, "ports = []\nprotocol = \"tcp\"", "ports", "0 ranges"),
        (W, "ports = [1,2,3,4,5,6,7,8,9,10,11]\nprotocol = \"tcp\"", "ports", "11 ranges"),
        (W, "ports = 80\nprotocol = \"tcp\"", "ports", "an integer where a list belongs"),
        (W, "ports = [0]\nprotocol = \"tcp\"", "ports[0]", "out of range"),
        (W, "ports = [65536]\nprotocol = \"tcp\"", "ports[0]", "out of range"),
        (W, "ports = [\"0-5\"]\nprotocol = \"tcp\"", "ports[0]", "not a range"),
        (W, "ports = [\"9-5\"]\nprotocol = \"tcp\"", "ports[0]", "ends before it begins"),
        (W, "ports = [\"80-90\", 85]\nprotocol = \"tcp\"", "ports[1]", "overlaps 80-90"),
        (L, "client_affinity = \"cookie\"", "client_affinity", "unknown value"),
        (L, "idle_timeout = \"0s\"", "idle_timeout", "too short"),
        (L, "idle_timeout = { udp = \"5s\" }", "idle_timeout.udp", "does not serve udp"),
        (L, "idle_timeout = { tpc = \"5s\" }", "idle_timeout.tpc", "unknown key"),
        (L, "on_unhealthy = \"move\"", "on_unhealthy", "unknown value"),
        (L, "when_all_unhealthy = \"open\"", "when_all_unhealthy", "unknown value"),
        (L, "connect_timeout = \"0s\"", "connect_timeout", "too short"),
        (L, "connect_attempts = 0", "connect_attempts", "out of range"),
        (L, "client_ip = \"proxy_v1\"", "client_ip", "unknown value"),
        (L, "client_ip = \"proxy_v2_every\"", "client_ip", "does not serve udp"),
        (L, "tcp_mss = 87", "tcp_mss", "out of range"),
        (L, "tcp_mss = 32768", "tcp_mss", "out of range"),
        (L, "limits = { max_flows = 0 }", "limits.max_flows", "out of range"),
        (L, "limits = { max_flows_per_client = 0 }", "limits.max_flows_per_client", "out of range"),
        (L, "limits = { new_flows_per_client_per_second = 0 }", "limits.new_flows_per_client_per_second", "out of range"),
        (L, "allow = [\"10.0.0.0/33\"]", "allow[0]", "is not a network"),
        (L, "deny = [\"10.0.0.0/8\", \"everyone\"]", "deny[1]", "is not a network"),
        (L, "limits = { max_flow = 1 }", "limits.max_flow", "unknown key"),
        (L, "limits = 5", "limits", "an integer where a table belongs"),
    ]);
    let udp = "protocol = \"udp\"\nports = [80]\non_unhealthy = \"reset\"";
    let found = errors(&file("", "", udp, &format!("{GROUP}\nhealth_check = {{ protocol = \"tcp\" }}")));
    assert!(found.len() == 1 && found[0].1.ends_with("on_unhealthy"), "{found:?}");
    let both = file("", "", "protocol = \"tcp_udp\"\nports = [80]\non_unhealthy = \"move\"", GROUP);
    assert!(errors(&both)[0].2.contains("does not suit both"), "{:?}", errors(&both));
}

#[test]
fn groups_refuse() {
    assert_refused(&[
        (G, "region = \"a\\u0007b\"", "region", "control characters"),
        (G, "traffic_dial = -1", "traffic_dial", "out of range"),
        (G, "traffic_dial = nan", "traffic_dial", "out of range"),
        (G, "traffic_dial = \"50\"", "traffic_dial", "a text where a percentage belongs"),
        (G, "min_healthy = 0", "min_healthy", "out of range"),
        (G, "min_healthy = 2", "min_healthy", "1 have a weight above 0"),
        (G, "min_healthy = \"0%\"", "min_healthy", "not a share"),
        (G, "min_healthy = \"101%\"", "min_healthy", "not a share"),
        (G, "min_healthy = \"half\"", "min_healthy", "not a share"),
        (G, "port_overrides = [{ listener_port = 81, endpoint_port = 1 }]", "port_overrides[0]", "no listener of this group"),
        (G, "port_overrides = [{ listener_port = 80 }]", "port_overrides[0].endpoint_port", "missing"),
        (
            G,
            "port_overrides = [{ listener_port = 80, endpoint_port = 1 }, { listener_port = 80, endpoint_port = 2 }]",
            "port_overrides[1]",
            "overridden twice",
        ),
        (G, "failback = { hold = \"-1s\" }", "failback.hold", "not a duration"),
        (G, "failback = { rump = \"1s\" }", "failback.rump", "unknown key"),
        (P, "endpoints = []", "endpoints", "no endpoint"),
        (P, "endpoints = [{ name = \"x\" }]", "endpoints[0].address", "missing"),
        (P, "endpoints = [{ address = \"10.0.0.1\" }]", "endpoints[0].name", "missing"),
    ]);
    assert_refused(&[
        (P, "endpoints = [{ name = \"x\", address = \"10.0.0.1\", weight = 256 }]", "endpoints[0].weight", "out of range"),
        (P, "endpoints = [{ name = \"x\", address = \"10.0.0.1:0\" }]", "endpoints[0].address", "port 0"),
        (P, "endpoints = [{ name = \"x\", address = \"10.0.0.1:99999\" }]", "endpoints[0].address", "not an address"),
        (P, "endpoints = [{ name = \"x\", address = \"::\" }]", "endpoints[0].address", "unspecified"),
        (P, "endpoints = [{ name = \"x\", address = \"239.1.1.1:5\" }]", "endpoints[0].address", "multicast"),
        (P, "endpoints = [{ name = \"x\", address = \"198.18.0.1\" }]", "endpoints[0].address", "flows would loop"),
        (P, "endpoints = [{ name = \"x\", address = \"198.18.0.1:80\" }]", "endpoints[0].address", "flows would loop"),
        (
            P,
            "endpoints = [{ name = \"x\", address = \"10.0.0.1\" }, { name = \"y\", address = \"10.0.0.1\" }]",
            "endpoints[1].address",
            "the same address as endpoint \"x\"",
        ),
    ]);
    parse(&with(P, "endpoints = [{ name = \"x\", address = \"198.18.0.1:81\" }]").0);
    let twice = with(P, "endpoints = [{ name = \"us-1\", address = \"10.0.0.1\" }]").0;
    assert!(errors(&twice)[0].2.contains("endpoint \"us-1\" is already on line"), "{:?}", errors(&twice));
}

#[test]
fn health_checks_refuse() {
    assert_refused(&[
        (G, "health_check = \"tcp\"", "health_check", "a text where a table belongs"),
        (G, "health_check = { protocol = \"icmp\" }", "health_check.protocol", "unknown value"),
        (G, "health_check = { port = 0 }", "health_check.port", "out of range"),
        (G, "health_check = { protocol = \"udp\" }", "health_check.send", "must send something"),
        (G, "health_check = { protocol = \"udp\", send = \"\" }", "health_check.send", "must send something"),
        (G, "health_check = { send = \"hex:5\" }", "health_check.send", "not hexadecimal"),
        (G, "health_check = { expect = \"hex:zz\" }", "health_check.expect", "not hexadecimal"),
        (G, "health_check = { interval = \"0s\" }", "health_check.interval", "too short"),
        (G, "health_check = { timeout = \"2s\" }", "health_check.timeout", "must not be longer than interval"),
        (G, "health_check = { fast_interval = \"2s\" }", "health_check.fast_interval", "must not be longer than interval"),
        (G, "health_check = { unhealthy_threshold = 0 }", "health_check.unhealthy_threshold", "out of range"),
        (G, "health_check = { healthy_threshold = 256 }", "health_check.healthy_threshold", "out of range"),
        (G, "health_check = { treshold = 3 }", "health_check.treshold", "unknown key"),
    ]);
    let both = with(G, "health_check = { interval = \"1s\", timeout = \"2s\", fast_interval = \"3s\" }").0;
    assert_eq!(errors(&both).len(), 2, "{:?}", errors(&both));
}

#[test]
fn sections_must_agree() {
    let listener = |name: &str, protocol: &str, port: &str, groups: &str| {
        format!("[[listeners]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\nports = [{port}]\nendpoint_groups = [{groups}]\n")
    };
    let base = file("", "", LISTENER, GROUP);
    let expect = |text: &str, key: &str, reason: &str| {
        let found = errors(text);
        assert!(found.len() == 1, "{reason}: {found:#?}");
        assert!(found[0].1.ends_with(key) && found[0].2.contains(reason), "{key}, {reason}: {found:?}");
    };
    expect(&(base.clone() + &listener("b", "tcp", "\"79-81\"", "\"us\"")), "listeners[1].ports[0]", "tcp 79-81 overlaps 80");
    expect(
        &(base.clone() + &listener("b", "tcp_udp", "80", "\"us\"")),
        "listeners[1].ports[0]",
        "overlaps 80 of listener \"chat\"",
    );
    expect(
        &(base.clone() + &listener("b", "tcp_udp", "81", "\"eu\"")),
        "endpoint_groups[0].health_check.port",
        "different ports",
    );
    let named = file("", "", LISTENER, &format!("{GROUP}\nhealth_check = {{ port = 80 }}"));
    expect(&(named.clone() + &listener("chat", "tcp", "81", "\"eu\"")), "listeners[1].name", "\"chat\" is already on line 8");
    expect(&(named.clone() + &listener("b", "tcp", "81", "\"eu\", \"eu\"")), "endpoint_groups[1]", "listed twice");
    expect(&(named.clone() + &listener("b", "tcp", "81", "\"eu\", \"su\"")), "endpoint_groups[1]", "no endpoint group \"su\"");
    expect(&(named.clone() + &listener("b", "tcp", "81", "")), "endpoint_groups", "no endpoint group");
    expect(
        &(base.clone() + "[[endpoint_groups]]\nname = \"as\"\nendpoints = [{ name = \"as-1\", address = \"10.0.3.1\" }]\n"),
        "health_check.port",
        "no listener uses the group",
    );
    expect(
        &(base.clone()
            + "[[endpoint_groups]]\nname = \"us\"\nhealth_check = { port = 1 }\nendpoints = [{ name = \"as-1\", address = \"10.0.3.1\" }]\n"),
        "endpoint_groups[2].name",
        "\"us\" is already on line",
    );
    let udp = file("", "", "protocol = \"udp\"\nports = [80]", GROUP);
    expect(&udp, "endpoint_groups[0].health_check", "serves udp listener \"chat\"");
    // Fixed ports lead both listeners to the same place.
    let fixed = file("", "", LISTENER, "endpoints = [{ name = \"eu-1\", address = \"10.0.1.10:9\" }]");
    parse(&(fixed + &listener("b", "tcp", "81", "\"eu\"")));
    // The same port, but the other protocol.
    parse(&(named + &listener("b", "udp", "80", "\"eu\"")));
}

#[test]
fn missing_keys_are_named() {
    let all = errors("hash_seed = 1\n[[listeners]]\n[[endpoint_groups]]\n");
    let keys: Vec<_> = all.iter().map(|(line, key, _)| (*line, key.as_str())).collect();
    assert_eq!(
        keys,
        [
            (1, "name"),
            (1, "static_ips"),
            (2, "listeners[0].name"),
            (2, "listeners[0].protocol"),
            (2, "listeners[0].ports"),
            (2, "listeners[0].endpoint_groups"),
            (3, "endpoint_groups[0].name"),
            (3, "endpoint_groups[0].endpoints"),
        ]
    );
    assert_eq!(errors("").len(), 4);
    let nameless = Host { name: "my host".into(), ..host() };
    let ConfigErrors(errors) = Config::parse(&file("", "", LISTENER, GROUP), &nameless).unwrap_err();
    assert_eq!((errors.len(), errors[0].key.as_str()), (1, "edge.name"));
}

#[test]
fn more_endpoints_than_the_table_can_number_are_refused() {
    let endpoints = |count: u32| -> String {
        let each = (0..count).map(|n| format!("{{name=\"e{n}\",address=\"{}\"}}", std::net::Ipv4Addr::from(0x0a00_0000 + n)));
        format!("endpoints = [{}]", each.collect::<Vec<_>>().join(",\n"))
    };
    parse(&with(P, &endpoints(65_533)).0);
    let found = errors(&with(P, &endpoints(65_534)).0);
    assert!(found.len() == 1 && found[0].2.contains("65535 endpoints"), "{found:?}");
}

#[test]
fn defaults_follow_the_host_and_the_interval() {
    let config = parse(&with(G, "health_check = { interval = \"100ms\" }").0);
    let timing = config.endpoint_groups[0].check.timing();
    assert_eq!((timing.timeout, timing.fast_interval), (Duration::from_millis(100), Duration::from_millis(100)));
    assert_eq!((config.edge.name.as_str(), config.edge.workers.get()), ("lab", 4));
    assert_eq!(config.edge.admin, SocketAddr::from(([127, 0, 0, 1], 9900)));
    let settings = &config.listeners[0].settings;
    let tcp = settings.tcp.as_ref().unwrap();
    assert_eq!((tcp.idle_timeout.as_secs(), tcp.connect_attempts.get()), (340, 3));
    assert_eq!(settings.limits.max_flows, (524_288 - 4 - 256 - 4 * 64) / 2);
    let small = Host { descriptors: 517, ..host() };
    let ConfigErrors(errors) = Config::parse(&file("", "", LISTENER, GROUP), &small).unwrap_err();
    assert!(errors[0].key == "listeners[0].ports[0]" && errors[0].reason.contains("517 descriptors"), "{errors:?}");
}

#[test]
fn probes_go_where_the_first_port_leads_or_where_they_are_sent() {
    let text = with(G, "port_overrides = [{ listener_port = 80, endpoint_port = 8080 }]").0;
    let group = &parse(&text).endpoint_groups[0];
    assert_eq!(group.probe_address(&group.group.endpoints[0]), "10.0.1.10:8080".parse().unwrap());
    let group = &parse(&with(G, "health_check = { port = 9 }").0).endpoint_groups[0];
    assert_eq!(group.probe_address(&group.group.endpoints[0]), "10.0.1.10:9".parse().unwrap());
}

#[test]
fn seeds_are_all_of_u64() {
    let seed =
        |text: &str| parse(&file("", "", LISTENER, GROUP).replacen("hash_seed = 7", &format!("hash_seed = {text}"), 1)).hash_seed;
    for text in ["0x9e3779b97f4a7c15", "\"0x9e37_79b9_7f4a_7c15\"", "\"11400714819323198485\"", "11_400_714_819_323_198_485"] {
        assert_eq!(seed(text), 0x9e37_79b9_7f4a_7c15, "{text}");
    }
}

#[test]
fn warnings_say_what_has_no_effect() {
    let cases: &[(Section, &str, &[&str])] = &[
        (L, "# nothing", &[]),
        (L, "limits = { max_flows = 9000000 }", &["listeners[0].limits.max_flows"]),
        (G, "health_check = { protocol = \"https\", verify = false }", &["endpoint_groups[0].health_check.verify"]),
        (G, "traffic_dial = 50", &[]),
        (P, "endpoints = [{ name = \"x\", address = \"10.0.0.1\", weight = 0 }]", &["endpoint_groups[0]"]),
        (
            P,
            "endpoints = [{ name = \"x\", address = \"10.0.0.1:1\" }]\nport_overrides = [{ listener_port = 80, endpoint_port = 8080 }]",
            &["endpoint_groups[0].port_overrides[0]"],
        ),
    ];
    for (section, text, expected) in cases {
        let found = warnings(&with(*section, text).0);
        let keys: Vec<_> = found.iter().map(|(_, key)| key.as_str()).collect();
        assert_eq!(keys, *expected, "{text}");
    }
    let base = file("", "", LISTENER, GROUP);
    assert_eq!(warnings(&(base.clone() + "traffic_dial = 50\n")), [(19, "endpoint_groups[1].traffic_dial".into())]);
    assert_eq!(warnings(&base.replacen("hash_seed = 7", "", 1)), [(1, "hash_seed".into())]);
    assert_eq!(warnings(&base.replacen("hash_seed = 7", "hash_seed = 0", 1)), [(3, "hash_seed".into())]);
    let unused = "[[endpoint_groups]]\nname = \"as\"\nhealth_check = { port = 1 }\nendpoints = [{ name = \"as-1\", address = \"10.0.3.1\" }]\n";
    assert_eq!(warnings(&(base + unused)), [(19, "endpoint_groups[2]".into())]);
}

#[test]
fn a_config_survives_being_written_out() {
    let rich = file(
        "",
        "workers = 3\npin = true\nfast_path = \"off\"\ncontrol = \"/tmp/a \\\"b\\\".sock\"\nadmin = \"[::1]:9\"",
        "protocol = \"tcp_udp\"\nports = [\"80-90\"]\nidle_timeout = { tcp = \"1h 30m\" }\non_unhealthy = { udp = \"keep\" }\ntcp_mss = 1400\nclient_ip = \"proxy_v2_every\"\nlimits = { max_flows_per_client = 9, new_flows_per_client_per_second = 7 }\nallow = [\"203.0.113.0/24\", \"2001:db8::/32\"]\ndeny = [\"203.0.113.9\"]\nforwarding = \"user\"\nclient_affinity = \"source_ip\"\nwhen_all_unhealthy = \"fail_closed\"",
        &format!("{GROUP}\nregion = \"öst\"\ntraffic_dial = 33.333\nmin_healthy = \"25%\"\nhealth_check = {{ send = \"\\u0000\\\"x\", expect = \"hex:6865783a\", interval = \"1s 1ms\" }}"),
    )
    .replacen("hash_seed = 7", "hash_seed = \"0x9e3779b97f4a7c15\"", 1);
    for text in [DESIGN, &rich] {
        let config = parse(text);
        let written = config.to_toml();
        assert_eq!(parse(&written), config, "{written}");
        assert_eq!(parse(&written).to_toml(), written);
    }
}

#[test]
fn a_reload_applies_groups_and_refuses_the_rest() {
    let old = parse(&file("", "", LISTENER, GROUP));
    let applied = with(G, "traffic_dial = 5\nfailback = { hold = \"0s\" }\nhealth_check = { port = 9 }").0;
    let applied = applied.replacen(
        "endpoint_groups = [\"eu\", \"us\"]",
        "endpoint_groups = [\"us\", \"eu\"]\nwhen_all_unhealthy = \"fail_closed\"",
        1,
    );
    assert_eq!(old.restart_needed(&parse(&applied)), Vec::<String>::new());
    let edge = parse(&file("", "drain_timeout = \"0s\"", "protocol = \"tcp\"\nports = [81]\nidle_timeout = \"1s\"", GROUP));
    assert_eq!(old.restart_needed(&edge), ["edge.drain_timeout", "listeners[0].ports", "listeners[0].idle_timeout.tcp"]);
    let renamed = parse(&file("", "", LISTENER, GROUP).replacen("\"chat\"", "\"talk\"", 1));
    assert_eq!(old.restart_needed(&renamed).len(), 1);
}

#[test]
fn a_dns_name_becomes_an_endpoint_for_every_address() {
    let (text, _) = with(
        P,
        "endpoints = [{ name = \"x\", address = \"10.0.0.1\" }, { name = \"y\", address = \"Game.Example.com.:80\", weight = 9 }]",
    );
    let config = parse(&text);
    assert_eq!(config.hosts().into_iter().collect::<Vec<_>>(), ["game.example.com"]);
    // Round trip: what check prints means the same.
    assert_eq!(parse(&config.to_toml()), config);
    let group = |config: &Config| {
        let group =
            config.endpoint_groups.iter().find(|group| group.group.endpoints.iter().any(|e| e.name.base() == "x")).unwrap();
        let shown = group.group.endpoints.iter().map(|e| format!("{} {} {}", e.name, group.address(e), e.weight.get()));
        shown.collect::<Vec<_>>()
    };
    assert_eq!(group(&config), ["x 10.0.0.1 128", "y game.example.com:80 9"]);
    assert_eq!(group(&config.resolved(&[].into())), ["x 10.0.0.1 128"], "nothing is known yet");

    // Of both families; a static IP would loop, and an address that the group has already is that endpoint.
    let found = ["10.0.0.1", "10.0.0.7", "198.18.0.1", "2001:db8::7"].map(|ip| ip.parse().unwrap()).into();
    let resolved = config.resolved(&[("game.example.com".to_owned(), found)].into());
    let expected = ["x 10.0.0.1 128", "y#10.0.0.1 10.0.0.1:80 9", "y#10.0.0.7 10.0.0.7:80 9", "y#2001:db8::7 [2001:db8::7]:80 9"];
    assert_eq!(group(&resolved), expected);
    assert!(resolved.hosts().is_empty());
}

#[test]
fn what_is_neither_address_nor_name_is_refused() {
    let long = format!("{}.example.com", "x".repeat(64));
    for address in
        ["10.0.0.256", "10.0.0", "game..com", "-game.com", "game.com:0", "game.com:x", "game.com:70000", "a b", "", &long]
    {
        let found = errors(&with(P, &format!("endpoints = [{{ name = \"x\", address = \"{address}\" }}]")).0);
        let [(_, key, message)] = &found[..] else { panic!("{address:?}: {found:?}") };
        assert!(key.ends_with("endpoints[0].address") && message.contains("is not an address"), "{address:?}: {found:?}");
    }
    for resolver in ["dns.example.com", "10.0.0.1:0", "0.0.0.0", "x"] {
        let found = errors(&with(E, &format!("resolvers = [\"{resolver}\"]")).0);
        assert!(
            matches!(&found[..], [(_, key, message)] if key == "edge.resolvers[0]" && message.contains("DNS server")),
            "{found:?}"
        );
    }
}
