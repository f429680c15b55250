//! Endpoints that are told who the client is, by PROXY protocol headers as a parser of others reads them.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use landfall_tests::edge::Edge;
use landfall_tests::loopback::{config_head, own_address};
use ppp::v2::{Addresses, Header};

const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 7000;
/// Of a version 2 header with two IPv4 addresses.
const HEADER: usize = 28;

struct Scene {
    _edge: Edge,
    tcp: TcpListener,
    udp: UdpSocket,
    target: SocketAddr,
}

fn scene(client_ip: &str) -> Scene {
    let (static_ip, endpoint) = (own_address(), own_address());
    let (tcp, udp) = (TcpListener::bind((endpoint, PORT)).unwrap(), UdpSocket::bind((endpoint, PORT)).unwrap());
    udp.set_read_timeout(Some(LIMIT)).unwrap();
    let config = format!(
        "{}\n[[listeners]]\nname = \"l\"\nprotocol = \"tcp_udp\"\nports = [{PORT}]\nclient_ip = \"{client_ip}\"\nendpoint_groups = [\"g\"]\n\
         [[endpoint_groups]]\nname = \"g\"\nhealth_check = {{ protocol = \"tcp\", interval = \"10m\", timeout = \"2s\" }}\n\
         endpoints = [{{ name = \"e\", address = \"{endpoint}\" }}]\n",
        config_head(&[static_ip], ""),
    );
    let edge = Edge::start(None, &config).unwrap();
    // The probe that made the endpoint healthy.
    drop(tcp.accept().unwrap());
    Scene { _edge: edge, tcp, udp, target: (static_ip, PORT).into() }
}

/// The client and the destination of a header.
fn said(bytes: &[u8]) -> (SocketAddr, SocketAddr) {
    let header = Header::try_from(bytes).unwrap();
    let Addresses::IPv4(addresses) = header.addresses else { panic!("{:?}", header.addresses) };
    ((addresses.source_address, addresses.source_port).into(), (addresses.destination_address, addresses.destination_port).into())
}

impl Scene {
    /// A connection whose header is right; both ends.
    fn connection(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.target).unwrap();
        let (mut endpoint, _) = self.tcp.accept().unwrap();
        endpoint.set_read_timeout(Some(LIMIT)).unwrap();
        let mut header = [0; HEADER];
        endpoint.read_exact(&mut header).unwrap();
        assert_eq!(said(&header), (client.local_addr().unwrap(), self.target));
        (client, endpoint)
    }

    /// The next datagram at the endpoint, and where to answer.
    fn datagram(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 2048];
        let (length, from) = self.udp.recv_from(&mut buffer).unwrap();
        buffer.truncate(length);
        (buffer, from)
    }
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind((own_address(), 0)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

#[test]
fn a_connection_begins_with_its_client_and_goes_on_as_it_is() {
    let scene = scene("proxy_v2");
    // The header comes by itself: the client may be one that listens first.
    let (mut client, mut endpoint) = scene.connection();
    endpoint.write_all(b"220 welcome").unwrap();
    let mut heard = [0; 11];
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"220 welcome");
    client.write_all(b"EHLO").unwrap();
    let mut heard = [0; 4];
    endpoint.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"EHLO");
}

#[test]
fn the_first_datagram_of_a_flow_carries_the_header_and_no_other() {
    let scene = scene("proxy_v2");
    let client = client();
    client.send_to(b"first", scene.target).unwrap();
    let (datagram, from) = scene.datagram();
    assert_eq!(said(&datagram), (client.local_addr().unwrap(), scene.target));
    assert_eq!(&datagram[HEADER..], b"first");
    client.send_to(b"second", scene.target).unwrap();
    assert_eq!(scene.datagram(), (b"second".to_vec(), from));
    scene.udp.send_to(b"answer", from).unwrap();
    let mut buffer = [0; 64];
    let (length, answered) = client.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], answered), (&b"answer"[..], scene.target), "an answer has no header");
}

#[test]
fn every_datagram_carries_it_if_that_is_asked_empty_ones_too() {
    let scene = scene("proxy_v2_every");
    let client = client();
    for payload in [&b"first"[..], b"", b"third"] {
        client.send_to(payload, scene.target).unwrap();
        let (datagram, _) = scene.datagram();
        assert_eq!(said(&datagram), (client.local_addr().unwrap(), scene.target));
        assert_eq!(&datagram[HEADER..], payload);
    }
    scene.connection();
}
