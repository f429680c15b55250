//! Everything that `/metrics` shows besides the books of forwarding. `docs/METRICS.md` lists all of it; a test compares.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anycast::State;
use edge_listener::account::{Books, BooksCollector};
use endpoint_group::Health;
use health_checker::{BadReason, Outcome};
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::control::status::{StaticIpStatus, Status};

/// Seconds; from a local answer to the slowest sensible timeout.
const PROBE_BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Seconds; from the grain of the timer to what would eat up the slack of the bound.
const LATENESS_BUCKETS: &[f64] = &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];
/// Seconds; from one refused probe to a patient check.
const FAILOVER_BUCKETS: &[f64] = &[0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0];

/// The instruments of the control plane. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    probe_results: IntCounterVec,
    probe_duration: HistogramVec,
    probe_lateness: Histogram,
    transitions: IntCounterVec,
    failovers: IntCounterVec,
    time_to_failover: Histogram,
    reloads: IntCounterVec,
    dns_lookups: IntCounterVec,
    dns_addresses: IntGaugeVec,
    health: IntGaugeVec,
    weight: GaugeVec,
    rtt: GaugeVec,
    damped: IntGaugeVec,
    group_eligible: IntGaugeVec,
    dial: GaugeVec,
    bound: GaugeVec,
    table_info: IntGaugeVec,
    tables_published: IntCounter,
    ready: IntGauge,
    announced: IntGaugeVec,
    anycast_state: IntGaugeVec,
    anycast_changes: IntCounterVec,
    bird_up: IntGaugeVec,
    fast_path_attached: IntGaugeVec,
    fast_path_unheard: IntGaugeVec,
    fast_path_packets: IntCounterVec,
    fast_path_strays: IntCounterVec,
    /// A scrape resets gauges before it sets them: one at a time.
    scrape: Arc<Mutex<()>>,
}

