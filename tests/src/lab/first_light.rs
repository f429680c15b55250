//! The lab of one edge between a client and two regions.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{End, Namespace};
use crate::Result;

/// The static IPv4 addresses, on the edge's loopback interface.
pub const STATIC_IPV4: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, 2)];
/// The static IPv6 addresses, on the edge's loopback interface.
pub const STATIC_IPV6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, 2)];
/// How many addresses of each family a region has for endpoints.
pub const ENDPOINTS_PER_REGION: u8 = 4;

/// A client, an edge and two regions:
///
/// ```text
///                          edge
///   client ───────────┬─ lo: 198.18.0.1, 198.18.0.2 ─┬─────────── region A  198.18.2.2 to .5
///   198.18.1.2     .1 │      fd00:18::1, fd00:18::2  │ .1                   fd00:18:2::2 to ::5
///   fd00:18:1::2  ::1 └──────────────────────────────┤
///                                                    └─────────── region B  198.18.3.2 to .5
///                                                      .1                   fd00:18:3::2 to ::5
/// ```
///
/// The static IPs are on no interface but loopback, and every interface has another address, so a reply that leaves
/// from the wrong one is seen. The edge does not forward packets: what reaches a region has passed through the edge's
/// process.
pub struct Lab {
    /// Where the clients run.
    pub client: Namespace,
    /// Where `landfall` runs.
    pub edge: Namespace,
    /// The first region.
    pub region_a: Region,
    /// The second region.
    pub region_b: Region,
}

/// A namespace with addresses for endpoints.
pub struct Region {
    /// Where the endpoints run.
    pub namespace: Namespace,
    pub(super) number: u8,
}

impl Region {
    /// The IPv4 address of the region's endpoint `index`, from 0 to [`ENDPOINTS_PER_REGION`] − 1.
    pub fn ipv4(&self, index: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.number, 2 + index)
    }

    /// The IPv6 address of the region's endpoint `index`, from 0 to [`ENDPOINTS_PER_REGION`] − 1.
    pub fn ipv6(&self, index: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x18, self.number.into(), 0, 0, 0, 0, 2 + u16::from(index))
    }

    /// All addresses of the region.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let indices = 0..ENDPOINTS_PER_REGION;
        indices.flat_map(|index| [IpAddr::V4(self.ipv4(index)), IpAddr::V6(self.ipv6(index))]).collect()
    }
}

impl Lab {
    /// Builds the lab. It is gone when this value and everything started in it are.
    ///
    /// # Errors
    /// Without root, or when `ip` is not installed.
    pub fn first_light() -> Result<Self> {
        let (client, edge) = (Namespace::new("client")?, Namespace::new("edge")?);
        add_static_ips(&edge)?;

        let near = End { interface: "uplink", addresses: &["198.18.1.2/24", "fd00:18:1::2/64"] };
        let far = End { interface: "clients", addresses: &["198.18.1.1/24", "fd00:18:1::1/64"] };
        client.connect(&near, &edge, &far)?;
        client.ip("route add 198.18.0.0/24 via 198.18.1.1\nroute add fd00:18::/64 via fd00:18:1::1\n")?;
        // Clients of any address live behind the first one; a real edge has its provider there.
        edge.ip("route add default via 198.18.1.2\nroute add default via fd00:18:1::2\n")?;

        let region_a = region(&edge, "region-a", 2)?;
        let region_b = region(&edge, "region-b", 3)?;
        Ok(Self { client, edge, region_a, region_b })
    }
}

/// Puts the static IPs on the loopback interface of an edge.
pub(super) fn add_static_ips(edge: &Namespace) -> Result<()> {
    let mut loopback = String::new();
    for address in STATIC_IPV4 {
        let _ = writeln!(loopback, "address add {address}/32 dev lo");
    }
    for address in STATIC_IPV6 {
        let _ = writeln!(loopback, "address add {address}/128 dev lo nodad");
    }
    edge.ip(&loopback)
}

/// A region on a link of its own, with the edge as its way out.
fn region(edge: &Namespace, name: &str, number: u8) -> Result<Region> {
    let region = Region { namespace: Namespace::new(name)?, number };
    let addresses: Vec<String> =
        region.addresses().iter().map(|address| format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 })).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let gateways = [format!("198.18.{number}.1/24"), format!("fd00:18:{number}::1/64")];
    let here = End { interface: name, addresses: &[&gateways[0], &gateways[1]] };
    edge.connect(&here, &region.namespace, &End { interface: "uplink", addresses: &addresses })?;
    let routes = format!("route add default via 198.18.{number}.1\nroute add default via fd00:18:{number}::1\n");
    region.namespace.ip(&routes)?;
    Ok(region)
}
