//! The whole forwarding path as one handle: start, drain, stop.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
};

use tokio::sync::watch;

use crate::{
    PassiveObserver, Routes,
    access::AccessLists,
    account::Books,
    bind::{self, BindError},
    find::Finder,
    limits::FlowLimits,
    settings::EdgeSettings,
    worker::{self, Phase, Shared},
};

/// A running edge. Dropping it stops the workers as [`Edge::stop`] does, without waiting for them.
#[derive(Debug)]
pub struct Edge {
    phase: watch::Sender<Phase>,
    workers: Vec<JoinHandle<()>>,
    books: Arc<Books>,
    access: Arc<AccessLists>,
    finder: Finder,
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
    pub fn start(settings: EdgeSettings, routes: Arc<Routes>, observer: Arc<dyn PassiveObserver>) -> Result<Self, StartError> {
        let sockets = bind::bind_all(&settings)?;
        let names = settings.listeners.iter().map(|listener| listener.name.clone()).collect();
        let books = Books::new(names, settings.workers.get());
        let access = Arc::new(AccessLists::new(settings.listeners.iter().map(|listener| listener.access.clone())));
        let limits = settings.listeners.iter().map(|listener| FlowLimits::new(listener.limits)).collect();
        let (phase, watched) = watch::channel(Phase::Serving);
        let shared = Arc::new(Shared {
            settings,
            routes,
            access: Arc::clone(&access),
            limits,
            books: Arc::clone(&books),
            observer,
            phase: watched,
            drained: watch::Sender::default(),
        });
        // Runtimes first: a failure must not leave half the workers running.
        let runtime = |worker| {
            let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
            built.map_err(|source| StartError::Worker { worker, source })
        };
        let runtimes = (0..sockets.len()).map(runtime).collect::<Result<Vec<_>, _>>()?;
        let mut workers = Vec::new();
        let (finder, inquiries) = Finder::new(sockets.len());
        for (index, ((sockets, inquiries), runtime)) in sockets.into_iter().zip(inquiries).zip(runtimes).enumerate() {
            let shared = Arc::clone(&shared);
            let thread = thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || worker::run(index, shared, sockets, inquiries, &runtime))
                .map_err(|source| StartError::Worker { worker: index, source })?;
            workers.push(thread);
        }
        Ok(Self { phase, workers, books, access, finder })
    }

    /// What was counted.
    pub fn books(&self) -> &Arc<Books> {
        &self.books
    }

    /// Whom it serves, to be changed while it runs.
    pub fn access(&self) -> &Arc<AccessLists> {
        &self.access
    }

    /// Tells where a flow is pinned.
    pub fn finder(&self) -> &Finder {
        &self.finder
    }

    /// Takes no new flow from here on: TCP sockets close once their accept queue is served, UDP sockets serve the flows they have.
    pub fn drain(&self) {
        self.phase.send_if_modified(|phase| std::mem::replace(phase, (*phase).max(Phase::Draining)) < Phase::Draining);
    }

    /// Resets what is left.
    pub fn stop(&self) {
        self.phase.send_replace(Phase::Stopping);
    }

    /// The workers, to wait for; the edge is still there to be drained and stopped. Empty the second time.
    pub fn workers(&mut self) -> Workers {
        Workers(std::mem::take(&mut self.workers))
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
