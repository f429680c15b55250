//! What is announced and what is not: endpoints that come and go are no news for a router, an address that is not there is not
//! announced, and an edge that reaches nothing does as it is told.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::{IpAddr, SocketAddr};

use landfall_tests::anycast::{CONFIG, ISOLATED_HOLD, LIMIT, POLL, Scene, config_with_probes};
use landfall_tests::command::failover_bound;
use landfall_tests::edge::Edge;
use landfall_tests::lab::Heard;
use landfall_tests::on_both_paths;
use landfall_tests::path::{Families, Path};
use landfall_tests::probers::{Capture, Flow};
use landfall_tests::stalls::DelayWatch;
use landfall_tests::wait::{self, wait_until};

const FLAPS: usize = 100;

/// The entry of `ip` in `/status` of edge `number`.
fn said(scene: &mut Scene, number: u8, ip: IpAddr) -> serde_json::Value {
    let status = scene.edge(number).status().unwrap();
    let entries = status["anycast"]["static_ips"].as_array().unwrap_or_else(|| panic!("no anycast.static_ips in {status:#}"));
    entries.iter().find(|entry| entry["ip"] == ip.to_string()).unwrap_or_else(|| panic!("no {ip} in {status:#}")).clone()
}

on_both_paths!(
    an_endpoint_that_flaps_is_no_news_for_the_router,
    an_address_that_is_not_on_the_host_is_not_announced,
    edges_that_reach_nothing_keep_the_addresses_announced,
    a_ping_of_a_static_ip_is_answered_by_an_edge,
);

fn an_endpoint_that_flaps_is_no_news_for_the_router(path: Path) {
    for &families in path.families() {
        flap(path, families);
    }
}

fn flap(path: Path, families: Families) {
    // One result decides, and comes soon.
    let eager = r#"interval = "20ms", fast_interval = "20ms", timeout = "20ms", unhealthy_threshold = 1, healthy_threshold = 1"#;
    let mut scene = Scene::start_with(path, families, &config_with_probes(eager)).unwrap();
    let before = scene.heard().unwrap();
    let expected = scene.in_served_families(Heard { updates: 2, withdraws: 0 });
    assert_eq!(before, [expected; 2], "two static IPs of each family, announced once");
    let region = scene.lab.region_a.namespace.clone();
    let begin = wait::now();
    for _ in 0..FLAPS {
        scene.endpoints[0].kill().unwrap();
        both_edges_see(&mut scene, "unhealthy");
        scene.endpoints[0].restart(Some(&region)).unwrap();
        both_edges_see(&mut scene, "healthy");
    }
    let took = begin.elapsed();
    let failovers: Vec<_> =
        [1, 2].map(|number| scene.edge(number).metrics().unwrap().sum("landfall_failovers_total", &[])).into();
    println!("{FLAPS} deaths and returns of an endpoint in {took:.1?}: {failovers:?} failovers, {:?}", scene.heard().unwrap());
    assert!(failovers.iter().all(|count| *count > 50.0), "the edges did too little of it: {failovers:?}");
    assert_eq!(scene.heard().unwrap(), before, "not one BGP update");
    scene.assert_served();
}

/// Waits until the endpoint that flaps has this health on both edges.
fn both_edges_see(scene: &mut Scene, health: &str) {
    for number in [1, 2] {
        let edge = scene.edge(number);
        wait_until(&format!("a {health}"), LIMIT, || edge.health("a").unwrap().as_deref() == Some(health)).unwrap();
    }
}

fn an_address_that_is_not_on_the_host_is_not_announced(path: Path) {
    for &families in path.families() {
        miss_an_address(Scene::without_edges(path, families).unwrap());
    }
}

fn miss_an_address(mut scene: Scene) {
    let [here, missing]: [IpAddr; 2] = [scene.static_ips()[0], scene.static_ips()[1]];
    let remove = format!("address del {missing}/{} dev lo\n", if missing.is_ipv4() { 32 } else { 128 });
    scene.lab.edges[0].namespace.ip(&remove).unwrap();
    scene.launch(1, CONFIG).unwrap();
    scene.launch(2, CONFIG).unwrap();
    scene.lab.wait_next_hops(&[missing], &[2], LIMIT).unwrap();
    wait_until("the reason in /status", LIMIT, || scene.edge(1).status().is_ok()).unwrap();
    let others: Vec<_> = scene.static_ips().into_iter().filter(|&ip| ip != missing).collect();
    scene.lab.wait_next_hops(&others, &[1, 2], LIMIT).unwrap();
    let value = |edge: &Edge, ip: IpAddr| edge.metrics().unwrap().value("landfall_announced", &[("static_ip", &ip.to_string())]);
    // The router knows before the edge has seen what BIRD made of its word.
    wait_until("the other address said to be announced", LIMIT, || value(scene.edge(1), here) == Some(1.0)).unwrap();
    assert_eq!(value(scene.edge(1), missing), Some(0.0));
    let entry = said(&mut scene, 1, missing);
    println!("missing on lo: {entry}");
    assert_eq!(entry["state"], "withdrawn");
    scene.assert_served();

    // The reason has the cure between backquotes.
    let reason = entry["reason"].as_str().unwrap();
    let cure = reason.split('`').nth(1).unwrap_or_else(|| panic!("no cure in {reason:?}"));
    scene.lab.edges[0].namespace.run(cure.split(' ')).unwrap();
    let took = scene.wait_announced(&[1, 2]).unwrap();
    println!("added to lo: announced after {took:.2?}");
    let report = scene.under_load("removed from lo again", |scene| {
        scene.lab.edges[0].namespace.ip(&remove).unwrap();
        let took = scene.lab.wait_next_hops(&[missing], &[2], LIMIT).unwrap();
        println!("removed from lo again: withdrawn after {took:.2?}");
        assert_eq!(scene.lab.next_hops(here).unwrap().len(), 2, "the other address stays");
    });
    let report = report.unwrap();
    // Sockets are deaf and dumb from the removal to the withdrawal; the program in the kernel serves what comes.
    let most = if scene.path == Path::Kernel { report.flows.len() } else { usize::MAX };
    assert!(report.lost() <= most, "more was lost than was in flight: {report}");
    let lost = report.flows.iter().filter(|flow| flow.target.ip() == here).map(Flow::lost).sum::<usize>();
    assert_eq!((lost, report.moved()), (0, 0), "the other address is served as before: {report}");
    scene.assert_served();
}

