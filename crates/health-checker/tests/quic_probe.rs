//! QUIC probes over loopback, against quinn's server.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod common;

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use common::{AMPLE, Authority, Life, SHORT, ask, ask_in_vain, check, closed_udp, is_good, udp_service};
use health_checker::{
    BadReason::{Closed, Refused, Timeout, Tls, Unexpected},
    Outcome, ProbeKind, probe,
    quic::{Quic, QuicError},
    tls::TlsSettings,
};
use quinn::{ConnectionError, Endpoint, ServerConfig, crypto::rustls::QuicServerConfig};

fn kind(settings: TlsSettings, alpn: &[&str]) -> ProbeKind {
    let alpn = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    ProbeKind::Quic(Box::new(Quic::new(settings, alpn).unwrap()))
}

fn server(tls: Arc<rustls::ServerConfig>) -> (Endpoint, SocketAddr) {
    let crypto = QuicServerConfig::try_from(tls).unwrap();
    let endpoint = Endpoint::server(ServerConfig::with_crypto(Arc::new(crypto)), "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = endpoint.local_addr().unwrap();
    (endpoint, address)
}

#[tokio::test]
async fn a_handshake_is_good_and_ends_politely() {
    let authority = Authority::new();
    let (endpoint, address) = server(authority.server("play.example", Life::Valid, &["game/1", "h3"]));
    let kind = kind(authority.trusted(Some("play.example")), &["h3"]);
    let served = async { endpoint.accept().await.unwrap().await.unwrap().closed().await };
    let (outcome, ended) = tokio::join!(ask(address, kind, AMPLE), served);
    assert!(is_good(&outcome), "{outcome:?}");
    assert!(matches!(&ended, ConnectionError::ApplicationClosed(close) if close.error_code.into_inner() == 0), "{ended:?}");
}

#[tokio::test]
async fn the_name_is_that_of_the_certificate_or_the_address() {
    let authority = Authority::new();
    let (endpoint, address) = server(authority.server("127.0.0.1", Life::Valid, &["h3"]));
    let accept = async { endpoint.accept().await.unwrap().await };
    let (outcome, _) = tokio::join!(ask(address, kind(authority.trusted(None), &["h3"]), AMPLE), accept);
    assert!(is_good(&outcome), "{outcome:?}");
}

#[tokio::test]
async fn a_server_that_asks_for_the_way_back_is_good() {
    let authority = Authority::new();
    let (endpoint, address) = server(authority.server("play.example", Life::Valid, &["h3"]));
    let accept = async {
        endpoint.accept().await.unwrap().retry().unwrap();
        endpoint.accept().await.unwrap().await
    };
    let kind = kind(authority.trusted(Some("play.example")), &["h3"]);
    let (outcome, _) = tokio::join!(ask(address, kind, AMPLE), accept);
    assert!(is_good(&outcome), "{outcome:?}");
}

#[tokio::test]
async fn certificates_and_protocols_are_looked_at() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let name = Some("play.example");
    let unverified = || TlsSettings { verify: false, ..TlsSettings::default() };
    for (tls, settings, alpn, good) in [
        (authority.server("other.example", Life::Valid, &["h3"]), authority.trusted(name), "h3", false),
        (authority.server("play.example", Life::Expired, &["h3"]), authority.trusted(name), "h3", false),
        (stranger.server("play.example", Life::Valid, &["h3"]), authority.trusted(name), "h3", false),
        (authority.server("play.example", Life::Valid, &["h3"]), authority.trusted(name), "game/1", false),
        (stranger.server("other.example", Life::Expired, &["h3"]), unverified(), "h3", true),
    ] {
        let (endpoint, address) = server(tls);
        let accept = async { endpoint.accept().await.unwrap().await };
        let (outcome, _) = tokio::join!(ask(address, kind(settings.clone(), &[alpn]), AMPLE), accept);
        assert!(if good { is_good(&outcome) } else { outcome == Outcome::Bad(Tls) }, "{settings:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_server_that_refuses_is_closed() {
    let authority = Authority::new();
    let (endpoint, address) = server(authority.server("play.example", Life::Valid, &["h3"]));
    let refuse = async { endpoint.accept().await.unwrap().refuse() };
    let (outcome, ()) = tokio::join!(ask(address, kind(authority.trusted(None), &["h3"]), AMPLE), refuse);
    assert_eq!(outcome, Outcome::Bad(Closed));
}

#[tokio::test]
async fn what_speaks_no_quic_is_told_apart() {
    let quic = || kind(TlsSettings { verify: false, ..TlsSettings::default() }, &["h3"]);
    let (_taken, closed) = closed_udp();
    assert_eq!(ask(closed, quic(), AMPLE).await, Outcome::Bad(Refused));
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_eq!(ask(silent.local_addr().unwrap(), quic(), SHORT).await, Outcome::Bad(Timeout));
    // Version negotiation, RFC 9000 section 17.2.1, with a version that nobody speaks: our ids the other way round.
    let (address, _service) = udp_service(1, |_, initial| {
        let (to, rest) = initial[6..].split_at(usize::from(initial[5]));
        let from = &rest[1..=usize::from(rest[0])];
        let mut answer = vec![0x80, 0, 0, 0, 0, u8::try_from(from.len()).unwrap()];
        answer.extend(from);
        answer.push(initial[5]);
        answer.extend(to);
        answer.extend(b"\x6b\x33\x43\xcf");
        vec![answer]
    });
    assert_eq!(ask(address, quic(), AMPLE).await, Outcome::Bad(Unexpected));
    let (address, service) = udp_service(1, |_, _| vec![b"what?".to_vec(), Vec::new(), vec![0xc0; 1200]]);
    assert_eq!(ask_in_vain(address, quic(), service).await.0, Outcome::Bad(Unexpected));
    assert!(matches!(Quic::new(TlsSettings::default(), Vec::new()), Err(QuicError::NoProtocol)));
}

#[tokio::test]
async fn dropping_a_probe_closes_its_socket() {
    let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let check = check(kind(TlsSettings { verify: false, ..TlsSettings::default() }, &["h3"]), AMPLE);
    let mut initial = [0; 2048];
    let from = tokio::select! {
        outcome = probe::probe(server.local_addr().unwrap(), &check) => panic!("{outcome:?}"),
        heard = server.recv_from(&mut initial) => heard.unwrap().1,
    };
    // The port is free for another.
    UdpSocket::bind(("0.0.0.0", from.port())).unwrap();
}
