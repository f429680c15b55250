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
    other_path::{Reading, Tally},
};
use endpoint_group::{EndpointId, RoutingTable, table::TableEndpoint};
use fast_path::{DropReason, EndReason, Error, FastPath, ListenerCounters, Refusals, Sweep};
use tokio::sync::oneshot;

use super::{Job, Kernel, devices::Devices, start::Ready};
use crate::control::status::DeviceStatus;

/// Between two looks at the flows.
const LOOK: Duration = Duration::from_secs(1);

/// What the thread works with.
pub(super) struct Owner {
    fast_path: FastPath,
    devices: Devices,
    /// By place in the kernel, indices of the configuration.
    listeners: Arc<[usize]>,
    books: Arc<Books>,
    /// Those of the table published last.
    endpoints: Arc<[TableEndpoint]>,
    /// A table that the kernel could not take; it is tried again.
    unpublished: Option<RoutingTable>,
    /// What the last sweep found.
    flows: Sweep,
    strays: Vec<(&'static str, u64)>,
    /// Who waits for the last flow to end.
    drained: Option<oneshot::Sender<()>>,
    next_look: Duration,
}

impl Ready {
    /// Starts the owner's thread. What the kernel counts goes into `books`; the endpoints that refuse come out.
    pub fn start(self, books: Arc<Books>, table: &RoutingTable) -> io::Result<(Kernel, Option<Refusals>)> {
        let Self { mut fast_path, devices, listeners } = self;
        let listeners: Arc<[usize]> = listeners.into();
        let refusals = fast_path.refusals();
        let owner = Owner {
            fast_path,
            devices,
            listeners: Arc::clone(&listeners),
            books,
            endpoints: Arc::clone(&table.endpoints),
            unpublished: None,
            flows: Sweep::default(),
            strays: Vec::new(),
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
        self.devices.look(&mut self.fast_path);
        let mut flows = Sweep::default();
        for number in 0..self.fast_path.addresses() {
            flows += self.fast_path.sweep_address(fast_path::clock(), number)?;
            // A publication waits for the flows of one address, not for all.
            jobs.try_iter().for_each(|job| job(self));
        }
        self.flows = flows;
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

    pub(super) fn set_access(&mut self, place: usize, access: fast_path::Access) {
        if let Err(error) = self.fast_path.set_access(place, access) {
            tracing::error!("{error}; the kernel goes on with the lists before");
        }
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

    pub(super) fn devices(&self) -> Vec<DeviceStatus> {
        self.devices.status(&self.fast_path)
    }

    pub(super) fn strays(&self) -> Vec<(&'static str, u64)> {
        self.strays.clone()
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

    /// Writes what was counted into the books.
    fn tell(&mut self) -> Result<(), Error> {
        let counters = self.fast_path.counters()?;
        let mut reading = Reading::default();
        for (&index, counters) in self.listeners.iter().zip(&counters.listeners) {
            reading.listeners.resize(reading.listeners.len().max(index + 1), None);
            reading.listeners[index] = Some(tally(counters));
        }
        reading.endpoints = flows_of(&self.endpoints, &self.flows);
        self.strays = words(&counters.strays);
        self.books.set_kernel(reading);
        Ok(())
    }
}

/// Live flows by endpoint group and endpoint, those of an endpoint's earlier addresses included.
fn flows_of(endpoints: &[TableEndpoint], flows: &Sweep) -> BTreeMap<(endpoint_group::Name, endpoint_group::Name), u64> {
    let mut all = BTreeMap::new();
    for (endpoint, &flows) in endpoints.iter().zip(&flows.by_endpoint) {
        let target = &endpoint.target;
        if flows > 0 {
            *all.entry((target.group.clone(), target.name.clone())).or_default() += flows as u64;
        }
    }
    all
}

fn tally(counters: &ListenerCounters) -> Tally {
    let ListenerCounters { to_endpoint, to_client, opened, moved, active, .. } = *counters;
    Tally {
        opened,
        active,
        moved,
        closed: EndReason::ALL.iter().map(|&reason| (reason.as_str(), counters.ended_by(reason))).collect(),
        dropped: words(counters),
        bytes: [to_endpoint.bytes, to_client.bytes],
        packets: [to_endpoint.packets, to_client.packets],
    }
}

fn words(counters: &ListenerCounters) -> Vec<(&'static str, u64)> {
    DropReason::ALL.iter().map(|&reason| (reason.as_str(), counters.dropped(reason))).collect()
}
