use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

use super::*;
use crate::{
    poll::FlowId,
    udp::{
        ancillary::{Ancillary, Notes, receive_runs},
        message::Offload,
    },
};

/// Notes what it is told.
#[derive(Default)]
struct Notebook {
    told: Vec<(usize, usize, bool)>,
    refused: Vec<usize>,
    came_back: usize,
}

impl Clerk for Notebook {
    fn told(&mut self, message: &Message, sent: io::Result<()>) {
        self.told.push((message.datagrams, message.payload(), sent.is_ok()));
    }

    fn refused(&mut self, message: &Message, _: &io::Error) {
        self.refused.push(message.size);
    }

    fn came_back(&mut self, _: io::Error) {
        self.came_back += 1;
    }
}

/// Two ends of a way on loopback, and what goes through a [`Mail`] between them.
struct Way {
    mail: Mail,
    sender: Sender,
    batch: Batch,
    input: UdpSocket,
    source: UdpSocket,
    output: UdpSocket,
    sink: UdpSocket,
}

impl Way {
    fn new() -> Self {
        let [input, source, output, sink] = [(); 4].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        for socket in [&input, &sink] {
            socket2::SockRef::from(socket).set_recv_buffer_size(8 << 20).unwrap();
            socket.set_nonblocking(true).unwrap();
        }
        source.connect(input.local_addr().unwrap()).unwrap();
        Self { mail: Mail::default(), sender: Sender::default(), batch: Batch::new(), input, source, output, sink }
    }

    /// Receives `datagrams` as a worker does and sends them on; what came out, and in how many messages.
    fn carry(&mut self, datagrams: &[Vec<u8>], header: &[u8], every: bool, offload: Offload) -> (Vec<Vec<u8>>, usize) {
        for datagram in datagrams {
            self.source.send(datagram).unwrap();
        }
        let filled = self.batch.receive(&self.input, 0, SLOTS).unwrap();
        let to = self.sink.local_addr().ok();
        let mut introduced = false;
        for slot in 0..filled {
            let length = if introduced && !every { 0 } else { header.len() };
            introduced = true;
            let postage = Postage { header: length, every, offload, ..postage(to) };
            self.mail.put(postage, slot, self.batch.get(slot));
        }
        let mut book = Notebook::default();
        self.mail.send(&mut self.sender, &self.output, &self.batch, header, &mut book);
        assert!(self.mail.is_empty() && book.came_back == 0 && book.told.iter().all(|told| told.2));
        let (sent, bytes) = book.told.iter().fold((0, 0), |(sent, bytes), told| (sent + told.0, bytes + told.1));
        assert_eq!((sent, bytes), (datagrams.len(), datagrams.iter().map(Vec::len).sum()), "what is told is what was given");
        let messages = book.told.len();
        let mut buffer = vec![0; 1 << 16];
        let mut out = Vec::new();
        while let Ok(length) = self.sink.recv(&mut buffer) {
            out.push(buffer[..length].to_vec());
        }
        (out, messages)
    }
}

fn postage(to: Option<SocketAddr>) -> Postage {
    let offload = Offload::default();
    Postage { flow: FlowId::default(), to, ipv6: false, tos: 0, header: 0, every: false, offload }
}

fn datagrams(sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut rng = fastrand::Rng::with_seed(9);
    sizes.iter().map(|&size| std::iter::repeat_with(|| rng.u8(..)).take(size).collect()).collect()
}

#[test]
fn datagrams_of_one_size_leave_as_one_and_arrive_as_they_were() {
    let mut way = Way::new();
    for (sizes, expected) in [
        (vec![100; 16], 1),
        (vec![1200; 60], 2), // 54 of them fill a message
        (vec![8; 64], 1),
        (vec![100, 100, 40, 100, 100], 2), // a shorter one is the last
        (vec![40, 100], 2),
        (vec![0, 0, 5, 0], 4),
        (vec![65_507, 1], 2),
    ] {
        let given = datagrams(&sizes);
        let (out, messages) = way.carry(&given, &[], false, Offload::default());
        assert_eq!(out, given, "{sizes:?}");
        assert_eq!(messages, expected, "{sizes:?}");
    }
}

