//! Many datagrams by one system call: `recvmmsg` into memory that is the worker's for good.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsFd, AsRawFd},
};

use super::ancillary::{self, Ancillary, Notes};

/// Datagrams, or coalesced runs of them, held at once.
pub(crate) const SLOTS: usize = 64;
/// No UDP payload is larger, coalesced or not.
const LARGEST: usize = 1 << 16;
/// From one slot to the next: nine cache lines more than the largest, so that the first bytes of the slots, which are all that small
/// datagrams touch, do not compete for the same few places of a processor's cache.
const STRIDE: usize = LARGEST + 9 * 64;

/// The address of a datagram's peer, as the kernel writes and reads it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) union Peer {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Peer {
    #[allow(clippy::cast_possible_truncation, reason = "28 bytes")]
    pub const SIZE: libc::socklen_t = size_of::<Self>() as libc::socklen_t;

    /// An address to receive into.
    pub fn unknown() -> Self {
        // SAFETY: all zeroes is a valid value of each variant.
        unsafe { std::mem::zeroed() }
    }

    /// The address that the kernel wrote; `None` for another family.
    pub fn address(&self) -> Option<SocketAddr> {
        // SAFETY: every variant begins with the family, and what follows is of the family's variant; all bytes were initialised.
        unsafe {
            match i32::from(self.family) {
                libc::AF_INET => {
                    let ip = Ipv4Addr::from(self.v4.sin_addr.s_addr.to_ne_bytes());
                    Some((ip, u16::from_be(self.v4.sin_port)).into())
                }
                libc::AF_INET6 => {
                    let ip = Ipv6Addr::from(self.v6.sin6_addr.s6_addr);
                    let port = u16::from_be(self.v6.sin6_port);
                    Some(SocketAddrV6::new(ip, port, self.v6.sin6_flowinfo, self.v6.sin6_scope_id).into())
                }
                _ => None,
            }
        }
    }
}

impl From<SocketAddr> for Peer {
    #[allow(clippy::cast_possible_truncation, reason = "numbers of families are small")]
    fn from(address: SocketAddr) -> Self {
        let mut peer = Self::unknown();
        match address {
            SocketAddr::V4(v4) => {
                peer.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
            }
            SocketAddr::V6(v6) => {
                peer.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
            }
        }
        peer
    }
}

/// The slots. What was received stays until the slot is received into again.
pub(crate) struct Batch {
    memory: Vec<u8>,
    peers: Vec<Peer>,
    ancillaries: Vec<Ancillary>,
    /// Point into the three above and into the pieces, none of which ever grows.
    headers: Vec<libc::mmsghdr>,
    /// Slots below it may have been received into.
    written: usize,
    _pieces: Vec<libc::iovec>,
}

/// One slot's datagram, or coalesced run of datagrams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    pub payload: &'a [u8],
    pub notes: Notes,
}

impl Received<'_> {
    /// How many datagrams it is.
    pub fn datagrams(&self) -> usize {
        if self.notes.segment > 0 { self.payload.len().div_ceil(self.notes.segment).max(1) } else { 1 }
    }
}

impl Batch {
    pub fn new() -> Self {
        let mut memory = vec![0; SLOTS * STRIDE];
        let mut peers = vec![Peer::unknown(); SLOTS];
        let mut ancillaries = vec![Ancillary::EMPTY; SLOTS];
        let (bytes, named, beside) = (memory.as_mut_ptr(), peers.as_mut_ptr(), ancillaries.as_mut_ptr());
        // SAFETY: each slot is within its vector.
        let piece = |slot| libc::iovec { iov_base: unsafe { bytes.add(slot * STRIDE) }.cast(), iov_len: LARGEST };
        let mut pieces: Vec<libc::iovec> = (0..SLOTS).map(piece).collect();
        let gathered = pieces.as_mut_ptr();
        let headers = (0..SLOTS).map(|slot| {
            // SAFETY: all zeroes is a valid header: it points at nothing. Each slot is within its vector.
            unsafe {
                let mut header: libc::mmsghdr = std::mem::zeroed();
                header.msg_hdr.msg_name = named.add(slot).cast();
                header.msg_hdr.msg_iov = gathered.add(slot);
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = beside.add(slot).cast();
                header
            }
        });
        let headers = headers.collect();
        Self { memory, peers, ancillaries, headers, written: SLOTS, _pieces: pieces }
    }

    /// Receives up to `most` times into the slots from `first` on, without waiting. How many slots were filled; at least one.
    pub fn receive(&mut self, socket: impl AsFd, first: usize, most: usize) -> io::Result<usize> {
        let headers = &mut self.headers[first..SLOTS.min(first + most)];
        // The kernel shortens the lengths to what it wrote.
        for header in headers.iter_mut().take(self.written.saturating_sub(first)) {
            header.msg_hdr.msg_namelen = Peer::SIZE;
            header.msg_hdr.msg_controllen = Ancillary::room() as _;
        }
        let length = u32::try_from(headers.len()).unwrap_or(0);
        let socket = socket.as_fd().as_raw_fd();
        // SAFETY: the headers point at memory of the lengths that they say, which lives as long as `self` and is borrowed by it alone.
        let filled = unsafe { libc::recvmmsg(socket, headers.as_mut_ptr(), length, libc::MSG_DONTWAIT, std::ptr::null_mut()) };
        let filled = usize::try_from(filled);
        let end = first + length as usize;
        if end >= self.written {
            self.written = first + filled.unwrap_or(0);
        }
        filled.map_err(|_| io::Error::last_os_error())
    }

    /// What is in a slot that [`Batch::receive`] filled.
    pub fn get(&self, slot: usize) -> Received<'_> {
        let header = &self.headers[slot];
        // SAFETY: the kernel wrote the control data of this header, whose memory is there, when it filled the slot.
        let notes = unsafe { ancillary::read(&header.msg_hdr) };
        Received { payload: self.bytes(slot, 0, header.msg_len as usize), notes }
    }

    /// Who sent it; `None` if that is no address of the internet.
    pub fn peer(&self, slot: usize) -> Option<SocketAddr> {
        self.peers[slot].address()
    }

    /// A part of a slot's memory.
    pub fn bytes(&self, slot: usize, from: usize, length: usize) -> &[u8] {
        &self.memory[slot * STRIDE + from..][..length]
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("slots", &self.ancillaries.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn addresses_survive_the_kernel_s_form() {
        for text in ["203.0.113.9:5555", "[2001:db8::9]:53", "[fe80::1%3]:7000"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Peer::from(address).address(), Some(address));
        }
        assert_eq!(Peer::unknown().address(), None);
    }

    #[test]
    fn receives_what_is_there_and_says_from_whom() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let largest = vec![7; 65_507];
        for payload in [&b"one"[..], b"", &largest] {
            sender.send_to(payload, socket.local_addr().unwrap()).unwrap();
        }
        let mut batch = Batch::new();
        assert_eq!(batch.receive(&socket, 60, SLOTS).unwrap(), 3);
        assert_eq!([60, 61, 62].map(|slot| batch.get(slot).payload.len()), [3, 0, 65_507]);
        assert_eq!(batch.get(62).payload, largest);
        assert_eq!(batch.peer(61), sender.local_addr().ok());
        assert_eq!(batch.receive(&socket, 0, 1).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
