//! `[edge]`: what concerns this host alone.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use ::anycast::device::LONGEST_NAME;
use endpoint_group::Name;

use super::{
    Edge, FastPath, Host,
    diagnostic::{Fault, Mark, Marked},
    reader::{Item, Report, Section},
    values,
};

/// More forwarding threads than any host has cores.
const MOST_WORKERS: u64 = 1024;
/// Those above the range that Linux takes source ports from by default.
const NAT_PORTS: RangeInclusive<u16> = 61_000..=65_535;

/// `[edge]` as read.
pub(super) struct RawEdge {
    pub(super) name: Option<Name>,
    pub(super) workers: NonZeroUsize,
    pub(super) pin: bool,
    pub(super) admin: Marked<SocketAddr>,
    pub(super) control: PathBuf,
    pub(super) announce: Option<Vec<Marked<IpAddr>>>,
    pub(super) resolvers: Vec<SocketAddr>,
    pub(super) drain_timeout: Duration,
    /// Marked for what cannot be told here.
    pub(super) fast_path: Marked<FastPath>,
    pub(super) fast_path_xdp: Marked<FastPath>,
    pub(super) nat_addresses: Vec<Marked<IpAddr>>,
    pub(super) nat_ports: Marked<RangeInclusive<u16>>,
    pub(super) fast_path_devices: Option<Vec<String>>,
}

impl RawEdge {
    /// The edge of an accelerator with these static IPs; `None` if its name is missing.
    pub(super) fn build(&self, static_ips: &[IpAddr]) -> Option<Edge> {
        let announce = self.announce.as_ref();
        Some(Edge {
            name: self.name.clone()?,
            workers: self.workers,
            pin: self.pin,
            admin: self.admin.value,
            control: self.control.clone(),
            announce: announce.map_or_else(|| static_ips.to_vec(), |ips| ips.iter().map(|ip| ip.value).collect()),
            resolvers: self.resolvers.clone(),
            drain_timeout: self.drain_timeout,
            fast_path: self.fast_path.value,
            fast_path_xdp: self.fast_path_xdp.value,
            nat_addresses: self.nat_addresses.iter().map(|ip| ip.value).collect(),
            nat_ports: self.nat_ports.value.clone(),
            fast_path_devices: self.fast_path_devices.clone(),
        })
    }
}

/// Reads `[edge]`; a file without one has all its defaults.
pub(super) fn read(root: &mut Section<'_>, report: &Report, host: &Host) -> RawEdge {
    let section = root.item("edge").and_then(|item| item.section("write [edge] above its keys"));
    let mut raw = RawEdge {
        name: None,
        workers: host.cores,
        pin: false,
        admin: Marked { value: SocketAddr::from(([127, 0, 0, 1], 9900)), at: root.mark("edge.admin") },
        control: PathBuf::from(crate::commands::CONTROL),
        announce: None,
        resolvers: Vec::new(),
        drain_timeout: Duration::from_secs(30),
        fast_path: Marked { value: FastPath::Auto, at: root.mark("edge.fast_path") },
        fast_path_xdp: Marked { value: FastPath::Auto, at: root.mark("edge.fast_path_xdp") },
        nat_addresses: Vec::new(),
        nat_ports: Marked { value: NAT_PORTS, at: root.mark("edge.nat_ports") },
        fast_path_devices: None,
    };
    let Some(mut edge) = section else {
        raw.name = host_name(report, &root.mark("edge.name"), host);
        return raw;
    };
    raw.name = match edge.item("name") {
        Some(item) => item.read(values::name),
        None => host_name(report, &edge.mark("name"), host),
    };
    if let Some(workers) = edge.get("workers", |item| values::count(item, MOST_WORKERS)) {
        raw.workers = workers;
    }
    if let Some(item) = edge.item("pin") {
        raw.pin = item.read(values::boolean).unwrap_or_default();
        if raw.pin && raw.workers > host.cores {
            let reason =
                format!("{} workers are to be pinned, and this host has {} processors for them", raw.workers, host.cores);
            report.warn(&item.at, Fault::new(reason, format!("write workers = {} or fewer, or pin = false", host.cores)));
        }
    }
    if let Some(item) = edge.item("admin")
        && let Some(value) = item.read(admin)
    {
        raw.admin = Marked { value, at: item.at };
    }
    if let Some(path) = edge.get("control", |item| values::socket_path(item, crate::commands::CONTROL)) {
        raw.control = path;
    }
    raw.announce = edge.item("announce").map(|item| {
        let cure = "list one or more of static_ips, or leave announce out to announce all";
        let ips = ip_list(&item, report, cure);
        if item.value.as_array().is_some_and(|list| list.is_empty()) {
            report.error(&item.at, Fault::new("an edge that announces nothing serves nothing", cure));
        }
        ips
    });
    if let Some(item) = edge.item("resolvers") {
        raw.resolvers = item.elements(RESOLVERS).iter().filter_map(|element| element.read(resolver)).collect();
    }
    if let Some(timeout) = edge.get("drain_timeout", values::duration_or_zero) {
        raw.drain_timeout = timeout;
    }
    read_fast_path(&mut edge, report, &mut raw);
    edge.later(&["crash_grace"]);
    edge.finish();
    raw
}

