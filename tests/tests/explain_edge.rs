//! `landfall explain --edge` against what the running edge really does.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use landfall_tests::clients::{TcpSession, UdpFlow};
use landfall_tests::command::{Ended, landfall};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::loopback::{config_head, own_address};
use landfall_tests::wait::wait_until;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 7000;

struct Scene {
    edge: Edge,
    static_ip: Ipv4Addr,
    endpoints: [(&'static str, Endpoint); 2],
}

fn scene() -> Scene {
    let static_ip = own_address();
    let endpoints = ["a", "b"].map(|name| (name, Endpoint::start(None, Spec::echo(name, (own_address(), PORT))).unwrap()));
    let entry =
        |(name, endpoint): &(&str, Endpoint)| format!("{{ name = \"{name}\", address = \"{}\" }}", endpoint.address().ip());
    let text = format!(
        "{}workers = 2\n[[listeners]]\nname = \"l\"\nprotocol = \"tcp_udp\"\nports = [{PORT}]\nendpoint_groups = [\"g\"]\n\
         [[endpoint_groups]]\nname = \"g\"\nhealth_check = {{ protocol = \"tcp\", interval = \"200ms\", timeout = \"200ms\" }}\n\
         endpoints = [{}]\n",
        config_head(&[static_ip], ""),
        endpoints.iter().map(entry).collect::<Vec<_>>().join(", "),
    );
    Scene { edge: Edge::start(None, &text).unwrap(), static_ip, endpoints }
}

impl Scene {
    fn ask(&self, words: &[&str]) -> Ended {
        let control = self.edge.directory().join("control.sock");
        landfall(words.iter().copied().chain(["--control", control.to_str().unwrap()])).unwrap()
    }

    fn explain(&self, protocol: &str, client: SocketAddr, more: &[&str]) -> Ended {
        let (client, to) = (client.to_string(), format!("{}:{PORT}", self.static_ip));
        let words = ["explain", "--edge", "--client", &client, "--to", &to, "--protocol", protocol];
        self.ask(&[&words[..], more].concat())
    }

    fn json(&self, protocol: &str, client: SocketAddr) -> Value {
        let ended = self.explain(protocol, client, &["--json"]);
        assert_eq!(ended.status, Some(0), "{ended:?}");
        serde_json::from_str(&ended.stdout).unwrap()
    }

    fn target(&self) -> SocketAddr {
        (self.static_ip, PORT).into()
    }

    fn tcp(&self) -> TcpSession {
        TcpSession::open(None, self.target(), LIMIT).unwrap()
    }

    fn udp(&self) -> (UdpFlow, String) {
        let mut flow = UdpFlow::open((own_address(), 0).into(), self.target()).unwrap();
        let endpoint = flow.exchange(LIMIT).unwrap().endpoint;
        (flow, endpoint)
    }
}

/// A new flow lands where the edge said it would, whichever worker takes it, and is then found where it landed.
#[test]
fn flows_land_where_it_says_and_are_found_there() {
    let scene = scene();
    for _ in 0..8 {
        let (flow, landed) = scene.udp();
        let told = scene.json("udp", flow.source().unwrap());
        assert_eq!((&told["endpoint"], &told["flow"]), (&landed.clone().into(), &pin(&landed)), "{told:#}");

        let session = scene.tcp();
        let told = scene.json("tcp", session.source().unwrap());
        assert_eq!((&told["endpoint"], &told["flow"]), (&session.endpoint.clone().into(), &pin(&session.endpoint)), "{told:#}");
        // The same ports by the other protocol are another flow.
        let other = scene.json("udp", session.source().unwrap());
        assert_eq!(other["flow"], nowhere(), "{other:#}");
    }
}

fn pin(endpoint: &str) -> Value {
    serde_json::json!({ "exists": true, "endpoint": endpoint, "group": "g" })
}

fn nowhere() -> Value {
    serde_json::json!({ "exists": false, "endpoint": null, "group": null })
}

#[test]
fn it_shows_the_live_view_and_the_pinned_flow_beside_it() {
    let mut scene = scene();
    let (mut flow, landed) = scene.udp();
    let mut session = std::iter::repeat_with(|| scene.tcp()).take(64).find(|session| session.endpoint == landed).unwrap();
    let (udp, tcp) = (flow.source().unwrap(), session.source().unwrap());
    let other = if landed == "a" { "b" } else { "a" };

    // A weight of 0 turns new flows away; these two stay.
    assert_eq!(scene.ask(&["weight", &landed, "0"]).status, Some(0));
    for (protocol, client) in [("udp", udp), ("tcp", tcp)] {
        let told = scene.json(protocol, client);
        assert_eq!((&told["endpoint"], &told["flow"]), (&other.into(), &pin(&landed)), "{told:#}");
        let text = scene.explain(protocol, client, &[]).stdout;
        assert!(text.contains(&format!("pinned    to {landed} of g; what follows is for a new one\n")), "{text}");
        assert!(text.contains(&format!("{landed} has weight 0")), "{text}");
    }
    assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, landed);
    session.exchange(b"still here").unwrap();

    // A real death: the view is what the probes found.
    assert_eq!(scene.ask(&["weight", &landed, "128"]).status, Some(0));
    let dead = scene.endpoints.iter_mut().find(|(name, _)| *name == other).unwrap();
    dead.1.kill().unwrap();
    wait_until("the death seen", LIMIT, || scene.edge.health(other).unwrap().as_deref() == Some("unhealthy")).unwrap();
    let told = scene.json("udp", udp);
    assert_eq!(told["ranking"], serde_json::json!([landed]), "{told:#}");
    assert!(told["groups"][0]["verdict"].as_str().unwrap().contains(&format!("{other} is unhealthy")), "{told:#}");

    // Gone with its end.
    session.finish().unwrap();
    wait_until("the end of the connection", LIMIT, || scene.json("tcp", tcp)["flow"] == nowhere()).unwrap();
    assert_eq!(scene.json("udp", udp)["flow"], pin(&landed));
}

#[test]
fn impossible_questions_have_clear_answers() {
    let scene = scene();
    let nobody: SocketAddr = (IpAddr::from([198, 18, 0, 9]), 5555).into();
    let ended = scene.explain("udp", nobody, &[]);
    assert_eq!(ended.status, Some(0));
    assert!(
        ended.stdout.contains("pinned    nowhere: this edge does not have the flow; what follows is for a new one\n"),
        "{ended:?}"
    );

    let to = format!("{}:1", scene.static_ip);
    let ended = scene.ask(&["explain", "--edge", "--client", "198.18.0.9:1", "--to", &to, "--protocol", "tcp"]);
    assert_eq!(ended.status, Some(1));
    assert!(ended.stderr.contains("no listener takes tcp on port 1; there are l (tcp+udp 7000)"), "{ended:?}");

    let asked = ["--client", "198.18.0.9:1", "--to", "198.18.0.1:7000", "--protocol", "tcp"];
    for (words, status) in [
        (&["explain", "--edge", "--down", "a"][..], 2),
        (&["explain", "--edge", "--config", "x.toml"][..], 2),
        (&["explain", "--config", "x.toml", "--control", "/nonexistent"][..], 2),
        (&["explain"][..], 2),
        (&["explain", "--edge", "--control", "/nonexistent"][..], 1),
    ] {
        let ended = landfall(words.iter().chain(&asked)).unwrap();
        assert_eq!(ended.status, Some(status), "{words:?}: {ended:?}");
    }
}
