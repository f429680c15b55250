//! Connections arrive: each is admitted and dialled on, or reset.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use endpoint_group::{FlowKey, Protocol};
use rustix::net::{SocketFlags, acceptfrom_with, getsockname};

use super::{
    connection::{Connection, Event},
    leg::Leg,
    table::Tcp,
};
use crate::{
    account::Counters,
    bind::ACCEPT_QUEUE,
    flow::OpenFlow,
    poll::{EventFlags, Source},
    reasons::{DropReason, is_descriptors},
    routes::Classifier,
    settings::TcpSettings,
    udp::Udp,
    worker::Context,
};

/// How long accepting pauses when the kernel refuses for lack of descriptors or memory: long enough not to spin, short enough that
/// connections wait in the accept queue rather than fail.
const PAUSE: Duration = Duration::from_millis(20);
/// Connections accepted before others get a turn.
const BURST: usize = 32;

/// One static IP and port, as one worker serves it; or all ports of a listener there.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub listener: usize,
    pub settings: TcpSettings,
    /// Where the socket is bound.
    pub address: SocketAddr,
    /// Whether connections to the listener's other ports come here too.
    pub many: bool,
    pub classifier: Classifier,
    pub counters: Arc<Counters>,
    /// `None` once it is closed for a drain.
    pub socket: Option<Arc<TcpListener>>,
}

impl Tcp {
    /// Takes what waits at a socket, up to a burst; what is left is reported again. Flows of `udp` that were never answered make room for
    /// connections.
    pub fn accept(&mut self, context: &Context, at: usize, udp: &mut Udp) {
        for _ in 0..BURST {
            match self.accept_one(context, at, udp) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    // A connection takes two descriptors.
                    let listener = self.acceptors[at].listener;
                    if !(is_descriptors(&error) && udp.evict(listener) && udp.evict(listener)) {
                        return self.pause(context, at, &error);
                    }
                }
            }
        }
    }

    /// Whether there may be another.
    fn accept_one(&mut self, context: &Context, at: usize, udp: &mut Udp) -> io::Result<bool> {
        let Some(socket) = &self.acceptors[at].socket else { return Ok(false) };
        let (address, many) = (self.acceptors[at].address, self.acceptors[at].many);
        let (stream, client) = match acceptfrom_with(&**socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((stream, client)) => (stream, client.and_then(|client| SocketAddr::try_from(client).ok())),
            Err(rustix::io::Errno::AGAIN) => return Ok(false),
            // A connection that its client aborted while it waited is nobody's loss.
            Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let to = if many { getsockname(&stream).ok().and_then(|to| SocketAddr::try_from(to).ok()) } else { Some(address) };
        if let (Some(client), Some(to)) = (client, to)
            && let Err(reason) = self.take(context, at, stream, (client, to), udp)
        {
            self.acceptors[at].counters.count_drop(reason);
        }
        Ok(true)
    }

    fn take(
        &mut self,
        context: &Context,
        at: usize,
        stream: OwnedFd,
        (client, to): (SocketAddr, SocketAddr),
        udp: &mut Udp,
    ) -> Result<(), DropReason> {
        let Acceptor { listener, classifier, ref counters, .. } = self.acceptors[at];
        let leg = Leg::accepted(stream);
        if !context.shared.access.admits(listener, client.ip()) {
            return Err(DropReason::Denied);
        }
        let slot = classifier.slot(&FlowKey { protocol: Protocol::Tcp, client, to });
        if context.shared.routes.choose(listener, slot).is_none() {
            return Err(DropReason::NoEndpoint);
        }
        let mut make_room = || udp.evict(listener);
        let open = OpenFlow::admit(context, listener, Protocol::Tcp, counters, client.ip(), &mut make_room)?;
        let id = self.connections.insert(Connection::new(at, (client, to), slot, leg, open, context.now()));
        let connection = &self.connections[id];
        self.timers.set(connection.due, id);
        self.handle(context, id, Event::Accepted);
        Ok(())
    }

    /// Stops accepting for a while. Nothing is lost yet: connections wait in the accept queue, whose overflow is counted.
    fn pause(&mut self, context: &Context, at: usize, error: &io::Error) {
        let acceptor = &mut self.acceptors[at];
        if context.may_complain() {
            tracing::warn!(address = %acceptor.address, %error, "cannot accept; connections wait");
        }
        if let Some(socket) = &acceptor.socket {
            // Err: it is reported at once again, and paused again.
            let _ = context.poll.change(&**socket, Source::Acceptor(at), EventFlags::empty());
        }
        self.paused.set(context.now() + PAUSE, at);
    }

    /// Ends the pauses that are over.
    pub(super) fn resume(&mut self, context: &Context) {
        while let Some(at) = self.paused.pop(context.now()) {
            let Acceptor { socket: Some(socket), address, .. } = &self.acceptors[at] else { continue };
            if let Err(error) = context.poll.change(&**socket, Source::Acceptor(at), EventFlags::IN) {
                tracing::error!(%address, %error, "cannot accept any more");
            }
        }
    }

    /// Serves what the kernel has accepted already, then closes the listening sockets.
    pub fn close(&mut self, context: &Context, udp: &mut Udp) {
        for at in 0..self.acceptors.len() {
            for _ in 0..ACCEPT_QUEUE {
                if !matches!(self.accept_one(context, at, udp), Ok(true)) {
                    break;
                }
            }
            self.acceptors[at].socket = None;
        }
    }
}
