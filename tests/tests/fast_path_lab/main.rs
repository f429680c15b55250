//! The real binary with the fast path off and on: the same traffic, a counter that tells which path carried it, and what only the kernel
//! path could get wrong.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

mod attachments;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use landfall_tests::clients::UdpFlow;
use landfall_tests::command::{Ended, failover_bound, landfall};
use landfall_tests::datagrams::{any, datagram};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::lab::{Lab, STATIC_IPV4, STATIC_IPV6};
use landfall_tests::load::{Pinned, StopAtEnd};
use landfall_tests::stalls::{Delay, DelayWatch};
use landfall_tests::wait::{self, wait_until};

const LIMIT: Duration = Duration::from_secs(10);
/// Between two datagrams of a flow under load.
const SPACING: Duration = Duration::from_millis(10);
const PORTS: [u16; 4] = [7000, 7100, 7150, 7199];
const SIZES: [usize; 9] = [0, 1, 2, 63, 512, 1200, 1400, 3000, 9000];

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

    fn nat(self) -> &'static str {
        match self {
            Self::V4 => "198.18.2.1",
            Self::V6 => "fd00:18:2::1",
        }
    }
}

/// What a test changes of the config.
#[derive(Clone, Copy)]
struct Wanted {
    family: Family,
    /// Lines of `[edge]` and of the listener.
    edge: &'static str,
    listener: &'static str,
    weights: [u8; 2],
}

impl Default for Wanted {
    fn default() -> Self {
        Self { family: Family::V4, edge: "fast_path = \"on\"", listener: "forwarding = \"kernel\"", weights: [128, 128] }
    }
}

fn config(wanted: Wanted, endpoints: [IpAddr; 2]) -> String {
    let Wanted { family, edge, listener, weights } = wanted;
    let [one, two] = family.static_ips();
    let entry = |name: &str, ip: IpAddr, weight: u8| {
        format!("{{ name = \"{name}\", address = \"{}\", weight = {weight} }}", SocketAddr::new(ip, 7000))
    };
    format!(
        "name = \"fast\"\nstatic_ips = [\"{one}\", \"{two}\"]\nhash_seed = 7\n[edge]\nname = \"lab\"\nworkers = 2\n\
         admin = \"127.0.0.1:9900\"\ncontrol = \"{{dir}}/control.sock\"\ndrain_timeout = \"5s\"\nnat_addresses = [\"{}\"]\n{edge}\n\
         [[listeners]]\nname = \"game\"\nprotocol = \"udp\"\nports = [7000, \"7100-7199\"]\nidle_timeout = \"3s\"\n{listener}\n\
         endpoint_groups = [\"both\"]\n[[endpoint_groups]]\nname = \"both\"\nfailback = {{ hold = \"0s\", ramp = \"0s\" }}\n\
         health_check = {{ protocol = \"udp\", port = 7000, send = \"ping\", expect = \"pong\", interval = \"100ms\", \
         fast_interval = \"50ms\", timeout = \"50ms\", unhealthy_threshold = 3 }}\nendpoints = [{}, {}]\n",
        family.nat(),
        entry("a", endpoints[0], weights[0]),
        entry("b", endpoints[1], weights[1]),
    )
}

struct Scene {
    edge: Edge,
    endpoints: [Endpoint; 2],
    wanted: Wanted,
    lab: Lab,
}

impl Scene {
    fn new(wanted: Wanted) -> Self {
        let (lab, endpoints) = router(wanted.family);
        let edge = Edge::start(Some(&lab.edge), &config(wanted, endpoints.each_ref().map(|e| e.address().ip()))).unwrap();
        Self { edge, endpoints, wanted, lab }
    }

    fn config(&self, wanted: Wanted) -> String {
        config(wanted, self.endpoints.each_ref().map(|endpoint| endpoint.address().ip()))
    }

    fn target(&self, ip: usize, port: u16) -> SocketAddr {
        (self.wanted.family.static_ips()[ip], port).into()
    }

