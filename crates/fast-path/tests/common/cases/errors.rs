//! ICMP errors, both ways.

use super::{Case, Packet, becomes, dropped, passed};
use crate::common::{
    bed::Bed,
    frame::{Datagram, IcmpError},
    tables::at,
    world,
};

/// An error about the datagram of a new flow, sent by the endpoint or by the router `from`.
fn to_client(bed: &mut Bed, datagram: Datagram, kind: u8, code: u8, from: Option<&str>) -> Packet {
    bed.open(&datagram);
    let error = bed.endpoint_error(&datagram, kind, code, from);
    ("server", error.frame(), becomes(move |bed| bed.error_at_client(&error, &datagram)))
}

/// An error about the answer to the datagram of a new flow, sent by the client or by the router `from`.
fn to_endpoint(bed: &mut Bed, datagram: Datagram, kind: u8, code: u8, from: Option<&str>) -> Packet {
    bed.open(&datagram);
    let answer = bed.answer(&datagram);
    let quote = bed.at_client(&answer, &datagram).packet();
    let from = from.map_or(datagram.from.ip(), |ip| ip.parse().unwrap());
    let macs = (world::GATEWAY, world::CLIENT_SIDE);
    let error = IcmpError { macs, from, to: datagram.to.ip(), ttl: 64, kind, code, word: 1280, quote };
    let frame = error.frame();
    let out = becomes(move |bed| {
        let sent = bed.at_endpoint(&datagram);
        let quote = Datagram { ttl: answer.ttl - 1, ..answer }.packet();
        IcmpError { macs: sent.macs, from: sent.from.ip(), to: sent.to.ip(), ttl: 63, quote, ..error }.frame()
    });
    ("client", frame, out)
}

pub const CASES: &[Case] = &[
    Case {
        what: "port unreachable from the endpoint",
        counts: "plain.icmp_down 1, endpoint0.refused 1",
        packet: |bed| {
            let datagram = bed.v4(7000);
            to_client(bed, datagram, 3, 3, None)
        },
    },
    Case {
        what: "fragmentation needed, from a router before the endpoint",
        counts: "plain.icmp_down 1, endpoint0.refused 1",
        packet: |bed| {
            let datagram = bed.v4(7000);
            to_client(bed, datagram, 3, 4, Some("198.18.2.99"))
        },
    },
    Case {
        what: "time exceeded on the way to the endpoint",
        counts: "plain.icmp_down 1, endpoint0.refused 1",
        packet: |bed| {
            let datagram = bed.v4(7000);
            to_client(bed, datagram, 11, 0, Some("198.18.2.99"))
        },
    },
    Case {
        what: "an error about a datagram without a checksum",
        counts: "plain.icmp_down 1, endpoint0.refused 1",
        packet: |bed| {
            let mut datagram = bed.v4(7000);
            datagram.checksum = false;
            to_client(bed, datagram, 3, 3, None)
        },
    },
    Case {
        what: "an error that quotes a port of the endpoint's other than the flow's",
        counts: "plain.not_from_endpoint 1",
        packet: |bed| {
            let datagram = bed.v4(7000);
            bed.open(&datagram);
            let mut sent = bed.at_endpoint(&datagram);
            sent.to.set_port(9);
            let mut error = bed.endpoint_error(&datagram, 3, 3, None);
            error.quote = sent.packet();
            dropped("server", error.frame())
        },
    },
    Case {
        what: "an error about a NAT port without a flow",
        counts: "strays.no_flow 1",
        packet: |bed| {
            let datagram = bed.v4(7000);
            bed.open(&datagram);
            let error = bed.endpoint_error(&datagram, 3, 3, None);
            bed.fast_path.end_all().unwrap();
            dropped("server", error.frame())
        },
    },
    Case {
        what: "an error whose time to live is used up",
        counts: "plain.ttl_exceeded 1",
        packet: |bed| {
            let datagram = bed.v4(7000);
            bed.open(&datagram);
            let mut error = bed.endpoint_error(&datagram, 3, 3, None);
            error.ttl = 1;
            dropped("server", error.frame())
        },
    },
    Case {
        what: "port unreachable from the client",
        counts: "plain.icmp_up 1",
        packet: |bed| {
            let datagram = bed.v4(7000);
            to_endpoint(bed, datagram, 3, 3, None)
        },
    },
    Case {
        what: "fragmentation needed, from a router before the client",
        counts: "plain.icmp_up 1",
        packet: |bed| {
            let datagram = bed.v4(7000);
            to_endpoint(bed, datagram, 3, 4, Some("198.18.64.200"))
        },
    },
    Case {
        what: "an error about an answer to a client without a flow",
        counts: "plain.no_flow 1",
        packet: |bed| {
            let datagram = bed.v4(7000);
            let (_, frame, _) = to_endpoint(bed, datagram, 3, 3, None);
            bed.fast_path.end_all().unwrap();
            dropped("client", frame)
        },
    },
    Case {
        what: "an error about what the host itself sent",
        counts: "",
        packet: |_| {
            let quote = Datagram::new(at("198.18.0.1:53"), at("198.18.64.9:5353")).packet();
            let (from, to) = (at("198.18.64.9:1").ip(), at("198.18.0.1:1").ip());
            let macs = (world::GATEWAY, world::CLIENT_SIDE);
            passed(IcmpError { macs, from, to, ttl: 64, kind: 3, code: 3, word: 0, quote }.frame())
        },
    },
    Case {
        what: "an error that quotes another host's packet",
        counts: "",
        packet: |bed| {
            let datagram = bed.v4(7000);
            let macs = datagram.macs;
            let (from, to) = (datagram.from.ip(), datagram.to.ip());
            passed(IcmpError { macs, from, to, ttl: 64, kind: 3, code: 3, word: 0, quote: datagram.packet() }.frame())
        },
    },
    Case {
        what: "ping",
        counts: "",
        packet: |_| {
            let (from, to) = (at("198.18.64.9:1").ip(), at("198.18.0.1:1").ip());
            let macs = (world::GATEWAY, world::CLIENT_SIDE);
            passed(IcmpError { macs, from, to, ttl: 64, kind: 8, code: 0, word: 1, quote: vec![0; 56] }.frame())
        },
    },
    Case {
        what: "IPv6: port unreachable from the endpoint",
        counts: "six.icmp_down 1, endpoint2.refused 1",
        packet: |bed| {
            let datagram = bed.v6(7001);
            to_client(bed, datagram, 1, 4, None)
        },
    },
    Case {
        what: "IPv6: packet too big, from a router before the endpoint",
        counts: "six.icmp_down 1, endpoint2.refused 1",
        packet: |bed| {
            let datagram = bed.v6(7001);
            to_client(bed, datagram, 2, 0, Some("fd18:2::99"))
        },
    },
    Case {
        what: "IPv6: packet too big, from a router before the client",
        counts: "six.icmp_up 1",
        packet: |bed| {
            let datagram = bed.v6(7001);
            to_endpoint(bed, datagram, 2, 0, Some("fd18:64::200"))
        },
    },
    Case {
        what: "IPv6: neighbour solicitation for the static IP",
        counts: "",
        packet: |_| {
            let (from, to) = (at("[fd18:64::9]:1").ip(), at("[fd18::1]:1").ip());
            let macs = (world::GATEWAY, world::CLIENT_SIDE);
            passed(IcmpError { macs, from, to, ttl: 255, kind: 135, code: 0, word: 0, quote: vec![0; 16] }.frame())
        },
    },
];
