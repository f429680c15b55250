//! Many messages out by one system call (`sendmmsg`), with what goes beside them.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use super::{
    ancillary::{Ancillary, Notes},
    batch::{Batch, Peer, SLOTS},
    message::{Message, Run},
};

/// Memory for `sendmmsg`, used again and again.
#[derive(Default)]
pub(crate) struct Sender {
    headers: Vec<libc::mmsghdr>,
    pieces: Vec<libc::iovec>,
    peers: Vec<Peer>,
    ancillaries: Vec<Ancillary>,
}

impl Sender {
    /// Sends the first of `messages`, as many as one call takes, without waiting: how many, at least one, or why the first could not be
    /// sent.
    pub fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        messages: &[Message],
        runs: &[Run],
        batch: &Batch,
        header: &[u8],
    ) -> io::Result<usize> {
        let messages = &messages[..messages.len().min(SLOTS)];
        self.headers.clear();
        self.pieces.clear();
        self.peers.clear();
        self.ancillaries.clear();
        let piece = |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        for message in messages {
            // SAFETY: all zeroes is a valid header: it points at nothing.
            let mut built: libc::mmsghdr = unsafe { std::mem::zeroed() };
            let before = self.pieces.len();
            for run in &runs[message.runs.0..message.runs.1] {
                if run.header > 0 {
                    self.pieces.push(piece(header));
                }
                self.pieces.push(piece(batch.bytes(run.slot, run.from, run.length)));
            }
            built.msg_hdr.msg_iovlen = (self.pieces.len() - before) as _;
            let mut ancillary = Ancillary::EMPTY;
            let segment = if message.datagrams > 1 { message.size } else { 0 };
            if segment > 0 || message.tos > 0 {
                let notes = Notes { segment, tos: message.tos, port: 0 };
                built.msg_hdr.msg_controllen = ancillary.write(notes, message.ipv6) as _;
            }
            self.ancillaries.push(ancillary);
            if message.to.is_some() {
                built.msg_hdr.msg_namelen = Peer::SIZE;
            }
            self.peers.push(message.to.map_or_else(Peer::unknown, Peer::from));
            self.headers.push(built);
        }
        // Only now, when nothing is pushed any more, do addresses stay.
        let (mut piece, peers, ancillaries) = (self.pieces.as_mut_ptr(), self.peers.as_mut_ptr(), self.ancillaries.as_mut_ptr());
        for (index, built) in self.headers.iter_mut().enumerate() {
            // SAFETY: there is a peer and an ancillary for each header, and the pieces were pushed header by header, as many as it says.
            unsafe {
                built.msg_hdr.msg_iov = piece;
                piece = piece.add(built.msg_hdr.msg_iovlen as _);
                if built.msg_hdr.msg_namelen > 0 {
                    built.msg_hdr.msg_name = peers.add(index).cast();
                }
                if built.msg_hdr.msg_controllen > 0 {
                    built.msg_hdr.msg_control = ancillaries.add(index).cast();
                }
            }
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let socket = socket.as_raw_fd();
        // SAFETY: the headers point at memory of the lengths that they say: vectors of `self`, and bytes of `batch` and `header`, all of
        // which are borrowed until after the call and not written to by it.
        let sent = unsafe {
            match &mut self.headers[..] {
                // One is common, and cheaper by itself.
                [one] => i32::from(libc::sendmsg(socket, &raw const one.msg_hdr, flags) >= 0) * 2 - 1,
                all => libc::sendmmsg(socket, all.as_mut_ptr(), u32::try_from(all.len()).unwrap_or(0), flags),
            }
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}
