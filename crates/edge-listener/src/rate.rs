//! How many flows a client may begin in a second: a bucket of tokens for each client, in bounded memory.
//!
//! A bucket is one moment, the theoretical arrival time of the generic cell rate algorithm (ITU-T I.371): it holds as many tokens as
//! flows may begin at once, a second's worth, and is full again once that moment has passed. A full bucket need not be remembered,
//! which is what bounds the table: only clients that began a flow within the last second stand in it.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use dashmap::DashMap;

/// Clients remembered before full buckets are looked for.
const ROOM: usize = 1 << 15;
/// Clients remembered at most: a flood from more addresses than these in one second is for `max_flows` to stop.
const MOST: usize = 1 << 18;
/// Between two searches for full buckets.
const SWEEP: Duration = Duration::from_millis(100);

/// The buckets of one listener, shared by its workers.
#[derive(Debug)]
pub(crate) struct NewFlows {
    /// Between two tokens.
    gap: Duration,
    /// How far ahead of now a bucket's moment may be: a bucket's worth of tokens.
    burst: Duration,
    full_at: DashMap<IpAddr, Instant>,
    clients: AtomicUsize,
    swept: Mutex<Option<Instant>>,
}

impl NewFlows {
    /// `per_second` new flows of one client, and as many at once.
    pub fn new(per_second: NonZeroU32) -> Self {
        let gap = Duration::from_secs(1) / per_second.get();
        let (full_at, clients, swept) = (DashMap::new(), AtomicUsize::new(0), Mutex::new(None));
        Self { gap, burst: gap * (per_second.get() - 1), full_at, clients, swept }
    }

    /// Whether `client` may begin a flow at `now`; takes the token if so.
    pub fn admit(&self, client: IpAddr, now: Instant) -> bool {
        if let Some(mut full_at) = self.full_at.get_mut(&client) {
            let moment = (*full_at).max(now);
            let admitted = moment <= now + self.burst;
            if admitted {
                *full_at = moment + self.gap;
            }
            return admitted;
        }
        let clients = self.clients.load(Ordering::Relaxed);
        if clients >= ROOM {
            self.sweep(now);
        }
        if clients < MOST && self.full_at.insert(client, now + self.gap).is_none() {
            self.clients.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// Forgets the buckets that are full at `now`.
    fn sweep(&self, now: Instant) {
        {
            let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
            if swept.is_some_and(|swept| now < swept + SWEEP) {
                return;
            }
            *swept = Some(now);
        }
        let mut forgotten = 0;
        self.full_at.retain(|_, full_at| {
            let keep = *full_at > now;
            forgotten += usize::from(!keep);
            keep
        });
        self.clients.fetch_sub(forgotten, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn client(number: u32) -> IpAddr {
        number.to_be_bytes().into()
    }

    #[test]
    fn a_second_s_worth_at_once_and_then_at_the_rate() {
        let (flows, now) = (NewFlows::new(NonZeroU32::new(10).unwrap()), start());
        let admitted = |at: Instant, tries: usize| (0..tries).filter(|_| flows.admit(client(1), at)).count();
        assert_eq!(admitted(now, 25), 10);
        assert_eq!(admitted(now + Duration::from_millis(99), 5), 0);
        assert_eq!(admitted(now + Duration::from_millis(100), 5), 1);
        assert_eq!(admitted(now + Duration::from_millis(350), 5), 2);
        assert_eq!(admitted(now + Duration::from_secs(60), 25), 10);
        assert!(flows.admit(client(2), now), "another's bucket is its own");
    }

    #[test]
    fn over_any_time_no_more_than_the_rate_and_one_burst() {
        let mut rng = fastrand::Rng::with_seed(3);
        for rate in [1, 7, 100, 5_000] {
            let (flows, start) = (NewFlows::new(NonZeroU32::new(rate).unwrap()), start());
            let (mut at, mut admitted) = (Duration::ZERO, 0u32);
            while at < Duration::from_secs(3) {
                at += Duration::from_micros(rng.u64(0..2_000_000) / u64::from(rate));
                admitted += u32::from(flows.admit(client(1), start + at));
            }
            let most = rate + u32::try_from(at.as_nanos() * u128::from(rate) / 1_000_000_000).unwrap() + 1;
            assert!(admitted <= most && admitted > most / 4, "{admitted} of {most} at {rate} a second");
        }
    }

    #[test]
    fn a_flood_of_addresses_is_forgotten_within_a_second() {
        let (flows, start) = (NewFlows::new(NonZeroU32::new(100).unwrap()), start());
        // 20,000 addresses a second for 50 seconds, each a new one.
        for number in 0..1_000_000u32 {
            flows.admit(client(number), start + Duration::from_micros(50) * number);
        }
        let remembered = flows.full_at.len();
        assert!(remembered <= ROOM + 4_000, "{remembered}");
        assert_eq!(flows.clients.load(Ordering::Relaxed), remembered);
    }

    #[test]
    fn memory_is_bounded_even_without_time() {
        let (flows, now) = (NewFlows::new(NonZeroU32::MIN), start());
        for number in 0..u32::try_from(MOST).unwrap() + 10_000 {
            assert!(flows.admit(client(number), now), "whom there is no room for is served");
        }
        assert_eq!(flows.full_at.len(), MOST);
        assert!(!flows.admit(client(1), now), "whom there was room for is counted");
    }
}
