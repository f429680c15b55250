//! What no section can know alone: names, references, ports and addresses that must agree with each other.

use std::collections::{BTreeMap, BTreeSet};

use endpoint_group::{Dial, EndpointGroup, Name, Protocol};

use super::{
    ProbePort, RawFile, anycast,
    diagnostic::{Fault, Mark, Marked},
    endpoint_group::{RawGroup, known_groups},
    listener::{RawListener, overlap, shown},
    reader::Report,
    transparent,
};

/// The most endpoints of one file; the routing table numbers them in 16 bits and keeps two numbers for itself.
pub(super) const MOST_ENDPOINTS: usize = 65_534;
const MOST_STATIC_IPS: usize = 4;

/// What the file means once its references are followed.
pub(super) struct Resolved {
    /// Per listener: the indices of its groups, in its order.
    pub(super) groups_of: Vec<Vec<usize>>,
    /// Per group: the group and where its probes go; `None` where that could not be told.
    pub(super) groups: Vec<Option<(EndpointGroup, ProbePort)>>,
}

/// Checks the file across its sections and follows its references.
pub(super) fn check(report: &Report, file: &RawFile) -> Resolved {
    static_ips(report, file);
    anycast::check(report, file);
    unique(report, "listener", file.listeners.iter().filter_map(|listener| listener.name.as_ref()));
    unique(report, "endpoint group", file.groups.iter().filter_map(|group| group.name.as_ref()));
    let endpoints = || file.groups.iter().flat_map(|group| &group.endpoints);
    unique(report, "endpoint", endpoints().filter_map(|endpoint| endpoint.name.as_ref()));
    if let Some(first_too_many) = endpoints().nth(MOST_ENDPOINTS) {
        let reason = format!("{} endpoints in the file", endpoints().count());
        report.error(&first_too_many.at, Fault::new(reason, format!("keep at most {MOST_ENDPOINTS}")));
    }
    listeners_apart(report, &file.listeners);
    admin_apart(report, file);

    let groups_of = references(report, file);
    let users_of: Vec<Vec<&RawListener>> = (0..file.groups.len())
        .map(|group| {
            let uses = |(_, groups): &(&RawListener, &Vec<usize>)| groups.contains(&group);
            file.listeners.iter().zip(&groups_of).filter(uses).map(|(listener, _)| listener).collect()
        })
        .collect();
    dials(report, file, &groups_of);
    let listeners_whole = file.listeners.iter().all(|listener| listener.whole);
    let groups = file.groups.iter().zip(&users_of).map(|(raw, users)| {
        let group = raw.build()?;
        if !listeners_whole {
            return None;
        }
        overrides(report, raw, users);
        loops(report, file, raw, &group, users);
        let port = probe_port(report, raw, &group, users)?;
        Some((group, port))
    });
    let resolved = Resolved { groups: groups.collect(), groups_of };
    transparent::check(report, file, &resolved);
    resolved
}

fn static_ips(report: &Report, file: &RawFile) {
    if let Some(fifth) = file.static_ips.get(MOST_STATIC_IPS) {
        let reason = format!("{} static IPs", file.static_ips.len());
        report.error(&fifth.at, Fault::new(reason, "list 1 to 4"));
    }
    for announced in file.edge.announce.iter().flatten() {
        if file.static_ips_whole && !file.static_ips.iter().any(|ip| ip.value == announced.value) {
            let reason = format!("{} is not one of static_ips", announced.value);
            report.absent(&announced.at, Fault::new(reason, "list it in static_ips, or remove it here"));
        }
    }
}

fn unique<'a>(report: &Report, kind: &str, names: impl Iterator<Item = &'a Marked<Name>>) {
    let mut lines: BTreeMap<&Name, usize> = BTreeMap::new();
    for name in names {
        if let Some(line) = lines.get(&name.value) {
            let reason = format!("{kind} {:?} is already on line {line}", name.value);
            report.error(&name.at, Fault::new(reason, "choose another name; names are identities"));
        } else {
            lines.insert(&name.value, name.at.line);
        }
    }
}

