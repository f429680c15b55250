//! Frozen numbers. Two edges of different versions agree only while every one of these stays as it is.
//!
//! The vectors in `golden/` come from a computation that shares nothing with this crate; the files say how each input is laid out.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test panics where it fails, helpers included")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{EndpointSpec, GroupSpec, ListenerSpec, Min, name};
use endpoint_group::{
    Affinity, FlowHasher, FlowKey, Health, Protocol, Slot,
    rendezvous::{NameKey, cost},
};

const BREAKS: &str = "this breaks agreement between edges of different versions";

static VECTORS: &str = include_str!("golden/vectors.txt");
static TABLES: &str = include_str!("golden/tables.txt");

fn number(text: &str) -> u64 {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).unwrap(),
        None => text.parse().unwrap(),
    }
}

/// The fields of every line of `kind`, without the kind.
fn lines(text: &'static str, kind: &'static str) -> Vec<Vec<&'static str>> {
    let fields = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|fields| fields.first() == Some(&kind)).map(|fields| fields[1..].to_vec()).collect()
}

#[test]
fn flow_hashes() {
    let vectors = lines(VECTORS, "flow");
    assert!(vectors.len() >= 16);
    let mut kinds = BTreeSet::new();
    for fields in vectors {
        let [seed, protocol, affinity, client, to, hash] = fields[..] else { panic!("{fields:?}") };
        let flow = FlowKey {
            protocol: if protocol == "tcp" { Protocol::Tcp } else { Protocol::Udp },
            client: client.parse().unwrap(),
            to: to.parse().unwrap(),
        };
        kinds.insert((seed, flow.protocol, affinity, flow.client.is_ipv4()));
        let affinity = if affinity == "none" { Affinity::None } else { Affinity::SourceIp };
        let hasher = FlowHasher::new(number(seed));
        assert_eq!(hasher.hash(&flow, affinity), number(hash), "{BREAKS}: flow hash of {fields:?}");
        assert_eq!(u64::from(hasher.slot(&flow, affinity).0), number(hash) >> 48, "{BREAKS}: slot of {fields:?}");
    }
    assert_eq!(kinds.len(), 4 * 2 * 2 * 2, "every seed with every protocol, affinity and address family");
}

#[test]
fn name_keys() {
    for fields in lines(VECTORS, "name") {
        let [kind, text, key] = fields[..] else { panic!("{fields:?}") };
        let of = if kind == "group" { NameKey::group } else { NameKey::endpoint };
        assert_eq!(of(&name(text)).get(), number(key), "{BREAKS}: key of {kind} {text}");
    }
}

#[test]
fn draws() {
    let names: BTreeMap<u64, NameKey> = ["eu-1", "us-2"].map(|n| NameKey::endpoint(&name(n))).map(|k| (k.get(), k)).into();
    let mut seen = 0;
    for fields in lines(VECTORS, "draw") {
        let [key, slot, draw] = fields[..] else { panic!("{fields:?}") };
        // A key can be made from a name only; the vectors of other keys are there for ports to other languages.
        let Some(key) = names.get(&number(key)) else { continue };
        assert_eq!(key.draw(Slot(slot.parse().unwrap())), number(draw), "{BREAKS}: draw {fields:?}");
        seen += 1;
    }
    assert_eq!(seen, 14);
}

#[test]
fn costs() {
    for fields in lines(VECTORS, "cost") {
        let [draw, expected] = fields[..] else { panic!("{fields:?}") };
        assert_eq!(cost(number(draw)), number(expected), "{BREAKS}: cost of {draw}");
    }
}

/// One configuration of `golden/tables.txt` and what must come of it.
#[derive(Default)]
struct Golden {
    config: String,
    listener: Option<ListenerSpec>,
    stage: String,
    digest: u64,
    slots: Vec<(u16, String)>,
    shares: BTreeMap<String, usize>,
}

fn parse_tables() -> Vec<Golden> {
    let mut all: Vec<Golden> = Vec::new();
    for line in TABLES.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let words: Vec<_> = line.split_whitespace().collect();
        let value = |key: &str| words.iter().find_map(|w| w.strip_prefix(key)?.strip_prefix('=')).unwrap();
        if words[0] == "config" {
            let listener = ListenerSpec { groups: Vec::new(), fail_open: words[2] == "fail_open" };
            all.push(Golden { config: words[1].into(), listener: Some(listener), ..Golden::default() });
            continue;
        }
        let golden = all.last_mut().unwrap();
        let groups = &mut golden.listener.as_mut().unwrap().groups;
        match words[0] {
            "group" => groups.push(GroupSpec {
                name: words[1].into(),
                // Text to thousandths without a float, as an operator writes it: up to three decimals.
                dial: {
                    let (whole, decimals) = value("dial").split_once('.').unwrap_or((value("dial"), ""));
                    format!("{whole}{decimals:0<3}").parse().unwrap()
                },
                ramp: value("ramp").parse().unwrap(),
                min: match value("min").strip_suffix('%') {
                    Some(percent) => Min::Percent(percent.parse().unwrap()),
                    None => Min::Count(value("min").parse().unwrap()),
                },
                endpoints: Vec::new(),
            }),
            "endpoint" => groups.last_mut().unwrap().endpoints.push(EndpointSpec {
                name: words[1].into(),
                weight: value("weight").parse().unwrap(),
                health: match value("health") {
                    "healthy" => Health::Healthy,
                    "unhealthy" => Health::Unhealthy,
                    _ => Health::Unknown,
                },
                ramp: value("ramp").parse().unwrap(),
            }),
            "stage" => golden.stage = words[1].into(),
            "digest" => golden.digest = number(words[1]),
            "slot" => golden.slots.push((words[1].parse().unwrap(), words[2].into())),
            "share" => drop(golden.shares.insert(words[1].into(), words[2].parse().unwrap())),
            other => panic!("{other}"),
        }
    }
    all
}

#[test]
fn tables() {
    let all = parse_tables();
    assert_eq!(all.len(), 5);
    for golden in all {
        let config = &golden.config;
        let named = golden.listener.unwrap().named();
        let table = named.table();
        assert_eq!(table.stage().as_str(), golden.stage, "{BREAKS}: stage of {config}");
        for (slot, expected) in golden.slots {
            let chosen = table.choose(Slot(slot)).map_or("-", |id| named.name(id));
            assert_eq!(chosen, expected, "{BREAKS}: slot {slot} of {config}");
        }
        let shares: BTreeMap<_, _> = table.shares().into_iter().map(|(id, n)| (named.name(id).to_owned(), n)).collect();
        assert_eq!(shares, golden.shares, "{BREAKS}: shares of {config}");
        assert_eq!(named.digest(), golden.digest, "{BREAKS}: digest of {config}");
    }
}
