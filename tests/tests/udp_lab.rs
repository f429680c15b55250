//! UDP with the static IPs on the loopback interface and other addresses on the interfaces that packets take, for both families.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use landfall_tests::clients::UdpFlow;
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::lab::Lab;
use landfall_tests::on_both_paths;
use landfall_tests::path::{Families, Path};

const LIMIT: Duration = Duration::from_secs(10);
/// The most that one datagram can carry over IPv4; over the lab's links it travels in pieces.
const LARGEST: usize = 65_507;

/// Endpoints of both families where the path allows, so that either may lie behind either.
const CONFIG: &str = r#"
name = "udp"
static_ips = {static_ips}
hash_seed = 7
[edge]
name = "lab"
admin = "127.0.0.1:9900"
control = "{dir}/control.sock"
[[listeners]]
name = "named"
protocol = "udp"
ports = [7000, "7100-7109"]
endpoint_groups = ["both"]
[[listeners]]
name = "plain"
protocol = "udp"
ports = [8000]
endpoint_groups = ["both"]
[[endpoint_groups]]
name = "both"
port_overrides = [
  { listener_port = 7100, endpoint_port = 7000 }, { listener_port = 7105, endpoint_port = 7000 },
  { listener_port = 7109, endpoint_port = 7000 },
]
health_check = { protocol = "udp", port = 7000, send = "ping", expect = "pong" }
endpoints = [{ name = "a", address = "{a}" }, { name = "b", address = "{b}" }]
"#;

on_both_paths!(
    every_answer_comes_from_the_address_and_port_that_was_asked,
    the_largest_datagrams_pass_unchanged_over_links_that_cut_them,
);

struct Scene {
    lab: Lab,
    edge: Edge,
    static_ips: Vec<IpAddr>,
    _endpoints: Vec<Endpoint>,
}

fn scene(path: Path, families: Families) -> Scene {
    let lab = Lab::first_light().unwrap();
    let (a, b) = (families.endpoint(&lab.region_a, 0, false), families.endpoint(&lab.region_b, 0, true));
    let mut endpoints = Vec::new();
    for (name, region, ip) in [("a", &lab.region_a, a), ("b", &lab.region_b, b)] {
        let namespace = Some(&region.namespace);
        endpoints.push(Endpoint::start(namespace, Spec::echo(name, (ip, 7000))).unwrap());
        endpoints.push(Endpoint::start(namespace, Spec::echo(name, (ip, 8000)).plain()).unwrap());
    }
    let static_ips = families.static_ips();
    let listed: Vec<_> = static_ips.iter().map(ToString::to_string).collect();
    let config = CONFIG.replace("{static_ips}", &format!("{listed:?}"));
    let config = config.replace("{a}", &a.to_string()).replace("{b}", &b.to_string());
    Scene { edge: path.start(&lab.edge, &config).unwrap(), lab, static_ips, _endpoints: endpoints }
}

fn wildcard(ip: IpAddr) -> SocketAddr {
    if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap()
}

fn every_answer_comes_from_the_address_and_port_that_was_asked(path: Path) {
    for &families in path.families() {
        let scene = scene(path, families);
        let mut seen = std::collections::BTreeSet::new();
        // Kept, so that no flow takes the port of an earlier one.
        let mut flows = Vec::new();
        for &ip in &scene.static_ips {
            for port in [7000, 7100, 7105, 7109] {
                for _ in 0..8 {
                    let mut flow = scene.lab.client.enter(|| UdpFlow::open(wildcard(ip), (ip, port))).unwrap();
                    // Receiving fails on an answer from elsewhere.
                    let first = flow.exchange(LIMIT).unwrap().endpoint;
                    assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, first);
                    seen.insert((ip, first));
                    flows.push(flow);
                }
            }
        }
        assert_eq!(seen.len(), 2 * scene.static_ips.len(), "each static IP leads to both endpoints: {seen:?}");
        path.assert_carried(&scene.edge, flows.len());
        assert_eq!(scene.edge.metrics().unwrap().sum("landfall_drops_total", &[]), 0.0);
    }
}

fn the_largest_datagrams_pass_unchanged_over_links_that_cut_them(path: Path) {
    for &families in path.families() {
        let scene = scene(path, families);
        for &ip in &scene.static_ips {
            let socket = scene.lab.client.enter(|| UdpSocket::bind(wildcard(ip))).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            let target = SocketAddr::from((ip, 8000));
            for size in [LARGEST, 0, 1473, LARGEST] {
                let sent: Vec<u8> = (0..size).map(|at| (at * 13 + size).to_le_bytes()[0]).collect();
                assert_eq!(socket.send_to(&sent, target).unwrap(), size);
                let mut received = vec![0; LARGEST + 1];
                let (length, from) = socket.recv_from(&mut received).unwrap();
                assert_eq!((length, from.ip(), from.port()), (size, ip, 8000));
                assert!(received[..length] == sent, "{size} bytes came back changed");
            }
        }
        path.assert_carried(&scene.edge, scene.static_ips.len());
        assert_eq!(scene.edge.metrics().unwrap().sum("landfall_drops_total", &[]), 0.0);
    }
}
