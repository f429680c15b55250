//! Memory in user space: by how much a fresh subject grows with idle TCP connections, and with UDP flows.

use std::time::Duration;

use landfall_tests::wait;
use landfall_tests::{Failure, Result};

use crate::gauge::{Gauge, StopAtEnd};
use crate::record::Row;
use crate::subjects::Running;
use crate::works::Work;
use crate::{tcp, udp};

const CONNECTIONS: usize = 4_000;
const FLOWS: u32 = 8_000;
/// Flows that come first, so that what is made once is not counted.
const FIRST: u32 = 64;
/// What grows or shrinks after the last flow has opened.
const SETTLE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens the flows of `work` through `running`, which must be fresh, and tells how its memory grew.
///
/// # Errors
/// When a flow is not served.
pub fn measure(running: &Running, work: Work, round: usize, order: usize) -> Result<Row> {
    let (path, target) = (&running.path, running.target);
    let tree = running.tree()?;
    let gauge = Gauge::default();
    let mut row = Row::empty(round, work, running.subject, order);
    let measured = std::thread::scope(|scope| -> Result<()> {
        let stop = StopAtEnd(&gauge);
        scope.spawn(|| gauge.guard(|| udp::serve(&path.udp_server, false, &gauge)));
        scope.spawn(|| gauge.guard(|| tcp::echo(&path.listener, &gauge)));
        let open_udp = |flows| udp::open_flows(flows, &path.udp_client, target, PATIENCE);
        let open_tcp = |count| path.client.enter(|| tcp::hold(count, target));
        let (before, after, flows) = if work == Work::UdpIdle {
            open_udp(FIRST)?;
            let before = tree.anonymous_bytes()?;
            open_udp(FLOWS)?;
            wait::pass(SETTLE);
            (before, tree.anonymous_bytes()?, FLOWS - FIRST)
        } else {
            drop(open_tcp(usize::try_from(FIRST).unwrap_or_default())?);
            wait::pass(SETTLE);
            let before = tree.anonymous_bytes()?;
            let held = open_tcp(CONNECTIONS)?;
            wait::pass(SETTLE);
            let after = tree.anonymous_bytes()?;
            (before, after, u32::try_from(held.len()).unwrap_or(u32::MAX))
        };
        row.memory = after.cast_signed() - before.cast_signed();
        row.done = flows.into();
        drop(stop);
        Ok(())
    });
    gauge.failure().map_or(measured, Err)?;
    if row.memory <= 0 {
        let cause = "its memory did not grow with its flows";
        let cure = "its allocator had room left; take more flows";
        return Err(Failure::new("measure", format_args!("{work} of {}", running.subject), cause, cure));
    }
    Ok(row)
}
