//! What an edge serves, as the forwarding path needs it: checked, complete, with nothing left to default.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::{NonZeroU32, NonZeroUsize},
    ops::RangeInclusive,
    time::Duration,
};

use endpoint_group::{Affinity, Name, Protocol};

use crate::{access::Access, client_ip::ClientIp};

/// Pipes that a forwarding thread keeps for bulk over TCP, of two descriptors each.
pub const PIPES_PER_WORKER: usize = 32;

/// What every listener of this edge shares.
#[derive(Debug, Clone)]
pub struct EdgeSettings {
    /// The static IPs that this edge serves.
    pub static_ips: Vec<IpAddr>,
    /// Key of the flow hash, the same on every edge.
    pub hash_seed: u64,
    /// Forwarding threads.
    pub workers: NonZeroUsize,
    /// Whether each forwarding thread stays on a processor of its own, of those that the process may use.
    pub pin: bool,
    /// In the order of the file; the routing table's listeners have the same order.
    pub listeners: Vec<ListenerSettings>,
}

impl EdgeSettings {
    /// Whether `address` is one where a listener of this edge takes datagrams.
    pub fn serves_udp(&self, address: SocketAddr) -> bool {
        let mut ports = self.listeners.iter().filter(|listener| listener.udp.is_some()).flat_map(|listener| &listener.ports);
        self.static_ips.contains(&address.ip()) && ports.any(|range| range.contains(&address.port()))
    }
}

/// One listener.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerSettings {
    /// Identity, and metric label.
    pub name: Name,
    /// Ports served on every static IP; ranges do not overlap.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Which parts of a flow decide.
    pub affinity: Affinity,
    /// TCP, if served.
    pub tcp: Option<TcpSettings>,
    /// UDP, if served.
    pub udp: Option<UdpSettings>,
    /// Whom it serves.
    pub access: Access,
    /// What is refused.
    pub limits: Limits,
}

/// TCP of a listener.
#[derive(Debug, Clone, PartialEq)]
pub struct TcpSettings {
    /// A connection without a byte in either direction for this long is closed.
    pub idle_timeout: Duration,
    /// How long one endpoint may take to accept.
    pub connect_timeout: Duration,
    /// Endpoints tried before the client is reset.
    pub connect_attempts: NonZeroUsize,
    /// What becomes of connections to an endpoint that turns unhealthy.
    pub on_unhealthy: OnUnhealthy,
    /// Whether the endpoint is told who the client is.
    pub client_ip: ClientIp,
    /// The largest segment that either side may send to this host; `None` leaves it to the route.
    pub mss: Option<u16>,
    /// The socket towards the client.
    pub client_socket: LegOptions,
    /// The socket towards the endpoint.
    pub endpoint_socket: LegOptions,
}

/// One of the two sockets of a proxied connection. What is `None` is the kernel's default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegOptions {
    /// Whether small writes go out at once (`TCP_NODELAY`); else they wait while sent bytes are unacknowledged.
    pub nodelay: bool,
    /// Silence after which the kernel asks whether the peer is still there, and the gap between its questions (`SO_KEEPALIVE`,
    /// `TCP_KEEPIDLE`, `TCP_KEEPINTVL`); whole seconds.
    pub keepalive: Option<Duration>,
    /// How long sent bytes may stay unacknowledged before the connection is given up (`TCP_USER_TIMEOUT`).
    pub user_timeout: Option<Duration>,
    /// The congestion control algorithm, one of `net.ipv4.tcp_allowed_congestion_control` (`TCP_CONGESTION`).
    pub congestion: Option<String>,
}

impl Default for LegOptions {
    fn default() -> Self {
        Self { nodelay: true, keepalive: None, user_timeout: None, congestion: None }
    }
}

/// UDP of a listener.
#[derive(Debug, Clone, PartialEq)]
pub struct UdpSettings {
    /// A flow without a datagram in either direction for this long ends.
    pub idle_timeout: Duration,
    /// A flow whose endpoint has never answered ends after this long without a datagram, and makes room first when the listener is full.
    pub unanswered_timeout: Duration,
    /// Whether the six DSCP bits of a datagram go on with it. The two ECN bits always do.
    pub carry_dscp: bool,
    /// What becomes of flows to an endpoint that turns unhealthy.
    pub on_unhealthy: OnUnhealthy,
    /// Whether the endpoint is told who the client is.
    pub client_ip: ClientIp,
}

/// What becomes of flows to an endpoint that turns unhealthy while there is somewhere to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnhealthy {
    /// They leave: a UDP flow moves on its next datagram, a TCP connection is reset so that the client comes back.
    Leave,
    /// They stay until they end.
    Keep,
}

/// What a listener refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Flows at once, both protocols together.
    pub max_flows: usize,
    /// Flows of one client at once (an IPv6 client is its /64); `None` is no limit.
    pub max_flows_per_client: Option<NonZeroUsize>,
    /// Flows that one client (as above) may begin in a second, and as many at once; `None` is no limit.
    pub new_flows_per_client_per_second: Option<NonZeroU32>,
}

impl ListenerSettings {
    /// The protocols served.
    pub fn protocols(&self) -> impl Iterator<Item = Protocol> {
        let tcp = self.tcp.as_ref().map(|_| Protocol::Tcp);
        tcp.into_iter().chain(self.udp.as_ref().map(|_| Protocol::Udp))
    }

    /// Every port served.
    pub fn all_ports(&self) -> impl Iterator<Item = u16> {
        self.ports.iter().cloned().flatten()
    }

    /// The first port of the first range, where health checks go unless told otherwise.
    pub fn first_port(&self) -> Option<u16> {
        self.ports.first().map(|range| *range.start())
    }
}

impl fmt::Display for OnUnhealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leave => "leave",
            Self::Keep => "keep",
        })
    }
}
