//! Questions to the kernel's tables of links, settings and routes, and the messages that answer them.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use netlink_packet_core::{NLA_HEADER_SIZE, NetlinkBuffer, NlasIterator};

/// `struct nlmsghdr`.
const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST_DUMP: u16 = 0x301; // NLM_F_REQUEST, NLM_F_DUMP
/// `NLM_F_DUMP_INTR`: the table was changed while it was read, and something may be missing.
const INTERRUPTED: u16 = 0x10;
/// How often a table is read that changes meanwhile.
const READINGS: usize = 4;

/// Bytes of notices that may wait, about a kilobyte each: while all routes are read nobody takes them.
const NOTICES: libc::c_int = 8 << 20;

/// As much as the kernel writes at once.
pub(super) const BUFFER: usize = 32 << 10;

/// One message: a notice, or an entry of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    /// An `RTM_*`.
    pub kind: u16,
    /// What is behind the header of all messages.
    pub body: &'a [u8],
    flags: u16,
}

#[cfg(test)]
impl<'a> Message<'a> {
    pub fn new(kind: u16, body: &'a [u8]) -> Self {
        Self { kind, body, flags: 0 }
    }
}

/// A socket that hears of changes to these groups, as bits.
pub(super) fn socket(groups: u32) -> io::Result<OwnedFd> {
    // SAFETY: a system call without arguments in memory.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was made just now and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if groups != 0 {
        let bytes = NOTICES;
        // SAFETY: an integer that outlives the call. Err: without the right to it, the host's default does.
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, (&raw const bytes).cast(), 4) };
    }
    // SAFETY: an all-zero address is one.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::sa_family_t::try_from(libc::AF_NETLINK).unwrap_or_default();
    address.nl_groups = groups;
    let length = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or_default();
    // SAFETY: an address of the length that is given, which outlives the call.
    if unsafe { libc::bind(fd, (&raw const address).cast(), length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// The messages that were received together. What is cut short is left out.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(bytes).ok()?;
        bytes = bytes.get(message.length().next_multiple_of(4) as usize..).unwrap_or_default();
        Some(Message { kind: message.message_type(), body: message.payload(), flags: message.flags() })
    })
}

/// The value of an attribute.
pub(super) fn attribute(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    let found = NlasIterator::new(attributes).map_while(Result::ok).find(|attribute| attribute.kind() == wanted)?;
    let length = found.value_length();
    found.into_inner().get(NLA_HEADER_SIZE..)?.get(..length)
}

/// The value of an attribute that is a number.
pub(super) fn number(attributes: &[u8], wanted: u16) -> Option<u32> {
    Some(u32::from_ne_bytes(attribute(attributes, wanted)?.get(..4)?.try_into().ok()?))
}

/// Asks for a whole table by `kind`, an `RTM_GET*`, with the header of its entries, and hands every entry to `each`, perhaps more than once. What
/// changes faster than it is read is told of by notices.
pub(super) fn dump(kind: u16, header: &[u8], mut each: impl FnMut(Message<'_>)) -> io::Result<()> {
    for _ in 0..READINGS {
        if read_table(kind, header, &mut each)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether it is the whole table.
fn read_table(kind: u16, header: &[u8], mut each: impl FnMut(Message<'_>)) -> io::Result<bool> {
    let mut whole = true;
    let socket = socket(0)?;
    let mut request = vec![0; HEADER];
    request.extend(header);
    request.resize(request.len().next_multiple_of(4), 0);
    let length = u32::try_from(request.len()).unwrap_or_default();
    request[..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    request[6..8].copy_from_slice(&REQUEST_DUMP.to_ne_bytes());
    // SAFETY: bytes that outlive the call, to the kernel: the address of a socket without one.
    if unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut buffer = vec![0; BUFFER];
    loop {
        // SAFETY: as many bytes to write to as are told.
        let read = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let Ok(length) = usize::try_from(read) else {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        };
        for message in messages(&buffer[..length]) {
            whole &= message.flags & INTERRUPTED == 0;
            let code = message.body.get(..4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
            match message.kind {
                DONE if code >= 0 => return Ok(whole),
                DONE | ERROR => return Err(io::Error::from_raw_os_error(-code)),
                _ => each(message),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_are_told_apart_and_what_is_cut_short_ends_them() {
        let mut bytes = Vec::new();
        for (kind, body) in [(16u16, &b"abcde"[..]), (80, b"")] {
            bytes.extend(u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(body);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let kinds = |bytes: &[u8]| messages(bytes).map(|message| (message.kind, message.body.len())).collect::<Vec<_>>();
        assert_eq!(kinds(&bytes), [(16, 5), (80, 0)]);
        assert_eq!(kinds(&bytes[..bytes.len() - 1]), [(16, 5)]);

        let attributes = [5, 0, 1, 0, b'x', 0, 0, 0, 8, 0, 2, 0x80, 7, 0, 0, 0];
        assert_eq!(attribute(&attributes, 1), Some(&b"x"[..]));
        assert_eq!(number(&attributes, 2), Some(u32::from_ne_bytes([7, 0, 0, 0])), "flags apart");
        assert_eq!((number(&attributes, 1), attribute(&attributes, 3)), (None, None));
        assert_eq!(number(&attributes[..14], 2), None);
    }

    #[test]
    fn a_table_is_read_to_its_end_and_a_refusal_is_told() {
        let mut kinds = Vec::new();
        dump(18, &[0; 16], |message| kinds.push(message.kind)).unwrap();
        assert!(!kinds.is_empty() && kinds.iter().all(|&kind| kind == 16), "links: {kinds:?}");
        assert!(dump(9999, &[0; 16], |_| {}).is_err());
    }
}
