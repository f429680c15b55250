//! `landfall explain`: which endpoint a flow goes to, and why.
//!
//! [`explain`] is a pure reading of a [`State`]: that of a running edge, or one that is [imagined](what_if). It asks the same table
//! that forwarding asks, so that it cannot explain another choice than the one that is made.

pub mod what_if;
mod words;

use std::{
    fmt::Write,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Instant,
};

use endpoint_group::{Affinity, EndpointId, FlowHasher, FlowKey, Protocol, SLOTS, Slot};
use serde::{Deserialize, Serialize};

use self::what_if::{WhatIfError, shortened};
use crate::{
    cli::ExplainArgs,
    config::{Config, Listener, Proximity, UNRESOLVED},
    control::state::State,
};

/// Ranks shown to people; scripts get all.
const RANKS_SHOWN: usize = 12;

/// Where a new flow goes and why. `slot`, `group`, `endpoint`, `reason` and `ranking` are stable; more may be added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Who asks.
    pub client: SocketAddr,
    /// What is asked.
    pub to: SocketAddr,
    /// The listener that takes the flow.
    pub listener: String,
    /// Its `client_affinity`.
    pub affinity: String,
    /// What put its groups in order: `listed` or `latency`.
    pub proximity: String,
    /// The flow hash, 16 hexadecimal digits behind `0x`.
    pub hash: String,
    /// Its top 16 bits.
    pub slot: u16,
    /// The rule in force, in the word of `/status`.
    pub stage: String,
    /// The listener's groups, in order of preference.
    pub groups: Vec<GroupVerdict>,
    /// Endpoints in the order in which they are tried; empty if the flow is refused.
    pub ranking: Vec<String>,
    /// The group that takes the slot; `None` if the flow is refused.
    pub group: Option<String>,
    /// The endpoint that takes the slot; `None` if the flow is refused.
    pub endpoint: Option<String>,
    /// Where the flow is sent, fixed port or port override applied.
    pub address: Option<SocketAddr>,
    /// The choice, or the refusal, in words.
    pub reason: String,
    /// Whether the flow exists; `None` where no running edge was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<Pin>,
}

/// Where a flow is on a running edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Whether the edge has the flow now.
    pub exists: bool,
    /// The endpoint that it is pinned to.
    pub endpoint: Option<String>,
    /// That endpoint's group.
    pub group: Option<String>,
}

impl Pin {
    /// Of a flow that is at `endpoint`, or of one that does not exist.
    pub fn new(state: &State, endpoint: Option<EndpointId>) -> Self {
        let target = endpoint.map(|id| &state.endpoints().get(id).target);
        Self {
            exists: target.is_some(),
            endpoint: target.map(|target| target.name.to_string()),
            group: target.map(|target| target.group.to_string()),
        }
    }

    fn words(&self, choice: Option<&str>) -> String {
        match (self.endpoint.as_deref(), self.group.as_deref()) {
            (Some(endpoint), Some(group)) if choice == Some(endpoint) => {
                format!("to {endpoint} of {group}, where a new one would go too")
            }
            (Some(endpoint), Some(group)) => format!("to {endpoint} of {group}; what follows is for a new one"),
            _ => "nowhere: this edge does not have the flow; what follows is for a new one".to_owned(),
        }
    }
}

/// What becomes of a slot at one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupVerdict {
    /// The group.
    pub name: String,
    /// Whether it has enough usable endpoints under the rule in force.
    pub eligible: bool,
    /// Whether it takes the slot.
    pub takes: bool,
    /// Both in words, and why.
    pub verdict: String,
    /// The group's round-trip time, where one was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_seconds: Option<f64>,
}

/// Why there can be no such flow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// Not an address of the accelerator.
    #[error("cannot explain a flow to {to}: {} is not a static IP of this accelerator; ask about {known}", to.ip())]
    NotStatic {
        /// As asked.
        to: SocketAddr,
        /// The static IPs.
        known: String,
    },
    /// Nobody listens there.
    #[error("cannot explain a flow to {to}: no listener takes {protocol} on port {}; there are {listeners}", to.port())]
    NoListener {
        /// As asked.
        to: SocketAddr,
        /// As asked.
        protocol: Protocol,
        /// All listeners with protocols and ports.
        listeners: String,
    },
    /// An IPv4 client of an IPv6 address, or the reverse.
    #[error(
        "cannot explain a flow from {client} to {to}: one is IPv4, the other IPv6; ask about a client and a static IP of one family"
    )]
    Family {
        /// As asked.
        client: SocketAddr,
        /// As asked.
        to: SocketAddr,
    },
    /// An address that no packet comes from.
    #[error(
        "cannot explain a flow from {client}: it is no unicast address, so no client has it; ask about one that a client has"
    )]
    Client {
        /// As asked.
        client: SocketAddr,
    },
}

