//! The fast path on Linux.

mod access;
mod attach;
mod attachments;
mod count;
mod denied_lines;
mod dispatcher;
mod flow_table;
mod keys;
mod layout;
mod load;
mod multipath;
mod neighbours;
mod netdev;
mod notices;
mod own_addresses;
mod publish;
mod reverse_path;
mod rtnetlink;
mod sweep;
#[doc(hidden)]
pub mod test_support;
mod way;
mod xdp;

pub use attach::devices;
pub use attachments::attachments;
pub use dispatcher::Dispatcher;
pub use xdp::unfit_for_xdp;

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap as KernelMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf},
    programs::{Program, ProgramError, tc::SchedClassifierLinkId},
};
use endpoint_group::{EndpointId, ListenerTable, table::TableEndpoint};

use crate::{Error, FlowEntry, Settings};
use flow_table::{FlowTable, Place};
use layout::{
    AccessKey, Counts, Endpoint, EndpointCounts, FlowKey, FlowRef, HostKey, Listener, ListenerState, OverrideKey, Table,
};

/// What a map of the kernel holds.
type KernelArray<T> = Array<MapData, T>;
type KernelHash<K, V> = KernelMap<MapData, K, V>;

/// Forwarding in the kernel, while this value lives.
pub struct FastPath {
    settings: Settings,
    /// By their numbers in the kernel.
    nat_addresses: Vec<IpAddr>,
    ebpf: Ebpf,
    maps: Maps,
    flows: FlowTable,
    /// Behind the ways that flows remember.
    notices: notices::Notices,
    /// By the places of the settings.
    listeners: Vec<Listening>,
    /// The endpoints published last.
    endpoints: Arc<[TableEndpoint]>,
    /// What the kernel has of port overrides.
    overrides: HashMap<OverrideKey, u16>,
    links: HashMap<String, SchedClassifierLinkId>,
    /// Those of them that XDP takes packets from, too.
    xdp: HashMap<String, xdp::Attached>,
    /// Those of them that take packets from XDP on another one, and their indices.
    xdp_ports: HashMap<String, u32>,
    xdp_maps: xdp::XdpMaps,
    draining: bool,
    access_version: u32,
    /// Lists that are no longer in force, until they are forgotten.
    replaced: Vec<(access::Version, crate::Access)>,
}

struct Maps {
    tables: KernelArray<Table>,
    listeners: KernelArray<Listener>,
    states: KernelArray<ListenerState>,
    endpoints: KernelArray<Endpoint>,
    overrides: KernelHash<OverrideKey, u16>,
    flow_refs: KernelHash<FlowKey, FlowRef>,
    denied_lines: denied_lines::DeniedLines,
    allowed: LpmTrie<MapData, AccessKey, u32>,
    denied: LpmTrie<MapData, AccessKey, u32>,
    allowed_hosts: KernelHash<HostKey, u32>,
    denied_hosts: KernelHash<HostKey, u32>,
    counts: PerCpuArray<MapData, Counts>,
    endpoint_counts: PerCpuArray<MapData, EndpointCounts>,
    refusals: Option<Map>,
}

/// A listener as it was published last.
struct Listening {
    table: Option<Arc<ListenerTable>>,
    /// Whom it serves.
    lists: access::Version,
    /// What the kernel has of it.
    kernel: Listener,
}

impl fmt::Debug for FastPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FastPath").field("devices", &self.devices()).finish_non_exhaustive()
    }
}

/// The clock of flows: `CLOCK_MONOTONIC` in ticks, which the kernel reads at no cost.
pub fn clock() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes into the structure it is given; this clock is there on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

