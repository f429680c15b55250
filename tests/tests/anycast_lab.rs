//! Edges that leave and come back in order: drained, restarted, or without their BIRD for a while. Nobody is to notice.
//!
//! Each scenario prints what a client sees that opens a TCP connection every 10 ms and sends a datagram every 10 ms on each of
//! twelve UDP flows, over IPv4 and IPv6. Those are forwarded in user space or in the kernel, and clients cannot tell which.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use landfall_tests::anycast::{CONFIG, LIMIT, PORT, SHUTDOWN_WAIT, Scene};
use landfall_tests::clients::{Ending, TcpSession, UdpFlow, tcp_probe};
use landfall_tests::lab::Heard;
use landfall_tests::load::{Busy, StopAtEnd};
use landfall_tests::on_both_paths;
use landfall_tests::path::Path;
use landfall_tests::probers::{Report, SPACING};
use landfall_tests::stalls::DelayWatch;
use landfall_tests::wait::{self, wait_until};

/// Long connections that talk all the time.
const SESSIONS: usize = 16;
/// Of the client, beside those that the load uses. The router sends them to edge 1 whatever is announced.
const STUBBORN: [&str; 2] = ["198.18.1.3", "fd00:18:1::3"];
/// Time to see by a counter, which may be a second late, that the drain has begun.
const LONG_DRAIN: Duration = Duration::from_secs(3);
/// Time to open flows after the router has been seen to have gone elsewhere.
const LONG_SHUTDOWN_WAIT: Duration = Duration::from_secs(1);
/// Generous for the lab's links, where it is well under a millisecond: sixteen threads wake for the RST at once.
const ROUND_TRIP: Duration = Duration::from_millis(30);
/// The first three retransmissions of TCP, which double from 200 ms.
const RETRANSMISSIONS: Duration = Duration::from_millis(1400);
/// For an update on its way from `landfall` to the router, and the question that finds it there.
const NEWS: Duration = Duration::from_millis(100);

/// What every change in order must keep: every connect is answered, and every datagram. Exchanges in flight may be reset when
/// the router changes its mind, `flips` times for each family.
fn assert_unnoticed(report: &Report, flips: usize) {
    assert_eq!(report.failed_connects(), 0, "{report}");
    assert!(report.broken() <= 2 * 2 * flips, "more than 2 exchanges broken in each of {flips} flips of 2 families: {report}");
    assert_eq!(report.moved(), 0, "{report}");
    // A datagram that waits in the edge's socket when that is closed is the only one that may go.
    assert!(report.lost() <= report.flows.len() * flips, "more was lost than was in flight: {report}");
}

on_both_paths!(
    an_edge_is_drained_by_command_and_comes_back,
    what_the_router_still_sends_is_served_until_the_drain_timeout,
    both_edges_are_restarted_in_turn,
    bird_is_restarted_under_a_healthy_edge,
);

fn an_edge_is_drained_by_command_and_comes_back(path: Path) {
    for &families in path.families() {
        drain_and_undrain(Scene::start(path, families).unwrap());
    }
}

fn drain_and_undrain(mut scene: Scene) {
    let report = scene.under_load("drain", drain).unwrap();
    assert_unnoticed(&report, 1);
    let report = scene
        .under_load("undrain", |scene| {
            scene.tell(1, &["undrain"]).unwrap();
            scene.wait_announced(&[1, 2]).unwrap();
        })
        .unwrap();
    assert_unnoticed(&report, 1);
}

