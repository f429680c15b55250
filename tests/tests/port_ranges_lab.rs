//! Listeners of very many ports in user space: a handful of sockets serve them all, and clients see no difference. In the kernel none do.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

use landfall_tests::clients::{TcpSession, UdpFlow};
use landfall_tests::command::landfall;
use landfall_tests::datagrams::{any, bind};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::lab::{Lab, Namespace, STATIC_IPV4, STATIC_IPV6};
use landfall_tests::metrics::Sample;
use landfall_tests::on_both_paths;
use landfall_tests::path::Path;
use landfall_tests::wait::wait_until;
use socket2::{Domain, Protocol, Socket, Type};

const LIMIT: Duration = Duration::from_secs(10);
/// The client's and the edge's addresses on the link between them.
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 2);
const EDGE: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);
/// What the listener of voice serves over UDP, and the one of files over TCP.
const VOICE: [u16; 5] = [10_000, 10_001, 15_000, 19_999, 20_000];
const FILES: [u16; 3] = [30_000, 30_500, 30_999];
/// To each of the ports that are tried of each static IP.
const FLOWS: usize = 4;
/// More than any of these edges opens, far fewer than it has ports.
const FEW_DESCRIPTORS: usize = 100;

/// Two workers; on three static IPs 60,006 sockets for voice alone, three times what a process may open.
const CONFIG: &str = r#"
name = "many"
static_ips = ["198.18.0.1", "198.18.0.2", "fd00:18::1"]
hash_seed = 7
[edge]
name = "lab"
workers = 2
admin = "127.0.0.1:9900"
control = "{dir}/control.sock"
[[listeners]]
name = "voice"
protocol = "udp"
ports = ["10000-20000"]
idle_timeout = "2s"
unanswered_timeout = "2s"
endpoint_groups = ["all"]
[[listeners]]
name = "files"
protocol = "tcp"
ports = ["30000-30999"]
endpoint_groups = ["all"]
[[endpoint_groups]]
name = "all"
health_check = { protocol = "udp", port = 10000, send = "ping", expect = "pong" }
endpoints = [{ name = "a", address = "198.18.2.2" }]
"#;

struct Scene {
    lab: Lab,
    edge: Edge,
    _endpoints: Vec<Endpoint>,
}

fn endpoints(lab: &Lab, ports: &[u16]) -> Vec<Endpoint> {
    let (region, ip) = (Some(&lab.region_a.namespace), lab.region_a.ipv4(0));
    ports.iter().map(|&port| Endpoint::start(region, Spec::echo("a", (ip, port))).unwrap()).collect()
}

fn scene() -> Scene {
    scene_on(Path::User)
}

fn scene_on(path: Path) -> Scene {
    let lab = Lab::first_light().unwrap();
    // Each answers on the listener's own port, which the edge must therefore know.
    let endpoints = endpoints(&lab, &[&VOICE[..], &FILES].concat());
    let served: Vec<_> = static_ips(path).iter().map(IpAddr::to_string).collect();
    let edge = match path {
        // As an edge is that says nothing of the fast path: without nat_addresses it is in user space.
        Path::User => Edge::start(Some(&lab.edge), CONFIG).unwrap(),
        Path::Kernel => path.start(&lab.edge, &CONFIG.replace("[edge]\n", &format!("[edge]\nannounce = {served:?}\n"))).unwrap(),
    };
    Scene { lab, edge, _endpoints: endpoints }
}

/// Those that are served. In the kernel they are of the endpoint's family.
fn static_ips(path: Path) -> Vec<IpAddr> {
    let v6 = STATIC_IPV6.first().filter(|_| path == Path::User).map(|&ip| IpAddr::V6(ip));
    STATIC_IPV4.map(IpAddr::V4).into_iter().chain(v6).collect()
}

impl Scene {
    fn udp(&self, to: (IpAddr, u16)) -> UdpFlow {
        self.lab.client.enter(|| UdpFlow::open(any(to.0), to)).unwrap()
    }

