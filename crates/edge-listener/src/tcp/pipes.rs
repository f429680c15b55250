//! Pipes for bulk: bytes go from socket to socket through one without being copied (`splice`).
//!
//! A connection has a pipe only while bytes are in it. A worker keeps up to [`PIPES_PER_WORKER`]; where they do not suffice, because as many
//! receivers are slow, bytes are copied.

use std::{io, os::fd::OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::leg::Leg;
use crate::settings::PIPES_PER_WORKER;

/// Bytes that a pipe is to hold: what an unprivileged process may ask for by default (`fs.pipe-max-size`).
pub(crate) const CAPACITY: usize = 1 << 20;

/// A pipe. Between uses it is empty.
#[derive(Debug)]
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Err: this user has many large pipes (`fs.pipe-user-pages-soft`). A smaller one does, by more calls.
        let _ = fcntl_setpipe_size(&write, CAPACITY);
        Ok(Self { read, write })
    }

    /// Takes what `from` has, up to what the pipe holds. 0: the stream has ended.
    pub fn fill(&self, from: &Leg) -> io::Result<usize> {
        Ok(splice(from, None, &self.write, None, CAPACITY, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
    }

    /// Hands up to `bytes` on to `to`.
    pub fn empty(&self, to: &mut Leg, bytes: usize) -> io::Result<usize> {
        to.writes();
        Ok(splice(&self.read, None, &*to, None, bytes, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
    }

    /// Takes out as many bytes as `buffer` holds, which must be there.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<()> {
        let mut taken = 0;
        while taken < buffer.len() {
            match rustix::io::read(&self.read, &mut buffer[taken..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => taken += read,
            }
        }
        Ok(())
    }
}

/// The pipes of one worker.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    idle: Vec<Pipe>,
    lent: usize,
}

impl Pipes {
    /// An empty pipe; `None` if all are in use, or the kernel gives no more.
    pub fn take(&mut self) -> Option<Pipe> {
        let pipe = match self.idle.pop() {
            Some(pipe) => pipe,
            None if self.lent < PIPES_PER_WORKER => Pipe::new().ok()?,
            None => return None,
        };
        self.lent += 1;
        Some(pipe)
    }

    /// Takes back an empty pipe.
    pub fn give_back(&mut self, pipe: Pipe) {
        self.lent -= 1;
        self.idle.push(pipe);
    }

    /// Closes a pipe with bytes that nobody wants any more.
    pub fn discard(&mut self, pipe: Pipe) {
        self.lent -= 1;
        drop(pipe);
    }
}
