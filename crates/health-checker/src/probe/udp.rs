//! The UDP probe: one datagram out, then wait for the one that answers it.

use std::{
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::SockRef;
use tokio::{io::Interest, net::UdpSocket};

use super::{ANSWER_LIMIT, Failure, contains};
use crate::Exchange;

/// Sends once and waits for a datagram that contains the expected bytes; sets `heard` once any came.
///
/// Ends well or with an I/O error; waits for ever if the answer never comes. The socket is connected, so that ICMP
/// unreachable ends the wait at once, and new for each probe, so that a late answer cannot pass for the next probe's.
pub(super) async fn ask(target: SocketAddr, exchange: &Exchange, heard: &mut bool) -> Result<(), Failure> {
    let any = if target.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { IpAddr::from(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(target).await?;
    socket.send(&exchange.send).await?;
    while !contains(&receive(&socket).await?, &exchange.expect) {
        *heard = true;
    }
    Ok(())
}

/// The next datagram, or the error that ICMP made of the last one sent.
async fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
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
