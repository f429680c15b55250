//! `landfall flows` against the flows that there are.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
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
/// More than a worker looks at in one turn.
const MANY: usize = 4500;

struct Scene {
    edge: Edge,
    static_ip: Ipv4Addr,
    _endpoints: [Endpoint; 2],
}

fn scene() -> Scene {
    let static_ip = own_address();
    let endpoints = ["a", "b"].map(|name| Endpoint::start(None, Spec::echo(name, (own_address(), PORT))).unwrap());
    let [a, b] = endpoints.each_ref().map(|endpoint| endpoint.address().ip());
    let text = format!(
        "{}workers = 2\n[[listeners]]\nname = \"l\"\nprotocol = \"tcp_udp\"\nports = [{PORT}]\nidle_timeout = \"60s\"\n\
         unanswered_timeout = \"60s\"\nendpoint_groups = [\"g\"]\n[[endpoint_groups]]\nname = \"g\"\n\
         health_check = {{ protocol = \"tcp\", interval = \"200ms\", timeout = \"200ms\" }}\n\
         endpoints = [{{ name = \"a\", address = \"{a}\" }}, {{ name = \"b\", address = \"{b}\" }}]\n",
        config_head(&[static_ip], ""),
    );
    Scene { edge: Edge::start(None, &text).unwrap(), static_ip, _endpoints: endpoints }
}

impl Scene {
    fn target(&self) -> SocketAddr {
        (self.static_ip, PORT).into()
    }

    fn flows(&self, words: &[&str]) -> Ended {
        let control = self.edge.directory().join("control.sock");
        landfall(["flows"].iter().chain(words).copied().chain(["--control", control.to_str().unwrap()])).unwrap()
    }

    /// Protocol, client and endpoint of those listed.
    fn listed(&self, words: &[&str]) -> BTreeSet<(String, String, String)> {
        let ended = self.flows(&[words, &["--json"]].concat());
        assert_eq!(ended.status, Some(0), "{ended:?}");
        let flows: Vec<Value> = serde_json::from_str(&ended.stdout).unwrap();
        let text = |flow: &Value, key: &str| flow[key].as_str().unwrap().to_owned();
        for flow in &flows {
            assert_eq!(
                (text(flow, "path"), text(flow, "listener"), text(flow, "group")),
                ("user".into(), "l".into(), "g".into())
            );
            assert_eq!((text(flow, "to"), &flow["answered"]), (self.target().to_string(), &Value::Bool(true)));
            assert!(flow["quiet_seconds"].as_f64().unwrap() < 60.0, "{flow}");
        }
        let set: BTreeSet<_> =
            flows.iter().map(|flow| (text(flow, "protocol"), text(flow, "client"), text(flow, "endpoint"))).collect();
        assert_eq!(set.len(), flows.len(), "none is listed twice");
        set
    }
}

