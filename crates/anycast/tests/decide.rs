//! Every combination of facts, and random stories.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anycast::{
    State,
    decide::{Decider, EdgeFacts, IpFacts, Leaving, Policy, Reason, WhenIsolated},
    reconcile::{Carrier, Protocols, commands},
};
use proptest::prelude::*;

const HOLD: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_secs(2);
const FINE: EdgeFacts = EdgeFacts { ready: true, isolated: false, leaving: None };

fn policy(when_isolated: WhenIsolated) -> Policy {
    Policy { when_isolated, isolated_hold: HOLD, step: STEP }
}

fn ip() -> IpFacts {
    IpFacts { ip: IpAddr::from([198, 18, 0, 1]), configured: true, local: true, can_deprefer: true }
}

fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What the rules say of settled facts, written down as plainly as can be.
fn oracle(edge: EdgeFacts, ip: &IpFacts, when_isolated: WhenIsolated) -> State {
    if !ip.configured || !ip.local || !edge.ready || edge.leaving.is_some() {
        return State::Withdrawn;
    }
    match (edge.isolated, when_isolated) {
        (false, _) | (true, WhenIsolated::Keep) => State::Announced,
        (true, WhenIsolated::Deprefer) => State::Depreferred,
        (true, WhenIsolated::Withdraw) => State::Withdrawn,
    }
}

#[test]
fn every_combination_of_settled_facts() {
    const BOTH: [bool; 2] = [false, true];
    let mut checked = 0;
    for when_isolated in [WhenIsolated::Keep, WhenIsolated::Deprefer, WhenIsolated::Withdraw] {
        for leaving in [None, Some(Leaving::Drained), Some(Leaving::Stopping)] {
            for (ready, isolated) in BOTH.iter().flat_map(|&ready| BOTH.map(|isolated| (ready, isolated))) {
                for (configured, local) in BOTH.iter().flat_map(|&configured| BOTH.map(|local| (configured, local))) {
                    let (edge, ip) = (EdgeFacts { ready, isolated, leaving }, IpFacts { configured, local, ..ip() });
                    let (mut decider, now) = (Decider::new(policy(when_isolated)), start());
                    decider.look(edge, now);
                    let later = now + HOLD + STEP;
                    decider.look(edge, later);
                    assert_eq!(decider.verdict(&ip, later).state, oracle(edge, &ip, when_isolated), "{edge:?} {ip:?}");
                    // However it came there: from an edge that announced.
                    let mut decider = Decider::new(policy(when_isolated));
                    decider.look(FINE, now);
                    decider.look(edge, now);
                    decider.look(edge, later);
                    let once_ready = EdgeFacts { ready: true, ..edge };
                    assert_eq!(decider.verdict(&ip, later).state, oracle(once_ready, &ip, when_isolated), "{edge:?} {ip:?}");
                    checked += 1;
                }
            }
        }
    }
    assert_eq!(checked, 3 * 3 * 16);
}

#[test]
fn isolation_counts_after_the_hold_and_its_end_as_well() {
    for (when_isolated, isolated) in [(WhenIsolated::Deprefer, State::Depreferred), (WhenIsolated::Withdraw, State::Withdrawn)] {
        let (mut decider, begin) = (Decider::new(policy(when_isolated)), start());
        let mut at = |isolated: bool, after: Duration| {
            decider.look(EdgeFacts { isolated, ..FINE }, begin + after);
            (decider.verdict(&ip(), begin + after).state, decider.due(begin + after))
        };
        let s = Duration::from_secs;
        let tick = Duration::from_millis(1);
        assert_eq!(at(false, s(0)), (State::Announced, None));
        assert_eq!(at(true, s(1)), (State::Announced, Some(begin + s(11))));
        assert_eq!(at(true, s(11) - tick), (State::Announced, Some(begin + s(11))));
        assert_eq!(at(true, s(11)), (isolated, None));
        assert_eq!(at(false, s(12)), (isolated, Some(begin + s(22))));
        // A relapse begins the wait anew.
        assert_eq!(at(true, s(20)), (isolated, None));
        assert_eq!(at(false, s(21)), (isolated, Some(begin + s(31))));
        assert_eq!(at(false, s(31)), (State::Announced, None));
    }
}

#[test]
fn an_edge_that_begins_isolated_is_judged_at_once() {
    let (mut decider, now) = (Decider::new(policy(WhenIsolated::Withdraw)), start());
    // Nothing is eligible before the first results; that is no isolation yet.
    decider.look(EdgeFacts { ready: false, isolated: true, leaving: None }, now);
    assert_eq!(decider.verdict(&ip(), now).reason, Reason::NotReady);
    decider.look(FINE, now);
    assert_eq!(decider.verdict(&ip(), now).state, State::Announced);
    let mut decider = Decider::new(policy(WhenIsolated::Withdraw));
    decider.look(EdgeFacts { isolated: true, ..FINE }, now);
    assert_eq!(decider.verdict(&ip(), now).state, State::Withdrawn);
}

