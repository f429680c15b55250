//! The end-to-end harness: the real binary, real peers, and the network-namespace lab.
//!
//! * [`lab`]: hosts and links made of anonymous network namespaces; nothing outlives the test process, however it ends.
//! * [`edge`]: one running `landfall`, its admin address and its metrics.
//! * [`anycast`]: two edges that announce the same static IPs, in a lab with a router.
//! * [`endpoints`] and [`clients`]: the two ends of a flow. Endpoints are processes, so that killing one is real.
//! * [`field`]: the servers of the protocols that probes know by name.
//! * [`conformance`]: the two ends of a TCP connection, and all that they see.
//! * [`datagrams`]: the two ends of UDP flows in the test itself.
//! * [`flood`]: packets from spoofed sources, and honest clients beside them.
//! * [`fleet`]: as many clients as there are addresses and ports.
//! * [`frames`]: frames written by hand.
//! * [`load`]: flows that note by themselves when they are told of a death, or move.
//! * [`path`]: the same test with UDP forwarded in user space and in the kernel.
//! * [`probers`]: a load that never pauses, for what clients see while an edge comes and goes.
//! * [`command`]: the commands of `landfall` that end by themselves.
//! * [`sockets`]: what the standard library does not offer.
//! * [`wait`]: the only way to wait. Tests wait for an event with a deadline, never for a while.
//! * [`stalls`]: how long this machine kept the test itself waiting, for bounds on time.
//!
//! Everything returns a [`Result`], which a test is to `unwrap()` and not to hand back: the guards show what their
//! processes said when they are dropped by a panic, and a returned error unwinds nothing.

pub mod admin;
pub mod anycast;
pub mod clients;
pub mod command;
pub mod conformance;
pub mod datagrams;
pub mod edge;
pub mod endpoints;
pub mod failure;
pub mod field;
pub mod fleet;
pub mod flood;
pub mod frames;
pub mod lab;
pub mod load;
pub mod loopback;
pub mod metrics;
pub mod path;
pub mod probers;
pub mod process;
pub mod programs;
pub mod sockets;
pub mod stalls;
pub mod wait;

pub use failure::{Failure, Result};
