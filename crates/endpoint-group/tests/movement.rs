//! What moves when something changes: the slots that must, and exactly none besides. And the worked examples of dials.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test panics where it fails, helpers included")]

mod common;

use common::{EndpointSpec, GroupSpec, ListenerSpec, Min, Named, any_listener, config, endpoint, group, sampled_slots};
use endpoint_group::{Health, SLOTS, Slot, plan::Stage};
use proptest::prelude::*;

/// Slots whose answer differs, with both answers.
fn moves<'a>(before: &'a Named, after: &'a Named, slots: impl Iterator<Item = Slot>) -> Vec<(Option<&'a str>, Option<&'a str>)> {
    slots.map(|slot| (before.choose(slot), after.choose(slot))).filter(|(old, new)| old != new).collect()
}

/// One change of one endpoint.
#[derive(Debug, Clone)]
enum Change {
    Remove,
    Add(u8),
    Weight(u8),
    Health(Health),
    Ramp(u32),
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        Just(Change::Remove),
        (0u8..=255).prop_map(Change::Add),
        (0u8..=255).prop_map(Change::Weight),
        prop::sample::select(vec![Health::Unknown, Health::Healthy, Health::Unhealthy]).prop_map(Change::Health),
        (0u32..=10).prop_map(Change::Ramp),
    ]
}

/// Applies `change` to one endpoint; returns its name and its group's index.
fn apply(
    listener: &mut ListenerSpec,
    change: &Change,
    g: prop::sample::Index,
    e: prop::sample::Index,
) -> Option<(String, usize)> {
    let g = g.index(listener.groups.len());
    let endpoints = &mut listener.groups[g].endpoints;
    if let Change::Add(weight) = change {
        endpoints.push(endpoint("newcomer", *weight));
        return Some(("newcomer".into(), g));
    }
    let e = (!endpoints.is_empty()).then(|| e.index(endpoints.len()))?;
    let name = endpoints[e].name.clone();
    match *change {
        Change::Remove => drop(endpoints.remove(e)),
        Change::Weight(weight) => endpoints[e].weight = weight,
        Change::Health(health) => endpoints[e].health = health,
        Change::Ramp(ramp) => endpoints[e].ramp = ramp,
        Change::Add(_) => {}
    }
    Some((name, g))
}

proptest! {
    #![proptest_config(config(4_000))]

    #[test]
    fn a_change_of_one_endpoint_moves_only_what_it_loses_or_wins(
        listener in any_listener(12), change in any_change(), g in any::<prop::sample::Index>(), e in any::<prop::sample::Index>(),
    ) {
        let before = listener.named();
        let mut changed = listener.clone();
        let Some((name, g)) = apply(&mut changed, &change, g, e) else { return Ok(()) };
        let after = changed.named();
        let effective = |l: &ListenerSpec| l.endpoints().find(|e| e.name == name).map_or(0, |e| match e.health {
            Health::Healthy => u32::from(e.weight) * e.ramp,
            _ => 0,
        });
        if before.plan.stage() == after.plan.stage() && before.outline() == after.outline() {
            for (old, new) in moves(&before, &after, sampled_slots()) {
                prop_assert!(old == Some(&*name) || new == Some(&*name), "{old:?} {new:?}");
                // What counts more only wins, what counts less only loses.
                if before.plan.stage() == Stage::Eligible {
                    prop_assert_eq!(new == Some(&*name), effective(&changed) > effective(&listener), "{:?} {:?}", old, new);
                }
            }
        } else if before.plan.stage() == Stage::Eligible && after.plan.stage() == Stage::Eligible {
            // The group came or went: its own slots move, nobody else's.
            let in_group = |name: Option<&str>| [&listener, &changed].iter().any(|l| {
                l.groups[g].endpoints.iter().any(|e| Some(&*e.name) == name)
            });
            for (old, new) in moves(&before, &after, sampled_slots()) {
                prop_assert!(in_group(old) || in_group(new), "{old:?} {new:?}");
            }
        }
    }

    #[test]
    fn a_dial_moves_only_its_own_groups_slots(listener in any_listener(5), g in any::<prop::sample::Index>(), dial in 0u32..=100_000) {
        let g = g.index(listener.groups.len());
        let mut changed = listener.clone();
        changed.groups[g].dial = dial;
        let (before, after) = (listener.named(), changed.named());
        if before.plan.stage() != Stage::Eligible || after.plan.stage() != Stage::Eligible {
            return Ok(());
        }
        for slot in sampled_slots() {
            let (old, new) = (before.group(slot), after.group(slot));
            prop_assert!(old == new || old == Some(g) || new == Some(g));
            if old == new {
                prop_assert_eq!(before.choose(slot), after.choose(slot), "a dial is no business of the endpoints' ranking");
            }
        }
    }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn a_growing_ramp_only_moves_slots_to_it(weights in prop::collection::vec(1u8..=255, 2..=12), world in any::<u16>()) {
        let endpoints: Vec<_> = weights.iter().enumerate().map(|(i, &w)| endpoint(&format!("w{world}-{i}"), w)).collect();
        let growing = endpoints[0].name.clone();
        let mut listener = ListenerSpec::new(vec![group("g", 100, endpoints)]);
        listener.endpoint_mut(&growing).ramp = 0;
        let mut before = listener.named();
        for step in 1..=10 {
            listener.endpoint_mut(&growing).ramp = step;
            let after = listener.named();
            for (_, new) in moves(&before, &after, Slot::all().step_by(7)) {
                prop_assert_eq!(new, Some(&*growing));
            }
            before = after;
        }
        // At the end it holds what it would had it never been away.
        let mut full = listener;
        full.endpoint_mut(&growing).ramp = 10;
        prop_assert_eq!(before.table(), full.named().table());
    }
}

