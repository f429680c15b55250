//! All TCP of one worker: its listening sockets, its connections, and when they end.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Instant,
};

use endpoint_group::{EndpointId, Protocol};
use slotmap::SlotMap;

use super::{
    accept::Acceptor,
    connection::{Connection, Event},
    pipes::Pipes,
    way::{COPY, Tools},
};
use crate::{
    bind::Bound,
    live::Seen,
    poll::{ConnectionId, EventFlags, Source},
    reasons::CloseReason,
    timers::Timers,
    worker::Context,
};

/// Connections that are reset, or whose time has come, before others get a turn.
const SWEEP: usize = 256;

/// A listener's connections to one endpoint.
type Key = (usize, EndpointId);

/// See the module.
#[derive(Debug)]
pub(crate) struct Tcp {
    pub(super) acceptors: Vec<Acceptor>,
    pub(super) connections: SlotMap<ConnectionId, Connection>,
    pub(super) timers: Timers<ConnectionId>,
    /// The acceptors that pause, and until when.
    pub(super) paused: Timers<usize>,
    /// How many connections each endpoint has, so that the sweep knows whether to look.
    pinned: HashMap<Key, usize>,
    /// Connections that may have to leave their endpoint.
    leaving: Vec<ConnectionId>,
    /// Every read of this worker goes through here and is handed on before the next: an idle connection holds no buffer.
    buffer: Box<[u8]>,
    pipes: Pipes,
    /// Bytes held for slow receivers.
    held: usize,
}

impl Tcp {
    /// Takes over `sockets` and begins to listen to them.
    pub fn new(context: &Context, sockets: Vec<Bound<TcpListener>>) -> Self {
        let mut acceptors = Vec::new();
        for Bound { listener, address, many, socket } in sockets {
            let Some(settings) = context.shared.settings.listeners[listener].tcp.clone() else { continue };
            let socket = Arc::new(socket);
            if let Err(error) = context.poll.add(&*socket, Source::Acceptor(acceptors.len()), EventFlags::IN) {
                tracing::error!(%address, %error, "cannot wait for connections on a bound socket");
                continue;
            }
            context.shared.books.overflow().watch(&socket, listener, Protocol::Tcp);
            let (classifier, counters) = (context.classifier(listener), context.counters(listener, Protocol::Tcp));
            acceptors.push(Acceptor { listener, settings, address, many, classifier, counters, socket: Some(socket) });
        }
        Self {
            acceptors,
            connections: SlotMap::with_key(),
            timers: Timers::default(),
            paused: Timers::default(),
            pinned: HashMap::new(),
            leaving: Vec::new(),
            buffer: vec![0; COPY].into(),
            pipes: Pipes::default(),
            held: 0,
        }
    }

    /// Connections that live, and sockets that may still bring some.
    pub fn len(&self) -> usize {
        self.connections.len() + self.acceptors.iter().filter(|acceptor| acceptor.socket.is_some()).count()
    }

    /// Which endpoint the connection from `client` to `to` is pinned to. Looks at every connection.
    pub fn endpoint_of(&self, client: SocketAddr, to: SocketAddr) -> Option<EndpointId> {
        self.connections.values().find(|connection| connection.to == to && connection.from == client)?.pinned
    }

    /// The connections, and their listeners. One that an endpoint has accepted counts as answered.
    pub fn seen(&self, now: Instant) -> impl Iterator<Item = (usize, Seen)> {
        self.connections.values().map(move |connection| {
            let listener = self.acceptors[connection.acceptor].listener;
            let (endpoint, quiet) = (connection.pinned, connection.quiet(now));
            let answered = endpoint.is_some();
            (listener, Seen { protocol: Protocol::Tcp, client: connection.from, to: connection.to, endpoint, answered, quiet })
        })
    }

    /// When something is due next.
    pub fn next_due(&self) -> Option<Instant> {
        self.timers.next().into_iter().chain(self.paused.next()).min()
    }

    /// Does what is due, some of it before others get a turn.
    pub fn expire(&mut self, context: &Context) {
        self.resume(context);
        for _ in 0..SWEEP {
            let Some(id) = self.timers.pop(context.now()) else { return };
            self.handle(context, id, Event::Due);
        }
    }

    /// Something happened at the client's end.
    pub fn client_event(&mut self, context: &Context, id: ConnectionId, flags: EventFlags) {
        self.handle(context, id, Event::Client(flags));
    }

    /// Something happened at the endpoint's end.
    pub fn endpoint_event(&mut self, context: &Context, id: ConnectionId, flags: EventFlags) {
        self.handle(context, id, Event::Endpoint(flags));
    }

    /// Lets a connection act, and ends it when that is what comes of it.
    pub(super) fn handle(&mut self, context: &Context, id: ConnectionId, event: Event) {
        let Self { acceptors, connections, timers, pinned, buffer, pipes, held, .. } = self;
        // None: it ended by an event before this one.
        let Some(connection) = connections.get_mut(id) else { return };
        let acceptor = &acceptors[connection.acceptor];
        let mut tools = Tools { buffer, pipes, held, counters: &acceptor.counters };
        let (before, due) = (connection.pinned, connection.due);
        let ended = connection.handle(context, acceptor, id, event, &mut tools);
        if connection.due != due {
            timers.cancel(due, id);
            timers.set(connection.due, id);
        }
        if connection.pinned != before
            && let Some(endpoint) = connection.pinned
        {
            *pinned.entry((acceptor.listener, endpoint)).or_default() += 1;
        }
        if let Err(reason) = ended {
            self.end(id, reason);
        }
    }

    /// Ends a connection. Its legs are reset unless it has finished.
    fn end(&mut self, id: ConnectionId, reason: CloseReason) {
        let Some(mut connection) = self.connections.remove(id) else { return };
        let Acceptor { listener, counters, .. } = &self.acceptors[connection.acceptor];
        self.timers.cancel(connection.due, id);
        let mut tools = Tools { buffer: &mut self.buffer, pipes: &mut self.pipes, held: &mut self.held, counters };
        connection.close(reason, &mut tools);
        if let Some(endpoint) = connection.pinned {
            let key = (*listener, endpoint);
            if let Some(count) = self.pinned.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.pinned.remove(&key);
                }
            }
        }
        tracing::debug!(client = %connection.from, to = %connection.to, reason = reason.as_str(), "connection ended");
    }

    /// Looks for connections whose endpoint is to be left. They end with [`Tcp::sweep`].
    pub fn table_changed(&mut self, context: &Context) {
        let Self { acceptors, connections, pinned, leaving, .. } = self;
        let must_leave = |(listener, endpoint): Key| {
            let tcp = context.shared.settings.listeners[listener].tcp.as_ref();
            tcp.is_some_and(|tcp| context.shared.routes.must_leave(listener, endpoint, tcp.on_unhealthy))
        };
        let keys: Vec<Key> = pinned.keys().copied().filter(|&key| must_leave(key)).collect();
        leaving.clear();
        if !keys.is_empty() {
            let key = |connection: &Connection| Some((acceptors[connection.acceptor].listener, connection.pinned?));
            let ids = connections.iter().filter(|(_, connection)| key(connection).is_some_and(|key| keys.contains(&key)));
            leaving.extend(ids.map(|(id, _)| id));
        }
    }

    /// Ends some of the connections that are to leave, a batch at a time so that live traffic is not held up. Whether there are more.
    pub fn sweep(&mut self, context: &Context) -> bool {
        for _ in 0..SWEEP {
            let Some(id) = self.leaving.pop() else { return false };
            self.handle(context, id, Event::Table);
        }
        !self.leaving.is_empty()
    }
}
