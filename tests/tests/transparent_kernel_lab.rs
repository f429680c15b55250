//! Endpoints that see the clients' own addresses (`client_ip = "transparent"`), with UDP forwarded in the kernel and TCP in user space.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::cell::OnceCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use landfall_tests::command::failover_bound;
use landfall_tests::datagrams::{LIMIT, bind, datagram};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::lab::{Lab, Region, STATIC_IPV4, STATIC_IPV6};
use landfall_tests::load::{Pinned, StopAtEnd};
use landfall_tests::stalls::DelayWatch;
use landfall_tests::wait::{self, wait_until};

const PORT: u16 = 7000;
const PROBE_PORT: u16 = 6999;
/// Between two datagrams of a flow under load.
const SPACING: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Family {
    fn static_ips(self) -> [IpAddr; 2] {
        match self {
            Self::V4 => STATIC_IPV4.map(IpAddr::V4),
            Self::V6 => STATIC_IPV6.map(IpAddr::V6),
        }
    }

    fn client(self) -> SocketAddr {
        match self {
            Self::V4 => "198.18.1.2:0".parse().unwrap(),
            Self::V6 => "[fd00:18:1::2]:0".parse().unwrap(),
        }
    }

    fn nat(self) -> IpAddr {
        match self {
            Self::V4 => "198.18.2.1".parse().unwrap(),
            Self::V6 => "fd00:18:2::1".parse().unwrap(),
        }
    }

    fn endpoint(self, region: &Region) -> SocketAddr {
        match self {
            Self::V4 => (region.ipv4(0), PORT).into(),
            Self::V6 => (region.ipv6(0), PORT).into(),
        }
    }
}

/// The lab with an edge that forwards.
fn router() -> Lab {
    let lab = Lab::first_light().unwrap();
    for parameter in ["net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding"] {
        lab.edge.set(parameter, "1").unwrap();
    }
    lab
}

/// An edge with `keys` in the listener, and one endpoint in each region, probed by `health_check`.
fn start(lab: &Lab, family: Family, with_nat: bool, keys: &str, health_check: &str) -> Edge {
    let nat = if with_nat { format!("nat_addresses = [\"{}\"]\n", family.nat()) } else { String::new() };
    let endpoints = [("a", &lab.region_a), ("b", &lab.region_b)].map(|(name, region)| (name, family.endpoint(region)));
    let groups = endpoints.map(|(name, address)| {
        format!(
            "[[endpoint_groups]]\nname = \"{name}\"\nendpoints = [{{ name = \"{name}\", address = \"{address}\" }}]\n\
             health_check = {{ {health_check} }}\nfailback = {{ hold = \"0s\", ramp = \"0s\" }}\n"
        )
    });
    let config = format!(
        "name = \"transparent\"\nstatic_ips = {:?}\nhash_seed = 7\n[edge]\nname = \"lab\"\nadmin = \"127.0.0.1:9900\"\n\
         control = \"{{dir}}/control.sock\"\n{nat}[[listeners]]\nname = \"l\"\nprotocol = \"tcp_udp\"\nports = [{PORT}]\n\
         forwarding = \"kernel\"\nclient_ip = \"transparent\"\nendpoint_groups = [\"a\", \"b\"]\n{keys}\n{}",
        family.static_ips().map(|ip| ip.to_string()),
        groups.concat()
    );
    Edge::start(Some(&lab.edge), &config).unwrap()
}

/// An edge between a client and the endpoint in region A, which is the test itself.
struct Scene {
    edge: Edge,
    family: Family,
    targets: [SocketAddr; 2],
    /// What probes ask.
    _probed: [TcpListener; 2],
    lab: Lab,
}

impl Scene {
    fn new(family: Family, with_nat: bool, keys: &str) -> Self {
        let lab = router();
        let probed = [&lab.region_a, &lab.region_b]
            .map(|region| region.namespace.enter(|| TcpListener::bind((family.endpoint(region).ip(), PROBE_PORT))).unwrap());
        let check = format!("protocol = \"tcp\", port = {PROBE_PORT}, interval = \"10m\", timeout = \"2s\"");
        let edge = start(&lab, family, with_nat, keys, &check);
        let targets = family.static_ips().map(|ip| SocketAddr::new(ip, PORT));
        Self { edge, family, targets, _probed: probed, lab }
    }

    fn client(&self) -> UdpSocket {
        self.lab.client.enter(|| bind(self.family.client())).unwrap()
    }

