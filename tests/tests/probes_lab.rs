//! Every kind of probe against the real server of its protocol: alive, frozen, thawed and dead; and what makes a live server
//! count as bad.
//!
//! There is no server in Debian that speaks the Source query. The one here is written from its specification, and shown to be
//! right by a client that is not ours, qstat.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::Duration;

use landfall_tests::edge::Edge;
use landfall_tests::field::{Field, SipTransport};
use landfall_tests::lab::Namespace;
use landfall_tests::process::Process;
use landfall_tests::wait::{self, wait_until};

/// For a change of health to show; the bound of the config below is 1.4 s, and a server may take seconds to start.
const LIMIT: Duration = Duration::from_secs(30);

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const TIMING: &str = "interval = \"400ms\", fast_interval = \"200ms\", timeout = \"300ms\"";

/// Group, server that it probes, what it asks.
type Good = (&'static str, &'static str, &'static str);

const GOOD: [Good; 14] = [
    ("http", "nginx", r#"protocol = "http", port = 8080, path = "/health", status = [200], expect = "all well""#),
    ("head", "nginx", r#"protocol = "http", port = 8080, path = "/health", method = "HEAD""#),
    (
        "https",
        "nginx",
        r#"protocol = "https", port = 8443, path = "/health", host = "play.example", ca = "{ca}", expect = { regex = "well$" }"#,
    ),
    ("unverified", "nginx", r#"protocol = "https", port = 8443, path = "/health", verify = false"#),
    ("quic", "ngtcp2", r#"protocol = "quic", port = 4433, alpn = ["h3"], server_name = "play.example", ca = "{ca}""#),
    ("stun", "coturn", r#"protocol = "stun", port = 3478"#),
    ("stun-tcp", "coturn", r#"protocol = "stun", port = 3478, transport = "tcp""#),
    ("sip", "sipp", r#"protocol = "sip_options", port = 5060"#),
    ("sip-tcp", "sipp-tcp", r#"protocol = "sip_options", port = 5061, transport = "tcp""#),
    ("mqtt", "mosquitto", r#"protocol = "mqtt", port = 1883"#),
    ("mqtt-guarded", "mosquitto", r#"protocol = "mqtt", port = 1884"#),
    ("dns", "unbound", r#"protocol = "dns", port = 53"#),
    ("dns-tcp", "unbound", r#"protocol = "dns", port = 53, transport = "tcp", query = "field.example""#),
    (
        "quake",
        "openarena",
        r#"protocol = "udp", port = 27960, send = { hex = "ffffffff676574696e666f" }, expect = { regex = '(?s-u)\A\xff{4}infoResponse\n' }"#,
    ),
];

/// Group, what it asks of a live server, the result that it gets.
const BAD: [(&str, &str, &str); 8] = [
    ("bad-status", r#"protocol = "http", port = 8080, path = "/nothing""#, "status"),
    ("bad-body", r#"protocol = "http", port = 8080, path = "/health", expect = "all ill""#, "unexpected"),
    ("bad-name", r#"protocol = "https", port = 8443, path = "/health", host = "other.example", ca = "{ca}""#, "tls"),
    ("bad-port", r#"protocol = "https", port = 8080, verify = false"#, "tls"),
    ("bad-quic-name", r#"protocol = "quic", port = 4433, alpn = ["h3"], server_name = "other.example", ca = "{ca}""#, "tls"),
    ("bad-alpn", r#"protocol = "quic", port = 4433, alpn = ["game/1"], server_name = "play.example", ca = "{ca}""#, "tls"),
    ("bad-sip", r#"protocol = "sip_options", port = 5062"#, "unexpected"),
    // unbound refuses this address, so the server is alive to everybody else.
    ("bad-dns", r#"protocol = "dns", port = 53, source = "127.0.0.66""#, "unexpected"),
];

fn config(groups: &[(&str, &str)], ca: &Path) -> String {
    let names: Vec<_> = groups.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let tables = groups.iter().map(|(name, question)| {
        let question = question.replace("{ca}", &ca.display().to_string());
        format!(
            "[[endpoint_groups]]\nname = \"{name}\"\nhealth_check = {{ {question}, {TIMING} }}\n\
             endpoints = [{{ name = \"{name}\", address = \"127.0.0.1\" }}]\n"
        )
    });
    format!(
        "name = \"field\"\nstatic_ips = [\"127.0.0.50\"]\nhash_seed = 7\n[edge]\nname = \"lab\"\nadmin = \"127.0.0.51:9900\"\n\
         control = \"{{dir}}/control.sock\"\n[[listeners]]\nname = \"any\"\nprotocol = \"tcp_udp\"\nports = [7000]\n\
         endpoint_groups = [{}]\n{}",
        names.join(", "),
        tables.collect::<String>()
    )
}

fn has_health(edge: &Edge, endpoint: &str, health: &str) -> bool {
    edge.health(endpoint).unwrap().as_deref() == Some(health)
}

fn results(edge: &Edge, endpoint: &str, result: &str) -> f64 {
    edge.metrics().unwrap().sum("landfall_probe_results_total", &[("endpoint", endpoint), ("result", result)])
}

/// Waits until every group in `names` has `health`, and returns how long that took.
fn all_have(edge: &Edge, names: &[&str], health: &str) -> Duration {
    let begin = wait::now();
    for name in names {
        wait_until(&format!("{name} {health}"), LIMIT, || has_health(edge, name, health))
            .unwrap_or_else(|failure| panic!("{failure}\n{}", edge.log()));
    }
    begin.elapsed()
}

#[test]
fn real_servers_are_seen_alive_frozen_and_dead() {
    let namespace = Namespace::new("field").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let field = Field::new(&namespace, directory.path()).unwrap();
    let mut servers: Vec<(&str, Process)> = vec![
        ("nginx", field.nginx().unwrap()),
        ("ngtcp2", field.ngtcp2().unwrap()),
        ("coturn", field.coturn().unwrap()),
        ("sipp", field.sipp(5060, SipTransport::Udp, "200 OK").unwrap()),
        ("sipp-tcp", field.sipp(5061, SipTransport::Tcp, "404 Not Found").unwrap()),
        ("mosquitto", field.mosquitto().unwrap()),
        ("unbound", field.unbound(LOCAL, Some("127.0.0.66".parse().unwrap())).unwrap()),
        ("openarena", field.openarena(LOCAL).unwrap()),
    ];
    let _failing = field.sipp(5062, SipTransport::Udp, "503 Service Unavailable").unwrap();

    let blind = ("blind", "protocol = \"tcp\", port = 8080");
    let good = GOOD.iter().map(|&(name, _, question)| (name, question));
    let bad = BAD.iter().map(|&(name, question, _)| (name, question));
    let groups: Vec<_> = good.chain(bad).chain([blind]).collect();
    let edge = Edge::start(Some(&namespace), &config(&groups, &field.path("ca.pem"))).unwrap();
    let names: Vec<_> = GOOD.iter().map(|(name, _, _)| *name).collect();

    println!("all alive after {:?}", all_have(&edge, &names, "healthy"));
    for (name, _, result) in BAD {
        wait_until(&format!("{name} {result}"), LIMIT, || results(&edge, name, result) > 0.0).unwrap();
        assert!(has_health(&edge, name, "unhealthy"), "{name}");
        assert_eq!(results(&edge, name, "good"), 0.0, "{name}");
    }
    let metrics = edge.metrics().unwrap();
    for name in &names {
        let figure = |suffix| metrics.sum(&format!("landfall_probe_duration_seconds_{suffix}"), &[("endpoint_group", name)]);
        println!("{name}: {} good, {:.2} ms each", results(&edge, name, "good"), 1e3 * figure("sum") / figure("count"));
    }
    // A guarded broker is alive; one that admits the probe is told goodbye.
    let (_, mosquitto) = servers.iter().find(|(name, _)| *name == "mosquitto").unwrap();
    let came = mosquitto.wait_for_line("New client connected from 127.0.0.1", LIMIT).unwrap();
    println!("{came}");
    let went = mosquitto.wait_for_line("Received DISCONNECT from landfall", LIMIT).unwrap();
    println!("{went}");

    for (_, server) in &servers {
        server.signal(libc::SIGSTOP).unwrap();
    }
    println!("all frozen found after {:?}", all_have(&edge, &names, "unhealthy"));
    for name in &names {
        assert!(results(&edge, name, "timeout") > 0.0, "{name}");
    }
    // The kernel accepts in a frozen server's name: a connect proves nothing.
    assert!(has_health(&edge, "blind", "healthy"));

    for (_, server) in &servers {
        server.signal(libc::SIGCONT).unwrap();
    }
    println!("all thawed found after {:?}", all_have(&edge, &names, "healthy"));

    // Some were refused before their server was up.
    let before: Vec<_> = names.iter().map(|name| results(&edge, name, "refused")).collect();
    for (_, server) in &mut servers {
        server.kill().unwrap();
    }
    println!("all dead found after {:?}", all_have(&edge, &[&names[..], &["blind"]].concat(), "unhealthy"));
    for (name, before) in names.iter().zip(before) {
        wait_until(&format!("{name} refused"), LIMIT, || results(&edge, name, "refused") > before).unwrap();
    }
}

/// What a server of the Source query says, <https://developer.valvesoftware.com/wiki/Server_queries>: a challenge to who has
/// none, the information to who brings it back.
fn source_server(socket: &UdpSocket) {
    const QUESTION: &[u8] = b"\xff\xff\xff\xffTSource Engine Query\0";
    const CHALLENGE: &[u8] = b"\x0b\xad\x0a\x0d";
    let information: Vec<u8> = [
        // Version of the protocol, name, map, folder, game.
        &b"\xff\xff\xff\xffI\x11Landfall field\0de_dust2\0cstrike\0Counter-Strike\0"[..],
        // Steam's number for the game, players, most players, bots, dedicated, on Linux, without a password, unguarded, version.
        &b"\xf0\x00\x03\x10\x00dl\x00\x001.0.0.0\0\x00"[..],
    ]
    .concat();
    let mut question = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut question) {
        let answer = match question[..length].strip_prefix(QUESTION) {
            Some(CHALLENGE) => information.clone(),
            Some(_) => [b"\xff\xff\xff\xffA", CHALLENGE].concat(),
            None => continue,
        };
        socket.send_to(&answer, from).unwrap();
    }
}

#[test]
fn a_source_server_is_seen_by_qstat_and_by_the_probe() {
    let namespace = Namespace::new("source").unwrap();
    let socket = namespace.enter(|| UdpSocket::bind("127.0.0.1:27015")).unwrap();
    // Ends with the test's process.
    thread::spawn(move || source_server(&socket));
    let seen = namespace.run(["quakestat", "-raw", "|", "-a2s", "127.0.0.1:27015"]).unwrap();
    println!("{seen}");
    assert!(seen.contains("Landfall field|de_dust2|16|3"), "{seen}");

    let groups = [("game", "protocol = \"a2s\", port = 27015"), ("gone", "protocol = \"a2s\", port = 27016")];
    let edge = Edge::start(Some(&namespace), &config(&groups, Path::new(""))).unwrap();
    all_have(&edge, &["game"], "healthy");
    all_have(&edge, &["gone"], "unhealthy");
    assert!(results(&edge, "gone", "refused") > 0.0);
}
