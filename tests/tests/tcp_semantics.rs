//! A TCP connection through the edge behaves as a direct one would, and every end is counted under its reason.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use landfall_tests::clients::{Ending, TcpSession, tcp_probe, wait_reset};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Mode, Protocol, Spec};
use landfall_tests::loopback::{config_head, own_address};
use landfall_tests::wait::{self, wait_for, wait_until};
use socket2::{Domain, SockRef, Socket, Type};

const LIMIT: Duration = Duration::from_secs(10);
/// Where flows go.
const PORT: u16 = 7000;
/// Where probes go, so that what happens to flows and what probes see can differ.
const PROBE_PORT: u16 = 7001;

/// An edge whose endpoints answer their probes, whatever they do with flows.
struct Scene {
    edge: Edge,
    target: SocketAddr,
    addresses: Vec<Ipv4Addr>,
    _probed: Vec<Endpoint>,
}

fn scene(endpoints: usize, listener_keys: &str) -> Scene {
    let static_ip = own_address();
    let addresses: Vec<_> = (0..endpoints).map(|_| own_address()).collect();
    let probed = |ip: &Ipv4Addr| Endpoint::start(None, Spec::echo("probed", (*ip, PROBE_PORT)).protocol(Protocol::Tcp)).unwrap();
    let probed = addresses.iter().map(probed).collect();
    let listed: Vec<_> =
        addresses.iter().enumerate().map(|(n, ip)| format!("{{ name = \"e-{n}\", address = \"{ip}\" }}")).collect();
    let config = format!(
        "{}\n[[listeners]]\nname = \"t\"\nprotocol = \"tcp\"\nports = [{PORT}]\n{listener_keys}\nendpoint_groups = [\"g\"]\n\
         [[endpoint_groups]]\nname = \"g\"\nendpoints = [{}]\n\
         health_check = {{ protocol = \"tcp\", port = {PROBE_PORT}, interval = \"10m\", timeout = \"2s\" }}\n",
        config_head(&[static_ip], ""),
        listed.join(", "),
    );
    Scene { edge: Edge::start(None, &config).unwrap(), target: (static_ip, PORT).into(), addresses, _probed: probed }
}

impl Scene {
    /// An endpoint process that does `mode`.
    fn endpoint(&self, mode: Mode) -> Endpoint {
        Endpoint::start(None, Spec::echo("e", (self.addresses[0], PORT)).protocol(Protocol::Tcp).mode(mode)).unwrap()
    }

    fn open(&self) -> TcpSession {
        TcpSession::open(None, self.target, LIMIT).unwrap()
    }

    /// A connection with the test itself at both ends.
    fn both_ends(&self) -> (TcpSession, TcpStream) {
        let listener = TcpListener::bind((self.addresses[0], PORT)).unwrap();
        std::thread::scope(|scope| {
            let accept = scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(b"the test\n").unwrap();
                stream.set_read_timeout(Some(LIMIT)).unwrap();
                stream
            });
            (self.open(), accept.join().unwrap())
        })
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.edge.metrics().unwrap().sum(name, labels)
    }

    /// Waits until no flow is open, and expects `ends` and no other reasons.
    fn expect_ends(&self, ends: &[(&str, u32)]) {
        let all: u32 = ends.iter().map(|(_, count)| count).sum();
        wait_until("the end of the flows", LIMIT, || self.sum("landfall_flows_closed_total", &[]) >= f64::from(all)).unwrap();
        for (reason, count) in ends {
            assert_eq!(self.sum("landfall_flows_closed_total", &[("reason", reason)]), f64::from(*count), "{reason}");
        }
        assert_eq!(self.sum("landfall_flows_closed_total", &[]), f64::from(all), "no other reasons");
        assert_eq!(self.sum("landfall_flows_opened_total", &[]), f64::from(all));
        assert_eq!(self.sum("landfall_flows_active", &[]), 0.0);
        assert_eq!(self.sum("landfall_endpoint_flows_active", &[]), 0.0);
    }
}

