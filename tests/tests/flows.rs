//! Thousands of flows at once through one edge under a customary limit of descriptors, and nothing left of them afterwards.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use landfall_tests::clients::{TcpSession, UdpFlow};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::loopback::{config_head, own_address};
use landfall_tests::wait::{wait_for, wait_until};

const LIMIT: Duration = Duration::from_secs(10);
/// Of the edge, of each endpoint and of the test itself.
const DESCRIPTORS: u64 = 20_000;
const UDP_FLOWS: u32 = 8000;
const TCP_FLOWS: u32 = 4000;
/// Datagrams under way at once: what fits into the smallest receive buffer on the way.
const WINDOW: usize = 64;
const ENDPOINTS: usize = 4;
/// Longer than all flows take to open, so that all are open at once.
const UDP_IDLE: Duration = Duration::from_secs(6);
const PORT: u16 = 7000;

fn limit_descriptors() {
    // The hard limit too: the harness raises the soft one for its children as far as it may.
    rlimit::Resource::NOFILE.set(DESCRIPTORS, DESCRIPTORS).unwrap_or_else(|error| {
        panic!("cannot set the limit of descriptors to {DESCRIPTORS}: {error}; raise the hard limit: ulimit -Hn {DESCRIPTORS}")
    });
}

/// One edge with echo endpoints. Probes are rare, so that none holds a descriptor while descriptors are counted.
fn scene(max_flows: u32, udp_idle: Duration) -> (Edge, Vec<Endpoint>, SocketAddr) {
    let static_ip = own_address();
    let names = (0..ENDPOINTS).map(|number| (format!("e-{number}"), own_address()));
    let endpoints: Vec<_> =
        names.map(|(name, ip)| Endpoint::start(None, Spec::echo(&name, SocketAddr::from((ip, PORT)))).unwrap()).collect();
    let listed = |endpoint: &Endpoint| format!("{{ name = \"{}\", address = \"{}\" }}", endpoint.name(), endpoint.address().ip());
    let config = format!(
        r#"{head}
[[listeners]]
name = "echo"
protocol = "tcp_udp"
ports = [{PORT}]
idle_timeout = {{ udp = "{udp_idle}ms" }}
limits = {{ max_flows = {max_flows} }}
endpoint_groups = ["all"]
[[endpoint_groups]]
name = "all"
health_check = {{ protocol = "tcp", interval = "10m", timeout = "2s" }}
endpoints = [{endpoints}]
"#,
        head = config_head(&[static_ip], ""),
        udp_idle = udp_idle.as_millis(),
        endpoints = endpoints.iter().map(listed).collect::<Vec<_>>().join(", "),
    );
    (Edge::start(None, &config).unwrap(), endpoints, (static_ip, PORT).into())
}

fn sum(edge: &Edge, name: &str, labels: &[(&str, &str)]) -> f64 {
    edge.metrics().unwrap().sum(name, labels)
}

/// How many descriptors an edge holds when nobody asks it anything: the same at ten looks in a row.
fn settled_descriptors(edge: &Edge) -> usize {
    let (mut last, mut looks) = (0, 0);
    let settled = wait_for("a settled number of descriptors", LIMIT, || {
        let count = edge.descriptors().unwrap();
        looks = if count == last { looks + 1 } else { 1 };
        last = count;
        (looks == 10).then_some(count)
    });
    settled.unwrap()
}

/// Sends one datagram on every flow and sees it answered.
fn exchange_on_all(flows: &mut [UdpFlow]) {
    for window in flows.chunks_mut(WINDOW) {
        let sent: Vec<_> = window.iter_mut().map(|flow| flow.send().unwrap()).collect();
        for (flow, number) in window.iter().zip(sent) {
            let echo = flow.receive(LIMIT).unwrap().unwrap_or_else(|| panic!("datagram {number} was not answered"));
            assert_eq!(echo.number, number);
        }
    }
}

fn open_udp(client: Ipv4Addr, target: SocketAddr) -> Vec<UdpFlow> {
    let mut flows: Vec<_> = (0..UDP_FLOWS).map(|_| UdpFlow::open((client, 0).into(), target).unwrap()).collect();
    exchange_on_all(&mut flows);
    flows
}

fn open_tcp(client: Ipv4Addr, target: SocketAddr) -> Vec<TcpSession> {
    let open = |_| {
        let mut session = TcpSession::open(Some((client, 0).into()), target, LIMIT).unwrap();
        session.exchange(b"once, then idle").unwrap();
        session
    };
    (0..TCP_FLOWS).map(open).collect()
}

