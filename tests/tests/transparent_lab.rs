//! Endpoints that see the clients' own addresses (`client_ip = "transparent"`), on an edge's host as deploy/transparent leaves it.
//!
//! The kernel does half of the work: rules and routes bring what is addressed to clients to the edge's sockets. So only real packets
//! between hosts show that the scripts are right, and every test also shows that they leave nothing behind.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use landfall_tests::clients::wait_reset;
use landfall_tests::conformance::{Notes, Role, Seen, Side};
use landfall_tests::datagrams::{LIMIT, bind, datagram};
use landfall_tests::edge::Edge;
use landfall_tests::lab::{Lab, Namespace, STATIC_IPV4, STATIC_IPV6};
use landfall_tests::sockets::wait_event;
use landfall_tests::wait::wait_until;
use socket2::{Domain, SockRef, Socket, Type};

const PORT: u16 = 7000;
const PROBE_PORT: u16 = 6999;
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn static_ips(self) -> [IpAddr; 2] {
        match self {
            Self::V4 => STATIC_IPV4.map(IpAddr::V4),
            Self::V6 => STATIC_IPV6.map(IpAddr::V6),
        }
    }

    fn host(self, net: u8, host: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(198, 18, net, host).into(),
            Self::V6 => Ipv6Addr::new(0xfd00, 0x18, net.into(), 0, 0, 0, 0, host.into()).into(),
        }
    }

    /// The edge's own address towards region A.
    fn edge(self) -> IpAddr {
        self.host(2, 1)
    }
}

/// An edge between a client of one family and the endpoint in region A, which is the test itself. Region B has its replacement.
struct Scene {
    lab: Lab,
    /// The host of the edge before anything was done to it.
    before: String,
    edge: Edge,
    targets: [SocketAddr; 2],
    client_ip: IpAddr,
    endpoints: [SocketAddr; 2],
    /// What probes ask.
    probed: Vec<TcpListener>,
}

/// With clients of one family and endpoints of another, or the same, and `keys` in the listener.
fn scene(clients: Family, endpoints: Family, keys: &str) -> Scene {
    start(clients, endpoints, keys, |namespace, config| Edge::start(Some(namespace), config).unwrap())
}

fn start(clients: Family, endpoints: Family, keys: &str, start: impl Fn(&Namespace, &str) -> Edge) -> Scene {
    let lab = Lab::first_light().unwrap();
    let before = state(&lab.edge);
    script(&lab.edge, "setup.sh");
    let static_ips = clients.static_ips();
    let addresses = [endpoints.host(2, 2), endpoints.host(3, 2)];
    let probe = |at: usize| [&lab.region_a, &lab.region_b][at].namespace.enter(|| TcpListener::bind((addresses[at], PROBE_PORT)));
    let probed = (0..2).map(|at| probe(at).unwrap()).collect();
    let mut config = format!(
        "name = \"transparent\"\nstatic_ips = {:?}\nhash_seed = 7\n[edge]\nname = \"lab\"\nadmin = \"127.0.0.1:9900\"\n\
         control = \"{{dir}}/control.sock\"\n[[listeners]]\nname = \"l\"\nprotocol = \"tcp_udp\"\nports = [{PORT}]\n\
         client_ip = \"transparent\"\nendpoint_groups = [\"a\", \"b\"]\n{keys}\n",
        static_ips.map(|ip| ip.to_string())
    );
    for (name, address) in ["a", "b"].iter().zip(addresses) {
        config += &format!(
            "[[endpoint_groups]]\nname = \"{name}\"\nendpoints = [{{ name = \"{name}\", address = \"{address}\" }}]\n\
             health_check = {{ protocol = \"tcp\", port = {PROBE_PORT}, interval = \"10m\", fast_interval = \"100ms\", timeout = \"2s\" }}\n"
        );
    }
    let edge = start(&lab.edge, &config);
    let [targets, endpoints] = [static_ips, addresses].map(|ips| ips.map(|ip| SocketAddr::new(ip, PORT)));
    Scene { lab, before, edge, targets, client_ip: clients.host(1, 2), endpoints, probed }
}

/// Runs one of the scripts that an operator runs, as it is.
fn script(host: &Namespace, name: &str) {
    host.run([format!("{}/../deploy/transparent/{name}", env!("CARGO_MANIFEST_DIR"))]).unwrap();
}

