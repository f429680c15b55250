//! One direction of a connection: bytes go from one leg to the other, at the pace of the slower.
//!
//! Small and interactive traffic is copied through the worker's buffer. Where reads keep filling it, bytes are spliced through a pipe
//! until they come in small amounts again (docs/decisions/0008).

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use super::{
    leg::Leg,
    pipes::{Pipe, Pipes},
};
use crate::account::{Counters, Direction};

/// Bytes read at once when they are copied; what a slow receiver does not take of them is held in memory.
pub(crate) const COPY: usize = 64 << 10;
/// Bytes read at once while a worker holds more than [`MOST_HELD`].
const COPY_SCARCE: usize = 4 << 10;
/// Bytes that a worker holds for slow receivers before it becomes sparing.
const MOST_HELD: usize = 64 << 20;
/// Full reads in a row that make bulk of a direction.
const BULK_AFTER: u8 = 2;
/// Fewer bytes in a pipe than this are small; so many small ones in a row end bulk.
const SMALL: usize = 16 << 10;
const BULK_UNTIL: u8 = 8;
/// Errors by which a kernel says that it does not splice these sockets.
const NO_SPLICE: &[i32] = &[libc::EINVAL, libc::ENOSYS, libc::ENOMEM, libc::EOPNOTSUPP];
/// Reads from one leg before others get a turn.
const BURST: usize = 16;

/// What was read and could not be written yet.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    Bytes {
        bytes: Box<[u8]>,
        from: usize,
    },
    Pipe {
        pipe: Pipe,
        bytes: usize,
    },
    Urgent(u8),
}

/// One direction. Its owner gives the legs.
#[derive(Debug)]
pub(crate) struct Way {
    direction: Direction,
    held: Held,
    /// Whether the source has ended its stream.
    ended: bool,
    /// Whether the sink has been told so, after the last byte.
    told: bool,
    bulk: bool,
    /// Whether it has turned out that these sockets do not splice.
    copies: bool,
    /// Full reads in a row while copying, small amounts in a row while splicing.
    streak: u8,
}

/// Who is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    Source,
    Sink,
}

/// What a worker lends to the direction at hand.
pub(crate) struct Tools<'a> {
    /// At least [`COPY`] bytes.
    pub buffer: &'a mut [u8],
    pub pipes: &'a mut Pipes,
    /// Bytes held in memory by all directions of the worker.
    pub held: &'a mut usize,
    pub counters: &'a Counters,
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Turn {
    /// Whether bytes moved, or the stream ended.
    pub moved: bool,
    /// Whether there is more to do that no event will tell.
    pub more: bool,
}

impl Way {
    pub fn new(direction: Direction) -> Self {
        Self { direction, held: Held::Nothing, ended: false, told: false, bulk: false, copies: false, streak: 0 }
    }

    /// Whether everything has been handed on, the end included.
    pub fn done(&self) -> bool {
        self.told
    }

    /// Moves what can be moved now. `last`: the other direction is done, so that closing both legs tells this one's end.
    pub fn pump(&mut self, from: &mut Leg, to: &mut Leg, last: bool, tools: &mut Tools<'_>) -> Result<Turn, Lost> {
        let mut turn = Turn::default();
        for _ in 0..BURST {
            if !matches!(self.held, Held::Nothing) {
                if !to.writable {
                    return Ok(turn);
                }
                self.drain(to, tools)?;
                turn.moved = true;
                continue;
            }
            if self.ended {
                if !self.told {
                    self.told = true;
                    if !last {
                        to.end_of_stream().map_err(|_| Lost::Sink)?;
                    }
                }
                return Ok(turn);
            }
            if !from.readable {
                return Ok(turn);
            }
            turn.moved |= if self.bulk && !from.urgent { self.splice(from, to, tools)? } else { self.copy(from, to, tools)? };
        }
        turn.more = true;
        Ok(turn)
    }

