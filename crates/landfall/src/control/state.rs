//! What the control loop knows, and what follows from it. Pure: time is an argument, nothing here does I/O.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use endpoint_group::{
    EndpointId, Health, ListenerTable, Name, RoutingTable, Weight, WhenAllUnhealthy,
    evict::{self, Evidence},
    failback::RampStep,
    model::FailbackPolicy,
    plan::{Plan, Stage},
    rendezvous::NameKey,
    view::{EndpointView, GroupView},
};
use health_checker::{Report, Target};

use super::{
    endpoints::{Drain, Endpoints, Entry, Exhausted, Membership, Transition},
    proximity::{self, Order},
};
use crate::config::{Config, Listener, Proximity};

/// How many other endpoints are asked whether they are alive when one fails; one answer is enough, and a mass of probes would hurt.
const WITNESSES: usize = 4;

/// How a group stands among those that come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Not eligible since the start: when it first is, it is in full.
    Fresh,
    /// Eligible; since when, while it comes back from having been out.
    In { regained: Option<Instant> },
    /// Was eligible once, is not now.
    Out,
}

/// How flows leave an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Departure {
    /// Unless they keep to theirs.
    Leave,
    /// All of them.
    End,
}

/// The state of the control loop.
#[derive(Debug)]
pub struct State {
    config: Config,
    endpoints: Endpoints,
    standings: Vec<Standing>,
    tables: Vec<Arc<ListenerTable>>,
    views: Vec<GroupView>,
    generation: u64,
    /// The groups of every listener, in order of preference.
    orders: Vec<Order>,
    /// When the times of groups are compared next; `None` while no listener is ordered by them.
    look: Option<Instant>,
    /// Every endpoint of the first configuration has had its first result.
    started: bool,
    /// Something happened that the plans depend on.
    replan: bool,
    /// When time alone changes the plans next.
    due: Option<Instant>,
}

