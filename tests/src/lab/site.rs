//! One of the two edges' hosts in the lab with a router.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::first_light::add_static_ips;
use super::{Bird, End, Namespace, Region};
use crate::Result;

/// What an operator copies, loaded with the addresses of each edge.
const EDGE_CONF: &str = include_str!("../../../deploy/bird/edge.conf");

/// An edge's host: where `landfall` runs, and its BIRD.
pub struct Site {
    /// 1 or 2, as in the names of the router's protocols and interfaces.
    pub number: u8,
    /// Where `landfall` runs.
    pub namespace: Namespace,
    /// Its BIRD.
    pub bird: Bird,
}

impl Site {
    /// Edge `number` on a link to `router` and one to each of `regions`.
    pub(super) fn build(number: u8, router: &Namespace, regions: &[&Region]) -> Result<Self> {
        let namespace = Namespace::new(&format!("edge-{number}"))?;
        // IPv6 addresses else vanish when a link goes down, which those of a real host do not: its configuration restores them.
        namespace.set("net/ipv6/conf/default/keep_addr_on_down", "1")?;
        add_static_ips(&namespace)?;
        let [nat4, nat6] = nat_addresses(number);
        namespace.ip(&format!("address add {nat4}/32 dev lo\naddress add {nat6}/128 dev lo nodad\n"))?;
        let net = 3 + number;
        let [here, there] = [2, 1].map(|host| [format!("198.18.{net}.{host}/24"), format!("fd00:18:{net}::{host}/64")]);
        let provider = End { interface: "provider", addresses: &[&here[0], &here[1]] };
        namespace.connect(&provider, router, &End { interface: &interface(number), addresses: &[&there[0], &there[1]] })?;
        for region in regions {
            join(&namespace, number, region)?;
        }
        let values = [
            ("EDGE_V4", edge_address(number, true).to_string()),
            ("EDGE_V6", edge_address(number, false).to_string()),
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

    /// Addresses of the site's own, one of each family, that both regions answer to over their links to it: its NAT addresses.
    pub fn nat_addresses(&self) -> [String; 2] {
        nat_addresses(self.number)
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

    /// Makes the link to `router` lose whatever either end sends, as when a switch between the two dies: both keep their carrier.
    ///
    /// # Errors
    /// When `tc` fails.
    pub fn silence_link(&self, router: &Namespace) -> Result<()> {
        // A queue that takes nothing. From the first of them on the edge is deaf.
        self.at_both_ends(router, "replace", &["pfifo", "limit", "0"])
    }

    /// Ends [`Site::silence_link`].
    ///
    /// # Errors
    /// When `tc` fails.
    pub fn end_silence(&self, router: &Namespace) -> Result<()> {
        self.at_both_ends(router, "delete", &[])
    }

    fn at_both_ends(&self, router: &Namespace, order: &str, queue: &[&str]) -> Result<()> {
        for (host, device) in [(router, &*interface(self.number)), (&self.namespace, "provider")] {
            host.run([&["tc", "qdisc", order, "dev", device, "root"], queue].concat())?;
        }
        Ok(())
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

/// The other ends' name of their links to edge `number`.
fn interface(number: u8) -> String {
    format!("edge-{number}")
}

fn edge_address(number: u8, ipv4: bool) -> IpAddr {
    on_link(3 + number, 2, ipv4)
}

fn provider_address(number: u8, ipv4: bool) -> IpAddr {
    on_link(3 + number, 1, ipv4)
}

fn nat_addresses(number: u8) -> [String; 2] {
    [on_link(6, number, true), on_link(6, number, false)].map(|address| address.to_string())
}

fn on_link(net: u8, host: u8, ipv4: bool) -> IpAddr {
    match ipv4 {
        true => Ipv4Addr::new(198, 18, net, host).into(),
        false => Ipv6Addr::new(0xfd00, 0x18, net.into(), 0, 0, 0, 0, host.into()).into(),
    }
}

/// A link between edge `edge` and `region`. The region answers over it to the edge's address on it, and to its NAT addresses.
fn join(namespace: &Namespace, edge: u8, region: &Region) -> Result<()> {
    let net = 10 * region.number + edge;
    let end = |host: u8| [format!("198.18.{net}.{host}/24"), format!("fd00:18:{net}::{host}/64")];
    let ([here4, here6], [there4, there6]) = (end(1), end(2));
    let near = End { interface: region.namespace.name(), addresses: &[&here4, &here6] };
    namespace.connect(&near, &region.namespace, &End { interface: &interface(edge), addresses: &[&there4, &there6] })?;
    let [nat4, nat6] = nat_addresses(edge);
    region.namespace.ip(&format!("route add {nat4} via 198.18.{net}.1\nroute add {nat6} via fd00:18:{net}::1\n"))?;
    let number = region.number;
    namespace
        .ip(&format!("route add 198.18.{number}.0/24 via 198.18.{net}.2\nroute add fd00:18:{number}::/64 via fd00:18:{net}::2\n"))
}
