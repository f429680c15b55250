//! UDP through the edge with the test at both ends: every datagram bit by bit and in order, in bursts that an engine would like to
//! receive (GRO) and send (GSO) as one, and in such that it must not.
//!
//! Echoes of single datagrams of every size are in `udp_semantics.rs`, large ones over links that cut them in `udp_lab.rs`.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};

use landfall_tests::clients::{TcpSession, UdpFlow};
use landfall_tests::datagrams::{Flow, LIMIT, adapt, any, bind, datagram, drops, expect};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Protocol, Spec};
use landfall_tests::loopback::{config_head, own_address};
use landfall_tests::sockets::cut_sends_into;
use landfall_tests::wait::wait_until;

const PORT: u16 = 7000;
/// Where probes go; flows go to the test itself.
const PROBE_PORT: u16 = 6999;

struct Scene {
    edge: Edge,
    target: SocketAddr,
    server: Ipv4Addr,
    _probed: Endpoint,
}

fn scene(protocol: &str, ports: &str, keys: &str) -> Scene {
    let (static_ip, server) = (own_address(), own_address());
    let probed = Endpoint::start(None, Spec::echo("probed", (server, PROBE_PORT)).protocol(Protocol::Tcp)).unwrap();
    let config = format!(
        "{}\n[[listeners]]\nname = \"u\"\nprotocol = \"{protocol}\"\nports = [{ports}]\n{keys}\nendpoint_groups = [\"g\"]\n\
         [[endpoint_groups]]\nname = \"g\"\nendpoints = [{{ name = \"e\", address = \"{server}\" }}]\n\
         health_check = {{ protocol = \"tcp\", port = {PROBE_PORT}, interval = \"10m\", timeout = \"2s\" }}\n",
        config_head(&[static_ip], ""),
    );
    Scene { edge: Edge::start(None, &config).unwrap(), target: (static_ip, PORT).into(), server, _probed: probed }
}

impl Scene {
    fn flow(&self) -> Flow {
        let client = bind(any(self.target.ip())).unwrap();
        Flow::begin(client, bind((self.server, PORT).into()).unwrap(), self.target).unwrap()
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.edge.metrics().unwrap().sum(name, labels)
    }

    /// Sends datagrams of `sizes` in one burst each way.
    fn passes(&self, flow: &Flow, name: &str, sizes: &[usize]) {
        let sent: Vec<_> = sizes.iter().enumerate().map(|(number, &size)| datagram(number, size)).collect();
        for (direction, from, to) in flow.directions() {
            let before = drops(&self.edge).unwrap();
            for datagram in &sent {
                from.send(datagram).unwrap();
            }
            let came = expect(&self.edge, before, to, &sent).unwrap_or_else(|failure| panic!("{name}, {direction}: {failure}"));
            println!("{name}, {direction}: {came} of {}", sent.len());
            // As many replies as fit the kernel's default buffer, whatever the engine asks for: 92 of 1,200 bytes.
            assert!(came * 5 >= sent.len() * 2, "{name}, {direction}: {came} of {}", sent.len());
        }
    }
}

impl Scene {
    fn passes_bursts(&self, flow: &Flow) {
        let mut random = fastrand::Rng::with_seed(7);
        let mixed: Vec<_> = (0..200).map(|_| random.usize(1..=1472)).collect();
        self.passes(flow, "200 of 64 bytes", &[64; 200]);
        self.passes(flow, "200 of 1 byte", &[1; 200]);
        self.passes(flow, "200 of mixed sizes", &mixed);
        // What ends a run of equal datagrams for GSO: a shorter one. A longer one, and an empty one, must begin a new run.
        let runs: Vec<_> = (0..200).map(|number| [600, 600, 600, 200, 600, 900, 0, 600][number % 8]).collect();
        self.passes(flow, "200 in short runs", &runs);
        self.passes(flow, "20 empty ones", &[0; 20]);
        self.passes(flow, "large ones between small ones", &[100, 65_507, 100, 100, 65_507, 9000, 0, 40_000, 1]);
        self.passes(flow, "200 of 1,200 bytes", &[1200; 200]);
    }

    /// Bundles, each way, that travel as one and arrive as many. On loopback a bundle stays one until a socket takes it apart or asks for
    /// it whole (`UDP_GRO`).
    fn passes_bundles(&self, flow: &Flow) {
        // The last piece of a bundle may be shorter, which is where a bundle can be taken for the next one's beginning.
        let several = [(1200, 1200 * 16), (1200, 1200 * 4 + 500), (64, 64 * 40), (1472, 1472 * 6), (8, 8 * 40 - 1)];
        for bundles in [&several[..], &[(1200, 1200 * 40)], &[(1200, 1200 * 40 + 1)]] {
            self.passes_behind_each_other(flow, bundles);
        }
    }