#[test]
fn an_edge_that_leaves_steps_back_first_where_it_can() {
    for leaving in [Leaving::Drained, Leaving::Stopping] {
        let (mut decider, now) = (Decider::new(policy(WhenIsolated::Keep)), start());
        decider.look(FINE, now);
        decider.look(EdgeFacts { leaving: Some(leaving), ..FINE }, now);
        assert_eq!(decider.due(now), Some(now + STEP));
        let (able, unable) = (ip(), IpFacts { can_deprefer: false, ..ip() });
        let absent = IpFacts { local: false, ..ip() };
        assert_eq!(decider.verdict(&able, now).state, State::Depreferred);
        assert_eq!(decider.verdict(&unable, now).state, State::Withdrawn);
        assert_eq!(decider.verdict(&absent, now).state, State::Withdrawn);
        assert_eq!(decider.verdict(&absent, now).reason, Reason::NotLocal(absent.ip));
        assert_eq!(decider.verdict(&able, now + STEP).state, State::Withdrawn);
        assert_eq!(decider.due(now + STEP), None);
        // A drain that becomes a stop does not begin anew.
        decider.look(EdgeFacts { leaving: Some(Leaving::Stopping), ..FINE }, now + STEP);
        assert_eq!(decider.verdict(&able, now + STEP).state, State::Withdrawn);
        decider.look(FINE, now + STEP);
        assert_eq!(decider.verdict(&able, now + STEP).state, State::Announced);
    }
}

#[test]
fn reasons_name_the_cure() {
    let (mut decider, now) = (Decider::new(policy(WhenIsolated::Keep)), start());
    decider.look(EdgeFacts { leaving: Some(Leaving::Drained), ..FINE }, now);
    let reason = |ip: IpFacts, decider: &Decider| decider.verdict(&ip, now + STEP).reason.to_string();
    assert_eq!(
        reason(IpFacts { local: false, ..ip() }, &decider),
        "not an address of this host: `ip addr add 198.18.0.1 dev lo`"
    );
    assert!(reason(ip(), &decider).contains("landfall undrain"));
    assert_eq!(reason(IpFacts { configured: false, ..ip() }, &decider), "not in edge.announce");
}

fn carrier() -> Carrier {
    Carrier { normal: "landfall_1".into(), low: Some("landfall_1_low".into()) }
}

/// A BIRD that does as it is told; counts its changes of route.
struct Model {
    protocols: Protocols,
    commands: usize,
}

impl Model {
    fn new() -> Self {
        Self { protocols: [("landfall_1".to_owned(), false), ("landfall_1_low".to_owned(), false)].into(), commands: 0 }
    }

    fn obey(&mut self, wanted: State) {
        let carrier = carrier();
        let before = carrier.observed(&self.protocols).unwrap();
        for command in commands(&carrier, wanted, &self.protocols.clone()) {
            let was = self.protocols.insert(command.protocol.to_owned(), command.enable).unwrap();
            assert_ne!(was, command.enable, "{command} changes nothing");
            self.commands += 1;
            if before.min(wanted) > State::Withdrawn {
                assert!(self.protocols.values().any(|&up| up), "a moment without a route");
            }
        }
        assert_eq!(carrier.observed(&self.protocols), Some(wanted));
        assert!(commands(&carrier, wanted, &self.protocols).is_empty());
    }
}

#[test]
fn endpoints_that_flap_cause_no_command() {
    for when_isolated in [WhenIsolated::Keep, WhenIsolated::Deprefer, WhenIsolated::Withdraw] {
        let (mut decider, begin, mut bird) = (Decider::new(policy(when_isolated)), start(), Model::new());
        decider.look(FINE, begin);
        bird.obey(decider.verdict(&ip(), begin).state);
        assert_eq!(bird.commands, 1);
        // Down and up ten times a second, for ten seconds: each time the last one, so the edge is isolated.
        for turn in 0..200 {
            let now = begin + Duration::from_millis(50) * turn;
            decider.look(EdgeFacts { isolated: turn % 2 == 0, ..FINE }, now);
            bird.obey(decider.verdict(&ip(), now).state);
        }
        assert_eq!(bird.commands, 1, "{when_isolated:?}");
    }
}

fn any_policy() -> impl Strategy<Value = WhenIsolated> {
    prop_oneof![Just(WhenIsolated::Keep), Just(WhenIsolated::Deprefer), Just(WhenIsolated::Withdraw)]
}

proptest! {
    /// Milliseconds until the event, which fact it turns, and whether BIRD has been restarted meanwhile.
    #[test]
    fn commands_only_for_changes(when_isolated in any_policy(), story in prop::collection::vec((0u64..15_000, 0u8..4, 0u8..20), 1..80)) {
        let mut decider = Decider::new(policy(when_isolated));
        let (mut now, mut bird) = (start(), Model::new());
        let (mut edge, mut ip) = (EdgeFacts { ready: false, ..FINE }, ip());
        let mut said = State::Withdrawn;
        for (wait, fact, restart) in story {
            now += Duration::from_millis(wait);
            match fact {
                0 => edge.isolated = !edge.isolated,
                1 => edge.leaving = if edge.leaving.is_none() { Some(Leaving::Drained) } else { None },
                2 => ip.local = !ip.local,
                _ => edge.ready = true,
            }
            if restart == 0 {
                bird.protocols.values_mut().for_each(|up| *up = false);
                said = State::Withdrawn;
            }
            decider.look(edge, now);
            let state = decider.verdict(&ip, now).state;
            let before = bird.commands;
            bird.obey(state);
            prop_assert_eq!(bird.commands == before, state == said);
            said = state;
            // Looking again at the same moment changes nothing.
            decider.look(edge, now);
            prop_assert_eq!(decider.verdict(&ip, now).state, state);
            if edge.leaving.is_some() || !ip.local {
                prop_assert!(state < State::Announced);
            }
            if when_isolated == WhenIsolated::Keep && edge.ready && ip.local && edge.leaving.is_none() {
                prop_assert_eq!(state, State::Announced);
            }
        }
    }
}
