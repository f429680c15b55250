//! `landfall check`, a refused `run`, and reloads: what an operator does to an edge and what it does to the flows.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use landfall_tests::clients::{TcpSession, UdpFlow, tcp_probe};
use landfall_tests::command::{Ended, check_json, landfall};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::loopback::{config_head, own_address};
use landfall_tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 7000;
/// How long flows of a removed endpoint may go on.
const DRAIN: Duration = Duration::from_secs(1);

/// Ten mistakes and the lines they are on.
const MISTAKES: &str = r#"name = "ten mistakes"
static_ips = ["198.18.0.1", "198.18.0"]
hash_seed = -1
colour = "red"
[edge]
admin = "127.0.0.1"
control = "{dir}/control.sock"
drain_timeout = "soon"
[[listeners]]
name = "l"
protocol = "sctp"
ports = [0]
endpoint_groups = ["g"]
[[endpoint_groups]]
name = "g"
traffic_dial = 101.0
endpoints = [{ name = "e", address = "10.0.0.1", weight = 256 }]
"#;
const MISTAKEN_LINES: [usize; 10] = [1, 2, 3, 4, 6, 8, 11, 12, 16, 17];
const GOOD: &str = r#"
name = "good"
static_ips = ["198.18.0.1", "198.18.0.2"]
hash_seed = 7
[[listeners]]
name = "l"
protocol = "tcp"
ports = [7000]
endpoint_groups = ["fast", "slow"]
[[endpoint_groups]]
name = "fast"
health_check = { interval = "100ms", fast_interval = "50ms", timeout = "50ms", unhealthy_threshold = 3 }
endpoints = [{ name = "f", address = "10.0.0.1" }]
[[endpoint_groups]]
name = "slow"
endpoints = [{ name = "s", address = "10.0.0.2" }]
"#;

fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::Builder::new().prefix("landfall-control-").tempdir().unwrap();
    let path = directory.path().join("landfall.toml");
    std::fs::write(&path, text.replace("{dir}", &directory.path().to_string_lossy())).unwrap();
    (directory, path)
}

fn with_file(command: &[&str], path: &Path) -> Ended {
    let words = command.iter().map(|word| (*word).as_ref()).chain([path.as_os_str()]);
    landfall(words).unwrap()
}

/// The line numbers of messages such as `FILE:LINE: KEY: reason; cure`.
fn lines_named(text: &str, path: &Path) -> Vec<usize> {
    let prefix = format!("{}:", path.display());
    let number = |line: &str| line.strip_prefix(&prefix)?.split(':').next()?.parse().ok();
    text.lines().map(|line| number(line).unwrap_or_else(|| panic!("{line:?} names no line"))).collect()
}

#[test]
fn check_lists_ten_mistakes_with_their_lines() {
    let (_directory, path) = file(MISTAKES);
    let ended = with_file(&["check", "--config"], &path);
    let lines = lines_named(&ended.stdout, &path);
    assert_eq!(ended.status, Some(78));
    assert_eq!(lines, MISTAKEN_LINES, "{}", ended.stdout);

    let report = check_json(&path).unwrap();
    let errors = report["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 10);
    for error in errors {
        assert!(error["line"].is_u64() && error["key"].is_string() && error["message"].is_string(), "{error}");
    }
    assert_eq!(report["endpoint_groups"], serde_json::json!([]));
}

#[test]
fn check_prints_the_bound_of_every_group() {
    let (_directory, path) = file(GOOD);
    let report = check_json(&path).unwrap();
    assert_eq!(report["errors"], serde_json::json!([]));
    let expected = serde_json::json!([
        { "name": "fast", "failover_bound_seconds": 0.35 },
        { "name": "slow", "failover_bound_seconds": 2.6 },
    ]);
    assert_eq!(report["endpoint_groups"], expected);
    let ended = with_file(&["check", "--config"], &path);
    assert_eq!(ended.status, Some(0));
    assert!(ended.stdout.contains("0.35 s") && ended.stdout.contains("2.6 s"), "{}", ended.stdout);
}

#[test]
fn run_refuses_a_bad_file_and_touches_nothing() {
    let (directory, path) = file(MISTAKES);
    let ended = with_file(&["run", "--config"], &path);
    assert_eq!(ended.status, Some(78));
    assert_eq!(lines_named(&ended.stderr, &path).len(), 10, "{}", ended.stderr);
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["landfall.toml"], "no control socket");
    assert_eq!(with_file(&["run", "--config"], &directory.path().join("absent.toml")).status, Some(66));
}

