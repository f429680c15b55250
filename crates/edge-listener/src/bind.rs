//! Sockets on the static IPs: one per address, port, protocol and worker.
//!
//! Sockets are bound to the static IP itself, never to a wildcard, so every reply leaves from the address that the client used.
//! `IP_FREEBIND` lets the process start before the address is on the host; readiness is what waits for it.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
};

use endpoint_group::{Name, Protocol};
use socket2::{Domain, Socket, Type};

use crate::{
    settings::{EdgeSettings, ListenerSettings},
    tcp, udp,
};

/// Connections that may wait for `accept`; the kernel caps it at `net.core.somaxconn`.
pub(crate) const ACCEPT_QUEUE: i32 = 4096;
/// Receive and send buffer asked for on UDP sockets, in bytes; the kernel caps it at `net.core.rmem_max` / `wmem_max`.
const UDP_BUFFER: usize = 4 << 20;

/// A socket could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot bind {protocol} {address} for listener {listener}: {source}; {}", cure(source))]
pub struct BindError {
    /// For whom.
    pub listener: Name,
    /// Which protocol.
    pub protocol: Protocol,
    /// Where.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

fn cure(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => "another process has the address: see `ss -lntup`",
        Some(libc::EACCES) => "ports below 1024 need CAP_NET_BIND_SERVICE",
        Some(libc::EMFILE | libc::ENFILE) => "raise the descriptor limit (LimitNOFILE=) or serve fewer ports",
        Some(libc::EADDRNOTAVAIL) => "give the host this address: `ip addr add ADDRESS dev lo`",
        Some(libc::ENOENT) => "congestion control: load its module, or write another name",
        _ => "check the address and the process's privileges",
    }
}

/// One worker's socket.
#[derive(Debug)]
pub(crate) struct Bound<S> {
    /// The listener's place in the configuration.
    pub listener: usize,
    /// The static IP and port.
    pub address: SocketAddr,
    pub socket: S,
}

/// Everything one worker listens on.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    pub tcp: Vec<Bound<TcpListener>>,
    pub udp: Vec<Bound<UdpSocket>>,
}

/// Binds every worker's sockets before any of them reads, because a flow's packets are spread over the sockets that are bound when they
/// arrive: a flow that began on one socket must not be hashed to another by a bind that comes later.
///
/// `SO_REUSEPORT` would let a second process of this user take a share of the traffic without a word, so each address is first bound
/// without it, for a moment.
pub(crate) fn bind_all(settings: &EdgeSettings) -> Result<Vec<Sockets>, BindError> {
    drop(bind_worker(settings, Sharing::Alone)?);
    (0..settings.workers.get()).map(|_| bind_worker(settings, Sharing::WithWorkers)).collect()
}

/// Who else may have the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    WithWorkers,
}

fn bind_worker(settings: &EdgeSettings, sharing: Sharing) -> Result<Sockets, BindError> {
    let mut sockets = Sockets::default();
    for (index, listener) in settings.listeners.iter().enumerate() {
        for (port, &ip) in listener.all_ports().flat_map(|port| settings.static_ips.iter().map(move |ip| (port, ip))) {
            let address = SocketAddr::new(ip, port);
            for protocol in listener.protocols() {
                let failed = |source| BindError { listener: listener.name.clone(), protocol, address, source };
                let socket = bind(listener, protocol, address, sharing).map_err(failed)?;
                match protocol {
                    Protocol::Tcp => sockets.tcp.push(Bound { listener: index, address, socket: socket.into() }),
                    Protocol::Udp => sockets.udp.push(Bound { listener: index, address, socket: socket.into() }),
                }
            }
        }
    }
    Ok(sockets)
}

fn bind(listener: &ListenerSettings, protocol: Protocol, address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    socket.set_reuse_port(sharing == Sharing::WithWorkers)?;
    match protocol {
        Protocol::Tcp => {
            // An edge that restarts finds its old connections in TIME_WAIT.
            socket.set_reuse_address(true)?;
            if let Some(settings) = &listener.tcp {
                tcp::prepare(&socket, settings)?;
            }
            socket.bind(&address.into())?;
            if sharing == Sharing::WithWorkers {
                socket.listen(ACCEPT_QUEUE)?;
            }
        }
        Protocol::Udp => {
            socket.set_recv_buffer_size(UDP_BUFFER)?;
            socket.set_send_buffer_size(UDP_BUFFER)?;
            udp::prepare(&socket, address.is_ipv6())?;
            socket.bind(&address.into())?;
        }
    }
    Ok(socket)
}

/// Whether `ip` is an address of this host, so that packets to it are delivered here.
pub fn is_local(ip: IpAddr) -> bool {
    match UdpSocket::bind((ip, 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
    }
}
