//! One edge and a real BIRD: what is announced when, and what happens when either of them dies.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::lab::{DropRule, End, Namespace};
use landfall_tests::process::Process;
use landfall_tests::wait::{now, wait_for, wait_until};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(20);
/// Within which a route must be gone, and a change of BIRD's noticed.
const SECOND: Duration = Duration::from_secs(1);
const SHUTDOWN_WAIT: Duration = Duration::from_millis(500);
const ENDPOINT: &str = "198.18.9.1";
const PORT: u16 = 7000;

const V4: &str = "198.18.0.1/32 landfall_1";
const V4_LOW: &str = "198.18.0.1/32 landfall_1_low";
const V6: &str = "fd00:18::1/128 landfall_2";

/// BIRD's file. `disabled` stands where the protocols begin as such.
fn bird_config(disabled: &str) -> String {
    format!(
        "router id 192.0.2.1;\nprotocol device {{ scan time 1; }}\n\
         protocol static landfall_1 {{ {disabled} ipv4; route 198.18.0.1/32 via \"landfall0\"; }}\n\
         protocol static landfall_1_low {{ disabled; ipv4 {{ import filter {{ preference = 50; bgp_community.add((65535, 0)); accept; }}; }};\n\
         route 198.18.0.1/32 via \"landfall0\"; }}\n\
         protocol static landfall_2 {{ {disabled} ipv6; route fd00:18::1/128 via \"landfall0\"; }}\n"
    )
}

struct Scene {
    host: Namespace,
    directory: TempDir,
    bird: Option<Process>,
}

impl Scene {
    fn new(disabled: &str) -> Self {
        let host = Namespace::new("edge").unwrap();
        host.ip(&format!("address add {ENDPOINT}/32 dev lo\n")).unwrap();
        let directory = tempfile::Builder::new().prefix("landfall-bird-").tempdir().unwrap();
        std::fs::write(directory.path().join("bird.conf"), bird_config(disabled)).unwrap();
        Self { host, directory, bird: None }
    }

    /// As usual: both addresses are there, and BIRD runs.
    fn whole(disabled: &str) -> Self {
        let mut scene = Self::new(disabled);
        scene.add_addresses();
        scene.start_bird();
        scene
    }

