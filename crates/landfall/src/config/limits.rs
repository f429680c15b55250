//! A listener's limits, and how this host's descriptors are divided: what a listener gets that names no limit.

use std::num::{NonZeroU32, NonZeroUsize};

use edge_listener::settings::{Limits, PIPES_PER_WORKER};

use super::{
    Config, Forwarding, Host, Listener, PortSockets, RawFile,
    diagnostic::{Fault, Marked},
    listener::RawListener,
    reader::{Report, Section},
    values,
};

/// Descriptors kept back for probes, the admin address, the control socket and logs.
pub const RESERVED_DESCRIPTORS: u64 = 256;

const MOST_FLOWS: u64 = 1 << 40;
const MOST_NEW_FLOWS: u64 = 1_000_000;

/// `limits` as read.
#[derive(Debug, Default)]
pub(super) struct RawLimits {
    pub(super) max_flows: Option<Marked<NonZeroUsize>>,
    max_flows_per_client: Option<NonZeroUsize>,
    new_flows: Option<NonZeroU32>,
}

impl RawLimits {
    /// The limits, with `share` where no `max_flows` was given.
    pub(super) fn build(&self, share: NonZeroUsize) -> Limits {
        let max_flows = self.max_flows.as_ref().map_or(share, |max_flows| max_flows.value);
        Limits {
            max_flows: max_flows.get(),
            max_flows_per_client: self.max_flows_per_client,
            new_flows_per_client_per_second: self.new_flows,
        }
    }
}

/// Reads the `limits` of a listener.
pub(super) fn read(listener: &mut Section<'_>) -> RawLimits {
    const CURE: &str = "write a table, such as { max_flows = 200000 }";
    let section = listener.item("limits").and_then(|item| item.section(CURE));
    let Some(mut limits) = section else { return RawLimits::default() };
    let max_flows = limits.item("max_flows").and_then(|item| {
        let value = item.read(|item| values::count(item, MOST_FLOWS))?;
        Some(Marked { value, at: item.at })
    });
    let max_flows_per_client = limits.get("max_flows_per_client", |item| values::count(item, MOST_FLOWS));
    let new_flows = limits.get("new_flows_per_client_per_second", |item| values::count(item, MOST_NEW_FLOWS));
    limits.finish();
    let new_flows = new_flows.and_then(|count| NonZeroU32::try_from(count).ok());
    RawLimits { max_flows, max_flows_per_client, new_flows }
}

/// What one listener asks of the descriptor limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appetite {
    /// Listening sockets: static IPs × ports × protocols × workers; × 1 where one socket takes what comes for all ports.
    pub sockets: u64,
    /// Descriptors of one flow: two for TCP (client and endpoint), one for UDP, none for UDP that only the kernel may forward. Where one
    /// socket takes what comes for all ports, two for UDP: the replies of a port leave by a socket of its own.
    pub per_flow: u64,
    /// Whether its connections may go through the workers' pipes.
    pub pipes: bool,
}

impl Appetite {
    /// `places` are pairs of a static IP and a worker.
    fn new(ports: usize, (tcp, udp): (bool, bool), places: usize, by: &PortSockets) -> Self {
        let one_for_all = *by == PortSockets::OneForAll;
        let protocols = usize::from(tcp) + usize::from(udp);
        let sockets = if one_for_all { 1 } else { ports } * protocols * places;
        Self { sockets: sockets as u64, per_flow: if tcp || (udp && one_for_all) { 2 } else { u64::from(udp) }, pipes: tcp }
    }

    fn of_raw(listener: &RawListener, file: &RawFile, places: usize, host: &Host) -> Self {
        let serves = (listener.tcp.is_some(), listener.udp.is_some() && listener.forwarding.value != Forwarding::Kernel);
        let ports = listener.ports.iter().map(|range| range.value.len()).sum();
        Self::new(ports, serves, places, &PortSockets::new(ports, serves.0 || serves.1, file.edge.fast_path.value, host))
    }
}

impl Config {
    /// What `listener` asks of the descriptors of `host`.
    pub fn appetite(&self, listener: &Listener, host: &Host) -> Appetite {
        let Listener { settings, forwarding, .. } = listener;
        let serves = (settings.tcp.is_some(), settings.udp.is_some() && *forwarding != Forwarding::Kernel);
        let places = self.edge.announce.len() * self.edge.workers.get();
        Appetite::new(settings.all_ports().count(), serves, places, &self.port_sockets(listener, host))
    }
}

/// How the descriptors of a host are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// That the process may open.
    pub descriptors: u64,
    /// For the sockets of all listeners.
    pub listening_sockets: u64,
    /// [`RESERVED_DESCRIPTORS`], and two for each of the [`PIPES_PER_WORKER`] where TCP is served.
    pub reserved: u64,
}

/// The descriptors do not suffice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} listening sockets and {} descriptors in reserve leave too few of this host's {} descriptors for flows",
    .0.listening_sockets, .0.reserved, .0.descriptors
)]
pub struct TooFewDescriptors(pub Capacity);

impl Capacity {
    /// The division for these listeners.
    pub fn new(descriptors: u64, workers: NonZeroUsize, listeners: &[Appetite]) -> Self {
        let pipes = if listeners.iter().any(|listener| listener.pipes) { workers.get() * PIPES_PER_WORKER } else { 0 };
        let listening_sockets = listeners.iter().map(|listener| listener.sockets).sum();
        Self { descriptors, listening_sockets, reserved: RESERVED_DESCRIPTORS + 2 * pipes as u64 }
    }

