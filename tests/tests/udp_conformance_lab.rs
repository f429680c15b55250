//! What only real links show of UDP: the ECN bits of each packet, datagrams that travel in pieces, and a path that takes less than the
//! link it begins with.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use landfall_tests::datagrams::{Flow, LIMIT, adapt, any, bind, datagram, drops, expect};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Protocol, Spec};
use landfall_tests::lab::{End, Lab, Namespace, STATIC_IPV4, STATIC_IPV6};
use landfall_tests::sockets::{cut_sends_into, receive_ecn, set_ecn, show_ecn};
use landfall_tests::wait::wait_until;

const PORT: u16 = 7000;
const PROBE_PORT: u16 = 6999;
/// The least that IPv6 allows.
const SMALL_MTU: usize = 1280;

struct Scene {
    lab: Lab,
    edge: Edge,
    /// Where the endpoint of a scene is: it has one address of each family.
    host: Namespace,
    endpoints: [IpAddr; 2],
    _probed: [Endpoint; 2],
}

/// A listener for each family of endpoints: port 7000 leads to IPv4, port 7001 to IPv6, both to port 7000 of `host`.
fn scene(lab: Lab, host: Namespace, endpoints: [IpAddr; 2]) -> Scene {
    let probed =
        endpoints.map(|ip| Endpoint::start(Some(&host), Spec::echo("probed", (ip, PROBE_PORT)).protocol(Protocol::Tcp)).unwrap());
    let mut config = "name = \"udp\"\nstatic_ips = [\"198.18.0.1\", \"fd00:18::1\"]\nhash_seed = 7\n[edge]\nname = \"lab\"\n\
                      admin = \"127.0.0.1:9900\"\ncontrol = \"{dir}/control.sock\"\n"
        .to_owned();
    for (number, ip) in endpoints.iter().enumerate() {
        let address = SocketAddr::new(*ip, PORT);
        config += &format!(
            "[[listeners]]\nname = \"l{number}\"\nprotocol = \"udp\"\nports = [{}]\nendpoint_groups = [\"g{number}\"]\n\
             [[endpoint_groups]]\nname = \"g{number}\"\nendpoints = [{{ name = \"e{number}\", address = \"{address}\" }}]\n\
             health_check = {{ protocol = \"tcp\", port = {PROBE_PORT}, interval = \"10m\", timeout = \"2s\" }}\n",
            7000 + number,
        );
    }
    let edge = Edge::start(Some(&lab.edge), &config).unwrap();
    Scene { lab, edge, host, endpoints, _probed: probed }
}

/// With the endpoint one link away.
fn near() -> Scene {
    let lab = Lab::first_light().unwrap();
    let (host, endpoints) = (lab.region_a.namespace.clone(), [lab.region_a.ipv4(0).into(), lab.region_a.ipv6(0).into()]);
    scene(lab, host, endpoints)
}

/// With the endpoint behind region A, which forwards, over a link that takes [`SMALL_MTU`] at most.
fn behind_a_narrow_link() -> Scene {
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
    let endpoints = [Ipv4Addr::new(198, 18, 20, 2).into(), Ipv6Addr::new(0xfd00, 0x18, 0x20, 0, 0, 0, 0, 2).into()];
    scene(lab, host, endpoints)
}

impl Scene {
    /// Does `body` with a flow from each family of static IPs to each family of endpoints, in each direction.
    fn every_way(&self, adapted: bool, mut body: impl FnMut(&str, &UdpSocket, &UdpSocket)) {
        for client in [IpAddr::from(STATIC_IPV4[0]), STATIC_IPV6[0].into()] {
            for (number, endpoint) in (0..).zip(self.endpoints) {
                let flow = self.flow(client, number);
                if adapted {
                    adapt(&self.edge, &flow).unwrap();
                }
                for (direction, from, to) in flow.directions() {
                    body(&format!("{client} to {endpoint}, {direction}"), from, to);
                }
            }
        }
    }

    fn flow(&self, static_ip: IpAddr, number: u16) -> Flow {
        let client = self.lab.client.enter(|| bind(any(static_ip))).unwrap();
        let server = self.host.enter(|| bind((self.endpoints[usize::from(number)], PORT).into())).unwrap();
        Flow::begin(client, server, (static_ip, PORT + number).into()).unwrap()
    }
}

