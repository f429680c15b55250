//! What moves between two tables of a listener, and whether it had to.

use endpoint_group::{Dial, EndpointId, ListenerTable, Slot, plan::Plan};

use super::Step;

/// Adds one listener's part to `step`, given how many `flows` each slot has.
pub(super) fn add(step: &mut Step, flows: &[u64], old: &ListenerTable, new: &ListenerTable) {
    let (before, after) = (Terms::of(old.plan()), Terms::of(new.plan()));
    for (slot, &flows) in Slot::all().zip(flows).filter(|(_, flows)| **flows > 0) {
        let (from, to) = (old.choose(slot), new.choose(slot));
        match to {
            Some(to) => step.shares[to.index()] += flows,
            None => step.refused += flows,
        }
        if let (Some(from), Some(to)) = (from, to)
            && from != to
        {
            step.moved += flows;
            if !is_needed(&before, &after, from, to) {
                step.moved_needlessly += flows;
            }
        }
    }
}

/// Whether a flow had to move: what it left counts for less than before, or what it went to counts for more. Within a group an
/// endpoint counts by its effective weight; between groups each counts by the dial that is applied to it.
fn is_needed(before: &Terms, after: &Terms, from: EndpointId, to: EndpointId) -> bool {
    let (Some(left), Some(reached)) = (before.of_endpoint(from), after.of_endpoint(to)) else {
        // A table that names an endpoint which its own plan does not have is wrong in any case.
        return false;
    };
    if left.group == reached.group {
        let falls = after.of_endpoint(from).is_none_or(|now| now.weight < left.weight);
        falls || before.of_endpoint(to).is_none_or(|then| then.weight < reached.weight)
    } else {
        let falls = after.dial(left.group).is_none_or(|now| now < left.dial);
        falls || before.dial(reached.group).is_none_or(|then| then < reached.dial)
    }
}

/// On what terms an endpoint takes slots.
#[derive(Debug, Clone, Copy)]
struct Term {
    group: usize,
    dial: Dial,
    weight: u32,
}

/// The terms of a plan.
struct Terms {
    /// By endpoint id.
    endpoints: Vec<Option<Term>>,
    /// By place in the listener's list.
    dials: Vec<Option<Dial>>,
}

impl Terms {
    fn of(plan: &Plan) -> Self {
        let mut terms = Self { endpoints: Vec::new(), dials: Vec::new() };
        for group in plan.groups() {
            put(&mut terms.dials, group.index, group.dial);
            for candidate in group.candidates.as_slice() {
                let term = Term { group: group.index, dial: group.dial, weight: candidate.weight };
                put(&mut terms.endpoints, candidate.id.index(), term);
            }
        }
        terms
    }

    fn of_endpoint(&self, id: EndpointId) -> Option<Term> {
        self.endpoints.get(id.index()).copied().flatten()
    }

    fn dial(&self, group: usize) -> Option<Dial> {
        self.dials.get(group).copied().flatten()
    }
}

fn put<T: Clone>(list: &mut Vec<Option<T>>, index: usize, value: T) {
    if list.len() <= index {
        list.resize(index + 1, None);
    }
    list[index] = Some(value);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use endpoint_group::{
        Health, MinHealthy, Name, SLOTS, Weight, WhenAllUnhealthy,
        failback::RampStep,
        rendezvous::NameKey,
        view::{EndpointView, GroupView},
    };

    use super::*;

    /// A table of one group of two endpoints, whose slots are drawn from `names`.
    fn table(names: [&str; 2], weights: [u8; 2]) -> ListenerTable {
        let name = |text| Name::new(text).unwrap();
        let endpoint = |index: usize| EndpointView {
            id: EndpointId::new(index).unwrap(),
            key: NameKey::endpoint(&name(names[index])),
            health: Health::Healthy,
            weight: Weight::new(weights[index]),
            ramp: RampStep::FULL,
        };
        let group = GroupView {
            key: NameKey::group(&name("eu")),
            dial: Dial::FULL,
            ramp: RampStep::FULL,
            min_healthy: MinHealthy::default(),
            endpoints: vec![endpoint(0), endpoint(1)],
        };
        ListenerTable::build(Plan::new(&[&group], WhenAllUnhealthy::FailOpen))
    }

    fn step(old: &ListenerTable, new: &ListenerTable) -> Step {
        let nothing =
            Step { at: Duration::ZERO, what: String::new(), moved: 0, moved_needlessly: 0, refused: 0, shares: vec![0; 2] };
        let mut step = nothing;
        add(&mut step, &vec![2; SLOTS], old, new);
        step
    }

    #[test]
    fn a_choice_that_changes_for_no_reason_is_seen() {
        // The same endpoints on the same terms, but slots are drawn anew.
        let step = step(&table(["a", "b"], [128, 64]), &table(["c", "d"], [128, 64]));
        assert!(step.moved > 0);
        assert_eq!(step.moved_needlessly, step.moved);
        assert_eq!(step.shares.iter().sum::<u64>(), 2 * 65_536);
    }

    #[test]
    fn a_weight_that_changes_is_a_reason() {
        let step = step(&table(["a", "b"], [128, 64]), &table(["a", "b"], [128, 65]));
        assert!(step.moved > 0);
        assert_eq!(step.moved_needlessly, 0);
    }
}
