//! How long the machine kept a thread from running that wanted to.
//!
//! A bound on time is a promise about `landfall`, not about a machine whose processors are taken by others. A test that
//! holds a time against a bound may add what this watch has measured meanwhile, and prints it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::wait::{self, Beat};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stalls_after_the_asked_moment_count() {
        let watch = StallWatch::start();
        let now = wait::now();
        watch.notes.lock().unwrap().push(Stall { ended: now + Duration::from_secs(60), length: Duration::from_secs(7) });
        assert_eq!(watch.longest_since(now), Duration::from_secs(7));
        assert_eq!(watch.longest_since(now + Duration::from_secs(60)), Duration::ZERO);
    }
}
