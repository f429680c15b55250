//! Connections that stay: each sends 64 bytes, waits for them to come back, and sends the next.

use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Instant;

use landfall_tests::{Result, wait};

use super::{LOOK, MESSAGE, PATIENCE, broken, end_of_stream, open, would_block};
use crate::epoll::{Epoll, Interest};
use crate::gauge::{Gauge, Latencies};

struct Talk {
    stream: TcpStream,
    message: [u8; MESSAGE],
    turn: u64,
    read: usize,
    sent: Instant,
}

/// Talks over all connections at once until the gauge says stop.
pub fn generate(connections: usize, target: SocketAddrV4, gauge: &Gauge) -> Result<()> {
    let cannot = |error| broken(target, &error);
    let mut epoll = Epoll::new().map_err(cannot)?;
    let mut latencies = Latencies::new(gauge);
    let mut talks = Vec::new();
    for key in 0..connections {
        let stream = open(target)?;
        epoll.add(&stream, Interest::Read, key).map_err(cannot)?;
        talks.push(Talk { stream, message: [0xa5; MESSAGE], turn: fastrand::u64(..), read: 0, sent: wait::now() });
    }
    for talk in &mut talks {
        talk.send().map_err(cannot)?;
    }
    while gauge.runs() {
        for index in 0..epoll.wait(LOOK).map_err(cannot)? {
            let Some(talk) = talks.get_mut(epoll.event(index).key) else { continue };
            let Some(right) = talk.receive().map_err(cannot)? else { continue };
            latencies.note(talk.sent.elapsed());
            Gauge::count(if right { &gauge.done } else { &gauge.wrong }, 1);
            talk.send().map_err(cannot)?;
        }
    }
    Ok(())
}

impl Talk {
    fn send(&mut self) -> io::Result<()> {
        self.turn = self.turn.wrapping_add(1);
        self.message[..8].copy_from_slice(&self.turn.to_le_bytes());
        self.read = 0;
        self.sent = wait::now();
        self.stream.write_all(&self.message)
    }

    /// Whether the answer is right, once it is whole.
    fn receive(&mut self) -> io::Result<Option<bool>> {
        let mut buffer = [0; MESSAGE];
        let read = match self.stream.read(&mut buffer[self.read..]) {
            Ok(0) => return Err(end_of_stream()),
            Ok(read) => read,
            Err(error) if would_block(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let range = self.read..self.read + read;
        self.read += read;
        if buffer[range.clone()] != self.message[range] {
            return Ok(Some(false));
        }
        Ok((self.read == MESSAGE).then_some(true))
    }
}

/// Opens `count` connections one after the other, each of which says something and hears it, and then nothing more.
///
/// # Errors
/// When one cannot be opened or is not answered.
pub fn hold(count: usize, target: SocketAddrV4) -> Result<Vec<TcpStream>> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = open(target)?;
        let mut answer = [0; MESSAGE];
        let exchanged = stream.set_nonblocking(false).and_then(|()| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&[7; MESSAGE])?;
            stream.read_exact(&mut answer)
        });
        exchanged.map_err(|error| broken(target, &error))?;
        held.push(stream);
    }
    Ok(held)
}
