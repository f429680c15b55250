//! Sockets of probes: where they come from, and how their end is noticed.

use std::{
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
};

use socket2::SockRef;
use tokio::{
    io::Interest,
    net::{TcpSocket, TcpStream, UdpSocket},
};

use super::{ANSWER_LIMIT, BadReason, Failure};

/// What closing a TCP connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// FIN, and a minute of TIME_WAIT for whoever closes first.
    InOrder,
    /// RST.
    Reset,
}

/// A TCP connection from `source` to `target`.
pub(super) async fn connect_tcp(target: SocketAddr, source: Option<IpAddr>, close: Close) -> Result<TcpStream, Failure> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if close == Close::Reset {
        socket.set_zero_linger()?;
    }
    if let Some(source) = source {
        choose_port_at_connect(&socket)?;
        socket.bind((source, 0).into())?;
    }
    let stream = socket.connect(target).await?;
    // With nothing listening on a local port, the kernel may pick that very port for the probe and connect it to itself.
    if stream.local_addr()? == target {
        return Err(Failure::Reason(BadReason::Refused));
    }
    Ok(stream)
}

/// Has the kernel choose the port once the peer is known: chosen at bind, every probe would take one of some 28,000 ports from
/// all others, for the minute of TIME_WAIT as well.
fn choose_port_at_connect(socket: &TcpSocket) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while `socket` lives, and the option's value is one c_int of the length given.
    let set = unsafe {
        let (level, name) = (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT);
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const on).cast(), length)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A UDP socket from `source` that hears `target` alone, ICMP included.
///
/// New for each probe, so that a late answer cannot pass for the next probe's.
pub(super) async fn connect_udp(target: SocketAddr, source: Option<IpAddr>) -> io::Result<UdpSocket> {
    let any = if target.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { IpAddr::from(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((source.unwrap_or(any), 0)).await?;
    socket.connect(target).await?;
    Ok(socket)
}

/// The next datagram, or the error that ICMP made of the last one sent.
pub(super) async fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    // `UdpSocket::recv` waits for readability alone, and Linux does not call a socket readable that has only an error to give.
    let interest = Interest::READABLE | Interest::ERROR;
    let socket_ref = SockRef::from(socket);
    let datagram = socket.async_io(interest, || {
        // Only now: most of a probe's life is waiting, and thousands may be waiting.
        let mut buffer = vec![0; ANSWER_LIMIT];
        let length = (&*socket_ref).read(&mut buffer)?;
        buffer.truncate(length);
        Ok(buffer)
    });
    datagram.await
}