    fn flow(&self, target: SocketAddr) -> UdpFlow {
        self.lab.client.enter(|| UdpFlow::open(client_of(self.wanted.family), target)).unwrap()
    }

    fn opened(&self, path: &str) -> f64 {
        self.edge.metrics().unwrap().sum("landfall_flows_opened_total", &[("path", path)])
    }

    fn ask(&self, words: &[&str]) -> Ended {
        let control = self.edge.directory().join("control.sock");
        landfall(words.iter().copied().chain(["--control", control.to_str().unwrap()])).unwrap()
    }
}

/// The lab with an edge that forwards, and two endpoints in two regions.
fn router(family: Family) -> (Lab, [Endpoint; 2]) {
    let lab = Lab::first_light().unwrap();
    for parameter in ["net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding"] {
        lab.edge.set(parameter, "1").unwrap();
    }
    let endpoints = [("a", &lab.region_a), ("b", &lab.region_b)].map(|(name, region)| {
        let ip = match family {
            Family::V4 => IpAddr::V4(region.ipv4(0)),
            Family::V6 => IpAddr::V6(region.ipv6(0)),
        };
        Endpoint::start(Some(&region.namespace), Spec::echo(name, (ip, 7000))).unwrap()
    });
    (lab, endpoints)
}

/// The client's address, and any port.
fn client_of(family: Family) -> SocketAddr {
    match family {
        Family::V4 => "198.18.1.2:0".parse().unwrap(),
        Family::V6 => "[fd00:18:1::2]:0".parse().unwrap(),
    }
}

/// Datagrams of many sizes to all ports tried of both static IPs; each comes back whole from where it was sent.
fn traffic(scene: &Scene) -> usize {
    let targets: Vec<_> = PORTS.iter().flat_map(|&port| [scene.target(0, port), scene.target(1, port)]).collect();
    for &target in &targets {
        let socket = scene.lab.client.enter(|| UdpSocket::bind(any(target.ip())).unwrap());
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.connect(target).unwrap();
        for (number, size) in SIZES.into_iter().enumerate() {
            let question = datagram(number, size);
            socket.send(&question).unwrap();
            let mut answer = vec![0; 1 << 16];
            let length = socket.recv(&mut answer).unwrap();
            assert!(answer[..length].ends_with(&question) && length == size + 2, "{size} bytes to {target}: {length} came back");
        }
    }
    targets.len()
}

#[test]
fn the_same_traffic_passes_with_the_fast_path_off_and_on() {
    for family in [Family::V4, Family::V6] {
        for (edge, listener, path, other) in [
            ("fast_path = \"off\"", "", "user", "kernel"),
            ("", "", "kernel", "user"),
            ("fast_path = \"on\"", "forwarding = \"kernel\"", "kernel", "user"),
        ] {
            let scene = Scene::new(Wanted { family, edge, listener, ..Wanted::default() });
            let flows = traffic(&scene);
            let flows = f64::from(u32::try_from(flows).unwrap());
            wait_until("the flows counted", LIMIT, || scene.opened(path) >= flows).unwrap();
            assert_eq!((scene.opened(path), scene.opened(other)), (flows, 0.0), "{family:?} {path}");
            let metrics = scene.edge.metrics().unwrap();
            assert_eq!(metrics.sum("landfall_drops_total", &[]), 0.0, "{}", metrics.text());
            let status = scene.edge.status().unwrap();
            assert_eq!(status["listeners"][0]["forwarding"], path, "{status:#}");
            let attached = metrics.sum("landfall_fast_path_attached", &[]);
            assert_eq!(attached, if path == "kernel" { 3.0 } else { 0.0 }, "{}", scene.edge.log());
        }
    }
}