#[test]
fn thousands_of_flows_pass_at_once_and_leave_nothing_behind() {
    limit_descriptors();
    let (edge, endpoints, target) = scene(UDP_FLOWS + TCP_FLOWS, UDP_IDLE);
    let before = settled_descriptors(&edge);
    let (udp_client, tcp_client) = (own_address(), own_address());

    let (mut udp, mut tcp) = std::thread::scope(|scope| {
        let udp = scope.spawn(|| open_udp(udp_client, target));
        let tcp = scope.spawn(|| open_tcp(tcp_client, target));
        (udp.join().unwrap(), tcp.join().unwrap())
    });
    // All are open now, and none had to be opened twice.
    exchange_on_all(&mut udp);
    for (protocol, flows) in [("udp", f64::from(UDP_FLOWS)), ("tcp", f64::from(TCP_FLOWS))] {
        for name in ["landfall_flows_active", "landfall_flows_opened_total"] {
            assert_eq!(sum(&edge, name, &[("protocol", protocol)]), flows, "{name} {protocol}");
        }
    }
    assert_eq!(sum(&edge, "landfall_endpoint_flows_active", &[]), f64::from(UDP_FLOWS + TCP_FLOWS));
    let during = settled_descriptors(&edge);
    println!("descriptors of the edge: {before} before, {during} with {UDP_FLOWS} UDP and {TCP_FLOWS} TCP flows");
    assert_eq!(during, before + usize::try_from(UDP_FLOWS + 2 * TCP_FLOWS).unwrap(), "one for UDP, two for TCP");
    assert!(during < usize::try_from(DESCRIPTORS).unwrap());
    for session in &mut tcp {
        session.exchange(b"still there").unwrap();
    }

    drop((udp, tcp));
    let active = || sum(&edge, "landfall_flows_active", &[]);
    wait_until("the end of all flows", UDP_IDLE + LIMIT, || active() == 0.0).unwrap();
    assert_eq!(sum(&edge, "landfall_endpoint_flows_active", &[]), 0.0);
    let closed = |protocol, reason| sum(&edge, "landfall_flows_closed_total", &[("protocol", protocol), ("reason", reason)]);
    assert_eq!(closed("udp", "idle_timeout"), f64::from(UDP_FLOWS));
    assert_eq!(closed("tcp", "finished"), f64::from(TCP_FLOWS));
    assert_eq!(sum(&edge, "landfall_drops_total", &[]), 0.0);
    wait_until("the return of all descriptors", LIMIT, || edge.descriptors().unwrap() == before).unwrap();
    drop(endpoints);
}

#[test]
fn a_flow_beyond_the_cap_is_refused_and_counted() {
    limit_descriptors();
    let (edge, endpoints, target) = scene(100, LIMIT);
    let client = own_address();
    let open = || UdpFlow::open((client, 0).into(), target).unwrap();
    let mut udp: Vec<_> = (0..60).map(|_| open()).collect();
    exchange_on_all(&mut udp);
    let mut tcp: Vec<_> = (0..40).map(|_| TcpSession::open(None, target, LIMIT).unwrap()).collect();

    // The datagram that is refused lies before those that are answered, so it has been looked at when they are.
    let mut refused = open();
    refused.send().unwrap();
    let drops = |protocol| sum(&edge, "landfall_drops_total", &[("protocol", protocol), ("reason", "flow_limit")]);
    wait_until("the refusal", LIMIT, || drops("udp") == 1.0).unwrap();
    exchange_on_all(&mut udp);
    assert_eq!(refused.receive(Duration::ZERO).unwrap(), None);
    let failure = TcpSession::open(None, target, LIMIT).unwrap_err().to_string();
    assert!(failure.contains("reset"), "{failure}");
    assert_eq!((drops("udp"), drops("tcp")), (1.0, 1.0));
    assert_eq!(sum(&edge, "landfall_drops_total", &[]), 2.0, "no other drop");
    assert_eq!(sum(&edge, "landfall_flows_active", &[]), 100.0);
    assert_eq!(sum(&edge, "landfall_flows_opened_total", &[]), 100.0);

    // Room for one again.
    assert_eq!(tcp.pop().unwrap().finish().unwrap(), b"");
    wait_until("room", LIMIT, || sum(&edge, "landfall_flows_active", &[]) == 99.0).unwrap();
    refused.exchange(LIMIT).unwrap();
    assert_eq!(sum(&edge, "landfall_drops_total", &[]), 2.0);
    drop(endpoints);
}
