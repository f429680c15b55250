//! What the slots really give: every endpoint's share while all are healthy, and where it is too few slots to be even.

use std::collections::BTreeMap;

use endpoint_group::{
    EndpointId, Health, ListenerTable, Name, SLOTS, Weight, WhenAllUnhealthy,
    failback::RampStep,
    plan::Plan,
    rendezvous::NameKey,
    view::{EndpointView, GroupView},
};

use crate::config::Config;

/// With fewer slots an endpoint's share is visibly uneven: `n` slots scatter by 1 / √n, 256 by 6 %.
pub const FEWEST_SLOTS: usize = 256;

/// One listener's slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerShares {
    /// Its name.
    pub name: Name,
    /// Slots of every endpoint of its groups, in the order of the file, those without any included.
    pub slots: Vec<(Name, usize)>,
}

/// An endpoint group some of whose endpoints have few slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FewSlots {
    /// Index of the group in the file.
    pub group: usize,
    /// The group.
    pub name: Name,
    /// The listener that gives it so few; `None` if they are few even where the group takes everything.
    pub listener: Option<Name>,
    /// How many endpoints have fewer than [`FEWEST_SLOTS`], of how many that have weight.
    pub few: (usize, usize),
    /// Who has the fewest.
    pub fewest: (Name, usize),
}

impl FewSlots {
    /// The finding in words, and what would be right.
    pub fn words(&self) -> (String, &'static str) {
        let (few, of) = self.few;
        let (name, slots) = &self.fewest;
        let place = match &self.listener {
            Some(listener) => format!("through listener {listener}"),
            None => "where it takes everything".to_owned(),
        };
        let scatter = match slots {
            0 => "it gets no new flow at all".to_owned(),
            // At most 65,536: exact.
            slots => {
                format!("its share may be off by {:.0} %", 100.0 / f64::from(u32::try_from(*slots).unwrap_or(u32::MAX)).sqrt())
            }
        };
        let reason = format!(
            "{few} of {of} endpoints get fewer than {FEWEST_SLOTS} of the {SLOTS} slots {place}; the fewest, {slots}, gets {name}: {scatter}"
        );
        (reason, "raise its weight or the group's dial, or use fewer endpoints, if the shares matter")
    }
}

/// The slots of every listener, and the groups whose endpoints get few.
pub fn shares(config: &Config) -> (Vec<ListenerShares>, Vec<FewSlots>) {
    let views = views(config);
    // Listeners with equal group lists share one table.
    let mut tables: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
    let mut slots_of = |groups: &[usize]| -> Vec<usize> {
        let table = || {
            let listed: Vec<&GroupView> = groups.iter().map(|&group| &views[group]).collect();
            let table = ListenerTable::build(Plan::new(&listed, WhenAllUnhealthy::FailOpen));
            let mut slots = vec![0; views.iter().map(|view| view.endpoints.len()).sum()];
            for (id, count) in table.shares() {
                slots[id.index()] = count;
            }
            slots
        };
        tables.entry(groups.to_vec()).or_insert_with(table).clone()
    };

    let mut few = Vec::new();
    for (index, view) in views.iter().enumerate() {
        few.extend(few_slots(config, index, None, view, &slots_of(&[index]), 0));
    }
    let whole: Vec<usize> = few.iter().map(|few: &FewSlots| few.group).collect();
    let mut listeners = Vec::new();
    for listener in &config.listeners {
        let slots = slots_of(&listener.groups);
        let name = &listener.settings.name;
        for &group in listener.groups.iter().filter(|group| !whole.contains(group)) {
            // A group that another keeps from all traffic has no share that could be uneven.
            few.extend(few_slots(config, group, Some(name), &views[group], &slots, 1));
        }
        let members = listener.groups.iter().flat_map(|&group| names(config, group).zip(&views[group].endpoints));
        let slots = members.map(|(name, endpoint)| (name.clone(), slots[endpoint.id.index()])).collect();
        listeners.push(ListenerShares { name: name.clone(), slots });
    }
    few.sort_by_key(|few| few.group);
    few.dedup_by_key(|few| few.group);
    (listeners, few)
}

fn names(config: &Config, group: usize) -> impl Iterator<Item = &Name> {
    config.endpoint_groups[group].group.endpoints.iter().map(|endpoint| &endpoint.name)
}

/// Whether endpoints of `group` that have weight have at least `from` slots, and fewer than enough.
fn few_slots(
    config: &Config,
    group: usize,
    listener: Option<&Name>,
    view: &GroupView,
    slots: &[usize],
    from: usize,
) -> Option<FewSlots> {
    let weighted: Vec<(&Name, usize)> = names(config, group)
        .zip(&view.endpoints)
        .filter(|(_, endpoint)| endpoint.weight > Weight::ZERO)
        .map(|(name, endpoint)| (name, slots[endpoint.id.index()]))
        .collect();
    if weighted.iter().map(|(_, slots)| slots).sum::<usize>() < from {
        return None;
    }
    let few = weighted.iter().filter(|(_, slots)| *slots < FEWEST_SLOTS);
    let (name, slots) = few.clone().min_by_key(|(_, slots)| *slots)?;
    Some(FewSlots {
        group,
        name: config.endpoint_groups[group].group.name.clone(),
        listener: listener.cloned(),
        few: (few.count(), weighted.len()),
        fewest: ((*name).clone(), *slots),
    })
}

/// The groups with every endpoint healthy.
fn views(config: &Config) -> Vec<GroupView> {
    let mut ids = (0..).map_while(EndpointId::new);
    let view = |group: &crate::config::Group| {
        let group = &group.group;
        let endpoints = group.endpoints.iter().zip(&mut ids).map(|(endpoint, id)| EndpointView {
            id,
            key: NameKey::endpoint(&endpoint.name),
            health: Health::Healthy,
            weight: endpoint.weight,
            ramp: RampStep::FULL,
        });
        GroupView {
            key: NameKey::group(&group.name),
            dial: group.dial,
            ramp: RampStep::FULL,
            min_healthy: group.min_healthy,
            endpoints: endpoints.collect(),
        }
    };
    config.endpoint_groups.iter().map(view).collect()
}
