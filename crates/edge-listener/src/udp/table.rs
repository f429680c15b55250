//! All UDP of one worker: its sockets on the static IPs, its flows, and when they end.
//!
//! A flow that its endpoint has never answered is cheap to make, even from forged addresses, so it lives for `unanswered_timeout` only and
//! is the first to go when the listener is full, the one that has been quiet for longest first. A flow that was answered is never
//! evicted.

use std::{
    collections::HashMap,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Instant,
};

use endpoint_group::{EndpointId, Protocol};
use slotmap::SlotMap;

use super::{
    batch::Batch,
    flow::Flow,
    mail::Mail,
    outlet::{Outlet, OutletId},
    receive::Coalescing,
    sender::Sender,
};
use crate::{
    account::Counters,
    bind::Bound,
    live::Seen,
    poll::{EventFlags, FlowId, Source},
    reasons::CloseReason,
    routes::Classifier,
    settings::UdpSettings,
    timers::Timers,
    worker::Context,
};

/// Flows of a listener that end before others get a turn.
const SWEEP: usize = 256;

/// One static IP and port, as one worker serves it; or all ports of a listener there.
#[derive(Debug)]
pub(super) struct Receiver {
    pub listener: usize,
    pub settings: UdpSettings,
    /// Where the socket is bound.
    pub address: SocketAddr,
    /// Whether what comes for the listener's other ports comes here too.
    pub many: bool,
    pub socket: Arc<UdpSocket>,
    pub classifier: Classifier,
    pub counters: Arc<Counters>,
    /// By client and port. The kernel hands all datagrams of one client to one port to one worker, so the table is this worker's alone.
    pub flows: HashMap<(SocketAddr, u16), FlowId>,
    pub coalescing: Coalescing,
    /// Where replies leave, by port.
    pub outlets: HashMap<u16, OutletId>,
}

/// The flows of one listener by when they are to end, unless a datagram comes before.
#[derive(Debug, Default)]
pub(super) struct Queues {
    pub unanswered: Timers<FlowId>,
    pub answered: Timers<FlowId>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Udp {
    pub(super) receivers: Vec<Receiver>,
    pub(super) flows: SlotMap<FlowId, Flow>,
    pub(super) outlets: SlotMap<OutletId, Outlet>,
    /// By listener.
    pub(super) queues: Vec<Queues>,
    /// What arrived from clients, forwarded before anything else arrives.
    pub(super) arrivals: Batch,
    /// The slots of `arrivals` that have found their flow, until they are forwarded.
    pub(super) found: Vec<(FlowId, usize)>,
    /// What waits in the mail of the outlets, and how many slots of it are in use.
    pub(super) replies: Batch,
    pub(super) used: usize,
    /// The outlets that have mail.
    pub(super) posted: Vec<OutletId>,
    pub(super) mail: Mail,
    pub(super) sender: Sender,
}

impl Udp {
    /// Takes over `sockets` and begins to listen to them.
    pub fn new(context: &Context, sockets: Vec<Bound<UdpSocket>>) -> Self {
        let mut receivers = Vec::new();
        let mut outlets = SlotMap::with_key();
        for Bound { listener, address, many, socket } in sockets {
            let Some(settings) = context.shared.settings.listeners[listener].udp.clone() else { continue };
            let socket = Arc::new(socket);
            if let Err(error) = context.poll.add(&*socket, Source::Receiver(receivers.len()), EventFlags::IN) {
                tracing::error!(%address, %error, "cannot wait for datagrams on a bound socket");
                continue;
            }
            context.shared.books.overflow().watch(&socket, listener, Protocol::Udp);
            let counters = context.counters(listener, Protocol::Udp);
            let outlet = Outlet::new(receivers.len(), address.port(), Arc::clone(&socket), Arc::clone(&counters));
            receivers.push(Receiver {
                listener,
                settings,
                address,
                many,
                socket,
                classifier: context.classifier(listener),
                counters,
                flows: HashMap::new(),
                coalescing: Coalescing::default(),
                outlets: HashMap::from([(address.port(), outlets.insert(outlet))]),
            });
        }
        let queues = context.shared.settings.listeners.iter().map(|_| Queues::default()).collect();
        Self {
            receivers,
            flows: SlotMap::with_key(),
            outlets,
            queues,
            arrivals: Batch::new(),
            found: Vec::new(),
            replies: Batch::new(),
            used: 0,
            posted: Vec::new(),
            mail: Mail::default(),
            sender: Sender::default(),
        }
    }

