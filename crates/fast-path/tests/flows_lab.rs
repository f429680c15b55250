//! How flows end, make room and are counted, and processors that open them at the same time.

#![cfg(all(target_os = "linux", feature = "kernel"))]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use common::{
    frame::Datagram,
    tables::{at, endpoint, ips, listener, listener_table, routing_table, settings},
    world,
};
use fast_path::{Access, DropReason, EndReason, FastPath, FlowEntry, Listener, ListenerCounters, clock, test_support};

const SECOND: Duration = Duration::from_secs(1);
const VIP: &str = "198.18.0.1:7000";

/// One listener with `ports` NAT ports, and an endpoint.
fn load(listener: Listener, ports: u16) -> FastPath {
    world::enter();
    let mut settings = settings(vec![listener]);
    settings.static_ips = ips(&["198.18.0.1"]);
    settings.nat.addresses = ips(&["198.18.2.1"]);
    settings.nat.ports = 40_000..=39_999 + ports;
    let mut fast_path = FastPath::load(settings).unwrap();
    let endpoints = vec![endpoint(0, "198.18.2.2", None, &[]), endpoint(1, "198.18.2.3", None, &[])];
    fast_path.publish(&routing_table(endpoints, vec![listener_table(&[0])])).unwrap();
    fast_path
}

fn client(number: u32) -> SocketAddr {
    // 198.18.64.0/18, 10,000 ports each.
    let host = 0xc612_4000 + number / 10_000;
    SocketAddr::new(IpAddr::from(host.to_be_bytes()), u16::try_from(1024 + number % 10_000).unwrap())
}

/// Networks of one address each.
fn networks(count: u32) -> Vec<ipnet::IpNet> {
    (0..count).map(|number| IpAddr::from((0x0a00_0000 + number).to_be_bytes()).into()).collect()
}

#[test]
fn lists_that_do_not_fit_leave_those_in_force() {
    let mut fast_path = load(listener(0, 7000), 1000);
    let deny = |deny: Vec<ipnet::IpNet>| vec![(0, Access { allow: Vec::new(), deny })];
    fast_path.set_access(deny(vec!["198.18.64.0/32".parse().unwrap()])).unwrap();
    let error = fast_path.set_access(deny(networks(1 << 20))).unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot change whom listeners serve: 1048577 networks, with those in force until then, and 1048576 fit: join networks, or \
         restart the edge"
    );
    assert_eq!(send(&fast_path, client(0)), None);
    assert!(send(&fast_path, client(10_000)).is_some());
    fast_path.set_access(deny(Vec::new())).unwrap();
    assert!(send(&fast_path, client(0)).is_some());
}

#[test]
fn addresses_that_do_not_fit_among_their_like_stand_among_networks() {
    let mut fast_path = load(listener(0, 7000), 1000);
    let addresses: Vec<ipnet::IpNet> =
        (0..70_000_u32).map(|number| IpAddr::from((0xc612_4000 + number).to_be_bytes()).into()).collect();
    let lists = |deny: &[ipnet::IpNet]| vec![(0, Access { allow: Vec::new(), deny: deny.to_vec() })];
    for denied in [&addresses[..], &addresses[1..69_999], &[]] {
        fast_path.set_access(lists(denied)).unwrap();
        for number in [0_u32, 1, 40_000, 65_535, 65_536, 69_998, 69_999, 70_000] {
            let client =
                SocketAddr::new(IpAddr::from((0xc612_4000 + number).to_be_bytes()), 4000 + u16::from(denied.len() == 69_998));
            let is_denied = denied.contains(&client.ip().into());
            assert_eq!(send(&fast_path, client).is_none(), is_denied, "{client}, {} denied", denied.len());
        }
    }
}

/// Puts a datagram of a client through the program; its flow, if it has one then.
fn send(fast_path: &FastPath, client: SocketAddr) -> Option<FlowEntry> {
    let mut datagram = Datagram::new(client, at(VIP));
    datagram.macs = (world::GATEWAY, world::CLIENT_SIDE);
    test_support::run(fast_path, &datagram.frame(), world::number("client"), 1).unwrap();
    fast_path.flow(client, at(VIP)).unwrap()
}

