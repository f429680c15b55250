//! What to ask an endpoint, how often, and how many answers make a verdict.

use std::{num::NonZeroU8, time::Duration};

/// Slack in the published bound for publishing a new routing table and acting on it.
pub const PUBLISH_ALLOWANCE: Duration = Duration::from_millis(100);

/// What one probe does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeKind {
    /// Connects; optionally sends and waits for an answer that contains `expect`.
    Tcp(Exchange),
    /// Sends a datagram and waits for one that contains `expect`. `send` is never empty here.
    Udp(Exchange),
}

impl ProbeKind {
    /// The word in the config: `tcp` or `udp`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Udp(_) => "udp",
        }
    }
}

/// Bytes to send and bytes that the answer must contain; both empty for a bare connect.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exchange {
    /// Sent once connected.
    pub send: Vec<u8>,
    /// Must occur in the answer; empty means that nothing is awaited (TCP) or that any answer will do (UDP).
    pub expect: Vec<u8>,
}

/// A health check whose timings are possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    kind: ProbeKind,
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
        let Timing { interval, fast_interval, timeout, .. } = timing;
        for (name, value) in [("interval", interval), ("fast_interval", fast_interval), ("timeout", timeout)] {
            if value.is_zero() {
                return Err(CheckError::Zero(name));
            }
        }
        if timeout > interval {
            return Err(CheckError::TimeoutOverInterval { timeout, interval });
        }
        if fast_interval > interval {
            return Err(CheckError::FastOverInterval { fast_interval, interval });
        }
        if matches!(&kind, ProbeKind::Udp(exchange) if exchange.send.is_empty()) {
            return Err(CheckError::NothingToSend);
        }
        Ok(Self { kind, timing })
    }

    /// What one probe does.
    pub fn kind(&self) -> &ProbeKind {
        &self.kind
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
    }
}
