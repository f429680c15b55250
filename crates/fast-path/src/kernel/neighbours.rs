//! Which notices of the kernel change a way out: all but those of neighbours whose address is what it was. A host confirms each of its
//! neighbours every half minute, and gives notice each time.

use std::{collections::HashMap, net::IpAddr};

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
};

/// Neighbours that are remembered. Beyond it all are forgotten, and the next notice of each counts as news.
const MOST: usize = 65_536;

/// `RTM_NEWNEIGH`, `RTM_DELNEIGH`.
const OF_NEIGHBOURS: [u16; 2] = [28, 29];

/// The link-layer addresses of neighbours that notices have told of, by device and address; `None` where there is none.
#[derive(Debug, Default)]
pub(super) struct Neighbours(HashMap<(u32, IpAddr), Option<Vec<u8>>>);

impl Neighbours {
    /// Whether any of these notices changes a way out.
    pub fn news(&mut self, mut notices: &[u8]) -> bool {
        let mut news = false;
        while let Ok(notice) = NetlinkBuffer::new_checked(notices) {
            news |= !OF_NEIGHBOURS.contains(&notice.message_type()) || self.is_new(notices);
            notices = notices.get((notice.length() as usize).next_multiple_of(4)..).unwrap_or_default();
        }
        // The rest of one that was cut short.
        news || !notices.is_empty()
    }

    /// Notices were lost.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// Whether a neighbour has another address than before, or none any more.
    fn is_new(&mut self, notice: &[u8]) -> bool {
        let Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(message), .. }) = NetlinkMessage::deserialize(notice)
        else {
            return true;
        };
        let (NeighbourMessage { header, attributes, .. }, gone) = match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) => (neighbour, false),
            RouteNetlinkMessage::DelNeighbour(neighbour) => (neighbour, true),
            _ => return true,
        };
        let unusable = matches!(header.state, NeighbourState::Failed | NeighbourState::Incomplete | NeighbourState::None);
        let (mut ip, mut address) = (None, None);
        for attribute in attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(IpAddr::from(v4)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some(IpAddr::from(v6)),
                NeighbourAttribute::LinkLayerAddress(bytes) => address = Some(bytes),
                _ => {}
            }
        }
        let Some(ip) = ip else { return true };
        let address = address.filter(|_| !gone && !unusable);
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert((header.ifindex, ip), address.clone()) != Some(address)
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkHeader;
    use netlink_packet_route::neighbour::NeighbourHeader;

    use super::*;

    fn notice(gone: bool, state: NeighbourState, ip: [u8; 4], address: &[u8]) -> Vec<u8> {
        let mut message = NeighbourMessage::default();
        message.header = NeighbourHeader { ifindex: 3, state, ..NeighbourHeader::default() };
        message.header.family = netlink_packet_route::AddressFamily::Inet;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(ip.into())));
        if !address.is_empty() {
            message.attributes.push(NeighbourAttribute::LinkLayerAddress(address.to_vec()));
        }
        let message = if gone { RouteNetlinkMessage::DelNeighbour(message) } else { RouteNetlinkMessage::NewNeighbour(message) };
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn a_neighbour_is_news_when_its_address_is() {
        use NeighbourState::{Failed, Incomplete, Probe, Reachable, Stale};
        let mut neighbours = Neighbours::default();
        let (one, two, first, second) = ([10, 0, 0, 1], [10, 0, 0, 2], &[2, 0, 0, 0, 0, 1], &[2, 0, 0, 0, 0, 2]);
        for (number, (gone, state, ip, address, news)) in [
            (false, Reachable, one, &first[..], true),
            (false, Stale, one, first, false),
            (false, Probe, one, first, false),
            (false, Reachable, two, first, true),
            (false, Reachable, one, second, true),
            (false, Failed, one, &[], true),
            (false, Incomplete, one, &[], false),
            (false, Reachable, one, second, true),
            (true, Stale, one, second, true),
            (false, Reachable, two, first, false),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(neighbours.news(&notice(gone, state, ip, address)), news, "{number}");
        }
        neighbours.forget();
        assert!(neighbours.news(&notice(false, Reachable, two, first)));
    }

    #[test]
    fn several_notices_are_read_and_what_cannot_be_is_news() {
        let mut neighbours = Neighbours::default();
        let confirmed = notice(false, NeighbourState::Reachable, [10, 0, 0, 1], &[2, 0, 0, 0, 0, 1]);
        let other = notice(false, NeighbourState::Reachable, [10, 0, 0, 2], &[2, 0, 0, 0, 0, 1]);
        assert!(neighbours.news(&confirmed));
        assert!(!neighbours.news(&[confirmed.clone(), confirmed.clone()].concat()));
        assert!(neighbours.news(&[confirmed.clone(), other].concat()));
        let mut link = confirmed.clone();
        link[4] = 16;
        assert!(neighbours.news(&link));
        let mut garbled = confirmed;
        let length = garbled.len();
        garbled[24..length].fill(0xff);
        assert!(neighbours.news(&garbled));
        let again = notice(false, NeighbourState::Reachable, [10, 0, 0, 2], &[2, 0, 0, 0, 0, 1]);
        assert!(!neighbours.news(&again));
        assert!(neighbours.news(&again[..20]), "cut short");
    }
}
