//! The client's address for the endpoint: a PROXY protocol header, version 2 (the protocol's specification is HAProxy's), before the first
//! bytes of a connection, or in front of a datagram.

use std::net::SocketAddr;

use endpoint_group::Protocol;
use ppp::v2::{Builder, Command, Protocol as Transport, Version};

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
}

impl ClientIp {
    /// The header of a flow from `client` to `to`, a static IP and port; `None` if none is sent.
    pub(crate) fn header(self, protocol: Protocol, client: SocketAddr, to: SocketAddr) -> Option<Box<[u8]>> {
        if self == Self::None {
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

#[cfg(test)]
mod tests {
    use super::*;

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
