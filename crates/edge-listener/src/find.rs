//! Where a flow is: asked of the workers, who alone know their flows. The packet path pays nothing for it.

use std::sync::Arc;

use endpoint_group::{EndpointId, FlowKey};
use tokio::sync::oneshot;

use crate::worker::Shared;

/// A question to a worker.
#[derive(Debug)]
pub(crate) struct Inquiry {
    pub flow: FlowKey,
    pub answer: oneshot::Sender<Option<EndpointId>>,
}

/// Asks all workers of an edge. Cloning is cheap.
#[derive(Clone, Default)]
pub struct Finder(Option<Arc<Shared>>);

impl Finder {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(Some(shared))
    }

    /// The endpoint that `flow` is pinned to; `None` if no worker has it: it never was, it has ended, or it is still being dialled.
    ///
    /// Addresses as the kernel gives them: an IPv4 client is an IPv4 address.
    pub async fn find(&self, flow: &FlowKey) -> Option<EndpointId> {
        for desk in self.0.iter().flat_map(|shared| &shared.desks) {
            let (answer, found) = oneshot::channel();
            desk.ask(Inquiry { flow: *flow, answer });
            // Err: the worker has ended, and its flows with it.
            if let Ok(Some(endpoint)) = found.await {
                return Some(endpoint);
            }
        }
        None
    }
}

impl std::fmt::Debug for Finder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Finder").finish_non_exhaustive()
    }
}
