//! Deaths of endpoints under load, at random moments, against the bound that `landfall check` prints.
//!
//! Several pairs of endpoints die and come back side by side, in three ways: killed, silenced, stopped. Each death has its own
//! load: new TCP connections all the time, idle and busy TCP connections, UDP flows. `LANDFALL_DEATHS` says how many of each kind.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use landfall_tests::clients::TcpSession;
use landfall_tests::command::failover_bound;
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::lab::{Lab, Region, STATIC_IPV4, Silence};
use landfall_tests::load::{Busy, Connection, Idle, Pinned, StopAtEnd, connect_until};
use landfall_tests::on_both_paths;
use landfall_tests::path::{self, Path};
use landfall_tests::stalls::{StallWatch, Waits};
use landfall_tests::wait::{self, wait_until};

const LIMIT: Duration = Duration::from_secs(5);
const PAIRS: u8 = 4;
/// Of each kind, over all pairs, unless `LANDFALL_DEATHS` says otherwise.
const DEATHS: usize = 20;
/// Between two datagrams of a flow, and two messages of a busy connection.
const SPACING: Duration = Duration::from_millis(10);
/// Between two new connections.
const CONNECT_SPACING: Duration = Duration::from_millis(7);
/// The longest interval of the probes: a death falls anywhere into it.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
/// Of each kind of flow, on each endpoint.
const FLOWS: usize = 2;
/// New connections that must pass after everything else has failed over.
const CONNECTIONS_AFTERWARDS: usize = 10;

on_both_paths!(every_death_is_told_within_the_printed_bound);

fn config(path: Path, lab: &Lab) -> String {
    let mut text = r#"
name = "failover"
static_ips = ["198.18.0.1", "198.18.0.2"]
hash_seed = 7
[edge]
name = "lab"
admin = "127.0.0.1:9900"
control = "{dir}/control.sock"
"#
    .to_owned();
    for pair in 0..PAIRS {
        let port = port(pair);
        let (a, b) = (lab.region_a.ipv4(pair), path.second(&lab.region_b, pair));
        // Both await an answer: a stopped process still accepts connections.
        let asks = match pair % 2 {
            0 => r#"protocol = "tcp", expect = "-""#,
            _ => r#"protocol = "udp", send = "ping", expect = "pong""#,
        };
        text += &format!(
            r#"
[[listeners]]
name = "pair-{pair}"
protocol = "tcp_udp"
ports = [{port}]
connect_timeout = "200ms"
endpoint_groups = ["pair-{pair}"]
[[endpoint_groups]]
name = "pair-{pair}"
failback = {{ hold = "0s", ramp = "0s" }}
health_check = {{ {asks}, interval = "100ms", fast_interval = "50ms", timeout = "50ms", unhealthy_threshold = 3 }}
endpoints = [{{ name = "a-{pair}", address = "{a}" }}, {{ name = "b-{pair}", address = "{b}" }}]
"#
        );
    }
    text
}

fn port(pair: u8) -> u16 {
    7000 + u16::from(pair)
}

/// What all pairs share.
struct Scene {
    lab: Lab,
    edge: Edge,
    bound: Duration,
    stalls: StallWatch,
    measured: Mutex<Vec<Measured>>,
    /// New connections that began after a death.
    connections: AtomicUsize,
    /// Of those, the ones that met a stopped process before the verdict on it, and were reset.
    stranded: AtomicUsize,
}

/// One flow's way from its endpoint's death to its next endpoint, or to the knowledge of the death.
struct Measured {
    death: Death,
    what: &'static str,
    took: Duration,
    allowed: Duration,
    /// Not allowed for, but it tells a slow edge from one that was kept from running.
    processor_wait: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// Its process, by SIGKILL: its host refuses from then on.
    Killed,
    /// Nothing comes from its address any more, and nothing gets there.
    Silent,
    /// Its process, by SIGSTOP: its host goes on accepting connections.
    Stopped,
}

impl Death {
    const ALL: [Self; 3] = [Self::Killed, Self::Silent, Self::Stopped];
}