/// Has the endpoint answer.
fn answer(fast_path: &FastPath, flow: &FlowEntry) {
    let mut datagram = Datagram::new(at("198.18.2.2:7000"), flow.nat);
    datagram.macs = (world::ENDPOINTS[0], world::SERVER_SIDE);
    test_support::run(fast_path, &datagram.frame(), world::number("server"), 1).unwrap();
}

fn counters(fast_path: &FastPath) -> ListenerCounters {
    fast_path.counters().unwrap().listeners.remove(0)
}

#[test]
fn flows_end_when_their_time_is_over_and_give_back_all_they_held() {
    let mut limited = listener(0, 7000);
    limited.limits.max_flows_per_client = NonZeroUsize::new(300);
    let mut fast_path = load(limited, 1000);
    for number in 0..300 {
        let flow = send(&fast_path, client(number)).unwrap();
        if number < 100 {
            answer(&fast_path, &flow);
        }
    }
    assert_eq!(send(&fast_path, client(300)), None);
    let now = clock();
    let sweep = fast_path.sweep(now + SECOND).unwrap();
    assert_eq!((sweep.live, sweep.ended, &sweep.by_endpoint[..]), (300, [0; 4], &[300, 0][..]));
    let sweep = fast_path.sweep(now + 6 * SECOND).unwrap();
    assert_eq!((sweep.live, sweep.ended), (100, [0, 200, 0, 0]), "200 have never been answered");
    assert_eq!(fast_path.flows().filter(|flow| flow.answered).count(), 100);
    let sweep = fast_path.sweep(now + 31 * SECOND).unwrap();
    assert_eq!((sweep.live, sweep.ended, &sweep.by_endpoint[..]), (0, [100, 0, 0, 0], &[0, 0][..]));
    let counted = counters(&fast_path);
    assert_eq!((counted.opened, counted.active, counted.ended), (300, 0, [100, 200, 0, 0]));
    // The client's count is given back too.
    for number in 0..300 {
        assert!(send(&fast_path, client(number)).is_some());
    }
    assert_eq!(counters(&fast_path).dropped(DropReason::ClientFlowLimit), 1);
}

#[test]
fn every_port_can_be_used_and_then_the_oldest_unanswered_makes_room() {
    let fast_path = load(listener(0, 7000), 64);
    let mut next = 0;
    while fast_path.flows().count() < 64 {
        let flow = send(&fast_path, client(next));
        assert!(flow.is_some() || next > 57, "none is refused up to 90 %");
        next += 1;
    }
    assert!(next < 200, "the search finds the last ports too: {next}");
    let ports: HashSet<_> = fast_path.flows().map(|flow| flow.nat.port()).collect();
    assert_eq!(ports.len(), 64, "each has a port of its own");
    for flow in fast_path.flows().collect::<Vec<_>>() {
        if flow.client != client(next - 1) && flow.client != client(next - 2) {
            answer(&fast_path, &flow);
        }
    }
    let ended = counters(&fast_path).ended_by(EndReason::Evicted);
    assert!(send(&fast_path, client(5000)).is_some());
    assert_eq!(fast_path.flow(client(next - 2), at(VIP)).unwrap(), None, "the older of the two made room");
    assert!(send(&fast_path, client(5001)).is_some());
    assert_eq!(counters(&fast_path).ended_by(EndReason::Evicted), ended + 2);
    for flow in fast_path.flows().collect::<Vec<_>>() {
        answer(&fast_path, &flow);
    }
    assert_eq!(send(&fast_path, client(5002)), None, "answered flows are never cut");
    let counted = counters(&fast_path);
    assert_eq!((counted.dropped(DropReason::NoNatPort), counted.active), (1, 64));
}

