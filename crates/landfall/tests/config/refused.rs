//! What is refused, with which words, and all of it at once.

use super::*;

const TEN_MISTAKES: &str = include_str!("../configs/ten_mistakes.toml");

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
