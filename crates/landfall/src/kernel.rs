//! The in-kernel path of this edge: which listeners it has (`start`), and the thread that owns it (`owner`). And what the kernel does for
//! listeners of many ports that it does not forward (`dispatch`).
//!
//! The control loop publishes to it before it publishes to workers; whoever asks anything asks the owner's thread, which looks for
//! flows that are over each second and lets others in between two parts of that.

mod devices;
mod dispatch;
mod lister;
mod owner;
mod start;
mod ways;

use std::sync::{
    Arc,
    mpsc::{self, Sender},
};

use edge_listener::{
    access::Access,
    bind,
    live::{LiveFlow, Wanted},
};
use endpoint_group::{EndpointId, FlowKey, Protocol, RoutingTable};
use tokio::sync::oneshot;

pub use self::{
    dispatch::{Dispatcher, NoDispatcher, dispatcher},
    start::{Decision, Ready, Required, decide},
};
use self::{owner::Owner, ways::Ways};
use crate::{
    config::{Config, ForwardingPath},
    control::status::{DeviceStatus, UnheardStatus},
};

/// Lists of networks as the fast path takes them.
fn access(access: &Access) -> fast_path::Access {
    fast_path::Access { allow: access.allow().to_vec(), deny: access.deny().to_vec() }
}

type Job = Box<dyn FnOnce(&mut Owner) + Send>;

/// A handle to the owner's thread, which ends with the last of them. Cloning is cheap.
#[derive(Clone)]
pub struct Kernel {
    jobs: Sender<Job>,
    /// The listeners that it forwards, in order; indices of the configuration.
    listeners: Arc<[usize]>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl Kernel {
    /// A listener that it forwards and could not under `config`, and why.
    pub fn misfit(&self, config: &Config) -> Option<(String, String)> {
        let mut forwarded = self.listeners.iter().filter_map(|&index| config.listeners.get(index));
        forwarded.find_map(|listener| match config.path(listener, &bind::is_local)? {
            ForwardingPath::User(reason) => Some((listener.settings.name.to_string(), reason)),
            ForwardingPath::Kernel => None,
        })
    }

    /// Makes `table` the one that packets are decided by, and returns when it is.
    pub fn publish(&self, table: RoutingTable) {
        self.ask(|owner| owner.publish(table));
    }

    /// Has each listener serve whom `config` says, or on an error all of them whom they did before.
    pub fn set_access(&self, config: &Config) -> Result<(), fast_path::Error> {
        let access = |index: usize| access(&config.listeners[index].settings.access);
        let lists = self.listeners.iter().map(|&index| access(index)).enumerate().collect();
        self.ask(|owner| owner.set_access(lists)).unwrap_or(Ok(()))
    }

    /// Where `flow` is, if the kernel has it.
    pub async fn find(&self, flow: &FlowKey) -> Option<EndpointId> {
        if flow.protocol != Protocol::Udp {
            return None;
        }
        let (answer, found) = oneshot::channel();
        let FlowKey { client, to, .. } = *flow;
        // Err, here and below: the thread has ended.
        let _ = self.jobs.send(Box::new(move |owner: &mut Owner| _ = answer.send(owner.find(client, to))));
        found.await.ok().flatten()
    }

    /// At most `most` flows that are wanted, in no order. Packets are forwarded meanwhile, so a flow that begins or ends may be missed.
    pub async fn list(&self, wanted: &Arc<Wanted>, most: usize) -> Vec<LiveFlow> {
        let mut flows = Vec::new();
        let mut number = 0;
        while flows.len() < most {
            let (answer, found) = oneshot::channel();
            let wanted = Arc::clone(wanted);
            let left = most - flows.len();
            let _ = self.jobs.send(Box::new(move |owner: &mut Owner| _ = answer.send(owner.list(&wanted, number, left))));
            let Ok(Some(page)) = found.await else { break };
            flows.extend(page);
            number += 1;
        }
        flows
    }

    /// The devices that packets are to be taken from.
    pub fn devices(&self) -> Vec<DeviceStatus> {
        self.ask(|owner| owner.devices()).unwrap_or_default()
    }

    /// The endpoints whose replies are refused, because they come by a device that packets are not taken from.
    pub fn unheard(&self) -> Vec<UnheardStatus> {
        self.ask(|owner| owner.unheard()).unwrap_or_default()
    }

    /// Watches the ways to the endpoints of `config` from now on.
    pub fn watch(&self, config: &Config) {
        let ways = Ways::new(config, &self.listeners);
        self.ask(move |owner| owner.watch(ways));
    }

    /// Packets carried, by the hook of the kernel that did it.
    pub fn by_hook(&self) -> [(&'static str, u64); 2] {
        let [xdp, tcx] = self.ask(|owner| owner.by_hook()).unwrap_or_default();
        [("xdp", xdp), ("tcx", tcx)]
    }

    /// Packets dropped that belong to no listener, by reason.
    pub fn strays(&self) -> Vec<(&'static str, u64)> {
        self.ask(|owner| owner.strays()).unwrap_or_default()
    }

    /// Refuses new flows from now on. What is returned resolves when the last flow has ended.
    pub fn drain(&self) -> oneshot::Receiver<()> {
        let (drained, waiting) = oneshot::channel();
        self.ask(|owner| owner.drain(drained));
        waiting
    }

    /// Ends the flows that are left.
    pub fn end(&self) {
        self.ask(Owner::end);
    }

    /// Has the thread do `job`, and waits for it.
    fn ask<T: Send + 'static>(&self, job: impl FnOnce(&mut Owner) -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.jobs.send(Box::new(move |owner: &mut Owner| _ = answer.send(job(owner)))).ok()?;
        answered.recv().ok()
    }
}