    fn tcp(&self, to: (IpAddr, u16)) -> TcpSession {
        self.lab.client.enter(|| TcpSession::open(None, to, LIMIT)).unwrap()
    }

    /// Everything that was counted as a drop.
    fn drops(&self) -> Vec<Sample> {
        let metrics = self.edge.metrics().unwrap();
        metrics.matching("landfall_drops_total", &[]).filter(|sample| sample.value > 0.0).cloned().collect()
    }
}

/// What waits at each of the sockets of `namespace` that are bound to `at`, in the words of `ss`.
fn waiting(namespace: &Namespace, filter: &str, at: (IpAddr, u16)) -> Vec<u64> {
    let (ip, port) = at;
    let ip = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
    let listing = namespace.run(["ss", "-Hn", filter]).unwrap();
    let lines = listing.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.filter(|words| words.contains(&format!("{ip}:{port}").as_str())).map(|words| words[1].parse().unwrap()).collect()
}

/// An ICMP "port unreachable" about a datagram from `from` to `to`, as the host of `to` sends it to that of `from`.
fn port_unreachable(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0, 0];
    message.extend([from.ip().octets(), to.ip().octets()].concat());
    message.extend([from.port().to_be_bytes(), to.port().to_be_bytes(), [0, 16], [0, 0]].concat());
    let sum: u32 = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    message[2..4].copy_from_slice(&(!folded).to_be_bytes()[2..]);
    message
}

on_both_paths!(every_port_is_served_and_answers_from_itself, other_ports_and_addresses_of_the_host_are_left_alone);

fn every_port_is_served_and_answers_from_itself(path: Path) {
    let scene = scene_on(path);
    let idle = scene.edge.descriptors().unwrap();
    assert!(idle < FEW_DESCRIPTORS, "{idle} descriptors before any flow");
    for ip in static_ips(path) {
        for port in VOICE {
            for _ in 0..FLOWS {
                let mut flow = scene.udp((ip, port));
                // Receiving fails on an answer from elsewhere.
                for _ in 0..3 {
                    assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, "a");
                }
            }
        }
        for port in FILES {
            let mut session = scene.tcp((ip, port));
            session.exchange(&[7; 100_000]).unwrap();
            assert_eq!(session.finish().unwrap(), b"");
        }
    }
    assert_eq!(scene.drops(), []);
    path.assert_carried(&scene.edge, static_ips(path).len() * VOICE.len() * FLOWS);
    // With the flows their sockets go.
    wait_until("no more descriptors than before", LIMIT, || scene.edge.descriptors().is_ok_and(|now| now <= idle)).unwrap();
}

#[test]
fn a_flow_stays_with_one_worker_and_many_are_spread() {
    let scene = scene();
    let lab = &scene.lab;
    for ip in static_ips(Path::User) {
        // One that is known, and whose replies leave by a socket of port 15,000.
        let mut known = scene.udp((ip, 15_000));
        known.exchange(LIMIT).unwrap();
        scene.edge.freeze().unwrap();
        for _ in 0..10 {
            known.send().unwrap();
        }
        let at_one = || waiting(&lab.edge, "-uan", (ip, 10_000));
        wait_until("ten datagrams at one of two sockets", LIMIT, || at_one().iter().any(|&bytes| bytes > 0)).unwrap();
        let queues = at_one();
        assert_eq!((queues.len(), queues.iter().filter(|&&bytes| bytes > 0).count()), (2, 1), "{queues:?}");
        assert!(waiting(&lab.edge, "-uan", (ip, 15_000)).iter().all(|&bytes| bytes == 0), "a socket that sends received");
        let mut others: Vec<_> = (0..32).map(|at| scene.udp((ip, VOICE[at % 5]))).collect();
        for other in &mut others {
            other.send().unwrap();
        }
        let connect = |at: usize| lab.client.enter(|| TcpStream::connect((ip, FILES[at % 3]))).unwrap();
        let sessions: Vec<_> = (0..32).map(connect).collect();
        wait_until("datagrams at both sockets", LIMIT, || at_one().iter().all(|&bytes| bytes > 0)).unwrap();
        let accepting = waiting(&lab.edge, "-tln", (ip, 30_000));
        assert_eq!((accepting.len(), accepting.iter().sum::<u64>()), (2, 32), "{accepting:?}");
        assert!(accepting.iter().all(|&count| count > 0), "{accepting:?}");
        scene.edge.thaw().unwrap();
        for other in others {
            assert_eq!(other.receive(LIMIT).unwrap().unwrap().number, 0);
        }
        for mut session in sessions {
            session.set_read_timeout(Some(LIMIT)).unwrap();
            session.shutdown(Shutdown::Write).unwrap();
            let mut said = String::new();
            session.read_to_string(&mut said).unwrap();
            assert_eq!(said, "a\n");
        }
    }
    assert_eq!(scene.drops(), []);
}

