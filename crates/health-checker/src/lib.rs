//! KNOW: probes in, health out.
//!
//! The order of reading is the way of a result:
//!
//! 1. [`check`]: what to ask an endpoint, how often, and how many answers make a verdict.
//! 2. [`probe`]: asks once and classifies the answer; one file per kind.
//! 3. [`state`]: the machine of one endpoint, pure: results and observations in, verdict and next probe out.
//! 4. `schedule`: the machines of all endpoints and the queue of what is due; pure as well.
//! 5. [`driver`]: the one loop that runs due probes and reports what became of them.

pub mod check;
pub mod driver;
pub mod probe;
mod schedule;
pub mod state;

pub use check::{CheckError, Exchange, HealthCheck, ProbeKind, Timing};
pub use driver::{Checker, CheckerGone, Driver, Report, Target, checker};
pub use probe::{BadReason, LocalError, NetProber, Outcome, Prober};
pub use state::{Jitter, Machine, Snapshot, Verdict};
