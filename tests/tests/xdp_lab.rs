//! The real binary with native XDP before TCX, on veth devices whose other ends are set up so that XDP may: checksums complete, frames
//! received by NAPI (`docs/OPERATIONS.md`).

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use landfall_tests::command::{failover_bound, landfall};
use landfall_tests::datagrams::{any, datagram};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::lab::{Lab, Namespace};
use landfall_tests::load::{Pinned, StopAtEnd};
use landfall_tests::path::{Families, turn};
use landfall_tests::stalls::DelayWatch;
use landfall_tests::wait::{self, wait_until};

const LIMIT: Duration = Duration::from_secs(10);
const SPACING: Duration = Duration::from_millis(10);
/// Datagrams that fit into a frame.
const WHOLE: [usize; 6] = [0, 1, 2, 63, 512, 1400];
const CUT: [usize; 2] = [3000, 9000];
const ROUNDS: usize = 20;

struct Scene {
    edge: Edge,
    endpoints: [Endpoint; 2],
    static_ip: IpAddr,
    lab: Lab,
}

fn config(families: Families, keys: &str, endpoints: &[Endpoint; 2]) -> String {
    let [a, b] = endpoints.each_ref().map(Endpoint::address);
    format!(
        "name = \"fast\"\nstatic_ips = [\"{}\"]\nhash_seed = 7\n[edge]\nname = \"lab\"\nadmin = \"127.0.0.1:9900\"\n\
         control = \"{{dir}}/control.sock\"\nnat_addresses = [\"198.18.2.1\", \"fd00:18:2::1\"]\nfast_path = \"on\"\n{keys}\n\
         [[listeners]]\nname = \"game\"\nprotocol = \"udp\"\nports = [7000]\nendpoint_groups = [\"both\"]\n\
         [[endpoint_groups]]\nname = \"both\"\nhealth_check = {{ protocol = \"udp\", port = 7000, send = \"ping\", \
         expect = \"pong\", interval = \"100ms\", fast_interval = \"50ms\", timeout = \"50ms\", unhealthy_threshold = 3 }}\n\
         endpoints = [{{ name = \"a\", address = \"{a}\" }}, {{ name = \"b\", address = \"{b}\" }}]\n",
        families.static_ips()[0],
    )
}

/// The lab as a router between real NICs would see it, and two endpoints.
fn lab(families: Families) -> (Lab, [Endpoint; 2]) {
    let lab = Lab::first_light().unwrap();
    for parameter in ["net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding"] {
        lab.edge.set(parameter, "1").unwrap();
    }
    for far in [&lab.client, &lab.region_a.namespace, &lab.region_b.namespace] {
        far.run("ethtool -K uplink tx off gro on".split(' ')).unwrap();
    }
    let endpoints = [("a", &lab.region_a), ("b", &lab.region_b)].map(|(name, region)| {
        Endpoint::start(Some(&region.namespace), Spec::echo(name, (families.endpoint(region, 0, false), 7000))).unwrap()
    });
    (lab, endpoints)
}

impl Scene {
    fn new(families: Families, keys: &str) -> Self {
        let (lab, endpoints) = lab(families);
        let edge = Edge::start(Some(&lab.edge), &config(families, keys, &endpoints)).unwrap();
        let healthy = |name| edge.health(name).unwrap().as_deref() == Some("healthy");
        wait_until("both endpoints healthy", LIMIT, || healthy("a") && healthy("b")).unwrap();
        Self { edge, endpoints, static_ip: families.static_ips()[0], lab }
    }

    fn target(&self) -> SocketAddr {
        (self.static_ip, 7000).into()
    }

    /// Packets carried so far by XDP, and by TCX.
    fn carried(&self) -> [f64; 2] {
        let metrics = self.edge.metrics().unwrap();
        ["xdp", "tcx"].map(|hook| metrics.value("landfall_fast_path_packets_total", &[("hook", hook)]).unwrap_or(0.0))
    }

    /// The packets that XDP and TCX carried since `before`, once they are `all`.
    fn carried_since(&self, before: [f64; 2], all: f64) -> [f64; 2] {
        let since = || [0, 1].map(|hook| self.carried()[hook] - before[hook]);
        // Err: judged by the caller.
        let _ = wait_until("the packets counted", LIMIT, || since().iter().sum::<f64>() >= all);
        since()
    }

    /// Sends datagrams of these sizes, and gets each of them back.
    fn echo(&self, sizes: &[usize], rounds: usize) {
        let socket = self.lab.client.enter(|| UdpSocket::bind(any(self.static_ip)).unwrap());
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.connect(self.target()).unwrap();
        for number in 0..rounds * sizes.len() {
            let question = datagram(number, sizes[number % sizes.len()]);
            socket.send(&question).unwrap();
            let mut answer = vec![0; 1 << 16];
            let length = socket.recv(&mut answer).unwrap();
            assert!(answer[..length].ends_with(&question) && length == question.len() + 2, "{} bytes: {length}", question.len());
        }
    }

