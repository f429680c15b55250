//! One UDP flow: a client's address and port pinned to an endpoint through a connected socket of its own.
//!
//! The connected socket lets the kernel find the flow of a reply, and brings ICMP errors back to the flow they belong to.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice, Read},
    net::SocketAddr,
    rc::Rc,
};

use endpoint_group::{EndpointId, FlowKey, Protocol, Slot};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    io::Interest,
    net::UdpSocket,
    sync::Notify,
    time::{self, Instant},
};

use super::receive::Receiver;
use crate::{
    account::Direction,
    client_ip::ClientIp,
    flow::OpenFlow,
    reasons::{CloseReason, DropReason, is_descriptors, is_local},
};

/// Replies of one flow before others get a turn.
const BURST: usize = 32;
/// What wakes the reply task. An ICMP error makes a socket fail, not readable.
const REPLY: Interest = Interest::READABLE.add(Interest::ERROR);
/// Endpoints tried when the first cannot be addressed at all.
const ATTEMPTS: usize = 3;

pub(crate) struct Flow {
    client: SocketAddr,
    slot: Slot,
    upstream: RefCell<Upstream>,
    /// Wakes the reply task when `upstream` was replaced.
    moved: Notify,
    last: Cell<Instant>,
    /// What tells the endpoint who the client is.
    header: Option<Box<[u8]>>,
    /// Whether this endpoint has been told, or was about to be.
    introduced: Cell<bool>,
    open: OpenFlow,
}

#[derive(Clone)]
struct Upstream {
    endpoint: EndpointId,
    socket: Rc<UdpSocket>,
}

/// Opens a flow for `client`; `None` after counting why not.
pub(crate) fn open(receiver: &Rc<Receiver>, client: SocketAddr) -> Option<Rc<Flow>> {
    let slot = receiver.classifier.slot(&FlowKey { protocol: Protocol::Udp, client, to: receiver.address });
    if receiver.worker.shared.routes.choose(receiver.listener, slot).is_none() {
        receiver.counters.count_drop(DropReason::NoEndpoint);
        return None;
    }
    let open = OpenFlow::admit(&receiver.worker, receiver.listener, Protocol::Udp, &receiver.counters, client.ip())?;
    let upstream = match connect_first(receiver, slot) {
        Ok(upstream) => upstream,
        Err(reason) => {
            receiver.counters.count_drop(reason);
            open.ends(match reason {
                DropReason::NoDescriptors | DropReason::LocalError => CloseReason::LocalError,
                _ => CloseReason::ConnectFailed,
            });
            return None;
        }
    };
    open.pin(&receiver.worker, upstream.endpoint);
    tracing::debug!(%client, to = %receiver.address, endpoint = upstream.endpoint.index(), "flow opened");
    let flow = Rc::new(Flow {
        client,
        slot,
        upstream: RefCell::new(upstream),
        moved: Notify::new(),
        last: Cell::new(Instant::now()),
        header: receiver.settings.client_ip.header(Protocol::Udp, client, receiver.address),
        introduced: Cell::new(false),
        open,
    });
    tokio::task::spawn_local(replies(Rc::clone(receiver), Rc::clone(&flow)));
    Some(flow)
}

/// A socket to the slot's endpoint, or to the next in rank that this host has a route to.
fn connect_first(receiver: &Receiver, slot: Slot) -> Result<Upstream, DropReason> {
    let shared = &receiver.worker.shared;
    let mut tried = Vec::new();
    while tried.len() < ATTEMPTS {
        let Some(endpoint) = shared.routes.next(receiver.listener, slot, &tried) else { break };
        tried.push(endpoint);
        let address = shared.routes.load().endpoint(endpoint).map(|e| e.target.address(receiver.address.port()));
        let Some(address) = address else { continue };
        match connect(address) {
            Ok(socket) => return Ok(Upstream { endpoint, socket: Rc::new(socket) }),
            Err(error) if is_descriptors(&error) => return Err(DropReason::NoDescriptors),
            Err(error) if is_local(&error) => {
                tracing::debug!(%address, %error, "cannot open a socket to an endpoint");
                return Err(DropReason::LocalError);
            }
            Err(error) => {
                tracing::debug!(%address, %error, "endpoint cannot be addressed");
                shared.observer.failed(endpoint);
            }
        }
    }
    Err(DropReason::Unreachable)
}

fn connect(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), None)?;
    socket.connect(&address.into())?;
    UdpSocket::from_std(socket.into())
}

impl Flow {
    /// Where it is pinned.
    pub fn endpoint(&self) -> EndpointId {
        self.upstream.borrow().endpoint
    }

