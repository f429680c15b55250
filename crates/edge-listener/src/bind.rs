//! Sockets on the static IPs: one per address, port, protocol and worker; where a dispatcher serves a listener, one for all its ports.
//!
//! Sockets are bound to the static IP itself, never to a wildcard, so every reply leaves from the address that the client used.
//! `IP_FREEBIND` lets the process start before the address is on the host; readiness is what waits for it.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::fd::AsFd,
};

use endpoint_group::{Name, Protocol};
use socket2::{Domain, Socket, Type};

use crate::{
    dispatch::Dispatcher,
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
    /// Whether what comes for the listener's other ports comes here too.
    pub many: bool,
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
/// `SO_REUSEPORT` would let a second process of this user take a share of the traffic without a word, and a dispatcher takes all of it
/// from whoever has the port, so each address is first bound alone, for a moment.
pub(crate) fn bind_all(settings: &EdgeSettings, dispatcher: Option<&mut dyn Dispatcher>) -> Result<Vec<Sockets>, BindError> {
    let many: Vec<bool> = match &dispatcher {
        Some(dispatcher) => (0..settings.listeners.len()).map(|listener| dispatcher.serves(listener)).collect(),
        None => vec![false; settings.listeners.len()],
    };
    for (listener, port) in settings.listeners.iter().flat_map(|listener| listener.all_ports().map(move |port| (listener, port)))
    {
        each(settings, listener, port, |protocol, address| bind(listener, protocol, address, Sharing::Alone).map(drop))?;
    }
    let workers: Vec<_> = (0..settings.workers.get()).map(|_| bind_worker(settings, &many)).collect::<Result<_, _>>()?;
    if let (Some(dispatcher), Some(sockets)) = (dispatcher, workers.first()) {
        hand_over(settings, sockets, dispatcher)?;
    }
    Ok(workers)
}

/// Who else may have the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    WithWorkers,
}

/// Does something for a port at every static IP and for every protocol of `listener`.
fn each(
    settings: &EdgeSettings,
    listener: &ListenerSettings,
    port: u16,
    mut what: impl FnMut(Protocol, SocketAddr) -> io::Result<()>,
) -> Result<(), BindError> {
    for address in settings.static_ips.iter().map(|&ip| SocketAddr::new(ip, port)) {
        for protocol in listener.protocols() {
            let failed = |source| BindError { listener: listener.name.clone(), protocol, address, source };
            what(protocol, address).map_err(failed)?;
        }
    }
    Ok(())
}

/// `many` says of each listener whether its first port stands for all.
fn bind_worker(settings: &EdgeSettings, many: &[bool]) -> Result<Sockets, BindError> {
    let mut sockets = Sockets::default();
    for ((index, listener), &many) in settings.listeners.iter().enumerate().zip(many) {
        for port in listener.all_ports().take(if many { 1 } else { usize::MAX }) {
            each(settings, listener, port, |protocol, address| {
                let socket = bind(listener, protocol, address, Sharing::WithWorkers)?;
                match protocol {
                    Protocol::Tcp => sockets.tcp.push(Bound { listener: index, address, many, socket: socket.into() }),
                    Protocol::Udp => {
                        if many {
                            udp::prepare_for_many(&socket, address.is_ipv6(), UDP_BUFFER)?;
                        }
                        sockets.udp.push(Bound { listener: index, address, many, socket: socket.into() });
                    }
                }
                Ok(())
            })?;
        }
    }
    Ok(sockets)
}

/// Gives the dispatcher one socket of each address: the kernel chooses among all that share it.
fn hand_over(settings: &EdgeSettings, sockets: &Sockets, dispatcher: &mut dyn Dispatcher) -> Result<(), BindError> {
    let tcp = sockets.tcp.iter().map(|bound| (Protocol::Tcp, bound.listener, bound.address, bound.many, bound.socket.as_fd()));
    let udp = sockets.udp.iter().map(|bound| (Protocol::Udp, bound.listener, bound.address, bound.many, bound.socket.as_fd()));
    for (protocol, listener, address, _, socket) in tcp.chain(udp).filter(|&(.., many, _)| many) {
        dispatcher.hand_over(listener, protocol, address.ip(), socket).map_err(|source| BindError {
            listener: settings.listeners[listener].name.clone(),
            protocol,
            address,
            source,
        })?;
    }
    Ok(())
}

