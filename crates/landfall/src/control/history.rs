//! What an endpoint's probes said lately, and the changes of health that came of it. Bounded: for people who ask what happened.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use endpoint_group::Health;
use health_checker::Outcome;

/// Changes of health that are remembered of each endpoint.
pub const CHANGES: usize = 16;
/// Results that are remembered of each endpoint, and told with a change as its evidence.
pub const RESULTS: usize = 8;

/// A change of health with its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// When the result that made it became known.
    pub at: Instant,
    /// From what.
    pub from: Health,
    /// To what.
    pub to: Health,
    /// The result that made it, in the word of the metric.
    pub reason: &'static str,
    /// The last results, that one included, the oldest first.
    pub results: Vec<&'static str>,
    /// How long the last good answer took, if there ever was one.
    pub latency: Option<Duration>,
    /// From the sending of the first probe of the failed run to this change; for a change to unhealthy.
    pub took: Option<Duration>,
}

/// The memory of one endpoint.
#[derive(Debug, Clone, Default)]
pub struct History {
    results: VecDeque<&'static str>,
    changes: VecDeque<Change>,
    latency: Option<Duration>,
    rtt: Option<Duration>,
}

impl History {
    /// Takes in a result.
    pub fn result(&mut self, outcome: &Outcome) {
        if self.results.len() == RESULTS {
            self.results.pop_front();
        }
        self.results.push_back(outcome.as_str());
        if let Outcome::Good { latency } = *outcome {
            self.latency = Some(latency);
            // As TCP smooths its round trips (RFC 6298, section 2): an eighth of each new one.
            self.rtt = Some(self.rtt.map_or(latency, |rtt| rtt - rtt / 8 + latency / 8));
        }
    }

    /// Takes in a change that the last result made.
    pub fn change(&mut self, at: Instant, (from, to): (Health, Health), took: Option<Duration>) -> Change {
        if self.changes.len() == CHANGES {
            self.changes.pop_front();
        }
        let results: Vec<_> = self.results.iter().copied().collect();
        let change = Change { at, from, to, reason: self.last_result().unwrap_or("none"), results, latency: self.latency, took };
        self.changes.push_back(change.clone());
        change
    }

    /// The last result, in the word of the metric.
    pub fn last_result(&self) -> Option<&'static str> {
        self.results.back().copied()
    }

    /// How long the last good answer took.
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// The smoothed time from a probe to its good answer.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// The changes, the oldest first.
    pub fn changes(&self) -> impl DoubleEndedIterator<Item = &Change> {
        self.changes.iter()
    }
}

#[cfg(test)]
mod tests {
    use health_checker::BadReason;

    use super::*;

    #[test]
    fn remembers_the_last_and_no_more() {
        let mut history = History::default();
        let start = tokio::time::Instant::now().into_std();
        for round in 0..40u32 {
            history.result(&Outcome::Bad(BadReason::Refused));
            history.result(&Outcome::Good { latency: Duration::from_millis(8) });
            history.change(start + Duration::from_secs(round.into()), (Health::Unhealthy, Health::Healthy), None);
        }
        let changes: Vec<_> = history.changes().collect();
        assert_eq!((changes.len(), changes[0].at), (CHANGES, start + Duration::from_secs(24)));
        assert_eq!(changes[15].results, ["refused", "good"].repeat(RESULTS / 2));
        assert_eq!((changes[15].reason, history.last_result()), ("good", Some("good")));
    }

    #[test]
    fn a_round_trip_is_smoothed_by_eighths() {
        let mut history = History::default();
        history.result(&Outcome::Good { latency: Duration::from_millis(80) });
        assert_eq!(history.rtt(), Some(Duration::from_millis(80)));
        history.result(&Outcome::Good { latency: Duration::from_millis(160) });
        assert_eq!((history.rtt(), history.latency()), (Some(Duration::from_millis(90)), Some(Duration::from_millis(160))));
        history.result(&Outcome::Bad(BadReason::Timeout));
        assert_eq!(history.rtt(), Some(Duration::from_millis(90)), "what did not come back has no time");
    }
}
