//! The loop around [`State`]: the only place where the control plane waits.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use anycast::decide::{EdgeFacts, Leaving};
use edge_listener::{Routes, access::AccessLists, account::Books, bind};
use endpoint_group::{Health, Weight, plan::Stage};
use health_checker::{Checker, Report};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};

use super::{
    announcer::{self, Announcer},
    endpoints::{Drain, Exhausted, Transition},
    handle::{Command, Order, OrderError, ReloadError},
    history::Change,
    names::{Learned, Names},
    state::State,
    status::{self, FastPathStatus, Surroundings},
};
use crate::{
    config::{Config, ForwardingPath, Host, Proximity},
    explain::{self, Explanation},
    kernel::Kernel,
    metrics::Metrics,
    resolve::{Dns, Resolution, Resolver},
};

/// How often the host is asked whether the static IPs are its own.
const LOCALITY_CHECK: Duration = Duration::from_secs(1);
/// Reports taken in before the tables are brought up to date: a mass failure costs one rebuild, not one for each endpoint.
const REPORTS_AT_ONCE: usize = 1024;

/// What the loop works with.
pub struct Loop {
    /// Where the configuration came from; `None` refuses reloads.
    pub config_path: Option<PathBuf>,
    /// What its defaults depend on.
    pub host: Host,
    /// The file, and what is known of its DNS names.
    pub names: Names,
    /// Who looks them up.
    pub resolver: Resolver<Dns>,
    /// What was found.
    pub resolutions: mpsc::Receiver<Resolution>,
    /// What is known.
    pub state: State,
    /// Who announces the static IPs.
    pub announcer: Option<Announcer>,
    /// Where tables are published.
    pub routes: Arc<Routes>,
    /// The in-kernel path, where there is one: tables are published there first.
    pub kernel: Option<Kernel>,
    /// Where the UDP of each listener is forwarded.
    pub paths: Vec<Option<ForwardingPath>>,
    /// Whom each listener serves.
    pub access: Arc<AccessLists>,
    /// Who probes.
    pub checker: Checker,
    /// What the probes found.
    pub reports: mpsc::Receiver<Report>,
    /// What forwarding counted.
    pub books: Arc<Books>,
    /// Where this loop counts.
    pub metrics: Metrics,
}

