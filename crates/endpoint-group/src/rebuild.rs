//! From one table's answers to the next by what changed, slot by slot; the same answers as from scratch, for a fraction of the work.
//!
//! A slot keeps its endpoint unless that one is gone or weighs less, or one that is new or weighs more outbids it. This is the other
//! side of what rendezvous hashing promises: only the slots that must move have to be looked at.

use std::collections::HashMap;

use crate::{
    EndpointId, Slot,
    plan::Plan,
    rendezvous::{Bid, Candidate, Candidates, NameKey},
};

/// How the candidates of a group differ from those of the same group in another plan.
enum Change {
    /// Not at all: every slot keeps its answer.
    None,
    /// The group was not there before, or so much has changed that every slot is decided anew.
    All,
    /// By these.
    Some {
        /// Those of now that can still hold what they held: there before, and weighing as much or more.
        kept: HashMap<EndpointId, Candidate>,
        /// Those that can win what they did not hold: new, or weighing more.
        gained: Candidates,
    },
}

impl Change {
    fn between(old: &Candidates, new: &Candidates) -> Self {
        if old == new {
            return Self::None;
        }
        let before: HashMap<NameKey, Candidate> = old.as_slice().iter().map(|&c| (c.key, c)).collect();
        let mut kept = HashMap::new();
        let mut gained = Vec::new();
        for &candidate in new.as_slice() {
            match before.get(&candidate.key) {
                // An id that changed hands is a new candidate.
                Some(old) if old.id == candidate.id && old.weight <= candidate.weight => {
                    kept.insert(candidate.id, candidate);
                    if old.weight < candidate.weight {
                        gained.push(candidate);
                    }
                }
                Some(old) if old.id == candidate.id => {}
                _ => gained.push(candidate),
            }
        }
        if kept.is_empty() { Self::All } else { Self::Some { kept, gained: Candidates::new(gained) } }
    }
}

/// The answers of `new` for every slot, given that `answers` were those of `old`.
pub(crate) fn rebuild(old: &Plan, answers: &[u16], new: &Plan) -> Vec<u16> {
    let changes: Vec<Change> = new
        .groups()
        .iter()
        .map(|group| match old.groups().iter().find(|before| before.key == group.key) {
            Some(before) => Change::between(&before.candidates, &group.candidates),
            None => Change::All,
        })
        .collect();
    let answer = |slot: Slot| {
        let group = new.group_for(slot)?;
        let candidates = &new.groups()[group].candidates;
        let same_group = old.group_for(slot).is_some_and(|before| old.groups()[before].key == new.groups()[group].key);
        let held = EndpointId::from_slot(answers[slot.index()]).filter(|_| same_group);
        match (&changes[group], held) {
            (Change::None, Some(held)) => Some(held),
            (Change::Some { kept, gained }, Some(held)) => match kept.get(&held) {
                Some(&holder) => {
                    let bid = Bid::new(holder, slot);
                    let best = gained.best(slot).filter(|challenger| challenger.compare(&bid).is_gt()).unwrap_or(bid);
                    Some(best.candidate.id)
                }
                None => candidates.winner(slot),
            },
            _ => candidates.winner(slot),
        }
    };
    Slot::all().map(|slot| answer(slot).map_or(u16::MAX, EndpointId::to_slot)).collect()
}
