//! A region of two endpoints dies and one comes back: the region takes traffic again as its ramp says, not all at once.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use endpoint_group::rendezvous::NameKey;
use endpoint_group::{Affinity, FlowHasher, FlowKey, Name, Protocol};
use landfall_tests::clients::{TcpSession, UdpFlow};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::lab::{Lab, STATIC_IPV4};
use landfall_tests::on_both_paths;
use landfall_tests::path::Path;
use landfall_tests::wait::{Deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(10);
/// Hold and ramp are over in 4 s.
const COMEBACK: Duration = Duration::from_secs(20);
const PORT: u16 = 7000;
const SEED: u64 = 7;

const CONFIG: &str = r#"
name = "failback"
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
failback = { hold = "1s", ramp = "3s" }
health_check = { protocol = "tcp", interval = "100ms", fast_interval = "50ms", timeout = "50ms", unhealthy_threshold = 3 }
endpoints = [{ name = "near-1", address = "198.18.2.2" }, { name = "near-2", address = "198.18.2.3" }]
[[endpoint_groups]]
name = "far"
health_check = { protocol = "tcp", interval = "100ms", fast_interval = "50ms", timeout = "50ms", unhealthy_threshold = 3 }
endpoints = [{ name = "far-1", address = "198.18.3.2" }]
"#;

/// What a scrape says of how far `near` is back.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Shown {
    eligible: bool,
    dial_percent: f64,
    first_weight: f64,
    second_weight: f64,
}

fn shown(edge: &Edge) -> Shown {
    let metrics = edge.metrics().unwrap();
    let weight =
        |endpoint| metrics.value("landfall_endpoint_weight", &[("endpoint_group", "near"), ("endpoint", endpoint)]).unwrap();
    Shown {
        eligible: metrics.value("landfall_endpoint_group_eligible", &[("endpoint_group", "near")]).unwrap() == 1.0,
        dial_percent: metrics.value("landfall_endpoint_group_dial_percent", &[("endpoint_group", "near")]).unwrap(),
        first_weight: weight("near-1"),
        second_weight: weight("near-2"),
    }
}

/// The lowest dial of `near`, in percent, at which it accepts a flow: the rule of docs/FAILOVER.md, from the frozen hash alone.
fn threshold(flow: &FlowKey) -> f64 {
    let slot = FlowHasher::new(SEED).slot(flow, Affinity::None);
    let draw = NameKey::group(&Name::new("near").unwrap()).draw(slot) >> 32;
    draw as f64 / f64::from(u32::MAX) * 100.0
}

on_both_paths!(a_region_that_comes_back_takes_traffic_as_its_ramp_says);

fn a_region_that_comes_back_takes_traffic_as_its_ramp_says(path: Path) {
    let lab = Lab::first_light().unwrap();
    let start = |name: &str, region: &landfall_tests::lab::Region, index| {
        Endpoint::start(Some(&region.namespace), Spec::echo(name, (region.ipv4(index), PORT))).unwrap()
    };
    let (mut first, mut second) = (start("near-1", &lab.region_a, 0), start("near-2", &lab.region_a, 1));
    let _far = start("far-1", &lab.region_b, 0);
    let edge = path.start(&lab.edge, CONFIG).unwrap();
    let target = SocketAddr::from((STATIC_IPV4[0], PORT));
    let full = Shown { eligible: true, dial_percent: 100.0, first_weight: 128.0, second_weight: 128.0 };
    assert_eq!(shown(&edge), full);

    first.kill().unwrap();
    second.kill().unwrap();
    wait_until("the region out", LIMIT, || !shown(&edge).eligible).unwrap();
    // Flows that the other region has taken over must stay there to the end.
    let mut settled: Vec<(TcpSession, UdpFlow)> = lab.client.enter(|| {
        let pair = |_| (TcpSession::open(None, target, LIMIT).unwrap(), UdpFlow::open(([0; 4], 0).into(), target).unwrap());
        (0..8).map(pair).collect()
    });
    let mut settled_are_untouched = || {
        for (session, flow) in &mut settled {
            session.exchange(b"still here").unwrap();
            assert_eq!((session.endpoint.as_str(), flow.exchange(LIMIT).unwrap().endpoint.as_str()), ("far-1", "far-1"));
        }
    };
    settled_are_untouched();

    first.restart(Some(&lab.region_a.namespace)).unwrap();
    // New flows all the while, each between two scrapes; where both say the same, that was the table it met.
    let mut seen: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    let deadline = Deadline::after(COMEBACK);
    let mut before = shown(&edge);
    let mut undecided = 0;
    // Each from a port of its own: one that came back would still be the flow that it was.
    let mut ports = 1024..=32767u16;
    while before.dial_percent < 100.0 || before.first_weight < 128.0 || !before.eligible {
        assert!(deadline.left().is_some(), "the ramp did not end: {before:?}");
        let (client, landed) = lab.client.enter(|| {
            let mut flow = UdpFlow::open(([198, 18, 1, 2], ports.next().unwrap()).into(), target).unwrap();
            let landed = flow.exchange(LIMIT).unwrap().endpoint;
            (flow.source().unwrap(), landed)
        });
        let after = shown(&edge);
        assert!(!before.eligible || after.dial_percent >= before.dial_percent, "it goes up only: {before:?} {after:?}");
        let open = if before.eligible { before.dial_percent } else { 0.0 };
        if before == after {
            let accepts = threshold(&FlowKey { protocol: Protocol::Udp, client, to: target });
            // A draw within a thousandth of a percent of the dial is not decided here.
            if (accepts - open).abs() > 0.001 {
                let expected = if accepts < open { "near-1" } else { "far-1" };
                assert_eq!(landed, expected, "draw {accepts:.3} % at dial {open} %: {before:?}");
            }
            let step = seen.entry(format!("{open:>3} %")).or_default();
            step.0 += u32::from(landed == "near-1");
            step.1 += 1;
        } else {
            undecided += 1;
        }
        before = after;
    }
    println!("dial: new flows to the region / all (and {undecided} while the table changed)");
    for (dial, (near, all)) in &seen {
        println!("{dial}: {near} / {all}");
    }
    assert_eq!(seen.get("  0 %").map(|(near, _)| *near), Some(0), "while held it takes nothing: {seen:?}");
    assert!(seen.len() >= 9, "held, then most of nine steps: {seen:?}");
    let second_is_dead = Shown { second_weight: 0.0, ..full };
    assert_eq!(shown(&edge), second_is_dead);
    settled_are_untouched();
    let metrics = edge.metrics().unwrap();
    assert_eq!(metrics.sum("landfall_flows_moved_total", &[]), 0.0, "failback moves no flow");
    assert_eq!(metrics.sum("landfall_flows_closed_total", &[("reason", "endpoint_gone")]), 0.0);
    // And now it takes everything.
    let landed = lab.client.enter(|| TcpSession::open(None, target, LIMIT).unwrap().endpoint);
    assert_eq!(landed, "near-1");
    path.assert_carried(&edge, settled.len() + usize::from(ports.next().unwrap() - 1024));
}