    fn add_addresses(&self) {
        self.host.ip("address add 198.18.0.1/32 dev lo\naddress add fd00:18::1/128 dev lo nodad\n").unwrap();
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn start_bird(&mut self) {
        let mut command = Command::new("bird");
        command.arg("-f").arg("-c").arg(self.path("bird.conf")).arg("-s").arg(self.path("bird.ctl"));
        command.arg("-P").arg(self.path("bird.pid"));
        self.bird = Some(self.host.spawn(command).unwrap());
        wait_until("BIRD's control socket", LIMIT, || UnixStream::connect(self.path("bird.ctl")).is_ok()).unwrap();
    }

    fn endpoint(&self) -> Endpoint {
        let spec = Spec::echo("e", (ENDPOINT.parse::<std::net::Ipv4Addr>().unwrap(), PORT));
        Endpoint::start(Some(&self.host), spec).unwrap()
    }

    fn config(&self, keys: &str) -> String {
        format!(
            "name = \"bird\"\nstatic_ips = [\"198.18.0.1\", \"fd00:18::1\"]\nhash_seed = 7\n\
             [edge]\nname = \"here\"\nworkers = 1\nadmin = \"127.0.0.1:9900\"\ncontrol = \"{{dir}}/control.sock\"\ndrain_timeout = \"1s\"\n\
             [anycast]\nspeaker = \"bird\"\nbird_socket = \"{}\"\n\
             bird_protocols = {{ \"198.18.0.1\" = \"landfall_1\", \"fd00:18::1\" = \"landfall_2\" }}\n\
             bird_deprefer = {{ \"198.18.0.1\" = \"landfall_1_low\" }}\nshutdown_wait = \"{}ms\"\n{keys}\n\
             [[listeners]]\nname = \"t\"\nprotocol = \"tcp\"\nports = [{PORT}]\nendpoint_groups = [\"g\"]\n\
             [[endpoint_groups]]\nname = \"g\"\nendpoints = [{{ name = \"e\", address = \"{ENDPOINT}\" }}]\n\
             health_check = {{ protocol = \"tcp\", interval = \"100ms\", timeout = \"100ms\" }}\n",
            self.path("bird.ctl").display(),
            SHUTDOWN_WAIT.as_millis(),
        )
    }

    fn launch(&self) -> Edge {
        Edge::launch(Some(&self.host), &self.config("")).unwrap()
    }

    /// With an endpoint more, which does not answer: the edge is not ready before the timeout of its probe, a second.
    fn launch_with_a_silent_endpoint(&self) -> (Edge, DropRule) {
        let void = Namespace::new("void").unwrap();
        let here = End { interface: "void", addresses: &["198.18.8.1/24"] };
        self.host.connect(&here, &void, &End { interface: "uplink", addresses: &["198.18.8.2/24"] }).unwrap();
        let silence = void.drop_traffic_to("198.18.8.2".parse().unwrap()).unwrap();
        let endpoint = "{ name = \"silent\", address = \"198.18.8.2\" }, { name = \"e\"";
        let text = self.config("").replace("{ name = \"e\"", endpoint).replace("\"100ms\"", "\"1s\"");
        (Edge::launch(Some(&self.host), &text).unwrap(), silence)
    }

    /// Waits until the edge is ready, and looks at BIRD's routes meanwhile: how often.
    fn no_route_before_ready(&self, edge: &Edge) -> usize {
        let ready = || edge.get("/readyz").is_ok_and(|answer| answer.status == 200);
        let mut looks = 0;
        wait_until("the edge ready", LIMIT, || {
            if ready() {
                return true;
            }
            let routes = self.routes();
            // What was there in between was there too early.
            let still = !ready();
            assert!(!still || routes.is_empty(), "not ready, and announced: {routes:?}");
            looks += 1;
            !still
        })
        .unwrap();
        looks
    }

    /// What BIRD answers.
    fn ask(&self, line: &str) -> Vec<String> {
        ask(&self.path("bird.ctl"), line).unwrap_or_default()
    }

    /// The routes that BIRD would announce, each with its protocol.
    fn routes(&self) -> Vec<String> {
        let route = |line: &String| {
            let mut words = line.trim_start_matches(['-', ' ']).split_ascii_whitespace();
            let (prefix, protocol) = (words.next()?, words.nth(1)?.strip_prefix('[')?);
            prefix.contains('/').then(|| format!("{prefix} {protocol}"))
        };
        self.ask("show route primary").iter().filter_map(route).collect()
    }

    fn wait_routes(&self, expected: &[&str]) -> Duration {
        let waited = wait_until(&format!("the routes {expected:?}"), LIMIT, || self.routes() == expected);
        waited.unwrap_or_else(|failure| panic!("{failure}; they are {:?}", self.routes()))
    }

    /// What stands in BIRD's table since when: it differs after any change.
    fn moments(&self) -> Vec<String> {
        self.ask("show route all").into_iter().filter(|line| line.contains('[')).collect()
    }

    fn command(&self, edge: &Edge, word: &str) {
        let control = edge.directory().join("control.sock");
        let program = landfall_tests::programs::landfall().unwrap();
        self.host.run([program.as_os_str(), word.as_ref(), "--control".as_ref(), control.as_os_str()]).unwrap();
    }
}

fn ask(socket: &Path, line: &str) -> std::io::Result<Vec<String>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    let mut answer = Vec::new();
    for line in BufReader::new(stream).lines().skip(1) {
        let line = line?;
        let last = line.as_bytes().get(4) == Some(&b' ') && line[..4].bytes().all(|byte| byte.is_ascii_digit());
        answer.push(if line.starts_with(' ') { line } else { line.get(4..).unwrap_or_default().to_owned() });
        if last {
            break;
        }
    }
    Ok(answer)
}

fn said(edge: &Edge, index: usize) -> (String, String) {
    let status = edge.status().unwrap();
    let ip = &status["anycast"]["static_ips"][index];
    (ip["state"].as_str().unwrap().to_owned(), ip["reason"].as_str().unwrap().to_owned())
}

#[test]
fn nothing_is_announced_before_the_edge_is_ready_and_all_ends_in_order() {
    let scene = Scene::whole("disabled;");
    let _endpoint = scene.endpoint();
    let (mut edge, _silence) = scene.launch_with_a_silent_endpoint();
    let looks = scene.no_route_before_ready(&edge);
    assert!(looks > 10, "{looks} looks while the edge was not ready");
    scene.wait_routes(&[V4, V6]);
    let announced = || edge.status().unwrap()["announced"].as_array().unwrap().len() == 2;
    wait_until("the announcements in /status", LIMIT, announced).unwrap();
    let begin = now();
    edge.signal(libc::SIGTERM).unwrap();
    let stepped = scene.wait_routes(&[V4_LOW]);
    let withdrawn = stepped + scene.wait_routes(&[]);
    assert!(withdrawn >= SHUTDOWN_WAIT, "the step back lasts: {withdrawn:?}");
    // What is still on its way here is taken.
    scene.host.enter(|| std::net::TcpStream::connect(("198.18.0.1", PORT))).unwrap();
    assert_eq!(edge.wait_exit(LIMIT).unwrap().code(), Some(0));
    assert!(begin.elapsed() >= 2 * SHUTDOWN_WAIT, "and so does the wait: {:?}", begin.elapsed());
    println!("stop: stepped back after {stepped:?}, withdrawn after {withdrawn:?}, ended after {:?}", begin.elapsed());
}

