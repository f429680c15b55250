//! A load that never pauses: what clients see while an edge comes and goes.
//!
//! One TCP connection every 10 ms, whatever became of those before it, and UDP flows with one datagram every 10 ms each, all
//! from one namespace, with a [`Capture`] beside them. They try nothing twice and note everything.

mod capture;
mod report;
mod tcp;
mod udp;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lab::Namespace;
use crate::stalls::StallWatch;
use crate::{Failure, Result};

pub use capture::{Capture, Wire};
pub use report::{Attempt, Datagram, Flow, Outcome, Report};

/// Between two connects, and two datagrams of a flow.
pub const SPACING: Duration = Duration::from_millis(10);
/// How long a connection may take in all, and a datagram may wait for its answer.
pub const LIMIT: Duration = Duration::from_secs(3);
const PAYLOAD_BYTES: usize = 64;

type Noted = (Vec<Attempt>, Vec<Flow>);

/// A running load. Dropping it ends it.
pub struct Probers {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<Noted>>>,
    capture: Option<Capture>,
    stalls: StallWatch,
}

impl Probers {
    /// Starts the load in `namespace`: connections to each of `targets` in turn, and `flows` UDP flows to each of them. All
    /// of them must be static IPs: the capture takes every other source for wrong.
    ///
    /// # Errors
    /// When a socket cannot be opened.
    pub fn start(namespace: &Namespace, targets: &[SocketAddr], flows: usize) -> Result<Self> {
        let capture = Capture::start(namespace, targets)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, targets, namespace) = (Arc::clone(&stop), targets.to_vec(), namespace.clone());
        let thread = std::thread::spawn(move || namespace.enter(|| run(&targets, flows, &stopped)));
        Ok(Self { stop, thread: Some(thread), capture: Some(capture), stalls: StallWatch::start() })
    }

    /// Ends the load, waits for the last answers, and says what became of it.
    ///
    /// # Errors
    /// When the load itself failed, not its connections and datagrams.
    pub fn stop(mut self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let cannot =
            |error: std::io::Error| Failure::new("run", "the probers", error, "see whether the client still has its addresses");
        let ended = self.thread.take().map(JoinHandle::join);
        let (attempts, flows) = match ended {
            Some(Ok(ended)) => ended.map_err(cannot)?,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => (Vec::new(), Vec::new()),
        };
        let wire = self.capture.take().map(Capture::stop).transpose()?.unwrap_or_default();
        let begin = attempts.first().map(|attempt| attempt.begin);
        let stall = begin.map(|begin| self.stalls.longest_since(begin)).unwrap_or_default();
        Ok(Report { attempts, flows, wire, stall })
    }
}

impl Drop for Probers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Err: the thread panicked, which the test's output says.
            let _ = thread.join();
        }
    }
}

/// One thread for all: on a machine of two processors more of them would only disturb what is measured.
fn run(targets: &[SocketAddr], flows: usize, stop: &Arc<AtomicBool>) -> std::io::Result<Noted> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut udp = Vec::new();
        for target in targets {
            for _ in 0..flows {
                udp.push(tokio::task::spawn_local(udp::converse(*target, udp::open(*target)?, Arc::clone(stop))));
            }
        }
        let attempts = tcp::connect_until(targets, stop).await;
        let mut flows = Vec::new();
        for flow in udp {
            flows.push(flow.await.map_err(std::io::Error::other)??);
        }
        Ok((attempts, flows))
    })
}
