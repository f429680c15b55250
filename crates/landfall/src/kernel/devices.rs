//! The devices that packets are taken from, as they come and go.

use std::collections::BTreeMap;

use fast_path::FastPath;

use super::lister::Up;
use crate::{config::Config, control::status::DeviceStatus};

/// Those wanted, and what came of it.
#[derive(Debug)]
pub struct Devices {
    named: Option<Vec<String>>,
    /// The device of the routes, which takes no packets.
    except: Option<String>,
    /// The indices of those that are attached: one that is made anew under its name is another, and the link went with the old one.
    indices: BTreeMap<String, u32>,
    /// Why a device that is wanted is not attached.
    failed: BTreeMap<String, String>,
}

impl Devices {
    /// Those that `config` names, or all that are up.
    pub fn new(config: &Config) -> Self {
        let except = config.anycast.as_ref().map(|anycast| anycast.device.clone());
        Self { named: config.edge.fast_path_devices.clone(), except, indices: BTreeMap::new(), failed: BTreeMap::new() }
    }

    /// Attaches what has come up and lets go of what is gone, now that these devices are `up`.
    pub fn look(&mut self, fast_path: &mut FastPath, up: &Up) {
        self.indices.retain(|device, index| {
            let there = up.get(device) == Some(index) && fast_path.is_attached(device);
            if !there {
                // Err: the link went with the device.
                let _ = fast_path.detach(device);
                tracing::info!(device, "the fast path lost a device");
            }
            there
        });
        let wanted: Vec<String> = match &self.named {
            Some(named) => named.clone(),
            None => up.keys().filter(|&device| self.except.as_ref() != Some(device)).cloned().collect(),
        };
        self.failed.retain(|device, _| wanted.contains(device));
        for device in wanted {
            if self.indices.contains_key(&device) {
                continue;
            }
            let Some(&index) = up.get(&device) else {
                self.fails(device, "it is down, or is none of this host's: set it up, or name another".to_owned());
                continue;
            };
            match fast_path.attach(&device) {
                Ok(()) => {
                    tracing::info!(device, "the fast path takes packets");
                    self.failed.remove(&device);
                    self.indices.insert(device, index);
                }
                Err(error) => self.fails(device, error.to_string()),
            }
        }
    }

    fn fails(&mut self, device: String, reason: String) {
        if self.failed.get(&device) != Some(&reason) {
            tracing::warn!(
                device,
                "packets for accelerated listeners that arrive here are refused, replies of endpoints too: {reason}"
            );
            self.failed.insert(device, reason);
        }
    }

    /// Whether packets are taken from the device with this index.
    pub fn is_attached(&self, index: u32) -> bool {
        self.indices.values().any(|&attached| attached == index)
    }

    /// Why there is nothing to take packets from, if so: none is attached, or one that was named is not.
    pub fn lack(&self, fast_path: &FastPath) -> Option<String> {
        let failed = || self.failed.values().next().cloned();
        match self.named {
            Some(_) => failed(),
            None if fast_path.devices().is_empty() => Some(failed().unwrap_or_else(|| "no network device is up".to_owned())),
            None => None,
        }
    }

    /// For `/status`.
    pub fn status(&self, fast_path: &FastPath) -> Vec<DeviceStatus> {
        let attached =
            fast_path.devices().into_iter().map(|name| DeviceStatus { name, mode: "tcx".into(), reason: String::new() });
        let failed = self.failed.iter();
        let failed =
            failed.map(|(name, reason)| DeviceStatus { name: name.clone(), mode: "none".into(), reason: reason.clone() });
        attached.chain(failed).collect()
    }
}
