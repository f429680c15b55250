//! What the kernel says beside a datagram, and what it is told beside one: segment size, the DSCP and ECN bits, and which port it came to.
//!
//! Generic receive offload (`UDP_GRO`, Linux ≥ 5.0) hands over several datagrams of one flow as one buffer; segmentation offload
//! (`UDP_SEGMENT`, Linux ≥ 4.18) takes such a buffer. Both travel with the size of a datagram; the last one may be shorter.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd},
};

/// Room for the messages below: two of an int or less, of 24 bytes each, and an IPv6 address of 48.
const ROOM: usize = 96;

/// A buffer for ancillary data, aligned as the kernel wants it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(crate) struct Ancillary(pub [MaybeUninit<u8>; ROOM]);

/// What came, or goes, with a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Notes {
    /// Bytes of each datagram in the buffer but the last; 0: it holds one datagram.
    pub segment: usize,
    /// The former type-of-service octet: six bits of DSCP, two of ECN.
    pub tos: u8,
    /// The port that it was sent to, where the socket takes what comes for many; else 0.
    pub port: u16,
}

impl Ancillary {
    pub const EMPTY: Self = Self([MaybeUninit::zeroed(); ROOM]);

    /// Bytes of room, for a header that receives.
    pub const fn room() -> usize {
        ROOM
    }

    /// Writes `notes` for sending to an address of the family at hand; the length to put into the header.
    pub fn write(&mut self, notes: Notes, ipv6: bool) -> usize {
        *self = Self::EMPTY;
        let mut length = 0;
        if notes.segment > 0 {
            // The kernel takes a segment size of 16 bits, which every datagram fits.
            let size = u16::try_from(notes.segment).unwrap_or(u16::MAX);
            length += self.put(length, libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
        }
        if notes.tos > 0 {
            let (level, kind) = if ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) } else { (libc::IPPROTO_IP, libc::IP_TOS) };
            length += self.put(length, level, kind, &i32::from(notes.tos).to_ne_bytes());
        }
        length
    }

    fn put(&mut self, at: usize, level: i32, kind: i32, data: &[u8]) -> usize {
        let size = u32::try_from(data.len()).unwrap_or(0);
        // SAFETY: CMSG_LEN and CMSG_SPACE compute; they touch nothing.
        let (length, space) = unsafe { (libc::CMSG_LEN(size) as usize, libc::CMSG_SPACE(size) as usize) };
        assert!(at + space <= ROOM, "ancillary data beyond its room");
        let header = libc::cmsghdr { cmsg_len: length as _, cmsg_level: level, cmsg_type: kind };
        let start = self.0[at..].as_mut_ptr();
        // SAFETY: `space` bytes from `start` are within the array, as just asserted; `at` is a multiple of the alignment because every
        // space is. The data lies behind the header and before the end of the space.
        unsafe {
            start.cast::<libc::cmsghdr>().write(header);
            let offset = length - data.len();
            std::ptr::copy_nonoverlapping(data.as_ptr(), start.add(offset).cast(), data.len());
        }
        space
    }
}

/// What the kernel wrote into the ancillary data of `header`.
///
/// # Safety
/// `header` is as `recvmsg` left it, and its control pointer and length are of memory that is there.
pub(crate) unsafe fn read(header: &libc::msghdr) -> Notes {
    let mut notes = Notes::default();
    // SAFETY: by the caller's word the control data is as the kernel wrote it; the macros stay within it, and each message is read by the
    // type that its kind has.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = next.as_ref() {
            let data = libc::CMSG_DATA(message);
            match (message.cmsg_level, message.cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    notes.segment = usize::try_from(data.cast::<i32>().read_unaligned()).unwrap_or(0);
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => notes.tos = data.read(),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    notes.tos = u8::try_from(data.cast::<i32>().read_unaligned()).unwrap_or(0);
                }
                (libc::IPPROTO_IP, libc::IP_ORIGDSTADDR) => {
                    notes.port = u16::from_be(data.cast::<libc::sockaddr_in>().read_unaligned().sin_port);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_ORIGDSTADDR) => {
                    notes.port = u16::from_be(data.cast::<libc::sockaddr_in6>().read_unaligned().sin6_port);
                }
                _ => {}
            }
            next = libc::CMSG_NXTHDR(header, message);
        }
    }
    notes
}

fn switch_on(socket: impl AsFd, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or(0);
    // SAFETY: `on` is readable for `length` bytes.
    let result = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const on).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Prepares a UDP socket: the traffic class of what arrives is told, and so are errors, also those that the kernel otherwise hides from a
/// sender: a full queue of a device (`IP_RECVERR`).
pub(crate) fn prepare(socket: impl AsFd, ipv6: bool) -> io::Result<()> {
    let (level, class, errors) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, libc::IPV6_RECVERR)
    } else {
        (libc::IPPROTO_IP, libc::IP_RECVTOS, libc::IP_RECVERR)
    };
    switch_on(&socket, level, class)?;
    switch_on(&socket, level, errors)
}

/// Prepares a UDP socket that takes what comes for many ports: the port of each datagram is told, and the receive buffer is `buffer` bytes
/// whatever `net.core.rmem_max` says, as it holds what many would. Without CAP_NET_ADMIN the kernel still cuts it.
pub(crate) fn prepare_for_many(socket: impl AsFd, ipv6: bool, buffer: usize) -> io::Result<()> {
    let (level, option) =
        if ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVORIGDSTADDR) } else { (libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR) };
    // Err: it stays as it was asked for before.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, buffer);
    switch_on(&socket, level, option)
}