#[test]
fn a_flood_cuts_no_answered_flow_and_leaves_new_ones_their_turn() {
    let mut small = listener(0, 7000);
    small.limits.max_flows = 1000;
    let fast_path = load(small, 20_000);
    let honest: Vec<_> = (0..500).map(client).collect();
    for &client in &honest {
        let flow = send(&fast_path, client).unwrap();
        answer(&fast_path, &flow);
    }
    // Those that are never to be ended are passed over once, some with each new flow.
    for number in 0..504 {
        send(&fast_path, client(10_000 + number));
    }
    for number in 0..20_000 {
        let flow = send(&fast_path, client(20_000 + number)).unwrap();
        if number % 1000 == 0 {
            // Others come before its endpoint answers, but fewer than there is room for.
            (0..400).for_each(|other| assert!(send(&fast_path, client(100_000 + number + other)).is_some()));
            answer(&fast_path, &flow);
            assert!(fast_path.flow(flow.client, at(VIP)).unwrap().is_some_and(|flow| flow.answered));
        }
    }
    for client in honest {
        assert!(fast_path.flow(client, at(VIP)).unwrap().is_some_and(|flow| flow.answered), "{client}");
    }
    let counted = counters(&fast_path);
    assert_eq!((counted.active, fast_path.flows().count()), (1000, 1000));
    assert_eq!(counted.opened, counted.active + counted.ended_by(EndReason::Evicted));
}

#[test]
fn processors_that_open_the_same_flows_at_once_agree() {
    let fast_path = load(listener(0, 7000), 20_000);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5000).for_each(|number| assert!(send(&fast_path, client(number)).is_some())));
        }
    });
    let flows: Vec<_> = fast_path.flows().collect();
    let clients: HashSet<_> = flows.iter().map(|flow| flow.client).collect();
    assert_eq!((flows.len(), clients.len()), (5000, 5000));
    let counted = counters(&fast_path);
    assert_eq!((counted.opened, counted.active, counted.to_endpoint.packets), (5000, 5000, 20_000));
    assert_eq!(counted.drops, [0; DropReason::COUNT]);
}

#[test]
fn an_answer_brings_no_ended_flow_back() {
    const PORTS: u16 = 8;
    let mut fast_path = load(listener(0, 7000), PORTS);
    let answers = (0..PORTS).map(|port| {
        let mut answer = Datagram::new(at("198.18.2.2:7000"), SocketAddr::new("198.18.2.1".parse().unwrap(), 40_000 + port));
        answer.macs = (world::ENDPOINTS[0], world::SERVER_SIDE);
        answer.frame()
    });
    let answers: Vec<_> = answers.collect();
    for round in 1..=200 {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Each makes the oldest unanswered one go, until all have been answered.
            scope.spawn(|| {
                (0..200).find(|number| send(&fast_path, client(round * 200 + number)).is_none());
                over.store(true, Ordering::Relaxed);
            });
            while !over.load(Ordering::Relaxed) {
                for answer in &answers {
                    test_support::run(&fast_path, answer, world::number("server"), 1).unwrap();
                }
            }
        });
        let flows: Vec<_> = fast_path.flows().collect();
        for flow in &flows {
            let found = fast_path.flow(flow.client, at(VIP)).unwrap().map(|found| found.nat);
            assert_eq!(found, Some(flow.nat), "round {round}");
        }
        assert_eq!(counters(&fast_path).active, flows.len() as u64, "round {round}");
        fast_path.sweep(clock() + 31 * SECOND).unwrap();
        assert_eq!((counters(&fast_path).active, fast_path.flows().count()), (0, 0), "round {round}");
    }
}

#[test]
fn tables_published_meanwhile_leave_every_packet_one_answer() {
    let mut fast_path = load(listener(0, 7000), 1000);
    let endpoints = vec![endpoint(0, "198.18.2.2", None, &[]), endpoint(1, "198.18.2.3", None, &[])];
    let flow = |fast_path: &FastPath| send(fast_path, client(1)).unwrap().endpoint;
    for round in 0..50 {
        let (to, from) = (round % 2, (round + 1) % 2);
        let table = listener_table(&[to]).with_leaving(vec![common::tables::id(from)], Vec::new());
        fast_path.publish(&routing_table(endpoints.clone(), vec![table])).unwrap();
        assert_eq!(flow(&fast_path).index(), to);
    }
    assert_eq!(counters(&fast_path).moved, 49);
}

