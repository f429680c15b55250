//! The parts of a [`Config`](super::Config): what the sections of a file mean.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use ::endpoint_group::{Endpoint, EndpointGroup, Name, WhenAllUnhealthy};
use edge_listener::settings::ListenerSettings;
use health_checker::HealthCheck;

/// This host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Identity of the host, in `/status` and logs.
    pub name: Name,
    /// Forwarding threads.
    pub workers: NonZeroUsize,
    /// Whether each of them stays on a processor of its own.
    pub pin: bool,
    /// Read-only HTTP.
    pub admin: SocketAddr,
    /// Unix socket for commands that change something.
    pub control: PathBuf,
    /// The static IPs that this edge serves: at least one.
    pub announce: Vec<IpAddr>,
    /// Whom to ask for DNS names; empty: those of `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
    /// How long flows of a removed endpoint, or of an edge that stops, may go on.
    pub drain_timeout: Duration,
    /// Whether the in-kernel path may be used where there is one.
    pub fast_path: FastPath,
    /// Whether native XDP goes before TCX on devices.
    pub fast_path_xdp: FastPath,
    /// Addresses of this host that the kernel's packets to endpoints come from; empty: none.
    pub nat_addresses: Vec<IpAddr>,
    /// Their ports that nothing else on them uses.
    pub nat_ports: RangeInclusive<u16>,
    /// The devices that the kernel takes packets from; `None`: all that do.
    pub fast_path_devices: Option<Vec<String>>,
}

/// Use of the in-kernel path by the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FastPath {
    /// Wherever it is available.
    #[default]
    Auto,
    /// Or the edge does not start.
    On,
    /// Never.
    Off,
}

/// The path of one listener's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Forwarding {
    /// The edge chooses.
    #[default]
    Auto,
    /// User space.
    User,
    /// The kernel, or the edge does not start.
    Kernel,
}

/// What puts a listener's groups in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Proximity {
    /// The file.
    #[default]
    Listed,
    /// The round-trip times that this edge measures.
    Latency,
}

/// One listener.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// What the forwarding path needs.
    pub settings: ListenerSettings,
    /// Whether its `max_flows` is the default and not the file's: then it holds in user space alone.
    pub default_max_flows: bool,
    /// What becomes of new flows when no group is eligible.
    pub when_all_unhealthy: WhenAllUnhealthy,
    /// The path that its packets are to take.
    pub forwarding: Forwarding,
    /// Indices into [`Config::endpoint_groups`](super::Config::endpoint_groups), at least one, each once; in order of preference unless `proximity` says otherwise.
    pub groups: Vec<usize>,
    /// What puts them in order.
    pub proximity: Proximity,
}

/// One endpoint group and its health check.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The group as the rules of choice need it.
    pub group: EndpointGroup,
    /// What its probes ask.
    pub check: HealthCheck,
    /// Where its probes go.
    pub probe_port: ProbePort,
    /// The DNS names of endpoints that have one in place of an address; their `ip` is unspecified until
    /// [`Config::resolved`](super::Config::resolved) puts those in their place that the name leads to.
    pub hosts: BTreeMap<Name, String>,
}

/// The port that probes of a group go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbePort {
    /// The same for every endpoint.
    Fixed(u16),
    /// Where a flow to this listener port would go: an endpoint's fixed port, else the group's override, else the same.
    OfListenerPort(u16),
}

impl Group {
    /// Where probes of `endpoint` go.
    pub fn probe_address(&self, endpoint: &Endpoint) -> SocketAddr {
        let port = match self.probe_port {
            ProbePort::Fixed(port) => port,
            ProbePort::OfListenerPort(port) => self.group.endpoint_port(endpoint, port),
        };
        SocketAddr::new(endpoint.ip, port)
    }
}
