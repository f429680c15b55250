//! Failover beside other proxies, in the same lab and in turns: `cargo run --release -p landfall-tests --bin failover-bench`.
//!
//! One of two servers dies at a random moment under load. The configs of all proxies are in `tests/bench/failover/`; what is printed
//! is explained in `docs/BENCHMARKS.md`. Needs root, HAProxy and nginx with its stream module.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use landfall_tests::clients::{TcpSession, UdpFlow, tcp_probe};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::lab::{Lab, STATIC_IPV4};
use landfall_tests::load::StopAtEnd;
use landfall_tests::process::Process;
use landfall_tests::wait::{self, Beat, wait_until};
use landfall_tests::{Failure, Result};

const LIMIT: Duration = Duration::from_secs(10);
/// A client gives up on a step of a connection after this long.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the load goes on after the death.
const WATCHED: Duration = Duration::from_secs(3);
/// How often a held connection looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(20);
/// The shortest timeout that a socket takes.
const LEAST: Duration = Duration::from_millis(1);
/// A connection that takes longer than this was held up.
const SLOW: Duration = Duration::from_millis(100);
const CONNECT_SPACING: Duration = Duration::from_millis(7);
const SPACING: Duration = Duration::from_millis(10);
/// The longest interval of the checks: a death falls anywhere into it.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Held connections and UDP flows on the server that dies.
const FLOWS: usize = 2;

/// Measures failover of Landfall, HAProxy and nginx in turns.
#[derive(Parser)]
struct Arguments {
    /// Deaths of each kind for each proxy.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Where the raw figures go, one line a death.
    #[arg(long)]
    csv: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Landfall,
    HaProxy,
    Nginx,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    Killed,
    Silent,
    Stopped,
}

const PROXIES: [Peer; 3] = [Peer::Landfall, Peer::HaProxy, Peer::Nginx];
const DEATHS: [Death; 3] = [Death::Killed, Death::Silent, Death::Stopped];

/// A time, if it came within [`WATCHED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    After(u128),
    Never,
    NotServed,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After(ms) => write!(f, "{ms} ms"),
            Self::Never => write!(f, "not within {} s", WATCHED.as_secs()),
            Self::NotServed => f.write_str("not served"),
        }
    }
}

