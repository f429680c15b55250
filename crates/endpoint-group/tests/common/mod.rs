//! What the outside tests share: listeners as plain data, and how to make views, plans and tables of them.

#![allow(dead_code, reason = "every test binary uses its own part")]

use std::{collections::BTreeMap, num::NonZeroU16, sync::Arc, time::Duration};

use endpoint_group::{
    Dial, EndpointId, Health, ListenerTable, MinHealthy, Name, Slot, Weight, WhenAllUnhealthy,
    failback::RampStep,
    model::FailbackPolicy,
    plan::Plan,
    rendezvous::NameKey,
    table::{TableEndpoint, Target},
    view::{EndpointView, GroupView},
};
use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed},
};

/// An endpoint, its state and how far it has come back (0 to 10).
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSpec {
    pub name: String,
    pub weight: u8,
    pub health: Health,
    pub ramp: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Min {
    Count(u16),
    Percent(u8),
}

/// A group; the dial in thousandths of a percent.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupSpec {
    pub name: String,
    pub dial: u32,
    pub ramp: u32,
    pub min: Min,
    pub endpoints: Vec<EndpointSpec>,
}

/// A listener's groups in order of preference.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerSpec {
    pub groups: Vec<GroupSpec>,
    pub fail_open: bool,
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn ramp_step(step: u32) -> RampStep {
    let second = Duration::from_secs(1);
    let policy = FailbackPolicy { hold: second, ramp: 10 * second };
    let elapsed = if step == 0 { Duration::ZERO } else { second * (step + 1) };
    let made = RampStep::at(&policy, elapsed);
    assert_eq!(made.get(), step);
    made
}

/// An endpoint in full working order.
pub fn endpoint(name: &str, weight: u8) -> EndpointSpec {
    EndpointSpec { name: name.into(), weight, health: Health::Healthy, ramp: 10 }
}

/// A group in full working order; the dial in percent.
pub fn group(name: &str, dial: u32, endpoints: Vec<EndpointSpec>) -> GroupSpec {
    GroupSpec { name: name.into(), dial: dial * 1000, ramp: 10, min: Min::Count(1), endpoints }
}

/// Endpoint ids by name: in order of name, so that edges that list endpoints differently can be made to differ or to agree.
pub type Ids = BTreeMap<String, usize>;

impl ListenerSpec {
    pub fn new(groups: Vec<GroupSpec>) -> Self {
        Self { groups, fail_open: true }
    }

    pub fn endpoints(&self) -> impl Iterator<Item = &EndpointSpec> {
        self.groups.iter().flat_map(|g| &g.endpoints)
    }

    pub fn endpoint_mut(&mut self, name: &str) -> &mut EndpointSpec {
        self.groups.iter_mut().flat_map(|g| &mut g.endpoints).find(|e| e.name == name).unwrap()
    }

    pub fn ids(&self) -> Ids {
        let mut ids: Ids = self.endpoints().map(|e| (e.name.clone(), 0)).collect();
        ids.values_mut().enumerate().for_each(|(i, id)| *id = i);
        ids
    }

    pub fn views(&self, ids: &Ids) -> Vec<GroupView> {
        let endpoint = |e: &EndpointSpec| EndpointView {
            id: EndpointId::new(ids[&e.name]).unwrap(),
            key: NameKey::endpoint(&name(&e.name)),
            health: e.health,
            weight: Weight::new(e.weight),
            ramp: ramp_step(e.ramp),
        };
        let group = |g: &GroupSpec| GroupView {
            key: NameKey::group(&name(&g.name)),
            dial: Dial::from_percent(f64::from(g.dial) / 1000.0).unwrap(),
            ramp: ramp_step(g.ramp),
            min_healthy: match g.min {
                Min::Count(n) => MinHealthy::Count(NonZeroU16::new(n).unwrap()),
                Min::Percent(p) => MinHealthy::Percent(p),
            },
            endpoints: g.endpoints.iter().map(endpoint).collect(),
        };
        self.groups.iter().map(group).collect()
    }

    pub fn plan_with(&self, ids: &Ids) -> Plan {
        let when = if self.fail_open { WhenAllUnhealthy::FailOpen } else { WhenAllUnhealthy::FailClosed };
        Plan::new(&self.views(ids).iter().collect::<Vec<_>>(), when)
    }

    pub fn named(&self) -> Named {
        self.named_with(self.ids())
    }

    pub fn named_with(&self, ids: Ids) -> Named {
        let mut names = vec![String::new(); ids.values().max().map_or(0, |max| max + 1)];
        ids.iter().for_each(|(name, &id)| names[id].clone_from(name));
        Named { plan: self.plan_with(&ids), names }
    }
}

/// A plan that answers in names.
#[derive(Debug)]
pub struct Named {
    pub plan: Plan,
    pub names: Vec<String>,
}

impl Named {
    pub fn name(&self, id: EndpointId) -> &str {
        &self.names[id.index()]
    }

    pub fn choose(&self, slot: Slot) -> Option<&str> {
        self.plan.choose(slot).map(|id| self.name(id))
    }

