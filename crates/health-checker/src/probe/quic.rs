//! The QUIC probe: a whole handshake over a socket of its own, then a CONNECTION_CLOSE.
//!
//! The protocol machine is quinn's; the I/O is here, because quinn's own endpoint listens to no ICMP, and outlives the probe to
//! answer late packets, which nobody needs who ends with a closed socket.

use std::net::{IpAddr, SocketAddr};

use bytes::{Bytes, BytesMut};
use quinn_proto::{Connection, ConnectionError, ConnectionHandle, DatagramEvent, Endpoint, Event, TransportErrorCode, VarInt};
use tokio::{
    net::UdpSocket,
    time::{Instant, sleep_until},
};

use super::{
    BadReason, Failure,
    socket::{connect_udp, receive},
};
use crate::quic::Quic;

/// Completes a handshake; sets `heard` once any datagram came.
pub(super) async fn ask(target: SocketAddr, source: Option<IpAddr>, quic: &Quic, heard: &mut bool) -> Result<(), Failure> {
    let socket = connect_udp(target, source).await?;
    let (client, endpoint) = quic.configs();
    let mut endpoint = Endpoint::new(endpoint, None, false, None);
    let name = quic.tls().server_name(target.ip());
    // None of its errors can be the endpoint's doing.
    let (handle, mut connection) = endpoint.connect(now(), client, target, &name.to_str()).map_err(std::io::Error::other)?;
    loop {
        send(&socket, &mut connection).await?;
        if let Some(ended) = next_event(&mut connection) {
            return match ended {
                Ok(()) => {
                    connection.close(now(), VarInt::from_u32(0), Bytes::new());
                    // It has answered; whether it hears the goodbye is its own affair.
                    let _ = send(&socket, &mut connection).await;
                    Ok(())
                }
                Err(error) => {
                    // Tells the endpoint why, if it is we who end it.
                    let _ = send(&socket, &mut connection).await;
                    Err(Failure::Reason(reason(&error)))
                }
            };
        }
        tokio::select! {
            datagram = receive(&socket) => {
                *heard = true;
                take(&mut endpoint, handle, &mut connection, target, &datagram?);
            }
            () = until(connection.poll_timeout().map(Into::into)) => connection.handle_timeout(now()),
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = endpoint.handle_event(handle, event) {
                connection.handle_event(event);
            }
        }
    }
}

/// Sends everything that is to be sent now.
async fn send(socket: &UdpSocket, connection: &mut Connection) -> std::io::Result<()> {
    let mut datagram = Vec::new();
    while let Some(transmit) = connection.poll_transmit(now(), 1, &mut datagram) {
        socket.send(&datagram[..transmit.size]).await?;
        datagram.clear();
    }
    Ok(())
}

/// How the handshake ended, if it has.
fn next_event(connection: &mut Connection) -> Option<Result<(), ConnectionError>> {
    std::iter::from_fn(|| connection.poll()).find_map(|event| match event {
        Event::Connected => Some(Ok(())),
        Event::ConnectionLost { reason } => Some(Err(reason)),
        _ => None,
    })
}

/// Hands a datagram to the connection, if it belongs to it.
fn take(endpoint: &mut Endpoint, handle: ConnectionHandle, connection: &mut Connection, from: SocketAddr, datagram: &[u8]) {
    let mut response = Vec::new();
    let event = endpoint.handle(now(), from, None, None, BytesMut::from(datagram), &mut response);
    if let Some(DatagramEvent::ConnectionEvent(to, event)) = event
        && to == handle
    {
        connection.handle_event(event);
    }
    // A stateless reset for a connection that is not ours is nobody's concern.
}

fn reason(error: &ConnectionError) -> BadReason {
    let of_code = |code: TransportErrorCode| if is_tls(code) { BadReason::Tls } else { BadReason::Closed };
    match error {
        ConnectionError::VersionMismatch => BadReason::Unexpected,
        ConnectionError::TransportError(error) if is_tls(error.code) => BadReason::Tls,
        ConnectionError::TransportError(_) => BadReason::Unexpected,
        ConnectionError::ConnectionClosed(close) => of_code(close.error_code),
        ConnectionError::TimedOut => BadReason::Timeout,
        _ => BadReason::Closed,
    }
}

/// Whether it carries a TLS alert, RFC 9001 section 4.8.
fn is_tls(code: TransportErrorCode) -> bool {
    (0x100..=0x1ff).contains(&u64::from(code))
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
