//! What the rules of choice promise, on random listeners: shares, rankings, who is never chosen, and that input order says nothing.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test panics where it fails, helpers included")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{GroupSpec, ListenerSpec, any_listener, config, endpoint, group, sampled_slots};
use endpoint_group::{Affinity, FlowHasher, FlowKey, Health, Protocol, SLOTS, Slot, plan::Stage};
use proptest::prelude::*;

/// Slots by endpoint name, over the whole table.
fn shares(listener: &ListenerSpec) -> BTreeMap<String, usize> {
    let named = listener.named();
    named.table().shares().into_iter().map(|(id, n)| (named.name(id).to_owned(), n)).collect()
}

/// Asserts that `count` of `trials` fits probability `p`: five standard deviations, and one slot for rounding.
fn assert_share(what: &str, count: usize, trials: usize, p: f64) {
    let (count, trials) = (count as f64, trials as f64);
    let bound = 5.0 * (trials * p * (1.0 - p)).sqrt() + 1.0;
    assert!((count - trials * p).abs() <= bound, "{what}: {count} of {trials}, expected {} ± {bound}", trials * p);
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn a_share_is_weight_times_dial(
        groups in prop::collection::vec((1u32..=100, 1u32..=10, prop::collection::vec((1u8..=255, 1u32..=10), 1..=10)), 1..=5),
        world in any::<u16>(),
    ) {
        let groups: Vec<_> = groups.into_iter().enumerate().map(|(g, (dial, ramp, endpoints))| {
            let endpoints = endpoints.into_iter().enumerate().map(|(e, (weight, ramp))| {
                let mut spec = endpoint(&format!("w{world}-{g}-{e}"), weight);
                spec.ramp = ramp;
                spec
            });
            GroupSpec { ramp, ..group(&format!("w{world}-{g}"), dial, endpoints.collect()) }
        }).collect();
        let listener = ListenerSpec::new(groups);
        let shares = shares(&listener);
        let last = listener.groups.len() - 1;
        let ramp = |g: &GroupSpec| f64::from(g.ramp) / 10.0;
        let dials = listener.groups.iter().enumerate().map(|(g, group)| match g == last {
            true => ramp(group),
            false => f64::from(group.dial * group.ramp / 10) / 100_000.0,
        });
        let mut reaching = 1.0;
        let mut taken: Vec<f64> = dials.map(|dial| {
            let taken = reaching * dial;
            reaching -= taken;
            taken
        }).collect();
        // What no dial accepts goes to the last group that is back in full.
        taken[listener.groups.iter().rposition(|g| g.ramp == 10).unwrap_or(last)] += reaching;
        for (group, taken) in listener.groups.iter().zip(taken) {
            let sum: f64 = group.endpoints.iter().map(|e| f64::from(e.weight) * f64::from(e.ramp)).sum();
            for e in &group.endpoints {
                let p = taken * f64::from(e.weight) * f64::from(e.ramp) / sum;
                assert_share(&e.name, shares.get(&e.name).copied().unwrap_or(0), SLOTS, p);
            }
        }
        prop_assert_eq!(shares.values().sum::<usize>(), SLOTS);
    }
}

#[test]
fn two_hundred_endpoints_share_fairly() {
    let endpoints: Vec<_> = (0..200u8).map(|i| endpoint(&format!("n{i}"), i % 5 * 63 + 1)).collect();
    let sum: f64 = endpoints.iter().map(|e| f64::from(e.weight)).sum();
    let listener = ListenerSpec::new(vec![group("g", 100, endpoints)]);
    let shares = shares(&listener);
    for e in listener.endpoints() {
        assert_share(&e.name, shares.get(&e.name).copied().unwrap_or(0), SLOTS, f64::from(e.weight) / sum);
    }
}

