//! Clients that know what endpoints say (see [`crate::endpoints`]) and can tell where a flow landed.
//!
//! Everything here opens its sockets in the namespace of the calling thread. For a client of the lab, call it inside
//! [`crate::lab::Namespace::enter`]; the socket then stays there and may be used from anywhere.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::wait::{self, Deadline};
use crate::{Failure, Result};

/// How many bytes a probe sends, and a numbered datagram holds.
const PAYLOAD_BYTES: usize = 64;
/// The longest name line that is believed.
const LONGEST_NAME: usize = 256;
const CURE: &str = "see the edge's log and its /status";

/// Where a short TCP flow landed and how long it took.
#[derive(Debug, Clone)]
pub struct Landing {
    /// The name that the endpoint said.
    pub endpoint: String,
    /// From connect to the last byte of the answer.
    pub took: Duration,
}

/// Connects to `target`, sends 64 bytes, reads the endpoint's name and the echo, and closes.
///
/// # Errors
/// When any of that fails, or takes longer than `limit` in one step.
pub fn tcp_probe(target: impl Into<SocketAddr>, limit: Duration) -> Result<Landing> {
    let target = target.into();
    let begin = wait::now();
    let mut session = TcpSession::open(None, target, limit)?;
    session.exchange(&[0x5a; PAYLOAD_BYTES])?;
    Ok(Landing { endpoint: session.endpoint, took: begin.elapsed() })
}

/// How a TCP flow ended as its client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The other side ended its stream (FIN).
    Closed,
    /// The connection was reset (RST).
    Reset,
}

/// An established TCP flow through the edge to an endpoint that has said its name.
#[derive(Debug)]
pub struct TcpSession {
    /// The name that the endpoint said.
    pub endpoint: String,
    stream: TcpStream,
    target: SocketAddr,
}

impl TcpSession {
    /// Connects to `target`, from `source` if there is one (port 0 lets the kernel choose), and reads the name.
    ///
    /// `limit` also holds for every later read and write of the session.
    ///
    /// # Errors
    /// When the connection is refused or silent, or the name does not come.
    pub fn open(source: Option<SocketAddr>, target: impl Into<SocketAddr>, limit: Duration) -> Result<Self> {
        let target = target.into();
        let connected = connect(source, target, limit);
        let stream = connected.map_err(|error| Failure::new("connect to", target, error, CURE))?;
        let mut session = Self { endpoint: String::new(), stream, target };
        session.endpoint = session.read_line()?;
        Ok(session)
    }

    /// Sends `bytes` and reads as many back, which must be the same.
    ///
    /// # Errors
    /// When the flow breaks, stays silent, or brings back something else.
    pub fn exchange(&mut self, bytes: &[u8]) -> Result<()> {
        let mut answer = vec![0; bytes.len()];
        let exchanged = self.stream.write_all(bytes).and_then(|()| self.stream.read_exact(&mut answer));
        exchanged.map_err(|error| self.cannot("echo over", error))?;
        if answer == bytes { Ok(()) } else { Err(self.cannot("echo over", "other bytes came back")) }
    }

    /// Ends the sending direction, and reads what remains of the other one.
    ///
    /// # Errors
    /// When the flow is reset or stays silent.
    pub fn finish(&mut self) -> Result<Vec<u8>> {
        let mut rest = Vec::new();
        let ended = self.stream.shutdown(Shutdown::Write).and_then(|()| self.stream.read_to_end(&mut rest));
        ended.map_err(|error| self.cannot("finish", error))?;
        Ok(rest)
    }

    /// Reads until the flow ends, and says how it did and when.
    ///
    /// # Errors
    /// When it has not ended within `limit`.
    pub fn wait_end(&mut self, limit: Duration) -> Result<(Ending, Duration)> {
        let begin = wait::now();
        let deadline = Deadline::after(limit);
        let mut buffer = [0; 4096];
        loop {
            let Some(left) = deadline.left() else {
                return Err(deadline.missed(&format!("the end of the flow to {} on {}", self.target, self.endpoint)));
            };
            let read = self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(&mut buffer));
            match read {
                Ok(0) => return Ok((Ending::Closed, begin.elapsed())),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok((Ending::Reset, begin.elapsed())),
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(self.cannot("wait for the end of", error)),
            }
        }
    }

    /// Waits until the connection is reset, whether or not its other side ended its stream (FIN) before.
    ///
    /// # Errors
    /// When it has not been reset within `limit`.
    pub fn wait_reset(&self, limit: Duration) -> Result<()> {
        wait_reset(&self.stream, limit).map_err(|error| self.cannot("see reset", error))
    }

    /// Aborts: the other side is told by RST.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn abort(self) -> Result<()> {
        let set = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        set.map_err(|error| self.cannot("abort", error))
    }

    /// The local address.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn source(&self) -> Result<SocketAddr> {
        self.stream.local_addr().map_err(|error| self.cannot("learn the source of", error))
    }

    /// The socket, for what a test does beyond this.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads one line, byte by byte, so that nothing behind it is taken.
    fn read_line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            match self.stream.read(&mut byte) {
                Ok(1) if byte == *b"\n" => return Ok(String::from_utf8_lossy(&line).into_owned()),
                Ok(1) if line.len() < LONGEST_NAME => line.extend(byte),
                Ok(1) => return Err(self.cannot("read the name from", "the line does not end")),
                Ok(_) => return Err(self.cannot("read the name from", "the stream ended before it")),
                Err(error) => return Err(self.cannot("read the name from", error)),
            }
        }
    }

    fn cannot(&self, operation: &str, cause: impl std::fmt::Display) -> Failure {
        let flow = format!("the TCP flow to {} on endpoint {:?}", self.target, self.endpoint);
        Failure::new(operation, flow, cause, CURE)
    }
}

