//! What ways out depend on: every notice of a change to this namespace's links, addresses, neighbours, routes, rules or forwarding
//! begins a new epoch, in which the program asks the host's routing anew. A burst of them begins one in [`PAUSE`], because each has every
//! busy flow ask once. What new flows are asked for (`rp_filter`) is read anew as well.

use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use aya::maps::{Map, MapError};

use super::{
    KernelArray,
    neighbours::Neighbours,
    reverse_path::ReversePaths,
    rtnetlink::{self, BUFFER},
    with_causes,
};

/// Groups of notices, as bits. Those of `<linux/rtnetlink.h>` above the tenth have no bit of their own there.
const GROUPS: u32 = (libc::RTMGRP_LINK
    | libc::RTMGRP_NEIGH
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV4_RULE
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV6_ROUTE
    | libc::RTMGRP_IPV6_IFINFO)
    .cast_unsigned()
    | group(libc::RTNLGRP_IPV6_RULE)
    | group(libc::RTNLGRP_IPV4_NETCONF)
    | group(libc::RTNLGRP_IPV6_NETCONF)
    | group(libc::RTNLGRP_NEXTHOP);

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

/// Between two epochs, in which packets may go on as before: less than a router takes to see a change.
const PAUSE: libc::c_int = 2; // ms

/// Until what could not be read is read again.
const LATE: libc::c_int = 1000; // ms

/// What comes of it when the thread has ended.
const WITHOUT_NOTICES: &str =
    "the fast path asks for ways every second, and goes by the rp_filter of now until the edge is started again";

/// Reads of one epoch.
const READS: usize = 64;

/// The thread that listens, until this value is dropped.
pub(super) struct Notices {
    queue: Arc<Mutex<Queue>>,
    /// The thread ends when this end is closed.
    _alive: UnixStream,
}

struct Queue {
    socket: OwnedFd,
    neighbours: Neighbours,
    reverse_paths: ReversePaths,
    map: KernelArray<u32>,
    epoch: u32,
}

impl Notices {
    /// Listens in the namespace of the calling thread, and counts up `map`. Has `reverse_paths`, the paths and how many there are, hold what is
    /// set, from the first.
    pub fn listen(map: Map, reverse_paths: [Map; 2]) -> io::Result<Self> {
        let map = map.try_into().map_err(|error: MapError| io::Error::other(with_causes(&error)))?;
        let [paths, count] = reverse_paths;
        // Before anything is read, so that no change falls between.
        let socket = rtnetlink::socket(GROUPS)?;
        let reverse_paths = ReversePaths::new(paths, count)?;
        let queue = Queue { socket, neighbours: Neighbours::default(), reverse_paths, map, epoch: 0 };
        let queue = Arc::new(Mutex::new(queue));
        let (alive, end) = UnixStream::pair()?;
        let listening = Arc::clone(&queue);
        thread::Builder::new().name("fast-path-ways".into()).spawn(move || run(&listening, &end))?;
        Ok(Self { queue, _alive: alive })
    }

    /// Begins a new epoch if there was a notice; gives the epoch. What the kernel has changed before is taken in.
    pub fn take(&self) -> io::Result<u32> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The epoch that has begun last.
    pub fn epoch(&self) -> u32 {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).epoch
    }
}

fn run(queue: &Mutex<Queue>, end: &UnixStream) {
    let socket = queue.lock().unwrap_or_else(PoisonError::into_inner).socket.as_raw_fd();
    loop {
        let mut ready = [socket, end.as_raw_fd()].map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        let late = queue.lock().unwrap_or_else(PoisonError::into_inner).reverse_paths.is_stale();
        let patience = if late { LATE } else { -1 };
        // SAFETY: two descriptors that `queue` and `end` keep open.
        let waited = unsafe { libc::poll(ready.as_mut_ptr(), 2, patience) };
        if waited < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            tracing::error!("cannot wait for changes of routes: {}; {WITHOUT_NOTICES}", io::Error::last_os_error());
            return;
        }
        if ready[1].revents != 0 {
            return;
        }
        if let Err(error) = queue.lock().unwrap_or_else(PoisonError::into_inner).take() {
            tracing::error!("cannot take in changes of routes: {error}; {WITHOUT_NOTICES}");
            return;
        }
        let mut ended = libc::pollfd { fd: end.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: a descriptor that `end` keeps open. Cut short by a signal, the pause is shorter.
        unsafe { libc::poll(&raw mut ended, 1, PAUSE) };
    }
}

impl Queue {
    fn take(&mut self) -> io::Result<u32> {
        let mut noticed = false;
        let mut buffer = [0u8; BUFFER];
        // What is left, if they come faster than they are read, waits for the next epoch.
        for _ in 0..READS {
            // SAFETY: writes into the buffer, and no more than there is room for.
            let read =
                unsafe { libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
            if let Ok(length) = usize::try_from(read) {
                noticed |= self.neighbours.news(&buffer[..length]);
                rtnetlink::messages(&buffer[..length]).for_each(|message| self.reverse_paths.hear(message));
                continue;
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EAGAIN) => break,
                Some(libc::EINTR) => {}
                // More than the queue holds: some are lost, and it does not matter which.
                Some(libc::ENOBUFS) => {
                    self.neighbours.forget();
                    self.reverse_paths.forget();
                    noticed = true;
                }
                _ => return Err(error),
            }
        }
        if noticed {
            let next = self.epoch.wrapping_add(1);
            self.map.set(0, next, 0).map_err(|error| io::Error::other(with_causes(&error)))?;
            self.epoch = next;
        }
        if let Err(error) = self.reverse_paths.refresh(super::clock()) {
            tracing::warn!("cannot read what rp_filter is: {error}; the fast path goes by what it was, and reads it in a second");
        }
        Ok(self.epoch)
    }
}
