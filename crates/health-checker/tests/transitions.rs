//! Every row of the two tables in the module docs of `state`, for thresholds 3 and 2.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::{
    num::NonZeroU8,
    time::{Duration, Instant},
};

use endpoint_group::Health::{self, Healthy, Unhealthy, Unknown};
use health_checker::{
    Flap, Jitter, Machine, Timing,
    Verdict::{self, Bad, Good, Local},
};

const INTERVAL: Duration = Duration::from_millis(1000);
const FAST: Duration = Duration::from_millis(200);
/// How long every probe here takes.
const TAKES: Duration = Duration::from_millis(50);

fn timing() -> Timing {
    Timing { interval: INTERVAL, fast_interval: FAST, ..Timing::default() }
}

fn epoch() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Sends the next probe when it is due; returns when that was.
fn send(machine: &mut Machine) -> Instant {
    let due = machine.due().unwrap();
    assert!(machine.send(due, Jitter::NONE));
    due
}

/// Runs one probe; returns when it was sent and the transition.
fn run(machine: &mut Machine, verdict: Verdict) -> (Instant, Option<(Health, Health)>) {
    let sent = send(machine);
    (sent, machine.finish(sent + TAKES, verdict))
}

fn after(start: Instant, results: &[Verdict]) -> Machine {
    let mut machine = Machine::new(timing(), start);
    for &result in results {
        run(&mut machine, result);
    }
    machine
}

/// Results that lead to each state: Unknown; Healthy with 0, 1, 2 bad; Unhealthy with 0, 1 good.
const STATES: [&[Verdict]; 6] = [&[], &[Good], &[Good, Bad], &[Good, Bad, Bad], &[Bad], &[Bad, Good]];

#[test]
fn verdicts_follow_the_table() {
    // State, event → health, consecutive bad, consecutive good, whether health changed.
    let table = [
        (STATES[0], Good, Healthy, 0, 1, true),
        (STATES[0], Bad, Unhealthy, 1, 0, true),
        (STATES[0], Local, Unknown, 0, 0, false),
        (STATES[1], Good, Healthy, 0, 2, false),
        (STATES[1], Bad, Healthy, 1, 0, false),
        (STATES[1], Local, Healthy, 0, 1, false),
        (STATES[2], Good, Healthy, 0, 1, false),
        (STATES[2], Bad, Healthy, 2, 0, false),
        (STATES[2], Local, Healthy, 1, 0, false),
        (STATES[3], Good, Healthy, 0, 1, false),
        (STATES[3], Bad, Unhealthy, 3, 0, true),
        (STATES[3], Local, Healthy, 2, 0, false),
        (STATES[4], Good, Unhealthy, 0, 1, false),
        (STATES[4], Bad, Unhealthy, 2, 0, false),
        (STATES[4], Local, Unhealthy, 1, 0, false),
        (STATES[5], Good, Healthy, 0, 2, true),
        (STATES[5], Bad, Unhealthy, 1, 0, false),
        (STATES[5], Local, Unhealthy, 0, 1, false),
    ];
    let start = epoch();
    for (state, event, health, bad, good, changes) in table {
        let mut machine = after(start, state);
        let before = machine.snapshot();
        let (sent, transition) = run(&mut machine, event);
        let snapshot = machine.snapshot();
        let context = format!("{state:?} then {event:?}");
        assert_eq!((snapshot.health, snapshot.consecutive_bad, snapshot.consecutive_good), (health, bad, good), "{context}");
        assert_eq!(transition, changes.then_some((before.health, health)), "{context}");
        assert_eq!(snapshot.since, if changes { sent + TAKES } else { before.since }, "{context}");
        let (first_bad, last_good_sent) = match event {
            Good => (None, Some(sent)),
            Bad => (before.first_bad.or(Some(sent + TAKES)), before.last_good_sent),
            Local => (before.first_bad, before.last_good_sent),
        };
        assert_eq!((snapshot.first_bad, snapshot.last_good_sent), (first_bad, last_good_sent), "{context}");
    }
}

