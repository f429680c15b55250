//! What defaults and warnings depend on and no file says: the host.

use std::{fs, num::NonZeroUsize, ops::RangeInclusive};

/// The facts of a host that defaults and warnings follow from. A file means the same wherever these are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name: the default of `edge.name`.
    pub name: String,
    /// Cores that the process may use: the default of `edge.workers`.
    pub cores: NonZeroUsize,
    /// Descriptors that the process may open: `limits.max_flows` follows from it.
    pub descriptors: u64,
    /// The congestion control algorithms that any process may choose; empty where the host does not say.
    pub congestion: Vec<String>,
    /// The ports that the kernel may give to any socket that asks for none.
    pub ephemeral: Vec<RangeInclusive<u16>>,
    /// Why this process may not have the kernel hand what comes for many ports to one socket; `None`: it may.
    pub no_dispatcher: Option<String>,
}

impl Host {
    /// This host. Descriptors are counted by the hard limit, to which `landfall run` raises itself.
    pub fn detect() -> Self {
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let congestion = fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control").unwrap_or_default();
        Self {
            name: name.trim().to_owned(),
            cores: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            // Where the limit cannot be asked for, the smallest that any system grants.
            descriptors: rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(1024, |(_, hard)| hard),
            congestion: congestion.split_whitespace().map(str::to_owned).collect(),
            ephemeral: ephemeral(),
            no_dispatcher: fast_path::Dispatcher::available().err().map(|error| error.to_string()),
        }
    }
}

/// `ip_local_port_range` without `ip_local_reserved_ports`; empty where the host does not say.
fn ephemeral() -> Vec<RangeInclusive<u16>> {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
    let port = |text: &str| text.trim().parse::<u16>().ok();
    let range = read("ip_local_port_range");
    let Some((first, last)) = range.trim().split_once(char::is_whitespace).and_then(|(a, b)| Some((port(a)?, port(b)?))) else {
        return Vec::new();
    };
    let reserved = read("ip_local_reserved_ports");
    let reserved = reserved.split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(port(first)?..=port(last)?)
    });
    reserved.fold(vec![first..=last], |ranges, taken| ranges.iter().flat_map(|range| without(range, &taken)).collect())
}

/// What is left of `range` beside `taken`.
fn without(range: &RangeInclusive<u16>, taken: &RangeInclusive<u16>) -> impl Iterator<Item = RangeInclusive<u16>> + use<> {
    let before = taken.start().checked_sub(1).map(|last| *range.start()..=last.min(*range.end()));
    let after = taken.end().checked_add(1).map(|first| first.max(*range.start())..=*range.end());
    before.into_iter().chain(after).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_taken_out() {
        for (taken, left) in [
            (1..=9, vec![10..=20]),
            (5..=12, vec![13..=20]),
            (12..=14, vec![10..=11, 15..=20]),
            (15..=99, vec![10..=14]),
            (10..=20, vec![]),
        ] {
            assert_eq!(without(&(10..=20), &taken).collect::<Vec<_>>(), left, "{taken:?}");
        }
    }
}
