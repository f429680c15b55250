//! What can be asked of the control loop, and the handle to ask it with.

use std::{sync::Arc, time::Duration};

use edge_listener::{Finder, live::Wanted};
use endpoint_group::{EndpointId, FlowKey, Name};
use tokio::sync::{mpsc, oneshot};

use super::{endpoints::Exhausted, status::Status};
use crate::{
    config::LoadError,
    explain::{self, ExplainError, Explanation},
    flows::FlowStatus,
    kernel::Kernel,
};

/// Commands that wait for the loop; askers beyond it wait to ask.
pub const COMMANDS: usize = 64;

/// A question or an order to the loop.
#[derive(Debug)]
pub enum Command {
    /// What `/status` says.
    Status(oneshot::Sender<Status>),
    /// Read the file again.
    Reload(oneshot::Sender<Result<String, ReloadError>>),
    /// Where a flow goes, or would go if it began now; with the endpoint that it is pinned to, if it exists.
    Explain(FlowKey, Option<EndpointId>, oneshot::Sender<Result<Explanation, ExplainError>>),
    /// Change what an operator may change while the edge runs.
    Order(Order, oneshot::Sender<Result<String, OrderError>>),
    /// The edge stops: answer no more that it is ready, withdraw the routes, and answer when they are gone. Flows are the forwarding
    /// path's to drain.
    Stop(oneshot::Sender<()>),
}

/// What an operator may change while the edge runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Sets an endpoint's weight until the one in the file changes.
    Weight {
        /// Its name.
        endpoint: String,
        /// 0 to 255.
        weight: u8,
    },
    /// No new flows for an endpoint; those it has may go on, or end after a while.
    DrainEndpoint {
        /// Its name.
        endpoint: String,
        /// After this the flows that are left must leave.
        reset_after: Option<Duration>,
    },
    /// An endpoint takes new flows again.
    UndrainEndpoint {
        /// Its name.
        endpoint: String,
    },
    /// The edge says that it is not ready, so that whatever sends it traffic goes elsewhere; what comes all the same is served.
    DrainEdge,
    /// The edge is ready again.
    UndrainEdge,
}

/// Why an order changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// There is no such endpoint.
    #[error("there is no endpoint {name:?}; {}", match .nearest { Some(nearest) => format!("did you mean {nearest:?}?"), None => "`landfall status` lists them".to_owned() })]
    NoSuchEndpoint {
        /// As given.
        name: String,
        /// One that is spelled alike.
        nearest: Option<String>,
    },
    /// The loop has ended.
    #[error("the edge is stopping")]
    Stopping,
}

/// Why a flow was not explained.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// A name that the config does not have.
    #[error("there is no {what} {name}; those there are: {}", .there.join(", "))]
    Unknown {
        /// What was named.
        what: &'static str,
        /// As given.
        name: String,
        /// The names there are.
        there: Vec<String>,
    },
    /// There can be no such flow.
    #[error(transparent)]
    Explain(#[from] ExplainError),
    /// The loop has ended.
    #[error("the edge is stopping")]
    Stopping,
}

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file is bad.
    #[error("{0}")]
    Load(#[from] LoadError),
    /// The file changes what a running edge cannot.
    #[error("these keys cannot change while the edge runs: {}; restart it, or put them back", .0.join(", "))]
    RestartNeeded(Vec<String>),
    /// The kernel forwards a listener, and could not any more.
    #[error("the kernel forwards listener {listener}, and could not any more: {reason}; restart the edge, or put it back")]
    NeedsUserSpace {
        /// Which one.
        listener: String,
        /// What keeps it in user space.
        reason: String,
    },
    /// The kernel refused a part of it.
    #[error(transparent)]
    Kernel(#[from] fast_path::Error),
    /// No endpoint id is left.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// The loop has ended.
    #[error("the edge is stopping")]
    Stopping,
}

/// Whether `name`, if there is one, is among those `there`.
fn known<'a>(what: &'static str, name: Option<&Name>, there: impl Iterator<Item = &'a str>) -> Result<(), AskError> {
    let Some(name) = name else { return Ok(()) };
    let there: Vec<_> = there.map(str::to_owned).collect();
    if there.iter().any(|other| other == name.as_str()) {
        return Ok(());
    }
    Err(AskError::Unknown { what, name: name.to_string(), there })
}

