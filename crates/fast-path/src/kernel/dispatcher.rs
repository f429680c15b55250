//! Chooses the socket of packets for many ports (`bpf/sk_lookup.c`).

use std::{
    fmt,
    fs::File,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, HashMap as KernelMap, MapData, MapError, SockMap},
    programs::{ProgramError, SkLookup},
};
use endpoint_group::Protocol;

use super::{
    failed,
    layout::{self, Address, Ports},
    load::{is_privilege, objection, patiently},
    with_causes,
};
use crate::{Dispatched, Error, Unavailable};

/// The compiled `bpf/sk_lookup.c`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/sk_lookup.o");

/// `STATIC_IPS` of the program.
const STATIC_IPS: usize = 4;
/// The network namespace of the calling thread.
const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Hands new TCP connections and UDP datagrams for the ports of its listeners to sockets that are bound to one port of each static IP.
///
/// It acts in the network namespace that it was started in until it is dropped or the process ends, however it ends. Packets whose
/// socket it has not been given, or that is closed by now, find whatever socket the host has for them, as do all other packets.
pub struct Dispatcher {
    sockets: SockMap<MapData>,
    static_ips: Vec<IpAddr>,
    /// With the program and what attaches it.
    _ebpf: Ebpf,
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher").field("static_ips", &self.static_ips).finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// Whether this process could start one, as far as can be told without doing so.
    pub fn available() -> Result<(), Unavailable> {
        // To attach takes more than to load.
        if !may_attach() {
            return Err(Unavailable::Privilege);
        }
        load(1).map(drop)
    }

    /// Starts it for `listeners`, whose places are their numbers from now on. It has no socket yet.
    pub fn start(static_ips: &[IpAddr], listeners: &[Dispatched]) -> Result<Self, Unavailable> {
        if static_ips.len() > STATIC_IPS {
            return Err(Unavailable::Lookup(format!("{} static IPs are more than {STATIC_IPS}", static_ips.len())));
        }
        let mut ebpf = load(listeners.len())?;
        write(&mut ebpf, static_ips, listeners).map_err(|error| refused_map(&error))?;
        let sockets = ebpf.take_map("lookup_sockets").ok_or_else(|| missing("lookup_sockets"))?;
        let sockets = sockets.try_into().map_err(|error| refused_map(&error))?;
        let namespace = File::open(NAMESPACE).map_err(|error| Unavailable::Lookup(format!("{NAMESPACE}: {error}")))?;
        program(&mut ebpf)?.attach(namespace).map_err(|error| refused_program(&error))?;
        Ok(Self { sockets, static_ips: static_ips.to_vec(), _ebpf: ebpf })
    }

    /// Has `socket` take what comes for the ports of `listener` at `ip`; of sockets that share its address (`SO_REUSEPORT`), one that
    /// the kernel chooses by the addresses and ports of both sides. It must listen, or be bound, and is let go of when it is closed.
    pub fn hand_over(&mut self, listener: usize, protocol: Protocol, ip: IpAddr, socket: BorrowedFd<'_>) -> Result<(), Error> {
        let cannot = |error: MapError| failed("hand a socket to the program that chooses sockets")(error);
        let number = self.static_ips.iter().position(|&own| own == ip);
        let place = number.and_then(|number| u32::try_from((listener * STATIC_IPS + number) * 2 + udp(protocol)).ok());
        let place = place.ok_or_else(|| cannot(MapError::KeyNotFound))?;
        self.sockets.set(place, &socket.as_raw_fd(), 0).map_err(cannot)
    }
}

/// Whether the calling thread has CAP_NET_ADMIN.
fn may_attach() -> bool {
    const CAP_NET_ADMIN: u64 = 1 << 12;
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    effective.is_some_and(|effective| effective & CAP_NET_ADMIN != 0)
}

/// The program's number of a protocol.
fn udp(protocol: Protocol) -> usize {
    usize::from(protocol == Protocol::Udp)
}

fn load(listeners: usize) -> Result<Ebpf, Unavailable> {
    let sockets = u32::try_from(listeners.max(1) * STATIC_IPS * 2).unwrap_or(u32::MAX);
    let mut ebpf = EbpfLoader::new().map_max_entries("lookup_sockets", sockets).load(OBJECT).map_err(|error| match error {
        EbpfError::MapError(error) => refused_map(&error),
        EbpfError::ProgramError(error) => refused_program(&error),
        error => Unavailable::Lookup(with_causes(&error)),
    })?;
    let program = program(&mut ebpf)?;
    patiently(|| program.load()).map_err(|error| refused_program(&error))?;
    Ok(ebpf)
}

fn program(ebpf: &mut Ebpf) -> Result<&mut SkLookup, Unavailable> {
    let program = ebpf.program_mut("choose_socket").and_then(|program| program.try_into().ok());
    program.ok_or_else(|| missing("choose_socket"))
}

fn write(ebpf: &mut Ebpf, static_ips: &[IpAddr], listeners: &[Dispatched]) -> Result<(), MapError> {
    let none = || MapError::InvalidName { name: "sk_lookup.o".into() };
    let mut ips: KernelMap<_, Address, u32> = ebpf.map_mut("lookup_ips").ok_or_else(none)?.try_into()?;
    for (number, &ip) in (0..).zip(static_ips) {
        ips.insert(layout::address(ip), number, 0)?;
    }
    let mut ports: Array<_, Ports> = ebpf.map_mut("lookup_ports").ok_or_else(none)?.try_into()?;
    for (at, protocol) in [(0, Protocol::Tcp), (1, Protocol::Udp)] {
        let mut all = vec![Ports { listener: [0; 1 << 16] }; 1];
        for (number, listener) in (1u16..).zip(listeners).filter(|(_, listener)| listener.serves(protocol)) {
            for port in listener.ports.iter().cloned().flatten() {
                all[0].listener[usize::from(port)] = number;
            }
        }
        ports.set(at, all[0], 0)?;
    }
    Ok(())
}

fn refused_map(error: &MapError) -> Unavailable {
    match error {
        MapError::CreateError { io_error, .. } if is_privilege(io_error) => Unavailable::Privilege,
        error => Unavailable::Lookup(with_causes(error)),
    }
}

fn refused_program(error: &ProgramError) -> Unavailable {
    match error {
        ProgramError::LoadError { io_error, .. } if is_privilege(io_error) => Unavailable::Privilege,
        ProgramError::SyscallError(refused) if is_privilege(&refused.io_error) => Unavailable::Privilege,
        // The verifier's whole account is for whoever debugs the program.
        ProgramError::LoadError { io_error, verifier_log } => {
            tracing::debug!(%verifier_log, "the kernel refused the program that chooses sockets");
            Unavailable::Lookup(format!("{io_error}: {}", objection(&verifier_log.to_string())))
        }
        error => Unavailable::Lookup(with_causes(error)),
    }
}

fn missing(name: &str) -> Unavailable {
    Unavailable::Lookup(format!("the compiled program has no {name}"))
}
