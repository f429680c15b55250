//! `[[listeners]]`: what clients may reach, and how their flows are treated.

use std::{num::NonZeroUsize, ops::RangeInclusive};

use edge_listener::settings::{ListenerSettings, TcpSettings, UdpSettings};
use edge_listener::{access::Access, client_ip::ClientIp};
use endpoint_group::{Affinity, Name, Protocol, WhenAllUnhealthy};
use ipnet::IpNet;

use super::{
    Forwarding, Host, Proximity,
    diagnostic::{Fault, Mark, Marked},
    limits::{self, RawLimits},
    protocols::{self, PROTOCOLS, Protocols},
    reader::{Item, Report, Section, Watch},
    values,
};

const MOST_RANGES: usize = 10;

/// One listener as read.
pub(super) struct RawListener {
    pub(super) at: Mark,
    pub(super) name: Option<Marked<Name>>,
    pub(super) ports: Vec<Marked<RangeInclusive<u16>>>,
    pub(super) affinity: Affinity,
    pub(super) tcp: Option<TcpSettings>,
    pub(super) udp: Option<UdpSettings>,
    pub(super) client_ip: Marked<ClientIp>,
    pub(super) access: Access,
    pub(super) limits: RawLimits,
    pub(super) when_all_unhealthy: WhenAllUnhealthy,
    /// Marked for what cannot be told here.
    pub(super) forwarding: Marked<Forwarding>,
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

/// Reads every `[[listeners]]`.
pub(super) fn read_all(root: &mut Section<'_>, report: &Report, host: &Host) -> Vec<RawListener> {
    const CURE: &str = "write one [[listeners]] table or more";
    let Some(item) = root.need_item("listeners", CURE) else { return Vec::new() };
    let elements = item.elements(CURE);
    if elements.is_empty() && item.value.is_array() {
        report.error(&item.at, Fault::new("no listener", CURE));
    }
    elements.iter().filter_map(|element| read(element, report, host)).collect()
}

fn read(item: &Item<'_>, report: &Report, host: &Host) -> Option<RawListener> {
    let watch = Watch::new(report);
    let mut section = item.section("write each listener as a table, [[listeners]]")?;
    let name = section.need_item("name", "give the listener a name").and_then(|item| {
        let value = item.read(values::name)?;
        Some(Marked { value, at: item.at })
    });
    let protocol = "write protocol = \"tcp\", \"udp\" or \"tcp_udp\"";
    let protocol = section.need("protocol", protocol, |item| values::choice(item, &PROTOCOLS, &[]));
    let ports = read_ports(&mut section, report);
    let affinities = [("none", Affinity::None), ("source_ip", Affinity::SourceIp)];
    let affinity = section.get("client_affinity", |item| values::choice(item, &affinities, &[])).unwrap_or_default();
    let Protocols { tcp, udp, client_ip } = protocols::read(&mut section, report, host, protocol);
    let outcomes = [("fail_open", WhenAllUnhealthy::FailOpen), ("fail_closed", WhenAllUnhealthy::FailClosed)];
    let when_all_unhealthy = section.get("when_all_unhealthy", |item| values::choice(item, &outcomes, &[])).unwrap_or_default();
    let forwarding = read_forwarding(&mut section);
    let limits = limits::read(&mut section);
    let access = read_access(&mut section);
    let groups = read_groups(&mut section, report);
    let orders = [("listed", Proximity::Listed), ("latency", Proximity::Latency)];
    let proximity = section.get("proximity", |item| values::choice(item, &orders, &[])).unwrap_or_default();
    section.later(&["reset_spread"]);
    section.finish();
    Some(RawListener {
        at: item.at.clone(),
        name,
        ports,
        affinity,
        tcp,
        udp,
        client_ip,
        access,
        limits,
        when_all_unhealthy,
        forwarding,
        groups,
        proximity,
        whole: watch.clean(),
    })
}

fn read_forwarding(section: &mut Section<'_>) -> Marked<Forwarding> {
    let paths = [("auto", Forwarding::Auto), ("user", Forwarding::User), ("kernel", Forwarding::Kernel)];
    let Some(item) = section.item("forwarding") else {
        return Marked { value: Forwarding::Auto, at: section.mark("forwarding") };
    };
    let value = item.read(|item| values::choice(item, &paths, &[])).unwrap_or_default();
    Marked { value, at: item.at }
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