impl FastPath {
    /// The live flows, in no order. Each is read as one; the list is not.
    pub fn flows(&self) -> impl Iterator<Item = FlowEntry> + '_ {
        (0..self.parts()).flat_map(|number| self.flows_of_part(number))
    }

    /// As [`FastPath::flows`], of one part of all flows by its number: it is read within milliseconds.
    pub fn flows_of_part(&self, number: usize) -> impl Iterator<Item = FlowEntry> + '_ {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        self.places(number..number.saturating_add(1)).filter_map(|place| self.entry(&place))
    }

    /// The flow of `client` to the static IP and port `to`.
    pub fn flow(&self, client: SocketAddr, to: SocketAddr) -> Result<Option<FlowEntry>, Error> {
        let key = FlowKey {
            client: layout::address(client.ip()),
            vip: layout::address(to.ip()),
            client_port: client.port().to_be(),
            vip_port: to.port().to_be(),
            protocol: endpoint_group::Protocol::Udp.number(),
            zero: [0; 3],
        };
        match self.maps.flow_refs.get(&key, 0) {
            Ok(found) => Ok(self.flows.get(found.index).filter(|place| place.key() == key).and_then(|place| self.entry(&place))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed("look up a flow")(error)),
        }
    }

    /// In how many parts [`FastPath::sweep`] can be done: one for each NAT address, then some of transparent flows.
    pub fn parts(&self) -> usize {
        self.flows.places() >> 16
    }

    fn places(&self, parts: Range<u32>) -> impl Iterator<Item = Place> + '_ {
        let ports =
            move |part: u32| if self.nat_address(part).is_some() { self.settings.nat.ports.clone() } else { 0..=u16::MAX };
        parts
            .flat_map(move |part| ports(part).map(move |port| part << 16 | u32::from(port)))
            .filter_map(|index| self.flows.get(index))
    }

    /// The NAT address whose flows a part has, unless it has transparent ones.
    fn nat_address(&self, part: u32) -> Option<IpAddr> {
        self.nat_addresses.get(usize::try_from(part).ok()?).copied()
    }

    fn entry(&self, place: &Place) -> Option<FlowEntry> {
        // The low half of an index is the port.
        #[allow(clippy::cast_possible_truncation)]
        let port = place.index as u16;
        Some(FlowEntry {
            listener: place.listener(),
            client: place.client(),
            to: place.to(),
            nat: self.nat_address(place.index >> 16).map_or(place.client(), |address| SocketAddr::new(address, port)),
            endpoint: place.endpoint()?,
            slot: place.slot(),
            endpoint_port: place.endpoint_port(),
            answered: place.answered(),
            last: Duration::from_nanos(place.last()),
        })
    }

    fn program<'a, P>(&'a mut self, name: &str) -> Result<&'a mut P, Error>
    where
        &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        let program = self.ebpf.program_mut(name).and_then(|program| program.try_into().ok());
        program.ok_or_else(|| failed("find the program")(io::Error::from(io::ErrorKind::NotFound)))
    }
}

/// Endpoints that ICMP errors came from, as the program tells of them: each at most ten times a second.
pub struct Refusals(RingBuf<MapData>);

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Refusals")
    }
}

impl std::os::fd::AsRawFd for Refusals {
    /// Readable when there is one to take.
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

impl Iterator for Refusals {
    type Item = EndpointId;

    fn next(&mut self) -> Option<EndpointId> {
        let item = self.0.next()?;
        let bytes: [u8; 4] = item.get(..4)?.try_into().ok()?;
        EndpointId::new(usize::try_from(u32::from_ne_bytes(bytes)).ok()?)
    }
}

/// Turns an error of the kernel's into one that says what was tried.
fn failed<E: Into<Cause>>(operation: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Kernel { operation, source: error.into().0 }
}

/// What went wrong below, with the kernel's own error where there is one.
struct Cause(io::Error);

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl From<MapError> for Cause {
    fn from(error: MapError) -> Self {
        Self(io::Error::other(with_causes(&error)))
    }
}

impl From<aya::programs::ProgramError> for Cause {
    fn from(error: aya::programs::ProgramError) -> Self {
        Self(io::Error::other(with_causes(&error)))
    }
}

/// An error and what caused it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
