//! `tcp_mss` is what both sides of a connection are told: path-MTU trouble, whose ICMP may reach another edge, cannot arise.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use landfall_tests::edge::Edge;
use landfall_tests::loopback::{config_head, own_address};
use landfall_tests::wait::wait_for;
use socket2::SockRef;

const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 7000;
/// TCP timestamps take 12 bytes of every segment.
const TIMESTAMPS: u32 = 12;

/// The segments of a client and of an endpoint of a listener with `keys`.
fn negotiated(keys: &str) -> (u32, u32) {
    let (static_ip, endpoint) = (own_address(), own_address());
    let listening = TcpListener::bind((endpoint, PORT)).unwrap();
    let config = format!(
        "{}\n[[listeners]]\nname = \"t\"\nprotocol = \"tcp\"\nports = [{PORT}]\n{keys}\nendpoint_groups = [\"g\"]\n\
         [[endpoint_groups]]\nname = \"g\"\nendpoints = [{{ name = \"e\", address = \"{endpoint}\" }}]\n\
         health_check = {{ protocol = \"tcp\", interval = \"10m\" }}\n",
        config_head(&[static_ip], ""),
    );
    let _edge = Edge::start(None, &config).unwrap();
    let client = TcpStream::connect((static_ip, PORT)).unwrap();
    let own = SockRef::from(&client).tcp_mss().unwrap();
    // The first connection is the probe's, which asks for nothing; the flow's is the one with the client behind it.
    listening.set_nonblocking(true).unwrap();
    let segments = wait_for("the flow at the endpoint", LIMIT, || {
        let (accepted, _) = listening.accept().ok()?;
        accepted.set_nonblocking(true).unwrap();
        let open = accepted.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        open.then(|| SockRef::from(&accepted).tcp_mss().unwrap())
    });
    (own, segments.unwrap())
}

#[test]
fn both_ends_are_told() {
    for mss in [88, 1_200, 1_400] {
        let (client, endpoint) = negotiated(&format!("tcp_mss = {mss}"));
        assert_eq!((client, endpoint), (mss - TIMESTAMPS, mss - TIMESTAMPS), "tcp_mss = {mss}");
    }
    let (client, endpoint) = negotiated("");
    assert!(client > 16_000 && endpoint > 16_000, "the loopback route's own: {client}, {endpoint}");
}
