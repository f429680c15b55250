//! What cannot be set up is said with its cure, before the kernel is asked.

#![cfg(all(target_os = "linux", feature = "kernel"))]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use common::tables::{ips, listener, settings};
use fast_path::{FastPath, Settings, Unavailable};

fn refusal(change: impl FnOnce(&mut Settings)) -> String {
    let mut settings = settings(vec![listener(0, 7000)]);
    change(&mut settings);
    match FastPath::load(settings) {
        Err(Unavailable::Settings(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    #[allow(clippy::reversed_empty_ranges, reason = "what an operator may write")]
    let reversed = 60_000..=50_000;
    for (reason, expected) in [
        (refusal(|s| s.nat.ports = reversed), "nat_ports 60000..=50000 is no range of ports"),
        (refusal(|s| s.nat.addresses = ips(&["198.18.2.1"])), "a static IP is IPv6, but no NAT address is"),
        (refusal(|s| s.nat.addresses = ips(&["fd18:2::1"])), "a static IP is IPv4, but no NAT address is"),
        (refusal(|s| s.nat.addresses.extend(ips(&["fd18:2::1"]))), "a NAT address is named twice"),
        (refusal(|s| s.nat.addresses = ips(&["198.18.2.1"; 65])), "65 NAT addresses are more than 64"),
        (
            refusal(|s| {
                s.nat.addresses.extend(ips(&["198.18.0.1"]));
                s.nat.ports = 6000..=8000;
            }),
            "port 7000 of 198.18.0.1 is both a listener's and a NAT port",
        ),
    ] {
        assert!(reason.starts_with(expected) && reason.contains(':'), "{reason}");
    }
}

#[test]
fn the_pool_s_capacity_counts_addresses_of_one_family() {
    let nat = settings(Vec::new()).nat;
    assert_eq!((nat.capacity(false), nat.capacity(true)), (20_000, 20_000));
}
