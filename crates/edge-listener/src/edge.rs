//! The whole forwarding path as one handle: start, drain, stop.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
};

use crate::{
    PassiveObserver, Routes,
    access::AccessLists,
    account::Books,
    bind::{self, BindError},
    dispatch::Dispatcher,
    find::Finder,
    limits::FlowLimits,
    settings::EdgeSettings,
    worker::{self, Context, Desk, Phase, Shared},
};

/// A running edge. Dropping it stops the workers as [`Edge::stop`] does, without waiting for them.
pub struct Edge {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Acts for as long as this lives.
    _dispatcher: Option<Box<dyn Dispatcher>>,
}

/// The edge could not start. Nothing is left bound.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket could not be set up.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A forwarding thread could not be set up.
    #[error("cannot start forwarding thread {worker}: {source}; check the limits on threads and descriptors")]
    Worker {
        /// Which one.
        worker: usize,
        /// What the system said.
        source: io::Error,
    },
}

impl Edge {
    /// Binds everything, then starts the workers. `routes` has one table for each of `settings.listeners`, in the same order.
    /// `dispatcher`, if there is one, spares the listeners that it serves a socket for each port.
    pub fn start(
        settings: EdgeSettings,
        routes: Arc<Routes>,
        observer: Arc<dyn PassiveObserver>,
        mut dispatcher: Option<Box<dyn Dispatcher>>,
    ) -> Result<Self, StartError> {
        let sockets = match &mut dispatcher {
            Some(dispatcher) => bind::bind_all(&settings, Some(&mut **dispatcher))?,
            None => bind::bind_all(&settings, None)?,
        };
        let names = settings.listeners.iter().map(|listener| listener.name.clone()).collect();
        let books = Books::new(names, settings.workers.get());
        let access = Arc::new(AccessLists::new(settings.listeners.iter().map(|listener| listener.access.clone())));
        let limits = settings.listeners.iter().map(|listener| FlowLimits::new(listener.limits)).collect();
        let failed = |worker| move |source| StartError::Worker { worker, source };
        let desks = (0..sockets.len()).map(|index| Desk::new().map_err(failed(index))).collect::<Result<Vec<_>, _>>()?;
        routes.wake_at_publication(desks.iter().map(|desk| desk.waker.clone()).collect());
        let shared = Arc::new(Shared::new(settings, routes, access, limits, books, observer, desks));
        // All before the first runs: a failure must not leave half the workers running.
        let contexts = (0..sockets.len()).map(|index| Context::new(Arc::clone(&shared), index).map_err(failed(index)));
        let contexts = contexts.collect::<Result<Vec<_>, _>>()?;
        let mut edge = Self { shared, workers: Vec::new(), _dispatcher: dispatcher };
        for (index, (sockets, context)) in sockets.into_iter().zip(contexts).enumerate() {
            let builder = thread::Builder::new().name(format!("worker-{index}"));
            edge.workers.push(builder.spawn(move || worker::run(context, sockets)).map_err(failed(index))?);
        }
        Ok(edge)
    }

    /// What was counted.
    pub fn books(&self) -> &Arc<Books> {
        &self.shared.books
    }

    /// Whom it serves, to be changed while it runs.
    pub fn access(&self) -> &Arc<AccessLists> {
        &self.shared.access
    }

    /// Tells where a flow is pinned.
    pub fn finder(&self) -> Finder {
        Finder::new(Arc::clone(&self.shared))
    }

    /// Takes no new flow from here on: TCP sockets close once their accept queue is served, UDP sockets serve the flows they have.
    pub fn drain(&self) {
        self.shared.advance(Phase::Draining);
    }

    /// Resets what is left.
    pub fn stop(&self) {
        self.shared.advance(Phase::Stopping);
    }

    /// The workers, to wait for; the edge is still there to be drained and stopped. Empty the second time.
    pub fn workers(&mut self) -> Workers {
        Workers(std::mem::take(&mut self.workers))
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.stop();
    }
}

impl std::fmt::Debug for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edge").field("workers", &self.workers.len()).finish_non_exhaustive()
    }
}

/// The threads of an edge.
#[derive(Debug)]
pub struct Workers(Vec<JoinHandle<()>>);

impl Workers {
    /// Waits for the workers to end: after [`Edge::drain`] when the last flow has ended, after [`Edge::stop`] at once. Blocks.
    pub fn join(self) {
        for worker in self.0 {
            // Err: the worker panicked, and has said so on stderr.
            let _ = worker.join();
        }
    }
}
