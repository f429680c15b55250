//! Edges that die: killed, frozen, cut off. What clients lose is bounded by a timer that has a name, and printed.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::time::Duration;

use landfall_tests::anycast::{BFD, LIMIT, Scene, config_with_probes};
use landfall_tests::lab::Heard;
use landfall_tests::on_both_paths;
use landfall_tests::path::Path;
use landfall_tests::probers::{Report, SPACING};
use landfall_tests::wait::{self, wait_until};

/// The kernel removes the device, BIRD hears it, the router hears BIRD: no timer is in it.
const KILLED: Duration = Duration::from_secs(1);
/// Between the last BFD packet's timer and a new next hop in the router's kernel.
const ROUTER: Duration = Duration::from_millis(100);

/// Everything that was lost was lost within `bound`, counted from the last answer to the first one after it.
fn assert_gap(what: &str, report: &Report, bound: Duration) {
    // A gap begins up to one beat before the death and ends up to one after the flip.
    let allowed = bound + SPACING * 2 + report.stall;
    println!("{what}: allowed {allowed:.2?} of which {:.2?} is the machine's longest stall", report.stall);
    assert!(report.udp_gap() <= allowed, "UDP stood still for {:?}, more than {allowed:?}: {report}", report.udp_gap());
    assert!(report.tcp_gap() <= allowed, "TCP was disturbed for {:?}, more than {allowed:?}: {report}", report.tcp_gap());
    assert_eq!(report.moved(), 0, "both edges see the same: {report}");
}

on_both_paths!(
    an_edge_is_killed_and_comes_back_only_when_ready,
    nothing_is_announced_before_the_first_start_is_ready,
    the_link_of_an_edge_is_cut,
    the_link_of_an_edge_goes_silent,
    an_edge_is_frozen_whole,
);

fn an_edge_is_killed_and_comes_back_only_when_ready(path: Path) {
    for &families in path.families() {
        kill_and_start_again(Scene::start(path, families).unwrap());
    }
}

fn kill_and_start_again(mut scene: Scene) {
    let report = scene.under_load("edge killed by SIGKILL", |scene| {
        let begin = wait::now();
        scene.edge(1).kill().unwrap();
        scene.wait_announced(&[2]).unwrap();
        println!("edge killed by SIGKILL: the router knew after {:.2?}", begin.elapsed());
    });
    let report = report.unwrap();
    assert_gap("edge killed by SIGKILL", &report, KILLED);
    // BIRD still has the protocols enabled. A new landfall must not announce before it is ready, with the device already there.
    assert_eq!(scene.lab.edges[0].bird.state(scene.protocol()).unwrap(), "up", "nobody could disable it");
    let report = scene.under_load("killed edge started again", |scene| {
        let site = &scene.lab.edges[0];
        let before = scene.lab.heard(site).unwrap();
        // One endpoint is silent, so the first result comes after its probe's timeout.
        let addresses = scene.lab.region_b.addresses();
        let silence = scene.lab.edges[0].namespace.drop_traffic_to_all(&addresses).unwrap();
        scene.launch(1, &slow_to_ready()).unwrap();
        assert_silent_until_ready(scene, before);
        silence.lift().unwrap();
        scene.wait_announced(&[1, 2]).unwrap();
    });
    let report = report.unwrap();
    assert_eq!(report.failed_connects(), 0, "{report}");
}

