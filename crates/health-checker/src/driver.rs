//! The loop that runs due probes and reports what became of them.
//!
//! One task, [`Driver::run`], owns all machines; each probe runs in a task of its own, so that a slow endpoint delays no
//! other. What passes between the tasks:
//!
//! | channel      | from → to       | depth            | when full                                                       |
//! |--------------|-----------------|------------------|-----------------------------------------------------------------|
//! | targets      | handles → loop  | the latest       | a later call replaces one that was not taken yet                |
//! | observations | handles → loop  | [`OBSERVATIONS`] | dropped: one is as good as many, and regular probes go on       |
//! | reports      | loop → consumer | [`REPORTS`]      | results wait in the loop, at most one per endpoint; none is lost |
//!
//! An endpoint whose result waits is not probed again until the consumer makes room. Times are those of the probe, not of the
//! report: a slow consumer does not look like a slow endpoint.
//!
//! The loop ends when every [`Checker`] or the receiver of the reports is dropped, and takes the running probes with it.
//! It logs errors of this host (WARN, at most one line in ten seconds) and every probe (TRACE); what becomes of an endpoint is in
//! the reports, for the consumer to log.

use std::{
    net::SocketAddr,
    panic,
    sync::Arc,
    time::{Duration, Instant},
};

use endpoint_group::{EndpointId, Health, Name};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time,
};
use tracing::{trace, warn};

use crate::{
    HealthCheck, LocalError, Outcome, Prober, Snapshot,
    schedule::{Ended, Order, Schedule},
};

/// How many observations wait for the loop, which looks at each for microseconds.
pub const OBSERVATIONS: usize = 1024;

/// How many reports wait for the consumer: some seconds' worth of a thousand endpoints.
pub const REPORTS: usize = 4096;

/// Errors of this host come in floods (no descriptor is left for any probe); one line in this time tells enough.
const LOCAL_ERROR_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// An endpoint to probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its place in the edge-wide array.
    pub id: EndpointId,
    /// Its name, for logs.
    pub name: Name,
    /// Where probes go: the endpoint's address and the port of the health check.
    pub address: SocketAddr,
    /// What to ask and how often; shared by the endpoints of a group.
    pub check: Arc<HealthCheck>,
}

impl Target {
    /// Whether results for `other` are results for this target: all but the timing is equal.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let Self { id, name, address, check } = other;
        self.id == *id && self.name == *name && self.address == *address && self.check.asks_the_same(check)
    }
}

/// A finished probe and what it made of its endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The endpoint.
    pub id: EndpointId,
    /// Where the probe went; tells a report from before an id changed hands from one after.
    pub address: SocketAddr,
    /// When the result became known.
    pub at: Instant,
    /// When the probe was sent.
    pub sent: Instant,
    /// How long after it was due.
    pub late: Duration,
    /// What became of it.
    pub outcome: Outcome,
    /// What the endpoint's results amount to, this one included.
    pub state: Snapshot,
    /// The change of health, from and to, if this result made one.
    pub transition: Option<(Health, Health)>,
}

/// The loop has ended, because the receiver of the reports was dropped, or the driver was dropped before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the health checker has ended")]
pub struct CheckerGone;

/// A handle to the loop. Cloning is cheap; dropping the last one ends the loop.
#[derive(Debug, Clone)]
pub struct Checker {
    targets: watch::Sender<Vec<Target>>,
    observations: mpsc::Sender<EndpointId>,
}

impl Checker {
    /// Replaces the set of probed endpoints. Never waits.
    ///
    /// An endpoint that was there under the same id, name and address with the same question keeps its health and its place
    /// in the schedule, whatever its timing. The others begin at [`Health::Unknown`] and are probed at once. Endpoints that are
    /// not in `targets` are forgotten; results of their running probes are not reported. Reports from before the change may
    /// still be in the channel. Ids must differ; of two with one id the last counts.
    pub fn set_targets(&self, targets: Vec<Target>) -> Result<(), CheckerGone> {
        self.targets.send(targets).map_err(|_| CheckerGone)
    }

    /// Something else than a probe failed on this endpoint: probe it at once, at most once per `fast_interval`.
    ///
    /// Never waits and never fails: an observation of an unknown id, or beyond what the loop can take, is dropped.
    pub fn observe(&self, id: EndpointId) {
        // Full or closed: nobody is worse off than without the observation.
        let _ = self.observations.try_send(id);
    }
}

/// The loop; see the module docs. Does nothing until it is run.
#[derive(Debug)]
pub struct Driver<P> {
    prober: Arc<P>,
    targets: watch::Receiver<Vec<Target>>,
    observations: mpsc::Receiver<EndpointId>,
    reports: mpsc::Sender<Report>,
    rng: fastrand::Rng,
}