    fn server(&self) -> UdpSocket {
        self.lab.region_a.namespace.enter(|| bind(self.family.endpoint(&self.lab.region_a))).unwrap()
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.edge.metrics().unwrap().sum(name, labels)
    }

    /// Waits until the kernel has said that it opened `flows`, and nobody else any of UDP.
    fn carried(&self, flows: f64) {
        let opened = |path: &str| self.sum("landfall_flows_opened_total", &[("path", path), ("protocol", "udp")]);
        wait_until("the flows counted", LIMIT, || opened("kernel") >= flows).unwrap();
        assert_eq!((opened("kernel"), opened("user")), (flows, 0.0));
    }
}

/// Takes the next datagram, which must be `expected`, and returns whose it is.
fn hears(socket: &UdpSocket, expected: &[u8]) -> SocketAddr {
    let mut buffer = vec![0; 1 << 16];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    assert!(buffer[..length] == *expected, "{length} bytes from {from}, not the {} expected", expected.len());
    from
}

#[test]
fn datagrams_of_every_size_come_from_the_client_and_answers_from_the_static_ip() {
    for family in FAMILIES {
        let scene = Scene::new(family, false, "");
        let (client, server) = (scene.client(), scene.server());
        for (number, size) in [10, 0, 1452, 1473, 9000, 65_507].into_iter().enumerate() {
            let [question, answer] = [number, number + 100].map(|number| datagram(number, size));
            client.send_to(&question, scene.targets[1]).unwrap();
            let from = hears(&server, &question);
            assert_eq!(from, client.local_addr().unwrap());
            server.send_to(&answer, from).unwrap();
            assert_eq!(hears(&client, &answer), scene.targets[1], "{size} bytes");
        }
        scene.carried(1.0);
        assert_eq!(scene.sum("landfall_drops_total", &[]), 0.0, "{}", scene.edge.metrics().unwrap().text());
    }
}

/// deploy/transparent/setup.sh is for TCP; the program in the kernel takes UDP before its rules would.
#[test]
fn tcp_of_the_same_listener_goes_through_user_space_beside_it() {
    for family in FAMILIES {
        let scene = Scene::new(family, true, "");
        scene.lab.edge.run([format!("{}/../deploy/transparent/setup.sh", env!("CARGO_MANIFEST_DIR"))]).unwrap();
        let (client, server) = (scene.client(), scene.server());
        let own = client.local_addr().unwrap();
        let listener = scene.lab.region_a.namespace.enter(|| TcpListener::bind(server.local_addr().unwrap())).unwrap();
        let mut stream = scene.lab.client.enter(|| TcpStream::connect_timeout(&scene.targets[0], LIMIT)).unwrap();
        let (mut accepted, peer) = listener.accept().unwrap();
        assert_eq!(peer, stream.local_addr().unwrap());
        client.send_to(b"by udp", scene.targets[0]).unwrap();
        assert_eq!(hears(&server, b"by udp"), own);
        server.send_to(b"answer", own).unwrap();
        assert_eq!(hears(&client, b"answer"), scene.targets[0]);
        stream.write_all(b"by tcp").unwrap();
        let mut heard = [0; 6];
        accepted.read_exact(&mut heard).unwrap();
        accepted.write_all(&heard).unwrap();
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(heard, *b"by tcp");
        scene.carried(1.0);
        assert_eq!(scene.sum("landfall_client_ip_fallbacks_total", &[]), 0.0);
    }
}

#[test]
fn the_second_flow_of_one_client_port_falls_back_and_both_are_answered() {
    for family in FAMILIES {
        let scene = Scene::new(family, true, "");
        let (client, server) = (scene.client(), scene.server());
        let [first, second] = [(0, b"first "), (1, b"second")].map(|(at, words)| {
            client.send_to(words, scene.targets[at]).unwrap();
            hears(&server, words)
        });
        assert_eq!((first, second.ip()), (client.local_addr().unwrap(), family.nat()));
        for (at, from, words) in [(1, second, b"to the second"), (0, first, b"to the first ")] {
            server.send_to(words, from).unwrap();
            assert_eq!(hears(&client, words), scene.targets[at]);
        }
        scene.carried(2.0);
        assert_eq!(scene.sum("landfall_client_ip_fallbacks_total", &[("protocol", "udp")]), 1.0);
    }
}

