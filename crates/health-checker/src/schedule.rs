//! The machines of all endpoints and the queue of what is due. Pure: no I/O, no clock; chance comes from a seedable generator.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use endpoint_group::{EndpointId, Name};

use crate::{HealthCheck, Jitter, Machine, Outcome, Report, Target};

/// The first probes of endpoints that become known together are spread over this long.
const START_SPREAD: Duration = Duration::from_millis(5);

/// All endpoints. An id in `queue` is one whose machine has a probe due; the others have one outstanding.
pub(crate) struct Schedule {
    entries: BTreeMap<EndpointId, Entry>,
    queue: BTreeSet<(Instant, EndpointId)>,
    last_epoch: u64,
    rng: fastrand::Rng,
}

struct Entry {
    target: Target,
    machine: Machine,
    /// Differs between any two endpoints that an id has stood for, so that a probe of the former never counts for the latter.
    epoch: u64,
    queued: Option<Instant>,
}

/// A probe to run.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) id: EndpointId,
    pub(crate) name: Name,
    pub(crate) address: SocketAddr,
    pub(crate) check: Arc<HealthCheck>,
    pub(crate) sent: Instant,
    pub(crate) late: Duration,
    epoch: u64,
}

/// A probe that ran, and when it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) order: Order,
    pub(crate) at: Instant,
    pub(crate) outcome: Outcome,
}

impl Schedule {
    pub(crate) fn new(rng: fastrand::Rng) -> Self {
        Self { entries: BTreeMap::new(), queue: BTreeSet::new(), last_epoch: 0, rng }
    }

    /// Replaces the endpoints. Those that stay the same (id, name, address, question) go on with their machine and the
    /// timing given now, the others begin anew. Of two with one id the last counts.
    pub(crate) fn set_targets(&mut self, targets: &[Target], now: Instant) {
        let mut former = mem::take(&mut self.entries);
        self.queue.clear();
        for target in targets {
            let entry = match former.remove(&target.id) {
                Some(mut entry) if entry.target.is_same(target) => {
                    entry.machine.set_timing(*target.check.timing());
                    entry.target = target.clone();
                    entry
                }
                _ => self.begin(target, now),
            };
            self.entries.insert(target.id, entry);
        }
        for entry in self.entries.values_mut() {
            entry.queued = None;
            requeue(&mut self.queue, entry);
        }
    }

    /// When the first of the due probes is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.queue.first().map(|&(due, _)| due)
    }

    /// The next probe that is to be sent at `now`, noted as sent.
    pub(crate) fn send_due(&mut self, now: Instant) -> Option<Order> {
        while self.next_due().is_some_and(|due| due <= now) {
            let (due, id) = self.queue.pop_first()?;
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.queued = None;
            if entry.machine.send(now, Jitter::random(&mut self.rng)) {
                let Target { id, name, address, check } = entry.target.clone();
                return Some(Order {
                    id,
                    name,
                    address,
                    check,
                    sent: now,
                    late: now.saturating_duration_since(due),
                    epoch: entry.epoch,
                });
            }
            requeue(&mut self.queue, entry);
        }
        None
    }

    /// Takes a result; `None` if the endpoint it belongs to is no longer there.
    pub(crate) fn finish(&mut self, ended: Ended) -> Option<Report> {
        let Ended { order: Order { id, address, sent, late, epoch, .. }, at, outcome } = ended;
        let entry = self.entries.get_mut(&id).filter(|entry| entry.epoch == epoch)?;
        let transition = entry.machine.finish(at, outcome.verdict());
        requeue(&mut self.queue, entry);
        Some(Report { id, address, at, sent, late, outcome, state: entry.machine.snapshot(), transition })
    }

    /// Passes an observation on; without effect for an unknown id.
    pub(crate) fn observe(&mut self, id: EndpointId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.machine.observe(now);
            requeue(&mut self.queue, entry);
        }
    }

    fn begin(&mut self, target: &Target, now: Instant) -> Entry {
        self.last_epoch += 1;
        let first = now + START_SPREAD.mul_f64(self.rng.f64());
        let machine = Machine::new(*target.check.timing(), now).first_probe_at(first);
        Entry { target: target.clone(), machine, epoch: self.last_epoch, queued: None }
    }
}

/// Puts `entry` where its machine says.
fn requeue(queue: &mut BTreeSet<(Instant, EndpointId)>, entry: &mut Entry) {
    let (id, due) = (entry.target.id, entry.machine.due());
    if entry.queued != due {
        if let Some(old) = entry.queued {
            queue.remove(&(old, id));
        }
        queue.extend(due.map(|due| (due, id)));
        entry.queued = due;
    }
}
