//! Which listeners the kernel forwards, and why it does not forward the others.

use std::{net::IpAddr, ops::RangeInclusive};

use edge_listener::client_ip::ClientIp;

use super::{
    Config, FastPath, Forwarding, Host, Listener, RawFile, UNRESOLVED,
    diagnostic::{Fault, Marked},
    listener::{overlap, shown},
    reader::Report,
};

/// The most addresses that the kernel numbers.
const MOST_NAT_ADDRESSES: usize = 64;

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
        Some(self.keeps_in_user_space(listener, is_local).map_or(Path::Kernel, Path::User))
    }

    fn keeps_in_user_space(&self, listener: &Listener, is_local: &dyn Fn(IpAddr) -> bool) -> Option<String> {
        if listener.forwarding == Forwarding::User {
            return Some("forwarding = \"user\"".into());
        }
        if self.edge.fast_path == FastPath::Off {
            return Some("fast_path = \"off\"".into());
        }
        if self.edge.nat_addresses.is_empty() {
            return Some("nat_addresses is not set".into());
        }
        let udp = listener.settings.udp.as_ref()?;
        if udp.client_ip != ClientIp::None {
            return Some("client_ip needs user space".into());
        }
        let families = [("IPv4", false), ("IPv6", true)];
        let served = |v6: bool| self.edge.announce.iter().any(|ip| ip.is_ipv6() == v6);
        let without_nat = |v6: bool| !self.edge.nat_addresses.iter().any(|ip| ip.is_ipv6() == v6);
        if let Some((family, _)) = families.iter().find(|(_, v6)| served(*v6) && without_nat(*v6)) {
            return Some(format!("a static IP is {family}, and no address of nat_addresses is"));
        }
        let groups = listener.groups.iter().filter_map(|&group| self.endpoint_groups.get(group));
        for group in groups {
            for endpoint in &group.group.endpoints {
                let name = &endpoint.name;
                if group.hosts.contains_key(name) || endpoint.ip == UNRESOLVED {
                    return Some(format!("endpoint {name} has a DNS name"));
                }
                if let Some((family, _)) = families.iter().find(|(_, v6)| served(*v6) && endpoint.ip.is_ipv6() != *v6) {
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

    /// Flows at once of `listener` in the kernel, which forwards `listeners` of them: what the file says, or its share of the NAT's ports.
    ///
    /// A listener with a `max_flows` of its own counts as a sharer all the same, so that setting it changes no other's default.
    pub fn kernel_max_flows(&self, listener: &Listener, listeners: usize) -> usize {
        match listener.default_max_flows {
            true => ((self.nat_capacity(false) + self.nat_capacity(true)) / listeners.max(1)).max(1),
            false => listener.settings.limits.max_flows,
        }
    }

    /// Flows of one address family that the NAT has ports for.
    pub fn nat_capacity(&self, v6: bool) -> usize {
        self.edge.nat_addresses.iter().filter(|ip| ip.is_ipv6() == v6).count() * self.edge.nat_ports.len()
    }
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
            Some(Path::Kernel) => {}
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
    if config.edge.fast_path == FastPath::On && !config.listeners.iter().any(|listener| path(listener) == Some(Path::Kernel)) {
        let why = config.listeners.iter().find_map(|listener| match path(listener)? {
            Path::Kernel => None,
            Path::User(reason) => Some(format!("listener {}: {reason}", listener.settings.name)),
        });
        let reason = format!("the kernel can forward no listener; {}", why.unwrap_or_else(|| "none serves udp".to_owned()));
        report.error(&file.edge.fast_path.at, Fault::new(reason, "remove the cause, or write \"auto\""));
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