impl Loop {
    /// Runs until every [`Control`](super::handle::Control) is dropped or the checker has ended.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        self.show_endpoints();
        self.set_targets();
        let mut around = Surroundings { paths: self.paths.clone(), ..Surroundings::default() };
        self.resolver.set_hosts(&self.names.file().hosts());
        let mut locality = tokio::time::interval(LOCALITY_CHECK);
        locality.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reports = Vec::new();
        self.check_locality(&mut around);
        loop {
            let now = Instant::now().into_std();
            let announcement = self.announcer.as_ref().and_then(|announcer| announcer.due(now));
            let due = self.state.due().into_iter().chain(announcement).min().map(Instant::from_std);
            let transitions = tokio::select! {
                received = self.reports.recv_many(&mut reports, REPORTS_AT_ONCE) => {
                    if received == 0 {
                        return;
                    }
                    self.take(&mut reports)
                }
                command = commands.recv() => {
                    let Some(command) = command else { return };
                    self.obey(command, &mut around);
                    Vec::new()
                }
                Some(resolution) = self.resolutions.recv() => {
                    self.learn(&resolution);
                    Vec::new()
                }
                _ = locality.tick() => {
                    self.check_locality(&mut around);
                    self.announce(&around);
                    continue;
                }
                () = announcer::news(&mut self.announcer) => {
                    self.announce(&around);
                    continue;
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    // Among what time changes is that a retired endpoint is probed no more.
                    self.set_targets();
                    Vec::new()
                }
            };
            self.publish(&transitions);
            self.announce(&around);
        }
    }

    fn take(&mut self, reports: &mut Vec<Report>) -> Vec<Transition> {
        let now = Instant::now().into_std();
        let mut transitions = Vec::new();
        for report in reports.drain(..) {
            let target = Arc::clone(&self.state.endpoints().get(report.id).target);
            self.metrics.probe(target.group.as_str(), target.name.as_str(), &report.outcome);
            self.metrics.probe_sent_late(report.late);
            let damped = self.state.endpoints().get(report.id).snapshot.damped_until;
            transitions.extend(self.state.report(&report));
            if let (None, Some(until)) = (damped, self.state.endpoints().get(report.id).snapshot.damped_until) {
                let (endpoint, endpoint_group) = (target.name.as_str(), target.group.as_str());
                let wait = until.saturating_duration_since(now);
                tracing::info!(endpoint, endpoint_group, ?wait, "endpoint answers, but flaps: held unhealthy");
            }
            for witness in self.state.witnesses(report.id, now) {
                self.checker.observe(witness);
            }
        }
        transitions
    }

    /// Rebuilds, publishes what changed, and only then tells of it: a failover is over when the new table is in force.
    fn publish(&mut self, transitions: &[Transition]) {
        let now = Instant::now().into_std();
        let before: Vec<Stage> = self.routes.load().listeners.iter().map(|table| table.stage()).collect();
        let orders: Vec<Vec<usize>> = (0..before.len()).map(|listener| self.state.order(listener).to_vec()).collect();
        if self.state.rebuild(now) {
            self.kernel.iter().for_each(|kernel| kernel.publish(self.state.table()));
            self.routes.publish(self.state.table());
            self.metrics.table_published();
        }
        let published = Instant::now().into_std();
        for transition in transitions {
            self.tell(transition, published.saturating_duration_since(now));
        }
        for (index, old) in orders.iter().enumerate() {
            self.tell_order(index, old);
        }
        for (listener, old) in self.state.config().listeners.iter().zip(before) {
            self.tell_stage(listener.settings.name.as_str(), old);
        }
    }

    fn tell(&self, transition: &Transition, publishing: Duration) {
        let entry = self.state.endpoints().get(transition.id);
        let (group, endpoint) = (entry.target.group.as_str(), entry.target.name.as_str());
        let Change { from, to, reason, results, latency, took, .. } = &transition.change;
        tracing::info!(
            endpoint,
            endpoint_group = group,
            probe = %entry.probe,
            from = from.as_str(),
            to = to.as_str(),
            reason,
            results = results.join(" "),
            last_good_took = latency.map(|latency| format!("{latency:?}")),
            "endpoint changed health"
        );
        self.metrics.transition(group, endpoint, *to);
        // One that was dead from the start has failed over from nowhere.
        if (*from, *to) == (Health::Healthy, Health::Unhealthy) {
            self.metrics.failover(group, endpoint, took.map(|took| took + publishing));
        }
    }

    fn tell_order(&self, listener: usize, old: &[usize]) {
        let order = self.state.order(listener);
        let config = self.state.config();
        if order != old && config.listeners[listener].proximity == Proximity::Latency {
            let rtt = |&group: &usize| {
                let name = &config.endpoint_groups[group].group.name;
                self.state.rtt(group).map_or_else(|| format!("{name} not measured"), |rtt| format!("{name} {rtt:.1?}"))
            };
            let order = order.iter().map(rtt).collect::<Vec<_>>().join(", ");
            tracing::info!(listener = config.listeners[listener].settings.name.as_str(), order, "nearest groups first");
        }
    }

    fn tell_stage(&self, listener: &str, old: Stage) {
        let table = self.routes.load();
        let index = self.state.config().listeners.iter().position(|l| l.settings.name.as_str() == listener);
        let Some(new) = index.and_then(|index| table.listeners.get(index)).map(|table| table.stage()) else { return };
        match (status::alarm(old), status::alarm(new)) {
            (None, Some(alarm)) => tracing::warn!(listener, stage = new.as_str(), "{alarm}"),
            _ if new != old => tracing::info!(listener, from = old.as_str(), to = new.as_str(), "listener changed stage"),
            _ => {}
        }
    }

    fn obey(&mut self, command: Command, around: &mut Surroundings) {
        match command {
            Command::Status(answer) => {
                let now = Instant::now().into_std();
                around.anycast = self.announcer.as_ref().map(Announcer::status);
                around.fast_path = self.kernel.as_ref().map(|kernel| FastPathStatus::new(kernel, self.state.config()));
                // Err: the asker has gone.
                let _ = answer.send(status::status(&self.state, Some(&self.names), &self.books, around, now));
            }
            Command::Explain(flow, pinned, answer) => {
                let explanation = explain::explain(&self.state, &flow);
                let pin = explain::Pin::new(&self.state, pinned);
                let _ = answer.send(explanation.map(|explanation| Explanation { flow: Some(pin), ..explanation }));
            }
            Command::Reload(answer) => {
                let result = self.reload();
                self.metrics.reload(result.is_ok());
                match &result {
                    Ok(changes) => tracing::info!("reloaded: {}", changes.replace('\n', "; ")),
                    Err(error) => tracing::warn!("reload refused, the old configuration stays in force: {error}"),
                }
                self.publish(&[]);
                let _ = answer.send(result);
            }
            Command::Order(order, answer) => {
                let result = self.carry_out(order, around);
                if let Ok(done) = &result {
                    tracing::info!("by order: {done}");
                }
                // Whoever asked may rely on it from the answer on.
                self.publish(&[]);
                self.announce(around);
                let _ = answer.send(result);
            }
            Command::Stop(gone) => {
                (around.draining, around.stopping) = (true, true);
                match &mut self.announcer {
                    Some(announcer) => announcer.tell_when_gone(gone),
                    // Err: whoever stops the edge does not wait.
                    None => _ = gone.send(()),
                }
            }
        }
    }

    fn carry_out(&mut self, order: Order, around: &mut Surroundings) -> Result<String, OrderError> {
        let now = Instant::now().into_std();
        let (found, endpoint, done) = match order {
            Order::Weight { endpoint, weight } => {
                let found = self.state.set_weight(&endpoint, Some(Weight::new(weight)));
                let done =
                    format!("endpoint {endpoint} has weight {weight}, until its weight in the file changes or the edge restarts");
                (found, endpoint, done)
            }
            Order::DrainEndpoint { endpoint, reset_after } => {
                let ends = reset_after.map(|after| now + after);
                let found = self.state.set_drain(&endpoint, Some(Drain { ends }));
                let rest = match reset_after {
                    Some(after) => format!("those it has must leave after {}", humantime::format_duration(after)),
                    None => "those it has may go on".to_owned(),
                };
                let done = format!("endpoint {endpoint} takes no new flows; {rest}");
                (found, endpoint, done)
            }
            Order::UndrainEndpoint { endpoint } => {
                let found = self.state.set_drain(&endpoint, None);
                let done = format!("endpoint {endpoint} takes new flows again");
                (found, endpoint, done)
            }
            Order::DrainEdge => {
                around.draining = true;
                let routes = if self.announcer.is_some() { " and withdraws its routes" } else { "" };
                return Ok(format!("the edge is not ready{routes}; it serves what comes all the same"));
            }
            Order::UndrainEdge => {
                around.draining = around.stopping;
                return Ok("the edge is no longer draining".to_owned());
            }
        };
        if found {
            return Ok(done);
        }
        let names = self.state.endpoints().entries().iter().filter(|e| e.is_member()).map(|e| e.target.name.as_str());
        let near = names.map(|name| (strsim::damerau_levenshtein(name, &endpoint), name)).min();
        let nearest = near
            .filter(|(distance, name)| *distance <= 2 && *distance < name.len().min(endpoint.len()))
            .map(|(_, name)| name.to_owned());
        Err(OrderError::NoSuchEndpoint { name: endpoint, nearest })
    }

    fn reload(&mut self) -> Result<String, ReloadError> {
        let Some(path) = &self.config_path else { return Ok("there is no file to read again".to_owned()) };
        let config = Config::load(path, &self.host)?;
        let fixed = self.names.file().restart_needed(&config);
        if !fixed.is_empty() {
            return Err(ReloadError::RestartNeeded(fixed));
        }
        if let Some((listener, reason)) = self.kernel.as_ref().and_then(|kernel| kernel.misfit(&config)) {
            return Err(ReloadError::NeedsUserSpace { listener, reason });
        }
        if let Some(kernel) = &self.kernel {
            kernel.set_access(&config)?;
        }
        let changes = self.names.file().changes(&config);
        let before = self.names.file().clone();
        self.names.replace(config);
        if let Err(error) = self.apply() {
            if let Some(Err(error)) = self.kernel.as_ref().map(|kernel| kernel.set_access(&before)) {
                tracing::error!("{error}; until the next reload the kernel admits clients by the file that was refused");
            }
            self.names.replace(before);
            return Err(error.into());
        }
        for (index, listener) in self.names.file().listeners.iter().enumerate() {
            self.access.set(index, listener.settings.access.clone());
        }
        self.kernel.iter().for_each(|kernel| kernel.watch(self.names.file()));
        self.resolver.set_hosts(&self.names.file().hosts());
        Ok(if changes.is_empty() { "nothing has changed".to_owned() } else { changes.join("\n") })
    }

    /// Puts the file and what is known of its names in force.
    fn apply(&mut self) -> Result<(), Exhausted> {
        self.state.apply(self.names.config(), Instant::now().into_std())?;
        self.show_endpoints();
        self.set_targets();
        Ok(())
    }

    fn learn(&mut self, resolution: &Resolution) {
        let host = resolution.host.as_str();
        self.metrics.lookup(host, resolution.outcome.is_ok());
        match self.names.learn(resolution) {
            Learned::Nothing => {}
            Learned::Addresses => {
                let before = self.state.config().clone();
                match self.apply() {
                    Ok(()) => {
                        tracing::info!(host, "DNS name has new addresses: {}", before.changes(self.state.config()).join("; "))
                    }
                    Err(error) => tracing::error!(host, %error, "new addresses of a DNS name are not used"),
                }
            }
            Learned::Failed(reason) => tracing::warn!(host, reason, "cannot look up a DNS name; it keeps its last addresses"),
            Learned::Recovered => tracing::info!(host, "DNS name is looked up again; its addresses are the same"),
        }
    }

    fn show_endpoints(&self) {
        for entry in self.state.endpoints().entries() {
            self.metrics.endpoint(entry.target.group.as_str(), entry.target.name.as_str());
        }
    }

    fn set_targets(&self) {
        let targets = self.state.targets(Instant::now().into_std());
        if let Err(error) = self.checker.set_targets(targets) {
            tracing::error!(%error, "endpoints are not probed");
        }
    }

    /// Decides what is announced, by what is known now.
    fn announce(&mut self, around: &Surroundings) {
        let Some(announcer) = &mut self.announcer else { return };
        let isolated = self.routes.load().listeners.iter().all(|table| status::alarm(table.stage()).is_some());
        let leaving = match (around.stopping, around.draining) {
            (true, _) => Some(Leaving::Stopping),
            (false, true) => Some(Leaving::Drained),
            (false, false) => None,
        };
        let ready = self.state.awaited().next().is_none() && self.names.waiting().next().is_none();
        announcer.look(EdgeFacts { ready, isolated, leaving }, Instant::now().into_std());
    }

    fn check_locality(&mut self, around: &mut Surroundings) {
        let away: Vec<IpAddr> = self.state.config().edge.announce.iter().copied().filter(|&ip| !bind::is_local(ip)).collect();
        if let Some(announcer) = &mut self.announcer {
            announcer.away(&away);
        }
        let not_ready: Vec<_> =
            away.iter().map(|ip| format!("static IP {ip} is not on this host: `ip addr add {ip} dev lo`")).collect();
        if not_ready != around.not_ready {
            for reason in &not_ready {
                tracing::warn!("not ready: {reason}");
            }
            around.not_ready = not_ready;
        }
    }
}