fn abort(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_client_that_has_said_all_still_hears_the_answer() {
    let scene = scene(1, "");
    let _endpoint = scene.endpoint(Mode::Count);
    let mut session = scene.open();
    session.stream().write_all(&vec![1; 5_000_000]).unwrap();
    assert_eq!(session.finish().unwrap(), b"5000000\n");
    scene.expect_ends(&[("finished", 1)]);
    assert_eq!(scene.sum("landfall_bytes_total", &[("direction", "to_endpoint")]), 5_000_000.0);
    assert_eq!(scene.sum("landfall_bytes_total", &[("direction", "to_client")]), 10.0, "the name and the count");
}

#[test]
fn an_endpoint_that_has_said_all_still_hears_the_client() {
    let scene = scene(1, "");
    let _endpoint = scene.endpoint(Mode::Identity);
    let mut session = scene.open();
    assert_eq!(session.wait_end(LIMIT).unwrap().0, Ending::Closed);
    session.stream().write_all(&vec![1; 1_000_000]).unwrap();
    assert_eq!(session.finish().unwrap(), b"");
    scene.expect_ends(&[("finished", 1)]);
    assert_eq!(scene.sum("landfall_bytes_total", &[("direction", "to_endpoint")]), 1_000_000.0);
}

#[test]
fn a_client_that_aborts_resets_the_endpoint() {
    let scene = scene(1, "");
    let (session, endpoint) = scene.both_ends();
    session.abort().unwrap();
    wait_reset(&endpoint, LIMIT).unwrap();
    scene.expect_ends(&[("client_reset", 1)]);
}

#[test]
fn an_endpoint_that_aborts_resets_the_client() {
    let scene = scene(1, "");
    let _endpoint = scene.endpoint(Mode::Abort { after: 10 });
    let mut session = scene.open();
    session.stream().write_all(&[1; 10]).unwrap();
    assert_eq!(session.wait_end(LIMIT).unwrap().0, Ending::Reset);
    scene.expect_ends(&[("endpoint_reset", 1)]);
}

#[test]
fn an_abort_after_the_own_end_of_stream_arrives() {
    let scene = scene(1, "");
    let (mut session, endpoint) = scene.both_ends();
    session.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!((&endpoint).read(&mut [0; 8]).unwrap(), 0);
    session.abort().unwrap();
    wait_reset(&endpoint, LIMIT).unwrap();
    scene.expect_ends(&[("client_reset", 1)]);

    let endpoint;
    (session, endpoint) = scene.both_ends();
    endpoint.shutdown(Shutdown::Write).unwrap();
    assert_eq!(session.wait_end(LIMIT).unwrap().0, Ending::Closed);
    abort(endpoint);
    session.wait_reset(LIMIT).unwrap();
    scene.expect_ends(&[("client_reset", 1), ("endpoint_reset", 1)]);
}

#[test]
fn an_abort_after_the_other_sides_end_of_stream_arrives() {
    let scene = scene(1, "");
    let (mut session, endpoint) = scene.both_ends();
    session.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!((&endpoint).read(&mut [0; 8]).unwrap(), 0);
    abort(endpoint);
    assert_eq!(session.wait_end(LIMIT).unwrap().0, Ending::Reset);
    scene.expect_ends(&[("endpoint_reset", 1)]);

    let (mut session, mut endpoint) = scene.both_ends();
    endpoint.shutdown(Shutdown::Write).unwrap();
    assert_eq!(session.wait_end(LIMIT).unwrap().0, Ending::Closed);
    session.abort().unwrap();
    let error = endpoint.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    scene.expect_ends(&[("endpoint_reset", 1), ("client_reset", 1)]);
}

#[test]
fn an_idle_connection_is_reset_at_both_ends() {
    let scene = scene(1, "idle_timeout = \"1s\"");
    let begin = wait::now();
    let (session, endpoint) = scene.both_ends();
    session.wait_reset(LIMIT).unwrap();
    wait_reset(&endpoint, LIMIT).unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    scene.expect_ends(&[("idle_timeout", 1)]);
}

const PUSHED: usize = 64 << 20;
const CHUNK: usize = 64 << 10;
/// What an edge may take for one connection, and noise of the allocator.
const GROWTH: u64 = 4 << 20;
/// No progress for this long means held back.
const HELD_BACK: Duration = Duration::from_millis(300);

#[test]
fn a_slow_reader_holds_the_sender_back_and_costs_no_memory() {
    let scene = scene(1, "");
    let (session, endpoint) = scene.both_ends();
    let client = session.stream();
    for (sender, reader) in [(client, &endpoint), (&endpoint, client)] {
        let before = scene.edge.resident_bytes().unwrap();
        let pushed = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| push(sender, &pushed));
            let held = held_back_at(&pushed);
            let growth = scene.edge.resident_bytes().unwrap().saturating_sub(before);
            println!("held back after {held} bytes, of which {growth} are the edge's own memory");
            assert!(held < PUSHED, "nobody held the sender back");
            assert!(growth < GROWTH, "the edge took {growth} bytes");
            read_pushed(reader);
        });
        let growth = scene.edge.resident_bytes().unwrap().saturating_sub(before);
        assert!(growth < GROWTH, "the edge took {growth} bytes");
    }
    drop(session);
    drop(endpoint);
    scene.expect_ends(&[("finished", 1)]);
}

/// Longer than the idle timeout, however little is read at a time.
const SLOW_READS: usize = 35;

