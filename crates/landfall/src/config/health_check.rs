//! `health_check` of an endpoint group: what its probes ask, where, and how often.

use std::{net::IpAddr, time::Duration};

use health_checker::{CheckError, Exchange, Flap, HealthCheck, ProbeKind, Timing};

use super::{
    diagnostic::{Fault, Mark, Marked},
    probe, probe_values,
    reader::{Report, Section},
    values,
};

/// `health_check` as read.
pub(super) struct RawCheck {
    pub(super) at: Mark,
    /// Whether the file says what the probe speaks or where it goes, as a group behind a UDP listener must.
    pub(super) named: bool,
    pub(super) port: Option<u16>,
    pub(super) source: Option<Marked<IpAddr>>,
    /// `None` if it could not be read.
    pub(super) check: Option<HealthCheck>,
}

/// Reads the `health_check` of a group; without one, everything is default.
pub(super) fn read(group: &mut Section<'_>, report: &Report) -> RawCheck {
    const CURE: &str = "write { protocol = \"tcp\" } or { protocol = \"udp\", port = 7000, send = \"ping\" }";
    let absent = group.mark("health_check");
    let Some(item) = group.item("health_check") else {
        let check = HealthCheck::new(ProbeKind::Tcp(Exchange::default()), Timing::default()).ok();
        return RawCheck { at: absent, named: false, port: None, source: None, check };
    };
    let unreadable = RawCheck { at: item.at.clone(), named: true, port: None, source: None, check: None };
    let Some(mut section) = item.section(CURE) else { return unreadable };

    let probe = probe::read(&mut section, report);
    let port = section.item("port");
    let named = probe.named || port.is_some();
    let port = port.and_then(|item| item.read(values::port));
    let source = section.item("source").and_then(|item| {
        let value = item.read(probe_values::source)?;
        Some(Marked { value, at: item.at })
    });
    let timing = read_timing(&mut section);
    let mut place = |key: &'static str| section.item(key).map_or_else(|| section.mark(key), |item| item.at);
    let places = Places {
        check: item.at.clone(),
        send: place("send"),
        expect: place("expect"),
        timeout: place("timeout"),
        fast: place("fast_interval"),
    };
    section.finish();

    // Timings are checked whatever is asked.
    let known = probe.kind.is_some();
    let kind = probe.kind.unwrap_or_else(|| ProbeKind::Tcp(Exchange::default()));
    let check = check(report, kind, timing, &places).filter(|_| known);
    let check = check.map(|check| check.from_source(source.as_ref().map(|source| source.value)));
    RawCheck { at: item.at, named, port, source, check }
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
        flap: read_flap(section),
    }
}

/// `flap`: both of its keys, or none.
fn read_flap(section: &mut Section<'_>) -> Option<Flap> {
    const CURE: &str = "write { changes = 6, window = \"5m\" }";
    let item = section.item("flap")?;
    let mut section = item.section(CURE)?;
    let changes = section.need("changes", CURE, values::threshold);
    let window = section.need("window", CURE, values::duration);
    section.finish();
    Some(Flap { changes: changes?, window: window? })
}

/// Where the keys stand that a check can be impossible for.
struct Places {
    check: Mark,
    send: Mark,
    expect: Mark,
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
            CheckError::BodyOfHead => {
                report.error(&places.expect, Fault::new(error.to_string(), "remove expect, or write method = \"GET\""));
                return None;
            }
            CheckError::Zero(_) => {
                report.error(&places.check, Fault::new(error.to_string(), "write a duration such as \"1s\""));
                return None;
            }
        }
    }
}