    pub fn ranking(&self, slot: Slot) -> Vec<&str> {
        self.plan.ranking(slot).into_iter().map(|id| self.name(id)).collect()
    }

    /// The index into the listener's list of the group that takes `slot`.
    pub fn group(&self, slot: Slot) -> Option<usize> {
        self.plan.group_for(slot).map(|g| self.plan.groups()[g].index)
    }

    /// The groups that take slots and their dials: what a change must leave alone for nothing but its endpoint to move.
    pub fn outline(&self) -> Vec<(usize, Dial)> {
        self.plan.groups().iter().map(|g| (g.index, g.dial)).collect()
    }

    pub fn candidates(&self) -> impl Iterator<Item = &str> {
        self.plan.groups().iter().flat_map(|g| g.candidates.as_slice()).map(|c| self.name(c.id))
    }

    pub fn table(&self) -> ListenerTable {
        ListenerTable::build(self.plan.clone())
    }

    pub fn digest(&self) -> u64 {
        let target = |text: &String| Target {
            // An id that no endpoint has is a hole in the array; its entry is never read.
            name: name(if text.is_empty() { "hole" } else { text }),
            group: name("any"),
            ip: [127, 0, 0, 1].into(),
            port: None,
            port_overrides: Arc::default(),
        };
        let endpoint = |text| TableEndpoint { target: Arc::new(target(text)), health: Health::Healthy };
        self.table().digest(&self.names.iter().map(endpoint).collect::<Vec<_>>())
    }
}

/// 1,024 slots spread over the table without a pattern.
pub fn sampled_slots() -> impl Iterator<Item = Slot> {
    (0..1024u16).map(|i| Slot(i.wrapping_mul(40_503).wrapping_add(1)))
}

/// Cases from a fixed seed, and no files left behind.
pub fn config(cases: u32) -> Config {
    Config { cases, rng_seed: RngSeed::Fixed(0x1a2d_fa11), failure_persistence: None, ..Config::default() }
}

/// How well the endpoints of a listener are: each mood reaches other rules.
#[derive(Debug, Clone, Copy)]
enum Mood {
    Fine,
    Mixed,
    Down,
}

fn any_endpoint(mood: Mood) -> impl Strategy<Value = (u8, Health, u32)> {
    use Health::{Healthy, Unhealthy, Unknown};
    let weight = prop_oneof![1 => Just(0u8), 3 => Just(128u8), 2 => 1u8..=255, 1 => Just(1u8), 1 => Just(255u8)];
    let health = match mood {
        Mood::Fine => prop_oneof![9 => Just(Healthy), 1 => Just(Unhealthy), 0 => Just(Unknown)],
        Mood::Mixed => prop_oneof![2 => Just(Healthy), 2 => Just(Unhealthy), 1 => Just(Unknown)],
        Mood::Down => prop_oneof![1 => Just(Healthy), 60 => Just(Unhealthy), 0 => Just(Unknown)],
    };
    let ramp = match mood {
        Mood::Down => prop_oneof![1 => Just(10u32), 1 => Just(0u32), 1 => 0u32..=10],
        _ => prop_oneof![6 => Just(10u32), 1 => Just(0u32), 1 => 0u32..=10],
    };
    (weight, health, ramp)
}

fn any_group(mood: Mood, max_endpoints: usize) -> impl Strategy<Value = GroupSpec> {
    let dial = prop_oneof![3 => Just(100_000u32), 2 => Just(0u32), 2 => Just(50_000u32), 3 => 0u32..=100_000, 1 => 1u32..20];
    let ramp = prop_oneof![6 => Just(10u32), 1 => Just(0u32), 1 => 0u32..=10];
    let min = prop_oneof![4 => Just(Min::Count(1)), 1 => (1u16..6).prop_map(Min::Count), 2 => (1u8..=100).prop_map(Min::Percent)];
    (dial, ramp, min, prop::collection::vec(any_endpoint(mood), 0..=max_endpoints)).prop_map(|(dial, ramp, min, endpoints)| {
        let endpoints = endpoints.into_iter();
        let endpoints =
            endpoints.map(|(weight, health, ramp)| EndpointSpec { name: String::new(), weight, health, ramp }).collect();
        GroupSpec { name: String::new(), dial, ramp, min, endpoints }
    })
}

/// Any listener of 1 to 8 groups with up to `max_endpoints` each.
pub fn any_listener(max_endpoints: usize) -> impl Strategy<Value = ListenerSpec> {
    let mood = prop_oneof![3 => Just(Mood::Fine), 3 => Just(Mood::Mixed), 2 => Just(Mood::Down)];
    let groups = mood.prop_flat_map(move |mood| prop::collection::vec(any_group(mood, max_endpoints), 1..=8));
    (groups, any::<bool>(), any::<u16>()).prop_map(|(mut groups, fail_open, world)| {
        // Names differ from listener to listener, else all would share the same few draws.
        for (g, group) in groups.iter_mut().enumerate() {
            group.name = format!("w{world}-g{g}");
            for (e, endpoint) in group.endpoints.iter_mut().enumerate() {
                endpoint.name = format!("w{world}-g{g}-e{e}");
            }
        }
        ListenerSpec { groups, fail_open }
    })
}
