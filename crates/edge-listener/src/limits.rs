//! What a listener refuses: flows beyond its cap, flows of one client beyond the client's, and flows that a client begins too fast.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use dashmap::DashMap;

use crate::{rate::NewFlows, reasons::DropReason, settings::Limits};

/// Counts the flows of one listener over all workers.
#[derive(Debug)]
pub struct FlowLimits {
    limits: Limits,
    active: AtomicUsize,
    clients: DashMap<IpAddr, usize>,
    new_flows: Option<NewFlows>,
}

/// The right to one flow; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    limits: Arc<FlowLimits>,
    /// Counted among the flows of this client.
    client: Option<IpAddr>,
    /// Counted among all flows.
    flow: bool,
}

impl FlowLimits {
    /// Nothing in use yet.
    pub fn new(limits: Limits) -> Arc<Self> {
        let new_flows = limits.new_flows_per_client_per_second.map(NewFlows::new);
        Arc::new(Self { limits, active: AtomicUsize::new(0), clients: DashMap::new(), new_flows })
    }

    /// A permit for one more flow that `client` begins at `now`, or the reason to refuse it.
    ///
    /// When all flows are in use, `make_room` is asked to end one. That is last, so that a client that asks too much costs nobody's flow;
    /// a token it costs all the same.
    pub fn admit(
        self: &Arc<Self>,
        client: IpAddr,
        now: Instant,
        make_room: &mut dyn FnMut() -> bool,
    ) -> Result<Permit, DropReason> {
        let mut permit = Permit { limits: Arc::clone(self), client: None, flow: false };
        if let Some(most) = self.limits.max_flows_per_client {
            let client = client_key(client);
            let mut flows = self.clients.entry(client).or_insert(0);
            if *flows >= most.get() {
                return Err(DropReason::ClientFlowLimit);
            }
            *flows += 1;
            permit.client = Some(client);
        }
        if self.new_flows.as_ref().is_some_and(|new_flows| !new_flows.admit(client_key(client), now)) {
            return Err(DropReason::ClientRate);
        }
        permit.flow = self.take() || (make_room() && self.take());
        if permit.flow { Ok(permit) } else { Err(DropReason::FlowLimit) }
    }

    fn take(&self) -> bool {
        let free = self.active.fetch_add(1, Ordering::Relaxed) < self.limits.max_flows;
        if !free {
            self.active.fetch_sub(1, Ordering::Relaxed);
        }
        free
    }

    /// Flows that hold a permit.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.flow {
            self.limits.active.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(client) = self.client {
            self.limits.clients.remove_if_mut(&client, |_, flows| {
                *flows -= 1;
                *flows == 0
            });
        }
    }
}

/// Whom a limit counts: an IPv4 address, or the /64 that an IPv6 client can choose its address from.
fn client_key(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU32, NonZeroUsize};

    use super::*;

    fn limited(max_flows: usize, per_client: Option<usize>, rate: Option<u32>) -> Arc<FlowLimits> {
        FlowLimits::new(Limits {
            max_flows,
            max_flows_per_client: per_client.and_then(NonZeroUsize::new),
            new_flows_per_client_per_second: rate.and_then(NonZeroU32::new),
        })
    }

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn limits(max_flows: usize, per_client: Option<usize>) -> Arc<FlowLimits> {
        limited(max_flows, per_client, None)
    }

    fn admit(limits: &Arc<FlowLimits>, client: IpAddr, now: Instant) -> Result<Permit, DropReason> {
        limits.admit(client, now, &mut || false)
    }

    #[test]
    fn room_is_made_for_a_flow_that_nothing_else_refuses() {
        let limits = limits(2, Some(1));
        let clients: [IpAddr; 3] = ["203.0.113.1", "203.0.113.2", "203.0.113.3"].map(|text| text.parse().unwrap());
        let mut held = vec![admit(&limits, clients[0], now()).unwrap(), admit(&limits, clients[1], now()).unwrap()];
        assert_eq!(limits.admit(clients[0], now(), &mut || panic!("for nothing")).unwrap_err(), DropReason::ClientFlowLimit);
        assert_eq!(admit(&limits, clients[2], now()).unwrap_err(), DropReason::FlowLimit);
        assert_eq!((limits.active(), limits.clients.len()), (2, 2));
        let third = limits.admit(clients[2], now(), &mut || held.pop().is_some());
        assert!(third.is_ok() && held.len() == 1);
        assert_eq!((limits.active(), limits.clients.len()), (2, 2));
    }

    #[test]
    fn the_cap_holds_and_frees() {
        let limits = limits(2, None);
        let client = "203.0.113.1".parse().unwrap();
        let first = admit(&limits, client, now()).unwrap();
        let _second = admit(&limits, client, now()).unwrap();
        assert_eq!(admit(&limits, client, now()).unwrap_err(), DropReason::FlowLimit);
        drop(first);
        assert!(admit(&limits, client, now()).is_ok());
    }

    #[test]
    fn an_ipv6_client_is_its_64() {
        let limits = limits(10, Some(1));
        let _held = admit(&limits, "2001:db8:0:1::1".parse().unwrap(), now()).unwrap();
        assert_eq!(admit(&limits, "2001:db8:0:1:ffff::2".parse().unwrap(), now()).unwrap_err(), DropReason::ClientFlowLimit);
        assert!(admit(&limits, "2001:db8:0:2::1".parse().unwrap(), now()).is_ok());
    }

    #[test]
    fn refusals_and_ends_leave_nothing_behind() {
        let limits = limits(10, Some(2));
        let client = "203.0.113.1".parse().unwrap();
        let permits: Vec<_> = (0..2).map(|_| admit(&limits, client, now()).unwrap()).collect();
        assert!(admit(&limits, client, now()).is_err());
        assert_eq!(limits.active(), 2);
        drop(permits);
        assert_eq!(limits.active(), 0);
        assert!(limits.clients.is_empty());
    }

    #[test]
    fn a_client_that_begins_too_fast_is_refused_and_holds_nothing() {
        let limits = limited(10, Some(10), Some(2));
        let (client, start): (IpAddr, _) = ("2001:db8:0:1::1".parse().unwrap(), now());
        let _held: Vec<_> = (0..2).map(|_| admit(&limits, client, start).unwrap()).collect();
        // Its neighbour in the /64 is the same client.
        assert_eq!(admit(&limits, "2001:db8:0:1::2".parse().unwrap(), start).unwrap_err(), DropReason::ClientRate);
        assert_eq!((limits.active(), limits.clients.len()), (2, 1));
        assert!(admit(&limits, "2001:db8:0:2::1".parse().unwrap(), start).is_ok());
        assert!(admit(&limits, client, start + std::time::Duration::from_millis(500)).is_ok());
    }
}
