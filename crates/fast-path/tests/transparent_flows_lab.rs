//! Transparent flows: processors that open, move and end them at the same time lose no reply and leave nothing behind.

#![cfg(all(target_os = "linux", feature = "kernel"))]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use common::{
    frame::Datagram,
    tables::{at, endpoint, id, ips, listener, listener_table, routing_table, settings},
    world,
};
use fast_path::{DropReason, EndReason, FastPath, FlowEntry, ListenerCounters, clock, test_support};

const PROCESSORS: usize = 4;
/// What each listener's flows come to; both lead to one port.
const VIPS: [&str; 2] = ["198.18.0.1:7000", "198.18.0.1:7001"];
const REDIRECTED: i32 = 7;

/// Two transparent listeners with endpoints 0 and 1, and these NAT addresses.
fn load(max_flows: usize, nat: &[&str]) -> FastPath {
    world::enter();
    let listeners = [(0, 7000), (1, 7001)].map(|(index, port)| {
        let mut listener = listener(index, port);
        listener.transparent = true;
        listener.limits.max_flows = max_flows;
        listener
    });
    let mut settings = settings(listeners.into());
    settings.static_ips = ips(&["198.18.0.1"]);
    settings.nat.addresses = ips(nat);
    let mut fast_path = FastPath::load(settings).unwrap();
    publish(&mut fast_path, 0, &[]);
    fast_path
}

/// New flows go to endpoint `to`, and others must leave `leaving`.
fn publish(fast_path: &mut FastPath, to: usize, leaving: &[usize]) {
    let endpoints = vec![endpoint(0, "198.18.2.2", Some(9000), &[]), endpoint(1, "198.18.2.3", Some(9000), &[])];
    let table = || listener_table(&[to]).with_leaving(leaving.iter().map(|&index| id(index)).collect(), Vec::new());
    fast_path.publish(&routing_table(endpoints, vec![table(), table()])).unwrap();
}

fn client(number: u32) -> SocketAddr {
    let host = 0xc612_4000 + number / 10_000;
    SocketAddr::new(IpAddr::from(host.to_be_bytes()), u16::try_from(1024 + number % 10_000).unwrap())
}

/// Puts a datagram of a client through the program; whether it went on.
fn send(fast_path: &FastPath, client: SocketAddr, vip: &str) -> bool {
    let mut datagram = Datagram::new(client, at(vip));
    datagram.macs = (world::GATEWAY, world::CLIENT_SIDE);
    test_support::run(fast_path, &datagram.frame(), world::number("client"), 1).unwrap().action == REDIRECTED
}

fn flow(fast_path: &FastPath, client: SocketAddr, vip: &str) -> FlowEntry {
    fast_path.flow(client, at(vip)).unwrap().unwrap_or_else(|| panic!("no flow of {client} to {vip}"))
}

/// Has the endpoint answer where it sees the flow come from; whether the answer went on.
fn answer(fast_path: &FastPath, flow: &FlowEntry) -> bool {
    answer_from(fast_path, flow.endpoint.index(), flow.nat)
}

fn answer_from(fast_path: &FastPath, endpoint: usize, to: SocketAddr) -> bool {
    let mut datagram = Datagram::new(at(["198.18.2.2:9000", "198.18.2.3:9000"][endpoint]), to);
    datagram.macs = (world::ENDPOINTS[endpoint], world::SERVER_SIDE);
    test_support::run(fast_path, &datagram.frame(), world::number("server"), 1).unwrap().action == REDIRECTED
}

fn counters(fast_path: &FastPath) -> [ListenerCounters; 2] {
    fast_path.counters().unwrap().listeners.try_into().unwrap()
}

#[test]
fn without_a_nat_address_the_second_flow_of_a_client_port_waits_for_the_end_of_the_first() {
    let mut fast_path = load(1000, &[]);
    assert!(send(&fast_path, client(0), VIPS[0]));
    assert!(!send(&fast_path, client(0), VIPS[1]));
    assert!(send(&fast_path, client(1), VIPS[1]), "another port has no such trouble");
    assert_eq!(counters(&fast_path)[1].dropped(DropReason::ClientIpInUse), 1);
    assert_eq!((counters(&fast_path)[1].active, test_support::claims(&fast_path).unwrap()), (1, 2));
    let sweep = fast_path.sweep(clock() + Duration::from_secs(6)).unwrap();
    assert_eq!((sweep.ended[EndReason::Unanswered as usize], test_support::claims(&fast_path).unwrap()), (2, 0));
    assert!(send(&fast_path, client(0), VIPS[1]));
    let flow = flow(&fast_path, client(0), VIPS[1]);
    assert_eq!(flow.nat, client(0));
    assert!(answer(&fast_path, &flow));
}

#[test]
fn a_flow_that_can_neither_move_nor_fall_back_is_refused_and_stays() {
    let mut fast_path = load(1000, &[]);
    assert!(send(&fast_path, client(0), VIPS[0]));
    publish(&mut fast_path, 1, &[]);
    assert!(send(&fast_path, client(0), VIPS[1]));
    publish(&mut fast_path, 1, &[0]);
    assert!(!send(&fast_path, client(0), VIPS[0]));
    let counted = counters(&fast_path);
    assert_eq!((counted[0].dropped(DropReason::ClientIpInUse), counted[0].moved, counted[0].active), (1, 0, 1));
    assert!(answer(&fast_path, &flow(&fast_path, client(0), VIPS[0])), "what its endpoint still says is heard");
    assert_eq!(test_support::claims(&fast_path).unwrap(), 2);
    assert_eq!((fast_path.end_all().unwrap(), test_support::claims(&fast_path).unwrap()), (2, 0));
}

