//! How other threads reach a worker that waits for packets: a descriptor that it waits for too.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::event::{EventfdFlags, eventfd};

/// Wakes one worker. However often it is woken before it looks, it looks once.
#[derive(Debug, Clone)]
pub(crate) struct Waker(Arc<OwnedFd>);

impl Waker {
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Makes the worker look at what is shared with it. What was written before is seen by it.
    pub fn wake(&self) {
        // Err: the count is full, so the worker is about to look.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Called by the worker before it looks.
    pub fn heard(&self) {
        // Err: nobody has woken it since.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
