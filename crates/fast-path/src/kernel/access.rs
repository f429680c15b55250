//! Whom listeners serve: lists of networks, each under a version of its own. One word makes a version the one in force, so no packet sees
//! half of a list.

use std::collections::HashSet;

use aya::maps::{LpmTrie, MapData, lpm_trie::Key};
use ipnet::IpNet;

use super::{
    FastPath, failed,
    layout::{self, AccessKey},
};
use crate::{Access, Error};

/// Networks that the kernel holds, of those to allow and of those to deny: `max_entries` of `allowed` and `denied`.
const MOST_NETWORKS: usize = 1 << 20;

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
            written.push((place, self.access_version, access));
            let (_, version, access) = &written[written.len() - 1];
            if let Err(error) = self.maps.write(*version, access) {
                // Those that are not there cannot be removed, and need not be.
                written.iter().for_each(|(_, version, access)| _ = self.maps.forget(*version, access));
                return Err(error);
            }
        }
        for (place, version, access) in written {
            let before = std::mem::replace(&mut self.listeners[place].kernel.access, version);
            let old = std::mem::replace(&mut self.settings.listeners[place].access, access);
            self.write_listener(place)?;
            if let Err(error) = self.maps.forget(before, &old) {
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
    fn tries<'a>(&mut self, access: &'a Access) -> [(&mut Trie, &'a [IpNet]); 2] {
        [(&mut self.allowed, &access.allow), (&mut self.denied, &access.deny)]
    }

    fn write(&mut self, version: u32, access: &Access) -> Result<(), Error> {
        for (trie, list) in self.tries(access) {
            for network in list {
                trie.insert(&key(version, network), 1, 0).map_err(failed("write a network to allow or deny"))?;
            }
        }
        Ok(())
    }

    fn forget(&mut self, version: u32, access: &Access) -> Result<(), Error> {
        let mut result = Ok(());
        for (trie, list) in self.tries(access) {
            let distinct: HashSet<_> = list.iter().map(IpNet::trunc).collect();
            for network in &distinct {
                if let Err(error) = trie.remove(&key(version, network)) {
                    result = Err(failed("remove a network to allow or deny")(error));
                }
            }
        }
        result
    }
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
