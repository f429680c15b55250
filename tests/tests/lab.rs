//! The lab's own tests: what the other tests of the lab rely on.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use landfall_tests::clients::{Ending, TcpSession, UdpFlow, tcp_probe};
use landfall_tests::endpoints::{Endpoint, Mode, Spec};
use landfall_tests::lab::{DropRule, End, Lab, Namespace};
use landfall_tests::probers::Capture;
use landfall_tests::process::Process;
use landfall_tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(5);
/// Long enough for an answer that is there, short enough to wait for one that must not come.
const SILENCE: Duration = Duration::from_millis(150);

/// Two hosts and a cable.
fn pair() -> (Namespace, Namespace) {
    let (left, right) = (Namespace::new("left").unwrap(), Namespace::new("right").unwrap());
    let here = End { interface: "l0", addresses: &["198.18.9.1/24", "fd00:9::1/64"] };
    let there = End { interface: "r0", addresses: &["198.18.9.2/24", "fd00:9::2/64"] };
    left.connect(&here, &right, &there).unwrap();
    (left, right)
}

fn right_addresses() -> [IpAddr; 2] {
    ["198.18.9.2".parse().unwrap(), "fd00:9::2".parse().unwrap()]
}

fn any_port(address: IpAddr) -> SocketAddr {
    (address, 0).into()
}

fn wildcard(target: SocketAddr) -> SocketAddr {
    if target.is_ipv4() { "0.0.0.0:0".parse().unwrap() } else { "[::]:0".parse().unwrap() }
}

#[test]
fn a_link_carries_tcp_and_udp_over_both_families_at_once() {
    let (left, right) = pair();
    for address in right_addresses() {
        let endpoint = Endpoint::start(Some(&right), Spec::echo("east-1", any_port(address))).unwrap();
        // The very first packets must pass: no duplicate address detection, no carrier to wait for.
        let landing = left.enter(|| tcp_probe(endpoint.address(), LIMIT)).unwrap();
        assert_eq!(landing.endpoint, "east-1");
        let mut flow = left.enter(|| UdpFlow::open(wildcard(endpoint.address()), endpoint.address())).unwrap();
        for number in 0..3 {
            let echo = flow.exchange(LIMIT).unwrap();
            assert_eq!((echo.endpoint.as_str(), echo.number), ("east-1", number));
        }
    }
}

#[test]
fn namespaces_are_isolated_from_the_host_and_from_each_other() {
    let (left, right) = pair();
    let own = std::fs::metadata("/proc/self/ns/net").unwrap();
    let inodes = [left.inode().unwrap(), right.inode().unwrap(), std::os::unix::fs::MetadataExt::ino(&own)];
    assert_eq!(BTreeSet::from(inodes).len(), 3);
    assert!(left.run(["ip", "-o", "link"]).unwrap().contains("l0"));
    assert!(!right.run(["ip", "-o", "link"]).unwrap().contains("l0"));
    assert!(!std::fs::read_to_string("/proc/net/dev").unwrap().contains("l0:"));
}

#[test]
fn a_failed_command_says_where_what_and_why() {
    let namespace = Namespace::new("lonely").unwrap();
    let failure = namespace.run(["ip", "link", "set", "no-such-device", "up"]).unwrap_err().to_string();
    for part in ["lonely", "ip link set no-such-device up", "Cannot find device"] {
        assert!(failure.contains(part), "{part:?} is missing in: {failure}");
    }
}

#[test]
fn dropped_traffic_is_silent_and_passes_again_when_the_guard_goes() {
    let (left, right) = pair();
    for address in right_addresses() {
        let endpoint = Endpoint::start(Some(&right), Spec::echo("mute", any_port(address))).unwrap();
        let mut flow = left.enter(|| UdpFlow::open(wildcard(endpoint.address()), endpoint.address())).unwrap();
        flow.exchange(LIMIT).unwrap();

        let rule: DropRule = right.drop_traffic_to(address).unwrap();
        flow.send().expect("the sender is not told");
        assert_eq!(flow.receive(SILENCE).unwrap(), None);
        let failure = left.enter(|| tcp_probe(endpoint.address(), SILENCE)).unwrap_err().to_string();
        assert!(failure.contains("timed out"), "a silent host neither answers nor refuses: {failure}");

        rule.lift().unwrap();
        flow.exchange(LIMIT).unwrap();
        drop(right.drop_traffic_to(address).unwrap());
        flow.exchange(LIMIT).unwrap();
        assert_eq!(right.run(["nft", "list", "tables"]).unwrap(), "", "no rule stays behind");
    }
}

