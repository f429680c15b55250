//! `landfall check`: every error of a config file, or what the file means, how many flows it admits, which shares
//! its slots give and how fast its groups fail over.

mod shares;

use std::{borrow::Cow, collections::BTreeMap, fmt::Write, path::Path, time::Duration};

use edge_listener::bind;
use endpoint_group::SLOTS;
use health_checker::check::PUBLISH_ALLOWANCE;
use serde::Serialize;

pub use self::shares::FEWEST_SLOTS;
use self::shares::{FewSlots, ListenerShares};
use crate::{
    config::{Capacity, Config, ConfigErrors, Diagnostic, Forwarding, Group, Host, Listener, LoadError, PortSockets},
    control::status::path_words,
};

/// Exit status of a file without errors.
pub const EXIT_OK: u8 = 0;
/// Exit status of a file that cannot be read: `EX_NOINPUT` of sysexits.h.
pub const EXIT_NO_INPUT: u8 = 66;
/// Exit status of a file with errors: `EX_CONFIG` of sysexits.h.
pub const EXIT_CONFIG: u8 = 78;

/// For whom the outcome is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// People.
    Text,
    /// Scripts; stable.
    Json,
}

/// What to print, and the exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Ends with a line break.
    pub text: String,
    /// [`EXIT_OK`], [`EXIT_NO_INPUT`] or [`EXIT_CONFIG`].
    pub status: u8,
}

/// Checks the file at `path`. Only the text form of a valid file shows `hash_seed`.
pub fn check(path: &Path, host: &Host, format: Format) -> Outcome {
    let (outcome, status) = match Config::load(path, host) {
        Ok(config) => (Ok(config), EXIT_OK),
        Err(error @ LoadError::Read { .. }) => (Err(error), EXIT_NO_INPUT),
        Err(error @ LoadError::Invalid { .. }) => (Err(error), EXIT_CONFIG),
    };
    let text = match (format, &outcome) {
        (Format::Json, outcome) => json(outcome.as_ref(), host),
        (Format::Text, Ok(config)) => text(path, config, host),
        (Format::Text, Err(error)) => format!("{error}\n"),
    };
    Outcome { text, status }
}

fn text(path: &Path, config: &Config, host: &Host) -> String {
    let (listeners, few) = shares::shares(config);
    let mut out = config.to_toml();
    if !config.warnings.is_empty() || !few.is_empty() {
        out.push_str("\n# warnings\n");
    }
    // Comments, so that what is printed is a config file.
    for warning in &config.warnings {
        let _ = writeln!(out, "# {}", warning.render(path));
    }
    for few in &few {
        let (reason, cure) = few.words();
        let _ = writeln!(out, "# endpoint group {}: {reason}; {cure}", few.name);
    }
    let _ = writeln!(out, "\n# {}", capacity_line(&DescriptorUse::new(config, host)));
    for line in config.listeners.iter().filter_map(|listener| port_line(config, listener, host)) {
        let _ = writeln!(out, "# {line}");
    }
    forwarding_lines(&mut out, config);
    let _ = writeln!(out, "\n# shares of new flows while every endpoint is healthy, by the slots that each really holds");
    for listener in &listeners {
        share_lines(&mut out, listener);
    }
    out.push_str(
        "\n# failover: the longest time until no new flow reaches a dead endpoint and its old flows were told or moved\n",
    );
    for group in &config.endpoint_groups {
        let _ = writeln!(out, "# {}", bound_line(group));
    }
    out
}

fn capacity_line(capacity: &DescriptorUse) -> String {
    let DescriptorUse { descriptors, listening_sockets, reserved, for_flows, max_flows } = capacity;
    format!(
        "capacity: {descriptors} descriptors = {listening_sockets} listening sockets + {reserved} in reserve + {for_flows} for flows; \
         max_flows of all listeners: {max_flows}"
    )
}

/// What serves the ports of a listener of many.
fn port_line(config: &Config, listener: &Listener, host: &Host) -> Option<String> {
    let mut line = config.port_sentence(listener, host)?;
    if listener.settings.udp.is_some() && listener.forwarding != Forwarding::Kernel && forwarding(config, listener).0 == "kernel"
    {
        line.push_str("; those of UDP only if user space forwards it after all");
    }
    Some(line)
}

