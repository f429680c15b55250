//! The machine of one endpoint: when to probe it, and what its results amount to.
//!
//! Pure: time is an argument of every call and never read. The caller asks [`Machine::due`], calls [`Machine::send`] when that
//! time has come, runs the probe, and hands what became of it to [`Machine::finish`]; [`Machine::observe`] and
//! [`Machine::set_timing`] may come at any moment.
//!
//! # Verdict
//!
//! `b` and `g` are the consecutive bad and good results so far, `U` and `H` the unhealthy and healthy thresholds.
//!
//! | state                  | good                        | bad                             | local error |
//! |------------------------|-----------------------------|---------------------------------|-------------|
//! | Unknown                | Healthy                     | Unhealthy                       | Unknown     |
//! | Healthy, `b + 1 < U`   | Healthy, `b = 0`            | Healthy, `b + 1`                | same        |
//! | Healthy, `b + 1 ≥ U`   | Healthy, `b = 0`            | **Unhealthy**, `b + 1`, `g = 0` | same        |
//! | Unhealthy, `g + 1 < H` | Unhealthy, `g + 1`          | Unhealthy, `g = 0`              | same        |
//! | Unhealthy, `g + 1 ≥ H` | **Healthy**, `g + 1`, `b = 0` | Unhealthy, `g = 0`            | same        |
//! | the same, but flapping | Unhealthy, `g + 1`, *damped*  | Unhealthy, `g = 0`            | same        |
//!
//! *Flapping* is an endpoint whose health has changed [`Flap::changes`](crate::Flap) times or more within the last
//! [`Flap::window`](crate::Flap). The first verdict is no change.
//!
//! An observation, a probe being sent and a change of timing leave the verdict and the counts as they are.
//!
//! # Schedule
//!
//! Intervals run from send to send. A *change is pending* while the state is Unknown, Healthy with `b > 0` or Unhealthy with
//! `g > 0` and not damped; *sent* is when the last probe was sent. Intervals are shortened by up to a tenth, never lengthened, so that the
//! [published bound](Timing::detection_bound) holds.
//!
//! | phase            | event             | next probe                                                                     |
//! |------------------|-------------------|--------------------------------------------------------------------------------|
//! | before the first | –                 | at once, or when [`Machine::first_probe_at`] says                              |
//! | before the first | observation       | now                                                                            |
//! | waiting          | send, when due    | none while this one is outstanding                                             |
//! | outstanding      | result            | sent + `interval`, or sent + `fast_interval` while a change is pending         |
//! | outstanding      | local error       | sent + `fast_interval`                                                         |
//! | outstanding      | observation       | after its end: sent + `fast_interval` if that is sooner                        |
//! | waiting          | observation       | now, but not before sent + `fast_interval`, and never later than it was        |
//! | any              | change of timing  | as above with the new timing                                                   |
//!
//! No probe is due before the last one ended. Sending answers every observation made before.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use endpoint_group::Health;

use crate::Timing;

/// What a finished probe means to the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The endpoint answered as it should.
    Good,
    /// It refused, was silent or answered otherwise.
    Bad,
    /// The probe failed on this host: says nothing about the endpoint.
    Local,
}

/// How much of an interval to leave out: up to a tenth, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Jitter(u32);

impl Jitter {
    /// The whole interval.
    pub const NONE: Self = Self(0);
    /// Nine tenths of the interval.
    pub const MAX: Self = Self(100_000);

    /// Uniform between [`Jitter::NONE`] and [`Jitter::MAX`], both included.
    pub fn random(rng: &mut fastrand::Rng) -> Self {
        Self(rng.u32(0..=Self::MAX.0))
    }

    fn shorten(self, interval: Duration) -> Duration {
        interval.saturating_sub(interval / 1_000_000 * self.0)
    }
}

/// What the results of one endpoint amount to so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// The verdict.
    pub health: Health,
    /// When it was taken; for [`Health::Unknown`], when the endpoint became known.
    pub since: Instant,
    /// When the first of the current run of bad results became known; `None` if the last result was good or there is none.
    pub first_bad: Option<Instant>,
    /// When the most recent probe that was answered well was sent.
    pub last_good_sent: Option<Instant>,
    /// When the first probe of the current run of good results was sent; `None` if the last result was bad or there is none.
    pub first_good_sent: Option<Instant>,
    /// When the most recent probe with a bad result was sent.
    pub last_bad_sent: Option<Instant>,
    /// Bad results since the last good one; stops at `u32::MAX`.
    pub consecutive_bad: u32,
    /// Good results since the last bad one; stops at `u32::MAX`.
    pub consecutive_good: u32,
    /// Has answered often enough to be healthy, but is held unhealthy because it flaps: the first moment at which a good result may
    /// make it healthy.
    pub damped_until: Option<Instant>,
}

impl Snapshot {
    /// Before the first result of an endpoint that became known at `now`.
    pub const fn unknown(now: Instant) -> Self {
        Self {
            health: Health::Unknown,
            since: now,
            first_bad: None,
            last_good_sent: None,
            first_good_sent: None,
            last_bad_sent: None,
            consecutive_bad: 0,
            consecutive_good: 0,
            damped_until: None,
        }
    }
}

/// Where the one probe of an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    First { at: Instant },
    Outstanding { sent: Instant, jitter: Jitter },
    Waiting { sent: Instant, jitter: Jitter, ended: Instant, local: bool },
}

