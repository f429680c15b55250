//! The commands of `landfall` that end by themselves: `check`, `reload`, and `run` on a file that it refuses.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process::Process;
use crate::{Failure, Result, programs};

/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(20);

/// What became of a command.
#[derive(Debug)]
pub struct Ended {
    /// The exit status; nothing if a signal ended it.
    pub status: Option<i32>,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
}

/// Runs `landfall` with `arguments` to its end, which may be any.
///
/// # Errors
/// When the binary is missing or does not end in time.
pub fn landfall<W: AsRef<OsStr>>(arguments: impl IntoIterator<Item = W>) -> Result<Ended> {
    let mut command = Command::new(programs::landfall()?);
    command.args(arguments);
    let mut process = Process::spawn(None, command)?;
    let status = process.wait_exit(LIMIT)?.code();
    Ok(Ended { status, stdout: process.stdout(), stderr: process.stderr() })
}

/// What `landfall check --json` says of the file at `config`.
///
/// # Errors
/// When it does not answer with JSON.
pub fn check_json(config: &Path) -> Result<serde_json::Value> {
    let ended = landfall([OsStr::new("check"), OsStr::new("--json"), OsStr::new("--config"), config.as_os_str()])?;
    serde_json::from_str(&ended.stdout).map_err(|error| {
        let cure = format!("it wrote: {} {}", ended.stdout, ended.stderr);
        Failure::new("read", "the answer of landfall check --json", error, cure)
    })
}

/// The failover bound of `group` as `landfall check --json` prints it for the file at `config`.
///
/// # Errors
/// When the file is refused or has no such group.
pub fn failover_bound(config: &Path, group: &str) -> Result<Duration> {
    let report = check_json(config)?;
    let groups = report["endpoint_groups"].as_array().into_iter().flatten();
    let bound = groups.filter(|found| found["name"] == group).find_map(|found| found["failover_bound_seconds"].as_f64());
    bound.map(Duration::from_secs_f64).ok_or_else(|| {
        let subject = format!("the failover bound of {group}");
        Failure::new("find", subject, "there is none", format_args!("landfall check said: {report:#}"))
    })
}