/// A handle, the loop to spawn, and what it reports: one [`Report`] per finished probe, in the order of processing.
///
/// `rng` spreads the probes; any seed will do, a fixed one makes a test repeatable.
pub fn checker<P: Prober>(prober: P, rng: fastrand::Rng) -> (Checker, Driver<P>, mpsc::Receiver<Report>) {
    let (targets_in, targets) = watch::channel(Vec::new());
    let (observations_in, observations) = mpsc::channel(OBSERVATIONS);
    let (reports, reports_out) = mpsc::channel(REPORTS);
    let driver = Driver { prober: Arc::new(prober), targets, observations, reports, rng };
    (Checker { targets: targets_in, observations: observations_in }, driver, reports_out)
}

impl<P: Prober> Driver<P> {
    /// Probes until every [`Checker`] or the receiver of the reports is dropped.
    ///
    /// Dropping the future cancels the running probes. Panics if the prober does: to go on would be to leave an endpoint
    /// unprobed for ever.
    pub async fn run(self) {
        let Self { prober, mut targets, mut observations, reports, rng } = self;
        let mut schedule = Schedule::new(rng);
        let mut running = JoinSet::new();
        let mut local_errors = LocalErrors::default();
        loop {
            let due = schedule.next_due();
            // Every branch is cancel-safe. In this order none can starve one above it: results come at most once per
            // probe, probes at most once per `fast_interval`, observations as often as clients like.
            tokio::select! {
                biased;
                () = reports.closed() => return,
                changed = targets.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    schedule.set_targets(&targets.borrow_and_update(), now());
                }
                Some((permit, ended)) = next_ended(&reports, &mut running) => {
                    local_errors.log(&ended);
                    trace!(endpoint = %ended.order.name, address = %ended.order.address, outcome = ended.outcome.as_str(), "probe");
                    if let Some(report) = schedule.finish(ended) {
                        permit.send(report);
                    }
                }
                () = until(due) => {
                    let now = now();
                    while let Some(order) = schedule.send_due(now) {
                        running.spawn(run_probe(Arc::clone(&prober), order));
                    }
                }
                Some(id) = observations.recv() => schedule.observe(id, now()),
            }
        }
    }
}

async fn run_probe<P: Prober>(prober: Arc<P>, order: Order) -> Ended {
    let outcome = prober.probe(order.address, &order.check).await;
    // Taken here, so that the time a result waits for the loop does not count.
    Ended { at: now(), order, outcome }
}

/// The next finished probe, with room for its report. `None` at once if no probe runs.
///
/// Room first: a result that cannot be reported stays where it is. Cancel-safe, since both halves are.
async fn next_ended<'a>(
    reports: &'a mpsc::Sender<Report>,
    running: &mut JoinSet<Ended>,
) -> Option<(mpsc::Permit<'a, Report>, Ended)> {
    if running.is_empty() {
        return None;
    }
    let permit = reports.reserve().await.ok()?;
    match running.join_next().await? {
        Ok(ended) => Some((permit, ended)),
        Err(error) => match error.try_into_panic() {
            Ok(payload) => panic::resume_unwind(payload),
            // Probes are cancelled only by the end of the runtime, which ends this loop as well.
            Err(_) => None,
        },
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn now() -> Instant {
    time::Instant::now().into_std()
}

/// Limits the log lines about errors of this host.
#[derive(Debug, Default)]
struct LocalErrors {
    logged: Option<Instant>,
    suppressed: u64,
}

impl LocalErrors {
    fn log(&mut self, ended: &Ended) {
        let Outcome::Local(LocalError { text, .. }) = &ended.outcome else { return };
        if let Some(suppressed) = self.admit(ended.at) {
            warn!(endpoint = %ended.order.name, error = %text, suppressed, "cannot probe: error on this host");
        }
    }

    /// Whether to log an error at `now`, and how many have not been logged since the last line.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let quiet = self.logged.is_some_and(|logged| now.saturating_duration_since(logged) < LOCAL_ERROR_LOG_INTERVAL);
        if quiet {
            self.suppressed += 1;
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_errors_are_logged_once_in_ten_seconds() {
        let mut errors = LocalErrors::default();
        let start = now();
        assert_eq!(errors.admit(start), Some(0));
        for second in 1..10 {
            assert_eq!(errors.admit(start + Duration::from_secs(second)), None);
        }
        assert_eq!(errors.admit(start + Duration::from_secs(10)), Some(9));
    }
}
