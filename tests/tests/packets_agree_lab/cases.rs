//! What is sent, and what comes of it.

use landfall_tests::path::{Families, Path};

use crate::bench::Bench;

/// One line of the table.
pub struct Case {
    pub what: &'static str,
    /// For one family alone.
    pub only: Option<Families>,
    /// Keys of the listener.
    pub listener: &'static str,
    /// The endpoint's own port, or the port that an override leads to.
    pub fixed_port: Option<u16>,
    pub override_port: Option<u16>,
    pub answers: Answers,
    pub send: fn(&mut Bench),
    /// `up BYTES CLASS` for what comes at the endpoint, `down` at the client, `icmp TYPE.CODE`, then what is counted. Packets count as they
    /// come, unless `N counted DIRECTION` says otherwise.
    pub seen: &'static str,
    /// The same of the kernel's path, where it differs, and why.
    pub kernel: Option<&'static str>,
    pub why: &'static str,
    /// Under what the kernel counts a packet of it that belongs to no listener.
    pub stray: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// The same bytes with the same class.
    Echo,
    No,
    /// The same bytes from another port of the endpoint.
    FromElsewhere,
    /// Nothing listens there.
    Closed,
}

impl Case {
    pub fn expected(&self, path: Path) -> &'static str {
        self.kernel.filter(|_| path == Path::Kernel).unwrap_or(self.seen)
    }
}

const PLAIN: Case = Case {
    what: "",
    only: None,
    listener: "",
    fixed_port: None,
    override_port: None,
    answers: Answers::Echo,
    send: |bench| {
        let datagram = bench.from(0, 5);
        bench.send(&datagram);
    },
    seen: "up 5 00, down 5 00, opened 1",
    kernel: None,
    why: "",
    stray: None,
};

/// A datagram of 600 bytes in two parts, which leave as `order` says.
fn parts(bench: &mut Bench, order: [usize; 2]) {
    let mut datagram = bench.from(0, 600);
    for part in order {
        datagram.fragment = Some([(0, 304), (304, 608)][part]);
        bench.send(&datagram);
    }
}

