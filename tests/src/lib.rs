//! The end-to-end harness: the real binary, real peers, and the network-namespace lab.
//!
//! * [`lab`]: hosts and links made of anonymous network namespaces; nothing outlives the test process, however it ends.
//! * [`edge`]: one running `landfall`, its admin address and its metrics.
//! * [`endpoints`] and [`clients`]: the two ends of a flow. Endpoints are processes, so that killing one is real.
//! * [`wait`]: the only way to wait. Tests wait for an event with a deadline, never for a while.
//!
//! Everything returns a [`Result`], which a test is to `unwrap()` and not to hand back: the guards show what their
//! processes said when they are dropped by a panic, and a returned error unwinds nothing.

pub mod admin;
pub mod clients;
pub mod edge;
pub mod endpoints;
pub mod failure;
pub mod lab;
pub mod loopback;
pub mod metrics;
pub mod process;
pub mod programs;
pub mod wait;

pub use failure::{Failure, Result};
