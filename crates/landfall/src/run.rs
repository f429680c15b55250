//! `landfall run`: everything wired together, from the config to the last flow.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use anycast::device::DeviceError;
use edge_listener::{
    Edge, PassiveObserver, Routes, StartError,
    settings::{EdgeSettings, ListenerSettings},
};
use endpoint_group::EndpointId;
use fast_path::Refusals;
use health_checker::{Checker, NetProber, checker};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Runtime,
    signal::unix::{self, SignalKind},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    admin::{self, AdminError},
    config::{Config, Host, Listener},
    control::{
        announcer,
        driver::Loop,
        endpoints::Exhausted,
        handle::{self, Control},
        names::Names,
        state::State,
    },
    control_socket::{ControlSocket, SocketError},
    kernel::{self, Kernel, NoDispatcher, Ready, Required},
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
    /// The kernel is to forward, and cannot.
    #[error(transparent)]
    Required(#[from] Required),
    /// One socket is to serve many ports, and cannot.
    #[error(transparent)]
    Dispatcher(#[from] NoDispatcher),
    /// The thread of the in-kernel path could not be started.
    #[error("cannot start the thread of the fast path: {0}; check the limit on threads")]
    Kernel(io::Error),
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

/// What forwarding in user space has to do: all but what the kernel does, whose packets find no socket.
fn edge_settings(config: &Config, kernel: Option<&Ready>) -> EdgeSettings {
    let accelerated = |index: usize| kernel.is_some_and(|kernel| kernel.listeners().contains(&index));
    let listener = |(index, listener): (usize, &Listener)| {
        let settings = listener.settings.clone();
        let udp = settings.udp.filter(|_| !accelerated(index));
        ListenerSettings { udp, ..settings }
    };
    EdgeSettings {
        static_ips: config.edge.announce.clone(),
        hash_seed: config.hash_seed,
        workers: config.edge.workers,
        pin: config.edge.pin,
        listeners: config.listeners.iter().enumerate().map(listener).collect(),
    }
}

/// Has endpoints probed that ICMP errors come from, as workers do.
async fn observe(refusals: Refusals, checker: Checker) {
    // SAFETY: it owns its descriptor, and neither replaces nor closes it while it lives.
    let mut refusals = match unsafe { AsyncFd::register_with_interest(refusals, Interest::READABLE) } {
        Ok(refusals) => refusals,
        Err(error) => return tracing::warn!("refusals that the kernel sees start no probe: {error}"),
    };
    while let Ok(mut ready) = refusals.readable_mut().await {
        for endpoint in ready.get_inner_mut() {
            checker.observe(endpoint);
        }
        ready.clear_ready();
    }
}

/// A running edge with its control plane. Dropping it stops both.
pub struct Accelerator {
    edge: Edge,
    kernel: Option<Kernel>,
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
        let mut decision = kernel::decide(&config)?;
        let settings = edge_settings(&config, decision.ready.as_ref());
        let dispatcher = kernel::dispatcher(&config, &host, &settings)?;
        let dispatcher = dispatcher.map(|dispatcher| Box::new(dispatcher) as Box<dyn edge_listener::Dispatcher>);
        let edge_name = config.edge.name.clone();
        let (resolver, resolutions) = resolver(Dns::new(config.edge.resolvers.clone()));
        let anycast = config.anycast.clone();
        let shutdown_wait = anycast.as_ref().map(|anycast| anycast.shutdown_wait);
        let names = Names::new(config);
        let state = State::new(names.config(), Instant::now().into_std())?;
        if let Some(ready) = &mut decision.ready {
            ready.publish(&state.table());
        }
        let routes = Arc::new(Routes::new(state.table()));
        let (checker, probes, reports) = checker(NetProber, fastrand::Rng::new());
        let observer = Arc::new(ProbeAtOnce(checker.clone()));
        let edge = Edge::start(settings, Arc::clone(&routes), observer, dispatcher)?;
        let books = Arc::clone(edge.books());
        let metrics = Metrics::new(&books, edge_name.as_str())?;
        // What is bound is ours: no other edge of this host has the device.
        let announcer = anycast.map(|anycast| announcer::announcer(names.file(), &anycast, metrics.clone())).transpose()?;
        let (announcer, announcements) = announcer.unzip();
        let mut tasks = Vec::new();
        let kernel = match decision.ready {
            Some(ready) => {
                let (kernel, refusals) = ready.start(Arc::clone(&books), &state.table()).map_err(RunError::Kernel)?;
                tasks.extend(refusals.map(|refusals| tokio::spawn(observe(refusals, checker.clone()))));
                Some(kernel)
            }
            None => None,
        };
        let (control, commands) = handle::control(edge.finder().clone(), kernel.clone());
        let control_loop = Loop {
            config_path: path,
            host,
            names,
            resolver,
            resolutions,
            state,
            announcer,
            routes,
            kernel: kernel.clone(),
            paths: decision.paths,
            access: Arc::clone(edge.access()),
            checker,
            reports,
            books,
            metrics: metrics.clone(),
        };
        tasks.push(tokio::spawn(async move {
            probes.run().await;
        }));
        tasks.push(tokio::spawn(control_loop.run(commands)));
        tasks.push(tokio::spawn(admin::serve(admin, control.clone(), metrics.clone())));
        if let Some(announcements) = announcements {
            tasks.push(tokio::spawn(announcements.run()));
        }
        if let Some(socket) = control_socket {
            tasks.push(tokio::spawn(socket.serve(control.clone())));
        }
        Ok(Self { edge, kernel, control, metrics, shutdown_wait, tasks })
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
        let kernel = self.kernel.clone();
        let emptied = kernel.as_ref().map(Kernel::drain);
        let mut drained = tokio::spawn(async move {
            // Err: the owner's thread has ended, and the flows with it.
            if let Some(emptied) = emptied {
                let _ = emptied.await;
            }
            let _ = tokio::task::spawn_blocking(|| workers.join()).await;
        });
        tokio::select! {
            _ = &mut drained => {}
            () = give_up => {
                self.edge.stop();
                if let Some(kernel) = &kernel {
                    kernel.end();
                }
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
