//! What the two ends of a load count while it runs, and what tells them to stop.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use landfall_tests::{Failure, Result};

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// The counters of one measurement, shared by both ends of its load.
#[derive(Default)]
pub struct Gauge {
    /// Units of work that are done: round trips, datagrams there and back, bytes, connections.
    pub done: AtomicU64,
    /// Units that were given up and done anew.
    pub lost: AtomicU64,
    /// Answers that came after their unit was given up, or twice.
    pub stale: AtomicU64,
    /// Answers that were not what was sent.
    pub wrong: AtomicU64,
    phase: AtomicU8,
    latencies: Mutex<Vec<u32>>,
    failure: Mutex<Option<Failure>>,
}

impl Gauge {
    /// From now on latencies are noted.
    pub fn measure(&self) {
        self.phase.store(MEASURING, Ordering::Relaxed);
    }

    /// From now on latencies are noted no more.
    pub fn warm(&self) {
        self.phase.store(WARMING, Ordering::Relaxed);
    }

    /// Both ends are to stop.
    pub fn stop(&self) {
        self.phase.store(OVER, Ordering::Relaxed);
    }

    /// Whether the ends are to go on.
    pub fn runs(&self) -> bool {
        self.phase.load(Ordering::Relaxed) != OVER
    }

    /// Counts `units`.
    pub fn count(counter: &AtomicU64, units: u64) {
        counter.fetch_add(units, Ordering::Relaxed);
    }

    /// Runs one end; its failure stops the other. The first one is kept.
    pub fn guard(&self, end: impl FnOnce() -> Result<()>) {
        match end() {
            // Both are told to stop at once, and who stops second sees the other's connections end.
            Err(failure) if self.runs() => {
                self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
                self.stop();
            }
            _ => {}
        }
    }

    /// The failure of an end, if one failed.
    pub fn failure(&self) -> Option<Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// All noted latencies in nanoseconds, sorted, once the ends have stopped.
    pub fn latencies(&self) -> Vec<u32> {
        let mut all = std::mem::take(&mut *self.latencies.lock().unwrap_or_else(PoisonError::into_inner));
        all.sort_unstable();
        all
    }
}

/// Stops a load when it is dropped, so that a failure between start and end does not leave it running.
pub struct StopAtEnd<'a>(pub &'a Gauge);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// The latencies that one thread notes; handed to the gauge in the end.
pub struct Latencies<'a> {
    gauge: &'a Gauge,
    noted: Vec<u32>,
}

impl<'a> Latencies<'a> {
    /// None noted so far. Room is made at once, so that no note waits for memory.
    pub fn new(gauge: &'a Gauge) -> Self {
        Self { gauge, noted: Vec::with_capacity(1 << 18) }
    }

    /// Notes one, if the measurement is under way.
    pub fn note(&mut self, latency: Duration) {
        if self.gauge.phase.load(Ordering::Relaxed) == MEASURING {
            self.noted.push(u32::try_from(latency.as_nanos()).unwrap_or(u32::MAX));
        }
    }
}

impl Drop for Latencies<'_> {
    fn drop(&mut self) {
        self.gauge.latencies.lock().unwrap_or_else(PoisonError::into_inner).append(&mut self.noted);
    }
}
