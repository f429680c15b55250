//! Datagrams in fragments.

use super::{Case, Packet, dropped, passed, up};
use crate::common::{bed::Bed, frame::Datagram, tables::at};

/// A datagram of 608 bytes with its UDP header, of which this is the part from `start` to `end`.
fn part(mut datagram: Datagram, start: usize, end: usize) -> Datagram {
    datagram.payload = (0..600u32).map(|i| (i * 7).to_le_bytes()[0]).collect();
    datagram.fragment = Some((start, end));
    datagram.id = datagram.from.port();
    datagram
}

/// The second part of a new flow's datagram, whose first has passed.
fn later(bed: &mut Bed, datagram: Datagram, end: usize) -> Packet {
    bed.open(&part(datagram.clone(), 0, 304));
    up(part(datagram, 304, end))
}

pub const CASES: &[Case] = &[
    Case {
        what: "the first fragment of a new flow",
        counts: "up plain 0 296, plain.opened 1",
        packet: |bed| up(part(bed.v4(7000), 0, 304)),
    },
    Case {
        what: "one in the middle",
        counts: "up plain 0 200",
        packet: |bed| {
            let datagram = bed.v4(7000);
            later(bed, datagram, 504)
        },
    },
    Case {
        what: "the last",
        counts: "up plain 0 304",
        packet: |bed| {
            let datagram = bed.v4(7000);
            later(bed, datagram, 608)
        },
    },
    Case {
        what: "a later one that is larger than the device towards the endpoint takes",
        counts: "plain.datagram_too_big 1",
        packet: |bed| {
            let datagram = bed.v4(7000);
            bed.open(&part(datagram.clone(), 0, 304));
            let mut datagram = part(datagram, 304, 2504);
            datagram.payload = vec![0; 4000];
            dropped("client", datagram.frame())
        },
    },
    Case {
        what: "one before its first",
        counts: "strays.fragment_early 1",
        packet: |bed| dropped("client", part(bed.v4(7000), 304, 608).frame()),
    },
    Case {
        what: "one of another datagram of the same client",
        counts: "strays.fragment_early 1",
        packet: |bed| {
            let datagram = bed.v4(7000);
            bed.open(&part(datagram.clone(), 0, 304));
            let mut other = part(datagram, 304, 608);
            other.id = 1;
            dropped("client", other.frame())
        },
    },
    Case {
        what: "the rest follows its flow to another endpoint",
        counts: "up mover 1 304",
        packet: |bed| {
            bed.republish("mover", &[0], &[], &[]);
            let datagram = bed.v4(7013);
            bed.open(&datagram);
            bed.republish("mover", &[1], &[0], &[]);
            later(bed, datagram, 608)
        },
    },
    Case {
        what: "the first fragment of an answer",
        counts: "down plain 0 296",
        packet: |bed| {
            let datagram = bed.v4(7000);
            bed.open(&datagram);
            super::down(part(bed.answer(&datagram), 0, 304), datagram)
        },
    },
    Case {
        what: "the last of an answer",
        counts: "down plain 0 304",
        packet: |bed| {
            let datagram = bed.v4(7000);
            bed.open(&datagram);
            let answer = bed.answer(&datagram);
            bed.run(&part(answer.clone(), 0, 304).frame());
            super::down(part(answer, 304, 608), datagram)
        },
    },
    Case {
        what: "the first fragment for a port that is not accelerated",
        counts: "",
        packet: |bed| passed(part(bed.v4(53), 0, 304).frame()),
    },
    Case {
        what: "a fragment for another host",
        counts: "",
        packet: |bed| {
            let mut datagram = part(bed.v4(7000), 304, 608);
            datagram.to = at("198.18.2.2:7000");
            passed(datagram.frame())
        },
    },
    Case {
        what: "IPv6: the first fragment of a new flow",
        counts: "up six 2 296, six.opened 1",
        packet: |bed| up(part(bed.v6(7001), 0, 304)),
    },
    Case {
        what: "IPv6: the last",
        counts: "up six 2 304",
        packet: |bed| {
            let datagram = bed.v6(7001);
            later(bed, datagram, 608)
        },
    },
    Case {
        what: "IPv6: one before its first",
        counts: "strays.fragment_early 1",
        packet: |bed| dropped("client", part(bed.v6(7001), 304, 608).frame()),
    },
    Case {
        what: "IPv6: a fragment that is the whole datagram",
        counts: "up six 2 600, six.opened 1",
        packet: |bed| up(part(bed.v6(7001), 0, 608)),
    },
];
