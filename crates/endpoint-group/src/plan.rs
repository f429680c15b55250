//! Which endpoint groups take a listener's traffic, in which order, and why: the part of a choice that is the same for every slot.

use crate::{
    Dial, EndpointId, Health, Slot, Weight, WhenAllUnhealthy,
    failback::{RAMP_STEPS, RampStep},
    rendezvous::{Candidate, Candidates, NameKey},
    view::{EndpointView, GroupView},
};

/// The rule under which a listener's traffic is placed, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Eligible groups, by dial; the last of them takes the rest.
    Eligible,
    /// As before, but held and ramping endpoints and groups count in full: without them nothing would be eligible.
    HeldInFull,
    /// No group with an open dial is eligible; the first eligible one with dial 0 takes everything.
    DialsIgnored,
    /// Nothing is eligible: the first group that has weight > 0, whatever its health.
    FailOpen,
    /// New flows are refused.
    Refuse(Refusal),
}

/// Why new flows are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Some endpoint has no verdict yet.
    NotReady,
    /// Nothing is eligible, and the listener fails closed.
    FailClosed,
    /// Every endpoint has weight 0.
    Drained,
}

impl Stage {
    /// The word in `/status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Eligible => "eligible",
            Self::HeldInFull => "held_in_full",
            Self::DialsIgnored => "dials_ignored",
            Self::FailOpen => "fail_open",
            Self::Refuse(Refusal::NotReady) => "refuse_not_ready",
            Self::Refuse(Refusal::FailClosed) => "refuse_fail_closed",
            Self::Refuse(Refusal::Drained) => "refuse_drained",
        }
    }
}

/// A group that takes slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedGroup {
    /// Its place in the listener's list.
    pub index: usize,
    /// Its hashed name.
    pub key: NameKey,
    /// The dial that the walk applies: the group's own, or for the last group of a plan everything that reaches it; both as far as
    /// the group's ramp has come.
    pub dial: Dial,
    /// Its endpoints that can take slots; never empty.
    pub candidates: Candidates,
}

impl PlannedGroup {
    /// Whether `slot` falls under the dial.
    pub fn accepts(&self, slot: Slot) -> bool {
        if self.dial == Dial::FULL {
            return true;
        }
        let draw = self.key.draw(slot) >> 32;
        (draw * u64::from(Dial::FULL.thousandths())) >> 32 < u64::from(self.dial.thousandths())
    }
}

/// A listener's groups as they take traffic now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    stage: Stage,
    groups: Vec<PlannedGroup>,
    /// The place of the group that takes what no dial accepts: the last that does not ramp, or simply the last.
    rest: usize,
}

impl Plan {
    /// The plan for a listener whose groups, in order of preference, look like `groups`.
    pub fn new(groups: &[&GroupView], when_all_unhealthy: WhenAllUnhealthy) -> Self {
        let pick = |stage,
                    eligible: &dyn Fn(&GroupView) -> bool,
                    dial: &dyn Fn(&GroupView) -> (Dial, RampStep),
                    weight: &dyn Fn(&EndpointView) -> u32| {
            let mut planned = Vec::new();
            for (index, group) in groups.iter().enumerate().filter(|(_, group)| eligible(group)) {
                let candidates = candidates(group, weight);
                if !candidates.as_slice().is_empty() {
                    let (dial, ramp) = dial(group);
                    planned.push((PlannedGroup { index, key: group.key, dial, candidates }, ramp));
                }
            }
            let last = planned.len().checked_sub(1)?;
            planned[last].0.dial = Dial::FULL.scaled(planned[last].1.get(), RAMP_STEPS);
            let rest = planned.iter().rposition(|(_, ramp)| *ramp == RampStep::FULL).unwrap_or(last);
            Some(Self { stage, groups: planned.into_iter().map(|(group, _)| group).collect(), rest })
        };
        let healthy = |e: &EndpointView| if e.health == Health::Healthy { e.full_weight() } else { 0 };

        let eligible = |g: &GroupView| g.effective_dial() > Dial::CLOSED && g.eligible();
        let held = |g: &GroupView| g.dial > Dial::CLOSED && g.eligible_with_held();
        let open = || {
            pick(Stage::Eligible, &eligible, &|g| (g.effective_dial(), g.ramp), &EndpointView::effective_weight)
                .or_else(|| pick(Stage::HeldInFull, &held, &|g| (g.dial, RampStep::FULL), &healthy))
                .or_else(|| {
                    pick(Stage::DialsIgnored, &GroupView::eligible_with_held, &|_| (Dial::FULL, RampStep::FULL), &healthy)
                })
        };
        if let Some(plan) = open() {
            return plan;
        }

        let refuse = |why| Self { stage: Stage::Refuse(why), groups: Vec::new(), rest: 0 };
        let mut weighted = groups.iter().flat_map(|g| &g.endpoints).filter(|e| e.weight > Weight::ZERO).peekable();
        if weighted.peek().is_none() {
            return refuse(Refusal::Drained);
        }
        if weighted.any(|e| e.health == Health::Unknown) {
            return refuse(Refusal::NotReady);
        }
        match when_all_unhealthy {
            WhenAllUnhealthy::FailClosed => refuse(Refusal::FailClosed),
            WhenAllUnhealthy::FailOpen => {
                pick(Stage::FailOpen, &|g| g.weighted() > 0, &|_| (Dial::FULL, RampStep::FULL), &EndpointView::full_weight)
                    .unwrap_or_else(|| refuse(Refusal::Drained))
                    .first_group_only()
            }
        }
    }

    fn first_group_only(mut self) -> Self {
        self.groups.truncate(1);
        self.rest = 0;
        self
    }

    /// The rule in force.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The groups that take slots, in order of preference.
    pub fn groups(&self) -> &[PlannedGroup] {
        &self.groups
    }

    /// The place in [`Plan::groups`] of the group that takes `slot`: the first whose dial accepts it, else the one that takes the rest.
    pub fn group_for(&self, slot: Slot) -> Option<usize> {
        if self.groups.is_empty() {
            return None;
        }
        Some(self.groups.iter().position(|group| group.accepts(slot)).unwrap_or(self.rest))
    }

    /// Who takes `slot`.
    pub fn choose(&self, slot: Slot) -> Option<EndpointId> {
        self.groups[self.group_for(slot)?].candidates.winner(slot)
    }

    /// Every endpoint that may take `slot`, in the order in which they are tried: the chosen group's by rank; then the other groups' as
    /// the slot would pass on: those whose dial accepts it, the one that takes the rest, and the others from the last to the first.
    pub fn ranking(&self, slot: Slot) -> Vec<EndpointId> {
        let (accepting, others): (Vec<usize>, Vec<usize>) =
            (0..self.groups.len()).partition(|&group| self.groups[group].accepts(slot));
        let rest = others.iter().copied().filter(|&group| group == self.rest);
        let declining = others.iter().rev().copied().filter(|&group| group != self.rest);
        let order = accepting.into_iter().chain(rest).chain(declining);
        order.flat_map(|group| self.groups[group].candidates.ranking(slot)).collect()
    }
}

fn candidates(group: &GroupView, weight: &dyn Fn(&EndpointView) -> u32) -> Candidates {
    Candidates::new(group.endpoints.iter().map(|e| Candidate { id: e.id, key: e.key, weight: weight(e) }))
}
