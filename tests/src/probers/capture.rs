//! What really arrives at the client: a packet socket that sees every packet before the client's kernel judges it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::Namespace;
use crate::{Failure, Result};

/// How often the capture looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);
/// Room for the packets of many seconds: none may be missed.
const BUFFER_BYTES: usize = 64 << 20;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// A running capture. Dropping it ends it.
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Wire>>>,
}

/// What a capture saw of TCP, UDP and answers to pings. Everything else on the wire is not a reply of an edge.
#[derive(Debug, Clone, Default)]
pub struct Wire {
    /// Packets from the static IPs.
    pub packets: usize,
    /// Answers to pings among them.
    pub pongs: usize,
    /// Bytes that those of UDP carried. One packet may be several datagrams, on its way between devices that need not cut it.
    pub udp_bytes: usize,
    /// Packets from elsewhere: how many from each address and port.
    pub foreign: Vec<(SocketAddr, usize)>,
    /// Packets for which the socket had no room.
    pub missed: u32,
}

impl Capture {
    /// Watches what arrives in `namespace`, where everything should come from one of `sources`.
    ///
    /// # Errors
    /// Without root.
    pub fn start(namespace: &Namespace, sources: &[SocketAddr]) -> Result<Self> {
        let socket = namespace.enter(open).map_err(|error| cannot("open", &error))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, sources) = (Arc::clone(&stop), sources.iter().map(SocketAddr::ip).collect());
        let thread = std::thread::spawn(move || watch(&socket, &sources, &stopped));
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends the capture and says what it saw.
    ///
    /// # Errors
    /// When it could not read.
    pub fn stop(mut self) -> Result<Wire> {
        self.end().unwrap_or_else(|| Ok(Wire::default())).map_err(|error| cannot("read", &error))
    }

    fn end(&mut self) -> Option<io::Result<Wire>> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take()?.join();
        Some(ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Err: the thread panicked, which the test's output says.
            let _ = thread.join();
        }
    }
}

fn cannot(operation: &str, error: &io::Error) -> Failure {
    Failure::new(operation, "a packet socket", error, "run the lab as root")
}

/// Of every interface and protocol; each packet begins with its IP header.
fn open() -> io::Result<Socket> {
    let protocol = i32::from(u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be());
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(protocol)))?;
    // Past the customary limit, which needs root as the socket itself does.
    let size = libc::c_int::try_from(BUFFER_BYTES).unwrap_or(libc::c_int::MAX);
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &size)?;
    socket.set_read_timeout(Some(LOOK))?;
    Ok(socket)
}

fn set_option<T>(socket: &Socket, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(mem::size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the value is valid for `length` bytes during the call.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn watch(socket: &Socket, sources: &BTreeSet<IpAddr>, stop: &AtomicBool) -> io::Result<Wire> {
    let mut wire = Wire::default();
    let mut foreign = BTreeMap::new();
    let mut buffer = [0; 2048];
    loop {
        match receive(socket, &mut buffer) {
            Ok(Some(length)) => match reply(&buffer[..length]) {
                Some((from, protocol, bytes)) if sources.contains(&from.ip()) => {
                    wire.packets += 1;
                    wire.udp_bytes += bytes;
                    wire.pongs += usize::from(protocol == ICMP || protocol == ICMPV6);
                }
                Some((from, ..)) => *foreign.entry(from).or_default() += 1,
                None => {}
            },
            Ok(None) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    wire.foreign = foreign.into_iter().collect();
    wire.missed = missed(socket)?;
    Ok(wire)
}

/// The length of the next packet; nothing for one that leaves.
fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    // SAFETY: all zeroes is a valid address of this plain type.
    let mut from: libc::sockaddr_ll = unsafe { mem::zeroed() };
    let mut length = libc::socklen_t::try_from(mem::size_of_val(&from)).map_err(io::Error::other)?;
    // SAFETY: buffer and address are valid for the lengths given, and only written during the call.
    let read = unsafe {
        let address = std::ptr::from_mut(&mut from).cast();
        libc::recvfrom(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0, address, &raw mut length)
    };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    Ok((from.sll_pkttype != libc::PACKET_OUTGOING).then_some(read))
}

/// How many packets found no room.
fn missed(socket: &Socket) -> io::Result<u32> {
    #[repr(C)]
    struct Statistics {
        packets: u32,
        drops: u32,
    }
    let mut statistics = Statistics { packets: 0, drops: 0 };
    let mut length = libc::socklen_t::try_from(mem::size_of::<Statistics>()).map_err(io::Error::other)?;
    // SAFETY: the value is valid for `length` bytes during the call; the kernel writes two integers.
    let got = unsafe {
        let value = std::ptr::from_mut(&mut statistics).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, value, &raw mut length)
    };
    if got == 0 { Ok(statistics.drops) } else { Err(io::Error::last_os_error()) }
}

/// Where a TCP or UDP packet or the answer to a ping comes from, its protocol, and the bytes that it carries if that is UDP. Nothing for anything else, such as an
/// ICMP error, which the router on the way may send in its own name.
fn reply(packet: &[u8]) -> Option<(SocketAddr, u8, usize)> {
    let (ip, protocol, payload): (IpAddr, u8, &[u8]) = match packet.first()? >> 4 {
        4 => {
            let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            (source.into(), *packet.get(9)?, packet.get(usize::from(packet[0] & 15) * 4..)?)
        }
        6 => {
            let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            (source.into(), *packet.get(6)?, packet.get(40..)?)
        }
        _ => return None,
    };
    let port = match protocol {
        TCP | UDP => u16::from_be_bytes(payload.get(..2)?.try_into().ok()?),
        ICMP if payload.first() == Some(&0) => 0,
        ICMPV6 if payload.first() == Some(&129) => 0,
        _ => return None,
    };
    // The header of UDP counts itself: eight bytes.
    let length = (protocol == UDP).then(|| payload.get(4..6)?.try_into().ok().map(u16::from_be_bytes)).flatten();
    Some((SocketAddr::new(ip, port), protocol, length.map_or(0, |length| usize::from(length).saturating_sub(8))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x46; 24];
        packet[9] = protocol;
        packet[12..16].copy_from_slice(&[198, 18, 0, 1]);
        packet.extend_from_slice(payload);
        packet
    }

    #[test]
    fn replies_are_told_from_everything_else() {
        let seven = Some(("198.18.0.1:7000".parse().unwrap(), UDP, 72));
        assert_eq!(reply(&ipv4(UDP, &[0x1b, 0x58, 0, 1, 0, 80])), seven);
        assert_eq!(reply(&ipv4(ICMP, &[0])), Some(("198.18.0.1:0".parse().unwrap(), ICMP, 0)));
        assert_eq!(reply(&ipv4(ICMP, &[3])), None, "an error of the router's");
        let mut packet = vec![0x60; 40];
        packet[6] = TCP;
        packet[8..24].copy_from_slice(&"fd00:18::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        assert_eq!(reply(&packet), None, "cut off");
        packet.extend([0x1b, 0x58]);
        assert_eq!(reply(&packet), Some(("[fd00:18::1]:7000".parse().unwrap(), TCP, 0)));
        assert_eq!(reply(&[0; 60]), None, "ARP and the like");
    }
}
