//! Which listeners the kernel forwards, and why it does not forward the others.

use std::{net::IpAddr, ops::RangeInclusive};

use edge_listener::client_ip::ClientIp;
use fast_path::MOST_TRANSPARENT_FLOWS;

use super::{
    Config, FastPath, Forwarding, Host, Listener, RawFile, UNRESOLVED,
    diagnostic::{Fault, Marked},
    listener::{overlap, shown},
    reader::Report,
};

/// The most addresses that the kernel numbers.
const MOST_NAT_ADDRESSES: usize = 64;

/// Flows at once of a transparent listener in the kernel, which take no NAT ports: some 30 MB.
const TRANSPARENT_FLOWS: usize = 65_536;

/// The two address families in words, and whether each is IPv6.
const FAMILIES: [(&str, bool); 2] = [("IPv4", false), ("IPv6", true)];

/// Where the UDP of a listener is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path {
    /// In the kernel, if this host lets it.
    Kernel,
    /// In user space, for this reason.
    User(String),
}

impl Config {
    /// Where the UDP of `listener` is forwarded as far as the file says; `None` if it serves none. `is_local` tells the addresses of
    /// this host.
    pub fn path(&self, listener: &Listener, is_local: &dyn Fn(IpAddr) -> bool) -> Option<Path> {
        listener.settings.udp.as_ref()?;
        let reason = self.keeps_in_user_space(listener, is_local).or_else(|| self.meets_user_space(listener, is_local));
        Some(reason.map_or(Path::Kernel, Path::User))
    }

    /// What keeps all transparent listeners in user space together: the two paths do not know of each other's flows, so both might give a
    /// client's port to a flow at the same endpoint.
    fn meets_user_space(&self, listener: &Listener, is_local: &dyn Fn(IpAddr) -> bool) -> Option<String> {
        if !is_transparent(listener) {
            return None;
        }
        let transparent = || self.listeners.iter().filter(|listener| is_transparent(listener));
        let flows = transparent().fold(0, |sum: usize, listener| sum.saturating_add(self.kernel_max_flows(listener, 1)));
        if flows > MOST_TRANSPARENT_FLOWS {
            return Some(format!(
                "the max_flows of transparent listeners come to {flows}, and the kernel has room for {MOST_TRANSPARENT_FLOWS}"
            ));
        }
        let (other, reason) =
            transparent().find_map(|other| Some((&other.settings.name, self.keeps_in_user_space(other, is_local)?)))?;
        Some(format!("listener {other} is transparent too, and in user space: {reason}"))
    }

    /// What `listener` itself has that the kernel cannot do.
    fn keeps_in_user_space(&self, listener: &Listener, is_local: &dyn Fn(IpAddr) -> bool) -> Option<String> {
        if listener.forwarding == Forwarding::User {
            return Some("forwarding = \"user\"".into());
        }
        if self.edge.fast_path == FastPath::Off {
            return Some("fast_path = \"off\"".into());
        }
        let transparent = is_transparent(listener);
        if !transparent && listener.settings.udp.as_ref()?.client_ip != ClientIp::None {
            return Some("client_ip needs user space".into());
        }
        // Transparent flows fall back to a NAT address now and then; where the kernel is asked for by name they do without.
        if let Some(reason) = self.lacks_nat().filter(|_| !(transparent && listener.forwarding == Forwarding::Kernel)) {
            return Some(reason);
        }
        let served = |v6: bool| self.edge.announce.iter().any(|ip| ip.is_ipv6() == v6);
        let groups = listener.groups.iter().filter_map(|&group| self.endpoint_groups.get(group));
        for group in groups {
            for endpoint in &group.group.endpoints {
                let name = &endpoint.name;
                if group.hosts.contains_key(name) || endpoint.ip == UNRESOLVED {
                    return Some(format!("endpoint {name} has a DNS name"));
                }
                if let Some((family, _)) = FAMILIES.iter().find(|(_, v6)| served(*v6) && endpoint.ip.is_ipv6() != *v6) {
                    return Some(format!("a static IP is {family}, and endpoint {name} is not"));
                }
                let own = endpoint.ip.is_loopback() || self.edge.nat_addresses.contains(&endpoint.ip);
                if own || self.static_ips.contains(&endpoint.ip) || is_local(endpoint.ip) {
                    return Some(format!("endpoint {name} is on this host"));
                }
            }
        }
        None
    }

    /// What is missing of NAT addresses.
    fn lacks_nat(&self) -> Option<String> {
        if self.edge.nat_addresses.is_empty() {
            return Some("nat_addresses is not set".into());
        }
        let has = |ips: &[IpAddr], v6: bool| ips.iter().any(|ip| ip.is_ipv6() == v6);
        let lacks = |v6: bool| has(&self.edge.announce, v6) && !has(&self.edge.nat_addresses, v6);
        let (family, _) = FAMILIES.iter().find(|(_, v6)| lacks(*v6))?;
        Some(format!("a static IP is {family}, and no address of nat_addresses is"))
    }

    /// Flows at once of `listener` in the kernel, which forwards `listeners` of them: what the file says, or its share of the NAT's ports,
    /// or, for a transparent one, which takes none, a fixed number.
    ///
    /// A listener with a `max_flows` of its own counts as a sharer all the same, so that setting it changes no other's default.
    pub fn kernel_max_flows(&self, listener: &Listener, listeners: usize) -> usize {
        match listener.default_max_flows {
            true if is_transparent(listener) => TRANSPARENT_FLOWS,
            true => ((self.nat_capacity(false) + self.nat_capacity(true)) / listeners.max(1)).max(1),
            false => listener.settings.limits.max_flows,
        }
    }

