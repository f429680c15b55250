//! The crate agrees with a second implementation of the rules of choice.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test panics where it fails, helpers included")]

mod common;
// Named by path: beside a test of the same name the compiler would find two candidates.
#[path = "oracle/mod.rs"]
mod oracle;

use common::{ListenerSpec, any_listener, config, sampled_slots};
use endpoint_group::{Slot, rendezvous};
use oracle::Oracle;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};

#[test]
fn cost_agrees_on_every_point_and_between() {
    let mut draw = 1u64;
    for point in 0..=1024u128 {
        for octave in [63, 40, 11] {
            let at = u64::try_from((1024 + point) << octave >> 10).unwrap_or(u64::MAX);
            for draw in at.saturating_sub(3)..=at.saturating_add(3) {
                assert_eq!(rendezvous::cost(draw), oracle::cost(draw), "{draw:#x}");
            }
        }
    }
    for i in 0..500_000u32 {
        draw = draw.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        // Small draws too: the top octaves would else be all that is met.
        let draw = draw >> (i % 64);
        assert_eq!(rendezvous::cost(draw), oracle::cost(draw), "{draw:#x}");
    }
}

/// `count` listeners from a fixed seed.
fn seeded(count: u32, max_endpoints: usize) -> Vec<ListenerSpec> {
    let mut runner = TestRunner::new(config(count));
    let strategy = any_listener(max_endpoints);
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

#[test]
fn every_slot_of_twenty_listeners() {
    for listener in seeded(20, 25) {
        let named = listener.named();
        let table = named.table();
        let oracle = Oracle::new(&listener);
        assert_eq!(table.stage().as_str(), oracle.stage, "{listener:?}");
        for slot in Slot::all() {
            let expected = oracle.choose(slot.0);
            assert_eq!(named.choose(slot), expected, "{slot:?} {listener:?}");
            assert_eq!(table.choose(slot).map(|id| named.name(id)), expected, "{slot:?} {listener:?}");
        }
    }
}

#[test]
fn the_seeded_listeners_reach_every_rule() {
    let mut stages = std::collections::BTreeMap::new();
    for listener in seeded(3_000, 25) {
        *stages.entry(Oracle::new(&listener).stage).or_insert(0) += 1;
    }
    let rules =
        ["eligible", "held_in_full", "dials_ignored", "fail_open", "refuse_not_ready", "refuse_fail_closed", "refuse_drained"];
    for rule in rules {
        assert!(stages.get(rule).is_some_and(|&n| n >= 20), "{rule}: {stages:?}");
    }
}

proptest! {
    #![proptest_config(config(2_500))]

    #[test]
    fn sampled_slots_of_thousands_of_listeners(listener in any_listener(25)) {
        let named = listener.named();
        let oracle = Oracle::new(&listener);
        prop_assert_eq!(named.plan.stage().as_str(), oracle.stage);
        for slot in sampled_slots() {
            prop_assert_eq!(named.choose(slot), oracle.choose(slot.0), "{:?}", slot);
        }
        // The whole order costs more, so on fewer slots.
        for slot in sampled_slots().step_by(64) {
            prop_assert_eq!(named.ranking(slot), oracle.ranking(slot.0), "{:?}", slot);
        }
    }
}