/// An edge and three endpoints, of which any may stand in its config.
struct Scene {
    edge: Edge,
    head: String,
    target: SocketAddr,
    endpoints: [(&'static str, Endpoint); 3],
}

fn scene() -> Scene {
    let static_ip = own_address();
    let endpoints = ["a", "b", "c"].map(|name| (name, Endpoint::start(None, Spec::echo(name, (own_address(), PORT))).unwrap()));
    let head = config_head(&[static_ip], &format!("drain_timeout = \"{}s\"", DRAIN.as_secs()));
    let text = config(&head, &endpoints, &[("a", 128), ("b", 128)]);
    Scene { edge: Edge::start(None, &text).unwrap(), head, target: (static_ip, PORT).into(), endpoints }
}

fn config(head: &str, endpoints: &[(&str, Endpoint); 3], members: &[(&str, u8)]) -> String {
    let entry = |(name, weight): &(&str, u8)| {
        let (_, endpoint) = endpoints.iter().find(|(known, _)| known == name).unwrap();
        format!("{{ name = \"{name}\", address = \"{}\", weight = {weight} }}", endpoint.address().ip())
    };
    format!(
        "{head}\n[[listeners]]\nname = \"l\"\nprotocol = \"tcp_udp\"\nports = [{PORT}]\nidle_timeout = {{ udp = \"3s\" }}\n\
         endpoint_groups = [\"g\"]\n[[endpoint_groups]]\nname = \"g\"\n\
         health_check = {{ protocol = \"tcp\", interval = \"200ms\", timeout = \"200ms\" }}\n\
         endpoints = [{}]\n",
        members.iter().map(entry).collect::<Vec<_>>().join(", ")
    )
}

impl Scene {
    fn write(&self, members: &[(&str, u8)]) {
        self.edge.rewrite_config(&config(&self.head, &self.endpoints, members)).unwrap();
    }

    fn reload(&self) -> Ended {
        let control = self.edge.directory().join("control.sock");
        with_file(&["reload", "--control"], &control)
    }

    fn reloads(&self, result: &str) -> f64 {
        self.edge.metrics().unwrap().sum("landfall_config_reloads_total", &[("result", result)])
    }

    /// Where new flows of both protocols go. From an address of their own: the port of a flow that was closed a moment ago
    /// could come back, and with it the flow.
    fn landings(&self) -> BTreeSet<String> {
        let client = own_address();
        let udp = || UdpFlow::open((client, 0).into(), self.target).unwrap().exchange(LIMIT).unwrap().endpoint;
        let one = |_| [tcp_probe(self.target, LIMIT).unwrap().endpoint, udp()];
        (0..32).flat_map(one).collect()
    }

    /// A TCP session and a UDP flow on each of `a` and `b`.
    fn flows(&self) -> Vec<(TcpSession, UdpFlow)> {
        ["a", "b"].iter().map(|name| (self.session_on(name), self.flow_on(name))).collect()
    }

    fn session_on(&self, name: &str) -> TcpSession {
        let mut sessions = (0..64).map(|_| TcpSession::open(None, self.target, LIMIT).unwrap());
        sessions.find(|session| session.endpoint == name).unwrap()
    }

    fn flow_on(&self, name: &str) -> UdpFlow {
        let client = own_address();
        let mut flows = (0..64).map(|_| UdpFlow::open((client, 0).into(), self.target).unwrap());
        flows.find_map(|mut flow| (flow.exchange(LIMIT).unwrap().endpoint == name).then_some(flow)).unwrap()
    }
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn reloads_change_weights_and_endpoints_and_leave_flows_alone() {
    let scene = scene();
    assert_eq!(scene.landings(), names(&["a", "b"]));
    let mut flows = scene.flows();
    let mut all_go_on = || {
        for ((session, flow), name) in flows.iter_mut().zip(["a", "b"]) {
            session.exchange(b"as before").unwrap();
            assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, name);
        }
    };

    // Weight 0 takes no new flows and keeps the old ones.
    scene.write(&[("a", 0), ("b", 128)]);
    let ended = scene.reload();
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(ended.stdout.starts_with("reloaded"), "{ended:?}");
    assert_eq!(scene.landings(), names(&["b"]));
    all_go_on();

    // By signal; an endpoint more.
    scene.write(&[("a", 128), ("b", 128), ("c", 128)]);
    scene.edge.signal(libc::SIGHUP).unwrap();
    wait_until("the second reload", LIMIT, || scene.reloads("ok") == 2.0).unwrap();
    wait_until("c healthy", LIMIT, || scene.edge.health("c").unwrap().as_deref() == Some("healthy")).unwrap();
    assert_eq!(scene.landings(), names(&["a", "b", "c"]));
    all_go_on();
    let metrics = scene.edge.metrics().unwrap();
    assert_eq!(metrics.sum("landfall_flows_moved_total", &[]), 0.0);
    assert_eq!(metrics.sum("landfall_flows_closed_total", &[("reason", "endpoint_gone")]), 0.0);
    assert_eq!(metrics.sum("landfall_failovers_total", &[]), 0.0);
    assert_eq!(metrics.sum("landfall_drops_total", &[]), 0.0);
}

#[test]
fn weight_0_by_order_cuts_nothing_and_takes_nothing_new() {
    let scene = scene();
    let order = |words: &[&str]| {
        let control = scene.edge.directory().join("control.sock");
        let ended = with_file(&[words, &["--control"]].concat(), &control);
        assert_eq!(ended.status, Some(0), "{ended:?}");
    };
    let opened_at_a = || {
        let metrics = scene.edge.metrics().unwrap();
        metrics.value("landfall_endpoint_flows_active", &[("endpoint_group", "g"), ("endpoint", "a")]).unwrap()
    };
    let mut flows = scene.flows();
    let health = scene.edge.status().unwrap()["endpoint_groups"][0]["endpoints"][0]["since_seconds"].as_f64().unwrap();
    let held = opened_at_a();

    // When the command has ended, it is in force: not within a second, at once.
    order(&["weight", "a", "0"]);
    assert_eq!(scene.landings(), names(&["b"]));
    assert!(opened_at_a() <= held, "no new flow");
    for ((session, flow), name) in flows.iter_mut().zip(["a", "b"]) {
        session.exchange(b"as before").unwrap();
        assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, name);
    }
    let status = scene.edge.status().unwrap();
    let a = &status["endpoint_groups"][0]["endpoints"][0];
    assert_eq!(
        (&a["name"], &a["health"], &a["weight"], &a["weight_set"]),
        (&"a".into(), &"healthy".into(), &0.into(), &0.into())
    );
    assert!(a["since_seconds"].as_f64().unwrap() >= health, "its health has not begun anew: {a}");

    // Back at once and whole: it was never unhealthy.
    order(&["weight", "a", "128"]);
    assert_eq!(scene.landings(), names(&["a", "b"]));
    let metrics = scene.edge.metrics().unwrap();
    for (name, labels) in [
        ("landfall_flows_moved_total", &[][..]),
        ("landfall_flows_closed_total", &[("reason", "endpoint_gone")]),
        ("landfall_failovers_total", &[]),
        ("landfall_drops_total", &[]),
    ] {
        assert_eq!(metrics.sum(name, labels), 0.0, "{name}");
    }
}

#[test]
fn a_drain_with_an_end_ends_the_flows_then() {
    let scene = scene();
    let mut flows = scene.flows();
    let begin = landfall_tests::wait::now();
    let control = scene.edge.directory().join("control.sock");
    let ended = with_file(&["drain", "a", "--reset-after", "1s", "--control"], &control);
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert_eq!(scene.landings(), names(&["b"]));
    let (session, flow) = &mut flows[0];
    session.exchange(b"still").unwrap();
    assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, "a");
    assert!(begin.elapsed() < DRAIN, "this machine was too slow to look before the drain was over: {:?}", begin.elapsed());
    session.wait_reset(LIMIT).unwrap();
    assert!(begin.elapsed() >= DRAIN, "{:?}", begin.elapsed());
    assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, "b");
    flows[1].0.exchange(b"untouched").unwrap();
    assert_eq!(flows[1].1.exchange(LIMIT).unwrap().endpoint, "b");

    assert_eq!(with_file(&["undrain", "a", "--control"], &control).status, Some(0));
    assert_eq!(scene.landings(), names(&["a", "b"]));
}

