//! The structures of `bpf/layout.h`, field by field. Loading compares their sizes with those of the maps.

use std::net::{IpAddr, Ipv6Addr};

use crate::{DropReason, EndReason};

/// Slots or endpoint ids in a table.
const SLOTS: usize = 1 << 16;
/// An empty slot.
pub(super) const NO_ENDPOINT: u16 = u16::MAX;
/// Not a NAT address.
pub(super) const NO_NAT: u16 = u16::MAX;

pub(super) const LISTENER_SOURCE_IP: u32 = 1;
pub(super) const LISTENER_KEEP: u32 = 2;
pub(super) const LISTENER_CARRY_DSCP: u32 = 4;
pub(super) const LISTENER_DRAINING: u32 = 8;
pub(super) const LISTENER_TRANSPARENT: u32 = 16;

pub(super) const LISTS_ALLOW: u32 = 1 << 28;
pub(super) const LISTS_ALLOW_HOSTS: u32 = 1 << 29;
pub(super) const LISTS_DENY: u32 = 1 << 30;
pub(super) const LISTS_DENY_HOSTS: u32 = 1 << 31;

pub(super) const DEVICE_SENDS: u16 = 1;
pub(super) const DEVICE_TAKEN: u16 = 2;
/// Indices of devices that XDP can tell apart: `max_entries` of `xdp_devices`.
pub(super) const DEVICES: u32 = 1 << 16;

/// The logarithm of `max_entries` of `own_addresses`.
pub(super) const OWN_BITS: u32 = 12;
/// `max_entries` of `denied_lines`.
pub(super) const DENIED_LINES: u32 = 1 << 14;
pub(super) const HOSTS_IN_LINE: usize = 16;

pub(super) const RP_FILTER_STRICT: u32 = 1;
pub(super) const RP_FILTER_LOOSE: u32 = 2;

pub(super) const ENDPOINT_KNOWN: u16 = 1;
pub(super) const ENDPOINT_V6: u16 = 2;
pub(super) const ENDPOINT_OVERRIDES: u16 = 4;

/// An IPv6 address, or an IPv4 address mapped.
pub(super) type Address = [u8; 16];

pub(super) fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

pub(super) fn ip(address: Address) -> IpAddr {
    Ipv6Addr::from(address).to_canonical()
}

/// Marks structures that any bytes are a value of, and that the kernel may be handed byte by byte.
macro_rules! shared {
    ($($(#[$meta:meta])* struct $name:ident { $($field:ident: $type:ty,)* })*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, Copy)]
            #[repr(C)]
            pub(crate) struct $name { $(pub $field: $type,)* }

            // SAFETY: `repr(C)`, integers and arrays of them only; the fields fill the structure without padding, as `sizes` tests.
            unsafe impl aya::Pod for $name {}
        )*
    };
}

shared! {
    struct Ports {
        listener: [u16; SLOTS],
    }

    struct Table {
        slot: [u16; SLOTS],
        leaving: [u64; SLOTS / 64],
        ending: [u64; SLOTS / 64],
    }

    #[derive(Default)]
    struct Listener {
        table: u32,
        flags: u32,
        lists: u64,
        max_flows: u32,
        max_flows_per_client: u32,
        ring_start: u32,
        ring_mask: u32,
        gap: u64,
        burst: u64,
    }

    #[derive(Default)]
    struct ListenerState {
        active: u64,
        opened: u64,
        oldest: u64,
    }

    #[derive(Default, PartialEq)]
    struct Endpoint {
        address: Address,
        port: u16,
        flags: u16,
        zero: u32,
    }

    #[derive(PartialEq, Eq, Hash)]
    struct OverrideKey {
        endpoint: u16,
        listener_port: u16,
    }

    #[derive(PartialEq, Eq)]
    struct Device {
        mac: [u8; 6],
        flags: u16,
    }

    #[derive(PartialEq, Eq)]
    struct ReversePath {
        filter: u32,
        from: u32,
        group: u32,
    }

    struct OwnAddress {
        vip: u16,
        nat: u16,
    }

    struct OwnSlot {
        address: Address,
        own: OwnAddress,
        taken: u32,
    }

    #[derive(Default)]
    struct HostLine {
        host: [u32; HOSTS_IN_LINE],
    }

    #[derive(PartialEq)]
    struct FlowKey {
        client: Address,
        vip: Address,
        client_port: u16,
        vip_port: u16,
        protocol: u8,
        zero: [u8; 3],
    }

    struct FlowRef {
        index: u32,
        generation: u32,
    }

    struct AccessKey {
        version: u32,
        v6: u32,
        client: Address,
    }

    struct HostKey {
        client: Address,
        version: u32,
        zero: u32,
    }

    #[derive(Default)]
    struct Counts {
        packets: [u64; 2],
        bytes: [u64; 2],
        opened: u64,
        moved: u64,
        fallbacks: u64,
        icmp: [u64; 2],
        ended: [u64; EndReason::COUNT],
        drops: [u64; DropReason::COUNT],
        by_xdp: u64,
    }

    #[derive(Default)]
    struct EndpointCounts {
        packets: [u64; 2],
        bytes: [u64; 2],
        opened: u64,
        refused: u64,
    }
}

#[cfg(test)]
mod tests {
    use std::mem::size_of;

    use super::*;

    #[test]
    fn nothing_is_padded() {
        assert_eq!(size_of::<Table>(), SLOTS * 2 + SLOTS / 4);
        assert_eq!(size_of::<Listener>(), 6 * 4 + 3 * 8);
        assert_eq!(size_of::<OwnSlot>(), 24);
        assert_eq!(size_of::<Endpoint>(), 24);
        assert_eq!(size_of::<FlowKey>(), 40);
        assert_eq!(size_of::<AccessKey>(), 24);
        assert_eq!(size_of::<HostKey>(), 24);
        assert_eq!(size_of::<Counts>(), 8 * (10 + EndReason::COUNT + DropReason::COUNT));
    }

    #[test]
    fn addresses_come_back() {
        for text in ["198.18.0.1", "2001:db8::1"] {
            assert_eq!(ip(address(text.parse().unwrap())), text.parse::<IpAddr>().unwrap());
        }
    }
}
