//! Where forwarding threads read the routing table: one atomic swap to publish, one wake-up a worker to act on it.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use endpoint_group::{Affinity, EndpointId, FlowHasher, FlowKey, RoutingTable, Slot};

use crate::{settings::OnUnhealthy, wake::Waker};

/// The published routing table. One writer publishes, any thread reads without waiting.
#[derive(Debug)]
pub struct Routes {
    table: ArcSwap<RoutingTable>,
    workers: Mutex<Vec<Waker>>,
}

impl Routes {
    /// Starts with `table`.
    pub fn new(table: RoutingTable) -> Self {
        Self { table: ArcSwap::from_pointee(table), workers: Mutex::default() }
    }

    /// Swaps the whole table in. Packets classified from here on see it; workers then look for flows that must leave.
    pub fn publish(&self, table: RoutingTable) {
        self.table.store(Arc::new(table));
        for waker in &*self.workers.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake();
        }
    }

    /// The table in force.
    pub fn load(&self) -> Guard<Arc<RoutingTable>> {
        self.table.load()
    }

    /// Wakes these workers at every publication.
    pub(crate) fn wake_at_publication(&self, workers: Vec<Waker>) {
        *self.workers.lock().unwrap_or_else(PoisonError::into_inner) = workers;
    }

    /// Who takes a new flow in `slot` of `listener`; `None` refuses.
    pub(crate) fn choose(&self, listener: usize, slot: Slot) -> Option<EndpointId> {
        self.load().listeners.get(listener)?.choose(slot)
    }

    /// Whether the flows of `listener`, which does `on_unhealthy`, must leave `endpoint`.
    pub(crate) fn must_leave(&self, listener: usize, endpoint: EndpointId, on_unhealthy: OnUnhealthy) -> bool {
        let keep = on_unhealthy == OnUnhealthy::Keep;
        self.load().listeners.get(listener).is_some_and(|table| table.must_leave(endpoint, keep))
    }

    /// The next endpoint in the rank of `slot` that is not among `tried`.
    pub(crate) fn next(&self, listener: usize, slot: Slot, tried: &[EndpointId]) -> Option<EndpointId> {
        let table = self.load();
        match table.listeners.get(listener)?.choose(slot) {
            Some(first) if !tried.contains(&first) => Some(first),
            None => None,
            Some(_) => table.listeners[listener].ranking(slot).into_iter().find(|id| !tried.contains(id)),
        }
    }
}

/// Turns the flows of one listener into slots.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Classifier {
    pub hasher: FlowHasher,
    pub affinity: Affinity,
}

impl Classifier {
    pub fn slot(&self, flow: &FlowKey) -> Slot {
        self.hasher.slot(flow, self.affinity)
    }
}
