//! Nothing is lost silently: the test makes the kernel drop at every place where it can, and the counters say exactly how much.
//!
//! Guards complaint 21. In every case what arrived and what was counted must add up to what was sent. `flow_limit` is in `flows.rs`,
//! the refusals by policy in `admission.rs`.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use landfall_tests::clients::{TcpSession, UdpFlow};
use landfall_tests::datagrams::{Flow, LIMIT, any, bind, drain};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Protocol, Spec};
use landfall_tests::lab::{Lab, STATIC_IPV4};
use landfall_tests::metrics::{Metrics, Sample};
use landfall_tests::path::Path;
use landfall_tests::wait::{self, wait_until};
use socket2::{Domain, SockAddr, Socket, Type};

const PORT: u16 = 7000;
/// Of the datagrams that fill buffers. What a buffer holds is counted with the kernel's own overhead.
const BYTES: usize = 1000;

struct Scene {
    lab: Lab,
    edge: Edge,
    target: SocketAddr,
    /// The endpoint of TCP connections and probes. Datagrams go to the test itself.
    _endpoint: Endpoint,
}

fn scene(keys: &str, prepare: impl Fn(&Lab)) -> Scene {
    scene_on(Path::User, keys, prepare)
}

fn scene_on(path: Path, keys: &str, prepare: impl Fn(&Lab)) -> Scene {
    let lab = Lab::first_light().unwrap();
    prepare(&lab);
    let (region, ip) = (&lab.region_a.namespace, lab.region_a.ipv4(0));
    let endpoint = Endpoint::start(Some(region), Spec::echo("e", (ip, PORT)).protocol(Protocol::Tcp)).unwrap();
    let config = format!(
        "name = \"drops\"\nstatic_ips = [\"{}\"]\nhash_seed = 7\n[edge]\nname = \"lab\"\nadmin = \"127.0.0.1:9900\"\n\
         control = \"{{dir}}/control.sock\"\n[[listeners]]\nname = \"l\"\nprotocol = \"tcp_udp\"\nports = [{PORT}]\n{keys}\n\
         endpoint_groups = [\"g\"]\n[[endpoint_groups]]\nname = \"g\"\nendpoints = [{{ name = \"e\", address = \"{ip}\" }}]\n\
         health_check = {{ protocol = \"tcp\", interval = \"10m\", timeout = \"2s\" }}\n",
        STATIC_IPV4[0]
    );
    let edge = path.start(&lab.edge, &config).unwrap();
    Scene { lab, edge, target: (STATIC_IPV4[0], PORT).into(), _endpoint: endpoint }
}

impl Scene {
    fn server(&self) -> UdpSocket {
        self.lab.region_a.namespace.enter(|| bind((self.lab.region_a.ipv4(0), PORT).into())).unwrap()
    }

    fn client(&self) -> UdpSocket {
        self.lab.client.enter(|| bind(any(self.target.ip()))).unwrap()
    }

    fn flow(&self) -> Flow {
        Flow::begin(self.client(), self.server(), self.target).unwrap()
    }

    fn metrics(&self) -> Metrics {
        self.edge.metrics().unwrap()
    }

    /// How many datagrams, or connections, were counted under `reason`.
    fn drops(&self, protocol: &str, reason: &str) -> usize {
        whole(self.metrics().sum("landfall_drops_total", &[("protocol", protocol), ("reason", reason)]))
    }

    /// Everything that was counted as a drop, or as the end of a flow.
    fn told(&self) -> Vec<Sample> {
        let metrics = self.metrics();
        let names = ["landfall_drops_total", "landfall_flows_closed_total"];
        let all = names.iter().flat_map(|name| metrics.matching(name, &[]));
        all.filter(|sample| sample.value > 0.0).cloned().collect()
    }

    /// How many datagrams were counted under any reason.
    fn all_drops(&self) -> usize {
        whole(self.metrics().sum("landfall_drops_total", &[("protocol", "udp")]))
    }

    /// Takes what comes at `socket` until all of `sent` is accounted for, and nothing but `reason` explains what did not come.
    fn adds_up(&self, socket: &UdpSocket, sent: usize, reason: &str) {
        let came = drain(socket, |came| Ok(came + self.all_drops() >= sent));
        let (counted, all) = (self.drops("udp", reason), self.all_drops());
        let came =
            came.unwrap_or_else(|failure| panic!("{reason}: {counted} of {sent} are counted, {all} under any reason; {failure}"));
        println!("{reason}: {came} came and {counted} were counted");
        assert_eq!((came + counted, all), (sent, counted), "{reason}: {came} of {sent} came");
        assert!(counted > 0, "{reason}: nothing was lost, so nothing is shown");
    }
}

