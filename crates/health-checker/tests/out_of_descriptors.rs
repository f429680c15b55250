//! Alone in its process: it takes every descriptor there is.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::{fs::File, net::TcpListener, time::Duration};

use health_checker::{
    Exchange, Expect, HealthCheck, Outcome, ProbeKind, Timing,
    preset::{Preset, Protocol},
    probe::probe,
    quic::Quic,
    tls::TlsSettings,
};

/// Far longer than any probe here takes.
const AMPLE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn no_descriptor_left_is_not_a_result() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let timing = Timing { interval: AMPLE, timeout: AMPLE, ..Timing::default() };
    let quic = Quic::new(TlsSettings { verify: false, ..TlsSettings::default() }, vec![b"h3".to_vec()]).unwrap();
    let kinds = [
        ProbeKind::Tcp(Exchange::default()),
        ProbeKind::Udp(Exchange::new("ping", Expect::Anything)),
        ProbeKind::Http(Box::default()),
        ProbeKind::Quic(Box::new(quic)),
        ProbeKind::Preset(Preset::new(Protocol::Stun, None).unwrap()),
    ];
    let checks = kinds.map(|kind| HealthCheck::new(kind, timing).unwrap());
    let (_, hard) = rlimit::getrlimit(rlimit::Resource::NOFILE).unwrap();
    rlimit::setrlimit(rlimit::Resource::NOFILE, 64, hard).unwrap();

    let taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    for check in &checks {
        let outcome = probe(address, check).await;
        assert!(matches!(outcome, Outcome::Local(_)), "{outcome:?}");
    }

    drop(taken);
    assert!(matches!(probe(address, &checks[0]).await, Outcome::Good { .. }));
}
