//! From endpoints: answers, and what only looks like one.

use super::{Case, down, dropped, told_too_big, up};
use crate::common::{bed::Bed, frame::Datagram, tables::at, world};

fn conversation(bed: &mut Bed, datagram: Datagram) -> (Datagram, Datagram) {
    bed.open(&datagram);
    (bed.answer(&datagram), datagram)
}

pub const CASES: &[Case] = &[
    Case {
        what: "an answer",
        counts: "down plain 0 6",
        packet: |bed| {
            let datagram = bed.v4(7000);
            let (answer, datagram) = conversation(bed, datagram);
            down(answer, datagram)
        },
    },
    Case {
        what: "an answer without a checksum",
        counts: "down plain 0 6",
        packet: |bed| {
            let datagram = bed.v4(7000);
            let (mut answer, datagram) = conversation(bed, datagram);
            answer.checksum = false;
            down(answer, datagram)
        },
    },
    Case {
        what: "an answer from a fixed port",
        counts: "down fixed 3 6",
        packet: |bed| {
            let datagram = bed.v4(7002);
            let (answer, datagram) = conversation(bed, datagram);
            assert_eq!(answer.from.port(), 9000);
            down(answer, datagram)
        },
    },
    Case {
        what: "DSCP of an answer is cleared too",
        counts: "down bleach 0 6",
        packet: |bed| {
            let datagram = bed.v4(7008);
            let (mut answer, datagram) = conversation(bed, datagram);
            answer.tos = 0x2e << 2;
            let (device, frame, _) = down(answer.clone(), datagram.clone());
            let out = super::becomes(move |bed| Datagram { tos: 0, ..bed.at_client(&answer, &datagram) }.frame());
            (device, frame, out)
        },
    },
    Case {
        what: "the answer of the endpoint that a flow has moved to",
        counts: "down mover 1 6",
        packet: |bed| {
            bed.republish("mover", &[0], &[], &[]);
            let datagram = bed.v4(7013);
            bed.open(&datagram);
            bed.republish("mover", &[1], &[0], &[]);
            let (answer, datagram) = conversation(bed, datagram);
            down(answer, datagram)
        },
    },
    Case {
        what: "a late answer of the endpoint that it has left",
        counts: "mover.not_from_endpoint 1",
        packet: |bed| {
            bed.republish("mover", &[0], &[], &[]);
            let datagram = bed.v4(7013);
            let (answer, datagram) = conversation(bed, datagram);
            bed.republish("mover", &[1], &[0], &[]);
            bed.run(&datagram.frame());
            dropped("server", answer.frame())
        },
    },
    Case {
        what: "a packet of another host to a flow's NAT port",
        counts: "plain.not_from_endpoint 1",
        packet: |bed| {
            let datagram = bed.v4(7000);
            let (mut answer, _) = conversation(bed, datagram);
            answer.from.set_ip(at("198.18.2.3:1").ip());
            dropped("server", answer.frame())
        },
    },
    Case {
        what: "a packet from another port of the endpoint",
        counts: "plain.not_from_endpoint 1",
        packet: |bed| {
            let datagram = bed.v4(7000);
            let (mut answer, _) = conversation(bed, datagram);
            answer.from.set_port(7001);
            dropped("server", answer.frame())
        },
    },
    Case {
        what: "a packet to a NAT port without a flow",
        counts: "strays.no_flow 1",
        packet: |bed| {
            let free = (40_000..60_000).find(|&port| !bed.fast_path.flows().any(|flow| flow.nat.port() == port)).unwrap();
            let mut stray = Datagram::new(at("198.18.2.2:7000"), at("198.18.2.1:1"));
            stray.to.set_port(free);
            stray.macs = (world::ENDPOINTS[0], world::SERVER_SIDE);
            dropped("server", stray.frame())
        },
    },
    Case {
        what: "a packet to a NAT address, outside of the ports",
        counts: "",
        packet: |_| {
            let mut other = Datagram::new(at("198.18.2.2:7000"), at("198.18.2.1:39999"));
            other.macs = (world::ENDPOINTS[0], world::SERVER_SIDE);
            ("server", other.frame(), super::Outcome::Passed)
        },
    },
    Case {
        what: "a time to live that is used up",
        counts: "plain.ttl_exceeded 1",
        packet: |bed| {
            let datagram = bed.v4(7000);
            let (mut answer, _) = conversation(bed, datagram);
            answer.ttl = 1;
            dropped("server", answer.frame())
        },
    },
    Case {
        what: "no route to the client",
        counts: "plain.client_unreachable 1",
        packet: |bed| {
            let datagram = bed.from("198.19.9.9", 7000);
            let (answer, _) = conversation(bed, datagram);
            dropped("server", answer.frame())
        },
    },
    Case {
        what: "larger than the device towards the client takes",
        counts: "plain.datagram_too_big 1",
        packet: |bed| {
            let datagram = bed.v4(7000);
            let (mut answer, _) = conversation(bed, datagram);
            answer.payload = vec![0; 1600];
            told_too_big("server", &answer)
        },
    },
    Case {
        what: "IPv6: an answer",
        counts: "down six 2 6",
        packet: |bed| {
            let datagram = bed.v6(7001);
            let (answer, datagram) = conversation(bed, datagram);
            down(answer, datagram)
        },
    },
    Case {
        what: "IPv6: a packet of another host to a flow's NAT port",
        counts: "six.not_from_endpoint 1",
        packet: |bed| {
            let datagram = bed.v6(7001);
            let (mut answer, _) = conversation(bed, datagram);
            answer.from.set_ip(at("[fd18:2::3]:1").ip());
            dropped("server", answer.frame())
        },
    },
    Case {
        what: "after the flow has ended its port is nobody's",
        counts: "strays.no_flow 1",
        packet: |bed| {
            let datagram = bed.v4(7000);
            let (answer, _) = conversation(bed, datagram);
            bed.fast_path.end_all().unwrap();
            dropped("server", answer.frame())
        },
    },
    Case {
        what: "and the client's next datagram begins another",
        counts: "up plain 0 5, plain.opened 1",
        packet: |bed| {
            let datagram = bed.v4(7000);
            bed.converse(&datagram);
            bed.fast_path.end_all().unwrap();
            up(datagram)
        },
    },
];