/// A handle to the loop.
#[derive(Debug, Clone)]
pub struct Control {
    commands: mpsc::Sender<Command>,
    finder: Finder,
    kernel: Option<Kernel>,
}

impl Control {
    /// What `/status` says; `None` once the loop has ended.
    pub async fn status(&self) -> Option<Status> {
        let (answer, status) = oneshot::channel();
        self.commands.send(Command::Status(answer)).await.ok()?;
        status.await.ok()
    }

    /// Where `flow` goes by what this edge knows now, and where it is pinned if it exists.
    pub async fn explain(&self, flow: FlowKey) -> Result<Explanation, AskError> {
        let flow = explain::canonical(&flow);
        let in_kernel = match &self.kernel {
            Some(kernel) => kernel.find(&flow).await,
            None => None,
        };
        let pinned = match in_kernel {
            Some(endpoint) => Some(endpoint),
            None => self.finder.find(&flow).await,
        };
        let (answer, explanation) = oneshot::channel();
        self.commands.send(Command::Explain(flow, pinned, answer)).await.map_err(|_| AskError::Stopping)?;
        Ok(explanation.await.map_err(|_| AskError::Stopping)??)
    }

    /// At most `most` live flows that are wanted, those in the kernel first.
    pub async fn flows(&self, wanted: Wanted, most: usize) -> Result<Vec<FlowStatus>, AskError> {
        let status = self.status().await.ok_or(AskError::Stopping)?;
        let listeners = status.listeners.iter().map(|listener| listener.name.as_str());
        known("listener", wanted.listener.as_ref(), listeners)?;
        let endpoints = status.endpoint_groups.iter().flat_map(|group| &group.endpoints);
        known("endpoint", wanted.endpoint.as_ref(), endpoints.map(|endpoint| endpoint.name.as_str()))?;
        let wanted = Arc::new(wanted);
        let in_kernel = match &self.kernel {
            Some(kernel) => kernel.list(&wanted, most).await,
            None => Vec::new(),
        };
        let in_user_space = self.finder.list(&wanted, most - in_kernel.len()).await;
        let kernel = in_kernel.iter().map(|flow| FlowStatus::new("kernel", flow));
        Ok(kernel.chain(in_user_space.iter().map(|flow| FlowStatus::new("user", flow))).collect())
    }

    /// Reads the file again and applies it whole, or says why not and changes nothing.
    pub async fn reload(&self) -> Result<String, ReloadError> {
        let (answer, result) = oneshot::channel();
        self.commands.send(Command::Reload(answer)).await.map_err(|_| ReloadError::Stopping)?;
        result.await.map_err(|_| ReloadError::Stopping)?
    }

    /// Carries out an order; what was done, in words.
    pub async fn order(&self, order: Order) -> Result<String, OrderError> {
        let (answer, result) = oneshot::channel();
        self.commands.send(Command::Order(order, answer)).await.map_err(|_| OrderError::Stopping)?;
        result.await.map_err(|_| OrderError::Stopping)?
    }

    /// Makes `/readyz` say no, and withdraws the routes, for good. What is returned resolves when no route is left.
    pub async fn stop(&self) -> oneshot::Receiver<()> {
        let (gone, waiting) = oneshot::channel();
        // Err: the loop has ended, and nothing says yes any more.
        let _ = self.commands.send(Command::Stop(gone)).await;
        waiting
    }
}

/// A handle, and the loop's end of it. `finder` and `kernel` tell where flows are.
pub fn control(finder: Finder, kernel: Option<Kernel>) -> (Control, mpsc::Receiver<Command>) {
    let (commands, receiver) = mpsc::channel(COMMANDS);
    (Control { commands, finder, kernel }, receiver)
}
