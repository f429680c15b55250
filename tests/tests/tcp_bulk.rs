//! Bulk over TCP at the seams: between small and large traffic, with many receivers that do not read, without descriptors, and behind a
//! header of the edge's own. Every byte is compared with what was sent.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use landfall_tests::conformance::{LIMIT, Role, Seen, Side};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Protocol, Spec};
use landfall_tests::loopback::{config_head, own_address};
use landfall_tests::wait::{self, wait_until};

const PORT: u16 = 7000;
const PROBE_PORT: u16 = 7001;
const MIB: u64 = 1 << 20;

struct Scene {
    edge: Edge,
    target: SocketAddr,
    listener: TcpListener,
    _probed: Endpoint,
}

fn scene(edge_keys: &str, listener_keys: &str) -> Scene {
    let (static_ip, server): (Ipv4Addr, Ipv4Addr) = (own_address(), own_address());
    let probed = Endpoint::start(None, Spec::echo("probed", (server, PROBE_PORT)).protocol(Protocol::Tcp)).unwrap();
    let config = format!(
        "{}\n[[listeners]]\nname = \"t\"\nprotocol = \"tcp\"\nports = [{PORT}]\n{listener_keys}\nendpoint_groups = [\"g\"]\n\
         [[endpoint_groups]]\nname = \"g\"\nendpoints = [{{ name = \"e\", address = \"{server}\" }}]\n\
         health_check = {{ protocol = \"tcp\", port = {PROBE_PORT}, interval = \"10m\", timeout = \"2s\" }}\n",
        config_head(&[static_ip], edge_keys),
    );
    let listener = TcpListener::bind((server, PORT)).unwrap();
    Scene { edge: Edge::start(None, &config).unwrap(), target: (static_ip, PORT).into(), listener, _probed: probed }
}

impl Scene {
    fn streams(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect_timeout(&self.target, LIMIT).unwrap();
        (client, self.listener.accept().unwrap().0)
    }

    fn pair(&self) -> (Side, Side) {
        let (client, server) = self.streams();
        (Side::new(client, Role::Client).unwrap(), Side::new(server, Role::Server).unwrap())
    }

    fn sum(&self, name: &str) -> f64 {
        self.edge.metrics().unwrap().sum(name, &[])
    }
}

/// One says `bytes`, the other hears them.
fn passes(from: &Side, to: &Side, bytes: u64) {
    thread::scope(|scope| {
        scope.spawn(|| from.says(bytes));
        to.hears(bytes);
    });
    let (from, to) = (from.notes(), to.notes());
    assert_eq!((from.speaking.last(), to.listening.last()), (None, Some(&Seen::Bytes(bytes))), "{to:?}");
}

#[test]
fn small_and_large_traffic_take_turns_on_one_connection() {
    let scene = scene("", "");
    let (client, server) = scene.pair();
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..60 {
        let (from, to) = if round % 3 == 0 { (&server, &client) } else { (&client, &server) };
        // Around the sizes at which an engine could change its mind.
        let bulk = [0, 1, 4095, 64 << 10, (256 << 10) - 1, 256 << 10, 512 << 10, MIB + 1, 3 * MIB][random.usize(..9)];
        for bytes in [1, bulk, 1, 17] {
            passes(from, to, bytes);
            passes(to, from, 1);
        }
    }
    client.ends();
    server.hears_all();
    server.ends();
    client.hears_all();
    assert_eq!((client.notes().listening.last(), server.notes().listening.last()), (Some(&Seen::End), Some(&Seen::End)));
    // All that was heard above, and nothing else, whichever way it took.
    assert!(scene.sum("landfall_spliced_bytes_total") <= scene.sum("landfall_bytes_total"));
}

#[test]
fn many_receivers_that_do_not_read_cost_others_nothing() {
    /// More than a worker keeps pipes for.
    const STALLED: usize = 40;
    /// More than all buffers on the way hold.
    const PUSHED: u64 = 64 * MIB;
    let scene = scene("workers = 1", "");
    let (before, memory) = (scene.edge.descriptors().unwrap(), scene.edge.resident_bytes().unwrap());
    let (senders, readers): (Vec<_>, Vec<_>) = (0..STALLED).map(|_| scene.pair()).unzip();
    let (client, server) = scene.pair();
    let slowest = thread::scope(|scope| {
        for stalled in &senders {
            stalled.is_patient(6 * LIMIT).unwrap();
            scope.spawn(|| {
                stalled.says(PUSHED);
                stalled.ends();
            });
        }
        for at in [0, STALLED / 2, STALLED - 1] {
            senders[at].is_held_back(Duration::from_millis(200)).unwrap();
        }
        let mut slowest = Duration::ZERO;
        for _ in 0..100 {
            let begin = wait::now();
            passes(&client, &server, 100);
            passes(&server, &client, 100);
            slowest = slowest.max(begin.elapsed());
        }
        let growth = scene.edge.resident_bytes().unwrap().saturating_sub(memory);
        println!("the slowest of 100 exchanges took {slowest:?}; the edge grew by {} kB", growth >> 10);
        assert!(growth < 32 << 20, "the edge grew by {growth} bytes");
        // Bulk passes meanwhile, by pipes or not.
        passes(&client, &server, 32 * MIB);
        // Some read after all, the others leave: what lies in pipes must neither be lost nor kept.
        for (number, reader) in readers.into_iter().enumerate() {
            if number % 5 == 0 {
                reader.hears_all();
                assert_eq!(reader.notes().listening, [Seen::Bytes(PUSHED), Seen::End]);
            } else {
                reader.aborts();
            }
        }
        slowest
    });
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    drop((senders, client, server));
    wait_until("the end of all flows", LIMIT, || scene.sum("landfall_flows_active") == 0.0).unwrap();
    // Two for each of up to 32 pipes of the one worker may stay in reserve.
    wait_until("the return of descriptors", LIMIT, || scene.edge.descriptors().unwrap() <= before + 64).unwrap();
}

#[test]
fn bulk_passes_when_no_descriptor_is_left_for_a_pipe() {
    let scene = scene("", "");
    let (client, server) = scene.pair();
    passes(&client, &server, 1);
    passes(&server, &client, 1);
    scene.edge.limit_descriptors(Some(0)).unwrap();
    passes(&client, &server, 64 * MIB);
    passes(&server, &client, 64 * MIB);
    scene.edge.limit_descriptors(None).unwrap();
    // Two words, two times bulk, and every byte once, whichever way it took.
    // Bytes are counted once the kernel has taken them, when the reader may have them already.
    let all = f64::from(u32::try_from(2 + 128 * MIB).unwrap());
    wait_until("the count of all bytes", LIMIT, || scene.sum("landfall_bytes_total") >= all).unwrap();
    assert_eq!(scene.sum("landfall_bytes_total"), all);
}

#[test]
fn bulk_behind_the_edges_own_header_begins_with_its_first_byte() {
    let scene = scene("", "client_ip = \"proxy_v2\"");
    for _ in 0..8 {
        let (client, mut server) = scene.streams();
        let client = Side::new(client, Role::Client).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                client.says(16 * MIB);
                client.ends();
            });
            let mut header = [0; 28];
            server.read_exact(&mut header).unwrap();
            assert_eq!(&header[..12], b"\r\n\r\n\0\r\nQUIT\n");
            let server = Side::new(server, Role::Server).unwrap();
            server.hears_all();
            assert_eq!(server.notes().listening, [Seen::Bytes(16 * MIB), Seen::End]);
        });
    }
}
