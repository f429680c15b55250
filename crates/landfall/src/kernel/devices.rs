//! The devices that packets are taken from, as they come and go.

use std::collections::BTreeMap;

use fast_path::FastPath;

use super::lister::Up;
use crate::{
    config::{Config, FastPath as Wanted},
    control::status::DeviceStatus,
};

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
    xdp: Wanted,
    /// Why XDP, if it is wanted, is not on a device that is attached.
    without_xdp: BTreeMap<String, WithoutXdp>,
}

/// What keeps XDP from a device.
#[derive(Debug, PartialEq, Eq)]
enum WithoutXdp {
    /// What kind of device it is, which may change.
    Unfit(String),
    /// It was tried, and is tried again when the device has been down.
    Refused(String),
}

impl WithoutXdp {
    fn reason(&self) -> &str {
        let (Self::Unfit(reason) | Self::Refused(reason)) = self;
        reason
    }
}

impl Devices {
    /// Those that `config` names, or all that are up.
    pub fn new(config: &Config) -> Self {
        let except = config.anycast.as_ref().map(|anycast| anycast.device.clone());
        Self {
            named: config.edge.fast_path_devices.clone(),
            except,
            indices: BTreeMap::new(),
            failed: BTreeMap::new(),
            xdp: config.edge.fast_path_xdp,
            without_xdp: BTreeMap::new(),
        }
    }

    /// Attaches what has come up and lets go of what is gone, now that these devices are `up`.
    pub fn look(&mut self, fast_path: &mut FastPath, up: &Up) {
        self.indices.retain(|device, index| {
            // One that is down stays attached: the first packet when it is up again may come before the next look.
            let there = up.get(device).is_none_or(|now| now == index) && fast_path.is_attached(device);
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
        self.without_xdp.retain(|device, _| self.indices.contains_key(device) && up.contains_key(device));
        for device in wanted {
            match (up.get(&device), self.indices.contains_key(&device)) {
                (Some(_), true) => self.look_for_xdp(fast_path, &device),
                (Some(&index), false) => self.attach(fast_path, device, index),
                (None, true) => {}
                (None, false) => {
                    let reason = format!("device {device} is down, or is none of this host's: set it up, or name another");
                    self.fails(device, reason);
                }
            }
        }
    }

    fn attach(&mut self, fast_path: &mut FastPath, device: String, index: u32) {
        match fast_path.attach(&device) {
            Ok(()) => {
                tracing::info!(device, "the fast path takes packets");
                self.failed.remove(&device);
                self.look_for_xdp(fast_path, &device);
                self.indices.insert(device, index);
            }
            Err(error) => self.fails(device, error.to_string()),
        }
    }

    /// Puts XDP on a device that is attached, or takes it away, as the device is now.
    fn look_for_xdp(&mut self, fast_path: &mut FastPath, device: &str) {
        let mut without = match self.xdp {
            Wanted::Off => return,
            Wanted::On => None,
            Wanted::Auto => match fast_path::unfit_for_xdp(device) {
                Ok(unfit) => unfit.map(WithoutXdp::Unfit),
                Err(error) => Some(WithoutXdp::Unfit(format!("its driver cannot be asked: {error}"))),
            },
        };
        if without.is_some() {
            fast_path.detach_xdp(device);
        } else if let Some(WithoutXdp::Refused(reason)) = self.without_xdp.get(device) {
            without = Some(WithoutXdp::Refused(reason.clone()));
        } else if !fast_path.has_xdp(device) {
            match fast_path.attach_xdp(device) {
                Ok(()) => tracing::info!(device, "native XDP carries most of its packets"),
                Err(error) => without = Some(WithoutXdp::Refused(error.to_string())),
            }
        }
        if let Err(error) = fast_path.follow(device) {
            tracing::warn!(device, "{error}; it is tried again");
        }
        match without {
            Some(without) if self.without_xdp.get(device) != Some(&without) => {
                tracing::info!(device, "without XDP: {}", without.reason());
                self.without_xdp.insert(device.to_owned(), without);
            }
            Some(_) => {}
            None => drop(self.without_xdp.remove(device)),
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
        if let (Wanted::On, Some(without)) = (self.xdp, self.without_xdp.values().next()) {
            return Some(without.reason().to_owned());
        }
        let failed = || self.failed.values().next().cloned();
        match self.named {
            Some(_) => failed(),
            None if fast_path.devices().is_empty() => Some(failed().unwrap_or_else(|| "no network device is up".to_owned())),
            None => None,
        }
    }

    /// For `/status`.
    pub fn status(&self, fast_path: &FastPath) -> Vec<DeviceStatus> {
        let attached = fast_path.devices().into_iter().map(|name| {
            let mode = if fast_path.has_xdp(&name) { "xdp+tcx" } else { "tcx" };
            let reason = self.without_xdp.get(&name).map(|without| format!("without XDP: {}", without.reason()));
            DeviceStatus { name, mode: mode.into(), reason: reason.unwrap_or_default() }
        });
        let failed = self.failed.iter();
        let failed =
            failed.map(|(name, reason)| DeviceStatus { name: name.clone(), mode: "none".into(), reason: reason.clone() });
        attached.chain(failed).collect()
    }
}
