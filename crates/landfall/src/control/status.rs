//! What `/status` says: the edge as its control loop sees it, in words.

use std::{collections::BTreeMap, time::Instant};

use anycast::State;
use edge_listener::account::Books;
use endpoint_group::{FlowHasher, Health, Protocol, Weight, failback::RampStep, plan::Stage};
use serde::{Deserialize, Serialize};

use super::{
    endpoints::{Entry, Membership},
    history::Change,
    names::Names,
    state,
};
use crate::{
    config::{Config, ForwardingPath},
    kernel::Kernel,
};

/// The whole answer. Field names are an interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// `edge.name`.
    pub edge: String,
    /// Of the binary.
    pub version: String,
    /// Whether `/readyz` says yes.
    pub ready: bool,
    /// Why not, in words; empty when ready.
    pub not_ready: Vec<String>,
    /// Whether the edge is on its way out.
    pub draining: bool,
    /// Counts published routing tables.
    pub generation: u64,
    /// In the order of the file.
    pub listeners: Vec<ListenerStatus>,
    /// In the order of the file.
    pub endpoint_groups: Vec<GroupStatus>,
    /// The DNS names of endpoints.
    pub dns_names: Vec<DnsNameStatus>,
    /// Static IPs that this edge announces by BGP now, those among them that are depreferred.
    pub announced: Vec<String>,
    /// How they are announced; `None` where Landfall has no speaker.
    #[serde(default)]
    pub anycast: Option<AnycastStatus>,
    /// The in-kernel path; `None` where all packets are forwarded in user space.
    #[serde(default)]
    pub fast_path: Option<FastPathStatus>,
}

/// The in-kernel path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastPathStatus {
    /// Where packets are taken from.
    pub devices: Vec<DeviceStatus>,
    /// Endpoints whose replies do not reach clients.
    #[serde(default)]
    pub unheard: Vec<UnheardStatus>,
    /// Flows at once that there are NAT ports for: IPv4, IPv6.
    pub nat_capacity: [usize; 2],
    /// Packets that it carried, by the hook that did it: `xdp` or `tcx`.
    #[serde(default)]
    pub packets: BTreeMap<String, u64>,
    /// Packets that it dropped and that belong to no listener, by reason.
    pub strays: BTreeMap<String, u64>,
}

/// An endpoint that is reached by a device that packets are not taken from, so that the host refuses its replies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnheardStatus {
    /// Its name.
    pub endpoint: String,
    /// The device.
    pub device: String,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Its name.
    pub name: String,
    /// `xdp+tcx`, `tcx`, or `none` if its packets are not taken.
    pub mode: String,
    /// Why they are not, or not by XDP where that is wanted; else empty.
    pub reason: String,
}

impl FastPathStatus {
    /// Asks the fast path of an edge that runs `config`.
    pub fn new(kernel: &Kernel, config: &Config) -> Self {
        Self {
            devices: kernel.devices(),
            unheard: kernel.unheard(),
            nat_capacity: [config.nat_capacity(false), config.nat_capacity(true)],
            packets: kernel.by_hook().into_iter().map(|(hook, count)| (hook.to_owned(), count)).collect(),
            strays: kernel.strays().into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect(),
        }
    }
}

/// The announcements.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnycastStatus {
    /// `up`, or `down: ` and why.
    pub bird: String,
    /// Those that BIRD has protocols for, in the order of the file.
    pub static_ips: Vec<StaticIpStatus>,
}

/// The announcement of a static IP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticIpStatus {
    /// Which one.
    pub ip: String,
    /// `announced`, `depreferred` or `withdrawn`.
    pub state: String,
    /// Why, and what would change it.
    pub reason: String,
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Open flows of both protocols.
    pub flows_active: u64,
    /// The path of its UDP: `kernel` or `user`. TCP is always forwarded in user space.
    #[serde(default)]
    pub forwarding: String,
    /// Why it is not forwarded in the kernel; empty if it is.
    #[serde(default)]
    pub forwarding_reason: String,
    /// The rule under which new flows are placed; see `docs/FAILOVER.md`.
    pub stage: String,
    /// Of routing table, seed and affinity, in hex: equal on edges that place every flow alike.
    pub digest: String,
    /// Its groups, in order of preference now.
    pub endpoint_groups: Vec<String>,
}

