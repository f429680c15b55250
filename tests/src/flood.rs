//! Floods, and the clients that behave meanwhile.
//!
//! Spoofed packets come from 198.19.0.0/16, which no host of the lab has: whatever answers them goes to the client's namespace and ends
//! there. A flood is paced by the clock, so that it is the same flood on a slow machine.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::clients::TcpSession;
use crate::datagrams::{any, bind};
use crate::lab::Namespace;
use crate::wait::{now, pass, wait_until};
use crate::{Failure, Result};

/// How long an honest client waits.
const LIMIT: Duration = Duration::from_secs(5);
/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(2);
/// What honest datagrams begin with, and all others do not.
const HONEST: &[u8] = b"honest";
/// Of a message of an honest client.
const MESSAGE: [u8; 16] = *b"honest message..";
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const IP_HEADER: usize = 20;

/// The spoofed source of packet `number`: 1,048,576 and more different ones.
pub fn source(number: u64) -> SocketAddrV4 {
    let [.., port, high, low] = number.to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(198, 19, high, low), 1024 + u16::from(port))
}

/// A TCP packet that asks for a connection.
pub fn syn(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let mut packet = header(from, to, libc::IPPROTO_TCP, TCP_HEADER);
    let mut tcp = [0u8; TCP_HEADER];
    tcp[..2].copy_from_slice(&from.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&from.ip().octets());
    // Five words of header; SYN; a window.
    tcp[12..16].copy_from_slice(&[0x50, 0x02, 0xff, 0xff]);
    let pseudo = [&from.ip().octets()[..], &to.ip().octets(), &[0, 6, 0, 20]].concat();
    let sum = checksum(&[&pseudo, &tcp[..]].concat());
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    packet.extend(tcp);
    packet
}

/// A datagram, without the checksum that IPv4 does not require.
pub fn datagram(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mut packet = header(from, to, libc::IPPROTO_UDP, UDP_HEADER + payload.len());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(u16::try_from(UDP_HEADER + payload.len()).unwrap_or_default().to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// The kernel fills in identification and checksum.
fn header(from: SocketAddrV4, to: SocketAddrV4, protocol: libc::c_int, length: usize) -> Vec<u8> {
    let [high, low] = u16::try_from(IP_HEADER + length).unwrap_or_default().to_be_bytes();
    let [.., protocol] = protocol.to_be_bytes();
    let mut packet = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet
}

/// The Internet checksum.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&byte| u32::from(byte))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [.., high, low] = (!sum).to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// A running flood. Dropping it ends it.
pub struct Flood {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Duration>>>,
}

impl Flood {
    /// Sends `count` packets from `namespace`, `rate` a second; number `n` is `packet(n)`.
    ///
    /// # Errors
    /// Without root.
    pub fn start(namespace: &Namespace, rate: u32, count: u64, packet: impl Fn(u64) -> Vec<u8> + Send + 'static) -> Result<Self> {
        // The kernel does not look at the port of a raw socket's target, and takes headers from whoever says so (IPPROTO_RAW).
        let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)));
        let socket = namespace.enter(open).map_err(|error| Failure::new("open", "a raw socket", error, "run the lab as root"))?;
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, stopped) = (Arc::clone(&sent), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let begin = now();
            for number in 0..count {
                while begin.elapsed().as_secs_f64() * f64::from(rate) < f64::from(u32::try_from(number).unwrap_or(u32::MAX)) {
                    pass(TICK);
                }
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let packet = packet(number);
                let to = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
                socket.send_to(&packet, &SockAddr::from(SocketAddrV4::new(to, 0)))?;
                counter.store(number + 1, Ordering::Relaxed);
            }
            stopped.store(true, Ordering::Relaxed);
            Ok(begin.elapsed())
        });
        Ok(Self { sent, stop, thread: Some(thread) })
    }

    /// Whether it still sends.
    pub fn runs(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// How many packets it has sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it and returns how many packets it has sent, and how many that was a second.
    ///
    /// # Errors
    /// When a packet could not be sent.
    pub fn finish(mut self) -> Result<(u64, f64)> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let failed = |error| Failure::new("send", "a spoofed packet", error, "see the routes of the client's namespace");
        let took = ended.transpose().map_err(failed)?.unwrap_or_default();
        // Counts of a test are far below the limits of both types.
        Ok((self.sent(), self.sent() as f64 / took.as_secs_f64()))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Err: the thread panicked, which the test's output says.
            let _ = thread.join();
        }
    }
}

/// Answers honest datagrams and no others, until it is dropped.
pub struct HonestServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HonestServer {
    /// Serves `address` in `namespace`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let socket = namespace.enter(|| bind(address))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let looks = socket.set_read_timeout(Some(Duration::from_millis(50)));
        looks.map_err(|error| Failure::new("use", address, error, "this is a fault of the test"))?;
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                if buffer[..length].starts_with(HONEST) {
                    // With the port that it came from, which tells one flow of the edge from another.
                    let _ = socket.send_to(&from.port().to_be_bytes(), from);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for HonestServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Err: the thread panicked, which the test's output says.
            let _ = thread.join();
        }
    }
}