    fn status(&self) -> String {
        let control = self.edge.directory().join("control.sock");
        landfall(["status", "--control", control.to_str().unwrap()]).unwrap().stdout
    }
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

#[test]
fn xdp_carries_whole_datagrams_and_tcx_the_rest() {
    let _turn = turn();
    for families in [Families::V4, Families::V6] {
        let scene = Scene::new(families, "fast_path_xdp = \"on\"");
        for device in ["clients", "region-a", "region-b"] {
            assert!(scene.status().contains(&format!("fast path device {device}: xdp+tcx\n")), "{}", scene.status());
        }
        // The first packets may have to wait for neighbours, which only TCX does.
        scene.echo(&WHOLE, 1);
        scene.carried_since([0.0; 2], number(2 * WHOLE.len()));
        let before = scene.carried();
        scene.echo(&WHOLE, ROUNDS);
        let all = number(2 * ROUNDS * WHOLE.len());
        assert_eq!(scene.carried_since(before, all), [all, 0.0], "{families:?}");

        let before = scene.carried();
        scene.echo(&CUT, 1);
        let fragments = number(2 * (3 + 7));
        assert_eq!(scene.carried_since(before, fragments), [0.0, fragments], "{families:?}");
        assert_eq!(scene.edge.metrics().unwrap().sum("landfall_drops_total", &[]), 0.0);
    }
}

#[test]
fn xdp_follows_a_device_that_changes_its_address() {
    let _turn = turn();
    let scene = Scene::new(Families::V4, "fast_path_xdp = \"on\"");
    scene.echo(&WHOLE, 1);
    scene.lab.edge.ip("link set clients address 02:00:00:00:07:07\n").unwrap();
    scene.lab.client.ip("neighbour flush dev uplink\n").unwrap();
    wait_until("XDP at the new address", LIMIT, || {
        let before = scene.carried();
        scene.echo(&WHOLE, 1);
        let all = number(2 * WHOLE.len());
        scene.carried_since(before, all) == [all, 0.0]
    })
    .unwrap();
}

#[test]
fn the_flows_of_a_dead_endpoint_are_answered_elsewhere_within_the_bound() {
    let _turn = turn();
    let mut scene = Scene::new(Families::V4, "fast_path_xdp = \"on\"");
    let bound = failover_bound(&scene.edge.config_path(), "both").unwrap();
    let (stop, told) = (AtomicBool::new(false), AtomicUsize::new(0));
    let open = |_| Pinned::open("198.18.1.2:0".parse().unwrap(), scene.target()).unwrap();
    let mut load: Vec<_> = scene.lab.client.enter(|| (0..32).map(open).collect());
    let doomed = load.iter().filter(|flow| flow.endpoint == "a").count();
    assert!(doomed > 0 && doomed < load.len(), "{doomed} of {}", load.len());
    let watch = DelayWatch::start(scene.edge.pid()).unwrap();
    let before = wait::now();
    std::thread::scope(|scope| {
        for flow in &mut load {
            let (stop, told) = (&stop, &told);
            scope.spawn(move || flow.talk_until(stop, SPACING, told));
        }
        // What fails below must not leave the load running.
        let _stopped = StopAtEnd(&stop);
        scene.endpoints[0].kill().unwrap();
        wait_until("every flow of the dead answered elsewhere", LIMIT, || told.load(Ordering::Relaxed) >= doomed).unwrap();
    });
    let victims = || load.iter().filter(|flow| flow.endpoint == "a");
    let died = victims().map(|flow| flow.last_answer).fold(before, Instant::max);
    let took = victims().map(|flow| flow.moved.as_ref().unwrap().1).max().unwrap().saturating_duration_since(died);
    let delay = watch.so_far().unwrap();
    assert!(took <= bound + SPACING + delay.stall, "{took:?}, bound {bound:?}, {delay}");
    let [xdp, tcx] = scene.carried_since([0.0; 2], 1.0);
    assert!(xdp > 10.0 * tcx, "XDP carried {xdp} packets, TCX {tcx}");
}

#[test]
fn auto_leaves_a_veth_to_tcx_and_on_refuses_to_start_where_it_cannot() {
    let _turn = turn();
    let scene = Scene::new(Families::V4, "");
    let line = "fast path device clients: tcx, without XDP: it is a device of the driver veth";
    assert!(scene.status().contains(line), "{}", scene.status());
    scene.echo(&WHOLE, 1);
    let all = number(2 * WHOLE.len());
    assert_eq!(scene.carried_since([0.0; 2], all), [0.0, all]);
    drop(scene);

    let off = Scene::new(Families::V4, "fast_path_xdp = \"off\"");
    assert!(off.status().contains("fast path device clients: tcx\n"), "{}", off.status());
    drop(off);

    let (lab, endpoints) = lab(Families::V4);
    // More than a page, which native XDP does not take from a veth.
    let jumbo = |host: &Namespace, device: &str| host.ip(&format!("link set {device} mtu 9000\n")).unwrap();
    jumbo(&lab.client, "uplink");
    jumbo(&lab.edge, "clients");
    let mut edge = Edge::launch(Some(&lab.edge), &config(Families::V4, "fast_path_xdp = \"on\"", &endpoints)).unwrap();
    assert_eq!(edge.wait_exit(LIMIT).unwrap().code(), Some(1));
    for said in ["fast_path = \"on\" asks for the kernel", "clients", "its driver takes no native XDP program"] {
        assert!(edge.log().contains(said), "{}", edge.log());
    }
}
