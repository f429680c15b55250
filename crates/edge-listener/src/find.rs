//! Where a flow is: asked of the workers, who alone know their flows. The packet path pays nothing for it.

use endpoint_group::{EndpointId, FlowKey};
use tokio::sync::{mpsc, oneshot};

/// Questions that wait for one worker; askers beyond it wait to ask.
const INQUIRIES: usize = 16;

/// A question to a worker.
pub(crate) struct Inquiry {
    pub flow: FlowKey,
    pub answer: oneshot::Sender<Option<EndpointId>>,
}

/// Asks all workers of an edge. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct Finder(Vec<mpsc::Sender<Inquiry>>);

impl Finder {
    /// A finder of `workers`, and where each of them is asked.
    pub(crate) fn new(workers: usize) -> (Self, Vec<mpsc::Receiver<Inquiry>>) {
        let (senders, receivers) = (0..workers).map(|_| mpsc::channel(INQUIRIES)).unzip();
        (Self(senders), receivers)
    }

    /// The endpoint that `flow` is pinned to; `None` if no worker has it: it never was, it has ended, or it is still being dialled.
    ///
    /// Addresses as the kernel gives them: an IPv4 client is an IPv4 address.
    pub async fn find(&self, flow: &FlowKey) -> Option<EndpointId> {
        for worker in &self.0 {
            let (answer, found) = oneshot::channel();
            // Err: the worker has ended, and its flows with it.
            if worker.send(Inquiry { flow: *flow, answer }).await.is_err() {
                continue;
            }
            if let Ok(Some(endpoint)) = found.await {
                return Some(endpoint);
            }
        }
        None
    }
}
