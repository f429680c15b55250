//! What the books say.

use std::time::Duration;

use super::{Connections, Datagrams, Death, SHARE_WINDOW, Tally, Took, datagrams::Flow};

impl Tally {
    /// UDP flows whose last answer came from `endpoint`.
    pub(in crate::demo) fn flows_of(&self, endpoint: usize) -> usize {
        self.flows.iter().filter(|flow| flow.endpoint == Some(endpoint)).count()
    }

    /// Held connections that `endpoint` answers.
    pub(in crate::demo) fn held_of(&self, endpoint: usize) -> usize {
        self.held.iter().filter(|&&held| held == Some(endpoint)).count()
    }

    /// Percent of the latest connections that one of `endpoints` answered.
    pub(in crate::demo) fn share_of(&self, endpoints: &[usize], now: Duration) -> usize {
        let latest = || self.recent.iter().filter(|&&(at, _)| at + SHARE_WINDOW >= now);
        let own = latest().filter(|&(_, by)| endpoints.contains(by)).count();
        let all = latest().count();
        (own * 200 + all).checked_div(2 * all).unwrap_or(0)
    }

    /// UDP flows.
    pub(in crate::demo) fn flows(&self) -> usize {
        self.flows.len()
    }

    /// UDP flows of which no datagram sent since then was answered.
    pub(in crate::demo) fn flows_lost(&self, since: Duration) -> usize {
        self.flows.iter().filter(|flow| flow.answered.is_none_or(|answered| answered < since)).count()
    }

    /// Datagrams and connections that may still be answered.
    pub(in crate::demo) fn pending(&self) -> bool {
        let Connections { opened, answered, died_with_endpoint, failed, .. } = &self.connections;
        opened - answered - died_with_endpoint - failed > 0 || self.flows.iter().any(Flow::waits)
    }

    pub(in crate::demo) fn datagrams(&self) -> &Datagrams {
        &self.datagrams
    }

    pub(in crate::demo) fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Held connections that ended although their endpoint lived.
    pub(in crate::demo) fn cut(&self) -> u64 {
        self.cut
    }

    pub(in crate::demo) fn deaths(&self) -> &[Death] {
        &self.deaths
    }

    /// Whether nothing is left at the endpoint of this death.
    pub(in crate::demo) fn is_over(&self, death: &Death) -> bool {
        self.flows_of(death.endpoint) == 0 && self.held_of(death.endpoint) == 0
    }

    /// How long a failover that began at `from` and was over at `to` took, less what the clients stood still meanwhile.
    pub(in crate::demo) fn took(&self, from: Duration, to: Duration) -> Took {
        Took { total: to.saturating_sub(from), stalled: self.stalls.within(from, to) }
    }
}
