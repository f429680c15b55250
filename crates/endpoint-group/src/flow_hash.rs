//! A flow becomes a number: the frozen flow hash, and the slot it falls into.
//!
//! SipHash-1-3 (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012; the 1-3 variant of Rust's own maps) under the key
//! (`hash_seed`, [`KEY_TAIL`]). Every edge and every version must compute the same value: `tests/golden.rs` holds vectors.

use std::{
    fmt,
    hash::Hasher,
    net::{IpAddr, SocketAddr},
};

use siphasher::sip::SipHasher13;

/// The second half of the key: "landfall" in ASCII.
pub const KEY_TAIL: u64 = 0x6c61_6e64_6661_6c6c;

/// Slots of a routing table.
pub const SLOTS: usize = 1 << 16;

/// Transport protocol of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The IANA protocol number, as hashed.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// `tcp` or `udp`: the metric label and the word in the config.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which parts of a flow decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Affinity {
    /// The whole 5-tuple.
    #[default]
    None,
    /// The client's address alone: every flow of a client, to either static IP, meets the same endpoint.
    SourceIp,
}

/// The 5-tuple of a flow as the client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The static IP and port that the client addressed.
    pub to: SocketAddr,
}

/// A slot of the routing table: the flow hash's top 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

impl Slot {
    /// The slot of a flow hash.
    pub const fn of(hash: u64) -> Self {
        Self((hash >> 48) as u16)
    }

    /// Its index into a table.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// All slots in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u16::MAX).map(Self)
    }
}

/// Hashes flows under one accelerator's seed.
#[derive(Debug, Clone, Copy)]
pub struct FlowHasher {
    seed: u64,
}

impl FlowHasher {
    /// A hasher for `hash_seed`.
    pub const fn new(hash_seed: u64) -> Self {
        Self { seed: hash_seed }
    }

    /// The 64-bit flow hash.
    ///
    /// Input for [`Affinity::None`], 37 bytes: protocol number, client address (16 bytes, IPv4 mapped), client port (big-endian),
    /// static IP (16 bytes), static port (big-endian). For [`Affinity::SourceIp`] the 16 client bytes alone.
    pub fn hash(&self, flow: &FlowKey, affinity: Affinity) -> u64 {
        let client = address_bytes(flow.client.ip());
        let mut hasher = SipHasher13::new_with_keys(self.seed, KEY_TAIL);
        match affinity {
            Affinity::SourceIp => hasher.write(&client),
            Affinity::None => {
                let mut input = [0u8; 37];
                input[0] = flow.protocol.number();
                input[1..17].copy_from_slice(&client);
                input[17..19].copy_from_slice(&flow.client.port().to_be_bytes());
                input[19..35].copy_from_slice(&address_bytes(flow.to.ip()));
                input[35..37].copy_from_slice(&flow.to.port().to_be_bytes());
                hasher.write(&input);
            }
        }
        hasher.finish()
    }

    /// Names all that decides a flow besides its addresses: this seed, the affinity and the table that `answers` is the digest of.
    /// Equal on two edges exactly when they place every flow alike.
    pub fn digest(&self, affinity: Affinity, answers: u64) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.seed, KEY_TAIL);
        hasher.write(match affinity {
            Affinity::None => b"none",
            Affinity::SourceIp => b"source_ip",
        });
        hasher.write(&answers.to_le_bytes());
        hasher.finish()
    }

    /// The slot of a flow.
    pub fn slot(&self, flow: &FlowKey, affinity: Affinity) -> Slot {
        Slot::of(self.hash(flow, affinity))
    }
}

fn address_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(client: &str, to: &str) -> FlowKey {
        FlowKey { protocol: Protocol::Udp, client: client.parse().unwrap(), to: to.parse().unwrap() }
    }

    #[test]
    fn source_ip_ignores_everything_but_the_client_address() {
        let hasher = FlowHasher::new(7);
        let a = flow("203.0.113.9:5555", "198.18.0.1:7000");
        let mut b = flow("203.0.113.9:6666", "198.18.0.2:7100");
        b.protocol = Protocol::Tcp;
        assert_eq!(hasher.hash(&a, Affinity::SourceIp), hasher.hash(&b, Affinity::SourceIp));
        assert_ne!(hasher.hash(&a, Affinity::None), hasher.hash(&b, Affinity::None));
    }

    #[test]
    fn every_field_of_the_five_tuple_counts() {
        let hasher = FlowHasher::new(7);
        let base = flow("203.0.113.9:5555", "198.18.0.1:7000");
        let mut tcp = base;
        tcp.protocol = Protocol::Tcp;
        let others = [
            tcp,
            flow("203.0.113.8:5555", "198.18.0.1:7000"),
            flow("203.0.113.9:5556", "198.18.0.1:7000"),
            flow("203.0.113.9:5555", "198.18.0.2:7000"),
            flow("203.0.113.9:5555", "198.18.0.1:7001"),
        ];
        for other in others {
            assert_ne!(hasher.hash(&base, Affinity::None), hasher.hash(&other, Affinity::None), "{other:?}");
        }
        assert_ne!(FlowHasher::new(8).hash(&base, Affinity::None), hasher.hash(&base, Affinity::None));
    }
}
