//! As many clients as there are addresses and ports, on one device and without sockets.
//!
//! Client `n` is [`source`]`(n)`. Its datagrams are frames written by hand, and the answers are read as they arrive at the
//! device, before the clients' host could say that it has no such address.

use std::io;
use std::mem;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::datagrams::bind;
use crate::flood::{checksum, datagram, source};
use crate::frames::{Device, Mac};
use crate::lab::Namespace;
use crate::wait::now;
use crate::{Failure, Result, sockets};

/// Datagrams on their way at once: fewer than a processor's queue of received packets holds (`net.core.netdev_max_backlog`, 1,000).
const MOST_UNDERWAY: usize = 512;
/// Datagrams in one call.
const BATCH: u32 = 64;
/// Nothing has come for this long: what is underway is lost.
const QUIET: Duration = Duration::from_secs(1);
/// An IPv4 header, a UDP header and what [`Answerer`] says.
const ANSWER: usize = 20 + 8 + 2;

/// The clients.
pub struct Fleet {
    device: Device,
    ears: Socket,
    macs: [Mac; 2],
    target: SocketAddrV4,
    round: u8,
    /// Who answered each client last, and when; nothing if nobody did.
    pub answers: Vec<Option<(u8, Instant)>>,
}

impl Fleet {
    /// `clients` clients of `target` behind `device` of `namespace`, on whose link the edge is `edge`.
    ///
    /// # Errors
    /// Without root.
    pub fn new(namespace: &Namespace, device: &str, edge: Mac, target: SocketAddrV4, clients: usize) -> Result<Self> {
        let device = Device::open(namespace, device)?;
        // Of one protocol, so that nothing that leaves is heard.
        let protocol = Protocol::from(libc::c_int::from(u16::try_from(libc::ETH_P_IP).unwrap_or_default().to_be()));
        let ears = namespace.enter(|| -> io::Result<Socket> {
            let ears = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
            sockets::force_receive_buffer(&ears, 256 << 20)?;
            ears.set_nonblocking(true)?;
            Ok(ears)
        });
        let ears = ears.map_err(|error| Failure::new("open", "a packet socket", error, "run the lab as root"))?;
        let macs = [edge, device.mac];
        Ok(Self { device, ears, macs, target, round: 0, answers: vec![None; clients] })
    }

    /// Each of `clients` sends one datagram, with so many underway at once as everything between can hold, and hears the answer. Returns how
    /// many were not answered.
    ///
    /// # Errors
    /// When the device fails.
    pub fn ask(&mut self, clients: &[usize]) -> Result<usize> {
        self.round = self.round.wrapping_add(1);
        let (mut sent, mut heard, mut since) = (0, 0, now());
        while heard < clients.len() && since.elapsed() < QUIET {
            let room = MOST_UNDERWAY.saturating_sub(sent - heard).min(clients.len() - sent);
            let batch = BATCH as usize;
            if room >= batch || (room > 0 && sent + room == clients.len()) {
                let end = sent + room.min(batch);
                self.send(&clients[sent..end])?;
                sent = end;
            }
            let came = self.listen()?;
            if came > 0 {
                (heard, since) = (heard + came, now());
            }
        }
        Ok(clients.len() - heard)
    }

    /// Each of `clients` sends one datagram. Answers are to be taken by [`Fleet::listen`].
    ///
    /// # Errors
    /// When the device fails.
    pub fn send(&self, clients: &[usize]) -> Result<()> {
        let frames: Vec<_> = clients.iter().map(|&client| self.frame(client)).collect();
        let frames: Vec<_> = frames.iter().map(Vec::as_slice).collect();
        let sent = self.device.send_all(&frames);
        sent.map_err(|error| Failure::new("send", "frames of many clients", error, "see the client's namespace"))
    }

    fn frame(&self, client: usize) -> Vec<u8> {
        let mut packet = datagram(source(client as u64), self.target, &[self.round]);
        let sum = checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        [&self.macs[0][..], &self.macs[1], &[8, 0], &packet].concat()
    }

    /// Takes the answers that have come, and returns how many were to the last question.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn listen(&mut self) -> Result<usize> {
        let mut buffers = [[0u8; ANSWER]; BATCH as usize];
        let mut parts = buffers.each_mut().map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: ANSWER });
        let mut messages = parts.each_mut().map(|part| {
            // SAFETY: all zeroes is a valid message of this plain type.
            let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message
        });
        // SAFETY: everything that the messages point to outlives the call, which writes into the buffers alone.
        let came = unsafe {
            libc::recvmmsg(self.ears.as_raw_fd(), messages.as_mut_ptr(), BATCH, libc::MSG_DONTWAIT, std::ptr::null_mut())
        };
        let came = match usize::try_from(came) {
            Ok(came) => came,
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                let cure = "see the client's namespace";
                return Err(Failure::new("receive", "answers to many clients", io::Error::last_os_error(), cure));
            }
        };
        let at = now();
        Ok(buffers[..came].iter().filter(|answer| self.note(answer, at)).count())
    }

    /// Whether this is an answer to the last question.
    fn note(&mut self, packet: &[u8; ANSWER], at: Instant) -> bool {
        let from = (&packet[12..16], &packet[20..22]);
        if packet[9] != 17 || from != (&self.target.ip().octets()[..], &self.target.port().to_be_bytes()[..]) {
            return false;
        }
        let port = u16::from_be_bytes([packet[22], packet[23]]);
        let client = usize::from(port - 1024) << 16 | usize::from(u16::from_be_bytes([packet[18], packet[19]]));
        self.answers[client] = Some((packet[29], at));
        packet[28] == self.round
    }
}

/// An endpoint that answers from one socket with what it was asked and its name, until it is dropped.
pub struct Answerer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Answerer {
    /// Serves `address` in `namespace`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(namespace: &Namespace, name: u8, address: SocketAddr) -> Result<Self> {
        let socket = namespace.enter(|| bind(address))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let looks = socket.set_read_timeout(Some(Duration::from_millis(50)));
        looks.map_err(|error| Failure::new("use", address, error, "this is a fault of the test"))?;
        let thread = std::thread::spawn(move || answer(&socket, name, &stopped));
        Ok(Self { stop, thread: Some(thread) })
    }
}

fn answer(socket: &UdpSocket, name: u8, stop: &AtomicBool) {
    let mut asked = [0; 1];
    while !stop.load(Ordering::Relaxed) {
        // Err: nothing has come.
        if let Ok((_, from)) = socket.recv_from(&mut asked) {
            let _ = socket.send_to(&[asked[0], name], from);
        }
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Err: the thread panicked, which the test's output says.
            let _ = thread.join();
        }
    }
}