/// What one death did.
struct Outcome {
    proxy: Peer,
    death: Death,
    connections: usize,
    failed: usize,
    /// Until the end of the last new connection that failed or was held up.
    recovery: u128,
    idle: Told,
    udp: Told,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(outcomes) => {
            print(&outcomes);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("failover-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<Vec<Outcome>> {
    let mut rng = fastrand::Rng::new();
    let mut outcomes = Vec::new();
    for round in 0..arguments.rounds {
        for death in DEATHS {
            for proxy in PROXIES {
                let phase = Duration::from_micros(rng.u64(0..100_000)).min(CHECK_INTERVAL);
                outcomes.push(one(proxy, death, phase)?);
            }
        }
        eprintln!("round {} of {} done", round + 1, arguments.rounds);
    }
    if let Some(path) = &arguments.csv {
        write_csv(path, &outcomes).map_err(|error| Failure::new("write", path.display(), error, "name another file"))?;
    }
    Ok(outcomes)
}

/// A running proxy; ends when dropped.
enum Running {
    Landfall(#[expect(dead_code, reason = "held to keep it running")] Edge),
    Other(Process, #[expect(dead_code, reason = "its files")] tempfile::TempDir),
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Self::Other(process, _) = self {
            // In order: a master that is killed leaves its workers behind. Err: it has ended, and its log is shown with the failure.
            let _ = process.signal(libc::SIGTERM).and_then(|()| process.wait_exit(LIMIT));
        }
    }
}

fn start(proxy: Peer, lab: &Lab) -> Result<Running> {
    let config = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/failover").join(name);
        std::fs::read_to_string(&path)
            .map_err(|error| Failure::new("read", path.display(), error, "run it from a whole checkout"))
    };
    let (program, name) = match proxy {
        Peer::Landfall => return Ok(Running::Landfall(Edge::start(Some(&lab.edge), &config("landfall.toml")?)?)),
        Peer::HaProxy => ("/usr/sbin/haproxy", "haproxy.cfg"),
        Peer::Nginx => ("/usr/sbin/nginx", "nginx.conf"),
    };
    let directory = tempfile::tempdir().map_err(|error| Failure::new("create", "a directory", error, "make room"))?;
    let file = directory.path().join(name);
    let text = config(name)?.replace("{dir}", &directory.path().to_string_lossy());
    std::fs::write(&file, text).map_err(|error| Failure::new("write", file.display(), error, "make room"))?;
    let mut command = Command::new(program);
    match proxy {
        Peer::Nginx => command.arg("-p").arg(directory.path()).arg("-c").arg(&file),
        _ => command.arg("-db").arg("-f").arg(&file),
    };
    Ok(Running::Other(Process::spawn(Some(&lab.edge), command)?, directory))
}

/// One proxy, one death.
fn one(proxy: Peer, death: Death, phase: Duration) -> Result<Outcome> {
    let lab = Lab::first_light()?;
    let start_server = |name: &str, region: &landfall_tests::lab::Region| {
        Endpoint::start(Some(&region.namespace), Spec::echo(name, (region.ipv4(0), 7000)))
    };
    let mut victim = start_server("server-a", &lab.region_a)?;
    let _other = start_server("server-b", &lab.region_b)?;
    let _proxy = start(proxy, &lab)?;
    let target = SocketAddr::from((STATIC_IPV4[0], 7000));
    wait_until("the proxy to serve", LIMIT, || lab.client.enter(|| tcp_probe(target, PATIENCE)).is_ok())?;

    let serves_udp = proxy != Peer::HaProxy;
    let (mut idle, mut udp) = lab.client.enter(|| -> Result<_> {
        let (mut idle, mut udp) = (Vec::new(), Vec::new());
        while idle.len() < FLOWS {
            let session = TcpSession::open(None, target, LIMIT)?;
            idle.extend(Some(Held { session, ended: None }).filter(|held| held.session.endpoint == "server-a"));
        }
        while serves_udp && udp.len() < FLOWS {
            let mut flow = UdpFlow::open(([0; 4], 0).into(), target)?;
            let pinned = flow.exchange(LIMIT)?.endpoint == "server-a";
            udp.extend(Some(Talk { flow, moved: None }).filter(|_| pinned));
        }
        Ok((idle, udp))
    })?;

    let stop = AtomicBool::new(false);
    let (died, dead, connections, guard) = std::thread::scope(|scope| -> Result<_> {
        let connecting = scope.spawn(|| lab.client.enter(|| connect(&stop, target)));
        for idle in &mut idle {
            scope.spawn(|| idle.watch_until(&stop));
        }
        for flow in &mut udp {
            scope.spawn(|| flow.talk_until(&stop));
        }
        let stopped = StopAtEnd(&stop);
        wait::pass(CHECK_INTERVAL * 3 + phase);
        let died = wait::now();
        let guard = match death {
            Death::Killed => victim.kill().map(|_| None)?,
            Death::Silent => Some(lab.silence(&lab.region_a)?),
            Death::Stopped => victim.freeze().map(|()| None)?,
        };
        let dead = wait::now();
        wait::pass(WATCHED);
        drop(stopped);
        Ok((died, dead, connecting.join().unwrap_or_default(), guard))
    })?;
    drop(guard);

    // One that was under way at that moment is a held one.
    let after: Vec<_> = connections.iter().filter(|connection| connection.0 >= dead).collect();
    let failed = |connection: &&&(Instant, Instant, bool)| !connection.2;
    let held_up = after.iter().filter(|(begin, end, passed)| !passed || *end - *begin > SLOW);
    let since = |at: Instant| at.saturating_duration_since(died).as_millis();
    let worst = |times: Vec<Option<Instant>>| match times.into_iter().collect::<Option<Vec<_>>>() {
        Some(times) => times.into_iter().max().map_or(Told::NotServed, |at| Told::After(since(at))),
        None => Told::Never,
    };
    Ok(Outcome {
        proxy,
        death,
        connections: after.len(),
        failed: after.iter().filter(failed).count(),
        recovery: held_up.map(|(_, end, _)| since(*end)).max().unwrap_or(0),
        idle: worst(idle.iter().map(|held| held.ended).collect()),
        udp: worst(udp.iter().map(|flow| flow.moved).collect()),
    })
}

/// A connection that says nothing, and when its client was told that it is over: by FIN or by RST.
struct Held {
    session: TcpSession,
    ended: Option<Instant>,
}

impl Held {
    fn watch_until(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) && self.ended.is_none() {
            self.ended = self.session.wait_end(LOOK).is_ok().then(wait::now);
        }
    }
}

/// A UDP flow, and when the other server answered it first.
struct Talk {
    flow: UdpFlow,
    moved: Option<Instant>,
}

impl Talk {
    /// Sends a datagram every few milliseconds. Whatever else than an answer comes back, such as the empty datagrams of a proxy that gives
    /// up a flow, is passed over.
    fn talk_until(&mut self, stop: &AtomicBool) {
        let mut beat = Beat::every(SPACING);
        let mut buffer = [0; 2048];
        while !stop.load(Ordering::Relaxed) {
            // Err: a full buffer or an earlier ICMP error; the next datagram may pass.
            let _ = self.flow.send();
            while !beat.left().is_zero() {
                let socket = self.flow.socket();
                let received = socket.set_read_timeout(Some(beat.left().max(LEAST))).and_then(|()| socket.recv(&mut buffer));
                match received {
                    Ok(length) if buffer[..length].starts_with(b"server-b") => {
                        self.moved.get_or_insert_with(wait::now);
                    }
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            beat.wait();
        }
    }
}

/// Opens a connection every few milliseconds, whatever became of the ones before: begin, end, and whether it passed.
fn connect(stop: &AtomicBool, target: SocketAddr) -> Vec<(Instant, Instant, bool)> {
    let mut beat = Beat::every(CONNECT_SPACING);
    let mut connections = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        beat.wait();
        let begin = wait::now();
        let passed = tcp_probe(target, PATIENCE).is_ok();
        connections.push((begin, wait::now(), passed));
    }
    connections
}

fn write_csv(path: &Path, outcomes: &[Outcome]) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    writeln!(file, "proxy,death,connections,failed,recovery_ms,idle_told,udp_elsewhere")?;
    for Outcome { proxy, death, connections, failed, recovery, idle, udp } in outcomes {
        writeln!(file, "{proxy:?},{death:?},{connections},{failed},{recovery},{idle},{udp}")?;
    }
    Ok(())
}

fn print(outcomes: &[Outcome]) {
    println!(
        "| death | proxy | failed / new connections | recovery, median (max) | held TCP told, median (max) | UDP elsewhere, median (max) |"
    );
    println!("|---|---|---|---|---|---|");
    for death in DEATHS {
        for proxy in PROXIES {
            let of: Vec<_> = outcomes.iter().filter(|outcome| outcome.proxy == proxy && outcome.death == death).collect();
            let sum = |count: fn(&Outcome) -> usize| of.iter().map(|outcome| count(outcome)).sum::<usize>();
            let spread = |figure: &dyn Fn(&Outcome) -> Told| {
                let mut all: Vec<_> = of.iter().map(|outcome| figure(outcome)).collect();
                all.sort_unstable();
                match (all.get(all.len() / 2), all.last()) {
                    (Some(median), Some(most)) if median == most => median.to_string(),
                    (Some(median), Some(most)) => format!("{median} ({most})"),
                    _ => String::new(),
                }
            };
            let (failed, all) = (sum(|outcome| outcome.failed), sum(|outcome| outcome.connections));
            let recovery = spread(&|outcome| Told::After(outcome.recovery));
            let (idle, udp) = (spread(&|outcome| outcome.idle), spread(&|outcome| outcome.udp));
            println!("| {death:?} | {proxy:?} | {failed} / {all} | {recovery} | {idle} | {udp} |");
        }
    }
}
