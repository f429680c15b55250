//! The config file: TOML text → a [`Config`] that cannot hold nonsense, or every error of the file at once.
//!
//! Text becomes a tree (`syntax`), each section is read key by key (`reader`, one file per section), what the sections must
//! agree on is checked across them (`crosscheck`), and only a file without any error becomes a `Config`. Parsing reads
//! nothing beside the file but the certificates that its probes are to trust; what defaults depend on is a [`Host`], an argument. `effective` writes a `Config` back as TOML.

mod anycast;
mod changes;
mod crosscheck;
mod diagnostic;
mod edge;
mod effective;
mod endpoint_group;
mod fast_path;
mod health_check;
mod host;
mod limits;
mod listener;
mod model;
mod port_ranges;
mod probe;
mod probe_values;
mod protocols;
mod reader;
mod reload;
mod resolved;
mod sockets;
mod syntax;
#[cfg(test)]
mod tests;
mod transparent;
mod values;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use ::endpoint_group::Name;

pub use self::{
    anycast::Anycast,
    diagnostic::{ConfigErrors, Diagnostic},
    fast_path::Path as ForwardingPath,
    host::Host,
    limits::{Appetite, Capacity, RESERVED_DESCRIPTORS, TooFewDescriptors},
    model::{Edge, FastPath, Forwarding, Group, Listener, ProbePort, Proximity},
    port_ranges::{FEW_PORTS, PortSockets},
    resolved::{Addresses, UNRESOLVED},
};
use self::{
    diagnostic::{Fault, Marked},
    reader::{Report, Section, Watch},
};

/// One accelerator as one edge serves it: checked, complete, with nothing left to default.
#[derive(Debug, Clone)]
pub struct Config {
    /// The accelerator's name.
    pub name: Name,
    /// 1 to 4, each once.
    pub static_ips: Vec<IpAddr>,
    /// Key of the flow hash, the same on every edge. A secret.
    pub hash_seed: u64,
    /// This host.
    pub edge: Edge,
    /// How static IPs are announced; `None` leaves that to others.
    pub anycast: Option<Anycast>,
    /// In the order of the file.
    pub listeners: Vec<Listener>,
    /// In the order of the file.
    pub endpoint_groups: Vec<Group>,
    /// What the file says to no effect, or at a risk.
    pub warnings: Vec<Diagnostic>,
}

/// Configs are equal that mean the same; warnings speak of the text.
impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        let Self { name, static_ips, hash_seed, edge, anycast, listeners, endpoint_groups, warnings: _ } = self;
        *name == other.name
            && *static_ips == other.static_ips
            && *hash_seed == other.hash_seed
            && *edge == other.edge
            && *anycast == other.anycast
            && *listeners == other.listeners
            && *endpoint_groups == other.endpoint_groups
    }
}

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the config {}: {source}; name a file that this user may read", path.display())]
    Read {
        /// As given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file has errors.
    #[error("{}", .errors.0.iter().map(|error| error.render(path)).collect::<Vec<_>>().join("\n"))]
    Invalid {
        /// As given.
        path: PathBuf,
        /// All of them.
        errors: ConfigErrors,
    },
}

impl Config {
    /// Reads and parses the file at `path`.
    pub fn load(path: &Path, host: &Host) -> Result<Self, LoadError> {
        let bytes = std::fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        let parsed = match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, host),
            Err(error) => Err(ConfigErrors(vec![not_text(&bytes, &error)])),
        };
        parsed.map_err(|errors| LoadError::Invalid { path: path.to_owned(), errors })
    }

    /// The config that `text` means on `host`, or every error in it.
    pub fn parse(text: &str, host: &Host) -> Result<Self, ConfigErrors> {
        let (config, errors, _) = read(text, host);
        config.ok_or(ConfigErrors(errors))
    }
}

fn not_text(bytes: &[u8], error: &std::str::Utf8Error) -> Diagnostic {
    let at = error.valid_up_to();
    let line = 1 + bytes[..at].iter().filter(|&&byte| byte == b'\n').count();
    let reason = format!("the byte 0x{:02x} is not UTF-8 text", bytes.get(at).copied().unwrap_or_default());
    Diagnostic { line, key: "(text)".to_owned(), reason, cure: "save the file as UTF-8".to_owned() }
}