/// The machine of one endpoint; the module docs have its tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    timing: Timing,
    state: Snapshot,
    phase: Phase,
    /// The first observation that no probe has been sent for.
    observed: Option<Instant>,
    /// The last changes of health, the oldest first; empty without damping.
    changes: VecDeque<Instant>,
}

impl Machine {
    /// An endpoint of unknown health whose first probe is due at `now`.
    pub fn new(timing: Timing, now: Instant) -> Self {
        let state = Snapshot::unknown(now);
        Self { timing, state, phase: Phase::First { at: now }, observed: None, changes: VecDeque::new() }
    }

    /// Moves the first probe to `at`; without effect once it has been sent.
    pub fn first_probe_at(mut self, at: Instant) -> Self {
        if let Phase::First { .. } = self.phase {
            self.phase = Phase::First { at };
        }
        self
    }

    /// What the results amount to so far.
    pub fn snapshot(&self) -> Snapshot {
        self.state
    }

    /// When the next probe is due, possibly in the past; `None` while one is outstanding.
    pub fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Outstanding { .. } => None,
            Phase::First { at } => Some(self.observed.map_or(at, |observed| at.min(observed))),
            Phase::Waiting { sent, jitter, ended, local } => {
                let Timing { interval, fast_interval, .. } = self.timing;
                let base = if local || self.change_pending() { fast_interval } else { interval };
                let regular = sent + jitter.shorten(base);
                let pulled = self.observed.map(|observed| observed.max(sent + fast_interval));
                Some(pulled.map_or(regular, |pulled| pulled.min(regular)).max(ended))
            }
        }
    }

    /// Notes that a probe is sent at `now`, and says whether it is to be: `false`, without effect, if none is due.
    ///
    /// `jitter` shortens the interval that begins here.
    pub fn send(&mut self, now: Instant, jitter: Jitter) -> bool {
        let due = self.due().is_some_and(|due| due <= now);
        if due {
            self.phase = Phase::Outstanding { sent: now, jitter };
            self.observed = None;
        }
        due
    }

    /// Takes the result of the outstanding probe, known at `now`; returns the change of health (from, to) if it makes one.
    ///
    /// Without effect if no probe is outstanding.
    pub fn finish(&mut self, now: Instant, verdict: Verdict) -> Option<(Health, Health)> {
        let Phase::Outstanding { sent, jitter } = self.phase else { return None };
        self.phase = Phase::Waiting { sent, jitter, ended: now, local: verdict == Verdict::Local };
        let state = &mut self.state;
        match verdict {
            Verdict::Local => return None,
            Verdict::Good => {
                state.consecutive_good = state.consecutive_good.saturating_add(1);
                state.consecutive_bad = 0;
                state.first_bad = None;
                state.last_good_sent = Some(sent);
                state.first_good_sent.get_or_insert(sent);
            }
            Verdict::Bad => {
                state.consecutive_bad = state.consecutive_bad.saturating_add(1);
                state.consecutive_good = 0;
                state.first_bad.get_or_insert(now);
                state.first_good_sent = None;
                state.last_bad_sent = Some(sent);
            }
        }
        let before = state.health;
        let mut after = judge(state, &self.timing);
        state.damped_until = None;
        if (before, after) == (Health::Unhealthy, Health::Healthy)
            && let Some(until) = damped_until(&self.changes, &self.timing).filter(|&until| until > now)
        {
            state.damped_until = Some(until);
            after = before;
        }
        if before == after {
            return None;
        }
        state.health = after;
        state.since = now;
        if let Some(flap) = self.timing.flap.filter(|_| before != Health::Unknown) {
            self.changes.push_back(now);
            // As many as decide.
            while self.changes.len() > usize::from(flap.changes.get()) {
                self.changes.pop_front();
            }
        }
        Some((before, after))
    }

    /// Something else than a probe failed on this endpoint at `now`: pulls the next probe forward, judges nothing.
    pub fn observe(&mut self, now: Instant) {
        self.observed.get_or_insert(now);
    }

    /// Goes on with another timing. Health and counts stay; new thresholds apply from the next result on.
    pub fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    fn change_pending(&self) -> bool {
        match self.state.health {
            Health::Unknown => true,
            Health::Healthy => self.state.consecutive_bad > 0,
            Health::Unhealthy => self.state.consecutive_good > 0 && self.state.damped_until.is_none(),
        }
    }
}

/// Until when the endpoint whose last changes these are counts as flapping; `None` if they are too few.
fn damped_until(changes: &VecDeque<Instant>, timing: &Timing) -> Option<Instant> {
    let flap = timing.flap?;
    let decides = changes.len().checked_sub(flap.changes.get().into())?;
    Some(*changes.get(decides)? + flap.window)
}

/// The health that the counts make of the present one, a result having just been counted.
fn judge(state: &Snapshot, timing: &Timing) -> Health {
    let (good, bad) = (state.consecutive_good, state.consecutive_bad);
    match state.health {
        Health::Unknown if good > 0 => Health::Healthy,
        Health::Unknown => Health::Unhealthy,
        Health::Healthy if bad >= u32::from(timing.unhealthy_threshold.get()) => Health::Unhealthy,
        Health::Unhealthy if good >= u32::from(timing.healthy_threshold.get()) => Health::Healthy,
        settled => settled,
    }
}
