//! One probe: asks an endpoint once and classifies what comes back. One file per kind.
//!
//! A probe owns its socket and nothing else; dropping its future closes the socket and ends it.

mod http;
mod quic;
mod socket;
mod tcp;
mod udp;

use std::{future::Future, io, net::SocketAddr, time::Duration};

use tokio::time::{Instant, timeout_at};

use crate::{HealthCheck, ProbeKind, Verdict, preset::Transport};

/// The most that a probe reads in search of its answer, from a stream or a body, in bytes; the largest datagram that it can take.
const ANSWER_LIMIT: usize = 64 * 1024;

/// What became of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Answered as it should.
    Good {
        /// From the start of the probe to the answer.
        latency: Duration,
    },
    /// The endpoint, or the way to it, failed.
    Bad(BadReason),
    /// The probe failed on this host; says nothing about the endpoint.
    Local(LocalError),
}

impl Outcome {
    /// The metric label: `good`, `local`, or the reason.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Good { .. } => "good",
            Self::Bad(reason) => reason.as_str(),
            Self::Local(_) => "local",
        }
    }

    /// What it means to the verdict on the endpoint.
    pub const fn verdict(&self) -> Verdict {
        match self {
            Self::Good { .. } => Verdict::Good,
            Self::Bad(_) => Verdict::Bad,
            Self::Local(_) => Verdict::Local,
        }
    }
}

/// Why a result is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BadReason {
    /// The host answered that nothing listens there (RST or ICMP port unreachable).
    Refused,
    /// No route to it, or ICMP says so.
    Unreachable,
    /// Silence.
    Timeout,
    /// The connection was reset, or closed before any answer.
    Closed,
    /// An answer without what is expected.
    Unexpected,
    /// An HTTP status outside the expected ones.
    Status,
    /// The TLS handshake failed; often the certificate is not to be trusted.
    Tls,
}

impl BadReason {
    /// Every reason, for metrics that show all labels from the start.
    pub const ALL: [Self; 7] =
        [Self::Refused, Self::Unreachable, Self::Timeout, Self::Closed, Self::Unexpected, Self::Status, Self::Tls];

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Unexpected => "unexpected",
            Self::Status => "status",
            Self::Tls => "tls",
        }
    }
}

/// An I/O error of this host's own making: descriptors, ports, memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct LocalError {
    /// The kind of error.
    pub kind: io::ErrorKind,
    /// The system's text; for logs, not for labels.
    pub text: String,
}

