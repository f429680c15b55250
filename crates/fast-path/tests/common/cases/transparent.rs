//! Endpoints that see the client's own address and port.

use std::net::SocketAddr;

use super::{
    Case, Outcome, Packet, becomes, down, dropped,
    fragments::{answered, later, part},
    told_too_big, up,
};
use crate::common::{
    bed::Bed,
    frame::{Datagram, IcmpError, id_of},
    tables::at,
    world,
};

/// Another flow from the same client port, to another listener.
fn also(datagram: &Datagram, port: u16) -> Datagram {
    Datagram { to: SocketAddr::new(datagram.to.ip(), port), ..datagram.clone() }
}

/// The answer to the datagram of a new flow, addressed to its client.
fn answer(bed: &mut Bed, datagram: &Datagram) -> Datagram {
    bed.open(datagram);
    let answer = bed.answer(datagram);
    assert_eq!(answer.to, datagram.from);
    answer
}

/// It goes on to the host, which routes it or not.
fn routed(frame: Vec<u8>) -> Packet {
    ("server", frame, Outcome::Passed)
}

/// An error about the datagram of a new flow, sent by the endpoint or by the router `from`.
fn error(bed: &mut Bed, datagram: &Datagram, kind: u8, code: u8, from: Option<&str>) -> IcmpError {
    bed.open(datagram);
    let error = bed.endpoint_error(datagram, kind, code, from);
    assert_eq!(error.to, datagram.from.ip());
    error
}

/// It reaches the client.
fn to_client(error: IcmpError, datagram: Datagram) -> Packet {
    ("server", error.frame(), becomes(move |bed| bed.error_at_client(&error, &datagram)))
}

/// An error of the client about an answer, or of a router before it; the endpoint hears it from the client.
fn to_endpoint(bed: &mut Bed, datagram: Datagram, kind: u8, code: u8, from: Option<&str>) -> Packet {
    let answer = answer(bed, &datagram);
    let quote = bed.at_client(&answer, &datagram).packet();
    let from = from.map_or(datagram.from.ip(), |ip| ip.parse().unwrap());
    let macs = (world::GATEWAY, world::CLIENT_SIDE);
    let error = IcmpError { macs, from, to: datagram.to.ip(), ttl: 64, kind, code, word: 1280, quote };
    let frame = error.frame();
    let out = becomes(move |bed| {
        let sent = bed.at_endpoint(&datagram);
        let quote = Datagram { ttl: answer.ttl - 1, ..answer }.packet();
        IcmpError { macs: sent.macs, from: datagram.from.ip(), to: sent.to.ip(), ttl: 63, quote, ..error }.frame()
    });
    ("client", frame, out)
}

/// A flow of `seen_mover` at endpoint 0, which it must leave for endpoint 1.
fn leaver(bed: &mut Bed) -> Datagram {
    bed.republish("seen_mover", &[0], &[], &[]);
    let datagram = bed.v4(7019);
    bed.open(&datagram);
    bed.republish("seen_mover", &[1], &[0], &[]);
    datagram
}

/// A flow of `seen_mover` that must go where another from its client's port is, and falls back to a NAT address.
fn fallen(bed: &mut Bed) -> Datagram {
    bed.republish("seen_mover", &[0], &[], &[]);
    let datagram = bed.v4(7019);
    bed.converse(&datagram);
    bed.open(&also(&datagram, 7016));
    bed.republish("seen_mover", &[3], &[0], &[]);
    datagram
}

/// A flow of `seen_mover` that must leave endpoint 1 for endpoint 4, which has the same address and port.
fn renamed(bed: &mut Bed) -> Datagram {
    bed.republish("seen_mover", &[1], &[], &[]);
    let datagram = bed.v4(7019);
    bed.converse(&datagram);
    bed.republish("seen_mover", &[4], &[1], &[]);
    datagram
}