#[test]
fn the_first_light_lab_joins_client_edge_and_regions() {
    let lab = Lab::first_light().unwrap();
    for region in [&lab.region_a, &lab.region_b] {
        for address in region.addresses() {
            let endpoint = Endpoint::start(Some(&region.namespace), Spec::echo("far", any_port(address))).unwrap();
            lab.edge.enter(|| tcp_probe(endpoint.address(), LIMIT)).unwrap();
        }
    }
    // What the client reaches on a static IP is the edge, and nothing is forwarded past it.
    for address in
        landfall_tests::lab::STATIC_IPV4.map(IpAddr::V4).into_iter().chain(landfall_tests::lab::STATIC_IPV6.map(IpAddr::V6))
    {
        let service = Endpoint::start(Some(&lab.edge), Spec::echo("edge", any_port(address))).unwrap();
        lab.client.enter(|| tcp_probe(service.address(), LIMIT)).unwrap();
        let mut flow = lab.client.enter(|| UdpFlow::open(wildcard(service.address()), service.address())).unwrap();
        flow.exchange(LIMIT).unwrap();
    }
    let endpoint =
        Endpoint::start(Some(&lab.region_a.namespace), Spec::echo("a", any_port(lab.region_a.ipv4(0).into()))).unwrap();
    lab.client.enter(|| tcp_probe(endpoint.address(), SILENCE)).unwrap_err();

    let mut flow = lab.edge.enter(|| UdpFlow::open("0.0.0.0:0".parse().unwrap(), endpoint.address())).unwrap();
    let silence = lab.silence(&lab.region_a).unwrap();
    flow.send().unwrap();
    assert_eq!(flow.receive(SILENCE).unwrap(), None);
    silence.lift().unwrap();
    flow.exchange(LIMIT).unwrap();
}

#[test]
fn a_killed_endpoint_refuses_and_a_frozen_one_only_accepts() {
    let (left, right) = pair();
    let mut endpoint = Endpoint::start(Some(&right), Spec::echo("mortal", any_port(right_addresses()[0]))).unwrap();
    let target = endpoint.address();
    let mut session = left.enter(|| TcpSession::open(None, target, LIMIT)).unwrap();

    endpoint.freeze().unwrap();
    session.stream().set_read_timeout(Some(SILENCE)).unwrap();
    session.exchange(b"anybody there?").unwrap_err();
    endpoint.thaw().unwrap();

    assert_eq!(endpoint.kill().unwrap().signal(), Some(libc::SIGKILL));
    session.wait_end(LIMIT).unwrap();
    let failure = left.enter(|| tcp_probe(target, LIMIT)).unwrap_err().to_string();
    assert!(failure.contains("refused"), "{failure}");

    endpoint.restart(Some(&right)).unwrap();
    assert_eq!(endpoint.address(), target);
    left.enter(|| tcp_probe(target, LIMIT)).unwrap();
}

#[test]
fn endpoints_do_what_their_mode_says() {
    let (left, right) = pair();
    let at = any_port(right_addresses()[1]);
    let open = |mode| {
        let endpoint = Endpoint::start(Some(&right), Spec::echo("moody", at).mode(mode)).unwrap();
        let session = left.enter(|| TcpSession::open(None, endpoint.address(), LIMIT)).unwrap();
        assert_eq!(session.endpoint, "moody");
        (endpoint, session)
    };

    let (_endpoint, mut session) = open(Mode::Identity);
    assert_eq!(session.wait_end(LIMIT).unwrap().0, Ending::Closed);

    let (_endpoint, mut session) = open(Mode::Count);
    session.stream().write_all(&[1; 100_000]).unwrap();
    assert_eq!(session.finish().unwrap(), b"100000\n");

    let (_endpoint, mut session) = open(Mode::Abort { after: 10 });
    session.stream().write_all(&[1; 10]).unwrap();
    assert_eq!(session.wait_end(LIMIT).unwrap().0, Ending::Reset);

    let (_endpoint, session) = open(Mode::Slow { rate: 1000 });
    session.stream().set_nonblocking(true).unwrap();
    let block = vec![1; 1 << 20];
    wait_until("the sender held back", LIMIT, || session.stream().write(&block).is_err()).unwrap();
}

