//! What only real links show of UDP: the ECN bits of each packet, datagrams that travel in pieces, and a path that takes less than the
//! link it begins with.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use landfall_tests::datagrams::{Flow, LIMIT, adapt, any, bind, datagram, drops, expect};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Protocol, Spec};
use landfall_tests::lab::{End, Lab, Namespace};
use landfall_tests::on_both_paths;
use landfall_tests::path::{Families, Path};
use landfall_tests::sockets::{cut_sends_into, receive_class, set_class, show_class};
use landfall_tests::wait::wait_until;

const PORT: u16 = 7000;
const PROBE_PORT: u16 = 6999;
/// The least that IPv6 allows.
const SMALL_MTU: usize = 1280;

on_both_paths!(
    the_ecn_bits_of_every_datagram_are_carried_both_ways,
    bursts_pass_in_pieces_over_links_that_cut_them,
    a_narrower_path_behind_the_edge_costs_one_datagram,
);

struct Scene {
    path: Path,
    lab: Lab,
    edge: Edge,
    /// Where the endpoint of a scene is: it has one address of each family.
    host: Namespace,
    static_ips: Vec<IpAddr>,
    /// Those in use, each with the port of the listener that leads to it.
    endpoints: Vec<(u16, IpAddr)>,
    flows: Cell<usize>,
    _probed: Vec<Endpoint>,
}

/// A listener for each family of endpoints: port 7000 leads to IPv4, port 7001 to IPv6, both to port 7000 of `host`.
fn scene(path: Path, families: Families, (lab, host, endpoints): (Lab, Namespace, [IpAddr; 2])) -> Scene {
    // One static IP of each family.
    let static_ips: Vec<_> = families.static_ips().into_iter().step_by(2).collect();
    let wanted = |ip: &IpAddr| static_ips.iter().any(|known| known.is_ipv4() == ip.is_ipv4());
    let endpoints: Vec<_> = (PORT..).zip(endpoints).filter(|(_, ip)| wanted(ip)).collect();
    let probe = |&(_, ip): &(u16, IpAddr)| Spec::echo("probed", (ip, PROBE_PORT)).protocol(Protocol::Tcp);
    let probed = endpoints.iter().map(|endpoint| Endpoint::start(Some(&host), probe(endpoint)).unwrap()).collect();
    let listed: Vec<_> = static_ips.iter().map(ToString::to_string).collect();
    let mut config = format!(
        "name = \"udp\"\nstatic_ips = {listed:?}\nhash_seed = 7\n[edge]\nname = \"lab\"\nadmin = \"127.0.0.1:9900\"\n\
         control = \"{{dir}}/control.sock\"\n"
    );
    for (port, ip) in &endpoints {
        let address = SocketAddr::new(*ip, PORT);
        config += &format!(
            "[[listeners]]\nname = \"l{port}\"\nprotocol = \"udp\"\nports = [{port}]\nendpoint_groups = [\"g{port}\"]\n\
             [[endpoint_groups]]\nname = \"g{port}\"\nendpoints = [{{ name = \"e{port}\", address = \"{address}\" }}]\n\
             health_check = {{ protocol = \"tcp\", port = {PROBE_PORT}, interval = \"10m\", timeout = \"2s\" }}\n",
        );
    }
    let edge = path.start(&lab.edge, &config).unwrap();
    Scene { path, lab, edge, host, static_ips, endpoints, flows: Cell::new(0), _probed: probed }
}

/// With the endpoint one link away.
fn near() -> (Lab, Namespace, [IpAddr; 2]) {
    let lab = Lab::first_light().unwrap();
    let (host, endpoints) = (lab.region_a.namespace.clone(), [lab.region_a.ipv4(0).into(), lab.region_a.ipv6(0).into()]);
    (lab, host, endpoints)
}

/// With the endpoint behind region A, which forwards, over a link that takes [`SMALL_MTU`] at most.
fn behind_a_narrow_link() -> (Lab, Namespace, [IpAddr; 2]) {
    let lab = Lab::first_light().unwrap();
    let (region, host) = (&lab.region_a.namespace, Namespace::new("far").unwrap());
    region.set("net/ipv4/ip_forward", "1").unwrap();
    region.set("net/ipv6/conf/all/forwarding", "1").unwrap();
    let near = End { interface: "narrow", addresses: &["198.18.20.1/24", "fd00:18:20::1/64"] };
    region.connect(&near, &host, &End { interface: "uplink", addresses: &["198.18.20.2/24", "fd00:18:20::2/64"] }).unwrap();
    region.ip(&format!("link set narrow mtu {SMALL_MTU}\n")).unwrap();
    host.ip(&format!(
        "link set uplink mtu {SMALL_MTU}\nroute add default via 198.18.20.1\nroute add default via fd00:18:20::1\n"
    ))
    .unwrap();
    lab.edge.ip("route add 198.18.20.0/24 via 198.18.2.2\nroute add fd00:18:20::/64 via fd00:18:2::2\n").unwrap();
    (lab, host, [Ipv4Addr::new(198, 18, 20, 2).into(), Ipv6Addr::new(0xfd00, 0x18, 0x20, 0, 0, 0, 0, 2).into()])
}

