//! A TCP connection through the edge shows both ends what a direct one shows them.
//!
//! Every case runs twice, once with the client connected straight to the server and once through the edge, and both ends note all that
//! they see: bytes, each compared with what was sent, the end of the stream, resets, urgent bytes, and the errors of speaking. The notes
//! must be equal. Where a proxy cannot but differ the table says in words why, and what is seen instead.
//!
//! A case with an actor runs with the client in that role and then with the server.
//!
//! `LANDFALL_LONG_TESTS=1` makes the large stream 10 GiB long and the zero window a minute.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use landfall_tests::conformance::table::{Case, Difference, Script, each, hold, once, whole};
use landfall_tests::conformance::{LIMIT, Notes, Role, Seen, Side, long};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Protocol, Spec};
use landfall_tests::loopback::{config_head, own_address};
use landfall_tests::wait::{Beat, pass, wait_until};

const PORT: u16 = 7000;
/// Where probes go, so that nothing but the case comes to the server.
const PROBE_PORT: u16 = 7001;
const MIB: u64 = 1 << 20;
/// How long a sender is held back before the reader reads, and in the long version.
const ZERO_WINDOW: Duration = Duration::from_millis(1500);
const ZERO_WINDOW_LONG: Duration = Duration::from_secs(60);

struct Scene {
    edge: Edge,
    target: SocketAddr,
    server: Ipv4Addr,
    _probed: Endpoint,
}

fn scene(listener_keys: &str) -> Scene {
    let (static_ip, server) = (own_address(), own_address());
    let probed = Endpoint::start(None, Spec::echo("probed", (server, PROBE_PORT)).protocol(Protocol::Tcp)).unwrap();
    let config = format!(
        "{}\n[[listeners]]\nname = \"t\"\nprotocol = \"tcp\"\nports = [{PORT}]\n{listener_keys}\nendpoint_groups = [\"g\"]\n\
         [[endpoint_groups]]\nname = \"g\"\nendpoints = [{{ name = \"e\", address = \"{server}\" }}]\n\
         health_check = {{ protocol = \"tcp\", port = {PROBE_PORT}, interval = \"10m\", timeout = \"2s\" }}\n",
        config_head(&[static_ip], ""),
    );
    Scene { edge: Edge::start(None, &config).unwrap(), target: (static_ip, PORT).into(), server, _probed: probed }
}

impl Scene {
    fn holds(&self, table: &[Case]) {
        let listener = TcpListener::bind((self.server, PORT)).unwrap();
        hold(table, &listener, self.target);
        let active = || self.edge.metrics().unwrap().sum("landfall_flows_active", &[]);
        wait_until("the end of all flows", LIMIT, || active() == 0.0).unwrap();
    }
}

#[test]
fn every_way_to_end_a_connection_is_seen_as_on_a_direct_one() {
    scene("").holds(&[
        each("half-close: the actor ends, the other still answers", |actor, other| {
            actor.says(50_000);
            actor.ends();
            other.hears_all();
            other.says(50_000);
            other.ends();
            actor.hears_all();
            [actor.closes(), other.closes()]
        }),
        each("close: the other notices at its next words, which nobody takes", |actor, other| {
            actor.says(1000);
            let notes = actor.closes();
            other.hears_all();
            other.says(1);
            other.is_told();
            other.says(1);
            [notes, other.closes()]
        }),
        each("reset with nothing unread; later words meet EPIPE", |actor, other| {
            let notes = actor.aborts();
            other.is_told();
            other.hears_all();
            other.says(1);
            [notes, other.closes()]
        }),
        each("reset while the other has not read yet", |actor, other| {
            actor.says(1000);
            other.has_unread(1000).unwrap();
            let notes = actor.aborts();
            other.is_told();
            other.hears_all();
            [notes, other.closes()]
        }),
        each("words and reset in one breath", |actor, other| {
            actor.says(1000);
            let notes = actor.aborts();
            other.is_told();
            other.hears_all();
            [notes, other.closes()]
        }),
        each("close with bytes unread at the actor, which is a reset", |actor, other| {
            other.says(1000);
            actor.has_unread(1000).unwrap();
            let notes = actor.closes();
            other.is_told();
            other.hears_all();
            [notes, other.closes()]
        }),
        each("reset after the own end of stream", |actor, other| {
            actor.says(1000);
            actor.ends();
            other.hears_all();
            let notes = actor.aborts();
            other.is_told();
            other.says(1);
            [notes, other.closes()]
        }),
        each("reset after the other's end of stream", |actor, other| {
            other.ends();
            actor.hears_all();
            let notes = actor.aborts();
            other.is_told();
            other.hears_all();
            [notes, other.closes()]
        }),
        once("simultaneous close, with words on their way", |client, server| {
            thread::scope(|scope| {
                for end in [&client, &server] {
                    scope.spawn(|| {
                        end.says(50_000);
                        end.ends();
                    });
                }
            });
            client.hears_all();
            server.hears_all();
            [client.closes(), server.closes()]
        }),
        whole("connect and close before anybody accepts, without a word", |way| {
            let client = way.connect().closes();
            let server = way.accept();
            server.hears_all();
            [client, server.closes()]
        }),
        whole("accept and close, without a word", |way| {
            let client = way.connect();
            let server = way.accept().closes();
            client.hears_all();
            [client.closes(), server]
        }),
        whole("the server speaks first and closes before the client listens", |way| {
            let client = way.connect();
            let server = way.accept();
            server.says(10_000);
            let notes = server.closes();
            client.hears_all();
            [client.closes(), notes]
        }),
        each("a dribble of single bytes, each heard before the next", |actor, other| {
            for _ in 0..300 {
                actor.says(1);
                other.hears(1);
            }
            actor.ends();
            other.hears_all();
            [actor.closes(), other.closes()]
        }),
    ]);
}

