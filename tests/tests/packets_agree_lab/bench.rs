//! An edge between a device that frames are put on and sockets that hear what comes of them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use landfall_tests::datagrams::datagram;
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Protocol, Spec};
use landfall_tests::frames::Device;
use landfall_tests::lab::Lab;
use landfall_tests::metrics::Metrics;
use landfall_tests::path::{Families, Path};
use landfall_tests::sockets::{receive_class, set_class, show_class};
use landfall_tests::wait::{Deadline, wait_for, wait_until};
use socket2::{Domain, Socket, Type};

use crate::cases::{Answers, Case};
use crate::frame::{Datagram, Mac};

const LIMIT: Duration = Duration::from_secs(10);
const PROBE_PORT: u16 = 6999;
/// Of the listener that is asked whether everything before has passed.
const SENTINEL: u16 = 6000;
const FIRST_PORT: u16 = 7000;
/// Client ports of a case.
pub const PORTS: u16 = 3;

/// Everything that one run needs. Fields are dropped in this order: first the edge.
pub struct Bench {
    edge: Edge,
    path: Path,
    families: Families,
    device: Device,
    edge_mac: Mac,
    /// Hears ICMP errors at the client.
    icmp: Socket,
    sentinel: (UdpSocket, UdpSocket),
    /// The case that runs.
    case: u16,
    clients: Vec<UdpSocket>,
    server: Option<UdpSocket>,
    elsewhere: UdpSocket,
    answers: Answers,
    /// Payloads sent by clients of the case.
    sent: Vec<Vec<u8>>,
    number: usize,
    /// What each case saw so far, counters apart.
    seen: Vec<Seen>,
    _probed: Endpoint,
    lab: Lab,
}

/// What came at the ends.
#[derive(Default)]
struct Seen {
    /// Length, traffic class and port of what came at the endpoint.
    up: Vec<(usize, u8, u16)>,
    down: Vec<(usize, u8)>,
    icmp: Vec<(u8, u8)>,
}

fn config(families: Families, cases: &[&Case], endpoint: IpAddr) -> String {
    let static_ip = families.static_ips()[0];
    let mut text = format!(
        "name = \"packets\"\nstatic_ips = [\"{static_ip}\"]\nhash_seed = 7\n[edge]\nname = \"lab\"\nworkers = 1\n\
         admin = \"127.0.0.1:9900\"\ncontrol = \"{{dir}}/control.sock\"\n"
    );
    let mut add = |name: &str, port: u16, listener: &str, target: &str, group: &str| {
        text += &format!(
            "[[listeners]]\nname = \"{name}\"\nprotocol = \"udp\"\nports = [{port}]\n{listener}\nendpoint_groups = [\"{name}\"]\n\
             [[endpoint_groups]]\nname = \"{name}\"\nendpoints = [{{ name = \"{name}\", address = \"{target}\" }}]\n{group}\n\
             health_check = {{ protocol = \"tcp\", port = {PROBE_PORT}, interval = \"10m\", timeout = \"2s\" }}\n"
        );
    };
    add("sentinel", SENTINEL, "", &endpoint.to_string(), "");
    for (port, case) in (FIRST_PORT..).zip(cases) {
        let target = case.fixed_port.map_or(endpoint.to_string(), |fixed| SocketAddr::new(endpoint, fixed).to_string());
        let group = case
            .override_port
            .map_or(String::new(), |to| format!("port_overrides = [{{ listener_port = {port}, endpoint_port = {to} }}]"));
        add(&format!("case-{port}"), port, case.listener, &target, &group);
    }
    text
}

impl Bench {
    pub fn start(path: Path, families: Families, cases: &[&Case]) -> Self {
        let lab = Lab::first_light().unwrap();
        lab.client.ip("address add 198.18.64.9/32 dev lo\naddress add fd00:64::9/128 dev lo nodad\n").unwrap();
        let endpoint = families.endpoint(&lab.region_a, 0, false);
        let probed = Spec::echo("probed", (endpoint, PROBE_PORT)).protocol(Protocol::Tcp);
        let probed = Endpoint::start(Some(&lab.region_a.namespace), probed).unwrap();
        let edge = path.start(&lab.edge, &config(families, cases, endpoint)).unwrap();
        let device = Device::open(&lab.client, "uplink").unwrap();
        let edge_mac = Device::open(&lab.edge, "clients").unwrap().mac;
        let (domain, protocol) = match families {
            Families::V6 => (Domain::IPV6, socket2::Protocol::ICMPV6),
            _ => (Domain::IPV4, socket2::Protocol::ICMPV4),
        };
        let icmp = lab.client.enter(|| Socket::new(domain, Type::RAW, Some(protocol))).unwrap();
        icmp.set_nonblocking(true).unwrap();
        let client = client(families);
        let sentinel = (
            lab.client.enter(|| UdpSocket::bind((client, 5999))).unwrap(),
            lab.region_a.namespace.enter(|| UdpSocket::bind((endpoint, SENTINEL))).unwrap(),
        );
        sentinel.0.connect((families.static_ips()[0], SENTINEL)).unwrap();
        for socket in [&sentinel.0, &sentinel.1] {
            socket.set_nonblocking(true).unwrap();
        }
        let elsewhere = lab.region_a.namespace.enter(|| UdpSocket::bind((endpoint, 0))).unwrap();
        let seen = Vec::new();
        Self {
            edge,
            path,
            families,
            device,
            edge_mac,
            icmp,
            sentinel,
            case: 0,
            clients: Vec::new(),
            server: None,
            elsewhere,
            answers: Answers::Echo,
            sent: Vec::new(),
            number: 0,
            seen,
            _probed: probed,
            lab,
        }
    }