fn every_death_is_told_within_the_printed_bound(path: Path) {
    let _turn = path::turn();
    let seed = std::env::var("LANDFALL_TEST_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("seed: LANDFALL_TEST_SEED={seed}");
    let lab = Lab::first_light().unwrap();
    let mut pairs: Vec<_> = (0..PAIRS).map(|number| Pair::start(path, &lab, number, seed)).collect();
    let edge = path.start(&lab.edge, &config(path, &lab)).unwrap();
    let bound = failover_bound(&edge.config_path(), "pair-0").unwrap();
    assert_eq!(bound, Duration::from_millis(350));
    let deaths = std::env::var("LANDFALL_DEATHS").map_or(DEATHS, |deaths| deaths.parse().unwrap());
    let rounds = deaths.div_ceil(PAIRS.into()) * Death::ALL.len();
    let scene = Scene {
        lab,
        edge,
        bound,
        stalls: StallWatch::start(),
        measured: Mutex::default(),
        connections: AtomicUsize::new(0),
        stranded: AtomicUsize::new(0),
    };
    let begin = wait::now();

    std::thread::scope(|scope| {
        for pair in &mut pairs {
            let scene = &scene;
            scope.spawn(move || {
                for round in 0..rounds {
                    pair.round(scene, Death::ALL[round % Death::ALL.len()]);
                }
            });
        }
    });

    let stall = scene.stalls.longest_since(begin);
    println!("bound {:?}; longest stall of this machine {stall:?}; {} deaths", scene.bound, usize::from(PAIRS) * rounds);
    let measured = scene.measured.into_inner().unwrap();
    let waited = measured.iter().map(|one| one.processor_wait).max().unwrap_or_default();
    println!("the edge's own longest wait for a processor in one death: {waited:?}");
    println!(
        "{} new connections after a death; {} met a stopped process before the verdict and were reset, no other failed",
        scene.connections.load(Ordering::Relaxed),
        scene.stranded.load(Ordering::Relaxed)
    );
    println!("| death | flow | flows | min | median | p99 | max |\n|---|---|---|---|---|---|---|");
    for death in Death::ALL {
        for what in ["idle TCP reset", "busy TCP reset", "UDP answered elsewhere"] {
            report(death, what, &measured);
        }
    }
    let late: Vec<_> = measured.iter().filter(|one| one.took > one.allowed).collect();
    let late: Vec<_> = late.iter().map(|one| (one.death, one.what, one.took, one.allowed, one.processor_wait)).collect();
    assert!(
        late.is_empty(),
        "later than bound, spacing and stall allow (took, allowed, and how long the edge waited for a processor): {late:?}"
    );
    let failovers = scene.edge.metrics().unwrap().sum("landfall_failovers_total", &[]);
    println!("{path:?}: {} UDP flows", path.assert_carried_all(&scene.edge));
    assert_eq!(failovers, f64::from(PAIRS) * f64::from(u32::try_from(rounds).unwrap()), "as many as deaths");
}

fn report(death: Death, what: &str, measured: &[Measured]) {
    let mut times: Vec<_> = measured.iter().filter(|m| m.death == death && m.what == what).map(|m| m.took).collect();
    times.sort_unstable();
    assert!(!times.is_empty(), "{death:?}: no {what}");
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_millis();
    let (least, median, late, most) = (at(0), at(50), at(99), at(100));
    println!("| {death:?} | {what} | {} | {least} ms | {median} ms | {late} ms | {most} ms |", times.len());
}

/// Two endpoints in two regions that serve one listener.
struct Pair {
    number: u8,
    endpoints: [Endpoint; 2],
    rng: fastrand::Rng,
}

impl Pair {
    fn start(path: Path, lab: &Lab, number: u8, seed: u64) -> Self {
        let start = |name: &str, region: &Region, address: std::net::IpAddr| {
            let spec = Spec::echo(&format!("{name}-{number}"), (address, port(number)));
            Endpoint::start(Some(&region.namespace), spec).unwrap()
        };
        let a = start("a", &lab.region_a, lab.region_a.ipv4(number).into());
        let b = start("b", &lab.region_b, path.second(&lab.region_b, number));
        Self { number, endpoints: [a, b], rng: fastrand::Rng::with_seed(seed.wrapping_add(number.into())) }
    }

    /// One death under load, and the return.
    fn round(&mut self, scene: &Scene, death: Death) {
        let victim = self.rng.usize(0..2);
        let name = self.endpoints[victim].name().to_owned();
        let region = [&scene.lab.region_a, &scene.lab.region_b][victim];
        let target = SocketAddr::from((STATIC_IPV4[self.rng.usize(0..2)], port(self.number)));
        let phase = self.rng.u64(0..u64::try_from(PROBE_INTERVAL.as_micros()).unwrap());
        let mut load = Load::open(scene, target, &self.endpoints);

        let silence = load.run(&name, || {
            wait::pass(Duration::from_micros(phase));
            let before = wait::now();
            let silence = match death {
                Death::Killed => {
                    self.endpoints[victim].kill().unwrap();
                    None
                }
                Death::Silent => Some(silence(&scene.lab, region, &self.endpoints[victim])),
                Death::Stopped => {
                    self.endpoints[victim].freeze().unwrap();
                    None
                }
            };
            (silence, before)
        });
        load.judge(scene, death, &name);

        match (silence, death) {
            (Some(silence), _) => silence.lift().unwrap(),
            (None, Death::Stopped) => self.endpoints[victim].thaw().unwrap(),
            (None, _) => self.endpoints[victim].restart(Some(&region.namespace)).unwrap(),
        }
        wait_until("the return of the dead", LIMIT, || scene.edge.health(&name).unwrap().as_deref() == Some("healthy")).unwrap();
    }
}

fn silence(lab: &Lab, region: &Region, endpoint: &Endpoint) -> Silence {
    lab.silence_addresses(region, &[endpoint.address().ip()]).unwrap()
}

/// The load of one round, and what became of it.
struct Load<'a> {
    scene: &'a Scene,
    target: SocketAddr,
    idle: Vec<Idle>,
    busy: Vec<Busy>,
    udp: Vec<Pinned>,
    connections: Vec<Connection>,
    /// Before and after the order to die.
    ordered: Option<(Instant, Instant)>,
    /// How long one of the edge's threads was ready to run meanwhile and the machine ran something else: the longest of them.
    processor_wait: Duration,
}

