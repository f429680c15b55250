//! Programs that are not ours, through a static IP on both paths, each beside the same run straight to the endpoint: telephony, DNS and a game.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

mod game;
mod names;
mod telephony;

use std::net::IpAddr;
use std::time::Duration;

use landfall_tests::command::landfall;
use landfall_tests::edge::Edge;
use landfall_tests::lab::{Lab, Namespace};
use landfall_tests::path::{Families, Path};
use landfall_tests::process::Process;
use landfall_tests::wait::wait_until;

/// For a run of a program, and for its server to start: a game reads its map first.
const LIMIT: Duration = Duration::from_secs(30);

const CONFIG: &str = r#"
name = "programs"
static_ips = {static_ips}
hash_seed = 7
[edge]
name = "lab"
admin = "127.0.0.1:9900"
control = "{dir}/control.sock"
[[endpoint_groups]]
name = "both"
endpoints = [{ name = "a", address = "{a}", weight = 200 }, { name = "b", address = "{b}", weight = {weight} }]
"#;

/// What runs in each region.
struct Service {
    /// The listeners, and the health check of the group.
    config: &'static str,
    /// The weight of the endpoint `b`; that of `a` is 200.
    weight: u8,
    /// Starts it in a namespace, with a directory of its own, on an address.
    start: fn(&Namespace, &std::path::Path, IpAddr) -> Process,
}

/// Fields are dropped in this order: first the edge, then the rest.
struct Scene {
    edge: Edge,
    path: Path,
    /// The text of its file.
    config: String,
    /// One of each family.
    static_ips: Vec<IpAddr>,
    /// The endpoint `a`.
    direct: IpAddr,
    /// Those of `a` and `b`.
    servers: Vec<Process>,
    lab: Lab,
    files: tempfile::TempDir,
}

/// The service in both regions, behind an edge that has found it healthy.
fn scene(path: Path, families: Families, service: &Service) -> Scene {
    let lab = Lab::first_light().unwrap();
    // For what goes straight to an endpoint, the edge's host is a router.
    for parameter in ["net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding"] {
        lab.edge.set(parameter, "1").unwrap();
    }
    lab.client.ip("route add 198.18.2.0/23 via 198.18.1.1\nroute add fd00:18:2::/47 via fd00:18:1::1\n").unwrap();

    let files = tempfile::Builder::new().prefix("landfall-lab-").tempdir().unwrap();
    let [a, b] = [families.endpoint(&lab.region_a, 0, false), families.endpoint(&lab.region_b, 0, true)];
    let servers = [(&lab.region_a, a), (&lab.region_b, b)].map(|(region, address)| {
        let directory = files.path().join(region.namespace.name());
        std::fs::create_dir(&directory).unwrap();
        (service.start)(&region.namespace, &directory, address)
    });
    let listed: Vec<_> = families.static_ips().iter().map(ToString::to_string).collect();
    let config = CONFIG.replace("{static_ips}", &format!("{listed:?}")).replace("{weight}", &service.weight.to_string());
    let config = config.replace("{a}", &a.to_string()).replace("{b}", &b.to_string()) + service.config;
    let edge = path.start(&lab.edge, &config).unwrap();
    for name in ["a", "b"] {
        let is_healthy = || edge.health(name).unwrap().as_deref() == Some("healthy");
        wait_until(&format!("{name} healthy"), LIMIT, is_healthy).unwrap_or_else(|failure| panic!("{failure}\n{}", edge.log()));
    }
    let static_ips = families.static_ips().into_iter().step_by(2).collect();
    Scene { edge, path, config, static_ips, direct: a, servers: servers.into(), lab, files }
}

impl Scene {
    /// Starts the edge anew, once its process has ended.
    fn start_again(&mut self) {
        self.edge = self.path.start(&self.lab.edge, &self.config).unwrap();
    }

    /// A command to the running edge, which must succeed; returns what it shows.
    fn order(&self, words: &[&str]) -> String {
        let control = self.edge.directory().join("control.sock");
        let ended = landfall(words.iter().copied().chain(["--control", control.to_str().unwrap()])).unwrap();
        assert_eq!(ended.status, Some(0), "{words:?}: {}", ended.stderr);
        ended.stdout
    }

    /// How many flows were pinned to each endpoint, once the edge has opened `flows`.
    fn pinned(&self, flows: usize) -> [usize; 2] {
        self.path.assert_carried(&self.edge, flows);
        let metrics = self.edge.metrics().unwrap();
        ["a", "b"].map(|name| {
            let pinned = metrics.sum("landfall_endpoint_flows_opened_total", &[("endpoint", name)]);
            format!("{:.0}", pinned.abs()).parse().unwrap()
        })
    }

    fn assert_nothing_dropped(&self) {
        assert_eq!(self.edge.metrics().unwrap().sum("landfall_drops_total", &[]), 0.0, "{}", self.edge.log());
    }
}
