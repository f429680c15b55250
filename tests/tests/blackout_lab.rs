//! An edge that loses sight of all its endpoints cuts nothing and moves nothing, because there is nowhere to go.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use landfall_tests::clients::{TcpSession, UdpFlow};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::lab::{DropRule, Lab, STATIC_IPV4};
use landfall_tests::on_both_paths;
use landfall_tests::path::Path;
use landfall_tests::wait::{self, Deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(5);
const OUTAGE: Duration = Duration::from_secs(5);
/// In each of the tests: the first meets settled endpoints, the others such as are held back or ramping.
const ROUNDS: usize = 3;
/// Of each kind of flow, on each endpoint.
const FLOWS: usize = 4;
const PORT: u16 = 7000;

/// Both endpoints in one region, so that one rule there silences both at once.
const CONFIG: &str = r#"
name = "blackout"
static_ips = ["198.18.0.1", "198.18.0.2"]
hash_seed = 7
[edge]
name = "lab"
admin = "127.0.0.1:9900"
control = "{dir}/control.sock"
[[listeners]]
name = "echo"
protocol = "tcp_udp"
ports = [7000]
endpoint_groups = ["both"]
[[endpoint_groups]]
name = "both"
health_check = { protocol = "tcp", interval = "100ms", fast_interval = "50ms", timeout = "50ms", unhealthy_threshold = 3 }
endpoints = [{ name = "one", address = "198.18.2.2" }, { name = "two", address = "{two}" }]
"#;

on_both_paths!(
    silence_at_the_endpoints_cuts_and_moves_nothing,
    silence_at_the_edge_cuts_and_moves_nothing,
    a_filter_that_refuses_to_send_cuts_and_moves_nothing,
);

fn silence_at_the_endpoints_cuts_and_moves_nothing(path: Path) {
    rounds(path, |lab, addresses| lab.region_a.namespace.drop_traffic_to_all(addresses).unwrap());
}

fn silence_at_the_edge_cuts_and_moves_nothing(path: Path) {
    rounds(path, |lab, addresses| lab.edge.drop_traffic_to_all(addresses).unwrap());
}

/// The edge's own packet filter tells each sender, by EPERM, that its packet was dropped.
fn a_filter_that_refuses_to_send_cuts_and_moves_nothing(path: Path) {
    rounds(path, |lab, addresses| lab.edge.refuse_to_send_to_all(addresses).unwrap());
}

fn rounds(path: Path, cut: impl Fn(&Lab, &[IpAddr]) -> DropRule) {
    let seed = std::env::var("LANDFALL_TEST_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("seed: LANDFALL_TEST_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let lab = Lab::first_light().unwrap();
    let addresses = [lab.region_a.ipv4(0).into(), path.second(&lab.region_a, 1)];
    let _endpoints = ["one", "two"].map(|name| {
        let address = addresses[usize::from(name == "two")];
        Endpoint::start(Some(&lab.region_a.namespace), Spec::echo(name, (address, PORT))).unwrap()
    });
    let edge = path.start(&lab.edge, &CONFIG.replace("{two}", &addresses[1].to_string())).unwrap();
    let mut flows = lab.client.enter(Flows::open);

    for round in 0..ROUNDS {
        wait::pass(Duration::from_micros(rng.u64(0..100_000)));
        let outage = Deadline::after(OUTAGE);
        let rule = cut(&lab, &addresses);
        wait_until("both endpoints out of sight", LIMIT, || all_are(&edge, "unhealthy")).unwrap();
        // Half of the UDP flows are not even silent meanwhile.
        while let Some(left) = outage.left() {
            flows.send_on_half();
            wait::pass(left.min(Duration::from_millis(50)));
        }
        rule.lift().unwrap();
        wait_until("both endpoints back", LIMIT, || all_are(&edge, "healthy")).unwrap();
        flows.go_on(round);
    }

    path.assert_carried(&edge, flows.udp.len());
    let metrics = edge.metrics().unwrap();
    assert_eq!(metrics.sum("landfall_flows_moved_total", &[]), 0.0);
    assert_eq!(metrics.sum("landfall_flows_closed_total", &[]), 0.0, "every flow of the test is still open");
    assert_eq!(metrics.sum("landfall_flows_opened_total", &[]), metrics.sum("landfall_flows_active", &[]));
    let rounds = f64::from(u32::try_from(ROUNDS).unwrap());
    assert_eq!(metrics.sum("landfall_failovers_total", &[]), 2.0 * rounds, "both endpoints failed in each round, and only then");
}

fn all_are(edge: &Edge, health: &str) -> bool {
    ["one", "two"].iter().all(|name| edge.health(name).unwrap().as_deref() == Some(health))
}

struct Flows {
    tcp: Vec<TcpSession>,
    udp: Vec<(String, UdpFlow)>,
}

impl Flows {
    /// Opens flows until there are [`FLOWS`] of each kind on each endpoint.
    fn open() -> Self {
        let mut flows = Self { tcp: Vec::new(), udp: Vec::new() };
        for number in 0..64 {
            let target = SocketAddr::from((STATIC_IPV4[number % 2], PORT));
            flows.tcp.push(TcpSession::open(None, target, LIMIT).unwrap());
            let mut flow = UdpFlow::open("0.0.0.0:0".parse().unwrap(), target).unwrap();
            flows.udp.push((flow.exchange(LIMIT).unwrap().endpoint, flow));
            let enough = |name| {
                let tcp = flows.tcp.iter().filter(|session| session.endpoint == name).count();
                tcp >= FLOWS && flows.udp.iter().filter(|(endpoint, _)| endpoint == name).count() >= FLOWS
            };
            if enough("one") && enough("two") {
                return flows;
            }
        }
        panic!("flows go to one endpoint only");
    }

    fn send_on_half(&mut self) {
        for (_, flow) in self.udp.iter_mut().step_by(2) {
            flow.send().unwrap();
        }
    }

    /// Every flow must still be there and still be with its endpoint.
    fn go_on(&mut self, round: usize) {
        for session in &mut self.tcp {
            session.exchange(format!("round {round}").as_bytes()).unwrap();
        }
        for (endpoint, flow) in &mut self.udp {
            assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, *endpoint, "round {round}");
        }
    }
}