impl Scene {
    /// Does `body` with a flow from each family of static IPs to each family of endpoints, in each direction.
    fn every_way(&self, adapted: bool, mut body: impl FnMut(&str, &UdpSocket, &UdpSocket)) {
        for &client in &self.static_ips {
            for &(port, endpoint) in &self.endpoints {
                let flow = self.flow((client, port).into(), endpoint);
                if adapted {
                    adapt(&self.edge, &flow).unwrap();
                }
                for (direction, from, to) in flow.directions() {
                    body(&format!("{client} to {endpoint}, {direction}"), from, to);
                }
            }
        }
    }

    fn flow(&self, target: SocketAddr, endpoint: IpAddr) -> Flow {
        let client = self.lab.client.enter(|| bind(any(target.ip()))).unwrap();
        let server = self.host.enter(|| bind((endpoint, PORT).into())).unwrap();
        self.flows.set(self.flows.get() + 1);
        Flow::begin(client, server, target).unwrap()
    }

    /// Every flow that was begun took the path of the scene.
    fn assert_carried(&self) {
        self.path.assert_carried(&self.edge, self.flows.get());
    }
}

/// Marks of whole bundles, each heard before the next. An engine that adapts to bundles has reason to on the way.
fn carries_marks_of_bundles(from: &UdpSocket, to: &UdpSocket) -> bool {
    const PIECES: usize = 6;
    let mut buffer = [0; 200];
    let bundle = datagram(1, 100 * PIECES);
    cut_sends_into(from, 100).unwrap();
    let carried = (0..200).all(|number: u8| {
        set_class(from, number % 4).unwrap();
        from.send(&bundle).unwrap();
        (0..PIECES).all(|_| {
            let (length, class, _) = receive_class(to, &mut buffer).unwrap();
            (length, class) == (100, number % 4)
        })
    });
    cut_sends_into(from, 0).unwrap();
    carried
}

/// The marks of a burst: not ECN capable, ECT(0), ECT(1) and congestion experienced, in runs and alternating.
const MARKS: [u8; 16] = [2, 2, 2, 3, 2, 3, 2, 3, 0, 0, 2, 1, 1, 3, 3, 0];

fn send_marked(from: &UdpSocket) {
    for (number, mark) in MARKS.iter().enumerate() {
        set_class(from, *mark).unwrap();
        from.send(&datagram(number, 100)).unwrap();
    }
}

fn receive_marked(to: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 200];
    (0..MARKS.len()).map(|_| receive_class(to, &mut buffer).unwrap().1).collect()
}

/// A router on one side marks a packet, and the end on the other side must learn of it, or it never slows down. A bundle of datagrams
/// has one mark for all, so those with different marks must not be bundled.
fn the_ecn_bits_of_every_datagram_are_carried_both_ways(path: Path) {
    let mut wrong = Vec::new();
    for &families in path.families() {
        let scene = scene(path, families, near());
        scene.every_way(false, |way, from, to| {
            show_class(to).unwrap();
            send_marked(from);
            let marks = receive_marked(to);
            if marks != MARKS {
                wrong.push(format!("{way}: {marks:?}"));
            } else if !carries_marks_of_bundles(from, to) {
                wrong.push(format!("{way}: the marks of bundles"));
            }
        });
        scene.assert_carried();
    }
    assert!(wrong.is_empty(), "sent {MARKS:?}, but\n{}", wrong.join("\n"));
}

fn bursts_pass_in_pieces_over_links_that_cut_them(path: Path) {
    path.families().iter().for_each(|&families| bursts_pass(&scene(path, families, near())));
}

