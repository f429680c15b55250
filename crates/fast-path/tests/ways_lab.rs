//! The way out that a flow remembers falls with whatever it depends on, and is never another's.

#![cfg(all(target_os = "linux", feature = "kernel"))]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::time::Duration;

use common::{
    frame::{Datagram, Mac},
    hosts::ip,
    tables::{at, endpoint, id, ips, listener, listener_table, routing_table, settings},
    world::{self, CLIENT_SIDE, ENDPOINTS, GATEWAY, SERVER_SIDE},
};
use endpoint_group::table::TableEndpoint;
use fast_path::{DropReason, FastPath, clock, test_support};

/// For what happens at once, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(10);
const VIP: &str = "198.18.0.1:7000";
const CLIENT: &str = "198.18.64.9:5000";
const REDIRECTED: i32 = 7;
const DROPPED: i32 = 2;
const OTHER_MAC: Mac = [2, 0, 0, 0, 9, 9];

/// One listener with `ports` NAT ports; its flows go to the endpoint `to`.
fn load(ports: u16, to: usize) -> FastPath {
    world::enter();
    let mut settings = settings(vec![listener(0, 7000)]);
    settings.static_ips = ips(&["198.18.0.1"]);
    settings.nat.addresses = ips(&["198.18.2.1"]);
    settings.nat.ports = 40_000..=39_999 + ports;
    let mut fast_path = FastPath::load(settings).unwrap();
    fast_path.publish(&routing_table(endpoints(), vec![listener_table(&[to])])).unwrap();
    fast_path
}

/// The last is on the link without a neighbour entry.
fn endpoints() -> Vec<TableEndpoint> {
    ["198.18.2.2", "198.18.2.3", "198.18.2.4"].iter().enumerate().map(|(index, ip)| endpoint(index, ip, None, &[])).collect()
}

fn from_client(client: &str) -> Datagram {
    Datagram { macs: (GATEWAY, CLIENT_SIDE), ..Datagram::new(at(client), at(VIP)) }
}

/// The answer to a client's flow.
fn from_endpoint(fast_path: &FastPath, client: &str) -> Datagram {
    let flow = fast_path.flow(at(client), at(VIP)).unwrap().unwrap();
    Datagram { macs: (ENDPOINTS[0], SERVER_SIDE), ..Datagram::new(at("198.18.2.2:7000"), flow.nat) }
}

/// Puts it through the program; its action, and the Ethernet addresses that it leaves with, destination first.
fn send_at(fast_path: &FastPath, device: u32, datagram: &Datagram) -> (i32, Mac, Mac) {
    let verdict = test_support::run(fast_path, &datagram.frame(), device, 1).unwrap();
    (verdict.action, verdict.frame[..6].try_into().unwrap(), verdict.frame[6..12].try_into().unwrap())
}

fn send(fast_path: &FastPath, datagram: &Datagram) -> (i32, Mac, Mac) {
    let device = if datagram.macs.1 == SERVER_SIDE { "server" } else { "client" };
    send_at(fast_path, world::number(device), datagram)
}

/// Makes the change, of which the kernel must have told.
fn change(fast_path: &FastPath, command: &str) {
    let before = test_support::epoch(fast_path).unwrap();
    match command.strip_prefix("sysctl ") {
        Some(setting) => {
            let (name, value) = setting.split_once('=').unwrap();
            std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
        }
        None => ip(command),
    }
    assert_ne!(test_support::epoch(fast_path).unwrap(), before, "no notice of: {command}");
}

/// A flow with both of its ways known, unless a second begins meanwhile.
fn converse(fast_path: &FastPath) -> (Datagram, Datagram) {
    let question = from_client(CLIENT);
    send(fast_path, &question);
    let answer = from_endpoint(fast_path, CLIENT);
    for _ in 0..2 {
        assert_eq!(send(fast_path, &question), (REDIRECTED, ENDPOINTS[0], SERVER_SIDE));
        assert_eq!(send(fast_path, &answer), (REDIRECTED, GATEWAY, CLIENT_SIDE));
    }
    (question, answer)
}

fn dropped(fast_path: &FastPath, reason: DropReason) -> u64 {
    fast_path.counters().unwrap().listeners[0].dropped(reason)
}

