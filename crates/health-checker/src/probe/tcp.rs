//! The TCP probe: connect; optionally send, and read until the expected bytes turn up.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use super::{ANSWER_LIMIT, BadReason, Failure, contains};
use crate::Exchange;

/// Connects and holds the exchange; sets `heard` once any answer came.
///
/// A bare connect is reset at its end: thousands of probes a second would otherwise leave a minute of TIME_WAIT each, and
/// ports to one endpoint could run out. After an exchange the connection is closed in order, because the service has been
/// talking on it: a reset there would be an error in its log, and could overtake bytes that it has not read yet.
pub(super) async fn ask(target: SocketAddr, exchange: &Exchange, heard: &mut bool) -> Result<(), Failure> {
    let Exchange { send, expect } = exchange;
    let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if send.is_empty() && expect.is_empty() {
        socket.set_zero_linger()?;
    }
    let mut stream = socket.connect(target).await?;
    // With nothing listening on a local port, the kernel may pick that very port for the probe and connect it to itself.
    if stream.local_addr()? == target {
        return Err(Failure::Reason(BadReason::Refused));
    }
    stream.write_all(send).await?;
    if expect.is_empty() {
        return Ok(());
    }
    let mut answer = Vec::new();
    while answer.len() < ANSWER_LIMIT {
        // Only what is new, and a match that began before it, need searching.
        let searched = answer.len().saturating_sub(expect.len() - 1);
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(Failure::Reason(if *heard { BadReason::Unexpected } else { BadReason::Closed }));
        }
        *heard = true;
        if contains(&answer[searched..], expect) {
            return Ok(());
        }
    }
    Err(Failure::Reason(BadReason::Unexpected))
}
