//! A death, and how the clients of the dead came away.

use std::time::Duration;

/// Datagrams sent this long before a kill may have been waiting in the endpoint's socket.
const QUEUED: Duration = Duration::from_millis(100);

/// How long something took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::demo) struct Took {
    /// By the clock.
    pub(in crate::demo) total: Duration,
    /// In which the clients themselves did not run, so that they can tell nothing about it.
    pub(in crate::demo) stalled: Duration,
}

impl Took {
    /// What counts against the bound.
    pub(in crate::demo) fn net(self) -> Duration {
        self.total.saturating_sub(self.stalled)
    }
}

/// One death of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::demo) struct Death {
    pub(in crate::demo) endpoint: usize,
    /// Just before the signal was sent.
    pub(in crate::demo) killed: Duration,
    /// When no socket of the process was left; until then it may have accepted.
    dead: Option<Duration>,
    /// When it was started again.
    ended: Option<Duration>,
    pub(in crate::demo) flows_moved: usize,
    /// When the last datagram was sent that still went to the dead: the flows had moved before their next one, so the clients'
    /// own spacing does not count.
    pub(in crate::demo) last_lost: Duration,
    pub(in crate::demo) connections_told: usize,
    pub(in crate::demo) last_told: Duration,
    /// Flows and held connections that had not come away when it was time.
    pub(in crate::demo) left: (usize, usize),
    settled: bool,
}

impl Death {
    pub(super) fn new(endpoint: usize, killed: Duration) -> Self {
        Self {
            endpoint,
            killed,
            dead: None,
            ended: None,
            flows_moved: 0,
            last_lost: killed,
            connections_told: 0,
            last_told: killed,
            left: (0, 0),
            settled: false,
        }
    }

    pub(super) fn complete(&mut self, at: Duration) {
        self.dead = Some(at);
    }

    pub(super) fn end(&mut self, at: Duration) {
        self.ended = Some(at);
    }

    pub(super) fn settle(&mut self, left: (usize, usize)) {
        if !self.settled {
            self.settled = true;
            self.left = left;
        }
    }

    /// Whether a datagram to the endpoint that was sent then was lost to this death.
    pub(super) fn covers(&self, sent: Duration) -> bool {
        sent + QUEUED >= self.killed && self.ended.is_none_or(|ended| sent <= ended)
    }

    /// Whether this death can be what cut a connection that was opened and ended then.
    pub(super) fn cuts(&self, opened: Duration, ended: Duration) -> bool {
        ended >= self.killed && self.dead.is_none_or(|dead| opened <= dead)
    }

    pub(super) fn flow_moved(&mut self, last_lost: Option<Duration>) {
        self.flows_moved += 1;
        self.last_lost = self.last_lost.max(last_lost.unwrap_or_default());
    }

    pub(super) fn connection_told(&mut self, at: Duration) {
        self.connections_told += 1;
        self.last_told = self.last_told.max(at);
    }
}
