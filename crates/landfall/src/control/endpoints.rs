//! The edge-wide array of endpoints: who holds which id, and what is known of each.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use endpoint_group::{
    EndpointId, Health, Name, Weight,
    evict::Evidence,
    failback::RampStep,
    model::FailbackPolicy,
    table::{TableEndpoint, Target},
};
use health_checker::{HealthCheck, Report, Snapshot};

use super::history::{Change, History};
use crate::config::Config;

/// Whether an endpoint takes new flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// It stands in the config.
    Member {
        /// Index of its group in the config.
        group: usize,
        /// Its weight there.
        weight: Weight,
        /// The weight that an operator set, in force until the one in the config changes.
        set: Option<Weight>,
        /// An operator's order to take no new flows.
        drain: Option<Drain>,
    },
    /// It left the config, or its name moved to another address; its flows may go on until then.
    Retired {
        /// When they must leave.
        leaves: Instant,
    },
}

/// An operator's order to take no new flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// When the flows that are left must leave; `None` lets them end by themselves.
    pub ends: Option<Instant>,
}

/// What this edge knows of one endpoint.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its place in the array.
    pub id: EndpointId,
    /// Who and where, as forwarding sees it.
    pub target: Arc<Target>,
    /// In the config or not.
    pub membership: Membership,
    /// Where its probes go.
    pub probe: SocketAddr,
    /// What they ask.
    pub check: Arc<HealthCheck>,
    /// What they amount to.
    pub snapshot: Snapshot,
    /// What they said lately.
    pub history: History,
    /// When it last came back from unhealthy, while its return is not complete.
    pub recovered: Option<Instant>,
    /// When the probe was sent whose failure began the present run of failures.
    pub first_bad_sent: Option<Instant>,
}

impl Entry {
    /// How far it has come back under `policy`.
    pub fn ramp(&self, policy: &FailbackPolicy, now: Instant) -> RampStep {
        self.recovered.map_or(RampStep::FULL, |since| RampStep::at(policy, now.saturating_duration_since(since)))
    }

    /// What is known of it, as far as leaving it is concerned.
    pub fn evidence(&self, held: bool) -> Evidence {
        let Snapshot { health, since, first_bad, last_bad_sent, first_good_sent, last_good_sent, .. } = self.snapshot;
        Evidence { health, since, first_bad, last_bad_sent, first_good_sent, last_good_sent, held }
    }

    /// Its entry in a routing table.
    pub fn table_endpoint(&self) -> TableEndpoint {
        TableEndpoint { target: Arc::clone(&self.target), health: self.snapshot.health }
    }

    /// The weight in force: an operator's, else the config's; 0 while it drains and once retired.
    pub fn weight(&self) -> Weight {
        match self.membership {
            Membership::Member { drain: None, set, weight, .. } => set.unwrap_or(weight),
            Membership::Member { drain: Some(_), .. } | Membership::Retired { .. } => Weight::ZERO,
        }
    }

    /// Whether its flows must leave whatever its health: its time as a retired or draining endpoint is over.
    pub fn is_over(&self, now: Instant) -> bool {
        match self.membership {
            Membership::Member { drain, .. } => drain.and_then(|drain| drain.ends).is_some_and(|ends| ends <= now),
            Membership::Retired { leaves } => leaves <= now,
        }
    }

    /// Whether it stands in the config.
    pub fn is_member(&self) -> bool {
        matches!(self.membership, Membership::Member { .. })
    }
}

/// A change of health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Whose.
    pub id: EndpointId,
    /// From what to what, and why.
    pub change: Change,
}

/// There is no id left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this process has served {} endpoint addresses and can take no new one; restart it", EndpointId::MAX_ENDPOINTS)]
pub struct Exhausted;

/// The array. An id is never given to another address, because a flow may still hold it.
#[derive(Debug, Clone, Default)]
pub struct Endpoints {
    entries: Vec<Entry>,
    /// By group of the config, the ids of its endpoints in order.
    groups: Vec<Vec<EndpointId>>,
}

impl Endpoints {
    /// The entry of `id`.
    pub fn get(&self, id: EndpointId) -> &Entry {
        &self.entries[id.index()]
    }

    /// All entries by id, retired ones included.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries of a group of the config, in its order.
    pub fn of_group(&self, group: usize) -> impl Iterator<Item = &Entry> {
        self.groups[group].iter().map(|&id| self.get(id))
    }

    /// Whether there is an endpoint that flows might have to leave.
    pub fn any_to_leave(&self, now: Instant) -> bool {
        self.entries.iter().any(|entry| entry.is_over(now) || entry.snapshot.health == Health::Unhealthy)
    }

