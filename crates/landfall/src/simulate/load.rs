//! Made-up flows, by listener and slot.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use endpoint_group::{FlowHasher, FlowKey, Protocol, SLOTS};
use fastrand::Rng;

use crate::config::{Config, Listener};

/// Flows spread evenly over listeners, and within each over its protocols, static IPs and ports; clients are random.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    flows: u64,
    seed: u64,
    /// By listener, the flows of each slot.
    slots: Vec<Vec<u64>>,
}

/// What a listener is addressed by.
struct Addressed {
    protocols: Vec<Protocol>,
    ports: Vec<u16>,
}

impl Addressed {
    fn new(listener: &Listener) -> Self {
        Self { protocols: listener.settings.protocols().collect(), ports: listener.settings.all_ports().collect() }
    }
}

impl Load {
    /// Draws flows to the listeners of `config`; the same for the same seed.
    pub fn new(config: &Config, flows: u64, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let hasher = FlowHasher::new(config.hash_seed);
        let listeners: Vec<Addressed> = config.listeners.iter().map(Addressed::new).collect();
        let mut slots = vec![vec![0; SLOTS]; listeners.len()];
        for _ in 0..flows {
            let index = rng.usize(..listeners.len());
            let flow = draw(&mut rng, &listeners[index], &config.static_ips);
            slots[index][hasher.slot(&flow, config.listeners[index].settings.affinity).index()] += 1;
        }
        Self { flows, seed, slots }
    }

    /// How many flows.
    pub fn flows(&self) -> u64 {
        self.flows
    }

    /// What they were drawn from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// By listener in the order of the config, the flows of each slot.
    pub fn by_listener(&self) -> impl Iterator<Item = &[u64]> {
        self.slots.iter().map(Vec::as_slice)
    }
}

fn draw(rng: &mut Rng, listener: &Addressed, static_ips: &[IpAddr]) -> FlowKey {
    let protocol = listener.protocols[rng.usize(..listener.protocols.len())];
    let ip = static_ips[rng.usize(..static_ips.len())];
    let to = SocketAddr::new(ip, listener.ports[rng.usize(..listener.ports.len())]);
    let client = match ip {
        IpAddr::V4(_) => IpAddr::V4(client_v4(rng)),
        IpAddr::V6(_) => IpAddr::V6(client_v6(rng)),
    };
    FlowKey { protocol, client: SocketAddr::new(client, rng.u16(1024..)), to }
}

/// Any unicast address but loopback.
fn client_v4(rng: &mut Rng) -> Ipv4Addr {
    loop {
        let ip = Ipv4Addr::from_bits(rng.u32(0x0100_0000..0xe000_0000));
        if !ip.is_loopback() {
            return ip;
        }
    }
}

/// Any address of 2000::/3, where all global ones are.
fn client_v6(rng: &mut Rng) -> Ipv6Addr {
    Ipv6Addr::from_bits(rng.u128(..) >> 3 | 1 << 125)
}