#[test]
fn a_removed_endpoint_keeps_its_flows_until_the_drain_is_over() {
    let scene = scene();
    let mut flows = scene.flows();
    let begin = landfall_tests::wait::now();
    scene.write(&[("b", 128)]);
    assert_eq!(scene.reload().status, Some(0));
    assert_eq!(scene.landings(), names(&["b"]));
    let (session, flow) = &mut flows[0];
    session.exchange(b"still").unwrap();
    assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, "a");
    assert!(begin.elapsed() < DRAIN, "this machine was too slow to look before the drain was over: {:?}", begin.elapsed());

    session.wait_reset(LIMIT).unwrap();
    assert!(begin.elapsed() >= DRAIN, "{:?}", begin.elapsed());
    assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, "b");
    let (session, flow) = &mut flows[1];
    session.exchange(b"untouched").unwrap();
    assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, "b");
    let metrics = scene.edge.metrics().unwrap();
    assert_eq!(metrics.sum("landfall_flows_closed_total", &[("reason", "endpoint_gone")]), 1.0);
    assert_eq!(metrics.sum("landfall_flows_moved_total", &[]), 1.0);
    // With its last flow, which ends by its idle timeout, it leaves the status.
    wait_until("a gone from /status", LIMIT, || scene.edge.health("a").unwrap().is_none()).unwrap();
}