#[test]
fn nothing_is_forwarded_before_a_table_is_published() {
    world::enter();
    let fast_path = FastPath::load(settings(vec![listener(0, 7000), listener(1, 7001)])).unwrap();
    assert_eq!(send(&fast_path, client(0)), None);
    assert_eq!(counters(&fast_path).dropped(DropReason::NoEndpoint), 1);
}

#[test]
fn fragments_without_a_first_may_be_a_socket_s() {
    const PASSED: i32 = -1;
    world::enter();
    let mut settings = settings(vec![listener(0, 7000)]);
    settings.shared_with_sockets = true;
    let fast_path = FastPath::load(settings).unwrap();
    let mut datagram = Datagram::new(client(0), at(VIP));
    datagram.macs = (world::GATEWAY, world::CLIENT_SIDE);
    datagram.payload = vec![0; 100];
    datagram.fragment = Some((56, 108));
    let verdict = test_support::run(&fast_path, &datagram.frame(), world::number("client"), 1).unwrap();
    assert_eq!((verdict.action, verdict.frame), (PASSED, datagram.frame()));
    assert_eq!(fast_path.counters().unwrap().strays, ListenerCounters::default());
}

#[test]
fn datagrams_in_fragments_never_share_a_number() {
    let fast_path = load(listener(0, 7000), 1000);
    let mut numbers = HashSet::new();
    for number in 0..65_536 {
        // All clients count alike.
        let mut datagram = Datagram { id: number / 500, ..Datagram::new(client(number % 500), at(VIP)) };
        datagram.macs = (world::GATEWAY, world::CLIENT_SIDE);
        datagram.payload = vec![0; 32];
        datagram.fragment = Some((0, 16));
        let out = test_support::run(&fast_path, &datagram.frame(), world::number("client"), 1).unwrap().frame;
        assert!(numbers.insert(common::frame::id_of(&out)), "datagram {number}");
    }
}

#[test]
fn port_overrides_come_change_and_go() {
    let mut fast_path = load(listener(0, 7000), 1000);
    for (number, (overrides, port)) in (0..).zip([(&[(7000, 17_000)][..], 17_000), (&[(7000, 17_001)], 17_001), (&[], 7000)]) {
        let table = routing_table(vec![endpoint(0, "198.18.2.2", None, overrides)], vec![listener_table(&[0])]);
        fast_path.publish(&table).unwrap();
        assert_eq!(send(&fast_path, client(number)).unwrap().endpoint_port, port);
    }
}

#[test]
fn a_table_that_does_not_fit_changes_nothing() {
    let mut fast_path = load(listener(0, 7000), 1000);
    let many = (0..17).map(|index| endpoint(index, "198.18.2.3", None, &[])).collect();
    let error = fast_path.publish(&routing_table(many, vec![listener_table(&[1])])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot publish a routing table to the fast path: it has 17 endpoints, and 16 fit: restart with room for more"
    );
    let none = fast_path.publish(&routing_table(Vec::new(), Vec::new())).unwrap_err();
    assert!(none.to_string().contains("it has no listener 0"), "{none}");
    assert_eq!(send(&fast_path, client(0)).unwrap().endpoint.index(), 0);
}

#[test]
fn icmp_errors_are_told_now_and_then() {
    let mut fast_path = load(listener(0, 7000), 1000);
    let mut refusals = fast_path.refusals().unwrap();
    assert!(fast_path.refusals().is_none());
    let flow = send(&fast_path, client(0)).unwrap();
    let sent = Datagram { ttl: 63, ..Datagram::new(flow.nat, at("198.18.2.2:7000")) };
    let error = common::frame::IcmpError {
        macs: (world::ENDPOINTS[0], world::SERVER_SIDE),
        from: sent.to.ip(),
        to: sent.from.ip(),
        ttl: 64,
        kind: 3,
        code: 3,
        word: 0,
        quote: sent.packet(),
    };
    for _ in 0..20 {
        test_support::run(&fast_path, &error.frame(), world::number("server"), 1).unwrap();
    }
    let told: Vec<_> = refusals.by_ref().collect();
    assert!(!told.is_empty() && told.len() < 20, "{told:?}");
    assert!(told.iter().all(|endpoint| endpoint.index() == 0));
    assert_eq!(fast_path.endpoint_counters(0..1).unwrap()[0].refused, 20);
}