#[test]
fn without_nat_addresses_the_second_flow_is_refused_until_the_first_is_over() {
    for family in FAMILIES {
        let scene = Scene::new(family, false, "idle_timeout = { udp = \"1s\" }");
        let (client, server) = (scene.client(), scene.server());
        for (at, words) in [(0, b"first "), (1, b"second")] {
            client.send_to(words, scene.targets[at]).unwrap();
        }
        let own = client.local_addr().unwrap();
        assert_eq!(hears(&server, b"first "), own);
        let refused = || scene.sum("landfall_drops_total", &[("reason", "client_ip_in_use")]);
        wait_until("the datagram refused", LIMIT, || refused() == 1.0).unwrap();
        wait_until("the end of the first", LIMIT, || scene.sum("landfall_flows_active", &[]) == 0.0).unwrap();
        client.send_to(b"again", scene.targets[1]).unwrap();
        assert_eq!(hears(&server, b"again"), own);
        server.send_to(b"answer", own).unwrap();
        assert_eq!(hears(&client, b"answer"), scene.targets[1]);
        scene.carried(2.0);
    }
}

/// The endpoint's refusal is addressed to the client, who hears it from the static IP; and it is how a death is seen before the next probe.
#[test]
fn a_closed_port_is_told_to_the_client_and_noticed() {
    for family in FAMILIES {
        let scene = Scene::new(family, false, "");
        let probes = || scene.sum("landfall_probe_results_total", &[("endpoint", "a")]);
        let before = probes();
        let client = scene.client();
        client.connect(scene.targets[0]).unwrap();
        client.send(b"anybody there?").unwrap();
        assert_eq!(client.recv(&mut [0; 16]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        wait_until("a probe because of it", LIMIT, || probes() > before).unwrap();
    }
}

#[test]
fn every_flow_of_a_dead_endpoint_is_answered_elsewhere_within_the_bound() {
    const FLOWS: usize = 24;
    const CHECK: &str = "protocol = \"udp\", port = 7000, send = \"ping\", expect = \"pong\", interval = \"100ms\", \
                         fast_interval = \"50ms\", timeout = \"50ms\", unhealthy_threshold = 3";
    for family in FAMILIES {
        let lab = router();
        let endpoints = [("a", &lab.region_a), ("b", &lab.region_b)]
            .map(|(name, region)| Endpoint::start(Some(&region.namespace), Spec::echo(name, family.endpoint(region))).unwrap());
        let edge = start(&lab, family, false, "", CHECK);
        let bound = failover_bound(&edge.config_path(), "a").unwrap();
        let (stop, told) = (AtomicBool::new(false), AtomicUsize::new(0));
        let target = SocketAddr::new(family.static_ips()[0], PORT);
        let open = |_| Pinned::open(family.client(), target).unwrap();
        let mut load: Vec<_> = lab.client.enter(|| (0..FLOWS).map(open).collect());
        assert!(load.iter().all(|flow| flow.endpoint == "a"));
        let watch = DelayWatch::start(edge.pid()).unwrap();
        let before = wait::now();
        let silence = OnceCell::new();
        std::thread::scope(|scope| {
            for flow in &mut load {
                let (stop, told) = (&stop, &told);
                scope.spawn(move || flow.talk_until(stop, SPACING, told));
            }
            // What fails below must not leave the load running.
            let _stopped = StopAtEnd(&stop);
            let dead = lab.silence_addresses(&lab.region_a, &[endpoints[0].address().ip()]).unwrap();
            assert!(silence.set(dead).is_ok());
            wait_until("every flow answered elsewhere", LIMIT, || told.load(Ordering::Relaxed) >= FLOWS).unwrap();
        });
        let died = load.iter().map(|flow| flow.last_answer).fold(before, Instant::max);
        let last = load.iter().map(|flow| flow.moved.as_ref().unwrap().1).max().unwrap();
        let (took, delay) = (last.saturating_duration_since(died), watch.so_far().unwrap());
        println!("{family:?}: {took:?} of {bound:?}, {delay}");
        assert!(took <= bound + SPACING + delay.stall, "{took:?}, bound {bound:?}, {delay}");
        let moved = || edge.metrics().unwrap().sum("landfall_flows_moved_total", &[("protocol", "udp")]);
        let flows = f64::from(u32::try_from(FLOWS).unwrap());
        wait_until("the moves counted", LIMIT, || moved() == flows).unwrap();
        assert_eq!(edge.metrics().unwrap().sum("landfall_flows_opened_total", &[("path", "user"), ("protocol", "udp")]), 0.0);
        silence.into_inner().unwrap().lift().unwrap();
    }
}
