//! How long the machine kept those from running that wanted to.
//!
//! A bound on time is a promise about `landfall`, not about a machine whose processors are taken by others. A test that
//! holds a time against a bound may add how long the test itself was kept, and prints that, and what the process waited.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::wait::{self, Beat};
use crate::{Failure, Result};

/// How often the watch wakes.
const EVERY: Duration = Duration::from_millis(5);
/// Shorter delays are the ordinary course of things.
const NOTED: Duration = Duration::from_millis(1);

/// A thread that wakes every 5 ms and notes when it was woken late. It ends with this guard.
pub struct StallWatch {
    notes: Arc<Mutex<Vec<Stall>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy)]
struct Stall {
    ended: Instant,
    length: Duration,
}

impl StallWatch {
    /// Watches from now on.
    pub fn start() -> Self {
        let (notes, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (noted, stopped) = (Arc::clone(&notes), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let begin = wait::now();
                Beat::every(EVERY).wait();
                let length = begin.elapsed().saturating_sub(EVERY);
                if length >= NOTED {
                    noted.lock().unwrap_or_else(PoisonError::into_inner).push(Stall { ended: wait::now(), length });
                }
            }
        });
        Self { notes, stop, thread: Some(thread) }
    }

    /// The longest stall that ended after `since`; zero if there was none.
    pub fn longest_since(&self, since: Instant) -> Duration {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.iter().filter(|stall| stall.ended > since).map(|stall| stall.length).max().unwrap_or_default()
    }
}

impl Drop for StallWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Err: the thread panicked, which the test's output says.
            let _ = thread.join();
        }
    }
}

/// For each thread of a process, by its id, how long it has been ready to run in its life while the machine ran something else.
pub struct Waits(BTreeMap<String, Duration>);

impl Waits {
    /// Those of the process `pid` up to now.
    ///
    /// # Errors
    /// When it has ended.
    pub fn of(pid: u32) -> Result<Self> {
        let threads = format!("/proc/{pid}/task");
        let entries = std::fs::read_dir(&threads)
            .map_err(|error| Failure::new("read", threads, error, "check that the process still runs"))?;
        let waits = entries.flatten().map(|thread| {
            // A thread may end between the two reads. The three numbers: on a processor, waiting for one, turns.
            let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            let waited = text.split(' ').nth(1).and_then(|waited| waited.parse().ok()).unwrap_or_default();
            (thread.file_name().to_string_lossy().into_owned(), Duration::from_nanos(waited))
        });
        Ok(Self(waits.collect()))
    }

    /// How long that thread has waited since `before` that has waited longest since.
    pub fn longest_since(&self, before: &Self) -> Duration {
        let fresh = self.0.iter().map(|(id, wait)| wait.saturating_sub(before.0.get(id).copied().unwrap_or_default()));
        fresh.max().unwrap_or_default()
    }
}

/// A watch over a test and the process that it measures.
pub struct DelayWatch {
    stalls: StallWatch,
    since: Instant,
    pid: u32,
    before: Waits,
}

/// What the machine kept from a test and from the process that it measures. A bound allows for the stall alone: the test looked too late. The
/// process is to keep its bound with the processors that it gets; its wait tells a slow one from one that was kept from running.
#[derive(Debug, Clone, Copy)]
pub struct Delay {
    /// The longest stall of the test.
    pub stall: Duration,
    /// The waits of one thread of the process, the most that any of them waited.
    pub wait: Duration,
}

impl DelayWatch {
    /// Watches from now on; `pid` is the process that is measured.
    ///
    /// # Errors
    /// When it has ended.
    pub fn start(pid: u32) -> Result<Self> {
        Ok(Self { stalls: StallWatch::start(), since: wait::now(), pid, before: Waits::of(pid)? })
    }

    /// The delays up to now.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn so_far(&self) -> Result<Delay> {
        let wait = Waits::of(self.pid)?.longest_since(&self.before);
        Ok(Delay { stall: self.stalls.longest_since(self.since), wait })
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "longest stall of the test {:.1?}, of the process {:.1?}", self.stall, self.wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_of_a_process_grow_from_look_to_look() {
        let before = Waits::of(std::process::id()).unwrap();
        assert_eq!(before.longest_since(&before), Duration::ZERO);
        let later = before.0.iter().map(|(id, wait)| (id.clone(), *wait + Duration::from_secs(3)));
        let later = Waits(later.chain([("new".to_owned(), Duration::from_secs(2))]).collect());
        assert_eq!(later.longest_since(&before), Duration::from_secs(3));
        assert!(Waits::of(u32::MAX).is_err());
    }

    #[test]
    fn only_stalls_after_the_asked_moment_count() {
        let watch = StallWatch::start();
        let now = wait::now();
        watch.notes.lock().unwrap().push(Stall { ended: now + Duration::from_secs(60), length: Duration::from_secs(7) });
        assert_eq!(watch.longest_since(now), Duration::from_secs(7));
        assert_eq!(watch.longest_since(now + Duration::from_secs(60)), Duration::ZERO);
    }
}