impl<'a> Load<'a> {
    /// Opens flows until each endpoint has [`FLOWS`] of each kind.
    fn open(scene: &'a Scene, target: SocketAddr, endpoints: &[Endpoint; 2]) -> Self {
        let session = || {
            let session = TcpSession::open(None, target, LIMIT).unwrap();
            (session.endpoint.clone(), session)
        };
        let flow = || {
            let flow = Pinned::open("0.0.0.0:0".parse().unwrap(), target).unwrap();
            (flow.endpoint.clone(), flow)
        };
        let open = || (on_each(endpoints, session), on_each(endpoints, session), on_each(endpoints, flow));
        let (idle, busy, udp) = scene.lab.client.enter(open);
        let (idle, busy) = (idle.into_iter().map(Idle::new).collect(), busy.into_iter().map(Busy::new).collect());
        Self { scene, target, idle, busy, udp, connections: Vec::new(), ordered: None, processor_wait: Duration::ZERO }
    }

    /// Runs the load, calls `kill` in the midst of it, and ends when every flow of `victim` has been told or has moved.
    fn run<T>(&mut self, victim: &str, kill: impl FnOnce() -> (T, Instant)) -> T {
        let (stop, told, passed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
        let (client, target) = (&self.scene.lab.client, self.target);
        std::thread::scope(|scope| {
            let stream = scope.spawn(|| client.enter(|| connect_until(&stop, target, CONNECT_SPACING, &passed)));
            for idle in &mut self.idle {
                scope.spawn(|| idle.watch_until(&stop, &told));
            }
            for busy in &mut self.busy {
                scope.spawn(|| busy.talk_until(&stop, SPACING, &told));
            }
            for flow in &mut self.udp {
                scope.spawn(|| flow.talk_until(&stop, SPACING, &told));
            }
            // What fails below must not leave the load running.
            let _stopped = StopAtEnd(&stop);
            let waited = Waits::of(self.scene.edge.pid()).unwrap();
            let (killed, before) = kill();
            self.ordered = Some((before, wait::now()));
            let what = format!("all flows of {victim} told of its death");
            wait_until(&what, LIMIT, || told.load(Ordering::Relaxed) >= 3 * FLOWS).unwrap();
            self.processor_wait = Waits::of(self.scene.edge.pid()).unwrap().longest_since(&waited);
            let enough = passed.load(Ordering::Relaxed) + CONNECTIONS_AFTERWARDS;
            wait_until("new connections", LIMIT, || passed.load(Ordering::Relaxed) >= enough).unwrap();
            stop.store(true, Ordering::Relaxed);
            self.connections = stream.join().unwrap();
            killed
        })
    }

    /// Holds what happened against the promises.
    fn judge(&mut self, scene: &Scene, death: Death, victim: &str) {
        let (before, after) = self.ordered.unwrap();
        // A rule or a signal takes effect some time after it was ordered: not before the last answer of the dead.
        let busy_answers = self.busy.iter().filter(|busy| busy.session.endpoint == victim).map(|busy| busy.last_answer);
        let answers = self.udp.iter().filter(|flow| flow.endpoint == victim).map(|flow| flow.last_answer);
        let died = answers.chain(busy_answers).fold(before, Instant::max);
        let stall = scene.stalls.longest_since(before);
        let told = |what, spacing, at: Instant| Measured {
            death,
            what,
            took: at.saturating_duration_since(died),
            allowed: scene.bound + spacing + stall,
            processor_wait: self.processor_wait,
        };

        let late: Vec<_> = self.connections.iter().filter(|connection| connection.begin > after).collect();
        assert!(late.len() >= CONNECTIONS_AFTERWARDS);
        let failed: Vec<_> = late.iter().filter(|connection| connection.failure.is_some()).collect();
        // A stopped process's kernel accepts for it: such a connection is its endpoint's until the verdict, and is then reset.
        let stranded = |connection: &&&&Connection| death == Death::Stopped && connection.begin <= died + scene.bound + stall;
        let excused = failed.iter().filter(stranded).count();
        let failures: Vec<_> = failed.iter().map(|connection| (connection.begin - died, &connection.failure)).collect();
        assert_eq!(failed.len(), excused, "{death:?}: connections that began after the death of {victim} failed: {failures:?}");
        scene.stranded.fetch_add(excused, Ordering::Relaxed);
        scene.connections.fetch_add(late.len(), Ordering::Relaxed);
        let mut measured = Vec::new();
        for idle in &mut self.idle {
            match idle.reset {
                Some(at) if idle.session.endpoint == victim => measured.push(told("idle TCP reset", Duration::ZERO, at)),
                Some(_) => panic!("{death:?} of {victim}: an idle connection to the other endpoint was reset"),
                None => idle.session.exchange(b"still there?").unwrap(),
            }
        }
        for busy in &self.busy {
            match &busy.broke {
                Some((_, at)) if busy.session.endpoint == victim => measured.push(told("busy TCP reset", SPACING, *at)),
                Some((failure, _)) => panic!("{death:?} of {victim}: a connection to the other endpoint broke: {failure}"),
                None => assert_ne!(busy.session.endpoint, victim, "{death:?}: a connection outlived its endpoint"),
            }
        }
        for flow in &self.udp {
            match &flow.moved {
                Some((_, at)) if flow.endpoint == victim => measured.push(told("UDP answered elsewhere", SPACING, *at)),
                Some(moved) => panic!("{death:?} of {victim}: a flow of {} moved: {moved:?}", flow.endpoint),
                None => assert_ne!(flow.endpoint, victim),
            }
        }
        scene.measured.lock().unwrap().extend(measured);
    }
}

/// Opens flows until there are [`FLOWS`] on each endpoint, and returns those.
fn on_each<T>(endpoints: &[Endpoint; 2], mut open: impl FnMut() -> (String, T)) -> Vec<T> {
    let mut kept: [Vec<T>; 2] = Default::default();
    for _ in 0..64 * FLOWS {
        let (name, flow) = open();
        let place = endpoints.iter().position(|endpoint| endpoint.name() == name).unwrap();
        if kept[place].len() < FLOWS {
            kept[place].push(flow);
        }
        if kept.iter().all(|flows| flows.len() == FLOWS) {
            return kept.into_iter().flatten().collect();
        }
    }
    panic!("flows go to one endpoint only");
}
