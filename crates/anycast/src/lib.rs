//! ANNOUNCE: say on BGP that this edge serves the static IPs, only while it does.
//!
//! We speak no BGP. BIRD does, and has a static protocol for each static IP, which this crate enables and disables. The files in the
//! order in which they work:
//!
//! 1. [`decide`]: what is known of the edge and of a static IP → announced, depreferred or withdrawn, and why. Pure.
//! 2. [`reconcile`]: what is wanted, and what BIRD says → the commands that are missing, in the right order. Pure.
//! 3. [`bird`]: the client of BIRD's control socket, and the grammar of its answers.
//! 4. [`device`]: the network device that the routes hang on, and that dies with the process.
//! 5. [`driver`]: the loop that looks, compares, commands and reports.

pub mod bird;
pub mod decide;
pub mod device;
pub mod driver;
pub mod reconcile;

pub use decide::State;
