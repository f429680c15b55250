//! What live traffic meets starts probes, and is never itself a result: clients cannot mark an endpoint dead.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use landfall_tests::clients::tcp_probe;
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::loopback::{config_head, own_address};
use landfall_tests::wait::{self, Beat, wait_until};

const LIMIT: Duration = Duration::from_secs(10);
/// Open at the endpoint.
const OPEN: u16 = 7000;
/// A port of the listener that nothing listens on at the endpoint.
const CLOSED: u16 = 7001;
const FAST: Duration = Duration::from_millis(100);

struct Scene {
    edge: Edge,
    static_ip: Ipv4Addr,
    endpoint: Endpoint,
}

fn scene() -> Scene {
    let static_ip = own_address();
    let endpoint = Endpoint::start(None, Spec::echo("one", (own_address(), OPEN))).unwrap();
    let text = format!(
        "{}\n[[listeners]]\nname = \"l\"\nprotocol = \"tcp_udp\"\nports = [{OPEN}, {CLOSED}]\nendpoint_groups = [\"g\"]\n\
         [[endpoint_groups]]\nname = \"g\"\n\
         health_check = {{ protocol = \"tcp\", port = {OPEN}, interval = \"10m\", fast_interval = \"{}ms\", timeout = \"2s\" }}\n\
         endpoints = [{{ name = \"one\", address = \"{}\" }}]\n",
        config_head(&[static_ip], ""),
        FAST.as_millis(),
        endpoint.address().ip(),
    );
    Scene { edge: Edge::start(None, &text).unwrap(), static_ip, endpoint }
}

impl Scene {
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.edge.metrics().unwrap().sum(name, labels)
    }

    fn target(&self, port: u16) -> SocketAddr {
        (self.static_ip, port).into()
    }

    /// Nothing but good results, and never another health than the first.
    fn is_unharmed(&self) {
        // One scrape, because probes go on.
        let metrics = self.edge.metrics().unwrap();
        assert_eq!(metrics.sum("landfall_endpoint_transitions_total", &[("health", "unhealthy")]), 0.0);
        let good = metrics.sum("landfall_probe_results_total", &[("result", "good")]);
        assert_eq!(metrics.sum("landfall_probe_results_total", &[]), good);
        assert_eq!(self.edge.health("one").unwrap().as_deref(), Some("healthy"));
        assert_eq!(tcp_probe(self.target(OPEN), LIMIT).unwrap().endpoint, "one");
    }
}

#[test]
fn datagrams_to_a_closed_port_start_probes_and_judge_nothing() {
    let scene = scene();
    let clients: Vec<UdpSocket> = (0..8).map(|_| UdpSocket::bind((own_address(), 0)).unwrap()).collect();
    let begin = wait::now();
    // Every answer of the endpoint's host is an ICMP error; a probe follows, at most one each fast_interval. The next regular one is
    // ten minutes away.
    let mut beat = Beat::every(Duration::from_millis(2));
    while begin.elapsed() < FAST * 10 {
        for client in &clients {
            client.send_to(b"anybody there?", scene.target(CLOSED)).unwrap();
        }
        beat.wait();
    }
    wait_until("probes beyond the first", LIMIT, || scene.sum("landfall_probe_results_total", &[]) >= 3.0).unwrap();
    let elapsed = begin.elapsed();
    let probes = scene.sum("landfall_probe_results_total", &[]);
    let most = elapsed.as_secs_f64() / FAST.as_secs_f64() + 2.0;
    assert!(probes <= most, "{probes} probes in {elapsed:?}, at most {most}");
    scene.is_unharmed();
}

#[test]
fn connections_to_a_closed_port_start_probes_and_judge_nothing() {
    let scene = scene();
    for _ in 0..50 {
        let stream = TcpStream::connect(scene.target(CLOSED)).unwrap();
        wait_until("the reset", LIMIT, || landfall_tests::clients::wait_reset(&stream, LIMIT).is_ok()).unwrap();
    }
    wait_until("a probe", LIMIT, || scene.sum("landfall_probe_results_total", &[]) >= 2.0).unwrap();
    assert_eq!(scene.sum("landfall_connect_failures_total", &[("protocol", "tcp")]), 50.0);
    scene.is_unharmed();
}

#[test]
fn a_real_death_is_seen_by_the_first_failure_not_by_the_next_probe() {
    let mut scene = scene();
    // The next regular probe is ten minutes away.
    scene.endpoint.kill().unwrap();
    let stream = TcpStream::connect(scene.target(OPEN)).unwrap();
    landfall_tests::clients::wait_reset(&stream, LIMIT).unwrap();
    wait_until("the verdict", LIMIT, || scene.edge.health("one").unwrap().as_deref() == Some("unhealthy")).unwrap();
}
