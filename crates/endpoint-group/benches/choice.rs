//! What a choice costs, and what keeping the tables up to date costs: `cargo bench -p endpoint-group`.

use std::{hint::black_box, num::NonZeroU16};

use divan::{Bencher, counter::ItemsCount};
use endpoint_group::{
    Affinity, Dial, EndpointId, FlowHasher, FlowKey, Health, ListenerTable, MinHealthy, Name, Protocol, Weight, WhenAllUnhealthy,
    failback::RampStep,
    plan::Plan,
    rendezvous::NameKey,
    view::{EndpointView, GroupView},
};

fn main() {
    divan::main();
}

/// A group of `count` endpoints of four different weights.
fn group(count: usize, salt: usize) -> GroupView {
    let key = |text: String, of: fn(&Name) -> NameKey| Name::new(&text).map(|name| of(&name));
    let endpoint = |index: usize| {
        Some(EndpointView {
            id: EndpointId::new(index)?,
            key: key(format!("endpoint-{salt}-{index}"), NameKey::endpoint).ok()?,
            health: Health::Healthy,
            weight: Weight::new([32, 64, 128, 255][index % 4]),
            ramp: RampStep::FULL,
        })
    };
    GroupView {
        key: NameKey::group(&Name::new("group").unwrap_or_else(|error| panic!("{error}"))),
        dial: Dial::FULL,
        ramp: RampStep::FULL,
        min_healthy: MinHealthy::Count(NonZeroU16::MIN),
        endpoints: (0..count).filter_map(endpoint).collect(),
    }
}

fn plan(group: &GroupView) -> Plan {
    Plan::new(&[group], WhenAllUnhealthy::FailOpen)
}

/// Hash and look-up of a new flow: the same whatever the number of endpoints.
#[divan::bench(args = [1, 10, 100, 1000])]
fn choose(bencher: Bencher, endpoints: usize) {
    let table = ListenerTable::build(plan(&group(endpoints, 0)));
    let hasher = FlowHasher::new(7);
    let flows: Vec<FlowKey> = (0..1024u16)
        .map(|port| FlowKey {
            protocol: Protocol::Udp,
            client: ([203, 0, 113, 9], 1024 + port).into(),
            to: ([198, 18, 0, 1], 7000).into(),
        })
        .collect();
    bencher.counter(ItemsCount::new(flows.len())).bench_local(|| {
        for flow in &flows {
            black_box(table.choose(hasher.slot(black_box(flow), Affinity::None)));
        }
    });
}

/// Ten listeners with 1,000 endpoints each, none shared.
#[divan::bench(sample_count = 5)]
fn cold_build_of_ten_thousand_endpoints(bencher: Bencher) {
    let groups: Vec<GroupView> = (0..10).map(|salt| group(1000, salt)).collect();
    bencher.bench_local(|| {
        for group in &groups {
            black_box(ListenerTable::build(plan(group)));
        }
    });
}

fn half_down() -> (GroupView, GroupView) {
    let up = group(1000, 0);
    let mut down = up.clone();
    for endpoint in down.endpoints.iter_mut().step_by(2) {
        endpoint.health = Health::Unhealthy;
    }
    (up, down)
}

/// 500 of 1,000 endpoints turn unhealthy at once.
#[divan::bench(sample_count = 20)]
fn five_hundred_of_a_thousand_die(bencher: Bencher) {
    let (up, down) = half_down();
    let table = ListenerTable::build(plan(&up));
    bencher.bench_local(|| table.rebuild(plan(black_box(&down))));
}

/// And come back at once.
#[divan::bench(sample_count = 20)]
fn five_hundred_of_a_thousand_come_back(bencher: Bencher) {
    let (up, down) = half_down();
    let table = ListenerTable::build(plan(&down));
    bencher.bench_local(|| table.rebuild(plan(black_box(&up))));
}
