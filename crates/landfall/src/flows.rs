//! Live flows: how they are asked for, told and printed.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use clap::Args;
use edge_listener::live::{LiveFlow, Wanted};
use endpoint_group::{Name, Protocol};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::commands::Ask;

/// The most flows in one answer.
pub const MOST: usize = 100_000;

/// Of `flows`.
#[derive(Debug, Args)]
pub struct FlowsArgs {
    /// Only those of this listener.
    #[arg(long, value_name = "NAME")]
    pub listener: Option<String>,
    /// Only those pinned to this endpoint.
    #[arg(long, value_name = "NAME")]
    pub endpoint: Option<String>,
    /// Only those of clients in this network, or of this one address.
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    pub client: Option<IpNet>,
    /// Only those of this protocol.
    #[arg(long, value_parser = ["tcp", "udp"])]
    pub protocol: Option<String>,
    /// How many at most.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = most)]
    pub limit: usize,
    /// Print JSON, for scripts.
    #[arg(long)]
    pub json: bool,
    /// Which edge.
    #[command(flatten)]
    pub ask: Ask,
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = || {
        text.parse::<IpAddr>().map(IpNet::from).map_err(|_| "write a network or an address, such as 203.0.113.0/24".to_owned())
    };
    text.parse().or_else(|_| address())
}

fn most(text: &str) -> Result<usize, String> {
    let most = text.parse().ok().filter(|most| (1..=MOST).contains(most));
    most.ok_or_else(|| format!("write a number from 1 to {MOST}"))
}

/// A question for flows, as it goes over the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsRequest {
    /// The listener's name.
    #[serde(default)]
    pub listener: Option<String>,
    /// The endpoint's name.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Where clients are.
    #[serde(default)]
    pub client: Option<IpNet>,
    /// `tcp` or `udp`.
    #[serde(default)]
    pub protocol: Option<String>,
    /// How many at most; more than [`MOST`] are not given.
    pub limit: usize,
}

impl From<&FlowsArgs> for FlowsRequest {
    fn from(args: &FlowsArgs) -> Self {
        let FlowsArgs { listener, endpoint, client, protocol, limit, .. } = args;
        Self {
            listener: listener.clone(),
            endpoint: endpoint.clone(),
            client: *client,
            protocol: protocol.clone(),
            limit: *limit,
        }
    }
}

impl FlowsRequest {
    /// What is wanted, or what is wrong with the question.
    pub fn wanted(&self) -> Result<Wanted, String> {
        let name = |name: &Option<String>| name.as_deref().map(Name::new).transpose().map_err(|error| error.to_string());
        let protocol = match self.protocol.as_deref() {
            None => None,
            Some("tcp") => Some(Protocol::Tcp),
            Some("udp") => Some(Protocol::Udp),
            Some(other) => return Err(format!("there is no protocol {other:?}; ask about \"tcp\" or \"udp\"")),
        };
        Ok(Wanted { listener: name(&self.listener)?, endpoint: name(&self.endpoint)?, protocol, clients: self.client })
    }
}

/// One live flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowStatus {
    /// The path that forwards it: `kernel` or `user`.
    pub path: String,
    /// Its listener.
    pub listener: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Who opened it.
    pub client: SocketAddr,
    /// The static IP and port that the client addresses.
    pub to: SocketAddr,
    /// The group of its endpoint; none while no endpoint has accepted.
    pub group: Option<String>,
    /// Its endpoint.
    pub endpoint: Option<String>,
    /// Whether an endpoint has ever answered.
    pub answered: bool,
    /// Since anything came from either side.
    pub quiet_seconds: f64,
}

impl FlowStatus {
    /// A flow of the path `path`.
    pub fn new(path: &str, flow: &LiveFlow) -> Self {
        let LiveFlow { listener, protocol, client, to, endpoint, answered, quiet } = flow;
        let (group, endpoint) = endpoint.as_ref().map(|(group, name)| (group.to_string(), name.to_string())).unzip();
        Self {
            path: path.to_owned(),
            listener: listener.to_string(),
            protocol: protocol.to_string(),
            client: *client,
            to: *to,
            group,
            endpoint,
            answered: *answered,
            quiet_seconds: quiet.as_secs_f64(),
        }
    }
}

/// One line a flow, for people.
pub fn render(flows: &[FlowStatus], limit: usize) -> String {
    let mut text = String::new();
    for flow in flows {
        let FlowStatus { path, listener, protocol, client, to, endpoint, answered, quiet_seconds, .. } = flow;
        let endpoint = endpoint.as_deref().unwrap_or("none yet");
        let answered = if *answered { "" } else { ", not answered" };
        let quiet = humantime::format_duration(Duration::from_secs(Duration::from_secs_f64(*quiet_seconds).as_secs()));
        // Writing to a string does not fail.
        let _ = writeln!(text, "{protocol} {client} -> {to} ({listener}): endpoint {endpoint}, {path}, quiet {quiet}{answered}");
    }
    if flows.is_empty() {
        text.push_str("no such flow\n");
    } else if flows.len() == limit {
        let _ = writeln!(text, "and perhaps more: --limit says how many are shown");
    }
    text
}