impl State {
    /// Nothing is known yet of any endpoint of `config`.
    pub fn new(config: Config, now: Instant) -> Result<Self, Exhausted> {
        let mut endpoints = Endpoints::default();
        endpoints.apply(&config, now, now)?;
        let standings = vec![Standing::Fresh; config.endpoint_groups.len()];
        let mut state = Self {
            orders: config.listeners.iter().map(|listener| Order::of_file(&listener.groups)).collect(),
            config,
            endpoints,
            standings,
            tables: Vec::new(),
            views: Vec::new(),
            generation: 0,
            look: None,
            started: false,
            replan: true,
            due: None,
        };
        state.rebuild(now);
        Ok(state)
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What is known of the endpoints.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// The groups as the tables in force see them, in the order of the configuration.
    pub fn views(&self) -> &[GroupView] {
        &self.views
    }

    /// The groups of a listener in order of preference, as of the last [`State::rebuild`]; indices of the configuration.
    pub fn order(&self, listener: usize) -> &[usize] {
        self.orders[listener].groups()
    }

    /// The round-trip time of a group: the mean of its endpoints', weighted as they are, of the healthy ones if there is any.
    pub fn rtt(&self, group: usize) -> Option<Duration> {
        let mean = |healthy: bool| {
            let asked = self.endpoints.of_group(group).filter(|entry| !healthy || entry.snapshot.health == Health::Healthy);
            let known = asked.filter_map(|entry| Some((u32::from(entry.weight().get()).max(1), entry.history.rtt()?)));
            let (weights, sum) =
                known.fold((0, Duration::ZERO), |(weights, sum), (weight, rtt)| (weights + weight, sum + rtt * weight));
            sum.checked_div(weights)
        };
        mean(true).or_else(|| mean(false))
    }

    /// The routing table in force.
    pub fn table(&self) -> RoutingTable {
        RoutingTable {
            generation: self.generation,
            endpoints: self.endpoints.entries().iter().map(Entry::table_endpoint).collect(),
            listeners: self.tables.iter().map(Arc::clone).collect(),
        }
    }

    /// Replaces the configuration. What may change at run time is the caller's to check; the listeners must be the same.
    pub fn apply(&mut self, config: Config, now: Instant) -> Result<(), Exhausted> {
        self.endpoints.apply(&config, now, now + config.edge.drain_timeout)?;
        let standing = |name: &Name| {
            let known = self.config.endpoint_groups.iter().position(|group| group.group.name == *name);
            known.map_or(Standing::Fresh, |index| self.standings[index])
        };
        self.standings = config.endpoint_groups.iter().map(|group| standing(&group.group.name)).collect();
        let kept = |(old, new): (&Listener, &Listener)| {
            let name = |config: &Config, group: &usize| config.endpoint_groups[*group].group.name.clone();
            let listed = |config: &Config, listener: &Listener| -> Vec<Name> {
                listener.groups.iter().map(|group| name(config, group)).collect()
            };
            // Groups may have other indices now.
            old.proximity == new.proximity && old.groups == new.groups && listed(&self.config, old) == listed(&config, new)
        };
        for ((old, new), order) in self.config.listeners.iter().zip(&config.listeners).zip(&mut self.orders) {
            if !kept((old, new)) {
                *order = Order::of_file(&new.groups);
            }
        }
        self.config = config;
        self.replan = true;
        Ok(())
    }

    /// Sets the weight of an endpoint until the one in the config changes; `None` goes back to that. Whether there is such an endpoint.
    pub fn set_weight(&mut self, endpoint: &str, weight: Option<Weight>) -> bool {
        self.replan = true;
        self.endpoints.order(endpoint, |set, _| *set = weight)
    }

    /// Lets an endpoint take no new flows, or again. Whether there is such an endpoint.
    pub fn set_drain(&mut self, endpoint: &str, order: Option<Drain>) -> bool {
        self.replan = true;
        self.endpoints.order(endpoint, |_, drain| *drain = order)
    }

    /// Makes the health of an endpoint what it would be after enough probes, without any: for looking ahead, not for serving.
    pub fn assume(&mut self, id: EndpointId, health: Health, now: Instant) {
        self.endpoints.assume(id, health, now);
        self.replan = true;
    }

    /// Takes in a probe's result.
    pub fn report(&mut self, report: &Report) -> Option<Transition> {
        let transition = self.endpoints.report(report);
        self.replan |= transition.is_some();
        let waiting = self.awaited().next().is_some();
        self.started |= !waiting;
        transition
    }

    /// The endpoints whose first result the edge waits for before it is ready. None any more once it was: an endpoint that a reload
    /// adds takes no flows before its first result, but the others go on.
    pub fn awaited(&self) -> impl Iterator<Item = &Entry> {
        let unknown = self.members().filter(|entry| entry.snapshot.health == Health::Unknown);
        unknown.filter(|_| !self.started)
    }

    fn members(&self) -> impl Iterator<Item = &Entry> {
        self.endpoints.entries().iter().filter(|entry| matches!(entry.membership, Membership::Member { .. }))
    }

    /// What to probe: the endpoints of the configuration, and retired ones for as long as their flows may go on.
    pub fn targets(&self, now: Instant) -> Vec<Target> {
        let probed = self.endpoints.entries().iter().filter(|entry| match entry.membership {
            Membership::Member { .. } => true,
            Membership::Retired { leaves } => leaves > now,
        });
        probed
            .map(|entry| Target {
                id: entry.id,
                name: entry.target.name.clone(),
                address: entry.probe,
                check: Arc::clone(&entry.check),
            })
            .collect()
    }

    /// Who should be probed at once because `failing` has just failed to answer: others that could take its flows, and have not
    /// answered since. Their answer, or their silence, tells its death from this edge's own blindness.
    pub fn witnesses(&self, failing: EndpointId, now: Instant) -> BTreeSet<EndpointId> {
        let Some(first_bad) = self.endpoints.get(failing).snapshot.first_bad else { return BTreeSet::new() };
        let mut witnesses = BTreeSet::new();
        for table in &self.tables {
            let candidates = self.alternatives(table, failing, now);
            let mut stale = Vec::new();
            let mut fresh = false;
            for (id, evidence) in candidates {
                let answered = evidence.last_good_sent.is_some_and(|sent| sent >= first_bad);
                fresh |= answered && evidence.first_bad.is_none();
                if !answered && evidence.first_bad.is_none() && stale.len() < WITNESSES {
                    stale.push(id);
                }
            }
            if !fresh {
                witnesses.extend(stale);
            }
        }
        witnesses
    }

    /// When something will change, or is to be looked at, by the mere passing of time; as of the last [`State::rebuild`].
    pub fn due(&self) -> Option<Instant> {
        self.due.into_iter().chain(self.look).min()
    }

    /// Puts the groups of listeners that go by latency in order, where it is time to; whether an order has changed.
    ///
    /// Not before every endpoint had its first result: the first look decides at once.
    fn look(&mut self, now: Instant) -> bool {
        let by_latency = |listener: &Listener| listener.proximity == Proximity::Latency;
        if !self.started || !self.config.listeners.iter().any(by_latency) {
            self.look = None;
            return false;
        }
        if self.look.is_some_and(|look| look > now) {
            return false;
        }
        self.look = Some(now + proximity::LOOK);
        let rtts: Vec<Option<Duration>> = (0..self.config.endpoint_groups.len()).map(|group| self.rtt(group)).collect();
        let mut changed = false;
        for (listener, order) in self.config.listeners.iter().zip(&mut self.orders) {
            changed |= by_latency(listener) && order.look(|group| rtts[group], now);
        }
        changed
    }

    fn next_change(&self, now: Instant) -> Option<Instant> {
        let endpoints = self.endpoints.entries().iter().filter_map(|entry| match entry.membership {
            Membership::Member { group, drain, .. } => {
                let ends = drain.and_then(|drain| drain.ends).filter(|&ends| ends > now);
                let step = entry.recovered.and_then(|since| next_step(&self.policy(group), since, now));
                ends.into_iter().chain(step).min()
            }
            Membership::Retired { leaves } => Some(leaves).filter(|&leaves| leaves > now),
        });
        let groups = self.standings.iter().enumerate().filter_map(|(group, standing)| match standing {
            Standing::In { regained: Some(since) } => next_step(&self.ramp_only(group), *since, now),
            _ => None,
        });
        endpoints.chain(groups).min()
    }

    fn policy(&self, group: usize) -> FailbackPolicy {
        self.config.endpoint_groups[group].group.failback
    }

    /// A group that is eligible again has waited already, with its endpoints.
    fn ramp_only(&self, group: usize) -> FailbackPolicy {
        FailbackPolicy { hold: Duration::ZERO, ..self.policy(group) }
    }

    /// Brings the tables up to date with what is known at `now`; whether anything changed that forwarding must learn.
    pub fn rebuild(&mut self, now: Instant) -> bool {
        let replan = self.look(now) || self.replan || self.due.is_some_and(|due| due <= now);
        if !replan
            && !self.endpoints.any_to_leave(now)
            && self.tables.iter().all(|table| table.leaving().is_empty() && table.ending().is_empty())
        {
            return false;
        }
        if replan {
            let config = &self.config;
            self.endpoints.settle(|group| config.endpoint_groups[group].group.failback, now);
            self.views = (0..self.config.endpoint_groups.len()).map(|group| self.view(group, now)).collect();
            for group in 0..self.views.len() {
                self.update_standing(group, now);
            }
            self.replan = false;
            self.due = self.next_change(now);
        }

        let mut tables: Vec<Arc<ListenerTable>> = Vec::new();
        for (index, listener) in self.config.listeners.iter().enumerate() {
            let rules = |index: usize| (self.order(index), self.config.listeners[index].when_all_unhealthy);
            let shared = (0..index).find(|&other| rules(other) == rules(index));
            let table = match (shared, self.tables.get(index)) {
                (Some(shared), _) => Arc::clone(&tables[shared]),
                (None, Some(old)) if !replan => self.with_leaving(Arc::clone(old), now),
                (None, old) => self.with_leaving(self.answers(old, index, listener.when_all_unhealthy), now),
            };
            tables.push(table);
        }
        let same = tables.len() == self.tables.len() && tables.iter().zip(&self.tables).all(|(new, old)| Arc::ptr_eq(new, old));
        self.tables = tables;
        // A reload may rename or move endpoints under equal answers.
        let changed = replan || !same;
        if changed {
            self.generation += 1;
        }
        changed
    }

    /// A group as it is now, its endpoints' ramps included, its own not yet.
    fn view(&self, group: usize, now: Instant) -> GroupView {
        let configured = &self.config.endpoint_groups[group].group;
        let endpoints = self.endpoints.of_group(group).map(|entry| EndpointView {
            id: entry.id,
            key: NameKey::endpoint(&entry.target.name),
            health: entry.snapshot.health,
            weight: entry.weight(),
            ramp: entry.ramp(&configured.failback, now),
        });
        GroupView {
            key: NameKey::group(&configured.name),
            dial: configured.dial,
            ramp: RampStep::FULL,
            min_healthy: configured.min_healthy,
            endpoints: endpoints.collect(),
        }
    }

    fn update_standing(&mut self, group: usize, now: Instant) {
        let standing = match (self.views[group].eligible(), self.standings[group]) {
            (true, Standing::Fresh) => Standing::In { regained: None },
            (true, Standing::Out) => Standing::In { regained: Some(now) },
            (true, standing) => standing,
            (false, Standing::Fresh) => Standing::Fresh,
            (false, _) => Standing::Out,
        };
        let ramp = match standing {
            Standing::In { regained: Some(since) } => RampStep::at(&self.ramp_only(group), now.saturating_duration_since(since)),
            _ => RampStep::FULL,
        };
        self.views[group].ramp = ramp;
        self.standings[group] = match standing {
            Standing::In { .. } if ramp == RampStep::FULL => Standing::In { regained: None },
            standing => standing,
        };
    }

    /// A listener's answers by the groups as they are now; those of `old`, uncomputed, where its plan is still the plan.
    fn answers(
        &self,
        old: Option<&Arc<ListenerTable>>,
        listener: usize,
        when_all_unhealthy: WhenAllUnhealthy,
    ) -> Arc<ListenerTable> {
        let views: Vec<_> = self.order(listener).iter().map(|&group| &self.views[group]).collect();
        let plan = Plan::new(&views, when_all_unhealthy);
        match old {
            Some(old) if *old.plan() == plan => Arc::clone(old),
            Some(old) => Arc::new(old.rebuild(plan)),
            None => Arc::new(ListenerTable::build(plan)),
        }
    }

    fn with_leaving(&self, table: Arc<ListenerTable>, now: Instant) -> Arc<ListenerTable> {
        let mut leaving = Vec::new();
        let mut ending = Vec::new();
        for entry in self.endpoints.entries() {
            match self.departure(&table, entry, now) {
                Some(Departure::Leave) => leaving.push(entry.id),
                Some(Departure::End) => ending.push(entry.id),
                None => {}
            }
        }
        let same = table.leaving() == leaving && table.ending() == ending;
        if same { table } else { Arc::new(table.with_leaving(leaving, ending)) }
    }

    /// Whether the flows of a listener must leave `entry`.
    fn departure(&self, table: &ListenerTable, entry: &Entry, now: Instant) -> Option<Departure> {
        let mut alternatives = self.alternatives(table, entry.id, now).map(|(_, evidence)| evidence);
        if entry.is_over(now) {
            let somewhere = alternatives.any(|other| other.health == Health::Healthy && other.first_bad.is_none());
            let how = if entry.is_member() { Departure::End } else { Departure::Leave };
            return somewhere.then_some(how);
        }
        let dead = entry.snapshot.health == Health::Unhealthy;
        (dead && evict::must_leave(&entry.evidence(false), alternatives)).then_some(Departure::Leave)
    }

    /// The endpoints that would take the flows of `leaving`, with what is known of them. None while the listener fails open.
    fn alternatives<'a>(
        &'a self,
        table: &'a ListenerTable,
        leaving: EndpointId,
        now: Instant,
    ) -> impl Iterator<Item = (EndpointId, Evidence)> + 'a {
        let eligible = matches!(table.stage(), Stage::Eligible | Stage::HeldInFull | Stage::DialsIgnored);
        let candidates = table.plan().groups().iter().filter(move |_| eligible).flat_map(|group| group.candidates.as_slice());
        candidates.filter(move |candidate| candidate.id != leaving).map(move |candidate| {
            let entry = self.endpoints.get(candidate.id);
            let held = match entry.membership {
                Membership::Member { group, .. } => entry.ramp(&self.policy(group), now) == RampStep::HELD,
                Membership::Retired { .. } => false,
            };
            (candidate.id, entry.evidence(held))
        })
    }
}

fn next_step(policy: &FailbackPolicy, since: Instant, now: Instant) -> Option<Instant> {
    let elapsed = now.saturating_duration_since(since);
    RampStep::next_change(policy, elapsed).map(|next| since + next)
}