    /// Flows that live.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Which endpoint the flow from `client` to `to` is pinned to.
    pub fn endpoint_of(&self, client: SocketAddr, to: SocketAddr) -> Option<EndpointId> {
        let mut there = self.receivers.iter().filter(|receiver| receiver.address.ip() == to.ip());
        let id = there.find_map(|receiver| receiver.flows.get(&(client, to.port())))?;
        self.flows.get(*id).map(Flow::endpoint)
    }

    /// The flows, and their listeners.
    pub fn seen(&self, now: Instant) -> impl Iterator<Item = (usize, Seen)> {
        self.flows.values().map(move |flow| {
            let listener = self.receivers[flow.receiver].listener;
            let (answered, quiet) = (flow.answered, now.saturating_duration_since(flow.last));
            let endpoint = Some(flow.endpoint());
            (listener, Seen { protocol: Protocol::Udp, client: flow.client, to: flow.to, endpoint, answered, quiet })
        })
    }

    /// When a flow may have to end next.
    pub fn next_due(&self) -> Option<Instant> {
        self.queues.iter().flat_map(|queues| [queues.unanswered.next(), queues.answered.next()]).flatten().min()
    }

    /// Ends flows that have been quiet for their time, some of them before others get a turn.
    pub fn expire(&mut self, now: Instant) {
        for listener in 0..self.queues.len() {
            for _ in 0..SWEEP {
                let Some(id) = self.queues[listener].unanswered.pop(now) else { break };
                self.quiet(listener, id, now, CloseReason::Unanswered);
            }
            for _ in 0..SWEEP {
                let Some(id) = self.queues[listener].answered.pop(now) else { break };
                self.quiet(listener, id, now, CloseReason::Idle);
            }
        }
    }

    /// A flow's time has come, unless a datagram has put it off.
    fn quiet(&mut self, listener: usize, id: FlowId, now: Instant, reason: CloseReason) {
        if self.put_off(listener, id).is_none_or(|due| due <= now) {
            self.end(id, reason);
        }
    }

    /// Puts a flow that was taken out of its queue back in, if its time is later by now; when its time is.
    fn put_off(&mut self, listener: usize, id: FlowId) -> Option<Instant> {
        let flow = self.flows.get_mut(id)?;
        let due = flow.last + flow.patience(&self.receivers[flow.receiver].settings);
        if due > flow.due {
            flow.due = due;
            self.queues[listener].of(flow.answered).set(due, id);
        }
        Some(due)
    }

    /// Makes room for a flow of `listener`: the unanswered one that has been quiet for longest goes. Whether there was one.
    pub fn evict(&mut self, listener: usize) -> bool {
        while let Some(id) = self.queues[listener].unanswered.pop_first() {
            let due = self.flows.get(id).map(|flow| flow.due);
            // One that a datagram has put off since is not the one. Each datagram does that once at most.
            if self.put_off(listener, id) <= due {
                self.end(id, CloseReason::Evicted);
                return true;
            }
        }
        false
    }

    /// Ends a flow.
    pub(super) fn end(&mut self, id: FlowId, reason: CloseReason) {
        let Some(mut flow) = self.flows.remove(id) else { return };
        let receiver = &mut self.receivers[flow.receiver];
        receiver.flows.remove(&(flow.client, flow.to.port()));
        self.queues[receiver.listener].of(flow.answered).cancel(flow.due, id);
        flow.upstream.count_overflow(&receiver.counters);
        flow.open.ends(reason);
        tracing::debug!(client = %flow.client, to = %flow.to, reason = reason.as_str(), "flow ended");
        self.leave_outlet(flow.outlet);
    }
}

impl Queues {
    pub fn of(&mut self, answered: bool) -> &mut Timers<FlowId> {
        if answered { &mut self.answered } else { &mut self.unanswered }
    }
}
