//! `docs/METRICS.md` and a scrape name the same things, both ways.

#![allow(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::UdpSocket,
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use edge_listener::{CloseReason, DropReason, Edge, PassiveObserver, Routes, settings::EdgeSettings};
use endpoint_group::{EndpointId, Health};
use health_checker::{BadReason, Outcome, Report, Snapshot};
use landfall::{
    config::{Config, Host},
    control::{
        names::{Learned, Names},
        state::State,
        status::{AnycastStatus, DeviceStatus, FastPathStatus, StaticIpStatus, Surroundings, UnheardStatus, status},
    },
    metrics::Metrics,
    resolve::Resolution,
};
use tokio::time::Instant;

const DOC: &str = include_str!("../../../docs/METRICS.md");

/// A family: its type and its labels.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

struct Deaf;

impl PassiveObserver for Deaf {
    fn failed(&self, _: EndpointId) {}
}

/// The cells of every table row under `heading`, without the header.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, section) = DOC.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let table = section.lines().filter(|line| line.starts_with('|')).skip(2);
    table.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn first_column(heading: &str) -> Vec<String> {
    rows(heading).iter().flat_map(|cells| quoted(cells[0])).collect()
}

fn documented() -> Families {
    let row = |cells: Vec<&str>| (quoted(cells[0]).remove(0), (cells[1].to_owned(), quoted(cells[2]).into_iter().collect()));
    rows("Families").into_iter().map(row).collect()
}

/// The families of a scrape. A label that only some samples of a family have would be a fault of its own.
fn scraped(text: &str) -> Families {
    let mut families = Families::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
    }
    let mut seen = BTreeSet::new();
    for sample in text.lines().filter(|line| !line.starts_with('#')) {
        let name = sample.split(['{', ' ']).next().unwrap();
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let family = histogram.filter(|base| families.contains_key(*base)).unwrap_or(name);
        let labels = sample.split_once('{').map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
        let pairs = labels.split("\",").filter(|pair| !pair.is_empty());
        let names: BTreeSet<String> =
            pairs.map(|pair| pair.split_once('=').unwrap().0.to_owned()).filter(|l| l != "le").collect();
        let (_, known) = families.get_mut(family).unwrap();
        if seen.insert(family.to_owned()) {
            *known = names;
        } else {
            assert_eq!(*known, names, "{sample}");
        }
    }
    families
}

