//! Whether the kernel forwards, decided once at the start: what the file wants, what it allows and what the host lets.

use edge_listener::{bind, client_ip::ClientIp, settings::OnUnhealthy};
use endpoint_group::{Name, RoutingTable};
use fast_path::{FastPath, Limits, NatPool, Settings, Timeouts};

use super::{devices::Devices, ways::Ways};
use crate::config::{Config, FastPath as Wanted, Forwarding, ForwardingPath as Path, Listener};

/// Endpoint ids are 16 bits, and two are taken. There is room for all: endpoints come by reloads and DNS names, and an id is not used again.
const MOST_ENDPOINTS: usize = 65_534;

/// The kernel is to forward, and cannot.
#[derive(Debug, thiserror::Error)]
#[error("{key} asks for the kernel, which cannot forward: {reason}; see to it, or write \"auto\"")]
pub struct Required {
    key: String,
    reason: String,
}

/// Loaded and attached, without a table: it refuses everything.
#[derive(Debug)]
pub struct Ready {
    pub(super) fast_path: FastPath,
    pub(super) devices: Devices,
    pub(super) ways: Ways,
    pub(super) listeners: Vec<usize>,
    pub(super) names: Vec<Name>,
}

/// Who forwards what.
#[derive(Debug)]
pub struct Decision {
    /// Where the UDP of each listener is forwarded; `None` where it serves none.
    pub paths: Vec<Option<Path>>,
    /// The fast path, where there is one.
    pub ready: Option<Ready>,
}

/// Loads and attaches the fast path if `config` lets it, or says why not; an error where it must.
pub fn decide(config: &Config) -> Result<Decision, Required> {
    let mut paths: Vec<_> = config.listeners.iter().map(|listener| config.path(listener, &bind::is_local)).collect();
    for (listener, path) in config.listeners.iter().zip(&paths) {
        if let (Forwarding::Kernel, Some(Path::User(reason))) = (listener.forwarding, path) {
            return Err(Required { key: key_of(listener), reason: reason.clone() });
        }
    }
    let wanted: Vec<usize> = (0..paths.len()).filter(|&index| paths[index] == Some(Path::Kernel)).collect();
    if wanted.is_empty() {
        let reason = paths.iter().flatten().find_map(|path| match path {
            Path::User(reason) => Some(reason.clone()),
            Path::Kernel => None,
        });
        if let Some(key) = required_by(config) {
            let reason = reason.unwrap_or_else(|| "no listener serves udp".to_owned());
            return Err(Required { key, reason });
        }
        if let Some(reason) = reason.filter(|_| config.edge.fast_path == Wanted::Auto) {
            tracing::info!("all packets are forwarded in user space: {reason}");
        }
        return Ok(Decision { paths, ready: None });
    }
    match load(config, wanted) {
        Ok(ready) => {
            tracing::info!(
                listeners = ready.listeners.len(),
                devices = ready.fast_path.devices().join(" "),
                "forwarding in the kernel"
            );
            Ok(Decision { paths, ready: Some(ready) })
        }
        Err(reason) => {
            if let Some(key) = required_by(config) {
                return Err(Required { key, reason });
            }
            tracing::info!("all packets are forwarded in user space: {reason}");
            paths
                .iter_mut()
                .filter(|path| **path == Some(Path::Kernel))
                .for_each(|path| *path = Some(Path::User(reason.clone())));
            Ok(Decision { paths, ready: None })
        }
    }
}

impl Ready {
    /// Gives the kernel its first table, before any packet could find the static IPs served.
    pub fn publish(&mut self, table: &RoutingTable) {
        if let Err(error) = self.fast_path.publish(table) {
            tracing::error!("{error}; the kernel refuses all flows until it succeeds");
        }
    }

    /// The listeners that it forwards; indices of the configuration.
    pub fn listeners(&self) -> &[usize] {
        &self.listeners
    }
}

fn key_of(listener: &Listener) -> String {
    format!("forwarding = \"kernel\" of listener {}", listener.settings.name)
}

fn required_by(config: &Config) -> Option<String> {
    let listener = config.listeners.iter().find(|listener| listener.forwarding == Forwarding::Kernel);
    let keys = [("fast_path", config.edge.fast_path), ("fast_path_xdp", config.edge.fast_path_xdp)];
    let on = keys.into_iter().find(|(_, wanted)| *wanted == Wanted::On);
    listener.map(key_of).or_else(|| on.map(|(key, _)| format!("{key} = \"on\"")))
}

fn load(config: &Config, listeners: Vec<usize>) -> Result<Ready, String> {
    if let Some(ip) = config.edge.nat_addresses.iter().find(|&&ip| !bind::is_local(ip)) {
        return Err(format!(
            "nat_addresses: {ip} is no address of this host, so replies to it would not come here; add it, or name another"
        ));
    }
    let settings = Settings {
        hash_seed: config.hash_seed,
        static_ips: config.edge.announce.clone(),
        listeners: listeners.iter().filter_map(|&index| accelerated(config, index, listeners.len())).collect(),
        nat: NatPool { addresses: config.edge.nat_addresses.clone(), ports: config.edge.nat_ports.clone() },
        max_endpoints: MOST_ENDPOINTS,
        // Addresses of the host: its own programs ask DNS servers and the clock from them.
        shared_with_sockets: true,
    };
    let mut fast_path = FastPath::load(settings).map_err(|error| error.to_string())?;
    let mut devices = Devices::new(config);
    let up = fast_path::devices().map_err(|error| format!("the devices of this host cannot be listed: {error}"))?;
    devices.look(&mut fast_path, &up);
    let names = listeners.iter().map(|&index| config.listeners[index].settings.name.clone()).collect();
    let ways = Ways::new(config, &listeners);
    match devices.lack(&fast_path).or_else(|| ways.first_unheard(&mut fast_path, &devices, &up)) {
        None => {
            warn_of_others();
            Ok(Ready { fast_path, devices, ways, listeners, names })
        }
        Some(reason) => Err(reason),
    }
}

/// The UDP of listener `index`, one of `listeners` that the kernel forwards.
fn accelerated(config: &Config, index: usize, listeners: usize) -> Option<fast_path::Listener> {
    let listener = &config.listeners[index];
    let settings = &listener.settings;
    let udp = settings.udp.as_ref()?;
    let edge_listener::settings::Limits { max_flows_per_client, new_flows_per_client_per_second, .. } = settings.limits;
    let max_flows = config.kernel_max_flows(listener, listeners);
    Some(fast_path::Listener {
        index,
        ports: settings.ports.clone(),
        affinity: settings.affinity,
        transparent: udp.client_ip == ClientIp::Transparent,
        keep: udp.on_unhealthy == OnUnhealthy::Keep,
        carry_dscp: udp.carry_dscp,
        timeouts: Timeouts { idle: udp.idle_timeout, unanswered: udp.unanswered_timeout },
        limits: Limits { max_flows, max_flows_per_client, new_flows_per_client_per_second },
        access: super::access(&settings.access),
    })
}

/// Two edges on one host take each other's packets, and neither could tell by what it sees. Without the privilege to look, nothing is said.
fn warn_of_others() {
    let own = std::process::id();
    for other in fast_path::attachments().unwrap_or_default() {
        let Some(device) = other.device.filter(|_| other.process != own) else { continue };
        tracing::warn!(
            device,
            process = other.process,
            "another process forwards in the kernel here: give the two edges static IPs, nat_addresses and nat_ports of their own, or stop one"
        );
    }
}
