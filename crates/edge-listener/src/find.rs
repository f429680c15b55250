//! Where flows are: asked of the workers, who alone know their flows. The packet path pays nothing for it.

use std::sync::Arc;

use endpoint_group::{EndpointId, FlowKey};
use tokio::sync::oneshot;

use crate::{
    live::{LiveFlow, Wanted},
    worker::{Desk, Shared},
};

/// Flows that a worker looks at before packets get a turn.
const AT_ONCE: usize = 4096;

/// A question to a worker.
#[derive(Debug)]
pub(crate) enum Inquiry {
    /// Where this flow is pinned.
    Find { flow: FlowKey, answer: oneshot::Sender<Option<EndpointId>> },
    /// Those among `most` flows from place `from` on that are wanted; `None` if there is none at that place.
    List { wanted: Arc<Wanted>, from: usize, most: usize, answer: oneshot::Sender<Option<Vec<LiveFlow>>> },
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
        for desk in self.desks() {
            let (answer, found) = oneshot::channel();
            desk.ask(Inquiry::Find { flow: *flow, answer });
            // Err: the worker has ended, and its flows with it.
            if let Ok(Some(endpoint)) = found.await {
                return Some(endpoint);
            }
        }
        None
    }

    /// At most `most` flows that are wanted, in no order. Packets are forwarded meanwhile, so a flow that begins or ends may be missed.
    pub async fn list(&self, wanted: &Arc<Wanted>, most: usize) -> Vec<LiveFlow> {
        let mut flows = Vec::new();
        for desk in self.desks() {
            for from in (0..).step_by(AT_ONCE) {
                if flows.len() >= most {
                    break;
                }
                let (answer, found) = oneshot::channel();
                desk.ask(Inquiry::List { wanted: Arc::clone(wanted), from, most: AT_ONCE, answer });
                let Ok(Some(page)) = found.await else { break };
                flows.extend(page);
            }
        }
        flows.truncate(most);
        flows
    }

    fn desks(&self) -> impl Iterator<Item = &Desk> {
        self.0.iter().flat_map(|shared| &shared.desks)
    }
}

impl std::fmt::Debug for Finder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Finder").finish_non_exhaustive()
    }
}
