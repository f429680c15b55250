//! The lab of two edges that announce the same static IPs to one router.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::{Bird, End, Lab, Namespace, Region, STATIC_IPV4, STATIC_IPV6};
use crate::wait;
use crate::{Failure, Result};

/// How long the sessions may take to come up: BIRD tries once a second.
const SESSIONS_LIMIT: Duration = Duration::from_secs(15);
/// What an operator copies, loaded as it is.
const EDGE_CONF: &str = include_str!("../../../deploy/bird/edge.conf");
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
/// IPv6 likewise: `fd00:18:1::/64` where IPv4 has `198.18.1.0/24`. The router spreads flows by addresses and ports. Both
/// BIRDs run on the files in `deploy/bird`, with the addresses of the lab.
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

/// An edge's host: where `landfall` runs, and its BIRD.
pub struct Site {
    /// 1 or 2, as in the names of the router's protocols and interfaces.
    pub number: u8,
    /// Where `landfall` runs.
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
        client.ip("route add default via 198.18.1.1\nroute add default via fd00:18:1::1\n")?;

        let region_a = region("region-a", 2)?;
        let region_b = region("region-b", 3)?;
        let sites = [1, 2].map(|number| Site::build(number, &router, &[&region_a, &region_b]));
        let [first, second] = sites;
        let edges = [first?, second?];
        let router = Router { bird: Bird::start(&router, PROVIDER_CONF, &router_values())?, namespace: router };
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
        let is_up = || -> Result<bool> {
            let families = [("v4", site.provider_side(true)), ("v6", site.provider_side(false))];
            for (family, address) in families {
                let both =
                    [(&self.router.bird, format!("edge{}_{family}", site.number)), (&site.bird, format!("provider_{family}"))];
                let bfd = self.router.bird.command("show bfd sessions")?;
                let watched = bfd.lines().any(|line| {
                    let words: Vec<_> = line.split_whitespace().collect();
                    words.first() == Some(&site.address(address.is_ipv4()).to_string().as_str()) && words.get(2) == Some(&"Up")
                });
                for (bird, protocol) in both {
                    if !watched || bird.heard(&protocol)?.is_none() {
                        return Ok(false);
                    }
                }
            }
            Ok(true)
        };
        wait::wait_until("the edge's sessions", SESSIONS_LIMIT, || is_up().unwrap_or(false)).map(drop).map_err(|failure| {
            let view = self.router.bird.command("show protocols").unwrap_or_else(|failure| failure.to_string());
            Failure::new("see", format_args!("the sessions of edge {} up", site.number), failure, view)
        })
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
    pub fn heard(&self, site: &Site) -> Result<[Option<super::Heard>; 2]> {
        let of = |family: &str| self.router.bird.heard(&format!("edge{}_{family}", site.number));
        Ok([of("v4")?, of("v6")?])
    }

    /// All addresses of endpoints in both regions.
    pub fn endpoint_addresses(&self) -> Vec<IpAddr> {
        [&self.region_a, &self.region_b].into_iter().flat_map(Region::addresses).collect()
    }
}

impl Site {
    fn build(number: u8, router: &Namespace, regions: &[&Region]) -> Result<Self> {
        let namespace = Namespace::new(&format!("edge-{number}"))?;
        // IPv6 addresses else vanish when a link goes down, which those of a real host do not: its configuration restores them.
        namespace.set("net/ipv6/conf/default/keep_addr_on_down", "1")?;
        namespace.ip(&STATIC_IPV4.iter().fold(String::new(), |lines, ip| lines + &format!("address add {ip}/32 dev lo\n")))?;
        namespace
            .ip(&STATIC_IPV6.iter().fold(String::new(), |lines, ip| lines + &format!("address add {ip}/128 dev lo nodad\n")))?;
        let net = 3 + number;
        let [here, there] = [2, 1].map(|host| [format!("198.18.{net}.{host}/24"), format!("fd00:18:{net}::{host}/64")]);
        let provider = End { interface: "provider", addresses: &[&here[0], &here[1]] };
        let interface = format!("edge-{number}");
        namespace.connect(&provider, router, &End { interface: &interface, addresses: &[&there[0], &there[1]] })?;
        for region in regions {
            join(&namespace, number, region)?;
        }
        let (v4, v6) = (edge_address(number, true), edge_address(number, false));
        let values = [
            ("EDGE_V4", v4.to_string()),
            ("EDGE_V6", v6.to_string()),
            ("PROVIDER_V4", provider_address(number, true).to_string()),
            ("PROVIDER_V6", provider_address(number, false).to_string()),
        ];
        let bird = Bird::start(&namespace, EDGE_CONF, &values.each_ref().map(|(name, value)| (*name, value.as_str())))?;
        let site = Self { number, namespace, bird };
        site.add_default_routes()?;
        Ok(site)
    }

    /// The site's address on its link to the router.
    pub fn address(&self, ipv4: bool) -> IpAddr {
        edge_address(self.number, ipv4)
    }

    fn provider_side(&self, ipv4: bool) -> IpAddr {
        provider_address(self.number, ipv4)
    }

    fn add_default_routes(&self) -> Result<()> {
        let routes = [true, false].map(|ipv4| format!("route replace default via {}\n", self.provider_side(ipv4)));
        self.namespace.ip(&routes.concat())
    }

    /// Cuts the link to the router: it is down here, and the router's end loses its carrier.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn cut_link(&self) -> Result<()> {
        self.namespace.ip("link set provider down\n")
    }

    /// Mends the link, with the routes that went with it.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn mend_link(&self) -> Result<()> {
        self.namespace.ip("link set provider up\n")?;
        self.add_default_routes()
    }
}

fn edge_address(number: u8, ipv4: bool) -> IpAddr {
    on_link(3 + number, 2, ipv4)
}

fn provider_address(number: u8, ipv4: bool) -> IpAddr {
    on_link(3 + number, 1, ipv4)
}

fn on_link(net: u8, host: u8, ipv4: bool) -> IpAddr {
    match ipv4 {
        true => Ipv4Addr::new(198, 18, net, host).into(),
        false => Ipv6Addr::new(0xfd00, 0x18, net.into(), 0, 0, 0, 0, host.into()).into(),
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

/// A link between edge `edge` and `region`. The region answers to the edge's address on it.
fn join(namespace: &Namespace, edge: u8, region: &Region) -> Result<()> {
    let net = 10 * region.number + edge;
    let end = |host: u8| [format!("198.18.{net}.{host}/24"), format!("fd00:18:{net}::{host}/64")];
    let ([here4, here6], [there4, there6]) = (end(1), end(2));
    let near = End { interface: region.namespace.name(), addresses: &[&here4, &here6] };
    let interface = format!("edge-{edge}");
    namespace.connect(&near, &region.namespace, &End { interface: &interface, addresses: &[&there4, &there6] })?;
    let number = region.number;
    namespace
        .ip(&format!("route add 198.18.{number}.0/24 via 198.18.{net}.2\nroute add fd00:18:{number}::/64 via fd00:18:{net}::2\n"))
}

/// The router's definitions as the lab has them; they are those of the file, which this keeps so.
fn router_values() -> [(&'static str, &'static str); 5] {
    [
        ("ROUTER_ID", "198.18.1.1"),
        ("EDGE1_V4", "198.18.4.2"),
        ("EDGE1_V6", "fd00:18:4::2"),
        ("EDGE2_V4", "198.18.5.2"),
        ("EDGE2_V6", "fd00:18:5::2"),
    ]
}
