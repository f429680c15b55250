//! One end of a proxied connection.

use std::{
    io,
    net::Shutdown,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::net::{RecvFlags, SendFlags};
use socket2::{SockRef, Socket};

use crate::poll::{EventFlags, Poll, Source};

/// Of linux/sockios.h: whether the next byte to read is the urgent one.
const SIOCATMARK: libc::Ioctl = 0x8905;

/// A TCP socket with what is known of its readiness, which is reported by edges: once when it begins. It is reset when dropped unless it
/// was [`Leg::finish`]ed: whatever cuts a connection short, the far end is told.
#[derive(Debug)]
pub(crate) struct Leg {
    socket: OwnedFd,
    /// Whether a read may find something.
    pub readable: bool,
    /// Whether a write may find room.
    pub writable: bool,
    /// Whether the far end has said that no more will come. There may be bytes before that.
    pub closing: bool,
    /// Whether urgent data may be ahead.
    pub urgent: bool,
    /// Whether the kernel has reported an error: the far end has aborted, or is gone.
    pub failed: bool,
    finished: bool,
    /// Whether the end of a lack of room is reported.
    watched: bool,
    /// Whether `TCP_NODELAY` is still to be set. The first write needs it not: nothing is under way that it could wait for.
    delays: bool,
    wrote: bool,
}

impl Leg {
    /// The client's end, as it was accepted. It has inherited its options.
    pub fn accepted(socket: OwnedFd) -> Self {
        Self {
            socket,
            readable: false,
            writable: true,
            closing: false,
            urgent: false,
            failed: false,
            finished: false,
            watched: false,
            delays: false,
            wrote: false,
        }
    }

    /// The endpoint's end, not yet connected.
    pub fn dialled(socket: Socket, nodelay: bool) -> Self {
        let mut leg = Self::accepted(socket.into());
        (leg.writable, leg.watched, leg.delays) = (false, true, nodelay);
        leg
    }

    /// Has `poll` report what happens to this leg as `source`.
    pub fn watch(&self, poll: &Poll, source: Source) -> io::Result<()> {
        poll.add(&self.socket, source, self.interest())
    }

    fn interest(&self) -> EventFlags {
        let always = EventFlags::IN | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET;
        if self.watched { always | EventFlags::OUT } else { always }
    }

    /// Makes sure that the end of a lack of room is reported.
    pub fn watch_room(&mut self, poll: &Poll, source: Source) -> io::Result<()> {
        if self.writable || std::mem::replace(&mut self.watched, true) {
            return Ok(());
        }
        poll.change(&self.socket, source, self.interest())
    }

    /// Takes in what was reported.
    pub fn reported(&mut self, flags: EventFlags) {
        self.readable |=
            flags.intersects(EventFlags::IN | EventFlags::PRI | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        self.writable |= flags.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP);
        self.closing |= flags.intersects(EventFlags::RDHUP | EventFlags::HUP);
        self.urgent |= flags.contains(EventFlags::PRI);
        self.failed |= flags.contains(EventFlags::ERR);
    }

    /// Whether a read that brought less than was asked for has emptied the socket: more will be reported.
    ///
    /// Not so before the end of the stream, which no later event may tell, and before urgent data, where a read stops.
    pub fn short_is_all(&self) -> bool {
        !self.closing && !self.urgent
    }

    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&self.socket, buffer, RecvFlags::empty())?.0)
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writes();
        Ok(rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL)?)
    }

    /// Sends one byte as urgent data (RFC 6093).
    pub fn write_urgent(&mut self, byte: u8) -> io::Result<()> {
        self.writes();
        Ok(rustix::net::send(&self.socket, &[byte], SendFlags::NOSIGNAL | SendFlags::OOB).map(drop)?)
    }

    /// Called before bytes are written.
    pub fn writes(&mut self) {
        if self.wrote && std::mem::take(&mut self.delays) {
            // Err: the peer is gone, which the write tells.
            let _ = SockRef::from(&self.socket).set_tcp_nodelay(true);
        }
        self.wrote = true;
    }

    /// The urgent byte, if everything before it has been read; `None` if that is not so or there is none.
    pub fn read_urgent(&mut self) -> Option<u8> {
        let mut at_mark: libc::c_int = 0;
        // SAFETY: the request writes one int to `at_mark`, which outlives the call.
        let asked = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCATMARK, &raw mut at_mark) };
        if asked != 0 || at_mark != 1 {
            return None;
        }
        let mut byte = [0];
        match rustix::net::recv(&self.socket, &mut byte, RecvFlags::OOB | RecvFlags::DONTWAIT) {
            Ok((1, _)) => Some(byte[0]),
            Ok(_) => None,
            // Announced, and not here yet.
            Err(rustix::io::Errno::AGAIN) => None,
            Err(_) => {
                self.urgent = false;
                None
            }
        }
    }

    /// Says that no more bytes will come (FIN).
    pub fn end_of_stream(&self) -> io::Result<()> {
        SockRef::from(&self.socket).shutdown(Shutdown::Write)
    }

    /// Lets the kernel deliver what is still queued and close in order.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Takes the error that the kernel has reported.
    pub fn error(&self) -> Option<io::Error> {
        SockRef::from(&self.socket).take_error().unwrap_or_else(Some)
    }

    /// Bytes sent that the far end has not acknowledged yet, by `SIOCOUTQ`; 0 if the kernel does not say.
    pub fn unacknowledged(&self) -> i32 {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the request writes one int to `bytes`, which outlives the call.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        if result == 0 { bytes } else { 0 }
    }
}

impl AsFd for Leg {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        if !self.finished {
            // Err: the socket is dead already.
            let _ = SockRef::from(&self.socket).set_linger(Some(std::time::Duration::ZERO));
        }
    }
}
