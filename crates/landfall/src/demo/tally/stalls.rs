//! When the clients stood still: a machine that is busy with something else says nothing about a failover.

use std::{collections::VecDeque, time::Duration};

/// Pauses remembered; a failover is over within a few.
const REMEMBERED: usize = 1024;

/// The latest pauses, in order.
#[derive(Debug, Default)]
pub(super) struct Stalls(VecDeque<(Duration, Duration)>);

impl Stalls {
    pub(super) fn add(&mut self, from: Duration, to: Duration) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((from, to));
    }

    /// How much of the time between was lost to pauses.
    pub(super) fn within(&self, from: Duration, to: Duration) -> Duration {
        self.0.iter().map(|&(began, ended)| ended.min(to).saturating_sub(began.max(from))).sum()
    }
}
