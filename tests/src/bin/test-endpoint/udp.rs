//! UDP: one socket and one thread answer everybody.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

/// The most that one datagram can carry over IPv4.
const LARGEST: usize = 65_507;
/// Room for a burst from thousands of flows. The kernel grants what its limit allows.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Binds a socket with a large receive buffer.
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if force_receive_buffer(&socket).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Passes over the system's limit for receive buffers, which needs privilege.
fn force_receive_buffer(socket: &Socket) -> io::Result<()> {
    let size = libc::c_int::try_from(RECEIVE_BUFFER).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of_val(&size)).map_err(io::Error::other)?;
    // SAFETY: the option takes an int, which `size` is and outlives the call.
    let set = unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(socket),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const size).cast(),
            length,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Answers for ever: `pong` to `ping`, to all else the identity and the datagram itself.
pub(crate) fn answer(socket: &UdpSocket, identity: &[u8]) {
    let mut buffer = vec![0; identity.len() + LARGEST + 1];
    buffer[..identity.len()].copy_from_slice(identity);
    loop {
        // Errors belong to single datagrams (a client's closed port, a full buffer): the next one may well pass.
        let Ok((length, client)) = socket.recv_from(&mut buffer[identity.len()..]) else { continue };
        let received = &buffer[identity.len()..identity.len() + length];
        let reply = if received == b"ping" { b"pong" } else { &buffer[..(identity.len() + length).min(LARGEST)] };
        let _ = socket.send_to(reply, client);
    }
}