fn bursts_pass(scene: &Scene) {
    let sizes = [1472, 1473, 4000, 1200, 1200, 1200, 20_000, 0, 65_507, 1452, 1453, 1];
    let sent: Vec<_> = sizes.iter().enumerate().map(|(number, &size)| datagram(number, size)).collect();
    let passes = |way: &str, from: &UdpSocket, to: &UdpSocket| {
        for datagram in &sent {
            from.send(datagram).unwrap();
        }
        let came = expect(&scene.edge, 0.0, to, &sent).unwrap_or_else(|failure| panic!("{way}: {failure}"));
        assert_eq!(came, sent.len(), "{way}");
        // As one bundle, which leaves the sender's host whole and must not grow on the way.
        cut_sends_into(from, 1200).unwrap();
        let bundle = datagram(99, 1200 * 40);
        from.send(&bundle).unwrap();
        cut_sends_into(from, 0).unwrap();
        let pieces: Vec<_> = bundle.chunks(1200).map(<[u8]>::to_vec).collect();
        let came = expect(&scene.edge, 0.0, to, &pieces).unwrap_or_else(|failure| panic!("{way}, as a bundle: {failure}"));
        assert_eq!(came, pieces.len(), "{way}, as a bundle");
    };
    scene.every_way(false, passes);
    scene.every_way(true, passes);
    scene.assert_carried();
    assert_eq!(drops(&scene.edge).unwrap(), 0.0);
}

/// Guards complaint 20. The first datagram that is too large for the narrow link is lost there, and the router says so. In user space it says so to
/// the edge, whose kernel cuts datagrams from then on; the lost one is counted, once, under `datagram_too_big`. What the kernel forwards is
/// the client's packet, so the router's word goes on to the client, whose own kernel cuts datagrams from then on.
///
/// EXPECTATION, to be adapted with the engine: what the router says costs no further datagram. If the engine comes to cut datagrams from the
/// first on (no path MTU discovery), none is lost and none counted.
fn a_narrower_path_behind_the_edge_costs_one_datagram(path: Path) {
    let mut wrong = Vec::new();
    for &families in path.families() {
        let scene = scene(path, families, behind_a_narrow_link());
        let endpoints = scene.endpoints.clone();
        for (&static_ip, (port, endpoint)) in scene.static_ips.iter().zip(endpoints) {
            narrow(&scene, (static_ip, port).into(), endpoint, &mut wrong);
        }
        scene.assert_carried();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn narrow(scene: &Scene, target: SocketAddr, endpoint: IpAddr, wrong: &mut Vec<String>) {
    let too_big = || scene.edge.metrics().unwrap().sum("landfall_drops_total", &[("reason", "datagram_too_big")]);
    let (learns, towards, counts) = match scene.path {
        Path::User => (&scene.lab.edge, endpoint, 1.0),
        Path::Kernel => (&scene.lab.client, target.ip(), 0.0),
    };
    let (flow, before) = (scene.flow(target, endpoint), too_big());
    flow.client.send(&datagram(0, 1400)).unwrap();
    // The kernel has heard the router.
    let knows = || learns.run(["ip", "route", "get", &towards.to_string()]).unwrap().contains("mtu 1280");
    wait_until("the path's MTU where it is learned", LIMIT, knows).unwrap();
    // A client that was told hears it once, as from any router.
    let told = flow.client.take_error().unwrap().and_then(|error| error.raw_os_error());
    assert_eq!(told, (scene.path == Path::Kernel).then_some(libc::EMSGSIZE));

    let one_by_one: Vec<_> = (1..20).map(|number| datagram(number, 1400)).collect();
    for datagram in &one_by_one {
        flow.client.send(datagram).unwrap();
        let came = expect(&scene.edge, f64::INFINITY, &flow.server, std::slice::from_ref(datagram));
        if let Err(failure) = came {
            wrong.push(format!("{endpoint}: one by one: {failure}"));
        }
    }
    // A bundle of pieces that do not fit the path is refused by the kernel (EINVAL), so they must go one by one.
    let bundle = datagram(99, 1400 * 40);
    let pieces: Vec<_> = bundle.chunks(1400).map(<[u8]>::to_vec).collect();
    match scene.path {
        Path::User => {
            cut_sends_into(&flow.client, 1400).unwrap();
            flow.client.send(&bundle).unwrap();
        }
        // The client knows the path, so its own kernel refuses the bundle to it.
        Path::Kernel => assert!(pieces.iter().all(|piece| flow.client.send(piece).unwrap() == 1400)),
    }
    if let Err(failure) = expect(&scene.edge, f64::INFINITY, &flow.server, &pieces) {
        wrong.push(format!("{endpoint}: as a bundle: {failure}"));
    }
    let counted = too_big() - before;
    if counted != counts {
        wrong.push(format!("{endpoint}: {counted} datagrams were counted as too big, not {counts}"));
    }
}
