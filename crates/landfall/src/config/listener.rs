//! `[[listeners]]`: what clients may reach, and how their flows are treated.

use std::{num::NonZeroUsize, ops::RangeInclusive, time::Duration};

use edge_listener::settings::{ListenerSettings, OnUnhealthy, TcpSettings, UdpSettings};
use edge_listener::{access::Access, client_ip::ClientIp};
use endpoint_group::{Affinity, Name, Protocol, WhenAllUnhealthy};
use ipnet::IpNet;

use super::{
    Forwarding, Proximity,
    diagnostic::{Fault, Mark, Marked},
    limits::{self, RawLimits},
    reader::{Item, Report, Section, Watch},
    values,
};

const MOST_RANGES: usize = 10;
const MOST_ATTEMPTS: u64 = 16;
/// What Linux takes for TCP_MAXSEG.
const MSS: RangeInclusive<u64> = 88..=32_767;

/// One listener as read.
pub(super) struct RawListener {
    pub(super) at: Mark,
    pub(super) name: Option<Marked<Name>>,
    pub(super) ports: Vec<Marked<RangeInclusive<u16>>>,
    pub(super) affinity: Affinity,
    pub(super) tcp: Option<TcpSettings>,
    pub(super) udp: Option<UdpSettings>,
    pub(super) access: Access,
    pub(super) limits: RawLimits,
    pub(super) when_all_unhealthy: WhenAllUnhealthy,
    pub(super) forwarding: Forwarding,
    pub(super) groups: Vec<Marked<Name>>,
    pub(super) proximity: Proximity,
    /// Whether all of it could be read, so that nothing said about it is a consequence of another error.
    pub(super) whole: bool,
}

impl RawListener {
    /// Its name in quotes for messages, or its place in the file.
    pub(super) fn title(&self) -> String {
        self.name.as_ref().map_or_else(|| self.at.key.clone(), |name| format!("{:?}", name.value))
    }

    pub(super) fn serves(&self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Tcp => self.tcp.is_some(),
            Protocol::Udp => self.udp.is_some(),
        }
    }

    pub(super) fn has_port(&self, port: u16) -> bool {
        self.ports.iter().any(|range| range.value.contains(&port))
    }

    pub(super) fn first_port(&self) -> Option<u16> {
        self.ports.first().map(|range| *range.value.start())
    }

    /// The settings, once `max_flows` is known.
    pub(super) fn settings(&self, max_flows: NonZeroUsize) -> Option<ListenerSettings> {
        Some(ListenerSettings {
            name: self.name.as_ref()?.value.clone(),
            ports: self.ports.iter().map(|range| range.value.clone()).collect(),
            affinity: self.affinity,
            tcp: self.tcp.clone(),
            udp: self.udp.clone(),
            access: self.access.clone(),
            limits: self.limits.build(max_flows),
        })
    }
}

/// Which protocols a listener serves.
#[derive(Clone, Copy)]
struct Serves {
    tcp: bool,
    udp: bool,
}

/// Reads every `[[listeners]]`.
pub(super) fn read_all(root: &mut Section<'_>, report: &Report) -> Vec<RawListener> {
    const CURE: &str = "write one [[listeners]] table or more";
    let Some(item) = root.need_item("listeners", CURE) else { return Vec::new() };
    let elements = item.elements(CURE);
    if elements.is_empty() && item.value.is_array() {
        report.error(&item.at, Fault::new("no listener", CURE));
    }
    elements.iter().filter_map(|element| read(element, report)).collect()
}

fn read(item: &Item<'_>, report: &Report) -> Option<RawListener> {
    let watch = Watch::new(report);
    let mut section = item.section("write each listener as a table, [[listeners]]")?;
    let name = section.need_item("name", "give the listener a name").and_then(|item| {
        let value = item.read(values::name)?;
        Some(Marked { value, at: item.at })
    });
    let protocols = [
        ("tcp", Serves { tcp: true, udp: false }),
        ("udp", Serves { tcp: false, udp: true }),
        ("tcp_udp", Serves { tcp: true, udp: true }),
    ];
    let protocol = "write protocol = \"tcp\", \"udp\" or \"tcp_udp\"";
    let protocol = section.need("protocol", protocol, |item| values::choice(item, &protocols, &[]));
    // Without a readable protocol its keys are read as if both were served, and nothing is served.
    let serves = protocol.unwrap_or(Serves { tcp: true, udp: true });
    let ports = read_ports(&mut section, report);
    let client_ip = read_client_ip(&mut section, report, serves);
    let affinities = [("none", Affinity::None), ("source_ip", Affinity::SourceIp)];
    let affinity = section.get("client_affinity", |item| values::choice(item, &affinities, &[])).unwrap_or_default();
    let (tcp, udp) = read_protocols(&mut section, report, serves, client_ip);
    let (tcp, udp) = if protocol.is_some() { (tcp, udp) } else { (None, None) };
    let outcomes = [("fail_open", WhenAllUnhealthy::FailOpen), ("fail_closed", WhenAllUnhealthy::FailClosed)];
    let when_all_unhealthy = section.get("when_all_unhealthy", |item| values::choice(item, &outcomes, &[])).unwrap_or_default();
    let paths = [("auto", Forwarding::Auto), ("user", Forwarding::User)];
    let forwarding = section.get("forwarding", |item| values::choice(item, &paths, &["kernel"])).unwrap_or_default();
    let limits = limits::read(&mut section);
    let access = read_access(&mut section);
    let groups = read_groups(&mut section, report);
    let orders = [("listed", Proximity::Listed), ("latency", Proximity::Latency)];
    let proximity = section.get("proximity", |item| values::choice(item, &orders, &[])).unwrap_or_default();
    section.later(&["unanswered_timeout", "reset_spread"]);
    section.finish();
    Some(RawListener {
        at: item.at.clone(),
        name,
        ports,
        affinity,
        tcp,
        udp,
        access,
        limits,
        when_all_unhealthy,
        forwarding,
        groups,
        proximity,
        whole: watch.clean(),
    })
}

