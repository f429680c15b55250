//! Hands programs, maps and settings to the kernel.

use std::{collections::HashMap, io, net::IpAddr, sync::Arc, time::Duration};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, Map, MapError},
    programs::{ProgramError, SchedClassifier, Xdp},
};

use super::{
    FastPath, Listening, Maps,
    access::Version,
    denied_lines::DeniedLines,
    flow_table::FlowTable,
    keys::place_keys,
    layout::{self, Listener, OwnSlot, Ports},
    notices::Notices,
    own_addresses::OwnAddresses,
    with_causes,
    xdp::XdpMaps,
};
use crate::{Limits, NatPool, Settings, Unavailable};
use endpoint_group::Affinity;

/// The compiled `bpf/fast_path.c`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/fast_path.o");

/// Flows that processors may be setting up at once beyond those there is a port for.
const SLACK: usize = 1024;
/// The tag of a place that there is not.
const NO_PLACE: u8 = 0xff;

impl FastPath {
    /// Loads the fast path. Nothing is forwarded before a table is published and a device attached.
    pub fn load(settings: Settings) -> Result<Self, Unavailable> {
        Self::load_object(OBJECT, settings)
    }

    pub(super) fn load_object(object: &[u8], settings: Settings) -> Result<Self, Unavailable> {
        settings.check().map_err(Unavailable::Settings)?;
        let sizes = Sizes::of(&settings);
        let own = OwnAddresses::of(&settings);
        let own = own.ok_or_else(|| Unavailable::Settings("there are too many NAT addresses: name fewer".into()))?;
        let mut ebpf = load(object, &settings, &sizes, own.keys)?;
        for name in ["fast_path", "end_flows", "way_to"] {
            let program = ebpf.program_mut(name).and_then(|program| <&mut SchedClassifier>::try_from(program).ok());
            let program = program.ok_or_else(|| missing(name))?;
            patiently(|| program.load()).map_err(|error| refused_program(&error))?;
        }
        let xdp = ebpf.program_mut("fast_path_xdp").and_then(|program| <&mut Xdp>::try_from(program).ok());
        let xdp = xdp.ok_or_else(|| missing("fast_path_xdp"))?;
        patiently(|| xdp.load()).map_err(|error| refused_program(&error))?;
        write_constants(&mut ebpf, &settings, &own).map_err(|error| refused_map(&error))?;
        let maps = Maps::take(&mut ebpf, settings.hash_seed)?;
        let xdp_maps = XdpMaps::take(&mut ebpf)?;
        let flows = ebpf.take_map("flows").ok_or_else(|| missing("flows"))?;
        let Map::Array(flows) = flows else { return Err(missing("flows")) };
        let flows = FlowTable::new(flows.fd(), sizes.places).map_err(|error| Unavailable::Kernel(error.to_string()))?;
        let mut of = |name: &'static str| ebpf.take_map(name).ok_or_else(|| missing(name));
        let notices = Notices::listen(of("epoch")?, [of("reverse_paths")?, of("reverse_path_count")?])
            .map_err(|error| Unavailable::Kernel(format!("cannot listen for changes of routes: {error}")))?;
        let mut fast_path = Self {
            listeners: sizes
                .rings
                .iter()
                .map(|ring| Listening { table: None, lists: Version::default(), kernel: listener(ring) })
                .collect(),
            nat_addresses: in_order(&settings.nat),
            settings,
            ebpf,
            maps,
            flows,
            notices,
            endpoints: Arc::default(),
            overrides: HashMap::new(),
            links: HashMap::new(),
            xdp: HashMap::new(),
            xdp_ports: HashMap::new(),
            xdp_maps,
            draining: false,
            access_version: 0,
            replaced: Vec::new(),
        };
        fast_path.write_refusals().map_err(|error| Unavailable::Kernel(error.to_string()))?;
        let listeners = fast_path.settings.listeners.iter_mut().map(|listener| std::mem::take(&mut listener.access));
        let access = listeners.enumerate().collect();
        fast_path.set_access(access).map_err(|error| Unavailable::Kernel(error.to_string()))?;
        Ok(fast_path)
    }
}

