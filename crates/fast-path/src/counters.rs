//! What the kernel has counted since it was loaded.

use crate::{DropReason, EndReason};

/// Packets and bytes in one direction. Bytes are those of the datagrams, without headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Packets that were carried.
    pub packets: u64,
    /// Bytes that they carried.
    pub bytes: u64,
}

/// What a listener did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListenerCounters {
    /// From clients.
    pub to_endpoint: Traffic,
    /// From endpoints.
    pub to_client: Traffic,
    /// Packets of both directions that XDP carried; the others were TCX's.
    pub by_xdp: u64,
    /// ICMP errors translated: to endpoints, to clients.
    pub icmp: [u64; 2],
    /// Flows that began.
    pub opened: u64,
    /// Flows that moved to another endpoint.
    pub moved: u64,
    /// Flows of a transparent listener that an endpoint sees come from a NAT address, because it has another from the client's port.
    pub fallbacks: u64,
    /// Flows there are.
    pub active: u64,
    /// Flows that ended, by [`EndReason`].
    pub ended: [u64; EndReason::COUNT],
    /// Packets dropped, by [`DropReason`].
    pub drops: [u64; DropReason::COUNT],
}

/// What went to and came from an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EndpointCounters {
    /// From clients.
    pub to_endpoint: Traffic,
    /// To clients.
    pub to_client: Traffic,
    /// Flows that were ever pinned to it: that began there, or moved there.
    pub opened: u64,
    /// ICMP errors that came back instead.
    pub refused: u64,
}

/// Everything counted but [`EndpointCounters`], which are asked for by endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    /// In the order of the settings.
    pub listeners: Vec<ListenerCounters>,
    /// Packets that belong to no listener: only drops are counted.
    pub strays: ListenerCounters,
}

impl ListenerCounters {
    /// Packets dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Flows that ended for `reason`.
    pub fn ended_by(&self, reason: EndReason) -> u64 {
        self.ended[reason as usize]
    }
}
