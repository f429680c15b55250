//! Who must leave a dead endpoint, and when: a small edge in virtual time, its probes at random phases, over a thousand seeds.
//!
//! An edge that loses sight of everything cuts nothing, not when it happens and not when sight returns; a single real death
//! empties its endpoint within the published bound.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test panics where it fails, helpers included")]

use std::time::{Duration, Instant};

use endpoint_group::{
    Health,
    evict::{Evidence, must_leave},
};

// Milliseconds of virtual time.
const INTERVAL: u64 = 1_000;
const FAST: u64 = 200;
const TIMEOUT: u64 = 500;
const RTT: u64 = 1;
const HOLD: u64 = 5_000;
const HEALTHY_THRESHOLD: u32 = 2;

const SEEDS: u64 = 1_000;

/// A plain generator: the seeds, not the numbers, are what a failure names.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    fn seeded(seed: u64) -> Self {
        let mut random = Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for _ in 0..8 {
            random.below(2);
        }
        random
    }
}

/// A probe on its way: when it was sent, when its result will be known, and which.
#[derive(Clone, Copy)]
struct Probe {
    sent: u64,
    known: u64,
    good: bool,
}

/// The health checker's view of one endpoint, no more of it than the rules of health say.
struct Checked {
    health: Health,
    since: u64,
    bad: u32,
    good: u32,
    first_bad: Option<u64>,
    last_good_sent: Option<u64>,
    first_good_sent: Option<u64>,
    last_bad_sent: Option<u64>,
    last_sent: Option<u64>,
    probe: Option<Probe>,
    due: u64,
    recovered: bool,
}

impl Checked {
    fn new(first_probe: u64) -> Self {
        Self {
            health: Health::Unknown,
            since: 0,
            bad: 0,
            good: 0,
            first_bad: None,
            last_good_sent: None,
            first_good_sent: None,
            last_bad_sent: None,
            last_sent: None,
            probe: None,
            due: first_probe,
            recovered: false,
        }
    }

    fn send(&mut self, now: u64, answered: bool) {
        let known = now + if answered { RTT } else { TIMEOUT };
        self.probe = Some(Probe { sent: now, known, good: answered });
        self.last_sent = Some(now);
    }

    /// Takes the result of the outstanding probe; `early` is how much of the next interval jitter leaves out.
    fn finish(&mut self, now: u64, unhealthy_threshold: u32, early: u64) {
        let probe = self.probe.take().unwrap();
        if probe.good {
            (self.bad, self.good, self.first_bad) = (0, self.good + 1, None);
            self.last_good_sent = Some(probe.sent);
            self.first_good_sent.get_or_insert(probe.sent);
        } else {
            (self.bad, self.good) = (self.bad + 1, 0);
            self.first_bad.get_or_insert(now);
            self.first_good_sent = None;
            self.last_bad_sent = Some(probe.sent);
        }
        let before = self.health;
        self.health = match before {
            Health::Unknown if probe.good => Health::Healthy,
            Health::Unknown => Health::Unhealthy,
            Health::Healthy if self.bad >= unhealthy_threshold => Health::Unhealthy,
            Health::Unhealthy if self.good >= HEALTHY_THRESHOLD => Health::Healthy,
            same => same,
        };
        if self.health != before {
            self.since = now;
            self.recovered = before == Health::Unhealthy;
        }
        let pending = match self.health {
            Health::Healthy => self.bad > 0,
            _ => self.good > 0,
        };
        self.due = now.max(probe.sent + if pending { FAST } else { INTERVAL - early });
    }

    /// Probed at once, but at most once per fast interval.
    fn hurry(&mut self, now: u64) {
        let soonest = self.last_sent.map_or(now, |sent| now.max(sent + FAST));
        self.due = self.due.min(soonest);
    }

    fn evidence(&self, origin: Instant, now: u64) -> Evidence {
        let at = |ms: u64| origin + Duration::from_millis(ms);
        Evidence {
            health: self.health,
            since: at(self.since),
            first_bad: self.first_bad.map(at),
            last_good_sent: self.last_good_sent.map(at),
            first_good_sent: self.first_good_sent.map(at),
            last_bad_sent: self.last_bad_sent.map(at),
            held: self.health == Health::Healthy && self.recovered && now < self.since + HOLD,
        }
    }
}

/// Runs `count` endpoints until `end`. `answers(endpoint, sent)`: whether a probe sent then is answered. `check` sees after every
/// single result who must leave.
fn run(
    random: &mut Random,
    count: usize,
    unhealthy_threshold: u32,
    end: u64,
    answers: impl Fn(usize, u64) -> bool,
    mut check: impl FnMut(u64, &[bool]),
) {
    #[allow(clippy::disallowed_methods, reason = "an origin; only differences matter")]
    let origin = Instant::now();
    let mut endpoints: Vec<_> = (0..count).map(|_| Checked::new(random.below(INTERVAL))).collect();
    let mut now = 0;
    while now < end {
        // In a random order, so that no rule leans on whose result of one instant comes first.
        let first = usize::try_from(random.below(count as u64)).unwrap();
        for e in (0..count).map(|i| (first + i) % count) {
            if endpoints[e].probe.is_some_and(|probe| probe.known <= now) {
                let was_suspect = endpoints[e].bad > 0;
                endpoints[e].finish(now, unhealthy_threshold, random.below(INTERVAL / 10));
                if endpoints[e].bad > 0 && !was_suspect {
                    endpoints.iter_mut().enumerate().filter(|&(other, _)| other != e).for_each(|(_, other)| other.hurry(now));
                }
                let evidence: Vec<_> = endpoints.iter().map(|e| e.evidence(origin, now)).collect();
                let others = |e: usize| evidence.iter().enumerate().filter(move |&(o, _)| o != e).map(|(_, evidence)| evidence);
                check(now, &(0..count).map(|e| must_leave(&evidence[e], others(e).copied())).collect::<Vec<_>>());
            }
            if endpoints[e].probe.is_none() && endpoints[e].due <= now {
                endpoints[e].send(now, answers(e, now));
            }
        }
        now = endpoints.iter().map(|e| e.probe.map_or(e.due, |probe| probe.known)).min().unwrap().max(now + u64::from(now == 0));
    }
}

