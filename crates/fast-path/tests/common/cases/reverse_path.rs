//! New flows where the host's `rp_filter` asks for the way back.

use super::{Bed, Case, Packet, becomes, dropped};
use crate::common::{
    frame::{Datagram, Mac},
    world::{CLIENT_SIDE, GATEWAY, LOOSE, STRICT},
};

const REDIRECTED: i32 = 7;

/// A datagram of a new client at a device.
fn at(bed: &mut Bed, device: Mac, client: &str, port: u16) -> Datagram {
    Datagram { macs: (GATEWAY, device), ..bed.from(client, port) }
}

fn carried(device: &'static str, datagram: Datagram) -> Packet {
    (device, datagram.frame(), becomes(move |bed| bed.at_endpoint(&datagram).frame()))
}

pub const CASES: &[Case] = &[
    Case {
        what: "strict: the way back is by the device",
        counts: "up plain 0 5, plain.opened 1",
        packet: |bed| carried("strict", at(bed, STRICT, "198.18.3.9", 7000)),
    },
    Case {
        what: "strict: the way back is by another device",
        counts: "plain.reverse_path 1",
        packet: |bed| dropped("strict", at(bed, STRICT, "198.18.64.9", 7000).frame()),
    },
    Case {
        what: "strict: from an endpoint",
        counts: "plain.reverse_path 1",
        packet: |bed| dropped("strict", at(bed, STRICT, "198.18.2.2", 7000).frame()),
    },
    Case {
        what: "strict: no way back",
        counts: "plain.reverse_path 1",
        packet: |bed| dropped("strict", at(bed, STRICT, "192.0.2.9", 7000).frame()),
    },
    Case {
        what: "strict: the host's own address",
        counts: "plain.reverse_path 1",
        packet: |bed| dropped("strict", at(bed, STRICT, "198.18.4.1", 7000).frame()),
    },
    Case {
        what: "strict: the way back is a multipath route by this device and another",
        counts: "up plain 0 5, plain.opened 1",
        packet: |bed| {
            for host in 10..42 {
                let datagram = at(bed, STRICT, &format!("198.18.68.{host}"), 7000);
                assert_eq!(bed.run_at("strict", &datagram.frame()).action, REDIRECTED, "{host}");
            }
            carried("strict", at(bed, STRICT, "198.18.68.9", 7000))
        },
    },
    Case {
        what: "strict: a flow that began at another device goes on",
        counts: "up plain 0 5",
        packet: |bed| {
            let mut datagram = at(bed, CLIENT_SIDE, "198.18.64.9", 7000);
            bed.open(&datagram);
            datagram.macs.1 = STRICT;
            carried("strict", datagram)
        },
    },
    Case {
        what: "strict: IPv6 has no such filter",
        counts: "up six 2 5, six.opened 1",
        packet: |bed| carried("strict", at(bed, STRICT, "fd18:64::9", 7001)),
    },
    Case {
        what: "strict: a client that the lists deny, too",
        counts: "private.reverse_path 1",
        packet: |bed| dropped("strict", at(bed, STRICT, "198.18.64.129", 7007).frame()),
    },
    Case {
        what: "loose: the way back is by another device",
        counts: "up plain 0 5, plain.opened 1",
        packet: |bed| carried("loose", at(bed, LOOSE, "198.18.64.9", 7000)),
    },
    Case {
        what: "loose: no way back",
        counts: "plain.reverse_path 1",
        packet: |bed| dropped("loose", at(bed, LOOSE, "192.0.2.9", 7000).frame()),
    },
    Case {
        what: "loose: no way back by order",
        counts: "plain.reverse_path 1",
        packet: |bed| dropped("loose", at(bed, LOOSE, "198.18.69.9", 7000).frame()),
    },
    Case {
        what: "without a filter no way back is needed",
        counts: "up plain 0 5, plain.opened 1",
        packet: |bed| carried("client", at(bed, CLIENT_SIDE, "192.0.2.9", 7000)),
    },
];
