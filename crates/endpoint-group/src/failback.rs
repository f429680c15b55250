//! How a recovered endpoint or group comes back: a hold, then a ramp in steps, so that only the slots that must move do.

use std::time::Duration;

use crate::model::FailbackPolicy;

/// Steps from nothing to the whole share.
pub const RAMP_STEPS: u32 = 10;

/// How far something has come back: 0 (held) to [`RAMP_STEPS`] (in full).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RampStep(u32);

impl RampStep {
    /// Healthy again, but waiting.
    pub const HELD: Self = Self(0);
    /// Takes its whole share.
    pub const FULL: Self = Self(RAMP_STEPS);

    /// Tenths of the whole share.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The step at `elapsed` since the recovery.
    pub fn at(policy: &FailbackPolicy, elapsed: Duration) -> Self {
        let Some(ramping) = elapsed.checked_sub(policy.hold) else { return Self::HELD };
        if ramping >= policy.ramp {
            return Self::FULL;
        }
        let step = ramping.as_nanos() * u128::from(RAMP_STEPS) / policy.ramp.as_nanos();
        Self(u32::try_from(step).unwrap_or(RAMP_STEPS).clamp(1, RAMP_STEPS))
    }

    /// How long after the recovery the step changes next, seen from `elapsed`; `None` once in full.
    pub fn next_change(policy: &FailbackPolicy, elapsed: Duration) -> Option<Duration> {
        let starts = (2..=RAMP_STEPS).map(|step| {
            // Rounded up to the nanosecond, so that the step has changed when the time has come.
            let nanos = (policy.ramp.as_nanos() * u128::from(step)).div_ceil(u128::from(RAMP_STEPS));
            policy.hold + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        });
        std::iter::once(policy.hold).chain(starts).find(|&start| start > elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: FailbackPolicy = FailbackPolicy { hold: Duration::from_secs(5), ramp: Duration::from_secs(10) };

    #[test]
    fn holds_then_grows_in_tenths() {
        let at = |ms| RampStep::at(&POLICY, Duration::from_millis(ms)).get();
        assert_eq!([at(0), at(4_999), at(5_000), at(5_999), at(6_999)], [0, 0, 1, 1, 1]);
        assert_eq!([at(7_000), at(8_000), at(14_000), at(14_999), at(15_000), at(99_000)], [2, 3, 9, 9, 10, 10]);
    }

    #[test]
    fn without_hold_and_ramp_it_is_back_at_once() {
        let policy = FailbackPolicy { hold: Duration::ZERO, ramp: Duration::ZERO };
        assert_eq!(RampStep::at(&policy, Duration::ZERO), RampStep::FULL);
        assert_eq!(RampStep::next_change(&policy, Duration::ZERO), None);
    }

    #[test]
    fn next_change_names_every_change_and_no_other() {
        for (hold, ramp) in [(5_000, 10_000), (0, 7), (3, 0), (1_000, 333)] {
            let policy = FailbackPolicy { hold: Duration::from_millis(hold), ramp: Duration::from_millis(ramp) };
            let mut elapsed = Duration::ZERO;
            let mut changes = 0;
            while let Some(next) = RampStep::next_change(&policy, elapsed) {
                let before = next - Duration::from_nanos(1);
                assert_eq!(RampStep::at(&policy, before), RampStep::at(&policy, elapsed));
                assert!(RampStep::at(&policy, next) > RampStep::at(&policy, before), "{policy:?} {next:?}");
                elapsed = next;
                changes += 1;
            }
            assert!(changes <= RAMP_STEPS);
            assert_eq!(RampStep::at(&policy, elapsed), RampStep::FULL);
        }
    }
}
