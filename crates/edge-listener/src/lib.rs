//! FORWARD: bind → accept | datagram → classify → pin → (choose) → dial → forward → account.
//!
//! A worker is a thread with one loop (`worker`), its own sockets (`SO_REUSEPORT`) and its own flows; no lock and no channel stands
//! between a packet and its endpoint. What workers share is read-only (the routing table, swapped whole) or counted (limits, metrics).
//! The files follow the packet:
//!
//! 1. [`bind`]: a socket per static IP, port, protocol and worker, or one for many ports by [`dispatch`].
//! 2. `tcp::accept`, `udp::receive`: connections or datagrams arrive; [`access`] and [`limits`] may refuse them.
//! 3. [`routes`]: the slot's endpoint is looked up in the routing table.
//! 4. `tcp::dial`, `udp::flow` and `udp::upstream`: the flow is pinned to an endpoint, or to the next in rank.
//! 5. `tcp::connection` and `tcp::way`, `udp::receive` and `udp::replies`: bytes go both ways until an end, a time or a verdict ends the
//!    flow.
//! 6. [`account`]: everything that was delivered, ended or dropped is counted, each drop under one [`reasons`] name.

pub mod access;
pub mod account;
pub mod bind;
pub mod client_ip;
pub mod dispatch;
pub mod edge;
pub mod find;
mod flow;
pub mod limits;
pub mod live;
pub mod other_path;
pub mod overflow;
mod poll;
mod rate;
pub mod reasons;
pub mod routes;
pub mod settings;
mod tcp;
mod timers;
mod udp;
mod wake;
mod worker;

pub use dispatch::Dispatcher;
pub use edge::{Edge, StartError};
pub use find::Finder;
pub use reasons::{CloseReason, DropReason};
pub use routes::Routes;

use endpoint_group::EndpointId;

/// Told of failures that live traffic meets, so that a probe can look at once. Never a verdict by itself.
///
/// Called from forwarding threads: must not block.
pub trait PassiveObserver: Send + Sync {
    /// A connection to `endpoint` failed, or a datagram to it was answered by an ICMP error.
    fn failed(&self, endpoint: EndpointId);
}