/// All that the scripts may change on a host. The kernel's own routes come and go with links that have just been made.
fn state(host: &Namespace) -> String {
    const SHOWN: [&str; 5] = [
        "ip -4 rule",
        "ip -6 rule",
        "ip -4 route show table all proto boot",
        "ip -6 route show table all proto boot",
        "nft list ruleset",
    ];
    SHOWN.map(|command| host.run(command.split(' ')).unwrap().replace(" linkdown", "")).join("\n")
}

impl Scene {
    /// Takes back what was set up, which leaves the host as it was.
    fn end(self) {
        script(&self.lab.edge, "teardown.sh");
        assert_eq!(state(&self.lab.edge), self.before);
    }

    fn client(&self, port: u16) -> UdpSocket {
        self.lab.client.enter(|| bind((self.client_ip, port).into())).unwrap()
    }

    /// The endpoint in region A for UDP.
    fn server(&self) -> UdpSocket {
        self.lab.region_a.namespace.enter(|| bind(self.endpoints[0])).unwrap()
    }

    /// The endpoint in region A for TCP.
    fn listener(&self) -> TcpListener {
        self.lab.region_a.namespace.enter(|| TcpListener::bind(self.endpoints[0])).unwrap()
    }

    /// A connection from `port` of the client, which others of its connections may have as well.
    fn connect(&self, port: u16, target: SocketAddr) -> io::Result<TcpStream> {
        let open = || {
            let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new(self.client_ip, port).into())?;
            socket.connect_timeout(&target.into(), LIMIT)?;
            socket.set_read_timeout(Some(LIMIT))?;
            Ok(TcpStream::from(socket))
        };
        self.lab.client.enter(open)
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.edge.metrics().unwrap().sum(name, labels)
    }

    /// How many flows have fallen back to the edge's own address: of UDP and of TCP.
    fn fallbacks(&self) -> [f64; 2] {
        ["udp", "tcp"].map(|protocol| self.sum("landfall_client_ip_fallbacks_total", &[("protocol", protocol)]))
    }

    /// A flow of each protocol from `port` of the client that works, and from whose address the endpoint has it.
    fn flows(&self, port: u16) -> [SocketAddr; 2] {
        let (client, server) = (self.client(port), self.server());
        client.send_to(b"to the endpoint", self.targets[0]).unwrap();
        let udp = hears(&server, b"to the endpoint");
        server.send_to(b"to the client", udp).unwrap();
        assert_eq!(hears(&client, b"to the client"), self.targets[0]);
        let listener = self.listener();
        let client = self.connect(port, self.targets[0]).unwrap();
        let (server, tcp) = accept(&listener);
        converse(&client, &server, b"of one connection");
        [udp, tcp]
    }
}

/// Takes the next datagram, which must be `expected`, and returns whose it is.
fn hears(socket: &UdpSocket, expected: &[u8]) -> SocketAddr {
    let mut buffer = vec![0; 1 << 16];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    assert!(buffer[..length] == *expected, "{length} bytes from {from}, not the {} expected", expected.len());
    from
}

fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    assert!(wait_event(listener, libc::POLLIN, LIMIT).unwrap(), "no connection comes");
    let (stream, peer) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    (stream, peer)
}

/// Sends `words` each way.
fn converse(client: &TcpStream, server: &TcpStream, words: &[u8]) {
    for (mut from, mut to) in [(client, server), (server, client)] {
        from.write_all(words).unwrap();
        let mut heard = vec![0; words.len()];
        to.read_exact(&mut heard).unwrap();
        assert_eq!(heard, words);
    }
}

#[test]
fn the_scripts_may_run_again_and_take_back_all_they_did() {
    let lab = Lab::first_light().unwrap();
    let before = state(&lab.edge);
    script(&lab.edge, "setup.sh");
    let ready = state(&lab.edge);
    let added = ready.lines().filter(|line| line.contains("4646") && !before.contains(line)).count();
    assert_eq!(added, 4, "a rule and a route for each family:\n{ready}");
    script(&lab.edge, "setup.sh");
    assert_eq!(state(&lab.edge), ready);
    for _ in 0..2 {
        script(&lab.edge, "teardown.sh");
        assert_eq!(state(&lab.edge), before);
    }
}

