//! Many datagrams by one system call, so that the load costs little beside what it measures.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, RawFd};

/// Datagrams read by one call.
pub const BATCH: usize = 64;
/// Room for one datagram.
const ROOM: usize = 2048;
/// Room for datagrams that come, or go, as one.
const JOINED_ROOM: usize = 1 << 16;
/// `CMSG_SPACE` of an `in_pktinfo`, with some to spare.
const CONTROL: usize = 64;

/// Ancillary data of one datagram, aligned as the kernel's header of it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Datagrams that were read, with their senders and the addresses that they were sent to.
pub struct Incoming {
    room: usize,
    bytes: Vec<u8>,
    names: Vec<libc::sockaddr_in>,
    controls: Vec<Control>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Incoming {
    /// Room for a batch of datagrams, or of datagrams that the kernel hands over `joined`: see [`join`].
    pub fn new(joined: bool) -> Self {
        let room = if joined { JOINED_ROOM } else { ROOM };
        // SAFETY: sockaddr_in, iovec and mmsghdr are plain C structures, for which all zeroes are a valid value.
        let (name, vector, header) = unsafe { (zeroed(), zeroed(), zeroed()) };
        Self {
            room,
            bytes: vec![0; room * BATCH],
            names: vec![name; BATCH],
            controls: vec![Control([0; CONTROL]); BATCH],
            vectors: vec![vector; BATCH],
            headers: vec![header; BATCH],
        }
    }

    /// Waits for a datagram and reads it and those that are there already; none if the socket's timeout passes first.
    pub fn receive(&mut self, socket: RawFd) -> io::Result<usize> {
        for index in 0..BATCH {
            let room = &mut self.bytes[index * self.room..][..self.room];
            self.vectors[index] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = (&raw mut self.names[index]).cast();
            header.msg_namelen = length_of::<libc::sockaddr_in>();
            header.msg_iov = &raw mut self.vectors[index];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut self.controls[index]).cast();
            header.msg_controllen = CONTROL;
        }
        // SAFETY: every header points to buffers of `self` with their true lengths, which stay where they are during the call.
        let read = unsafe {
            libc::recvmmsg(socket, self.headers.as_mut_ptr(), BATCH_LENGTH, libc::MSG_WAITFORONE, std::ptr::null_mut())
        };
        match usize::try_from(read) {
            Ok(read) => Ok(read),
            Err(_) => match io::Error::last_os_error() {
                error if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
                error => Err(error),
            },
        }
    }

    /// The datagrams `index` of the last batch: one, or several of one sender that came joined.
    pub fn datagrams(&self, index: usize) -> impl Iterator<Item = &[u8]> {
        let bytes = &self.bytes[index * self.room..][..self.length(index)];
        bytes.chunks(self.segment(index).unwrap_or(bytes.len()).max(1))
    }

    fn length(&self, index: usize) -> usize {
        usize::try_from(self.headers[index].msg_len).unwrap_or(self.room).min(self.room)
    }

    /// The length of each, if they came joined.
    fn segment(&self, index: usize) -> Option<usize> {
        let length: libc::c_int = self.control(index, libc::SOL_UDP, libc::UDP_GRO)?;
        usize::try_from(length).ok()
    }

    /// Who sent the datagram `index`.
    pub fn sender(&self, index: usize) -> SocketAddrV4 {
        let name = &self.names[index];
        SocketAddrV4::new(Ipv4Addr::from_bits(u32::from_be(name.sin_addr.s_addr)), u16::from_be(name.sin_port))
    }

    /// The address that the datagrams `index` were sent to, on a socket of [`tell_destination`].
    pub fn destination(&self, index: usize) -> Option<Ipv4Addr> {
        let info: libc::in_pktinfo = self.control(index, libc::IPPROTO_IP, libc::IP_PKTINFO)?;
        Some(Ipv4Addr::from_bits(u32::from_be(info.ipi_addr.s_addr)))
    }

    /// What the kernel says of the datagrams `index` under `level` and `kind`, which must be a plain C structure.
    fn control<T: Copy>(&self, index: usize, level: libc::c_int, kind: libc::c_int) -> Option<T> {
        let header = &self.headers[index].msg_hdr;
        // SAFETY: the kernel has filled `msg_control` up to `msg_controllen`, which the macros stay within.
        unsafe {
            let mut message = libc::CMSG_FIRSTHDR(header);
            while let Some(found) = message.as_ref() {
                if found.cmsg_level == level && found.cmsg_type == kind {
                    return Some(std::ptr::read_unaligned(libc::CMSG_DATA(message).cast()));
                }
                message = libc::CMSG_NXTHDR(header, message);
            }
        }
        None
    }

    /// Sends the first `count` of the last batch back to where they came from, joined as they came.
    pub fn answer(&mut self, socket: RawFd, count: usize) -> io::Result<()> {
        for index in 0..count {
            self.vectors[index].iov_len = self.length(index);
            let segment = self.segment(index).and_then(|length| u16::try_from(length).ok());
            let header = &mut self.headers[index].msg_hdr;
            header.msg_controllen = 0;
            if let Some(segment) = segment {
                // SAFETY: the control buffer is aligned, and longer than CMSG_SPACE of a u16.
                unsafe { add_control(header, libc::SOL_UDP, libc::UDP_SEGMENT, segment) };
            }
        }
        // SAFETY: every header points to buffers of `self` with their true lengths.
        unsafe { send_all(socket, &mut self.headers[..count]) }
    }
}