    pub fn run(&mut self, cases: &[&Case]) {
        // The neighbours are found before the first case.
        self.settle();
        self.seen.clear();
        for (number, case) in (0..).zip(cases) {
            self.begin(number, case);
            (case.send)(self);
            self.settle();
        }
    }

    fn begin(&mut self, number: u16, case: &Case) {
        self.case = number;
        self.answers = case.answers;
        self.seen.push(Seen::default());
        self.sent.clear();
        let address = client(self.families);
        self.clients = (0..PORTS).map(|k| self.lab.client.enter(|| listening((address, self.port(k)).into()))).collect();
        let port = case.fixed_port.or(case.override_port).unwrap_or(FIRST_PORT + number);
        let endpoint = (self.families.endpoint(&self.lab.region_a, 0, false), port);
        self.server = (case.answers != Answers::Closed).then(|| self.lab.region_a.namespace.enter(|| listening(endpoint.into())));
    }

    fn port(&self, k: u16) -> u16 {
        20_000 + PORTS * self.case + k
    }

    /// A datagram of the case's client number `k` to its listener.
    pub fn from(&mut self, k: u16, bytes: usize) -> Datagram {
        let static_ip = self.families.static_ips()[0];
        let from = SocketAddr::new(client(self.families), self.port(k));
        let mut written = Datagram::new(from, (static_ip, FIRST_PORT + self.case).into());
        written.macs = (self.device.mac, self.edge_mac);
        self.number += 1;
        written.payload = datagram(self.number, bytes);
        written.id = u32::try_from(self.number).unwrap();
        written
    }

    /// Sends a datagram, or a part of one, and lets all that comes of it come.
    pub fn send(&mut self, datagram: &Datagram) {
        self.sent.push(datagram.payload.clone());
        self.send_frame(&datagram.frame());
    }

    pub fn send_frame(&mut self, frame: &[u8]) {
        self.device.send(frame).unwrap();
        self.settle();
    }

    /// Client and endpoint hear what was sent before: a datagram that was sent later has come to the endpoint and back, twice.
    fn settle(&mut self) {
        for round in 0..2 {
            let deadline = Deadline::after(LIMIT);
            self.sentinel.0.send(&[round]).unwrap();
            let mut heard = [0; 1];
            while self.sentinel.0.recv(&mut heard).is_err() {
                assert!(deadline.left().is_some(), "the sentinel does not come back: {}", self.edge.log());
                if let Ok((length, from)) = self.sentinel.1.recv_from(&mut heard) {
                    self.serve();
                    self.sentinel.1.send_to(&heard[..length], from).unwrap();
                }
            }
            assert_eq!(heard, [round]);
            self.listen();
        }
    }

    /// The endpoint answers what has come.
    fn serve(&mut self) {
        let mut buffer = vec![0; 1 << 16];
        while let Some(Ok((length, class, from))) = self.server.as_ref().map(|server| receive_class(server, &mut buffer)) {
            let server = self.server.as_ref().unwrap();
            let payload = &buffer[..length];
            assert!(self.sent.iter().any(|sent| sent.starts_with(payload)), "{length} bytes that nobody sent");
            let seen = self.seen.last_mut().unwrap();
            seen.up.push((length, class, server.local_addr().unwrap().port()));
            match self.answers {
                Answers::Echo => {
                    set_class(server, class).unwrap();
                    server.send_to(payload, from).unwrap();
                }
                Answers::FromElsewhere => drop(self.elsewhere.send_to(payload, from).unwrap().to_string()),
                Answers::No | Answers::Closed => {}
            }
        }
    }