/// Flows that were there before the flood and go on at their own pace, and what they have said and heard.
pub struct Live {
    udp: Vec<(UdpSocket, Option<[u8; 2]>)>,
    tcp: Vec<TcpStream>,
    /// Messages sent since the last [`Live::fresh`].
    pub sent: u64,
    /// Answers to them.
    pub answered: u64,
    /// Flows whose connection broke or whose datagrams reached the endpoint by another flow than before.
    pub lost: Vec<String>,
}

impl Live {
    /// `count` flows of each protocol to `target`, each answered once.
    ///
    /// # Errors
    /// When one is not.
    pub fn begin(namespace: &Namespace, target: SocketAddr, count: usize) -> Result<Self> {
        let open = |_| -> Result<_> {
            let udp = bind(any(target.ip()))?;
            let session = TcpSession::open(None, target, LIMIT)?;
            let tcp = udp.connect(target).and_then(|()| udp.set_nonblocking(true)).and_then(|()| session.stream().try_clone());
            let tcp = tcp.and_then(|tcp| tcp.set_nonblocking(true).map(|()| tcp));
            Ok(((udp, None), tcp.map_err(|error| Failure::new("begin", "a live flow", error, "see the edge's log"))?))
        };
        let flows: Result<Vec<_>> = namespace.enter(|| (0..count).map(open).collect());
        let (udp, tcp) = flows?.into_iter().unzip();
        let mut live = Self { udp, tcp, sent: 0, answered: 0, lost: Vec::new() };
        live.talk();
        live.settle(1.0)?;
        Ok(live)
    }

    /// Begins to count anew.
    pub fn fresh(&mut self) {
        (self.sent, self.answered) = (0, 0);
    }

    /// One message on each flow.
    pub fn talk(&mut self) {
        for (socket, _) in &self.udp {
            // A full buffer is a message less, as in a client that is too fast.
            self.sent += u64::from(socket.send(&MESSAGE).is_ok());
        }
        for mut stream in &self.tcp {
            // A buffer that takes a part only is full of what nobody answers, which is told as a loss too.
            match stream.write_all(&MESSAGE) {
                Ok(()) => self.sent += 1,
                Err(error) => self.lost.push(format!("a connection: {error}")),
            }
        }
        self.listen();
    }

    /// Takes the answers that have come.
    pub fn listen(&mut self) {
        let mut answer = [0; 2];
        for (socket, flow) in &mut self.udp {
            while let Ok(2) = socket.recv(&mut answer) {
                self.answered += 1;
                if *flow.get_or_insert(answer) != answer {
                    self.lost.push(format!("a UDP flow: the edge's port was {flow:?} and is {answer:?}"));
                    *flow = Some(answer);
                }
            }
        }
        let mut buffer = [0; 4096];
        for mut stream in &self.tcp {
            loop {
                match stream.read(&mut buffer) {
                    Ok(0) => break self.lost.push("a connection: it ended".into()),
                    Ok(read) => self.answered += (read / MESSAGE.len()) as u64,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => break self.lost.push(format!("a connection: {error}")),
                }
            }
        }
    }

    /// Waits until `share` of all messages are answered.
    ///
    /// # Errors
    /// When they are not.
    pub fn settle(&mut self, share: f64) -> Result<()> {
        // Counts of a test are far below the limits of both types.
        let part = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        wait_until("the answers that live clients are owed", LIMIT, || {
            self.listen();
            part(self.answered) >= share * part(self.sent)
        })
        .map(drop)
        .map_err(|failure| failure.in_place(format_args!("{} of {} answered", self.answered, self.sent)))
    }
}

/// Clients that come in the middle of it. Each sends one datagram, once.
pub struct Newcomers {
    target: SocketAddr,
    waiting: Vec<UdpSocket>,
    /// How many have come.
    pub came: usize,
    /// How many were answered.
    pub served: usize,
}

impl Newcomers {
    /// Nobody yet.
    pub fn to(target: SocketAddr) -> Self {
        Self { target, waiting: Vec::new(), came: 0, served: 0 }
    }

    /// One comes, from a port of its own.
    ///
    /// # Errors
    /// When the kernel refuses it a socket.
    pub fn come(&mut self, namespace: &Namespace) -> Result<()> {
        let socket = namespace.enter(|| bind(any(self.target.ip())))?;
        let sent = socket.set_nonblocking(true).and_then(|()| socket.send_to(&MESSAGE, self.target));
        sent.map_err(|error| Failure::new("send to", self.target, error, "see the client's namespace"))?;
        self.waiting.push(socket);
        self.came += 1;
        Ok(())
    }

    /// Takes the answers that have come.
    pub fn listen(&mut self) {
        self.waiting.retain(|socket| socket.recv(&mut [0; 2]).is_err());
        self.served = self.came - self.waiting.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_packets_have_a_million_sources() {
        let sources: std::collections::BTreeSet<_> = (0..1_000_000).step_by(97).map(source).collect();
        assert_eq!(sources.len(), 1_000_000usize.div_ceil(97));
        assert!(sources.iter().all(|source| source.ip().octets()[..2] == [198, 19]));
    }

    #[test]
    fn a_packet_with_its_checksum_sums_up_to_nothing() {
        let packet = syn(source(70_000), SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 7000));
        let summed = [&packet[12..20], &[0, 6, 0, 20], &packet[20..]].concat();
        assert_eq!((packet.len(), checksum(&summed)), (40, 0));
    }
}
