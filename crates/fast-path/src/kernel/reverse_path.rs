//! The reverse path filter (`rp_filter`) that the host has set at each device, for `bpf/reverse_path.h`.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    time::Duration,
};

use aya::maps::{Map, MapError};

use super::{
    KernelArray, KernelHash,
    layout::{RP_FILTER_LOOSE, RP_FILTER_STRICT, ReversePath},
    multipath::Groups,
    rtnetlink::{self, Message, attribute, number},
    with_causes,
};

/// `RTM_NEWLINK`, `RTM_DELLINK`, `RTM_NEWNETCONF`, `RTM_DELNETCONF`.
const OF_SETTINGS: [u16; 4] = [16, 17, 80, 81];

const GET_LINK: u16 = 18;
/// `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
const MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const INFO_KIND: u16 = 1;

const GET_NETCONF: u16 = 82;
/// `struct netconfmsg`, as long as attributes leave it.
const NETCONF_HEADER: usize = 4;
const NETCONF_INDEX: u16 = 1;
const NETCONF_FORWARDING: u16 = 2;
const NETCONF_RP_FILTER: u16 = 3;
/// The index that stands for `all`.
const ALL: u32 = u32::MAX;
const LOOPBACK: u32 = 1;

const COMPAT_MODE: &str = "/proc/sys/net/ipv4/nexthop_compat_mode";

/// Between two readings of all routes.
const PAUSE: Duration = Duration::from_secs(1);

/// Devices one upon another: a port of a bond that is a port of a bridge.
const MOST_MASTERS: usize = 8;

/// What the program has of it.
pub(super) struct ReversePaths {
    map: KernelHash<u32, ReversePath>,
    count: KernelArray<u32>,
    written: HashMap<u32, ReversePath>,
    groups: Groups,
    /// Whether `groups` has every route there is. They are read where a device is strict,
    routes_read: bool,
    /// not again before this, by [`super::clock`]:
    next_routes: Duration,
    /// they are to be.
    wants_routes: bool,
    /// Nothing is read before this, as it could not be.
    next: Duration,
    /// Everything else is.
    stale: bool,
}

/// What is set for IPv4 at a device.
#[derive(Debug, Clone, Copy, Default)]
struct Setting {
    forwarding: bool,
    rp_filter: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Link {
    master: Option<u32>,
    vrf: bool,
}

impl ReversePaths {
    /// Reads what is set.
    pub fn new(map: Map, count: Map) -> io::Result<Self> {
        let (map, count) = (map.try_into().map_err(cannot)?, count.try_into().map_err(cannot)?);
        let written = HashMap::new();
        let mut paths = Self {
            map,
            count,
            written,
            groups: Groups::default(),
            routes_read: false,
            next_routes: Duration::ZERO,
            next: Duration::ZERO,
            wants_routes: false,
            stale: true,
        };
        paths.refresh(super::clock())?;
        Ok(paths)
    }

    /// Takes in a notice. What it changes is read by [`ReversePaths::refresh`].
    pub fn hear(&mut self, message: Message<'_>) {
        self.stale |= OF_SETTINGS.contains(&message.kind) || (self.routes_read && self.groups.hear(message));
    }

    /// Notices were lost.
    pub fn forget(&mut self) {
        self.stale = true;
        self.routes_read = false;
    }

    /// Whether there is something that [`ReversePaths::refresh`] has not read yet.
    pub fn is_stale(&self) -> bool {
        self.stale || self.wants_routes
    }

    /// Has the program know what is set by now, if a notice came. Between two readings of all routes, and after one of anything that has
    /// failed, lies a [`PAUSE`].
    pub fn refresh(&mut self, now: Duration) -> io::Result<()> {
        let reads_routes = self.wants_routes && now >= self.next_routes;
        if now < self.next || !(self.stale || reads_routes) {
            return Ok(());
        }
        let result = self.read(now);
        if result.is_err() {
            self.next = now + PAUSE;
        }
        result
    }

