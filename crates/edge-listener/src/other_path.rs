//! What the in-kernel path counted, to be shown in one family with what workers count.

use std::collections::BTreeMap;

use endpoint_group::Name;

use crate::reasons::{CloseReason, DropReason};

/// Of the UDP of one listener, since the start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Flows that began.
    pub opened: u64,
    /// Flows there are.
    pub active: u64,
    /// Flows that went to another endpoint.
    pub moved: u64,
    /// Flows whose endpoint was to see the client's own address, and does not.
    pub client_ip_fallbacks: u64,
    /// Flows that ended, by reason.
    pub closed: Vec<(&'static str, u64)>,
    /// Packets dropped, by reason.
    pub dropped: Vec<(&'static str, u64)>,
    /// Payload, by [`Direction`](crate::account::Direction).
    pub bytes: [u64; 2],
    /// Datagrams, likewise.
    pub packets: [u64; 2],
}

/// Of all, as of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// In the order of the configuration; `None` where it does not forward.
    pub listeners: Vec<Option<Tally>>,
    /// By endpoint group and endpoint, those that had flows.
    pub endpoints: BTreeMap<(Name, Name), Pinned>,
}

/// Flows of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pinned {
    /// Those that were ever pinned to it; one that moves counts at both.
    pub opened: u64,
    /// Those that are now.
    pub active: u64,
}

impl Tally {
    /// The counts under reasons that workers have no word for.
    pub(crate) fn dropped_elsewhere(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let known = |word: &str| DropReason::ALL.iter().any(|reason| reason.as_str() == word);
        self.dropped.iter().copied().filter(move |(word, _)| !known(word))
    }

    pub(crate) fn dropped_for(&self, reason: DropReason) -> u64 {
        count(&self.dropped, reason.as_str())
    }

    pub(crate) fn closed_for(&self, reason: CloseReason) -> u64 {
        count(&self.closed, reason.as_str())
    }
}

fn count(counts: &[(&'static str, u64)], word: &str) -> u64 {
    counts.iter().filter(|(reason, _)| *reason == word).map(|(_, count)| count).sum()
}
