//! `client_ip = "transparent"`: what it needs beside the file, and where an endpoint sees this edge all the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use edge_listener::client_ip::ClientIp;
use endpoint_group::{Endpoint, EndpointGroup};

use super::{
    RawFile,
    crosscheck::{Resolved, common_protocol},
    diagnostic::Fault,
    listener::RawListener,
    reader::Report,
};

/// A transparent listener, and those of its groups that could be read.
struct Transparent<'a> {
    listener: &'a RawListener,
    groups: Vec<&'a EndpointGroup>,
}

/// Warns of all that a transparent listener may find out only by its flows.
pub(super) fn check(report: &Report, file: &RawFile, resolved: &Resolved) {
    let group = |&group: &usize| resolved.groups.get(group)?.as_ref().map(|(group, _)| group);
    let listeners = file.listeners.iter().zip(&resolved.groups_of);
    let transparent: Vec<_> = listeners
        .filter(|(listener, _)| listener.client_ip.value == ClientIp::Transparent)
        .map(|(listener, groups)| Transparent { listener, groups: groups.iter().filter_map(group).collect() })
        .collect();
    for (index, this) in transparent.iter().enumerate() {
        let at = &this.listener.client_ip.at;
        let reason = "the edge needs CAP_NET_ADMIN for it, and what endpoints answer must be routed through this edge";
        let cure = "see to both as docs/OPERATIONS.md says (Clients' own addresses), or write \"proxy_v2\"";
        report.warn(at, Fault::new(reason, cure));
        families(report, file, this);
        if let Some(address) = meeting_within(this) {
            let reason = format!("two ports of this listener lead to {address}, {FALL_BACK}");
            report.warn(at, Fault::new(reason, "give such endpoints no port of their own and no override, or leave it"));
        }
        for other in &transparent[..index] {
            if let Some(address) = meeting(other, this) {
                let reason = format!("this listener and {} both lead to {address}, {FALL_BACK}", other.listener.title());
                report.warn(at, Fault::new(reason, "let each listener lead to a port of its own, or leave it"));
            }
        }
    }
}

const FALL_BACK: &str = "which sees the client's address in only one of two flows from one client port: the other comes from this \
                         edge's address and counts in landfall_client_ip_fallbacks_total";

/// Endpoints of a family in which this edge has no static IP, so that no client speaks it.
fn families(report: &Report, file: &RawFile, this: &Transparent<'_>) {
    let static_ips = file.edge.announce.as_ref().unwrap_or(&file.static_ips);
    for (family, of_family) in [("IPv4", IpAddr::is_ipv4 as fn(&IpAddr) -> bool), ("IPv6", IpAddr::is_ipv6)] {
        if !file.static_ips_whole || static_ips.iter().any(|ip| of_family(&ip.value)) {
            continue;
        }
        let endpoints = this.groups.iter().flat_map(|group| known(group)).filter(|endpoint| of_family(&endpoint.ip));
        let names: BTreeSet<_> = endpoints.map(|endpoint| endpoint.name.as_str()).collect();
        let Some(first) = names.first() else { continue };
        let more = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
        let reason = format!(
            "this edge serves no {family} static IP, so its {family} endpoints never see a client's address: {first:?}{more}"
        );
        let cure = "give them an address of the other family, or the edge a static IP of theirs";
        report.warn(&this.listener.client_ip.at, Fault::new(reason, cure));
    }
}

/// An address and port that two ports of one listener lead to.
fn meeting_within(this: &Transparent<'_>) -> Option<SocketAddr> {
    this.groups.iter().find_map(|group| {
        let mut seen = BTreeSet::new();
        let twice = targets(this.listener, group).find(|&port| !seen.insert(port));
        let several = targets(this.listener, group).nth(1).is_some();
        known(group).find_map(|endpoint| {
            let port = endpoint.port.filter(|_| several).or(twice.filter(|_| endpoint.port.is_none()))?;
            Some(SocketAddr::new(endpoint.ip, port))
        })
    })
}

/// An address and port that two listeners lead to, with the same protocol.
fn meeting(one: &Transparent<'_>, other: &Transparent<'_>) -> Option<SocketAddr> {
    common_protocol(one.listener, other.listener)?;
    let pairs = one.groups.iter().flat_map(|group| other.groups.iter().map(move |other| (group, other)));
    pairs.into_iter().find_map(|(group, other_group)| {
        let ports: BTreeSet<u16> = targets(one.listener, group).collect();
        let other_ports: BTreeSet<u16> = targets(other.listener, other_group).collect();
        let common = ports.intersection(&other_ports).next().copied();
        let mut by_ip: BTreeMap<IpAddr, Vec<Option<u16>>> = BTreeMap::new();
        for endpoint in known(other_group) {
            by_ip.entry(endpoint.ip).or_default().push(endpoint.port);
        }
        known(group).find_map(|endpoint| {
            let meets = |other: &Option<u16>| match (endpoint.port, *other) {
                (Some(port), Some(other)) => (port == other).then_some(port),
                (Some(port), None) => other_ports.contains(&port).then_some(port),
                (None, Some(other)) => ports.contains(&other).then_some(other),
                (None, None) => common,
            };
            Some(SocketAddr::new(endpoint.ip, by_ip.get(&endpoint.ip)?.iter().find_map(meets)?))
        })
    })
}

/// Where the ports of `listener` lead at endpoints without a port of their own.
fn targets(listener: &RawListener, group: &EndpointGroup) -> impl Iterator<Item = u16> {
    let ports = listener.ports.iter().flat_map(|range| range.value.clone());
    ports.map(|port| group.port_overrides.get(&port).copied().unwrap_or(port))
}

/// Those of whose address something is known: a DNS name may lead anywhere.
fn known(group: &EndpointGroup) -> impl Iterator<Item = &Endpoint> {
    group.endpoints.iter().filter(|endpoint| !endpoint.ip.is_unspecified())
}