pub const CASES: &[Case] = &[
    Case {
        what: "transparent: the endpoint sees the client",
        counts: "up seen 3 5, seen.opened 1",
        packet: |bed| {
            let datagram = bed.v4(7016);
            let (device, frame, _) = up(datagram.clone());
            let out = becomes(move |bed| {
                let sent = bed.at_endpoint(&datagram);
                assert_eq!((sent.from, sent.to), (datagram.from, at("198.18.2.3:9000")));
                sent.frame()
            });
            (device, frame, out)
        },
    },
    Case {
        what: "transparent: from a listener of the edge, whose answer would be answered",
        counts: "seen.invalid_source 1",
        packet: |bed| {
            let mut datagram = bed.v4(7016);
            datagram.from = SocketAddr::new(datagram.to.ip(), 7017);
            dropped("client", datagram.frame())
        },
    },
    Case {
        what: "transparent: from a NAT address",
        counts: "seen.invalid_source 1",
        packet: |bed| dropped("client", bed.from("198.18.2.1", 7016).frame()),
    },
    Case {
        what: "transparent, IPv6: from a static IP",
        counts: "seen_six.invalid_source 1",
        packet: |bed| dropped("client", bed.from("fd18::1", 7018).frame()),
    },
    Case {
        what: "transparent: no checksum stays none",
        counts: "up seen 3 5, seen.opened 1",
        packet: |bed| {
            let mut datagram = bed.v4(7016);
            datagram.checksum = false;
            up(datagram)
        },
    },
    Case {
        what: "transparent: an answer",
        counts: "down seen 3 6",
        packet: |bed| {
            let datagram = bed.v4(7016);
            down(answer(bed, &datagram), datagram)
        },
    },
    Case {
        what: "transparent: a packet from another port of the endpoint",
        counts: "",
        packet: |bed| {
            let datagram = bed.v4(7016);
            let mut other = answer(bed, &datagram);
            other.from.set_port(9001);
            routed(other.frame())
        },
    },
    Case {
        what: "transparent: a packet of another host to the client",
        counts: "",
        packet: |bed| {
            let datagram = bed.v4(7016);
            let mut other = answer(bed, &datagram);
            other.from.set_ip(at("198.18.2.2:1").ip());
            routed(other.frame())
        },
    },
    Case {
        what: "transparent: a packet of the endpoint to another port of the client",
        counts: "",
        packet: |bed| {
            let datagram = bed.v4(7016);
            let mut other = answer(bed, &datagram);
            other.to.set_port(1);
            routed(other.frame())
        },
    },
    Case {
        what: "transparent: an answer after the flow has ended",
        counts: "",
        packet: |bed| {
            let datagram = bed.v4(7016);
            let late = answer(bed, &datagram);
            bed.fast_path.end_all().unwrap();
            routed(late.frame())
        },
    },
    Case {
        what: "transparent: a time to live that is used up",
        counts: "seen.ttl_exceeded 1",
        packet: |bed| {
            let datagram = bed.v4(7016);
            let mut answer = answer(bed, &datagram);
            answer.ttl = 1;
            dropped("server", answer.frame())
        },
    },
    Case {
        what: "transparent: IPv4 options in an answer",
        counts: "seen.ip_options 1",
        packet: |bed| {
            let datagram = bed.v4(7016);
            let mut answer = answer(bed, &datagram);
            answer.options = vec![(0, vec![1, 1, 1, 0])];
            dropped("server", answer.frame())
        },
    },
    Case {
        what: "transparent: an answer with a length beyond the packet",
        counts: "",
        packet: |bed| {
            let datagram = bed.v4(7016);
            let mut answer = answer(bed, &datagram);
            answer.length = Some(100);
            routed(answer.frame())
        },
    },
    Case {
        what: "transparent: an answer larger than the device towards the client takes",
        counts: "seen.datagram_too_big 1",
        packet: |bed| {
            let datagram = bed.v4(7016);
            let mut answer = answer(bed, &datagram);
            answer.payload = vec![0; 1600];
            told_too_big("server", &answer)
        },
    },
    Case {
        what: "transparent: the first fragment of an answer",
        counts: "down seen 3 296",
        packet: |bed| {
            let datagram = bed.v4(7016);
            answered(part(answer(bed, &datagram), 0, 304), datagram, None)
        },
    },
    Case {
        what: "transparent: the last of an answer",
        counts: "down seen 3 304",
        packet: |bed| {
            let datagram = bed.v4(7016);
            let answer = answer(bed, &datagram);
            let id = id_of(&bed.run(&part(answer.clone(), 0, 304).frame()).frame);
            answered(part(answer, 304, 608), datagram, Some(id))
        },
    },
    Case {
        what: "transparent: a fragment of an answer before its first",
        counts: "",
        packet: |bed| {
            let datagram = bed.v4(7016);
            let answer = part(answer(bed, &datagram), 304, 608);
            routed(Datagram { id: 1, ..answer }.frame())
        },
    },
    Case {
        what: "transparent: the rest of the host's datagram that has the number of an answer",
        counts: "",
        packet: |bed| {
            let datagram = bed.v4(7016);
            let answer = answer(bed, &datagram);
            let first = part(answer.clone(), 0, 304);
            let other = |start, end| {
                let other = Datagram { from: at("198.18.2.3:9001"), ..answer.clone() };
                Datagram { id: first.id, ..part(other, start, end) }.frame()
            };
            bed.run(&first.frame());
            bed.run(&other(0, 304));
            routed(other(304, 608))
        },
    },
    Case {
        what: "transparent: the last fragment of a client's datagram",
        counts: "up seen 3 304",
        packet: |bed| {
            let datagram = bed.v4(7016);
            later(bed, datagram, 608)
        },
    },
    Case {
        what: "transparent: port unreachable from the endpoint",
        counts: "seen.icmp_down 1, endpoint3.refused 1",
        packet: |bed| {
            let datagram = bed.v4(7016);
            to_client(error(bed, &datagram, 3, 3, None), datagram)
        },
    },
    Case {
        what: "transparent: fragmentation needed, from a router before the endpoint",
        counts: "seen.icmp_down 1, endpoint3.refused 1",
        packet: |bed| {
            let datagram = bed.v4(7016);
            to_client(error(bed, &datagram, 3, 4, Some("198.18.2.99")), datagram)
        },
    },
    Case {
        what: "transparent: an error about a flow that has ended",
        counts: "",
        packet: |bed| {
            let datagram = bed.v4(7016);
            let error = error(bed, &datagram, 3, 3, None);
            bed.fast_path.end_all().unwrap();
            routed(error.frame())
        },
    },
    Case {
        what: "transparent: an error to the client about another's packet",
        counts: "",
        packet: |bed| {
            let datagram = bed.v4(7016);
            let mut error = error(bed, &datagram, 3, 3, None);
            error.to = at("198.18.64.10:1").ip();
            routed(error.frame())
        },
    },
    Case {
        what: "transparent: port unreachable from the client",
        counts: "seen.icmp_up 1",
        packet: |bed| {
            let datagram = bed.v4(7016);
            to_endpoint(bed, datagram, 3, 3, None)
        },
    },
    Case {
        what: "transparent: fragmentation needed, from a router before the client",
        counts: "seen.icmp_up 1",
        packet: |bed| {
            let datagram = bed.v4(7016);
            to_endpoint(bed, datagram, 3, 4, Some("198.18.64.200"))
        },
    },
    Case {
        what: "transparent: the second flow of a client port to one endpoint falls back",
        counts: "up seen_too 3 5, seen_too.opened 1, seen_too.fallbacks 1",
        packet: |bed| {
            let first = bed.v4(7016);
            bed.open(&first);
            let (device, frame, _) = up(also(&first, 7017));
            let out = becomes(move |bed| {
                let [one, other] = [7016, 7017].map(|port| bed.at_endpoint(&also(&first, port)));
                assert_eq!((one.from, other.from.ip(), other.to), (first.from, at("198.18.2.1:1").ip(), one.to));
                other.frame()
            });
            (device, frame, out)
        },
    },
    Case {
        what: "transparent: each of the two has its own answers, the first,",
        counts: "down seen 3 6",
        packet: |bed| {
            let first = bed.v4(7016);
            let answer = answer(bed, &first);
            bed.converse(&also(&first, 7017));
            down(answer, first)
        },
    },
    Case {
        what: "transparent: and the second",
        counts: "down seen_too 3 6",
        packet: |bed| {
            let first = bed.v4(7016);
            bed.open(&first);
            let second = also(&first, 7017);
            bed.open(&second);
            down(bed.answer(&second), second)
        },
    },
    Case {
        what: "transparent: the second stays where it is when the first has ended",
        counts: "up seen_too 3 5",
        packet: |bed| {
            let first = bed.v4(7016);
            bed.open(&first);
            let second = also(&first, 7017);
            bed.converse(&second);
            let later = fast_path::clock() + std::time::Duration::from_secs(6);
            bed.fast_path.sweep(later).unwrap();
            assert!(bed.fast_path.flow(first.from, first.to).unwrap().is_none(), "it has never been answered");
            up(second)
        },
    },
    Case {
        what: "transparent: after both have ended the endpoint sees the client",
        counts: "down seen_too 3 6",
        packet: |bed| {
            let first = bed.v4(7016);
            bed.open(&first);
            let second = also(&first, 7017);
            bed.open(&second);
            bed.fast_path.end_all().unwrap();
            down(answer(bed, &second), second)
        },
    },
    Case {
        what: "transparent: a flow leaves its endpoint",
        counts: "up seen_mover 1 5, seen_mover.moved 1",
        packet: |bed| {
            let datagram = leaver(bed);
            up(datagram)
        },
    },
    Case {
        what: "transparent: the answer of the endpoint that it has moved to",
        counts: "down seen_mover 1 6",
        packet: |bed| {
            let datagram = leaver(bed);
            down(answer(bed, &datagram), datagram)
        },
    },
    Case {
        what: "transparent: a late answer of the endpoint that it has left",
        counts: "",
        packet: |bed| {
            let datagram = leaver(bed);
            let late = bed.answer(&datagram);
            bed.run(&datagram.frame());
            routed(late.frame())
        },
    },
    Case {
        what: "transparent: a flow goes on at the address where it is, which has another name by now",
        counts: "up seen_mover 4 5, seen_mover.moved 1",
        packet: |bed| {
            let datagram = renamed(bed);
            let (device, frame, _) = up(datagram.clone());
            let out = becomes(move |bed| {
                let sent = bed.at_endpoint(&datagram);
                assert_eq!((sent.from, sent.to), (datagram.from, at("198.18.2.3:7019")));
                sent.frame()
            });
            (device, frame, out)
        },
    },
    Case {
        what: "transparent: and is answered from there",
        counts: "down seen_mover 4 6",
        packet: |bed| {
            let datagram = renamed(bed);
            bed.run(&datagram.frame());
            down(answer(bed, &datagram), datagram)
        },
    },
    Case {
        what: "transparent: another flow may follow where it has been",
        counts: "up seen_mover 0 5, seen_mover.opened 1",
        packet: |bed| {
            let datagram = leaver(bed);
            bed.run(&datagram.frame());
            bed.fast_path.end_all().unwrap();
            bed.republish("seen_mover", &[0], &[], &[]);
            up(datagram)
        },
    },
    Case {
        what: "transparent: a flow that must go where another is falls back",
        counts: "up seen_mover 3 5, seen_mover.moved 1, seen_mover.fallbacks 1",
        packet: |bed| {
            let datagram = fallen(bed);
            let (device, frame, _) = up(datagram.clone());
            let out = becomes(move |bed| {
                let sent = bed.at_endpoint(&datagram);
                assert_eq!((sent.from.ip(), sent.to), (at("198.18.2.1:1").ip(), at("198.18.2.3:9000")));
                assert!(bed.flow(&datagram).answered, "as it was before");
                sent.frame()
            });
            (device, frame, out)
        },
    },
    Case {
        what: "transparent: and is answered there",
        counts: "down seen_mover 3 6",
        packet: |bed| {
            let datagram = fallen(bed);
            bed.run(&datagram.frame());
            down(bed.answer(&datagram), datagram)
        },
    },
    Case {
        what: "transparent: while the other is answered under the client's address",
        counts: "down seen 3 6",
        packet: |bed| {
            let datagram = fallen(bed);
            bed.run(&datagram.frame());
            let other = also(&datagram, 7016);
            down(answer(bed, &other), other)
        },
    },
    Case {
        what: "transparent, IPv6: the endpoint sees the client",
        counts: "up seen_six 2 5, seen_six.opened 1",
        packet: |bed| {
            let datagram = bed.v6(7018);
            let (device, frame, _) = up(datagram.clone());
            let out = becomes(move |bed| {
                let sent = bed.at_endpoint(&datagram);
                assert_eq!(sent.from, datagram.from);
                sent.frame()
            });
            (device, frame, out)
        },
    },
    Case {
        what: "transparent, IPv6: an answer",
        counts: "down seen_six 2 6",
        packet: |bed| {
            let datagram = bed.v6(7018);
            down(answer(bed, &datagram), datagram)
        },
    },
    Case {
        what: "transparent, IPv6: the last fragment of an answer",
        counts: "down seen_six 2 304",
        packet: |bed| {
            let datagram = bed.v6(7018);
            let answer = answer(bed, &datagram);
            let id = id_of(&bed.run(&part(answer.clone(), 0, 304).frame()).frame);
            answered(part(answer, 304, 608), datagram, Some(id))
        },
    },
    Case {
        what: "transparent, IPv6: packet too big, from a router before the endpoint",
        counts: "seen_six.icmp_down 1, endpoint2.refused 1",
        packet: |bed| {
            let datagram = bed.v6(7018);
            to_client(error(bed, &datagram, 2, 0, Some("fd18:2::99")), datagram)
        },
    },
    Case {
        what: "transparent, IPv6: port unreachable from the client",
        counts: "seen_six.icmp_up 1",
        packet: |bed| {
            let datagram = bed.v6(7018);
            to_endpoint(bed, datagram, 1, 4, None)
        },
    },
    Case {
        what: "transparent, IPv6: a neighbour solicitation that the host routes nowhere",
        counts: "",
        packet: |_| {
            let (from, to) = (at("[fd18:2::2]:1").ip(), at("[fd18:64::9]:1").ip());
            let macs = (world::ENDPOINTS[0], world::SERVER_SIDE);
            routed(IcmpError { macs, from, to, ttl: 255, kind: 135, code: 0, word: 0, quote: vec![0; 16] }.frame())
        },
    },
];