/// A server that hears the end of a stream takes what it has for the whole, so it must not hear one that the client never said.
#[test]
fn a_reset_that_comes_while_the_edge_still_connects_is_never_taken_for_the_end() {
    // Fewer than the server's queue holds.
    const ROUNDS: usize = 100;
    let scene = scene("");
    let listener = TcpListener::bind((scene.server, PORT)).unwrap();
    for _ in 0..ROUNDS {
        let stream = TcpStream::connect_timeout(&scene.target, LIMIT).unwrap();
        Side::new(stream, Role::Client).unwrap().aborts();
    }
    let flows = |name: &str| scene.edge.metrics().unwrap().sum(name, &[]);
    wait_until("the end of all flows", LIMIT, || {
        flows("landfall_flows_opened_total") >= 1.0 && flows("landfall_flows_active") == 0.0
    })
    .unwrap();
    // Some of them the server never sees. Those it sees lie in its queue; with an own one behind them it never waits in vain.
    let last = TcpStream::connect((scene.server, PORT)).unwrap();
    let mut heard = Vec::new();
    loop {
        let (stream, from) = listener.accept().unwrap();
        if from == last.local_addr().unwrap() {
            break;
        }
        let server = Side::new(stream, Role::Server).unwrap();
        server.hears_all();
        heard.extend(server.notes().listening);
    }
    let ends = heard.iter().filter(|&&seen| seen != Seen::Reset).count();
    assert_eq!(ends, 0, "of {} connections that came, so many did not end by a reset", heard.len());
}

#[test]
fn a_client_learns_that_nobody_listens() {
    let scene = scene("");
    let learns = |target| match TcpStream::connect_timeout(&target, LIMIT) {
        Ok(stream) => {
            let client = Side::new(stream, Role::Client).unwrap();
            client.hears_all();
            client.closes().listening
        }
        Err(error) => vec![Seen::from(&error)],
    };
    assert_eq!(learns((scene.server, PORT).into()), [Seen::Refused]);
    // The edge has accepted before it knows, so a refusal is a reset: an error for the client all the same, and as quick.
    assert_eq!(learns(scene.target), [Seen::Reset]);
}

#[test]
fn urgent_bytes_arrive_as_urgent() {
    scene("").holds(&[
        each("an urgent byte between others", |actor, other| {
            actor.says(1000);
            other.hears(1000);
            actor.says_urgently(b'!');
            other.hears_urgently();
            actor.says(1000);
            actor.ends();
            other.hears_all();
            [actor.closes(), other.closes()]
        }),
        // splice(2) stops in front of an urgent byte and then says EAGAIN for ever, although there is something to read.
        each("an urgent byte in the middle of bulk, which nobody asks for", |actor, other| {
            thread::scope(|scope| {
                scope.spawn(|| {
                    actor.says(8 * MIB);
                    actor.says_urgently(b'!');
                    actor.says(8 * MIB);
                    actor.ends();
                });
                other.hears_all();
            });
            [actor.closes(), other.closes()]
        }),
    ]);
}