    /// Flows of one address family that the NAT has ports for.
    pub fn nat_capacity(&self, v6: bool) -> usize {
        self.edge.nat_addresses.iter().filter(|ip| ip.is_ipv6() == v6).count() * self.edge.nat_ports.len()
    }
}

/// Whether endpoints see the clients of its UDP.
fn is_transparent(listener: &Listener) -> bool {
    listener.settings.udp.as_ref().is_some_and(|udp| udp.client_ip == ClientIp::Transparent)
}

/// Refuses what the kernel is to do and cannot, as far as the file alone tells.
pub(super) fn check(report: &Report, file: &RawFile, config: &Config, host: &Host) {
    ports(report, file, config, host);
    let path = |listener: &Listener| config.path(listener, &|_| false);
    for (listener, raw) in config.listeners.iter().zip(&file.listeners) {
        if listener.forwarding != Forwarding::Kernel {
            continue;
        }
        match path(listener) {
            Some(Path::Kernel) => {
                if let Some(reason) = config.lacks_nat().filter(|_| is_transparent(listener)) {
                    let reason = format!(
                        "{reason}, so the second of two flows from one client port to one endpoint is refused (client_ip_in_use)"
                    );
                    report.warn(
                        &raw.client_ip.at,
                        Fault::new(reason, "set nat_addresses, which such flows fall back to, or leave it"),
                    );
                }
            }
            Some(Path::User(reason)) => {
                let cure = "remove what keeps it in user space, or write forwarding = \"auto\"";
                report.error(&raw.forwarding.at, Fault::new(format!("the kernel cannot forward this listener: {reason}"), cure));
            }
            None => {
                let reason = "the kernel forwards UDP only, and this listener serves none";
                report.error(&raw.forwarding.at, Fault::new(reason, "remove forwarding"));
            }
        }
    }
    let required = [(config.edge.fast_path, &file.edge.fast_path.at), (config.edge.fast_path_xdp, &file.edge.fast_path_xdp.at)];
    let required = required.into_iter().find_map(|(wanted, at)| (wanted == FastPath::On).then_some(at));
    if let Some(at) = required
        && !config.listeners.iter().any(|listener| path(listener) == Some(Path::Kernel))
    {
        let why = config.listeners.iter().find_map(|listener| match path(listener)? {
            Path::Kernel => None,
            Path::User(reason) => Some(format!("listener {}: {reason}", listener.settings.name)),
        });
        let reason = format!("the kernel can forward no listener; {}", why.unwrap_or_else(|| "none serves udp".to_owned()));
        report.error(at, Fault::new(reason, "remove the cause, or write \"auto\""));
    }
}

/// Ports that belong to one flow must belong to nothing else.
fn ports(report: &Report, file: &RawFile, config: &Config, host: &Host) {
    let (addresses, ports) = (&file.edge.nat_addresses, &file.edge.nat_ports);
    if let Some(first_too_many) = addresses.get(MOST_NAT_ADDRESSES) {
        let reason = format!("{} NAT addresses", addresses.len());
        report.error(&first_too_many.at, Fault::new(reason, format!("list at most {MOST_NAT_ADDRESSES}")));
    }
    let shared = addresses.iter().find(|ip| config.static_ips.contains(&ip.value));
    let taken = file.listeners.iter().find_map(|listener| {
        listener.ports.iter().find(|range| overlap(&range.value, &ports.value)).map(|range| (listener.title(), &range.value))
    });
    if let (Some(ip), Some((listener, range))) = (shared, taken) {
        let reason =
            format!("{} overlaps {} of listener {listener}, and {} is a static IP", shown(&ports.value), shown(range), ip.value);
        report.error(&ports.at, Fault::new(reason, "keep nat_ports apart from all listeners, or use another NAT address"));
    }
    if !addresses.is_empty() {
        listeners_ports(report, file, config, host);
    }
    let random = host.ephemeral.iter().find(|range| overlap(range, &ports.value));
    if let Some(range) = random.filter(|_| !addresses.is_empty()) {
        let reason =
            format!("the kernel gives ports {} to any socket of this host, and a NAT port must be no socket's", shown(range));
        let cure = format!("reserve them: sysctl -w net.ipv4.ip_local_reserved_ports={}", shown(&ports.value));
        report.warn(&ports.at, Fault::new(reason, cure));
    }
}

/// No socket holds the ports of a listener that the kernel forwards, so another may be given one, and its answers are taken for clients.
fn listeners_ports(report: &Report, file: &RawFile, config: &Config, host: &Host) {
    for (listener, raw) in config.listeners.iter().zip(&file.listeners) {
        if config.path(listener, &|_| false) != Some(Path::Kernel) {
            continue;
        }
        let taken = |range: &&Marked<RangeInclusive<u16>>| host.ephemeral.iter().any(|random| overlap(random, &range.value));
        if let Some(range) = raw.ports.iter().find(taken) {
            let reason = format!(
                "no socket holds {} while the kernel forwards, so it may be given to any socket of this host, whose answers are then \
                 taken for clients",
                shown(&range.value)
            );
            let cure = format!("reserve it: sysctl -w net.ipv4.ip_local_reserved_ports={}", shown(&range.value));
            report.warn(&range.at, Fault::new(reason, cure));
        }
    }
}
