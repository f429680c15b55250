//! Whom listeners serve: lists of networks, each under a version of its own. One word makes a version the one in force, and it is not forgotten
//! before those who have read that word are done, so no packet sees half of a list. Networks of one address are kept apart, where they are found faster, as many as fit there: denied ones of IPv4 in lines
//! (`denied_lines.rs`), others in tables.

use std::collections::HashSet;

use aya::maps::{LpmTrie, MapData, MapError, lpm_trie::Key};
use ipnet::IpNet;

use super::{
    FastPath, KernelHash,
    denied_lines::Lines,
    failed,
    layout::{self, AccessKey, HostKey, LISTS_ALLOW, LISTS_ALLOW_HOSTS, LISTS_DENY, LISTS_DENY_HOSTS},
};
use crate::{Access, Error};

/// Networks that the kernel holds, of those to allow and of those to deny: `max_entries` of `allowed` and `denied`.
const MOST_NETWORKS: usize = 1 << 20;

/// The second of [`super::Maps::lists`].
const DENY: usize = 1;

type Trie = LpmTrie<MapData, AccessKey, u32>;

impl FastPath {
    /// Replaces whom the listeners at these places of the settings serve. Flows that were admitted go on. If there is no room for the new
    /// lists, or they cannot be written, all listeners keep those that they had.
    pub fn set_access(&mut self, lists: Vec<(usize, Access)>) -> Result<(), Error> {
        self.forget_replaced();
        let lists: Vec<_> =
            lists.into_iter().filter(|(place, access)| self.settings.listeners[*place].access != *access).collect();
        self.check_room(&lists)?;
        let mut written = Vec::with_capacity(lists.len());
        for (place, access) in lists {
            self.access_version += 1;
            let mut version = Version { number: self.access_version, ..Version::default() };
            let result = self.maps.write(&mut version, &access);
            written.push((place, version, access));
            if let Err(error) = result {
                // Those that are not there cannot be removed, and need not be.
                written.iter().for_each(|(_, version, access)| _ = self.maps.forget(version, access));
                return Err(error);
            }
        }
        let mut result = Ok(());
        for (place, version, access) in written {
            let (version, access) = self.exchange(place, version, access);
            let written = self.write_listener(place);
            // A listener that cannot be written has what it had: what is replaced is the new.
            let replaced = if written.is_err() { self.exchange(place, version, access) } else { (version, access) };
            self.replaced.extend(Some(replaced).filter(|(_, access)| *access != Access::default()));
            result = result.and(written);
        }
        if !self.replaced.is_empty() && programs_have_ended() {
            self.forget_replaced();
        }
        result
    }

    fn exchange(&mut self, place: usize, version: Version, access: Access) -> (Version, Access) {
        let version = std::mem::replace(&mut self.listeners[place].lists, version);
        (version, std::mem::replace(&mut self.settings.listeners[place].access, access))
    }

    fn forget_replaced(&mut self) {
        for (version, access) in std::mem::take(&mut self.replaced) {
            if let Err(error) = self.maps.forget(&version, &access) {
                tracing::warn!("{error}; it stays there, unused");
            }
        }
    }

    /// While both are there, the lists in force and the new ones share the room.
    fn check_room(&self, new: &[(usize, Access)]) -> Result<(), Error> {
        let current = || self.settings.listeners.iter().map(|listener| &listener.access);
        let new = || new.iter().map(|(_, access)| access);
        let allow: usize = current().chain(new()).map(|access| access.allow.len()).sum();
        let deny: usize = current().chain(new()).map(|access| access.deny.len()).sum();
        match allow.max(deny) {
            needed if needed > MOST_NETWORKS => Err(Error::TooManyNetworks { needed, most: MOST_NETWORKS }),
            _ => Ok(()),
        }
    }
}

