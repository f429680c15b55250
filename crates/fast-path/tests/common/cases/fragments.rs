//! Datagrams in fragments. Each goes on under a number that the first of it is given.

use super::{Case, Packet, becomes, dropped, passed, up};
use crate::common::{
    bed::Bed,
    frame::{Datagram, id_of},
    tables::at,
};

/// A datagram of 608 bytes with its UDP header, of which this is the part from `start` to `end`.
pub(super) fn part(mut datagram: Datagram, start: usize, end: usize) -> Datagram {
    datagram.payload = (0..600u32).map(|i| (i * 7).to_le_bytes()[0]).collect();
    datagram.fragment = Some((start, end));
    datagram.id = datagram.from.port().into();
    datagram
}

/// The first part of a datagram, under whatever number.
fn first(datagram: Datagram) -> Packet {
    let datagram = part(datagram, 0, 304);
    ("client", datagram.frame(), becomes(move |bed| Datagram { id: id_of(&bed.out), ..bed.at_endpoint(&datagram) }.frame()))
}

/// The second part of a new flow's datagram, whose first has passed: under the same number.
pub(super) fn later(bed: &mut Bed, datagram: Datagram, end: usize) -> Packet {
    bed.open(&part(datagram.clone(), 0, 304));
    let id = id_of(&bed.out);
    let datagram = part(datagram, 304, end);
    ("client", datagram.frame(), becomes(move |bed| Datagram { id, ..bed.at_endpoint(&datagram) }.frame()))
}

/// A part of an answer that leaves under this number, or whatever number.
pub(super) fn answered(answer: Datagram, datagram: Datagram, id: Option<u32>) -> Packet {
    let frame = answer.frame();
    let out = move |bed: &Bed| Datagram { id: id.unwrap_or(id_of(&bed.out)), ..bed.at_client(&answer, &datagram) }.frame();
    ("server", frame, becomes(out))
}

pub const CASES: &[Case] = &[
    Case {
        what: "the first fragment of a new flow",
        counts: "up plain 0 296, plain.opened 1",
        packet: |bed| first(bed.v4(7000)),
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
        what: "a datagram of another client with the same number, between its parts",
        counts: "up plain 0 304",
        packet: |bed| {
            let [datagram, mut other] = ["198.18.64.9", "198.18.64.10"].map(|client| bed.from(client, 7000));
            other.from.set_port(datagram.from.port());
            bed.open(&part(datagram.clone(), 0, 304));
            let id = id_of(&bed.out);
            bed.open(&part(other.clone(), 0, 304));
            assert_ne!(id_of(&bed.out), id);
            bed.run(&part(other, 304, 608).frame());
            let datagram = part(datagram, 304, 608);
            ("client", datagram.frame(), becomes(move |bed| Datagram { id, ..bed.at_endpoint(&datagram) }.frame()))
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
            answered(part(bed.answer(&datagram), 0, 304), datagram, None)
        },
    },
    Case {
        what: "the last of an answer",
        counts: "down plain 0 304",
        packet: |bed| {
            let datagram = bed.v4(7000);
            bed.open(&datagram);
            let answer = bed.answer(&datagram);
            let id = id_of(&bed.run(&part(answer.clone(), 0, 304).frame()).frame);
            answered(part(answer, 304, 608), datagram, Some(id))
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
        packet: |bed| first(bed.v6(7001)),
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