#[test]
fn a_second_signal_ends_the_wait_for_the_routes() {
    let scene = Scene::whole("disabled;");
    let _endpoint = scene.endpoint();
    let text = scene.config("").replace("shutdown_wait = \"500ms\"", "shutdown_wait = \"10m\"");
    let mut edge = Edge::launch(Some(&scene.host), &text).unwrap();
    scene.wait_routes(&[V4, V6]);
    edge.signal(libc::SIGTERM).unwrap();
    scene.wait_routes(&[V4_LOW]);
    edge.signal(libc::SIGHUP).unwrap();
    edge.wait_for_log("SIGHUP reloads nothing", LIMIT).unwrap();
    edge.signal(libc::SIGTERM).unwrap();
    assert_eq!(edge.wait_exit(LIMIT).unwrap().code(), Some(0));
    scene.wait_routes(&[]);
}

#[test]
fn the_routes_die_with_the_process_and_do_not_come_back_before_it_is_ready() {
    for disabled in ["disabled;", ""] {
        let scene = Scene::whole(disabled);
        let _endpoint = scene.endpoint();
        let mut edge = scene.launch();
        scene.wait_routes(&[V4, V6]);
        let begin = now();
        edge.kill().unwrap();
        scene.wait_routes(&[]);
        let gone = begin.elapsed();
        assert!(gone < SECOND, "{gone:?}");
        println!("kill -9: routes gone after {gone:?}");
        // BIRD's protocols are still enabled. An edge that is not ready must not bring their routes back.
        let (edge, _silence) = scene.launch_with_a_silent_endpoint();
        let looks = scene.no_route_before_ready(&edge);
        assert!(looks > 10, "{looks} looks while the edge was not ready");
        scene.wait_routes(&[V4, V6]);
    }
}

#[test]
fn a_bird_that_is_restarted_or_reconfigured_is_told_again() {
    let mut scene = Scene::whole("disabled;");
    let _endpoint = scene.endpoint();
    let edge = scene.launch();
    scene.wait_routes(&[V4, V6]);
    wait_until("the edge to have seen its routes", LIMIT, || said(&edge, 0).0 == "announced").unwrap();
    scene.bird.take().unwrap().kill().unwrap();
    let down = || edge.status().unwrap()["anycast"]["bird"].as_str().is_some_and(|bird| bird.starts_with("down: "));
    let noticed = wait_until("BIRD seen to be down", LIMIT, down).unwrap();
    assert!(noticed < SECOND, "{noticed:?}");
    assert_eq!(edge.metrics().unwrap().sum("landfall_bird_up", &[]), 0.0);
    assert_eq!(edge.get("/readyz").unwrap().status, 200, "it serves what comes");
    assert_eq!(said(&edge, 0).0, "withdrawn");
    scene.start_bird();
    let told = scene.wait_routes(&[V4, V6]);
    assert!(told < SECOND, "{told:?}");
    wait_until("the edge to have seen its routes", LIMIT, || said(&edge, 0).0 == "announced").unwrap();
    scene.ask("configure");
    let again = scene.wait_routes(&[V4, V6]);
    assert!(again < SECOND, "{again:?}");
    println!("BIRD: death noticed after {noticed:?}, routes {told:?} after its start, {again:?} after configure");
    // At the start, after BIRD's death and after its reconfiguration.
    let counted = wait_for("the changes counted", LIMIT, || {
        let labels = [("static_ip", "198.18.0.1"), ("state", "announced")];
        Some(edge.metrics().unwrap().sum("landfall_anycast_changes_total", &labels)).filter(|&count| count >= 3.0)
    });
    assert_eq!(counted.unwrap(), 3.0);
}

