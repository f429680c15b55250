//! The flows of a load, each on a thread of its own, that note by themselves what becomes of them.
//!
//! Each runs until a flag says stop, and counts itself once when it has been told of its endpoint's death or has moved.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::Result;
use crate::clients::{TcpSession, UdpFlow};
use crate::wait::{self, Beat};

/// How long one step of a flow may take: longer than any failover that is measured with it.
const LIMIT: Duration = Duration::from_secs(5);
/// How often a flow that waits looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(20);

/// Ends a load when it is dropped, so that a test that fails does not wait for it for ever.
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn runs(stop: &AtomicBool) -> bool {
    !stop.load(Ordering::Relaxed)
}

fn must<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|failure| panic!("a UDP flow of the load failed: {failure}"))
}

/// A connection that says nothing.
pub struct Idle {
    /// The connection.
    pub session: TcpSession,
    /// When it was reset.
    pub reset: Option<Instant>,
}

impl Idle {
    /// Not reset so far.
    pub fn new(session: TcpSession) -> Self {
        Self { session, reset: None }
    }

    /// Waits for its reset.
    pub fn watch_until(&mut self, stop: &AtomicBool, told: &AtomicUsize) {
        while runs(stop) {
            if self.session.wait_reset(LOOK).is_ok() {
                self.reset = Some(wait::now());
                told.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }
}

/// A connection that says something and hears it back, again and again.
pub struct Busy {
    /// The connection.
    pub session: TcpSession,
    /// When it heard something back.
    pub last_answer: Instant,
    /// How it failed, and when it was reset.
    pub broke: Option<(String, Instant)>,
}

impl Busy {
    /// Not failed so far.
    pub fn new(session: TcpSession) -> Self {
        Self { session, last_answer: wait::now(), broke: None }
    }

    /// Talks once every `spacing`.
    ///
    /// # Panics
    /// When it fails but is not reset: its client would not know.
    pub fn talk_until(&mut self, stop: &AtomicBool, spacing: Duration, told: &AtomicUsize) {
        let mut beat = Beat::every(spacing);
        while runs(stop) {
            beat.wait();
            match self.session.exchange(&[7; 32]) {
                Ok(()) => self.last_answer = wait::now(),
                Err(failure) => {
                    // The dead endpoint's own kernel may have ended its stream before the edge resets the connection.
                    let reset = self.session.wait_reset(LIMIT);
                    assert!(reset.is_ok(), "a connection failed and was not reset: {failure}; {reset:?}");
                    self.broke = Some((failure.to_string(), wait::now()));
                    told.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
    }
}

/// A UDP flow and where it is answered from.
pub struct Pinned {
    /// The endpoint that answered first.
    pub endpoint: String,
    /// When that one answered.
    pub last_answer: Instant,
    /// Who answered next, and when it did so first.
    pub moved: Option<(String, Instant)>,
    flow: UdpFlow,
}

impl Pinned {
    /// Opens a flow and hears its first answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn open(source: SocketAddr, target: SocketAddr) -> Result<Self> {
        let mut flow = UdpFlow::open(source, target)?;
        let endpoint = flow.exchange(LIMIT)?.endpoint;
        Ok(Self { endpoint, last_answer: wait::now(), moved: None, flow })
    }

    /// Sends a datagram every `spacing`.
    ///
    /// # Panics
    /// When a datagram cannot be sent, an answer is wrong, or the flow goes back to its first endpoint.
    pub fn talk_until(&mut self, stop: &AtomicBool, spacing: Duration, told: &AtomicUsize) {
        let mut beat = Beat::every(spacing);
        while runs(stop) {
            must(self.flow.send());
            while let Some(echo) = must(self.flow.receive(beat.left())) {
                if echo.endpoint == self.endpoint {
                    assert!(self.moved.is_none(), "a flow that had moved came back to {}", self.endpoint);
                    self.last_answer = wait::now();
                } else if self.moved.is_none() {
                    self.moved = Some((echo.endpoint, wait::now()));
                    told.fetch_add(1, Ordering::Relaxed);
                }
            }
            beat.wait();
        }
    }
}

/// A short connection: when it began, and what went wrong.
pub struct Connection {
    /// Before it was opened.
    pub begin: Instant,
    /// Nothing if it passed.
    pub failure: Option<String>,
}

/// Opens a connection every `spacing`, exchanges a few bytes and ends it in order. Counts each in `ended`.
pub fn connect_until(stop: &AtomicBool, target: SocketAddr, spacing: Duration, ended: &AtomicUsize) -> Vec<Connection> {
    let mut beat = Beat::every(spacing);
    let mut connections = Vec::new();
    while runs(stop) {
        beat.wait();
        let begin = wait::now();
        let passed = TcpSession::open(None, target, LIMIT).and_then(|mut session| {
            session.exchange(b"hello")?;
            session.finish()
        });
        connections.push(Connection { begin, failure: passed.err().map(|failure| failure.to_string()) });
        ended.fetch_add(1, Ordering::Relaxed);
    }
    connections
}
