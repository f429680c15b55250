//! `landfall simulate`: what would move if this died, without touching anything.
//!
//! Made-up flows are placed by the very tables that an edge would publish. They count by listener and slot, because nothing else of a
//! flow decides; so each is hashed once, and a step costs the same for a thousand flows as for a billion. The edge is the control
//! loop's own [`State`], whose time is an argument: a failback of hours takes milliseconds.
//!
//! A flow *moves* when its slot's endpoint changes, which is where it would go if it began anew. Flows that are alive follow at once
//! only from an endpoint that died (docs/FAILOVER.md, "Existing flows"). A flow that is refused before or after does not move; it
//! counts as refused.

mod load;
mod moves;
mod render;
pub mod scenario;

use std::time::{Duration, Instant};

use endpoint_group::{EndpointId, Health, RoutingTable, Weight};

pub use self::load::Load;
use crate::{
    cli::SimulateArgs,
    control::state::State,
    explain::what_if::{Names, WhatIfError, imagine, load},
};

/// What happens at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// When, from the start.
    pub at: Duration,
    /// Who dies.
    pub down: Vec<EndpointId>,
    /// Who is healthy again.
    pub up: Vec<EndpointId>,
    /// Whose weight is set.
    pub weights: Vec<(EndpointId, Weight)>,
    /// The same in words.
    pub what: String,
}

/// Who has which share from one moment on, and what moved to make it so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// When, from the start.
    pub at: Duration,
    /// What happened.
    pub what: String,
    /// Flows whose endpoint is another than before this step.
    pub moved: u64,
    /// Those of them that need not have moved; anything but 0 is a fault of Landfall.
    pub moved_needlessly: u64,
    /// Flows that would be refused.
    pub refused: u64,
    /// Flows by endpoint, in the order of [`Simulation::endpoints`].
    pub shares: Vec<u64>,
}

/// An endpoint that flows may be placed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub endpoint: String,
    /// Its group's name.
    pub group: String,
}

/// What was simulated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Simulation {
    /// Flows in all.
    pub flows: u64,
    /// What they were drawn from.
    pub seed: u64,
    /// In the order of the config.
    pub endpoints: Vec<Place>,
    /// With everything healthy.
    pub start: Step,
    /// What happened since, in order of time.
    pub steps: Vec<Step>,
    /// By listener, the rule in force at the end, in the word of `/status`.
    pub stages: Vec<(String, &'static str)>,
}

impl Simulation {
    /// How things stand at the end.
    pub fn end(&self) -> &Step {
        self.steps.last().unwrap_or(&self.start)
    }

    /// Moves of all steps; a flow may move more than once.
    pub fn moved(&self) -> u64 {
        self.steps.iter().map(|step| step.moved).sum()
    }

    /// Moves of all steps that need not have been; anything but 0 is a fault of Landfall.
    pub fn moved_needlessly(&self) -> u64 {
        self.steps.iter().map(|step| step.moved_needlessly).sum()
    }
}

/// Lets `events`, which ascend in time, happen to `state`, which begins at `start`, and then all failbacks come to their ends.
pub fn simulate(mut state: State, load: &Load, events: &[Event], start: Instant) -> Simulation {
    let table = state.table();
    let mut run = Run { load, start, steps: Vec::new(), table };
    let first = run.step(Duration::ZERO, "start".to_owned(), &run.table);
    for event in events {
        let now = start + event.at;
        run.pass(&mut state, Some(now));
        happen(&mut state, event, now);
        state.rebuild(now);
        run.take(now, event.what.clone(), state.table(), true);
    }
    run.pass(&mut state, None);

    let listeners = state.config().listeners.iter().zip(&run.table.listeners);
    let place =
        |target: &endpoint_group::table::Target| Place { endpoint: target.name.to_string(), group: target.group.to_string() };
    Simulation {
        flows: load.flows(),
        seed: load.seed(),
        endpoints: state.endpoints().entries().iter().map(|entry| place(&entry.target)).collect(),
        start: first,
        steps: run.steps,
        stages: listeners.map(|(listener, table)| (listener.settings.name.to_string(), table.stage().as_str())).collect(),
    }
}

fn happen(state: &mut State, event: &Event, now: Instant) {
    for &id in &event.down {
        state.assume(id, Health::Unhealthy, now);
    }
    for &id in &event.up {
        state.assume(id, Health::Healthy, now);
    }
    for &(id, weight) in &event.weights {
        let name = state.endpoints().get(id).target.name.clone();
        state.set_weight(name.as_str(), Some(weight));
    }
}

/// A simulation under way.
struct Run<'a> {
    load: &'a Load,
    start: Instant,
    steps: Vec<Step>,
    /// In force.
    table: RoutingTable,
}

impl Run<'_> {
    /// Lets time alone do its work until `end`, or until nothing is left to do.
    fn pass(&mut self, state: &mut State, end: Option<Instant>) {
        let mut now = None;
        // Each due time is later than the one before; if it ever were not, this would not end.
        while let Some(due) = state.due().filter(|&due| end.is_none_or(|end| due < end) && now.is_none_or(|now| due > now)) {
            now = Some(due);
            state.rebuild(due);
            self.take(due, "failback".to_owned(), state.table(), false);
        }
    }

    /// Goes over to `table`. A step that moves nothing is worth a line only if somebody asked for it.
    fn take(&mut self, now: Instant, what: String, table: RoutingTable, asked: bool) {
        let step = self.step(now.saturating_duration_since(self.start), what, &table);
        self.table = table;
        let last = self.steps.last();
        if asked || step.moved > 0 || last.is_some_and(|last| last.shares != step.shares) {
            self.steps.push(step);
        }
    }

    fn step(&self, at: Duration, what: String, table: &RoutingTable) -> Step {
        let mut step = Step { at, what, moved: 0, moved_needlessly: 0, refused: 0, shares: vec![0; table.endpoints.len()] };
        for (flows, (old, new)) in self.load.by_listener().zip(self.table.listeners.iter().zip(&table.listeners)) {
            moves::add(&mut step, flows, old, new);
        }
        step
    }
}

/// Answers `landfall simulate`: what to print.
pub fn offline(args: &SimulateArgs, now: Instant) -> Result<String, WhatIfError> {
    let state = imagine(load(&args.config)?, &[], now)?;
    let names = Names::of(&state);
    let events = match &args.scenario {
        Some(path) => scenario::read(path, &names)?,
        None => vec![deaths(&args.down, &names)?],
    };
    let flows = Load::new(state.config(), args.flows, args.seed);
    let simulation = simulate(state, &flows, &events, now);
    let timed = args.scenario.is_some();
    Ok(if args.json { render::json(&simulation, timed) } else { render::text(&simulation, timed) })
}

fn deaths(names: &[String], known: &Names) -> Result<Event, WhatIfError> {
    let mut event = Event { what: format!("down {}", names.join(", ")), ..Event::default() };
    for name in names {
        event.down.extend(known.resolve(name)?);
    }
    Ok(event)
}