#[test]
fn all_live_flows_are_listed_and_those_that_are_wanted() {
    let scene = scene();
    let mut expected = BTreeSet::new();
    let mut open = Vec::new();
    for _ in 0..8 {
        let mut flow = UdpFlow::open((own_address(), 0).into(), scene.target()).unwrap();
        let landed = flow.exchange(LIMIT).unwrap().endpoint;
        expected.insert(("udp".to_owned(), flow.source().unwrap().to_string(), landed));
        let session = TcpSession::open(None, scene.target(), LIMIT).unwrap();
        expected.insert(("tcp".to_owned(), session.source().unwrap().to_string(), session.endpoint.clone()));
        open.push((flow, session));
    }
    // The edge may hear of the endpoint's accepting after the endpoint's first bytes.
    wait_until("all connections pinned", LIMIT, || scene.listed(&[]).len() == expected.len()).unwrap();
    assert_eq!(scene.listed(&[]), expected);

    let among = |test: &dyn Fn(&(String, String, String)) -> bool| expected.iter().filter(|flow| test(flow)).cloned().collect();
    let (_, client, _) = expected.iter().find(|flow| flow.0 == "udp").unwrap();
    let address = client.parse::<SocketAddr>().unwrap().ip().to_string();
    let network = format!("{address}/32");
    let cases: [(&[&str], BTreeSet<_>); 6] = [
        (&["--protocol", "tcp"], among(&|flow| flow.0 == "tcp")),
        (&["--endpoint", "a"], among(&|flow| flow.2 == "a")),
        (&["--listener", "l", "--protocol", "udp", "--endpoint", "b"], among(&|flow| flow.0 == "udp" && flow.2 == "b")),
        (&["--client", &address], among(&|flow| flow.1.starts_with(&format!("{address}:")))),
        (&["--client", &network, "--protocol", "udp"], among(&|flow| flow.1 == *client)),
        (&["--client", "203.0.113.0/24"], BTreeSet::new()),
    ];
    for (words, expected) in cases {
        assert_eq!(scene.listed(words), expected, "{words:?}");
    }

    let (flow, mut session) = open.remove(0);
    let ended = session.source().unwrap().to_string();
    session.finish().unwrap();
    wait_until("one less", LIMIT, || scene.listed(&[]).iter().all(|flow| flow.1 != ended)).unwrap();
    let text = scene.flows(&["--client", &flow.source().unwrap().ip().to_string(), "--protocol", "udp"]).stdout;
    let line = format!("udp {} -> {} (l): endpoint ", flow.source().unwrap(), scene.target());
    assert!(text.starts_with(&line) && text.contains(", user, quiet "), "{text}");
    assert_eq!(scene.flows(&["--client", "203.0.113.9"]).stdout, "no such flow\n");
}

#[test]
fn many_are_listed_in_turns_and_cut_at_the_limit() {
    let scene = scene();
    let client = own_address();
    let sockets: Vec<_> = (0..MANY).map(|_| UdpSocket::bind((client, 0)).unwrap()).collect();
    let count = || scene.edge.metrics().unwrap().sum("landfall_flows_active", &[]);
    // Few at a time, so that no queue overflows.
    for (sent, batch) in (1u32..).zip(sockets.chunks(100)) {
        batch.iter().for_each(|socket| _ = socket.send_to(b"hello", scene.target()).unwrap());
        wait_until("these flows", LIMIT, || count() >= f64::from(sent) * 100.0).unwrap();
    }
    let clients = |words: &[&str]| -> BTreeSet<String> {
        let ended = scene.flows(&[words, &["--json"]].concat());
        let flows: Vec<Value> = serde_json::from_str(&ended.stdout).unwrap();
        flows.iter().map(|flow| flow["client"].as_str().unwrap().to_owned()).collect()
    };
    let all = sockets.iter().map(|socket| socket.local_addr().unwrap().to_string()).collect();
    assert_eq!(clients(&["--limit", "100000"]), all);
    assert_eq!(clients(&["--limit", "4321"]).len(), 4321);
    assert_eq!(clients(&[]).len(), 100);
    let text = scene.flows(&["--limit", "5"]).stdout;
    assert!(text.lines().count() == 6 && text.ends_with("and perhaps more: --limit says how many are shown\n"), "{text}");
}

#[test]
fn impossible_questions_have_clear_answers() {
    let scene = scene();
    for (words, status, said) in [
        (&["--listener", "game"][..], 1, "there is no listener game; those there are: l"),
        (&["--endpoint", "c"][..], 1, "there is no endpoint c; those there are: a, b"),
        (&["--client", "nobody"][..], 2, "write a network or an address, such as 203.0.113.0/24"),
        (&["--limit", "0"][..], 2, "write a number from 1 to 100000"),
        (&["--protocol", "sctp"][..], 2, "[possible values: tcp, udp]"),
    ] {
        let ended = scene.flows(words);
        assert_eq!(ended.status, Some(status), "{words:?}: {ended:?}");
        assert!(ended.stderr.contains(said), "{words:?}: {ended:?}");
    }
}