/// Large ones come back to the edge in pieces, of which only the first has ports.
#[test]
fn datagrams_of_every_size_come_from_the_client_and_answers_from_the_static_ip() {
    for family in FAMILIES {
        let scene = scene(family, family, "");
        let (client, server) = (scene.client(0), scene.server());
        for (number, size) in [10, 0, 1452, 1473, 9000, 65_507].into_iter().enumerate() {
            let [question, answer] = [number, number + 100].map(|number| datagram(number, size));
            client.send_to(&question, scene.targets[1]).unwrap();
            let from = hears(&server, &question);
            assert_eq!(from, client.local_addr().unwrap());
            server.send_to(&answer, from).unwrap();
            assert_eq!(hears(&client, &answer), scene.targets[1], "{size} bytes");
        }
        assert_eq!((scene.fallbacks(), scene.sum("landfall_drops_total", &[])), ([0.0; 2], 0.0));
        scene.end();
    }
}

#[test]
fn connections_come_from_the_client_carry_bulk_both_ways_and_end_one_way_at_a_time() {
    const BULK: u64 = 48 << 20;
    const REST: u64 = 100_000;
    for family in FAMILIES {
        let scene = scene(family, family, "");
        let listener = scene.listener();
        let client = Side::new(scene.connect(0, scene.targets[1]).unwrap(), Role::Client).unwrap();
        let (server, peer) = accept(&listener);
        assert_eq!(peer, client.stream().local_addr().unwrap());
        let server = Side::new(server, Role::Server).unwrap();
        std::thread::scope(|scope| {
            for side in [&client, &server] {
                scope.spawn(|| side.says(BULK));
                scope.spawn(|| side.hears(BULK));
            }
        });
        client.ends();
        server.hears_all();
        server.says(REST);
        server.ends();
        client.hears_all();
        let heard = |listening: &[Seen]| Notes { speaking: Vec::new(), listening: listening.to_vec() };
        assert_eq!(server.notes(), heard(&[Seen::Bytes(BULK), Seen::End]));
        assert_eq!(client.notes(), heard(&[Seen::Bytes(BULK), Seen::Bytes(REST), Seen::End]));
        assert_eq!(scene.fallbacks(), [0.0; 2]);
        scene.end();
    }
}

/// One address and port can have one flow to an endpoint. Given both, the kernel would hand the answers of one to the other.
#[test]
fn the_second_udp_flow_of_one_client_port_falls_back_until_the_first_is_over() {
    for family in FAMILIES {
        let scene = scene(family, family, "idle_timeout = { udp = \"1s\" }");
        let (client, server) = (scene.client(0), scene.server());
        let own = client.local_addr().unwrap();
        let [first, second] = [(0, b"first "), (1, b"second")].map(|(at, words)| {
            client.send_to(words, scene.targets[at]).unwrap();
            hears(&server, words)
        });
        assert_eq!((first, second.ip()), (own, family.edge()));
        for (at, from, words) in [(1, second, b"to the second"), (0, first, b"to the first ")] {
            server.send_to(words, from).unwrap();
            assert_eq!(hears(&client, words), scene.targets[at]);
        }
        assert_eq!(scene.fallbacks(), [1.0, 0.0]);

        wait_until("the end of both flows", LIMIT, || scene.sum("landfall_flows_active", &[]) == 0.0).unwrap();
        client.send_to(b"again", scene.targets[1]).unwrap();
        assert_eq!(hears(&server, b"again"), own);
        assert_eq!(scene.fallbacks(), [1.0, 0.0]);
        scene.end();
    }
}

#[test]
fn the_second_connection_of_one_client_port_falls_back_until_the_first_is_over() {
    for family in FAMILIES {
        let scene = scene(family, family, "");
        let listener = scene.listener();
        let first = scene.connect(0, scene.targets[0]).unwrap();
        let own = first.local_addr().unwrap();
        let (first_server, peer) = accept(&listener);
        let second = scene.connect(own.port(), scene.targets[1]).unwrap();
        let (second_server, other) = accept(&listener);
        assert_eq!((peer, other.ip(), second.local_addr().unwrap()), (own, family.edge(), own));
        for _ in 0..2 {
            converse(&first, &first_server, b"of the first connection");
            converse(&second, &second_server, b"of the second");
        }
        assert_eq!(scene.fallbacks(), [0.0, 1.0]);

        // A reset leaves nothing that would wait (TIME_WAIT).
        SockRef::from(&first).set_linger(Some(Duration::ZERO)).unwrap();
        drop(first);
        wait_reset(&first_server, LIMIT).unwrap();
        let third = scene.connect(own.port(), scene.targets[0]).unwrap();
        let (third_server, peer) = accept(&listener);
        assert_eq!(peer, own);
        converse(&third, &third_server, b"of the third");
        converse(&second, &second_server, b"still of the second");
        assert_eq!(scene.fallbacks(), [0.0, 1.0]);
        scene.end();
    }
}

