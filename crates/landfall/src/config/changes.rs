//! What a reload changes, line by line, in the words of the file.

use std::collections::BTreeMap;

use ::endpoint_group::Endpoint;

use super::{Config, Group};

impl Config {
    /// What differs in `new` of what a reload applies; a line each, empty when nothing does.
    pub fn changes(&self, new: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        let (before, after) = (groups(self), groups(new));
        for (name, group) in &after {
            match before.get(name) {
                Some(old) => lines.extend(group_changes(name, old, group)),
                None => lines.push(format!("+ endpoint group {name} ({} endpoints)", group.group.endpoints.len())),
            }
        }
        let gone = before.keys().filter(|name| !after.contains_key(*name));
        lines.extend(gone.map(|name| format!("- endpoint group {name}")));
        lines.extend(endpoint_changes(self, new));
        for (old, listener) in self.listeners.iter().zip(&new.listeners) {
            let name = &listener.settings.name;
            let list = |config: &Self, groups: &[usize]| -> Vec<String> {
                groups.iter().map(|&group| config.endpoint_groups[group].group.name.to_string()).collect()
            };
            let (from, to) = (list(self, &old.groups), list(new, &listener.groups));
            if from != to {
                lines.push(format!("~ listener {name}: endpoint_groups {} -> {}", from.join(", "), to.join(", ")));
            }
            if old.proximity != listener.proximity {
                lines
                    .push(format!("~ listener {name}: proximity {:?} -> {:?}", old.proximity, listener.proximity).to_lowercase());
            }
            if old.when_all_unhealthy != listener.when_all_unhealthy {
                lines.push(format!(
                    "~ listener {name}: when_all_unhealthy {:?} -> {:?}",
                    old.when_all_unhealthy, listener.when_all_unhealthy
                ));
            }
        }
        lines
    }
}

fn groups(config: &Config) -> BTreeMap<&str, &Group> {
    config.endpoint_groups.iter().map(|group| (group.group.name.as_str(), group)).collect()
}

fn group_changes(name: &str, old: &Group, new: &Group) -> Vec<String> {
    let (from, to) = (&old.group, &new.group);
    let mut lines = Vec::new();
    let mut note = |key: &str, differs: bool, values: String| {
        if differs {
            lines.push(format!("~ endpoint group {name}: {key} {values}"));
        }
    };
    note("region", from.region != to.region, format!("{} -> {}", from.region, to.region));
    note("traffic_dial", from.dial != to.dial, format!("{} -> {}", from.dial.percent(), to.dial.percent()));
    note("min_healthy", from.min_healthy != to.min_healthy, format!("{} -> {}", from.min_healthy, to.min_healthy));
    note("port_overrides", from.port_overrides != to.port_overrides, "changed".to_owned());
    note("failback", from.failback != to.failback, "changed".to_owned());
    note("health_check", old.check != new.check || old.probe_port != new.probe_port, "changed".to_owned());
    lines
}

fn endpoint_changes(old: &Config, new: &Config) -> Vec<String> {
    let all = |config: &'_ Config| -> BTreeMap<String, (String, Endpoint)> {
        let of = |group: &Group| {
            let name = group.group.name.to_string();
            let endpoints = group.group.endpoints.iter();
            endpoints.map(|e| (e.name.to_string(), (name.clone(), e.clone()))).collect::<Vec<_>>()
        };
        config.endpoint_groups.iter().flat_map(of).collect()
    };
    let address =
        |e: &Endpoint| e.port.map_or_else(|| e.ip.to_string(), |port| std::net::SocketAddr::new(e.ip, port).to_string());
    let (before, after) = (all(old), all(new));
    let mut lines = Vec::new();
    for (name, (group, endpoint)) in &after {
        let Some((old_group, old)) = before.get(name) else {
            let weight = endpoint.weight.get();
            lines.push(format!("+ endpoint {name} ({group}): {}, weight {weight}", address(endpoint)));
            continue;
        };
        if old_group != group {
            lines.push(format!("~ endpoint {name}: endpoint group {old_group} -> {group}"));
        }
        if address(old) != address(endpoint) {
            lines.push(format!("~ endpoint {name}: address {} -> {}", address(old), address(endpoint)));
        }
        if old.weight != endpoint.weight {
            lines.push(format!("~ endpoint {name}: weight {} -> {}", old.weight.get(), endpoint.weight.get()));
        }
    }
    let gone = before.iter().filter(|(name, _)| !after.contains_key(*name));
    lines.extend(gone.map(|(name, (group, _))| format!("- endpoint {name} ({group})")));
    lines
}