/// Drains edge 1 by command under connections that talk all the time.
fn drain(scene: &mut Scene) {
    let watch = DelayWatch::start(scene.edge(1).pid()).unwrap();
    let (stop, told) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut sessions: Vec<_> = scene.static_ips().into_iter().cycle().take(SESSIONS).map(|ip| busy(scene, ip)).collect();
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for session in &mut sessions {
            scope.spawn(|| session.talk_until(&stop, SPACING, &told));
        }
        // Until each of them has had an answer of late.
        wait::pass(SPACING * 10);
        let begin = wait::now();
        scene.tell(1, &["drain"]).unwrap();
        let (told, watch) = (wait::now(), DelayWatch::start(scene.edge(1).pid()).unwrap());
        scene.wait_announced(&[2]).unwrap();
        println!("drain: the router sent nothing to edge 1 {:.2?} after the command", begin.elapsed());
        // One step back for each of two addresses, then the withdrawal.
        let gone = scene.in_served_families(Heard { updates: 2 + 2, withdraws: 2 });
        wait_until("the withdrawal", LIMIT, || scene.heard().unwrap()[0] == gone).unwrap();
        // The order is given after the command begins, and in force when it ends.
        let (least, most, allowed) = (told.elapsed(), begin.elapsed(), SHUTDOWN_WAIT + NEWS + watch.so_far().unwrap().stall);
        println!("drain: withdrawn {least:.2?} to {most:.2?} after the order, allowed {allowed:.2?}");
        assert!(most >= SHUTDOWN_WAIT && least <= allowed, "withdrawn {least:?} to {most:?} after the order");
    });
    let rerouted: Vec<_> = sessions.iter().filter_map(|session| Some(session.broke.as_ref()?.1 - session.last_answer)).collect();
    let worst = rerouted.iter().max().copied().unwrap_or_default();
    let count = rerouted.len();
    println!("drain: {count} of {SESSIONS} long connections were rerouted; RST at most {worst:.1?} after the last answer");
    // The next message comes after SPACING, or two when a beat is missed, and its answer is the RST.
    let allowed = SPACING * 2 + ROUND_TRIP + watch.so_far().unwrap().stall;
    // A message that the router loses while it changes its route is sent again, and that one's answer is the RST.
    let median =
        rerouted.iter().copied().collect::<std::collections::BTreeSet<_>>().into_iter().nth(count / 2).unwrap_or_default();
    assert!(median <= allowed, "{median:?} is more than a message and a round trip, {allowed:?}");
    assert!(worst <= allowed + RETRANSMISSIONS, "{worst:?} is more than three retransmissions, {allowed:?}");
    assert!(count < SESSIONS, "edge 2 has lost its own connections");
    for session in sessions.iter_mut().filter(|session| session.broke.is_none()) {
        session.session.exchange(b"still there?").unwrap();
    }
}

fn busy(scene: &Scene, ip: IpAddr) -> Busy {
    Busy::new(scene.lab.client.enter(|| TcpSession::open(None, (ip, PORT), LIMIT)).unwrap())
}

