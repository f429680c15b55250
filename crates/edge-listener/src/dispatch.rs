//! One socket for many ports: what a program in the kernel does for a listener of many ports, where there is one.

use std::{io, net::IpAddr, os::fd::BorrowedFd};

use endpoint_group::Protocol;

/// Hands what comes for any port of its listeners to sockets that are bound to the first.
pub trait Dispatcher: Send {
    /// Whether the listener at this place of the configuration is one of its.
    fn serves(&self, listener: usize) -> bool;

    /// Takes the socket of one worker for `listener` at a static IP. All workers' sockets are bound by then, to one address and port
    /// (`SO_REUSEPORT`), and what comes from one client address and port to one port must always come to the same of them. An error
    /// is one of the kernel's, and the edge does not start.
    fn hand_over(&mut self, listener: usize, protocol: Protocol, ip: IpAddr, socket: BorrowedFd<'_>) -> io::Result<()>;
}
