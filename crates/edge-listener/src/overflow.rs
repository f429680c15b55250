//! What the kernel dropped at our sockets before we saw it: full receive buffers (UDP) and full accept queues (TCP).
//!
//! `SO_MEMINFO` (Linux ≥ 4.6) counts both per socket since the socket was made. The count is a wrapping 32 bits.

use std::{
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use endpoint_group::Protocol;

/// Place of the drop count in the answer: `SK_MEMINFO_DROPS` of linux/sock_diag.h.
const DROPS: usize = 8;

type Watched = Weak<dyn AsRawFd + Send + Sync>;

struct Entry {
    socket: Watched,
    listener: usize,
    protocol: Protocol,
    seen: u32,
}

/// Collects the kernel's drops over all sockets. What a socket dropped after the last scrape goes uncounted when it closes.
#[derive(Default)]
pub struct Overflow {
    entries: Mutex<Vec<Entry>>,
}

impl Overflow {
    /// Watches `socket` until it is dropped.
    pub(crate) fn watch<S: AsRawFd + Send + Sync + 'static>(&self, socket: &Arc<S>, listener: usize, protocol: Protocol) {
        let weak: Weak<S> = Arc::downgrade(socket);
        let entry = Entry { socket: weak, listener, protocol, seen: 0 };
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    /// What was dropped since the last call, as (listener, protocol, count).
    pub(crate) fn take(&self) -> Vec<(usize, Protocol, u64)> {
        let mut fresh = Vec::new();
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).retain_mut(|entry| {
            let Some(socket) = entry.socket.upgrade() else { return false };
            if let Some(count) = drops_at(socket.as_raw_fd()) {
                let new = count.wrapping_sub(entry.seen);
                entry.seen = count;
                if new > 0 {
                    fresh.push((entry.listener, entry.protocol, u64::from(new)));
                }
            }
            true
        });
        fresh
    }
}

impl std::fmt::Debug for Overflow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overflow").finish_non_exhaustive()
    }
}

/// Datagrams or connections that the kernel dropped at `socket` since it was made, a wrapping count.
pub(crate) fn drops(socket: &impl AsRawFd) -> Option<u32> {
    drops_at(socket.as_raw_fd())
}

fn drops_at(socket: RawFd) -> Option<u32> {
    let mut info = [0u32; DROPS + 1];
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).ok()?;
    // SAFETY: `info` is writable for `length` bytes, and the kernel writes no more than that.
    let result =
        unsafe { libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_MEMINFO, info.as_mut_ptr().cast(), &raw mut length) };
    (result == 0 && length as usize == size_of_val(&info)).then_some(info[DROPS])
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn counts_datagrams_beyond_the_receive_buffer_once() {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        socket2::SockRef::from(&*socket).set_recv_buffer_size(4096).unwrap();
        let overflow = Overflow::default();
        overflow.watch(&socket, 3, Protocol::Udp);
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            sender.send_to(&[0; 1000], socket.local_addr().unwrap()).unwrap();
        }
        socket.set_nonblocking(true).unwrap();
        let mut received = 0;
        while socket.recv(&mut [0; 1000]).is_ok() {
            received += 1;
        }
        assert!(received < 100);
        assert_eq!(overflow.take(), [(3, Protocol::Udp, 100 - received)]);
        assert_eq!(overflow.take(), []);
    }
}
