//! Short connections in a closed loop: connect, 64 bytes, the answer, close, and the next.

use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use landfall_tests::{Result, wait};
use socket2::{Domain, Protocol, Socket, Type};

use super::{LOOK, MESSAGE, broken, end_of_stream, would_block};
use crate::epoll::{Epoll, Interest};
use crate::gauge::{Gauge, Latencies};
use crate::path::flow_address;

/// When a connection is given up.
const OVERDUE: Duration = Duration::from_secs(2);

/// The clients that take turns.
const SOURCES: u64 = 64;

struct Slot {
    stream: TcpStream,
    began: Instant,
    message: [u8; MESSAGE],
    sent: bool,
    read: usize,
}

enum Step {
    Goes,
    Done,
    Wrong,
}

/// Keeps `concurrent` connections under way until the gauge says stop.
pub fn generate(concurrent: usize, target: SocketAddrV4, gauge: &Gauge) -> Result<()> {
    let cannot = |error| broken(target, &error);
    let mut epoll = Epoll::new().map_err(cannot)?;
    let mut latencies = Latencies::new(gauge);
    let mut serial = fastrand::u64(..);
    let mut start = |epoll: &Epoll, key: usize| {
        serial = serial.wrapping_add(1);
        Slot::start(target, serial, epoll, key)
    };
    let mut slots = Vec::new();
    for key in 0..concurrent {
        slots.push(start(&epoll, key).map_err(cannot)?);
    }
    let mut looked = wait::now();
    while gauge.runs() {
        let count = epoll.wait(LOOK).map_err(cannot)?;
        for index in 0..count {
            let event = epoll.event(index);
            let Some(slot) = slots.get_mut(event.key) else { continue };
            match slot.step(event.readable) {
                Ok(Step::Goes) => continue,
                Ok(Step::Done) => {
                    latencies.note(slot.began.elapsed());
                    Gauge::count(&gauge.done, 1);
                }
                Ok(Step::Wrong) => Gauge::count(&gauge.wrong, 1),
                Err(_) => Gauge::count(&gauge.lost, 1),
            }
            *slot = start(&epoll, event.key).map_err(cannot)?;
        }
        let now = wait::now();
        if now - looked >= LOOK {
            looked = now;
            for (key, slot) in
                slots.iter_mut().enumerate().filter(|(_, slot)| now.saturating_duration_since(slot.began) > OVERDUE)
            {
                Gauge::count(&gauge.lost, 1);
                *slot = start(&epoll, key).map_err(cannot)?;
            }
        }
    }
    Ok(())
}

impl Slot {
    fn start(target: SocketAddrV4, serial: u64, epoll: &Epoll, key: usize) -> io::Result<Self> {
        let began = wait::now();
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        // One address has some 27,000 ports for a target before the kernel begins to search for a free one.
        let source = flow_address(u32::try_from(serial % SOURCES).unwrap_or_default());
        crate::mmsg::choose_port_late(&socket)?;
        socket.bind(&SocketAddrV4::new(source, 0).into())?;
        match socket.connect(&target.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        epoll.add(&socket, Interest::Changes, key)?;
        let mut message = [0x5a; MESSAGE];
        message[..8].copy_from_slice(&serial.to_le_bytes());
        Ok(Self { stream: socket.into(), began, message, sent: false, read: 0 })
    }

    fn step(&mut self, readable: bool) -> io::Result<Step> {
        if !self.sent {
            // A failed connect shows as the failure of this write.
            match self.stream.write(&self.message) {
                Ok(_) => self.sent = true,
                Err(error) if would_block(&error) => {}
                Err(error) => return Err(error),
            }
            return Ok(Step::Goes);
        }
        if !readable {
            return Ok(Step::Goes);
        }
        let mut buffer = [0; MESSAGE];
        let read = match self.stream.read(&mut buffer[self.read..]) {
            Ok(0) => return Err(end_of_stream()),
            Ok(read) => read,
            Err(error) if would_block(&error) => return Ok(Step::Goes),
            Err(error) => return Err(error),
        };
        let range = self.read..self.read + read;
        self.read += read;
        if buffer[range.clone()] != self.message[range] {
            return Ok(Step::Wrong);
        }
        Ok(if self.read == MESSAGE { Step::Done } else { Step::Goes })
    }
}