impl super::Maps {
    fn lists<'a>(&mut self, access: &'a Access) -> [(Lists<'_>, &'a [IpNet]); 2] {
        [
            (Lists { networks: &mut self.allowed, hosts: &mut self.allowed_hosts }, &access.allow),
            (Lists { networks: &mut self.denied, hosts: &mut self.denied_hosts }, &access.deny),
        ]
    }

    fn write(&mut self, version: &mut Version, access: &Access) -> Result<(), Error> {
        version.lines = self.denied_lines.write(&access.deny).map_err(failed("write addresses to deny"))?;
        let outside: Vec<_> = access.deny.iter().filter(|network| !version.lines.has(network)).collect();
        for (flag, there) in [
            (LISTS_ALLOW, !access.allow.is_empty()),
            (LISTS_ALLOW_HOSTS, access.allow.iter().any(is_host)),
            (LISTS_DENY, !outside.is_empty()),
            (LISTS_DENY_HOSTS, outside.iter().any(|network| is_host(network))),
        ] {
            version.flags |= if there { flag } else { 0 };
        }
        let Version { number: version, lines, .. } = &*version;
        let version = *version;
        for (at, (lists, networks)) in self.lists(access).into_iter().enumerate() {
            for network in networks.iter().filter(|network| at != DENY || !lines.has(network)) {
                let among_hosts = is_host(network).then(|| lists.hosts.insert(host_key(version, network), 1, 0));
                let written = match among_hosts {
                    Some(written) if !is_full(&written) => written,
                    _ => lists.networks.insert(&key(version, network), 1, 0),
                };
                written.map_err(failed("write a network to allow or deny"))?;
            }
        }
        Ok(())
    }

    fn forget(&mut self, Version { number: version, lines, .. }: &Version, access: &Access) -> Result<(), Error> {
        let (version, mut result) = (*version, Ok(()));
        self.denied_lines.free(lines);
        for (at, (lists, networks)) in self.lists(access).into_iter().enumerate() {
            let outside = networks.iter().filter(|network| at != DENY || !lines.has(network));
            let distinct: HashSet<_> = outside.map(IpNet::trunc).collect();
            for network in &distinct {
                if is_host(network) && lists.hosts.remove(&host_key(version, network)).is_ok() {
                    continue;
                }
                if let Err(error) = lists.networks.remove(&key(version, network)) {
                    result = Err(failed("remove a network to allow or deny")(error));
                }
            }
        }
        result
    }
}

/// A listener's lists in the kernel.
#[derive(Debug, Default)]
pub(super) struct Version {
    number: u32,
    /// Has addresses that are denied.
    lines: Lines,
    /// `LISTS_*`: where others are to be looked for.
    flags: u32,
}

impl Version {
    /// As the program is told of it.
    pub fn word(&self) -> u64 {
        u64::from(self.flags | self.lines.word()) << 32 | u64::from(self.number)
    }
}

/// Waits until every program that may have read a word before this call has ended: some 20 ms. False where the kernel does not tell,
/// because processors are kept from all work but one process's (`nohz_full`).
fn programs_have_ended() -> bool {
    // SAFETY: a system call without arguments in memory.
    unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) == 0 }
}

/// Those to allow, or those to deny.
struct Lists<'a> {
    networks: &'a mut Trie,
    hosts: &'a mut KernelHash<HostKey, u32>,
}

/// Whether it is one address.
fn is_host(network: &IpNet) -> bool {
    network.prefix_len() == network.max_prefix_len()
}

fn is_full(written: &Result<(), MapError>) -> bool {
    matches!(written, Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::E2BIG))
}

fn host_key(version: u32, network: &IpNet) -> HostKey {
    HostKey { client: layout::address(network.addr()), version, zero: 0 }
}

/// The bits of version, family and address that the prefix compares.
fn key(version: u32, network: &IpNet) -> Key<AccessKey> {
    let network = network.trunc();
    let (v6, prefix) = match network {
        IpNet::V4(v4) => (false, 64 + 96 + u32::from(v4.prefix_len())),
        IpNet::V6(v6) => (true, 64 + u32::from(v6.prefix_len())),
    };
    Key::new(prefix, AccessKey { version, v6: v6.into(), client: layout::address(network.network()) })
}
