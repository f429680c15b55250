//! Options of the two sockets of a connection.

use std::{io, time::Duration};

use socket2::{Domain, Socket, TcpKeepalive, Type};

use crate::settings::{LegOptions, TcpSettings};

/// Sets what `options` ask for, but for `nodelay`.
pub(crate) fn set(socket: &Socket, options: &LegOptions) -> io::Result<()> {
    if let Some(keepalive) = options.keepalive {
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(keepalive).with_interval(keepalive))?;
    }
    if let Some(timeout) = options.user_timeout {
        socket.set_tcp_user_timeout(Some(timeout.max(Duration::from_millis(1))))?;
    }
    if let Some(congestion) = &options.congestion {
        socket.set_tcp_congestion(congestion.as_bytes())?;
    }
    Ok(())
}

/// Prepares a socket that will listen: its connections inherit all of it, so that none costs a system call. What the sockets towards
/// endpoints are to have is tried too, on one that is thrown away: better no start than no connections.
pub(crate) fn prepare(socket: &Socket, settings: &TcpSettings) -> io::Result<()> {
    set(&Socket::new(Domain::IPV4, Type::STREAM, None)?, &settings.endpoint_socket)?;
    // Before it listens: the answer to the first SYN says it.
    if let Some(mss) = settings.mss {
        socket.set_tcp_mss(mss.into())?;
    }
    socket.set_tcp_nodelay(settings.client_socket.nodelay)?;
    set(socket, &settings.client_socket)
}
