//! Everything counted about forwarding, and its face towards Prometheus.
//!
//! Each worker counts into its own cells, so counting a packet touches no cache line of another worker; a scrape adds them up.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use endpoint_group::{Name, Protocol};
use prometheus::{
    core::{Collector, Desc},
    proto,
};

use crate::{
    other_path::{Reading, Tally},
    overflow::Overflow,
    reasons::{CloseReason, DropReason},
};

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    ToEndpoint,
    /// From the endpoint.
    ToClient,
}

impl Direction {
    const ALL: [Self; 2] = [Self::ToEndpoint, Self::ToClient];

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ToEndpoint => "to_endpoint",
            Self::ToClient => "to_client",
        }
    }
}

/// What one worker counts for one listener and protocol.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Counters {
    opened: AtomicU64,
    closed: [AtomicU64; CloseReason::COUNT],
    moved: AtomicU64,
    dropped: [AtomicU64; DropReason::COUNT],
    bytes: [AtomicU64; 2],
    packets: [AtomicU64; 2],
    connect_failures: AtomicU64,
    client_ip_fallbacks: AtomicU64,
    splices: AtomicU64,
    splice_fallbacks: AtomicU64,
}

impl Counters {
    /// A flow was admitted.
    pub fn open(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// An admitted flow ended.
    pub fn close(&self, reason: CloseReason) {
        self.closed[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A UDP flow went to another endpoint.
    pub fn moved(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    /// A flow was refused or a datagram not delivered.
    pub fn count_drop(&self, reason: DropReason) {
        self.count_drops(reason, 1);
    }

    /// As [`Counters::count_drop`], `count` times.
    pub fn count_drops(&self, reason: DropReason, count: u64) {
        self.dropped[reason as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// Payload handed to the kernel: `packets` datagrams (UDP) or reads (TCP).
    pub fn forward(&self, direction: Direction, bytes: usize, packets: u64) {
        self.bytes[direction as usize].fetch_add(bytes as u64, Ordering::Relaxed);
        self.packets[direction as usize].fetch_add(packets, Ordering::Relaxed);
    }

    /// An endpoint did not accept a connection; the next in rank is tried.
    pub fn connect_failed(&self) {
        self.connect_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// An endpoint was to see the client's own address, and sees this host's.
    pub fn fell_back(&self) {
        self.client_ip_fallbacks.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes went through a pipe.
    pub fn spliced(&self, bytes: usize) {
        self.splices.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes that were to go through a pipe were copied.
    pub fn copied_instead(&self) {
        self.splice_fallbacks.fetch_add(1, Ordering::Relaxed);
    }

    fn active(&self) -> u64 {
        let closed: u64 = self.closed.iter().map(load).sum();
        load(&self.opened).saturating_sub(closed)
    }
}

/// Flows of one endpoint, over all listeners and workers.
#[derive(Debug, Default)]
pub struct EndpointFlows {
    opened: AtomicU64,
    active: AtomicU64,
}

/// One flow counted at its endpoint; counted out when dropped.
#[derive(Debug)]
pub struct EndpointFlow(Arc<EndpointFlows>);

impl Drop for EndpointFlow {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

fn load(cell: &AtomicU64) -> u64 {
    cell.load(Ordering::Relaxed)
}

/// The books of one edge.
#[derive(Debug)]
pub struct Books {
    listeners: Vec<Name>,
    /// By worker, then listener, then protocol.
    workers: Vec<Vec<[Arc<Counters>; 2]>>,
    endpoints: DashMap<(Name, Name), Arc<EndpointFlows>>,
    /// What the in-kernel path has told last.
    kernel: ArcSwap<Reading>,
    overflow: Overflow,
    descs: Vec<Desc>,
}

fn protocol_index(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
    }
}

const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

impl Books {
    /// Empty books for `workers` workers and the listeners of the configuration, in order.
    pub fn new(listeners: Vec<Name>, workers: usize) -> Arc<Self> {
        let row = || listeners.iter().map(|_| Default::default()).collect();
        let workers = (0..workers).map(|_| row()).collect();
        let descs = FAMILIES.iter().chain(std::iter::once(&ENDPOINT_ACTIVE)).filter_map(Family::desc).collect();
        Arc::new(Self {
            listeners,
            workers,
            endpoints: DashMap::new(),
            kernel: ArcSwap::default(),
            overflow: Overflow::default(),
            descs,
        })
    }

    /// Where `worker` counts what happens to `protocol` of `listener`.
    pub(crate) fn counters(&self, worker: usize, listener: usize, protocol: Protocol) -> Arc<Counters> {
        Arc::clone(&self.workers[worker][listener][protocol_index(protocol)])
    }

    pub(crate) fn overflow(&self) -> &Overflow {
        &self.overflow
    }

    /// Counts one more flow of an endpoint.
    pub(crate) fn endpoint_flow(&self, group: &Name, endpoint: &Name) -> EndpointFlow {
        let flows = Arc::clone(&self.endpoints.entry((group.clone(), endpoint.clone())).or_default());
        flows.opened.fetch_add(1, Ordering::Relaxed);
        flows.active.fetch_add(1, Ordering::Relaxed);
        EndpointFlow(flows)
    }

    /// Flows of `listener` that are open now.
    pub fn flows_active(&self, listener: usize, protocol: Protocol) -> u64 {
        let kernel = self.kernel.load();
        let elsewhere = tally(&kernel, listener, protocol).map_or(0, |tally| tally.active);
        self.cells(listener, protocol).map(Counters::active).sum::<u64>() + elsewhere
    }

    /// Takes over what the in-kernel path has counted so far.
    pub fn set_kernel(&self, reading: Reading) {
        self.kernel.store(Arc::new(reading));
    }

    /// Flows of an endpoint that are open now.
    pub fn endpoint_flows_active(&self, group: &Name, endpoint: &Name) -> u64 {
        let key = (group.clone(), endpoint.clone());
        let elsewhere = self.kernel.load().endpoints.get(&key).map_or(0, |pinned| pinned.active);
        self.endpoints.get(&key).map_or(0, |flows| load(&flows.active)) + elsewhere
    }

    fn cells(&self, listener: usize, protocol: Protocol) -> impl Iterator<Item = &Counters> {
        self.workers.iter().map(move |worker| &*worker[listener][protocol_index(protocol)])
    }

    fn count_overflow(&self) {
        for (listener, protocol, count) in self.overflow.take() {
            if let Some(worker) = self.workers.first() {
                worker[listener][protocol_index(protocol)].count_drops(DropReason::SocketOverflow, count);
            }
        }
    }
}

fn tally(reading: &Reading, listener: usize, protocol: Protocol) -> Option<&Tally> {
    reading.listeners.get(listener)?.as_ref().filter(|_| protocol == Protocol::Udp)
}

struct Family {
    name: &'static str,
    help: &'static str,
    kind: proto::MetricType,
}

impl Family {
    const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: proto::MetricType::COUNTER }
    }

    const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: proto::MetricType::GAUGE }
    }

    fn desc(&self) -> Option<Desc> {
        Desc::new(self.name.into(), self.help.into(), Vec::new(), Default::default()).ok()
    }
}

const FAMILIES: [Family; 12] = [
    Family::counter("landfall_flows_opened_total", "Flows admitted, by the path that forwards them."),
    Family::gauge("landfall_flows_active", "Flows open now, by the path that forwards them."),
    Family::counter("landfall_flows_closed_total", "Admitted flows that ended, by reason."),
    Family::counter("landfall_flows_moved_total", "UDP flows that went to another endpoint because theirs was gone."),
    Family::counter("landfall_drops_total", "Flows refused and datagrams not delivered, by reason."),
    Family::counter("landfall_bytes_total", "Payload bytes forwarded."),
    Family::counter("landfall_packets_total", "Datagrams (UDP) or chunks (TCP) forwarded."),
    Family::counter(
        "landfall_connect_failures_total",
        "Connections that an endpoint did not accept, each before trying the next in rank.",
    ),
    Family::counter("landfall_endpoint_flows_opened_total", "Flows that were pinned to the endpoint."),
    Family::counter(
        "landfall_client_ip_fallbacks_total",
        "Flows whose endpoint was to see the client's own address, and sees this host's.",
    ),
    Family::counter("landfall_spliced_bytes_total", "Payload bytes that were forwarded without a copy."),
    Family::counter("landfall_splice_fallbacks_total", "Times that bytes were copied because no pipe was to be had."),
];

const ENDPOINT_ACTIVE: Family = Family::gauge("landfall_endpoint_flows_active", "Flows that are pinned to the endpoint now.");

/// The face of [`Books`] towards a Prometheus registry.
#[derive(Debug, Clone)]
pub struct BooksCollector(pub Arc<Books>);

impl Collector for BooksCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.0.descs.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let books = &self.0;
        books.count_overflow();
        let kernel = books.kernel.load();
        let mut metrics: [Vec<proto::Metric>; 13] = Default::default();
        for (listener, name) in books.listeners.iter().enumerate() {
            for protocol in PROTOCOLS {
                let sum = |pick: &dyn Fn(&Counters) -> u64| books.cells(listener, protocol).map(pick).sum::<u64>();
                let labels = |extra: &[(&str, &str)]| {
                    let base = [("listener", name.as_str()), ("protocol", protocol.as_str())];
                    labels(base.iter().chain(extra))
                };
                let mut add = |family: usize, extra: &[(&str, &str)], value: u64| {
                    metrics[family].push(metric(FAMILIES[family].kind, labels(extra), value));
                };
                add(0, &[("path", "user")], sum(&|c| load(&c.opened)));
                add(1, &[("path", "user")], sum(&Counters::active));
                let tally = tally(&kernel, listener, protocol);
                if let Some(tally) = tally {
                    add(0, &[("path", "kernel")], tally.opened);
                    add(1, &[("path", "kernel")], tally.active);
                }
                let of = |pick: &dyn Fn(&Tally) -> u64| tally.map_or(0, pick);
                for &reason in CloseReason::ALL {
                    add(
                        2,
                        &[("reason", reason.as_str())],
                        sum(&|c| load(&c.closed[reason as usize])) + of(&|t| t.closed_for(reason)),
                    );
                }
                add(3, &[], sum(&|c| load(&c.moved)) + of(&|t| t.moved));
                for &reason in DropReason::ALL {
                    add(
                        4,
                        &[("reason", reason.as_str())],
                        sum(&|c| load(&c.dropped[reason as usize])) + of(&|t| t.dropped_for(reason)),
                    );
                }
                for (reason, count) in tally.into_iter().flat_map(Tally::dropped_elsewhere) {
                    add(4, &[("reason", reason)], count);
                }
                for direction in Direction::ALL {
                    let label = [("direction", direction.as_str())];
                    let place = direction as usize;
                    add(5, &label, sum(&|c| load(&c.bytes[place])) + of(&|t| t.bytes[place]));
                    add(6, &label, sum(&|c| load(&c.packets[place])) + of(&|t| t.packets[place]));
                }
                add(7, &[], sum(&|c| load(&c.connect_failures)));
                add(9, &[], sum(&|c| load(&c.client_ip_fallbacks)) + of(&|t| t.client_ip_fallbacks));
                if protocol == Protocol::Tcp {
                    add(10, &[], sum(&|c| load(&c.splices)));
                    add(11, &[], sum(&|c| load(&c.splice_fallbacks)));
                }
            }
        }
        let endpoints: BTreeMap<_, _> =
            books.endpoints.iter().map(|entry| (entry.key().clone(), entry.value().clone())).collect();
        let mut pinned = kernel.endpoints.clone();
        for (key, flows) in endpoints {
            let pinned = pinned.entry(key).or_default();
            pinned.opened += load(&flows.opened);
            pinned.active += load(&flows.active);
        }
        for (key, flows) in pinned {
            metrics[8].push(metric(proto::MetricType::COUNTER, endpoint_labels(&key), flows.opened));
            metrics[12].push(metric(proto::MetricType::GAUGE, endpoint_labels(&key), flows.active));
        }
        let families = FAMILIES.iter().chain(std::iter::once(&ENDPOINT_ACTIVE)).zip(metrics);
        families.filter(|(_, metrics)| !metrics.is_empty()).map(|(family, metrics)| family_of(family, metrics)).collect()
    }
}

fn endpoint_labels((group, endpoint): &(Name, Name)) -> Vec<proto::LabelPair> {
    labels([("endpoint_group", group.as_str()), ("endpoint", endpoint.as_str())].iter())
}

fn labels<'a>(pairs: impl Iterator<Item = &'a (&'a str, &'a str)>) -> Vec<proto::LabelPair> {
    pairs
        .map(|(name, value)| {
            let mut label = proto::LabelPair::default();
            label.set_name((*name).to_owned());
            label.set_value((*value).to_owned());
            label
        })
        .collect()
}

fn metric(kind: proto::MetricType, labels: Vec<proto::LabelPair>, value: u64) -> proto::Metric {
    let mut metric = proto::Metric::default();
    metric.set_label(labels);
    // A double holds every count up to 2^53 exactly; Prometheus knows no other number.
    #[allow(clippy::cast_precision_loss)]
    let value = value as f64;
    if kind == proto::MetricType::GAUGE {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    } else {
        let mut counter = proto::Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    }
    metric
}

fn family_of(family: &Family, metrics: Vec<proto::Metric>) -> proto::MetricFamily {
    let mut result = proto::MetricFamily::default();
    result.set_name(family.name.to_owned());
    result.set_help(family.help.to_owned());
    result.set_field_type(family.kind);
    result.set_metric(metrics);
    result
}
