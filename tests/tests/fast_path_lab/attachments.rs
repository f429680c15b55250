//! What takes packets and what no longer does: devices that come and go, endpoints behind those that cannot be attached, other edges, and the
//! ends of processes.

use landfall_tests::edge::Edge;
use landfall_tests::wait::wait_until;

use super::{LIMIT, Scene, Wanted, config, refused_by_the_host};

/// The kernel's link goes with a device, whatever comes under its name before anyone looks.
#[test]
fn a_device_that_is_made_anew_is_attached_anew() {
    let scene = Scene::new(Wanted::default());
    let make = || {
        for command in ["link add spare type veth peer name other", "link set spare up", "link set other up"] {
            scene.lab.edge.run(format!("ip {command}").split(' ')).unwrap();
        }
    };
    let taken = || scene.edge.log().lines().filter(|line| line.contains("takes packets") && line.contains("\"spare\"")).count();
    make();
    wait_until("the device attached", LIMIT, || taken() == 1).unwrap();
    scene.lab.edge.run(["ip", "link", "delete", "spare"]).unwrap();
    make();
    wait_until("the new device attached", LIMIT, || taken() == 2).unwrap();
}

/// A device that is down carries nothing, and its first packet when it is up again may come before anyone looks.
#[test]
fn a_device_that_was_down_for_a_while_serves_from_its_first_packet() {
    let scene = Scene::new(Wanted::default());
    let ip = |command: &str| scene.lab.edge.run(format!("ip {command}").split(' ')).unwrap();
    let mut flow = scene.flow(scene.target(0, 7000));
    flow.exchange(LIMIT).unwrap();
    ip("link set clients down");
    // What comes up later is attached: so somebody has looked meanwhile.
    ip("link add spare type veth peer name other");
    ip("link set spare up");
    scene.edge.wait_for_log("takes packets device=\"spare\"", LIMIT).unwrap();
    ip("link set clients up");
    ip("route add default via 198.18.1.2");
    flow.exchange(LIMIT).unwrap();
    scene.flow(scene.target(0, 7000)).exchange(LIMIT).unwrap();
    assert!(!scene.edge.log().contains("lost a device"), "{}", scene.edge.log());
}

/// An edge that hangs forwards by a table that nobody keeps; one that runs takes its packets back.
#[test]
fn the_programs_of_a_process_that_hangs_can_be_detached() {
    let scene = Scene::new(Wanted::default());
    let run = |what: &str| {
        let program = landfall_tests::programs::landfall().unwrap();
        scene.lab.edge.run([program.to_str().unwrap(), "fast-path", what]).unwrap()
    };
    let listed = run("list");
    let process = scene.edge.pid();
    assert_eq!(listed.matches(&format!("fast_path of process {process} at device ")).count(), 3, "{listed}");

    let mut flow = scene.flow(scene.target(0, 7000));
    flow.exchange(LIMIT).unwrap();
    scene.edge.signal(libc::SIGSTOP).unwrap();
    flow.exchange(LIMIT).unwrap();
    let detached = run("detach");
    assert_eq!(detached.lines().filter(|line| line.starts_with("detached fast_path of process ")).count(), 3, "{detached}");
    refused_by_the_host(&scene);
    assert_eq!(run("detach"), "nothing is attached\n");

    scene.edge.signal(libc::SIGCONT).unwrap();
    wait_until("the programs attached again", LIMIT, || run("list").lines().count() == 3).unwrap();
    flow.exchange(LIMIT).unwrap();
}

/// A device without Ethernet frames, as tunnels are: probes go on by it, replies to clients would be refused.
#[test]
fn an_endpoint_behind_a_device_that_cannot_be_attached_is_told_of() {
    let scene = Scene::new(Wanted::default());
    let endpoint = scene.endpoints[0].address().ip();
    let route = format!("ip route replace {endpoint}/32 dev tunnel");
    for command in ["ip tuntap add dev tunnel mode tun", "ip link set tunnel up", &route] {
        scene.lab.edge.run(command.split(' ')).unwrap();
    }
    let unheard = || scene.edge.status().unwrap()["fast_path"]["unheard"].clone();
    let told = serde_json::json!([{ "endpoint": "a", "device": "tunnel" }]);
    wait_until("the endpoint told of", LIMIT, || unheard() == told).unwrap();
    assert_eq!(scene.edge.metrics().unwrap().sum("landfall_fast_path_unheard_endpoint", &[("endpoint", "a")]), 1.0);
    let status = scene.ask(&["status"]).stdout;
    assert!(status.contains("replies of endpoint a are refused: they come by tunnel"), "{status}");

    // An edge that starts now does not choose the kernel.
    let ips = scene.endpoints.each_ref().map(|endpoint| endpoint.address().ip());
    let other = |edge: &'static str, listener: &'static str| {
        config(Wanted { edge, listener, ..scene.wanted }, ips).replace("ports = [7000", "ports = [8000").replace(":9900", ":9901")
    };
    let why = "endpoint a is reached by device tunnel, which packets are not taken from, so its replies would be refused";
    let auto = Edge::launch(Some(&scene.lab.edge), &other("fast_path = \"auto\"", "")).unwrap();
    wait_until("the reason", LIMIT, || auto.log().contains(&format!("forwarded in user space: {why}"))).unwrap();
    drop(auto);
    let mut on = Edge::launch(Some(&scene.lab.edge), &other("fast_path = \"on\"", "")).unwrap();
    assert_eq!(on.wait_exit(LIMIT).unwrap().code(), Some(1));
    assert!(on.log().contains(why), "{}", on.log());

    scene.lab.edge.run(["ip", "link", "delete", "tunnel"]).unwrap();
    wait_until("the endpoint heard again", LIMIT, || unheard() == serde_json::json!([])).unwrap();
}

#[test]
fn nothing_is_left_after_kill_9() {
    let mut scene = Scene::new(Wanted::default());
    scene.flow(scene.target(0, 7000)).exchange(LIMIT).unwrap();
    scene.edge.kill().unwrap();
    refused_by_the_host(&scene);
}

/// The second takes what comes for the first, and neither could tell by its packets.
#[test]
fn a_second_edge_on_a_host_is_warned_of_the_first() {
    let scene = Scene::new(Wanted::default());
    let ips = scene.endpoints.each_ref().map(|endpoint| endpoint.address().ip());
    let other = config(scene.wanted, ips).replace("ports = [7000, \"7100-7199\"]", "ports = [8000]").replace(":9900", ":9901");
    let edge = Edge::launch(Some(&scene.lab.edge), &other).unwrap();
    let said =
        "another process forwards in the kernel here: give the two edges static IPs, nat_addresses and nat_ports of their own";
    wait_until("the warning", LIMIT, || edge.log().contains(said)).unwrap();
    assert!(edge.log().contains(&scene.edge.pid().to_string()), "{}", edge.log());
    assert!(!scene.edge.log().contains(said), "the first was alone");
}
