//! Orders to a running edge: in force when they are answered, and what comes back at once or by a ramp.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use landfall_tests::clients::UdpFlow;
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::loopback::{config_head, own_address};
use landfall_tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 7000;
/// Each would be a race, if the answer could come before the table.
const ORDERS: usize = 50;

/// An edge with `a` and `b`, in the groups that `groups` makes of their lines.
struct Scene {
    edge: Edge,
    target: SocketAddr,
    _endpoints: [Endpoint; 2],
}

fn scene(groups: &[(&str, &[usize])]) -> Scene {
    let static_ip = own_address();
    let endpoints = ["a", "b"].map(|name| Endpoint::start(None, Spec::echo(name, (own_address(), PORT))).unwrap());
    let names: Vec<String> = groups.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let mut text = config_head(&[static_ip], "");
    text +=
        &format!("[[listeners]]\nname = \"l\"\nprotocol = \"udp\"\nports = [{PORT}]\nendpoint_groups = [{}]\n", names.join(", "));
    for (name, members) in groups {
        let entry = |&index: &usize| {
            let endpoint = &endpoints[index];
            format!("{{ name = \"{}\", address = \"{}\" }}", endpoint.name(), endpoint.address().ip())
        };
        text += &format!(
            "[[endpoint_groups]]\nname = \"{name}\"\nfailback = {{ hold = \"5s\", ramp = \"2s\" }}\n\
             health_check = {{ protocol = \"tcp\" }}\nendpoints = [{}]\n",
            members.iter().map(entry).collect::<Vec<_>>().join(", ")
        );
    }
    Scene { edge: Edge::start(None, &text).unwrap(), target: (static_ip, PORT).into(), _endpoints: endpoints }
}

impl Scene {
    fn control(&self) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(self.edge.directory().join("control.sock")).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        BufReader::new(stream)
    }

    fn flow(&self) -> UdpFlow {
        UdpFlow::open((own_address(), 0).into(), self.target).unwrap()
    }

    fn gauge(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.edge.metrics().unwrap().value(name, labels).unwrap()
    }

    fn dial(&self) -> f64 {
        self.gauge("landfall_endpoint_group_dial_percent", &[("endpoint_group", "near")])
    }
}

/// Sets a weight on an open conversation, where nothing lies between the answer and what is done next.
fn weigh(control: &mut BufReader<UnixStream>, endpoint: &str, weight: u8) {
    let order = format!("{{\"command\":\"weight\",\"endpoint\":\"{endpoint}\",\"weight\":{weight}}}\n");
    control.get_mut().write_all(order.as_bytes()).unwrap();
    let mut answer = String::new();
    control.read_line(&mut answer).unwrap();
    assert!(answer.contains("\"ok\":true"), "{answer}");
}

#[test]
fn an_order_is_in_force_when_it_is_answered() {
    let scene = scene(&[("g", &[0, 1])]);
    let mut control = scene.control();
    let mut late = 0;
    for _ in 0..ORDERS {
        let [mut first, mut second] = [scene.flow(), scene.flow()];
        weigh(&mut control, "a", 0);
        let landed = [first.exchange(LIMIT).unwrap().endpoint, second.exchange(LIMIT).unwrap().endpoint];
        late += landed.iter().filter(|endpoint| *endpoint == "a").count();
        weigh(&mut control, "a", 128);
    }
    assert_eq!(late, 0, "of {} flows that began after the answer went to the endpoint with weight 0", 2 * ORDERS);
    // The endpoint is back whole at once: it was never unhealthy, and nothing ramps.
    assert_eq!(scene.gauge("landfall_endpoint_weight", &[("endpoint", "a")]), 128.0);
}

#[test]
fn a_group_that_loses_its_last_weight_comes_back_by_its_ramp() {
    let scene = scene(&[("near", &[0]), ("far", &[1])]);
    let mut control = scene.control();
    let mut old = scene.flow();
    assert_eq!(old.exchange(LIMIT).unwrap().endpoint, "a");

    weigh(&mut control, "a", 0);
    let mut meanwhile = scene.flow();
    assert_eq!(meanwhile.exchange(LIMIT).unwrap().endpoint, "b");
    assert_eq!(scene.edge.health("a").unwrap().as_deref(), Some("healthy"));

    weigh(&mut control, "a", 128);
    // No hold: its endpoint was healthy all the while. The dial ramps, the weight does not.
    let dial = scene.dial();
    assert!((10.0..100.0).contains(&dial), "{dial}");
    assert_eq!(scene.gauge("landfall_endpoint_weight", &[("endpoint", "a")]), 128.0);
    let ramped = wait_until("the whole dial", LIMIT, || scene.dial() == 100.0).unwrap();
    println!("the dial was at {dial} % after the order, and at 100 % {ramped:?} later");
    assert_eq!(scene.flow().exchange(LIMIT).unwrap().endpoint, "a");
    for (flow, endpoint) in [(&mut old, "a"), (&mut meanwhile, "b")] {
        assert_eq!(flow.exchange(LIMIT).unwrap().endpoint, endpoint, "flows stay where they are");
    }
    assert_eq!(scene.edge.metrics().unwrap().sum("landfall_flows_moved_total", &[]), 0.0);
}