#[test]
fn nothing_but_a_result_changes_a_verdict() {
    for state in STATES {
        let mut machine = after(epoch(), state);
        let before = machine.snapshot();
        machine.observe(before.since);
        machine.set_timing(Timing { unhealthy_threshold: NonZeroU8::MIN, healthy_threshold: NonZeroU8::MIN, ..timing() });
        let sent = send(&mut machine);
        machine.observe(sent);
        machine.set_timing(timing());
        assert_eq!(machine.snapshot(), before, "{state:?}");
    }
}

#[test]
fn the_next_probe_follows_the_table() {
    let fast_states = [false, false, true, true, false, true];
    for (state, fast) in STATES.into_iter().zip(fast_states) {
        let start = epoch();
        let Some((&last, before)) = state.split_last() else {
            // Still unknown: only a local error can have come before.
            assert_eq!(after(start, &[Local]).due(), Some(start + FAST));
            continue;
        };
        let mut machine = after(start, before);
        let (sent, _) = run(&mut machine, last);
        assert_eq!(machine.due(), Some(sent + if fast { FAST } else { INTERVAL }), "{state:?}");

        // An observation is answered at once, but not within the fast interval, and delays nothing.
        let mut early = machine.clone();
        early.observe(sent + TAKES);
        assert_eq!(early.due(), Some(sent + FAST), "{state:?}");
        let mut late = machine.clone();
        late.observe(sent + FAST * 2);
        assert_eq!(late.due(), Some(if fast { sent + FAST } else { sent + FAST * 2 }), "{state:?}");

        // One at a time, and not before it is due.
        assert!(!machine.send(machine.due().unwrap() - Duration::from_nanos(1), Jitter::NONE));
        let sent = send(&mut machine);
        assert_eq!(machine.due(), None);
        assert!(!machine.send(sent + INTERVAL * 2, Jitter::NONE));

        // Observed while outstanding: another one follows. A local error: again after the fast interval.
        let mut observed = machine.clone();
        observed.observe(sent + TAKES / 2);
        observed.finish(sent + TAKES, Good);
        assert_eq!(observed.due(), Some(sent + FAST), "{state:?}");
        machine.finish(sent + TAKES, Local);
        assert_eq!(machine.due(), Some(sent + FAST), "{state:?}");
    }
}

#[test]
fn the_first_probe_is_due_at_once_and_an_observation_hastens_it() {
    let start = epoch();
    assert_eq!(Machine::new(timing(), start).due(), Some(start));
    let mut spread = Machine::new(timing(), start).first_probe_at(start + TAKES);
    assert_eq!(spread.due(), Some(start + TAKES));
    spread.observe(start + TAKES / 2);
    assert_eq!(spread.due(), Some(start + TAKES / 2));
}

#[test]
fn no_probe_is_due_before_the_last_one_ended() {
    let start = epoch();
    let mut machine = Machine::new(timing(), start);
    send(&mut machine);
    machine.observe(start);
    machine.finish(start + INTERVAL * 3, Good);
    assert_eq!(machine.due(), Some(start + INTERVAL * 3));
}

#[test]
fn a_probe_answers_the_observations_before_it() {
    let mut machine = after(epoch(), &[Good]);
    machine.observe(machine.due().unwrap());
    let (sent, _) = run(&mut machine, Good);
    assert_eq!(machine.due(), Some(sent + INTERVAL));
}

#[test]
fn a_result_without_a_probe_is_none() {
    let mut machine = Machine::new(timing(), epoch());
    let before = machine.clone();
    assert_eq!(machine.finish(epoch(), Bad), None);
    assert_eq!(machine, before);
}

#[test]
fn another_timing_moves_the_next_probe_and_the_thresholds() {
    let start = epoch();
    let mut machine = after(start, &[Good, Bad]);
    let strict = Timing { fast_interval: FAST / 2, unhealthy_threshold: NonZeroU8::MIN, ..timing() };
    let due = machine.due().unwrap();
    machine.set_timing(strict);
    assert_eq!(machine.due(), Some(due - FAST / 2));
    assert_eq!(run(&mut machine, Bad).1, Some((Healthy, Unhealthy)));
}

