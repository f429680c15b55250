//! The clients: UDP flows, new TCP connections and held ones, on a thread of their own so that they measure the accelerator from
//! outside.

mod tcp;
mod udp;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Runtime,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    DemoError, scene,
    scene::{CAST, Ports},
    tally::Tally,
};

/// UDP flows, in turn to each static IP.
pub(super) const FLOWS: usize = 64;
/// TCP connections that stay open.
pub(super) const HELD: usize = 16;
/// A new TCP connection is opened this often.
pub(super) const CONNECTION_EVERY: Duration = Duration::from_millis(10);
/// How often the clients look whether they run in time.
const METRONOME: Duration = Duration::from_millis(5);
/// Later than this, and they stood still.
const LATE: Duration = Duration::from_millis(10);

/// Time since the start of the demonstration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> Duration {
        self.0.elapsed()
    }
}

/// What the clients share.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    pub(super) clock: Clock,
    tally: Arc<Mutex<Tally>>,
    running: watch::Receiver<bool>,
}

impl Clients {
    /// The books, as a panic elsewhere would leave them too: they are counts.
    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_running(&self) -> bool {
        *self.running.borrow()
    }

    /// Waits until there is to be traffic; for ever once there never will be.
    async fn run(&mut self) {
        if self.running.wait_for(|&running| running).await.is_err() {
            std::future::pending().await
        }
    }
}

/// The traffic. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Traffic {
    running: watch::Sender<bool>,
    clients: Clients,
    _tasks: JoinSet<()>,
}

impl Traffic {
    /// Starts all clients on `runtime`.
    pub(super) fn start(runtime: &Runtime, clock: Clock, ports: Ports) -> Result<Self, DemoError> {
        let (running, watched) = watch::channel(true);
        let tally = Arc::new(Mutex::new(Tally::new(FLOWS, HELD, CAST.len())));
        let clients = Clients { clock, tally, running: watched };
        let mut tasks = JoinSet::new();
        let _entered = runtime.enter();
        tasks.spawn(metronome(clients.clone()));
        for flow in 0..FLOWS {
            let socket = udp::socket(ports.game(flow)).map_err(DemoError::Client)?;
            tasks.spawn(udp::flow(flow, socket, clients.clone()));
        }
        for connection in 0..HELD {
            tasks.spawn(tcp::hold(connection, ports.chat(connection), clients.clone()));
        }
        tasks.spawn(tcp::connect_again_and_again(ports, clients.clone()));
        Ok(Self { running, clients, _tasks: tasks })
    }

    /// What the clients share.
    pub(super) fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Sends nothing new from here on.
    pub(super) fn pause(&self) {
        self.running.send_replace(false);
    }

    /// Goes on.
    pub(super) fn resume(&self) {
        self.running.send_replace(true);
    }
}

/// Notes when this thread did not run although it was time.
async fn metronome(clients: Clients) {
    let mut due = clients.clock.now() + METRONOME;
    loop {
        sleep(due.saturating_sub(clients.clock.now())).await;
        let now = clients.clock.now();
        if now > due + LATE {
            clients.tally().stalled(due, now);
        }
        due = now + METRONOME;
    }
}

/// The endpoint that begins its answers with `name`.
fn endpoint(name: &[u8]) -> io::Result<usize> {
    let known = std::str::from_utf8(name).ok().and_then(scene::endpoint);
    known.ok_or_else(|| io::Error::other(format!("{:?} answered", String::from_utf8_lossy(name))))
}
