//! The program's flow hash and choice against the frozen vectors, and against the crate that decides in user space.

#![cfg(all(target_os = "linux", feature = "kernel"))]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use common::{
    frame::Datagram,
    tables::{ips, listener, listener_table, routing_table, settings},
    world,
};
use endpoint_group::{Affinity, FlowHasher, FlowKey, Protocol};
use fast_path::{FastPath, test_support};

static VECTORS: &str = include_str!("../../endpoint-group/tests/golden/vectors.txt");

fn number(hex: &str) -> u64 {
    u64::from_str_radix(hex.strip_prefix("0x").unwrap(), 16).unwrap()
}

type Vector = (SocketAddr, SocketAddr, u64);

/// Has the program open the flow, and gives what it made of it.
fn open(fast_path: &FastPath, client: SocketAddr, to: SocketAddr) -> fast_path::FlowEntry {
    let mut datagram = Datagram::new(client, to);
    datagram.macs.1 = world::CLIENT_SIDE;
    test_support::run(fast_path, &datagram.frame(), world::number("client"), 1).unwrap();
    fast_path.flow(client, to).unwrap().unwrap_or_else(|| panic!("no flow from {client} to {to}"))
}

#[test]
fn golden_vectors_through_the_program() {
    world::enter();
    let mut groups: BTreeMap<(u64, bool), Vec<Vector>> = BTreeMap::new();
    let mut refused = 0;
    for line in VECTORS.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        let ["flow", seed, "udp", affinity, client, to, hash] = fields[..] else { continue };
        let flow: Vector = (client.parse().unwrap(), to.parse().unwrap(), number(hash));
        // The program refuses what no packet comes from.
        if ["[::1]:0", "255.255.255.255:65535"].contains(&client) {
            refused += 1;
            continue;
        }
        groups.entry((number(seed), affinity == "source_ip")).or_default().push(flow);
    }
    assert_eq!(groups.len(), 4 * 2, "every seed with every affinity");
    assert_eq!(refused, 4);
    for ((seed, source_ip), flows) in groups {
        let mut all = listener(0, 7000);
        all.ports = vec![443..=443, 5060..=5060, 7000..=7000];
        all.affinity = if source_ip { Affinity::SourceIp } else { Affinity::None };
        let mut settings = settings(vec![all]);
        settings.hash_seed = seed;
        settings.static_ips = flows.iter().map(|(_, to, _)| to.ip()).collect();
        let mut fast_path = FastPath::load(settings).unwrap();
        for (client, to, hash) in flows {
            let (endpoint, answers) = match to.ip() {
                IpAddr::V4(_) => ("198.18.2.2", listener_table(&[0])),
                IpAddr::V6(_) => ("fd18:2::2", listener_table(&[0])),
            };
            let table = routing_table(vec![common::tables::endpoint(0, endpoint, None, &[])], vec![answers]);
            fast_path.publish(&table).unwrap();
            assert_eq!(u64::from(open(&fast_path, client, to).slot.0), hash >> 48, "{seed:x} {source_ip} {client} {to}");
        }
    }
}

#[test]
fn every_flow_goes_where_user_space_would_send_it() {
    world::enter();
    let mut rng = fastrand::Rng::with_seed(11);
    for affinity in [Affinity::None, Affinity::SourceIp] {
        let mut all = listener(0, 1);
        all.ports = vec![1..=65_535];
        all.affinity = affinity;
        let mut settings = settings(vec![all]);
        settings.static_ips = ips(&["198.18.0.1", "198.18.0.2"]);
        settings.nat.addresses = ips(&["198.18.2.1"]);
        settings.nat.ports = 1..=65_535;
        let mut fast_path = FastPath::load(settings).unwrap();
        let endpoints = (0..9).map(|index| common::tables::endpoint(index, &format!("198.18.2.{}", index + 2), None, &[]));
        let table = routing_table(endpoints.collect(), vec![listener_table(&[0, 2, 3, 5, 7, 8])]);
        fast_path.publish(&table).unwrap();
        let hasher = FlowHasher::new(7);
        for _ in 0..10_000 {
            let client = SocketAddr::new(IpAddr::from([198, 18, rng.u8(64..128), rng.u8(..)]), rng.u16(1..));
            let to = SocketAddr::new(IpAddr::from([198, 18, 0, rng.u8(1..=2)]), rng.u16(1..));
            let flow = open(&fast_path, client, to);
            let slot = hasher.slot(&FlowKey { protocol: Protocol::Udp, client, to }, affinity);
            assert_eq!((flow.slot, Some(flow.endpoint)), (slot, table.listeners[0].choose(slot)), "{client} {to}");
        }
    }
}
