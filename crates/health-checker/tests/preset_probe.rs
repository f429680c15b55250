//! Presets and the local address of probes, over loopback. What answers mean is tested beside the presets; here they travel.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod common;

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    thread,
};

use common::{AMPLE, SHORT, ask, ask_in_vain, check, closed_udp, is_good, read_until, tcp_service, udp_service};
use health_checker::{
    BadReason::{Refused, Timeout, Unexpected},
    Exchange, Expect, Outcome, ProbeKind,
    preset::{DnsName, Preset, Protocol, Transport},
    probe,
    quic::Quic,
    script::Pattern,
    tls::TlsSettings,
};

fn preset(protocol: Protocol) -> ProbeKind {
    ProbeKind::Preset(Preset::new(protocol, None).unwrap())
}

fn over_tcp(protocol: Protocol) -> ProbeKind {
    ProbeKind::Preset(Preset::new(protocol, Some(Transport::Tcp)).unwrap())
}

const A2S_INFO: &[u8] = b"\xff\xff\xff\xffTSource Engine Query\0";

#[tokio::test]
async fn a2s_is_answered_at_once_or_after_a_challenge() {
    let info = || b"\xff\xff\xff\xffI\x11Lab\0de_dust2\0cstrike\0Counter-Strike\0".to_vec();
    let (address, service) = udp_service(1, move |_, question| {
        assert_eq!(question, A2S_INFO);
        vec![info()]
    });
    assert!(is_good(&ask(address, preset(Protocol::A2s), AMPLE).await));
    service.join().unwrap();
    let (address, service) = udp_service(2, move |number, question| {
        if number == 0 {
            return vec![b"\xff\xff\xff\xffA\x0b\xad\x0a\x00".to_vec()];
        }
        assert_eq!(question, [A2S_INFO, b"\x0b\xad\x0a\x00"].concat());
        vec![info()]
    });
    assert!(is_good(&ask(address, preset(Protocol::A2s), AMPLE).await));
    service.join().unwrap();
}

