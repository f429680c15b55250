//! Routing tables as plain as tests need them.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
    time::Duration,
};

use endpoint_group::{
    Dial, EndpointId, Health, ListenerTable, MinHealthy, Name, PortOverrides, RoutingTable, Weight, WhenAllUnhealthy,
    failback::RampStep,
    plan::Plan,
    rendezvous::NameKey,
    table::{TableEndpoint, Target},
    view::{EndpointView, GroupView},
};
use fast_path::{Access, Limits, Listener, NatPool, Settings, Timeouts};

pub fn id(index: usize) -> EndpointId {
    EndpointId::new(index).unwrap()
}

fn name(index: usize) -> Name {
    Name::new(&format!("endpoint-{index}")).unwrap()
}

/// A listener whose flows go to `endpoints`, by equal weights; to none if that is empty.
pub fn listener_table(endpoints: &[usize]) -> ListenerTable {
    let endpoint = |&index: &usize| EndpointView {
        id: id(index),
        key: NameKey::endpoint(&name(index)),
        health: Health::Healthy,
        weight: Weight::default(),
        ramp: RampStep::FULL,
    };
    let group = GroupView {
        key: NameKey::group(&Name::new("group").unwrap()),
        dial: Dial::FULL,
        ramp: RampStep::FULL,
        min_healthy: MinHealthy::Count(NonZeroU16::MIN),
        endpoints: endpoints.iter().map(endpoint).collect(),
    };
    ListenerTable::build(Plan::new(&[&group], WhenAllUnhealthy::FailOpen))
}

pub fn endpoint(index: usize, ip: &str, port: Option<u16>, overrides: &[(u16, u16)]) -> TableEndpoint {
    let port_overrides: PortOverrides = overrides.iter().copied().collect();
    let target = Target {
        name: name(index),
        group: Name::new("group").unwrap(),
        ip: ip.parse().unwrap(),
        port,
        port_overrides: Arc::new(port_overrides),
    };
    TableEndpoint { target: Arc::new(target), health: Health::Healthy }
}

pub fn routing_table(endpoints: Vec<TableEndpoint>, listeners: Vec<ListenerTable>) -> RoutingTable {
    let listeners = listeners.into_iter().map(Arc::new).collect();
    RoutingTable { generation: 1, endpoints: endpoints.into(), listeners }
}

/// A listener that refuses nothing.
pub fn listener(index: usize, port: u16) -> Listener {
    Listener {
        index,
        ports: std::iter::once(port..=port).collect(),
        affinity: endpoint_group::Affinity::None,
        keep: false,
        transparent: false,
        carry_dscp: true,
        timeouts: Timeouts { idle: Duration::from_secs(30), unanswered: Duration::from_secs(5) },
        limits: Limits { max_flows: 1 << 16, max_flows_per_client: None, new_flows_per_client_per_second: None },
        access: Access::default(),
    }
}

pub fn settings(listeners: Vec<Listener>) -> Settings {
    Settings {
        hash_seed: 7,
        static_ips: ips(&["198.18.0.1", "fd18::1"]),
        listeners,
        nat: NatPool { addresses: ips(&["fd18:2::1", "198.18.2.1"]), ports: 40_000..=59_999 },
        max_endpoints: 16,
        shared_with_sockets: false,
    }
}

pub fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
