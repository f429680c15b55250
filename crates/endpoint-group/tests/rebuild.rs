//! The incremental table is the table from scratch, whatever happened on the way.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::{num::NonZeroU16, time::Duration};

use endpoint_group::{
    Dial, EndpointId, Health, ListenerTable, MinHealthy, Name, Slot, Weight, WhenAllUnhealthy,
    failback::RampStep,
    model::FailbackPolicy,
    plan::Plan,
    rendezvous::NameKey,
    view::{EndpointView, GroupView},
};

const CHANGES: usize = 10_000;

/// Numbers below a bound, the same in every run: SplitMix64.
fn rng() -> impl FnMut(usize) -> usize {
    let mut state = 7u64;
    move |below| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        usize::try_from((mixed ^ (mixed >> 29)) % below as u64).unwrap()
    }
}

fn step(step: usize) -> RampStep {
    let policy = FailbackPolicy { hold: Duration::from_secs(1), ramp: Duration::from_secs(10) };
    let found = RampStep::at(&policy, Duration::from_secs(if step == 0 { 0 } else { 1 + step as u64 }));
    assert_eq!(found.get() as usize, step);
    found
}

fn group(name: &str, ids: std::ops::Range<usize>) -> GroupView {
    let endpoint = |index| EndpointView {
        id: EndpointId::new(index).unwrap(),
        key: NameKey::endpoint(&Name::new(&format!("{name}-{index}")).unwrap()),
        health: Health::Healthy,
        weight: Weight::default(),
        ramp: RampStep::FULL,
    };
    GroupView {
        key: NameKey::group(&Name::new(name).unwrap()),
        dial: Dial::FULL,
        ramp: RampStep::FULL,
        min_healthy: MinHealthy::Count(NonZeroU16::MIN),
        endpoints: ids.map(endpoint).collect(),
    }
}

fn plan(groups: &[GroupView]) -> Plan {
    Plan::new(&groups.iter().collect::<Vec<_>>(), WhenAllUnhealthy::FailOpen)
}

fn assert_same(incremental: &ListenerTable, groups: &[GroupView], change: usize) {
    let scratch = ListenerTable::build(plan(groups));
    let differs = Slot::all().find(|&slot| incremental.choose(slot) != scratch.choose(slot));
    assert_eq!(differs, None, "after change {change}");
}

/// One random change of anything that a plan depends on, sometimes of many endpoints at once.
fn change(groups: &mut [GroupView], random: &mut impl FnMut(usize) -> usize) {
    let at = random(groups.len());
    let group = &mut groups[at];
    match random(10) {
        0 => group.dial = Dial::from_percent([0.0, 10.0, 50.0, 100.0][random(4)]).unwrap(),
        1 => group.ramp = step(1 + random(10)),
        2 => group.min_healthy = MinHealthy::Count([1, 2, 3].map(|count| NonZeroU16::new(count).unwrap())[random(3)]),
        3 => {
            let health = [Health::Healthy, Health::Unhealthy][random(2)];
            group.endpoints.iter_mut().for_each(|endpoint| endpoint.health = health);
        }
        kind => {
            let endpoint = random(group.endpoints.len());
            let endpoint = &mut group.endpoints[endpoint];
            match kind {
                4 | 5 => endpoint.weight = Weight::new([0, 1, 64, 128, 255][random(5)]),
                6 => endpoint.ramp = step(random(11)),
                _ => endpoint.health = [Health::Healthy, Health::Unhealthy, Health::Unknown][random(3)],
            }
        }
    }
}

#[test]
fn ten_thousand_random_changes_end_in_the_table_from_scratch() {
    let mut random = rng();
    let mut groups = [group("eu", 0..5), group("us", 5..8), group("ap", 8..12)];
    let mut table = ListenerTable::build(plan(&groups));
    for count in 0..CHANGES {
        change(&mut groups, &mut random);
        table = table.rebuild(plan(&groups));
        if count % 50 == 0 {
            assert_same(&table, &groups, count);
        }
    }
    assert_same(&table, &groups, CHANGES);
}

#[test]
fn endpoints_that_come_go_and_change_ids_are_decided_anew() {
    let mut random = rng();
    let mut groups = [group("eu", 0..20), group("us", 20..30)];
    let mut table = ListenerTable::build(plan(&groups));
    for count in 0..200 {
        let at = random(2);
        let endpoints = &mut groups[at].endpoints;
        if endpoints.len() > 1 && random(2) == 0 {
            endpoints.remove(random(endpoints.len()));
        } else {
            // Sometimes a name that is there already, under another id: an endpoint that moved to another address.
            let name = format!("eu-{}", random(40));
            let key = NameKey::endpoint(&Name::new(&name).unwrap());
            endpoints.retain(|endpoint| endpoint.key != key);
            let id = EndpointId::new(100 + count).unwrap();
            let view = EndpointView { id, key, health: Health::Healthy, weight: Weight::default(), ramp: RampStep::FULL };
            endpoints.push(view);
        }
        table = table.rebuild(plan(&groups));
        assert_same(&table, &groups, count);
    }
}