    /// Hands a client's datagram to the flow's endpoint, or to the present choice if it must leave that one.
    pub fn forward(&self, receiver: &Receiver, datagram: &[u8]) {
        self.last.set(Instant::now());
        let endpoint = self.endpoint();
        if receiver.worker.shared.routes.must_leave(receiver.listener, endpoint, receiver.settings.on_unhealthy) {
            self.leave(receiver, endpoint);
        }
        let upstream = self.upstream.borrow();
        let every = receiver.settings.client_ip == ClientIp::ProxyV2Every;
        let header = self.header.as_deref().filter(|_| every || !self.introduced.replace(true)).unwrap_or_default();
        match send(&upstream.socket, header, datagram) {
            Ok(()) => receiver.counters.forward(Direction::ToEndpoint, datagram.len(), 1),
            Err(error) => receiver.counters.count_drop(self.failed(receiver, upstream.endpoint, &error)),
        }
    }

    /// Moves to the present choice. Without one that can be addressed the flow stays where it is.
    fn leave(&self, receiver: &Receiver, from: EndpointId) {
        if receiver.worker.shared.routes.choose(receiver.listener, self.slot) == Some(from) {
            return;
        }
        let Ok(upstream) = connect_first(receiver, self.slot) else { return };
        if upstream.endpoint == from {
            return;
        }
        tracing::debug!(client = %self.client, to = %receiver.address, endpoint = upstream.endpoint.index(), "flow moved");
        self.open.pin(&receiver.worker, upstream.endpoint);
        self.upstream.replace(upstream);
        self.introduced.set(false);
        receiver.counters.moved();
        self.moved.notify_one();
    }

    /// The reason under which a datagram that `endpoint`'s socket refused is counted.
    fn failed(&self, receiver: &Receiver, endpoint: EndpointId, error: &io::Error) -> DropReason {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS) => DropReason::EndpointBufferFull,
            Some(libc::EMSGSIZE) => DropReason::TooBig,
            Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EPERM | libc::EACCES) => {
                receiver.worker.shared.observer.failed(endpoint);
                DropReason::EndpointRefused
            }
            _ => {
                tracing::debug!(client = %self.client, %error, "cannot send to the endpoint");
                DropReason::LocalError
            }
        }
    }
}

/// Sends; an error that an earlier datagram caused is taken off the socket first and does not cost this one.
///
/// Straight to the kernel: the runtime holds a new socket for not writable until its next turn, which would cost the first datagram.
fn send(socket: &UdpSocket, header: &[u8], datagram: &[u8]) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let send = || match header {
        [] => socket.send(datagram),
        header => socket.send_vectored(&[IoSlice::new(header), IoSlice::new(datagram)]),
    };
    match send() {
        Err(error) if is_icmp(&error) => send().map(drop),
        sent => sent.map(drop),
    }
}

/// Whether `error` is an ICMP error that the host of an earlier datagram, or a router before it, sent back.
fn is_icmp(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EACCES))
}

/// Carries replies back, from the static IP and port that the client addressed, until the flow has been idle for its timeout.
async fn replies(receiver: Rc<Receiver>, flow: Rc<Flow>) {
    let idle_timeout = receiver.settings.idle_timeout;
    loop {
        let upstream = flow.upstream.borrow().clone();
        let due = flow.last.get() + idle_timeout;
        tokio::select! {
            carried = upstream.socket.async_io(REPLY, || carry(&receiver, &flow, &upstream)) => {
                if let Err(error) = carried {
                    tracing::warn!(client = %flow.client, %error, "cannot wait for replies");
                    flow.open.ends(CloseReason::LocalError);
                    break;
                }
            }
            () = flow.moved.notified() => continue,
            () = time::sleep_until(due) => {
                if flow.last.get() + idle_timeout <= Instant::now() {
                    flow.open.ends(CloseReason::Idle);
                    break;
                }
                continue;
            }
        }
        tokio::task::yield_now().await;
    }
    tracing::debug!(client = %flow.client, to = %receiver.address, "flow ended");
    receiver.flows.borrow_mut().remove(&flow.client);
}

/// Carries up to [`BURST`] replies. Ends with `WouldBlock` once there is none left, which makes the caller wait for the next.
fn carry(receiver: &Receiver, flow: &Flow, upstream: &Upstream) -> io::Result<()> {
    for _ in 0..BURST {
        let mut buffer = receiver.worker.buffer.borrow_mut();
        match (&*SockRef::from(&upstream.socket)).read(&mut buffer) {
            Ok(length) => {
                flow.last.set(Instant::now());
                match SockRef::from(&receiver.socket).send_to(&buffer[..length], &flow.client.into()) {
                    Ok(_) => receiver.counters.forward(Direction::ToClient, length, 1),
                    Err(error) => receiver.counters.count_drop(match error.raw_os_error() {
                        Some(libc::EAGAIN | libc::ENOBUFS) => DropReason::ClientBufferFull,
                        Some(libc::EMSGSIZE) => DropReason::TooBig,
                        _ => DropReason::LocalError,
                    }),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            Err(error) if is_icmp(&error) => receiver.worker.shared.observer.failed(upstream.endpoint),
            Err(error) => tracing::debug!(client = %flow.client, %error, "error from the endpoint's socket"),
        }
    }
    Ok(())
}
