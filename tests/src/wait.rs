//! Waiting: for an event, with a deadline, and with a message that says what did not happen.
//!
//! What can be waited for in the kernel is: a process's end on its pidfd, its output on a condition variable, a datagram
//! with a socket timeout. What remains (a counter in a scrape, a port that opens) is asked for by [`wait_until`] every
//! few milliseconds. That is the one polling loop of the harness. What is itself a matter of time, such as the rhythm of a
//! load, the length of an outage or the random phase of a death, is told by [`Beat`] and [`pass`].

use std::time::{Duration, Instant};

use crate::{Failure, Result};

/// How long [`wait_until`] lets pass between two questions.
const PAUSE_MILLISECONDS: libc::c_int = 5;

/// The present moment. Tests measure real systems, so they read the real clock, and only here.
#[expect(clippy::disallowed_methods, reason = "the harness drives real processes; there is no clock to pause")]
pub fn now() -> Instant {
    Instant::now()
}

/// A moment after which waiting is a failure.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    limit: Duration,
    at: Instant,
}

impl Deadline {
    /// The deadline that lies `limit` ahead.
    pub fn after(limit: Duration) -> Self {
        Self { limit, at: now() + limit }
    }

    /// What is left of the time, or nothing once it has passed.
    pub fn left(&self) -> Option<Duration> {
        self.at.checked_duration_since(now()).filter(|left| !left.is_zero())
    }

    /// The failure to report when the time has passed.
    pub fn missed(&self, what: &str) -> Failure {
        Failure::new(
            "wait for",
            what,
            format_args!("it did not happen within {:?}", self.limit),
            "the processes' output below the failure says what they did meanwhile",
        )
    }
}

/// Waits until `condition` holds, asking every 5 ms, and returns how long that took.
///
/// # Errors
/// When `limit` passes first. `what` names the awaited event in the message.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<Duration> {
    let begin = now();
    wait_for(what, limit, || condition().then_some(())).map(|()| begin.elapsed())
}

/// Waits until `question` has an answer, asking every 5 ms.
///
/// # Errors
/// When `limit` passes first. `what` names the awaited event in the message.
pub fn wait_for<T>(what: &str, limit: Duration, mut question: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Deadline::after(limit);
    loop {
        if let Some(answer) = question() {
            return Ok(answer);
        }
        if deadline.left().is_none() {
            return Err(deadline.missed(what));
        }
        // SAFETY: no descriptors are passed, so poll touches no memory; it only lets the pause pass.
        unsafe { libc::poll(std::ptr::null_mut(), 0, PAUSE_MILLISECONDS) };
    }
}

/// Lets `span` pass where time itself is what a test is about: the length of an outage, a random phase. What is to happen
/// is waited for by [`wait_for`], never by this.
pub fn pass(span: Duration) {
    let until = now() + span;
    while let Some(left) = until.checked_duration_since(now()).filter(|left| !left.is_zero()) {
        let seconds = libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX);
        let timeout = libc::timespec { tv_sec: seconds, tv_nsec: left.subsec_nanos().into() };
        // SAFETY: no descriptors are passed, and the timeout outlives the call; an interrupted call is made again.
        unsafe { libc::ppoll(std::ptr::null_mut(), 0, &raw const timeout, std::ptr::null()) };
    }
}

/// The rhythm of a load. Beats that were missed are left out, not made up for.
#[derive(Debug, Clone, Copy)]
pub struct Beat {
    every: Duration,
    next: Instant,
}

impl Beat {
    /// The first beat is one `every` ahead.
    pub fn every(every: Duration) -> Self {
        Self { every, next: now() + every }
    }

    /// How long the next beat is ahead.
    pub fn left(&self) -> Duration {
        self.next.saturating_duration_since(now())
    }

    /// Waits for the next beat.
    pub fn wait(&mut self) {
        pass(self.left());
        self.next = (self.next + self.every).max(now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_comes_no_sooner_than_its_span() {
        let begin = now();
        let mut beat = Beat::every(Duration::from_millis(4));
        for _ in 0..5 {
            beat.wait();
        }
        assert!(begin.elapsed() >= Duration::from_millis(20), "{:?}", begin.elapsed());
    }

    #[test]
    fn a_condition_that_holds_is_not_waited_for() {
        let mut asked = 0;
        wait_until("a fact", Duration::ZERO, || {
            asked += 1;
            true
        })
        .unwrap();
        assert_eq!(asked, 1);
    }

    #[test]
    fn a_missed_deadline_names_the_event_and_the_limit() {
        let failure = wait_until("rain", Duration::from_millis(20), || false).unwrap_err().to_string();
        assert!(failure.contains("wait for rain") && failure.contains("20ms"), "{failure}");
    }
}