    /// The division of `host`'s descriptors by `config`.
    pub fn of(config: &Config, host: &Host) -> Self {
        let appetites: Vec<_> = config.listeners.iter().map(|listener| config.appetite(listener, host)).collect();
        Self::new(host.descriptors, config.edge.workers, &appetites)
    }

    /// What is left for flows.
    pub fn for_flows(&self) -> u64 {
        self.descriptors.saturating_sub(self.listening_sockets + self.reserved)
    }

    /// The default `max_flows` of each listener: what is left for flows, in equal shares, divided by what one of the listener's flows
    /// takes.
    ///
    /// A listener with a `max_flows` of its own counts as a sharer all the same, so that setting it changes no other's default.
    pub fn default_max_flows(&self, listeners: &[Appetite]) -> Result<Vec<NonZeroUsize>, TooFewDescriptors> {
        let sharers = listeners.len() as u64;
        let share = |listener: &Appetite| {
            let flows = self.for_flows().checked_div(sharers)?.checked_div(listener.per_flow.max(1))?;
            NonZeroUsize::new(usize::try_from(flows).unwrap_or(usize::MAX))
        };
        listeners.iter().map(|listener| share(listener).ok_or(TooFewDescriptors(*self))).collect()
    }
}

/// Gives each listener of a file its default, and reports where that fails or the file's own figures exceed what is left.
pub(super) fn shares(report: &Report, file: &RawFile, static_ips: usize, host: &Host) -> Vec<NonZeroUsize> {
    let (listeners, workers) = (&file.listeners, file.edge.workers);
    let places = static_ips * workers.get();
    let appetites: Vec<_> = listeners.iter().map(|listener| Appetite::of_raw(listener, file, places, host)).collect();
    let Some((biggest, _)) = appetites.iter().enumerate().max_by_key(|(_, appetite)| appetite.sockets) else {
        return Vec::new();
    };
    let capacity = Capacity::new(host.descriptors, workers, &appetites);
    let shares = match capacity.default_max_flows(&appetites) {
        Ok(shares) => shares,
        Err(error) => {
            let at = listeners[biggest].ports.first().map_or(&listeners[biggest].at, |range| &range.at);
            let mut cure =
                "raise the limit (LimitNOFILE= or ulimit -n), or listen on fewer ports or with fewer workers".to_owned();
            let ports = listeners[biggest].ports.iter().map(|range| range.value.len()).sum();
            if let PortSockets::EachOfMany(reason) = PortSockets::new(ports, true, file.edge.fast_path.value, host) {
                cure.push_str(&format!("; one socket could serve all ports of a listener, but not here: {reason}"));
            }
            report.error(at, Fault::new(error.to_string(), cure));
            return Vec::new();
        }
    };
    let left = capacity.for_flows();
    for (listener, appetite) in listeners.iter().zip(&appetites) {
        let Some(max_flows) = &listener.limits.max_flows else { continue };
        let wanted = (max_flows.value.get() as u64).saturating_mul(appetite.per_flow);
        if wanted > left {
            let reason = format!("{} flows take {wanted} descriptors, and this host has {left} for flows", max_flows.value);
            let cure = "raise the limit (LimitNOFILE= or ulimit -n), or lower max_flows";
            report.warn(&max_flows.at, Fault::new(reason, cure));
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAME: Appetite = Appetite { sockets: 400, per_flow: 1, pipes: false };
    const CHAT: Appetite = Appetite { sockets: 4, per_flow: 2, pipes: true };
    const TWO: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

    fn shares(descriptors: u64, listeners: &[Appetite]) -> Result<Vec<usize>, TooFewDescriptors> {
        let shares = Capacity::new(descriptors, TWO, listeners).default_max_flows(listeners)?;
        Ok(shares.iter().map(|share| share.get()).collect())
    }

    #[test]
    fn what_is_left_is_shared_equally() {
        assert_eq!(shares(100_788, &[GAME, CHAT]), Ok(vec![50_000, 25_000]));
    }

    #[test]
    fn pipes_are_kept_in_reserve_where_tcp_is_served() {
        assert_eq!(Capacity::new(1000, TWO, &[GAME]).reserved, RESERVED_DESCRIPTORS);
        let both = Capacity::new(1000, TWO, &[GAME, CHAT]);
        assert_eq!(both, Capacity { descriptors: 1000, listening_sockets: 404, reserved: 256 + 2 * 2 * 32 });
        assert_eq!(both.for_flows(), 212);
    }

    #[test]
    fn sockets_that_do_not_fit_are_an_error_with_figures() {
        let error = shares(600, &[GAME]).unwrap_err();
        assert_eq!(error, TooFewDescriptors(Capacity { descriptors: 600, listening_sockets: 400, reserved: 256 }));
        let message =
            "400 listening sockets and 256 descriptors in reserve leave too few of this host's 600 descriptors for flows";
        assert_eq!(error.to_string(), message);
        assert!(shares(656, &[GAME]).is_err(), "not one flow would fit");
        assert_eq!(shares(657, &[GAME]), Ok(vec![1]));
    }
}
