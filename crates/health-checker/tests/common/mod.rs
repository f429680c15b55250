//! What the probe tests share: a check of one probe, services of one connection, and a small certificate authority.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    io::Read,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use health_checker::{HealthCheck, Outcome, ProbeKind, Timing, probe, tls::TlsSettings};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpSocket;

/// Far longer than any case that does not wait for it takes.
pub const AMPLE: Duration = Duration::from_secs(30);
/// For those to whom nobody answers.
pub const SHORT: Duration = Duration::from_millis(300);

pub fn check(kind: ProbeKind, timeout: Duration) -> HealthCheck {
    let timing = Timing { interval: AMPLE, timeout, ..Timing::default() };
    HealthCheck::new(kind, timing).unwrap()
}

pub async fn ask(target: SocketAddr, kind: ProbeKind, timeout: Duration) -> Outcome {
    probe::probe(target, &check(kind, timeout)).await
}

/// What becomes of a probe whose time is over once `service` has said all that it says, and not before; and what the service leaves, such as
/// the socket that must stay open until then.
pub async fn ask_in_vain<T: Send + 'static>(target: SocketAddr, kind: ProbeKind, service: JoinHandle<T>) -> (Outcome, T) {
    // Less than QUIC itself would wait.
    let asked = ask(target, kind, AMPLE / 6);
    tokio::pin!(asked);
    let left = tokio::select! {
        outcome = &mut asked => panic!("{outcome:?}"),
        left = tokio::task::spawn_blocking(|| service.join().unwrap()) => left.unwrap(),
    };
    // Paused, the clock jumps to the end of the timeout as soon as the probe has taken what lies in its socket and waits for more.
    tokio::time::pause();
    (asked.await, left)
}

/// A port of 127.0.0.1 that refuses connections while the socket lives: it is taken, and nobody listens.
pub fn closed_tcp() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// A port of 127.0.0.1 that refuses datagrams while the socket lives: it is taken, and receives nothing but what comes from itself.
pub fn closed_udp() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    socket.connect(address).unwrap();
    (socket, address)
}

pub fn is_good(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Good { .. })
}

/// Accepts one connection and hands it to `serve`.
pub fn tcp_service<T: Send + 'static>(serve: impl FnOnce(TcpStream) -> T + Send + 'static) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, thread::spawn(move || serve(listener.accept().unwrap().0)))
}

/// Hands each datagram, with its number, to `serve` and sends back what that says, as often as there are datagrams.
pub fn udp_service(
    datagrams: usize,
    serve: impl Fn(usize, &[u8]) -> Vec<Vec<u8>> + Send + 'static,
) -> (SocketAddr, JoinHandle<UdpSocket>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let service = thread::spawn(move || {
        for number in 0..datagrams {
            let mut question = [0; 2048];
            let (length, from) = socket.recv_from(&mut question).unwrap();
            for answer in serve(number, &question[..length]) {
                socket.send_to(&answer, from).unwrap();
            }
        }
        // Stays open, so that nothing refuses.
        socket
    });
    (address, service)
}

/// A stream's bytes up to and with `end`.
pub fn read_until(stream: &mut impl Read, end: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        read.push(byte[0]);
    }
    read
}

/// A certificate authority and its file.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub file: tempfile::NamedTempFile,
}

/// How long a certificate lives.
#[derive(Clone, Copy)]
pub enum Life {
    Valid,
    Expired,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    /// Trust in this authority.
    pub fn trusted(&self, server_name: Option<&str>) -> TlsSettings {
        let server_name = server_name.map(|name| name.to_owned().try_into().unwrap());
        TlsSettings { server_name, ca: Some(self.file.path().into()), verify: true }
    }

    /// A server with a certificate for `name`.
    pub fn server(&self, name: &str, life: Life, alpn: &[&str]) -> Arc<rustls::ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if let Life::Expired = life {
            (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
        }
        let certificate: CertificateDer<'static> = params.signed_by(&key, &self.issuer).unwrap().into();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}
