//! Live flows as they are shown to people.

use std::{net::SocketAddr, time::Duration};

use endpoint_group::{EndpointId, Name, Protocol, table::TableEndpoint};
use ipnet::IpNet;

/// Which flows are wanted: those that agree with all that is there.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Of this listener.
    pub listener: Option<Name>,
    /// Pinned to this endpoint.
    pub endpoint: Option<Name>,
    /// Of this protocol.
    pub protocol: Option<Protocol>,
    /// Of clients in this network.
    pub clients: Option<IpNet>,
}

/// A flow as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveFlow {
    /// Its listener.
    pub listener: Name,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Who opened it.
    pub client: SocketAddr,
    /// The static IP and port that the client addresses.
    pub to: SocketAddr,
    /// Its endpoint's group and name; `None` while none has accepted.
    pub endpoint: Option<(Name, Name)>,
    /// Whether an endpoint has ever answered.
    pub answered: bool,
    /// How long nothing has come from either side.
    pub quiet: Duration,
}

/// The same as its path keeps it.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Who opened it.
    pub client: SocketAddr,
    /// What the client addresses.
    pub to: SocketAddr,
    /// Where it is pinned.
    pub endpoint: Option<EndpointId>,
    /// Whether an endpoint has ever answered.
    pub answered: bool,
    /// How long nothing has come from either side.
    pub quiet: Duration,
}

impl Wanted {
    /// The flow, if it is wanted. Names are copied for those alone.
    pub fn take(&self, seen: &Seen, listener: &Name, endpoints: &[TableEndpoint]) -> Option<LiveFlow> {
        let &Seen { protocol, client, to, endpoint, answered, quiet } = seen;
        let target = endpoint.and_then(|id| endpoints.get(id.index())).map(|endpoint| &endpoint.target);
        let wanted = self.listener.as_ref().is_none_or(|wanted| wanted == listener)
            && self.protocol.is_none_or(|wanted| wanted == protocol)
            && self.clients.is_none_or(|wanted| wanted.contains(&client.ip()))
            && self.endpoint.as_ref().is_none_or(|wanted| target.is_some_and(|target| target.name == *wanted));
        wanted.then(|| LiveFlow {
            listener: listener.clone(),
            protocol,
            client,
            to,
            endpoint: target.map(|target| (target.group.clone(), target.name.clone())),
            answered,
            quiet,
        })
    }
}
