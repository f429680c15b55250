//! The client's address for the endpoint: a PROXY protocol header, version 2 (the protocol's specification is HAProxy's), before the first
//! bytes of a connection, or in front of a datagram; or the client's own address and port as the source (`IP_TRANSPARENT`).

use std::{io, net::SocketAddr, os::fd::AsRawFd, sync::Arc};

use dashmap::DashSet;
use endpoint_group::Protocol;
use ppp::v2::{Builder, Command, Protocol as Transport, Version};
use socket2::Socket;

use crate::{account::Counters, worker::Context};

/// How an endpoint learns who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientIp {
    /// Not at all: it sees this edge.
    #[default]
    None,
    /// A header before the first byte of a connection, or in front of the first datagram that a flow sends to an endpoint.
    ProxyV2,
    /// A header in front of every datagram; for a connection as above.
    ProxyV2Every,
    /// It sees the client's own address and port (`IP_TRANSPARENT`); its answers must be routed through this edge.
    Transparent,
}

impl ClientIp {
    /// The header of a flow from `client` to `to`, a static IP and port; `None` if none is sent.
    pub(crate) fn header(self, protocol: Protocol, client: SocketAddr, to: SocketAddr) -> Option<Box<[u8]>> {
        if matches!(self, Self::None | Self::Transparent) {
            return None;
        }
        let transport = match protocol {
            Protocol::Tcp => Transport::Stream,
            Protocol::Udp => Transport::Datagram,
        };
        // Err: only payloads beyond 64 KiB, which two addresses are not.
        Builder::with_addresses(Version::Two | Command::Proxy, transport, (client, to)).build().ok().map(Vec::into_boxed_slice)
    }
}

/// Gives `socket` the address and port of `client`, which is none of this host's. Needs CAP_NET_ADMIN.
///
/// The port may be in use towards other endpoints; whether it is towards this one the kernel says when a TCP socket connects, and
/// [`Leases`] for UDP.
pub(crate) fn bind_as(socket: &Socket, client: SocketAddr) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    let (level, option) = match client {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
    };
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or(0);
    // SAFETY: `on` is readable for `length` bytes.
    if unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.bind(&client.into())
}

/// Counts a flow whose endpoint sees this host's address in place of the client's, because of `error`.
pub(crate) fn fell_back(context: &Context, counters: &Counters, client: SocketAddr, endpoint: SocketAddr, error: &io::Error) {
    tracing::debug!(%client, %endpoint, %error, "cannot use the client's own address");
    if error.raw_os_error() == Some(libc::EPERM) && context.may_complain() {
        tracing::warn!("client_ip = \"transparent\" has no effect without CAP_NET_ADMIN: endpoints see this host's address");
    }
    counters.fell_back();
}

/// The pairs of client and endpoint that have a UDP flow under the client's own address. A second flow of the same pair, through
/// another static IP or listener, would be given the replies of the first without a word from the kernel.
///
/// Shared by the workers: the flows of one client address and port through different static IPs are spread over them.
#[derive(Debug, Default)]
pub(crate) struct Leases(DashSet<(SocketAddr, SocketAddr)>);

/// The right of one flow to the address of its client towards an endpoint; given back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    leases: Arc<Leases>,
    pair: (SocketAddr, SocketAddr),
}

impl Leases {
    /// The right to `client` towards `endpoint`; `None` if another flow has it, or the two are of different families.
    pub fn take(self: &Arc<Self>, client: SocketAddr, endpoint: SocketAddr) -> Option<Lease> {
        let pair = (client, endpoint);
        let free = client.is_ipv4() == endpoint.is_ipv4() && self.0.insert(pair);
        free.then(|| Lease { leases: Arc::clone(self), pair })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.0.remove(&self.pair);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_flow_has_a_client_s_address_towards_an_endpoint() {
        let leases = Arc::new(Leases::default());
        let [client, endpoint, other] = ["203.0.113.9:5555", "10.0.0.1:7000", "10.0.0.2:7000"].map(|text| text.parse().unwrap());
        let first = leases.take(client, endpoint);
        assert!(first.is_some() && leases.take(client, other).is_some());
        assert!(leases.take(client, endpoint).is_none());
        drop(first);
        assert!(leases.take(client, endpoint).is_some());
        assert!(leases.take(client, "[2001:db8::1]:7000".parse().unwrap()).is_none());
        assert!(leases.0.is_empty());
    }

    #[test]
    fn a_header_is_as_the_specification_says() {
        let (client, to) = ("203.0.113.9:5555".parse().unwrap(), "198.18.0.1:7000".parse().unwrap());
        let header = ClientIp::ProxyV2.header(Protocol::Tcp, client, to).unwrap();
        let signature = b"\r\n\r\n\0\r\nQUIT\n";
        let rest = [0x21, 0x11, 0, 12, 203, 0, 113, 9, 198, 18, 0, 1, 0x15, 0xb3, 0x1b, 0x58];
        assert_eq!(*header, [&signature[..], &rest[..]].concat());
        let (client, to) = ("[2001:db8::9]:5555".parse().unwrap(), "[2001:db8::1]:7000".parse().unwrap());
        let header = ClientIp::ProxyV2Every.header(Protocol::Udp, client, to).unwrap();
        assert_eq!((header.len(), &header[12..16]), (52, &[0x21, 0x22, 0, 36][..]));
        assert_eq!(ClientIp::None.header(Protocol::Udp, client, to), None);
    }
}
