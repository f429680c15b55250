//! A flow's socket towards its endpoint. It is connected: the kernel finds the flow of a reply by it, and brings ICMP errors back to the
//! flow they belong to.

use std::{io, net::SocketAddr};

use endpoint_group::{EndpointId, Slot};
use socket2::{Domain, Socket, Type};

use super::{ancillary, message::Offload, table::Receiver};
use crate::{
    account::Counters,
    client_ip::{self, ClientIp, Lease},
    overflow,
    poll::{EventFlags, FlowId, Source},
    reasons::{DropReason, is_descriptors, is_local},
    worker::Context,
};

/// Endpoints tried when the first cannot be addressed at all.
const ATTEMPTS: usize = 3;
/// Receive buffer asked for, in bytes; the kernel caps it at `net.core.rmem_max`.
const REPLY_BUFFER: usize = 1 << 20;
/// Errors taken off a socket before others get a turn.
const ERRORS: usize = 64;

#[derive(Debug)]
pub(super) struct Upstream {
    pub endpoint: EndpointId,
    pub socket: Socket,
    pub ipv6: bool,
    /// What the kernel had dropped at the socket when it was last asked.
    overflowed: u32,
    /// Whether the socket takes runs of replies as one.
    coalescing: bool,
    /// What is known of segmentation on the way to the endpoint.
    pub offload: Offload,
    /// The right to the client's own address and port towards this endpoint.
    pub lease: Option<Lease>,
}

/// A socket to the slot's endpoint, or to the next in rank that this host has a route to and that was not `tried`. Its events are those of
/// flow `id`.
pub(super) fn first(
    context: &Context,
    receiver: &Receiver,
    slot: Slot,
    (client, to): (SocketAddr, SocketAddr),
    id: FlowId,
    mut tried: Vec<EndpointId>,
) -> Result<Upstream, DropReason> {
    let shared = &context.shared;
    for _ in 0..ATTEMPTS {
        let Some(endpoint) = shared.routes.next(receiver.listener, slot, &tried) else { break };
        tried.push(endpoint);
        let address = shared.routes.load().endpoint(endpoint).map(|e| e.target.address(to.port()));
        let Some(address) = address else { continue };
        match connect(context, receiver, client, address) {
            Ok((socket, lease)) => {
                let interest = EventFlags::IN | EventFlags::ET;
                if let Err(error) = context.poll.add(&socket, Source::Flow(id), interest) {
                    tracing::debug!(%error, "cannot wait for replies");
                    return Err(DropReason::LocalError);
                }
                let (ipv6, offload) = (address.is_ipv6(), Offload::default());
                return Ok(Upstream { endpoint, socket, ipv6, overflowed: 0, coalescing: false, offload, lease });
            }
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

fn connect(
    context: &Context,
    receiver: &Receiver,
    client: SocketAddr,
    address: SocketAddr,
) -> io::Result<(Socket, Option<Lease>)> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), None)?;
    ancillary::prepare(&socket, address.is_ipv6())?;
    // The kernel's default holds a burst of a hundred large replies. Err: never for a size, which it cuts to what it allows.
    let _ = socket.set_recv_buffer_size(REPLY_BUFFER);
    let lease = if receiver.settings.client_ip == ClientIp::Transparent {
        let lease = context.shared.leases.take(client, address).ok_or_else(|| io::ErrorKind::AddrInUse.into());
        let lease = lease.and_then(|lease| client_ip::bind_as(&socket, client).map(|()| lease));
        lease.inspect_err(|error| client_ip::fell_back(context, &receiver.counters, client, address, error)).ok()
    } else {
        None
    };
    socket.connect(&address.into())?;
    Ok((socket, lease))
}

impl Upstream {
    /// Counts the replies that the kernel has dropped at the socket since this was last asked.
    pub fn count_overflow(&mut self, counters: &Counters) {
        if let Some(count) = overflow::drops(&self.socket) {
            let new = count.wrapping_sub(self.overflowed);
            self.overflowed = count;
            counters.count_drops(DropReason::ReplyOverflow, new.into());
        }
    }

    /// Takes runs of replies as one from here on. For good: what is queued as a run could not be told from one datagram afterwards.
    pub fn coalesce(&mut self) {
        if !std::mem::replace(&mut self.coalescing, true) {
            ancillary::receive_runs(&self.socket);
        }
    }

    /// Takes off the socket what came back for datagrams that had left.
    pub fn take_errors(&self, context: &Context, counters: &Counters) {
        for error in std::iter::from_fn(|| ancillary::next_error(&self.socket)).take(ERRORS) {
            came_back(context, counters, self.endpoint, &error);
        }
    }
}

/// An ICMP error came back for a datagram that had left for `endpoint`.
pub(super) fn came_back(context: &Context, counters: &Counters, endpoint: EndpointId, error: &io::Error) {
    match error.raw_os_error() {
        // It did not fit a link further on. From now on the kernel splits what does not fit.
        Some(libc::EMSGSIZE) => counters.count_drop(DropReason::TooBig),
        _ => context.shared.observer.failed(endpoint),
    }
}