/// A config by which a silent endpoint has its first result after 2 s.
fn slow_to_ready() -> String {
    config_with_probes(r#"interval = "2s", fast_interval = "200ms", timeout = "2s""#)
}

/// Edge 1 announces nothing that the router did not hear before, until `/readyz` says 200.
fn assert_silent_until_ready(scene: &mut Scene, before: [Option<Heard>; 2]) {
    let begin = wait::now();
    let mut looks = 0;
    wait_until("the edge's readiness", LIMIT, || {
        // In this order: what was heard before it was asked was heard before it was ready.
        let heard = scene.lab.heard(&scene.lab.edges[0]).unwrap();
        let ready = scene.edge(1).get("/readyz").is_ok_and(|answer| answer.status == 200);
        if !ready {
            looks += 1;
            assert_eq!(heard, before, "announced before it was ready");
        }
        ready
    })
    .unwrap();
    println!("not ready for {:.2?}, looked {looks} times, nothing announced", begin.elapsed());
    assert!(looks > 10 && begin.elapsed() > Duration::from_secs(1), "it had no time to do wrong");
}

fn nothing_is_announced_before_the_first_start_is_ready(path: Path) {
    for &families in path.families() {
        start_cold(Scene::without_edges(path, families).unwrap());
    }
}

fn start_cold(mut scene: Scene) {
    let before = scene.lab.heard(&scene.lab.edges[0]).unwrap();
    let silence = scene.lab.edges[0].namespace.drop_traffic_to_all(&scene.lab.region_b.addresses()).unwrap();
    scene.launch(1, &slow_to_ready()).unwrap();
    assert_silent_until_ready(&mut scene, before);
    let took = scene.wait_announced(&[1]).unwrap();
    println!("cold start: announced {took:.2?} after it was ready, with one of two endpoints dead");
    silence.lift().unwrap();
}

fn the_link_of_an_edge_is_cut(path: Path) {
    for &families in path.families() {
        cut_and_mend(Scene::start(path, families).unwrap());
    }
}

fn cut_and_mend(mut scene: Scene) {
    let report = scene.under_load("link cut", |scene| {
        let begin = wait::now();
        scene.lab.edges[0].cut_link().unwrap();
        scene.wait_announced(&[2]).unwrap();
        println!("link cut: the router knew after {:.2?}", begin.elapsed());
    });
    // Carrier is seen at once; without it BFD is the bound.
    assert_gap("link cut", &report.unwrap(), BFD + ROUTER);
    let report = scene.under_load("link mended", |scene| {
        scene.lab.edges[0].mend_link().unwrap();
        scene.wait_announced(&[1, 2]).unwrap();
    });
    let report = report.unwrap();
    assert_eq!((report.failed_connects(), report.moved()), (0, 0), "{report}");
}

fn the_link_of_an_edge_goes_silent(path: Path) {
    for &families in path.families() {
        silence_the_link(Scene::start(path, families).unwrap());
    }
}

fn silence_the_link(mut scene: Scene) {
    let report = scene.under_load("link silent", |scene| {
        let begin = wait::now();
        scene.lab.edges[0].silence_link(&scene.lab.router.namespace).unwrap();
        scene.wait_announced(&[2]).unwrap();
        println!("link silent: the router knew after {:.2?}", begin.elapsed());
    });
    let report = report.unwrap();
    assert_gap("link silent", &report, BFD + ROUTER);
    assert!(report.lost() > 0, "nothing was on the edge that went silent: {report}");
    // A SYN that was lost is sent again after a second, and finds the other edge.
    assert_eq!(report.failed_connects(), 0, "{report}");
    scene.lab.edges[0].end_silence(&scene.lab.router.namespace).unwrap();
    scene.wait_announced(&[1, 2]).unwrap();
}

fn an_edge_is_frozen_whole(path: Path) {
    for &families in path.families() {
        freeze_and_thaw(Scene::start(path, families).unwrap());
    }
}

fn freeze_and_thaw(mut scene: Scene) {
    let report = scene.under_load("edge frozen", |scene| {
        let begin = wait::now();
        signal_all(scene, libc::SIGSTOP);
        scene.wait_announced(&[2]).unwrap();
        println!("edge frozen: the router knew after {:.2?}", begin.elapsed());
    });
    let report = report.unwrap();
    assert_gap("edge frozen", &report, BFD + ROUTER);
    assert!(report.lost() > 0 || report.broken() > 0, "nothing was on the edge that froze: {report}");
    // The program in the kernel goes on meanwhile.
    let most = if scene.path == Path::Kernel { report.flows.len() } else { usize::MAX };
    assert!(report.lost() <= most, "more was lost than was in flight: {report}");
    let report = scene.under_load("edge thawed", |scene| {
        signal_all(scene, libc::SIGCONT);
        scene.wait_announced(&[1, 2]).unwrap();
    });
    let report = report.unwrap();
    assert_eq!((report.failed_connects(), report.moved()), (0, 0), "{report}");
}

/// To everything that runs on edge 1.
fn signal_all(scene: &mut Scene, signal: libc::c_int) {
    scene.edge(1).signal(signal).unwrap();
    scene.lab.edges[0].bird.process().signal(signal).unwrap();
}
