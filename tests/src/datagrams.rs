//! The two ends of UDP flows in the test's own hands: what was sent and what came, datagram by datagram.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::SockRef;

use crate::edge::Edge;
use crate::wait::{Deadline, now, pass};
use crate::{Failure, Result, sockets};

/// How long a datagram may take.
pub const LIMIT: Duration = Duration::from_secs(8);
/// Room for every burst of a test. Past the system's limit where the test may.
const BUFFER: usize = 32 << 20;
/// Silence for this long, with nothing counted as dropped, is a loss that nobody counted.
const QUIET: Duration = Duration::from_secs(2);
const LARGEST: usize = 65_507;

/// A socket on `address` that loses nothing as long as somebody reads.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(address: SocketAddr) -> Result<UdpSocket> {
    let open = || -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(address)?;
        if sockets::force_receive_buffer(&socket, BUFFER).is_err() {
            SockRef::from(&socket).set_recv_buffer_size(BUFFER)?;
        }
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(socket)
    };
    open().map_err(|error| Failure::new("bind", address, error, "choose a free port and an address of the namespace"))
}

/// The address for a client that lets the kernel choose, of the family of `of`.
pub fn any(of: IpAddr) -> SocketAddr {
    match of {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Datagram `number` of a test, of `length` bytes: no two alike, so that order and content are seen from each alone.
pub fn datagram(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (number * 251 + at * 7 + (at >> 8) * 13 + (number >> 8)).to_le_bytes()[0]).collect()
}

/// One flow with the test at both ends: the client's socket is connected to the edge, the server's to the edge's socket of the flow.
pub struct Flow {
    /// The client's end.
    pub client: UdpSocket,
    /// The endpoint's end.
    pub server: UdpSocket,
}

impl Flow {
    /// Begins a flow from `client` to `target`, of which the first datagram arrives at `server`.
    ///
    /// # Errors
    /// When it does not arrive.
    pub fn begin(client: UdpSocket, server: UdpSocket, target: SocketAddr) -> Result<Self> {
        let begin = || -> io::Result<()> {
            client.connect(target)?;
            client.send(b"the first")?;
            let (_, from) = server.recv_from(&mut [0; 16])?;
            server.connect(from)
        };
        begin().map_err(|error| Failure::new("begin", format_args!("a flow to {target}"), error, "see the edge's log"))?;
        Ok(Self { client, server })
    }

    /// Both directions: who sends and who receives.
    pub fn directions(&self) -> [(&'static str, &UdpSocket, &UdpSocket); 2] {
        [("to the endpoint", &self.client, &self.server), ("to the client", &self.server, &self.client)]
    }
}

/// Sends bundles on a flow, each way, until an engine that adapts to its traffic has had reason to: what comes after it is received, and
/// sent, in the way that suits bursts. All must arrive.
///
/// # Errors
/// When they do not.
pub fn adapt(edge: &Edge, flow: &Flow) -> Result<()> {
    const BUNDLES: usize = 300;
    let failed = |error| Failure::new("send", "a bundle of datagrams", error, "this needs UDP_SEGMENT: Linux 4.18");
    for (_, from, to) in flow.directions() {
        sockets::cut_sends_into(from, 100).map_err(failed)?;
        for number in 0..BUNDLES {
            let (before, bundle) = (f64::INFINITY, datagram(number, 800));
            from.send(&bundle).map_err(failed)?;
            let pieces: Vec<_> = bundle.chunks(100).map(<[u8]>::to_vec).collect();
            expect(edge, before, to, &pieces)?;
        }
        sockets::cut_sends_into(from, 0).map_err(failed)?;
    }
    Ok(())
}

/// All drops that an edge has counted.
///
/// # Errors
/// When the edge does not say.
pub fn drops(edge: &Edge) -> Result<f64> {
    Ok(edge.metrics()?.sum("landfall_drops_total", &[]))
}

/// Expects `sent` at `socket`, in order and bit by bit. A datagram may be missing only if the edge has counted it as a drop since it had
/// counted `before`: on a busy machine a buffer may overflow, but never in silence. Returns how many came.
///
/// # Errors
/// When a datagram is changed, comes out of order, or is missing without being counted.
pub fn expect(edge: &Edge, before: f64, socket: &UdpSocket, sent: &[Vec<u8>]) -> Result<usize> {
    let mut buffer = vec![0; LARGEST + 1];
    let (mut next, mut came) = (0, 0);
    let wrong = |what: String| Failure::new("accept", "what came through the edge", what, "see the edge's drops and its log");
    let (mut since, mut missing) = (now(), 0.0);
    socket.set_read_timeout(Some(Duration::from_millis(100))).map_err(|error| wrong(error.to_string()))?;
    while came + missing_count(missing) < sent.len() {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let Some(skipped) = sent[next..].iter().position(|sent| *sent == buffer[..length]) else {
                    let late = sent[..next].iter().position(|sent| *sent == buffer[..length]);
                    return Err(wrong(format!("{length} bytes that are not datagram {next} or a later one; earlier: {late:?}")));
                };
                next += skipped + 1;
                came += 1;
                since = now();
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                missing = drops(edge)? - before;
                if since.elapsed() > QUIET && came + missing_count(missing) < sent.len() {
                    return Err(wrong(format!("{came} of {} came and {missing} were counted as drops", sent.len())));
                }
            }
            Err(error) => return Err(wrong(error.to_string())),
        }
    }
    socket.set_read_timeout(Some(LIMIT)).map_err(|error| wrong(error.to_string()))?;
    Ok(came)
}

fn missing_count(missing: f64) -> usize {
    // Counters are whole numbers far below the limits of both types.
    (0..).take_while(|&count| f64::from(count) < missing).count()
}

/// Takes what comes at `socket` until it has nothing more at the moment and `enough` says so of the number that came, and returns that.
///
/// # Errors
/// When the socket fails or there is never enough.
pub fn drain(socket: &UdpSocket, mut enough: impl FnMut(usize) -> Result<bool>) -> Result<usize> {
    let deadline = Deadline::after(LIMIT);
    let mut came = 0;
    let failed = |error: &io::Error| Failure::new("receive on", "a socket of the test", error, "see the edge's log");
    socket.set_nonblocking(true).map_err(|error| failed(&error))?;
    let mut buffer = vec![0; LARGEST];
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => came += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if enough(came)? {
                    break;
                }
                if deadline.left().is_none() {
                    return Err(deadline.missed(&format!("the fate of every datagram; {came} came")));
                }
                pass(Duration::from_millis(20));
            }
            Err(error) => return Err(failed(&error)),
        }
    }
    socket.set_nonblocking(false).map_err(|error| failed(&error))?;
    Ok(came)
}
