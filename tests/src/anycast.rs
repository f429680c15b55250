//! Two real edges in the lab that announce the same static IPs, with endpoints in both regions.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::command::{self, Ended};
use crate::edge::Edge;
use crate::endpoints::{Endpoint, Spec};
use crate::lab::{AnycastLab, Heard, Lab, STATIC_IPV4, STATIC_IPV6};
use crate::probers::{Probers, Report};
use crate::{Failure, Result, wait};

/// The port of the only listener and of the endpoints.
pub const PORT: u16 = 7000;
/// `shutdown_wait` in [`CONFIG`]: from the step back to the withdrawal, and from there to the end of accepting.
pub const SHUTDOWN_WAIT: Duration = Duration::from_millis(500);
/// `drain_timeout` in [`CONFIG`].
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// From SIGTERM until what is left is ended: a step back, the withdrawal, the end of accepting, the drain.
pub const STOP: Duration = Duration::from_millis(2 * 500 + 1000);
/// `isolated_hold` in [`CONFIG`].
pub const ISOLATED_HOLD: Duration = Duration::from_secs(1);
/// How long `landfall` may take to see what BIRD does.
pub const POLL: Duration = Duration::from_millis(500);
/// BFD as `deploy/bird` sets it: 200 ms × 3.
pub const BFD: Duration = Duration::from_millis(600);
/// How long anything may take that has no bound of its own here.
pub const LIMIT: Duration = Duration::from_secs(15);

/// One edge's config. `{number}`, `{bird}` and, as for every [`Edge`], `{dir}` are replaced.
pub const CONFIG: &str = r#"
name = "anycast"
static_ips = ["198.18.0.1", "198.18.0.2", "fd00:18::1", "fd00:18::2"]
hash_seed = 7

[edge]
name = "edge-{number}"
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
endpoints = [{ name = "a", address = "198.18.2.2" }, { name = "b", address = "fd00:18:3::2" }]
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
    /// Edge 1 and edge 2, if they run. First, so that they go before what they need.
    pub edges: [Option<Edge>; 2],
    /// Endpoint `a` in region A, `b` in region B.
    pub endpoints: [Endpoint; 2],
    /// The hosts.
    pub lab: AnycastLab,
}

/// All static IPs, of both families.
pub fn static_ips() -> Vec<IpAddr> {
    STATIC_IPV4.map(IpAddr::V4).into_iter().chain(STATIC_IPV6.map(IpAddr::V6)).collect()
}

impl Scene {
    /// The lab with its endpoints, and no edge yet.
    ///
    /// # Errors
    /// When something cannot be started.
    pub fn without_edges() -> Result<Self> {
        let lab = Lab::anycast()?;
        let a = Endpoint::start(Some(&lab.region_a.namespace), Spec::echo("a", (lab.region_a.ipv4(0), PORT)))?;
        let b = Endpoint::start(Some(&lab.region_b.namespace), Spec::echo("b", (lab.region_b.ipv6(0), PORT)))?;
        Ok(Self { edges: [None, None], endpoints: [a, b], lab })
    }

    /// The lab with both edges announcing everything.
    ///
    /// # Errors
    /// When something cannot be started, or is not announced in time.
    pub fn start() -> Result<Self> {
        Self::start_with(CONFIG)
    }

    /// As [`Scene::start`] with another config.
    ///
    /// # Errors
    /// As [`Scene::start`].
    pub fn start_with(config: &str) -> Result<Self> {
        let mut scene = Self::without_edges()?;
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
        let bird = site.bird.socket();
        let config = config.replace("{number}", &number.to_string()).replace("{bird}", &bird.to_string_lossy());
        self.edges[index(number)] = Some(Edge::launch(Some(&site.namespace), &config)?);
        Ok(())
    }

    /// Waits until the router sends packets for all static IPs to exactly these edges.
    ///
    /// # Errors
    /// When it does not in time; the message carries the edges' logs.
    pub fn wait_announced(&self, edges: &[u8]) -> Result<Duration> {
        self.lab.wait_next_hops(&static_ips(), edges, LIMIT).map_err(|failure| {
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

    /// Runs `change` under the load of the probers, prints what they saw, and checks the source of every reply.
    ///
    /// # Errors
    /// When the probers cannot run.
    pub fn under_load(&mut self, name: &str, change: impl FnOnce(&mut Self)) -> Result<Report> {
        let targets: Vec<_> = static_ips().into_iter().map(|ip| SocketAddr::from((ip, PORT))).collect();
        let before = self.opened();
        let probers = Probers::start(&self.lab.client, &targets, 3)?;
        // Time for the load to be a load, before and after.
        wait::pass(Duration::from_millis(500));
        let after = self.opened();
        let carried = [after[0] - before[0], after[1] - before[1]];
        println!("{name}: before, edge 1 took {} flows of the load and edge 2 took {}", carried[0], carried[1]);
        for number in self.lab.next_hops(static_ips()[0])? {
            if carried[index(number)] == 0.0 {
                let cause = format!("edge {number} carries nothing of it, although the router has it as a next hop");
                return Err(Failure::new("trust", "the load", cause, "see fib_multipath_hash_policy on the router"));
            }
        }
        change(self);
        wait::pass(Duration::from_secs(1));
        let report = probers.stop()?;
        println!("{name}: {report}");
        report.assert_sources();
        Ok(report)
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

fn index(number: u8) -> usize {
    usize::from(number) - 1
}
