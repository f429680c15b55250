//! A UDP flow of one datagram every 10 ms, each with its number.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior, timeout_at};

use super::{Datagram, Flow, LIMIT, PAYLOAD_BYTES, SPACING};
use crate::clients::parse_echo;
use crate::wait;

/// A socket for a flow to `target`. Not connected: a connected one would hide an answer from a wrong address.
pub(super) fn open(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if target.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Sends until told to stop, then waits for the answers that are still on their way.
pub(super) async fn converse(target: SocketAddr, socket: UdpSocket, stop: Arc<AtomicBool>) -> io::Result<Flow> {
    let mut flow = Flow { target, datagrams: Vec::new(), strangers: Vec::new() };
    let mut beat = tokio::time::interval(SPACING);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut buffer = [0; 512];
    while !stop.load(Ordering::Relaxed) {
        tokio::select! {
            _ = beat.tick() => send(&socket, &mut flow).await?,
            received = socket.recv_from(&mut buffer) => note(&mut flow, &buffer, received?),
        }
    }
    let deadline = Instant::now() + LIMIT / 6;
    while flow.datagrams.iter().any(|datagram| datagram.answer.is_none()) {
        let Ok(received) = timeout_at(deadline, socket.recv_from(&mut buffer)).await else { break };
        note(&mut flow, &buffer, received?);
    }
    Ok(flow)
}

async fn send(socket: &UdpSocket, flow: &mut Flow) -> io::Result<()> {
    let mut payload = [0; PAYLOAD_BYTES];
    payload[..8].copy_from_slice(&(flow.datagrams.len() as u64).to_be_bytes());
    flow.datagrams.push(Datagram { sent: wait::now(), answer: None });
    match socket.send_to(&payload, flow.target).await {
        // Told by ICMP about an earlier one: this one is lost too, and that is noted by its missing answer.
        Err(error) if matches!(error.kind(), ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => Ok(()),
        sent => sent.map(drop),
    }
}

fn note(flow: &mut Flow, buffer: &[u8], (length, from): (usize, SocketAddr)) {
    if from != flow.target {
        flow.strangers.push(from);
        return;
    }
    let echo = parse_echo(&buffer[..length]);
    let datagram = echo.and_then(|echo| {
        let at = usize::try_from(echo.number).ok()?;
        Some((flow.datagrams.get_mut(at)?, echo.endpoint))
    });
    match datagram {
        Some((datagram, endpoint)) => datagram.answer = datagram.answer.take().or(Some((endpoint, datagram.sent.elapsed()))),
        None => flow.strangers.push(from),
    }
}