/// Flows that talk until each of those at `victim` was answered elsewhere; how long that took after `kill`, and what delays excuse.
fn fail_over(scene: &Scene, flows: usize, victim: &str, kill: impl FnOnce()) -> (Duration, Delay) {
    let (stop, told) = (AtomicBool::new(false), AtomicUsize::new(0));
    let open = |number: usize| Pinned::open(client_of(scene.wanted.family), scene.target(number % 2, PORTS[number % 4])).unwrap();
    let mut load: Vec<_> = scene.lab.client.enter(|| (0..flows).map(open).collect());
    let doomed = load.iter().filter(|flow| flow.endpoint == victim).count();
    assert!(doomed > 0 && doomed < flows, "{doomed} of {flows}");
    let watch = DelayWatch::start(scene.edge.pid()).unwrap();
    let before = wait::now();
    std::thread::scope(|scope| {
        for flow in &mut load {
            let (stop, told) = (&stop, &told);
            scope.spawn(move || flow.talk_until(stop, SPACING, told));
        }
        // What fails below must not leave the load running.
        let _stopped = StopAtEnd(&stop);
        kill();
        wait_until("every flow of the dead answered elsewhere", LIMIT, || told.load(Ordering::Relaxed) >= doomed).unwrap();
    });
    let victims = || load.iter().filter(|flow| flow.endpoint == victim);
    let died = victims().map(|flow| flow.last_answer).fold(before, Instant::max);
    let last = victims().map(|flow| flow.moved.as_ref().unwrap().1).max().unwrap();
    assert!(load.iter().filter(|flow| flow.endpoint != victim).all(|flow| flow.moved.is_none()), "the others stay");
    (last.saturating_duration_since(died), watch.so_far().unwrap())
}

#[test]
fn every_flow_of_a_dead_endpoint_is_answered_elsewhere_within_the_bound() {
    let mut scene = Scene::new(Wanted::default());
    let bound = failover_bound(&scene.edge.config_path(), "both").unwrap();
    let healthy = |edge: &Edge| edge.health("a").unwrap().as_deref() == Some("healthy");

    let silence = std::cell::OnceCell::new();
    let (took, delay) = fail_over(&scene, 32, "a", || {
        assert!(
            silence.set(scene.lab.silence_addresses(&scene.lab.region_a, &[scene.endpoints[0].address().ip()]).unwrap()).is_ok()
        );
    });
    println!("silent: {took:?} of {bound:?}, {delay}");
    assert!(took <= bound + SPACING + delay.stall, "silent death: {took:?}, bound {bound:?}, {delay}");
    silence.into_inner().unwrap().lift().unwrap();
    wait_until("the return of the silent", LIMIT, || healthy(&scene.edge)).unwrap();

    let Scene { edge, endpoints: [victim, other], wanted, lab } = scene;
    let victim = std::sync::Mutex::new(victim);
    let spare = Endpoint::start(Some(&lab.region_b.namespace), Spec::echo("spare", (lab.region_b.ipv4(3), 7000))).unwrap();
    scene = Scene { edge, endpoints: [spare, other], wanted, lab };
    let (took, delay) = fail_over(&scene, 32, "a", || {
        victim.lock().unwrap().kill().unwrap();
    });
    println!("refused: {took:?} of {bound:?}, {delay}");
    assert!(took <= bound + SPACING + delay.stall, "refused death: {took:?}, bound {bound:?}, {delay}");

    let moved = || scene.edge.metrics().unwrap().sum("landfall_flows_moved_total", &[]);
    wait_until("the moves counted", LIMIT, || moved() >= 2.0).unwrap();
    assert_eq!(scene.opened("user"), 0.0);
    // A flow counts at each endpoint that it was pinned to.
    let pinned = || {
        let metrics = scene.edge.metrics().unwrap();
        let sum = |family: &str| metrics.sum(family, &[]);
        sum("landfall_endpoint_flows_opened_total") == sum("landfall_flows_opened_total") + sum("landfall_flows_moved_total")
    };
    wait_until("the flows of each endpoint counted", LIMIT, pinned).unwrap();
}