#[test]
fn without_disabled_in_its_file_a_reconfiguration_of_bird_changes_no_route() {
    let scene = Scene::whole("");
    let _endpoint = scene.endpoint();
    assert_eq!(scene.routes(), [""; 0], "no device, no route");
    let edge = scene.launch();
    scene.wait_routes(&[V4, V6]);
    let before = scene.moments();
    assert_eq!(before.len(), 2, "{before:?}");
    scene.ask("configure");
    wait_until("a look after it", LIMIT, || said(&edge, 0).0 == "announced").unwrap();
    assert_eq!(scene.moments(), before);
    scene.command(&edge, "drain");
    scene.wait_routes(&[]);
    let down = || scene.host.run(["ip", "-brief", "link", "show", "landfall0"]).unwrap().contains(" DOWN ");
    wait_until("the device down", LIMIT, down).unwrap();
    // Enabled by the file; but the device is down.
    scene.ask("configure");
    assert_eq!(scene.routes(), [""; 0]);
}

#[test]
fn a_drained_edge_leaves_and_comes_back() {
    let scene = Scene::whole("disabled;");
    let _endpoint = scene.endpoint();
    let edge = scene.launch();
    scene.wait_routes(&[V4, V6]);
    scene.command(&edge, "drain");
    scene.wait_routes(&[V4_LOW]);
    scene.wait_routes(&[]);
    wait_until("the reason", LIMIT, || said(&edge, 0).1.contains("landfall undrain")).unwrap();
    scene.host.enter(|| std::net::TcpStream::connect(("198.18.0.1", PORT))).unwrap();
    scene.command(&edge, "undrain");
    scene.wait_routes(&[V4, V6]);
}

#[test]
fn an_address_that_is_missing_is_not_announced_and_the_cure_works() {
    let mut scene = Scene::new("disabled;");
    scene.host.ip("address add 198.18.0.1/32 dev lo\n").unwrap();
    scene.start_bird();
    let _endpoint = scene.endpoint();
    let edge = scene.launch();
    scene.wait_routes(&[V4]);
    assert_eq!(edge.get("/readyz").unwrap().status, 503);
    let (state, reason) = said(&edge, 1);
    assert_eq!(state, "withdrawn");
    let cure = reason.split('`').nth(1).unwrap();
    assert_eq!(cure, "ip addr add fd00:18::1 dev lo");
    scene.host.run(cure.split(' ')).unwrap();
    scene.wait_routes(&[V4, V6]);
    scene.host.ip("address del fd00:18::1/128 dev lo\n").unwrap();
    scene.wait_routes(&[V4]);
}

#[test]
fn a_device_that_somebody_removes_or_takes_down_comes_back() {
    let scene = Scene::whole("disabled;");
    let _endpoint = scene.endpoint();
    let _edge = scene.launch();
    for harm in ["link delete landfall0\n", "link set landfall0 down\n"] {
        scene.wait_routes(&[V4, V6]);
        scene.host.ip(harm).unwrap();
        scene.wait_routes(&[]);
        scene.wait_routes(&[V4, V6]);
    }
}

#[test]
fn an_edge_without_endpoints_does_as_it_is_told() {
    for (isolated, expected) in [("keep", &[V4, V6][..]), ("withdraw", &[])] {
        let scene = Scene::whole("disabled;");
        let endpoint = scene.endpoint();
        let keys = format!("isolated = \"{isolated}\"\nisolated_hold = \"200ms\"");
        let edge = Edge::launch(Some(&scene.host), &scene.config(&keys)).unwrap();
        scene.wait_routes(&[V4, V6]);
        drop(endpoint);
        wait_until("isolation", LIMIT, || said(&edge, 0).1.contains("eligible")).unwrap();
        scene.wait_routes(expected);
        let _endpoint = scene.endpoint();
        wait_until("its end", LIMIT, || said(&edge, 0) == ("announced".into(), "serving".into())).unwrap();
        scene.wait_routes(&[V4, V6]);
    }
}

#[test]
fn the_device_of_another_edge_is_not_taken() {
    let scene = Scene::whole("disabled;");
    let _endpoint = scene.endpoint();
    let _edge = scene.launch();
    scene.wait_routes(&[V4, V6]);
    let text = scene.config("").replace("127.0.0.1:9900", "127.0.0.1:9901").replace("ports = [7000]", "ports = [7001]");
    let text = text.replace("protocol = \"tcp\", interval", "protocol = \"tcp\", port = 7000, interval");
    let mut second = Edge::launch(Some(&scene.host), &text).unwrap();
    assert_eq!(second.wait_exit(LIMIT).unwrap().code(), Some(1));
    assert!(second.log().contains("another edge on this host has it"), "{}", second.log());
    assert_eq!(scene.routes(), [V4, V6]);
}