/// Has the kernel verify a program. The verifier gives up with EAGAIN where the thread has a signal to take, and is then asked again.
pub(super) fn patiently(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    const TRIES: usize = 50;
    let mut result = load();
    for _ in 1..TRIES {
        match &result {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.raw_os_error() == Some(libc::EAGAIN) => result = load(),
            _ => break,
        }
    }
    result
}

/// A listener's part of the ring of flows.
struct Ring {
    start: usize,
    size: usize,
}

/// How large the maps are.
struct Sizes {
    /// Of the flow table.
    places: usize,
    /// Flows that there are ports or, of transparent ones, places for.
    capacity: usize,
    /// Flows of transparent listeners.
    transparent: usize,
    /// Their part of the flow table, in 65,536 places.
    blocks: usize,
    rings: Vec<Ring>,
}

impl Sizes {
    fn of(settings: &Settings) -> Self {
        let nat = &settings.nat;
        let transparent = settings.transparent_flows();
        // With a fifth of them free, the search for a place does not fail.
        let blocks = (transparent + transparent / 4).div_ceil(1 << 16);
        let capacity = nat.capacity(false) + nat.capacity(true) + transparent;
        let mut start = 0;
        let ring = |listener: &crate::Listener| {
            let size = listener.limits.max_flows.clamp(1, capacity.max(1)).next_power_of_two();
            let ring = Ring { start, size };
            start += size;
            ring
        };
        let rings = settings.listeners.iter().map(ring).collect();
        Self { places: (nat.addresses.len() + blocks).max(1) << 16, capacity, transparent, blocks, rings }
    }
}

fn load(object: &[u8], settings: &Settings, sizes: &Sizes, own_keys: [u64; 2]) -> Result<Ebpf, Unavailable> {
    let v6 = settings.nat.addresses.iter().filter(|address| address.is_ipv6()).count();
    let listeners = settings.listeners.len();
    let clients = if settings.listeners.iter().any(|l| counts_clients(&l.limits)) { sizes.capacity + SLACK } else { 1 };
    let (nat_v4, nat_v6) = (number(settings.nat.addresses.len() - v6)?, number(v6)?);
    let (nat_first, nat_count) = (u32::from(*settings.nat.ports.start()), number(settings.nat.ports.len())?);
    let (no_listener, transparent) = (number(listeners)?, number(sizes.blocks)?);
    // One count for each place, or up to two.
    let place_bits = sizes.places.next_power_of_two().ilog2();
    let (place_shift, place_keys) = (u64::BITS - place_bits, place_keys(settings.hash_seed));
    let strays = u32::from(settings.shared_with_sockets);
    let mut loader = EbpfLoader::new();
    loader
        .override_global("hash_seed", &settings.hash_seed, true)
        .override_global("own_keys", &own_keys, true)
        .override_global("place_keys", &place_keys, true)
        .override_global("place_shift", &place_shift, true)
        .override_global("nat_v4", &nat_v4, true)
        .override_global("nat_v6", &nat_v6, true)
        .override_global("nat_first", &nat_first, true)
        .override_global("nat_count", &nat_count, true)
        .override_global("transparent", &transparent, true)
        .override_global("no_listener", &no_listener, true)
        .override_global("strays_to_stack", &strays, true);
    let ring = sizes.rings.last().map_or(1, |ring| ring.start + ring.size);
    for (map, entries) in [
        ("tables", (2 * listeners).max(1)),
        ("listeners", listeners.max(1)),
        ("listener_states", listeners.max(1)),
        ("listener_counts", listeners + 1),
        ("endpoints", settings.max_endpoints),
        ("endpoint_counts", settings.max_endpoints),
        ("told_at", settings.max_endpoints),
        ("flows", sizes.places),
        ("flow_refs", sizes.capacity + SLACK),
        ("tags", sizes.places >> 3),
        ("hashes", 1 << place_bits >> 2),
        ("reply_refs", if sizes.blocks > 0 { sizes.transparent + SLACK } else { 1 }),
        ("order", ring),
        ("clients", clients),
    ] {
        loader.map_max_entries(map, number(entries)?);
    }
    loader.load(object).map_err(|error| match error {
        EbpfError::MapError(error) => refused_map(&error),
        EbpfError::ProgramError(error) => refused_program(&error),
        error => Unavailable::Kernel(with_causes(&error)),
    })
}

