//! What to ask an endpoint, how often, and how many answers make a verdict.

use std::{net::IpAddr, num::NonZeroU8, time::Duration};

use crate::{
    exchange::Exchange,
    http::{Http, Method},
    preset::Preset,
    quic::Quic,
    script::Expect,
};

/// Slack in the published bound for publishing a new routing table and acting on it.
pub const PUBLISH_ALLOWANCE: Duration = Duration::from_millis(100);

/// What one probe does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeKind {
    /// Connects; optionally sends and waits for an answer that contains what is expected.
    Tcp(Exchange),
    /// Sends a datagram and waits for one that contains what is expected. Something is always sent.
    Udp(Exchange),
    /// Asks a web server, over TLS or not.
    Http(Box<Http>),
    /// Completes a QUIC handshake.
    Quic(Box<Quic>),
    /// Holds a conversation of a protocol known by name.
    Preset(Preset),
}

impl ProbeKind {
    /// The word in the config, such as `tcp` or `stun`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Udp(_) => "udp",
            Self::Http(http) if http.tls.is_some() => "https",
            Self::Http(_) => "http",
            Self::Quic(_) => "quic",
            Self::Preset(preset) => preset.protocol().as_str(),
        }
    }

    /// Whether a process that is frozen passes it: the kernel accepts connections in its name.
    pub fn is_blind_to_frozen(&self) -> bool {
        matches!(self, Self::Tcp(exchange) if *exchange.expect() == Expect::Anything)
    }
}

/// A health check whose timings are possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    kind: ProbeKind,
    source: Option<IpAddr>,
    timing: Timing,
}

/// When probes run and how many results make a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From send to send while the verdict is settled.
    pub interval: Duration,
    /// From send to send while a change of verdict is pending.
    pub fast_interval: Duration,
    /// Silence for this long is a bad result.
    pub timeout: Duration,
    /// Consecutive bad results that make an endpoint unhealthy.
    pub unhealthy_threshold: NonZeroU8,
    /// Consecutive good results that make an unhealthy endpoint healthy.
    pub healthy_threshold: NonZeroU8,
    /// When an endpoint that goes up and down is held down; `None` never.
    pub flap: Option<Flap>,
}

/// When an endpoint goes up and down too often: it is not made healthy while `changes` changes of its health, or more, lie within the
/// last `window`. It is made unhealthy as ever, so that the [bound](Timing::detection_bound) does not know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flap {
    /// The first verdict is no change.
    pub changes: NonZeroU8,
    /// > 0.
    pub window: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        const fn threshold(n: u8) -> NonZeroU8 {
            match NonZeroU8::new(n) {
                Some(n) => n,
                None => NonZeroU8::MIN,
            }
        }
        Self {
            interval: Duration::from_secs(1),
            fast_interval: Duration::from_millis(200),
            timeout: Duration::from_millis(500),
            unhealthy_threshold: threshold(3),
            healthy_threshold: threshold(2),
            flap: None,
        }
    }
}

/// Why a health check is impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// A duration of zero.
    #[error("{0} must be longer than 0")]
    Zero(&'static str),
    /// Two probes of one endpoint would overlap.
    #[error("timeout ({timeout:?}) must not be longer than interval ({interval:?})")]
    TimeoutOverInterval {
        /// As given.
        timeout: Duration,
        /// As given.
        interval: Duration,
    },
    /// Fast would be slower than slow.
    #[error("fast_interval ({fast_interval:?}) must not be longer than interval ({interval:?})")]
    FastOverInterval {
        /// As given.
        fast_interval: Duration,
        /// As given.
        interval: Duration,
    },
    /// Silence cannot be told from a service that was not asked.
    #[error("a udp probe must send something")]
    NothingToSend,
    /// The answer to HEAD has no body.
    #[error("an answer to HEAD has no body to expect anything in")]
    BodyOfHead,
}

impl Timing {
    /// The longest time from an endpoint's death to its being unhealthy:
    /// `interval + timeout + (unhealthy_threshold − 1) × max(fast_interval, timeout)`.
    pub fn detection_bound(&self) -> Duration {
        let repeats = u32::from(self.unhealthy_threshold.get()) - 1;
        self.interval + self.timeout + self.fast_interval.max(self.timeout) * repeats
    }

