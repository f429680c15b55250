//! Very many UDP flows at once on one edge, in the kernel: all are answered, and all of a dead endpoint's fail over within the bound.
//!
//! `LANDFALL_LONG_TESTS=1` opens 1,000,000.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::SocketAddrV4;
use std::time::Duration;

use landfall_tests::command::failover_bound;
use landfall_tests::conformance::long;
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::fleet::{Answerer, Fleet};
use landfall_tests::frames::Device;
use landfall_tests::lab::{Lab, STATIC_IPV4, Silence};
use landfall_tests::path::Path;
use landfall_tests::stalls::DelayWatch;
use landfall_tests::wait::{self, Deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(10);
const TARGET: SocketAddrV4 = SocketAddrV4::new(STATIC_IPV4[0], 7000);
const PROBE_PORT: u16 = 6999;
/// Of the endpoint that dies, whose flows are watched.
const SAMPLE: usize = 10_000;
/// Flows on an address, of the 64,512 that there could be: where more are taken, more of them have to be looked at for a free one.
const FLOWS_PER_ADDRESS: usize = 50_000;
const PORT_RANGE: &str = "1024-65535";

#[test]
fn very_many_flows_are_answered_and_fail_over_within_the_bound() {
    let flows: usize = if long() { 1_000_000 } else { 40_000 };
    let lab = Lab::first_light().unwrap();
    let nat = nat_addresses(&lab, flows.div_ceil(FLOWS_PER_ADDRESS));
    let (a, b) = (lab.region_a.ipv4(0), lab.region_b.ipv4(0));
    let _answerers = [(b'a', &lab.region_a, a), (b'b', &lab.region_b, b)]
        .map(|(name, region, ip)| Answerer::start(&region.namespace, name, (ip, TARGET.port()).into()).unwrap());
    // Probes are answered by a process of their own, so that they do not wait behind the flows.
    let _probed = [(&lab.region_a, a), (&lab.region_b, b)]
        .map(|(region, ip)| Endpoint::start(Some(&region.namespace), Spec::echo("probed", (ip, PROBE_PORT))).unwrap());
    let config = format!(
        "name = \"many\"\nstatic_ips = [\"{}\"]\nhash_seed = 7\n[edge]\nname = \"lab\"\nadmin = \"127.0.0.1:9900\"\n\
         control = \"{{dir}}/control.sock\"\nfast_path = \"on\"\nnat_addresses = {nat:?}\nnat_ports = \"{PORT_RANGE}\"\n\
         [[listeners]]\nname = \"l\"\nprotocol = \"udp\"\nports = [{}]\nidle_timeout = \"10m\"\nendpoint_groups = [\"g\"]\n\
         [[endpoint_groups]]\nname = \"g\"\nendpoints = [{{ name = \"a\", address = \"{a}\" }}, {{ name = \"b\", address = \"{b}\" }}]\n\
         health_check = {{ protocol = \"udp\", port = {PROBE_PORT}, send = \"ping\", expect = \"pong\", interval = \"100ms\", fast_interval = \"50ms\", \
         timeout = \"50ms\", unhealthy_threshold = 3 }}\n",
        TARGET.ip(),
        TARGET.port(),
    );
    let edge = Edge::start(Some(&lab.edge), &config).unwrap();
    let gateway = Device::open(&lab.edge, "clients").unwrap().mac;
    let mut fleet = Fleet::new(&lab.client, "uplink", gateway, TARGET, flows).unwrap();

    let everybody: Vec<_> = (0..flows).collect();
    for round in ["opened", "asked again"] {
        let begin = wait::now();
        let unanswered = fleet.ask(&everybody).unwrap();
        let took = begin.elapsed();
        println!(
            "{flows} flows {round} in {took:.1?}: {:.0} a second, {unanswered} unanswered",
            flows as f64 / took.as_secs_f64()
        );
        assert_eq!(unanswered, 0, "{}", edge.metrics().unwrap().text());
    }
    let active = || edge.metrics().unwrap().sum("landfall_flows_active", &[("path", "kernel")]);
    wait_until("every flow counted as open", LIMIT, || active() == flows as f64).unwrap();
    Path::Kernel.assert_carried(&edge, flows);
    println!("memory: {}", memory(&edge, flows));

    let homes: Vec<u8> = fleet.answers.iter().map(|answer| answer.unwrap().0).collect();
    let doomed: Vec<usize> = everybody.iter().copied().filter(|&flow| homes[flow] == b'a').collect();
    println!("{} of them at the endpoint that dies", doomed.len());
    assert!(doomed.len() > flows / 3 && doomed.len() >= SAMPLE, "{}", doomed.len());
    // Spread over all of them.
    let sample: Vec<usize> = (0..SAMPLE).map(|number| doomed[number * doomed.len() / SAMPLE]).collect();
    let _silence = fail_over(&lab, &edge, &mut fleet, &sample);

    // And everybody else, once.
    assert_eq!(fleet.ask(&everybody).unwrap(), 0);
    assert!(fleet.answers.iter().all(|answer| answer.unwrap().0 == b'b'), "every flow is at the endpoint that lives");
    let moved = || edge.metrics().unwrap().sum("landfall_flows_moved_total", &[]);
    wait_until("every move counted", LIMIT, || moved() == doomed.len() as f64).unwrap();
    assert_eq!(active(), flows as f64, "none was lost");
}

/// Silences the endpoint of `sample`, whose flows go on to send one after the other until each is answered elsewhere.
fn fail_over(lab: &Lab, edge: &Edge, fleet: &mut Fleet, sample: &[usize]) -> Silence {
    let bound = failover_bound(&edge.config_path(), "g").unwrap();
    let watch = DelayWatch::start(edge.pid()).unwrap();
    let deadline = Deadline::after(LIMIT);
    let mut left = sample.to_vec();
    let mut pass = Duration::ZERO;
    let before = wait::now();
    let mut died = before;
    let silence = lab.silence_addresses(&lab.region_a, &[lab.region_a.ipv4(0).into()]).unwrap();
    while !left.is_empty() {
        assert!(deadline.left().is_some(), "{} of {} flows are still not answered elsewhere", left.len(), sample.len());
        let begin = wait::now();
        for batch in left.chunks(64) {
            fleet.send(batch).unwrap();
            fleet.listen().unwrap();
        }
        while fleet.listen().unwrap() > 0 {}
        pass = pass.max(begin.elapsed());
        left.retain(|&flow| {
            let (name, at) = fleet.answers[flow].unwrap();
            // A rule takes effect some time after it was ordered: not before the last answer of the dead.
            died = if name == b'a' { died.max(at) } else { died };
            name == b'a'
        });
    }
    let last = sample.iter().map(|&flow| fleet.answers[flow].unwrap().1).max().unwrap_or(before);
    let (took, delay) = (last.saturating_duration_since(died), watch.so_far().unwrap());
    println!(
        "the last of {} flows answered elsewhere {took:.1?} after the death; bound {bound:?}, a pass over all takes {pass:.1?}, {delay}",
        sample.len()
    );
    // A flow is moved by its own next datagram, which it sends once in each pass.
    assert!(took <= bound + pass + delay.stall, "{took:?}, {delay}");
    silence
}

/// Gives the edge so many addresses for its packets to endpoints.
fn nat_addresses(lab: &Lab, count: usize) -> Vec<String> {
    let addresses: Vec<_> = (0..count).map(|number| format!("198.18.2.{}", 100 + number)).collect();
    lab.edge.ip(&addresses.iter().map(|ip| format!("address add {ip}/32 dev region-a\n")).collect::<String>()).unwrap();
    for parameter in ["net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding"] {
        lab.edge.set(parameter, "1").unwrap();
    }
    addresses
}

/// What the kernel's maps take, by their descriptors, and the process.
fn memory(edge: &Edge, flows: usize) -> String {
    let directory = format!("/proc/{}/fdinfo", edge.pid());
    let texts = std::fs::read_dir(directory).unwrap().flatten().filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    let locked =
        |text: &String| text.lines().filter_map(|line| line.strip_prefix("memlock:")?.trim().parse::<u64>().ok()).sum::<u64>();
    let maps: u64 = texts.filter(|text| text.contains("map_type")).map(|text| locked(&text)).sum();
    format!(
        "maps {} kB, {} bytes a flow; the process {} kB",
        maps >> 10,
        maps / flows as u64,
        edge.resident_bytes().unwrap() >> 10
    )
}
