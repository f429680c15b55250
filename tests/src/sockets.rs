//! What tests ask of sockets and the standard library does not offer.

use std::io::{self, ErrorKind};
use std::mem;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::SockAddr;

use crate::wait::Deadline;

/// `SOL_UDP` and `UDP_SEGMENT` of linux/udp.h: one `send` is cut by the kernel into datagrams of this size.
const UDP_SEGMENT: libc::c_int = 103;

/// Sets a socket option of a plain type.
///
/// # Errors
/// When the kernel refuses.
pub fn set_option<T>(socket: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(mem::size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the value is valid for `length` bytes during the call.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A receive buffer of `bytes`, past the system's limit: for the ends of the lab, which must not be where datagrams are lost.
///
/// # Errors
/// Without root.
pub fn force_receive_buffer(socket: &impl AsRawFd, bytes: usize) -> io::Result<()> {
    let size = libc::c_int::try_from(bytes).map_err(io::Error::other)?;
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &size)
}

/// Bytes that were written and that the other side's kernel has not acknowledged (`SIOCOUTQ`).
///
/// # Errors
/// When the kernel does not say.
pub fn unacknowledged(socket: &impl AsRawFd) -> io::Result<usize> {
    ask(socket, libc::TIOCOUTQ)
}

/// Bytes that have arrived and were not read (`FIONREAD`).
///
/// # Errors
/// When the kernel does not say.
pub fn unread(socket: &impl AsRawFd) -> io::Result<usize> {
    ask(socket, libc::FIONREAD)
}

fn ask(socket: &impl AsRawFd, request: libc::Ioctl) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: both requests write one int to `bytes`, which outlives the call.
    let asked = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut bytes) };
    if asked == 0 { usize::try_from(bytes).map_err(io::Error::other) } else { Err(io::Error::last_os_error()) }
}

/// Waits until `poll` tells one of `events` of the socket, or an error or its end, and says whether it did.
///
/// # Errors
/// When the kernel refuses to wait.
pub fn wait_event(socket: &impl AsRawFd, events: libc::c_short, limit: Duration) -> io::Result<bool> {
    let deadline = Deadline::after(limit);
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events, revents: 0 };
    loop {
        let left = deadline.left().unwrap_or_default();
        let milliseconds = libc::c_int::try_from(left.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: `poll` is one valid pollfd for the length of the call.
        match unsafe { libc::poll(&raw mut poll, 1, milliseconds) } {
            0 if deadline.left().is_none() => return Ok(false),
            0 => {}
            told if told > 0 => return Ok(true),
            _ => match io::Error::last_os_error() {
                error if error.kind() == ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

/// Sends one urgent byte (`MSG_OOB`).
///
/// # Errors
/// When the connection is gone.
pub fn send_urgent(socket: &impl AsRawFd, byte: u8) -> io::Result<()> {
    // SAFETY: `byte` is one readable byte during the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), (&raw const byte).cast(), 1, libc::MSG_OOB | libc::MSG_NOSIGNAL) };
    if sent == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes the urgent byte that has arrived.
///
/// # Errors
/// When there is none.
pub fn receive_urgent(socket: &impl AsRawFd) -> io::Result<u8> {
    let mut byte = 0u8;
    // SAFETY: `byte` is one writable byte during the call.
    let received = unsafe { libc::recv(socket.as_raw_fd(), (&raw mut byte).cast(), 1, libc::MSG_OOB) };
    if received == 1 { Ok(byte) } else { Err(io::Error::last_os_error()) }
}

/// From now on every `send` on the socket leaves as datagrams of `bytes` each, the last one shorter (UDP GSO).
///
/// # Errors
/// When the kernel has no GSO (before Linux 4.18).
pub fn cut_sends_into(socket: &UdpSocket, bytes: u16) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, UDP_SEGMENT, &libc::c_int::from(bytes))
}

/// The traffic class, DSCP and ECN, of what the socket sends from now on.
///
/// # Errors
/// When the kernel refuses.
pub fn set_class(socket: &UdpSocket, class: u8) -> io::Result<()> {
    let value = libc::c_int::from(class);
    match socket.local_addr()? {
        SocketAddr::V4(_) => set_option(socket, libc::IPPROTO_IP, libc::IP_TOS, &value),
        SocketAddr::V6(_) => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &value),
    }
}

/// Lets [`receive_class`] see it.
///
/// # Errors
/// When the kernel refuses.
pub fn show_class(socket: &UdpSocket) -> io::Result<()> {
    match socket.local_addr()? {
        SocketAddr::V4(_) => set_option(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, &1),
        SocketAddr::V6(_) => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, &1),
    }
}

/// Receives one datagram: its length, its traffic class and who sent it.
///
/// # Errors
/// When none comes within the socket's timeout.
pub fn receive_class(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, u8, SocketAddr)> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // Aligned as control messages must be.
    let mut control = [0u64; 16];
    // SAFETY: all zeroes is a valid value of this plain type.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control);
    // SAFETY: the storage and everything else that `message` points to outlives the call, which writes an address into it.
    let (received, from) = unsafe {
        SockAddr::try_init(|storage, length| {
            message.msg_name = storage.cast();
            message.msg_namelen = *length;
            let received = libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0);
            *length = message.msg_namelen;
            usize::try_from(received).map_err(|_| io::Error::last_os_error())
        })
    }?;
    let from = from.as_socket().ok_or_else(|| io::Error::other("the kernel did not say the sender"))?;
    // SAFETY: the kernel has filled `control` with whole headers, which the macros walk; data is at least one byte long, and the
    // traffic class an int in the machine's byte order.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_TOS) => return Ok((received, *libc::CMSG_DATA(header), from)),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    let class = libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned();
                    return Ok((received, u8::try_from(class).unwrap_or_default(), from));
                }
                _ => header = libc::CMSG_NXTHDR(&raw const message, header),
            }
        }
    }
    Err(io::Error::other("the kernel did not say the traffic class"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sends_bits_and_pieces_are_seen() {
        let [from, to] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        from.connect(to.local_addr().unwrap()).unwrap();
        show_class(&to).unwrap();
        set_class(&from, 0xba).unwrap();
        cut_sends_into(&from, 4).unwrap();
        from.send(b"abcdefghij").unwrap();
        let mut buffer = [0; 16];
        let pieces = [(); 3].map(|()| receive_class(&to, &mut buffer).unwrap());
        let sender = from.local_addr().unwrap();
        assert_eq!(pieces, [(4, 0xba, sender), (4, 0xba, sender), (2, 0xba, sender)]);
        assert!(!wait_event(&to, libc::POLLIN, Duration::ZERO).unwrap());
    }
}