impl Metrics {
    /// Registers everything. Errors mean that two instruments have one name.
    pub fn new(books: &Arc<Books>, edge: &str) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let endpoint = &["endpoint_group", "endpoint"];
        let metrics = Self {
            probe_results: IntCounterVec::new(
                Opts::new("landfall_probe_results_total", "Finished probes, by what became of them."),
                &["endpoint_group", "endpoint", "result"],
            )?,
            probe_duration: HistogramVec::new(
                HistogramOpts::new("landfall_probe_duration_seconds", "Time from a probe to its good answer.")
                    .buckets(PROBE_BUCKETS.to_vec()),
                &["endpoint_group"],
            )?,
            probe_lateness: Histogram::with_opts(
                HistogramOpts::new("landfall_probe_lateness_seconds", "Time from when a probe was due to when it was sent.")
                    .buckets(LATENESS_BUCKETS.to_vec()),
            )?,
            transitions: IntCounterVec::new(
                Opts::new("landfall_endpoint_transitions_total", "Changes of health, by the health that the endpoint has since."),
                &["endpoint_group", "endpoint", "health"],
            )?,
            failovers: IntCounterVec::new(
                Opts::new("landfall_failovers_total", "Times that the endpoint turned unhealthy."),
                endpoint,
            )?,
            time_to_failover: Histogram::with_opts(
                HistogramOpts::new(
                    "landfall_time_to_failover_seconds",
                    "From the first probe that an endpoint failed to answer to the publication of a routing table without it.",
                )
                .buckets(FAILOVER_BUCKETS.to_vec()),
            )?,
            reloads: IntCounterVec::new(Opts::new("landfall_config_reloads_total", "Reloads, by result."), &["result"])?,
            dns_lookups: IntCounterVec::new(
                Opts::new("landfall_dns_lookups_total", "Lookups of the DNS names of endpoints, by result."),
                &["name", "result"],
            )?,
            dns_addresses: IntGaugeVec::new(
                Opts::new("landfall_dns_addresses", "Addresses that the DNS name leads to, the last that were found."),
                &["name"],
            )?,
            health: IntGaugeVec::new(
                Opts::new("landfall_endpoint_health", "1 for the endpoint's health now, 0 for the others."),
                &["endpoint_group", "endpoint", "health"],
            )?,
            weight: GaugeVec::new(
                Opts::new("landfall_endpoint_weight", "Weight as far as the failback ramp has come; 0 while it takes no flows."),
                endpoint,
            )?,
            rtt: GaugeVec::new(
                Opts::new("landfall_endpoint_rtt_seconds", "Smoothed time from a probe to its good answer."),
                endpoint,
            )?,
            damped: IntGaugeVec::new(
                Opts::new("landfall_endpoint_damped", "Whether it is held unhealthy because its health changed too often."),
                endpoint,
            )?,
            group_eligible: IntGaugeVec::new(
                Opts::new("landfall_endpoint_group_eligible", "Whether enough endpoints of the group take flows."),
                &["endpoint_group"],
            )?,
            dial: GaugeVec::new(
                Opts::new("landfall_endpoint_group_dial_percent", "Traffic dial as far as the failback ramp has come."),
                &["endpoint_group"],
            )?,
            bound: GaugeVec::new(
                Opts::new("landfall_failover_bound_seconds", "The published bound of the group; see docs/FAILOVER.md."),
                &["endpoint_group"],
            )?,
            table_info: IntGaugeVec::new(
                Opts::new("landfall_table_info", "1; the digest is equal on edges that answer alike."),
                &["listener", "digest"],
            )?,
            tables_published: IntCounter::new("landfall_tables_published_total", "Routing tables given to forwarding.")?,
            ready: IntGauge::new("landfall_ready", "Whether /readyz says yes.")?,
            announced: IntGaugeVec::new(
                Opts::new("landfall_announced", "Whether this edge has a route to the static IP announced."),
                &["static_ip"],
            )?,
            anycast_state: IntGaugeVec::new(
                Opts::new("landfall_anycast_state", "1 for the state of the static IP's announcement, 0 for the others."),
                &["static_ip", "state"],
            )?,
            anycast_changes: IntCounterVec::new(
                Opts::new("landfall_anycast_changes_total", "Changes of the announcement, by the state since."),
                &["static_ip", "state"],
            )?,
            // Without a label, but absent where nobody asks BIRD.
            bird_up: IntGaugeVec::new(Opts::new("landfall_bird_up", "Whether BIRD answers."), &[])?,
            fast_path_attached: IntGaugeVec::new(
                Opts::new("landfall_fast_path_attached", "Whether the kernel forwards what arrives at the device."),
                &["device"],
            )?,
            fast_path_unheard: IntGaugeVec::new(
                Opts::new("landfall_fast_path_unheard_endpoint", "Whether replies of the endpoint come where they are refused."),
                &["endpoint"],
            )?,
            fast_path_packets: IntCounterVec::new(
                Opts::new("landfall_fast_path_packets_total", "Packets that the kernel carried, by its hook."),
                &["hook"],
            )?,
            fast_path_strays: IntCounterVec::new(
                Opts::new(
                    "landfall_fast_path_strays_total",
                    "Packets that the kernel dropped and that are no listener's, by reason.",
                ),
                &["reason"],
            )?,
            scrape: Arc::default(),
            registry,
        };
        for result in ["ok", "refused"] {
            metrics.reloads.with_label_values(&[result]);
        }
        let build_info = IntGaugeVec::new(Opts::new("landfall_build_info", "1; what runs."), &["version", "edge"])?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION"), edge]).set(1);
        let registry = &metrics.registry;
        registry.register(Box::new(BooksCollector(Arc::clone(books))))?;
        registry.register(Box::new(build_info))?;
        registry.register(Box::new(metrics.probe_results.clone()))?;
        registry.register(Box::new(metrics.probe_duration.clone()))?;
        registry.register(Box::new(metrics.probe_lateness.clone()))?;
        registry.register(Box::new(metrics.transitions.clone()))?;
        registry.register(Box::new(metrics.failovers.clone()))?;
        registry.register(Box::new(metrics.time_to_failover.clone()))?;
        registry.register(Box::new(metrics.reloads.clone()))?;
        registry.register(Box::new(metrics.dns_lookups.clone()))?;
        registry.register(Box::new(metrics.dns_addresses.clone()))?;
        registry.register(Box::new(metrics.health.clone()))?;
        registry.register(Box::new(metrics.weight.clone()))?;
        registry.register(Box::new(metrics.rtt.clone()))?;
        registry.register(Box::new(metrics.damped.clone()))?;
        registry.register(Box::new(metrics.group_eligible.clone()))?;
        registry.register(Box::new(metrics.dial.clone()))?;
        registry.register(Box::new(metrics.bound.clone()))?;
        registry.register(Box::new(metrics.table_info.clone()))?;
        registry.register(Box::new(metrics.tables_published.clone()))?;
        registry.register(Box::new(metrics.ready.clone()))?;
        registry.register(Box::new(metrics.announced.clone()))?;
        registry.register(Box::new(metrics.anycast_state.clone()))?;
        registry.register(Box::new(metrics.anycast_changes.clone()))?;
        registry.register(Box::new(metrics.bird_up.clone()))?;
        registry.register(Box::new(metrics.fast_path_attached.clone()))?;
        registry.register(Box::new(metrics.fast_path_unheard.clone()))?;
        registry.register(Box::new(metrics.fast_path_packets.clone()))?;
        registry.register(Box::new(metrics.fast_path_strays.clone()))?;
        Ok(metrics)
    }

    /// Shows an endpoint's counters from the start, at 0.
    pub fn endpoint(&self, group: &str, endpoint: &str) {
        for result in ["good", "local"].into_iter().chain(BadReason::ALL.map(BadReason::as_str)) {
            self.probe_results.with_label_values(&[group, endpoint, result]);
        }
        for health in [Health::Healthy, Health::Unhealthy] {
            self.transitions.with_label_values(&[group, endpoint, health.as_str()]);
        }
        self.failovers.with_label_values(&[group, endpoint]);
        self.probe_duration.with_label_values(&[group]);
    }

    /// Shows a static IP's counters from the start, at 0.
    pub fn static_ip(&self, ip: IpAddr) {
        for state in State::ALL {
            self.anycast_changes.with_label_values(&[ip.to_string().as_str(), state.as_str()]);
        }
    }

    /// The announcement of a static IP has changed to `to` so often.
    pub fn announcement_changes(&self, ip: IpAddr, to: State, count: u64) {
        self.anycast_changes.with_label_values(&[ip.to_string().as_str(), to.as_str()]).inc_by(count);
    }

    /// A probe has finished.
    pub fn probe(&self, group: &str, endpoint: &str, outcome: &Outcome) {
        self.probe_results.with_label_values(&[group, endpoint, outcome.as_str()]).inc();
        if let Outcome::Good { latency } = outcome {
            self.probe_duration.with_label_values(&[group]).observe(latency.as_secs_f64());
        }
    }

    /// A probe was sent so long after it was due.
    pub fn probe_sent_late(&self, late: Duration) {
        self.probe_lateness.observe(late.as_secs_f64());
    }

    /// An endpoint's health is `to` from now on.
    pub fn transition(&self, group: &str, endpoint: &str, to: Health) {
        self.transitions.with_label_values(&[group, endpoint, to.as_str()]).inc();
    }

    /// An endpoint turned unhealthy and a table without it was published `took` after its first failing probe was sent.
    pub fn failover(&self, group: &str, endpoint: &str, took: Option<Duration>) {
        self.failovers.with_label_values(&[group, endpoint]).inc();
        if let Some(took) = took {
            self.time_to_failover.observe(took.as_secs_f64());
        }
    }

    /// A DNS name was looked up, or could not be.
    pub fn lookup(&self, name: &str, found: bool) {
        self.dns_lookups.with_label_values(&[name, if found { "ok" } else { "failed" }]).inc();
    }

    /// A routing table was published.
    pub fn table_published(&self) {
        self.tables_published.inc();
    }

    /// A reload was applied, or refused.
    pub fn reload(&self, applied: bool) {
        self.reloads.with_label_values(&[if applied { "ok" } else { "refused" }]).inc();
    }

    /// The text of a scrape, with the gauges as `status` says.
    pub fn render(&self, status: &Status) -> prometheus::Result<Vec<u8>> {
        let _alone = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.show(status);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    fn show(&self, status: &Status) {
        for gauges in [&self.health, &self.damped, &self.group_eligible, &self.table_info, &self.dns_addresses] {
            gauges.reset();
        }
        for gauges in [&self.weight, &self.rtt, &self.dial, &self.bound] {
            gauges.reset();
        }
        self.show_anycast(status);
        self.show_fast_path(status);
        self.ready.set(i64::from(status.ready));
        for listener in &status.listeners {
            self.table_info.with_label_values(&[&listener.name, &listener.digest]).set(1);
        }
        for name in &status.dns_names {
            for result in ["ok", "failed"] {
                self.dns_lookups.with_label_values(&[name.name.as_str(), result]);
            }
            self.dns_addresses.with_label_values(&[&name.name]).set(i64::try_from(name.addresses.len()).unwrap_or(i64::MAX));
        }
        for group in &status.endpoint_groups {
            let name = group.name.as_str();
            self.group_eligible.with_label_values(&[name]).set(i64::from(group.eligible));
            self.dial.with_label_values(&[name]).set(group.effective_dial);
            self.bound.with_label_values(&[name]).set(group.failover_bound_seconds);
            for endpoint in group.endpoints.iter().filter(|endpoint| !endpoint.retired) {
                for health in ["unknown", "healthy", "unhealthy"] {
                    let gauge = self.health.with_label_values(&[name, &endpoint.name, health]);
                    gauge.set(i64::from(endpoint.health == health));
                }
                self.weight.with_label_values(&[name, &endpoint.name]).set(endpoint.effective_weight);
                self.damped.with_label_values(&[name, &endpoint.name]).set(endpoint.damped.into());
                if let Some(rtt) = endpoint.rtt_seconds {
                    self.rtt.with_label_values(&[name, &endpoint.name]).set(rtt);
                }
            }
        }
    }

    fn show_fast_path(&self, status: &Status) {
        self.fast_path_attached.reset();
        self.fast_path_unheard.reset();
        let Some(fast_path) = &status.fast_path else { return };
        for device in &fast_path.devices {
            self.fast_path_attached.with_label_values(&[&device.name]).set(i64::from(device.mode != "none"));
        }
        for unheard in &fast_path.unheard {
            self.fast_path_unheard.with_label_values(&[&unheard.endpoint]).set(1);
        }
        for (counters, counts) in [(&self.fast_path_packets, &fast_path.packets), (&self.fast_path_strays, &fast_path.strays)] {
            for (label, &count) in counts {
                let counter = counters.with_label_values(&[label]);
                counter.inc_by(count.saturating_sub(counter.get()));
            }
        }
    }

    fn show_anycast(&self, status: &Status) {
        for gauges in [&self.announced, &self.anycast_state, &self.bird_up] {
            gauges.reset();
        }
        let Some(anycast) = &status.anycast else { return };
        let none: &[&str] = &[];
        self.bird_up.with_label_values(none).set(i64::from(anycast.bird == "up"));
        for StaticIpStatus { ip, state: now, .. } in &anycast.static_ips {
            self.announced.with_label_values(&[ip]).set(i64::from(now != State::Withdrawn.as_str()));
            for state in State::ALL.map(State::as_str) {
                self.anycast_state.with_label_values(&[ip.as_str(), state]).set(i64::from(now == state));
            }
        }
    }
}