    /// Clients take what has come.
    fn listen(&mut self) {
        let Some(seen) = self.seen.last_mut() else { return };
        let mut buffer = vec![0; 1 << 16];
        let to = SocketAddr::new(self.families.static_ips()[0], FIRST_PORT + self.case);
        for client in &self.clients {
            while let Ok((length, class, from)) = receive_class(client, &mut buffer) {
                assert_eq!(from, to, "an answer comes from where was asked");
                assert!(self.sent.iter().any(|sent| sent.starts_with(&buffer[..length])), "{length} bytes that nobody sent");
                seen.down.push((length, class));
            }
        }
        let mut packet = [std::mem::MaybeUninit::new(0); 2048];
        while let Ok((length, from)) = self.icmp.recv_from(&mut packet) {
            // SAFETY: every byte was initialised above, whether the kernel has written it or not.
            let packet = packet[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect::<Vec<_>>();
            let message = if self.families == Families::V4 { &packet[20..] } else { &packet[..] };
            let error = if self.families == Families::V4 { [3, 11, 12].contains(&message[0]) } else { message[0] < 128 };
            if error {
                assert_eq!(from.as_socket().unwrap().ip(), to.ip(), "an error comes in the name of the static IP");
                seen.icmp.push((message[0], message[1]));
            }
        }
    }

    /// What each case has seen, and what was counted for its listener.
    pub fn seen(&self) -> Vec<String> {
        // The kernel's counters are read once a second: until they hold all that came, and one time more.
        let came = self.seen.iter().map(|seen| seen.up.len()).sum::<usize>();
        let packets = |metrics: &Metrics| metrics.sum("landfall_packets_total", &[("direction", "to_endpoint")]);
        wait_until("the packets counted", LIMIT, || packets(&self.edge.metrics().unwrap()) >= came as f64).unwrap();
        let metrics = self.settled_metrics();
        self.seen.iter().zip(FIRST_PORT..).map(|(seen, port)| told(seen, port, &metrics)).collect()
    }

    /// A scrape that says all: two more sentinels are counted in it.
    fn settled_metrics(&self) -> Metrics {
        let count = || {
            let metrics = self.edge.metrics().unwrap();
            let count = metrics.sum("landfall_packets_total", &[("listener", "sentinel"), ("direction", "to_endpoint")]);
            (count, metrics)
        };
        let before = count().0;
        for byte in 0..2 {
            self.sentinel.0.send(&[byte]).unwrap();
        }
        wait_for("a fresh reading", LIMIT, || Some(count()).filter(|(count, _)| *count >= before + 2.0)).unwrap().1
    }

    /// The packets that the kernel dropped without a listener, by reason.
    pub fn strays(&self) -> Vec<String> {
        let metrics = self.edge.metrics().unwrap();
        let strays = metrics.matching("landfall_fast_path_strays_total", &[]);
        let named = strays.map(|sample| (sample.labels["reason"].clone(), sample.value));
        let counted: BTreeMap<_, _> = named.collect();
        assert_eq!(counted.is_empty(), self.path == Path::User);
        let times = |(reason, count): (String, f64)| std::iter::repeat_n(reason, format!("{count:.0}").parse().unwrap());
        counted.into_iter().flat_map(times).collect()
    }
}

/// `up BYTES CLASS`, `down BYTES CLASS` and `icmp TYPE.CODE` for what came, then what was counted beyond that.
fn told(seen: &Seen, port: u16, metrics: &Metrics) -> String {
    let listener = format!("case-{port}");
    let mut text = Vec::new();
    for (length, class, to) in &seen.up {
        let mut up = format!("up {length} {class:02x}");
        if *to != port {
            write!(up, " at {to}").unwrap();
        }
        text.push(up);
    }
    text.extend(seen.down.iter().map(|(length, class)| format!("down {length} {class:02x}")));
    text.extend(seen.icmp.iter().map(|(kind, code)| format!("icmp {kind}.{code}")));
    let sum = |name: &str, labels: &[(&str, &str)]| {
        let labels = [labels, &[("listener", listener.as_str())]].concat();
        format!("{:.0}", metrics.sum(name, &labels).abs()).parse::<usize>().unwrap()
    };
    let opened = sum("landfall_flows_opened_total", &[]);
    if opened > 0 {
        text.push(format!("opened {opened}"));
    }
    for (family, prefix) in [("landfall_drops_total", ""), ("landfall_flows_closed_total", "closed ")] {
        for sample in metrics.matching(family, &[("listener", listener.as_str())]).filter(|sample| sample.value > 0.0) {
            text.push(format!("{prefix}{} {}", sample.labels["reason"], sample.value));
        }
    }
    for (direction, came) in [("to_endpoint", seen.up.len()), ("to_client", seen.down.len())] {
        let counted = sum("landfall_packets_total", &[("direction", direction)]);
        if counted != came {
            text.push(format!("{counted} counted {direction}"));
        }
    }
    text.join(", ")
}

fn client(families: Families) -> IpAddr {
    if families == Families::V6 { "fd00:64::9" } else { "198.18.64.9" }.parse().unwrap()
}

fn listening(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_nonblocking(true).unwrap();
    show_class(&socket).unwrap();
    socket
}
