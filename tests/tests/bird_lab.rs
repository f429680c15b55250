//! The lab of two edges by itself, without `landfall`: what BIRD does with the files in `deploy/bird` when their static protocols
//! are switched by hand. A test endpoint on the static IPs stands for the edge.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use landfall_tests::clients::tcp_probe;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::lab::{AnycastLab, Heard, Lab, STATIC_IPV4, STATIC_IPV6, Site};
use landfall_tests::process::Process;
use landfall_tests::stalls::StallWatch;
use landfall_tests::wait::{self, wait_until};

const LIMIT: Duration = Duration::from_secs(5);
/// BFD in the files: 200 ms × 3, and what the router's BIRD and kernel need then.
const BFD: Duration = Duration::from_millis(600 + 100);
const DEVICE_UP: &str = "tuntap add dev landfall0 mode tun\nlink set landfall0 up\n";
const DEVICE_GONE: &str = "tuntap del dev landfall0 mode tun\n";

fn static_ips() -> Vec<IpAddr> {
    STATIC_IPV4.map(IpAddr::V4).into_iter().chain(STATIC_IPV6.map(IpAddr::V6)).collect()
}

/// Gives `command` (enable, disable) for all static IPs of a site; `suffix` chooses the depreferred ones.
fn switch(site: &Site, command: &str, suffix: &str) {
    for number in 1..=4 {
        site.bird.command(&format!("{command} landfall_{number}{suffix}")).unwrap();
    }
}

fn expect(lab: &AnycastLab, edges: &[u8]) -> Duration {
    lab.wait_next_hops(&static_ips(), edges, LIMIT).unwrap()
}

fn serve(site: &Site) -> Vec<Endpoint> {
    let spec = |ip| Spec::echo(site.namespace.name(), (ip, 7000));
    static_ips().into_iter().map(|ip| Endpoint::start(Some(&site.namespace), spec(ip)).unwrap()).collect()
}

/// How many of 64 connections to `ip` each edge answered.
fn shares(lab: &AnycastLab, ip: IpAddr) -> [usize; 2] {
    let landings: Vec<_> = lab.client.enter(|| (0..64).map(|_| tcp_probe((ip, 7000), LIMIT).unwrap().endpoint).collect());
    ["edge-1", "edge-2"].map(|name| landings.iter().filter(|landing| *landing == name).count())
}

#[test]
fn routes_follow_protocols_devices_links_and_life() {
    let stalls = StallWatch::start();
    let begin = wait::now();
    let lab = Lab::anycast().unwrap();
    println!("lab built, sessions up: {:?}", begin.elapsed());
    let _services = lab.edges.each_ref().map(serve);
    let [first, second] = &lab.edges;

    // Enabled without the device there is nothing to announce; with the device and disabled neither.
    switch(first, "enable", "");
    second.namespace.ip(DEVICE_UP).unwrap();
    assert_eq!(first.bird.state("landfall_1").unwrap(), "up");
    assert_eq!(second.bird.state("landfall_1").unwrap(), "down");
    for site in &lab.edges {
        assert_eq!(lab.heard(site).unwrap(), [Some(Heard { updates: 0, withdraws: 0 }); 2]);
    }
    expect(&lab, &[]);

    first.namespace.ip(DEVICE_UP).unwrap();
    expect(&lab, &[1]);
    assert_eq!(shares(&lab, static_ips()[0]), [64, 0]);
    switch(second, "enable", "");
    expect(&lab, &[1, 2]);
    for ip in static_ips() {
        let shares = shares(&lab, ip);
        assert!(shares.iter().all(|share| *share >= 8), "{ip}: the router spreads connections by their ports: {shares:?}");
    }

    // First the lower one in addition, then without the normal one: never without a route.
    switch(first, "enable", "_low");
    switch(first, "disable", "");
    expect(&lab, &[2]);
    assert_eq!(lab.heard(first).unwrap(), [Some(Heard { updates: 4, withdraws: 0 }); 2], "replaced, never withdrawn");
    assert_eq!(shares(&lab, static_ips()[3]), [0, 64]);
    switch(second, "disable", "");
    expect(&lab, &[1]);
    switch(second, "enable", "_low");
    expect(&lab, &[1, 2]);
    switch(first, "enable", "");
    switch(second, "enable", "");
    expect(&lab, &[1, 2]);

    // The device goes as it does when the process that holds it dies.
    first.namespace.ip(DEVICE_GONE).unwrap();
    println!("device gone: the router knew after {:?}", expect(&lab, &[2]));
    first.namespace.ip(DEVICE_UP).unwrap();
    expect(&lab, &[1, 2]);

    second.cut_link().unwrap();
    println!("link cut: the router knew after {:?}", expect(&lab, &[1]));
    second.mend_link().unwrap();
    println!("link mended: the router knew after {:?}", expect(&lab, &[1, 2]));
    lab.wait_sessions(second).unwrap();

    let frozen = wait::now();
    first.bird.process().signal(libc::SIGSTOP).unwrap();
    let took = expect(&lab, &[2]);
    let allowed = BFD + stalls.longest_since(frozen);
    println!("BIRD frozen: the router knew after {took:?}, allowed {allowed:?}");
    assert!(took <= allowed, "BFD took {took:?}, not {allowed:?}");
    first.bird.process().signal(libc::SIGCONT).unwrap();
    println!("BIRD thawed: the router knew after {:?}", expect(&lab, &[1, 2]));
}

#[test]
fn a_restarted_bird_announces_nothing_by_itself() {
    let mut lab = Lab::anycast().unwrap();
    for site in &lab.edges {
        site.namespace.ip(DEVICE_UP).unwrap();
        switch(site, "enable", "");
    }
    expect(&lab, &[1, 2]);
    lab.edges[0].bird.stop().unwrap();
    expect(&lab, &[2]);
    lab.edges[0].bird.start_again().unwrap();
    lab.wait_sessions(&lab.edges[0]).unwrap();
    assert_eq!(lab.heard(&lab.edges[0]).unwrap(), [Some(Heard { updates: 0, withdraws: 0 }); 2]);
    let socket = lab.edges[0].bird.socket();
    let pid = lab.edges[0].bird.process().pid();
    drop(lab);
    assert!(!socket.exists());
    wait_until("BIRD's end", LIMIT, || !Path::new(&format!("/proc/{pid}")).exists()).unwrap();
}

/// Where the child test is told that it is one. See [`a_test_process_with_a_bird`].
const CHILD: &str = "LANDFALL_LAB_TEST_BIRD";

/// Not a test by itself: the process that the next test starts and kills.
#[test]
fn a_test_process_with_a_bird() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let lab = Lab::anycast().unwrap();
    println!("alive {}", lab.edges[0].bird.process().pid());
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn a_killed_test_process_takes_its_bird_along() {
    // What it cannot remove itself goes with this directory.
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "a_test_process_with_a_bird", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .env("TMPDIR", directory.path());
    let mut process = Process::spawn_with_stdin(None, command).unwrap();
    let line = process.wait_for_line("alive ", Duration::from_secs(20)).unwrap();
    let bird = format!("/proc/{}", line.rsplit(' ').next().unwrap());
    assert!(std::fs::read_to_string(format!("{bird}/comm")).unwrap().starts_with("bird"));
    process.kill().unwrap();
    wait_until("BIRD's end", LIMIT, || !Path::new(&bird).exists()).unwrap();
}
