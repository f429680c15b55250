//! What is accelerated: checked when it is loaded, and fixed from then on but for what has a method of its own.

use std::{
    collections::HashSet,
    net::IpAddr,
    num::{NonZeroU32, NonZeroUsize},
    ops::RangeInclusive,
};

use endpoint_group::{Affinity, Protocol};
use ipnet::IpNet;

/// The most NAT addresses, of both families together.
pub const MOST_NAT_ADDRESSES: usize = 64;

/// The most flows of transparent listeners at once.
pub const MOST_TRANSPARENT_FLOWS: usize = 1 << 22;

/// What the kernel is to forward.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Key of the flow hash, the same on every edge.
    pub hash_seed: u64,
    /// The static IPs that this edge serves.
    pub static_ips: Vec<IpAddr>,
    /// The listeners to accelerate.
    pub listeners: Vec<Listener>,
    /// Where packets to endpoints come from, but for transparent listeners. Of a family that only these have it may be without an address.
    pub nat: NatPool,
    /// Endpoints that the routing table may grow to.
    pub max_endpoints: usize,
    /// Whether sockets of this host also receive UDP at the static IPs or NAT addresses. Fragments whose first is not known may then be
    /// theirs, and go to the host; else they are dropped.
    pub shared_with_sockets: bool,
}

/// The ports of a listener that is forwarded in user space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatched {
    /// Served on every static IP; no other listener has them for the same protocol.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Whether they are ports of TCP.
    pub tcp: bool,
    /// Whether they are ports of UDP.
    pub udp: bool,
}

impl Dispatched {
    /// Whether they are ports of `protocol`.
    pub fn serves(&self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Tcp => self.tcp,
            Protocol::Udp => self.udp,
        }
    }
}

/// The UDP part of one listener.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its place among the routing table's listeners.
    pub index: usize,
    /// Ports served on every static IP.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Which parts of a flow decide.
    pub affinity: Affinity,
    /// Whether flows stay at an endpoint that turns unhealthy (`on_unhealthy = "keep"`).
    pub keep: bool,
    /// Whether endpoints see the client's own address and port: replies must then come through this edge. A flow whose client port has
    /// another flow at the same endpoint and port falls back to a NAT address, or is refused where there is none.
    pub transparent: bool,
    /// Whether the six DSCP bits of a packet go on with it. The two ECN bits always do.
    pub carry_dscp: bool,
    /// When its flows are over.
    pub timeouts: crate::Timeouts,
    /// What is refused.
    pub limits: Limits,
    /// Whom it serves.
    pub access: Access,
}

/// What a listener refuses.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Flows at once in the kernel.
    pub max_flows: usize,
    /// Flows of one client at once (an IPv6 client is its /64); `None` is no limit.
    pub max_flows_per_client: Option<NonZeroUsize>,
    /// Flows that one client may begin in a second, and as many at once; `None` is no limit.
    pub new_flows_per_client_per_second: Option<NonZeroU32>,
}

/// Whom a listener serves. Deny wins; an empty `allow` is everyone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// The networks that are served.
    pub allow: Vec<IpNet>,
    /// The networks that are not.
    pub deny: Vec<IpNet>,
}

/// Addresses and ports that packets to endpoints come from; each pair carries one flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatPool {
    /// Addresses of this host.
    pub addresses: Vec<IpAddr>,
    /// Ports that nothing else on these addresses uses.
    pub ports: RangeInclusive<u16>,
}

impl NatPool {
    /// How many flows of one family can be at once. Beyond some 90 % of it the search for a port may come to nothing.
    pub fn capacity(&self, v6: bool) -> usize {
        self.addresses.iter().filter(|address| address.is_ipv6() == v6).count() * self.ports.len()
    }
}

impl Settings {
    /// Flows at once that transparent listeners may have.
    pub(crate) fn transparent_flows(&self) -> usize {
        let transparent = self.listeners.iter().filter(|listener| listener.transparent);
        transparent.fold(0, |sum: usize, listener| sum.saturating_add(listener.limits.max_flows))
    }

    /// Says what could not be loaded, with the cure.
    pub fn check(&self) -> Result<(), String> {
        let nat = &self.nat;
        if nat.ports.is_empty() || *nat.ports.start() == 0 {
            return Err(format!("nat_ports {:?} is no range of ports: give the first and a later last one", nat.ports));
        }
        if nat.addresses.len() > MOST_NAT_ADDRESSES {
            return Err(format!("{} NAT addresses are more than {MOST_NAT_ADDRESSES}: name fewer", nat.addresses.len()));
        }
        let distinct: HashSet<_> = nat.addresses.iter().collect();
        if distinct.len() < nat.addresses.len() {
            return Err("a NAT address is named twice: name each once".into());
        }
        for v6 in [false, true] {
            let serves = !self.listeners.iter().all(|listener| listener.transparent);
            if serves && self.static_ips.iter().any(|ip| ip.is_ipv6() == v6) && nat.capacity(v6) == 0 {
                let family = if v6 { "IPv6" } else { "IPv4" };
                return Err(format!(
                    "a static IP is {family}, but no NAT address is: add an {family} address of this host to nat_addresses"
                ));
            }
        }
        let transparent = self.transparent_flows();
        if transparent > MOST_TRANSPARENT_FLOWS {
            return Err(format!(
                "transparent listeners may have {transparent} flows, and {MOST_TRANSPARENT_FLOWS} fit: lower their max_flows"
            ));
        }
        for port in self.listeners.iter().flat_map(|listener| listener.ports.iter().cloned().flatten()) {
            let clash = self.static_ips.iter().find(|ip| nat.addresses.contains(ip) && nat.ports.contains(&port));
            if let Some(ip) = clash {
                return Err(format!(
                    "port {port} of {ip} is both a listener's and a NAT port: keep nat_ports apart from listeners"
                ));
            }
        }
        Ok(())
    }
}