#[test]
fn errors_about_replies_wait_where_they_are_taken_off() {
    let scene = scene();
    let lab = &scene.lab;
    let mut flow = scene.udp((STATIC_IPV4[0].into(), 15_000));
    flow.exchange(LIMIT).unwrap();
    let SocketAddr::V4(client) = flow.source().unwrap() else { unreachable!() };
    let client = SocketAddrV4::new(CLIENT, client.port());
    let error = port_unreachable(SocketAddrV4::new(STATIC_IPV4[0], 15_000), client);
    let raw = lab.client.enter(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))).unwrap();
    let at = |port| waiting(&lab.edge, "-uan", (STATIC_IPV4[0].into(), port));
    scene.edge.freeze().unwrap();
    for _ in 0..100 {
        raw.send_to(&error, &SocketAddr::from((STATIC_IPV4[0], 0)).into()).unwrap();
    }
    wait_until("errors at a socket that receives", LIMIT, || at(10_000).iter().any(|&bytes| bytes > 0)).unwrap();
    assert_eq!(at(15_000), [0], "errors at the socket that sent");
    scene.edge.thaw().unwrap();
    wait_until("errors taken off", LIMIT, || at(10_000) == [0, 0]).unwrap();
    assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, "a");
    assert_eq!(scene.drops(), []);
}

fn other_ports_and_addresses_of_the_host_are_left_alone(path: Path) {
    let scene = scene_on(path);
    let lab = &scene.lab;
    // A port of the range on another address of the edge, and the port behind the range on a static IP.
    for target in [SocketAddr::from((EDGE, 15_000)), SocketAddr::from((STATIC_IPV4[0], 20_001))] {
        let service = lab.edge.enter(|| UdpSocket::bind(target)).unwrap();
        service.set_read_timeout(Some(LIMIT)).unwrap();
        let client = lab.client.enter(|| bind(any(target.ip()))).unwrap();
        client.send_to(b"for the host", target).unwrap();
        let mut buffer = [0; 32];
        let (length, from) = service.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"for the host");
        service.send_to(b"back", from).unwrap();
        assert_eq!(client.recv_from(&mut buffer).unwrap(), (4, target));
    }
    scene.udp((STATIC_IPV4[0].into(), 15_000)).exchange(LIMIT).unwrap();
    path.assert_carried(&scene.edge, 1);
    assert_eq!(scene.drops(), []);
}

