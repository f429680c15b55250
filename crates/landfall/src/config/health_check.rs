//! `health_check` of an endpoint group: what its probes ask, where, and how often.

use std::time::Duration;

use health_checker::{CheckError, Exchange, HealthCheck, ProbeKind, Timing};

use super::{
    diagnostic::{Fault, Mark},
    reader::{Report, Section},
    values,
};

/// Protocols of the contract that no probe speaks yet.
const LATER: [&str; 8] = ["http", "https", "quic", "a2s", "stun", "sip_options", "mqtt", "dns"];

/// `health_check` as read.
pub(super) struct RawCheck {
    pub(super) at: Mark,
    /// Whether the file says what the probe speaks or where it goes, as a group behind a UDP listener must.
    pub(super) named: bool,
    pub(super) port: Option<u16>,
    /// `None` if it could not be read.
    pub(super) check: Option<HealthCheck>,
}

/// What a probe speaks.
#[derive(Clone, Copy)]
enum Speaks {
    Tcp,
    Udp,
}

/// Reads the `health_check` of a group; without one, everything is default.
pub(super) fn read(group: &mut Section<'_>, report: &Report) -> RawCheck {
    const CURE: &str = "write { protocol = \"tcp\" } or { protocol = \"udp\", port = 7000, send = \"ping\" }";
    let absent = group.mark("health_check");
    let Some(item) = group.item("health_check") else {
        let check = HealthCheck::new(ProbeKind::Tcp(Exchange::default()), Timing::default()).ok();
        return RawCheck { at: absent, named: false, port: None, check };
    };
    let unreadable = RawCheck { at: item.at.clone(), named: true, port: None, check: None };
    let Some(mut section) = item.section(CURE) else { return unreadable };

    let protocol = section.item("protocol");
    let port = section.item("port");
    let named = protocol.is_some() || port.is_some();
    let words = [("tcp", Speaks::Tcp), ("udp", Speaks::Udp)];
    let speaks = match &protocol {
        Some(item) => item.read(|item| values::choice(item, &words, &LATER)),
        None => Some(Speaks::Tcp),
    };
    let port = port.and_then(|item| item.read(values::port));
    let send_at = section.item("send").map(|item| item.at).unwrap_or_else(|| section.mark("send"));
    let exchange = Exchange {
        send: section.get("send", values::probe_bytes).unwrap_or_default(),
        expect: section.get("expect", values::probe_bytes).unwrap_or_default(),
    };
    let timing = read_timing(&mut section);
    let timing_at = |key: &str, section: &mut Section<'_>| match key {
        "timeout" => section.item("timeout").map(|item| item.at),
        _ => section.item("fast_interval").map(|item| item.at),
    };
    let timeout_at = timing_at("timeout", &mut section).unwrap_or_else(|| section.mark("timeout"));
    let fast_at = timing_at("fast_interval", &mut section).unwrap_or_else(|| section.mark("fast_interval"));
    section.later(&["source", "flap"]);
    section.finish();

    let kind = match speaks {
        Some(Speaks::Tcp) => ProbeKind::Tcp(exchange),
        Some(Speaks::Udp) => ProbeKind::Udp(exchange),
        None => return RawCheck { named, port, ..unreadable },
    };
    let check =
        check(report, kind, timing, &Places { check: item.at.clone(), send: send_at, timeout: timeout_at, fast: fast_at });
    RawCheck { at: item.at, named, port, check }
}

/// Reads the timings. A default that would not fit under the interval shrinks to it, so that a file that says no more than
/// `interval = "100ms"` has a check that is possible.
fn read_timing(section: &mut Section<'_>) -> Timing {
    let default = Timing::default();
    let interval = section.get("interval", values::duration).unwrap_or(default.interval);
    let shrunk = |default: Duration| default.min(interval);
    Timing {
        interval,
        fast_interval: section.get("fast_interval", values::duration).unwrap_or(shrunk(default.fast_interval)),
        timeout: section.get("timeout", values::duration).unwrap_or(shrunk(default.timeout)),
        unhealthy_threshold: section.get("unhealthy_threshold", values::threshold).unwrap_or(default.unhealthy_threshold),
        healthy_threshold: section.get("healthy_threshold", values::threshold).unwrap_or(default.healthy_threshold),
    }
}

/// Where the keys stand that a check can be impossible for.
struct Places {
    check: Mark,
    send: Mark,
    timeout: Mark,
    fast: Mark,
}

/// The check, or every reason why it is impossible: each is reported and repaired, until nothing is left to report.
fn check(report: &Report, kind: ProbeKind, mut timing: Timing, places: &Places) -> Option<HealthCheck> {
    let mut possible = true;
    loop {
        let error = match HealthCheck::new(kind.clone(), timing) {
            Ok(check) => return possible.then_some(check),
            Err(error) => error,
        };
        possible = false;
        let interval = timing.interval;
        let most = humantime::format_duration(interval);
        match error {
            CheckError::TimeoutOverInterval { .. } => {
                report.error(
                    &places.timeout,
                    Fault::new(error.to_string(), format!("write a timeout of at most {most}, or raise interval")),
                );
                timing.timeout = interval;
            }
            CheckError::FastOverInterval { .. } => {
                let cure = format!("write a fast_interval of at most {most}, or raise interval");
                report.error(&places.fast, Fault::new(error.to_string(), cure));
                timing.fast_interval = interval;
            }
            CheckError::NothingToSend => {
                report
                    .error(&places.send, Fault::new(error.to_string(), "write send = \"ping\", or what the service answers to"));
                return None;
            }
            CheckError::Zero(_) => {
                report.error(&places.check, Fault::new(error.to_string(), "write a duration such as \"1s\""));
                return None;
            }
        }
    }
}
