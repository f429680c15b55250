//! Whom a listener does not serve, and how fast a client may begin flows: every refusal counted exactly, under its reason.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use landfall_tests::clients::{TcpSession, UdpFlow};
use landfall_tests::command::landfall;
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::loopback::{config_head, own_address};
use landfall_tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 7000;

struct Scene {
    edge: Edge,
    head: String,
    target: SocketAddr,
    endpoint: Endpoint,
}

fn config(head: &str, endpoint: &Endpoint, keys: &str) -> String {
    format!(
        "{head}\n[[listeners]]\nname = \"l\"\nprotocol = \"tcp_udp\"\nports = [{PORT}]\n{keys}\nendpoint_groups = [\"g\"]\n\
         [[endpoint_groups]]\nname = \"g\"\nhealth_check = {{ protocol = \"tcp\", interval = \"10m\", timeout = \"2s\" }}\n\
         endpoints = [{{ name = \"e\", address = \"{}\" }}]\n",
        endpoint.address().ip()
    )
}

fn scene(keys: &str) -> Scene {
    let static_ip = own_address();
    let endpoint = Endpoint::start(None, Spec::echo("e", (own_address(), PORT))).unwrap();
    let head = config_head(&[static_ip], "");
    let edge = Edge::start(None, &config(&head, &endpoint, keys)).unwrap();
    Scene { edge, head, target: (static_ip, PORT).into(), endpoint }
}

impl Scene {
    fn drops(&self, protocol: &str, reason: &str) -> f64 {
        self.edge.metrics().unwrap().sum("landfall_drops_total", &[("protocol", protocol), ("reason", reason)])
    }

    /// Sends `count` datagrams that nobody answers, and connects as often.
    fn is_refused(&self, client: Ipv4Addr, reason: &str, count: u32) {
        let (udp, tcp) = (self.drops("udp", reason), self.drops("tcp", reason));
        for _ in 0..count {
            let socket = UdpSocket::bind((client, 0)).unwrap();
            socket.send_to(b"let me in", self.target).unwrap();
            assert!(TcpSession::open(Some((client, 0).into()), self.target, LIMIT).is_err());
        }
        let expected = f64::from(count);
        wait_until("every refusal", LIMIT, || {
            self.drops("udp", reason) >= udp + expected && self.drops("tcp", reason) >= tcp + expected
        })
        .unwrap();
        assert_eq!((self.drops("udp", reason) - udp, self.drops("tcp", reason) - tcp), (expected, expected), "{reason}");
    }

    fn is_served(&self, client: Ipv4Addr) -> (TcpSession, UdpFlow) {
        let session = TcpSession::open(Some((client, 0).into()), self.target, LIMIT).unwrap();
        let mut flow = UdpFlow::open((client, 0).into(), self.target).unwrap();
        flow.exchange(LIMIT).unwrap();
        (session, flow)
    }

    fn reload(&self, keys: &str) -> String {
        self.edge.rewrite_config(&config(&self.head, &self.endpoint, keys)).unwrap();
        let control = self.edge.directory().join("control.sock");
        let ended = landfall(["reload", "--control", control.to_str().unwrap()]).unwrap();
        assert_eq!(ended.status, Some(0), "{ended:?}");
        ended.stdout
    }
}

#[test]
fn lists_of_networks_decide_who_is_served_and_reloads_change_them() {
    let [friend, stranger] = [own_address(), own_address()];
    let scene = scene(&format!("deny = [\"{stranger}/32\", \"203.0.113.0/24\"]"));
    let (mut session, mut flow) = scene.is_served(friend);
    scene.is_refused(stranger, "denied", 5);

    // The other way round, and only one is allowed at all.
    let said = scene.reload(&format!("allow = [\"{stranger}\"]"));
    assert!(
        said.contains("~ listener l: allow 0 networks -> 1") && said.contains("~ listener l: deny 2 networks -> 0"),
        "{said}"
    );
    scene.is_served(stranger);
    scene.is_refused(friend, "denied", 3);
    session.exchange(b"admitted before").unwrap();
    flow.exchange(LIMIT).unwrap();
    assert_eq!(scene.drops("udp", "denied") + scene.drops("tcp", "denied"), 16.0);
}

#[test]
fn a_client_that_begins_flows_too_fast_is_refused_and_others_are_not() {
    let scene = scene("limits = { new_flows_per_client_per_second = 4 }");
    let [hasty, calm] = [own_address(), own_address()];
    let socket = |_| UdpSocket::bind((hasty, 0)).unwrap();
    let sockets: Vec<UdpSocket> = (0..40).map(socket).collect();
    let opened = || scene.edge.metrics().unwrap().sum("landfall_flows_opened_total", &[("protocol", "udp")]);
    let begin = landfall_tests::wait::now();
    for socket in &sockets {
        socket.send_to(b"a new flow", scene.target).unwrap();
    }
    wait_until("every datagram seen", LIMIT, || opened() + scene.drops("udp", "client_rate") >= 40.0).unwrap();
    // Four at once, and four more a second for as long as the machine took.
    let most = 4.0 + begin.elapsed().as_secs_f64() * 4.0;
    assert!((4.0..=most).contains(&opened()), "{} of at most {most}", opened());
    assert_eq!(opened() + scene.drops("udp", "client_rate"), 40.0, "nothing is uncounted");
    scene.is_served(calm);
}