#[test]
fn flows_that_were_never_answered_make_room_for_both_descriptors_of_others() {
    let lab = Lab::first_light().unwrap();
    let _endpoints = endpoints(&lab, &[10_000, 15_000]);
    // Nothing but flows takes descriptors, or gives them back.
    let config = CONFIG.replace("_timeout = \"2s\"", "_timeout = \"10m\"").replace("workers = 2", "workers = 1");
    let config = config.replace("port = 10000,", "port = 10000, interval = \"10m\",");
    let edge = Edge::start(Some(&lab.edge), &config).unwrap();
    let open = |port| lab.client.enter(|| UdpFlow::open(any(STATIC_IPV4[0].into()), (STATIC_IPV4[0], port))).unwrap();
    // For four flows, and one left over that suffices for a reply's socket and not for the endpoint's.
    edge.limit_descriptors(Some(9)).unwrap();
    // An endpoint listens on none of these ports.
    let mut silent: Vec<_> = (11_000..11_016).map(open).collect();
    for flow in &mut silent {
        flow.send().unwrap();
    }
    assert_eq!(open(15_000).exchange(LIMIT).unwrap().endpoint, "a");
    edge.limit_descriptors(None).unwrap();
    let metrics = edge.metrics().unwrap();
    let count = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels);
    let evicted = count("landfall_flows_closed_total", &[("listener", "voice"), ("reason", "evicted")]);
    let active = count("landfall_flows_active", &[("listener", "voice")]);
    // A connection of the test's may have ended just after the limit was set.
    assert!((4.0..=5.0).contains(&active) && evicted == 17.0 - active, "{evicted} made room, {active} are left");
    assert_eq!(count("landfall_drops_total", &[("reason", "no_descriptors")]), 0.0);
}

#[test]
fn a_port_that_another_process_has_stops_the_start() {
    let lab = Lab::first_light().unwrap();
    let _taken = lab.edge.enter(|| UdpSocket::bind((STATIC_IPV4[1], 17_777))).unwrap();
    let mut edge = Edge::launch(Some(&lab.edge), CONFIG).unwrap();
    assert!(!edge.wait_exit(LIMIT).unwrap().success());
    let log = edge.log();
    assert!(log.contains("cannot bind udp 198.18.0.2:17777 for listener voice") && log.contains("ss -lntup"), "{log}");
}

#[test]
fn a_port_that_a_process_takes_later_is_told_of() {
    let lab = Lab::first_light().unwrap();
    let _endpoints = endpoints(&lab, &[10_000, 15_000]);
    // Loading, and choosing among sockets, takes no right to look into the kernel's memory.
    let edge = Edge::start_without(Some(&lab.edge), &["perfmon"], CONFIG).unwrap();
    let taken = lab.edge.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 15_000))).unwrap();
    let to = (STATIC_IPV4[0], 15_000);
    let mut flow = lab.client.enter(|| UdpFlow::open(any(to.0.into()), to)).unwrap();
    flow.send().unwrap();
    let line = edge.wait_for_log("replies cannot leave", LIMIT).unwrap();
    assert!(line.contains("WARN") && line.contains("198.18.0.1:15000"), "{line}");
    // A worker writes the line before it counts the datagram.
    let refused = || edge.metrics().unwrap().sum("landfall_drops_total", &[("listener", "voice"), ("reason", "local_error")]);
    wait_until("the datagram is counted", LIMIT, || refused() > 0.0).unwrap();
    assert_eq!(refused(), 1.0);
    taken.set_nonblocking(true).unwrap();
    assert_eq!(taken.recv(&mut [0; 128]).unwrap_err().kind(), ErrorKind::WouldBlock, "it receives nothing of the range");
    drop(taken);
    assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, "a");
}

