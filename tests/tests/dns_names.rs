//! Endpoints by DNS name, with dnsmasq as the server: addresses come, change, stay when the server dies, and go.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use landfall_tests::clients::{UdpFlow, tcp_probe};
use landfall_tests::command::landfall;
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::loopback::{config_head, own_address};
use landfall_tests::process::Process;
use landfall_tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(20);
const PORT: u16 = 7000;
const HOST: &str = "game.landfall.test";

/// dnsmasq with one name, whose addresses are in a hosts file, for one second at a time.
struct NameServer {
    address: SocketAddr,
    directory: tempfile::TempDir,
    process: Process,
}

impl NameServer {
    fn start(addresses: &[Ipv4Addr]) -> Self {
        let directory = tempfile::Builder::new().prefix("landfall-dns-").tempdir().unwrap();
        let address = SocketAddr::from((own_address(), 5353));
        let hosts = directory.path().join("hosts");
        write_hosts(&hosts, addresses);
        let process = Self::run(address, &hosts);
        Self { address, directory, process }
    }

    fn run(address: SocketAddr, hosts: &std::path::Path) -> Process {
        let mut command = Command::new("/usr/sbin/dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--conf-file=/dev/null",
            "--local-ttl=1",
        ]);
        command.args(["--local=/landfall.test/", "--log-facility=-", "--user=root", "--pid-file="]);
        command.arg(format!("--listen-address={}", address.ip())).arg(format!("--port={}", address.port()));
        command.arg(format!("--addn-hosts={}", hosts.display()));
        let process = Process::spawn(None, command).unwrap();
        wait_until("dnsmasq", LIMIT, || process.stderr().contains("started")).unwrap();
        process
    }

    fn hosts(&self) -> PathBuf {
        self.directory.path().join("hosts")
    }

    fn now(&self, addresses: &[Ipv4Addr]) {
        write_hosts(&self.hosts(), addresses);
        self.process.signal(libc::SIGHUP).unwrap();
    }
}

fn write_hosts(path: &std::path::Path, addresses: &[Ipv4Addr]) {
    let lines: String = addresses.iter().map(|address| format!("{address} {HOST}\n")).collect();
    std::fs::write(path, lines).unwrap();
}

struct Scene {
    edge: Edge,
    names: NameServer,
    target: SocketAddr,
    endpoints: [Endpoint; 3],
}

impl Scene {
    /// Three endpoints; the name leads to the first two.
    fn new() -> Self {
        let static_ip = own_address();
        let endpoints = ["a", "b", "c"].map(|name| Endpoint::start(None, Spec::echo(name, (own_address(), PORT))).unwrap());
        let names = NameServer::start(&[ip(&endpoints[0]), ip(&endpoints[1])]);
        let text = format!(
            "{}resolvers = [\"{}\"]\n[[listeners]]\nname = \"l\"\nprotocol = \"tcp_udp\"\nports = [{PORT}]\nendpoint_groups = [\"g\"]\n\
             [[endpoint_groups]]\nname = \"g\"\nhealth_check = {{ protocol = \"tcp\", interval = \"200ms\", timeout = \"200ms\" }}\n\
             endpoints = [{{ name = \"game\", address = \"{HOST}\", weight = 100 }}]\n",
            config_head(&[static_ip], "drain_timeout = \"1s\"\n"),
            names.address,
        );
        Self { edge: Edge::start(None, &text).unwrap(), names, target: (static_ip, PORT).into(), endpoints }
    }

    fn landings(&self) -> BTreeSet<String> {
        (0..48).map(|_| tcp_probe(self.target, LIMIT).unwrap().endpoint).collect()
    }

    /// Names and weights of what the edge serves.
    fn endpoints(&self) -> BTreeSet<(String, u64)> {
        let status = self.edge.status().unwrap();
        let endpoints = status["endpoint_groups"][0]["endpoints"].as_array().unwrap();
        let present = endpoints.iter().filter(|endpoint| endpoint["retired"] == false);
        present.map(|endpoint| (endpoint["name"].as_str().unwrap().to_owned(), endpoint["weight"].as_u64().unwrap())).collect()
    }

    fn expected(&self, which: &[usize], weight: u64) -> BTreeSet<(String, u64)> {
        which.iter().map(|&index| (format!("game#{}", ip(&self.endpoints[index])), weight)).collect()
    }

    fn ask(&self, words: &[&str]) -> String {
        let control = self.edge.directory().join("control.sock");
        let ended = landfall(words.iter().copied().chain(["--control", control.to_str().unwrap()])).unwrap();
        assert_eq!(ended.status, Some(0), "{ended:?}");
        ended.stdout
    }
}

