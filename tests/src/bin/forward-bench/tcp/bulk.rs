//! The clients of a bulk transfer: one thread for all connections.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};

use landfall_tests::Result;

use super::server::count_bytes;
use super::{Direction, LOOK, broken, end_of_stream, open, would_block};
use crate::epoll::{Epoll, Interest};
use crate::gauge::Gauge;
use crate::pattern::{CHUNK, Pattern};

/// Sends or receives without pause until the gauge says stop. Bytes are counted where they arrive.
pub fn generate(connections: usize, direction: Direction, target: SocketAddrV4, gauge: &Gauge) -> Result<()> {
    let cannot = |error| broken(target, &error);
    let mut epoll = Epoll::new().map_err(cannot)?;
    let mut streams: Vec<(TcpStream, usize)> = Vec::new();
    for key in 0..connections {
        let mut stream = open(target)?;
        if direction == Direction::Down {
            stream.write_all(b"!").map_err(cannot)?;
        }
        let interest = if direction == Direction::Up { Interest::Write } else { Interest::Read };
        epoll.add(&stream, interest, key).map_err(cannot)?;
        streams.push((stream, 0));
    }
    let pattern = Pattern::new();
    let mut buffer = vec![0; CHUNK];
    while gauge.runs() {
        for index in 0..epoll.wait(LOOK).map_err(cannot)? {
            let Some((stream, position)) = streams.get_mut(epoll.event(index).key) else { continue };
            let passed = match direction {
                Direction::Up => stream.write(pattern.at(*position)),
                Direction::Down => stream.read(&mut buffer),
            };
            match passed {
                Ok(0) => return Err(cannot(end_of_stream())),
                Ok(passed) => {
                    if direction == Direction::Down {
                        count_bytes(gauge, &pattern, *position, &buffer[..passed]);
                    }
                    *position += passed;
                }
                Err(error) if would_block(&error) => {}
                Err(error) => return Err(cannot(error)),
            }
        }
    }
    Ok(())
}