#[tokio::test]
async fn a_server_that_only_challenges_is_asked_twice_and_no_more() {
    let (address, service) = udp_service(2, |_, _| vec![b"\xff\xff\xff\xffA\x01\x02\x03\x04".to_vec(); 3]);
    let (outcome, socket) = ask_in_vain(address, preset(Protocol::A2s), service).await;
    assert_eq!(outcome, Outcome::Bad(Unexpected));
    socket.set_nonblocking(true).unwrap();
    assert_eq!(socket.recv(&mut [0; 64]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn only_an_answer_with_the_nonce_counts() {
    let mirrored = |good: bool| {
        move |_: usize, question: &[u8]| {
            let ours = question[8..20].to_vec();
            let answer = |id: &[u8]| [b"\x01\x01\x00\x00\x21\x12\xa4\x42", id].concat();
            let others = vec![answer(&[0; 12]), b"\x01\x01".to_vec(), Vec::new()];
            if good { [others, vec![answer(&ours)]].concat() } else { others }
        }
    };
    let (address, _service) = udp_service(1, mirrored(true));
    assert!(is_good(&ask(address, preset(Protocol::Stun), AMPLE).await));
    let (address, service) = udp_service(1, mirrored(false));
    assert_eq!(ask_in_vain(address, preset(Protocol::Stun), service).await.0, Outcome::Bad(Unexpected));
}

#[tokio::test]
async fn sip_says_who_asks_whom_and_waits_through_trying() {
    let (address, service) = udp_service(1, |_, question| {
        let text = std::str::from_utf8(question).unwrap();
        let via = text.lines().find(|line| line.starts_with("Via: ")).unwrap();
        ["100 Trying", "200 OK"].map(|status| format!("SIP/2.0 {status}\r\n{via}\r\n\r\n").into_bytes()).into()
    });
    assert!(is_good(&ask(address, preset(Protocol::SipOptions), AMPLE).await));
    service.join().unwrap();
    let (address, service) = tcp_service(|mut stream| {
        // The probe resets the connection as soon as it has the answer, and then there is no other end.
        let (from, to) = (stream.peer_addr().unwrap(), stream.local_addr().unwrap());
        let request = String::from_utf8(read_until(&mut stream, b"\r\n\r\n")).unwrap();
        let via = request.lines().find(|line| line.starts_with("Via: ")).unwrap().to_owned();
        write!(stream, "SIP/2.0 503 Service Unavailable\r\n{via}\r\n\r\n").unwrap();
        (request, from, to)
    });
    assert_eq!(ask(address, over_tcp(Protocol::SipOptions), AMPLE).await, Outcome::Bad(Unexpected));
    let (request, from, to) = service.join().unwrap();
    assert!(
        request.starts_with(&format!("OPTIONS sip:{to} SIP/2.0\r\nVia: SIP/2.0/TCP {from};rport;branch=z9hG4bK")),
        "{request}"
    );
    assert!(request.contains(&format!("Contact: <sip:landfall@{from};transport=tcp>\r\n")), "{request}");
}

#[tokio::test]
async fn mqtt_says_goodbye_to_a_broker_that_admits_it() {
    for (connack, good, goodbye) in
        [(b"\x20\x02\x00\x00", true, &b"\xe0\x00"[..]), (b"\x20\x02\x00\x05", true, b""), (b"\x20\x02\x00\x03", false, b"")]
    {
        let (address, service) = tcp_service(move |mut stream| {
            let mut connect = [0; 34];
            stream.read_exact(&mut connect).unwrap();
            stream.write_all(connack).unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            rest
        });
        let outcome = ask(address, preset(Protocol::Mqtt), AMPLE).await;
        assert!(if good { is_good(&outcome) } else { outcome == Outcome::Bad(Unexpected) }, "{connack:?}: {outcome:?}");
        assert_eq!(service.join().unwrap(), goodbye, "{connack:?}");
    }
}

#[tokio::test]
async fn dns_has_its_length_before_it_over_tcp() {
    let (address, service) = tcp_service(|mut stream| {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query).unwrap();
        query[2] |= 0x80;
        for piece in [&length[..], &query[..1], &query[1..]] {
            stream.write_all(piece).unwrap();
        }
    });
    assert!(is_good(&ask(address, over_tcp(Protocol::Dns(DnsName::root())), AMPLE).await));
    service.join().unwrap();
}

#[tokio::test]
async fn presets_meet_closed_ports_and_silence_like_every_probe() {
    for protocol in [Protocol::A2s, Protocol::Stun, Protocol::SipOptions, Protocol::Dns(DnsName::root())] {
        let (_taken, closed) = closed_udp();
        assert_eq!(ask(closed, preset(protocol.clone()), AMPLE).await, Outcome::Bad(Refused));
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(ask(silent.local_addr().unwrap(), preset(protocol), SHORT).await, Outcome::Bad(Timeout));
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(ask(silent.local_addr().unwrap(), preset(Protocol::Mqtt), SHORT).await, Outcome::Bad(Timeout));
}

#[tokio::test]
async fn patterns_are_matched_in_datagrams_and_streams() {
    let pattern = |text: &str| Expect::Regex(Pattern::new(text).unwrap());
    let (address, _service) = udp_service(1, |_, _| vec![b"say PONG".to_vec(), b"PONG 1".to_vec()]);
    assert!(is_good(&ask(address, ProbeKind::Udp(Exchange::new("x", pattern("^PONG [0-9]$"))), AMPLE).await));
    let (address, _service) = tcp_service(|mut stream| {
        for piece in ["22", "0 re", "ady\r\n"] {
            stream.write_all(piece.as_bytes()).unwrap();
        }
        stream
    });
    assert!(is_good(&ask(address, ProbeKind::Tcp(Exchange::new("", pattern("^220 ready\r\n"))), AMPLE).await));
}

#[tokio::test]
async fn probes_come_from_the_source() {
    let ping = || Exchange::new("ping", Expect::Anything);
    let quic = || Quic::new(TlsSettings { verify: false, ..TlsSettings::default() }, vec![b"h3".to_vec()]).unwrap();
    let source = IpAddr::from([127, 0, 0, 77]);
    for kind in
        [ProbeKind::Tcp(Exchange::default()), ProbeKind::Tcp(ping()), ProbeKind::Http(Box::default()), preset(Protocol::Mqtt)]
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // The address that came with the connection, which a bare connect has reset by now.
        let service = thread::spawn(move || listener.accept().unwrap().1.ip());
        probe::probe(address, &check(kind.clone(), AMPLE).from_source(Some(source))).await;
        assert_eq!(service.join().unwrap(), source, "{kind:?}");
    }
    for kind in [ProbeKind::Udp(ping()), ProbeKind::Quic(Box::new(quic())), preset(Protocol::Stun)] {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let service = thread::spawn(move || socket.recv_from(&mut [0; 2048]).unwrap().1.ip());
        // The socket is gone once it was asked, so the probe ends, one way or another.
        probe::probe(address, &check(kind.clone(), SHORT).from_source(Some(source))).await;
        assert_eq!(service.join().unwrap(), source, "{kind:?}");
    }
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let from_six = check(ProbeKind::Tcp(Exchange::default()), AMPLE).from_source(Some(Ipv6Addr::LOCALHOST.into()));
    assert!(is_good(&probe::probe(listener.local_addr().unwrap(), &from_six).await));
}

#[tokio::test]
async fn a_source_that_is_not_on_this_host_is_no_result() {
    let elsewhere = Some(Ipv4Addr::new(192, 0, 2, 1).into());
    let target = SocketAddr::from(([127, 0, 0, 1], 9));
    let quic = Quic::new(TlsSettings { verify: false, ..TlsSettings::default() }, vec![b"h3".to_vec()]).unwrap();
    for kind in [
        ProbeKind::Tcp(Exchange::default()),
        ProbeKind::Http(Box::default()),
        ProbeKind::Quic(Box::new(quic)),
        preset(Protocol::Stun),
    ] {
        let outcome = probe::probe(target, &check(kind.clone(), AMPLE).from_source(elsewhere)).await;
        assert!(matches!(outcome, Outcome::Local(_)), "{kind:?}: {outcome:?}");
    }
}