#[test]
fn runs_that_came_as_one_go_on_as_one() {
    let mut way = Way::new();
    receive_runs(&way.input);
    let given = datagrams(&[&[900; 20][..], &[300]].concat());
    // The source sends them as one run, which loopback carries as it is.
    let run: Vec<u8> = given.concat();
    let mut ancillary = Ancillary::EMPTY;
    let written = ancillary.write(Notes { segment: 900, ..Notes::default() }, false);
    let mut piece = libc::iovec { iov_base: run.as_ptr().cast_mut().cast(), iov_len: run.len() };
    // SAFETY: all zeroes is a valid header; it then points at `piece` and `ancillary`, which outlive the call.
    let sent = unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &raw mut piece;
        header.msg_iovlen = 1;
        header.msg_control = ancillary.0.as_mut_ptr().cast();
        header.msg_controllen = written as _;
        libc::sendmsg(way.source.as_raw_fd(), &raw const header, 0)
    };
    assert_eq!(usize::try_from(sent).unwrap(), run.len());
    assert_eq!(way.batch.receive(&way.input, 0, SLOTS).unwrap(), 1);
    assert_eq!(way.batch.get(0).datagrams(), 21);
    way.mail.put(postage(way.sink.local_addr().ok()), 0, way.batch.get(0));
    let mut book = Notebook::default();
    way.mail.send(&mut way.sender, &way.output, &way.batch, &[], &mut book);
    assert_eq!(book.told, [(21, run.len(), true)]);
    let mut buffer = [0; 2000];
    let out: Vec<Vec<u8>> =
        std::iter::from_fn(|| way.sink.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec())).collect();
    assert_eq!(out, given);
}

#[test]
fn headers_stand_where_they_belong() {
    let mut way = Way::new();
    let given = datagrams(&[100, 100, 100, 40, 100, 0, 100]);
    let header = b"HEADER";
    let with = |datagram: &Vec<u8>| [&header[..], datagram].concat();
    let (first, _) = way.carry(&given, header, false, Offload::default());
    assert_eq!(first, [&[with(&given[0])], &given[1..]].concat());
    let mut none = Offload::default();
    none.refused(10, &io::Error::from_raw_os_error(libc::EIO));
    for offload in [Offload::default(), none] {
        let (every, _) = way.carry(&given, header, true, offload);
        assert_eq!(every, given.iter().map(with).collect::<Vec<_>>());
    }
}

#[test]
fn what_the_way_does_not_take_as_one_is_taken_apart_in_order() {
    // Without checksums the kernel splits nothing.
    let given = datagrams(&[100, 100, 0, 100, 100, 40]);
    for (header, every) in [(&b""[..], false), (b"HEADER", true), (b"HEADER", false)] {
        let mut way = Way::new();
        let on: libc::c_int = 1;
        let length = libc::socklen_t::try_from(size_of_val(&on)).unwrap();
        // SAFETY: `on` is readable for `length` bytes.
        let set = unsafe {
            libc::setsockopt(way.output.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, (&raw const on).cast(), length)
        };
        assert_eq!(set, 0);
        let (out, messages) = way.carry(&given, header, every, Offload::default());
        let expected = given.iter().enumerate().map(|(index, datagram)| {
            let header = if index > 0 && !every { &[][..] } else { header };
            [header, datagram].concat()
        });
        assert_eq!(out, expected.collect::<Vec<_>>());
        assert_eq!(messages, given.len(), "each is told by itself");
    }
}

#[test]
fn refusals_teach_what_not_to_try_again() {
    let error = io::Error::from_raw_os_error;
    let mut offload = Offload::default();
    assert!(offload.takes(65_507));
    offload.refused(1472, &error(libc::EMSGSIZE));
    assert!(offload.takes(1471) && !offload.takes(1472));
    offload.refused(2000, &error(libc::EINVAL));
    assert!(offload.takes(1471), "a larger one teaches nothing");
    offload.refused(10, &error(libc::EIO));
    assert!(!offload.takes(1), "the device cannot");
}
