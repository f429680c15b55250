//! HTTP and HTTPS probes over loopback, against servers that are written out byte by byte.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use common::{AMPLE, Authority, Life, SHORT, ask, ask_in_vain, check, closed_tcp, is_good, read_until, tcp_service};
use health_checker::{
    BadReason::{Closed, Refused, Status, Timeout, Tls, Unexpected},
    Expect, Outcome, ProbeKind,
    http::{Http, Method},
    probe,
    script::Pattern,
    tls::TlsSettings,
};

fn kind(http: Http) -> ProbeKind {
    ProbeKind::Http(Box::new(http))
}

fn over_tls(http: Http, tls: TlsSettings) -> ProbeKind {
    kind(http.over_tls(tls).unwrap())
}

/// Takes one request, answers it with `response`, and returns it.
fn web(response: impl Into<Vec<u8>>) -> (SocketAddr, JoinHandle<String>) {
    let response = response.into();
    tcp_service(move |mut stream| {
        let request = read_until(&mut stream, b"\r\n\r\n");
        // The probe may have seen enough before the end.
        let _ = stream.write_all(&response);
        String::from_utf8(request).unwrap()
    })
}

fn answer(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

async fn asked(response: impl Into<Vec<u8>>, http: Http, timeout: Duration) -> Outcome {
    let (address, _service) = web(response);
    ask(address, kind(http), timeout).await
}

#[tokio::test]
async fn a_request_says_what_is_configured() {
    let (address, service) = web(answer("200 OK", ""));
    assert!(is_good(&ask(address, kind(Http::default()), AMPLE).await));
    let request = service.join().unwrap();
    assert!(request.starts_with(&format!("GET / HTTP/1.1\r\nhost: {address}\r\n")), "{request}");
    assert!(request.contains("\r\nconnection: close\r\n"), "{request}");

    let (address, service) = web("HTTP/1.1 204 No Content\r\n\r\n");
    let http = Http {
        method: Method::Head,
        path: "/health?deep=1".parse().unwrap(),
        host: Some("play.example:81".parse().unwrap()),
        status: vec![204..=204],
        ..Http::default()
    };
    assert!(is_good(&ask(address, kind(http), AMPLE).await));
    let request = service.join().unwrap();
    assert!(request.starts_with("HEAD /health?deep=1 HTTP/1.1\r\nhost: play.example:81\r\n"), "{request}");
}

#[tokio::test]
async fn the_status_decides() {
    for (head, outcome) in [
        ("200 OK", None),
        ("301 Moved Permanently\r\nLocation: http://127.0.0.1:1/", None),
        ("404 Not Found", Some(Status)),
        ("503 Service Unavailable", Some(Status)),
    ] {
        let found = asked(answer(head, "x"), Http::default(), AMPLE).await;
        assert!(outcome.map_or(is_good(&found), |reason| found == Outcome::Bad(reason)), "{head}: {found:?}");
    }
    let teapot = || Http { status: vec![200..=200, 418..=418], ..Http::default() };
    assert!(is_good(&asked(answer("418 I'm a teapot", ""), teapot(), AMPLE).await));
    assert_eq!(asked(answer("302 Found", ""), teapot(), AMPLE).await, Outcome::Bad(Status));
    assert!(is_good(&asked("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Http::default(), AMPLE).await));
}

#[tokio::test]
async fn the_body_decides_where_it_is_asked_for() {
    let expecting = |expect: Expect| Http { body: expect, ..Http::default() };
    let ok = || expecting(Expect::bytes("ok"));
    assert!(is_good(&asked(answer("200 OK", "all ok now"), ok(), AMPLE).await));
    assert_eq!(asked(answer("200 OK", "all bad"), ok(), AMPLE).await, Outcome::Bad(Unexpected));
    assert_eq!(asked(answer("200 OK", ""), ok(), AMPLE).await, Outcome::Bad(Unexpected));
    assert_eq!(asked(answer("500 Oh\r\nX: ok", "ok"), ok(), AMPLE).await, Outcome::Bad(Status));
    let regex = expecting(Expect::Regex(Pattern::new(r#""status": *"up""#).unwrap()));
    assert!(is_good(&asked(answer("200 OK", r#"{"status": "up"}"#), regex, AMPLE).await));
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n";
    assert!(is_good(&asked(chunks, ok(), AMPLE).await));
    // Until the server closes.
    assert!(is_good(&asked("HTTP/1.0 200 OK\r\n\r\nfine: ok", ok(), AMPLE).await));
    let late = "x".repeat(65_535) + "ok";
    assert_eq!(asked(answer("200 OK", &late), ok(), AMPLE).await, Outcome::Bad(Unexpected));
    assert!(is_good(&asked(answer("200 OK", &late[1..]), ok(), AMPLE).await));
    // Cut off in the middle.
    assert_eq!(asked("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\no", ok(), AMPLE).await, Outcome::Bad(Closed));
    // Promised, and never sent.
    let (address, service) = tcp_service(|mut stream| {
        read_until(&mut stream, b"\r\n\r\n");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\no").unwrap();
        stream
    });
    assert_eq!(ask_in_vain(address, kind(ok()), service).await.0, Outcome::Bad(Unexpected));
}

#[tokio::test]
async fn what_is_no_http_server_is_told_apart() {
    let plain = || kind(Http::default());
    let (_taken, closed) = closed_tcp();
    assert_eq!(ask(closed, plain(), AMPLE).await, Outcome::Bad(Refused));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(ask(silent.local_addr().unwrap(), plain(), SHORT).await, Outcome::Bad(Timeout));
    assert_eq!(asked("220 mail.example ESMTP\r\n", Http::default(), AMPLE).await, Outcome::Bad(Unexpected));
    assert_eq!(asked("", Http::default(), AMPLE).await, Outcome::Bad(Closed));
    assert_eq!(asked("HTTP/1.1 200 O", Http::default(), AMPLE).await, Outcome::Bad(Closed));
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1 << 17));
    assert_eq!(asked(endless, Http::default(), AMPLE).await, Outcome::Bad(Unexpected));
    let (address, _service) = tcp_service(|stream| {
        stream.peek(&mut [0]).unwrap();
        // Bytes that were not read make the end a reset.
        drop(stream);
    });
    assert_eq!(ask(address, plain(), AMPLE).await, Outcome::Bad(Closed));
}

/// The server name that a client asked for, and its request.
type Asked = (Option<String>, Option<String>);

/// Speaks TLS and HTTP with one client.
fn secure(config: Arc<rustls::ServerConfig>) -> (SocketAddr, JoinHandle<Asked>) {
    tcp_service(move |stream| {
        let mut tls = rustls::StreamOwned::new(rustls::ServerConnection::new(config).unwrap(), stream);
        let mut first = [0; 1];
        let request = tls.read_exact(&mut first).ok().map(|()| {
            let rest = read_until(&mut tls, b"\r\n\r\n");
            tls.write_all(answer("200 OK", "secret ok").as_bytes()).unwrap();
            String::from_utf8([&first[..], &rest].concat()).unwrap()
        });
        (tls.conn.server_name().map(str::to_owned), request)
    })
}

#[tokio::test]
async fn a_trusted_certificate_for_the_right_name_is_good() {
    let authority = Authority::new();
    // By `host`.
    let (address, service) = secure(authority.server("play.example", Life::Valid, &["h2", "http/1.1"]));
    let http = Http { host: Some("play.example:8443".parse().unwrap()), body: Expect::bytes("ok"), ..Http::default() };
    assert!(is_good(&ask(address, over_tls(http, authority.trusted(None)), AMPLE).await));
    let (name, request) = service.join().unwrap();
    assert_eq!(name.as_deref(), Some("play.example"));
    assert!(request.unwrap().contains("host: play.example:8443\r\n"));
    // By `server_name`, which goes before `host`.
    let (address, service) = secure(authority.server("inside.example", Life::Valid, &[]));
    let http = Http { host: Some("play.example".parse().unwrap()), ..Http::default() };
    assert!(is_good(&ask(address, over_tls(http, authority.trusted(Some("inside.example"))), AMPLE).await));
    assert_eq!(service.join().unwrap().0.as_deref(), Some("inside.example"));
    // By address, which is never sent as a name.
    let (address, service) = secure(authority.server("127.0.0.1", Life::Valid, &[]));
    assert!(is_good(&ask(address, over_tls(Http::default(), authority.trusted(None)), AMPLE).await));
    assert_eq!(service.join().unwrap().0, None);
}

#[tokio::test]
async fn certificates_are_looked_at_unless_told_otherwise() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let unverified = || TlsSettings { verify: false, ..TlsSettings::default() };
    let name = Some("play.example");
    for (server, settings, good) in [
        (authority.server("play.example", Life::Valid, &[]), authority.trusted(name), true),
        (authority.server("other.example", Life::Valid, &[]), authority.trusted(name), false),
        (authority.server("play.example", Life::Expired, &[]), authority.trusted(name), false),
        (stranger.server("play.example", Life::Valid, &[]), authority.trusted(name), false),
        (authority.server("play.example", Life::Valid, &[]), authority.trusted(None), false),
        (stranger.server("other.example", Life::Expired, &[]), unverified(), true),
        // A server that speaks HTTP/2 alone has no protocol in common with the probe.
        (authority.server("play.example", Life::Valid, &["h2"]), unverified(), false),
    ] {
        let (address, _service) = secure(server);
        let outcome = ask(address, over_tls(Http::default(), settings.clone()), AMPLE).await;
        assert!(if good { is_good(&outcome) } else { outcome == Outcome::Bad(Tls) }, "{settings:?}: {outcome:?}");
    }
}

/// A resumed session shows no certificate.
#[tokio::test]
async fn every_probe_looks_anew() {
    let authority = Authority::new();
    let (valid, expired) =
        (authority.server("play.example", Life::Valid, &[]), authority.server("play.example", Life::Expired, &[]));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let service = std::thread::spawn(move || {
        for config in [valid, expired] {
            let stream = listener.accept().unwrap().0;
            let mut tls = rustls::StreamOwned::new(rustls::ServerConnection::new(config).unwrap(), stream);
            if tls.read_exact(&mut [0]).is_ok() {
                read_until(&mut tls, b"\r\n\r\n");
                tls.write_all(answer("200 OK", "").as_bytes()).unwrap();
            }
        }
    });
    let check = check(over_tls(Http::default(), authority.trusted(Some("play.example"))), AMPLE);
    assert!(is_good(&probe::probe(address, &check).await));
    assert_eq!(probe::probe(address, &check).await, Outcome::Bad(Tls));
    service.join().unwrap();
}

#[tokio::test]
async fn what_speaks_no_tls_is_told_apart() {
    let https = || over_tls(Http::default(), TlsSettings { verify: false, ..TlsSettings::default() });
    let (address, _service) = tcp_service(|mut stream| {
        assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        stream
    });
    assert_eq!(ask(address, https(), AMPLE).await, Outcome::Bad(Tls));
    let (address, _service) = tcp_service(|mut stream| stream.read(&mut [0; 65_536]).unwrap());
    assert_eq!(ask(address, https(), AMPLE).await, Outcome::Bad(Closed));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(ask(silent.local_addr().unwrap(), https(), SHORT).await, Outcome::Bad(Timeout));
}

#[tokio::test]
async fn dropping_a_probe_closes_its_socket() {
    let tls = TlsSettings { verify: false, ..TlsSettings::default() };
    for kind in [kind(Http::default()), over_tls(Http::default(), tls)] {
        let (asked, heard) = tokio::sync::oneshot::channel();
        let (address, service) = tcp_service(move |mut stream: TcpStream| {
            stream.peek(&mut [0]).unwrap();
            asked.send(()).unwrap();
            std::io::copy(&mut stream, &mut std::io::sink()).map_err(|error| error.kind())
        });
        let check = check(kind, AMPLE);
        tokio::select! {
            outcome = probe::probe(address, &check) => panic!("{outcome:?}"),
            told = heard => told.unwrap(),
        }
        let ended = service.join().unwrap();
        assert!(matches!(ended, Ok(_) | Err(ErrorKind::ConnectionReset)), "{ended:?}");
    }
}
