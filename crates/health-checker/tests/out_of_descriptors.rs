//! Alone in its process: it takes every descriptor there is.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::{fs::File, net::TcpListener, time::Duration};

use health_checker::{Exchange, Outcome, ProbeKind, probe::probe};

#[tokio::test]
async fn no_descriptor_left_is_not_a_result() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let kinds = [ProbeKind::Tcp(Exchange::default()), ProbeKind::Udp(Exchange { send: b"ping".to_vec(), expect: Vec::new() })];
    let (_, hard) = rlimit::getrlimit(rlimit::Resource::NOFILE).unwrap();
    rlimit::setrlimit(rlimit::Resource::NOFILE, 64, hard).unwrap();

    let taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    for kind in &kinds {
        let outcome = probe(address, kind, Duration::from_secs(30)).await;
        assert!(matches!(outcome, Outcome::Local(_)), "{outcome:?}");
    }

    drop(taken);
    assert!(matches!(probe(address, &kinds[0], Duration::from_secs(30)).await, Outcome::Good { .. }));
}
