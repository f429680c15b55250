//! Datagrams arrive: those of one socket are read together, each finds its flow, and each flow's are handed on together.

use std::{io, net::SocketAddr};

use endpoint_group::EndpointId;

use super::{
    ancillary,
    batch::SLOTS,
    mail::Clerk,
    message::{Message, Offload, Postage},
    table::{Receiver, Udp},
    upstream::{self, Upstream},
};
use crate::{
    account::{Counters, Direction},
    client_ip::ClientIp,
    poll::FlowId,
    reasons::{self, DropReason},
    settings::UdpSettings,
    worker::Context,
};

/// Errors taken off a socket on a static IP in one turn.
const ERRORS: usize = 4 * SLOTS;
/// Reads that an error may cost in one turn.
const STUCK: usize = 8;
/// ECN: what a router may have marked, and what the sender's congestion control waits for (RFC 3168).
const ECN: u8 = 0b11;

/// Which of the bits of the traffic class go on.
pub(super) fn carried(settings: &UdpSettings, tos: u8) -> u8 {
    if settings.carry_dscp { tos } else { tos & ECN }
}

/// Whether a socket should take runs of datagrams as one, by what it brings.
///
/// A run saves a trip through the stack for each datagram but the first. Where flows come interleaved there are none, and looking for
/// them costs. A socket that takes runs does so for good: what is queued as a run could not be told from one datagram afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Coalescing {
    on: bool,
    runs: u32,
    datagrams: u32,
}

impl Coalescing {
    /// Runs looked at before anything is concluded.
    const WINDOW: u32 = 128;

    /// Notes how many datagrams came in how many runs of one sender each. True once: when runs are to be taken from now on.
    pub fn observe(&mut self, runs: usize, datagrams: usize) -> bool {
        if self.on {
            return false;
        }
        let count = |number| u32::try_from(number).unwrap_or(u32::MAX);
        self.runs = self.runs.saturating_add(count(runs));
        self.datagrams = self.datagrams.saturating_add(count(datagrams));
        if self.runs >= Self::WINDOW {
            self.on = self.datagrams >= self.runs.saturating_mul(3);
            (self.runs, self.datagrams) = (0, 0);
        }
        self.on
    }
}

impl Udp {
    /// Takes what waits at a socket, up to a batch, and the errors if it has `failed`; what is left is reported again.
    pub fn arrive(&mut self, context: &Context, at: usize, failed: bool) {
        let Some(filled) = self.take_arrivals(at, failed) else { return };
        let mut runs = 0;
        let mut last: Option<((SocketAddr, u16), Option<FlowId>)> = None;
        let Receiver { many, address, .. } = self.receivers[at];
        for slot in 0..filled {
            let Some(client) = self.arrivals.peer(slot) else { continue };
            let key = (client, if many { self.arrivals.get(slot).notes.port } else { address.port() });
            let flow = match last {
                Some((same, flow @ Some(_))) if same == key => flow,
                _ => {
                    runs += 1;
                    self.find(context, at, key, slot)
                }
            };
            last = Some((key, flow));
            self.found.extend(flow.map(|flow| (flow, slot)));
        }
        if self.receivers[at].coalescing.observe(runs, filled) {
            ancillary::receive_runs(&*self.receivers[at].socket);
        }
        self.forward_found(context, at);
    }

    /// How many slots of `arrivals` were filled; `None` if there was nothing.
    fn take_arrivals(&mut self, at: usize, failed: bool) -> Option<usize> {
        let Receiver { socket, address, .. } = &self.receivers[at];
        if failed {
            // For earlier replies: their clients are gone, and the flows will idle out. Anybody can send them.
            let errors = std::iter::from_fn(|| ancillary::next_error(&**socket)).take(ERRORS).count();
            tracing::trace!(%address, errors, "replies came back");
        }
        // An error sticks to the socket too, and is told before any datagram; it costs none.
        for _ in 0..STUCK {
            match self.arrivals.receive(&**socket, 0, SLOTS) {
                Ok(filled) => return Some(filled),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => tracing::trace!(%address, %error, "error from an earlier datagram"),
            }
        }
        None
    }

