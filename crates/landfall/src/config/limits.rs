//! A listener's limits, and the share of this host's descriptors that it gets when it names none.

use std::num::{NonZeroU32, NonZeroUsize};

use edge_listener::settings::Limits;

use super::{
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
    /// Listening sockets: static IPs × ports × protocols × workers.
    pub sockets: u64,
    /// Descriptors of one flow: two for TCP (client and endpoint), one for UDP.
    pub per_flow: u64,
}

/// Why the descriptors do not suffice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{sockets} listening sockets and {RESERVED_DESCRIPTORS} descriptors in reserve leave too few of this host's {limit} descriptors for flows"
)]
pub struct TooFewDescriptors {
    /// The sockets of all listeners.
    pub sockets: u64,
    /// The limit as given.
    pub limit: u64,
}

/// The default `max_flows` of each listener: what is left of `limit` after listening sockets and
/// [`RESERVED_DESCRIPTORS`], in equal shares, divided by what one of the listener's flows takes.
///
/// A listener with a `max_flows` of its own counts as a sharer all the same, so that setting it changes no other's default.
pub fn default_max_flows(limit: u64, listeners: &[Appetite]) -> Result<Vec<NonZeroUsize>, TooFewDescriptors> {
    let sockets = listeners.iter().map(|listener| listener.sockets).sum();
    let too_few = TooFewDescriptors { sockets, limit };
    let left = limit.checked_sub(sockets + RESERVED_DESCRIPTORS).ok_or(too_few)?;
    let sharers = listeners.len() as u64;
    let share = |listener: &Appetite| {
        let flows = left.checked_div(sharers)?.checked_div(listener.per_flow)?;
        NonZeroUsize::new(usize::try_from(flows).unwrap_or(usize::MAX))
    };
    listeners.iter().map(|listener| share(listener).ok_or(too_few)).collect()
}

/// Applies [`default_max_flows`] to the listeners of a file, and reports where it fails or the file's own figures exceed it.
pub(super) fn shares(
    report: &Report,
    listeners: &[RawListener],
    static_ips: usize,
    workers: NonZeroUsize,
    descriptors: u64,
) -> Vec<NonZeroUsize> {
    let appetites: Vec<_> = listeners.iter().map(|listener| appetite(listener, static_ips, workers)).collect();
    let Some((biggest, _)) = appetites.iter().enumerate().max_by_key(|(_, appetite)| appetite.sockets) else {
        return Vec::new();
    };
    let shares = match default_max_flows(descriptors, &appetites) {
        Ok(shares) => shares,
        Err(error) => {
            let at = listeners[biggest].ports.first().map_or(&listeners[biggest].at, |range| &range.at);
            let cure = "raise the limit (LimitNOFILE= or ulimit -n), or listen on fewer ports or with fewer workers";
            report.error(at, Fault::new(error.to_string(), cure));
            return Vec::new();
        }
    };
    let sockets: u64 = appetites.iter().map(|appetite| appetite.sockets).sum();
    let left = descriptors - sockets - RESERVED_DESCRIPTORS;
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

fn appetite(listener: &RawListener, static_ips: usize, workers: NonZeroUsize) -> Appetite {
    let ports: u64 = listener.ports.iter().map(|range| range.value.len() as u64).sum();
    let (tcp, udp) = (u64::from(listener.tcp.is_some()), u64::from(listener.udp.is_some()));
    Appetite { sockets: ports * (tcp + udp) * static_ips as u64 * workers.get() as u64, per_flow: if tcp == 1 { 2 } else { 1 } }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAME: Appetite = Appetite { sockets: 400, per_flow: 1 };
    const CHAT: Appetite = Appetite { sockets: 4, per_flow: 2 };

    #[test]
    fn what_is_left_is_shared_equally() {
        let shares = default_max_flows(100_660, &[GAME, CHAT]).unwrap();
        assert_eq!(shares.iter().map(|share| share.get()).collect::<Vec<_>>(), [50_000, 25_000]);
    }

    #[test]
    fn sockets_that_do_not_fit_are_an_error_with_figures() {
        let error = default_max_flows(600, &[GAME]).unwrap_err();
        assert_eq!(error, TooFewDescriptors { sockets: 400, limit: 600 });
        assert!(error.to_string().contains("400") && error.to_string().contains("600"));
        assert!(default_max_flows(656, &[GAME]).is_err(), "not one flow would fit");
        assert!(default_max_flows(657, &[GAME]).is_ok());
        assert_eq!(default_max_flows(0, &[]), Err(TooFewDescriptors { sockets: 0, limit: 0 }));
    }
}
