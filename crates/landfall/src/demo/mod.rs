//! `landfall try`: everything on this machine alone, with nothing to set up and nothing left behind.
//!
//! Endpoints are child processes, the accelerator and its clients run in this one. What happens is in `script`; what the clients see
//! is booked in `tally`, what that amounts to is `summary`, and how it looks is `render`: these three are pure.

pub mod echo;
mod endpoints;
mod error;
mod hold;
mod place;
mod render;
mod scene;
mod script;
mod show;
mod snapshot;
mod stage;
mod summary;
mod tally;
mod traffic;

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    runtime::Runtime,
    signal::unix::{self, SignalKind},
    time::{sleep, timeout},
};

pub use self::error::DemoError;
use self::{
    place::Place,
    scene::Ports,
    script::Promises,
    show::Show,
    stage::Stage,
    traffic::{Clock, Traffic},
};
use crate::{
    config::{Config, Host},
    logging::{self, LogFormat},
    run::{self, Accelerator},
};

/// A port that was free may be taken when it is to be bound.
const STARTS: usize = 3;
/// How long the accelerator may take to hear from all endpoints.
const READY: Duration = Duration::from_secs(10);
/// Between two questions whether it is.
const ASK: Duration = Duration::from_millis(20);

/// Gives the demonstration; with `hold` everything then keeps running until a signal ends it.
pub fn run(hold: bool) -> Result<(), DemoError> {
    let logs = std::env::var_os("LANDFALL_LOG").is_some();
    if logs {
        logging::start(LogFormat::Text);
    }
    // Err: the limit stays as it is, and the config follows it.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    // What is declared first is dropped last.
    let place = Place::new()?;
    let runtime = run::runtime()?;
    // Apart from the accelerator's threads: clients that are late must not make it late, nor the other way round.
    let clients = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("clients").enable_all().build();
    let clients = clients.map_err(DemoError::Clients)?;
    runtime.block_on(async {
        let mut interrupt = Interrupt::new().map_err(DemoError::Signals)?;
        let (mut stage, promises) = tokio::select! {
            built = build(&place, &clients, logs) => built?,
            () = interrupt.come() => return Err(DemoError::Interrupted),
        };
        let shown = tokio::select! {
            shown = give(&mut stage, promises) => shown,
            () = interrupt.come() => Err(DemoError::Interrupted),
        };
        let result = match shown {
            Ok(()) | Err(DemoError::Missed(_)) if hold => tokio::select! {
                held = hold::hold(&mut stage, &place) => held,
                () = interrupt.come() => shown,
            },
            shown => shown,
        };
        stage.clear().await;
        result
    })
}

/// Starts everything and waits until the accelerator is ready.
async fn build(place: &Place, clients: &Runtime, logs: bool) -> Result<(Stage, Promises), DemoError> {
    let endpoints = endpoints::start_all().await?;
    let addresses: Vec<SocketAddr> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    let (accelerator, ports, promises) = start(place, &addresses).await?;
    ready(&accelerator).await?;
    let show = Show::open(logs)?;
    show.say(&render::headline(ports, promises.bound))?;
    let traffic = Traffic::start(clients, Clock::start(), ports)?;
    Ok((Stage::new(accelerator, endpoints, traffic, show, ports), promises))
}

async fn start(place: &Place, endpoints: &[SocketAddr]) -> Result<(Accelerator, Ports, Promises), DemoError> {
    let host = Host::detect();
    // Within the range that every TOML tool reads.
    let hash_seed = fastrand::u64(1..1 << 63);
    let mut starts = 0;
    loop {
        let ports = Ports::choose()?;
        let text = scene::config(ports, endpoints, &place.control(), hash_seed);
        let path = place.config();
        std::fs::write(&path, &text).map_err(|source| DemoError::WriteConfig { path: path.clone(), source })?;
        let config = Config::parse(&text, &host)?;
        let (hold, ramp) = scene::failback(&config);
        let promises = Promises { bound: scene::bound(&config), hold, ramp };
        starts += 1;
        match Accelerator::start(config, host.clone(), Some(path)).await {
            Ok(accelerator) => return Ok((accelerator, ports, promises)),
            // A port that was free may have been taken.
            Err(error) if starts < STARTS => tracing::info!(%error, "trying other ports"),
            Err(error) => return Err(error.into()),
        }
    }
}

async fn ready(accelerator: &Accelerator) -> Result<(), DemoError> {
    let mut why = Vec::new();
    let ready = timeout(READY, async {
        loop {
            let status = accelerator.control().status().await.ok_or(DemoError::Ended)?;
            let endpoints = status.endpoint_groups.iter().flat_map(|group| &group.endpoints);
            let unhealthy = endpoints.filter(|endpoint| endpoint.health != "healthy");
            why = unhealthy.map(|endpoint| format!("{}: {}", endpoint.name, endpoint.reason)).collect();
            if status.ready && why.is_empty() {
                return Ok(());
            }
            why.extend(status.not_ready);
            sleep(ASK).await;
        }
    });
    ready.await.unwrap_or(Err(DemoError::NotReady(why)))
}

async fn give(stage: &mut Stage, promises: Promises) -> Result<(), DemoError> {
    let summary = script::play(stage, promises).await?;
    script::conclude(stage, &summary)
}

/// Ctrl-C, and its like from elsewhere.
struct Interrupt([unix::Signal; 3]);

impl Interrupt {
    fn new() -> io::Result<Self> {
        Ok(Self([
            unix::signal(SignalKind::interrupt())?,
            unix::signal(SignalKind::terminate())?,
            unix::signal(SignalKind::hangup())?,
        ]))
    }

    async fn come(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