/// Marks of whole bundles, each heard before the next. An engine that adapts to bundles has reason to on the way.
fn carries_marks_of_bundles(from: &UdpSocket, to: &UdpSocket) -> bool {
    const PIECES: usize = 6;
    let mut buffer = [0; 200];
    let bundle = datagram(1, 100 * PIECES);
    cut_sends_into(from, 100).unwrap();
    let carried = (0..200).all(|number: u8| {
        set_ecn(from, number % 4).unwrap();
        from.send(&bundle).unwrap();
        (0..PIECES).all(|_| receive_ecn(to, &mut buffer).unwrap() == (100, number % 4))
    });
    cut_sends_into(from, 0).unwrap();
    carried
}

/// The marks of a burst: not ECN capable, ECT(0), ECT(1) and congestion experienced, in runs and alternating.
const MARKS: [u8; 16] = [2, 2, 2, 3, 2, 3, 2, 3, 0, 0, 2, 1, 1, 3, 3, 0];

fn send_marked(from: &UdpSocket) {
    for (number, mark) in MARKS.iter().enumerate() {
        set_ecn(from, *mark).unwrap();
        from.send(&datagram(number, 100)).unwrap();
    }
}

fn receive_marked(to: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 200];
    (0..MARKS.len()).map(|_| receive_ecn(to, &mut buffer).unwrap().1).collect()
}

/// A router on one side marks a packet, and the end on the other side must learn of it, or it never slows down. A bundle of datagrams
/// has one mark for all, so those with different marks must not be bundled.
#[test]
fn the_ecn_bits_of_every_datagram_are_carried_both_ways() {
    let scene = near();
    let mut wrong = Vec::new();
    scene.every_way(false, |way, from, to| {
        show_ecn(to).unwrap();
        send_marked(from);
        let marks = receive_marked(to);
        if marks != MARKS {
            wrong.push(format!("{way}: {marks:?}"));
        } else if !carries_marks_of_bundles(from, to) {
            wrong.push(format!("{way}: the marks of bundles"));
        }
    });
    assert!(wrong.is_empty(), "sent {MARKS:?}, but\n{}", wrong.join("\n"));
}

#[test]
fn bursts_pass_in_pieces_over_links_that_cut_them() {
    let scene = near();
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
    assert_eq!(drops(&scene.edge).unwrap(), 0.0);
}

/// Guards complaint 20. The first datagram that is too large for the narrow link is lost there; the router says so, and from then on the
/// edge's kernel cuts datagrams to fit.
///
/// EXPECTATION, to be adapted with the engine: what the router says costs no further datagram, and the lost one is counted, once, under
/// `datagram_too_big`. If the engine comes to cut datagrams from the first on (no path MTU discovery), none is lost and none counted.
#[test]
fn a_narrower_path_behind_the_edge_costs_one_datagram_which_is_counted() {
    const LOST_AND_COUNTED: f64 = 1.0;
    let scene = behind_a_narrow_link();
    let too_big = || scene.edge.metrics().unwrap().sum("landfall_drops_total", &[("reason", "datagram_too_big")]);
    let mut wrong = Vec::new();
    for (number, static_ip) in [(0, IpAddr::from(STATIC_IPV4[0])), (1, STATIC_IPV6[0].into())] {
        let (flow, before) = (scene.flow(static_ip, number), too_big());
        let endpoint = scene.endpoints[usize::from(number)].to_string();
        flow.client.send(&datagram(0, 1400)).unwrap();
        // The kernel has heard the router.
        let narrow = || scene.lab.edge.run(["ip", "route", "get", &endpoint]).unwrap().contains("mtu 1280");
        wait_until("the path's MTU at the edge", LIMIT, narrow).unwrap();

        let one_by_one: Vec<_> = (1..20).map(|number| datagram(number, 1400)).collect();
        for datagram in &one_by_one {
            flow.client.send(datagram).unwrap();
            let came = expect(&scene.edge, f64::INFINITY, &flow.server, std::slice::from_ref(datagram));
            if let Err(failure) = came {
                wrong.push(format!("{endpoint}: one by one: {failure}"));
            }
        }
        // A bundle of pieces that do not fit the path is refused by the kernel (EINVAL), so they must go one by one.
        cut_sends_into(&flow.client, 1400).unwrap();
        let bundle = datagram(99, 1400 * 40);
        flow.client.send(&bundle).unwrap();
        let pieces: Vec<_> = bundle.chunks(1400).map(<[u8]>::to_vec).collect();
        if let Err(failure) = expect(&scene.edge, f64::INFINITY, &flow.server, &pieces) {
            wrong.push(format!("{endpoint}: as a bundle: {failure}"));
        }
        let counted = too_big() - before;
        if counted != LOST_AND_COUNTED {
            wrong.push(format!("{endpoint}: {counted} datagrams were counted as too big, not {LOST_AND_COUNTED}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
