//! DNS names in place of addresses: one endpoint for every address that a name leads to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use ::endpoint_group::Endpoint;

use super::{Config, Group, crosscheck::MOST_ENDPOINTS};

/// Stands for the address of an endpoint that has a DNS name; no endpoint of a file can have it.
pub const UNRESOLVED: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What is known of DNS names.
pub type Addresses = BTreeMap<String, BTreeSet<IpAddr>>;

impl Group {
    /// The address of `endpoint` in the words of the file.
    pub fn address(&self, endpoint: &Endpoint) -> String {
        match (self.hosts.get(&endpoint.name), endpoint.port) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.clone(),
            (None, Some(port)) => SocketAddr::new(endpoint.ip, port).to_string(),
            (None, None) => endpoint.ip.to_string(),
        }
    }
}

impl Config {
    /// Every DNS name of the file, each once.
    pub fn hosts(&self) -> BTreeSet<&str> {
        self.endpoint_groups.iter().flat_map(|group| group.hosts.values()).map(String::as_str).collect()
    }

    /// This config with an endpoint `name#address` for every address of an endpoint's DNS name, each with the endpoint's full weight,
    /// and none where nothing is known of the name.
    ///
    /// Addresses that another endpoint of the group has are left out, and so are static IPs, to which flows would return.
    pub fn resolved(&self, known: &Addresses) -> Self {
        let mut config = self.clone();
        let mut room = MOST_ENDPOINTS;
        for group in &mut config.endpoint_groups {
            let (mut endpoints, named): (Vec<_>, Vec<_>) =
                group.group.endpoints.drain(..).partition(|endpoint| !group.hosts.contains_key(&endpoint.name));
            for endpoint in named {
                for &ip in group.hosts.get(&endpoint.name).and_then(|host| known.get(host)).into_iter().flatten() {
                    let taken = endpoints.iter().any(|other| (other.ip, other.port) == (ip, endpoint.port));
                    if !taken && !self.static_ips.contains(&ip) && endpoints.len() < room {
                        endpoints.push(Endpoint { name: endpoint.name.at(ip), ip, ..endpoint.clone() });
                    }
                }
            }
            room = room.saturating_sub(endpoints.len());
            group.hosts.clear();
            group.group.endpoints = endpoints;
        }
        config
    }
}