/// The whole file as read.
struct RawFile {
    name: Option<Name>,
    static_ips: Vec<Marked<IpAddr>>,
    static_ips_whole: bool,
    hash_seed: u64,
    edge: edge::RawEdge,
    anycast: anycast::RawAnycast,
    listeners: Vec<listener::RawListener>,
    groups: Vec<endpoint_group::RawGroup>,
}

/// The config if there are no errors, the errors, and the keys that were asked for.
fn read(text: &str, host: &Host) -> (Option<Config>, Vec<Diagnostic>, BTreeSet<String>) {
    let repaired = syntax::Repaired::new(text);
    let (tree, damage) = repaired.parse();
    let report = Report::new(text, damage);
    let file = read_root(Section::root(tree.get_ref(), &report), &report, host);
    let resolved = crosscheck::check(&report, &file);
    let announced = file.edge.announce.as_ref().map_or(file.static_ips.len(), Vec::len);
    let shares = limits::shares(&report, &file, announced, host);
    let config = build(&file, resolved, &shares);
    if let Some(config) = &config {
        fast_path::check(&report, &file, config, host);
        port_ranges::check(&report, &file, config, host);
    }
    let (errors, warnings, asked) = report.into_parts();
    let config = config.filter(|_| errors.is_empty()).map(|config| Config { warnings, ..config });
    (config, errors, asked)
}

fn read_root(mut root: Section<'_>, report: &Report, host: &Host) -> RawFile {
    let name = root.need("name", "give the accelerator a name, such as name = \"game\"", values::name);
    let watch = Watch::new(report);
    let cure = "list 1 to 4 addresses, such as [\"198.18.0.1\", \"198.18.0.2\"]";
    let static_ips = root.need_item("static_ips", cure).map_or_else(Vec::new, |item| {
        if item.value.as_array().is_some_and(|list| list.is_empty()) {
            report.error(&item.at, Fault::new("no static IP", cure));
        }
        edge::ip_list(&item, report, cure)
    });
    let static_ips_whole = watch.clean();
    let hash_seed = match root.item("hash_seed") {
        Some(item) => item.read(values::seed).map(|seed| (seed, item.at)),
        None => Some((0, root.mark("hash_seed"))),
    };
    if let Some((0, at)) = &hash_seed {
        let reason = "seed 0 is the default that everyone knows: clients can choose their endpoint";
        report.warn(at, Fault::new(reason, "write a random number, the same on every edge, and keep it secret"));
    }
    let edge = edge::read(&mut root, report, host);
    let anycast = anycast::read(&mut root, report);
    let listeners = listener::read_all(&mut root, report, host);
    let groups = endpoint_group::read_all(&mut root, report);
    root.later(&["flow_log", "relays"]);
    root.finish();
    let hash_seed = hash_seed.map_or(0, |(seed, _)| seed);
    RawFile { name, static_ips, static_ips_whole, hash_seed, edge, anycast, listeners, groups }
}

/// The config, if no part of it is missing.
fn build(file: &RawFile, resolved: crosscheck::Resolved, shares: &[NonZeroUsize]) -> Option<Config> {
    let static_ips: Vec<IpAddr> = file.static_ips.iter().map(|ip| ip.value).collect();
    let edge = file.edge.build(&static_ips)?;
    let groups_of = resolved.groups_of.into_iter().zip(shares);
    let listeners = file.listeners.iter().zip(groups_of).map(|(raw, (groups, share))| {
        let settings = raw.settings(*share)?;
        let &listener::RawListener { when_all_unhealthy, ref forwarding, proximity, .. } = raw;
        let forwarding = forwarding.value;
        let default_max_flows = raw.limits.max_flows.is_none();
        Some(Listener { settings, default_max_flows, when_all_unhealthy, forwarding, groups, proximity })
    });
    let endpoint_groups = file.groups.iter().zip(resolved.groups).map(|(raw, resolved)| {
        let (group, probe_port) = resolved?;
        Some(Group { group, check: raw.check.check.clone()?, probe_port, hosts: raw.hosts() })
    });
    let listeners: Vec<_> = listeners.collect::<Option<_>>()?;
    if listeners.len() != file.listeners.len() {
        return None;
    }
    Some(Config {
        name: file.name.clone()?,
        hash_seed: file.hash_seed,
        edge,
        anycast: file.anycast.build(&static_ips),
        listeners,
        endpoint_groups: endpoint_groups.collect::<Option<_>>()?,
        static_ips,
        warnings: Vec::new(),
    })
}
