//! System calls for each short connection, counted by strace on all threads of the subject.
//!
//! Counting makes each call slow, and a slow proxy finds more work at each wake-up. The figure is therefore for a loaded
//! proxy, and flatters whoever takes much at once; the rates are measured without it.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use landfall_tests::process::Process;
use landfall_tests::{Failure, Result, wait};

use crate::gauge::Gauge;
use crate::measure;
use crate::record::Row;
use crate::subjects::Running;
use crate::works::{CONCURRENT, Work};

/// How long connections are opened and closed while calls are counted.
const COUNTED: Duration = Duration::from_secs(3);
/// For the last connections to be closed on both sides, before counting ends.
const SETTLE: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(20);

/// Counts the calls of `running` while short connections pass.
///
/// # Errors
/// When strace is not installed or may not attach.
pub fn measure(running: &Running, round: usize, order: usize) -> Result<(Row, String)> {
    let directory = tempfile::tempdir().map_err(|error| Failure::new("create", "a directory", error, "make room"))?;
    let file = directory.path().join("calls");
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-S", "calls", "-o"]).arg(&file);
    for pid in running.tree()?.pids() {
        command.arg("-p").arg(pid.to_string());
    }
    let mut strace = Process::spawn(None, command)?;
    strace.wait_for_line("attached", LIMIT)?;
    wait::pass(SETTLE);
    let gauge = Gauge::default();
    measure::under_load(running, Work::TcpSyscalls.load(round), &gauge, None, || {
        measure::warm(&gauge, 1)?;
        wait::pass(COUNTED);
        Ok(())
    })?;
    wait::pass(SETTLE);
    strace.signal(libc::SIGINT)?;
    strace.wait_exit(LIMIT)?;
    let cannot = |cause: &dyn std::fmt::Display| Failure::new("read", "the table of strace", cause, "install strace 6 or newer");
    let table = std::fs::read_to_string(&file).map_err(|error| cannot(&error))?;
    let total = table.lines().rev().find(|line| line.trim_end().ends_with(" total"));
    // % time, seconds, µs per call, calls, perhaps errors, name; older ones leave µs per call empty in the last line.
    let words: Vec<&str> = total.unwrap_or_default().split_whitespace().collect();
    let calls = words.get(3).and_then(|word| word.parse().ok()).ok_or_else(|| cannot(&"its last line is no sum"))?;
    let mut row = Row::empty(round, Work::TcpSyscalls, running.subject, order);
    row.lost = gauge.lost.load(Ordering::Relaxed);
    // Those that were under way in the end have made their calls as well.
    row.done = gauge.done.load(Ordering::Relaxed) + row.lost + u64::try_from(CONCURRENT).unwrap_or_default();
    row.syscalls = calls;
    Ok((row, table))
}