    /// Few enough that all fit the kernel's default buffer, so that nothing may be missing.
    fn passes_behind_each_other(&self, flow: &Flow, bundles: &[(u16, usize)]) {
        for (direction, from, to) in flow.directions() {
            let mut sent = Vec::new();
            for &(segment, bytes) in bundles {
                cut_sends_into(from, segment).unwrap();
                let segment = usize::from(segment);
                let bundle = datagram(segment + bytes, bytes);
                from.send(&bundle).unwrap();
                // A single one behind it, no longer than a piece.
                from.send(&bundle[..segment]).unwrap();
                sent.extend(bundle.chunks(segment).map(<[u8]>::to_vec));
                sent.push(bundle[..segment].to_vec());
            }
            cut_sends_into(from, 0).unwrap();
            let came = expect(&self.edge, f64::INFINITY, to, &sent).unwrap_or_else(|failure| panic!("{direction}: {failure}"));
            assert_eq!(came, sent.len(), "{direction}");
        }
    }
}

/// An engine may find out only after a while that bundles pay, so all is done before and after it had reason to.
#[test]
fn bursts_of_one_flow_pass_whole_and_in_order() {
    let scene = scene("udp", "7000", "");
    let flow = scene.flow();
    scene.passes_bursts(&flow);
    // What has arrived is counted a moment later.
    let counted = || scene.sum("landfall_packets_total", &[]) + drops(&scene.edge).unwrap();
    let (first, all) = (1.0 + 2.0 * 1029.0, 1.0 + 2.0 * (2.0 * 1029.0 + 2400.0));
    wait_until("all of it counted", LIMIT, || counted() >= first).unwrap();
    assert_eq!(counted(), first, "each datagram counts as one, in however large bundles they travel");
    adapt(&scene.edge, &flow).unwrap();
    scene.passes_bursts(&flow);
    wait_until("all of it counted", LIMIT, || counted() >= all).unwrap();
    assert_eq!(counted(), all, "the same once the engine has adapted");
}

#[test]
fn bundles_that_a_sender_hands_to_its_kernel_as_one_pass_as_single_datagrams() {
    let scene = scene("udp", "7000", "");
    let flow = scene.flow();
    scene.passes_bundles(&flow);
    adapt(&scene.edge, &flow).unwrap();
    for _ in 0..5 {
        scene.passes_bundles(&flow);
    }
}

#[test]
fn interleaved_bursts_of_a_hundred_flows_stay_apart() {
    const FLOWS: usize = 100;
    const EACH: usize = 16;
    /// Of each flow, so that all of a burst fit the kernel's default buffers.
    const BURST: usize = 4;
    let scene = scene("udp", "7000", "");
    let echoed = AtomicUsize::new(0);
    let server = bind((scene.server, PORT).into()).unwrap();
    let clients: Vec<UdpSocket> = (0..FLOWS).map(|_| bind(any(scene.target.ip())).unwrap()).collect();
    let sent = |flow: usize| -> Vec<_> { (0..EACH).map(|number| datagram(flow * EACH + number, 200 + flow)).collect() };
    std::thread::scope(|scope| {
        // Echoes in the order of arrival, and ends when all have come.
        let echo = scope.spawn(|| {
            let (mut buffer, mut sources) = (vec![0; 2000], BTreeMap::<SocketAddr, usize>::new());
            for _ in 0..FLOWS * EACH {
                let Ok((length, from)) = server.recv_from(&mut buffer) else { break };
                *sources.entry(from).or_default() += 1;
                server.send_to(&buffer[..length], from).unwrap();
                echoed.fetch_add(1, Ordering::Relaxed);
            }
            sources
        });
        for number in 0..EACH {
            for (flow, client) in clients.iter().enumerate() {
                client.send_to(&sent(flow)[number], scene.target).unwrap();
            }
            if (number + 1) % BURST == 0 {
                let all = (number + 1) * FLOWS;
                wait_until("the echo of a burst", LIMIT, || echoed.load(Ordering::Relaxed) == all).unwrap();
            }
        }
        for (flow, client) in clients.iter().enumerate() {
            let came = expect(&scene.edge, 0.0, client, &sent(flow)).unwrap_or_else(|failure| panic!("flow {flow}: {failure}"));
            assert_eq!(came, EACH, "flow {flow}");
        }
        let sources = echo.join().unwrap();
        assert_eq!((sources.len(), sources.values().max()), (FLOWS, Some(&EACH)), "a socket of its own for each flow");
    });
    assert_eq!(drops(&scene.edge).unwrap(), 0.0);
}