fn listeners_apart(report: &Report, listeners: &[RawListener]) {
    for (at, listener) in listeners.iter().enumerate() {
        for other in &listeners[..at] {
            let Some(protocol) = common_protocol(listener, other) else { continue };
            for range in &listener.ports {
                let Some(taken) = other.ports.iter().find(|taken| overlap(&taken.value, &range.value)) else { continue };
                let (range_shown, taken) = (shown(&range.value), shown(&taken.value));
                let reason = format!("{protocol} {range_shown} overlaps {taken} of listener {}", other.title());
                report.error(&range.at, Fault::new(reason, "give each listener ports of its own"));
            }
        }
    }
}

/// A protocol that both serve.
pub(super) fn common_protocol(a: &RawListener, b: &RawListener) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp].into_iter().find(|&protocol| a.serves(protocol) && b.serves(protocol))
}

/// The admin address must not be a socket that a listener also binds.
fn admin_apart(report: &Report, file: &RawFile) {
    let admin = &file.edge.admin;
    let (ip, port) = (admin.value.ip(), admin.value.port());
    let shared = ip.is_unspecified() || file.static_ips.iter().any(|static_ip| static_ip.value == ip);
    let taken = file.listeners.iter().find(|listener| listener.serves(Protocol::Tcp) && listener.has_port(port));
    if let Some(listener) = taken.filter(|_| shared) {
        let reason = format!("tcp port {port} belongs to listener {}", listener.title());
        report.error(&admin.at, Fault::new(reason, "choose another port, or an address that is not a static IP"));
    }
}

fn references(report: &Report, file: &RawFile) -> Vec<Vec<usize>> {
    let named = file.groups.iter().all(|group| group.name.as_ref().is_some_and(|name| report.believes(&name.at)));
    let mut used = BTreeSet::new();
    let mut groups_of = Vec::new();
    for listener in &file.listeners {
        let mut groups = Vec::new();
        for wanted in &listener.groups {
            let found = file.groups.iter().position(|group| group.name.as_ref().is_some_and(|name| name.value == wanted.value));
            match found {
                Some(group) => groups.push(group),
                // A group whose name could not be read may be the one.
                None if !named => {}
                None => {
                    let reason = format!("there is no endpoint group {:?}", wanted.value);
                    report.absent(&wanted.at, Fault::new(reason, known_groups(&wanted.value, &file.groups)));
                }
            }
        }
        used.extend(groups.iter().copied());
        groups_of.push(groups);
    }
    for (at, group) in file.groups.iter().enumerate() {
        if !used.contains(&at) {
            let reason = format!("no listener uses endpoint group {}", group.title());
            report.warn(&group.at, Fault::new(reason, "list it in a listener's endpoint_groups, or remove it"));
        }
    }
    groups_of
}

/// Says where a dial has no effect: the last group with a dial above 0 takes whatever reaches it.
fn dials(report: &Report, file: &RawFile, groups_of: &[Vec<usize>]) {
    for (listener, groups) in file.listeners.iter().zip(groups_of) {
        let dial = |group: &usize| &file.groups[*group].dial;
        let open = groups.iter().rev().find(|group| dial(group).value > Dial::CLOSED);
        let (without_effect, reason) = match open {
            Some(last) if dial(last).value < Dial::FULL => {
                (vec![*last], format!("it is the last of listener {} and takes all that reaches it", listener.title()))
            }
            Some(_) => continue,
            None => (groups.clone(), format!("every group of listener {} has dial 0, which counts as no dial", listener.title())),
        };
        for group in without_effect {
            let at = &file.groups[group].dial.at;
            report.warn(at, Fault::new(format!("the dial has no effect: {reason}"), "add a group behind it, or write 100"));
        }
    }
}