/// Which endpoint a new flow goes to under `state`, and why.
pub fn explain(state: &State, flow: &FlowKey) -> Result<Explanation, ExplainError> {
    let flow = canonical(flow);
    let index = listener_of(state.config(), &flow)?;
    let listener = &state.config().listeners[index];
    let affinity = listener.settings.affinity;
    let hash = FlowHasher::new(state.config().hash_seed).hash(&flow, affinity);
    let slot = Slot::of(hash);

    let table = &state.table().listeners[index];
    let name = |id: EndpointId| state.endpoints().get(id).target.name.to_string();
    let choice = table.choose(slot).map(|id| &state.endpoints().get(id).target);
    let walk = words::Walk { state, listener, order: state.order(index), plan: table.plan(), slot };
    Ok(Explanation {
        protocol: flow.protocol.to_string(),
        client: flow.client,
        to: flow.to,
        listener: listener.settings.name.to_string(),
        affinity: match affinity {
            Affinity::None => "none".to_owned(),
            Affinity::SourceIp => "source_ip".to_owned(),
        },
        proximity: match listener.proximity {
            Proximity::Listed => "listed".to_owned(),
            Proximity::Latency => "latency".to_owned(),
        },
        hash: format!("{hash:#018x}"),
        slot: slot.0,
        stage: table.stage().as_str().to_owned(),
        groups: walk.verdicts(),
        ranking: table.ranking(slot).into_iter().map(name).collect(),
        group: choice.map(|target| target.group.to_string()),
        endpoint: choice.map(|target| target.name.to_string()),
        address: choice.filter(|target| target.ip != UNRESOLVED).map(|target| target.address(flow.to.port())),
        reason: walk.reason(choice.map(|target| &**target)),
        flow: None,
    })
}

/// The flow as packets have it: an IPv4 address written as IPv6 is that IPv4 address, as everywhere.
pub fn canonical(flow: &FlowKey) -> FlowKey {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    FlowKey { client: canonical(flow.client), to: canonical(flow.to), ..*flow }
}

/// The index of the listener that takes `flow`.
fn listener_of(config: &Config, flow: &FlowKey) -> Result<usize, ExplainError> {
    let FlowKey { protocol, client, to } = *flow;
    if !config.static_ips.contains(&to.ip()) {
        let known = config.static_ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" or ");
        return Err(ExplainError::NotStatic { to, known });
    }
    if client.is_ipv4() != to.is_ipv4() {
        return Err(ExplainError::Family { client, to });
    }
    let broadcast = matches!(client.ip(), IpAddr::V4(v4) if v4.is_broadcast());
    if client.ip().is_unspecified() || client.ip().is_multicast() || broadcast {
        return Err(ExplainError::Client { client });
    }
    let takes = |listener: &Listener| {
        let settings = &listener.settings;
        settings.protocols().any(|served| served == protocol) && settings.ports.iter().any(|range| range.contains(&to.port()))
    };
    config.listeners.iter().position(takes).ok_or_else(|| {
        let listeners = shortened(config.listeners.iter().map(served), 8);
        ExplainError::NoListener { to, protocol, listeners }
    })
}

/// A listener as in `match (udp 7000, 7100-7199)`.
fn served(listener: &Listener) -> String {
    let protocols: Vec<_> = listener.settings.protocols().map(Protocol::as_str).collect();
    let range = |range: &std::ops::RangeInclusive<u16>| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    let ports: Vec<_> = listener.settings.ports.iter().map(range).collect();
    format!("{} ({} {})", listener.settings.name, protocols.join("+"), ports.join(", "))
}

impl Explanation {
    /// For people; ends with a line break.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let hashed = match self.affinity.as_str() {
            "source_ip" => "the client's address alone decides",
            _ => "protocol, both addresses and both ports decide",
        };
        // Writing to a String does not fail.
        let _ = writeln!(out, "flow      {} {} → {}", self.protocol, self.client, self.to);
        if let Some(pin) = &self.flow {
            let _ = writeln!(out, "pinned    {}", pin.words(self.endpoint.as_deref()));
        }
        let _ = writeln!(out, "listener  {}, client_affinity {}: {hashed}", self.listener, self.affinity);
        let _ = writeln!(out, "hash      {}, slot {} of {SLOTS}", self.hash, self.slot);
        let _ = writeln!(out, "stage     {}", self.stage);
        if self.proximity == "latency" {
            let rtt = |group: &GroupVerdict| match group.rtt_seconds {
                Some(rtt) => format!("{} {:.2} ms", group.name, rtt * 1000.0),
                None => format!("{} not measured", group.name),
            };
            let _ = writeln!(out, "order     by latency: {}", self.groups.iter().map(rtt).collect::<Vec<_>>().join(", "));
        }
        let width = self.groups.iter().map(|group| group.name.len()).max().unwrap_or(0);
        for (group, place) in self.groups.iter().zip(1..) {
            let sign = if group.takes { '*' } else { ' ' };
            let _ = writeln!(out, "group {place:<2}{sign} {:width$}  {}", group.name, group.verdict);
        }
        if !self.ranking.is_empty() {
            let _ = writeln!(out, "ranking   {}", shortened(self.ranking.iter(), RANKS_SHOWN));
        }
        let _ = match (&self.endpoint, &self.group, self.address) {
            (Some(endpoint), Some(group), Some(address)) => writeln!(out, "choice    {endpoint} of {group}, at {address}"),
            (Some(endpoint), Some(group), None) => {
                writeln!(out, "choice    {endpoint} of {group}, at what its DNS name leads to")
            }
            _ => writeln!(out, "choice    none: the flow is refused"),
        };
        let _ = writeln!(out, "because   {}", self.reason);
        out
    }

    /// For people, or for scripts.
    pub fn print(&self, json: bool) -> String {
        if json { self.to_json() } else { self.render() }
    }

    /// For scripts; ends with a line break.
    pub fn to_json(&self) -> String {
        // There are no map keys or values here that JSON cannot hold.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

/// Answers `landfall explain` from the config at `path` alone: what to print.
pub fn offline(path: &Path, args: &ExplainArgs, now: Instant) -> Result<String, WhatIfError> {
    let state = what_if::imagine(what_if::load(path)?, &args.down, now)?;
    Ok(explain(&state, &args.flow())?.print(args.json))
}
