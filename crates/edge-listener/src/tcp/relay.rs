//! Bytes both ways, as on a direct connection: half-close, backpressure and aborts are handed on.

use std::{
    cell::{Cell, RefCell},
    io,
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{self, Instant},
};

use super::leg::Leg;
use crate::{
    account::{Counters, Direction},
    reasons::CloseReason,
};

/// Reads from one socket before others get a turn.
const BURST: usize = 16;

pub(crate) struct Relay<'a> {
    pub client: &'a Leg,
    pub endpoint: &'a Leg,
    pub counters: &'a Counters,
    /// The worker's read buffer; never borrowed across an await.
    pub buffer: &'a RefCell<Box<[u8]>>,
    pub idle_timeout: Duration,
}

/// One way of the two.
struct Way<'a> {
    from: &'a Leg,
    to: &'a Leg,
    direction: Direction,
    /// What it means when `from`, or `to`, is gone.
    from_lost: CloseReason,
    to_lost: CloseReason,
}

impl Relay<'_> {
    /// Runs until both ends have closed, one has aborted, or nothing has come for the idle timeout.
    pub async fn run(&self) -> CloseReason {
        let last = Cell::new(Instant::now());
        let halves = Halves::default();
        let up = Way {
            from: self.client,
            to: self.endpoint,
            direction: Direction::ToEndpoint,
            from_lost: CloseReason::ClientReset,
            to_lost: CloseReason::EndpointReset,
        };
        let down = Way {
            from: self.endpoint,
            to: self.client,
            direction: Direction::ToClient,
            from_lost: CloseReason::EndpointReset,
            to_lost: CloseReason::ClientReset,
        };
        let both = async { tokio::try_join!(self.half(&up, &last, &halves), self.half(&down, &last, &halves)) };
        tokio::select! {
            ended = both => match ended {
                Ok(_) => CloseReason::Finished,
                Err(reason) => reason,
            },
            () = self.idle(&last) => CloseReason::Idle,
        }
    }

    /// One way until its end; then keeps watching its source, which could still abort, until the other way has ended too.
    async fn half(&self, way: &Way<'_>, last: &Cell<Instant>, halves: &Halves) -> Result<(), CloseReason> {
        self.pump(way, last).await?;
        if halves.ended() {
            return Ok(());
        }
        tokio::select! {
            () = halves.both.notified() => Ok(()),
            () = way.from.aborted() => Err(way.from_lost),
        }
    }

    async fn pump(&self, way: &Way<'_>, last: &Cell<Instant>) -> Result<(), CloseReason> {
        let mut burst = 0;
        loop {
            way.from.readable().await.map_err(|_| way.from_lost)?;
            let rest = match self.pass(way) {
                Ok(Passed::All(bytes)) => {
                    self.counters.forward(way.direction, bytes, 1);
                    None
                }
                Ok(Passed::Part { bytes, rest }) => {
                    self.counters.forward(way.direction, bytes, 1);
                    Some(rest)
                }
                Ok(Passed::End) => {
                    way.to.end_of_stream().map_err(|_| way.to_lost)?;
                    return Ok(());
                }
                Err(Lost::Source(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    burst = 0;
                    continue;
                }
                Err(Lost::Source(_)) => return Err(way.from_lost),
                Err(Lost::Sink(_)) => return Err(way.to_lost),
            };
            last.set(Instant::now());
            if let Some(rest) = rest {
                self.push(way, &rest, last).await?;
            }
            burst += 1;
            if burst == BURST {
                burst = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    /// Hands one read on through the worker's buffer.
    fn pass(&self, way: &Way<'_>) -> Result<Passed, Lost> {
        let mut buffer = self.buffer.borrow_mut();
        let read = way.from.try_read(&mut buffer).map_err(Lost::Source)?;
        if read == 0 {
            return Ok(Passed::End);
        }
        let written = match way.to.try_write(&buffer[..read]) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(Lost::Sink(error)),
        };
        if written == read {
            Ok(Passed::All(read))
        } else {
            Ok(Passed::Part { bytes: written, rest: buffer[written..read].to_vec() })
        }
    }

    /// The slow way: the sink takes less than the source gives, so nothing more is read until it has taken all.
    async fn push(&self, way: &Way<'_>, mut rest: &[u8], last: &Cell<Instant>) -> Result<(), CloseReason> {
        while !rest.is_empty() {
            tokio::select! {
                writable = way.to.writable() => writable.map_err(|_| way.to_lost)?,
                () = way.from.aborted() => return Err(way.from_lost),
            }
            match way.to.try_write(rest) {
                Ok(written) => {
                    self.counters.forward(way.direction, written, 0);
                    rest = &rest[written..];
                    last.set(Instant::now());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(way.to_lost),
            }
        }
        Ok(())
    }

    /// Returns once `idle_timeout` has passed since `last`, however often that moves on meanwhile.
    ///
    /// A slow reader may take longer than that to make the kernel's send buffer writable again, while it takes in byte after byte:
    /// acknowledgements are traffic too. Data that nobody acknowledges ends the connection after up to twice the timeout.
    async fn idle(&self, last: &Cell<Instant>) {
        let queues = || (self.client.unacknowledged(), self.endpoint.unacknowledged());
        let mut before = queues();
        loop {
            let due = last.get() + self.idle_timeout;
            if due > Instant::now() {
                time::sleep_until(due).await;
                continue;
            }
            let now = queues();
            if now == before {
                return;
            }
            before = now;
            last.set(Instant::now());
        }
    }
}

enum Passed {
    All(usize),
    Part { bytes: usize, rest: Vec<u8> },
    End,
}

enum Lost {
    Source(io::Error),
    Sink(#[allow(dead_code)] io::Error),
}

/// Which of the two ways have ended.
#[derive(Default)]
struct Halves {
    one: Cell<bool>,
    both: Notify,
}

impl Halves {
    /// Notes that a way has ended; whether both have now.
    fn ended(&self) -> bool {
        let both = self.one.replace(true);
        if both {
            self.both.notify_one();
        }
        both
    }
}