/// What the in-kernel path needs of this host.
fn read_fast_path(edge: &mut Section<'_>, report: &Report, raw: &mut RawEdge) {
    let paths = [("auto", FastPath::Auto), ("on", FastPath::On), ("off", FastPath::Off)];
    for (key, to) in [("fast_path", &mut raw.fast_path), ("fast_path_xdp", &mut raw.fast_path_xdp)] {
        if let Some(item) = edge.item(key)
            && let Some(value) = item.read(|item| values::choice(item, &paths, &[]))
        {
            *to = Marked { value, at: item.at };
        }
    }
    if let Some(item) = edge.item("nat_addresses") {
        raw.nat_addresses = ip_list(&item, report, "list addresses of this host, such as [\"10.0.1.5\"]");
    }
    if let Some(item) = edge.item("nat_ports")
        && let Some(value) = item.read(values::port_range)
    {
        raw.nat_ports = Marked { value, at: item.at };
    }
    raw.fast_path_devices = edge.item("fast_path_devices").map(|item| devices(&item, report));
}

/// A list of names of devices, none of them twice, and not empty.
fn devices(item: &Item<'_>, report: &Report) -> Vec<String> {
    const CURE: &str = "list names of network devices, such as [\"eth0\", \"eth1\"], or leave fast_path_devices out";
    let elements = item.elements(CURE);
    if elements.is_empty() && item.value.is_array() {
        report.error(&item.at, Fault::new("a fast path without devices takes no packets", CURE));
    }
    let mut devices: Vec<String> = Vec::new();
    for element in &elements {
        let Some(name) = element.read(|element| element.text(CURE).map(str::to_owned)) else { continue };
        if !is_device_name(&name) {
            report.error(&element.at, Fault::new(format!("no device can have the name {name:?}"), CURE));
        } else if devices.contains(&name) {
            report.error(&element.at, Fault::new(format!("{name} is listed twice"), "list it once"));
        } else {
            devices.push(name);
        }
    }
    devices
}

/// Whether Linux would give a device this name.
fn is_device_name(name: &str) -> bool {
    let odd = |byte: u8| matches!(byte, b'/' | b':' | 0) || byte.is_ascii_whitespace();
    (1..=LONGEST_NAME).contains(&name.len()) && !matches!(name, "." | "..") && !name.bytes().any(odd)
}

/// A list of addresses, none of them twice.
pub(super) fn ip_list(item: &Item<'_>, report: &Report, cure: &str) -> Vec<Marked<IpAddr>> {
    let mut ips: Vec<Marked<IpAddr>> = Vec::new();
    for element in item.elements(cure) {
        let Some(value) = element.read(values::static_ip) else { continue };
        if ips.iter().any(|ip| ip.value == value) {
            report.error(&element.at, Fault::new(format!("{value} is listed twice"), "list it once"));
        } else {
            ips.push(Marked { value, at: element.at });
        }
    }
    ips
}

fn host_name(report: &Report, at: &Mark, host: &Host) -> Option<Name> {
    let name = Name::new(&host.name).ok().filter(|name| !name.as_str().contains('#'));
    if name.is_none() {
        let reason = format!("the default, this host's name {:?}, does not do as a name", host.name);
        report.absent(at, Fault::new(reason, "set edge.name to 1 to 64 letters, digits, '.', '_' or '-'"));
    }
    name
}

const RESOLVERS: &str =
    "list addresses of DNS servers, with the port if it is not 53, such as [\"10.0.0.53\", \"127.0.0.1:5353\"]";

fn resolver(item: &Item<'_>) -> Result<SocketAddr, Fault> {
    let text = item.text(RESOLVERS)?;
    let address = text.parse().or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)));
    let address = address.ok().filter(|address: &SocketAddr| address.port() > 0 && !address.ip().is_unspecified());
    address.ok_or_else(|| Fault::new(format!("{text:?} is not the address of a DNS server"), RESOLVERS))
}

fn admin(item: &Item<'_>) -> Result<SocketAddr, Fault> {
    const CURE: &str = "write an address and a port, such as \"127.0.0.1:9900\"";
    let text = item.text(CURE)?;
    text.parse().map_err(|_| Fault::new(format!("{text:?} is not an address with a port"), CURE))
}
