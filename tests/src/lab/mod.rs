//! The lab: hosts and links made of network namespaces, needing root and nothing else.
//!
//! Namespaces are anonymous. They have no name under `/run/netns` but exist as an open descriptor in this process and as
//! the home of its children; when both are gone, however they went, the kernel removes namespace, links and rules.
//! The lab therefore leaves nothing behind after a panic, an abort or a `kill -9`.
//!
//! Facts about veth that cost an afternoon each:
//! * Packets of a local socket cross a veth with a partial checksum. Sockets do not mind; native XDP does, and needs
//!   `ethtool -K DEVICE tx off` at the sender.
//! * Native XDP needs as many receive queues as the peer has transmit queues; [`Namespace::connect`] makes two of each.
//! * A packet that netfilter drops in its output hook makes `send` fail with EPERM. Nobody ever sees that from a dead
//!   endpoint, so [`Namespace::drop_traffic_to`] drops what arrives and not what leaves.

mod anycast;
mod bird;
mod first_light;
mod link;
mod namespace;
mod silence;
mod site;

pub use anycast::{AnycastLab, Router};
pub use bird::{Bird, Heard};
pub use first_light::{ENDPOINTS_PER_REGION, Lab, Region, STATIC_IPV4, STATIC_IPV6};
pub use link::End;
pub use namespace::Namespace;
pub use silence::{DropRule, Silence};
pub use site::Site;