/// One endpoint group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub name: String,
    /// Free text from the file.
    pub region: String,
    /// Whether enough of its endpoints take flows.
    pub eligible: bool,
    /// In percent, as configured.
    pub traffic_dial: f64,
    /// In percent, as far as its failback ramp has come.
    pub effective_dial: f64,
    /// The smoothed round-trip time of its probes: the mean of its healthy endpoints', by weight.
    pub rtt_seconds: Option<f64>,
    /// The published bound.
    pub failover_bound_seconds: f64,
    /// In the order of the file; retired ones last.
    pub endpoints: Vec<EndpointStatus>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Its name.
    pub name: String,
    /// Its address, with its port if it has a fixed one.
    pub address: String,
    /// `unknown`, `healthy` or `unhealthy`.
    pub health: String,
    /// In force: as configured, unless set at run time; 0 while it drains.
    pub weight: u8,
    /// The weight that was set at run time, if one was.
    pub weight_set: Option<u8>,
    /// Whether it takes no new flows by order.
    pub draining: bool,
    /// As far as its failback ramp has come; 0 while it takes no flows.
    pub effective_weight: f64,
    /// Whether it is held unhealthy although it answers, because its health changed too often (`health_check.flap`).
    pub damped: bool,
    /// Why it is as it is, in words.
    pub reason: String,
    /// How long it has had this health.
    pub since_seconds: f64,
    /// How long its last good answer took.
    pub probe_latency_seconds: Option<f64>,
    /// The smoothed time from a probe to its good answer.
    pub rtt_seconds: Option<f64>,
    /// Its last changes of health, the latest first.
    pub history: Vec<ChangeStatus>,
    /// Flows pinned to it now.
    pub flows_active: u64,
    /// Whether it has left the configuration and only serves the flows it has.
    pub retired: bool,
}

/// A change of health.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangeStatus {
    /// How long ago.
    pub ago_seconds: f64,
    /// From what.
    pub from: String,
    /// To what.
    pub to: String,
    /// The result that made it.
    pub reason: String,
    /// The last results, that one included, the oldest first.
    pub results: Vec<String>,
    /// How long the last good answer before it took.
    pub last_good_latency_seconds: Option<f64>,
    /// From the sending of the first failed probe to the verdict; for a change to unhealthy.
    pub took_seconds: Option<f64>,
}

fn change_status(change: &Change, now: Instant) -> ChangeStatus {
    ChangeStatus {
        ago_seconds: now.saturating_duration_since(change.at).as_secs_f64(),
        from: change.from.as_str().to_owned(),
        to: change.to.as_str().to_owned(),
        reason: change.reason.to_owned(),
        results: change.results.iter().map(|&result| result.to_owned()).collect(),
        last_good_latency_seconds: change.latency.map(|latency| latency.as_secs_f64()),
        took_seconds: change.took.map(|took| took.as_secs_f64()),
    }
}

/// A DNS name of endpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DnsNameStatus {
    /// The name.
    pub name: String,
    /// Its addresses, the last that were found.
    pub addresses: Vec<String>,
    /// Why the last lookup failed, if it did.
    pub error: Option<String>,
}

/// What the state does not know.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Why the edge is not ready, apart from missing verdicts.
    pub not_ready: Vec<String>,
    /// Whether it drains.
    pub draining: bool,
    /// Whether it does so for good.
    pub stopping: bool,
    /// How the static IPs are announced.
    pub anycast: Option<AnycastStatus>,
    /// Where the UDP of each listener is forwarded.
    pub paths: Vec<Option<ForwardingPath>>,
    /// The in-kernel path, where there is one.
    pub fast_path: Option<FastPathStatus>,
}

/// A path in the word of `/status`, and why it is not the kernel's.
pub fn path_words(path: Option<&ForwardingPath>) -> (&'static str, String) {
    match path {
        Some(ForwardingPath::Kernel) => ("kernel", String::new()),
        Some(ForwardingPath::User(reason)) => ("user", reason.clone()),
        None => ("user", "serves no udp".to_owned()),
    }
}