fn what_the_router_still_sends_is_served_until_the_drain_timeout(path: Path) {
    for &families in path.families() {
        let config = CONFIG.replace(r#"drain_timeout = "1s""#, &format!("drain_timeout = \"{}s\"", LONG_DRAIN.as_secs()));
        let wait = format!("shutdown_wait = \"{}s\"", LONG_SHUTDOWN_WAIT.as_secs());
        let config = config.replace(r#"shutdown_wait = "500ms""#, &wait);
        drain_by_signal(Scene::start_with(path, families, &config).unwrap());
    }
}

fn drain_by_signal(mut scene: Scene) {
    let target = SocketAddr::new(scene.static_ips()[0], PORT);
    let [source, gateway, net] = match target {
        SocketAddr::V4(_) => [STUBBORN[0], "198.18.4.2", "198.18.0.0/24"],
        SocketAddr::V6(_) => [STUBBORN[1], "fd00:18:4::2", "fd00:18::/64"],
    };
    let family = if target.is_ipv4() { "-4" } else { "-6" };
    let router = &scene.lab.router.namespace;
    router.run(["ip", family, "rule", "add", "from", source, "lookup", "77"]).unwrap();
    router.ip(&format!("route add {net} via {gateway} table 77\n")).unwrap();
    let stubborn = SocketAddr::new(source.parse().unwrap(), 0);
    let open = |scene: &Scene| scene.lab.client.enter(|| TcpSession::open(Some(stubborn), target, LIMIT)).unwrap();
    let open_udp = |scene: &Scene| scene.lab.client.enter(|| UdpFlow::open(stubborn, target)).unwrap();
    let (mut session, mut flow) = (open(&scene), open_udp(&scene));
    flow.exchange(LIMIT).unwrap();
    let watch = DelayWatch::start(scene.edge(1).pid()).unwrap();
    let begin = wait::now();

    scene.edge(1).signal(libc::SIGTERM).unwrap();
    scene.wait_announced(&[2]).unwrap();
    // The router has gone elsewhere, and this edge still accepts: shutdown_wait is for those to whom the news has not come.
    let (mut late, mut late_flow) = (open(&scene), open_udp(&scene));
    session.exchange(b"as before").unwrap();
    late.exchange(b"as before").unwrap();
    late_flow.exchange(LIMIT).unwrap();
    // From the end of accepting it is new flows alone that are refused.
    let draining = [("protocol", "udp"), ("reason", "draining")];
    wait_until("a new flow refused", LIMIT, || {
        open_udp(&scene).send().unwrap();
        scene.edge(1).metrics().unwrap().sum("landfall_drops_total", &draining) > 0.0
    })
    .unwrap();
    flow.exchange(LIMIT).unwrap();
    late_flow.exchange(LIMIT).unwrap();
    scene.path.assert_carried_all(scene.edge(1));
    let (ending, _) = session.wait_end(LIMIT).unwrap();
    let (took, delay) = (begin.elapsed(), watch.so_far().unwrap());
    // A step back, the withdrawal, the end of accepting, the drain.
    let stop = 2 * LONG_SHUTDOWN_WAIT + LONG_DRAIN;
    // The drain looks every now and then whether flows are left.
    let allowed = stop + Duration::from_millis(250) + delay.stall;
    println!("terminated: a connection that the router still sent was reset after {took:.2?}, {ending:?}; allowed {allowed:.2?}");
    assert_eq!(ending, Ending::Reset);
    assert!(took >= stop && took <= allowed, "{took:?}");
    assert_eq!(scene.edge(1).wait_exit(LIMIT).unwrap().code(), Some(0));
    // Nobody is there any more, and the host says so.
    flow.socket().connect(target).unwrap();
    flow.send().unwrap();
    let told = flow.socket().recv(&mut [0; 512]).unwrap_err();
    assert_eq!(told.kind(), ErrorKind::ConnectionRefused, "{told}");
    scene.lab.client.enter(|| tcp_probe(target, LIMIT)).unwrap();
}

fn both_edges_are_restarted_in_turn(path: Path) {
    for &families in path.families() {
        restart_in_turn(Scene::start(path, families).unwrap());
    }
}

fn restart_in_turn(mut scene: Scene) {
    let report = scene
        .under_load("rolling restart of both edges", |scene| {
            for number in [1, 2] {
                let begin = wait::now();
                scene.terminate(number).unwrap();
                let ended = begin.elapsed();
                scene.launch(number, CONFIG).unwrap();
                scene.wait_announced(&[1, 2]).unwrap();
                println!("edge {number} restarted: ended after {ended:.2?}, announced again after {:.2?}", begin.elapsed());
            }
        })
        .unwrap();
    assert_unnoticed(&report, 4);
}

fn bird_is_restarted_under_a_healthy_edge(path: Path) {
    for &families in path.families() {
        restart_bird(Scene::start(path, families).unwrap());
    }
}

fn restart_bird(mut scene: Scene) {
    let report = scene
        .under_load("BIRD restarted", |scene| {
            scene.lab.edges[0].bird.stop().unwrap();
            let watch = DelayWatch::start(scene.edge(1).pid()).unwrap();
            let is_down =
                |scene: &mut Scene| scene.edge(1).status().unwrap()["anycast"]["bird"].as_str().unwrap().starts_with("down");
            let seen = wait_until("BIRD down in /status", LIMIT, || is_down(scene)).unwrap();
            let allowed = Duration::from_secs(1) + watch.so_far().unwrap().stall;
            assert!(seen <= allowed, "/status said it {seen:?} after BIRD's end, not within {allowed:?}");
            scene.wait_announced(&[2]).unwrap();
            assert_eq!(scene.edge(1).metrics().unwrap().value("landfall_bird_up", &[]), Some(0.0));
            println!("BIRD restarted: /status said so after {seen:.2?}");

            scene.lab.edges[0].bird.start_again().unwrap();
            let (begin, watch) = (wait::now(), DelayWatch::start(scene.edge(1).pid()).unwrap());
            let site = &scene.lab.edges[0];
            let is_enabled = || site.bird.state(scene.protocol()).unwrap() == "up";
            let enabled = wait_until("the protocols enabled again", LIMIT, is_enabled).unwrap();
            let allowed = Duration::from_secs(1) + watch.so_far().unwrap().stall;
            assert!(enabled <= allowed, "re-asserted after {enabled:?}, not within {allowed:?}");
            scene.wait_announced(&[1, 2]).unwrap();
            println!("BIRD restarted: enabled again after {enabled:.2?}, announced after {:.2?}", begin.elapsed());
            assert_eq!(scene.edge(1).metrics().unwrap().value("landfall_bird_up", &[]), Some(1.0));
        })
        .unwrap();
    assert_unnoticed(&report, 2);
}
