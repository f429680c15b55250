//! The server of TCP: one thread for all connections.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use landfall_tests::{Failure, Result};

use super::{LOOK, would_block};
use crate::epoll::{self, Epoll, Interest};
use crate::gauge::Gauge;
use crate::pattern::{CHUNK, Pattern};

/// What the server does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Sends back what it reads; messages are short.
    Echo,
    /// Reads all there is, counts it, and checks it.
    Sink,
    /// Sends without end, once something was read: a server that speaks first would have some proxies wait for the client.
    Source,
}

struct Connection {
    stream: TcpStream,
    position: usize,
    /// Whether a [`Manner::Source`] has read what it waits for.
    asked: bool,
}

/// Echoes until the gauge says stop.
///
/// # Errors
/// When it cannot accept.
pub fn echo(listener: &TcpListener, gauge: &Gauge) -> Result<()> {
    serve(Manner::Echo, listener, gauge)
}

/// Serves until the gauge says stop. Connections of earlier works that are still in the queue are met by their end.
///
/// # Errors
/// When it cannot accept.
pub fn serve(manner: Manner, listener: &TcpListener, gauge: &Gauge) -> Result<()> {
    let cannot = |error| Failure::new("serve", "TCP", error, "raise the hard limit of descriptors (ulimit -Hn)");
    let epoll = Epoll::new().and_then(|epoll| {
        epoll.add(listener, Interest::Read, key(listener))?;
        Ok(epoll)
    });
    let mut epoll = epoll.map_err(cannot)?;
    let pattern = Pattern::new();
    let mut buffer = vec![0; CHUNK];
    // By descriptor, which the kernel keeps small.
    let mut connections: Vec<Option<Connection>> = Vec::new();
    while gauge.runs() {
        for index in 0..epoll.wait(LOOK).map_err(cannot)? {
            let key = epoll.event(index).key;
            if key == self::key(listener) {
                while let Some(stream) = epoll::accept(listener).map_err(cannot)? {
                    let key = self::key(&stream);
                    epoll.add(&stream, Interest::Read, key).map_err(cannot)?;
                    connections.resize_with(connections.len().max(key + 1), || None);
                    connections[key] = Some(Connection { stream, position: 0, asked: false });
                }
                continue;
            }
            let Some(slot) = connections.get_mut(key) else { continue };
            let Some(connection) = slot else { continue };
            let served = match manner {
                Manner::Echo => connection.echo(&mut buffer),
                Manner::Sink => connection.swallow(&mut buffer, &pattern, gauge),
                Manner::Source => connection.send(&mut buffer, &pattern, &epoll),
            };
            // Err: the client has ended it, or broken it off; what it misses it counts itself.
            if !matches!(served, Ok(true)) {
                *slot = None;
            }
        }
    }
    Ok(())
}

/// Every step returns whether the connection goes on.
impl Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.stream.read(buffer) {
            Ok(read) => Ok(Some(read)),
            Err(error) if would_block(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn echo(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        match self.read(buffer)? {
            Some(0) => Ok(false),
            Some(read) => self.stream.write_all(&buffer[..read]).map(|()| true),
            None => Ok(true),
        }
    }

    fn swallow(&mut self, buffer: &mut [u8], pattern: &Pattern, gauge: &Gauge) -> io::Result<bool> {
        let Some(read) = self.read(buffer)? else { return Ok(true) };
        count_bytes(gauge, pattern, self.position, &buffer[..read]);
        self.position += read;
        Ok(read > 0)
    }

    fn send(&mut self, buffer: &mut [u8], pattern: &Pattern, epoll: &Epoll) -> io::Result<bool> {
        if !self.asked {
            let Some(read) = self.read(buffer)? else { return Ok(true) };
            self.asked = true;
            epoll.change(&self.stream, Interest::Write, key(&self.stream))?;
            if read == 0 {
                return Ok(false);
            }
        }
        match self.stream.write(pattern.at(self.position)) {
            Ok(written) => self.position += written,
            Err(error) if would_block(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

/// Counts `bytes`, which were read at `position`, and whether they are right.
pub fn count_bytes(gauge: &Gauge, pattern: &Pattern, position: usize, bytes: &[u8]) {
    Gauge::count(&gauge.done, u64::try_from(bytes.len()).unwrap_or_default());
    if !pattern.agrees(position, bytes) {
        Gauge::count(&gauge.wrong, 1);
    }
}

fn key(socket: &impl AsRawFd) -> usize {
    usize::try_from(socket.as_raw_fd()).unwrap_or_default()
}