#[test]
fn a_bad_file_changes_nothing() {
    let scene = scene();
    let digest = |scene: &Scene| scene.edge.status().unwrap()["listeners"][0]["digest"].clone();
    let (before, mut flows) = (digest(&scene), scene.flows());

    scene.edge.rewrite_config(MISTAKES).unwrap();
    let ended = scene.reload();
    assert_eq!(ended.status, Some(78), "{ended:?}");
    assert_eq!(ended.stderr.lines().filter(|line| line.contains("landfall.toml:")).count(), 10, "{}", ended.stderr);
    scene.edge.signal(libc::SIGHUP).unwrap();
    wait_until("the refusal of the second", LIMIT, || scene.reloads("refused") == 2.0).unwrap();

    // Valid, but not for an edge that runs.
    let other = config(&scene.head.replace("static_ips = [", "static_ips = [\"198.18.0.9\", "), &scene.endpoints, &[("b", 1)]);
    scene.edge.rewrite_config(&other).unwrap();
    let ended = scene.reload();
    assert_eq!(ended.status, Some(78), "{ended:?}");
    assert!(ended.stderr.contains("static_ips"), "{ended:?}");

    assert_eq!((scene.reloads("ok"), scene.reloads("refused")), (0.0, 3.0));
    assert_eq!(digest(&scene), before);
    for (session, flow) in &mut flows {
        session.exchange(b"as before").unwrap();
        flow.exchange(LIMIT).unwrap();
    }
    assert_eq!(scene.landings(), names(&["a", "b"]));
    let ended = with_file(&["reload", "--control"], Path::new("/nonexistent/control.sock"));
    assert_eq!(ended.status, Some(1), "{ended:?}");
}