#[test]
fn an_endpoint_of_the_other_family_sees_the_edge() {
    for (clients, endpoints) in [(Family::V4, Family::V6), (Family::V6, Family::V4)] {
        let scene = scene(clients, endpoints, "");
        assert_eq!(scene.flows(0).map(|from| from.ip()), [endpoints.edge(); 2]);
        assert_eq!(scene.fallbacks(), [1.0; 2]);
        scene.end();
    }
}

#[test]
fn without_the_capability_endpoints_see_the_edge_and_the_log_says_why() {
    for family in FAMILIES {
        let scene = start(family, family, "", |namespace, config| {
            // Each worker warns for itself.
            let config = config.replace("[edge]\n", "[edge]\nworkers = 1\n");
            // The kernel takes CAP_NET_RAW for it as well, which a service has no more than the other.
            Edge::start_without(Some(namespace), &["net_admin", "net_raw"], &config).unwrap()
        });
        assert_eq!(scene.flows(0).map(|from| from.ip()), [family.edge(); 2]);
        assert_eq!(scene.fallbacks(), [1.0; 2]);
        scene.edge.wait_for_log("has no effect without CAP_NET_ADMIN", LIMIT).unwrap();
        assert_eq!(scene.edge.log().matches("has no effect without CAP_NET_ADMIN").count(), 1);
        scene.end();
    }
}

/// As deploy/landfall-transparent.conf runs it. Whoever chooses such a port must neither be refused nor have the endpoint blamed.
#[test]
fn a_client_port_that_only_root_may_bind_falls_back_without_its_capability() {
    for family in FAMILIES {
        let without = |namespace: &Namespace, config: &str| Edge::start_without(Some(namespace), &["net_bind_service"], config);
        let scene = start(family, family, "", |namespace, config| without(namespace, config).unwrap());
        assert_eq!(scene.flows(123).map(|from| from.ip()), [family.edge(); 2]);
        assert_eq!((scene.fallbacks(), scene.sum("landfall_drops_total", &[])), ([1.0; 2], 0.0));
        assert_eq!(scene.edge.log().matches("has no effect without CAP_NET_ADMIN").count(), 0);
        scene.end();
    }
}

/// The refusal is addressed to the client as well, and must reach the edge: it is how the death is seen before the next probe.
#[test]
fn a_moved_flow_shows_the_client_to_its_new_endpoint() {
    for family in FAMILIES {
        let mut scene = scene(family, family, "on_unhealthy = { udp = \"move\", tcp = \"reset\" }");
        let (client, server) = (scene.client(0), scene.server());
        let successor = scene.lab.region_b.namespace.enter(|| bind(scene.endpoints[1])).unwrap();
        let own = client.local_addr().unwrap();
        client.send_to(b"before", scene.targets[0]).unwrap();
        assert_eq!(hears(&server, b"before"), own);
        drop((server, scene.probed.remove(0)));
        client.send_to(b"lost", scene.targets[0]).unwrap();
        wait_until("the verdict", LIMIT, || scene.edge.health("a").unwrap().as_deref() == Some("unhealthy")).unwrap();
        client.send_to(b"after", scene.targets[0]).unwrap();
        assert_eq!(hears(&successor, b"after"), own);
        successor.send_to(b"answer", own).unwrap();
        assert_eq!(hears(&client, b"answer"), scene.targets[0]);
        assert_eq!((scene.sum("landfall_flows_moved_total", &[]), scene.fallbacks()), (1.0, [0.0; 2]));
        scene.end();
    }
}

#[test]
fn a_closed_port_is_noticed_and_resets_the_client() {
    for family in FAMILIES {
        let scene = scene(family, family, "");
        let probes = || scene.sum("landfall_probe_results_total", &[("endpoint", "a")]);
        let first = probes();
        scene.client(0).send_to(b"anybody there?", scene.targets[0]).unwrap();
        wait_until("a probe because of the datagram", LIMIT, || probes() > first).unwrap();
        let second = probes();
        match scene.connect(0, scene.targets[0]) {
            Ok(stream) => wait_reset(&stream, LIMIT).unwrap(),
            // So fast that connect reports it.
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        wait_until("a probe because of the connection", LIMIT, || probes() > second).unwrap();
        assert_eq!(scene.fallbacks(), [0.0; 2]);
        scene.end();
    }
}