    /// The flow of what `slot` holds, by client and port, a new one if there is none; `None` after counting why not.
    fn find(&mut self, context: &Context, at: usize, key: (SocketAddr, u16), slot: usize) -> Option<FlowId> {
        let known = self.receivers[at].flows.get(&key).copied();
        known
            .map_or_else(|| self.open(context, at, key.0, key.1), Ok)
            .map_err(|reason| {
                let datagrams = self.arrivals.get(slot).datagrams();
                self.receivers[at].counters.count_drops(reason, datagrams as u64);
            })
            .ok()
    }

    /// Forwards the arrivals that have found their flows.
    pub(super) fn forward_found(&mut self, context: &Context, at: usize) {
        let mut found = std::mem::take(&mut self.found);
        // Stable: the datagrams of a flow stay in order.
        found.sort_by_key(|&(flow, _)| flow);
        for group in found.chunk_by(|(one, _), (other, _)| one == other) {
            self.forward(context, at, group);
        }
        found.clear();
        self.found = found;
    }

    /// Hands datagrams of one flow to its endpoint, or to the present choice if it must leave that one.
    fn forward(&mut self, context: &Context, at: usize, group: &[(FlowId, usize)]) {
        // None: never, as no flow ends while its datagrams wait.
        let Some((id, flow)) = group.first().and_then(|&(id, _)| Some((id, self.flows.get_mut(id)?))) else { return };
        if flow.must_leave(context, &self.receivers[at]) {
            // What the old endpoint has still answered is the client's.
            self.reply(context, id, false);
            if let Some(flow) = self.flows.get_mut(id) {
                flow.leave(context, &self.receivers[at], id);
            }
        }
        let Self { receivers, flows, arrivals, mail, sender, .. } = self;
        let (Some(flow), Receiver { settings, counters, .. }) = (flows.get_mut(id), &receivers[at]) else { return };
        flow.last = context.now();
        let every = settings.client_ip == ClientIp::ProxyV2Every;
        let header = flow.header.as_deref().unwrap_or_default();
        let mut due = !flow.introduced || every;
        for &(_, slot) in group {
            let received = arrivals.get(slot);
            let tos = carried(settings, received.notes.tos);
            let header = if due { header.len() } else { 0 };
            due = every;
            let Upstream { ipv6, offload, .. } = flow.upstream;
            mail.put(Postage { flow: id, to: None, ipv6, tos, header, every, offload }, slot, received);
        }
        let Upstream { socket, endpoint, offload, .. } = &mut flow.upstream;
        let mut clerk = Outgoing { context, counters, endpoint: *endpoint, offload, introduced: &mut flow.introduced };
        mail.send(sender, &*socket, arrivals, header, &mut clerk);
    }
}

/// What becomes of datagrams to an endpoint.
struct Outgoing<'a> {
    context: &'a Context,
    counters: &'a Counters,
    endpoint: EndpointId,
    offload: &'a mut Offload,
    introduced: &'a mut bool,
}

impl Clerk for Outgoing<'_> {
    fn told(&mut self, message: &Message, sent: io::Result<()>) {
        let error = match sent {
            Ok(()) => {
                *self.introduced |= message.has_header();
                return self.counters.forward(Direction::ToEndpoint, message.payload(), message.datagrams as u64);
            }
            Err(error) => error,
        };
        let reason = match error.raw_os_error() {
            Some(libc::EMSGSIZE) => DropReason::TooBig,
            None | Some(libc::EAGAIN | libc::ENOBUFS) => DropReason::EndpointBufferFull,
            Some(code) if reasons::UNREACHABLE.contains(&code) => {
                self.context.shared.observer.failed(self.endpoint);
                DropReason::EndpointRefused
            }
            Some(_) => {
                tracing::debug!(endpoint = self.endpoint.index(), %error, "cannot send to the endpoint");
                DropReason::LocalError
            }
        };
        self.counters.count_drops(reason, message.datagrams as u64);
    }

    fn refused(&mut self, message: &Message, error: &io::Error) {
        self.offload.refused(message.size, error);
    }

    fn came_back(&mut self, error: io::Error) {
        upstream::came_back(self.context, self.counters, self.endpoint, &error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_taken_where_they_come_and_not_where_flows_interleave() {
        let mut interleaved = Coalescing::default();
        assert!((0..1000).all(|_| !interleaved.observe(40, 64)));
        let mut bursts = Coalescing::default();
        let turned: Vec<bool> = (0..100).map(|_| bursts.observe(4, 64)).collect();
        assert_eq!(turned.iter().position(|&on| on), Some(31), "after a window of runs");
        assert_eq!(turned.iter().filter(|&&on| on).count(), 1);
    }
}
