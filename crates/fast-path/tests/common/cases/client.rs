//! From clients: flows that begin, go on, are refused or move.

use super::{Case, dropped, passed, told_too_big, up};
use crate::common::{frame::checksum, world};

pub const CASES: &[Case] = &[
    Case { what: "a new flow", counts: "up plain 0 5, plain.opened 1", packet: |bed| up(bed.v4(7000)) },
    Case {
        what: "the second datagram of a flow",
        counts: "up plain 0 5",
        packet: |bed| {
            let datagram = bed.v4(7000);
            bed.open(&datagram);
            up(datagram)
        },
    },
    Case { what: "the lowest port", counts: "up plain 0 5, plain.opened 1", packet: |bed| up(bed.v4(1)) },
    Case { what: "the highest port", counts: "up plain 0 5, plain.opened 1", packet: |bed| up(bed.v4(65_535)) },
    Case { what: "a port within a range", counts: "up plain 0 5, plain.opened 1", packet: |bed| up(bed.v4(7150)) },
    Case {
        what: "an endpoint's fixed port goes before overrides",
        counts: "up fixed 3 5, fixed.opened 1",
        packet: |bed| up(bed.v4(7002)),
    },
    Case { what: "a port override", counts: "up override 4 5, override.opened 1", packet: |bed| up(bed.v4(7003)) },
    Case {
        what: "another port of the same listener, not overridden",
        counts: "up override 4 5, override.opened 1",
        packet: |bed| up(bed.v4(7200)),
    },
    Case {
        what: "an empty datagram",
        counts: "up plain 0 0, plain.opened 1",
        packet: |bed| {
            let mut datagram = bed.v4(7000);
            datagram.payload.clear();
            up(datagram)
        },
    },
    Case {
        what: "as large as the device takes",
        counts: "up plain 0 1472, plain.opened 1",
        packet: |bed| {
            let mut datagram = bed.v4(7000);
            datagram.payload = vec![0x5a; 1472];
            up(datagram)
        },
    },
    Case {
        what: "larger than the device towards the endpoint takes",
        counts: "plain.datagram_too_big 1, plain.opened 1",
        packet: |bed| {
            let mut datagram = bed.v4(7000);
            datagram.payload = vec![0; 1600];
            told_too_big("client", &datagram)
        },
    },
    Case {
        what: "no checksum stays none",
        counts: "up plain 0 5, plain.opened 1",
        packet: |bed| {
            let mut datagram = bed.v4(7000);
            datagram.checksum = false;
            up(datagram)
        },
    },
    Case {
        what: "a checksum that comes out as zero is written as ones",
        counts: "up plain 0 2",
        packet: |bed| {
            let mut datagram = bed.v4(7000);
            datagram.payload = vec![0, 0];
            bed.open(&datagram);
            // The two bytes that bring the endpoint's sum to zero are the checksum without them.
            let sent = bed.at_endpoint(&datagram).packet();
            datagram.payload = sent[26..28].to_vec();
            assert_eq!(bed.at_endpoint(&datagram).packet()[26..28], [0xff, 0xff]);
            up(datagram)
        },
    },
    Case {
        what: "DSCP and ECN go on",
        counts: "up plain 0 5, plain.opened 1",
        packet: |bed| {
            let mut datagram = bed.v4(7000);
            datagram.tos = 0xb9;
            up(datagram)
        },
    },
    Case {
        what: "DSCP is cleared where it is not to go on, ECN stays",
        counts: "up bleach 0 5, bleach.opened 1",
        packet: |bed| {
            let mut datagram = bed.v4(7008);
            datagram.tos = 0xb9;
            let (device, frame, _) = up(datagram.clone());
            let out = super::becomes(move |bed| {
                let mut sent = bed.at_endpoint(&datagram);
                sent.tos = 0x01;
                sent.frame()
            });
            (device, frame, out)
        },
    },
    Case {
        what: "a time to live of 2 is enough",
        counts: "up plain 0 5, plain.opened 1",
        packet: |bed| {
            let mut datagram = bed.v4(7000);
            datagram.ttl = 2;
            up(datagram)
        },
    },
    Case {
        what: "a time to live of 1 is not",
        counts: "plain.ttl_exceeded 1, plain.opened 1",
        packet: |bed| {
            let mut datagram = bed.v4(7000);
            datagram.ttl = 1;
            dropped("client", datagram.frame())
        },
    },
    Case {
        what: "a neighbour still to be found: the stack writes the Ethernet header",
        counts: "up unresolved 5 5, unresolved.opened 1",
        packet: |bed| {
            let datagram = bed.v4(7010);
            let (device, frame, _) = up(datagram.clone());
            let out = super::becomes(move |bed| {
                let mut sent = bed.at_endpoint(&datagram);
                sent.macs = datagram.macs;
                sent.frame()
            });
            (device, frame, out)
        },
    },
    Case {
        what: "no route to the endpoint",
        counts: "no_route.endpoint_unreachable 1, no_route.opened 1",
        packet: |bed| dropped("client", bed.v4(7011).frame()),
    },
    Case {
        what: "from port 0",
        counts: "plain.no_source_port 1",
        packet: |bed| {
            let mut datagram = bed.v4(7000);
            datagram.from.set_port(0);
            dropped("client", datagram.frame())
        },
    },
    Case {
        what: "from an address that no host has",
        counts: "plain.invalid_source 1",
        packet: |bed| dropped("client", bed.from("127.0.0.1", 7000).frame()),
    },
    Case {
        what: "from a multicast address",
        counts: "plain.invalid_source 1",
        packet: |bed| dropped("client", bed.from("224.0.0.1", 7000).frame()),
    },
    Case {
        what: "from 0.0.0.0",
        counts: "plain.invalid_source 1",
        packet: |bed| dropped("client", bed.from("0.0.0.0", 7000).frame()),
    },
    Case {
        what: "IPv6: from the loopback address",
        counts: "six.invalid_source 1",
        packet: |bed| dropped("client", bed.from("::1", 7001).frame()),
    },
    Case { what: "IPv6: from ::", counts: "six.invalid_source 1", packet: |bed| dropped("client", bed.from("::", 7001).frame()) },
    Case {
        what: "IPv6: from a multicast address",
        counts: "six.invalid_source 1",
        packet: |bed| dropped("client", bed.from("ff02::1", 7001).frame()),
    },
    Case {
        what: "IPv6: an IPv4 client's address is not that client",
        counts: "six.invalid_source 1",
        packet: |bed| dropped("client", bed.from("::ffff:198.18.64.9", 7001).frame()),
    },
    Case {
        what: "IPv6: to an IPv4 address of the edge's",
        counts: "",
        packet: |bed| {
            let mut datagram = bed.v6(7000);
            datagram.to = "[::ffff:198.18.0.1]:7000".parse().unwrap();
            passed(datagram.frame())
        },
    },
    Case {
        what: "IPv6: ::2 is a client like any other",
        counts: "up six 2 5, six.opened 1",
        packet: |bed| up(bed.from("::2", 7001)),
    },
    Case { what: "the table refuses", counts: "none.no_endpoint 1", packet: |bed| dropped("client", bed.v4(7009).frame()) },
    Case {
        what: "the endpoint is of the other family",
        counts: "plain.no_endpoint 1",
        packet: |bed| dropped("client", bed.v6(7000).frame()),
    },
    Case {
        what: "the host does not forward at the device",
        counts: "plain.forwarding_off 1, plain.opened 1",
        packet: |bed| {
            let mut datagram = bed.v4(7000);
            datagram.macs.1 = world::CLOSED;
            dropped("closed", datagram.frame())
        },
    },
    Case {
        what: "a new flow while the edge drains",
        counts: "plain.draining 1",
        packet: |bed| {
            bed.fast_path.set_draining(true).unwrap();
            dropped("client", bed.v4(7000).frame())
        },
    },
    Case {
        what: "an old flow while the edge drains",
        counts: "up plain 0 5",
        packet: |bed| {
            bed.fast_path.set_draining(false).unwrap();
            let datagram = bed.v4(7000);
            bed.open(&datagram);
            bed.fast_path.set_draining(true).unwrap();
            up(datagram)
        },
    },
    Case {
        what: "the drain is over",
        counts: "up plain 0 5, plain.opened 1",
        packet: |bed| {
            bed.fast_path.set_draining(false).unwrap();
            up(bed.v4(7000))
        },
    },
    Case {
        what: "a full listener: the oldest unanswered flow makes room",
        counts: "up full 0 5, full.opened 1, full.evicted 1",
        packet: |bed| {
            let [first, second] = [(); 2].map(|()| bed.v4(7004));
            bed.converse(&first);
            bed.open(&second);
            up(bed.v4(7004))
        },
    },
    Case {
        what: "a full listener: answered flows stay",
        counts: "full.flow_limit 1",
        packet: |bed| {
            // Of the two flows of the case before, one is answered.
            let second = bed.v4(7004);
            bed.converse(&second);
            dropped("client", bed.v4(7004).frame())
        },
    },
    Case {
        what: "too many flows of one client",
        counts: "per_client.client_flow_limit 1",
        packet: |bed| {
            for _ in 0..2 {
                let datagram = bed.v4(7005);
                bed.open(&datagram);
            }
            dropped("client", bed.v4(7005).frame())
        },
    },
    Case {
        what: "another client meanwhile",
        counts: "up per_client 0 5, per_client.opened 1",
        packet: |bed| up(bed.from("198.18.64.10", 7005)),
    },
    Case {
        what: "flows of one client too fast",
        counts: "rate.client_rate 1",
        packet: |bed| {
            for _ in 0..2 {
                let datagram = bed.v4(7006);
                bed.open(&datagram);
            }
            dropped("client", bed.v4(7006).frame())
        },
    },
    Case { what: "an allowed client", counts: "up private 0 5, private.opened 1", packet: |bed| up(bed.v4(7007)) },
    Case {
        what: "a client that is not",
        counts: "private.denied 1",
        packet: |bed| dropped("client", bed.from("198.18.65.9", 7007).frame()),
    },
    Case {
        what: "a client that is allowed and denied",
        counts: "private.denied 1",
        packet: |bed| dropped("client", bed.from("198.18.64.129", 7007).frame()),
    },
    Case {
        what: "another list takes effect at once",
        counts: "private.denied 1",
        packet: |bed| {
            let access = fast_path::Access { allow: vec!["198.18.64.10/32".parse().unwrap()], deny: Vec::new() };
            bed.fast_path.set_access(vec![(7, access)]).unwrap();
            dropped("client", bed.v4(7007).frame())
        },
    },
    Case {
        what: "and lets in whom it has",
        counts: "up private 0 5, private.opened 1",
        packet: |bed| up(bed.from("198.18.64.10", 7007)),
    },
    Case {
        what: "a flow leaves its endpoint with the next datagram",
        counts: "up mover 1 5, mover.moved 1",
        packet: |bed| {
            let datagram = bed.v4(7013);
            bed.open(&datagram);
            bed.republish("mover", &[1], &[0], &[]);
            up(datagram)
        },
    },
    Case {
        what: "once moved, it stays",
        counts: "up mover 1 5",
        packet: |bed| {
            bed.republish("mover", &[0], &[], &[]);
            let datagram = bed.v4(7013);
            bed.open(&datagram);
            bed.republish("mover", &[1], &[0], &[]);
            bed.run(&datagram.frame());
            bed.republish("mover", &[0], &[], &[]);
            up(datagram)
        },
    },
    Case {
        what: "a draining endpoint keeps its flows",
        counts: "up mover 0 5",
        packet: |bed| {
            let datagram = bed.v4(7013);
            bed.open(&datagram);
            bed.republish("mover", &[1], &[], &[]);
            up(datagram)
        },
    },
    Case {
        what: "with nowhere else to go, a flow stays",
        counts: "up mover 0 5",
        packet: |bed| {
            bed.republish("mover", &[0], &[], &[]);
            let datagram = bed.v4(7013);
            bed.open(&datagram);
            bed.republish("mover", &[0], &[0], &[]);
            up(datagram)
        },
    },
    Case {
        what: "with no answer for it, a flow stays",
        counts: "up mover 0 5",
        packet: |bed| {
            bed.republish("mover", &[0], &[], &[]);
            let datagram = bed.v4(7013);
            bed.open(&datagram);
            bed.republish("mover", &[], &[0], &[]);
            up(datagram)
        },
    },
    Case {
        what: "a listener that keeps its flows keeps them",
        counts: "up keeper 0 5",
        packet: |bed| {
            let datagram = bed.v4(7014);
            bed.open(&datagram);
            bed.republish("keeper", &[1], &[0], &[]);
            up(datagram)
        },
    },
    Case {
        what: "but not when an operator ends them",
        counts: "up keeper 1 5, keeper.moved 1",
        packet: |bed| {
            bed.republish("keeper", &[0], &[], &[]);
            let datagram = bed.v4(7014);
            bed.open(&datagram);
            bed.republish("keeper", &[1], &[], &[0]);
            up(datagram)
        },
    },
    Case { what: "IPv6: a new flow", counts: "up six 2 5, six.opened 1", packet: |bed| up(bed.v6(7001)) },
    Case {
        what: "IPv6: a hop limit of 1",
        counts: "six.ttl_exceeded 1, six.opened 1",
        packet: |bed| {
            let mut datagram = bed.v6(7001);
            datagram.ttl = 1;
            dropped("client", datagram.frame())
        },
    },
    Case {
        what: "IPv6: DSCP goes on",
        counts: "up six 2 5, six.opened 1",
        packet: |bed| {
            let mut datagram = bed.v6(7001);
            datagram.tos = 0xb9;
            up(datagram)
        },
    },
    Case {
        what: "IPv6: DSCP is cleared, ECN and flow label stay",
        counts: "up six_bleach 2 5, six_bleach.opened 1",
        packet: |bed| {
            let mut datagram = bed.v6(7015);
            datagram.tos = 0xb9;
            let (device, frame, _) = up(datagram.clone());
            let out = super::becomes(move |bed| {
                let mut sent = bed.at_endpoint(&datagram);
                sent.tos = 0x01;
                sent.frame()
            });
            (device, frame, out)
        },
    },
    Case {
        what: "IPv6: larger than the device towards the endpoint takes",
        counts: "six.datagram_too_big 1, six.opened 1",
        packet: |bed| {
            let mut datagram = bed.v6(7001);
            datagram.payload = vec![0; 1600];
            told_too_big("client", &datagram)
        },
    },
    Case {
        what: "IPv6: a client is its /64",
        counts: "six_limited.client_flow_limit 1",
        packet: |bed| {
            let first = bed.from("fd18:64:0:7::1", 7012);
            bed.open(&first);
            dropped("client", bed.from("fd18:64:0:7:ffff::2", 7012).frame())
        },
    },
    Case {
        what: "IPv6: the next /64 is another client",
        counts: "up six_limited 2 5, six_limited.opened 1",
        packet: |bed| up(bed.from("fd18:64:0:8::1", 7012)),
    },
    Case {
        what: "sums agree with those of the whole",
        counts: "up plain 0 999, plain.opened 1",
        packet: |bed| {
            let mut datagram = bed.v4(7000);
            datagram.payload = (0..999u32).map(|i| (i * 37).to_le_bytes()[0]).collect();
            assert_eq!(checksum(&datagram.packet()[..20]), 0);
            up(datagram)
        },
    },
];
