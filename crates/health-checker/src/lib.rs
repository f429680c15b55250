//! KNOW: probes in, health out.
//!
//! The order of reading is the way of a result:
//!
//! 1. [`check`]: what to ask an endpoint, how often, and how many answers make a verdict. The questions are [`exchange`],
//!    [`http`] and [`quic`], with [`tls`] below them, and [`preset`]: protocols known by name, as data for [`script`].
//! 2. [`probe`]: asks once and classifies the answer; one file per carrier.
//! 3. [`state`]: the machine of one endpoint, pure: results and observations in, verdict and next probe out.
//! 4. `schedule`: the machines of all endpoints and the queue of what is due; pure as well.
//! 5. [`driver`]: the one loop that runs due probes and reports what became of them.

pub mod check;
pub mod driver;
pub mod exchange;
pub mod http;
pub mod preset;
pub mod probe;
pub mod quic;
mod schedule;
pub mod script;
pub mod state;
pub mod tls;

pub use check::{CheckError, Flap, HealthCheck, ProbeKind, Timing};
pub use driver::{Checker, CheckerGone, Driver, Report, Target, checker};
pub use exchange::Exchange;
pub use probe::{BadReason, LocalError, NetProber, Outcome, Prober};
pub use script::Expect;
pub use state::{Jitter, Machine, Snapshot, Verdict};
