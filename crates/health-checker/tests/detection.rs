//! The promise of the state machine: no false alarm, no hasty recovery, and death detected within the published bound.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::{
    num::NonZeroU8,
    time::{Duration, Instant},
};

use endpoint_group::Health;
use health_checker::{Flap, Jitter, Machine, Timing, Verdict};
use proptest::prelude::*;

const EPSILON: Duration = Duration::from_nanos(1);

fn timing(interval: u64, fast_interval: u64, timeout: u64, unhealthy: u8, healthy: u8) -> Timing {
    Timing {
        interval: Duration::from_millis(interval),
        fast_interval: Duration::from_millis(fast_interval),
        timeout: Duration::from_millis(timeout),
        unhealthy_threshold: NonZeroU8::new(unhealthy).unwrap(),
        healthy_threshold: NonZeroU8::new(healthy).unwrap(),
        flap: None,
    }
}

/// Fast shorter and longer than timeout; timeout as long as interval; the quickest thresholds there are; the slowest sensible.
fn timings() -> [Timing; 5] {
    [
        timing(1000, 200, 500, 3, 2),
        timing(1000, 500, 200, 3, 2),
        timing(1000, 200, 1000, 2, 3),
        timing(1000, 1000, 1, 1, 1),
        timing(1000, 50, 200, 8, 5),
    ]
}

/// One under which the patterns that change health twice are damped.
fn damped() -> Timing {
    let flap = Some(Flap { changes: NonZeroU8::MIN.saturating_add(1), window: Duration::from_secs(3) });
    Timing { flap, ..timing(1000, 200, 500, 1, 1) }
}

/// When in the life of a probe the endpoint dies.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Having just received it: it is still answered.
    JustAfter,
    /// Eighths of the way to the next one.
    Between(u32),
    /// As the next one arrives: that one is lost.
    JustBefore,
}

const PHASES: [Phase; 6] =
    [Phase::JustAfter, Phase::Between(1), Phase::Between(3), Phase::Between(5), Phase::Between(7), Phase::JustBefore];

/// Lives through `pattern` (bit set: lost), dies, and returns how long after death it was last healthy or found unhealthy.
fn detect(start: Instant, timing: Timing, pattern: u16, phase: Phase, latency: Duration, jitter: Jitter) -> Duration {
    let mut machine = Machine::new(timing, start);
    let mut last_sent = start;
    for probe in 0..12 {
        let lost = pattern & (1 << probe) != 0;
        last_sent = machine.due().unwrap();
        assert!(machine.send(last_sent, jitter));
        let (takes, verdict) = if lost { (timing.timeout, Verdict::Bad) } else { (latency, Verdict::Good) };
        machine.finish(last_sent + takes, verdict);
    }
    let next = machine.due().unwrap();
    let death = match phase {
        Phase::JustAfter => last_sent,
        Phase::Between(eighths) => last_sent + (next - last_sent) / 8 * eighths,
        Phase::JustBefore => next,
    };
    // A verdict from before death counts from death on, unless it changes again; none at all is far beyond any bound.
    let already = machine.snapshot().health == Health::Unhealthy;
    let mut found = if already { machine.snapshot().since.max(death) } else { death + timing.detection_bound() * 2 };
    for _ in 0..20 {
        let sent = machine.due().unwrap();
        assert!(machine.send(sent, jitter));
        match machine.finish(sent + timing.timeout, Verdict::Bad) {
            Some((_, Health::Unhealthy)) => found = sent + timing.timeout,
            Some(other) => panic!("a dead endpoint changed {other:?}"),
            None => {}
        }
    }
    found.saturating_duration_since(death)
}

#[test]
fn every_death_is_detected_within_the_bound_and_the_bound_is_tight() {
    let start = tokio::time::Instant::now().into_std();
    for timing in timings().into_iter().chain([damped()]) {
        let bound = timing.detection_bound();
        let mut worst = Duration::ZERO;
        for pattern in 0..4096 {
            for phase in PHASES {
                for latency in [Duration::ZERO, timing.timeout - EPSILON] {
                    for jitter in [Jitter::NONE, Jitter::MAX] {
                        let took = detect(start, timing, pattern, phase, latency, jitter);
                        assert!(
                            took <= bound,
                            "{took:?} > {bound:?}: {timing:?} {pattern:012b} {phase:?} {latency:?} {jitter:?}"
                        );
                        worst = worst.max(took);
                    }
                }
            }
        }
        assert_eq!(worst, bound, "{timing:?}");
    }
}