fn edges_that_reach_nothing_keep_the_addresses_announced(path: Path) {
    for &families in path.families() {
        isolate(Scene::without_edges(path, families).unwrap());
    }
}

fn isolate(mut scene: Scene) {
    scene.launch(1, CONFIG).unwrap();
    scene.launch(2, &CONFIG.replace(r#"isolated = "keep""#, r#"isolated = "deprefer""#)).unwrap();
    scene.wait_announced(&[1, 2]).unwrap();
    let before = scene.heard().unwrap();
    scene.assert_served();

    // Dropped where they arrive, so both edges are isolated from the same moment.
    let (a, b) = (&scene.lab.region_a, &scene.lab.region_b);
    let silence = [a, b].map(|region| region.namespace.drop_traffic_to_all(&region.addresses()).unwrap());
    let watch = DelayWatch::start(scene.edge(2).pid()).unwrap();
    let ip = scene.static_ips()[0];
    let state = |scene: &mut Scene, number| said(scene, number, ip)["state"].as_str().unwrap().to_owned();
    let took = wait_until("edge 2 depreferred", LIMIT, || state(&mut scene, 2) == "depreferred").unwrap();
    let delay = watch.so_far().unwrap();
    println!("isolated: depreferred after {took:.2?}, {delay}: {}", said(&mut scene, 2, ip));
    let bound = failover_bound(&scene.edge(2).config_path(), "both").unwrap();
    let allowed = bound + ISOLATED_HOLD + POLL + delay.stall;
    assert!(took >= ISOLATED_HOLD && took <= allowed, "after {took:?}, allowed {allowed:?}");
    // Edge 1 keeps, so the router prefers it. Edge 2's routes stay with the router: one replacement, no withdrawal.
    scene.wait_announced(&[1]).unwrap();
    assert_eq!(state(&mut scene, 1), "announced");
    let [first, second] = scene.heard().unwrap();
    assert_eq!(first, before[0], "keep: not one BGP update");
    let once_more = scene.in_served_families(Heard { updates: 2 + 2, withdraws: 0 });
    assert_eq!(second, once_more, "one update for each of two addresses");
    // With nobody better the depreferred edge is the one.
    scene.tell(1, &["drain"]).unwrap();
    scene.wait_announced(&[2]).unwrap();
    scene.tell(1, &["undrain"]).unwrap();
    scene.wait_announced(&[1]).unwrap();

    for rule in silence {
        rule.lift().unwrap();
    }
    let took = scene.wait_announced(&[1, 2]).unwrap();
    println!("endpoints back: both edges again after {took:.2?}");
    let withdraws: Vec<_> = scene.heard().unwrap()[1].map(|family| family.unwrap().withdraws).into();
    assert_eq!(withdraws, [0, 0], "edge 2 was never without a route");
    scene.assert_served();
}

fn a_ping_of_a_static_ip_is_answered_by_an_edge(path: Path) {
    for &families in path.families() {
        ping_edges(Scene::start(path, families).unwrap());
    }
}

fn ping_edges(mut scene: Scene) {
    // So that the program in the kernel is seen to be there, and leaves pings alone.
    scene.assert_served();
    ping_all(&scene, "two edges");
    scene.tell(1, &["drain"]).unwrap();
    scene.wait_announced(&[2]).unwrap();
    ping_all(&scene, "one edge");
}

fn ping_all(scene: &Scene, when: &str) {
    let sources: Vec<_> = scene.static_ips().into_iter().map(|ip| SocketAddr::new(ip, 0)).collect();
    let capture = Capture::start(&scene.lab.client, &sources).unwrap();
    for ip in scene.static_ips() {
        let told = scene.lab.client.run(["ping", "-c", "5", "-i", "0.02", "-W", "2", &ip.to_string()]).unwrap();
        assert!(told.contains(" 0% packet loss"), "{told}");
    }
    let wire = capture.stop().unwrap();
    println!("ping, {when}: {} answers from static IPs, {:?} from elsewhere", wire.pongs, wire.foreign);
    assert_eq!((wire.pongs, wire.foreign.len(), wire.missed), (5 * scene.static_ips().len(), 0, 0));
}
