//! A connection to the slot's endpoint, or to the next in rank, before the client notices.

use std::{io, net::SocketAddr, time::Instant};

use endpoint_group::{EndpointId, Slot};
use socket2::{Domain, Socket, Type};

use super::{accept::Acceptor, leg::Leg, options};
use crate::{
    client_ip::{self, ClientIp},
    poll::{ConnectionId, Source},
    reasons::{CloseReason, is_local},
    worker::Context,
};

/// A dial under way.
#[derive(Debug, Default)]
pub(super) struct Dial {
    tried: Vec<EndpointId>,
    /// Whether this host lacked a port towards one of them.
    lack: bool,
}

/// An endpoint that may answer until `due`.
#[derive(Debug)]
pub(super) struct Attempt {
    pub leg: Leg,
    pub endpoint: EndpointId,
    pub due: Instant,
    /// Whether it has answered already.
    pub connected: bool,
}

impl Dial {
    /// Begins to connect to the next in the ranking of `slot`, each endpoint once, up to `connect_attempts`.
    pub fn next(
        &mut self,
        context: &Context,
        acceptor: &Acceptor,
        slot: Slot,
        (client, to): (SocketAddr, SocketAddr),
        id: ConnectionId,
    ) -> Result<Attempt, CloseReason> {
        while self.tried.len() < acceptor.settings.connect_attempts.get() {
            // Looked up anew for every attempt: the table may have learnt of the death meanwhile.
            let Some(endpoint) = context.shared.routes.next(acceptor.listener, slot, &self.tried) else { break };
            self.tried.push(endpoint);
            match begin(context, acceptor, (client, to), endpoint, id) {
                Ok((leg, connected)) => {
                    let due = context.now() + acceptor.settings.connect_timeout;
                    return Ok(Attempt { leg, endpoint, due, connected });
                }
                Err(error) => self.failed(context, acceptor, endpoint, &error)?,
            }
        }
        Err(if self.lack { CloseReason::LocalError } else { CloseReason::ConnectFailed })
    }

    /// Notes that `endpoint` did not accept; an error if no other would be better.
    pub fn failed(
        &mut self,
        context: &Context,
        acceptor: &Acceptor,
        endpoint: EndpointId,
        error: &io::Error,
    ) -> Result<(), CloseReason> {
        // Every local port is in use towards this endpoint: not its fault, and another may have some left.
        if error.kind() == io::ErrorKind::AddrNotAvailable {
            tracing::debug!(endpoint = endpoint.index(), "no local port is left towards the endpoint");
            self.lack = true;
        } else if is_local(error) {
            // The next endpoint would meet the same lack, and this one is not to blame.
            tracing::debug!(%error, "cannot open a connection to an endpoint");
            return Err(CloseReason::LocalError);
        } else {
            tracing::debug!(endpoint = endpoint.index(), %error, "endpoint did not accept");
            context.shared.observer.failed(endpoint);
        }
        acceptor.counters.connect_failed();
        Ok(())
    }
}

/// A socket that connects to `endpoint`, and whether it has done so already.
fn begin(
    context: &Context,
    acceptor: &Acceptor,
    (client, to): (SocketAddr, SocketAddr),
    endpoint: EndpointId,
    id: ConnectionId,
) -> io::Result<(Leg, bool)> {
    let address = context.shared.routes.load().endpoint(endpoint).map(|e| e.target.address(to.port()));
    let Some(address) = address else { return Err(io::Error::from_raw_os_error(libc::ENXIO)) };
    let fell_back = |error: &io::Error| client_ip::fell_back(context, &acceptor.counters, client, address, error);
    let mut socket = open(acceptor, address)?;
    let own = acceptor.settings.client_ip == ClientIp::Transparent
        && client_ip::bind_as(&socket, client).inspect_err(fell_back).is_ok();
    let connected = match connect(&socket, address) {
        // The client's own address and port have a connection to this endpoint already.
        Err(error) if own && error.kind() == io::ErrorKind::AddrNotAvailable => {
            fell_back(&error);
            socket = open(acceptor, address)?;
            connect(&socket, address)
        }
        connected => connected,
    }?;
    let leg = Leg::dialled(socket, acceptor.settings.endpoint_socket.nodelay);
    leg.watch(&context.poll, Source::Endpoint(id)).map_err(io::Error::other)?;
    Ok((leg, connected))
}

fn open(acceptor: &Acceptor, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    let settings = &acceptor.settings;
    if let Some(mss) = settings.mss {
        socket.set_tcp_mss(mss.into())?;
    }
    // Not the endpoint's fault, whatever the kernel has against it now.
    options::set(&socket, &settings.endpoint_socket).map_err(io::Error::other)?;
    Ok(socket)
}

/// Whether it is connected already; if not, it will be told.
fn connect(socket: &Socket, address: SocketAddr) -> io::Result<bool> {
    match socket.connect(&address.into()) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(false),
        Err(error) => Err(error),
    }
}
