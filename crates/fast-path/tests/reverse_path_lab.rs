//! The program asks for the way back where the host's `rp_filter` does, as that is set while it runs.

#![cfg(all(target_os = "linux", feature = "kernel"))]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::cell::Cell;

use common::{
    frame::Datagram,
    hosts::ip,
    tables::{at, endpoint, ips, listener, listener_table, routing_table, settings},
    world::{self, CLIENT_SIDE, GATEWAY},
};
use fast_path::{DropReason, FastPath, test_support};

/// Behind the gateway, on the endpoints' side, and nowhere.
const BEHIND: &str = "198.18.64.9";
const ELSEWHERE: &str = "198.18.2.9";
const NOWHERE: &str = "192.0.2.9";

struct Scene {
    fast_path: FastPath,
    port: Cell<u16>,
}

impl Scene {
    fn new() -> Self {
        world::enter();
        let mut settings = settings(vec![listener(0, 7000)]);
        settings.static_ips = ips(&["198.18.0.1"]);
        settings.nat.addresses = ips(&["198.18.2.1"]);
        let mut fast_path = FastPath::load(settings).unwrap();
        let endpoints = vec![endpoint(0, "198.18.2.2", None, &[])];
        fast_path.publish(&routing_table(endpoints, vec![listener_table(&[0])])).unwrap();
        Self { fast_path, port: Cell::new(5000) }
    }

    fn set(&self, setting: &str, value: u8) {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{setting}"), value.to_string()).unwrap();
        self.heard();
    }

    fn ip(&self, command: &str) {
        ip(command);
        self.heard();
    }

    /// What the kernel has given notice of is taken in.
    fn heard(&self) {
        test_support::epoch(&self.fast_path).unwrap();
    }

    /// Whether a new flow of `client` may come by `device`.
    fn passes(&self, device: &str, client: &str) -> bool {
        self.port.set(self.port.get() + 1);
        let from = at(&format!("{client}:{}", self.port.get()));
        let datagram = Datagram { macs: (GATEWAY, CLIENT_SIDE), ..Datagram::new(from, at("198.18.0.1:7000")) };
        let before = self.refused();
        test_support::run(&self.fast_path, &datagram.frame(), world::number(device), 1).unwrap();
        let opened = self.fast_path.flow(from, at("198.18.0.1:7000")).unwrap().is_some();
        assert_eq!(self.refused() - before, u64::from(!opened), "{client} at {device}");
        opened
    }

    /// Whether clients may come by the device `client` from behind it, from elsewhere, and from nowhere.
    fn pass(&self) -> [bool; 3] {
        [BEHIND, ELSEWHERE, NOWHERE].map(|client| self.passes("client", client))
    }

    fn refused(&self) -> u64 {
        self.fast_path.counters().unwrap().listeners[0].dropped(DropReason::ReversePath)
    }
}

const ALL: [bool; 3] = [true; 3];
const STRICT: [bool; 3] = [true, false, false];
const LOOSE: [bool; 3] = [true, true, false];

#[test]
fn the_larger_of_both_settings_is_in_force_at_once() {
    let scene = Scene::new();
    assert_eq!(scene.pass(), ALL);
    for (all, device, expected) in
        [(0, 1, STRICT), (0, 2, LOOSE), (1, 0, STRICT), (1, 1, STRICT), (1, 2, LOOSE), (2, 1, LOOSE), (2, 0, LOOSE), (0, 0, ALL)]
    {
        scene.set("all/rp_filter", all);
        scene.set("client/rp_filter", device);
        assert_eq!(scene.pass(), expected, "all {all}, device {device}");
    }
}

#[test]
fn routes_that_change_change_the_way_back() {
    let scene = Scene::new();
    scene.set("client/rp_filter", 1);
    scene.ip("route add default via 198.18.1.2");
    assert_eq!(scene.pass(), [true, false, true]);
    scene.ip("route replace 198.18.64.0/18 via 198.18.2.3");
    assert_eq!(scene.pass(), [false, false, true]);
}

#[test]
fn devices_of_one_multipath_route_count_as_one_whenever_it_comes() {
    let scene = Scene::new();
    scene.set("client/rp_filter", 1);
    scene.ip("route add 198.18.70.0/24 nexthop via 198.18.2.3 dev server weight 9 nexthop via 198.18.1.2 dev client");
    for host in 1..33 {
        assert!(scene.passes("client", &format!("198.18.70.{host}")), "{host}");
    }
    assert!(!scene.passes("client", "198.18.4.9"), "behind a third");

    scene.ip("nexthop add id 1 via 198.18.4.2 dev loose");
    scene.ip("nexthop add id 2 via 198.18.1.2 dev client");
    scene.ip("nexthop add id 3 group 1/2");
    scene.ip("route add 198.18.71.0/24 nhid 3");
    for host in 1..33 {
        assert!(scene.passes("client", &format!("198.18.71.{host}")), "{host}");
    }
    // Such routes name no devices any more, so nobody can be strict.
    std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", "0").unwrap();
    scene.set("client/rp_filter", 0);
    scene.set("client/rp_filter", 1);
    assert_eq!(scene.pass(), LOOSE);
}

#[test]
fn a_port_of_a_bridge_is_asked_as_the_bridge() {
    let scene = Scene::new();
    scene.ip("link add bridge type bridge");
    scene.ip("link set bridge up");
    scene.ip("address del 198.18.1.1/24 dev client");
    scene.ip("link set client master bridge");
    scene.ip("address add 198.18.1.1/24 dev bridge");
    scene.ip("route add 198.18.64.0/18 via 198.18.1.2");
    scene.set("client/rp_filter", 1);
    scene.set("bridge/rp_filter", 0);
    assert_eq!(scene.pass(), ALL);
    scene.set("bridge/rp_filter", 1);
    assert_eq!(scene.pass(), STRICT);
    scene.ip("link set client nomaster");
    assert_eq!(scene.pass(), [false; 3]);
}

#[test]
fn the_way_back_is_the_host_s_own_not_that_of_what_it_forwards() {
    let scene = Scene::new();
    scene.set("client/rp_filter", 1);
    scene.ip("rule add iif client lookup 7");
    scene.ip("route add default via 198.18.2.3 table 7");
    assert_eq!(scene.pass(), STRICT);
    // A host that does not forward at loopback cannot be asked there; then at the device.
    scene.set("lo/forwarding", 0);
    assert_eq!(scene.pass(), [false; 3]);
    scene.ip("rule del iif client lookup 7");
    assert_eq!(scene.pass(), STRICT);
}

/// A device that comes later has what is set for those to come.
#[test]
fn a_new_device_is_asked_as_it_is_set() {
    let scene = Scene::new();
    scene.set("default/rp_filter", 2);
    scene.ip("link add late address 02:00:00:00:01:01 type veth peer name late-far");
    scene.set("late/forwarding", 1);
    scene.ip("link set late up");
    assert!(scene.passes("late", BEHIND) && !scene.passes("late", NOWHERE));
    scene.set("late/rp_filter", 0);
    assert!(scene.passes("late", NOWHERE));
}