    /// Reads once and writes what came; whether anything did.
    fn copy(&mut self, from: &mut Leg, to: &mut Leg, tools: &mut Tools<'_>) -> Result<bool, Lost> {
        if from.urgent
            && let Some(byte) = from.read_urgent()
        {
            return self.hand_on_urgent(byte, to, tools).map(|()| true);
        }
        let most = if *tools.held > MOST_HELD { COPY_SCARCE } else { COPY };
        let read = match from.read(&mut tools.buffer[..most]) {
            Ok(0) => {
                self.ended = true;
                from.readable = false;
                return Ok(true);
            }
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                from.readable = false;
                // The urgent byte was here when it was reported, and is behind by now.
                from.urgent = false;
                return Ok(false);
            }
            Err(_) => return Err(Lost::Source),
        };
        if read < most && from.short_is_all() {
            from.readable = false;
        }
        self.streak = if read == COPY { self.streak + 1 } else { 0 };
        if self.streak >= BULK_AFTER {
            (self.bulk, self.streak) = (!self.copies, 0);
        }
        let written = if to.writable { write(to, &tools.buffer[..read])? } else { 0 };
        tools.counters.forward(self.direction, written, 1);
        if written < read {
            let bytes: Box<[u8]> = tools.buffer[written..read].into();
            *tools.held += bytes.len();
            self.held = Held::Bytes { bytes, from: 0 };
        }
        Ok(true)
    }

    /// Takes what is there into a pipe and hands it on; whether anything was there.
    fn splice(&mut self, from: &mut Leg, to: &mut Leg, tools: &mut Tools<'_>) -> Result<bool, Lost> {
        let Some(pipe) = tools.pipes.take() else {
            tools.counters.copied_instead();
            return self.copy(from, to, tools);
        };
        let filled = match pipe.fill(from) {
            Ok(filled) => filled,
            Err(error) => {
                tools.pipes.give_back(pipe);
                return match error.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        from.readable = false;
                        Ok(false)
                    }
                    // Not a word about the connection.
                    Some(code) if NO_SPLICE.contains(&code) => {
                        self.cannot_splice(&error, tools);
                        self.copy(from, to, tools)
                    }
                    _ => Err(Lost::Source),
                };
            }
        };
        if filled == 0 {
            tools.pipes.give_back(pipe);
            // The end of the stream, or urgent data that the end has overtaken: a read tells.
            self.bulk = false;
            return self.copy(from, to, tools);
        }
        self.streak = if filled < SMALL { self.streak + 1 } else { 0 };
        if self.streak >= BULK_UNTIL {
            (self.bulk, self.streak) = (false, 0);
        }
        tools.counters.forward(self.direction, 0, 1);
        self.held = Held::Pipe { pipe, bytes: filled };
        if to.writable {
            self.drain(to, tools)?;
        }
        Ok(true)
    }

    fn cannot_splice(&mut self, error: &io::Error, tools: &Tools<'_>) {
        static SAID: AtomicBool = AtomicBool::new(false);
        if !SAID.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "cannot splice; bytes are copied, which costs more");
        }
        tools.counters.copied_instead();
        (self.bulk, self.copies) = (false, true);
    }

    /// Writes what is held, as much as the sink takes.
    fn drain(&mut self, to: &mut Leg, tools: &mut Tools<'_>) -> Result<(), Lost> {
        match std::mem::take(&mut self.held) {
            Held::Nothing => {}
            Held::Bytes { bytes, from } => {
                *tools.held -= bytes.len();
                let written = write(to, &bytes[from..])?;
                tools.counters.forward(self.direction, written, 0);
                let from = from + written;
                if from < bytes.len() {
                    *tools.held += bytes.len();
                    self.held = Held::Bytes { bytes, from };
                }
            }
            Held::Pipe { pipe, bytes } => {
                let moved = match pipe.empty(to, bytes) {
                    Ok(moved) => moved,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        to.writable = false;
                        0
                    }
                    Err(error) if error.raw_os_error().is_some_and(|code| NO_SPLICE.contains(&code)) => {
                        self.cannot_splice(&error, tools);
                        let mut taken = vec![0; bytes];
                        let taken = pipe.read(&mut taken).map(|()| taken.into_boxed_slice());
                        tools.pipes.discard(pipe);
                        let bytes = taken.map_err(|_| Lost::Sink)?;
                        *tools.held += bytes.len();
                        self.held = Held::Bytes { bytes, from: 0 };
                        return Ok(());
                    }
                    Err(_) => {
                        tools.pipes.discard(pipe);
                        return Err(Lost::Sink);
                    }
                };
                tools.counters.forward(self.direction, moved, 0);
                tools.counters.spliced(moved);
                if moved == bytes {
                    tools.pipes.give_back(pipe);
                } else {
                    self.held = Held::Pipe { pipe, bytes: bytes - moved };
                }
            }
            Held::Urgent(byte) => self.hand_on_urgent(byte, to, tools)?,
        }
        Ok(())
    }

    fn hand_on_urgent(&mut self, byte: u8, to: &mut Leg, tools: &mut Tools<'_>) -> Result<(), Lost> {
        match to.write_urgent(byte) {
            Ok(()) => tools.counters.forward(self.direction, 1, 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                to.writable = false;
                self.held = Held::Urgent(byte);
            }
            Err(_) => return Err(Lost::Sink),
        }
        Ok(())
    }

    /// Gives back what the direction holds, when its connection has ended.
    pub fn close(&mut self, tools: &mut Tools<'_>) {
        match std::mem::take(&mut self.held) {
            Held::Bytes { bytes, .. } => *tools.held -= bytes.len(),
            Held::Pipe { pipe, .. } => tools.pipes.discard(pipe),
            Held::Nothing | Held::Urgent(_) => {}
        }
    }
}

/// Writes as much as there is room for.
fn write(to: &mut Leg, bytes: &[u8]) -> Result<usize, Lost> {
    match to.write(bytes) {
        Ok(written) => {
            to.writable = written == bytes.len();
            Ok(written)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            to.writable = false;
            Ok(0)
        }
        Err(_) => Err(Lost::Sink),
    }
}
