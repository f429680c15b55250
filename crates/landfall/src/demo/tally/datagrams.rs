//! The datagrams of UDP flows.

use std::{collections::VecDeque, time::Duration};

/// How long a datagram may wait for its answer before it counts as unanswered.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// All datagrams of all flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::demo) struct Datagrams {
    pub(in crate::demo) sent: u64,
    pub(in crate::demo) answered: u64,
    /// Unanswered because they went to a dead endpoint before their flow moved: nobody could have answered them.
    pub(in crate::demo) to_the_dead: u64,
    /// Unanswered for another reason.
    pub(in crate::demo) unanswered: u64,
    /// The flows that those belong to: all of few, or few of many.
    pub(in crate::demo) flows_unanswered: usize,
}

/// One flow.
#[derive(Debug, Clone, Default)]
pub(super) struct Flow {
    /// Who gave the last answer.
    pub(super) endpoint: Option<usize>,
    /// When the latest of its answered datagrams was sent.
    pub(super) answered: Option<Duration>,
    /// Whether a datagram of it is unanswered that no death explains.
    pub(super) unanswered: bool,
    /// Number and time of sending of those not answered yet, in order.
    pending: VecDeque<(u64, Duration)>,
}

impl Flow {
    pub(super) fn sent(&mut self, seq: u64, at: Duration) {
        self.pending.push_back((seq, at));
    }

    pub(super) fn waits(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn is_pending(&self, seq: u64) -> bool {
        self.pending.binary_search_by_key(&seq, |&(pending, _)| pending).is_ok()
    }

    /// Takes out what has waited too long; when each was sent.
    pub(super) fn overdue(&mut self, now: Duration) -> Vec<Duration> {
        let count = self.pending.partition_point(|&(_, sent)| sent + PATIENCE <= now);
        self.pending.drain(..count).map(|(_, sent)| sent).collect()
    }

    /// Takes out those before `seq` that were `lost`; when each was sent, in order.
    pub(super) fn take_lost(&mut self, seq: u64, lost: impl Fn(Duration) -> bool) -> Vec<Duration> {
        let (taken, kept): (Vec<_>, _) = self.pending.drain(..).partition(|&(pending, sent)| pending < seq && lost(sent));
        self.pending = kept.into();
        taken.into_iter().map(|(_, sent)| sent).collect()
    }

    pub(super) fn answered(&mut self, seq: u64, endpoint: usize) {
        if let Ok(place) = self.pending.binary_search_by_key(&seq, |&(pending, _)| pending)
            && let Some((_, sent)) = self.pending.remove(place)
        {
            self.answered = self.answered.max(Some(sent));
            self.endpoint = Some(endpoint);
        }
    }
}
