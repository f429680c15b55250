//! Config files as an operator writes them: what they mean, what is warned of, and (`refused.rs`) what is refused.

#![allow(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

mod refused;

use std::{net::SocketAddr, num::NonZeroUsize, path::Path, time::Duration};

use edge_listener::settings::{Limits, ListenerSettings, OnUnhealthy, UdpSettings};
use edge_listener::{access::Access, client_ip::ClientIp};
use endpoint_group::{
    Affinity, Dial, Endpoint, EndpointGroup, MinHealthy, Name, Weight, WhenAllUnhealthy, model::FailbackPolicy,
};
use health_checker::{Exchange, Expect, HealthCheck, ProbeKind, Timing};
use landfall::config::{Config, ConfigErrors, Edge, FastPath, Forwarding, Group, Host, Listener, ProbePort, Proximity};

const DESIGN: &str = include_str!("../configs/design.toml");

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
