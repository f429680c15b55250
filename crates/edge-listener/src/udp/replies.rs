//! Replies go back, from the static IP and port that the client addressed; those of many flows by one system call.

use std::io;

use slotmap::SlotMap;

use super::{
    batch::SLOTS,
    flow::Flow,
    mail::Clerk,
    message::{Message, Postage},
    outlet::Outlet,
    receive::carried,
    table::Udp,
};
use crate::{
    account::{Counters, Direction},
    poll::{FlowId, Source},
    reasons::DropReason,
    worker::Context,
};

/// Replies of one flow that are read at once.
const AT_ONCE: usize = 8;
/// Reads of one flow before others get a turn.
const ROUNDS: usize = 4;

impl Udp {
    /// Takes the replies that wait at a flow's socket, and the errors if it has `failed`. Replies leave with [`Udp::post`].
    pub fn reply(&mut self, context: &Context, id: FlowId, failed: bool) {
        if failed && let Some(flow) = self.flows.get(id) {
            flow.upstream.take_errors(context, &self.receivers[flow.receiver].counters);
        }
        for _ in 0..ROUNDS {
            if self.used + AT_ONCE > SLOTS {
                self.post();
            }
            let Self { receivers, flows, outlets, queues, replies, used, posted, .. } = self;
            // None: it has just ended.
            let Some(flow) = flows.get_mut(id) else { return };
            let receiver = &receivers[flow.receiver];
            let filled = match replies.receive(&flow.upstream.socket, *used, AT_ONCE) {
                Ok(filled) => filled,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::trace!(client = %flow.client, %error, "error on the way to the endpoint");
                    flow.upstream.take_errors(context, &receiver.counters);
                    continue;
                }
            };
            let now = context.now();
            flow.last = now;
            if !flow.answered {
                let queues = &mut queues[receiver.listener];
                queues.unanswered.cancel(flow.due, id);
                flow.answered = true;
                flow.due = now + receiver.settings.idle_timeout;
                queues.answered.set(flow.due, id);
            }
            // None: never, as an outlet outlives its flows.
            let Some(outlet) = outlets.get_mut(flow.outlet) else { return };
            if outlet.mail.is_empty() {
                posted.push(flow.outlet);
            }
            for slot in *used..*used + filled {
                let received = replies.get(slot);
                let tos = carried(&receiver.settings, received.notes.tos);
                let (to, ipv6) = (Some(flow.client), flow.to.is_ipv6());
                let postage = Postage { flow: id, to, ipv6, tos, header: 0, every: false, offload: flow.to_client };
                outlet.mail.put(postage, slot, received);
            }
            *used += filled;
            if filled < AT_ONCE {
                return;
            }
            // It comes in bursts, and may have come faster than it was read.
            flow.upstream.coalesce();
            flow.upstream.count_overflow(&receiver.counters);
        }
        context.again(Source::Flow(id));
    }

    /// Sends the replies that were taken.
    pub fn post(&mut self) {
        let Self { outlets, flows, replies, sender, posted, used, .. } = self;
        for id in posted.drain(..) {
            let Some(Outlet { mail, socket, counters, .. }) = outlets.get_mut(id) else { continue };
            mail.send(sender, &**socket, replies, &[], &mut Returning { counters, flows });
        }
        *used = 0;
    }
}

/// What becomes of datagrams to clients.
struct Returning<'a> {
    counters: &'a Counters,
    flows: &'a mut SlotMap<FlowId, Flow>,
}

impl Clerk for Returning<'_> {
    fn told(&mut self, message: &Message, sent: io::Result<()>) {
        let Err(error) = sent else {
            return self.counters.forward(Direction::ToClient, message.payload(), message.datagrams as u64);
        };
        let reason = match error.raw_os_error() {
            None | Some(libc::EAGAIN | libc::ENOBUFS) => DropReason::ClientBufferFull,
            Some(libc::EMSGSIZE) => DropReason::TooBig,
            Some(_) => DropReason::LocalError,
        };
        self.counters.count_drops(reason, message.datagrams as u64);
    }

    fn refused(&mut self, message: &Message, error: &io::Error) {
        if let Some(flow) = self.flows.get_mut(message.flow) {
            flow.to_client.refused(message.size, error);
        }
    }

    fn came_back(&mut self, error: io::Error) {
        tracing::trace!(%error, "a reply came back");
    }
}