/// Waits until `stream`, whose own sending direction is still open, has been reset by its other side.
///
/// # Errors
/// When it has not been within `limit`.
pub fn wait_reset(stream: &TcpStream, limit: Duration) -> io::Result<()> {
    let deadline = Deadline::after(limit);
    // Nothing is asked for, so what is told is an error or the end of both directions. The other side's FIN alone is neither.
    let mut poll = libc::pollfd { fd: stream.as_raw_fd(), events: 0, revents: 0 };
    loop {
        let left = deadline.left().unwrap_or_default();
        let milliseconds = libc::c_int::try_from(left.as_millis() + 1).unwrap_or(libc::c_int::MAX);
        // SAFETY: `poll` is one valid pollfd for the length of the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, if left.is_zero() { 0 } else { milliseconds }) };
        if ready > 0 {
            break;
        }
        if left.is_zero() {
            return Err(io::Error::new(ErrorKind::TimedOut, format!("it was not within {limit:?}")));
        }
    }
    // A connection that had seen the other side's FIN before the RST says EPIPE.
    match stream.take_error()? {
        Some(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(()),
        Some(error) => Err(error),
        // The error was taken by an earlier read or write; the poll above still tells of the end of both directions.
        None => Ok(()),
    }
}

fn connect(source: Option<SocketAddr>, target: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(source) = source {
        socket.set_reuse_address(true)?;
        socket.bind(&SockAddr::from(source))?;
    }
    socket.connect_timeout(&SockAddr::from(target), limit)?;
    socket.set_read_timeout(Some(limit))?;
    socket.set_write_timeout(Some(limit))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// A UDP flow of numbered datagrams from one local port.
pub struct UdpFlow {
    socket: UdpSocket,
    target: SocketAddr,
    next: u64,
}

/// An answer to a numbered datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Echo {
    /// The name that the endpoint said.
    pub endpoint: String,
    /// The number of the datagram that it answers.
    pub number: u64,
}

impl UdpFlow {
    /// A flow from `source` (port 0 lets the kernel choose) to `target`.
    ///
    /// The socket is not connected: a connected one would silently ignore an answer from a wrong address, which
    /// [`UdpFlow::receive`] reports.
    ///
    /// # Errors
    /// When the source cannot be bound.
    pub fn open(source: SocketAddr, target: impl Into<SocketAddr>) -> Result<Self> {
        let socket = UdpSocket::bind(source)
            .map_err(|error| Failure::new("bind", source, error, "choose a free port and an address of the namespace"))?;
        Ok(Self { socket, target: target.into(), next: 0 })
    }

    /// Sends the next datagram and returns its number, which counts from 0.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn send(&mut self) -> Result<u64> {
        let number = self.next;
        let mut payload = [0; PAYLOAD_BYTES];
        payload[..8].copy_from_slice(&number.to_be_bytes());
        self.socket.send_to(&payload, self.target).map_err(|error| self.cannot("send on", error))?;
        self.next += 1;
        Ok(number)
    }

    /// Waits for the next answer, whichever datagram it belongs to; nothing when none comes within `limit`.
    ///
    /// # Errors
    /// When it comes from another address than the target's, or is not what an endpoint says.
    pub fn receive(&self, limit: Duration) -> Result<Option<Echo>> {
        let limit = limit.max(Duration::from_millis(1));
        let mut buffer = [0; LONGEST_NAME + PAYLOAD_BYTES];
        let received = self.socket.set_read_timeout(Some(limit)).and_then(|()| self.socket.recv_from(&mut buffer));
        let (length, from) = match received {
            Ok(received) => received,
            Err(error) if is_timeout(&error) => return Ok(None),
            Err(error) => return Err(self.cannot("receive on", error)),
        };
        if from != self.target {
            return Err(self.cannot("accept an answer on", format_args!("it came from {from}")));
        }
        let echo = parse_echo(&buffer[..length]);
        echo.map(Some).ok_or_else(|| self.cannot("understand an answer on", format_args!("{:?}", &buffer[..length])))
    }

    /// Sends a datagram and waits for the answer to it; answers to earlier ones are passed over.
    ///
    /// # Errors
    /// When none comes within `limit`, or the answer is wrong.
    pub fn exchange(&mut self, limit: Duration) -> Result<Echo> {
        let deadline = Deadline::after(limit);
        let number = self.send()?;
        while let Some(left) = deadline.left() {
            if let Some(echo) = self.receive(left)?.filter(|echo| echo.number == number) {
                return Ok(echo);
            }
        }
        Err(deadline.missed(&format!("the answer to datagram {number} from {}", self.target)))
    }

    /// The local address.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn source(&self) -> Result<SocketAddr> {
        self.socket.local_addr().map_err(|error| self.cannot("learn the source of", error))
    }

    /// The socket, for what a test does beyond this.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    fn cannot(&self, operation: &str, cause: impl std::fmt::Display) -> Failure {
        Failure::new(operation, format_args!("the UDP flow to {}", self.target), cause, CURE)
    }
}

pub(crate) fn parse_echo(datagram: &[u8]) -> Option<Echo> {
    let end = datagram.iter().position(|byte| *byte == b'\n')?;
    let number = datagram.get(end + 1..end + 9)?.try_into().ok()?;
    let endpoint = String::from_utf8(datagram[..end].to_vec()).ok()?;
    Some(Echo { endpoint, number: u64::from_be_bytes(number) })
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