/// Which path each listener's packets take on this host, as far as can be told without starting.
fn forwarding_lines(out: &mut String, config: &Config) {
    let _ = writeln!(out, "\n# forwarding of UDP");
    let in_kernel = config.listeners.iter().filter(|listener| forwarding(config, listener).0 == "kernel").count();
    for listener in config.listeners.iter().filter(|listener| listener.settings.udp.is_some()) {
        let name = &listener.settings.name;
        let _ = match forwarding(config, listener) {
            ("kernel", _) => {
                let most = config.kernel_max_flows(listener, in_kernel);
                writeln!(out, "# listener {name}: in the kernel, at most {most} flows at once")
            }
            (_, reason) => writeln!(out, "# listener {name}: in user space, because {reason}"),
        };
    }
    let (v4, v6) = (config.nat_capacity(false), config.nat_capacity(true));
    if v4 + v6 > 0 {
        let _ = writeln!(out, "# NAT ports for {v4} flows at once over IPv4 and {v6} over IPv6");
    }
}

fn forwarding(config: &Config, listener: &Listener) -> (&'static str, String) {
    path_words(config.path(listener, &bind::is_local).as_ref())
}

/// Endpoints of one listener that are shown to people; scripts get all.
const ENDPOINTS_SHOWN: usize = 32;

/// One line an endpoint.
fn share_lines(out: &mut String, listener: &ListenerShares) {
    let width = listener.slots.iter().map(|(name, _)| name.as_str().len()).max().unwrap_or(0);
    let _ = writeln!(out, "# listener {}", listener.name);
    for (name, slots) in listener.slots.iter().take(ENDPOINTS_SHOWN) {
        let _ = writeln!(out, "#   {:width$}  {:>6.2} %  {slots:>6} slots", name.as_str(), share(*slots) * 100.0);
    }
    if let Some((rest, least, most)) = remainder(&listener.slots) {
        let _ = writeln!(out, "#   and {rest} more with {least} to {most} slots each");
    }
}

/// How many endpoints are not shown, and the fewest and the most slots among them.
fn remainder(slots: &[(endpoint_group::Name, usize)]) -> Option<(usize, usize, usize)> {
    let rest = slots.get(ENDPOINTS_SHOWN..)?.iter().map(|(_, slots)| *slots);
    Some((rest.len(), rest.clone().min()?, rest.max()?))
}

/// Of all slots.
fn share(slots: usize) -> f64 {
    // Both are at most 65,536: exact.
    slots as f64 / SLOTS as f64
}

/// The bound of a group with the figures that it follows from.
fn bound_line(group: &Group) -> String {
    let timing = group.check.timing();
    let repeats = timing.unhealthy_threshold.get() - 1;
    let mut line = format!(
        "endpoint group {}: {} = interval {} + timeout {} + {repeats} × max(fast_interval {}, timeout {}) + {}",
        group.group.name,
        seconds(timing.failover_bound()),
        seconds(timing.interval),
        seconds(timing.timeout),
        seconds(timing.fast_interval),
        seconds(timing.timeout),
        seconds(PUBLISH_ALLOWANCE),
    );
    if group.check.kind().is_blind_to_frozen() {
        line.push_str("; a tcp probe without expect does not see a process that is frozen");
    }
    line
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

/// The machine-readable form. `errors`, `endpoint_groups` and their fields are stable; more may be added.
#[derive(Default, Serialize)]
struct Report<'a> {
    errors: Vec<Finding<'a>>,
    warnings: Vec<Finding<'a>>,
    /// `None` for a file with errors.
    capacity: Option<DescriptorUse>,
    nat_capacity: NatCapacity,
    listeners: Vec<Shares<'a>>,
    endpoint_groups: Vec<Bound<'a>>,
}

/// Flows at once that there are NAT ports for.
#[derive(Default, Serialize)]
struct NatCapacity {
    ipv4: usize,
    ipv6: usize,
}

