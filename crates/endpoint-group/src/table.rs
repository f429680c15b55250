//! The routing table: every listener's 65,536 answers and the endpoints they name, as one immutable value that is swapped whole.

use std::{
    hash::Hasher,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use siphasher::sip::SipHasher13;

use crate::{
    EndpointId, Health, Name, PortOverrides, SLOTS, Slot,
    plan::{Plan, Stage},
    rebuild,
};

/// An endpoint as a forwarding path needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: Name,
    /// Its group's name.
    pub group: Name,
    /// Where it listens.
    pub ip: IpAddr,
    /// One fixed port for every listener.
    pub port: Option<u16>,
    /// Its group's overrides.
    pub port_overrides: Arc<PortOverrides>,
}

impl Target {
    /// Where a flow to `listener_port` goes: the fixed port, else the group's override, else the same port.
    pub fn address(&self, listener_port: u16) -> SocketAddr {
        let port = self.port.or_else(|| self.port_overrides.get(&listener_port).copied()).unwrap_or(listener_port);
        SocketAddr::new(self.ip, port)
    }
}

/// One entry of the edge-wide array of endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableEndpoint {
    /// Who it is and where; shared with the tables before and after.
    pub target: Arc<Target>,
    /// The verdict when this table was built.
    pub health: Health,
}

/// One listener's answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTable {
    slots: Arc<[u16]>,
    plan: Plan,
    leaving: Box<[EndpointId]>,
    ending: Box<[EndpointId]>,
}

impl ListenerTable {
    /// Answers every slot from `plan`. No flow must leave any endpoint.
    pub fn build(plan: Plan) -> Self {
        let slots = Slot::all().map(|slot| plan.choose(slot).map_or(u16::MAX, EndpointId::to_slot)).collect();
        Self { slots, plan, leaving: Box::default(), ending: Box::default() }
    }

    /// The answers of `plan`, found from these by what changed; equal to those of [`ListenerTable::build`].
    pub fn rebuild(&self, plan: Plan) -> Self {
        let slots = rebuild::rebuild(&self.plan, &self.slots, &plan).into();
        Self { slots, plan, leaving: Box::default(), ending: Box::default() }
    }

    /// The same answers with other endpoints to leave. `leaving`: for flows that leave a dead endpoint; `ending`: for all flows.
    pub fn with_leaving(&self, mut leaving: Vec<EndpointId>, mut ending: Vec<EndpointId>) -> Self {
        leaving.sort_unstable();
        ending.sort_unstable();
        Self { leaving: leaving.into(), ending: ending.into(), ..self.clone() }
    }

    /// Who takes `slot`; `None` refuses.
    pub fn choose(&self, slot: Slot) -> Option<EndpointId> {
        EndpointId::from_slot(self.slots[slot.index()])
    }

    /// In which order endpoints are tried for `slot`; the first is [`ListenerTable::choose`]. Costs a sort: for failures, not for packets.
    pub fn ranking(&self, slot: Slot) -> Vec<EndpointId> {
        self.plan.ranking(slot)
    }

    /// Whether existing flows must leave `endpoint` now, and there is somewhere to go: because it is gone, which flows that `keep` to
    /// their endpoint ignore, or because an operator ends its flows, which none ignores.
    pub fn must_leave(&self, endpoint: EndpointId, keep: bool) -> bool {
        let among = |list: &[EndpointId]| !list.is_empty() && list.binary_search(&endpoint).is_ok();
        among(&self.ending) || (!keep && among(&self.leaving))
    }

    /// The endpoints that existing flows must leave unless they keep to theirs, in order of id.
    pub fn leaving(&self) -> &[EndpointId] {
        &self.leaving
    }

    /// The endpoints that all existing flows must leave, in order of id.
    pub fn ending(&self) -> &[EndpointId] {
        &self.ending
    }

    /// The rule in force.
    pub fn stage(&self) -> Stage {
        self.plan.stage()
    }

    /// The groups behind the answers.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How many slots each endpoint holds, in order of id.
    pub fn shares(&self) -> Vec<(EndpointId, usize)> {
        let mut counts = vec![0usize; usize::from(u16::MAX)];
        for &slot in &*self.slots {
            if slot != u16::MAX {
                counts[usize::from(slot)] += 1;
            }
        }
        let held = counts.into_iter().enumerate().filter(|&(_, count)| count > 0);
        held.filter_map(|(index, count)| Some((EndpointId::new(index)?, count))).collect()
    }

    /// Names every slot's endpoint in 64 bits: equal on two edges exactly when they answer alike, whatever ids they use inside.
    pub fn digest(&self, endpoints: &[TableEndpoint]) -> u64 {
        let keys: Vec<u64> = endpoints.iter().map(|e| crate::rendezvous::NameKey::endpoint(&e.target.name).get()).collect();
        let mut bytes = Vec::with_capacity(SLOTS * 8);
        for &slot in &*self.slots {
            let key = keys.get(usize::from(slot)).copied().unwrap_or(0);
            bytes.extend_from_slice(&key.to_le_bytes());
        }
        let mut hasher = SipHasher13::new();
        hasher.write(&bytes);
        hasher.finish()
    }
}

/// Everything that a forwarding path reads, published by one atomic swap.
#[derive(Debug, Clone)]
pub struct RoutingTable {
    /// Counts publications; a forwarding thread sees by it that something changed.
    pub generation: u64,
    /// The edge-wide array of endpoints, by [`EndpointId`].
    pub endpoints: Arc<[TableEndpoint]>,
    /// One table a listener, in the order of the configuration; equal ones are shared.
    pub listeners: Box<[Arc<ListenerTable>]>,
}

impl RoutingTable {
    /// The endpoint `id`, while the table knows it.
    pub fn endpoint(&self, id: EndpointId) -> Option<&TableEndpoint> {
        self.endpoints.get(id.index())
    }
}
