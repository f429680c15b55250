//! Devices that a multipath route of IPv4 leads by, which share its traffic. The program is told but one of its ways, so to the reverse path
//! filter they are one.

use std::{collections::HashMap, io};

use super::rtnetlink::{self, Message, attribute};

/// `RTM_NEWROUTE`, `RTM_GETROUTE`, `RTA_MULTIPATH`, and the size of `struct rtmsg`.
const NEW: u16 = 24;
const GET: u16 = 26;
const MULTIPATH: u16 = 9;
const HEADER: usize = 12;

/// Groups of devices, by device. They grow, and never part: which route was the last to join two is not remembered.
#[derive(Debug, Default)]
pub(super) struct Groups(HashMap<u32, u32>);

impl Groups {
    /// Takes in all routes that there are.
    pub fn read(&mut self) -> io::Result<()> {
        let mut header = [0; HEADER];
        header[0] = libc::AF_INET.unsigned_abs().try_into().unwrap_or_default();
        rtnetlink::dump(GET, &header, |message| {
            self.hear(message);
        })
    }

    /// Takes in a notice, if it is of such a route; whether a group has grown.
    pub fn hear(&mut self, message: Message<'_>) -> bool {
        if message.kind != NEW || message.body.first().is_none_or(|&family| i32::from(family) != libc::AF_INET) {
            return false;
        }
        let ways = message.body.get(HEADER..).and_then(|attributes| attribute(attributes, MULTIPATH));
        ways.is_some_and(|ways| self.join(&devices(ways)))
    }

    /// What all devices of the group of `device` have in common.
    pub fn of(&self, device: u32) -> u32 {
        self.0.get(&device).copied().unwrap_or(device)
    }

    fn join(&mut self, devices: &[u32]) -> bool {
        let parts: Vec<_> = devices.iter().map(|&device| self.of(device)).collect();
        let Some(&whole) = parts.iter().min() else { return false };
        let grown = parts.iter().any(|&part| part != whole);
        if grown {
            self.0.values_mut().filter(|group| parts.contains(group)).for_each(|group| *group = whole);
            self.0.extend(devices.iter().map(|&device| (device, whole)));
        }
        grown
    }
}

/// The devices in a list of `struct rtnexthop`, each with its attributes.
fn devices(mut ways: &[u8]) -> Vec<u32> {
    let mut devices = Vec::new();
    while let Some(&[first, second, _, _, index @ ..]) = ways.first_chunk::<8>() {
        devices.push(u32::from_ne_bytes(index));
        let length = usize::from(u16::from_ne_bytes([first, second])).max(8).next_multiple_of(4);
        ways = ways.get(length..).unwrap_or_default();
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_grow_into_each_other_and_a_device_alone_is_its_own() {
        let mut groups = Groups::default();
        assert!(groups.join(&[5, 7]) && groups.join(&[9, 8]));
        assert!(!groups.join(&[7, 5]) && !groups.join(&[7]) && !groups.join(&[]));
        assert_eq!([5, 7, 8, 9, 3].map(|device| groups.of(device)), [5, 5, 8, 8, 3]);
        assert!(groups.join(&[9, 7]));
        assert_eq!([5, 7, 8, 9].map(|device| groups.of(device)), [5; 4]);
        assert!(groups.join(&[9, 2]));
        assert_eq!([2, 5, 7, 8, 9].map(|device| groups.of(device)), [2; 5]);
    }

    #[test]
    fn only_multipath_routes_of_ipv4_are_heard() {
        let way = |device: u8| [16, 0, 0, 0, device, 0, 0, 0, 8, 0, 5, 0, 198, 18, 1, device];
        let route = |family: u8, kind: u16| {
            let mut body = vec![0; HEADER];
            body[0] = family;
            let ways = [way(4), way(6)].concat();
            body.extend(u16::try_from(4 + ways.len()).unwrap().to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(ways);
            body
        };
        let mut groups = Groups::default();
        assert!(!groups.hear(Message::new(NEW, &route(10, MULTIPATH))));
        assert!(!groups.hear(Message::new(NEW, &route(2, 30))));
        assert!(!groups.hear(Message::new(25, &route(2, MULTIPATH))));
        assert!(groups.hear(Message::new(NEW, &route(2, MULTIPATH))));
        assert_eq!((groups.of(4), groups.of(6)), (4, 4));
    }
}
