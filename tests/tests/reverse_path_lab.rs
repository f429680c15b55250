//! The host's reverse path filter (`rp_filter`) keeps out whom it keeps out of any socket, whichever path the edge takes, and as it is set
//! while the edge runs.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::{IpAddr, SocketAddr, UdpSocket};

use landfall_tests::datagrams::{LIMIT, bind};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Protocol, Spec};
use landfall_tests::lab::{Lab, STATIC_IPV4};
use landfall_tests::on_both_paths;
use landfall_tests::path::Path;
use landfall_tests::wait::{wait_for, wait_until};

const PORT: u16 = 7000;
/// Clients, all on the client's host: one that the edge would answer by the device that it comes by, one by another device, one by either,
/// and one that the edge has no route to.
const CLIENTS: [&str; 4] = ["198.18.8.9", "198.18.3.9", "198.18.9.9", "198.19.0.9"];

const CONFIG: &str = r#"
name = "reverse-path"
static_ips = ["198.18.0.1"]
hash_seed = 7
[edge]
name = "lab"
workers = 1
admin = "127.0.0.1:9900"
control = "{dir}/control.sock"
[[listeners]]
name = "l"
protocol = "udp"
ports = [7000]
endpoint_groups = ["g"]
[[endpoint_groups]]
name = "g"
endpoints = [{ name = "e", address = "198.18.2.2" }]
health_check = { protocol = "tcp", interval = "10m", timeout = "2s" }
"#;

struct Scene {
    lab: Lab,
    edge: Edge,
    path: Path,
    server: UdpSocket,
    sent: usize,
    /// The endpoint of probes. Datagrams go to the test itself.
    _endpoint: Endpoint,
}

on_both_paths!(clients_pass_as_the_filter_is_set);

fn scene(path: Path) -> Scene {
    let lab = Lab::first_light().unwrap();
    for client in CLIENTS {
        lab.client.ip(&format!("address add {client}/32 dev lo\n")).unwrap();
    }
    let changes = "link add spare type veth peer name other\nlink set spare up\nlink set other up\naddress add 198.18.7.1/24 dev spare\n\
                   route del default via 198.18.1.2\nroute add 198.18.8.0/24 via 198.18.1.2\n\
                   route add 198.18.9.0/24 nexthop via 198.18.1.2 dev clients nexthop via 198.18.7.2 dev spare\n";
    lab.edge.ip(changes).unwrap();
    let (region, at) = (&lab.region_a.namespace, (lab.region_a.ipv4(0), PORT));
    let endpoint = Endpoint::start(Some(region), Spec::echo("e", at).protocol(Protocol::Tcp)).unwrap();
    let server = region.enter(|| bind(at.into())).unwrap();
    server.set_nonblocking(true).unwrap();
    let edge = path.start(&lab.edge, CONFIG).unwrap();
    Scene { lab, edge, path, server, sent: 0, _endpoint: endpoint }
}

impl Scene {
    fn set(&self, device: &str, filter: u8) {
        self.lab.edge.set(&format!("net/ipv4/conf/{device}/rp_filter"), &filter.to_string()).unwrap();
    }

    /// Whether a datagram of a new flow of `client` arrives; if not, the filter has counted it.
    fn passes(&mut self, client: &str) -> bool {
        let source = SocketAddr::new(client.parse::<IpAddr>().unwrap(), 0);
        let socket = self.lab.client.enter(|| UdpSocket::bind(source)).unwrap();
        let before = self.refused();
        self.sent += 1;
        let sent = self.sent.to_string();
        socket.send_to(sent.as_bytes(), (STATIC_IPV4[0], PORT)).unwrap();
        let mut buffer = [0; 16];
        wait_for("the datagram, or its being counted", LIMIT, || match self.server.recv(&mut buffer) {
            Ok(length) if buffer[..length] == *sent.as_bytes() => Some(true),
            _ => (self.refused() > before).then_some(false),
        })
        .unwrap()
    }

    /// What the filter has refused, as the edge says, or the host of what never came to a socket.
    fn refused(&self) -> usize {
        let counted = match self.path {
            Path::Kernel => {
                self.edge.metrics().unwrap().sum("landfall_drops_total", &[("reason", "reverse_path")]).abs().to_string()
            }
            Path::User => self.lab.edge.run(["nstat", "-asz", "TcpExtIPReversePathFilter"]).unwrap(),
        };
        counted.split_whitespace().find_map(|word| word.parse().ok()).unwrap()
    }
}

fn clients_pass_as_the_filter_is_set(path: Path) {
    let mut scene = scene(path);
    let (all, strict, loose) = ([true; 4], [true, false, true, false], [true, true, true, false]);
    for (for_all, at_device, expected) in [(0, 0, all), (0, 1, strict), (2, 1, loose), (1, 0, strict), (0, 2, loose), (0, 0, all)]
    {
        scene.set("all", for_all);
        scene.set("clients", at_device);
        for (client, expected) in CLIENTS.into_iter().zip(expected) {
            // The kernel gives notice of a setting after it is in force for sockets.
            let what = format!("{client} with rp_filter {for_all} for all and {at_device} at the device: {expected}");
            wait_until(&what, LIMIT, || scene.passes(client) == expected).unwrap();
        }
    }
    scene.path.assert_carried_all(&scene.edge);
}