#[derive(Debug, Clone)]
enum Op {
    /// Runs the next probe, this long after it is due, and takes this many milliseconds over it.
    Probe {
        late: u64,
        takes: u64,
        verdict: Verdict,
        jitter: u64,
    },
    /// An observation this many milliseconds after the last probe ended.
    Observe {
        after: u64,
    },
    /// The same while the next probe is outstanding.
    ObserveNext,
    Retime(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let verdict = prop_oneof![4 => Just(Verdict::Good), 4 => Just(Verdict::Bad), 1 => Just(Verdict::Local)];
    let probe = (0u64..3, 0u64..1000, verdict, any::<u64>()).prop_map(|(late, takes, verdict, jitter)| Op::Probe {
        late,
        takes,
        verdict,
        jitter,
    });
    let op = prop_oneof![
        12 => probe,
        2 => (0u64..1500).prop_map(|after| Op::Observe { after }),
        1 => Just(Op::ObserveNext),
        1 => (0..timings().len()).prop_map(Op::Retime),
    ];
    prop::collection::vec(op, 0..200)
}

/// Whether there are `count` results and the last `count` are all `verdict`.
fn run_of(results: &[Verdict], verdict: Verdict, count: NonZeroU8) -> bool {
    let count = usize::from(count.get());
    results.len() >= count && results[results.len() - count..].iter().all(|&result| result == verdict)
}

proptest! {
    #[test]
    fn verdicts_need_their_runs_and_probes_keep_their_distance(ops in ops()) {
        let mut timing = timings()[0];
        let mut now = tokio::time::Instant::now().into_std();
        let mut machine = Machine::new(timing, now);
        let mut results = Vec::new();
        let mut last_sent: Option<Instant> = None;
        let mut observe_next = false;
        for op in ops {
            match op {
                Op::Probe { late, takes, verdict, jitter } => {
                    let due = machine.due().unwrap();
                    if let Some(sent) = last_sent {
                        prop_assert!(due >= sent + timing.fast_interval * 9 / 10, "too soon");
                        prop_assert!(due <= (sent + timing.interval).max(now), "too late");
                    }
                    now = due.max(now) + Duration::from_millis(late);
                    prop_assert!(machine.send(now, Jitter::random(&mut fastrand::Rng::with_seed(jitter))));
                    last_sent = Some(now);
                    if std::mem::take(&mut observe_next) {
                        machine.observe(now);
                    }
                    now += Duration::from_millis(takes);
                    let before = machine.snapshot();
                    let transition = machine.finish(now, verdict);
                    let after = machine.snapshot();
                    if verdict == Verdict::Local {
                        prop_assert_eq!(before, after);
                        continue;
                    }
                    results.push(verdict);
                    let down = run_of(&results, Verdict::Bad, timing.unhealthy_threshold);
                    let up = run_of(&results, Verdict::Good, timing.healthy_threshold);
                    let expected = match before.health {
                        Health::Unknown if verdict == Verdict::Good => Health::Healthy,
                        Health::Unknown => Health::Unhealthy,
                        Health::Healthy if down => Health::Unhealthy,
                        Health::Unhealthy if up => Health::Healthy,
                        same => same,
                    };
                    prop_assert_eq!(after.health, expected);
                    prop_assert_eq!(transition, (before.health != expected).then_some((before.health, expected)));
                    prop_assert_eq!(after.first_bad.is_some(), verdict == Verdict::Bad);
                }
                Op::Observe { after } => {
                    let observed = now + Duration::from_millis(after);
                    let before = machine.snapshot();
                    let due = machine.due().unwrap();
                    machine.observe(observed);
                    prop_assert_eq!(machine.snapshot(), before);
                    prop_assert!(machine.due().unwrap() <= due, "an observation delays nothing");
                }
                Op::ObserveNext => observe_next = true,
                Op::Retime(index) => {
                    timing = timings()[index];
                    machine.set_timing(timing);
                }
            }
        }
    }
}
