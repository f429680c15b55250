//! What defaults and warnings depend on and no file says: the host.

use std::{fs, num::NonZeroUsize};

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
        }
    }
}