/// A scrape of an edge that has pinned a flow, so that every family has a sample.
fn scrape() -> String {
    let now = Instant::now().into_std();
    let endpoint = UdpSocket::bind("127.0.0.1:0").unwrap();
    endpoint.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // The endpoint holds the port on its own address; on another it is free.
    let port = endpoint.local_addr().unwrap().port();
    let file = format!(
        "name = \"doc\"\nstatic_ips = [\"127.0.99.1\"]\nhash_seed = 7\n[edge]\nname = \"doc1\"\nworkers = 1\n\
         [[listeners]]\nname = \"l\"\nprotocol = \"udp\"\nports = [{port}]\nendpoint_groups = [\"g\"]\n\
         [[endpoint_groups]]\nname = \"g\"\nhealth_check = {{ protocol = \"udp\", send = \"ping\" }}\n\
         endpoints = [{{ name = \"e\", address = \"127.0.0.1\" }}, {{ name = \"n\", address = \"e.example.com\", weight = 0 }}]\n"
    );
    let host = Host {
        name: "doc1".into(),
        cores: NonZeroUsize::MIN,
        descriptors: 4096,
        congestion: Vec::new(),
        ephemeral: Vec::new(),
        no_dispatcher: Some("a test".into()),
    };
    let config = Config::parse(&file, &host).unwrap();
    let settings = EdgeSettings {
        static_ips: config.edge.announce.clone(),
        hash_seed: config.hash_seed,
        workers: config.edge.workers,
        pin: config.edge.pin,
        listeners: config.listeners.iter().map(|listener| listener.settings.clone()).collect(),
    };
    let mut names = Names::new(config);
    let found = [[127, 0, 0, 9].into()].into();
    assert_eq!(names.learn(&Resolution { host: "e.example.com".to_owned(), outcome: Ok(found) }), Learned::Addresses);
    let mut state = State::new(names.config(), now).unwrap();
    let outcome = Outcome::Good { latency: Duration::from_millis(1) };
    let transition = state.report(&healthy(&state, now, outcome.clone())).unwrap();
    assert!(state.rebuild(now));

    let edge = Edge::start(settings, Arc::new(Routes::new(state.table())), Arc::new(Deaf), None).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"hello", ("127.0.99.1", port)).unwrap();
    // A flow is pinned before its first datagram goes out.
    assert_eq!(endpoint.recv(&mut [0; 16]).unwrap(), 5);

    let metrics = Metrics::new(edge.books(), "doc1").unwrap();
    let target = &state.endpoints().get(transition.id).target;
    metrics.endpoint(target.group.as_str(), target.name.as_str());
    metrics.probe(target.group.as_str(), target.name.as_str(), &outcome);
    let ip = "127.0.99.1".to_owned();
    metrics.static_ip(ip.parse().unwrap());
    let anycast = AnycastStatus {
        bird: "up".to_owned(),
        static_ips: vec![StaticIpStatus { ip, state: "announced".to_owned(), reason: "serving".to_owned() }],
    };
    let device = DeviceStatus { name: "eth0".to_owned(), mode: "tcx".to_owned(), reason: String::new() };
    let unheard = vec![UnheardStatus { endpoint: "a".to_owned(), device: "wg0".to_owned() }];
    let strays = [("no_flow".to_owned(), 1)].into();
    let packets = [("tcx".to_owned(), 1)].into();
    let fast_path = FastPathStatus { devices: vec![device], unheard, nat_capacity: [4536, 0], packets, strays };
    let around = Surroundings { anycast: Some(anycast), fast_path: Some(fast_path), ..Surroundings::default() };
    let text = metrics.render(&status(&state, Some(&names), edge.books(), &around, now)).unwrap();
    edge.stop();
    String::from_utf8(text).unwrap()
}

fn healthy(state: &State, now: std::time::Instant, outcome: Outcome) -> Report {
    let entry = &state.endpoints().entries()[0];
    let good = Snapshot {
        health: Health::Healthy,
        since: now,
        first_bad: None,
        last_good_sent: Some(now),
        first_good_sent: Some(now),
        last_bad_sent: None,
        consecutive_bad: 0,
        consecutive_good: 1,
        damped_until: None,
    };
    Report {
        id: entry.id,
        address: entry.probe,
        at: now,
        sent: now,
        late: Duration::ZERO,
        outcome,
        state: good,
        transition: Some((Health::Unknown, Health::Healthy)),
    }
}

#[test]
fn families_types_and_labels_are_those_of_a_scrape() {
    assert_eq!(documented(), scraped(&scrape()));
}

#[test]
fn every_label_of_a_family_is_explained_and_no_other() {
    let used: BTreeSet<String> = documented().into_values().flat_map(|(_, labels)| labels).collect();
    assert_eq!(first_column("Labels").into_iter().collect::<BTreeSet<_>>(), used);
}

#[test]
fn reasons_are_those_of_the_program() {
    assert_eq!(first_column("Close reasons"), CloseReason::ALL.iter().map(|reason| reason.as_str()).collect::<Vec<_>>());
    assert_eq!(first_column("Drop reasons"), DropReason::ALL.iter().map(|reason| reason.as_str()).collect::<Vec<_>>());
    let own = |reason: &&str| !DropReason::ALL.iter().any(|shared| shared.as_str() == *reason);
    let kernel = fast_path::DropReason::ALL.iter().map(|reason| reason.as_str());
    assert_eq!(first_column("Drop reasons of the kernel alone"), kernel.filter(own).collect::<Vec<_>>());
    let ends = fast_path::EndReason::ALL.iter().map(|reason| reason.as_str());
    assert!(
        ends.clone().all(|end| CloseReason::ALL.iter().any(|reason| reason.as_str() == end)),
        "{:?}",
        ends.collect::<Vec<_>>()
    );
    let results = ["good"].into_iter().chain(BadReason::ALL.map(BadReason::as_str)).chain(["local"]);
    assert_eq!(first_column("Probe results"), results.collect::<Vec<_>>());
}