fn ip(endpoint: &Endpoint) -> Ipv4Addr {
    match endpoint.address() {
        SocketAddr::V4(address) => *address.ip(),
        SocketAddr::V6(_) => panic!("all of them are IPv4"),
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn addresses_come_change_and_survive_the_server() {
    let mut scene = Scene::new();
    // Ready means looked up and probed: nothing to wait for.
    assert_eq!(scene.endpoints(), scene.expected(&[0, 1], 100));
    assert_eq!(scene.landings(), set(&["a", "b"]));
    let mut flow = UdpFlow::open((own_address(), 0).into(), scene.target).unwrap();
    let pinned = flow.exchange(LIMIT).unwrap().endpoint;
    let stays = if pinned == "a" { 0 } else { 1 };

    // One address stays, one goes, one comes; the flow of the one that stays knows nothing of it.
    scene.names.now(&[ip(&scene.endpoints[stays]), ip(&scene.endpoints[2])]);
    wait_until("the new set", LIMIT, || scene.endpoints() == scene.expected(&[stays, 2], 100)).unwrap();
    let c = format!("game#{}", ip(&scene.endpoints[2]));
    wait_until("the new one healthy", LIMIT, || scene.edge.health(&c).unwrap().as_deref() == Some("healthy")).unwrap();
    assert_eq!(scene.landings(), set(&[&pinned, "c"]));
    assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, pinned);
    assert_eq!(scene.edge.metrics().unwrap().sum("landfall_flows_moved_total", &[]), 0.0);

    // The server dies: the last good set goes on, and everyone can see why.
    scene.names.process.kill().unwrap();
    let failed = || scene.edge.metrics().unwrap().sum("landfall_dns_lookups_total", &[("name", HOST), ("result", "failed")]);
    wait_until("a failed lookup", LIMIT, || failed() > 0.0).unwrap();
    assert_eq!(scene.endpoints(), scene.expected(&[stays, 2], 100));
    assert_eq!(scene.landings(), set(&[&pinned, "c"]));
    let status = scene.edge.status().unwrap();
    assert_eq!(status["ready"], true);
    let shown = &status["dns_names"][0];
    assert_eq!((&shown["name"], shown["addresses"].as_array().unwrap().len()), (&HOST.into(), 2));
    assert!(shown["error"].is_string(), "{status:#}");
    assert_eq!(scene.edge.metrics().unwrap().value("landfall_dns_addresses", &[("name", HOST)]), Some(2.0));

    // Back, with another answer.
    write_hosts(&scene.names.hosts(), &[ip(&scene.endpoints[2])]);
    scene.names.process = NameServer::run(scene.names.address, &scene.names.hosts());
    wait_until("the set after the return", LIMIT, || scene.endpoints() == scene.expected(&[2], 100)).unwrap();
    // An address that has left drains, then its flows move.
    wait_until("the move of the flow", LIMIT, || flow.exchange(LIMIT).unwrap().endpoint == "c").unwrap();

    // A name that has no address any more is a failure like any other.
    scene.names.now(&[]);
    wait_until("the empty answer", LIMIT, || {
        scene.edge.status().unwrap()["dns_names"][0]["error"].as_str().is_some_and(|error| error.contains("no address"))
    })
    .unwrap();
    assert_eq!(scene.landings(), set(&["c"]));
}

#[test]
fn an_order_to_a_name_is_for_all_its_addresses_later_ones_too() {
    let scene = Scene::new();
    let done = scene.ask(&["weight", "game", "7"]);
    assert!(done.contains("endpoint game has weight 7"), "{done}");
    assert_eq!(scene.endpoints(), scene.expected(&[0, 1], 7));
    scene.names.now(&[ip(&scene.endpoints[1]), ip(&scene.endpoints[2])]);
    wait_until("the new set", LIMIT, || scene.endpoints() == scene.expected(&[1, 2], 7)).unwrap();
    let one = format!("game#{}", ip(&scene.endpoints[2]));
    scene.ask(&["weight", &one, "0"]);
    assert_eq!(scene.landings(), set(&["b"]), "and one address can be named too");
    let shown = scene.ask(&["status", "--history"]);
    assert!(shown.contains(&format!("DNS name {HOST}: ")) && shown.contains("unknown -> healthy, good"), "{shown}");
}

#[test]
fn a_name_that_leads_nowhere_does_not_keep_the_edge_from_being_ready() {
    let static_ip = own_address();
    let endpoint = Endpoint::start(None, Spec::echo("other", (own_address(), PORT))).unwrap();
    let names = NameServer::start(&[]);
    let text = format!(
        "{}resolvers = [\"{}\"]\n[[listeners]]\nname = \"l\"\nprotocol = \"tcp\"\nports = [{PORT}]\nendpoint_groups = [\"g\", \"h\"]\n\
         [[endpoint_groups]]\nname = \"g\"\nendpoints = [{{ name = \"game\", address = \"nowhere.landfall.test:{PORT}\" }}]\n\
         [[endpoint_groups]]\nname = \"h\"\nendpoints = [{{ name = \"other\", address = \"{}\" }}]\n",
        config_head(&[static_ip], ""),
        names.address,
        endpoint.address().ip(),
    );
    let edge = Edge::start(None, &text).unwrap();
    assert_eq!(tcp_probe(SocketAddr::from((static_ip, PORT)), LIMIT).unwrap().endpoint, "other");
    assert!(edge.log().contains("cannot look up a DNS name"), "{}", edge.log());
}