    fn read(&mut self, now: Duration) -> io::Result<()> {
        let (settings, links) = (settings()?, links()?);
        let named = names_devices(&fs::read_to_string(COMPAT_MODE).unwrap_or_default());
        self.routes_read &= named;
        let filters = |strictly| filters(&settings, &links, strictly);
        self.wants_routes = !self.routes_read && filters(named).values().any(|&filter| filter == RP_FILTER_STRICT);
        if self.wants_routes && now >= self.next_routes {
            let result = self.groups.read();
            // It may have taken long.
            self.next_routes = super::clock() + PAUSE;
            result?;
            (self.routes_read, self.wants_routes) = (true, false);
        }
        // Who is strict without knowing all routes refuses clients.
        let filters = filters(named && !self.wants_routes);
        self.write(&wanted(&settings, &links, &filters, &self.groups))?;
        self.stale = false;
        Ok(())
    }

    fn write(&mut self, wanted: &HashMap<u32, ReversePath>) -> io::Result<()> {
        let gone: Vec<_> = self.written.keys().copied().filter(|device| !wanted.contains_key(device)).collect();
        for device in gone {
            self.map.remove(&device).map_err(cannot)?;
            self.written.remove(&device);
        }
        for (&device, &path) in wanted {
            if self.written.get(&device) != Some(&path) {
                self.map.insert(device, path, 0).map_err(cannot)?;
                self.written.insert(device, path);
            }
        }
        self.count.set(0, u32::try_from(self.written.len()).unwrap_or(u32::MAX), 0).map_err(cannot)
    }
}

fn cannot(error: MapError) -> io::Error {
    io::Error::other(with_causes(&error))
}

/// The filter of each device: the larger of what is set at it and for all, where it is not 0. Whoever is a port of a bridge or bond has the
/// host meet its packets there. Where routes do not name their devices nobody can be strict.
fn filters(settings: &HashMap<u32, Setting>, links: &HashMap<u32, Link>, named: bool) -> HashMap<u32, u32> {
    let of = |device: u32| settings.get(&device).copied().unwrap_or_default().rp_filter;
    let filters = links.keys().map(|&device| (device, of(ALL).max(of(where_met(device, links)))));
    let filters =
        filters.map(|(device, filter)| (device, if filter == RP_FILTER_STRICT && !named { RP_FILTER_LOOSE } else { filter }));
    filters.filter(|&(_, filter)| filter != 0).collect()
}

/// Whether the kernel says by which devices a route leads that goes by an object for its next hops, by the content of [`COMPAT_MODE`].
fn names_devices(compat_mode: &str) -> bool {
    compat_mode.trim() != "0"
}

fn wanted(
    settings: &HashMap<u32, Setting>,
    links: &HashMap<u32, Link>,
    filters: &HashMap<u32, u32>,
    groups: &Groups,
) -> HashMap<u32, ReversePath> {
    let forwards = |device: u32| settings.get(&device).is_some_and(|setting| setting.forwarding);
    // Also those that are not asked, but share routes with one that is.
    let asked: HashSet<_> = filters.keys().map(|&device| groups.of(where_met(device, links))).collect();
    let path = |&device: &u32| {
        let met = where_met(device, links);
        let in_vrf = links.get(&met).is_some_and(|link| link.master.is_some());
        let from = if in_vrf || !forwards(LOOPBACK) { met } else { LOOPBACK };
        let path = ReversePath { filter: filters.get(&device).copied().unwrap_or(0), from, group: groups.of(met) };
        asked.contains(&path.group).then_some((device, path))
    };
    links.keys().filter_map(path).collect()
}

/// The device at which the host meets what comes by this one: itself, or the bridge or bond that it is a port of, but no VRF.
fn where_met(device: u32, links: &HashMap<u32, Link>) -> u32 {
    let above = |device: &u32| links.get(device)?.master.filter(|master| links.get(master).is_some_and(|link| !link.vrf));
    std::iter::successors(Some(device), above).take(MOST_MASTERS).last().unwrap_or(device)
}

fn settings() -> io::Result<HashMap<u32, Setting>> {
    let mut settings = HashMap::new();
    let family = libc::AF_INET.unsigned_abs().try_into().unwrap_or_default();
    rtnetlink::dump(GET_NETCONF, &[family], |message| {
        let attributes = message.body.get(NETCONF_HEADER..).unwrap_or_default();
        if let Some(device) = number(attributes, NETCONF_INDEX) {
            let forwarding = number(attributes, NETCONF_FORWARDING).is_some_and(|forwarding| forwarding != 0);
            settings.insert(device, Setting { forwarding, rp_filter: number(attributes, NETCONF_RP_FILTER).unwrap_or(0) });
        }
    })?;
    Ok(settings)
}

fn links() -> io::Result<HashMap<u32, Link>> {
    let mut links = HashMap::new();
    rtnetlink::dump(GET_LINK, &[0; LINK_HEADER], |message| {
        let index = message.body.get(4..8).and_then(|index| index.try_into().ok()).map(u32::from_ne_bytes);
        if let (Some(index), Some(attributes)) = (index, message.body.get(LINK_HEADER..)) {
            let kind = attribute(attributes, LINK_INFO).and_then(|info| attribute(info, INFO_KIND));
            links.insert(index, Link { master: number(attributes, MASTER), vrf: kind.is_some_and(|kind| kind == b"vrf\0") });
        }
    })?;
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Devices: 1 loopback; 2 and 3 alone; 4 a port of bond 5, which is a port of bridge 6; 7 of VRF 8.
    fn world(all: u32, set: &[(u32, u32)], forwarding: bool) -> HashMap<u32, (u32, u32, u32)> {
        let master = |device| match device {
            4 => Some(5),
            5 => Some(6),
            7 => Some(8),
            _ => None,
        };
        let links = (1..=8).map(|device| (device, Link { master: master(device), vrf: device == 8 })).collect();
        let mut settings: HashMap<_, _> = (1..=8).map(|device| (device, Setting { forwarding, rp_filter: 0 })).collect();
        settings.insert(ALL, Setting { forwarding, rp_filter: all });
        for &(device, rp_filter) in set {
            settings.insert(device, Setting { forwarding, rp_filter });
        }
        let paths = wanted(&settings, &links, &filters(&settings, &links, true), &Groups::default());
        paths.into_iter().map(|(device, path)| (device, (path.filter, path.from, path.group))).collect()
    }

    #[test]
    fn the_larger_of_the_two_settings_counts_and_0_asks_nobody() {
        assert_eq!(world(0, &[], true), HashMap::new());
        assert_eq!(world(0, &[(2, 1)], true), HashMap::from([(2, (1, 1, 2))]));
        let all = world(1, &[(2, 2), (3, 0)], true);
        assert_eq!((all.len(), all[&2], all[&3]), (8, (2, 1, 2), (1, 1, 3)));
    }

    #[test]
    fn nobody_is_strict_where_routes_do_not_name_their_devices() {
        let settings = HashMap::from([(2, Setting { forwarding: true, rp_filter: 1 })]);
        let links = HashMap::from([(2, Link::default())]);
        for (compat_mode, filter) in [("1\n", 1), ("", 1), ("0\n", 2)] {
            assert_eq!(filters(&settings, &links, names_devices(compat_mode)), HashMap::from([(2, filter)]), "{compat_mode:?}");
        }
    }

    #[test]
    fn a_port_is_asked_as_what_it_is_a_port_of() {
        let paths = world(0, &[(4, 1), (6, 2)], true);
        assert_eq!(paths, HashMap::from([(4, (2, 1, 6)), (5, (2, 1, 6)), (6, (2, 1, 6))]));
    }

    #[test]
    fn the_way_back_is_asked_for_from_loopback_if_that_forwards_and_the_device_is_of_no_vrf() {
        assert_eq!(world(0, &[(2, 2)], false)[&2], (2, 2, 2));
        assert_eq!(world(0, &[(7, 2)], true), HashMap::from([(7, (2, 7, 7))]));
    }
}
