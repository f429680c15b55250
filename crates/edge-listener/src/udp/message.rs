//! What leaves by one send: a datagram, or several of one flow and one size that the kernel splits (`UDP_SEGMENT`).

use std::{io, net::SocketAddr};

use crate::poll::FlowId;

/// Datagrams in one message at most: `UDP_MAX_SEGMENTS` of Linux before 6.9.
pub(super) const MOST_SEGMENTS: usize = 64;
/// Bytes in one message at most.
const MOST_BYTES: usize = 65_507;

/// The largest datagram that a flow's way takes as a segment; learnt from refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offload(u16);

impl Default for Offload {
    fn default() -> Self {
        Self(u16::MAX)
    }
}

impl Offload {
    /// Learns that segments of `size` were refused with `error`, though the datagrams left one by one.
    pub fn refused(&mut self, size: usize, error: &io::Error) {
        let smaller = u16::try_from(size.saturating_sub(1)).unwrap_or(u16::MAX);
        self.0 = match error.raw_os_error() {
            Some(libc::EMSGSIZE | libc::EINVAL) => self.0.min(smaller),
            _ => 0,
        };
    }

    pub fn takes(self, size: usize) -> bool {
        size <= usize::from(self.0)
    }
}

/// How a datagram, or a run of them, is to leave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Postage {
    pub flow: FlowId,
    /// `None`: where the socket is connected to.
    pub to: Option<SocketAddr>,
    /// Whether the socket is of IPv6.
    pub ipv6: bool,
    pub tos: u8,
    /// Bytes of the header that stands in front of the datagrams: of all, or of the first alone.
    pub header: usize,
    pub every: bool,
    pub offload: Offload,
}

/// Datagrams that lie one behind the other in a slot: one, with or without the flow's header in front, or several of one size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub slot: usize,
    pub from: usize,
    /// Bytes in the slot.
    pub length: usize,
    /// Bytes of the header.
    pub header: usize,
    pub datagrams: usize,
    /// Bytes of the first datagram, its header included.
    pub size: usize,
}

impl Run {
    pub fn total(&self) -> usize {
        self.header + self.length
    }

    /// Whether its last datagram is shorter than the others.
    fn ends_short(&self) -> bool {
        self.total() < self.size * self.datagrams
    }

    /// Its datagrams, each by itself.
    pub fn apart(self) -> impl Iterator<Item = Self> {
        // Only a datagram alone has a header.
        let step = self.size - self.header;
        (0..self.datagrams).map(move |index| {
            let from = index * step;
            let length = step.min(self.length - from);
            Self { from: self.from + from, length, datagrams: 1, size: self.header + length, ..self }
        })
    }
}

/// One message: a datagram, or several of one size, of which the last may be shorter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message {
    pub flow: FlowId,
    pub to: Option<SocketAddr>,
    pub ipv6: bool,
    pub tos: u8,
    /// Its place among the runs.
    pub runs: (usize, usize),
    /// Bytes of its first datagram.
    pub size: usize,
    /// Bytes in all, headers included.
    total: usize,
    /// Bytes of headers.
    added: usize,
    pub datagrams: usize,
    /// Whether its last datagram is shorter, so that none may follow.
    full: bool,
}

impl Message {
    pub fn new(postage: &Postage, run: &Run, at: usize) -> Self {
        let Postage { flow, to, ipv6, tos, .. } = *postage;
        let (size, total, added, datagrams, full) = (run.size, run.total(), run.header, run.datagrams, run.ends_short());
        Self { flow, to, ipv6, tos, runs: (at, at + 1), size, total, added, datagrams, full }
    }

    /// The message of `run` alone, one of those that it was made of.
    pub fn single(&self, run: &Run) -> Self {
        let (size, total, added) = (run.size, run.total(), run.header);
        Self { runs: (0, 1), size, total, added, datagrams: 1, full: true, ..*self }
    }

    /// Bytes of payload as the sender sent it.
    pub fn payload(&self) -> usize {
        self.total - self.added
    }

    /// Whether it begins with the flow's header.
    pub fn has_header(&self) -> bool {
        self.added > 0
    }

    /// Whether `run` may follow in it: all datagrams but the last are of one size, which the way takes as a segment, and none is empty.
    pub fn takes(&self, postage: &Postage, run: &Run) -> bool {
        (self.flow, self.to, self.tos) == (postage.flow, postage.to, postage.tos)
            && !self.full
            && run.size > 0
            && (run.size == self.size || (run.datagrams == 1 && run.size < self.size))
            && postage.offload.takes(self.size)
            && self.datagrams + run.datagrams <= MOST_SEGMENTS
            && self.total + run.total() <= MOST_BYTES
    }

    pub fn add(&mut self, run: &Run) {
        self.full = run.ends_short() || run.size < self.size;
        self.total += run.total();
        self.added += run.header;
        self.datagrams += run.datagrams;
        self.runs.1 += 1;
    }
}
