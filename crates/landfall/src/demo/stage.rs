//! The stage: the accelerator, its endpoints and its clients, and time passing over them while someone watches.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::{
    DemoError,
    endpoints::Endpoint,
    render,
    scene::{CAST, Ports},
    show::Show,
    snapshot::{Event, Snapshot},
    tally::{Death, Tally},
    traffic::{Clients, Traffic},
};
use crate::{
    control::status::{EndpointStatus, Status},
    run::Accelerator,
};

/// From one look to the next.
pub(super) const FRAME: Duration = Duration::from_millis(100);

/// Everything that runs.
pub(super) struct Stage {
    pub(super) accelerator: Accelerator,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) traffic: Traffic,
    pub(super) show: Show,
    pub(super) ports: Ports,
    now: String,
    events: Vec<Event>,
    /// By endpoint, the health last seen.
    health: Vec<String>,
    /// How many deaths have been told of to their end.
    deaths_told: usize,
}

impl Stage {
    pub(super) fn new(accelerator: Accelerator, endpoints: Vec<Endpoint>, traffic: Traffic, show: Show, ports: Ports) -> Self {
        let (now, events) = (String::new(), Vec::new());
        Self {
            accelerator,
            endpoints,
            traffic,
            show,
            ports,
            now,
            events,
            health: vec!["healthy".to_owned(); CAST.len()],
            deaths_told: 0,
        }
    }

    pub(super) fn clients(&self) -> &Clients {
        self.traffic.clients()
    }

    /// Time since the start.
    pub(super) fn time(&self) -> Duration {
        self.clients().clock.now()
    }

    /// Says what happens from here on.
    pub(super) fn phase(&mut self, sentence: impl Into<String>) -> Result<(), DemoError> {
        self.now = sentence.into();
        self.show.say(&render::phase(self.time(), &self.now))
    }

    /// Something has happened.
    pub(super) fn event(&mut self, at: Duration, text: impl Into<String>) -> Result<(), DemoError> {
        let event = Event { at, text: text.into() };
        self.show.tell(&event)?;
        self.events.push(event);
        Ok(())
    }

    /// Shows where everything goes.
    pub(super) async fn table(&mut self) -> Result<(), DemoError> {
        let snapshot = self.look().await?;
        self.show.say(&render::table(&snapshot))
    }

    /// Kills an endpoint, and returns when its process is gone.
    pub(super) async fn kill(&mut self, endpoint: usize) -> Result<(), DemoError> {
        let pid = self.endpoints[endpoint].pid();
        let clients = self.clients().clone();
        let killed = clients.clock.now();
        clients.tally().kill(endpoint, killed);
        self.endpoints[endpoint].kill().await?;
        clients.tally().dead(endpoint, clients.clock.now());
        let pid = pid.map_or_else(String::new, |pid| format!(" {pid}"));
        self.event(killed, format!("kill -9{pid}, the process of {}", CAST[endpoint].name))
    }

    /// Starts a dead endpoint again.
    pub(super) async fn restart(&mut self, endpoint: usize) -> Result<(), DemoError> {
        let now = self.time();
        self.clients().tally().restarts(endpoint, now);
        self.endpoints[endpoint].restart().await?;
        self.event(self.time(), format!("{} is started again", CAST[endpoint].name))
    }

    /// Lets time pass until `done`, asked about each moment, or for `at_most`; whether it was done.
    pub(super) async fn pass(
        &mut self,
        at_most: Duration,
        mut done: impl FnMut(&Snapshot, &Tally) -> bool,
    ) -> Result<bool, DemoError> {
        let end = self.time() + at_most;
        let mut frames = interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.time() < end {
            frames.tick().await;
            let snapshot = self.look().await?;
            self.show.paint(&snapshot)?;
            if done(&snapshot, &self.clients().tally()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The present moment; what has happened since the last is told.
    pub(super) async fn look(&mut self) -> Result<Snapshot, DemoError> {
        let status = self.accelerator.control().status().await.ok_or(DemoError::Ended)?;
        self.tell_health(&status)?;
        self.tell_deaths()?;
        let pids: Vec<_> = self.endpoints.iter().map(Endpoint::pid).collect();
        let snapshot = Snapshot::new(self.time(), self.ports, &status, &self.clients().tally(), &pids);
        Ok(Snapshot { now: self.now.clone(), events: self.events.clone(), ..snapshot })
    }

    fn tell_health(&mut self, status: &Status) -> Result<(), DemoError> {
        let now = self.time();
        for endpoint in status.endpoint_groups.iter().flat_map(|group| &group.endpoints) {
            let EndpointStatus { name, health, reason, since_seconds, .. } = endpoint;
            let Some(index) = CAST.iter().position(|role| role.name == *name) else { continue };
            if std::mem::replace(&mut self.health[index], health.to_string()) != *health {
                let since = Duration::try_from_secs_f64(*since_seconds).unwrap_or_default();
                self.event(now.saturating_sub(since), format!("{name} is {health}: {reason}"))?;
            }
        }
        Ok(())
    }

    fn tell_deaths(&mut self) -> Result<(), DemoError> {
        let over = {
            let tally = self.clients().tally();
            tally.deaths().get(self.deaths_told).filter(|death| tally.is_over(death)).cloned()
        };
        let Some(death) = over else { return Ok(()) };
        self.deaths_told += 1;
        let Death { endpoint, flows_moved, connections_told, .. } = death;
        let (now, name) = (self.time(), CAST[endpoint].name);
        let after = |at: Duration| at.saturating_sub(death.killed).as_millis();
        let (moved, told) = (after(death.last_lost), after(death.last_told));
        if connections_told > 0 {
            self.event(
                now,
                format!("{connections_told} held TCP connections to {name} were told, the last {told} ms after the kill"),
            )?;
        }
        if flows_moved > 0 {
            self.event(now, format!("{flows_moved} UDP flows of {name} have moved, the slowest {moved} ms after the kill"))?;
        }
        Ok(())
    }

    /// Stops the traffic, the accelerator and the endpoints, in this order.
    pub(super) async fn clear(self) {
        let Self { accelerator, endpoints, traffic, .. } = self;
        drop(traffic);
        drop(accelerator);
        for endpoint in endpoints {
            endpoint.end().await;
        }
    }
}
