//! One TCP connection every 10 ms: connect, 64 bytes, the answer, close.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, timeout};

use super::{Attempt, LIMIT, Outcome, PAYLOAD_BYTES, SPACING};
use crate::wait;

/// Connects to each of `targets` in turn until told to stop, and waits for the last connections.
pub(super) async fn connect_until(targets: &[SocketAddr], stop: &AtomicBool) -> Vec<Attempt> {
    let attempts = Rc::new(RefCell::new(Vec::new()));
    let mut running = JoinSet::new();
    let mut beat = tokio::time::interval(SPACING);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for target in targets.iter().cycle().copied() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        beat.tick().await;
        let attempts = Rc::clone(&attempts);
        running.spawn_local(async move {
            let begin = wait::now();
            let outcome = attempt(target).await;
            attempts.borrow_mut().push(Attempt { target, begin, took: begin.elapsed(), outcome });
        });
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
    let mut attempts = attempts.take();
    attempts.sort_by_key(|attempt| attempt.begin);
    attempts
}

async fn attempt(target: SocketAddr) -> Outcome {
    let stream = match timeout(LIMIT, TcpStream::connect(target)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return failed_connect(&error),
        Err(_) => return Outcome::ConnectTimedOut,
    };
    match timeout(LIMIT, exchange(stream)).await {
        Ok(Ok(endpoint)) => Outcome::Answered(endpoint),
        Ok(Err(error)) => broken(&error),
        Err(_) => Outcome::Silent,
    }
}

fn failed_connect(error: &io::Error) -> Outcome {
    match error.kind() {
        ErrorKind::ConnectionRefused => Outcome::Refused,
        ErrorKind::TimedOut => Outcome::ConnectTimedOut,
        // The kernel knows of the RST before connect has said that it is established.
        ErrorKind::ConnectionReset => Outcome::Reset,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Outcome::Unreachable,
        _ => Outcome::Odd(error.to_string()),
    }
}

fn broken(error: &io::Error) -> Outcome {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Outcome::Reset,
        ErrorKind::UnexpectedEof => Outcome::EndedEarly,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Outcome::Unreachable,
        _ => Outcome::Odd(error.to_string()),
    }
}

/// Returns the name of the endpoint.
async fn exchange(stream: TcpStream) -> io::Result<String> {
    stream.set_nodelay(true)?;
    let mut stream = BufStream::new(stream);
    let sent = [0x5a; PAYLOAD_BYTES];
    stream.write_all(&sent).await?;
    stream.flush().await?;
    let mut name = String::new();
    stream.read_line(&mut name).await?;
    let mut answer = [0; PAYLOAD_BYTES];
    stream.read_exact(&mut answer).await?;
    if answer != sent {
        return Err(io::Error::other("other bytes came back"));
    }
    Ok(name.trim_end().to_owned())
}