    /// Takes over `config`: an endpoint keeps its id and what is known of it as long as its name keeps its address; what left the
    /// config retires at `leaves`.
    pub fn apply(&mut self, config: &Config, now: Instant, leaves: Instant) -> Result<(), Exhausted> {
        let mut next = self.clone();
        next.groups.clear();
        let mut kept = Vec::new();
        for (index, group) in config.endpoint_groups.iter().enumerate() {
            let overrides = Arc::new(group.group.port_overrides.clone());
            let check = Arc::new(group.check.clone());
            let mut ids = Vec::new();
            for endpoint in &group.group.endpoints {
                let target = Arc::new(Target {
                    name: endpoint.name.clone(),
                    group: group.group.name.clone(),
                    ip: endpoint.ip,
                    port: endpoint.port,
                    port_overrides: Arc::clone(&overrides),
                });
                let probe = group.probe_address(endpoint);
                let known = next.known(&endpoint.name, endpoint.ip, endpoint.port);
                let id = match known {
                    Some(id) => {
                        let entry = &mut next.entries[id.index()];
                        let (set, drain) = match entry.membership {
                            Membership::Member { weight, set, drain, .. } => (set.filter(|_| weight == endpoint.weight), drain),
                            Membership::Retired { leaves } => {
                                // What was known before its probes ended is out of date.
                                if leaves <= now {
                                    entry.snapshot = Snapshot::unknown(now);
                                    entry.recovered = None;
                                }
                                (None, None)
                            }
                        };
                        let membership = Membership::Member { group: index, weight: endpoint.weight, set, drain };
                        *entry = Entry { target, membership, probe, check: Arc::clone(&check), ..entry.clone() };
                        id
                    }
                    None => {
                        let id = EndpointId::new(next.entries.len()).ok_or(Exhausted)?;
                        let (set, drain) = next.orders_of_siblings(&endpoint.name, endpoint.weight);
                        let membership = Membership::Member { group: index, weight: endpoint.weight, set, drain };
                        next.entries.push(unknown(id, target, membership, probe, Arc::clone(&check), now));
                        id
                    }
                };
                kept.push(id);
                ids.push(id);
            }
            next.groups.push(ids);
        }
        for entry in next.entries.iter_mut().filter(|entry| entry.is_member() && !kept.contains(&entry.id)) {
            entry.membership = Membership::Retired { leaves };
        }
        *self = next;
        Ok(())
    }

    /// The entry of this name and address; a retired one comes back under its id.
    fn known(&self, name: &Name, ip: IpAddr, port: Option<u16>) -> Option<EndpointId> {
        let same = |e: &&Entry| e.target.name == *name && e.target.ip == ip && e.target.port == port;
        self.entries.iter().find(same).map(|entry| entry.id)
    }

    /// Changes what an operator may change of a member, or of all that come from the DNS name of one; whether there is one of this name.
    pub fn order(&mut self, name: &str, change: impl Fn(&mut Option<Weight>, &mut Option<Drain>)) -> bool {
        let mut found = false;
        for entry in &mut self.entries {
            if let Membership::Member { set, drain, .. } = &mut entry.membership
                && (entry.target.name.as_str() == name || entry.target.name.base() == name)
            {
                change(set, drain);
                found = true;
            }
        }
        found
    }

    /// What an operator ordered for the other addresses of a new endpoint's DNS name; an order is for the name, not for an address.
    fn orders_of_siblings(&self, name: &Name, configured: Weight) -> (Option<Weight>, Option<Drain>) {
        let sibling = |entry: &&Entry| entry.is_member() && entry.target.name != *name && entry.target.name.base() == name.base();
        match self.entries.iter().find(sibling).map(|entry| entry.membership) {
            Some(Membership::Member { weight, set, drain, .. }) => (set.filter(|_| weight == configured), drain),
            _ => (None, None),
        }
    }

    /// Makes the health of an endpoint what it would be after enough probes, without any.
    pub fn assume(&mut self, id: EndpointId, health: Health, now: Instant) {
        let entry = &mut self.entries[id.index()];
        let from = std::mem::replace(&mut entry.snapshot.health, health);
        if from != health {
            entry.snapshot.since = now;
            entry.recovered = (from == Health::Unhealthy && health == Health::Healthy).then_some(now);
        }
    }

    /// Takes in a probe's result; the change of health it made, if any. Results for an address that is probed no more are ignored.
    pub fn report(&mut self, report: &Report) -> Option<Transition> {
        let entry = self.entries.get_mut(report.id.index()).filter(|entry| entry.probe == report.address)?;
        entry.history.result(&report.outcome);
        if report.state.consecutive_bad == 1 && report.state.first_bad == Some(report.at) {
            entry.first_bad_sent = Some(report.sent);
        }
        let from = entry.snapshot.health;
        entry.snapshot = report.state;
        let to = report.state.health;
        if from == to {
            return None;
        }
        entry.recovered = (from == Health::Unhealthy && to == Health::Healthy).then_some(report.at);
        let took = entry.first_bad_sent.filter(|_| to == Health::Unhealthy);
        let took = took.map(|sent| report.at.saturating_duration_since(sent));
        Some(Transition { id: entry.id, change: entry.history.change(report.at, (from, to), took) })
    }

    /// Forgets recoveries that are complete at `now`.
    pub fn settle(&mut self, policy: impl Fn(usize) -> FailbackPolicy, now: Instant) {
        for entry in &mut self.entries {
            if let Membership::Member { group, .. } = entry.membership
                && entry.recovered.is_some()
                && entry.ramp(&policy(group), now) == RampStep::FULL
            {
                entry.recovered = None;
            }
        }
    }
}

fn unknown(
    id: EndpointId,
    target: Arc<Target>,
    membership: Membership,
    probe: SocketAddr,
    check: Arc<HealthCheck>,
    now: Instant,
) -> Entry {
    Entry {
        id,
        target,
        membership,
        probe,
        check,
        snapshot: Snapshot::unknown(now),
        history: History::default(),
        recovered: None,
        first_bad_sent: None,
    }
}
