//! The keys of a listener that belong to TCP or to UDP, or have a value for each.

use std::{num::NonZeroUsize, ops::RangeInclusive, time::Duration};

use edge_listener::client_ip::ClientIp;
use edge_listener::settings::{OnUnhealthy, TcpSettings, UdpSettings};

use super::{
    Host,
    diagnostic::{Fault, Marked},
    reader::{Item, Report, Section, Watch},
    sockets, values,
};

const MOST_ATTEMPTS: u64 = 16;
/// What Linux takes for TCP_MAXSEG.
const MSS: RangeInclusive<u64> = 88..=32_767;
/// The default of `unanswered_timeout` wherever `idle_timeout` is not shorter.
const UNANSWERED: Duration = Duration::from_secs(5);

/// Which protocols a listener serves.
#[derive(Clone, Copy)]
pub(super) struct Serves {
    tcp: bool,
    udp: bool,
}

/// The words of `protocol`.
pub(super) const PROTOCOLS: [(&str, Serves); 3] = [
    ("tcp", Serves { tcp: true, udp: false }),
    ("udp", Serves { tcp: false, udp: true }),
    ("tcp_udp", Serves { tcp: true, udp: true }),
];

/// What a listener does with each protocol that it serves.
pub(super) struct Protocols {
    pub(super) tcp: Option<TcpSettings>,
    pub(super) udp: Option<UdpSettings>,
    /// The same for both; marked for what cannot be told here.
    pub(super) client_ip: Marked<ClientIp>,
}

/// Reads them. Without a readable `protocol` they are read as if both were served, and nothing is served.
pub(super) fn read(section: &mut Section<'_>, report: &Report, host: &Host, protocol: Option<Serves>) -> Protocols {
    let serves = protocol.unwrap_or(Serves { tcp: true, udp: true });
    let client_ip = read_client_ip(section, report, serves);
    let idle_watch = Watch::new(report);
    let idle = per_protocol(section, report, serves, "idle_timeout", |item, _| values::duration(item));
    let idle_whole = idle_watch.clean() && protocol.is_some();
    let leave = per_protocol(section, report, serves, "on_unhealthy", on_unhealthy);

    let mut key = |key| owned(section, report, key, "tcp", serves.tcp);
    let connect_timeout = key("connect_timeout").and_then(|item| item.read(values::duration));
    let connect_attempts = key("connect_attempts").and_then(|item| item.read(|item| values::count(item, MOST_ATTEMPTS)));
    let mss = key("tcp_mss").and_then(|item| item.read(|item| values::integer(item, MSS)));
    if let Some(item) = key("tcp") {
        item.read(|item| values::choice(item, &[("proxy", ())], &["passthrough"]));
    }
    let mut socket = |name| key(name).map(|item| sockets::read(&item, report, host)).unwrap_or_default();
    let tcp = TcpSettings {
        idle_timeout: idle.tcp.unwrap_or(Duration::from_secs(340)),
        connect_timeout: connect_timeout.unwrap_or(Duration::from_secs(1)),
        connect_attempts: connect_attempts.unwrap_or(const { NonZeroUsize::MIN.saturating_add(2) }),
        on_unhealthy: leave.tcp.unwrap_or(OnUnhealthy::Leave),
        client_ip: client_ip.value,
        mss,
        client_socket: socket("client_socket"),
        endpoint_socket: socket("endpoint_socket"),
    };

    let mut key = |key| owned(section, report, key, "udp", serves.udp);
    let idle_timeout = idle.udp.unwrap_or(Duration::from_secs(30));
    let unanswered_timeout = key("unanswered_timeout").and_then(|item| {
        let timeout = item.read(values::duration)?;
        if timeout > idle_timeout && idle_whole && serves.udp {
            let most = humantime::format_duration(idle_timeout);
            let reason = format!("longer than idle_timeout, {most}, which ends the flow before");
            report.error(&item.at, Fault::new(reason, format!("write at most \"{most}\", or raise idle_timeout")));
        }
        Some(timeout)
    });
    let udp = UdpSettings {
        idle_timeout,
        unanswered_timeout: unanswered_timeout.unwrap_or(UNANSWERED.min(idle_timeout)),
        carry_dscp: key("carry_dscp").and_then(|item| item.read(values::boolean)).unwrap_or(false),
        on_unhealthy: leave.udp.unwrap_or(OnUnhealthy::Leave),
        client_ip: client_ip.value,
    };
    let known = protocol.is_some();
    Protocols { tcp: (known && serves.tcp).then_some(tcp), udp: (known && serves.udp).then_some(udp), client_ip }
}