pub const ALL: &[Case] = &[
    Case { what: "a new flow", ..PLAIN },
    Case {
        what: "a flow that goes on",
        send: |bench| {
            for bytes in [1, 2, 3] {
                let datagram = bench.from(0, bytes);
                bench.send(&datagram);
            }
        },
        seen: "up 1 00, up 2 00, up 3 00, down 1 00, down 2 00, down 3 00, opened 1",
        ..PLAIN
    },
    Case {
        what: "flows of one client from three ports",
        send: |bench| {
            for k in 0..3 {
                let datagram = bench.from(k, 5);
                bench.send(&datagram);
            }
        },
        seen: "up 5 00, up 5 00, up 5 00, down 5 00, down 5 00, down 5 00, opened 3",
        ..PLAIN
    },
    Case {
        what: "an empty datagram",
        send: |bench| {
            let datagram = bench.from(0, 0);
            bench.send(&datagram);
        },
        seen: "up 0 00, down 0 00, opened 1",
        ..PLAIN
    },
    Case {
        what: "as large as the device takes",
        only: Some(Families::V4),
        send: |bench| {
            let datagram = bench.from(0, 1472);
            bench.send(&datagram);
        },
        seen: "up 1472 00, down 1472 00, opened 1",
        ..PLAIN
    },
    Case {
        what: "as large as the device takes",
        only: Some(Families::V6),
        send: |bench| {
            let datagram = bench.from(0, 1452);
            bench.send(&datagram);
        },
        seen: "up 1452 00, down 1452 00, opened 1",
        ..PLAIN
    },
    Case { what: "an endpoint's fixed port", fixed_port: Some(9000), seen: "up 5 00 at 9000, down 5 00, opened 1", ..PLAIN },
    Case { what: "a port override", override_port: Some(9001), seen: "up 5 00 at 9001, down 5 00, opened 1", ..PLAIN },
    Case {
        what: "DSCP and ECN go on, there and back",
        listener: "carry_dscp = true",
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            datagram.tos = 0xb9;
            bench.send(&datagram);
        },
        seen: "up 5 b9, down 5 b9, opened 1",
        ..PLAIN
    },
    Case {
        what: "DSCP is cleared where it is not to go on, ECN stays",
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            datagram.tos = 0xbb;
            bench.send(&datagram);
        },
        seen: "up 5 03, down 5 03, opened 1",
        ..PLAIN
    },
    Case {
        what: "no checksum",
        only: Some(Families::V4),
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            datagram.checksum = false;
            bench.send(&datagram);
        },
        ..PLAIN
    },
    Case {
        what: "no checksum, which IPv6 does not allow",
        only: Some(Families::V6),
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            datagram.checksum = false;
            bench.send(&datagram);
        },
        seen: "",
        kernel: Some("opened 1, 1 counted to_endpoint"),
        why: "a router does not sum up what it hands on; the endpoint's host does, and drops it",
        ..PLAIN
    },
    Case {
        what: "a wrong checksum",
        send: |bench| {
            let mut frame = bench.from(0, 5).frame();
            *frame.last_mut().unwrap() ^= 1;
            bench.send_frame(&frame);
        },
        seen: "",
        kernel: Some("opened 1, 1 counted to_endpoint"),
        why: "a router does not sum up what it hands on; the endpoint's host does, and drops it",
        ..PLAIN
    },
    Case {
        what: "Ethernet padding is not carried",
        send: |bench| {
            let datagram = bench.from(0, 5);
            bench.send(&datagram);
            let mut frame = datagram.frame();
            frame.resize(80, 0xee);
            bench.send_frame(&frame);
        },
        seen: "up 5 00, up 5 00, down 5 00, down 5 00, opened 1",
        ..PLAIN
    },
    Case {
        what: "a time to live of 2",
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            datagram.ttl = 2;
            bench.send(&datagram);
        },
        ..PLAIN
    },
    Case {
        what: "a time to live of 1",
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            datagram.ttl = 1;
            bench.send(&datagram);
        },
        kernel: Some("opened 1, ttl_exceeded 1"),
        why: "the edge is a host to one path and a router to the other",
        ..PLAIN
    },
    Case { what: "an allowed client", listener: "allow = [\"198.18.64.0/24\", \"fd00:64::/64\"]", ..PLAIN },
    Case { what: "a client that is not", listener: "allow = [\"198.18.65.0/24\", \"fd00:65::/64\"]", seen: "denied 1", ..PLAIN },
    Case {
        what: "a client that is denied",
        listener: "allow = [\"198.18.64.0/24\", \"fd00:64::/64\"]\ndeny = [\"198.18.64.8/30\", \"fd00:64::8/125\"]",
        seen: "denied 1",
        ..PLAIN
    },
    Case {
        what: "a full listener: answered flows stay",
        listener: "limits = { max_flows = 2 }",
        send: |bench| {
            for k in 0..3 {
                let datagram = bench.from(k, 5);
                bench.send(&datagram);
            }
            let datagram = bench.from(0, 6);
            bench.send(&datagram);
        },
        seen: "up 5 00, up 5 00, up 6 00, down 5 00, down 5 00, down 6 00, opened 2, flow_limit 1",
        ..PLAIN
    },
    Case {
        what: "a full listener: an unanswered flow makes room",
        listener: "limits = { max_flows = 2 }",
        answers: Answers::No,
        send: |bench| {
            for k in 0..3 {
                let datagram = bench.from(k, 5);
                bench.send(&datagram);
            }
        },
        seen: "up 5 00, up 5 00, up 5 00, opened 3, closed evicted 1",
        ..PLAIN
    },
    Case {
        what: "too many flows of one client",
        listener: "limits = { max_flows_per_client = 2 }",
        send: |bench| {
            for k in 0..3 {
                let datagram = bench.from(k, 5);
                bench.send(&datagram);
            }
        },
        seen: "up 5 00, up 5 00, down 5 00, down 5 00, opened 2, client_flow_limit 1",
        ..PLAIN
    },
    Case {
        what: "flows of one client too fast",
        listener: "limits = { new_flows_per_client_per_second = 2 }",
        send: |bench| {
            for k in 0..3 {
                let datagram = bench.from(k, 5);
                bench.send(&datagram);
            }
        },
        seen: "up 5 00, up 5 00, down 5 00, down 5 00, opened 2, client_rate 1",
        ..PLAIN
    },
    Case {
        what: "a datagram in two fragments",
        send: |bench| parts(bench, [0, 1]),
        seen: "up 600 00, down 600 00, opened 1",
        kernel: Some("up 600 00, down 600 00, opened 1, 2 counted to_endpoint"),
        why: "the kernel hands fragments on and counts packets",
        ..PLAIN
    },
    Case {
        what: "a datagram in two fragments, the last one first",
        send: |bench| parts(bench, [1, 0]),
        seen: "up 600 00, down 600 00, opened 1",
        kernel: Some("opened 1, 1 counted to_endpoint"),
        why: "a later fragment follows what the first one left, and there is nothing before it",
        ..PLAIN
    },
    Case {
        what: "a fragment that is all of its datagram",
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            datagram.fragment = Some((0, 13));
            bench.send(&datagram);
        },
        ..PLAIN
    },
    Case {
        what: "a datagram and its answer in three fragments",
        send: |bench| {
            let mut datagram = bench.from(0, 3000);
            for part in [(0, 1208), (1208, 2416), (2416, 3008)] {
                datagram.fragment = Some(part);
                bench.send(&datagram);
            }
        },
        seen: "up 3000 00, down 3000 00, opened 1",
        kernel: Some("up 3000 00, down 3000 00, opened 1, 3 counted to_endpoint, 3 counted to_client"),
        why: "the kernel hands fragments on and counts packets",
        ..PLAIN
    },
    Case {
        what: "options",
        only: Some(Families::V4),
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            datagram.options = vec![(0, vec![1, 1, 1, 0])];
            bench.send(&datagram);
        },
        kernel: Some("ip_options 1"),
        why: "the program reads headers of one length; the host's stack reads any",
        ..PLAIN
    },
    Case {
        what: "extension headers",
        only: Some(Families::V6),
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            datagram.options = vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])];
            bench.send(&datagram);
        },
        kernel: Some("ip_options 1"),
        why: "the program reads headers of one length; the host's stack reads any",
        ..PLAIN
    },
    Case {
        what: "a UDP length beyond the packet",
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            datagram.length = Some(14);
            bench.send(&datagram);
        },
        seen: "",
        stray: Some("malformed"),
        ..PLAIN
    },
    Case {
        what: "a UDP length shorter than its header",
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            datagram.length = Some(7);
            bench.send(&datagram);
        },
        seen: "",
        stray: Some("malformed"),
        ..PLAIN
    },
    Case {
        what: "an IP length beyond the frame",
        send: |bench| {
            let frame = bench.from(0, 5).frame();
            bench.send_frame(&frame[..frame.len() - 1]);
        },
        seen: "",
        stray: Some("malformed"),
        ..PLAIN
    },
    Case {
        what: "half a UDP header",
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            datagram.fragment = Some((0, 4));
            let mut frame = datagram.frame();
            // IPv4: not as a fragment of something longer.
            frame[20] = 0;
            bench.send_frame(&frame);
        },
        only: Some(Families::V4),
        seen: "",
        stray: Some("malformed"),
        ..PLAIN
    },
    Case {
        what: "from port 0, which no answer can reach",
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            datagram.from.set_port(0);
            bench.send(&datagram);
        },
        seen: "no_source_port 1",
        ..PLAIN
    },
    Case {
        what: "from the static IP itself",
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            datagram.from.set_ip(datagram.to.ip());
            bench.send(&datagram);
        },
        only: Some(Families::V4),
        seen: "",
        kernel: Some("invalid_source 1"),
        why: "the host discards it before a socket sees it, uncounted",
        ..PLAIN
    },
    Case {
        what: "from a listener of the edge, whose answer would be answered",
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            datagram.from = datagram.to;
            bench.send(&datagram);
        },
        only: Some(Families::V6),
        seen: "invalid_source 1",
        ..PLAIN
    },
    Case {
        what: "from the loopback address",
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            let loopback = if datagram.from.is_ipv4() { "127.0.0.1" } else { "::1" };
            datagram.from.set_ip(loopback.parse().unwrap());
            bench.send(&datagram);
        },
        seen: "",
        kernel: Some("invalid_source 1"),
        why: "the host drops these before the process could count them",
        ..PLAIN
    },
    Case {
        what: "from a multicast address",
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            let group = if datagram.from.is_ipv4() { "224.0.0.9" } else { "ff02::9" };
            datagram.from.set_ip(group.parse().unwrap());
            bench.send(&datagram);
        },
        seen: "",
        kernel: Some("invalid_source 1"),
        why: "the host drops these before the process could count them",
        ..PLAIN
    },
    Case {
        what: "from no address",
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            let nobody = if datagram.from.is_ipv4() { "0.0.0.0" } else { "::" };
            datagram.from.set_ip(nobody.parse().unwrap());
            bench.send(&datagram);
        },
        only: Some(Families::V4),
        seen: "",
        kernel: Some("invalid_source 1"),
        why: "the host drops these before the process could count them",
        ..PLAIN
    },
    Case {
        what: "from no address",
        only: Some(Families::V6),
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            datagram.from.set_ip("::".parse().unwrap());
            bench.send(&datagram);
        },
        seen: "no_source_port 1",
        kernel: Some("invalid_source 1"),
        why: "the host drops 0.0.0.0 and hands on ::, which the process then has to refuse",
        ..PLAIN
    },
    Case {
        what: "a frame for another host's device",
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            datagram.macs.1 = [2, 0, 0, 0, 0, 1];
            bench.send(&datagram);
        },
        seen: "",
        ..PLAIN
    },
    Case {
        what: "a port of no listener",
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            datagram.to.set_port(6500);
            bench.send(&datagram);
        },
        only: Some(Families::V4),
        seen: "icmp 3.3",
        ..PLAIN
    },
    Case {
        what: "a port of no listener",
        send: |bench| {
            let mut datagram = bench.from(0, 5);
            datagram.to.set_port(6500);
            bench.send(&datagram);
        },
        only: Some(Families::V6),
        seen: "icmp 1.4",
        ..PLAIN
    },
    Case {
        what: "an answer from another port of the endpoint",
        answers: Answers::FromElsewhere,
        seen: "up 5 00, opened 1",
        kernel: Some("up 5 00, opened 1, not_from_endpoint 1"),
        why: "the host refuses it to a connected socket, before the process could count it",
        ..PLAIN
    },
    Case {
        what: "an endpoint that refuses",
        only: Some(Families::V4),
        answers: Answers::Closed,
        seen: "opened 1, 1 counted to_endpoint",
        kernel: Some("icmp 3.3, opened 1, 1 counted to_endpoint"),
        why: "a router hands the endpoint's word on; a socket keeps it, and a probe is started either way",
        ..PLAIN
    },
    Case {
        what: "an endpoint that refuses",
        only: Some(Families::V6),
        answers: Answers::Closed,
        seen: "opened 1, 1 counted to_endpoint",
        kernel: Some("icmp 1.4, opened 1, 1 counted to_endpoint"),
        why: "a router hands the endpoint's word on; a socket keeps it, and a probe is started either way",
        ..PLAIN
    },
];
