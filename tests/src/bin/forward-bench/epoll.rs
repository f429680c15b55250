//! epoll(7), and accepting without a further call for non-blocking mode: the load is to cost little.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Events taken by one call.
const EVENTS: usize = 128;

/// A set of watched descriptors and the events of the last wait.
pub struct Epoll {
    descriptor: OwnedFd,
    events: Vec<libc::epoll_event>,
}

/// What happened to the descriptor that was added with `key`.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// The key it was added with.
    pub key: usize,
    /// Something to read, an end or an error.
    pub readable: bool,
}

/// What to watch for.
#[derive(Debug, Clone, Copy)]
pub enum Interest {
    /// Something to read, as long as there is.
    Read,
    /// Room to write, as long as there is.
    Write,
    /// Both, told once for each change.
    Changes,
}

impl Epoll {
    pub fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1 takes a flag and returns a new descriptor, which is owned here once it is known to be one.
        let descriptor = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, and nobody else's.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self { descriptor, events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS] })
    }

    /// Watches `socket`. It leaves the set when it is closed.
    pub fn add(&self, socket: &impl AsRawFd, interest: Interest, key: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, socket, interest, key)
    }

    /// Watches `socket`, which is in the set, for something else.
    pub fn change(&self, socket: &impl AsRawFd, interest: Interest, key: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, socket, interest, key)
    }

    fn control(&self, operation: libc::c_int, socket: &impl AsRawFd, interest: Interest, key: usize) -> io::Result<()> {
        let events = match interest {
            Interest::Read => libc::EPOLLIN,
            Interest::Write => libc::EPOLLOUT,
            Interest::Changes => libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET,
        };
        let key = u64::try_from(key).map_err(io::Error::other)?;
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: key };
        // SAFETY: both descriptors are open for the length of the call, and so is `event`.
        let done = unsafe { libc::epoll_ctl(self.descriptor.as_raw_fd(), operation, socket.as_raw_fd(), &raw mut event) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits for events, at most for `limit`, and returns how many there are.
    pub fn wait(&mut self, limit: Duration) -> io::Result<usize> {
        let (room, limit) = (libc::c_int::try_from(EVENTS), libc::c_int::try_from(limit.as_millis()));
        let (room, limit) = (room.unwrap_or(libc::c_int::MAX), limit.unwrap_or(libc::c_int::MAX));
        // SAFETY: there is room for as many events as the call is told.
        let count = unsafe { libc::epoll_wait(self.descriptor.as_raw_fd(), self.events.as_mut_ptr(), room, limit) };
        match usize::try_from(count) {
            Ok(count) => Ok(count),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
                error => Err(error),
            },
        }
    }

    /// The event `index` of the last wait.
    pub fn event(&self, index: usize) -> Event {
        let event = self.events[index];
        let has = |flags: libc::c_int| event.events & flags.cast_unsigned() != 0;
        let broken = libc::EPOLLERR | libc::EPOLLHUP;
        Event { key: usize::try_from(event.u64).unwrap_or(usize::MAX), readable: has(libc::EPOLLIN | libc::EPOLLRDHUP | broken) }
    }
}

/// Accepts a waiting connection as non-blocking, if there is one.
pub fn accept(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the peer's address is not asked for; the new descriptor is owned here once it is known to be one.
    let accepted = unsafe { libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) };
    if accepted >= 0 {
        // SAFETY: just opened, and nobody else's.
        return Ok(Some(unsafe { TcpStream::from_raw_fd(accepted) }));
    }
    match io::Error::last_os_error() {
        error
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
            ) =>
        {
            Ok(None)
        }
        error => Err(error),
    }
}
