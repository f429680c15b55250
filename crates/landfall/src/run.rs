//! `landfall run`: everything wired together, from the config to the last flow.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use anycast::device::DeviceError;
use edge_listener::{Edge, PassiveObserver, Routes, StartError, settings::EdgeSettings};
use endpoint_group::EndpointId;
use health_checker::{Checker, NetProber, checker};
use tokio::{
    runtime::Runtime,
    signal::unix::{self, SignalKind},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    admin::{self, AdminError},
    config::{Config, Host},
    control::{
        announcer,
        driver::Loop,
        endpoints::Exhausted,
        handle::{self, Control},
        names::Names,
        state::State,
    },
    control_socket::{ControlSocket, SocketError},
    metrics::Metrics,
    resolve::{Dns, resolver},
};

/// Threads of the control plane: one may rebuild tables while the other probes and answers.
const CONTROL_THREADS: usize = 2;

/// How long BIRD, asked to withdraw a route, may take. The device of the routes goes with the process in any case.
const WITHDRAWAL: Duration = Duration::from_secs(2);

/// The edge could not start. Nothing is left bound.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Forwarding could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The admin address could not be had.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Another edge has the control socket.
    #[error(transparent)]
    Control(#[from] SocketError),
    /// The device of the routes could not be had.
    #[error("nothing can be announced: {0}")]
    Device(#[from] DeviceError),
    /// Too many endpoints.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// Two instruments have one name.
    #[error("cannot register the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The control plane's threads could not be set up.
    #[error("cannot start the control plane: {0}; check the limits on threads and descriptors")]
    Runtime(io::Error),
    /// Signals could not be listened for.
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
}

struct ProbeAtOnce(Checker);

impl PassiveObserver for ProbeAtOnce {
    fn failed(&self, endpoint: EndpointId) {
        self.0.observe(endpoint);
    }
}

/// A running edge with its control plane. Dropping it stops both.
pub struct Accelerator {
    edge: Edge,
    control: Control,
    metrics: Metrics,
    /// What lies between the withdrawal and the end of accepting; `None` where nothing is announced.
    shutdown_wait: Option<Duration>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Accelerator {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Accelerator {
    /// Starts `config` on this runtime. `path` is where a reload reads.
    pub async fn start(config: Config, host: Host, path: Option<PathBuf>) -> Result<Self, RunError> {
        let admin = admin::bind(config.edge.admin).await?;
        let control_socket = match ControlSocket::bind(&config.edge.control).await {
            Ok(socket) => Some(socket),
            Err(error @ SocketError::InUse(_)) => return Err(error.into()),
            // Forwarding matters more; SIGHUP still reloads.
            Err(error) => {
                tracing::warn!("{error}");
                None
            }
        };
        let settings = EdgeSettings {
            static_ips: config.edge.announce.clone(),
            hash_seed: config.hash_seed,
            workers: config.edge.workers,
            pin: config.edge.pin,
            listeners: config.listeners.iter().map(|listener| listener.settings.clone()).collect(),
        };
        let edge_name = config.edge.name.clone();
        let (resolver, resolutions) = resolver(Dns::new(config.edge.resolvers.clone()));
        let anycast = config.anycast.clone();
        let shutdown_wait = anycast.as_ref().map(|anycast| anycast.shutdown_wait);
        let names = Names::new(config);
        let state = State::new(names.config(), Instant::now().into_std())?;
        let routes = Arc::new(Routes::new(state.table()));
        let (checker, probes, reports) = checker(NetProber, fastrand::Rng::new());
        let observer = Arc::new(ProbeAtOnce(checker.clone()));
        let edge = Edge::start(settings, Arc::clone(&routes), observer)?;
        let books = Arc::clone(edge.books());
        let metrics = Metrics::new(&books, edge_name.as_str())?;
        // What is bound is ours: no other edge of this host has the device.
        let announcer = anycast.map(|anycast| announcer::announcer(names.file(), &anycast, metrics.clone())).transpose()?;
        let (announcer, announcements) = announcer.unzip();
        let (control, commands) = handle::control(edge.finder().clone());
        let control_loop = Loop {
            config_path: path,
            host,
            names,
            resolver,
            resolutions,
            state,
            announcer,
            routes,
            access: Arc::clone(edge.access()),
            checker,
            reports,
            books,
            metrics: metrics.clone(),
        };
        let mut tasks = vec![
            tokio::spawn(async move {
                probes.run().await;
            }),
            tokio::spawn(control_loop.run(commands)),
            tokio::spawn(admin::serve(admin, control.clone(), metrics.clone())),
        ];
        if let Some(announcements) = announcements {
            tasks.push(tokio::spawn(announcements.run()));
        }
        if let Some(socket) = control_socket {
            tasks.push(tokio::spawn(socket.serve(control.clone())));
        }
        Ok(Self { edge, control, metrics, shutdown_wait, tasks })
    }

    /// The handle to its control loop.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Its instruments.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Sends clients elsewhere, before any of them is refused: is not ready, withdraws the routes, and waits for what is on its way.
    pub async fn withdraw(&self) {
        let gone = self.control.stop().await;
        let Some(wait) = self.shutdown_wait else { return };
        // A step back comes before the withdrawal, and takes as long.
        if tokio::time::timeout(wait + WITHDRAWAL, gone).await.is_err() {
            tracing::warn!("cannot tell whether the routes are withdrawn; they end with this process");
        }
        tokio::time::sleep(wait).await;
    }

    /// Takes no new flow, and waits for those it has: until the last has ended, or until `give_up` resolves, which resets the rest.
    pub async fn drain(mut self, give_up: impl Future<Output = ()>) {
        drop(self.control.stop().await);
        self.edge.drain();
        let workers = self.edge.workers();
        let mut drained = tokio::task::spawn_blocking(|| workers.join());
        tokio::select! {
            _ = &mut drained => {}
            () = give_up => {
                self.edge.stop();
                // Err: a worker's thread panicked, and has said so on stderr.
                let _ = drained.await;
            }
        }
    }
}

/// Runs the edge until a signal ends it: SIGTERM or SIGINT withdraws the routes and drains for `drain_timeout`, a second one stops at once, SIGHUP reloads.
pub fn run(config: Config, host: Host, path: PathBuf) -> Result<(), RunError> {
    runtime()?.block_on(async {
        let mut signals = Signals::new().map_err(RunError::Signals)?;
        let (edge, drain_timeout) = (config.edge.name.clone(), config.edge.drain_timeout);
        let accelerator = Accelerator::start(config, host, Some(path)).await?;
        tracing::info!(edge = edge.as_str(), version = env!("CARGO_PKG_VERSION"), "serving");
        while signals.next().await == Signal::Reload {
            // The loop logs what came of it.
            drop(accelerator.control().reload().await);
        }
        tracing::info!(?drain_timeout, "draining; a second signal stops at once");
        let again = tokio::select! {
            () = accelerator.withdraw() => false,
            () = signals.end() => true,
        };
        let give_up = async {
            tokio::select! {
                () = signals.end(), if !again => tracing::warn!("stopping at once"),
                () = std::future::ready(()), if again => tracing::warn!("stopping at once"),
                () = tokio::time::sleep(drain_timeout) => tracing::warn!("drain_timeout is over; resetting what is left"),
            }
        };
        accelerator.drain(give_up).await;
        tracing::info!("stopped");
        Ok(())
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    Reload,
    End,
}

struct Signals {
    hangup: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: unix::signal(SignalKind::hangup())?,
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
        })
    }

    /// The next signal that ends the edge.
    async fn end(&mut self) {
        while self.next().await != Signal::End {
            tracing::info!("draining: SIGHUP reloads nothing any more");
        }
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.terminate.recv() => Signal::End,
            _ = self.interrupt.recv() => Signal::End,
        }
    }
}

/// The runtime of the control plane.
pub fn runtime() -> Result<Runtime, RunError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(CONTROL_THREADS).thread_name("control").enable_all().build().map_err(RunError::Runtime)
}
