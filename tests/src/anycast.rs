//! Two real edges in the lab that announce the same static IPs, with endpoints in both regions.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::clients::UdpFlow;
use crate::command::{self, Ended};
use crate::edge::Edge;
use crate::endpoints::{Endpoint, Spec};
use crate::lab::{AnycastLab, Heard, Lab};
use crate::path::{Families, Path};
use crate::probers::{Probers, Report};
use crate::{Failure, Result, wait};

/// The port of the only listener and of the endpoints.
pub const PORT: u16 = 7000;
/// `shutdown_wait` in [`CONFIG`]: from the step back to the withdrawal, and from there to the end of accepting.
pub const SHUTDOWN_WAIT: Duration = Duration::from_millis(500);
/// `isolated_hold` in [`CONFIG`].
pub const ISOLATED_HOLD: Duration = Duration::from_secs(1);
/// How long `landfall` may take to see what BIRD does.
pub const POLL: Duration = Duration::from_millis(500);
/// BFD as `deploy/bird` sets it: 200 ms × 3.
pub const BFD: Duration = Duration::from_millis(600);
/// Of the load, on all static IPs together: so many that no edge goes without.
const UDP_FLOWS: usize = 12;
/// How long anything may take that has no bound of its own here.
pub const LIMIT: Duration = Duration::from_secs(15);

/// One edge's config. `{number}`, `{bird}`, `{announce}`, `{a}`, `{b}` and, as for every [`Edge`], `{dir}` are replaced.
pub const CONFIG: &str = r#"
name = "anycast"
static_ips = ["198.18.0.1", "198.18.0.2", "fd00:18::1", "fd00:18::2"]
hash_seed = 7

[edge]
name = "edge-{number}"
announce = {announce}
admin = "127.0.0.1:9900"
control = "{dir}/control.sock"
drain_timeout = "1s"

[anycast]
speaker = "bird"
bird_socket = "{bird}"
bird_protocols = { "198.18.0.1" = "landfall_1", "198.18.0.2" = "landfall_2", "fd00:18::1" = "landfall_3", "fd00:18::2" = "landfall_4" }
bird_deprefer = { "198.18.0.1" = "landfall_1_low", "198.18.0.2" = "landfall_2_low", "fd00:18::1" = "landfall_3_low", "fd00:18::2" = "landfall_4_low" }
isolated = "keep"
isolated_hold = "1s"
shutdown_wait = "500ms"

[[listeners]]
name = "echo"
protocol = "tcp_udp"
ports = [7000]
endpoint_groups = ["both"]

[[endpoint_groups]]
name = "both"
failback = { hold = "0s", ramp = "0s" }
health_check = { protocol = "tcp", port = 7000, interval = "500ms", fast_interval = "200ms", timeout = "500ms" }
endpoints = [{ name = "a", address = "{a}" }, { name = "b", address = "{b}" }]
"#;

/// [`CONFIG`] with other timings of its probes.
///
/// # Panics
/// When [`CONFIG`] no longer has what is to be replaced.
pub fn config_with_probes(timings: &str) -> String {
    let probes = r#"interval = "500ms", fast_interval = "200ms", timeout = "500ms""#;
    assert!(CONFIG.contains(probes), "the timings of the probes are not there");
    CONFIG.replace(probes, timings)
}

/// The lab with what runs in it. Edges may be missing for a while.
pub struct Scene {
    /// Who forwards the edges' UDP.
    pub path: Path,
    /// Of the static IPs that are served, and of the endpoints.
    pub families: Families,
    /// Edge 1 and edge 2, if they run. First, so that they go before what they need.
    pub edges: [Option<Edge>; 2],
    /// Endpoint `a` in region A, `b` in region B.
    pub endpoints: [Endpoint; 2],
    /// The hosts.
    pub lab: AnycastLab,
}

impl Scene {
    /// The lab with its endpoints, and no edge yet.
    ///
    /// # Errors
    /// When something cannot be started.
    pub fn without_edges(path: Path, families: Families) -> Result<Self> {
        let lab = Lab::anycast()?;
        let [a, b] = addresses(&lab, families);
        let a = Endpoint::start(Some(&lab.region_a.namespace), Spec::echo("a", (a, PORT)))?;
        let b = Endpoint::start(Some(&lab.region_b.namespace), Spec::echo("b", (b, PORT)))?;
        Ok(Self { path, families, edges: [None, None], endpoints: [a, b], lab })
    }