#[test]
fn a_route_that_changes_is_taken_at_once() {
    let fast_path = load(1000, 0);
    let (_, answer) = converse(&fast_path);
    change(&fast_path, "neighbour add 198.18.1.9 lladdr 02:00:00:00:09:09 dev client nud permanent");
    change(&fast_path, "route replace 198.18.64.0/18 via 198.18.1.9");
    assert_eq!(send(&fast_path, &answer), (REDIRECTED, OTHER_MAC, CLIENT_SIDE));
    change(&fast_path, "route add 198.18.64.9/32 via 198.18.2.3");
    assert_eq!(send(&fast_path, &answer), (REDIRECTED, ENDPOINTS[1], SERVER_SIDE), "another device");
    change(&fast_path, "route del 198.18.64.9/32");
    change(&fast_path, "route del 198.18.64.0/18");
    assert_eq!(send(&fast_path, &answer).0, DROPPED);
    assert_eq!(dropped(&fast_path, DropReason::ClientUnreachable), 1);
}

#[test]
fn a_rule_and_its_table_are_taken_at_once() {
    let fast_path = load(1000, 0);
    let (question, _) = converse(&fast_path);
    ip("route add 198.18.2.2/32 via 198.18.2.3 dev server table 7");
    change(&fast_path, "rule add from 198.18.2.1 ipproto udp dport 7000 lookup 7");
    assert_eq!(send(&fast_path, &question), (REDIRECTED, ENDPOINTS[1], SERVER_SIDE));
    change(&fast_path, "rule del from 198.18.2.1 ipproto udp dport 7000 lookup 7");
    assert_eq!(send(&fast_path, &question), (REDIRECTED, ENDPOINTS[0], SERVER_SIDE));
}

#[test]
fn a_next_hop_that_routes_share_is_taken_at_once() {
    let fast_path = load(1000, 0);
    ip("nexthop add id 1 via 198.18.1.2 dev client");
    ip("route replace 198.18.64.0/18 nhid 1");
    ip("neighbour add 198.18.1.9 lladdr 02:00:00:00:09:09 dev client nud permanent");
    let (_, answer) = converse(&fast_path);
    change(&fast_path, "nexthop replace id 1 via 198.18.1.9 dev client");
    assert_eq!(send(&fast_path, &answer), (REDIRECTED, OTHER_MAC, CLIENT_SIDE));
}

#[test]
fn a_neighbour_s_new_address_is_taken_at_once() {
    let fast_path = load(1000, 0);
    let (question, _) = converse(&fast_path);
    change(&fast_path, "neighbour replace 198.18.2.2 lladdr 02:00:00:00:09:09 dev server nud permanent");
    assert_eq!(send(&fast_path, &question), (REDIRECTED, OTHER_MAC, SERVER_SIDE));
    // The host forgets its neighbours there.
    change(&fast_path, "link set server address 02:00:00:00:09:09");
    assert_eq!(send(&fast_path, &question), (REDIRECTED, CLIENT_SIDE, GATEWAY), "the stack writes the Ethernet header");
    change(&fast_path, "neighbour replace 198.18.2.2 lladdr 02:00:00:00:09:09 dev server nud permanent");
    let (_, to, from) = send(&fast_path, &question);
    assert_eq!((to, from), (OTHER_MAC, OTHER_MAC), "and this side's");
}

#[test]
fn a_neighbour_that_is_not_known_is_asked_for_with_each_packet() {
    let fast_path = load(1000, 2);
    let question = from_client(CLIENT);
    for _ in 0..3 {
        assert_eq!(send(&fast_path, &question), (REDIRECTED, CLIENT_SIDE, GATEWAY), "the stack writes the Ethernet header");
    }
    change(&fast_path, "neighbour add 198.18.2.4 lladdr 02:00:00:00:09:09 dev server nud permanent");
    assert_eq!(send(&fast_path, &question), (REDIRECTED, OTHER_MAC, SERVER_SIDE));
}

#[test]
fn a_lower_mtu_is_told_at_once() {
    let fast_path = load(1000, 0);
    let (mut question, _) = converse(&fast_path);
    question.payload = vec![0; 1400];
    assert_eq!(send(&fast_path, &question).0, REDIRECTED);
    for command in ["link set server mtu 1300", "link set server mtu 1500"] {
        change(&fast_path, command);
        let lower = command.ends_with("1300");
        // An answer to the sender has its Ethernet addresses the other way round.
        let expected = if lower { (REDIRECTED, GATEWAY, CLIENT_SIDE) } else { (REDIRECTED, ENDPOINTS[0], SERVER_SIDE) };
        assert_eq!(send(&fast_path, &question), expected, "{command}");
    }
    change(&fast_path, "route add 198.18.2.2/32 dev server mtu lock 1300");
    assert_eq!(send(&fast_path, &question), (REDIRECTED, GATEWAY, CLIENT_SIDE), "a route's");
    assert_eq!(dropped(&fast_path, DropReason::TooBig), 2);
}

