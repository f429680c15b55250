//! What a flow holds while it lives, and gives back when it ends, however it ends.

use std::{cell::Cell, net::IpAddr, rc::Rc, sync::Arc};

use endpoint_group::{EndpointId, Protocol};

use tokio::time::Instant;

use crate::{
    account::{Counters, EndpointFlow},
    limits::Permit,
    reasons::{CloseReason, DropReason},
    worker::{LiveFlow, Phase, Shared, Worker},
};

/// An admitted flow. Dropping it closes the books on it, under [`CloseReason::Shutdown`] unless another reason was given.
pub(crate) struct OpenFlow {
    pub counters: Arc<Counters>,
    reason: Cell<CloseReason>,
    pinned: Cell<Option<EndpointFlow>>,
    _permit: Permit,
    _live: LiveFlow,
}

impl OpenFlow {
    /// Admits one more flow of `client`, or counts its refusal.
    pub fn admit(
        worker: &Rc<Worker>,
        listener: usize,
        protocol: Protocol,
        counters: &Arc<Counters>,
        client: IpAddr,
    ) -> Option<Self> {
        let admitted = match (worker.phase(), protocol) {
            // A TCP connection that the kernel had accepted before the drain is served.
            (Phase::Serving, _) | (Phase::Draining, Protocol::Tcp) => {
                let Shared { access, limits, .. } = &*worker.shared;
                if access.admits(listener, client) {
                    limits[listener].admit(client, Instant::now().into_std())
                } else {
                    Err(DropReason::Denied)
                }
            }
            (Phase::Draining | Phase::Stopping, _) => Err(DropReason::Draining),
        };
        match admitted {
            Ok(permit) => {
                counters.open();
                Some(Self {
                    counters: Arc::clone(counters),
                    reason: Cell::new(CloseReason::Shutdown),
                    pinned: Cell::new(None),
                    _permit: permit,
                    _live: worker.live(),
                })
            }
            Err(reason) => {
                counters.count_drop(reason);
                None
            }
        }
    }

    /// Counts the flow at `endpoint` from now on, and at no other.
    pub fn pin(&self, worker: &Worker, endpoint: EndpointId) {
        let table = worker.shared.routes.load();
        let flow = table.endpoint(endpoint).map(|e| worker.shared.books.endpoint_flow(&e.target.group, &e.target.name));
        self.pinned.set(flow);
    }

    /// Why the flow will have ended when it is dropped.
    pub fn ends(&self, reason: CloseReason) {
        self.reason.set(reason);
    }
}

impl Drop for OpenFlow {
    fn drop(&mut self) {
        self.counters.close(self.reason.get());
    }
}