fn overrides(report: &Report, raw: &RawGroup, users: &[&RawListener]) {
    for entry in &raw.overrides {
        if !users.iter().any(|listener| listener.has_port(entry.listener_port)) {
            let reason = format!("no listener of this group has port {}", entry.listener_port);
            report.absent(
                &entry.at,
                Fault::new(reason, "write a port of a listener that names this group, or remove the override"),
            );
        }
    }
    let fixed = raw.endpoints.iter().all(|endpoint| endpoint.address.as_ref().is_some_and(|address| address.value.1.is_some()));
    if let Some(first) = raw.overrides.first().filter(|_| fixed) {
        let reason = "the override has no effect: every endpoint of the group has a port of its own";
        report.warn(&first.at, Fault::new(reason, "remove the override, or the ports of the endpoints"));
    }
}

/// Refuses endpoints that would send a flow back into a listener.
fn loops(report: &Report, file: &RawFile, raw: &RawGroup, group: &EndpointGroup, users: &[&RawListener]) {
    for (endpoint, at) in group.endpoints.iter().zip(&raw.endpoints) {
        if !file.static_ips.iter().any(|ip| ip.value == endpoint.ip) {
            continue;
        }
        let returns = |listener: &&RawListener| {
            let ports = listener.ports.iter().flat_map(|range| range.value.clone());
            let mut targets = ports.map(|port| group.endpoint_port(endpoint, port));
            targets.find_map(|port| {
                let same = |other: &&RawListener| common_protocol(listener, other).is_some() && other.has_port(port);
                file.listeners.iter().find(same).map(|other| (port, other.title()))
            })
        };
        if let Some((port, listener)) = users.iter().find_map(returns) {
            let place = at.address.as_ref().map_or(&at.at, |address| &address.at);
            let reason =
                format!("{} is a static IP and port {port} belongs to listener {listener}: flows would loop", endpoint.ip);
            report.error(place, Fault::new(reason, "write the address of the service itself"));
        }
    }
}

/// Where the probes of a group go: the port it names, or else where the first port of its listeners leads.
fn probe_port(report: &Report, raw: &RawGroup, group: &EndpointGroup, users: &[&RawListener]) -> Option<ProbePort> {
    let at = &raw.check.at;
    let udp_only = users.iter().find(|listener| listener.serves(Protocol::Udp) && !listener.serves(Protocol::Tcp));
    if let Some(listener) = udp_only.filter(|_| !raw.check.named) {
        let reason = format!("the group serves udp listener {}, and what to probe is not said", listener.title());
        let cure = "write health_check = { protocol = \"udp\", send = \"ping\" }, or the port of a tcp service beside it";
        report.absent(at, Fault::new(reason, cure));
        return None;
    }
    if let Some(port) = raw.check.port {
        return Some(ProbePort::Fixed(port));
    }
    let at = &Mark { key: format!("{}.port", health_check_key(raw)), line: at.line };
    let firsts: Vec<u16> = users.iter().filter_map(|listener| listener.first_port()).collect();
    let Some((&first, others)) = firsts.split_first() else {
        report.absent(at, Fault::new("no listener uses the group, so its probes have no port to go to", "name the port"));
        return None;
    };
    for endpoint in &group.endpoints {
        let leads = |listener_port| group.endpoint_port(endpoint, listener_port);
        if let Some(&other) = others.iter().find(|&&other| leads(other) != leads(first)) {
            let (one, two) = (leads(first), leads(other));
            let reason =
                format!("the listeners of this group lead to different ports of endpoint {:?}, {one} and {two}", endpoint.name);
            report.absent(at, Fault::new(reason, "name the port that probes go to"));
            return None;
        }
    }
    Some(ProbePort::OfListenerPort(first))
}

fn health_check_key(raw: &RawGroup) -> String {
    format!("{}.health_check", raw.at.key)
}
