//! Probes over loopback. Every case but the two that wait for silence ends by an event.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod common;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread::{self, JoinHandle},
    time::Duration,
};

use common::{ask_in_vain, closed_tcp, closed_udp};
use health_checker::{BadReason, Exchange, Expect, HealthCheck, Outcome, ProbeKind, Timing, probe};

/// Far longer than any case that does not wait for it takes.
const AMPLE: Duration = Duration::from_secs(30);
/// For those to whom nobody answers.
const SHORT: Duration = Duration::from_millis(300);

fn exchange(send: &str, expect: &str) -> Exchange {
    Exchange::new(send, Expect::bytes(expect))
}

fn tcp(send: &str, expect: &str) -> ProbeKind {
    ProbeKind::Tcp(exchange(send, expect))
}

fn udp(expect: &str) -> ProbeKind {
    ProbeKind::Udp(exchange("ping", expect))
}

async fn probe(target: SocketAddr, kind: &ProbeKind, timeout: Duration) -> Outcome {
    let timing = Timing { interval: AMPLE, timeout, ..Timing::default() };
    probe::probe(target, &HealthCheck::new(kind.clone(), timing).unwrap()).await
}

/// Accepts one connection and hands it to `serve`.
fn tcp_service<T: Send + 'static>(serve: impl FnOnce(TcpStream) -> T + Send + 'static) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, thread::spawn(move || serve(listener.accept().unwrap().0)))
}

/// Answers one datagram with all of `answers`.
fn udp_service(answers: &'static [&'static str]) -> (SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let service = thread::spawn(move || {
        let mut question = [0; 16];
        let (length, from) = socket.recv_from(&mut question).unwrap();
        assert_eq!(&question[..length], b"ping");
        for answer in answers {
            socket.send_to(answer.as_bytes(), from).unwrap();
        }
    });
    (address, service)
}

fn read_ping(stream: &mut TcpStream) {
    let mut question = [0; 4];
    stream.read_exact(&mut question).unwrap();
    assert_eq!(&question, b"ping");
}

#[tokio::test]
async fn a_bare_connect_is_good_and_ends_with_a_reset() {
    let (address, service) = tcp_service(|mut stream| stream.read(&mut [0; 1]).map_err(|error| error.kind()));
    assert!(matches!(probe(address, &tcp("", ""), AMPLE).await, Outcome::Good { .. }));
    assert_eq!(service.join().unwrap(), Err(std::io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn an_exchange_is_good_across_segments_and_ends_in_order() {
    let (address, service) = tcp_service(|mut stream| {
        read_ping(&mut stream);
        stream.set_nodelay(true).unwrap();
        for part in ["well: po", "n", "g"] {
            stream.write_all(part.as_bytes()).unwrap();
        }
        stream.read(&mut [0; 1]).map_err(|error| error.kind())
    });
    assert!(matches!(probe(address, &tcp("ping", "pong"), AMPLE).await, Outcome::Good { .. }));
    assert_eq!(service.join().unwrap(), Ok(0));
}

#[tokio::test]
async fn an_answer_that_goes_on_behind_the_expected_is_no_reason_to_reset() {
    for length in [100, 1000, 10_000] {
        let (address, service) = tcp_service(move |mut stream| {
            read_ping(&mut stream);
            stream.write_all(&[b"pong".to_vec(), vec![b'.'; length]].concat()).unwrap();
            stream.read(&mut [0; 1]).map_err(|error| error.kind())
        });
        assert!(matches!(probe(address, &tcp("ping", "pong"), AMPLE).await, Outcome::Good { .. }));
        assert_eq!(service.join().unwrap(), Ok(0), "{length}");
    }
}

#[tokio::test]
async fn closed_ports_refuse_at_once() {
    let (_taken, closed) = closed_tcp();
    assert_eq!(probe(closed, &tcp("", ""), AMPLE).await, Outcome::Bad(BadReason::Refused));
    let (_taken, closed) = closed_udp();
    assert_eq!(probe(closed, &udp("pong"), AMPLE).await, Outcome::Bad(BadReason::Refused));
}

#[tokio::test]
async fn a_tcp_service_that_closes_without_an_answer_is_closed() {
    let (address, _service) = tcp_service(|mut stream| read_ping(&mut stream));
    assert_eq!(probe(address, &tcp("ping", "pong"), AMPLE).await, Outcome::Bad(BadReason::Closed));
}

#[tokio::test]
async fn a_wrong_tcp_answer_is_unexpected() {
    let (address, _service) = tcp_service(|mut stream| {
        read_ping(&mut stream);
        stream.write_all(b"busy").unwrap();
    });
    assert_eq!(probe(address, &tcp("ping", "pong"), AMPLE).await, Outcome::Bad(BadReason::Unexpected));
}

#[tokio::test]
async fn an_endless_tcp_answer_is_cut_off() {
    let (address, _service) = tcp_service(|mut stream| while stream.write_all(&[b'x'; 4096]).is_ok() {});
    assert_eq!(probe(address, &tcp("", "pong"), AMPLE).await, Outcome::Bad(BadReason::Unexpected));
}

#[tokio::test]
async fn a_matching_datagram_is_good_whatever_came_before() {
    let (address, _service) = udp_service(&["busy", "", "the pong"]);
    assert!(matches!(probe(address, &udp("pong"), AMPLE).await, Outcome::Good { .. }));
}

#[tokio::test]
async fn any_datagram_will_do_if_nothing_is_expected() {
    let (address, _service) = udp_service(&["what?"]);
    assert!(matches!(probe(address, &udp(""), AMPLE).await, Outcome::Good { .. }));
}

#[tokio::test]
async fn silence_is_a_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(probe(listener.local_addr().unwrap(), &tcp("ping", "pong"), SHORT).await, Outcome::Bad(BadReason::Timeout));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_eq!(probe(socket.local_addr().unwrap(), &udp("pong"), SHORT).await, Outcome::Bad(BadReason::Timeout));
}

#[tokio::test]
async fn wrong_datagrams_only_are_unexpected() {
    // Stays open beside the one that answers, so that nothing refuses.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let answering = socket.try_clone().unwrap();
    let service = thread::spawn(move || {
        let (_, from) = answering.recv_from(&mut [0; 16]).unwrap();
        answering.send_to(b"busy", from).unwrap();
    });
    assert_eq!(ask_in_vain(address, udp("pong"), service).await.0, Outcome::Bad(BadReason::Unexpected));
}