/// What becomes of the descriptors of this host, and the flows that the listeners together admit.
#[derive(Serialize)]
struct DescriptorUse {
    descriptors: u64,
    listening_sockets: u64,
    reserved: u64,
    for_flows: u64,
    max_flows: u64,
}

impl DescriptorUse {
    fn new(config: &Config, host: &Host) -> Self {
        let capacity = Capacity::of(config, host);
        let Capacity { descriptors, listening_sockets, reserved } = capacity;
        let most = config.listeners.iter().map(|listener| listener.settings.limits.max_flows as u64);
        let max_flows = most.fold(0, u64::saturating_add);
        Self { descriptors, listening_sockets, reserved, for_flows: capacity.for_flows(), max_flows }
    }
}

/// Line 0 where the finding is about no single line.
#[derive(Serialize)]
struct Finding<'a> {
    line: usize,
    key: Cow<'a, str>,
    message: Cow<'a, str>,
    cure: &'a str,
}

impl From<&FewSlots> for Finding<'_> {
    fn from(few: &FewSlots) -> Self {
        let (reason, cure) = few.words();
        let message = format!("endpoint group {}: {reason}", few.name);
        Self { line: 0, key: format!("endpoint_groups[{}].endpoints", few.group).into(), message: message.into(), cure }
    }
}

/// Of new flows, while every endpoint is healthy: fractions of 1.
#[derive(Serialize)]
struct Shares<'a> {
    name: &'a str,
    /// The path of its UDP, and why it is not the kernel's.
    forwarding: &'static str,
    forwarding_reason: String,
    /// Its listening sockets.
    sockets: u64,
    /// Whether one takes what comes for all ports, on each static IP, for each protocol, by each worker.
    one_socket_for_all_ports: bool,
    shares: BTreeMap<&'a str, f64>,
}

impl<'a> Shares<'a> {
    fn new(shares: &'a ListenerShares, listener: &Listener, config: &Config, host: &Host) -> Self {
        let (forwarding, forwarding_reason) = forwarding(config, listener);
        Self {
            name: shares.name.as_str(),
            forwarding,
            forwarding_reason,
            sockets: config.appetite(listener, host).sockets,
            one_socket_for_all_ports: config.port_sockets(listener, host) == PortSockets::OneForAll,
            shares: shares.slots.iter().map(|(name, slots)| (name.as_str(), share(*slots))).collect(),
        }
    }
}

impl<'a> From<&'a Diagnostic> for Finding<'a> {
    fn from(finding: &'a Diagnostic) -> Self {
        let Diagnostic { line, key, reason, cure } = finding;
        Self { line: *line, key: key.into(), message: reason.into(), cure }
    }
}

#[derive(Serialize)]
struct Bound<'a> {
    name: &'a str,
    failover_bound_seconds: f64,
}

fn json(outcome: Result<&Config, &LoadError>, host: &Host) -> String {
    let mut report = Report::default();
    let (listeners, few);
    match outcome {
        Ok(config) => {
            (listeners, few) = shares::shares(config);
            report.warnings = config.warnings.iter().map(Finding::from).chain(few.iter().map(Finding::from)).collect();
            report.capacity = Some(DescriptorUse::new(config, host));
            let both = listeners.iter().zip(&config.listeners);
            report.listeners = both.map(|(shares, listener)| Shares::new(shares, listener, config, host)).collect();
            report.nat_capacity = NatCapacity { ipv4: config.nat_capacity(false), ipv6: config.nat_capacity(true) };
            report.endpoint_groups = config.endpoint_groups.iter().map(bound).collect();
        }
        Err(LoadError::Invalid { errors: ConfigErrors(errors), .. }) => {
            report.errors = errors.iter().map(Finding::from).collect()
        }
        Err(LoadError::Read { source, .. }) => {
            let message = format!("cannot read the file: {source}").into();
            report.errors = vec![Finding { line: 0, key: "".into(), message, cure: "name a file that this user may read" }];
        }
    }
    // The report has no map keys or values that JSON cannot hold.
    serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
}

fn bound(group: &Group) -> Bound<'_> {
    Bound { name: group.group.name.as_str(), failover_bound_seconds: group.check.timing().failover_bound().as_secs_f64() }
}