/// A counter as what it is. The sum of no counters at all is a zero with a minus sign.
fn whole(value: f64) -> usize {
    format!("{:.0}", value.abs()).parse().unwrap()
}

fn flood(socket: &UdpSocket, datagrams: usize) {
    for _ in 0..datagrams {
        socket.send(&[7; BYTES]).unwrap();
    }
}

#[test]
fn what_overflows_the_static_ips_buffer_is_counted() {
    let scene = scene("", |_| {});
    let flow = scene.flow();
    scene.edge.freeze().unwrap();
    flood(&flow.client, 12_000);
    scene.edge.thaw().unwrap();
    scene.adds_up(&flow.server, 12_000, "socket_overflow");
}

/// The kernel tells of an overflow with the next datagram (`SO_RXQ_OVFL`), if there is one, or when it is asked. A flow that ends must
/// have asked.
#[test]
fn what_overflows_a_flows_own_buffer_is_counted_while_it_lives_and_when_it_has_ended() {
    let scene = scene("idle_timeout = { udp = \"1s\" }", |_| {});
    let reason = "endpoint_socket_overflow";
    let flow = scene.flow();
    scene.edge.freeze().unwrap();
    flood(&flow.server, 12_000);
    scene.edge.thaw().unwrap();
    scene.adds_up(&flow.client, 12_000, reason);
    drop(flow);

    let before = scene.drops("udp", reason);
    let flow = scene.flow();
    scene.edge.freeze().unwrap();
    flood(&flow.server, 12_000);
    scene.edge.thaw().unwrap();
    // Nobody scrapes until the flow is gone.
    let mut since = (0, wait::now());
    let came = drain(&flow.client, |came| {
        since = if came == since.0 { since } else { (came, wait::now()) };
        Ok(since.1.elapsed() > Duration::from_secs(2))
    });
    wait_until("the end of both flows", LIMIT, || scene.metrics().sum("landfall_flows_active", &[]) == 0.0).unwrap();
    assert_eq!(came.unwrap() + scene.drops("udp", reason) - before, 12_000);
}

#[test]
fn connections_that_overflow_the_accept_queue_are_counted() {
    let scene = scene("", |lab| lab.edge.set("net/core/somaxconn", "8").unwrap());
    let listen_drops = || scene.lab.edge.enter(|| netstat("ListenDrops"));
    scene.edge.freeze().unwrap();
    let open = |_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
        let error = socket.connect(&SockAddr::from(scene.target)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
        socket
    };
    let sockets: Vec<_> = scene.lab.client.enter(|| (0..60).map(open).collect());
    // A handshake over a veth is done when connect returns. Those without one are not tried again.
    let (waiting, refused): (Vec<_>, Vec<_>) = sockets.into_iter().partition(|socket| socket.peer_addr().is_ok());
    drop(refused);
    assert!(listen_drops() >= 60 - waiting.len() && waiting.len() < 40, "{} wait", waiting.len());
    scene.edge.thaw().unwrap();
    wait_until("the count of the kernel", LIMIT, || scene.drops("tcp", "socket_overflow") == listen_drops()).unwrap();
    let opened = || whole(scene.metrics().sum("landfall_flows_opened_total", &[("protocol", "tcp")]));
    wait_until("those that waited", LIMIT, || opened() == waiting.len()).unwrap();
    assert_eq!(
        scene.metrics().sum("landfall_drops_total", &[]),
        scene.metrics().sum("landfall_drops_total", &[("protocol", "tcp")])
    );
    println!("{} waited, {} packets of others were dropped", waiting.len(), listen_drops());
}

/// A counter of the calling thread's namespace.
fn netstat(name: &str) -> usize {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let pairs = lines.chunks(2).flat_map(|pair| pair[0].iter().zip(&pair[1]));
    pairs.filter(|(key, _)| **key == name).map(|(_, value)| value.parse::<usize>().unwrap()).sum()
}

/// EAGAIN: the link is slow, its queue long, and the send buffer of the flow's socket full of what waits there.
#[test]
fn what_a_full_send_buffer_refuses_is_counted() {
    let scene = scene("", |_| {});
    let flow = scene.flow();
    scene.lab.edge.run("tc qdisc add dev region-a root tbf rate 100mbit burst 70kb limit 100mb".split(' ')).unwrap();
    // Little by little, so that the static IP's own buffer is not what overflows.
    for _ in 0..80 {
        flood(&flow.client, 100);
        wait::pass(Duration::from_millis(1));
    }
    let came = drain(&flow.server, |came| Ok(came + scene.all_drops() >= 8000)).unwrap();
    let (full, all) = (scene.drops("udp", "endpoint_buffer_full"), scene.all_drops());
    println!("{came} came and {full} were refused");
    // On a busy machine the static IP's buffer may overflow all the same.
    assert_eq!((came + all, all), (8000, full + scene.drops("udp", "socket_overflow")), "{came} came");
    assert!(full > 0, "nothing was refused, so nothing is shown");
}