fn read_ports(section: &mut Section<'_>, report: &Report) -> Vec<Marked<RangeInclusive<u16>>> {
    const CURE: &str = "list ports and ranges, such as [7000, \"7100-7199\"]";
    let Some(item) = section.need_item("ports", CURE) else { return Vec::new() };
    let elements = item.elements(CURE);
    if item.value.is_array() && !(1..=MOST_RANGES).contains(&elements.len()) {
        report.error(&item.at, Fault::new(format!("{} ranges of ports", elements.len()), "list 1 to 10 ports and ranges"));
    }
    let mut ranges: Vec<Marked<RangeInclusive<u16>>> = Vec::new();
    for element in elements {
        let Some(value) = element.read(values::port_range) else { continue };
        if let Some(other) = ranges.iter().find(|other| overlap(&other.value, &value)) {
            let reason = format!("{} overlaps {} of the same listener", shown(&value), shown(&other.value));
            report.error(&element.at, Fault::new(reason, "list each port once"));
        }
        ranges.push(Marked { value, at: element.at });
    }
    ranges
}

/// Whether two ranges have a port in common.
pub(super) fn overlap(a: &RangeInclusive<u16>, b: &RangeInclusive<u16>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}

/// A range as the file has it: `7000` or `7100-7199`.
pub(super) fn shown(range: &RangeInclusive<u16>) -> String {
    if range.start() == range.end() { range.start().to_string() } else { format!("{}-{}", range.start(), range.end()) }
}

/// `client_ip`: one word for both protocols.
fn read_client_ip(section: &mut Section<'_>, report: &Report, serves: Serves) -> ClientIp {
    let words = [("none", ClientIp::None), ("proxy_v2", ClientIp::ProxyV2), ("proxy_v2_every", ClientIp::ProxyV2Every)];
    let Some(item) = section.item("client_ip") else { return ClientIp::None };
    let client_ip = item.read(|item| values::choice(item, &words, &["transparent"])).unwrap_or_default();
    if client_ip == ClientIp::ProxyV2Every && !serves.udp {
        report
            .error(&item.at, Fault::new("a header on every datagram, and the listener does not serve udp", "write \"proxy_v2\""));
    }
    client_ip
}

fn read_protocols(
    section: &mut Section<'_>,
    report: &Report,
    serves: Serves,
    client_ip: ClientIp,
) -> (Option<TcpSettings>, Option<UdpSettings>) {
    let idle = per_protocol(section, report, serves, "idle_timeout", |item, _| values::duration(item));
    let leave = per_protocol(section, report, serves, "on_unhealthy", on_unhealthy);
    let mut tcp_key = |key: &'static str| {
        let item = section.item(key)?;
        if !serves.tcp {
            report.warn(&item.at, Fault::new(format!("{key} has no effect on a listener without tcp"), format!("remove {key}")));
        }
        Some(item)
    };
    let connect_timeout = tcp_key("connect_timeout").and_then(|item| item.read(values::duration));
    let connect_attempts = tcp_key("connect_attempts").and_then(|item| item.read(|item| values::count(item, MOST_ATTEMPTS)));
    let mss = tcp_key("tcp_mss").and_then(|item| item.read(|item| values::integer(item, MSS)));
    if let Some(item) = tcp_key("tcp") {
        item.read(|item| values::choice(item, &[("proxy", ())], &["passthrough"]));
    }
    let tcp = TcpSettings {
        idle_timeout: idle.tcp.unwrap_or(Duration::from_secs(340)),
        connect_timeout: connect_timeout.unwrap_or(Duration::from_secs(1)),
        connect_attempts: connect_attempts.unwrap_or(const { NonZeroUsize::MIN.saturating_add(2) }),
        on_unhealthy: leave.tcp.unwrap_or(OnUnhealthy::Leave),
        client_ip,
        mss,
    };
    let udp = UdpSettings {
        idle_timeout: idle.udp.unwrap_or(Duration::from_secs(30)),
        on_unhealthy: leave.udp.unwrap_or(OnUnhealthy::Leave),
        client_ip,
    };
    (serves.tcp.then_some(tcp), serves.udp.then_some(udp))
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

/// `allow` and `deny`.
fn read_access(section: &mut Section<'_>) -> Access {
    const CURE: &str = "list networks, such as [\"203.0.113.0/24\", \"2001:db8::/32\"]";
    let mut networks = |key: &'static str| -> Vec<IpNet> {
        let Some(list) = section.item(key) else { return Vec::new() };
        list.elements(CURE).iter().filter_map(|element| element.read(values::network)).collect()
    };
    let (allow, deny) = (networks("allow"), networks("deny"));
    Access::new(&allow, &deny)
}

fn read_groups(section: &mut Section<'_>, report: &Report) -> Vec<Marked<Name>> {
    const CURE: &str = "list one or more names of endpoint groups, the preferred first";
    let Some(item) = section.need_item("endpoint_groups", CURE) else { return Vec::new() };
    let elements = item.elements(CURE);
    if elements.is_empty() && item.value.is_array() {
        report.error(&item.at, Fault::new("no endpoint group", CURE));
    }
    let mut groups: Vec<Marked<Name>> = Vec::new();
    for element in elements {
        let Some(value) = element.read(values::name) else { continue };
        if groups.iter().any(|group| group.value == value) {
            report.error(&element.at, Fault::new(format!("endpoint group {:?} is listed twice", value), "list each group once"));
        } else {
            groups.push(Marked { value, at: element.at });
        }
    }
    groups
}