/// Guards complaint 1: senders that are fast enough never recover when each of their datagrams pays for the error of the one before.
#[test]
fn a_refused_datagram_costs_no_later_one_and_asks_for_a_probe() {
    let scene = scene("udp", "7000", "");
    let mut clients: Vec<_> = (0..8).map(|_| UdpFlow::open((Ipv4Addr::LOCALHOST, 0).into(), scene.target).unwrap()).collect();
    let probes = || scene.sum("landfall_probe_results_total", &[]);
    let before = probes();
    for client in &mut clients {
        client.send().unwrap();
    }
    // Nothing listens there, and its kernel says so. The next regular probe is ten minutes away.
    wait_until("a probe for the refusal's sake", LIMIT, || probes() > before).unwrap();
    for client in &mut clients {
        client.send().unwrap();
    }
    let packets = || scene.sum("landfall_packets_total", &[("direction", "to_endpoint")]) + drops(&scene.edge).unwrap();
    wait_until("the second datagrams on their way", LIMIT, || packets() >= 16.0).unwrap();
    // The service is back. Some of the flows may still have an error to fetch, and none may lose a datagram by it.
    let server = bind((scene.server, PORT).into()).unwrap();
    for client in &mut clients {
        for _ in 0..5 {
            client.send().unwrap();
        }
    }
    let mut buffer = [0; 100];
    let mut numbers = BTreeMap::<SocketAddr, Vec<u8>>::new();
    for _ in 0..40 {
        let (_, from) = server.recv_from(&mut buffer).expect("every datagram since the service is back");
        numbers.entry(from).or_default().push(buffer[7]);
    }
    assert_eq!(numbers.len(), 8, "the flows are the old ones");
    assert!(numbers.values().all(|numbers| *numbers == [2, 3, 4, 5, 6]), "{numbers:?}");
    assert_eq!(scene.sum("landfall_flows_opened_total", &[]), 8.0);
}

#[test]
fn a_source_port_that_comes_back_after_expiry_is_a_new_flow() {
    let scene = scene("udp", "7000", "idle_timeout = \"1s\"");
    let Flow { client, server } = scene.flow();
    let old = server.peer_addr().unwrap();
    wait_until("the end of the flow", LIMIT, || scene.sum("landfall_flows_active", &[]) == 0.0).unwrap();

    drop(server);
    let source = client.local_addr().unwrap();
    drop(client);
    let flow = Flow::begin(bind(source).unwrap(), bind((scene.server, PORT).into()).unwrap(), scene.target).unwrap();
    let new = flow.server.peer_addr().unwrap();
    assert_eq!(scene.sum("landfall_flows_opened_total", &[]), 2.0);
    // What the endpoint still sends to the old flow is not for the new one. The kernel may have given it the same port by chance.
    if new != old {
        flow.server.connect(old).unwrap();
        flow.server.send(b"too late").unwrap();
        flow.server.connect(new).unwrap();
        // Its kernel says that nobody is there; that is no error of the new flow.
        flow.server.take_error().unwrap();
    }
    flow.server.send(b"in time").unwrap();
    let mut buffer = [0; 16];
    let length = flow.client.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"in time");
}

/// Guards complaint 23.
#[test]
fn ten_ranges_of_ports_lead_each_to_its_own_port() {
    let ranges: Vec<_> = (0..10u16).map(|number| (7000 + 100 * number, 7000 + 100 * number + 2 * number)).collect();
    let written: Vec<_> = ranges.iter().map(|(first, last)| format!("\"{first}-{last}\"")).collect();
    let scene = scene("tcp_udp", &written.join(", "), "");
    for port in ranges.iter().flat_map(|&(first, last)| [first, last]) {
        let target = SocketAddr::from((scene.target.ip(), port));
        let (listener, server) = (TcpListener::bind((scene.server, port)).unwrap(), bind((scene.server, port).into()).unwrap());
        let flow = Flow::begin(bind(any(target.ip())).unwrap(), server, target).unwrap();
        flow.server.send(b"back").unwrap();
        let mut buffer = [0; 8];
        // The client's socket is connected, so it takes an answer from the address and port that it asked and from no other.
        assert_eq!(flow.client.recv(&mut buffer).unwrap(), 4, "UDP port {port}");
        std::thread::scope(|scope| {
            scope.spawn(|| std::io::Write::write_all(&mut listener.accept().unwrap().0, b"here\n").unwrap());
            assert_eq!(TcpSession::open(None, target, LIMIT).unwrap().endpoint, "here", "TCP port {port}");
        });
    }
    // One more port than the ranges have is nobody's.
    let failure = TcpSession::open(None, (scene.target.ip(), 7001), LIMIT).unwrap_err().to_string();
    assert!(failure.contains("refused"), "{failure}");
}
