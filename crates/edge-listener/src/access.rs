//! Whom a listener serves by address: lists of networks, searched by longest prefix, so that thousands cost what one costs.

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixSet;

/// The clients that a listener serves.
#[derive(Debug, Clone, Default)]
pub struct Access {
    allow: Networks,
    deny: Networks,
}

/// A set of networks of both families.
#[derive(Debug, Clone, Default)]
struct Networks {
    v4: PrefixSet<Ipv4Net>,
    v6: PrefixSet<Ipv6Net>,
    /// As they were given, without bits beyond the prefix.
    list: Vec<IpNet>,
}

impl Networks {
    fn new(networks: &[IpNet]) -> Self {
        let mut set = Self::default();
        for network in networks.iter().map(IpNet::trunc) {
            match network {
                IpNet::V4(network) => set.v4.insert(network),
                IpNet::V6(network) => set.v6.insert(network),
            };
            set.list.push(network);
        }
        set
    }

    fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.get_lpm(&ip.into()).is_some(),
            IpAddr::V6(ip) => self.v6.get_lpm(&ip.into()).is_some(),
        }
    }
}

impl PartialEq for Access {
    fn eq(&self, other: &Self) -> bool {
        self.allow.list == other.allow.list && self.deny.list == other.deny.list
    }
}

impl Access {
    /// Serves the clients of `allow`, or everyone if that is empty, but nobody of `deny`.
    pub fn new(allow: &[IpNet], deny: &[IpNet]) -> Self {
        Self { allow: Networks::new(allow), deny: Networks::new(deny) }
    }

    /// Whether `client` is served.
    pub fn admits(&self, client: IpAddr) -> bool {
        !self.deny.contains(client) && (self.allow.list.is_empty() || self.allow.contains(client))
    }

    /// The networks that are served; empty for all.
    pub fn allow(&self) -> &[IpNet] {
        &self.allow.list
    }

    /// The networks that are not.
    pub fn deny(&self) -> &[IpNet] {
        &self.deny.list
    }
}

/// The lists of all listeners, each swapped whole while the edge runs. Flows that were admitted go on.
#[derive(Debug)]
pub struct AccessLists(Box<[ArcSwap<Access>]>);

impl AccessLists {
    /// One for each listener, in the order of the file.
    pub fn new(lists: impl IntoIterator<Item = Access>) -> Self {
        Self(lists.into_iter().map(ArcSwap::from_pointee).collect())
    }

    /// Replaces the list of `listener`; without effect if there is no such listener.
    pub fn set(&self, listener: usize, access: Access) {
        if let Some(list) = self.0.get(listener) {
            list.store(Arc::new(access));
        }
    }

    /// Whether `listener` serves `client`.
    pub fn admits(&self, listener: usize, client: IpAddr) -> bool {
        self.0.get(listener).is_some_and(|list| list.load().admits(client))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn deny_wins_and_an_empty_allow_is_everyone() {
        let everyone = Access::default();
        let some = Access::new(&nets(&["203.0.113.0/24", "2001:db8::/32"]), &nets(&["203.0.113.64/26", "2001:db8:bad::/48"]));
        let but = Access::new(&[], &nets(&["0.0.0.0/1"]));
        for (client, of_some, of_but) in [
            ("203.0.113.1", true, true),
            ("203.0.113.65", false, true),
            ("203.0.113.128", true, true),
            ("9.9.9.9", false, false),
            ("2001:db8::1", true, true),
            ("2001:db8:bad::1", false, true),
            ("2001:db9::1", false, true),
        ] {
            let client: IpAddr = client.parse().unwrap();
            assert!(everyone.admits(client));
            assert_eq!((some.admits(client), but.admits(client)), (of_some, of_but), "{client}");
        }
    }

    #[test]
    fn thousands_of_networks_agree_with_a_search_one_by_one() {
        let mut rng = fastrand::Rng::with_seed(5);
        let list: Vec<IpNet> =
            (0..5_000).map(|_| IpNet::new(IpAddr::from(rng.u32(..).to_be_bytes()), rng.u8(8..=32)).unwrap()).collect();
        let access = Access::new(&list, &[]);
        for _ in 0..2_000 {
            let client = IpAddr::from(rng.u32(..).to_be_bytes());
            assert_eq!(access.admits(client), list.iter().any(|network| network.contains(&client)), "{client}");
        }
    }
}
