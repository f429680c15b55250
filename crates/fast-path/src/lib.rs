//! SHORTCUT: forwards whole UDP listeners in the kernel, from the same routing table as the path in user space.
//!
//! The program under `bpf/` runs at the ingress of each device ([TCX](https://docs.kernel.org/bpf/)) and does all that a packet of an
//! accelerated listener needs: no such packet wakes this process. The process loads it, publishes the table to it and, now and then,
//! looks for flows that are over. In the order in which a packet meets them:
//!
//! 1. `bpf/packet.h`: a frame becomes a packet. What is not for one of this edge's addresses goes on to the host untouched.
//! 2. `bpf/fast_path.c`: which listener has the port, or which flow has the NAT port. A NAT port belongs to one flow whatever its
//!    endpoint, so it *is* the flow: its place in the flow table. A reply is found without a hash, unless its flow is transparent
//!    (`bpf/transparent.h`): then it is addressed to the client, and found by both ends.
//! 3. `bpf/flows.h`: a packet without a flow opens one, unless the host's `rp_filter` refuses it (`bpf/reverse_path.h`). The flow hash (`bpf/siphash.h`) gives the slot, the slot the endpoint
//!    (`bpf/choose.h`), unless a limit refuses (`bpf/limits.h`). When a listener is full, its oldest flow that was never answered makes
//!    room.
//! 4. `bpf/move.h`: a flow that must leave its endpoint moves. `bpf/translate.h`: addresses and ports on the other side.
//! 5. `bpf/next_hop.h`: the way out, as the flow remembers it or the host's routing has it, before anything is written. `bpf/rewrite.h`:
//!    headers and checksums.
//! 6. `bpf/icmp.h`: errors about a flow's packets, translated likewise; `bpf/too_big.h`: the edge's own answer to a packet that does not
//!    fit.
//!
//! On NICs, `bpf/xdp.h` stands before all this, natively in the driver: it does the common packet by the same functions and passes on
//! everything else untouched (`docs/decisions/0012-xdp-before-tcx.md`).
//!
//! What the process does:
//!
//! 1. [`Settings`]: what is accelerated. [`FastPath::load`] hands it to the kernel, or says in plain words why it cannot
//!    ([`Unavailable`]).
//! 2. [`FastPath::attach`]: one device after another, and [`FastPath::attach_xdp`] where it is fit. The attachment dies with the process.
//! 3. [`FastPath::publish`]: a routing table. Every packet from then on is decided by it, flows in being included; nothing is scanned.
//! 4. [`FastPath::sweep`]: ends the flows whose time is over. [`FastPath::flows`] and [`FastPath::counters`] show what is there.
//!
//! Meanwhile a thread of its own reads the kernel's notices, so that no flow remembers a way that has changed.
//!
//! Apart from all that, [`Dispatcher`] and its program `bpf/sk_lookup.c` give the listeners that are forwarded in user space one socket for
//! many ports: `docs/decisions/0014-one-socket-for-many-ports.md`.
//!
//! Layouts, memory and what was decided against: `docs/decisions/0009-fast-path-maps.md`.

mod attachment;
mod counters;
mod flow;
mod reasons;
mod settings;
mod unavailable;

#[cfg(all(target_os = "linux", target_endian = "little", feature = "kernel"))]
mod kernel;
#[cfg(all(target_os = "linux", target_endian = "little", feature = "kernel"))]
pub use kernel::{Dispatcher, FastPath, Refusals, attachments, clock, devices, test_support, unfit_for_xdp};

#[cfg(not(all(target_os = "linux", target_endian = "little", feature = "kernel")))]
mod stub;
#[cfg(not(all(target_os = "linux", target_endian = "little", feature = "kernel")))]
pub use stub::{Dispatcher, FastPath, Refusals, attachments, clock, devices, unfit_for_xdp};

pub use attachment::Attachment;
pub use counters::{Counters, EndpointCounters, ListenerCounters, Traffic};
pub use flow::{FlowEntry, Sweep, Timeouts};
pub use reasons::{DropReason, EndReason};
pub use settings::{Access, Dispatched, Limits, Listener, MOST_TRANSPARENT_FLOWS, NatPool, Settings};
pub use unavailable::{Error, Unavailable};
