//! What the demonstration has shown, and what it should have shown and did not. Pure.

use std::time::Duration;

use super::{
    scene::CAST,
    tally::{Connections, Datagrams, Tally, Took},
};

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    /// The published bound of a failover.
    pub(super) bound: Duration,
    pub(super) failovers: Vec<Failover>,
    pub(super) flows: usize,
    /// Flows that nothing answers any more.
    pub(super) flows_lost: usize,
    pub(super) datagrams: Datagrams,
    pub(super) connections: Connections,
    /// Held connections that were cut although their endpoint lived.
    pub(super) cut: u64,
    /// How long after the restart the near region had all new connections again.
    pub(super) returned: Option<Duration>,
}

/// How the clients of one dead endpoint fared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failover {
    pub(super) name: &'static str,
    pub(super) flows: usize,
    pub(super) flows_took: Took,
    pub(super) held: usize,
    pub(super) held_took: Took,
    /// Flows and held connections that had not come away in time to be measured.
    pub(super) left: (usize, usize),
}

impl Summary {
    /// Of the whole run; a flow that nothing has answered since `alive_since` is lost.
    pub(super) fn new(tally: &Tally, bound: Duration, alive_since: Duration, returned: Option<Duration>) -> Self {
        let failovers = tally.deaths().iter().map(|death| Failover {
            name: CAST[death.endpoint].name,
            flows: death.flows_moved,
            flows_took: tally.took(death.killed, death.last_lost),
            held: death.connections_told,
            held_took: tally.took(death.killed, death.last_told),
            left: death.left,
        });
        Self {
            bound,
            failovers: failovers.collect(),
            flows: tally.flows(),
            flows_lost: tally.flows_lost(alive_since),
            datagrams: *tally.datagrams(),
            connections: tally.connections().clone(),
            cut: tally.cut(),
            returned,
        }
    }

    /// What was promised and not kept, in words; empty when all went well.
    pub(super) fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        for failover in &self.failovers {
            let Failover { name, left: (flows, held), .. } = failover;
            if *flows > 0 {
                missed.push(format!("{flows} UDP flows never left {name}, which was dead"));
            }
            if *held > 0 {
                missed.push(format!("{held} held TCP connections were never told that {name} was dead"));
            }
            for (what, took) in [
                (format!("the UDP flows of {name} to move"), failover.flows_took),
                (format!("the held TCP connections of {name} to be told"), failover.held_took),
            ] {
                if took.net() > self.bound {
                    missed.push(format!("it took {:.3?} for {what}, and the bound is {:?}", took.net(), self.bound));
                }
            }
        }
        let Connections { failed, last_failure, .. } = &self.connections;
        if *failed > 0 {
            let last = last_failure.as_deref().unwrap_or_default();
            missed.push(format!("{failed} TCP connections failed, the last: {last}"));
        }
        if self.flows_lost > 0 {
            missed.push(format!("{} of {} UDP flows are answered no more", self.flows_lost, self.flows));
        }
        if self.cut > 0 {
            missed.push(format!("{} held TCP connections were cut although their endpoint lived", self.cut));
        }
        if self.returned.is_none() {
            missed.push("new connections did not return to the restarted endpoints".to_owned());
        }
        missed
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::demo) fn good() -> Summary {
        let ms = Duration::from_millis;
        Summary {
            bound: ms(600),
            failovers: vec![Failover {
                name: "eu-1",
                flows: 43,
                flows_took: Took { total: ms(231), stalled: ms(0) },
                held: 11,
                held_took: Took { total: ms(700), stalled: ms(120) },
                left: (0, 0),
            }],
            flows: 64,
            flows_lost: 0,
            datagrams: Datagrams { sent: 40_000, answered: 39_800, to_the_dead: 200, unanswered: 0, flows_unanswered: 0 },
            connections: Connections { opened: 1_000, answered: 999, died_with_endpoint: 1, failed: 0, last_failure: None },
            cut: 0,
            returned: Some(ms(3_400)),
        }
    }

    #[test]
    fn a_good_run_misses_nothing() {
        assert_eq!(good().missed(), Vec::<String>::new());
    }

    #[test]
    fn each_broken_promise_is_told() {
        let ms = Duration::from_millis;
        let mut bad = good();
        bad.failovers[0].flows_took = Took { total: ms(601), stalled: ms(0) };
        bad.failovers[0].held_took = Took { total: ms(721), stalled: ms(120) };
        bad.failovers[0].left = (2, 1);
        bad.connections.failed = 3;
        bad.connections.last_failure = Some("no answer".into());
        bad.flows_lost = 4;
        bad.cut = 5;
        bad.returned = None;
        assert_eq!(
            bad.missed(),
            [
                "2 UDP flows never left eu-1, which was dead",
                "1 held TCP connections were never told that eu-1 was dead",
                "it took 601.000ms for the UDP flows of eu-1 to move, and the bound is 600ms",
                "it took 601.000ms for the held TCP connections of eu-1 to be told, and the bound is 600ms",
                "3 TCP connections failed, the last: no answer",
                "4 of 64 UDP flows are answered no more",
                "5 held TCP connections were cut although their endpoint lived",
                "new connections did not return to the restarted endpoints",
            ]
        );
    }

    #[test]
    fn the_bound_itself_is_kept() {
        let mut tight = good();
        tight.failovers[0].flows_took = Took { total: tight.bound, stalled: Duration::ZERO };
        assert_eq!(tight.missed(), Vec::<String>::new());
    }
}
