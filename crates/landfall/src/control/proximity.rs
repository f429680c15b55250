//! `proximity = "latency"`: a listener's groups in the order of their measured round-trip times, changed slowly.
//!
//! Every change of order moves new flows from one region to another, so it takes a clear difference that lasts: a group overtakes the
//! one before it when its time is shorter by more than a fifth and by more than [`LEAST_GAIN`], and has been for [`PATIENCE`].

use std::time::{Duration, Instant};

/// How long a better order must have been the better one.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Nobody notices less.
pub const LEAST_GAIN: Duration = Duration::from_millis(1);
/// How often times are compared.
pub const LOOK: Duration = Duration::from_secs(1);

/// The order of one listener's groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    groups: Vec<usize>,
    /// Whether it has ever followed from times.
    measured: bool,
    /// Since when another order would have been better, at every look.
    wanted: Option<Instant>,
}

impl Order {
    /// The order of the file, until times are known.
    pub fn of_file(groups: &[usize]) -> Self {
        Self { groups: groups.to_vec(), measured: false, wanted: None }
    }

    /// The groups, nearest first; indices of the config.
    pub fn groups(&self) -> &[usize] {
        &self.groups
    }

    /// Compares the groups' times at `now`; whether the order has changed.
    ///
    /// The first look decides at once, by time alone; it is worth waiting until every endpoint had the chance of an answer. A group
    /// that has no time then comes last, and none is compared before it has one.
    pub fn look(&mut self, rtt: impl Fn(usize) -> Option<Duration>, now: Instant) -> bool {
        if !self.measured {
            self.measured = true;
            let before = self.groups.clone();
            self.groups.sort_by_key(|&group| (rtt(group).is_none(), rtt(group)));
            return self.groups != before;
        }
        let better = overtaken(self.groups.clone(), rtt);
        if better == self.groups {
            self.wanted = None;
            return false;
        }
        let since = *self.wanted.get_or_insert(now);
        if now.saturating_duration_since(since) < PATIENCE {
            return false;
        }
        self.groups = better;
        self.wanted = None;
        true
    }
}

/// `groups` after everyone who is clearly nearer has overtaken. Ends, because every swap puts a shorter time before a longer one.
fn overtaken(mut groups: Vec<usize>, rtt: impl Fn(usize) -> Option<Duration>) -> Vec<usize> {
    let nearer = |behind: usize, before: usize| match (rtt(behind), rtt(before)) {
        (Some(behind), Some(before)) => behind + before / 5 < before && behind + LEAST_GAIN < before,
        _ => false,
    };
    while let Some(at) = groups.windows(2).position(|pair| nearer(pair[1], pair[0])) {
        groups.swap(at, at + 1);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(times: &[u64]) -> impl Fn(usize) -> Option<Duration> {
        move |group| Some(Duration::from_millis(times[group])).filter(|time| !time.is_zero())
    }

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn the_first_times_decide_at_once() {
        let mut order = Order::of_file(&[0, 1, 2, 3]);
        assert!(order.look(ms(&[30, 0, 10, 29]), start()));
        assert_eq!(order.groups(), [2, 3, 0, 1], "the one that never answered comes last");
    }

    #[test]
    fn overtaking_takes_a_clear_difference_that_lasts() {
        let now = start();
        let settled = || {
            let mut order = Order::of_file(&[0, 1]);
            order.look(ms(&[20, 30]), now);
            order
        };
        for (what, times) in [("less than a fifth", [20, 17]), ("half a millisecond", [1, 1])] {
            let mut order = settled();
            for second in 0..60 {
                assert!(!order.look(ms(&times), now + Duration::from_secs(second)), "{what}");
            }
        }
        let mut order = settled();
        let changed: Vec<u64> = (0..30).filter(|&second| order.look(ms(&[20, 15]), now + Duration::from_secs(second))).collect();
        assert_eq!((changed, order.groups()), (vec![10], &[1, 0][..]));
    }

    #[test]
    fn times_that_flap_change_nothing() {
        let now = start();
        let mut order = Order::of_file(&[0, 1]);
        order.look(ms(&[20, 30]), now);
        for second in 0..600 {
            let times = if second % 10 == 9 { [20, 20] } else { [20, 10] };
            assert!(!order.look(ms(&times), now + Duration::from_secs(second)), "at {second} s");
        }
    }

    #[test]
    fn a_group_that_answers_late_overtakes_like_any_other() {
        let now = start();
        let mut order = Order::of_file(&[0, 1]);
        order.look(ms(&[0, 20]), now);
        assert_eq!(order.groups(), [1, 0]);
        let changed: Vec<u64> = (1..30).filter(|&second| order.look(ms(&[10, 20]), now + Duration::from_secs(second))).collect();
        assert_eq!((changed, order.groups()), (vec![11], &[0, 1][..]));
    }

    #[test]
    fn random_times_always_end_in_an_order_that_lasts() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..2_000 {
            let times: Vec<u64> = (0..rng.usize(1..=8)).map(|_| rng.u64(0..40)).collect();
            let groups: Vec<usize> = (0..times.len()).collect();
            let better = overtaken(groups.clone(), ms(&times));
            assert_eq!(overtaken(better.clone(), ms(&times)), better, "{times:?}");
            let mut sorted = better;
            sorted.sort_unstable();
            assert_eq!(sorted, groups, "{times:?}");
        }
    }
}