/// New flows in a row, and the endpoints that answer them.
fn landings(scene: &Scene, flows: usize) -> Vec<String> {
    let target = scene.target(0, 7000);
    (0..flows).map(|_| scene.flow(target).exchange(LIMIT).unwrap().endpoint).collect()
}

#[test]
fn weights_reloads_and_lists_take_effect_without_loss() {
    let scene = Scene::new(Wanted::default());
    let mut flow = scene.flow(scene.target(0, 7000));
    let home = flow.exchange(LIMIT).unwrap().endpoint;

    assert_eq!(scene.ask(&["weight", &home, "0"]).status, Some(0));
    assert!(landings(&scene, 32).iter().all(|landed| *landed != home), "a weight of 0 takes no new flow");
    assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, home, "a flow stays where it was");
    assert_eq!(scene.ask(&["weight", &home, "128"]).status, Some(0));

    // Each exchange awaits its own answer, so a datagram lost fails it.
    for round in 0..20u8 {
        scene.edge.rewrite_config(&scene.config(Wanted { weights: [1 + round * 7, 255 - round], ..scene.wanted })).unwrap();
        assert_eq!(scene.ask(&["reload"]).status, Some(0), "{}", scene.edge.log());
        for _ in 0..20 {
            assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, home);
        }
        landings(&scene, 4);
    }
    let metrics = scene.edge.metrics().unwrap();
    assert_eq!(metrics.sum("landfall_drops_total", &[]), 0.0, "{}", metrics.text());

    let denied = scene.config(Wanted { listener: "forwarding = \"kernel\"\ndeny = [\"198.18.1.0/24\"]", ..scene.wanted });
    scene.edge.rewrite_config(&denied).unwrap();
    assert_eq!(scene.ask(&["reload"]).status, Some(0));
    let mut refused = scene.flow(scene.target(0, 7000));
    refused.send().unwrap();
    let count = || scene.edge.metrics().unwrap().sum("landfall_drops_total", &[("reason", "denied")]);
    wait_until("a packet that is denied", LIMIT, || count() == 1.0).unwrap();
    assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, home, "flows that were admitted go on");
}

#[test]
fn a_reload_that_needs_user_space_is_refused() {
    let scene = Scene::new(Wanted { listener: "", edge: "", ..Wanted::default() });
    let other = [scene.lab.region_a.ipv6(0).into(), scene.endpoints[1].address().ip()];
    scene.edge.rewrite_config(&config(scene.wanted, other)).unwrap();
    let ended = scene.ask(&["reload"]);
    assert_eq!(ended.status, Some(78), "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("the kernel forwards listener game, and could not any more: a static IP is IPv4, and endpoint a is not"),
        "{ended:?}"
    );
}

#[test]
fn explain_agrees_with_where_flows_land_and_finds_them() {
    let scene = Scene::new(Wanted::default());
    let mut flows = Vec::new();
    for number in 0..16 {
        let target = scene.target(number % 2, PORTS[number % 4]);
        let mut flow = scene.flow(target);
        let landed = flow.exchange(LIMIT).unwrap().endpoint;
        let (client, to_text) = (flow.source().unwrap().to_string(), target.to_string());
        let asked = ["explain", "--edge", "--json", "--protocol", "udp", "--client", &client, "--to", &to_text];
        let told: serde_json::Value = serde_json::from_str(&scene.ask(&asked).stdout).unwrap();
        assert_eq!(told["endpoint"], landed, "{told:#}");
        assert_eq!(told["flow"], serde_json::json!({ "exists": true, "endpoint": landed, "group": "both" }), "{told:#}");
        let listed: serde_json::Value = serde_json::from_str(&scene.ask(&["flows", "--json", "--limit", "1000"]).stdout).unwrap();
        let listed = listed.as_array().unwrap().iter().find(|flow| flow["client"] == client.as_str()).unwrap().clone();
        let (path, endpoint, to) = (&listed["path"], &listed["endpoint"], &listed["to"]);
        assert_eq!((path, endpoint, to), (&"kernel".into(), &told["endpoint"], &to_text.as_str().into()), "{listed:#}");
        flows.push(flow);
    }
    let listed = |status: &serde_json::Value| -> u64 {
        let endpoints = status["endpoint_groups"][0]["endpoints"].as_array().unwrap();
        endpoints.iter().filter_map(|endpoint| endpoint["flows_active"].as_u64()).sum()
    };
    wait_until("the flows in /status", LIMIT, || listed(&scene.edge.status().unwrap()) == 16).unwrap();
    wait_until("their end", LIMIT, || listed(&scene.edge.status().unwrap()) == 0).unwrap();
    let closed = scene.edge.metrics().unwrap().sum("landfall_flows_closed_total", &[("reason", "idle_timeout")]);
    assert_eq!(closed, 16.0);
}

