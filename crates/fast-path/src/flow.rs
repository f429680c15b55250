//! A flow as the process sees it, and when it is over.

use std::{net::SocketAddr, ops::AddAssign, time::Duration};

use endpoint_group::{EndpointId, Slot};

use crate::EndReason;

/// When a listener's flows are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Without a packet in either direction.
    pub idle: Duration,
    /// Without a packet, as long as the endpoint has never answered.
    pub unanswered: Duration,
}

impl Timeouts {
    /// Why a flow is over at `now` whose latest packet came at `last`, if it is.
    pub fn verdict(&self, answered: bool, last: Duration, now: Duration) -> Option<EndReason> {
        let (timeout, reason) = match answered {
            true => (self.idle, EndReason::Idle),
            false => (self.idle.min(self.unanswered), EndReason::Unanswered),
        };
        // The kernel may have taken in a packet after `now` was read.
        (now.saturating_sub(last) >= timeout).then_some(reason)
    }
}

/// A live flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowEntry {
    /// The listener's place in the settings.
    pub listener: usize,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The static IP and port that it addressed.
    pub to: SocketAddr,
    /// Where the endpoint sees it come from: a NAT port, or the client itself.
    pub nat: SocketAddr,
    /// Where it is.
    pub endpoint: EndpointId,
    /// Where the flow hash falls in the table.
    pub slot: Slot,
    /// The port that it goes to there.
    pub endpoint_port: u16,
    /// Whether an endpoint has answered.
    pub answered: bool,
    /// When the latest packet came, on the clock of [`crate::clock`].
    pub last: Duration,
}

/// What a sweep found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sweep {
    /// Flows that live on.
    pub live: usize,
    /// Flows that it ended, by [`EndReason`].
    pub ended: [usize; EndReason::COUNT],
    /// Flows that live on by endpoint id: an id may be given to another endpoint only when none is left.
    pub by_endpoint: Vec<usize>,
}

impl AddAssign for Sweep {
    fn add_assign(&mut self, part: Self) {
        self.live += part.live;
        self.ended.iter_mut().zip(part.ended).for_each(|(all, part)| *all += part);
        if self.by_endpoint.len() < part.by_endpoint.len() {
            self.by_endpoint.resize(part.by_endpoint.len(), 0);
        }
        self.by_endpoint.iter_mut().zip(part.by_endpoint).for_each(|(all, part)| *all += part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_flow_is_over_once_its_timeout_has_passed_and_not_before() {
        let timeouts = Timeouts { idle: 30 * SECOND, unanswered: 5 * SECOND };
        for (answered, age, over) in
            [(true, 29, None), (true, 30, Some(EndReason::Idle)), (false, 4, None), (false, 5, Some(EndReason::Unanswered))]
        {
            assert_eq!(timeouts.verdict(answered, 100 * SECOND, (100 + age) * SECOND), over, "{answered} {age}");
        }
        assert_eq!(timeouts.verdict(false, 100 * SECOND, 99 * SECOND), None, "a packet after the clock was read");
    }

    #[test]
    fn an_idle_timeout_that_is_shorter_holds_for_all() {
        let timeouts = Timeouts { idle: 3 * SECOND, unanswered: 5 * SECOND };
        assert_eq!(timeouts.verdict(false, SECOND, 4 * SECOND), Some(EndReason::Unanswered));
    }
}