/// Why a probe got no good answer.
#[derive(Debug)]
enum Failure {
    Reason(BadReason),
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<getrandom::Error> for Failure {
    fn from(error: getrandom::Error) -> Self {
        Self::Io(io::Error::other(error))
    }
}

/// Asks `target` once what `check` says, and waits no longer than its timeout for the answer.
///
/// Never fails: what went wrong is the outcome. Must run on a tokio runtime with I/O and time.
pub async fn probe(target: SocketAddr, check: &HealthCheck) -> Outcome {
    let start = Instant::now();
    // Outlives the attempt, so that silence and a wrong answer can be told apart when time is up.
    let mut heard = false;
    let source = check.source();
    let attempt = async {
        match check.kind() {
            ProbeKind::Tcp(exchange) => tcp::ask(target, source, exchange.script(), &mut heard).await,
            ProbeKind::Udp(exchange) => udp::ask(target, source, exchange.script(), &mut heard).await,
            ProbeKind::Preset(preset) => match preset.transport() {
                Transport::Tcp => tcp::ask(target, source, preset.script(), &mut heard).await,
                Transport::Udp => udp::ask(target, source, preset.script(), &mut heard).await,
            },
            // Large futures, which the many probes of the other kinds need not make room for.
            ProbeKind::Http(http) => Box::pin(http::ask(target, source, http, &mut heard)).await,
            ProbeKind::Quic(quic) => Box::pin(quic::ask(target, source, quic, &mut heard)).await,
        }
    };
    let result = timeout_at(start + check.timing().timeout, attempt).await;
    match result {
        Ok(Ok(())) => Outcome::Good { latency: start.elapsed() },
        Ok(Err(Failure::Reason(reason))) => Outcome::Bad(reason),
        Ok(Err(Failure::Io(error))) => classify(&error),
        Err(_) if heard => Outcome::Bad(BadReason::Unexpected),
        Err(_) => Outcome::Bad(BadReason::Timeout),
    }
}

/// Whether an I/O error says something about the endpoint (bad) or only about this host (local).
///
/// The bad ones are a closed list, what a peer or the network can say; everything else is local, because an error that
/// nobody foresaw must not empty a group.
fn classify(error: &io::Error) -> Outcome {
    use io::ErrorKind as Kind;
    let reason = match (error.kind(), error.raw_os_error()) {
        (Kind::ConnectionRefused, _) => BadReason::Refused,
        // A firewall that refuses our packets, here or (IPv6) on the way, cuts the endpoint off like a missing route.
        (Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown | Kind::PermissionDenied, _) => {
            BadReason::Unreachable
        }
        // What Linux makes of ICMP protocol unreachable, parameter problem, host unknown and host isolated.
        (_, Some(libc::ENOPROTOOPT | libc::EPROTO | libc::EHOSTDOWN | libc::ENONET)) => BadReason::Unreachable,
        (Kind::TimedOut, _) => BadReason::Timeout,
        // The peer ended a TLS stream in the middle; the system itself has no such error.
        (Kind::UnexpectedEof, _) => BadReason::Closed,
        (Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::NotConnected, _) => BadReason::Closed,
        (kind, _) => return Outcome::Local(LocalError { kind, text: error.to_string() }),
    };
    Outcome::Bad(reason)
}

/// Asks endpoints; the driver takes any, so that tests can answer in the network's place.
pub trait Prober: Send + Sync + 'static {
    /// Asks `target` once. Ends within the timeout of `check`; dropping the future ends it at once.
    fn probe(&self, target: SocketAddr, check: &HealthCheck) -> impl Future<Output = Outcome> + Send;
}

/// Asks over the network; see [`probe()`].
#[derive(Debug, Clone, Copy, Default)]
pub struct NetProber;

impl Prober for NetProber {
    fn probe(&self, target: SocketAddr, check: &HealthCheck) -> impl Future<Output = Outcome> + Send {
        probe(target, check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_network_says_is_a_result() {
        use BadReason::{Closed, Refused, Timeout, Unreachable};
        let bad = [
            (libc::ECONNREFUSED, Refused),
            (libc::ENETUNREACH, Unreachable),
            (libc::EHOSTUNREACH, Unreachable),
            (libc::EHOSTDOWN, Unreachable),
            (libc::ENONET, Unreachable),
            (libc::EPROTO, Unreachable),
            (libc::ENOPROTOOPT, Unreachable),
            (libc::EPERM, Unreachable),
            (libc::EACCES, Unreachable),
            (libc::ENETDOWN, Unreachable),
            (libc::ETIMEDOUT, Timeout),
            (libc::ECONNRESET, Closed),
            (libc::ECONNABORTED, Closed),
            (libc::EPIPE, Closed),
            (libc::ENOTCONN, Closed),
        ];
        for (errno, reason) in bad {
            assert_eq!(classify(&io::Error::from_raw_os_error(errno)), Outcome::Bad(reason), "errno {errno}");
        }
        let local = [
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOBUFS,
            libc::ENOMEM,
            libc::EADDRNOTAVAIL,
            libc::EADDRINUSE,
            libc::EAGAIN,
            libc::EINVAL,
            libc::EAFNOSUPPORT,
            libc::EMSGSIZE,
            libc::EIO,
        ];
        for errno in local {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(
                classify(&error),
                Outcome::Local(LocalError { kind: error.kind(), text: error.to_string() }),
                "errno {errno}"
            );
        }
    }

    #[test]
    fn labels_differ() {
        let labels: std::collections::BTreeSet<_> = BadReason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(labels.len(), BadReason::ALL.len());
    }
}
