//! The edge's addresses as the program looks them up: each in a slot of its own, which its bits and two numbers give. The numbers are tried
//! until no two addresses meet.

use std::{collections::HashMap, net::IpAddr};

use super::{
    keys::split_mix,
    layout::{self, Address, NO_NAT, OWN_BITS, OwnAddress, OwnSlot},
    load::in_order,
};
use crate::Settings;

/// Of a hundred addresses, three out of ten tries succeed.
const TRIES: usize = 1000;

/// What goes into the map `own_addresses`, and the program's `own_keys`.
pub(super) struct OwnAddresses {
    pub keys: [u64; 2],
    pub slots: Vec<(u32, OwnSlot)>,
}

impl OwnAddresses {
    /// `None` if there are too many addresses.
    pub fn of(settings: &Settings) -> Option<Self> {
        Self::new(what_they_are(settings), settings.hash_seed)
    }

    fn new(own: HashMap<IpAddr, OwnAddress>, mut seed: u64) -> Option<Self> {
        (0..TRIES).find_map(|_| {
            let keys = [split_mix(&mut seed), split_mix(&mut seed)];
            let slots: HashMap<_, _> = own.iter().map(|(&ip, &own)| entry(ip, own, keys)).collect();
            (slots.len() == own.len()).then(|| Self { keys, slots: slots.into_iter().collect() })
        })
    }
}

fn what_they_are(settings: &Settings) -> HashMap<IpAddr, OwnAddress> {
    let static_ip = |&ip: &IpAddr| (ip, OwnAddress { vip: 1, nat: NO_NAT });
    let mut own: HashMap<_, _> = settings.static_ips.iter().map(static_ip).collect();
    for (number, &ip) in (0u16..).zip(&in_order(&settings.nat)) {
        own.entry(ip).or_insert(OwnAddress { vip: 0, nat: NO_NAT }).nat = number;
    }
    own
}

fn entry(ip: IpAddr, own: OwnAddress, keys: [u64; 2]) -> (u32, OwnSlot) {
    let address = layout::address(ip);
    (slot_of(address, keys), OwnSlot { address, own, taken: 1 })
}

/// The program's `own_of`.
fn slot_of(address: Address, keys: [u64; 2]) -> u32 {
    let address = u128::from_le_bytes(address);
    // The halves of an address are its bits.
    #[allow(clippy::cast_possible_truncation)]
    let halves = [address as u64, (address >> 64) as u64];
    let hash = halves[0].wrapping_mul(keys[0]).wrapping_add(halves[1].wrapping_mul(keys[1]));
    u32::try_from(hash >> (64 - OWN_BITS)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn addresses_never_share_a_slot() {
        for seed in 0..20 {
            let ips = (0..100_u32).map(|number| match number % 3 {
                0 => IpAddr::from(u128::from(number).to_be_bytes()),
                1 => IpAddr::from((0x2001_0db8_u128 << 96 | u128::from(number) << 64).to_be_bytes()),
                _ => Ipv4Addr::from_bits(0xc612_0000 + number).into(),
            });
            let ips: Vec<_> = ips.collect();
            let own = OwnAddresses::new(ips.iter().map(|&ip| (ip, OwnAddress { vip: 1, nat: NO_NAT })).collect(), seed).unwrap();
            for ip in ips {
                let address = layout::address(ip);
                let slot = slot_of(address, own.keys);
                assert_eq!(own.slots.iter().filter(|(at, own)| *at == slot && own.address == address).count(), 1, "{ip}, {seed}");
            }
            assert_eq!(own.slots.len(), 100);
        }
    }

    #[test]
    fn too_many_addresses_are_refused() {
        let own = (0..5000_u32).map(|number| (Ipv4Addr::from_bits(number).into(), OwnAddress { vip: 1, nat: NO_NAT }));
        assert!(OwnAddresses::new(own.collect(), 1).is_none());
    }
}