#[test]
fn a_capture_tells_the_asked_address_from_any_other() {
    let (left, right) = pair();
    for (asked, other) in [right_addresses(), [right_addresses()[1], right_addresses()[0]]].map(|[a, b]| (any_port(a), b)) {
        let endpoint = Endpoint::start(Some(&right), Spec::echo("seen", asked)).unwrap();
        let probe_under = |source: IpAddr| {
            let capture = Capture::start(&left, &[any_port(source)]).unwrap();
            left.enter(|| tcp_probe(endpoint.address(), LIMIT)).unwrap();
            capture.stop().unwrap()
        };
        let wire = probe_under(asked.ip());
        assert!(wire.packets > 2 && wire.foreign.is_empty() && wire.missed == 0, "{wire:?}");
        let wire = probe_under(other);
        assert_eq!(wire.packets, 0, "{wire:?}");
        assert!(matches!(wire.foreign[..], [(from, 3..)] if from == endpoint.address()), "{wire:?}");
    }
}

/// Where the children of a child test are told what to do. See [`a_dying_test_process`].
const DEATH: &str = "LANDFALL_LAB_TEST_DEATH";

/// Not a test by itself: the process that the next two tests start and see die with a lab in its hands.
#[test]
fn a_dying_test_process() {
    let Ok(death) = std::env::var(DEATH) else { return };
    let lab = Lab::first_light().unwrap();
    let endpoint = Endpoint::start(Some(&lab.edge), Spec::echo("orphan", any_port("127.0.0.1".parse().unwrap()))).unwrap();
    let _rule = lab.edge.drop_traffic_to("198.18.2.2".parse().unwrap()).unwrap();
    println!("alive {} {}", endpoint.process().pid(), lab.edge.inode().unwrap());
    std::io::stdin().read_line(&mut String::new()).unwrap();
    assert_eq!(death, "killed", "a panic, as told");
}

/// Starts the process above and returns it with the id of its endpoint and the number of its edge's namespace.
fn dying_test_process(death: &str) -> (Process, u32, u64) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_dying_test_process", "--nocapture", "--test-threads=1"]).env(DEATH, death);
    let process = Process::spawn_with_stdin(None, command).unwrap();
    let line = process.wait_for_line("alive ", LIMIT).unwrap();
    let mut words = line.split("alive ").nth(1).unwrap().split(' ');
    let (pid, inode) = (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap());
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    assert!(namespaces_in_use().contains(&inode));
    (process, pid, inode)
}

/// The numbers of all network namespaces that a thread lives in or a descriptor holds open.
fn namespaces_in_use() -> BTreeSet<u64> {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found = BTreeSet::new();
    for process in entries(Path::new("/proc")) {
        let threads = entries(&process.join("task")).map(|thread| thread.join("ns/net"));
        for link in threads.chain(entries(&process.join("fd"))) {
            let target = std::fs::read_link(link).unwrap_or_default();
            let number = target.to_str().and_then(|target| target.strip_prefix("net:[")?.strip_suffix(']'));
            found.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
    }
    found
}

fn assert_gone(pid: u32, inode: u64) {
    wait_until("the endpoint's end", LIMIT, || !Path::new(&format!("/proc/{pid}")).exists()).unwrap();
    wait_until("the namespace's end", LIMIT, || !namespaces_in_use().contains(&inode)).unwrap();
}

#[test]
fn a_panic_leaves_no_process_and_no_namespace_behind() {
    let (mut process, pid, inode) = dying_test_process("panic");
    process.take_stdin().unwrap().write_all(b"now\n").unwrap();
    let status = process.wait_exit(LIMIT).unwrap();
    assert!(!status.success() && process.stderr().contains("a panic, as told"), "{}", process.stderr());
    assert_gone(pid, inode);
}

#[test]
fn a_kill_leaves_no_process_and_no_namespace_behind() {
    let (mut process, pid, inode) = dying_test_process("killed");
    process.kill().unwrap();
    assert_gone(pid, inode);
}

#[test]
fn a_dropped_lab_leaves_nothing_behind() {
    let lab = Lab::first_light().unwrap();
    let inode = lab.edge.inode().unwrap();
    let endpoint = Endpoint::start(Some(&lab.edge), Spec::echo("brief", any_port("127.0.0.1".parse().unwrap()))).unwrap();
    let pid = endpoint.process().pid();
    drop(lab);
    assert!(namespaces_in_use().contains(&inode), "the endpoint still lives in it");
    drop(endpoint);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "a dropped guard has reaped its process");
    assert_gone(pid, inode);
}
