//! A whole region falls silent: everything that it served answers from the other one within the bound.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use landfall_tests::clients::TcpSession;
use landfall_tests::command::failover_bound;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::lab::{Lab, Region, STATIC_IPV4};
use landfall_tests::load::{Idle, Pinned, StopAtEnd};
use landfall_tests::on_both_paths;
use landfall_tests::path::{self, Path};
use landfall_tests::stalls::DelayWatch;
use landfall_tests::wait::{self, wait_until};

const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 7000;
const SPACING: Duration = Duration::from_millis(10);
/// Of each kind.
const FLOWS: usize = 32;

const CONFIG: &str = r#"
name = "region"
static_ips = ["198.18.0.1", "198.18.0.2"]
hash_seed = 7
[edge]
name = "lab"
admin = "127.0.0.1:9900"
control = "{dir}/control.sock"
[[listeners]]
name = "echo"
protocol = "tcp_udp"
ports = [7000]
endpoint_groups = ["near", "far"]
[[endpoint_groups]]
name = "near"
health_check = { protocol = "udp", port = 7000, send = "ping", expect = "pong", interval = "100ms", fast_interval = "50ms", timeout = "50ms" }
endpoints = [
  { name = "near-1", address = "198.18.2.2" }, { name = "near-2", address = "198.18.2.3" }, { name = "near-3", address = "{near-3}" },
]
[[endpoint_groups]]
name = "far"
health_check = { protocol = "udp", port = 7000, send = "ping", expect = "pong", interval = "100ms", fast_interval = "50ms", timeout = "50ms" }
endpoints = [{ name = "far-1", address = "198.18.3.2" }, { name = "far-2", address = "{far-2}" }]
"#;

on_both_paths!(a_region_that_falls_silent_is_left_as_a_whole_within_the_bound);

fn a_region_that_falls_silent_is_left_as_a_whole_within_the_bound(path: Path) {
    let _turn = path::turn();
    let lab = Lab::first_light().unwrap();
    let start = |name: &str, region: &Region, address: std::net::IpAddr| {
        Endpoint::start(Some(&region.namespace), Spec::echo(name, (address, PORT))).unwrap()
    };
    let (a, b) = (&lab.region_a, &lab.region_b);
    let (third, second) = (path.second(a, 2), path.second(b, 1));
    let near = [start("near-1", a, a.ipv4(0).into()), start("near-2", a, a.ipv4(1).into()), start("near-3", a, third)];
    let _far = [start("far-1", b, b.ipv4(0).into()), start("far-2", b, second)];
    let config = CONFIG.replace("{near-3}", &third.to_string()).replace("{far-2}", &second.to_string());
    let edge = path.start(&lab.edge, &config).unwrap();
    let bound = failover_bound(&edge.config_path(), "near").unwrap();
    let target = |number: usize| SocketAddr::from((STATIC_IPV4[number % 2], PORT));
    let (mut idle, mut udp): (Vec<Idle>, Vec<Pinned>) = lab.client.enter(|| {
        let session = |number| Idle::new(TcpSession::open(None, target(number), LIMIT).unwrap());
        let flow = |number| Pinned::open(([0; 4], 0).into(), target(number)).unwrap();
        ((0..FLOWS).map(session).collect(), (0..FLOWS).map(flow).collect())
    });
    assert!(
        idle.iter()
            .map(|idle| &idle.session.endpoint)
            .chain(udp.iter().map(|flow| &flow.endpoint))
            .all(|name| name.starts_with("near"))
    );

    let (watch, stop, told) = (DelayWatch::start(edge.pid()).unwrap(), AtomicBool::new(false), AtomicUsize::new(0));
    let addresses: Vec<_> = near.iter().map(|endpoint| endpoint.address().ip()).collect();
    let (before, silence, delay) = std::thread::scope(|scope| {
        for idle in &mut idle {
            scope.spawn(|| idle.watch_until(&stop, &told));
        }
        for flow in &mut udp {
            scope.spawn(|| flow.talk_until(&stop, SPACING, &told));
        }
        let _stopped = StopAtEnd(&stop);
        let before = wait::now();
        let silence = lab.silence_addresses(a, &addresses).unwrap();
        wait_until("every flow told", LIMIT, || told.load(Ordering::Relaxed) == 2 * FLOWS).unwrap();
        (before, silence, watch.so_far().unwrap())
    });
    // A rule takes effect some time after it was ordered: not before the last answer of the dead.
    let died = udp.iter().map(|flow| flow.last_answer).fold(before, Instant::max);
    let resets = idle.iter().map(|idle| idle.reset.unwrap().saturating_duration_since(died)).max().unwrap();
    let answers = udp.iter().map(|flow| flow.moved.as_ref().unwrap().1.saturating_duration_since(died)).max().unwrap();
    println!(
        "bound {bound:?}, {delay}: the last of {FLOWS} idle TCP connections told after {resets:.1?}, of {FLOWS} UDP flows answered after {answers:.1?}"
    );
    assert!(resets <= bound + delay.stall && answers <= bound + SPACING + delay.stall);
    assert!(udp.iter().all(|flow| flow.moved.as_ref().is_some_and(|(name, _)| name.starts_with("far"))));
    let landed = lab.client.enter(|| TcpSession::open(None, target(0), LIMIT).unwrap().endpoint);
    assert!(landed.starts_with("far"), "{landed}");
    silence.lift().unwrap();
    path.assert_carried(&edge, FLOWS);
}