#[test]
fn the_largest_packet_is_that_of_the_device_to_the_byte() {
    let fast_path = load(1000, 0);
    let question = |payload: usize| Datagram { payload: vec![0; payload], ..from_client(CLIENT) };
    for _ in 0..3 {
        assert_eq!(send(&fast_path, &question(1473)), (REDIRECTED, GATEWAY, CLIENT_SIDE), "asked and remembered");
        assert_eq!(send(&fast_path, &question(1472)), (REDIRECTED, ENDPOINTS[0], SERVER_SIDE));
    }
}

#[test]
fn a_device_that_goes_takes_its_ways_along() {
    let fast_path = load(1000, 0);
    let (_, answer) = converse(&fast_path);
    change(&fast_path, "link set client down");
    assert_eq!(send(&fast_path, &answer).0, DROPPED);
    change(&fast_path, "link del client");
    assert_eq!(send(&fast_path, &answer).0, DROPPED);
    assert_eq!(dropped(&fast_path, DropReason::ClientUnreachable), 2);
}

#[test]
fn forwarding_that_is_switched_off_is_off_at_once() {
    let fast_path = load(1000, 0);
    let (question, answer) = converse(&fast_path);
    change(&fast_path, "sysctl ipv4/conf/client/forwarding=0");
    assert_eq!(send(&fast_path, &question).0, DROPPED);
    assert_eq!(send(&fast_path, &answer).0, REDIRECTED, "it comes by another device");
    assert_eq!(dropped(&fast_path, DropReason::ForwardingOff), 1);
}

#[test]
fn a_way_holds_for_the_device_that_the_packet_came_by() {
    let fast_path = load(1000, 0);
    let (mut question, _) = converse(&fast_path);
    question.macs.1 = world::CLOSED;
    assert_eq!(send_at(&fast_path, world::number("closed"), &question).0, DROPPED);
    assert_eq!(dropped(&fast_path, DropReason::ForwardingOff), 1);
}

#[test]
fn a_flow_has_no_way_of_the_flow_before_it() {
    let mut fast_path = load(1, 0);
    ip("route add 198.18.64.77/32 via 198.18.2.3");
    converse(&fast_path);
    fast_path.end_all().unwrap();
    let next = "198.18.64.77:5000";
    send(&fast_path, &from_client(next));
    for _ in 0..3 {
        assert_eq!(send(&fast_path, &from_endpoint(&fast_path, next)), (REDIRECTED, ENDPOINTS[1], SERVER_SIDE));
    }
}

#[test]
fn processors_that_race_with_moves_send_nothing_the_wrong_way() {
    let mut fast_path = load(1000, 0);
    let table = |to: usize| listener_table(&[to]).with_leaving(vec![id(1 - to)], Vec::new());
    let tables = [0, 1].map(|to| routing_table(endpoints(), vec![table(to)]));
    let client = world::number("client");
    for round in 0..200 {
        // The first packets of both threads find the flow where it was, and move it.
        fast_path.publish(&tables[round % 2]).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let out = test_support::run(&fast_path, &from_client(CLIENT).frame(), client, 1).unwrap().frame;
                        let second = out[30..34] == [198, 18, 2, 3];
                        assert_eq!(out[..6], ENDPOINTS[usize::from(second)], "round {round}");
                    }
                });
            }
        });
    }
}

#[test]
fn changes_are_noticed_without_being_asked_for() {
    let fast_path = load(1000, 0);
    let (_, answer) = converse(&fast_path);
    ip("neighbour add 198.18.1.9 lladdr 02:00:00:00:09:09 dev client nud permanent");
    let before = test_support::epoch(&fast_path).unwrap();
    ip("route replace 198.18.64.0/18 via 198.18.1.9");
    let deadline = clock() + PATIENCE;
    while test_support::epoch_unasked(&fast_path) == before {
        assert!(clock() < deadline, "nobody takes in the change");
        std::thread::yield_now();
    }
    assert_eq!(send(&fast_path, &answer), (REDIRECTED, OTHER_MAC, CLIENT_SIDE));
}
