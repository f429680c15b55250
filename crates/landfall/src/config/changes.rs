//! What a reload changes, line by line, in the words of the file.

use std::{collections::BTreeMap, fmt::Display};

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
            for (key, from, to) in [
                ("allow", old.settings.access.allow(), listener.settings.access.allow()),
                ("deny", old.settings.access.deny(), listener.settings.access.deny()),
            ] {
                if from != to {
                    lines.push(format!("~ listener {name}: {key} {} networks -> {}", from.len(), to.len()));
                }
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
    let (before, after) = (endpoints(old), endpoints(new));
    let mut lines = Vec::new();
    for (name, Described { group, address, weight }) in &after {
        let Some(old) = before.get(name) else {
            lines.push(format!("+ endpoint {name} ({group}): {address}, weight {weight}"));
            continue;
        };
        let mut note = |key: &str, from: &dyn Display, to: &dyn Display| {
            if from.to_string() != to.to_string() {
                lines.push(format!("~ endpoint {name}: {key} {from} -> {to}"));
            }
        };
        note("endpoint group", &old.group, group);
        note("address", &old.address, address);
        note("weight", &old.weight, weight);
    }
    let gone = before.iter().filter(|(name, _)| !after.contains_key(*name));
    lines.extend(gone.map(|(name, old)| format!("- endpoint {name} ({})", old.group)));
    lines
}

/// An endpoint in the words of the file.
struct Described<'a> {
    group: &'a str,
    address: String,
    weight: u8,
}

/// By name.
fn endpoints(config: &Config) -> BTreeMap<&str, Described<'_>> {
    let mut all = BTreeMap::new();
    for group in &config.endpoint_groups {
        for endpoint in &group.group.endpoints {
            let described =
                Described { group: group.group.name.as_str(), address: group.address(endpoint), weight: endpoint.weight.get() };
            all.insert(endpoint.name.as_str(), described);
        }
    }
    all
}