#[test]
fn flows_of_one_client_and_of_many_spread_by_weight() {
    let weights = [255u8, 128, 64, 64];
    let endpoints = weights.iter().enumerate().map(|(i, &w)| endpoint(&format!("eu-{i}"), w)).collect();
    let named = ListenerSpec::new(vec![group("eu", 100, endpoints)]).named();
    let table = named.table();
    let to = "198.18.0.1:7000".parse().unwrap();
    let hasher = FlowHasher::new(7);
    // The worst inputs: consecutive ports of one client, and consecutive addresses of one network.
    let ports = (1024..=u16::MAX).map(|port| FlowKey { protocol: Protocol::Udp, client: ([203, 0, 113, 9], port).into(), to });
    let hosts = (0..=u16::MAX).map(|n| {
        let [a, b] = n.to_be_bytes();
        FlowKey { protocol: Protocol::Udp, client: ([10, 9, a, b], 5555).into(), to }
    });
    for (affinity, flows) in [(Affinity::None, ports.collect::<Vec<_>>()), (Affinity::SourceIp, hosts.collect())] {
        let mut counts = [0usize; 4];
        flows.iter().for_each(|flow| counts[table.choose(hasher.slot(flow, affinity)).unwrap().index()] += 1);
        for (i, &count) in counts.iter().enumerate() {
            // Flows meet a finished table, whose own shares are the expectation.
            let p = table.shares()[i].1 as f64 / SLOTS as f64;
            assert_share(&format!("{affinity:?} eu-{i}"), count, flows.len(), p);
        }
    }
}