/// A socket that only sends from `address`, where a dispatcher takes what comes.
pub(crate) fn bind_outlet(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = free(address, Type::DGRAM)?;
    socket.set_reuse_port(true)?;
    // Nothing is to wait here; the kernel makes it its smallest.
    socket.set_recv_buffer_size(1)?;
    socket.set_send_buffer_size(UDP_BUFFER)?;
    udp::prepare(&socket, address.is_ipv6())?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A socket of the family of `address`, which need not be on the host yet.
fn free(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    Ok(socket)
}

fn bind(listener: &ListenerSettings, protocol: Protocol, address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = free(address, kind)?;
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

#[cfg(test)]
mod tests {
    use std::{
        num::{NonZeroU32, NonZeroUsize},
        os::fd::{AsRawFd, BorrowedFd},
        time::Duration,
    };

    use endpoint_group::Affinity;

    use super::*;
    use crate::{
        access::Access,
        client_ip::ClientIp,
        settings::{Limits, OnUnhealthy, UdpSettings},
    };

    /// Serves the second listener, and notes what it is given.
    #[derive(Default)]
    struct Noting(Vec<(usize, Protocol, IpAddr, i32)>);

    impl Dispatcher for Noting {
        fn serves(&self, listener: usize) -> bool {
            listener == 1
        }

        fn hand_over(&mut self, listener: usize, protocol: Protocol, ip: IpAddr, socket: BorrowedFd<'_>) -> io::Result<()> {
            self.0.push((listener, protocol, ip, socket.as_raw_fd()));
            Ok(())
        }
    }

    fn listener(name: &str, ports: std::ops::RangeInclusive<u16>) -> ListenerSettings {
        ListenerSettings {
            name: Name::new(name).unwrap(),
            ports: vec![ports],
            affinity: Affinity::None,
            tcp: None,
            udp: Some(UdpSettings {
                idle_timeout: Duration::from_secs(1),
                unanswered_timeout: Duration::from_secs(1),
                carry_dscp: false,
                on_unhealthy: OnUnhealthy::Leave,
                client_ip: ClientIp::None,
            }),
            access: Access::default(),
            limits: Limits { max_flows: 1, max_flows_per_client: None, new_flows_per_client_per_second: NonZeroU32::new(1) },
        }
    }

    fn settings() -> EdgeSettings {
        EdgeSettings {
            static_ips: ["127.0.77.1", "127.0.77.2"].map(|ip| ip.parse().unwrap()).to_vec(),
            hash_seed: 7,
            workers: NonZeroUsize::new(2).unwrap(),
            pin: false,
            listeners: vec![listener("each", 17_001..=17_003), listener("all", 17_100..=17_299)],
        }
    }

    #[test]
    fn a_dispatcher_is_given_one_socket_of_an_address_and_the_rest_is_bound() {
        let (settings, mut noting) = (settings(), Noting::default());
        let workers = bind_all(&settings, Some(&mut noting)).unwrap();
        for sockets in &workers {
            let ports: Vec<_> = sockets.udp.iter().map(|bound| (bound.address.port(), bound.many)).collect();
            let each = (17_001..=17_003).flat_map(|port| [(port, false); 2]);
            assert_eq!(ports, each.chain([(17_100, true); 2]).collect::<Vec<_>>());
        }
        let first = workers[0].udp.iter().filter(|bound| bound.many);
        let given: Vec<_> = first.map(|bound| (1, Protocol::Udp, bound.address.ip(), bound.socket.as_raw_fd())).collect();
        assert_eq!(noting.0, given);
        drop(workers);
        // A port in the middle of those that the dispatcher would take away from whoever has it.
        let taken = UdpSocket::bind("127.0.77.2:17200").unwrap();
        let error = bind_all(&settings, Some(&mut noting)).unwrap_err();
        assert_eq!((error.address, error.source.raw_os_error()), (taken.local_addr().unwrap(), Some(libc::EADDRINUSE)));
    }
}