/// What the maps hold from the beginning.
fn write_constants(ebpf: &mut Ebpf, settings: &Settings, own: &OwnAddresses) -> Result<(), MapError> {
    let none = || MapError::InvalidName { name: "fast_path.o".into() };
    let mut nat: Array<_, layout::Address> = ebpf.map_mut("nat_addresses").ok_or_else(none)?.try_into()?;
    for (number, &ip) in (0..).zip(&in_order(&settings.nat)) {
        nat.set(number, layout::address(ip), 0)?;
    }
    let mut addresses: Array<_, OwnSlot> = ebpf.map_mut("own_addresses").ok_or_else(none)?.try_into()?;
    for (slot, address) in &own.slots {
        addresses.set(*slot, address, 0)?;
    }
    // Places beside the NAT ports, in the groups that have some of them.
    let mut tags: Array<_, u64> = ebpf.map_mut("tags").ok_or_else(none)?.try_into()?;
    let (first, last) = (u32::from(*settings.nat.ports.start()), u32::from(*settings.nat.ports.end()));
    for block in (0u32..).take(settings.nat.addresses.len()) {
        for group in [first >> 3, last >> 3] {
            let places = (0..8).filter(|place| !(first..=last).contains(&(group << 3 | place)));
            let none = places.fold(0, |tags, place| tags | u64::from(NO_PLACE) << (8 * place));
            tags.set(block << 13 | group, none, 0)?;
        }
    }
    let mut ports = vec![Ports { listener: [0; 1 << 16] }; 1];
    for (number, listener) in (1u16..).zip(&settings.listeners) {
        for port in listener.ports.iter().cloned().flatten() {
            ports[0].listener[usize::from(port)] = number;
        }
    }
    let mut map: Array<_, Ports> = ebpf.map_mut("udp_ports").ok_or_else(none)?.try_into()?;
    map.set(0, ports[0], 0)
}

impl Maps {
    fn take(ebpf: &mut Ebpf, hash_seed: u64) -> Result<Self, Unavailable> {
        let mut of = |name: &'static str| ebpf.take_map(name).ok_or_else(|| missing(name));
        let wrong = |error: MapError| refused_map(&error);
        let [first, second, ..] = place_keys(hash_seed);
        Ok(Self {
            denied_lines: DeniedLines::new(of("denied_lines")?.try_into().map_err(wrong)?, [first, second]),
            tables: of("tables")?.try_into().map_err(wrong)?,
            listeners: of("listeners")?.try_into().map_err(wrong)?,
            states: of("listener_states")?.try_into().map_err(wrong)?,
            endpoints: of("endpoints")?.try_into().map_err(wrong)?,
            overrides: of("overrides")?.try_into().map_err(wrong)?,
            flow_refs: of("flow_refs")?.try_into().map_err(wrong)?,
            allowed: of("allowed")?.try_into().map_err(wrong)?,
            denied: of("denied")?.try_into().map_err(wrong)?,
            allowed_hosts: of("allowed_hosts")?.try_into().map_err(wrong)?,
            denied_hosts: of("denied_hosts")?.try_into().map_err(wrong)?,
            counts: of("listener_counts")?.try_into().map_err(wrong)?,
            endpoint_counts: of("endpoint_counts")?.try_into().map_err(wrong)?,
            refusals: Some(of("refusals")?),
        })
    }
}

impl XdpMaps {
    fn take(ebpf: &mut Ebpf) -> Result<Self, Unavailable> {
        let mut of = |name: &'static str| ebpf.take_map(name).ok_or_else(|| missing(name));
        let wrong = |error: MapError| refused_map(&error);
        Ok(Self { devices: of("xdp_devices")?.try_into().map_err(wrong)?, ports: of("xdp_ports")?.try_into().map_err(wrong)? })
    }
}

fn listener(ring: &Ring) -> Listener {
    let whole = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
    Listener { ring_start: whole(ring.start), ring_mask: whole(ring.size - 1), ..Listener::default() }
}

