//! A network namespace of the test's own: an edge between clients and endpoints, with the neighbours it would know.

use std::{ffi::CString, process::Command};

use super::{
    frame::Mac,
    hosts::{ip, run},
};

pub const CLIENT_SIDE: Mac = [2, 0, 0, 0, 1, 1];
pub const GATEWAY: Mac = [2, 0, 0, 0, 1, 2];
pub const SERVER_SIDE: Mac = [2, 0, 0, 0, 2, 1];
pub const ENDPOINTS: [Mac; 2] = [[2, 0, 0, 0, 2, 2], [2, 0, 0, 0, 2, 3]];
pub const CLOSED: Mac = [2, 0, 0, 0, 3, 1];
pub const STRICT: Mac = [2, 0, 0, 0, 4, 1];
pub const LOOSE: Mac = [2, 0, 0, 0, 5, 1];

/// Moves this thread into a namespace of its own and sets it up:
///
/// | device | addresses | behind it |
/// |---|---|---|
/// | `client` | 198.18.1.1, fd18:1::1 | a gateway (`.2`) to the clients 198.18.64.0/18, fd18:64::/48 |
/// | `server` | 198.18.2.1, fd18:2::1 | endpoints `.2` and `.3`; `.4` is on the link, but its neighbour entry is not there |
/// | `closed` | none | nothing: the host does not forward there |
/// | `strict` | 198.18.3.1 | as its `rp_filter` is 1, the link alone, and 198.18.68.0/24, which is behind `loose`, too |
/// | `loose` | 198.18.4.1 | as its `rp_filter` is 2, all that there is a route to: not 198.18.69.0/24, where there is none by order |
pub fn enter() {
    // SAFETY: a system call without arguments in memory; only this thread changes its namespace.
    let entered = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(entered, 0, "cannot make a network namespace: {}; run this as root", std::io::Error::last_os_error());
    let commands = "
        link set lo up
        link add client type veth peer name client-far
        link add server type veth peer name server-far
        link add closed type veth peer name closed-far
        link add strict type veth peer name strict-far
        link add loose type veth peer name loose-far
        link set client address 02:00:00:00:01:01
        link set server address 02:00:00:00:02:01
        link set closed address 02:00:00:00:03:01
        link set strict address 02:00:00:00:04:01
        link set loose address 02:00:00:00:05:01
        link set client up
        link set client-far up
        link set server up
        link set server-far up
        link set closed up
        link set closed-far up
        link set strict up
        link set strict-far up
        link set loose up
        link set loose-far up
        address add 198.18.0.1/32 dev lo
        address add fd18::1/128 dev lo nodad
        address add 198.18.1.1/24 dev client
        address add fd18:1::1/64 dev client nodad
        address add 198.18.2.1/24 dev server
        address add fd18:2::1/64 dev server nodad
        address add 198.18.3.1/24 dev strict
        address add 198.18.4.1/24 dev loose
        neighbour add 198.18.1.2 lladdr 02:00:00:00:01:02 dev client nud permanent
        neighbour add fd18:1::2 lladdr 02:00:00:00:01:02 dev client nud permanent
        neighbour add 198.18.2.2 lladdr 02:00:00:00:02:02 dev server nud permanent
        neighbour add fd18:2::2 lladdr 02:00:00:00:02:02 dev server nud permanent
        neighbour add 198.18.2.3 lladdr 02:00:00:00:02:03 dev server nud permanent
        neighbour add fd18:2::3 lladdr 02:00:00:00:02:03 dev server nud permanent
        route add 198.18.64.0/18 via 198.18.1.2
        route add 198.18.68.0/24 nexthop via 198.18.4.2 dev loose nexthop via 198.18.3.2 dev strict
        route add blackhole 198.18.69.0/24
        route add fd18:64::/48 via fd18:1::2";
    for command in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
        ip(command);
    }
    // A new namespace takes those of all from the host.
    for (device, filter) in [("all", "0"), ("client", "0"), ("server", "0"), ("closed", "0"), ("strict", "1"), ("loose", "2")] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"), filter).unwrap();
    }
    for family in ["ipv4", "ipv6"] {
        for (device, forwards) in [("all", "1"), ("client", "1"), ("server", "1"), ("closed", "0")] {
            std::fs::write(format!("/proc/sys/net/{family}/conf/{device}/forwarding"), forwards).unwrap();
        }
    }
}

pub fn ethtool(arguments: &str) {
    let output = run(Command::new("ethtool").args(arguments.split(' ')));
    assert!(output.status.success(), "ethtool {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The number of a device of this namespace.
pub fn number(device: &str) -> u32 {
    let name = CString::new(device).unwrap();
    // SAFETY: a C string that outlives the call.
    let number = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(number, 0, "no device {device}");
    number
}