/// ENOBUFS: the link's queue is full. The kernel says so only to a socket with `IP_RECVERR` (`IPV6_RECVERR`); to others the send has
/// succeeded. One datagram for each flow, so that none travels in a bundle, of which a queue may drop a part.
#[test]
fn what_a_full_queue_of_a_link_refuses_is_counted_both_ways() {
    const FLOWS: usize = 600;
    let scene = scene("", |_| {});
    let server = scene.server();
    let mut clients: Vec<_> = (0..FLOWS).map(|_| scene.client()).collect();
    let slow = |device: &str| {
        scene.lab.edge.run(format!("tc qdisc replace dev {device} root tbf rate 2mbit burst 4kb limit 30kb").split(' ')).unwrap();
    };
    let mut sources = Vec::new();
    for client in &mut clients {
        client.connect(scene.target).unwrap();
        client.send(b"begin").unwrap();
        sources.push(server.recv_from(&mut [0; 8]).unwrap().1);
    }
    let kernel = |device: &str| {
        let shown = scene.lab.edge.run(["tc", "-s", "qdisc", "show", "dev", device]).unwrap();
        shown.split("(dropped ").nth(1).unwrap().split(',').next().unwrap().parse::<usize>().unwrap()
    };
    slow("region-a");
    for client in &clients {
        client.send(&[7; 500]).unwrap();
    }
    let refused = || scene.drops("udp", "endpoint_buffer_full");
    let came = drain(&server, |came| Ok(came + refused() >= FLOWS)).unwrap();
    let to_endpoint = (came, kernel("region-a"), refused());

    slow("clients");
    for source in sources {
        server.send_to(&[7; 500], source).unwrap();
    }
    let mut came = 0;
    wait_until("every reply, or its loss", LIMIT, || {
        came += clients.iter().map(|client| drain(client, |_| Ok(true)).unwrap()).sum::<usize>();
        came + scene.drops("udp", "client_buffer_full") >= FLOWS
    })
    .unwrap();
    let to_client = (came, kernel("clients"), scene.drops("udp", "client_buffer_full"));
    println!("came, dropped by the kernel, counted: to the endpoint {to_endpoint:?}, to the client {to_client:?}");
    assert!(to_endpoint.1 > 0 && to_client.1 > 0, "nothing was refused, so nothing is shown");
    assert_eq!((to_endpoint.0 + to_endpoint.2, to_client.0 + to_client.2), (FLOWS, FLOWS), "what came, and what was counted");
    // The queue has dropped these, and a packet or two of the host's own.
    assert!(to_endpoint.1 >= to_endpoint.2 && to_client.1 >= to_client.2);
}

#[test]
fn datagrams_that_no_packet_can_carry_are_counted() {
    // The header that tells who the client is makes the largest datagrams too large.
    let scene = scene("client_ip = \"proxy_v2_every\"", |_| {});
    let (client, server) = (scene.client(), scene.server());
    client.connect(scene.target).unwrap();
    for size in [65_507, 65_480, 65_479, 65_507, 10] {
        client.send(&vec![7; size]).unwrap();
    }
    let mut buffer = vec![0; 65_507];
    let came = [(); 2].map(|()| server.recv(&mut buffer).unwrap());
    assert_eq!(came, [65_507, 38], "what fits with its header passes");
    assert_eq!((scene.drops("udp", "datagram_too_big"), scene.all_drops()), (3, 3));
}

