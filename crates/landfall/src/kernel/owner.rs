//! The thread that owns the fast path: does what it is asked, and each second ends the flows that are over and tells what was counted.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use edge_listener::{
    account::Books,
    live::{LiveFlow, Seen, Wanted},
    other_path::{Pinned, Reading, Tally},
};
use endpoint_group::{EndpointId, Name, Protocol, RoutingTable, table::TableEndpoint};
use fast_path::{DropReason, EndReason, Error, FastPath, FlowEntry, ListenerCounters, Refusals, Sweep};
use tokio::sync::oneshot;

use super::{Job, Kernel, devices::Devices, lister::Lister, start::Ready, ways::Ways};
use crate::control::status::{DeviceStatus, UnheardStatus};

/// Between two looks at the flows.
const LOOK: Duration = Duration::from_secs(1);

/// Endpoints whose counters are read before others are let in.
const ENDPOINTS_AT_ONCE: usize = 256;

/// What the thread works with.
pub(super) struct Owner {
    fast_path: FastPath,
    devices: Devices,
    lister: Lister,
    ways: Ways,
    /// By place in the kernel, indices of the configuration.
    listeners: Arc<[usize]>,
    /// Likewise, their names.
    names: Vec<Name>,
    books: Arc<Books>,
    /// Those of the table published last.
    endpoints: Arc<[TableEndpoint]>,
    /// A table that the kernel could not take; it is tried again.
    unpublished: Option<RoutingTable>,
    /// What the last sweep found.
    flows: Sweep,
    /// Flows that each endpoint ever had, by id.
    opened: Vec<u64>,
    strays: Vec<(&'static str, u64)>,
    /// Packets carried by XDP, and by TCX.
    by_hook: [u64; 2],
    /// Who waits for the last flow to end.
    drained: Option<oneshot::Sender<()>>,
    next_look: Duration,
}

impl Ready {
    /// Starts the owner's thread. What the kernel counts goes into `books`; the endpoints that refuse come out.
    pub fn start(self, books: Arc<Books>, table: &RoutingTable) -> io::Result<(Kernel, Option<Refusals>)> {
        let Self { mut fast_path, devices, ways, listeners, names } = self;
        let listeners: Arc<[usize]> = listeners.into();
        let refusals = fast_path.refusals();
        let owner = Owner {
            fast_path,
            devices,
            lister: Lister::start()?,
            ways,
            listeners: Arc::clone(&listeners),
            names,
            books,
            endpoints: Arc::clone(&table.endpoints),
            unpublished: None,
            flows: Sweep::default(),
            opened: Vec::new(),
            strays: Vec::new(),
            by_hook: [0; 2],
            drained: None,
            next_look: fast_path::clock(),
        };
        let (jobs, receiver) = mpsc::channel();
        thread::Builder::new().name("fast-path".into()).spawn(move || owner.run(&receiver))?;
        Ok((Kernel { jobs, listeners }, refusals))
    }
}

impl Owner {
    fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            match jobs.recv_timeout(self.next_look.saturating_sub(fast_path::clock())) {
                Ok(job) => job(&mut self),
                Err(RecvTimeoutError::Timeout) => {
                    self.next_look = fast_path::clock() + LOOK;
                    if let Err(error) = self.look(jobs) {
                        tracing::warn!("{error}; it is tried again");
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn look(&mut self, jobs: &Receiver<Job>) -> Result<(), Error> {
        if let Some(table) = self.unpublished.take() {
            self.publish(table);
        }
        if let Some(up) = self.lister.list() {
            self.devices.look(&mut self.fast_path, &up);
            self.ways.look(&mut self.fast_path, &self.devices, &up);
        }
        let mut flows = Sweep::default();
        for number in 0..self.fast_path.parts() {
            flows += self.fast_path.sweep_part(fast_path::clock(), number)?;
            // A publication waits for the flows of one part, not for all.
            jobs.try_iter().for_each(|job| job(self));
        }
        self.flows = flows;
        self.count_opened(jobs)?;
        self.tell()?;
        if self.flows.live == 0 {
            self.tell_drained();
        }
        Ok(())
    }

    fn tell_drained(&mut self) {
        if let Some(drained) = self.drained.take() {
            // Err: whoever waited has lost patience.
            let _ = drained.send(());
        }
    }

    pub(super) fn publish(&mut self, table: RoutingTable) {
        self.endpoints = Arc::clone(&table.endpoints);
        self.unpublished = None;
        if let Err(error) = self.fast_path.publish(&table) {
            tracing::error!("{error}; the kernel goes on with the table before, and this is tried again");
            self.unpublished = Some(table);
        }
    }

    pub(super) fn set_access(&mut self, lists: Vec<(usize, fast_path::Access)>) -> Result<(), Error> {
        self.fast_path.set_access(lists)
    }

    pub(super) fn find(&self, client: SocketAddr, to: SocketAddr) -> Option<EndpointId> {
        match self.fast_path.flow(client, to) {
            Ok(flow) => flow.map(|flow| flow.endpoint),
            Err(error) => {
                tracing::warn!("{error}");
                None
            }
        }
    }

    /// At most `most` flows that are wanted, of the part of all flows with this number; `None` if there is none.
    pub(super) fn list(&self, wanted: &Wanted, number: usize, most: usize) -> Option<Vec<LiveFlow>> {
        let now = fast_path::clock();
        let take = |flow: FlowEntry| {
            let FlowEntry { client, to, endpoint, answered, last, .. } = flow;
            let quiet = now.saturating_sub(last);
            let seen = Seen { protocol: Protocol::Udp, client, to, endpoint: Some(endpoint), answered, quiet };
            wanted.take(&seen, self.names.get(flow.listener)?, &self.endpoints)
        };
        (number < self.fast_path.parts()).then(|| self.fast_path.flows_of_part(number).filter_map(take).take(most).collect())
    }

    pub(super) fn devices(&self) -> Vec<DeviceStatus> {
        self.devices.status(&self.fast_path)
    }

    pub(super) fn unheard(&self) -> Vec<UnheardStatus> {
        self.ways.status()
    }

    pub(super) fn watch(&mut self, ways: Ways) {
        self.ways.replace(ways);
    }

    pub(super) fn strays(&self) -> Vec<(&'static str, u64)> {
        self.strays.clone()
    }

    pub(super) fn by_hook(&self) -> [u64; 2] {
        self.by_hook
    }

    pub(super) fn drain(&mut self, drained: oneshot::Sender<()>) {
        if let Err(error) = self.fast_path.set_draining(true) {
            tracing::warn!("{error}; the kernel takes new flows until the process ends");
        }
        self.drained = Some(drained);
        self.next_look = fast_path::clock();
    }

    pub(super) fn end(&mut self) {
        let ended = self.fast_path.end_all().and_then(|_| {
            self.flows = Sweep::default();
            self.tell()
        });
        if let Err(error) = ended {
            tracing::warn!("{error}; what is left ends with the process");
        }
        self.tell_drained();
    }

    /// Reads how many flows each endpoint ever had.
    fn count_opened(&mut self, jobs: &Receiver<Job>) -> Result<(), Error> {
        for first in (0..self.endpoints.len()).step_by(ENDPOINTS_AT_ONCE) {
            let counters = self.fast_path.endpoint_counters(first..self.endpoints.len().min(first + ENDPOINTS_AT_ONCE))?;
            self.opened.truncate(first);
            self.opened.extend(counters.iter().map(|counters| counters.opened));
            jobs.try_iter().for_each(|job| job(self));
        }
        Ok(())
    }

    /// Writes what was counted into the books.
    fn tell(&mut self) -> Result<(), Error> {
        let counters = self.fast_path.counters()?;
        let mut reading = Reading::default();
        for (&index, counters) in self.listeners.iter().zip(&counters.listeners) {
            reading.listeners.resize(reading.listeners.len().max(index + 1), None);
            reading.listeners[index] = Some(tally(counters));
        }
        reading.endpoints = pinned(&self.endpoints, &self.opened, &self.flows);
        self.strays = words(&counters.strays);
        let packets: u64 =
            counters.listeners.iter().map(|listener| listener.to_endpoint.packets + listener.to_client.packets).sum();
        let by_xdp: u64 = counters.listeners.iter().map(|listener| listener.by_xdp).sum();
        self.by_hook = [by_xdp, packets.saturating_sub(by_xdp)];
        self.books.set_kernel(reading);
        Ok(())
    }
}

/// Flows by endpoint group and endpoint, those of an endpoint's earlier addresses included.
fn pinned(endpoints: &[TableEndpoint], opened: &[u64], flows: &Sweep) -> BTreeMap<(Name, Name), Pinned> {
    let mut all = BTreeMap::new();
    for (id, endpoint) in endpoints.iter().enumerate() {
        let target = &endpoint.target;
        let opened = opened.get(id).copied().unwrap_or(0);
        if opened > 0 {
            let pinned: &mut Pinned = all.entry((target.group.clone(), target.name.clone())).or_default();
            pinned.opened += opened;
            pinned.active += flows.by_endpoint.get(id).map_or(0, |&flows| flows as u64);
        }
    }
    all
}

fn tally(counters: &ListenerCounters) -> Tally {
    let ListenerCounters { to_endpoint, to_client, opened, moved, fallbacks, active, .. } = *counters;
    Tally {
        opened,
        active,
        moved,
        client_ip_fallbacks: fallbacks,
        closed: EndReason::ALL.iter().map(|&reason| (reason.as_str(), counters.ended_by(reason))).collect(),
        dropped: words(counters),
        bytes: [to_endpoint.bytes, to_client.bytes],
        packets: [to_endpoint.packets, to_client.packets],
    }
}

fn words(counters: &ListenerCounters) -> Vec<(&'static str, u64)> {
    DropReason::ALL.iter().map(|&reason| (reason.as_str(), counters.dropped(reason))).collect()
}
