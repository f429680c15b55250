//! One UDP flow: a client's address and port pinned to an endpoint through a connected socket of its own.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use endpoint_group::{EndpointId, FlowKey, Protocol, Slot};

use super::{
    message::Offload,
    outlet::OutletId,
    table::{Receiver, Udp},
    upstream::{self, Upstream},
};
use crate::{
    flow::OpenFlow,
    poll::FlowId,
    reasons::{CloseReason, DropReason, is_descriptors},
    settings::UdpSettings,
    worker::Context,
};

#[derive(Debug)]
pub(super) struct Flow {
    /// The place of its receiver.
    pub receiver: usize,
    pub client: SocketAddr,
    /// The static IP and port that the client addressed.
    pub to: SocketAddr,
    /// Where replies leave.
    pub outlet: OutletId,
    slot: Slot,
    pub upstream: Upstream,
    /// When a datagram last came, from either side.
    pub last: Instant,
    /// When it stands in its queue.
    pub due: Instant,
    /// Whether an endpoint has ever answered.
    pub answered: bool,
    /// What tells the endpoint who the client is.
    pub header: Option<Box<[u8]>>,
    /// Whether the present endpoint has been told.
    pub introduced: bool,
    /// What is known of segmentation on the way to the client.
    pub to_client: Offload,
    pub open: OpenFlow,
}

impl Flow {
    /// Where it is pinned.
    pub fn endpoint(&self) -> EndpointId {
        self.upstream.endpoint
    }

    /// How long it lives without a datagram.
    pub fn patience(&self, settings: &UdpSettings) -> Duration {
        if self.answered { settings.idle_timeout } else { settings.unanswered_timeout }
    }

    /// Whether it must leave its endpoint, and there is another to go to.
    pub fn must_leave(&self, context: &Context, receiver: &Receiver) -> bool {
        let (from, routes) = (self.endpoint(), &context.shared.routes);
        routes.must_leave(receiver.listener, from, receiver.settings.on_unhealthy)
            && routes.choose(receiver.listener, self.slot) != Some(from)
    }

    /// Moves to the present choice. Without one that can be addressed it stays.
    pub fn leave(&mut self, context: &Context, receiver: &Receiver, id: FlowId) {
        // The next endpoint may be this one under another name, with the same address.
        drop(self.upstream.lease.take());
        let from = vec![self.endpoint()];
        let Ok(upstream) = upstream::first(context, receiver, self.slot, (self.client, self.to), id, from) else { return };
        tracing::debug!(client = %self.client, to = %self.to, endpoint = upstream.endpoint.index(), "flow moved");
        self.open.pin(context, upstream.endpoint);
        self.upstream.count_overflow(&receiver.counters);
        self.upstream = upstream;
        self.introduced = false;
        receiver.counters.moved();
    }
}

impl Udp {
    /// Opens a flow from `client` to a port of a receiver, or says why not.
    pub(super) fn open(&mut self, context: &Context, at: usize, client: SocketAddr, port: u16) -> Result<FlowId, DropReason> {
        let Receiver { listener, address, classifier, .. } = self.receivers[at];
        let to = SocketAddr::new(address.ip(), port);
        // No reply would reach it. What is sent to the unspecified address goes to this host itself.
        if client.port() == 0 || client.ip().is_unspecified() {
            return Err(DropReason::NoSourcePort);
        }
        // The kernel has not told it: a reply would leave from another.
        if port == 0 {
            return Err(DropReason::LocalError);
        }
        // Before anything is computed for it.
        if !context.shared.access.admits(listener, client.ip()) {
            return Err(DropReason::Denied);
        }
        // The answer would come back here, and be answered for ever. Linux takes such datagrams over IPv6.
        if context.shared.settings.serves_udp(client) {
            return Err(DropReason::InvalidSource);
        }
        let slot = classifier.slot(&FlowKey { protocol: Protocol::Udp, client, to });
        if context.shared.routes.choose(listener, slot).is_none() {
            return Err(DropReason::NoEndpoint);
        }
        let counters = Arc::clone(&self.receivers[at].counters);
        let mut make_room = || self.make_room(context, at);
        let open = OpenFlow::admit(context, listener, Protocol::Udp, &counters, client.ip(), &mut make_room)?;
        match self.insert(context, at, slot, (client, to), open) {
            // This host lacks something that an unanswered flow holds.
            Err((DropReason::NoDescriptors | DropReason::LocalError, open)) if self.make_room(context, at) => {
                self.insert(context, at, slot, (client, to), open)
            }
            inserted => inserted,
        }
        .map_err(|(reason, mut open)| {
            open.ends(match reason {
                DropReason::NoDescriptors | DropReason::LocalError => CloseReason::LocalError,
                _ => CloseReason::ConnectFailed,
            });
            reason
        })
    }

    /// Ends a flow that was never answered, but not before its datagrams have left. Whether there was one.
    fn make_room(&mut self, context: &Context, at: usize) -> bool {
        self.forward_found(context, at);
        self.evict(self.receivers[at].listener)
    }

    fn insert(
        &mut self,
        context: &Context,
        at: usize,
        slot: Slot,
        (client, to): (SocketAddr, SocketAddr),
        open: OpenFlow,
    ) -> Result<FlowId, (DropReason, OpenFlow)> {
        let outlet = match self.take_outlet(at, to) {
            Ok(outlet) => outlet,
            Err(error) if is_descriptors(&error) => return Err((DropReason::NoDescriptors, open)),
            Err(error) => {
                if context.may_complain() {
                    tracing::warn!(%to, %error, "replies cannot leave: does another process have the port? (`ss -lnup`)");
                }
                return Err((DropReason::LocalError, open));
            }
        };
        let receiver = &mut self.receivers[at];
        let now = context.now();
        let due = now + receiver.settings.unanswered_timeout;
        let inserted = self.flows.try_insert_with_key(|id| {
            let mut open = open;
            let upstream = match upstream::first(context, receiver, slot, (client, to), id, Vec::new()) {
                Ok(upstream) => upstream,
                Err(reason) => return Err((reason, open)),
            };
            open.pin(context, upstream.endpoint);
            tracing::debug!(%client, %to, endpoint = upstream.endpoint.index(), "flow opened");
            let header = receiver.settings.client_ip.header(Protocol::Udp, client, to);
            let (answered, introduced, to_client) = (false, false, Offload::default());
            let (receiver, last) = (at, now);
            Ok(Flow { receiver, client, to, outlet, slot, upstream, last, due, answered, header, introduced, to_client, open })
        });
        match inserted {
            Ok(id) => {
                receiver.flows.insert((client, to.port()), id);
                self.queues[receiver.listener].unanswered.set(due, id);
            }
            Err(_) => self.leave_outlet(outlet),
        }
        inserted
    }
}