#[test]
fn an_edge_without_descriptors_refuses_new_flows_and_keeps_those_it_has() {
    const LIVE: usize = 10;
    const NEW: usize = 40;
    const SPARE: usize = 5;
    let scene = scene("", |_| {});
    let echo = (scene.lab.region_a.ipv4(0), PORT);
    let _echo = Endpoint::start(Some(&scene.lab.region_a.namespace), Spec::echo("e", echo).protocol(Protocol::Udp)).unwrap();
    let open = || scene.lab.client.enter(|| UdpFlow::open(any(scene.target.ip()), scene.target)).unwrap();
    let connect = || scene.lab.client.enter(|| TcpSession::open(None, scene.target, LIMIT)).unwrap();
    let mut live: Vec<_> = (0..LIVE).map(|_| open()).collect();
    let mut sessions: Vec<_> = (0..LIVE).map(|_| connect()).collect();
    let works = |live: &mut Vec<UdpFlow>, sessions: &mut Vec<TcpSession>| {
        live.iter_mut().for_each(|flow| drop(flow.exchange(LIMIT).unwrap()));
        sessions.iter_mut().for_each(|session| session.exchange(b"alive").unwrap());
    };
    works(&mut live, &mut sessions);

    scene.edge.limit_descriptors(Some(SPARE.try_into().unwrap())).unwrap();
    let mut new: Vec<_> = (0..NEW).map(|_| open()).collect();
    for flow in &mut new {
        flow.send().unwrap();
    }
    // Behind the new ones, on whichever worker.
    works(&mut live, &mut sessions);
    let late: Vec<_> = scene.lab.client.enter(|| (0..3).map(|_| std::net::TcpStream::connect(scene.target).unwrap()).collect());
    works(&mut live, &mut sessions);

    // A scrape needs a descriptor too.
    scene.edge.limit_descriptors(None).unwrap();
    let opened = |protocol| whole(scene.metrics().sum("landfall_flows_opened_total", &[("protocol", protocol)]));
    let closed = |protocol| {
        let labels = [("protocol", protocol), ("reason", "local_error")];
        whole(scene.metrics().sum("landfall_flows_closed_total", &labels))
    };
    let refused = || scene.drops("udp", "no_descriptors");
    wait_until("every new flow", LIMIT, || opened("udp") - closed("udp") + refused() == LIVE + NEW).unwrap();
    // Flows that were answered stay. One that was not yet may have made room for the next, even before its datagram was forwarded.
    let labels = [("protocol", "udp"), ("reason", "evicted")];
    let evicted = whole(scene.metrics().sum("landfall_flows_closed_total", &labels));
    let displaced = scene.drops("udp", "flow_limit");
    println!("of {NEW} {} were refused and {evicted} made room, {displaced} of them at once, for {SPARE} descriptors", refused());
    assert!(refused() + evicted >= NEW - SPARE && displaced <= evicted, "{:?}", scene.told());
    assert_eq!(scene.all_drops(), refused() + displaced, "{:?}", scene.told());
    // A connection waits until there is a descriptor, or is refused and counted.
    wait_until("the late connections", LIMIT, || opened("tcp") + scene.drops("tcp", "no_descriptors") >= LIVE + late.len())
        .unwrap();
    works(&mut live, &mut sessions);
    new.iter_mut().for_each(|flow| drop(flow.exchange(LIMIT).unwrap()));
    drop(late);
}

/// The process's buffers, time and descriptors are nothing to what the kernel forwards.
#[test]
fn a_frozen_process_without_descriptors_loses_nothing_in_the_kernel() {
    const FLOWS: usize = 40;
    let scene = scene_on(Path::Kernel, "", |_| {});
    let flow = scene.flow();
    scene.edge.limit_descriptors(Some(0)).unwrap();
    scene.edge.freeze().unwrap();
    for (_, from, to) in flow.directions() {
        // By parts that the ends' own buffers hold.
        for _ in 0..12 {
            flood(from, 1000);
            assert_eq!(drain(to, |came| Ok(came >= 1000)).unwrap(), 1000);
        }
    }
    drop(flow);
    // Each has the endpoint's port to itself for its moment.
    let new: Vec<_> = (0..FLOWS).map(|_| scene.flow().client).collect();
    scene.edge.limit_descriptors(None).unwrap();
    scene.edge.thaw().unwrap();
    Path::Kernel.assert_carried(&scene.edge, 1 + new.len());
    assert_eq!(scene.told(), []);
}

/// A forwarded packet that finds the queue of a device full is lost as at any router: the device counts it, the edge does not.
#[test]
fn what_a_full_queue_of_a_link_drops_in_the_kernel_is_counted_by_the_link() {
    let scene = scene_on(Path::Kernel, "", |_| {});
    let flow = scene.flow();
    scene.lab.edge.run("tc qdisc replace dev region-a root tbf rate 20mbit burst 4kb limit 30kb".split(' ')).unwrap();
    flood(&flow.client, 2000);
    let dropped = || {
        let shown = scene.lab.edge.run(["tc", "-s", "qdisc", "show", "dev", "region-a"]).unwrap();
        shown.split("(dropped ").nth(1).unwrap().split(',').next().unwrap().parse::<usize>().unwrap()
    };
    let came = drain(&flow.server, |came| Ok(came + dropped() >= 2000)).unwrap();
    println!("{came} came, the device dropped {}", dropped());
    assert!(came < 2000 && came + dropped() >= 2000, "{came} came, {} were dropped", dropped());
    let packets = || scene.metrics().sum("landfall_packets_total", &[("protocol", "udp"), ("direction", "to_endpoint")]);
    wait_until("all counted as forwarded", LIMIT, || packets() >= 2001.0).unwrap();
    Path::Kernel.assert_carried(&scene.edge, 1);
    assert_eq!(scene.all_drops(), 0);
}
