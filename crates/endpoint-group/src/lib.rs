//! CHOOSE: which endpoint a flow goes to, and nothing else.
//!
//! Config + health + flow → endpoint is a pure function here: no sockets, no clock, no async, no shared state.
//! Time, where a rule needs it, is an argument.
//!
//! The order of reading is the order of deciding:
//!
//! 1. [`flow_hash`]: a flow becomes a [`Slot`], one of 65,536.
//! 2. [`view`]: what this edge knows of every endpoint now; [`failback`] turns recoveries into effective weights and dials.
//! 3. [`plan`]: which endpoint groups take traffic, in which order, and why.
//! 4. [`rendezvous`]: which endpoint of a group takes a slot.
//! 5. [`table`]: the answers for all slots, as plain data that a forwarding path reads.
//! 6. [`evict`]: which endpoints existing flows must leave.

pub mod evict;
pub mod failback;
pub mod flow_hash;
pub mod model;
pub mod name;
pub mod plan;
mod rebuild;
pub mod rendezvous;
pub mod table;
pub mod view;

pub use flow_hash::{Affinity, FlowHasher, FlowKey, Protocol, SLOTS, Slot};
pub use model::{Dial, Endpoint, EndpointGroup, EndpointId, MinHealthy, PortOverrides, Weight, WhenAllUnhealthy};
pub use name::Name;
pub use table::{ListenerTable, RoutingTable};
pub use view::Health;
