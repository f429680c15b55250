//! Counters: every processor has its own; a snapshot adds them up.

use std::ops::{AddAssign, Range};

use aya::maps::{Map, RingBuf};

use super::{
    FastPath, Refusals, failed,
    layout::{Counts, EndpointCounts, ListenerState},
};
use crate::{Counters, EndpointCounters, Error, ListenerCounters, Traffic};

impl FastPath {
    /// What has been counted since the fast path was loaded.
    pub fn counters(&self) -> Result<Counters, Error> {
        let read = failed("read counters");
        let whole = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        let listener = |place: usize, state: ListenerState| {
            let counts = self.maps.counts.get(&whole(place), 0).map_err(&read)?;
            Ok(listener_counters(counts.iter(), state))
        };
        let listeners = (0..self.listeners.len())
            .map(|place| listener(place, self.maps.states.get(&whole(place), 0).map_err(&read)?))
            .collect::<Result<_, Error>>()?;
        let strays = listener(self.listeners.len(), ListenerState::default())?;
        Ok(Counters { listeners, strays })
    }

    /// What has been counted of these endpoints, by their ids; one call of the kernel for each. Of an id that no table has named: zeros.
    pub fn endpoint_counters(&self, ids: Range<usize>) -> Result<Vec<EndpointCounters>, Error> {
        let most = self.settings.max_endpoints;
        let ids = (ids.start.min(most)..ids.end.min(most)).map(|id| u32::try_from(id).unwrap_or(u32::MAX));
        let counters = ids.map(|id| {
            let counts = self.maps.endpoint_counts.get(&id, 0).map_err(failed("read counters"))?;
            Ok(endpoint_counters(counts.iter()))
        });
        counters.collect()
    }

    /// Endpoints that ICMP errors come from, from now on. There is one receiver: `None` at the second call.
    pub fn refusals(&mut self) -> Option<Refusals> {
        let map: Map = self.maps.refusals.take()?;
        RingBuf::try_from(map).ok().map(Refusals)
    }
}

fn listener_counters<'a>(processors: impl Iterator<Item = &'a Counts>, state: ListenerState) -> ListenerCounters {
    let mut sum = ListenerCounters { opened: state.opened, active: state.active, ..ListenerCounters::default() };
    for counts in processors {
        sum.to_endpoint += traffic(counts.packets, counts.bytes, 0);
        sum.to_client += traffic(counts.packets, counts.bytes, 1);
        sum.moved += counts.moved;
        sum.by_xdp += counts.by_xdp;
        sum.fallbacks += counts.fallbacks;
        add(&mut sum.icmp, &counts.icmp);
        add(&mut sum.ended, &counts.ended);
        add(&mut sum.drops, &counts.drops);
    }
    sum
}

fn endpoint_counters<'a>(processors: impl Iterator<Item = &'a EndpointCounts>) -> EndpointCounters {
    let mut sum = EndpointCounters::default();
    for counts in processors {
        sum.to_endpoint += traffic(counts.packets, counts.bytes, 0);
        sum.to_client += traffic(counts.packets, counts.bytes, 1);
        sum.opened += counts.opened;
        sum.refused += counts.refused;
    }
    sum
}

fn traffic(packets: [u64; 2], bytes: [u64; 2], direction: usize) -> Traffic {
    Traffic { packets: packets[direction], bytes: bytes[direction] }
}

fn add(sum: &mut [u64], more: &[u64]) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, more: Self) {
        self.packets += more.packets;
        self.bytes += more.bytes;
    }
}
