//! Endpoints whose replies come by a device that packets are not taken from: the host refuses those replies, while probes, which are
//! the host's own, go on well.

use std::{collections::BTreeMap, net::IpAddr};

use endpoint_group::Name;
use fast_path::{Error, FastPath};

use super::{devices::Devices, lister::Up};
use crate::{config::Config, control::status::UnheardStatus};

/// Endpoints that are asked about in one look.
const AT_ONCE: usize = 64;

/// The endpoints of listeners that the kernel forwards, and what is known of the ways to them.
#[derive(Debug, Default)]
pub struct Ways {
    endpoints: Vec<(Name, IpAddr)>,
    /// Where the next look begins.
    next: usize,
    /// The device of each endpoint that is not heard.
    unheard: BTreeMap<Name, String>,
}

impl Ways {
    /// Those of `config`'s listeners with these indices. Nothing is known of them yet.
    pub fn new(config: &Config, listeners: &[usize]) -> Self {
        let groups = listeners.iter().filter_map(|&index| config.listeners.get(index)).flat_map(|listener| &listener.groups);
        let groups = groups.filter_map(|&group| config.endpoint_groups.get(group));
        let mut endpoints: Vec<_> = groups.flat_map(|group| &group.group.endpoints).map(|e| (e.name.clone(), e.ip)).collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        Self { endpoints, ..Self::default() }
    }

    /// Goes on with the endpoints of `new`, and with what is known of them.
    pub fn replace(&mut self, new: Self) {
        self.endpoints = new.endpoints;
        self.unheard.retain(|endpoint, _| self.endpoints.iter().any(|(name, _)| name == endpoint));
    }

    /// Asks about all, and gives the first that is not heard.
    pub fn first_unheard(&self, fast_path: &mut FastPath, devices: &Devices, up: &Up) -> Option<String> {
        let mut endpoints = self.endpoints.iter();
        endpoints.find_map(|(endpoint, ip)| {
            let device = stray_device(*ip, fast_path, devices, up).ok()??;
            Some(format!(
                "endpoint {endpoint} is reached by device {device}, which packets are not taken from, so its replies would be refused"
            ))
        })
    }

    /// Asks about the next of them, and logs what has changed.
    pub fn look(&mut self, fast_path: &mut FastPath, devices: &Devices, up: &Up) {
        for _ in 0..AT_ONCE.min(self.endpoints.len()) {
            self.next %= self.endpoints.len();
            let (endpoint, ip) = &self.endpoints[self.next];
            self.next += 1;
            match stray_device(*ip, fast_path, devices, up) {
                Ok(device) if self.unheard.get(endpoint) == device.as_ref() => {}
                Ok(Some(device)) => {
                    let endpoint = endpoint.clone();
                    tracing::error!(
                        endpoint = endpoint.as_str(),
                        device,
                        "the host refuses replies of the endpoint: it is reached by a device that packets are not taken from; keep its \
                         listeners in user space (forwarding = \"user\"), or see why the device is not attached"
                    );
                    self.unheard.insert(endpoint, device);
                }
                Ok(None) => {
                    tracing::info!(endpoint = endpoint.as_str(), "replies of the endpoint are heard again");
                    self.unheard.remove(endpoint);
                }
                Err(error) => tracing::warn!("{error}"),
            }
        }
    }

    /// For `/status`.
    pub fn status(&self) -> Vec<UnheardStatus> {
        let unheard = self.unheard.iter();
        unheard.map(|(endpoint, device)| UnheardStatus { endpoint: endpoint.to_string(), device: device.clone() }).collect()
    }
}

/// The device by which `ip` is reached, if packets are not taken from it.
fn stray_device(ip: IpAddr, fast_path: &mut FastPath, devices: &Devices, up: &Up) -> Result<Option<String>, Error> {
    let way = fast_path.way_to(ip)?.filter(|&index| !devices.is_attached(index));
    let name =
        |way| up.iter().find(|&(_, &index)| index == way).map_or_else(|| format!("number {way}"), |(name, _)| name.clone());
    Ok(way.map(name))
}
