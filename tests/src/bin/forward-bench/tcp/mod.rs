//! TCP: a server that echoes, sends or swallows, and the clients of each work.

mod bulk;
mod connect;
mod ping_pong;
mod server;

use std::io;
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use landfall_tests::{Failure, Result};

use crate::gauge::Gauge;
use server::Manner;

pub use ping_pong::hold;
pub use server::echo;

/// How often both ends look whether they are to stop, and what is overdue.
const LOOK: Duration = Duration::from_millis(20);
/// How long a connection may take to open or to say something while a work is set up.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a short message holds.
const MESSAGE: usize = 64;

/// Which way the bytes of a bulk transfer go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From client to server.
    Up,
    /// From server to client.
    Down,
}

/// A load of TCP.
#[derive(Debug, Clone, Copy)]
pub enum Tcp {
    /// As many bytes as pass, over this many connections at once.
    Bulk(usize, Direction),
    /// Connect, send 64 bytes, read them back, close; this many at once, again and again.
    Connect(usize),
    /// 64 bytes there and back over this many connections that stay, all at once.
    PingPong(usize),
}

/// The clients of `load`, until the gauge says stop.
///
/// # Errors
/// When a connection that is to stay breaks, or none can be opened.
pub fn generate(load: Tcp, target: SocketAddrV4, gauge: &Gauge) -> Result<()> {
    match load {
        Tcp::Bulk(connections, direction) => bulk::generate(connections, direction, target, gauge),
        Tcp::Connect(concurrent) => connect::generate(concurrent, target, gauge),
        Tcp::PingPong(connections) => ping_pong::generate(connections, target, gauge),
    }
}

/// The server of `load`, until the gauge says stop.
///
/// # Errors
/// When it cannot accept.
pub fn serve(load: Tcp, listener: &TcpListener, gauge: &Gauge) -> Result<()> {
    let manner = match load {
        Tcp::Bulk(_, Direction::Up) => Manner::Sink,
        Tcp::Bulk(_, Direction::Down) => Manner::Source,
        Tcp::Connect(_) | Tcp::PingPong(_) => Manner::Echo,
    };
    server::serve(manner, listener, gauge)
}

/// A connection that does not block, opened with patience.
fn open(target: SocketAddrV4) -> Result<TcpStream> {
    let opened = TcpStream::connect_timeout(&target.into(), PATIENCE).and_then(|stream| {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    });
    opened.map_err(|error| broken(target, &error))
}

/// The failure of a connection that was to stay.
fn broken(target: SocketAddrV4, cause: &io::Error) -> Failure {
    Failure::new("hold a connection to", target, cause, "see whether the subject still runs, and its descriptor limit")
}

fn end_of_stream() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it was closed")
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
