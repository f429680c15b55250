//! What is measured: each work's load, and the unit that it is counted in.

use std::fmt;

use clap::ValueEnum;

use crate::tcp::{Direction, Tcp};
use crate::udp::Udp;

/// A kind of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Work {
    /// UDP echo, 64 bytes, 64 flows, 128 datagrams in flight.
    #[value(name = "udp-echo-64")]
    UdpEcho64,
    /// UDP echo, 64 bytes, 1,000 flows, 128 datagrams in flight.
    #[value(name = "udp-echo-64-1000")]
    UdpEcho64Flows1000,
    /// UDP echo, 1,200 bytes, 64 flows, 128 datagrams in flight.
    #[value(name = "udp-echo-1200")]
    UdpEcho1200,
    /// UDP in bursts of 16 datagrams of one flow, 64 bytes, 64 flows, 8 bursts in flight.
    #[value(name = "udp-burst-64")]
    UdpBurst64,
    /// UDP in bursts of 16 datagrams of one flow, 1,200 bytes, 64 flows, 8 bursts in flight.
    #[value(name = "udp-burst-1200")]
    UdpBurst1200,
    /// UDP in bursts as with udp-burst-64, joined at both ends (GSO, GRO), so that the edge is nearly all that is measured.
    #[value(name = "udp-joined-64")]
    UdpJoined64,
    /// UDP in bursts as with udp-burst-1200, joined at both ends (GSO, GRO), so that the edge is nearly all that is measured.
    #[value(name = "udp-joined-1200")]
    UdpJoined1200,
    /// UDP, one flow, 64 bytes, one datagram in flight, everything on one processor.
    #[value(name = "udp-pingpong")]
    UdpPingPong,
    /// TCP, as many bytes as pass over 1 connection.
    #[value(name = "tcp-bulk-1")]
    TcpBulk1,
    /// TCP, as many bytes as pass over 16 connections.
    #[value(name = "tcp-bulk-16")]
    TcpBulk16,
    /// TCP connect, 64 bytes there and back, close; 64 at once.
    #[value(name = "tcp-connect")]
    TcpConnect,
    /// 256 TCP connections that stay, 64 bytes there and back on each.
    #[value(name = "tcp-pingpong-256")]
    TcpPingPong256,
    /// User-space memory of an idle TCP connection.
    #[value(name = "tcp-idle")]
    TcpIdle,
    /// User-space memory of a UDP flow.
    #[value(name = "udp-idle")]
    UdpIdle,
    /// System calls of a short TCP connection.
    #[value(name = "tcp-syscalls")]
    TcpSyscalls,
}

/// The works that are measured in repetitions, in order.
pub const FORWARDING: [Work; 12] = [
    Work::UdpEcho64,
    Work::UdpEcho64Flows1000,
    Work::UdpEcho1200,
    Work::UdpBurst64,
    Work::UdpBurst1200,
    Work::UdpJoined64,
    Work::UdpJoined1200,
    Work::UdpPingPong,
    Work::TcpBulk1,
    Work::TcpBulk16,
    Work::TcpConnect,
    Work::TcpPingPong256,
];
/// Short connections under way at any time.
pub const CONCURRENT: usize = 64;
/// The works of `--memory`.
pub const MEMORY: [Work; 2] = [Work::TcpIdle, Work::UdpIdle];

/// What generates a work's traffic.
#[derive(Debug, Clone, Copy)]
pub enum Load {
    Udp(Udp),
    Tcp(Tcp),
}

/// How a work's units are told: the name of its rate, a factor on units a second, the name of its cost, a factor on
/// processor seconds per unit.
pub struct Unit {
    pub rate: &'static str,
    pub rate_factor: f64,
    pub cost: &'static str,
    pub cost_factor: f64,
}

impl Work {
    /// The load of this work in repetition `round`. Bulk goes from server to client in even repetitions, else the other way.
    pub fn load(self, round: usize) -> Load {
        let udp = |flows, size, burst, in_flight| Load::Udp(Udp { flows, size, burst, in_flight, joined: self.is_joined() });
        let direction = if round.is_multiple_of(2) { Direction::Down } else { Direction::Up };
        match self {
            Self::UdpEcho64 => udp(64, 64, 1, 128),
            Self::UdpEcho64Flows1000 => udp(1000, 64, 1, 128),
            Self::UdpEcho1200 => udp(64, 1200, 1, 128),
            Self::UdpBurst64 | Self::UdpJoined64 => udp(64, 64, 16, 8),
            Self::UdpBurst1200 | Self::UdpJoined1200 => udp(64, 1200, 16, 8),
            Self::UdpPingPong | Self::UdpIdle => udp(1, 64, 1, 1),
            Self::TcpBulk1 => Load::Tcp(Tcp::Bulk(1, direction)),
            Self::TcpBulk16 => Load::Tcp(Tcp::Bulk(16, direction)),
            Self::TcpConnect | Self::TcpIdle | Self::TcpSyscalls => Load::Tcp(Tcp::Connect(CONCURRENT)),
            Self::TcpPingPong256 => Load::Tcp(Tcp::PingPong(256)),
        }
    }

    /// Whether datagrams come in bursts, and the devices may coalesce them.
    pub fn is_bursty(self) -> bool {
        matches!(self, Self::UdpBurst64 | Self::UdpBurst1200)
    }

    /// Whether the ends send and receive bursts as one.
    fn is_joined(self) -> bool {
        matches!(self, Self::UdpJoined64 | Self::UdpJoined1200)
    }

    /// Whether everything shares one processor.
    pub fn is_pinned(self) -> bool {
        self == Self::UdpPingPong
    }

    /// Whether it is bytes that are counted.
    pub fn is_bulk(self) -> bool {
        matches!(self, Self::TcpBulk1 | Self::TcpBulk16)
    }

    pub fn unit(self) -> Unit {
        match self {
            Self::TcpBulk1 | Self::TcpBulk16 => Unit { rate: "Gbit/s", rate_factor: 8e-9, cost: "s/GB", cost_factor: 1e9 },
            Self::UdpBurst64 | Self::UdpBurst1200 | Self::UdpJoined64 | Self::UdpJoined1200 => {
                Unit { rate: "datagrams/s there and back", rate_factor: 1.0, cost: "µs each", cost_factor: 1e6 }
            }
            Self::TcpConnect => Unit { rate: "connections/s", rate_factor: 1.0, cost: "µs each", cost_factor: 1e6 },
            _ => Unit { rate: "round trips/s", rate_factor: 1.0, cost: "µs each", cost_factor: 1e6 },
        }
    }

    /// One line that says what it is.
    pub fn title(self) -> String {
        let help = self.to_possible_value().and_then(|value| value.get_help().map(ToString::to_string));
        help.unwrap_or_default()
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}
