//! Two edges that never speak to each other send every flow to the same endpoint, and to the one that the rules name.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use endpoint_group::failback::RampStep;
use endpoint_group::plan::Plan;
use endpoint_group::rendezvous::NameKey;
use endpoint_group::view::{EndpointView, GroupView};
use endpoint_group::{
    Affinity, Dial, EndpointId, FlowHasher, FlowKey, Health, MinHealthy, Name, Protocol, Slot, Weight, WhenAllUnhealthy,
};
use landfall_tests::clients::{TcpSession, UdpFlow};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::lab::{Lab, Region};
use landfall_tests::path::{Families, Path};

const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 7000;
const STICKY_PORT: u16 = 7001;
const SEED: u64 = 7;
/// Flows through the running processes.
const SAMPLE: u16 = 2000;
/// Flows through the rules.
const FLOWS: u32 = 100_000;
const FIRST_CLIENT_PORT: u16 = 20_000;

/// An endpoint group with its dial, and its endpoints with their weights.
struct Group {
    name: &'static str,
    dial: f64,
    endpoints: [(&'static str, u8); 4],
}

/// In order of preference.
const GROUPS: [Group; 2] = [
    Group { name: "a", dial: 70.0, endpoints: [("a-0", 128), ("a-1", 64), ("a-2", 255), ("a-3", 1)] },
    Group { name: "b", dial: 100.0, endpoints: [("b-0", 128), ("b-1", 128), ("b-2", 0), ("b-3", 17)] },
];

/// The same accelerator on every edge; `edge_keys` are the host's own.
fn config(families: Families, edge_keys: &str) -> String {
    let static_ips: Vec<_> = families.static_ips().iter().map(ToString::to_string).collect();
    let mut text = format!(
        r#"
name = "agreement"
static_ips = {static_ips:?}
hash_seed = {SEED}
[edge]
admin = "127.0.0.1:9900"
control = "{{dir}}/control.sock"
{edge_keys}
[[listeners]]
name = "spread"
protocol = "tcp_udp"
ports = [{PORT}]
endpoint_groups = ["a", "b"]
[[listeners]]
name = "sticky"
protocol = "tcp_udp"
ports = [{STICKY_PORT}]
client_affinity = "source_ip"
endpoint_groups = ["a", "b"]
"#
    );
    for (number, Group { name, dial, endpoints }) in GROUPS.iter().enumerate() {
        let listed: Vec<_> = endpoints
            .iter()
            .enumerate()
            .map(|(index, (name, weight))| {
                let (region, host) = (2 + number, 2 + index);
                format!("  {{ name = \"{name}\", address = \"198.18.{region}.{host}:{PORT}\", weight = {weight} }},")
            })
            .collect();
        text += &format!(
            "[[endpoint_groups]]\nname = \"{name}\"\ntraffic_dial = {dial:?}\nendpoints = [\n{}\n]\n\
             health_check = {{ protocol = \"tcp\", port = {PORT}, timeout = \"1s\" }}\n",
            listed.join("\n")
        );
    }
    text
}

/// One edge with a world of its own.
struct World {
    lab: Lab,
    edge: Edge,
    _endpoints: Vec<Endpoint>,
}

fn world(path: Path, families: Families, edge_keys: &str) -> World {
    let lab = Lab::first_light().unwrap();
    let start = |region: &Region, index: u8, name: &str| {
        Endpoint::start(Some(&region.namespace), Spec::echo(name, (region.ipv4(index), PORT))).unwrap()
    };
    let mut endpoints = Vec::new();
    for (group, region) in GROUPS.iter().zip([&lab.region_a, &lab.region_b]) {
        endpoints.extend((0..).zip(&group.endpoints).map(|(index, (name, _))| start(region, index, name)));
    }
    let edge = path.start(&lab.edge, &config(families, edge_keys)).unwrap();
    World { lab, edge, _endpoints: endpoints }
}

impl World {
    /// The digests of the tables, by listener.
    fn digests(&self) -> BTreeMap<String, String> {
        let status = self.edge.status().unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        status["listeners"].as_array().unwrap().iter().map(|l| (text(&l["name"]), text(&l["digest"]))).collect()
    }

    /// Where the running edge sends each of `flows`.
    fn landings(&self, flows: &[FlowKey]) -> Vec<String> {
        self.lab.client.enter(|| flows.iter().map(landing).collect())
    }
}

fn landing(flow: &FlowKey) -> String {
    match flow.protocol {
        Protocol::Tcp => TcpSession::open(Some(flow.client), flow.to, LIMIT).unwrap().endpoint,
        Protocol::Udp => UdpFlow::open(flow.client, flow.to).unwrap().exchange(LIMIT).unwrap().endpoint,
    }
}

/// The rules as any edge computes them, whatever numbers it gives to the endpoints: `backwards` gives them the other way round.
struct Rules {
    plan: Plan,
    names: Vec<&'static str>,
}

fn rules(backwards: bool) -> Rules {
    let mut names: Vec<_> = GROUPS.iter().flat_map(|group| group.endpoints.iter().map(|(name, _)| *name)).collect();
    if backwards {
        names.reverse();
    }
    let view = |Group { name, dial, endpoints }: &Group| {
        let mut views: Vec<_> = endpoints
            .iter()
            .map(|(name, weight)| EndpointView {
                id: EndpointId::new(names.iter().position(|known| known == name).unwrap()).unwrap(),
                key: NameKey::endpoint(&Name::new(name).unwrap()),
                health: Health::Healthy,
                weight: Weight::new(*weight),
                ramp: RampStep::FULL,
            })
            .collect();
        if backwards {
            views.reverse();
        }
        GroupView {
            key: NameKey::group(&Name::new(name).unwrap()),
            dial: Dial::from_percent(*dial).unwrap(),
            ramp: RampStep::FULL,
            min_healthy: MinHealthy::default(),
            endpoints: views,
        }
    };
    let views: Vec<_> = GROUPS.iter().map(view).collect();
    Rules { plan: Plan::new(&views.iter().collect::<Vec<_>>(), WhenAllUnhealthy::FailOpen), names }
}

impl Rules {
    fn choose(&self, slot: Slot) -> &'static str {
        self.names[self.plan.choose(slot).unwrap().index()]
    }
}

fn static_ip(families: Families, number: u32) -> IpAddr {
    let all = families.static_ips();
    all[usize::try_from(number).unwrap() % all.len()]
}

/// The lab's client in the family of `to`.
fn client(to: IpAddr) -> IpAddr {
    if to.is_ipv4() { Ipv4Addr::new(198, 18, 1, 2).into() } else { "fd00:18:1::2".parse().unwrap() }
}

/// Flows of the lab's client, TCP and UDP, to every static IP.
fn sample(families: Families, port: u16, count: u16) -> Vec<FlowKey> {
    let flow = |number: u16| {
        let to = static_ip(families, number.into());
        let protocol = if (number / 4).is_multiple_of(2) { Protocol::Tcp } else { Protocol::Udp };
        FlowKey { protocol, client: (client(to), FIRST_CLIENT_PORT + number).into(), to: (to, port).into() }
    };
    (0..count).map(flow).collect()
}

#[test]
fn two_edges_in_user_space_and_the_rules_agree_on_every_flow() {
    edges_and_the_rules_agree([Path::User; 2], Families::Both);
}

#[test]
fn two_edges_in_the_kernel_and_the_rules_agree_on_every_flow() {
    edges_and_the_rules_agree([Path::Kernel; 2], Families::V4);
}

#[test]
fn an_edge_in_user_space_one_in_the_kernel_and_the_rules_agree_on_every_flow() {
    edges_and_the_rules_agree([Path::User, Path::Kernel], Families::V4);
}

fn edges_and_the_rules_agree(paths: [Path; 2], families: Families) {
    let first = world(paths[0], families, "name = \"first\"\nworkers = 1");
    let second = world(paths[1], families, "name = \"second\"\nworkers = 3");
    assert_eq!(first.digests(), second.digests());
    assert_eq!(first.digests().len(), 2);

    let (hasher, rules) = (FlowHasher::new(SEED), rules(false));
    let mut datagrams = 0;
    for (port, count, affinity) in [(PORT, SAMPLE, Affinity::None), (STICKY_PORT, 16, Affinity::SourceIp)] {
        let flows = sample(families, port, count);
        datagrams += flows.iter().filter(|flow| flow.protocol == Protocol::Udp).count();
        let (one, other) = std::thread::scope(|scope| {
            let one = scope.spawn(|| first.landings(&flows));
            (one.join().unwrap(), second.landings(&flows))
        });
        let expected: Vec<_> = flows.iter().map(|flow| rules.choose(hasher.slot(flow, affinity))).collect();
        let differing = flows.iter().zip(expected.iter().zip(one.iter().zip(&other)));
        let differing: Vec<_> = differing.filter(|(_, (rule, (one, other)))| one != other || one != *rule).take(5).collect();
        assert!(differing.is_empty(), "{affinity:?}: {differing:?}");
    }
    for (path, world) in paths.into_iter().zip([&first, &second]) {
        path.assert_carried(&world.edge, datagrams);
        assert_eq!(world.edge.metrics().unwrap().sum("landfall_connect_failures_total", &[]), 0.0);
    }
}

#[test]
fn the_rules_agree_on_a_hundred_thousand_flows_however_endpoints_are_numbered() {
    let hasher = FlowHasher::new(SEED);
    let (one, other) = (rules(false), rules(true));
    let mut shares: BTreeMap<&str, u32> = BTreeMap::new();
    for number in 0..FLOWS {
        let to = static_ip(Families::Both, number);
        let client = SocketAddr::from((
            Ipv4Addr::from(0x0a00_0000 + number / 7),
            FIRST_CLIENT_PORT + u16::try_from(number % 30_000).unwrap(),
        ));
        let protocol = if number.is_multiple_of(3) { Protocol::Tcp } else { Protocol::Udp };
        let slot = hasher.slot(&FlowKey { protocol, client, to: (to, PORT).into() }, Affinity::None);
        assert_eq!(one.choose(slot), other.choose(slot), "{client} to {to}");
        *shares.entry(one.choose(slot)).or_default() += 1;
    }
    println!("shares: {shares:?}");
    assert_eq!(shares.get("b-2"), None, "weight 0");
    let group_a: u32 = shares.iter().filter(|(name, _)| name.starts_with('a')).map(|(_, share)| share).sum();
    // Four times the deviation of a binomial share, and of that of the slots behind it.
    assert!(group_a.abs_diff(FLOWS / 10 * 7) < FLOWS / 100, "{group_a} of {FLOWS} flows with a dial of 70 %");
}
