//! The two paths that UDP can take through an edge, and the proof of which one it took.
//!
//! [`on_both_paths!`](crate::on_both_paths) makes two tests of each function that takes a [`Path`]. Both must see the same, but for this, which is
//! so by design (`docs/OPERATIONS.md`, "Forwarding in the kernel"):
//!
//! * Endpoints are of the family of the static IPs: [`Path::families`], [`Path::second`].
//! * There is no socket, so nothing overflows one: the reasons `socket_overflow`, `endpoint_socket_overflow`, `endpoint_buffer_full`,
//!   `client_buffer_full` and `no_descriptors` do not exist. What a full queue of a device drops, the device counts.
//! * The edge's packet filter does not see what is forwarded: it silences probes, and flows go on.
//! * A path that is narrower than its first link is told to the client, who cuts its own datagrams: nothing is counted at the edge.
//! * Counters are up to a second late: [`Path::assert_carried`] waits for them.
//! * It goes on while the process is frozen, and where a static IP has been taken off the host.
//! * Endpoints on the edge's own host are reached in user space, so tests on loopback are of that path.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::edge::Edge;
use crate::lab::{Namespace, Region, STATIC_IPV4, STATIC_IPV6};
use crate::wait::wait_until;
use crate::{Failure, Result};

/// How late the kernel's counters may be, and a slow machine.
const LIMIT: Duration = Duration::from_secs(10);

/// Who forwards the datagrams of an edge in the lab. TCP is forwarded in user space by either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// The process.
    User,
    /// The program in the kernel.
    Kernel,
}

/// The addresses of a scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Static IPs of both, and endpoints of both behind each.
    Both,
}

impl Path {
    /// The families that scenes on this path must have between them to try all that the path can do.
    pub fn families(self) -> &'static [Families] {
        match self {
            Self::User => &[Families::Both],
            Self::Kernel => &[Families::V4, Families::V6],
        }
    }

    /// The address of a second endpoint beside one of IPv4, in a scene whose static IPs are of IPv4: of the other family, if the path lets it.
    pub fn second(self, region: &Region, index: u8) -> IpAddr {
        match self {
            Self::User => region.ipv6(index).into(),
            Self::Kernel => region.ipv4(index).into(),
        }
    }

    /// Starts an edge in `host`, the edge of a [`crate::lab::Lab`], on `config`, whose `[edge]` says nothing of the fast path.
    ///
    /// # Errors
    /// As [`Edge::start`].
    pub fn start(self, host: &Namespace, config: &str) -> Result<Edge> {
        Edge::start(Some(host), &self.prepare(host, config, &["198.18.2.1", "fd00:18:2::1"])?)
    }

    /// Makes `host` ready for an edge on this path, and returns `config` with the keys for it, which it says nothing of: in the kernel
    /// datagrams leave for the endpoints from `nat_addresses`.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn prepare(self, host: &Namespace, config: &str, nat_addresses: &[&str]) -> Result<String> {
        let keys = match self {
            Self::User => "fast_path = \"off\"".to_owned(),
            Self::Kernel => {
                for parameter in ["net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding"] {
                    host.set(parameter, "1")?;
                }
                format!("fast_path = \"on\"\nnat_addresses = {nat_addresses:?}\nnat_ports = \"10000-31999\"")
            }
        };
        Ok(config.replacen("[edge]\n", &format!("[edge]\n{keys}\n"), 1))
    }

    /// The value of the label `path`.
    pub fn label(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Kernel => "kernel",
        }
    }

    /// How many UDP flows the edge has opened on this path.
    ///
    /// # Errors
    /// When the edge does not say.
    pub fn opened(self, edge: &Edge) -> Result<usize> {
        let opened = edge.metrics()?.sum("landfall_flows_opened_total", &[("protocol", "udp"), ("path", self.label())]);
        // The sum of no counters at all is a zero with a minus sign.
        let whole = format!("{:.0}", opened.abs()).parse();
        whole.map_err(|error| Failure::new("read", "landfall_flows_opened_total", error, "see the edge's /metrics"))
    }

    /// Every UDP flow of the edge was opened on this path, and there were `flows`.
    ///
    /// # Panics
    /// When it is not so.
    pub fn assert_carried(self, edge: &Edge, flows: usize) {
        // Err: judged below.
        let _ = wait_until("the flows counted", LIMIT, || self.opened(edge).is_ok_and(|opened| opened >= flows));
        assert_eq!(self.assert_carried_all(edge), flows, "flows in {self:?}");
    }

    /// Every UDP flow of the edge was opened on this path, and there were some. Returns how many.
    ///
    /// # Panics
    /// When it is not so.
    pub fn assert_carried_all(self, edge: &Edge) -> usize {
        let opened = self.assert_carried_none_elsewhere(edge);
        assert!(opened > 0, "no flow in {self:?}");
        opened
    }

    /// No UDP flow of the edge was opened on the other path. Returns how many were on this one.
    ///
    /// # Panics
    /// When it is not so.
    pub fn assert_carried_none_elsewhere(self, edge: &Edge) -> usize {
        let other = if self == Self::User { Self::Kernel } else { Self::User };
        let opened = [self, other].map(|path| path.opened(edge).unwrap_or_else(|failure| panic!("{failure}")));
        assert_eq!(opened[1], 0, "flows in {self:?} and in {other:?}: {opened:?}");
        opened[0]
    }
}

impl Families {
    /// The static IPs of such a scene.
    pub fn static_ips(self) -> Vec<IpAddr> {
        let all = STATIC_IPV4.map(IpAddr::V4).into_iter().chain(STATIC_IPV6.map(IpAddr::V6));
        all.filter(|ip| self == Self::Both || ip.is_ipv4() == (self == Self::V4)).collect()
    }

    /// The address of endpoint `index` of a region: of IPv6 where there is nothing else, or where `second` and there is both.
    pub fn endpoint(self, region: &Region, index: u8, second: bool) -> IpAddr {
        match self {
            Self::V6 => region.ipv6(index).into(),
            Self::Both if second => region.ipv6(index).into(),
            _ => region.ipv4(index).into(),
        }
    }
}

/// Makes two tests of each function named, `in_user_space::NAME` and `in_the_kernel::NAME`.
#[macro_export]
macro_rules! on_both_paths {
    ($($test:ident),+ $(,)?) => {
        mod in_user_space {
            $(#[test] fn $test() { super::$test($crate::path::Path::User) })+
        }
        mod in_the_kernel {
            $(#[test] fn $test() { super::$test($crate::path::Path::Kernel) })+
        }
    };
}

/// For tests that hold times against a bound, and would take the processors from each other: they run one after the other.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed has ended its turn too.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