/// The status of `state` at `now`.
pub fn status(state: &state::State, names: Option<&Names>, books: &Books, around: &Surroundings, now: Instant) -> Status {
    let config = state.config();
    let table = state.table();
    let name_of = |group: usize| config.endpoint_groups[group].group.name.to_string();
    let mut not_ready = around.not_ready.clone();
    not_ready.extend(state.awaited().map(|e| format!("endpoint {} has had no probe result yet", e.target.name)));
    not_ready
        .extend(names.into_iter().flat_map(Names::waiting).map(|host| format!("DNS name {host} has not been looked up yet")));
    let dns_names = names.into_iter().flat_map(Names::known).map(|(name, addresses, error)| DnsNameStatus {
        name: name.to_owned(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        error: error.map(str::to_owned),
    });
    let listeners = config.listeners.iter().zip(&table.listeners).enumerate().map(|(index, (listener, answers))| {
        let (forwarding, forwarding_reason) = path_words(around.paths.get(index).and_then(Option::as_ref));
        ListenerStatus {
            forwarding: forwarding.to_owned(),
            forwarding_reason,
            name: listener.settings.name.to_string(),
            flows_active: books.flows_active(index, Protocol::Tcp) + books.flows_active(index, Protocol::Udp),
            stage: answers.stage().as_str().to_owned(),
            digest: {
                let answers = answers.digest(&table.endpoints);
                format!("{:016x}", FlowHasher::new(config.hash_seed).digest(listener.settings.affinity, answers))
            },
            endpoint_groups: state.order(index).iter().map(|&group| name_of(group)).collect(),
        }
    });
    let groups = config.endpoint_groups.iter().enumerate().map(|(index, group)| {
        let view = &state.views()[index];
        let name = &group.group.name;
        let members = state.endpoints().of_group(index);
        let retired = state
            .endpoints()
            .entries()
            .iter()
            .filter(|e| !e.is_member() && e.target.group == *name && books.endpoint_flows_active(name, &e.target.name) > 0);
        let endpoint = |entry: &Entry| {
            let ramp = match entry.membership {
                Membership::Member { .. } => entry.ramp(&group.group.failback, now),
                Membership::Retired { .. } => RampStep::FULL,
            };
            endpoint_status(entry, ramp, books, now)
        };
        GroupStatus {
            name: name.to_string(),
            region: group.group.region.clone(),
            eligible: view.eligible(),
            traffic_dial: view.dial.percent(),
            effective_dial: view.effective_dial().percent(),
            rtt_seconds: state.rtt(index).map(|rtt| rtt.as_secs_f64()),
            failover_bound_seconds: group.check.timing().failover_bound().as_secs_f64(),
            endpoints: members.chain(retired).map(endpoint).collect(),
        }
    });
    Status {
        edge: config.edge.name.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ready: not_ready.is_empty() && !around.draining,
        not_ready,
        draining: around.draining,
        generation: table.generation,
        listeners: listeners.collect(),
        endpoint_groups: groups.collect(),
        dns_names: dns_names.collect(),
        announced: {
            let all = around.anycast.iter().flat_map(|anycast| &anycast.static_ips);
            all.filter(|ip| ip.state != State::Withdrawn.as_str()).map(|ip| ip.ip.clone()).collect()
        },
        anycast: around.anycast.clone(),
        fast_path: around.fast_path.clone(),
    }
}

fn endpoint_status(entry: &Entry, ramp: RampStep, books: &Books, now: Instant) -> EndpointStatus {
    let target = &entry.target;
    let share = f64::from(ramp.get()) / f64::from(RampStep::FULL.get());
    let healthy = entry.snapshot.health == Health::Healthy;
    let (weight_set, draining) = match entry.membership {
        Membership::Member { set, drain, .. } => (set.map(Weight::get), drain.is_some()),
        Membership::Retired { .. } => (None, false),
    };
    EndpointStatus {
        weight_set,
        draining,
        damped: entry.snapshot.damped_until.is_some(),
        name: target.name.to_string(),
        address: target.port.map_or_else(|| target.ip.to_string(), |port| std::net::SocketAddr::new(target.ip, port).to_string()),
        health: entry.snapshot.health.as_str().to_owned(),
        weight: entry.weight().get(),
        effective_weight: if healthy { f64::from(entry.weight().get()) * share } else { 0.0 },
        reason: reason(entry, ramp, now),
        since_seconds: now.saturating_duration_since(entry.snapshot.since).as_secs_f64(),
        probe_latency_seconds: entry.history.latency().map(|latency| latency.as_secs_f64()),
        rtt_seconds: entry.history.rtt().map(|rtt| rtt.as_secs_f64()),
        history: entry.history.changes().rev().map(|change| change_status(change, now)).collect(),
        flows_active: books.endpoint_flows_active(&target.group, &target.name),
        retired: !entry.is_member(),
    }
}

fn reason(entry: &Entry, ramp: RampStep, now: Instant) -> String {
    let last = entry.history.last_result().unwrap_or("none");
    let state = &entry.snapshot;
    if !entry.is_member() {
        return "left the configuration; serves the flows it has".to_owned();
    }
    if let Membership::Member { drain: Some(_), .. } = entry.membership {
        return "drained by order".to_owned();
    }
    match state.health {
        Health::Unknown => "no probe result yet".to_owned(),
        Health::Unhealthy if state.damped_until.is_some() => {
            let left = state.damped_until.map_or(0, |until| until.saturating_duration_since(now).as_secs());
            format!("answers, but its health changed too often: held unhealthy for {left} s more")
        }
        Health::Unhealthy if state.consecutive_good > 0 => format!("{} good results after failing", state.consecutive_good),
        Health::Unhealthy => format!("{} consecutive bad results, the last: {last}", state.consecutive_bad),
        Health::Healthy if state.consecutive_bad > 0 => format!("{} bad results, the last: {last}", state.consecutive_bad),
        Health::Healthy if ramp == RampStep::HELD => "recovered; held back".to_owned(),
        Health::Healthy if ramp < RampStep::FULL => format!("recovered; ramping, {} of 10", ramp.get()),
        Health::Healthy if entry.weight().get() == 0 => "draining: weight 0".to_owned(),
        Health::Healthy => "answers its probes".to_owned(),
    }
}

/// The word for a stage that an operator should hear of, if it is one.
pub fn alarm(stage: Stage) -> Option<&'static str> {
    match stage {
        Stage::Eligible | Stage::HeldInFull | Stage::DialsIgnored => None,
        Stage::FailOpen => Some("no endpoint is eligible: new flows go to the first group whatever its health"),
        Stage::Refuse(_) => Some("no endpoint is eligible: new flows are refused"),
    }
}