/// Slots that go to endpoints whose name begins with `prefix`.
fn slots_to(listener: &ListenerSpec, prefix: &str) -> usize {
    let named = listener.named();
    Slot::all().filter(|&slot| named.choose(slot).is_some_and(|name| name.starts_with(prefix))).count()
}

fn near(share: usize, of: usize, expected: f64) -> bool {
    let deviation = 5.0 * (of as f64 * expected * (1.0 - expected)).sqrt();
    (share as f64 - of as f64 * expected).abs() <= deviation
}

fn pair(name: &str, dial: u32) -> GroupSpec {
    group(name, dial, vec![endpoint(&format!("{name}-1"), 128), endpoint(&format!("{name}-2"), 128)])
}

#[test]
fn two_groups_at_dial_50_serve_everything_half_near_half_by_the_other() {
    // The documented example: 100 requests, 50 near each group. An edge lists the nearer group first; all are served.
    let mut served = [0usize; 2];
    for (own, other) in [("east", "west"), ("west", "east")] {
        let listener = ListenerSpec::new(vec![pair(own, 50), pair(other, 50)]);
        let (stay, spill) = (slots_to(&listener, own), slots_to(&listener, other));
        assert!(near(stay, SLOTS, 0.5), "{own}: {stay}");
        assert_eq!(stay + spill, SLOTS, "all are served");
        let east = usize::from(own != "east");
        served[east] += stay;
        served[1 - east] += spill;
    }
    assert!(near(served[0], 2 * SLOTS, 0.5), "{served:?}");
}