proptest! {
    #![proptest_config(config(1_000))]

    #[test]
    fn a_ranking_is_a_permutation_that_begins_with_the_choice(listener in any_listener(25)) {
        let named = listener.named();
        let candidates: BTreeSet<_> = named.candidates().map(str::to_owned).collect();
        for slot in sampled_slots().step_by(64) {
            let ranking = named.ranking(slot);
            prop_assert_eq!(ranking.first().copied(), named.choose(slot));
            prop_assert_eq!(ranking.len(), candidates.len());
            let as_set: BTreeSet<_> = ranking.iter().map(|&name| name.to_owned()).collect();
            prop_assert_eq!(&as_set, &candidates);
            // The chosen group's come first.
            let own = named.group(slot).map(|g| &listener.groups[g]);
            let own_candidates = own.map_or(0, |g| candidates.iter().filter(|c| g.endpoints.iter().any(|e| e.name == **c)).count());
            for name in &ranking[..own_candidates] {
                prop_assert!(own.unwrap().endpoints.iter().any(|e| e.name == *name));
            }
        }
    }

    #[test]
    fn the_second_in_rank_inherits(listener in any_listener(12), picks in any::<[u16; 6]>()) {
        let before = listener.named();
        for slot in picks.map(Slot) {
            let ranking = before.ranking(slot);
            let Some(&first) = ranking.first() else { continue };
            let mut without = listener.clone();
            without.groups.iter_mut().for_each(|g| g.endpoints.retain(|e| e.name != first));
            let after = without.named();
            // Only a removal that leaves the group in the plan is about ranks; another group's turn is about dials.
            if after.outline() == before.outline() && after.plan.stage() == before.plan.stage() {
                prop_assert_eq!(after.choose(slot), ranking.get(1).copied());
                prop_assert_eq!(after.ranking(slot), &ranking[1..]);
            }
        }
    }

    #[test]
    fn weight_zero_and_unknown_are_never_chosen(listener in any_listener(25)) {
        let named = listener.named();
        let fail_open = named.plan.stage() == Stage::FailOpen;
        for id in named.plan.groups().iter().flat_map(|g| g.candidates.as_slice()).map(|c| c.id) {
            let e = listener.endpoints().find(|e| e.name == named.name(id)).unwrap();
            prop_assert!(e.weight > 0);
            prop_assert!(e.health == Health::Healthy || fail_open && e.health == Health::Unhealthy);
        }
        // Whatever the plan lists, the answers are what counts.
        for chosen in sampled_slots().filter_map(|slot| named.choose(slot)) {
            let e = listener.endpoints().find(|e| e.name == chosen).unwrap();
            prop_assert!(e.weight > 0 && e.health != Health::Unknown);
        }
    }

    #[test]
    fn fail_open_needs_a_verdict_on_every_weighted_endpoint(mut listener in any_listener(6), victim in any::<prop::sample::Index>()) {
        listener.fail_open = true;
        // Everything down, and so in fail-open if anything is weighted.
        listener.groups.iter_mut().flat_map(|g| &mut g.endpoints).for_each(|e| e.health = Health::Unhealthy);
        let names: Vec<_> = listener.endpoints().filter(|e| e.weight > 0).map(|e| e.name.clone()).collect();
        prop_assert_eq!(listener.named().plan.stage() == Stage::FailOpen, !names.is_empty());
        if !names.is_empty() {
            listener.endpoint_mut(&names[victim.index(names.len())]).health = Health::Unknown;
            let plan = listener.named().plan;
            prop_assert_eq!(plan.stage().as_str(), "refuse_not_ready");
            prop_assert!(sampled_slots().all(|slot| plan.choose(slot).is_none()));
        }
        // One without weight is waited for by nobody.
        let mut drained = listener.clone();
        for e in drained.groups.iter_mut().flat_map(|g| &mut g.endpoints) {
            e.health = if e.weight == 0 { Health::Unknown } else { Health::Unhealthy };
        }
        prop_assert_eq!(drained.named().plan.stage() == Stage::FailOpen, !names.is_empty());
    }

    #[test]
    fn nothing_healthy_is_refused_while_it_could_serve(listener in any_listener(25)) {
        // Some group with enough healthy weighted endpoints, held ones included: neither refused nor failed open.
        let plan = listener.named().plan;
        let stage = plan.stage();
        prop_assert_eq!(plan.groups().is_empty(), matches!(stage, Stage::Refuse(_)));
        let could = listener.views(&listener.ids()).iter().any(|g| g.eligible_with_held());
        prop_assert_eq!(could, matches!(stage, Stage::Eligible | Stage::HeldInFull | Stage::DialsIgnored));
    }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn the_order_of_input_says_nothing(
        (listener, shuffled) in any_listener(25).prop_flat_map(|listener| {
            let orders = listener.groups.iter().map(|g| Just(g.endpoints.clone()).prop_shuffle()).collect::<Vec<_>>();
            (Just(listener), orders)
        }),
        (stride, offset) in (1usize..40, 0usize..1000),
    ) {
        let mut other = listener.clone();
        other.groups.iter_mut().zip(shuffled).for_each(|(g, endpoints)| g.endpoints = endpoints);
        let here = listener.named();
        // Other ids in another order, with holes: what an edge has after many reloads.
        let mut ids = other.ids();
        let count = ids.len();
        ids.values_mut().for_each(|id| *id = (count - 1 - *id) * stride + offset);
        let there = other.named_with(ids);
        for slot in sampled_slots() {
            prop_assert_eq!(here.choose(slot), there.choose(slot));
        }
        prop_assert_eq!(here.ranking(Slot(77)), there.ranking(Slot(77)));
        prop_assert_eq!(here.digest(), there.digest());
    }

    #[test]
    fn a_table_built_twice_is_the_same(listener in any_listener(25)) {
        let (one, two) = (listener.named(), listener.named());
        prop_assert_eq!(one.table(), two.table());
        prop_assert_eq!(one.digest(), two.digest());
        let table = one.table();
        for slot in sampled_slots() {
            prop_assert_eq!(table.choose(slot), one.plan.choose(slot));
            prop_assert_eq!(table.ranking(slot), one.plan.ranking(slot));
        }
    }

    #[test]
    fn a_digest_tells_tables_apart(listener in any_listener(6), pick in any::<prop::sample::Index>()) {
        let before = listener.named();
        let Some(victim) = before.table().shares().get(pick.index(64)).map(|&(id, _)| before.name(id).to_owned()) else {
            return Ok(());
        };
        let mut renamed = listener.clone();
        renamed.endpoint_mut(&victim).name = "another".into();
        prop_assert_ne!(renamed.named().digest(), before.digest());
    }
}