#[test]
fn jitter_shortens_by_a_tenth_at_most() {
    let start = epoch();
    let mut machine = Machine::new(timing(), start);
    assert!(machine.send(start, Jitter::MAX));
    machine.finish(start + TAKES, Good);
    assert_eq!(machine.due(), Some(start + INTERVAL * 9 / 10));
    let mut rng = fastrand::Rng::with_seed(1);
    let (least, most) = (0..10_000)
        .map(|_| Jitter::random(&mut rng))
        .fold((Jitter::MAX, Jitter::NONE), |(least, most), j| (least.min(j), most.max(j)));
    assert!(least >= Jitter::NONE && most <= Jitter::MAX && least < most);
}

/// Twice down and up again within the window is as often as may be; the third return has to wait.
#[test]
fn an_endpoint_that_flaps_is_held_unhealthy_until_the_window_has_passed() {
    let start = epoch();
    let window = Duration::from_secs(60);
    let flap = Some(Flap { changes: NonZeroU8::new(5).unwrap(), window });
    let mut machine = Machine::new(Timing { flap, ..timing() }, start);
    run(&mut machine, Good);
    let mut changes = Vec::new();
    for _ in 0..3 {
        for result in [Bad, Bad, Bad, Good, Good] {
            let (sent, change) = run(&mut machine, result);
            changes.extend(change.map(|(_, to)| (to, sent + TAKES)));
        }
    }
    let to: Vec<Health> = changes.iter().map(|(to, _)| *to).collect();
    assert_eq!(to, [Unhealthy, Healthy, Unhealthy, Healthy, Unhealthy], "the last return is withheld");
    let until = changes[0].1 + window;
    assert_eq!(machine.snapshot().damped_until, Some(until));

    // Held, it is settled: probed at the interval, and back with the first good result once the window has moved on.
    let mut sent = send(&mut machine);
    let back = loop {
        let known = sent + TAKES;
        let change = machine.finish(known, Good);
        assert_eq!(change.is_some(), known >= until);
        if change.is_some() {
            break change;
        }
        let next = send(&mut machine);
        assert_eq!(next, sent + INTERVAL);
        sent = next;
    };
    assert_eq!((back, machine.snapshot().damped_until), (Some((Unhealthy, Healthy)), None));
}

#[test]
fn a_bad_result_ends_the_waiting_and_the_counts_begin_anew() {
    let flap = Some(Flap { changes: NonZeroU8::MIN, window: Duration::from_secs(3600) });
    let mut machine = Machine::new(Timing { flap, ..timing() }, epoch());
    for result in [Good, Bad, Bad, Bad, Good, Good] {
        run(&mut machine, result);
    }
    assert!(machine.snapshot().damped_until.is_some());
    run(&mut machine, Local);
    assert!(machine.snapshot().damped_until.is_some(), "says nothing about the endpoint");
    run(&mut machine, Bad);
    assert_eq!((machine.snapshot().damped_until, machine.snapshot().health), (None, Unhealthy));
    // Without damping the next two good results are enough.
    machine.set_timing(timing());
    run(&mut machine, Good);
    assert_eq!(run(&mut machine, Good).1, Some((Unhealthy, Healthy)));
}

#[test]
fn no_return_ever_comes_while_as_many_changes_lie_in_the_window() {
    let mut rng = fastrand::Rng::with_seed(11);
    for _ in 0..300 {
        let (most, window) = (rng.u8(1..=6), Duration::from_millis(rng.u64(500..20_000)));
        let flap = Some(Flap { changes: NonZeroU8::new(most).unwrap(), window });
        let mut machine = Machine::new(Timing { flap, ..timing() }, epoch());
        let mut changes: Vec<Instant> = Vec::new();
        for _ in 0..400 {
            let result = [Good, Good, Good, Bad, Bad, Local][rng.usize(0..6)];
            let sent = send(&mut machine);
            let known = sent + TAKES;
            let recent = changes.iter().filter(|&&at| known < at + window).count();
            let enough = machine.snapshot().consecutive_good >= 1 && machine.snapshot().health == Unhealthy && result == Good;
            match machine.finish(known, result) {
                Some((Unknown, _)) => {}
                Some((from, to)) => {
                    assert!(
                        to == Unhealthy || recent < usize::from(most),
                        "{recent} of {most} in {window:?}: {from:?} to {to:?}"
                    );
                    changes.push(known);
                }
                None => assert!(!enough || recent >= usize::from(most), "held without cause: {recent} of {most} in {window:?}"),
            }
        }
    }
}