    /// The lab with both edges announcing everything.
    ///
    /// # Errors
    /// When something cannot be started, or is not announced in time.
    pub fn start(path: Path, families: Families) -> Result<Self> {
        Self::start_with(path, families, CONFIG)
    }

    /// As [`Scene::start`] with another config.
    ///
    /// # Errors
    /// As [`Scene::start`].
    pub fn start_with(path: Path, families: Families, config: &str) -> Result<Self> {
        let mut scene = Self::without_edges(path, families)?;
        for number in [1, 2] {
            scene.launch(number, config)?;
        }
        scene.wait_announced(&[1, 2])?;
        Ok(scene)
    }

    /// Starts edge `number` on `config`, which is [`CONFIG`] or like it, and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self, number: u8, config: &str) -> Result<()> {
        let site = &self.lab.edges[index(number)];
        let announce: Vec<_> = self.static_ips().iter().map(IpAddr::to_string).collect();
        let [a, b] = addresses(&self.lab, self.families).map(|address| address.to_string());
        let mut config = config.replace("{announce}", &format!("{announce:?}"));
        let bird = site.bird.socket();
        let values = [("{number}", &*number.to_string()), ("{bird}", &bird.to_string_lossy()), ("{a}", &a), ("{b}", &b)];
        for (name, value) in values {
            config = config.replace(name, value);
        }
        let config = self.path.prepare(&site.namespace, &config, &site.nat_addresses().each_ref().map(String::as_str))?;
        self.edges[index(number)] = Some(Edge::launch(Some(&site.namespace), &config)?);
        Ok(())
    }

    /// The static IPs that are served.
    pub fn static_ips(&self) -> Vec<IpAddr> {
        self.families.static_ips()
    }

    /// Waits until the router sends packets for all static IPs to exactly these edges.
    ///
    /// # Errors
    /// When it does not in time; the message carries the edges' logs.
    pub fn wait_announced(&self, edges: &[u8]) -> Result<Duration> {
        self.lab.wait_next_hops(&self.static_ips(), edges, LIMIT).map_err(|failure| {
            let logs: Vec<_> = self.edges.iter().flatten().map(Edge::log).collect();
            Failure::new("see", "the announcements", failure, format_args!("the edges wrote:\n{}", logs.join("\n---\n")))
        })
    }

    /// Edge `number`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn edge(&mut self, number: u8) -> &mut Edge {
        self.edges[index(number)].as_mut().unwrap_or_else(|| panic!("edge {number} does not run"))
    }

    /// What the router has heard from each edge, over IPv4 and IPv6.
    ///
    /// # Errors
    /// When the router's BIRD does not answer.
    pub fn heard(&self) -> Result<[[Option<Heard>; 2]; 2]> {
        let [first, second] = &self.lab.edges;
        Ok([self.lab.heard(first)?, self.lab.heard(second)?])
    }

    /// What the router has heard from an edge, over IPv4 and IPv6, if it has heard `heard` in each family that is served.
    pub fn in_served_families(&self, heard: Heard) -> [Option<Heard>; 2] {
        [Families::V6, Families::V4].map(|without| if self.families == without { Heard::default() } else { heard }).map(Some)
    }

    /// BIRD's protocol for the first static IP.
    pub fn protocol(&self) -> &'static str {
        if self.families == Families::V6 { "landfall_3" } else { "landfall_1" }
    }

    /// Gives a command such as `drain` to edge `number`.
    ///
    /// # Errors
    /// When it fails.
    pub fn tell(&mut self, number: u8, words: &[&str]) -> Result<Ended> {
        let socket = self.edge(number).directory().join("control.sock");
        let mut arguments: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        arguments.extend(["--control".to_owned(), socket.to_string_lossy().into_owned()]);
        let ended = command::landfall(&arguments)?;
        match ended.status {
            Some(0) => Ok(ended),
            status => Err(Failure::new("run", words.join(" "), format_args!("it ended with {status:?}"), ended.stderr)),
        }
    }

    /// Ends edge `number` by SIGTERM and waits for its end.
    ///
    /// # Errors
    /// When it does not end, or not with 0.
    pub fn terminate(&mut self, number: u8) -> Result<()> {
        let edge = self.edge(number);
        edge.signal(libc::SIGTERM)?;
        let status = edge.wait_exit(LIMIT)?;
        let log = edge.log();
        self.edges[index(number)] = None;
        if status.success() { Ok(()) } else { Err(Failure::new("end", "an edge in order", status, log)) }
    }

    /// Runs `change` under the load of the probers, prints what they saw, and checks the source of every reply, and by the edges'
    /// counters that the scene's path carried all of it.
    ///
    /// # Errors
    /// When the probers cannot run.
    ///
    /// # Panics
    /// When a reply came from elsewhere, or a flow was opened on the other path.
    pub fn under_load(&mut self, name: &str, change: impl FnOnce(&mut Self)) -> Result<Report> {
        let targets: Vec<_> = self.static_ips().into_iter().map(|ip| SocketAddr::from((ip, PORT))).collect();
        let (hops, before) = (self.next_hops()?, self.opened());
        let datagrams_before = self.carried(&hops);
        let probers = Probers::start(&self.lab.client, &targets, UDP_FLOWS / targets.len())?;
        // Time for the load to be a load, before and after.
        wait::pass(Duration::from_millis(500));
        let after = self.opened();
        let taken = [after[0] - before[0], after[1] - before[1]];
        println!("{name}: before, edge 1 took {} flows of the load and edge 2 took {}", taken[0], taken[1]);
        for &number in &hops {
            if taken[index(number)] == 0.0 {
                let cause = format!("edge {number} carries nothing of it, although the router has it as a next hop");
                return Err(Failure::new("trust", "the load", cause, "see fib_multipath_hash_policy on the router"));
            }
        }
        wait::wait_until("the load's UDP flows on its path", LIMIT, || self.carried(&hops) > datagrams_before)?;
        change(self);
        wait::pass(Duration::from_secs(1));
        let report = probers.stop()?;
        println!("{name}: {report}");
        report.assert_sources();
        let carried = self.carried(&self.next_hops()?);
        println!("{name}: after, the edges that the router knows had {carried} UDP flows in {:?}, none elsewhere", self.path);
        Ok(report)
    }

    /// Every static IP answers new UDP flows, and the edges' counters have them on the scene's path alone.
    ///
    /// # Panics
    /// When it is not so.
    pub fn assert_served(&self) {
        let served = || -> Result<()> {
            let hops = self.next_hops()?;
            let before = self.carried(&hops);
            for ip in self.static_ips() {
                let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                self.lab.client.enter(|| UdpFlow::open((any, 0).into(), (ip, PORT)))?.exchange(LIMIT)?;
            }
            wait::wait_until("the flows on their path", LIMIT, || self.carried(&hops) > before).map(drop)
        };
        served().unwrap_or_else(|failure| panic!("{failure}"));
    }

    /// The edges that the router sends packets to.
    fn next_hops(&self) -> Result<BTreeSet<u8>> {
        self.lab.next_hops(self.static_ips()[0])
    }

    /// How many UDP flows these edges have opened in their lives, all of them on the scene's path.
    fn carried(&self, edges: &BTreeSet<u8>) -> usize {
        let edges = edges.iter().filter_map(|&number| self.edges[index(number)].as_ref());
        edges.map(|edge| self.path.assert_carried_none_elsewhere(edge)).sum()
    }

    /// How many flows each edge has opened in its life; 0 for one that does not run.
    fn opened(&self) -> [f64; 2] {
        let opened = |edge: &Option<Edge>| match edge {
            // An edge that has just been started does not answer yet, and one that was killed never.
            Some(edge) => edge.metrics().map_or(0.0, |metrics| metrics.sum("landfall_flows_opened_total", &[])),
            None => 0.0,
        };
        self.edges.each_ref().map(opened)
    }
}

/// The addresses of endpoints `a` and `b`.
fn addresses(lab: &AnycastLab, families: Families) -> [IpAddr; 2] {
    [families.endpoint(&lab.region_a, 0, false), families.endpoint(&lab.region_b, 0, true)]
}

fn index(number: u8) -> usize {
    usize::from(number) - 1
}
