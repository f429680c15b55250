//! The TCP probe: connect, then follow a script until an answer decides.

use std::net::{IpAddr, SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    ANSWER_LIMIT, BadReason, Failure,
    socket::{Close, connect_tcp},
};
use crate::script::{Dialogue, Script, Step};

/// Room for most answers in one piece.
const READ_SIZE: usize = 2048;

/// Connects and follows the script; sets `heard` once any answer came.
///
/// A bare connect is reset at its end: thousands of probes a second would otherwise leave a minute of TIME_WAIT each, and
/// ports to one endpoint could run out. After an exchange the connection is closed in order, because the service has been
/// talking on it: a reset there would be an error in its log, and could overtake bytes that it has not read yet.
pub(super) async fn ask(target: SocketAddr, source: Option<IpAddr>, script: &Script, heard: &mut bool) -> Result<(), Failure> {
    let close = if script.opening.is_empty() && script.answers.is_empty() { Close::Reset } else { Close::InOrder };
    let mut stream = connect_tcp(target, source, close).await?;
    let mut dialogue = Dialogue::new(script, script.nonce.draw()?, stream.local_addr()?, target);
    stream.write_all(&dialogue.opening()).await?;
    if !dialogue.awaits() {
        return Ok(());
    }
    let mut answer = Vec::new();
    while answer.len() < ANSWER_LIMIT {
        stream.readable().await?;
        // Only now: most of a probe's life is waiting, and thousands may be waiting.
        answer.reserve(READ_SIZE);
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(Failure::Reason(if *heard { BadReason::Unexpected } else { BadReason::Closed }));
        }
        *heard = true;
        match dialogue.hear(&answer) {
            Step::Wait => {}
            Step::Send(message) => {
                stream.write_all(&message).await?;
                answer.clear();
            }
            Step::Good(parting) => {
                // A peer that does not stay for the goodbye has answered nonetheless.
                let _ = stream.write_all(&parting).await;
                discard(&stream);
                return Ok(());
            }
            Step::Bad => {
                discard(&stream);
                break;
            }
        }
    }
    Err(Failure::Reason(BadReason::Unexpected))
}

/// Reads what has come and is of no interest: closed with bytes unread, a connection is reset.
fn discard(stream: &TcpStream) {
    let mut scratch = [0; READ_SIZE];
    let mut left = ANSWER_LIMIT / READ_SIZE;
    while left > 0 && matches!(stream.try_read(&mut scratch), Ok(1..)) {
        left -= 1;
    }
}
