//! One forwarding thread: what it waits for, and in which order it acts on it.
//!
//! It waits in one place, for packets, for what is due, and for other threads. Each turn of its loop takes what is ready, a bounded amount
//! of each, and never blocks anywhere else.

use std::{
    cell::{Cell, RefCell},
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use endpoint_group::{EndpointId, FlowHasher, FlowKey, Protocol};

use crate::{
    PassiveObserver,
    access::AccessLists,
    account::{Books, Counters},
    bind::Sockets,
    client_ip::Leases,
    find::Inquiry,
    limits::FlowLimits,
    live::{LiveFlow, Seen, Wanted},
    poll::{EventFlags, Poll, Source},
    routes::{Classifier, Routes},
    settings::EdgeSettings,
    tcp::Tcp,
    udp::Udp,
    wake::Waker,
};

/// Between two warnings about this host.
const COMPLAINTS: Duration = Duration::from_secs(10);

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

impl Phase {
    const ALL: [Self; 3] = [Self::Serving, Self::Draining, Self::Stopping];
}

/// What all workers share.
pub(crate) struct Shared {
    pub settings: EdgeSettings,
    pub routes: Arc<Routes>,
    pub access: Arc<AccessLists>,
    pub limits: Vec<Arc<FlowLimits>>,
    pub books: Arc<Books>,
    pub leases: Arc<Leases>,
    pub observer: Arc<dyn PassiveObserver>,
    pub desks: Vec<Desk>,
    phase: AtomicU8,
}

/// Where other threads leave what a worker is to see, and see what has become of it.
#[derive(Debug)]
pub(crate) struct Desk {
    pub waker: Waker,
    /// `None` once the worker has ended.
    inquiries: Mutex<Option<Vec<Inquiry>>>,
    /// Whether the worker has no flow left in a drain, or has ended.
    drained: AtomicBool,
}

impl Desk {
    pub fn new() -> io::Result<Self> {
        Ok(Self { waker: Waker::new()?, inquiries: Mutex::new(Some(Vec::new())), drained: AtomicBool::new(false) })
    }

    /// Asks the worker. It answers, or drops the question when it ends.
    pub fn ask(&self, inquiry: Inquiry) {
        if let Some(inquiries) = &mut *self.inquiries.lock().unwrap_or_else(PoisonError::into_inner) {
            inquiries.push(inquiry);
        }
        self.waker.wake();
    }

    fn taken(&self) -> Vec<Inquiry> {
        let mut inquiries = self.inquiries.lock().unwrap_or_else(PoisonError::into_inner);
        inquiries.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

/// A worker at its desk. However it leaves, nobody waits for it any longer.
struct AtDesk(Arc<Shared>, usize);

impl Drop for AtDesk {
    fn drop(&mut self) {
        let Self(shared, index) = self;
        let desk = &shared.desks[*index];
        *desk.inquiries.lock().unwrap_or_else(PoisonError::into_inner) = None;
        desk.drained.store(true, Ordering::Release);
        shared.wake_all();
    }
}

impl Shared {
    #[allow(clippy::too_many_arguments, reason = "each is one thing that the workers share")]
    pub fn new(
        settings: EdgeSettings,
        routes: Arc<Routes>,
        access: Arc<AccessLists>,
        limits: Vec<Arc<FlowLimits>>,
        books: Arc<Books>,
        observer: Arc<dyn PassiveObserver>,
        desks: Vec<Desk>,
    ) -> Self {
        let (phase, leases) = (AtomicU8::new(0), Arc::default());
        Self { settings, routes, access, limits, books, leases, observer, desks, phase }
    }

    pub fn phase(&self) -> Phase {
        let phase = usize::from(self.phase.load(Ordering::Acquire));
        Phase::ALL.get(phase).copied().unwrap_or(Phase::Stopping)
    }

    /// Goes on to `phase`, never back.
    pub fn advance(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
        self.wake_all();
    }

    pub fn wake_all(&self) {
        for desk in &self.desks {
            desk.waker.wake();
        }
    }
}

/// What a worker's parts need besides themselves. Nothing here but `shared` is touched by another thread.
pub(crate) struct Context {
    pub shared: Arc<Shared>,
    pub poll: Poll,
    index: usize,
    now: Cell<Instant>,
    again: RefCell<Vec<Source>>,
    complained: Cell<Option<Instant>>,
}

impl Context {
    pub fn new(shared: Arc<Shared>, index: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.add(&shared.desks[index].waker, Source::Wake, EventFlags::IN)?;
        let (again, complained) = (RefCell::default(), Cell::default());
        Ok(Self { shared, poll, index, now: Cell::new(clock()), again, complained })
    }

    /// When this turn of the loop began.
    pub fn now(&self) -> Instant {
        self.now.get()
    }

    pub fn phase(&self) -> Phase {
        self.shared.phase()
    }

    /// Has `source` looked at in the next turn, as nothing will report what it still has.
    pub fn again(&self, source: Source) {
        self.again.borrow_mut().push(source);
    }

    pub fn classifier(&self, listener: usize) -> Classifier {
        let settings = &self.shared.settings;
        Classifier { hasher: FlowHasher::new(settings.hash_seed), affinity: settings.listeners[listener].affinity }
    }

    pub fn counters(&self, listener: usize, protocol: Protocol) -> Arc<Counters> {
        self.shared.books.counters(self.index, listener, protocol)
    }

    /// Whether a warning about this host may be logged: they come in floods, and one in ten seconds tells enough.
    pub fn may_complain(&self) -> bool {
        let may = self.complained.get().is_none_or(|last| self.now() - last >= COMPLAINTS);
        if may {
            self.complained.set(Some(self.now()));
        }
        may
    }
}

/// The worker's look at the clock, once a turn.
fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A worker, ready to run on its thread.
struct Worker {
    context: Context,
    tcp: Tcp,
    udp: Udp,
    /// The routing table that was acted on last.
    generation: u64,
    /// Whether there are connections left to be ended for it.
    sweeping: bool,
    closed: bool,
}

/// Runs one worker until the edge drains and the last flow has ended, or until the edge stops.
pub(crate) fn run(context: Context, sockets: Sockets) {
    let _at_desk = AtDesk(Arc::clone(&context.shared), context.index);
    if context.shared.settings.pin {
        pin(context.index);
    }
    let (tcp, udp) = (Tcp::new(&context, sockets.tcp), Udp::new(&context, sockets.udp));
    let generation = context.shared.routes.load().generation;
    let mut worker = Worker { context, tcp, udp, generation, sweeping: false, closed: false };
    let mut events = Vec::new();
    while worker.look() {
        let until = worker.until();
        if let Err(error) = worker.context.poll.wait(&mut events, worker.context.now(), until) {
            tracing::error!(%error, "cannot wait for packets; this forwarding thread ends");
            return;
        }
        worker.turn(&events);
    }
}

impl Worker {
    /// Acts on what other threads have said; false when the worker is done.
    fn look(&mut self) -> bool {
        let Self { context, tcp, udp, .. } = self;
        let generation = context.shared.routes.load().generation;
        if generation != self.generation {
            self.generation = generation;
            tcp.table_changed(context);
            self.sweeping = true;
        }
        match context.phase() {
            Phase::Serving => true,
            Phase::Draining => {
                if !std::mem::replace(&mut self.closed, true) {
                    tcp.close(context, udp);
                }
                !self.all_drained()
            }
            // Flows that are left are reset as they are dropped.
            Phase::Stopping => false,
        }
    }

    /// Whether no flow is left on any worker. A worker that is done early keeps its sockets, because closing one of a
    /// `SO_REUSEPORT` set would spread the others' flows anew.
    fn all_drained(&mut self) -> bool {
        let shared = &self.context.shared;
        let none_left = self.tcp.len() + self.udp.len() == 0;
        if none_left && !shared.desks[self.context.index].drained.swap(true, Ordering::AcqRel) {
            shared.wake_all();
        }
        shared.desks.iter().all(|desk| desk.drained.load(Ordering::Acquire))
    }

    /// How long there is nothing to do but wait.
    fn until(&self) -> Option<Instant> {
        if self.sweeping || !self.context.again.borrow().is_empty() {
            return Some(self.context.now());
        }
        [self.tcp.next_due(), self.udp.next_due()].into_iter().flatten().min()
    }

    /// One turn: what was reported, what was put off, what is due.
    fn turn(&mut self, events: &[(Source, EventFlags)]) {
        self.context.now.set(clock());
        if events.iter().any(|&(source, _)| source == Source::Wake) {
            self.heard();
        }
        let Self { context, tcp, udp, .. } = self;
        // Once each: what is looked at anyway, or was put off twice, is not to have a larger share of the turn for it.
        let mut again = std::mem::take(&mut *context.again.borrow_mut());
        again.sort_unstable();
        again.dedup();
        again.retain(|again| events.iter().all(|(source, _)| source != again));
        let again = again.into_iter().map(|source| (source, EventFlags::empty()));
        for (source, flags) in events.iter().copied().chain(again) {
            match source {
                Source::Wake => {}
                Source::Acceptor(at) => tcp.accept(context, at, udp),
                Source::Receiver(at) => udp.arrive(context, at, flags.contains(EventFlags::ERR)),
                Source::Client(id) => tcp.client_event(context, id, flags),
                Source::Endpoint(id) => tcp.endpoint_event(context, id, flags),
                Source::Flow(id) => udp.reply(context, id, flags.contains(EventFlags::ERR)),
            }
        }
        udp.post();
        if self.sweeping {
            self.sweeping = tcp.sweep(context);
        }
        tcp.expire(context);
        udp.expire(context.now());
    }

    fn heard(&self) {
        let desk = &self.context.shared.desks[self.context.index];
        desk.waker.heard();
        for inquiry in desk.taken() {
            // Err, here and below: the asker has gone.
            match inquiry {
                Inquiry::Find { flow, answer } => _ = answer.send(self.find(&flow)),
                Inquiry::List { wanted, from, most, answer } => _ = answer.send(self.list(&wanted, from, most)),
            }
        }
    }

    fn list(&self, wanted: &Wanted, from: usize, most: usize) -> Option<Vec<LiveFlow>> {
        let shared = &self.context.shared;
        let (table, now) = (shared.routes.load(), self.context.now());
        let mut flows = self.udp.seen(now).chain(self.tcp.seen(now)).skip(from).take(most).peekable();
        flows.peek()?;
        let take =
            |(listener, seen): (usize, Seen)| wanted.take(&seen, &shared.settings.listeners[listener].name, &table.endpoints);
        Some(flows.filter_map(take).collect())
    }

    fn find(&self, flow: &FlowKey) -> Option<EndpointId> {
        match flow.protocol {
            Protocol::Tcp => self.tcp.endpoint_of(flow.client, flow.to),
            Protocol::Udp => self.udp.endpoint_of(flow.client, flow.to),
        }
    }
}

/// Keeps this thread on one of the processors that the process may use: the one at `index`, counted round.
fn pin(index: usize) {
    let pinned = rustix::thread::sched_getaffinity(None).and_then(|allowed| {
        let all: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
        let mut one = rustix::thread::CpuSet::new();
        if let Some(&cpu) = all.get(index % all.len().max(1)) {
            one.set(cpu);
        }
        rustix::thread::sched_setaffinity(None, &one)
    });
    if let Err(error) = pinned {
        tracing::warn!(worker = index, %error, "cannot keep a forwarding thread on a processor of its own");
    }
}
