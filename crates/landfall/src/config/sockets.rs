//! `client_socket` and `endpoint_socket`: the two sockets of a proxied TCP connection.

use std::time::Duration;

use edge_listener::settings::LegOptions;

use super::{
    Host,
    diagnostic::Fault,
    reader::{Item, Report},
    values,
};

/// The most seconds that Linux takes for TCP_KEEPIDLE and TCP_KEEPINTVL.
const LONGEST_KEEPALIVE: u64 = 32_767;
/// The longest name of a congestion control algorithm: TCP_CA_NAME_MAX without its closing zero.
const LONGEST_CONGESTION: usize = 15;

/// Reads the options of one of the two sockets.
pub(super) fn read(item: &Item<'_>, report: &Report, host: &Host) -> LegOptions {
    let mut options = LegOptions::default();
    let Some(mut section) = item.section("write a table, such as { keepalive = \"60s\", user_timeout = \"30s\" }") else {
        return options;
    };
    if let Some(nodelay) = section.get("nodelay", values::boolean) {
        options.nodelay = nodelay;
    }
    options.keepalive = section.get("keepalive", keepalive);
    options.user_timeout = section.get("user_timeout", user_timeout);
    options.congestion = section.item("congestion").and_then(|item| {
        let name = item.read(congestion)?;
        // A host that cannot be asked has none: then nothing is known.
        if !host.congestion.is_empty() && !host.congestion.contains(&name) {
            let reason = format!("{name:?} is none of the algorithms that this host allows: {}", host.congestion.join(", "));
            let cure = format!(
                "load it (modprobe tcp_{name}) or allow it (net.ipv4.tcp_allowed_congestion_control) before the edge starts, or choose another"
            );
            report.warn(&item.at, Fault::new(reason, cure));
        }
        Some(name)
    });
    section.finish();
    options
}

fn keepalive(item: &Item<'_>) -> Result<Duration, Fault> {
    const CURE: &str = "write whole seconds, 1 to 32767, such as \"60s\"";
    let duration = values::any_duration(item, CURE)?;
    if duration.subsec_nanos() != 0 || !(1..=LONGEST_KEEPALIVE).contains(&duration.as_secs()) {
        return Err(Fault::new(format!("{duration:?} is not what Linux takes for a keep-alive"), CURE));
    }
    Ok(duration)
}

/// The longest duration of a file fits into the kernel's int of milliseconds.
fn user_timeout(item: &Item<'_>) -> Result<Duration, Fault> {
    const CURE: &str = "write whole milliseconds, up to 7 days, such as \"30s\"";
    let duration = values::any_duration(item, CURE)?;
    if duration.is_zero() || !duration.subsec_nanos().is_multiple_of(1_000_000) {
        return Err(Fault::new(format!("{duration:?} is not what Linux takes for a user timeout"), CURE));
    }
    Ok(duration)
}

fn congestion(item: &Item<'_>) -> Result<String, Fault> {
    const CURE: &str = "write a name of at most 15 characters, such as \"bbr\", as in net.ipv4.tcp_available_congestion_control";
    let text = item.text(CURE)?;
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if !plain || !(1..=LONGEST_CONGESTION).contains(&text.len()) {
        return Err(Fault::new(format!("{text:?} is not the name of a congestion control algorithm"), CURE));
    }
    Ok(text.to_owned())
}