#[test]
fn small_signs_of_life_keep_a_connection_and_silence_ends_it() {
    const IDLE: Duration = Duration::from_secs(1);
    scene("idle_timeout = \"1s\"").holds(&[
        each("a byte every 300 ms from one end alone, beyond the idle timeout", |actor, other| {
            let mut beat = Beat::every(Duration::from_millis(300));
            for _ in 0..5 {
                beat.wait();
                actor.says(1);
                other.hears(1);
            }
            other.says(1);
            actor.hears(1);
            [actor.closes(), other.closes()]
        }),
        Case {
            name: "silence beyond the idle timeout, with the kernel's own keep-alive",
            script: Script::Once(|client, server| {
                for end in [&client, &server] {
                    let keep_alive = socket2::TcpKeepalive::new().with_time(IDLE).with_interval(IDLE);
                    socket2::SockRef::from(end.stream()).set_tcp_keepalive(&keep_alive).unwrap();
                    end.is_patient(3 * IDLE).unwrap();
                }
                client.hears_all();
                server.hears_all();
                [client.closes(), server.closes()]
            }),
            differs: Some(Difference {
                why: "the kernel answers keep-alive probes and tells nobody, so the edge sees no traffic and ends what looks dead",
                hear: [&[Seen::Reset], &[Seen::Reset]],
            }),
        },
    ]);
}

#[test]
fn bulk_that_is_cut_short_is_cut_alike() {
    scene("").holds(&[
        each("bulk both ways, and one way ends in the middle of the other", |actor, other| {
            thread::scope(|scope| {
                scope.spawn(|| {
                    actor.says(24 * MIB);
                    actor.ends();
                });
                scope.spawn(|| {
                    other.says(24 * MIB);
                    // The rest is said once the actor's stream has ended here.
                    other.has_heard(24 * MIB).unwrap();
                    other.says(24 * MIB);
                    other.ends();
                });
                scope.spawn(|| actor.hears_all());
                other.hears_all();
            });
            [actor.closes(), other.closes()]
        }),
        each("the reader of bulk resets", |actor, other| {
            thread::scope(|scope| {
                // Ends by the error that it notes.
                scope.spawn(|| other.says(u64::MAX / 2));
                actor.hears(16 * MIB);
                let notes = actor.aborts();
                other.is_told();
                notes
            });
            [Notes::default(), other.closes()]
        }),
        each("the sender of bulk resets", |actor, other| {
            thread::scope(|scope| {
                scope.spawn(|| other.hears_what_comes());
                actor.says(64 * MIB);
                actor.aborts();
            });
            [Notes::default(), other.closes()]
        }),
        each("a sender that is held back is told of a reset", |actor, other| {
            thread::scope(|scope| {
                scope.spawn(|| other.says(u64::MAX / 2));
                other.is_held_back(Duration::from_millis(200)).unwrap();
                actor.aborts();
            });
            other.is_told();
            [Notes::default(), other.closes()]
        }),
        each("a reader that does not read still has the beginning when its sender, held back, has reset", |actor, other| {
            actor.is_patient(Duration::from_millis(300)).unwrap();
            // Ends by its impatience, which it notes.
            actor.says(u64::MAX / 2);
            let notes = actor.aborts();
            other.is_told();
            other.hears_what_comes();
            [notes, other.closes()]
        }),
    ]);
}

#[test]
fn a_reader_that_waits_or_dawdles_loses_nothing() {
    scene("").holds(&[
        each("zero window: the reader waits while the sender is held back", |actor, other| {
            // More than all buffers on the way hold.
            const ALL: u64 = 128 * MIB;
            let span = if long() { ZERO_WINDOW_LONG } else { ZERO_WINDOW };
            actor.is_patient(span + LIMIT).unwrap();
            thread::scope(|scope| {
                scope.spawn(|| {
                    actor.says(ALL);
                    actor.ends();
                });
                actor.is_held_back(span).unwrap();
                other.hears_all();
            });
            [actor.closes(), other.closes()]
        }),
        each("a reader that takes a little at a time", |actor, other| {
            thread::scope(|scope| {
                scope.spawn(|| {
                    actor.says(16 * MIB);
                    actor.ends();
                });
                for _ in 0..50 {
                    other.hears(10_000);
                    pass(Duration::from_millis(5));
                }
                other.hears_all();
            });
            [actor.closes(), other.closes()]
        }),
    ]);
}

#[test]
fn a_large_stream_passes_both_ways_at_once_without_a_wrong_byte() {
    scene("").holds(&[once("a large stream each way", |client, server| {
        let bytes = if long() { 10 << 30 } else { 1 << 30 };
        thread::scope(|scope| {
            for end in [&client, &server] {
                scope.spawn(move || {
                    end.says(bytes);
                    end.ends();
                });
                scope.spawn(|| end.hears_all());
            }
        });
        [client.closes(), server.closes()]
    })]);
}
