//! One forwarding thread: its runtime, its flows, and the loop that acts on new routing tables and on the end.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use endpoint_group::{EndpointId, FlowHasher, FlowKey, Protocol};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::LocalSet,
    time::Instant,
};

use crate::{
    PassiveObserver,
    access::AccessLists,
    account::{Books, Counters},
    bind::Sockets,
    find::Inquiry,
    limits::FlowLimits,
    reasons::CloseReason,
    routes::{Classifier, Routes},
    settings::EdgeSettings,
    tcp::{self, connections::Connections},
    udp::{self, receive::Receiver},
};

/// The largest UDP payload fits, and TCP reads are long enough to amortise their system calls.
const BUFFER: usize = 256 << 10;
/// Between two warnings about this host.
const COMPLAINTS: Duration = Duration::from_secs(10);
/// Connections reset before others get a turn.
const SWEEP: usize = 256;

/// How far the edge is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Takes new flows.
    Serving,
    /// Only serves the flows it has.
    Draining,
    /// Resets what is left.
    Stopping,
}

/// What all workers share.
pub(crate) struct Shared {
    pub settings: EdgeSettings,
    pub routes: Arc<Routes>,
    pub access: Arc<AccessLists>,
    pub limits: Vec<Arc<FlowLimits>>,
    pub books: Arc<Books>,
    pub observer: Arc<dyn PassiveObserver>,
    pub phase: watch::Receiver<Phase>,
    /// The workers that have drained.
    pub drained: watch::Sender<BTreeSet<usize>>,
}

/// What the tasks of one worker share. Nothing here is touched by another thread.
pub(crate) struct Worker {
    pub shared: Arc<Shared>,
    pub index: usize,
    /// Every read of this worker goes through here and is handed on before the next: an idle flow holds no buffer.
    pub buffer: RefCell<Box<[u8]>>,
    live: Cell<usize>,
    ended: Notify,
    pub connections: Rc<Connections>,
    /// Who has the UDP flows to a static IP and port.
    pub receivers: RefCell<HashMap<SocketAddr, Weak<Receiver>>>,
    complained: Cell<Option<Instant>>,
}

/// A flow that lives on this worker; the worker does not end before it is dropped.
pub(crate) struct LiveFlow(Rc<Worker>);

impl Drop for LiveFlow {
    fn drop(&mut self) {
        let live = self.0.live.get() - 1;
        self.0.live.set(live);
        if live == 0 {
            self.0.ended.notify_one();
        }
    }
}

impl Worker {
    pub fn classifier(&self, listener: usize) -> Classifier {
        let settings = &self.shared.settings;
        Classifier { hasher: FlowHasher::new(settings.hash_seed), affinity: settings.listeners[listener].affinity }
    }

    pub fn counters(&self, listener: usize, protocol: Protocol) -> Arc<Counters> {
        self.shared.books.counters(self.index, listener, protocol)
    }

    /// Whether a warning about this host may be logged: they come in floods, and one in ten seconds tells enough.
    pub fn may_complain(&self) -> bool {
        let now = Instant::now();
        let may = self.complained.get().is_none_or(|last| now - last >= COMPLAINTS);
        if may {
            self.complained.set(Some(now));
        }
        may
    }

    pub fn phase(&self) -> Phase {
        *self.shared.phase.borrow()
    }

    pub fn live(self: &Rc<Self>) -> LiveFlow {
        self.live.set(self.live.get() + 1);
        LiveFlow(Rc::clone(self))
    }

    fn find(&self, flow: &FlowKey) -> Option<EndpointId> {
        match flow.protocol {
            Protocol::Tcp => self.connections.endpoint_of((flow.client, flow.to)),
            Protocol::Udp => self.receivers.borrow().get(&flow.to)?.upgrade()?.endpoint_of(flow.client),
        }
    }

    /// Ends every connection whose endpoint is to be left, a batch at a time so that live traffic is not held up.
    async fn sweep(&self) {
        loop {
            let leaving = self.connections.find_key(|(listener, endpoint)| {
                let Shared { settings, routes, .. } = &*self.shared;
                let tcp = settings.listeners[listener].tcp.as_ref();
                tcp.is_some_and(|tcp| routes.must_leave(listener, endpoint, tcp.on_unhealthy))
            });
            let Some(key) = leaving else { return };
            self.connections.end(key, CloseReason::EndpointGone, SWEEP);
            tokio::task::yield_now().await;
        }
    }

    /// Waits until no flow is left on any worker. A worker that is done early keeps its sockets, because closing one of a
    /// `SO_REUSEPORT` set would spread the others' flows anew.
    async fn drained(&self) {
        while self.live.get() > 0 {
            self.ended.notified().await;
        }
        let mut done = self.shared.drained.subscribe();
        self.shared.drained.send_modify(|workers| {
            workers.insert(self.index);
        });
        // Err: impossible while `shared` lives.
        let _ = done.wait_for(|workers| workers.len() == self.shared.settings.workers.get()).await;
    }
}

/// Runs one worker until the edge drains and its last flow has ended, or until the edge stops.
pub(crate) fn run(
    index: usize,
    shared: Arc<Shared>,
    sockets: Sockets,
    mut inquiries: mpsc::Receiver<Inquiry>,
    runtime: &tokio::runtime::Runtime,
) {
    let worker = Rc::new(Worker {
        shared,
        index,
        buffer: RefCell::new(vec![0; BUFFER].into()),
        live: Cell::new(0),
        ended: Notify::new(),
        connections: Rc::default(),
        receivers: RefCell::default(),
        complained: Cell::new(None),
    });
    LocalSet::new().block_on(runtime, async {
        for bound in sockets.tcp {
            tcp::accept::spawn(&worker, bound);
        }
        for bound in sockets.udp {
            udp::receive::spawn(&worker, bound);
        }
        let mut published = worker.shared.routes.watch();
        let mut phase = worker.shared.phase.clone();
        loop {
            tokio::select! {
                // Err: the routes outlive the workers.
                Ok(()) = published.changed() => worker.sweep().await,
                Some(Inquiry { flow, answer }) = inquiries.recv() => {
                    // Err: the asker has gone.
                    let _ = answer.send(worker.find(&flow));
                }
                changed = phase.changed() => {
                    // A vanished edge handle stops like an ordered stop. Flows that are left are reset as their tasks are dropped.
                    if changed.is_err() || *phase.borrow_and_update() == Phase::Stopping {
                        return;
                    }
                }
                () = worker.drained(), if worker.phase() == Phase::Draining => return,
            }
        }
    });
}