#[test]
fn an_edge_that_stops_serves_its_flows_to_their_end_and_takes_no_new_one() {
    let mut scene = Scene::new(Wanted::default());
    let mut flow = scene.flow(scene.target(0, 7000));
    flow.exchange(LIMIT).unwrap();
    scene.edge.signal(libc::SIGTERM).unwrap();
    let dropped = || scene.edge.metrics().unwrap().sum("landfall_drops_total", &[("reason", "draining")]);
    let mut late = scene.flow(scene.target(0, 7000));
    wait_until("a new flow refused", LIMIT, || {
        late = scene.flow(scene.target(0, 7000));
        late.send().unwrap();
        dropped() > 0.0
    })
    .unwrap();
    flow.exchange(LIMIT).unwrap();
    assert!(scene.edge.wait_exit(LIMIT).unwrap().success(), "{}", scene.edge.log());
    refused_by_the_host(&scene);
}

/// The host itself answers, that no socket is there: no program takes the packets any more.
fn refused_by_the_host(scene: &Scene) {
    let target = scene.target(0, 7000);
    let socket = scene.lab.client.enter(|| UdpSocket::bind(any(target.ip())).unwrap());
    socket.connect(target).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    wait_until("a refusal by the host", LIMIT, || {
        let asked = socket.send(b"anyone?").and_then(|_| socket.recv(&mut [0; 16]));
        asked.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    })
    .unwrap();
}

#[test]
fn without_privilege_auto_goes_on_in_user_space_and_on_refuses() {
    let (lab, endpoints) = router(Family::V4);
    let ips = endpoints.each_ref().map(|endpoint| endpoint.address().ip());
    let why = "the process may not load programs into the kernel";
    let auto = Wanted { edge: "fast_path = \"auto\"", listener: "", ..Wanted::default() };
    let mut edge = Edge::launch_unprivileged(Some(&lab.edge), &config(auto, ips)).unwrap();
    edge.wait_ready(LIMIT).unwrap();
    let said = format!("all packets are forwarded in user space: {why}");
    assert_eq!(edge.log().matches(&said).count(), 1, "{}", edge.log());
    let scene = Scene { edge, endpoints, wanted: auto, lab };
    traffic(&scene);
    assert_eq!(scene.opened("user"), 8.0);
    let status = scene.ask(&["status"]).stdout;
    assert!(status.contains(&format!("forwarding: user, because {why}")), "{status}");
    drop(scene.edge);

    for (wanted, key) in [
        (Wanted { edge: "fast_path = \"on\"", listener: "", ..auto }, "fast_path = \"on\""),
        (Wanted { edge: "", listener: "forwarding = \"kernel\"", ..auto }, "forwarding = \"kernel\" of listener game"),
    ] {
        let mut edge = Edge::launch_unprivileged(Some(&scene.lab.edge), &config(wanted, ips)).unwrap();
        assert_eq!(edge.wait_exit(LIMIT).unwrap().code(), Some(1));
        assert!(
            edge.log().contains(&format!("landfall: {key} asks for the kernel, which cannot forward: {why}")),
            "{}",
            edge.log()
        );
    }
}