#[test]
fn a_drain_serves_the_flows_it_has_and_a_killed_edge_leaves_nothing() {
    let mut scene = scene();
    let ip = STATIC_IPV4[0].into();
    let (mut voice, mut files) = (scene.udp((ip, 15_000)), scene.tcp((ip, 30_500)));
    voice.exchange(LIMIT).unwrap();
    // They are told by the ports that the clients know.
    let control = scene.edge.directory().join("control.sock");
    let told = landfall(["flows", "--control", control.to_str().unwrap()]).unwrap().stdout;
    assert!(told.contains("198.18.0.1:15000") && told.contains("198.18.0.1:30500"), "{told}");
    scene.edge.signal(libc::SIGTERM).unwrap();
    let refused = |scene: &Scene, port| {
        let connected = scene.lab.client.enter(|| TcpSession::open(None, (ip, port), LIMIT));
        connected.is_err_and(|failure| failure.to_string().contains("refused"))
    };
    wait_until("new connections are refused", LIMIT, || refused(&scene, 30_999)).unwrap();
    assert_eq!(voice.exchange(LIMIT).unwrap().endpoint, "a");
    files.exchange(b"still here").unwrap();
    let mut new = scene.udp((ip, 20_000));
    new.send().unwrap();
    wait_until("a new flow is dropped", LIMIT, || {
        scene.edge.metrics().is_ok_and(|m| m.sum("landfall_drops_total", &[("reason", "draining")]) > 0.0)
    })
    .unwrap();
    scene.edge.kill().unwrap();
    // The host itself answers for every port now.
    for port in [10_000, 15_000] {
        let client = scene.lab.client.enter(|| bind(any(ip))).unwrap();
        client.connect((ip, port)).unwrap();
        client.send(b"anybody?").unwrap();
        assert_eq!(client.recv(&mut [0; 16]).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{port}");
    }
    assert!(refused(&scene, 30_000) && refused(&scene, 30_500));
    // And the next edge finds all as it was.
    let next = Edge::start(Some(&scene.lab.edge), CONFIG).unwrap();
    assert_eq!(scene.udp((ip, 15_000)).exchange(LIMIT).unwrap().endpoint, "a");
    drop(next);
}

#[test]
fn without_the_capability_there_is_a_socket_for_each_port_or_a_clear_word() {
    let lab = Lab::first_light().unwrap();
    let _endpoints = endpoints(&lab, &[10_000, 10_099]);
    let mut all = Edge::launch_unprivileged(Some(&lab.edge), CONFIG).unwrap();
    assert_eq!(all.wait_exit(LIMIT).unwrap().code(), Some(78));
    let log = all.log();
    assert!(log.contains("66006 listening sockets"), "{log}");
    assert!(
        log.contains("one socket could serve all ports of a listener, but not here: the process may not load programs"),
        "{log}"
    );

    let fewer = CONFIG.replace("10000-20000", "10000-10099").replace("30000-30999", "30000-30009");
    let off = fewer.replace("[edge]", "[edge]\nfast_path = \"off\"");
    let starts: [(&dyn Fn() -> Edge, &str); 2] = [
        (
            &|| Edge::start_without(Some(&lab.edge), &["net_admin"], &fewer).unwrap(),
            "the process may not load programs into the kernel",
        ),
        (&|| Edge::start(Some(&lab.edge), &off).unwrap(), "fast_path = \"off\""),
    ];
    for (start, reason) in starts {
        let edge = start();
        let line = edge.wait_for_log("listener voice", LIMIT).unwrap();
        assert!(line.contains("100 ports take 600 sockets") && line.contains(reason), "{line}");
        assert!(edge.descriptors().unwrap() > 600);
        let mut flow = lab.client.enter(|| UdpFlow::open(any(STATIC_IPV4[0].into()), (STATIC_IPV4[0], 10_099))).unwrap();
        assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, "a");
    }
}

#[test]
fn check_says_which_listeners_it_serves() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("landfall.toml");
    std::fs::write(&file, CONFIG.replace("{dir}", "/run/landfall")).unwrap();
    let checked = landfall([std::ffi::OsStr::new("check"), "--config".as_ref(), file.as_ref()]).unwrap();
    let line = "listener voice: 6 sockets take what comes for its 10001 ports, chosen by a program in the kernel";
    assert!(checked.stdout.contains(line), "{}", checked.stdout);
    assert!(checked.stdout.contains("= 12 listening sockets"), "{}", checked.stdout);
}

/// `landfall fast-path detach` is for what forwards packets, which the choice of sockets does not.
#[test]
fn the_program_is_listed_and_not_detached() {
    let scene = scene();
    let run = |what: &str| {
        let program = landfall_tests::programs::landfall().unwrap();
        scene.lab.edge.run([program.to_str().unwrap(), "fast-path", what]).unwrap()
    };
    let listed = format!("choose_socket of process {} at the network namespace (netns)\n", scene.edge.pid());
    assert_eq!(run("list"), listed);
    assert_eq!(run("detach"), "nothing is attached\n");
    assert_eq!(run("list"), listed);
}