impl FastPath {
    /// Writes every listener as it stands.
    pub(super) fn write_listeners(&mut self) -> Result<(), crate::Error> {
        for place in 0..self.listeners.len() {
            self.write_listener(place)?;
        }
        Ok(())
    }

    /// Writes the listener at `place` as it stands. Each of its fields is one word, so a packet sees either the old or the new.
    pub(super) fn write_listener(&mut self, place: usize) -> Result<(), crate::Error> {
        let settings = &self.settings.listeners[place];
        let Limits { max_flows, max_flows_per_client, .. } = settings.limits;
        let (gap, burst) = rate(&settings.limits);
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let Listening { kernel, lists, .. } = &mut self.listeners[place];
        kernel.lists = lists.word();
        kernel.flags = flag(settings.affinity == Affinity::SourceIp, layout::LISTENER_SOURCE_IP)
            | flag(settings.transparent, layout::LISTENER_TRANSPARENT)
            | flag(settings.keep, layout::LISTENER_KEEP)
            | flag(settings.carry_dscp, layout::LISTENER_CARRY_DSCP)
            | flag(self.draining, layout::LISTENER_DRAINING);
        kernel.max_flows = u32::try_from(max_flows).unwrap_or(u32::MAX);
        kernel.max_flows_per_client = max_flows_per_client.map_or(0, |most| u32::try_from(most.get()).unwrap_or(u32::MAX));
        kernel.gap = u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX);
        kernel.burst = u64::try_from(burst.as_nanos()).unwrap_or(u64::MAX);
        let index = u32::try_from(place).unwrap_or(u32::MAX);
        self.maps.listeners.set(index, *kernel, 0).map_err(super::failed("write a listener"))
    }
}

/// The NAT addresses in the order in which the program numbers them: IPv4 first.
pub(super) fn in_order(nat: &NatPool) -> Vec<IpAddr> {
    let mut addresses = nat.addresses.clone();
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses
}

/// Whether clients are counted one by one.
fn counts_clients(limits: &Limits) -> bool {
    limits.max_flows_per_client.is_some() || limits.new_flows_per_client_per_second.is_some()
}

/// Between two new flows of a client, and how far ahead its bucket may be; zero is no limit.
fn rate(limits: &Limits) -> (Duration, Duration) {
    limits.new_flows_per_client_per_second.map_or((Duration::ZERO, Duration::ZERO), |rate| {
        let gap = Duration::from_secs(1) / rate.get();
        (gap, gap * (rate.get() - 1))
    })
}

fn number(size: usize) -> Result<u32, Unavailable> {
    u32::try_from(size).map_err(|_| Unavailable::Settings(format!("{size} entries are more than a map of the kernel holds")))
}

fn missing(name: &str) -> Unavailable {
    Unavailable::Kernel(format!("the compiled program has no {name}"))
}

fn refused_map(error: &MapError) -> Unavailable {
    match error {
        MapError::CreateError { io_error, .. } if is_privilege(io_error) => Unavailable::Privilege,
        error => Unavailable::Kernel(with_causes(error)),
    }
}

fn refused_program(error: &ProgramError) -> Unavailable {
    match error {
        ProgramError::LoadError { io_error, .. } if is_privilege(io_error) => Unavailable::Privilege,
        // The verifier's whole account is for whoever debugs the program.
        ProgramError::LoadError { io_error, verifier_log } => {
            tracing::debug!(%verifier_log, "the kernel refused the fast path's program");
            let log = verifier_log.to_string();
            match objection(&log) {
                // Without CAP_PERFMON the verifier allows less than the program does.
                objection if objection.contains("!root") => Unavailable::Privilege,
                objection => Unavailable::Kernel(format!("{io_error}: {objection}")),
            }
        }
        error => Unavailable::Kernel(with_causes(error)),
    }
}

/// The line of the verifier's account that says what it objects to: the last but for its statistics.
pub(super) fn objection(log: &str) -> &str {
    let statistics = ["verification time", "stack depth", "processed", "insns"];
    let line = log.lines().rev().find(|line| !line.trim().is_empty() && !statistics.iter().any(|word| line.starts_with(word)));
    line.unwrap_or("without a reason")
}

/// The verifier refuses with EACCES.
pub(super) fn is_privilege(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPERM)
}