/// Everything is lost in silence for `shortest` to 8,000 ms and comes back: the seeds and times at which somebody would have to leave.
fn blackouts(unhealthy_threshold: u32, shortest: u64) -> Vec<String> {
    let mut cut = Vec::new();
    for seed in 0..SEEDS {
        let mut random = Random::seeded(seed);
        let count = 2 + usize::try_from(random.below(7)).unwrap();
        let lost = 3_000 + random.below(2_000);
        let back = lost + shortest + random.below(8_001 - shortest);
        let answers = |_, sent| !(lost..back).contains(&sent);
        let mut first = None;
        run(&mut random, count, unhealthy_threshold, back + 12_000, answers, |now, leaving| {
            if let (None, Some(e)) = (&first, leaving.iter().position(|&l| l)) {
                first = Some(format!("seed {seed}: {count} endpoints lost from {lost} to {back} ms, #{e} left at {now} ms"));
            }
        });
        cut.extend(first);
    }
    cut
}

fn assert_none(what: &str, list: &[String]) {
    assert!(list.is_empty(), "{what}: {} of {SEEDS}, e.g. {:#?}", list.len(), &list[..list.len().min(5)]);
}

#[test]
fn a_blackout_cuts_nothing() {
    assert_none("threshold 3", &blackouts(3, 300));
}

#[test]
fn a_blackout_cuts_nothing_at_threshold_2() {
    assert_none("threshold 2", &blackouts(2, 300));
}

#[test]
fn a_blackout_of_an_interval_cuts_nothing_at_threshold_1() {
    // Shorter ones cannot be told from a death: one endpoint's only probe fell into it, and by the time that its silence is a
    // result, and the verdict, all others answer again.
    assert_none("threshold 1", &blackouts(1, INTERVAL));
}

/// One endpoint dies for good, the others live: the seeds in which it is not left within the bound and `slack`.
fn deaths(unhealthy_threshold: u32, slack: u64) -> Vec<String> {
    let bound = INTERVAL + TIMEOUT + u64::from(unhealthy_threshold - 1) * FAST.max(TIMEOUT) + RTT + slack;
    let mut late = Vec::new();
    for seed in 0..SEEDS {
        let mut random = Random::seeded(seed);
        let count = 2 + usize::try_from(random.below(7)).unwrap();
        let dead = usize::try_from(random.below(count as u64)).unwrap();
        let died = 3_000 + random.below(2_000);
        let mut left = None;
        run(
            &mut random,
            count,
            unhealthy_threshold,
            died + 6_000,
            |e, sent| e != dead || sent < died,
            |now, leaving| {
                let mut others = leaving.iter().enumerate().filter(|&(e, _)| e != dead);
                assert!(others.all(|(_, &leaves)| !leaves), "seed {seed}: a living one left at {now}");
                assert!(left.is_none() || leaving[dead], "seed {seed}: the dead one taken back at {now}");
                left = left.or(leaving[dead].then_some(now));
            },
        );
        if left.is_none_or(|left| left > died + bound) {
            late.push(format!("seed {seed}: {count} endpoints, #{dead} died at {died} ms, left at {left:?}, bound {bound} ms"));
        }
    }
    late
}

#[test]
fn a_single_death_empties_the_endpoint_within_the_bound() {
    assert_none("threshold 3", &deaths(3, 0));
    assert_none("threshold 2", &deaths(2, 0));
}

#[test]
fn a_single_death_empties_the_endpoint_within_the_bound_at_threshold_1() {
    // With no second probe of the dead one to wait for, the only alternative may just have been probed, and answers anew no sooner
    // than a fast interval after that.
    assert_none("threshold 1", &deaths(1, FAST));
}

#[test]
fn a_lost_probe_of_the_only_alternative_only_delays() {
    for seed in 0..SEEDS {
        let mut random = Random::seeded(seed);
        let died = 3_000 + random.below(2_000);
        // Wherever in the death or after it the loss falls.
        let lost = died + random.below(3_000);
        let loss = lost..lost + FAST.max(INTERVAL - TIMEOUT);
        let mut leaves = false;
        run(
            &mut random,
            2,
            3,
            died + 7_000,
            |e, sent| if e == 0 { sent < died } else { !loss.contains(&sent) },
            |_, leaving| {
                assert!(!leaving[1], "seed {seed}");
                leaves = leaving[0];
            },
        );
        assert!(leaves, "seed {seed}: died at {died} ms, alternative lost a probe from {lost} ms");
    }
}
