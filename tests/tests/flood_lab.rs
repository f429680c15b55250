//! Floods: live clients hardly notice, new ones are served, and memory stays where it is.
//!
//! Guards complaint 19. `LANDFALL_LONG_TESTS=1` makes the flood of datagrams come from 1,000,000 sources, at 50,000 a second to the kernel's path.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use landfall_tests::clients::TcpSession;
use landfall_tests::conformance::long;
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Protocol, Spec};
use landfall_tests::flood::{Flood, HonestServer, Live, Newcomers, datagram, source, syn};
use landfall_tests::lab::{Lab, STATIC_IPV4};
use landfall_tests::load::StopAtEnd;
use landfall_tests::on_both_paths;
use landfall_tests::path::{self, Path};
use landfall_tests::wait::{Beat, wait_until};

const LIMIT: Duration = Duration::from_secs(5);
const TARGET: SocketAddrV4 = SocketAddrV4::new(STATIC_IPV4[0], 7000);
/// Packets a second.
const RATE: u32 = 20_000;
/// Far fewer than a flood has sources, and enough for 0.4 s of it.
const MAX_FLOWS: usize = 8000;
const LIVE_FLOWS: usize = 8;
const BEAT: Duration = Duration::from_millis(20);
/// What live and new clients must keep.
const SHARE: f64 = 0.9;
/// 2 kB of user space for each UDP flow there may be, twice over for the allocator, and as much again for everything else.
const GROWTH: u64 = 64 << 20;

struct Scene {
    lab: Lab,
    edge: Edge,
    _tcp: Endpoint,
    _udp: HonestServer,
}

on_both_paths!(datagrams_from_nowhere_take_no_place_from_clients);

fn scene(path: Path) -> Scene {
    let lab = Lab::first_light().unwrap();
    let (region, ip) = (&lab.region_a.namespace, lab.region_a.ipv4(0));
    let tcp = Endpoint::start(Some(region), Spec::echo("e", (ip, TARGET.port())).protocol(Protocol::Tcp)).unwrap();
    let udp = HonestServer::start(region, (ip, TARGET.port()).into()).unwrap();
    let config = format!(
        "name = \"flood\"\nstatic_ips = [\"{}\"]\nhash_seed = 7\n[edge]\nname = \"lab\"\nadmin = \"127.0.0.1:9900\"\n\
         control = \"{{dir}}/control.sock\"\n[[listeners]]\nname = \"l\"\nprotocol = \"tcp_udp\"\nports = [{}]\n\
         limits = {{ max_flows = {MAX_FLOWS} }}\nendpoint_groups = [\"g\"]\n[[endpoint_groups]]\nname = \"g\"\n\
         endpoints = [{{ name = \"e\", address = \"{ip}\" }}]\nhealth_check = {{ protocol = \"tcp\" }}\n",
        TARGET.ip(),
        TARGET.port()
    );
    Scene { edge: path.start(&lab.edge, &config).unwrap(), lab, _tcp: tcp, _udp: udp }
}

impl Scene {
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.edge.metrics().unwrap().sum(name, labels)
    }

    fn live(&self) -> Live {
        let mut live = Live::begin(&self.lab.client, TARGET.into(), LIVE_FLOWS).unwrap();
        live.fresh();
        live
    }

    fn connect(&self) -> Result<(), String> {
        let served = self.lab.client.enter(|| TcpSession::open(None, SocketAddr::from(TARGET), LIMIT)?.exchange(b"hello"));
        served.map_err(|failure| failure.to_string())
    }

    /// Lets live clients talk, one datagram client and one connection come a beat, until `goes_on` says no. Returns what they may complain of.
    fn judge(&self, mut live: Live, goes_on: impl Fn() -> bool) -> Vec<&'static str> {
        let before = self.edge.resident_bytes().unwrap();
        let mut newcomers = Newcomers::to(TARGET.into());
        let stop = AtomicBool::new(false);
        let (connections, most) = std::thread::scope(|scope| {
            let end = StopAtEnd(&stop);
            let connections = scope.spawn(|| {
                let (mut beat, mut connections) = (Beat::every(BEAT), Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    beat.wait();
                    connections.push(self.connect());
                }
                connections
            });
            let (mut beat, mut most) = (Beat::every(BEAT), before);
            while goes_on() {
                beat.wait();
                live.talk();
                newcomers.come(&self.lab.client).unwrap();
                most = most.max(self.edge.resident_bytes().unwrap());
            }
            drop(end);
            (connections.join().unwrap(), most)
        });
        let enough = |part: usize, all: usize| part * 100 >= all * 90;
        // Err: judged below.
        let _ = live.settle(SHARE);
        let _ = wait_until("the newcomers", LIMIT, || {
            newcomers.listen();
            enough(newcomers.served, newcomers.came)
        });
        let connected = connections.iter().filter(|connection| connection.is_ok()).count();
        println!("live: {} of {} messages answered; lost flows: {:?}", live.answered, live.sent, live.lost);
        println!(
            "new: {} of {} datagrams answered, {connected} of {} connections",
            newcomers.served,
            newcomers.came,
            connections.len()
        );
        println!("memory: {} kB, at most {} kB more", before >> 10, (most - before) >> 10);
        println!("{:?}", connections.iter().find(|connection| connection.is_err()));
        let judgements = [
            (live.lost.is_empty(), "flows that were answered are never given up"),
            (live.answered * 100 >= live.sent * 90, "messages of live clients"),
            (enough(newcomers.served, newcomers.came), "new datagram clients"),
            (enough(connected, connections.len()), "new connections"),
            (most - before < GROWTH, "memory"),
        ];
        judgements.iter().filter(|(holds, _)| !holds).map(|(_, what)| *what).collect()
    }
}

