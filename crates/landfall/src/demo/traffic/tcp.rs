//! TCP clients: connections that are opened to be answered once, and connections that stay.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{CONNECTION_EVERY, Clients, endpoint};
use crate::demo::{scene::Ports, tally::Outcome};

/// What every connection sends: 64 bytes, a line.
const LINE: [u8; 64] = {
    let mut line = [b'.'; 64];
    line[63] = b'\n';
    line
};
/// A connection that is not answered in this time has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// From ping to ping on a held connection, in milliseconds.
const PING: std::ops::RangeInclusive<u64> = 200..=400;
/// Before a held connection that failed is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// Opens one after the other, in turn to each static IP, however long each takes.
pub(super) async fn connect_again_and_again(ports: Ports, mut clients: Clients) {
    let mut ticks = interval(CONNECTION_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open = JoinSet::new();
    for turn in 0.. {
        ticks.tick().await;
        clients.run().await;
        let clients = clients.clone();
        open.spawn(async move { drop(once(ports.chat(turn), &clients).await) });
        while open.try_join_next().is_some() {}
    }
}

/// Opens a connection and has it answered; the connection, and who answered.
async fn once(target: SocketAddr, clients: &Clients) -> Option<(TcpStream, usize)> {
    let opened = clients.clock.now();
    clients.tally().opens();
    let answered = timeout(PATIENCE, async {
        let mut stream = TcpStream::connect(target).await.map_err(|error| match error.kind() {
            // Accepted, and reset before this client even looked.
            io::ErrorKind::ConnectionReset => Outcome::Cut(format!("reset by {target}: {error}")),
            _ => Outcome::Failed(format!("cannot connect to {target}: {error}")),
        })?;
        let endpoint = ask(&mut stream).await.map_err(|error| Outcome::Cut(format!("no answer from {target}: {error}")))?;
        Ok((stream, endpoint))
    });
    let answered = answered.await.unwrap_or_else(|_| Err(Outcome::Failed(format!("no answer from {target} in {PATIENCE:?}"))));
    let (outcome, answered) = match answered {
        Ok((stream, endpoint)) => (Outcome::Answered(endpoint), Some((stream, endpoint))),
        Err(outcome) => (outcome, None),
    };
    clients.tally().ended(opened, outcome, clients.clock.now());
    answered
}

/// Sends a line and reads its answer; who answered.
async fn ask(stream: &mut TcpStream) -> io::Result<usize> {
    stream.set_nodelay(true)?;
    stream.write_all(&LINE).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    match answer.strip_suffix(&LINE).and_then(|name| name.strip_suffix(b" ")) {
        Some(name) => endpoint(name),
        None => Err(io::Error::other(format!("the answer was {:?}", String::from_utf8_lossy(&answer)))),
    }
}

/// Keeps one connection open, and opens it again whenever it ends.
pub(super) async fn hold(index: usize, target: SocketAddr, mut clients: Clients) {
    loop {
        clients.run().await;
        let Some((stream, endpoint)) = once(target, &clients).await else {
            sleep(AGAIN).await;
            continue;
        };
        clients.tally().held(index, endpoint);
        until_told(stream, &clients).await;
        clients.tally().told(index, clients.clock.now());
    }
}

/// Pings now and then, until the connection is closed or reset from the other side.
async fn until_told(mut stream: TcpStream, clients: &Clients) {
    let mut buffer = [0; 1024];
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => {
                if !matches!(read, Ok(1..)) {
                    return;
                }
            }
            () = sleep(Duration::from_millis(fastrand::u64(PING))) => {
                // Err: reading tells the same.
                if clients.is_running() {
                    let _ = stream.write_all(&LINE).await;
                }
            }
        }
    }
}