/// Datagrams to one target that leave together, each from an address of its own.
pub struct Outgoing {
    target: libc::sockaddr_in,
    size: usize,
    /// Datagrams that leave as one message.
    joined: usize,
    filled: usize,
    bytes: Vec<u8>,
    controls: Vec<Control>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Outgoing {
    /// Room for `most` messages of `joined` datagrams of `size` bytes, which begin as copies of `template`.
    pub fn new(target: SocketAddrV4, size: usize, joined: usize, most: usize, template: &[u8]) -> Self {
        // SAFETY: as in `Incoming::new`.
        let (mut name, vector, header): (libc::sockaddr_in, _, _) = unsafe { (zeroed(), zeroed(), zeroed()) };
        name.sin_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default();
        name.sin_port = target.port().to_be();
        name.sin_addr.s_addr = target.ip().to_bits().to_be();
        Self {
            target: name,
            size,
            joined,
            filled: 0,
            bytes: template[..size].repeat(joined * most),
            controls: vec![Control([0; CONTROL]); most],
            vectors: vec![vector; most],
            headers: vec![header; most],
        }
    }

    /// Adds a message from `source` whose datagrams begin with `heads`, of which there are as many as are joined. There must be
    /// room: see [`Outgoing::is_full`].
    pub fn push<const HEAD: usize>(&mut self, source: Ipv4Addr, heads: impl Iterator<Item = [u8; HEAD]>) {
        let index = self.filled;
        self.filled += 1;
        let length = self.size * self.joined;
        let bytes = &mut self.bytes[index * length..][..length];
        for (datagram, head) in bytes.chunks_mut(self.size).zip(heads) {
            datagram[..HEAD].copy_from_slice(&head);
        }
        self.vectors[index] = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: length };
        let header = &mut self.headers[index].msg_hdr;
        header.msg_name = (&raw mut self.target).cast();
        header.msg_namelen = length_of::<libc::sockaddr_in>();
        header.msg_iov = &raw mut self.vectors[index];
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut self.controls[index]).cast();
        header.msg_controllen = 0;
        let info = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: source.to_bits().to_be() },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        // SAFETY: the control buffer is aligned, and longer than CMSG_SPACE of an in_pktinfo and of a u16 together.
        unsafe {
            add_control(header, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            if self.joined > 1 {
                add_control(header, libc::SOL_UDP, libc::UDP_SEGMENT, u16::try_from(self.size).unwrap_or(u16::MAX));
            }
        }
    }

    pub fn is_full(&self) -> bool {
        self.filled == self.headers.len()
    }

    /// Sends what was added.
    pub fn flush(&mut self, socket: RawFd) -> io::Result<()> {
        let count = std::mem::take(&mut self.filled);
        // SAFETY: `push` has pointed these headers to buffers of `self` with their true lengths.
        unsafe { send_all(socket, &mut self.headers[..count]) }
    }
}

const BATCH_LENGTH: libc::c_uint = 64;
const _: () = assert!(BATCH == 64, "both are the same number");

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default()
}

/// Appends a control message after those that `msg_controllen` covers.
///
/// # Safety
/// `msg_control` must be aligned and have room for it.
unsafe fn add_control<T>(header: &mut libc::msghdr, level: libc::c_int, kind: libc::c_int, value: T) {
    let length = libc::c_uint::try_from(size_of::<T>()).unwrap_or_default();
    // SAFETY: the caller vouches for the room.
    unsafe {
        let message: *mut libc::cmsghdr = header.msg_control.cast::<u8>().add(header.msg_controllen).cast();
        (*message).cmsg_level = level;
        (*message).cmsg_type = kind;
        (*message).cmsg_len = usize::try_from(libc::CMSG_LEN(length)).unwrap_or_default();
        std::ptr::write_unaligned(libc::CMSG_DATA(message).cast(), value);
        header.msg_controllen += usize::try_from(libc::CMSG_SPACE(length)).unwrap_or_default();
    }
}

/// # Safety
/// The headers must point to valid buffers.
unsafe fn send_all(socket: RawFd, mut headers: &mut [libc::mmsghdr]) -> io::Result<()> {
    while !headers.is_empty() {
        let count = libc::c_uint::try_from(headers.len()).unwrap_or(libc::c_uint::MAX);
        // SAFETY: the caller vouches for the headers, of which there are `count`.
        let sent = unsafe { libc::sendmmsg(socket, headers.as_mut_ptr(), count, 0) };
        match usize::try_from(sent) {
            Ok(sent) => headers = &mut headers[sent..],
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                // An earlier datagram met a closed port; the report is read by this failure, and the next call sends.
                error if error.kind() == io::ErrorKind::ConnectionRefused => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

/// Gives the socket buffers of `size`, past the system's limit, which needs root.
pub fn force_buffers(socket: &impl AsRawFd, size: usize) -> io::Result<()> {
    let size = libc::c_int::try_from(size).map_err(io::Error::other)?;
    set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, size)?;
    set(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size)
}

/// Has the socket tell where each datagram was sent to.
pub fn tell_destination(socket: &impl AsRawFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
}

/// Whether the kernel may hand over several datagrams of one sender as one (GRO).
pub fn join(socket: &impl AsRawFd, joined: bool) -> io::Result<()> {
    set(socket, libc::SOL_UDP, libc::UDP_GRO, joined.into())
}

/// Has a socket that is bound to an address only choose its port when it connects, among all that its target leaves free.
pub fn choose_port_late(socket: &impl AsRawFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

fn set(socket: &impl AsRawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: these options take an int, which `value` is and outlives the call.
    let set =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length_of::<libc::c_int>()) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