#[test]
fn a_reader_that_is_slow_is_not_idle() {
    let scene = scene(1, "idle_timeout = \"2s\"");
    let (session, endpoint) = scene.both_ends();
    let mut client = session.stream().try_clone().unwrap();
    drop(session);
    std::thread::scope(|scope| {
        // Ends by an error, when the client has had enough.
        scope.spawn(|| while (&endpoint).write_all(&[0; CHUNK]).is_ok() {});
        let mut beat = wait::Beat::every(Duration::from_millis(100));
        for read in 0..SLOW_READS {
            client.read_exact(&mut [0; CHUNK]).unwrap_or_else(|error| panic!("read {read}: {error}"));
            beat.wait();
        }
        abort(client);
    });
    scene.expect_ends(&[("client_reset", 1)]);
}

/// The byte at `offset` of what is pushed.
fn pattern(offset: usize) -> u8 {
    offset.wrapping_mul(31).to_le_bytes()[0] ^ (offset >> 16).to_le_bytes()[0]
}

fn push(mut sender: &TcpStream, pushed: &AtomicUsize) {
    sender.set_write_timeout(Some(LIMIT)).unwrap();
    for start in (0..PUSHED).step_by(CHUNK) {
        let chunk: Vec<u8> = (start..start + CHUNK).map(pattern).collect();
        sender.write_all(&chunk).unwrap();
        pushed.fetch_add(CHUNK, Ordering::Relaxed);
    }
}

/// Waits until the sender has made no progress for a while, and returns how far it got.
fn held_back_at(pushed: &AtomicUsize) -> usize {
    let (mut last, mut since) = (0, wait::now());
    let held = wait_for("the sender held back", LIMIT, || {
        let now = pushed.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, wait::now());
        }
        (since.elapsed() >= HELD_BACK).then_some(now)
    });
    held.unwrap()
}

fn read_pushed(mut reader: &TcpStream) {
    let mut chunk = vec![0; CHUNK];
    for start in (0..PUSHED).step_by(CHUNK) {
        reader.read_exact(&mut chunk).unwrap();
        let wrong = chunk.iter().enumerate().find(|&(at, &byte)| byte != pattern(start + at));
        assert_eq!(wrong, None, "in the chunk at {start}");
    }
}

#[test]
fn an_endpoint_that_refuses_is_passed_over_before_the_client_notices() {
    let scene = scene(2, "");
    // Nobody listens for flows at the other address.
    let alive = scene.endpoint(Mode::Echo);
    const CONNECTIONS: u32 = 40;
    for _ in 0..CONNECTIONS {
        assert_eq!(tcp_probe(scene.target, LIMIT).unwrap().endpoint, alive.name());
    }
    let failures = scene.sum("landfall_connect_failures_total", &[]);
    assert!((1.0..f64::from(CONNECTIONS)).contains(&failures), "{failures} connections met the dead endpoint first");
    assert_eq!(scene.sum("landfall_endpoint_flows_opened_total", &[("endpoint", "e-0")]), f64::from(CONNECTIONS));
    assert_eq!(scene.sum("landfall_drops_total", &[]), 0.0);
    scene.expect_ends(&[("finished", CONNECTIONS)]);
}

#[test]
fn a_client_is_reset_when_all_endpoints_refuse() {
    let scene = scene(2, "");
    let failure = TcpSession::open(None, scene.target, LIMIT).unwrap_err().to_string();
    assert!(failure.contains("reset"), "{failure}");
    scene.expect_ends(&[("connect_failed", 1)]);
    assert_eq!(scene.sum("landfall_connect_failures_total", &[]), 2.0, "each endpoint was tried once");
}

#[test]
fn an_endpoint_that_does_not_answer_is_passed_over_after_connect_timeout() {
    let scene = scene(2, "connect_timeout = \"200ms\"");
    let _alive = scene.endpoint(Mode::Echo);
    let hole = SocketAddr::from((scene.addresses[1], PORT));
    let _hole = black_hole(hole);
    const CONNECTIONS: u32 = 16;
    let mut delayed = 0;
    for _ in 0..CONNECTIONS {
        let landing = tcp_probe(scene.target, LIMIT).unwrap();
        delayed += u32::from(landing.took >= Duration::from_millis(200));
    }
    let failures = scene.sum("landfall_connect_failures_total", &[]);
    assert!(failures >= 1.0 && failures <= f64::from(delayed), "{failures} failures, {delayed} connections took 200 ms");
    scene.expect_ends(&[("finished", CONNECTIONS)]);
}

/// An address that neither accepts nor refuses: a listening socket with its queue full, which the kernel answers with silence.
fn black_hole(address: SocketAddr) -> (Socket, Vec<Socket>) {
    let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let listener = socket();
    listener.bind(&address.into()).unwrap();
    listener.listen(0).unwrap();
    let mut waiting = Vec::new();
    wait_until("a full queue", LIMIT, || {
        let client = socket();
        let silent = client.connect_timeout(&address.into(), Duration::from_millis(100)).is_err();
        waiting.push(client);
        silent
    })
    .unwrap();
    (listener, waiting)
}