#[test]
fn connection_requests_from_nowhere_do_not_hinder_clients() {
    let _turn = path::turn();
    let scene = scene(Path::User);
    let live = scene.live();
    let opened = || scene.sum("landfall_flows_opened_total", &[("protocol", "tcp")]);
    let flood = Flood::start(&scene.lab.client, RATE, u64::from(RATE) * 3, |number| syn(source(number), TARGET)).unwrap();
    let complaints = scene.judge(live, || flood.runs());
    let (sent, _) = flood.finish().unwrap();
    let cookies = scene.lab.edge.run(["nstat", "-asz", "TcpExtSyncookiesSent"]).unwrap_or_default();
    println!("{sent} requests were sent; {cookies}");
    assert_eq!(sent, u64::from(RATE) * 3, "the flood was the whole one");
    assert!(opened() < f64::from(RATE), "what never becomes a connection is no flow");
    assert_eq!(complaints, [""; 0]);
}

/// The default `unanswered_timeout` of 5 s is in force: 100,000 flows at this rate, were there room for them.
fn datagrams_from_nowhere_take_no_place_from_clients(path: Path) {
    let sources = if long() { 1_000_000 } else { 100_000 };
    let _turn = path::turn();
    let scene = scene(path);
    let live = scene.live();
    let rate = if path == Path::Kernel && long() { 50_000 } else { RATE };
    let flood = Flood::start(&scene.lab.client, rate, sources, |number| datagram(source(number), TARGET, b"noise")).unwrap();
    let complaints = scene.judge(live, || flood.runs());
    let (sent, reached) = flood.finish().unwrap();
    println!("{sent} datagrams were sent, {reached:.0} a second");
    assert_eq!(sent, sources, "the flood was the whole one");
    assert!(reached > 0.95 * f64::from(rate), "the flood was no flood: {reached} a second");

    let count = |name: &str, labels: &[(&str, &str)]| scene.sum(name, &[labels, &[("protocol", "udp")]].concat());
    let evicted = count("landfall_flows_closed_total", &[("reason", "evicted")]);
    let (opened, closed) = (count("landfall_flows_opened_total", &[]), count("landfall_flows_closed_total", &[]));
    println!("{opened} flows opened, {closed} closed, of which {evicted} made room");
    path.assert_carried_all(&scene.edge);
    assert!(evicted <= closed && closed <= opened, "each flow is closed once");
    assert!(evicted > 0.0, "more sources than there is room for");
    // What nobody answers is soon forgotten, long before the idle timeout of 30 s; the clients' own flows stay, newcomers included.
    let most = if long() { 3000.0 } else { 1000.0 };
    wait_until("the end of unanswered flows", 2 * LIMIT, || count("landfall_flows_active", &[]) < most).unwrap();
    assert!(count("landfall_flows_active", &[]) >= 8.0, "flows that were answered stay");
    assert_eq!(complaints, [""; 0]);
}

#[test]
fn connections_that_come_and_go_do_not_hinder_clients() {
    const THREADS: usize = 3;
    const EACH: usize = 4000;
    let _turn = path::turn();
    let scene = scene(Path::User);
    let live = scene.live();
    let running = std::sync::atomic::AtomicUsize::new(THREADS);
    let served = std::thread::scope(|scope| {
        let churn = |_| {
            scope.spawn(|| {
                let served = scene.lab.client.enter(|| (0..EACH).filter(|&number| come_and_go(number).is_some()).count());
                running.fetch_sub(1, Ordering::Relaxed);
                served
            })
        };
        let threads: Vec<_> = (0..THREADS).map(churn).collect();
        let complaints = scene.judge(live, || running.load(Ordering::Relaxed) > 0);
        assert_eq!(complaints, [""; 0]);
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert_eq!(served, THREADS * EACH, "every connection is served");
    let active = || scene.sum("landfall_flows_active", &[("protocol", "tcp")]);
    wait_until("the end of all connections", LIMIT, || active() == 0.0).unwrap();
}

/// Half of them end in order, the others abort.
fn come_and_go(number: usize) -> Option<()> {
    let mut session = TcpSession::open(None, SocketAddr::from(TARGET), LIMIT).ok()?;
    session.exchange(b"hello").ok()?;
    if number.is_multiple_of(2) { session.finish().map(drop).ok() } else { session.abort().ok() }
}
