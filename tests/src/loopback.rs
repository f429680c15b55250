//! Addresses for tests that need no namespace and no root.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};

/// An address in 127.0.0.0/8 that no other test has, so that every port on it is free.
///
/// Asking the kernel for a free port and giving it to a process later is a race between parallel tests; an address of
/// one's own is not. The address follows from the process id and a counter.
pub fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let count = NEXT.fetch_add(1, Ordering::Relaxed) % 250;
    let [_, count] = count.to_be_bytes();
    // 127.0.0.0/10 is left to the host's own services; the last byte is never 0 or 255.
    Ipv4Addr::new(127, 64 + (high & 0x7f), low, count + 1)
}

/// The top of a config for an edge that serves `static_ips`, up to and including `[edge]`, with `edge_keys` as its last lines.
pub fn config_head(static_ips: &[Ipv4Addr], edge_keys: &str) -> String {
    let static_ips: Vec<_> = static_ips.iter().map(|ip| format!("\"{ip}\"")).collect();
    format!(
        "name = \"loopback\"\nstatic_ips = [{}]\nhash_seed = 7\n\
         [edge]\nname = \"here\"\nadmin = \"{}:9900\"\ncontrol = \"{{dir}}/control.sock\"\n{edge_keys}\n",
        static_ips.join(", "),
        own_address(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_gives_another_loopback_address() {
        let (first, second) = (own_address(), own_address());
        assert!(first.is_loopback() && second.is_loopback());
        assert_ne!(first, second);
    }
}