/// The value of a key of one protocol; warns where that protocol is not served.
fn owned<'a>(section: &mut Section<'a>, report: &Report, key: &'static str, protocol: &str, served: bool) -> Option<Item<'a>> {
    let item = section.item(key)?;
    if !served {
        let reason = format!("{key} has no effect on a listener without {protocol}");
        report.warn(&item.at, Fault::new(reason, format!("remove {key}")));
    }
    Some(item)
}

/// `client_ip`: one word for both protocols.
fn read_client_ip(section: &mut Section<'_>, report: &Report, serves: Serves) -> Marked<ClientIp> {
    let words = [
        ("none", ClientIp::None),
        ("proxy_v2", ClientIp::ProxyV2),
        ("proxy_v2_every", ClientIp::ProxyV2Every),
        ("transparent", ClientIp::Transparent),
    ];
    let Some(item) = section.item("client_ip") else {
        return Marked { value: ClientIp::None, at: section.mark("client_ip") };
    };
    let value = item.read(|item| values::choice(item, &words, &[])).unwrap_or_default();
    if value == ClientIp::ProxyV2Every && !serves.udp {
        report
            .error(&item.at, Fault::new("a header on every datagram, and the listener does not serve udp", "write \"proxy_v2\""));
    }
    Marked { value, at: item.at }
}

/// A value for each protocol served, where it was given.
struct PerProtocol<T> {
    tcp: Option<T>,
    udp: Option<T>,
}

/// Reads a key that is one value for every protocol served, or a table `{ tcp = …, udp = … }`.
fn per_protocol<'a, T: Copy>(
    section: &mut Section<'a>,
    report: &Report,
    serves: Serves,
    key: &'static str,
    parse: impl Fn(&Item<'a>, Serves) -> Result<T, Fault>,
) -> PerProtocol<T> {
    const NEITHER: Serves = Serves { tcp: false, udp: false };
    let none = PerProtocol { tcp: None, udp: None };
    let Some(item) = section.item(key) else { return none };
    if !item.value.is_table() {
        let value = item.read(|item| parse(item, serves));
        return PerProtocol { tcp: value.filter(|_| serves.tcp), udp: value.filter(|_| serves.udp) };
    }
    let Some(mut table) = item.section("write { tcp = …, udp = … }") else { return none };
    let mut side = |key: &'static str, served: bool, alone: Serves| {
        let item = table.item(key)?;
        if !served {
            let reason = format!("the listener does not serve {key}");
            report.error(&item.at, Fault::new(reason, format!("remove {key}, or write protocol = \"tcp_udp\"")));
            return None;
        }
        item.read(|item| parse(item, alone))
    };
    let tcp = side("tcp", serves.tcp, Serves { tcp: true, ..NEITHER });
    let udp = side("udp", serves.udp, Serves { udp: true, ..NEITHER });
    table.finish();
    PerProtocol { tcp, udp }
}

fn on_unhealthy(item: &Item<'_>, serves: Serves) -> Result<OnUnhealthy, Fault> {
    let (leave, keep) = (OnUnhealthy::Leave, OnUnhealthy::Keep);
    match serves {
        Serves { tcp: true, udp: false } => values::choice(item, &[("reset", leave), ("keep", keep)], &[]),
        Serves { tcp: false, .. } => values::choice(item, &[("move", leave), ("keep", keep)], &[]),
        Serves { tcp: true, udp: true } => {
            const CURE: &str = "write \"keep\" for both protocols, or { tcp = \"reset\", udp = \"move\" }";
            match item.text(CURE)? {
                "keep" => Ok(keep),
                word @ ("move" | "reset") => Err(Fault::new(format!("{word:?} does not suit both tcp and udp"), CURE)),
                word => Err(Fault::new(format!("unknown value {word:?}"), CURE)),
            }
        }
    }
}
