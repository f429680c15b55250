//! Everything that a picture of the demonstration shows, at one moment.

use std::time::Duration;

use super::{
    scene,
    scene::{CAST, Ports},
    tally::{Connections, Datagrams, Tally},
};
use crate::control::status::{EndpointStatus, Status};

/// One moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Snapshot {
    pub(super) at: Duration,
    pub(super) ports: Ports,
    /// What is happening, in a sentence.
    pub(super) now: String,
    pub(super) regions: Vec<Region>,
    /// UDP flows in all.
    pub(super) flows: usize,
    pub(super) datagrams: Datagrams,
    pub(super) connections: Connections,
    pub(super) events: Vec<Event>,
}

/// One endpoint group.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Region {
    pub(super) name: String,
    pub(super) region: String,
    /// Percent of the latest new connections.
    pub(super) share: usize,
    pub(super) endpoints: Vec<Row>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) pid: Option<u32>,
    /// As the accelerator sees it.
    pub(super) health: String,
    pub(super) weight: u8,
    /// As far as it has come back.
    pub(super) effective_weight: f64,
    pub(super) flows: usize,
    pub(super) held: usize,
    /// Percent of the latest new connections.
    pub(super) share: usize,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) at: Duration,
    pub(super) text: String,
}

impl Snapshot {
    /// The moment `at`: what the accelerator says of itself beside what its clients saw. `pids` in the order of the cast.
    pub(super) fn new(at: Duration, ports: Ports, status: &Status, tally: &Tally, pids: &[Option<u32>]) -> Self {
        let row = |endpoint: &EndpointStatus| {
            let index = CAST.iter().position(|role| role.name == endpoint.name);
            Row {
                name: endpoint.name.clone(),
                pid: index.and_then(|index| pids.get(index).copied().flatten()),
                health: endpoint.health.to_string(),
                weight: endpoint.weight,
                effective_weight: endpoint.effective_weight,
                flows: index.map_or(0, |index| tally.flows_of(index)),
                held: index.map_or(0, |index| tally.held_of(index)),
                share: index.map_or(0, |index| tally.share_of(&[index], at)),
            }
        };
        let regions = status.endpoint_groups.iter().map(|group| Region {
            name: group.name.clone(),
            region: group.region.clone(),
            share: tally.share_of(&scene::members(&group.name), at),
            endpoints: group.endpoints.iter().map(row).collect(),
        });
        Self {
            at,
            ports,
            now: String::new(),
            regions: regions.collect(),
            flows: tally.flows(),
            datagrams: *tally.datagrams(),
            connections: tally.connections().clone(),
            events: Vec::new(),
        }
    }
}
