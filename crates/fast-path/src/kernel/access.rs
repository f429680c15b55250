//! Whom listeners serve: lists of networks, each under a version of its own. One word makes a version the one in force, so no packet sees
//! half of a list. Networks of one address are kept apart, where they are found faster, as many as fit there: denied ones of IPv4 in lines
//! (`denied_lines.rs`), others in tables.

use std::collections::HashSet;

use aya::maps::{LpmTrie, MapData, MapError, lpm_trie::Key};
use ipnet::IpNet;

use super::{
    FastPath, KernelHash,
    denied_lines::Lines,
    failed,
    layout::{self, AccessKey, HostKey},
};
use crate::{Access, Error};

/// Networks that the kernel holds, of those to allow and of those to deny: `max_entries` of `allowed` and `denied`.
const MOST_NETWORKS: usize = 1 << 20;

/// The second of [`super::Maps::lists`].
const DENY: usize = 1;

type Trie = LpmTrie<MapData, AccessKey, u32>;

impl FastPath {
    /// Replaces whom the listeners at these places of the settings serve. Flows that were admitted go on. On an error all listeners
    /// keep the lists that they had.
    pub fn set_access(&mut self, lists: Vec<(usize, Access)>) -> Result<(), Error> {
        let lists: Vec<_> =
            lists.into_iter().filter(|(place, access)| self.settings.listeners[*place].access != *access).collect();
        self.check_room(&lists)?;
        let mut written = Vec::with_capacity(lists.len());
        for (place, access) in lists {
            self.access_version += 1;
            written.push((place, Version { number: self.access_version, ..Version::default() }, access));
            let last = written.len() - 1;
            let (_, version, access) = &mut written[last];
            if let Err(error) = self.maps.write(version, access) {
                // Those that are not there cannot be removed, and need not be.
                written.iter().for_each(|(_, version, access)| _ = self.maps.forget(version, access));
                return Err(error);
            }
        }
        for (place, version, access) in written {
            let before = std::mem::replace(&mut self.listeners[place].lists, version);
            let old = std::mem::replace(&mut self.settings.listeners[place].access, access);
            self.write_listener(place)?;
            if let Err(error) = self.maps.forget(&before, &old) {
                tracing::warn!("{error}; it stays there, unused");
            }
        }
        Ok(())
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
        let mut outside = access.deny.iter().filter(|network| !version.lines.has(network)).peekable();
        version.denies_others = outside.peek().is_some();
        version.denies_hosts = outside.any(is_host);
        let Version { number: version, lines, .. } = version;
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
    /// Others are denied, too,
    pub denies_others: bool,
    /// and among them single addresses.
    pub denies_hosts: bool,
}

impl Version {
    /// As the program is told of it: its number, and its lines.
    pub fn word(&self) -> u64 {
        u64::from(self.lines.word()) << 32 | u64::from(self.number)
    }
}

/// Those to allow, or those to deny.
struct Lists<'a> {
    networks: &'a mut Trie,
    hosts: &'a mut KernelHash<HostKey, u32>,
}

/// Whether it is one address.
pub(super) fn is_host(network: &IpNet) -> bool {
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
