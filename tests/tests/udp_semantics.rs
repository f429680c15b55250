//! UDP flows through the edge: datagrams of every size, answers from the address that was asked, pinning and its end.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use landfall_tests::clients::UdpFlow;
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::loopback::{config_head, own_address};
use landfall_tests::wait::{self, wait_until};

const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 7000;
/// The most that one datagram can carry over IPv4.
const LARGEST: usize = 65_507;

struct Scene {
    edge: Edge,
    targets: [SocketAddr; 2],
    endpoints: [Endpoint; 2],
}

/// Two endpoints behind two static IPs; `shape` makes of each what the test needs.
fn scene(listener_keys: &str, shape: impl Fn(Spec) -> Spec) -> Scene {
    let static_ips = [own_address(), own_address()];
    let endpoints = ["one", "two"].map(|name| Endpoint::start(None, shape(Spec::echo(name, (own_address(), PORT)))).unwrap());
    let [one, two] = [endpoints[0].address().ip(), endpoints[1].address().ip()];
    let config = format!(
        "{}\n[[listeners]]\nname = \"u\"\nprotocol = \"udp\"\nports = [{PORT}]\n{listener_keys}\nendpoint_groups = [\"g\"]\n\
         [[endpoint_groups]]\nname = \"g\"\nhealth_check = {{ protocol = \"tcp\", interval = \"10m\", timeout = \"2s\" }}\n\
         endpoints = [{{ name = \"one\", address = \"{one}\" }}, {{ name = \"two\", address = \"{two}\" }}]\n",
        config_head(&static_ips, ""),
    );
    let targets = static_ips.map(|ip| SocketAddr::from((ip, PORT)));
    Scene { edge: Edge::start(None, &config).unwrap(), targets, endpoints }
}

impl Scene {
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.edge.metrics().unwrap().sum(name, labels)
    }

    fn open(&self, number: usize) -> UdpFlow {
        UdpFlow::open((Ipv4Addr::LOCALHOST, 0).into(), self.targets[number % 2]).unwrap()
    }

    /// Opens flows until `endpoint` has `count` of them, and returns those.
    fn on(&self, endpoint: &str, count: usize) -> Vec<UdpFlow> {
        let mut flows = Vec::new();
        for number in 0..64 * count {
            let mut flow = self.open(number);
            if flow.exchange(LIMIT).unwrap().endpoint == endpoint {
                flows.push(flow);
            }
            if flows.len() == count {
                return flows;
            }
        }
        panic!("no flow goes to {endpoint}");
    }
}

#[test]
fn datagrams_of_every_size_pass_unchanged_in_both_directions() {
    let scene = scene("", Spec::plain);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let sizes = [0, 1, 1472, 1473, 9000, LARGEST - 1, LARGEST];
    for target in scene.targets {
        for size in sizes {
            let sent: Vec<u8> = (0..size).map(|at| (at * 7 + size).to_le_bytes()[0]).collect();
            assert_eq!(socket.send_to(&sent, target).unwrap(), size);
            let mut received = vec![0; LARGEST + 1];
            let (length, from) = socket.recv_from(&mut received).unwrap();
            assert_eq!((length, from), (size, target));
            assert!(received[..length] == sent, "{size} bytes came back changed");
        }
    }
    let bytes: usize = 2 * sizes.iter().sum::<usize>();
    for direction in ["to_endpoint", "to_client"] {
        let labels = [("direction", direction)];
        // What has arrived is counted a moment later.
        wait_until("all counted", LIMIT, || scene.sum("landfall_packets_total", &labels) >= 14.0).unwrap();
        let (packets, counted) = (scene.sum("landfall_packets_total", &labels), scene.sum("landfall_bytes_total", &labels));
        assert_eq!(packets, 14.0, "{direction}: the empty ones count");
        assert_eq!(counted, f64::from(u32::try_from(bytes).unwrap()), "{direction}");
    }
    assert_eq!(scene.sum("landfall_drops_total", &[]), 0.0);
}

#[test]
fn a_flow_stays_with_its_endpoint_and_is_answered_from_where_it_asked() {
    let scene = scene("", |spec| spec);
    let mut seen = std::collections::BTreeSet::new();
    // All kept open: the kernel could give the port of a closed one to the next, which would be the same flow.
    let mut flows: Vec<_> = (0..32).map(|number| scene.open(number)).collect();
    for flow in &mut flows {
        let first = flow.exchange(LIMIT).unwrap().endpoint;
        for _ in 0..20 {
            // Receiving fails on an answer from elsewhere than the address and port that were asked.
            assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, first);
        }
        seen.insert(first);
    }
    assert_eq!(seen.len(), 2, "both endpoints are used: {seen:?}");
    assert_eq!(scene.sum("landfall_flows_opened_total", &[]), 32.0);
    assert_eq!(scene.sum("landfall_flows_active", &[]), 32.0);
}

#[test]
fn an_idle_flow_ends_and_the_next_datagram_begins_a_new_one() {
    let scene = scene("idle_timeout = \"1s\"", |spec| spec);
    let mut flow = scene.open(0);
    let endpoint = flow.exchange(LIMIT).unwrap().endpoint;
    // Traffic keeps it alive beyond its first second: one datagram in every 300 ms, for longer than a second.
    let mut last = wait::now();
    for _ in 0..5 {
        assert_eq!(flow.receive(Duration::from_millis(300)).unwrap(), None);
        last = wait::now();
        flow.exchange(LIMIT).unwrap();
    }
    assert_eq!(scene.sum("landfall_flows_opened_total", &[]), 1.0);

    wait_until("the end of the flow", LIMIT, || scene.sum("landfall_flows_active", &[]) == 0.0).unwrap();
    assert!(last.elapsed() >= Duration::from_secs(1), "it ended after {:?}", last.elapsed());
    assert_eq!(scene.sum("landfall_flows_closed_total", &[("reason", "idle_timeout")]), 1.0);
    assert_eq!(scene.sum("landfall_endpoint_flows_active", &[]), 0.0);
    assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, endpoint, "the same flow, the same choice");
    assert_eq!(scene.sum("landfall_flows_opened_total", &[]), 2.0);
}

#[test]
fn a_flow_whose_endpoint_never_answers_delays_no_other() {
    const FLOWS: usize = 16;
    const ROUNDS: usize = 100;
    let scene = scene("", |spec| spec);
    let (mut mute, mut lively) = (scene.on("one", FLOWS), scene.on("two", FLOWS));
    // Its kernel goes on to accept datagrams, and its probes, until its buffers are full.
    scene.endpoints[0].freeze().unwrap();
    let mut slowest = Duration::ZERO;
    for _ in 0..ROUNDS {
        for (mute, lively) in mute.iter_mut().zip(&mut lively) {
            mute.send().unwrap();
            let begin = wait::now();
            assert_eq!(lively.exchange(LIMIT).unwrap().endpoint, "two");
            slowest = slowest.max(begin.elapsed());
        }
    }
    println!("the slowest of {} answers beside mute flows took {slowest:?}", ROUNDS * FLOWS);
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    for flow in &mut mute {
        assert_eq!(flow.receive(Duration::ZERO).unwrap(), None);
    }
    // What the frozen endpoint's kernel held for it is answered when it thaws: the flows were kept.
    scene.endpoints[0].thaw().unwrap();
    for flow in &mut mute {
        assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, "one");
    }
    assert_eq!(scene.sum("landfall_flows_moved_total", &[]), 0.0);
}