#[test]
fn there_is_room_for_as_many_flows_as_are_wanted() {
    const FLOWS: u32 = 40_000;
    let mut fast_path = load(FLOWS as usize, &[]);
    assert!((0..FLOWS).all(|number| send(&fast_path, client(number), VIPS[(number % 2) as usize])));
    assert_eq!((fast_path.flows().count(), test_support::claims(&fast_path).unwrap()), (FLOWS as usize, FLOWS as usize));
    assert_eq!(counters(&fast_path).map(|counted| counted.drops), [[0; DropReason::COUNT]; 2]);
    assert_eq!((fast_path.end_all().unwrap(), test_support::claims(&fast_path).unwrap()), (FLOWS as usize, 0));
}

#[test]
fn processors_that_open_the_same_flows_at_once_agree() {
    const FLOWS: u32 = 3000;
    let mut fast_path = load(10_000, &["198.18.2.1"]);
    std::thread::scope(|scope| {
        for _ in 0..PROCESSORS {
            scope.spawn(|| (0..FLOWS).for_each(|number| assert!(send(&fast_path, client(number), VIPS[0]))));
        }
    });
    let counted = &counters(&fast_path)[0];
    assert_eq!((counted.opened, counted.active, counted.fallbacks), (FLOWS.into(), FLOWS.into(), 0));
    assert_eq!(counted.drops, [0; DropReason::COUNT]);
    assert!(fast_path.flows().all(|flow| flow.nat == flow.client && answer(&fast_path, &flow)));
    assert_eq!((test_support::claims(&fast_path).unwrap(), fast_path.flows().count()), (FLOWS as usize, FLOWS as usize));
    assert_eq!((fast_path.end_all().unwrap(), test_support::claims(&fast_path).unwrap()), (FLOWS as usize, 0));
}

/// A client that sends from one port to two static addresses at once. Where both are opened in the same moment one may lose a datagram.
#[test]
fn of_two_flows_that_want_the_same_one_falls_back() {
    const FLOWS: u32 = 3000;
    let mut fast_path = load(10_000, &["198.18.2.1"]);
    std::thread::scope(|scope| {
        for vip in VIPS {
            let fast_path = &fast_path;
            scope.spawn(move || (0..FLOWS).for_each(|number| _ = send(fast_path, client(number), vip)));
        }
    });
    let lost: u64 = counters(&fast_path).iter().map(|counted| counted.dropped(DropReason::ClientIpInUse)).sum();
    let all: u64 = counters(&fast_path).iter().flat_map(|counted| counted.drops).sum();
    assert_eq!(lost, all);
    for number in 0..FLOWS {
        let flows = VIPS.map(|vip| {
            assert!(send(&fast_path, client(number), vip));
            flow(&fast_path, client(number), vip)
        });
        assert_eq!(flows.iter().filter(|flow| flow.nat == client(number)).count(), 1, "{flows:?}");
        assert!(flows.iter().all(|flow| answer(&fast_path, flow)));
    }
    let fallbacks: u64 = counters(&fast_path).iter().map(|counted| counted.fallbacks).sum();
    assert_eq!((fallbacks, test_support::claims(&fast_path).unwrap()), (FLOWS.into(), FLOWS as usize));
    assert_eq!((fast_path.end_all().unwrap(), test_support::claims(&fast_path).unwrap()), (2 * FLOWS as usize, 0));
}

/// Each round every flow must leave its endpoint, on all processors at once, while new ones make others end.
#[test]
fn processors_that_move_and_end_the_same_flows_lose_none() {
    const KEPT: u32 = 500;
    let mut fast_path = load(2000, &["198.18.2.1"]);
    for number in 0..KEPT {
        assert!(send(&fast_path, client(number), VIPS[0]));
        assert!(answer(&fast_path, &flow(&fast_path, client(number), VIPS[0])));
    }
    for round in 1..=10u32 {
        let (to, from) = ((round % 2) as usize, ((round + 1) % 2) as usize);
        publish(&mut fast_path, to, &[from]);
        std::thread::scope(|scope| {
            for processor in 0..PROCESSORS {
                let fast_path = &fast_path;
                scope.spawn(move || {
                    for number in 0..KEPT {
                        assert!(send(fast_path, client(number), VIPS[0]), "{number}");
                        // Where the flow is at this moment it is answered: both endpoints find it while it moves.
                        let answered = [from, to].map(|endpoint| answer_from(fast_path, endpoint, client(number)));
                        assert!(answered.contains(&true), "{number}");
                        if processor % 2 == 0 {
                            let new = 10_000 + round * 2000 + number * 4 + u32::try_from(processor).unwrap();
                            send(fast_path, client(new), VIPS[0]);
                        }
                    }
                });
            }
        });
        for number in 0..KEPT {
            let flow = flow(&fast_path, client(number), VIPS[0]);
            assert_eq!((flow.endpoint.index(), flow.nat, flow.answered), (to, client(number), true));
            assert!(answer(&fast_path, &flow) && !answer_from(&fast_path, from, client(number)));
        }
        assert_eq!(test_support::claims(&fast_path).unwrap(), fast_path.flows().count(), "no entry without a flow");
    }
    let counted = &counters(&fast_path)[0];
    assert_eq!(counted.opened, counted.active + counted.ended.iter().sum::<u64>());
    assert!(counted.ended_by(EndReason::Evicted) > 1000 && counted.moved >= u64::from(10 * KEPT), "{counted:?}");
    assert_eq!(counted.fallbacks, 0);
    let all = fast_path.flows().count();
    assert_eq!((fast_path.end_all().unwrap(), test_support::claims(&fast_path).unwrap()), (all, 0));
}
