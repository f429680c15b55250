//! What is not a plain datagram for an accelerated listener.

use super::{Case, dropped, passed};
use crate::common::{tables::at, world};

/// An extension header of eight bytes that says nothing.
const PADDING: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];

pub const CASES: &[Case] = &[
    Case { what: "another port of the static IP", counts: "", packet: |bed| passed(bed.v4(53).frame()) },
    Case {
        what: "another host's address",
        counts: "",
        packet: |bed| {
            let mut datagram = bed.v4(7000);
            datagram.to = at("198.18.2.2:7000");
            passed(datagram.frame())
        },
    },
    Case {
        what: "a frame for another host's device",
        counts: "",
        packet: |bed| {
            let mut datagram = bed.v4(7000);
            datagram.macs.1 = world::ENDPOINTS[1];
            passed(datagram.frame())
        },
    },
    Case {
        what: "TCP to an accelerated port",
        counts: "",
        packet: |bed| {
            let mut frame = bed.v4(7000).frame();
            frame[23] = 6;
            passed(frame)
        },
    },
    Case {
        what: "ARP",
        counts: "",
        packet: |bed| {
            let mut frame = bed.v4(7000).frame();
            frame[12..14].copy_from_slice(&[8, 6]);
            passed(frame)
        },
    },
    Case {
        what: "a tagged frame",
        counts: "",
        packet: |bed| {
            let mut frame = bed.v4(7000).frame();
            frame.splice(12..12, [0x81, 0, 0, 5]);
            passed(frame)
        },
    },
    Case {
        what: "IPv4 options",
        counts: "plain.ip_options 1",
        packet: |bed| {
            let mut datagram = bed.v4(7000);
            datagram.options = vec![(0, vec![1, 1, 1, 0])];
            dropped("client", datagram.frame())
        },
    },
    Case {
        what: "IPv4 options in an answer",
        counts: "strays.ip_options 1",
        packet: |bed| {
            let datagram = bed.v4(7000);
            bed.open(&datagram);
            let mut answer = bed.answer(&datagram);
            answer.options = vec![(0, vec![1, 1, 1, 0])];
            dropped("server", answer.frame())
        },
    },
    Case {
        what: "IPv4 options for a port that is not accelerated",
        counts: "",
        packet: |bed| {
            let mut datagram = bed.v4(53);
            datagram.options = vec![(0, vec![1, 1, 1, 0])];
            passed(datagram.frame())
        },
    },
    Case {
        what: "a UDP length beyond the packet",
        counts: "strays.malformed 1",
        packet: |bed| {
            let mut datagram = bed.v4(7000);
            datagram.length = Some(14);
            dropped("client", datagram.frame())
        },
    },
    Case {
        what: "a UDP length shorter than its header",
        counts: "strays.malformed 1",
        packet: |bed| {
            let mut datagram = bed.v4(7000);
            datagram.length = Some(7);
            dropped("client", datagram.frame())
        },
    },
    Case {
        what: "an IP length beyond the frame",
        counts: "strays.malformed 1",
        packet: |bed| {
            let frame = bed.v4(7000).frame();
            dropped("client", frame[..frame.len() - 1].to_vec())
        },
    },
    Case {
        what: "an IP header that is too short",
        counts: "strays.malformed 1",
        packet: |bed| {
            let mut frame = bed.v4(7000).frame();
            frame[14] = 0x44;
            dropped("client", frame)
        },
    },
    Case {
        what: "half a UDP header",
        counts: "strays.malformed 1",
        packet: |bed| {
            let mut datagram = bed.v4(7000);
            datagram.fragment = Some((0, 4));
            let mut frame = datagram.frame();
            frame[20] = 0;
            dropped("client", frame)
        },
    },
    Case {
        what: "Ethernet padding is not carried, and not counted",
        counts: "up plain 0 5, plain.opened 1",
        packet: |bed| {
            let datagram = bed.v4(7000);
            let mut frame = datagram.frame();
            frame.resize(60, 0);
            let out = super::becomes(move |bed| {
                let mut frame = bed.at_endpoint(&datagram).frame();
                frame.resize(60, 0);
                frame
            });
            ("client", frame, out)
        },
    },
    Case {
        what: "IPv6: destination options",
        counts: "six.ip_options 1",
        packet: |bed| {
            let mut datagram = bed.v6(7001);
            datagram.options = vec![(60, PADDING.to_vec())];
            dropped("client", datagram.frame())
        },
    },
    Case {
        what: "IPv6: hop-by-hop and routing headers",
        counts: "six.ip_options 1",
        packet: |bed| {
            let mut datagram = bed.v6(7001);
            datagram.options = vec![(0, PADDING.to_vec()), (43, PADDING.to_vec())];
            dropped("client", datagram.frame())
        },
    },
    Case {
        what: "IPv6: extension headers for a port that is not accelerated",
        counts: "",
        packet: |bed| {
            let mut datagram = bed.v6(53);
            datagram.options = vec![(60, PADDING.to_vec())];
            passed(datagram.frame())
        },
    },
    Case {
        what: "IPv6: a length beyond the frame",
        counts: "strays.malformed 1",
        packet: |bed| {
            let frame = bed.v6(7001).frame();
            dropped("client", frame[..frame.len() - 1].to_vec())
        },
    },
    Case {
        what: "IPv6: a UDP length beyond the packet",
        counts: "strays.malformed 1",
        packet: |bed| {
            let mut datagram = bed.v6(7001);
            datagram.length = Some(14);
            dropped("client", datagram.frame())
        },
    },
];