#[test]
fn a_dial_of_zero_takes_nothing_while_another_group_is_eligible() {
    let mut listener = ListenerSpec::new(vec![pair("eu", 50), pair("us", 0)]);
    assert_eq!(slots_to(&listener, "eu"), SLOTS, "eu is the last with an open dial, and takes the rest");
    // Half of eu gone, or half of it held, changes nothing for us.
    listener.endpoint_mut("eu-1").health = Health::Unhealthy;
    assert_eq!(slots_to(&listener, "eu-2"), SLOTS);
    listener.endpoint_mut("eu-2").ramp = 0;
    assert_eq!(slots_to(&listener, "eu-2"), SLOTS, "held, but used in full before dials are ignored");
    assert_eq!(listener.named().plan.stage(), Stage::HeldInFull);
    listener.endpoint_mut("eu-2").health = Health::Unhealthy;
    assert_eq!(slots_to(&listener, "us"), SLOTS);
    assert_eq!(listener.named().plan.stage(), Stage::DialsIgnored);
    listener.endpoint_mut("us-1").weight = 0;
    assert_eq!(slots_to(&listener, "us-2"), SLOTS, "weight 0 takes nothing in failover either");
    // With us gone too the first group fails open, whatever its dial.
    listener.endpoint_mut("us-2").health = Health::Unhealthy;
    assert_eq!(listener.named().plan.stage(), Stage::FailOpen);
    assert_eq!(slots_to(&listener, "eu"), SLOTS);
    listener.fail_open = false;
    assert_eq!(slots_to(&listener, ""), 0);
}

#[test]
fn held_and_ramping_endpoints_serve_in_full_before_dials_are_ignored_or_fail_open() {
    for ramps in [[0, 0], [0, 3], [3, 3]] {
        let mut eu = pair("eu", 100);
        eu.endpoints.iter_mut().zip(ramps).for_each(|(e, ramp)| e.ramp = ramp);
        // Two are needed, and the held one counts once nothing else would do.
        eu.min = Min::Count(2);
        for others in [vec![], vec![pair("us", 0)]] {
            let listener = ListenerSpec::new([vec![eu.clone()], others].concat());
            assert_eq!(slots_to(&listener, "eu"), SLOTS, "{ramps:?}");
            assert!(near(slots_to(&listener, "eu-1"), SLOTS, 0.5), "{ramps:?}");
        }
        // While another group's dial is open, one held endpoint too many keeps the group out.
        let with_open = ListenerSpec::new(vec![eu.clone(), pair("us", 100)]);
        let expected = if ramps.contains(&0) { 0 } else { SLOTS };
        assert_eq!(slots_to(&with_open, "eu"), expected, "{ramps:?}");
    }
}

#[test]
fn a_returning_group_takes_traffic_as_its_ramp_says() {
    let mut last = 0;
    for step in 0..=10u32 {
        let eu = GroupSpec { ramp: step, ..pair("eu", 80) };
        let taken = slots_to(&ListenerSpec::new(vec![eu, pair("us", 100)]), "eu");
        assert!(near(taken, SLOTS, f64::from(step) * 0.08) && taken >= last, "step {step}: {taken}");
        last = taken;
    }
}

#[test]
fn the_last_group_to_return_takes_traffic_as_its_ramp_says_too() {
    // Listed last, a group takes whatever the dials before it leave; that it is last must not void its ramp.
    let mut last = 0;
    for step in 0..=10u32 {
        let ap = GroupSpec { ramp: step, ..pair("ap", 100) };
        let taken = slots_to(&ListenerSpec::new(vec![pair("us", 50), ap]), "ap");
        let whole = SLOTS / 2;
        assert!(taken >= last && taken <= whole * step as usize / 10 + whole / 50, "step {step}: {taken} of {whole}");
        last = taken;
    }
}

#[test]
fn min_healthy_passes_a_weak_group_over() {
    let mut listener = ListenerSpec::new(vec![pair("eu", 100), pair("us", 100)]);
    for (min, out_of_two) in [(Min::Count(1), SLOTS), (Min::Count(2), 0), (Min::Percent(50), SLOTS), (Min::Percent(51), 0)] {
        listener.groups[0].min = min;
        assert_eq!(slots_to(&listener, "eu"), SLOTS);
        listener.endpoint_mut("eu-1").health = Health::Unhealthy;
        assert_eq!(slots_to(&listener, "eu"), out_of_two);
        listener.endpoint_mut("eu-1").health = Health::Healthy;
    }
    // A drained endpoint is no part of the percentage.
    listener.groups[0].endpoints.push(EndpointSpec { weight: 0, ..endpoint("eu-3", 0) });
    listener.groups[0].min = Min::Percent(100);
    assert_eq!(slots_to(&listener, "eu"), SLOTS);
}
