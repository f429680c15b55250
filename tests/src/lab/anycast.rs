//! The lab of two edges that announce the same static IPs to one router.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use super::{Bird, End, Heard, Lab, Namespace, Region, Site};
use crate::wait;
use crate::{Failure, Result};

/// How long the sessions may take to come up: BIRD tries once a second.
const SESSIONS_LIMIT: Duration = Duration::from_secs(15);
/// What an operator copies, loaded as it is: its addresses are the lab's.
const PROVIDER_CONF: &str = include_str!("../../../deploy/bird/provider.conf");

/// A client, a router and two edges, each of which reaches both regions:
///
/// ```text
///                             ┌── 198.18.4.0/24 ── edge 1 ──┬── region A  198.18.2.2 to .5
///   client ──────── router ───┤      BGP, BFD               ╳
///   198.18.1.2    .1  BIRD    └── 198.18.5.0/24 ── edge 2 ──┴── region B  198.18.3.2 to .5
///                     ECMP                         BIRD, static IPs on lo
/// ```
///
/// IPv6 likewise: `fd00:18:1::/64` where IPv4 has `198.18.1.0/24`. NAT addresses are `198.18.6.1` of edge 1 and `198.18.6.2` of edge 2. The router spreads flows by addresses and ports. Both
/// BIRDs run on the files in `deploy/bird`.
pub struct AnycastLab {
    /// Where the clients run.
    pub client: Namespace,
    /// The provider's router.
    pub router: Router,
    /// The two edges.
    pub edges: [Site; 2],
    /// The first region.
    pub region_a: Region,
    /// The second region.
    pub region_b: Region,
}

/// The provider's router.
pub struct Router {
    /// Where it runs.
    pub namespace: Namespace,
    /// Its BIRD.
    pub bird: Bird,
}

impl Lab {
    /// Builds the lab of two edges and waits for their BGP and BFD sessions. Nothing is announced until somebody says so.
    ///
    /// # Errors
    /// Without root, or when `ip` or BIRD is not installed.
    pub fn anycast() -> Result<AnycastLab> {
        let (client, router) = (Namespace::new("client")?, Namespace::new("router")?);
        for parameter in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            router.set(&format!("net/{parameter}"), "1")?;
        }
        // A flow is an address and a port at both ends; the default is addresses alone.
        for family in ["ipv4", "ipv6"] {
            router.set(&format!("net/{family}/fib_multipath_hash_policy"), "1")?;
        }
        let near = End { interface: "uplink", addresses: &["198.18.1.2/24", "198.18.1.3/24", "fd00:18:1::2/64"] };
        let far = End { interface: "clients", addresses: &["198.18.1.1/24", "fd00:18:1::1/64"] };
        client.connect(&near, &router, &far)?;
        // Of two IPv6 addresses the kernel takes either, unless one is deprecated.
        client.ip("address add fd00:18:1::3/64 dev uplink nodad preferred_lft 0\n")?;
        client.ip("route add default via 198.18.1.1\nroute add default via fd00:18:1::1\n")?;

        let region_a = region("region-a", 2)?;
        let region_b = region("region-b", 3)?;
        let sites = [1, 2].map(|number| Site::build(number, &router, &[&region_a, &region_b]));
        let [first, second] = sites;
        let edges = [first?, second?];
        let router = Router { bird: Bird::start(&router, PROVIDER_CONF, &[])?, namespace: router };
        let lab = AnycastLab { client, router, edges, region_a, region_b };
        for site in &lab.edges {
            lab.wait_sessions(site)?;
        }
        Ok(lab)
    }
}

impl AnycastLab {
    /// Waits until the site's BGP and BFD sessions with the router are up, as both ends see them.
    ///
    /// # Errors
    /// When they are not in time; the message carries the router's view.
    pub fn wait_sessions(&self, site: &Site) -> Result<()> {
        wait::wait_until("the edge's sessions", SESSIONS_LIMIT, || self.are_up(site).unwrap_or(false)).map(drop).map_err(
            |failure| {
                let view = self.router.bird.command("show protocols").unwrap_or_else(|failure| failure.to_string());
                Failure::new("see", format_args!("the sessions of edge {} up", site.number), failure, view)
            },
        )
    }

    fn are_up(&self, site: &Site) -> Result<bool> {
        let bfd = self.router.bird.command("show bfd sessions")?;
        for (family, ipv4) in [("v4", true), ("v6", false)] {
            let address = site.address(ipv4).to_string();
            // Address, interface, state.
            let rows = bfd.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let is_watched = rows.into_iter().any(|row| row.first() == Some(&address.as_str()) && row.get(2) == Some(&"Up"));
            let here = self.router.bird.heard(&format!("edge{}_{family}", site.number))?;
            let there = site.bird.heard(&format!("provider_{family}"))?;
            if !is_watched || here.is_none() || there.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The numbers of the edges to which the router's kernel sends packets for `static_ip` now.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn next_hops(&self, static_ip: IpAddr) -> Result<BTreeSet<u8>> {
        let (family, length) = if static_ip.is_ipv4() { ("-4", 32) } else { ("-6", 128) };
        let text = self.router.namespace.run(["ip", family, "route", "show", &format!("{static_ip}/{length}")])?;
        Ok(text.split("dev edge-").skip(1).filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect())
    }

    /// Waits until the router sends packets for every one of `static_ips` to exactly the edges of these numbers.
    ///
    /// # Errors
    /// When it does not within `limit`; the message carries the logs.
    pub fn wait_next_hops(&self, static_ips: &[IpAddr], edges: &[u8], limit: Duration) -> Result<Duration> {
        let wanted = BTreeSet::from_iter(edges.iter().copied());
        let agrees = |ip: &IpAddr| self.next_hops(*ip).is_ok_and(|found| found == wanted);
        wait::wait_until("the router's next hops", limit, || static_ips.iter().all(agrees)).map_err(|failure| {
            let found: Vec<_> = static_ips.iter().map(|ip| (ip, self.next_hops(*ip))).collect();
            Failure::new("see", format_args!("edges {wanted:?} as the next hops"), failure, format_args!("they are {found:?}"))
        })
    }

    /// What the router has heard from the site over BGP on IPv4 and IPv6. Nothing for a session that is down.
    ///
    /// # Errors
    /// When the router's BIRD does not answer.
    pub fn heard(&self, site: &Site) -> Result<[Option<Heard>; 2]> {
        let of = |family: &str| self.router.bird.heard(&format!("edge{}_{family}", site.number));
        Ok([of("v4")?, of("v6")?])
    }
}

/// A region whose endpoints' addresses are on its loopback interface, so that they are reached over either link.
fn region(name: &str, number: u8) -> Result<Region> {
    let region = Region { namespace: Namespace::new(name)?, number };
    let mut lines = String::new();
    for address in region.addresses() {
        let _ = match address {
            IpAddr::V4(address) => writeln!(lines, "address add {address}/32 dev lo"),
            IpAddr::V6(address) => writeln!(lines, "address add {address}/128 dev lo nodad"),
        };
    }
    region.namespace.ip(&lines)?;
    Ok(region)
}