    /// The published bound: detection and [`PUBLISH_ALLOWANCE`].
    pub fn failover_bound(&self) -> Duration {
        self.detection_bound() + PUBLISH_ALLOWANCE
    }
}

impl HealthCheck {
    /// A check of `kind` at `timing`, or why that cannot be.
    pub fn new(kind: ProbeKind, timing: Timing) -> Result<Self, CheckError> {
        let Timing { interval, fast_interval, timeout, flap, .. } = timing;
        for (name, value) in [("interval", interval), ("fast_interval", fast_interval), ("timeout", timeout)] {
            if value.is_zero() {
                return Err(CheckError::Zero(name));
            }
        }
        if flap.is_some_and(|flap| flap.window.is_zero()) {
            return Err(CheckError::Zero("flap.window"));
        }
        if timeout > interval {
            return Err(CheckError::TimeoutOverInterval { timeout, interval });
        }
        if fast_interval > interval {
            return Err(CheckError::FastOverInterval { fast_interval, interval });
        }
        match &kind {
            ProbeKind::Udp(exchange) if exchange.send().is_empty() => return Err(CheckError::NothingToSend),
            ProbeKind::Http(http) if http.method == Method::Head && http.body != Expect::Anything => {
                return Err(CheckError::BodyOfHead);
            }
            _ => {}
        }
        Ok(Self { kind, source: None, timing })
    }

    /// The same with probes sent from the local address `source`, or from the one that the route has if there is none.
    #[must_use]
    pub fn from_source(self, source: Option<IpAddr>) -> Self {
        Self { source, ..self }
    }

    /// What one probe does.
    pub fn kind(&self) -> &ProbeKind {
        &self.kind
    }

    /// The local address that probes are sent from, if it is not left to the route.
    pub fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// Whether the probes of the two are the same, whenever they run.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        self.kind == other.kind && self.source == other.source
    }

    /// When probes run.
    pub fn timing(&self) -> &Timing {
        &self.timing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_bound_is_the_documented_one() {
        // 1 s + 0.5 s + 2 × 0.5 s, and 0.1 s on top.
        assert_eq!(Timing::default().failover_bound(), Duration::from_millis(2600));
    }

    #[test]
    fn impossible_timings_have_no_type() {
        let tcp = || ProbeKind::Tcp(Exchange::default());
        let base = Timing::default();
        let long = Timing { timeout: Duration::from_secs(2), ..base };
        assert!(matches!(HealthCheck::new(tcp(), long), Err(CheckError::TimeoutOverInterval { .. })));
        let slow = Timing { fast_interval: Duration::from_secs(2), ..base };
        assert!(matches!(HealthCheck::new(tcp(), slow), Err(CheckError::FastOverInterval { .. })));
        let zero = Timing { timeout: Duration::ZERO, ..base };
        assert_eq!(HealthCheck::new(tcp(), zero), Err(CheckError::Zero("timeout")));
        assert_eq!(HealthCheck::new(ProbeKind::Udp(Exchange::default()), base), Err(CheckError::NothingToSend));
        let head = Http { method: Method::Head, body: Expect::bytes("ok"), ..Http::default() };
        assert_eq!(HealthCheck::new(ProbeKind::Http(Box::new(head)), base), Err(CheckError::BodyOfHead));
    }

    #[test]
    fn another_source_is_another_question() {
        let check = || HealthCheck::new(ProbeKind::Tcp(Exchange::default()), Timing::default()).unwrap();
        let source = Some(IpAddr::from([127, 0, 0, 2]));
        assert!(check().from_source(source).asks_the_same(&check().from_source(source)));
        assert!(!check().from_source(source).asks_the_same(&check()));
    }

    #[test]
    fn only_a_connect_is_blind_to_a_frozen_process() {
        assert!(ProbeKind::Tcp(Exchange::new("ping", Expect::Anything)).is_blind_to_frozen());
        assert!(!ProbeKind::Tcp(Exchange::new("", Expect::bytes("220"))).is_blind_to_frozen());
        assert!(!ProbeKind::Udp(Exchange::new("ping", Expect::Anything)).is_blind_to_frozen());
    }
}