/// Takes the next error off `socket` that came back for a datagram, by ICMP; `None` if there is none.
///
/// It is also what the next call on the socket fails with, unless it is taken first.
pub(crate) fn next_error(socket: impl AsFd) -> Option<io::Error> {
    let mut ancillary = Ancillary::EMPTY;
    let mut byte = [0u8; 1];
    let mut piece = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    loop {
        // SAFETY: all zeroes is a valid header; it then points at memory of the lengths that it says, which outlives the call.
        let header = unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_iov = &raw mut piece;
            header.msg_iovlen = 1;
            header.msg_control = ancillary.0.as_mut_ptr().cast();
            header.msg_controllen = ROOM as _;
            let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
            if libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, flags) < 0 {
                return None;
            }
            header
        };
        // SAFETY: the kernel has just written the control data.
        if let Some(error) = unsafe { extended_error(&header) } {
            return Some(error);
        }
    }
}

/// The error of an ICMP message. Others were told when they happened.
///
/// # Safety
/// As [`read`].
unsafe fn extended_error(header: &libc::msghdr) -> Option<io::Error> {
    // SAFETY: by the caller's word the control data is as the kernel wrote it; these kinds begin with the structure.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = next.as_ref() {
            let kind = (message.cmsg_level, message.cmsg_type);
            if kind == (libc::IPPROTO_IP, libc::IP_RECVERR) || kind == (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) {
                let error = libc::CMSG_DATA(message).cast::<libc::sock_extended_err>().read_unaligned();
                let by_icmp = matches!(error.ee_origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6);
                return by_icmp.then(|| io::Error::from_raw_os_error(i32::try_from(error.ee_errno).unwrap_or(libc::EIO)));
            }
            next = libc::CMSG_NXTHDR(header, message);
        }
    }
    None
}

/// Lets `socket` receive runs of datagrams as one (`UDP_GRO`). A kernel that cannot goes on to hand them over one by one.
pub(crate) fn receive_runs(socket: impl AsFd) {
    if let Err(error) = switch_on(socket, libc::SOL_UDP, libc::UDP_GRO) {
        tracing::debug!(%error, "runs of datagrams are not to be had");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(notes: Notes, ipv6: bool) -> (usize, Notes) {
        let mut ancillary = Ancillary::EMPTY;
        let length = ancillary.write(notes, ipv6);
        // SAFETY: all zeroes is a valid header.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_control = ancillary.0.as_mut_ptr().cast();
        header.msg_controllen = length as _;
        // SAFETY: the control data was written just above.
        (length, unsafe { read(&header) })
    }

    #[test]
    fn what_is_written_is_as_the_kernel_would_write_it() {
        assert_eq!(round(Notes::default(), false), (0, Notes::default()));
        // IP_TOS is sent as an int and received as a byte; on a little-endian host both read the same.
        assert_eq!(
            round(Notes { tos: 0xb9, ..Notes::default() }, false).1.tos,
            if cfg!(target_endian = "little") { 0xb9 } else { 0 }
        );
        assert_eq!(round(Notes { tos: 0xb9, ..Notes::default() }, true).1.tos, 0xb9);
        let (length, _) = round(Notes { segment: 1200, tos: 2, port: 0 }, true);
        assert_eq!(length, 48);
    }

    #[test]
    fn a_socket_for_many_ports_is_told_all_at_once() {
        for ip in ["127.0.0.1", "::1"] {
            let socket = std::net::UdpSocket::bind((ip, 0)).unwrap();
            let (address, ipv6) = (socket.local_addr().unwrap(), ip == "::1");
            prepare(&socket, ipv6).unwrap();
            prepare_for_many(&socket, ipv6, 1 << 20).unwrap();
            receive_runs(&socket);
            let sender = std::net::UdpSocket::bind((ip, 0)).unwrap();
            let (level, class) = if ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) } else { (libc::IPPROTO_IP, libc::IP_TOS) };
            switch_on(&sender, level, class).unwrap();
            // As one message of two segments, which loopback hands on as it is.
            let mut ancillary = Ancillary::EMPTY;
            let control = ancillary.write(Notes { segment: 700, tos: 0, port: 0 }, ipv6);
            let bytes = [7u8; 1400];
            let mut piece = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            sender.connect(address).unwrap();
            // SAFETY: all zeroes is a valid header; it then points at memory of the lengths that it says, which outlives the call.
            let sent = unsafe {
                let mut header: libc::msghdr = std::mem::zeroed();
                header.msg_iov = &raw mut piece;
                header.msg_iovlen = 1;
                header.msg_control = ancillary.0.as_mut_ptr().cast();
                header.msg_controllen = control as _;
                libc::sendmsg(sender.as_raw_fd(), &raw const header, 0)
            };
            assert_eq!(sent, 1400);
            let mut batch = crate::udp::batch::Batch::new();
            assert_eq!(batch.receive(&socket, 0, 1).unwrap(), 1);
            assert_eq!(batch.get(0).notes, Notes { segment: 700, tos: 1, port: address.port() }, "{ip}");
        }
    }
}
