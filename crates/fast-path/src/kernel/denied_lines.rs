//! Denied addresses of IPv4, sixteen to a cache line: a flood from many of them is refused at the cost of one line each, and the lines of a
//! list are few enough to stay near the processor. Each list has lines of its own, half full at most. What finds its line full is
//! left over for the tables of single addresses.

use std::ops::Range;

use aya::maps::MapError;
use ipnet::IpNet;

use super::{
    KernelArray,
    layout::{DENIED_LINES, HostLine},
};

/// Addresses for each line of a list, on average: half of that at least, as lines come by twos.
const AT_MOST: usize = 6;

/// The map `denied_lines`, and who has which of its lines.
pub(super) struct DeniedLines {
    map: KernelArray<HostLine>,
    /// The first two of the program's `place_keys`.
    keys: [u64; 2],
    /// In order.
    taken: Vec<Range<u32>>,
}

/// The lines of one list; none if it has no address for them, or there was no room.
#[derive(Debug, Default)]
pub(super) struct Lines {
    range: Range<u32>,
    content: Vec<HostLine>,
    keys: [u64; 2],
}

impl DeniedLines {
    pub fn new(map: KernelArray<HostLine>, keys: [u64; 2]) -> Self {
        Self { map, keys, taken: Vec::new() }
    }

    /// Writes what a list has for lines into some that nobody reads yet. On an error they are still nobody's.
    pub fn write(&mut self, list: &[IpNet]) -> Result<Lines, MapError> {
        let hosts: Vec<_> = list.iter().filter_map(host).collect();
        let Some(range) = room(&self.taken, hosts.len()) else { return Ok(Lines::default()) };
        let lines = Lines::lay_out(&hosts, range, self.keys);
        for (at, line) in lines.range.clone().zip(&lines.content) {
            self.map.set(at, line, 0)?;
        }
        let place = self.taken.partition_point(|taken| taken.start < lines.range.start);
        self.taken.insert(place, lines.range.clone());
        Ok(lines)
    }

    /// Has others have the lines.
    pub fn free(&mut self, lines: &Lines) {
        self.taken.retain(|taken| *taken != lines.range);
    }
}

impl Lines {
    fn lay_out(hosts: &[u32], range: Range<u32>, keys: [u64; 2]) -> Self {
        let mut lines = Self { content: vec![HostLine::default(); range.len()], range, keys };
        for &host in hosts {
            let at = lines.line_of(host);
            if let Some(place) = lines.content[at].host.iter_mut().find(|place| [0, host].contains(place)) {
                *place = host;
            }
        }
        lines
    }

    /// Whether `network` is one address that stands in these lines.
    pub fn has(&self, network: &IpNet) -> bool {
        let host = host(network).filter(|_| !self.content.is_empty());
        host.is_some_and(|host| self.content[self.line_of(host)].host.contains(&host))
    }

    /// As the program is told of them: the first, and the logarithm of how many there are, and one; 0 is none.
    pub fn word(&self) -> u32 {
        if self.content.is_empty() { 0 } else { self.range.start << 8 | (self.bits() + 1) }
    }

    fn bits(&self) -> u32 {
        self.content.len().ilog2()
    }

    /// The program's `is_in_lines`.
    fn line_of(&self, host: u32) -> usize {
        let hash = self.keys[0].wrapping_add(self.keys[1].wrapping_mul(host.into()));
        // Addresses in a row would meet more often than others.
        let hash = (hash ^ hash >> 32).wrapping_mul(self.keys[1]);
        usize::try_from(hash >> 32 >> (32 - self.bits())).unwrap_or(0)
    }
}

/// The first gap that is wide enough for so many addresses.
fn room(taken: &[Range<u32>], hosts: usize) -> Option<Range<u32>> {
    let needed = u32::try_from(hosts.div_ceil(AT_MOST).next_power_of_two()).ok().filter(|_| hosts > 0)?;
    let ends = std::iter::once(0).chain(taken.iter().map(|taken| taken.end));
    let begins = taken.iter().map(|taken| taken.start).chain(std::iter::once(DENIED_LINES));
    ends.zip(begins).find(|(end, begin)| begin - end >= needed).map(|(end, _)| end..end + needed)
}

/// As the program reads it, of a single address that can be denied: no client has 0.0.0.0.
fn host(network: &IpNet) -> Option<u32> {
    match network {
        IpNet::V4(network) if network.prefix_len() == 32 && !network.addr().is_unspecified() => {
            Some(u32::from_ne_bytes(network.addr().octets()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9];

    fn hosts(count: u32) -> Vec<IpNet> {
        (0..count).map(|number| std::net::IpAddr::from((0x0a00_0000 + number).to_be_bytes()).into()).collect()
    }

    #[test]
    fn nearly_all_addresses_of_a_list_find_a_place() {
        for count in [1, 6, 7, 1000, 10_000] {
            let list = hosts(count);
            let words: Vec<_> = list.iter().filter_map(host).collect();
            let lines = Lines::lay_out(&words, room(&[], words.len()).unwrap(), KEYS);
            let has = list.iter().filter(|network| lines.has(network)).count();
            assert!(has * 100 >= words.len() * 99, "{has} of {count}");
            assert!(!hosts(2 * count)[list.len()..].iter().any(|network| lines.has(network)));
        }
    }

    #[test]
    fn what_finds_its_line_full_is_left_over() {
        let list = hosts(100);
        let words: Vec<_> = list.iter().filter_map(host).collect();
        let lines = Lines::lay_out(&words, 5..6, KEYS);
        assert_eq!(
            list.iter().map(|network| lines.has(network)).collect::<Vec<_>>(),
            [[true; 16].as_slice(), &[false; 84]].concat()
        );
        assert_eq!(lines.word(), 5 << 8 | 1);
    }

    #[test]
    fn what_is_no_single_address_of_ipv4_has_no_place() {
        for network in ["10.0.0.0/31", "0.0.0.0/32", "2001:db8::1/128", "::ffff:10.0.0.1/128"] {
            assert_eq!(host(&network.parse().unwrap()), None, "{network}");
        }
        assert_eq!(Lines::default().word(), 0);
        assert!(!Lines::default().has(&"10.0.0.1/32".parse().unwrap()));
    }

    #[test]
    fn a_list_takes_the_first_gap_that_is_wide_enough() {
        assert_eq!(room(&[], 0), None);
        assert_eq!(room(&[], 1), Some(0..1));
        assert_eq!(room(&[], 7), Some(0..2));
        assert_eq!(room(&[1..2, 4..5], 6), Some(0..1));
        assert_eq!(room(&[1..2, 4..5], 12), Some(2..4));
        assert_eq!(room(&[1..2, 4..5], 13), Some(5..9));
        let most = usize::try_from(DENIED_LINES).unwrap() * AT_MOST;
        assert_eq!((room(&[], most), room(&[], most + 1)), (Some(0..DENIED_LINES), None));
        let half = DENIED_LINES / 2;
        assert_eq!(room(&[0..1, 1..half], most / 2), Some(half..DENIED_LINES), "a list and its successor");
        assert_eq!(room(&[0..half, half..half + 1], most / 2), None);
    }
}
