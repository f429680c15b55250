//! Datagrams leave together: those of one flow and one size as one message, and the messages of one socket by one call.
//!
//! Datagrams are put in one after the other, in the order in which they are to leave. Where a way does not take several as one (a device
//! without checksum offload, a path MTU below the datagram) they are sent one by one, and the flow learns not to try it again.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use super::{
    ancillary,
    batch::{Batch, Received, SLOTS},
    message::{MOST_SEGMENTS, Message, Postage, Run},
    sender::Sender,
};

/// Errors of earlier datagrams that one sending takes off the socket at most.
const MOST_ERRORS: usize = 4 * SLOTS;

/// Who is told what became of the mail.
pub(crate) trait Clerk {
    /// A message was handed to the kernel, or not.
    fn told(&mut self, message: &Message, sent: io::Result<()>);
    /// Its way takes no segments of the message's size, or none at all; what is told of its datagrams comes besides.
    fn refused(&mut self, message: &Message, error: &io::Error);
    /// An ICMP error came back for a datagram that had left earlier.
    fn came_back(&mut self, error: io::Error);
}

/// Datagrams that wait to be sent through one socket. Empty after each sending.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    messages: Vec<Message>,
    runs: Vec<Run>,
}

impl Mail {
    /// Puts in what `slot` holds.
    pub fn put(&mut self, postage: Postage, slot: usize, received: Received<'_>) {
        let (length, datagrams) = (received.payload.len(), received.datagrams());
        let segment = if datagrams > 1 { received.notes.segment } else { length };
        let run = Run { slot, from: 0, length, header: 0, datagrams, size: segment };
        // Whole runs go on as they came.
        if datagrams <= MOST_SEGMENTS && postage.header == 0 && (datagrams == 1 || postage.offload.takes(segment)) {
            return self.add(&postage, run);
        }
        let mut header = postage.header;
        for one in run.apart() {
            self.add(&postage, Run { header, size: header + one.length, ..one });
            if !postage.every {
                header = 0;
            }
        }
    }

    /// Adds to the last message if that may be, or begins another.
    fn add(&mut self, postage: &Postage, run: Run) {
        match self.messages.last_mut() {
            Some(last) if last.takes(postage, &run) => last.add(&run),
            _ => self.messages.push(Message::new(postage, &run, self.runs.len())),
        }
        self.runs.push(run);
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Sends everything, in order, and tells `clerk`. A message that fails costs no other one, unless the socket's buffer is full, which
    /// fails the rest. An error that came back for an earlier datagram costs none.
    pub fn send(&mut self, sender: &mut Sender, socket: impl AsFd, batch: &Batch, header: &[u8], clerk: &mut impl Clerk) {
        let socket = socket.as_fd();
        let (mut next, mut tries) = (0, Tries::new());
        while next < self.messages.len() {
            let message = self.messages[next];
            match sender.send(socket, &self.messages[next..], &self.runs, batch, header) {
                Ok(sent) => {
                    for message in &self.messages[next..next + sent] {
                        clerk.told(message, Ok(()));
                    }
                    next += sent;
                    tries.once = false;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    for message in &self.messages[next..] {
                        clerk.told(message, Err(io::ErrorKind::WouldBlock.into()));
                    }
                    break;
                }
                Err(_) if tries.again(socket, clerk) => {}
                Err(error) if message.datagrams > 1 => {
                    next += 1;
                    if self.send_apart(&message, sender, socket, batch, header, clerk) {
                        clerk.refused(&message, &error);
                    }
                }
                Err(error) => {
                    next += 1;
                    clerk.told(&message, Err(error));
                }
            }
        }
        self.messages.clear();
        self.runs.clear();
    }

    /// Sends the datagrams of a message one by one; whether any could be sent.
    fn send_apart(
        &self,
        message: &Message,
        sender: &mut Sender,
        socket: BorrowedFd<'_>,
        batch: &Batch,
        header: &[u8],
        clerk: &mut impl Clerk,
    ) -> bool {
        let mut any = false;
        for run in self.runs[message.runs.0..message.runs.1].iter().flat_map(|run| run.apart()) {
            let single = message.single(&run);
            let sent = sender.send(socket, &[single], &[run], batch, header).map(drop);
            any |= sent.is_ok();
            clerk.told(&single, sent);
        }
        any
    }
}

/// When to send again what failed.
struct Tries {
    errors: usize,
    once: bool,
}

impl Tries {
    fn new() -> Self {
        Self { errors: MOST_ERRORS, once: false }
    }

    /// Takes off the socket what came back for earlier datagrams; whether the failure may have been that.
    fn again(&mut self, socket: BorrowedFd<'_>, clerk: &mut impl Clerk) -> bool {
        let before = self.errors;
        while self.errors > 0
            && let Some(error) = ancillary::next_error(socket)
        {
            self.errors -= 1;
            clerk.came_back(error);
        }
        // The error may have been taken off the queue before, and only stuck to the socket.
        self.errors < before || !std::mem::replace(&mut self.once, true)
    }
}

#[cfg(test)]
mod tests;
