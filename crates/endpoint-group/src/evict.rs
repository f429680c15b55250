//! Which endpoints existing flows must leave. Nothing is cut without somewhere to go.
//!
//! An endpoint that this edge believes dead is left only if another is *known* to be alive at the same time: it answered a probe that
//! was sent after the dead one first failed to answer, and the dead one has failed again within the other's unbroken run of answers.
//! An edge that loses sight of everything therefore cuts nothing, however its probes happen to be spread in time. Nor does it when
//! sight returns, because an endpoint that came back later than the dead one went counts only once its failback hold is over, which
//! gives the dead one that long to come back too.

use std::time::Instant;

use crate::Health;

/// What the health checker knows of one endpoint, as far as leaving it is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// The verdict.
    pub health: Health,
    /// Since when.
    pub since: Instant,
    /// When the first of the bad results that ended in the latest result became known; `None` if the latest was good.
    pub first_bad: Option<Instant>,
    /// When the latest probe with a bad result had been sent.
    pub last_bad_sent: Option<Instant>,
    /// When the first of the good results that ended in the latest result had been sent; `None` if the latest was bad.
    pub first_good_sent: Option<Instant>,
    /// When the latest probe that was answered well had been sent.
    pub last_good_sent: Option<Instant>,
    /// Whether it is healthy again but still waits out its hold.
    pub held: bool,
}

impl Evidence {
    /// Whether flows may leave `dead` because this endpoint is known to be alive.
    pub fn relieves(&self, dead: &Evidence) -> bool {
        let (Health::Healthy, None, Some(good_since)) = (self.health, self.first_bad, self.first_good_sent) else {
            return false;
        };
        let (Some(first_bad), Some(last_bad_sent)) = (dead.first_bad, dead.last_bad_sent) else { return false };
        if good_since > last_bad_sent {
            return false;
        }
        if self.since > dead.since {
            return !self.held;
        }
        self.last_good_sent.is_some_and(|sent| sent >= first_bad)
    }
}

/// Whether existing flows must leave `dead`, given the other endpoints that would take them.
pub fn must_leave(dead: &Evidence, alternatives: impl IntoIterator<Item = Evidence>) -> bool {
    dead.health == Health::Unhealthy && alternatives.into_iter().any(|alternative| alternative.relieves(dead))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ms(ms: u64) -> Instant {
        // One arbitrary origin for all: only differences matter.
        static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        #[allow(clippy::disallowed_methods)]
        let origin = *ORIGIN.get_or_init(Instant::now);
        origin + Duration::from_millis(ms)
    }

    fn dead() -> Evidence {
        Evidence {
            health: Health::Unhealthy,
            since: ms(1_400),
            first_bad: Some(ms(1_000)),
            last_bad_sent: Some(ms(1_300)),
            first_good_sent: None,
            last_good_sent: Some(ms(0)),
            held: false,
        }
    }

    fn alive() -> Evidence {
        Evidence {
            health: Health::Healthy,
            since: ms(0),
            first_bad: None,
            last_bad_sent: None,
            first_good_sent: Some(ms(0)),
            last_good_sent: Some(ms(1_000)),
            held: false,
        }
    }

    #[test]
    fn an_endpoint_that_answered_since_relieves() {
        assert!(must_leave(&dead(), [alive()]));
        assert!(!must_leave(&dead(), []));
    }

    #[test]
    fn an_answer_from_before_the_failure_proves_nothing() {
        let stale = Evidence { last_good_sent: Some(ms(999)), ..alive() };
        assert!(!must_leave(&dead(), [stale]));
        assert!(must_leave(&dead(), [stale, alive()]));
    }

    #[test]
    fn one_that_has_only_just_answered_again_proves_nothing_yet() {
        let back = Evidence {
            last_bad_sent: Some(ms(800)),
            first_good_sent: Some(ms(1_350)),
            last_good_sent: Some(ms(1_350)),
            ..alive()
        };
        assert!(!must_leave(&dead(), [back]));
        let failed_again = Evidence { last_bad_sent: Some(ms(1_400)), ..dead() };
        assert!(must_leave(&failed_again, [back]));
    }

    #[test]
    fn a_suspect_or_unhealthy_endpoint_does_not_relieve() {
        let suspect = Evidence { first_bad: Some(ms(1_200)), ..alive() };
        assert!(!must_leave(&dead(), [suspect, dead()]));
        let unknown = Evidence { health: Health::Unknown, ..alive() };
        assert!(!must_leave(&dead(), [unknown]));
    }

    #[test]
    fn one_that_came_back_later_counts_after_its_hold() {
        let back = Evidence {
            since: ms(6_000),
            first_good_sent: Some(ms(6_000)),
            last_good_sent: Some(ms(6_000)),
            held: true,
            ..alive()
        };
        let still_dead = Evidence { last_bad_sent: Some(ms(6_500)), ..dead() };
        assert!(!must_leave(&still_dead, [back]));
        assert!(must_leave(&still_dead, [Evidence { held: false, ..back }]));
    }

    #[test]
    fn one_held_since_before_the_death_counts_at_once() {
        assert!(must_leave(&dead(), [Evidence { since: ms(500), held: true, ..alive() }]));
    }

    #[test]
    fn a_healthy_or_recovering_endpoint_is_not_left() {
        assert!(!must_leave(&alive(), [alive()]));
        assert!(!must_leave(&Evidence { first_bad: None, ..dead() }, [alive()]));
    }
}
