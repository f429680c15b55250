//! The end of an edge: it drains, it can be hurried, and it says what it does. And a scrape in the midst of traffic.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use landfall_tests::clients::{TcpSession, UdpFlow, tcp_probe};
use landfall_tests::command::landfall;
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::loopback::{config_head, own_address};
use landfall_tests::process;
use landfall_tests::wait::{self, wait_until};

const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 7000;

struct Scene {
    edge: Edge,
    target: SocketAddr,
    _endpoint: Endpoint,
}

/// Labels of datagrams to clients.
const RETURNED: [(&str, &str); 2] = [("protocol", "udp"), ("direction", "to_client")];

fn scene(drain_timeout: &str) -> Scene {
    scene_with(drain_timeout, "2s")
}

fn scene_with(drain_timeout: &str, udp_idle: &str) -> Scene {
    let static_ip = own_address();
    let endpoint = Endpoint::start(None, Spec::echo("e", (own_address(), PORT))).unwrap();
    let config = format!(
        "{}\n[[listeners]]\nname = \"l\"\nprotocol = \"tcp_udp\"\nports = [{PORT}]\nidle_timeout = {{ udp = \"{udp_idle}\" }}\n\
         endpoint_groups = [\"g\"]\n[[endpoint_groups]]\nname = \"g\"\nhealth_check = {{ protocol = \"tcp\" }}\n\
         endpoints = [{{ name = \"e\", address = \"{}\" }}]\n",
        config_head(&[static_ip], &format!("drain_timeout = \"{drain_timeout}\"")),
        endpoint.address().ip(),
    );
    Scene { edge: Edge::start(None, &config).unwrap(), target: (static_ip, PORT).into(), _endpoint: endpoint }
}

impl Scene {
    fn session(&self) -> TcpSession {
        TcpSession::open(None, self.target, LIMIT).unwrap()
    }

    fn flow(&self) -> UdpFlow {
        UdpFlow::open((Ipv4Addr::LOCALHOST, 0).into(), self.target).unwrap()
    }

    /// Orders the end, and waits until it has begun.
    fn terminate(&self) {
        self.edge.signal(libc::SIGTERM).unwrap();
        let refused = |failure: landfall_tests::Failure| failure.to_string().contains("refused");
        wait_until("refused connections", LIMIT, || tcp_probe(self.target, LIMIT).is_err_and(refused)).unwrap();
    }

    fn udp_drops(&self) -> f64 {
        self.edge.metrics().unwrap().sum("landfall_drops_total", &[("protocol", "udp"), ("reason", "draining")])
    }
}

#[test]
fn a_terminated_edge_serves_the_flows_it_has_and_takes_no_new_one() {
    let mut scene = scene("20s");
    let (mut session, mut flow) = (scene.session(), scene.flow());
    flow.exchange(LIMIT).unwrap();
    assert_eq!(scene.edge.get("/readyz").unwrap().status, 200);
    let begin = wait::now();

    scene.terminate();
    let ready = scene.edge.get("/readyz").unwrap();
    assert_eq!((ready.status, ready.body.trim()), (503, "draining"));
    assert_eq!(scene.edge.get("/livez").unwrap().status, 200);
    assert_eq!(scene.edge.status().unwrap()["draining"], true);
    session.exchange(b"as before").unwrap();
    flow.exchange(LIMIT).unwrap();
    let mut late = scene.flow();
    late.send().unwrap();
    wait_until("the refusal of a new flow", LIMIT, || scene.udp_drops() == 1.0).unwrap();
    assert_eq!(late.receive(Duration::ZERO).unwrap(), None);

    assert_eq!(session.finish().unwrap(), b"");
    // The UDP flow ends by its idle timeout, and with it the edge.
    assert_eq!(scene.edge.wait_exit(LIMIT).unwrap().code(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(20), "before drain_timeout: {:?}", begin.elapsed());
    assert!(!scene.edge.directory().join("control.sock").exists());
}

#[test]
fn a_drain_ends_with_its_timeout() {
    let mut scene = scene("1s");
    let mut session = scene.session();
    let begin = wait::now();
    scene.terminate();
    session.exchange(b"as before").unwrap();
    session.wait_reset(LIMIT).unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(scene.edge.wait_exit(LIMIT).unwrap().code(), Some(0));
}

#[test]
fn a_second_signal_stops_at_once() {
    let mut scene = scene("10m");
    let mut session = scene.session();
    scene.flow().exchange(LIMIT).unwrap();
    scene.terminate();
    session.exchange(b"as before").unwrap();
    scene.edge.signal(libc::SIGINT).unwrap();
    session.wait_reset(LIMIT).unwrap();
    assert_eq!(scene.edge.wait_exit(LIMIT).unwrap().code(), Some(0));
}

#[test]
fn an_edge_without_flows_ends_at_once() {
    let mut scene = scene("10m");
    tcp_probe(scene.target, LIMIT).unwrap();
    scene.edge.signal(libc::SIGTERM).unwrap();
    assert_eq!(scene.edge.wait_exit(LIMIT).unwrap().code(), Some(0));
}

#[test]
fn a_scrape_under_traffic_passes_the_prometheus_linter() {
    let scene = scene("1s");
    let (_session, mut flow) = (scene.session(), scene.flow());
    for _ in 0..10 {
        tcp_probe(scene.target, LIMIT).unwrap();
        flow.exchange(LIMIT).unwrap();
    }
    // What has arrived is counted a moment later.
    let all = || scene.edge.metrics().unwrap().sum("landfall_packets_total", &RETURNED) >= 10.0;
    wait_until("the last answer counted", LIMIT, all).unwrap();
    let metrics = scene.edge.metrics().unwrap();
    assert!(metrics.sum("landfall_flows_active", &[]) >= 2.0);
    assert_eq!(metrics.sum("landfall_packets_total", &RETURNED), 10.0);
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]);
    process::run(None, command, Some(metrics.text()), LIMIT).unwrap();
}

#[test]
fn a_second_edge_on_the_same_addresses_is_refused_and_takes_no_traffic() {
    // The flow is to outlive two starts, however long they take.
    let scene = scene_with("10s", "10m");
    let mut flow = scene.flow();
    flow.exchange(LIMIT).unwrap();
    let text = std::fs::read_to_string(scene.edge.config_path()).unwrap();
    let admin = scene.edge.admin().to_string();
    let elsewhere = std::net::TcpListener::bind((own_address(), 0)).unwrap().local_addr().unwrap().to_string();
    let second = tempfile::tempdir().unwrap();
    let path = second.path().join("landfall.toml");
    let run = |text: &str| {
        std::fs::write(&path, text).unwrap();
        landfall(["run", "--config", path.to_str().unwrap()]).unwrap()
    };
    let ended = run(&text.replace(&admin, &elsewhere));
    assert_eq!(ended.status, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("another edge answers on the control socket"), "{}", ended.stderr);
    let own_socket = second.path().join("control.sock");
    let control = scene.edge.directory().join("control.sock");
    let other = text.replace(&admin, &elsewhere).replace(control.to_str().unwrap(), own_socket.to_str().unwrap());
    let ended = run(&other);
    assert_eq!(ended.status, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("another process has the address"), "{}", ended.stderr);
    flow.exchange(LIMIT).unwrap();
    let returned = || scene.edge.metrics().unwrap().sum("landfall_packets_total", &RETURNED);
    wait_until("both answers counted by the first edge", LIMIT, || returned() >= 2.0).unwrap();
    assert_eq!(scene.edge.metrics().unwrap().sum("landfall_flows_opened_total", &[("protocol", "udp")]), 1.0);
}
