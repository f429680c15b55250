//! What the machine and a subject's processes have spent, from /proc, and which processor they may run on.

use std::collections::BTreeMap;
use std::mem::{size_of, zeroed};

use landfall_tests::{Failure, Result};

/// Processor seconds that the whole machine was busy for, since it started. Time that a hypervisor took is not among them.
pub fn busy_seconds() -> Result<f64> {
    let text = read("/proc/stat")?;
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is part of user.
    let busy = [0, 1, 2, 5, 6].iter().map(|field| ticks.get(*field).copied().unwrap_or_default()).sum();
    Ok(seconds(busy))
}

/// A process and all that descend from it.
#[derive(Debug, Clone, Default)]
pub struct Tree(Vec<u32>);

impl Tree {
    /// Those that exist now under `root`; none without a root.
    pub fn of(root: Option<u32>) -> Result<Self> {
        let Some(root) = root else { return Ok(Self::default()) };
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for entry in std::fs::read_dir("/proc").map_err(|error| cannot("/proc", error))?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process that ends meanwhile is none of ours.
            if let Some(parent) = fields(pid).and_then(|fields| fields.get(1)?.parse().ok()) {
                children.entry(parent).or_default().push(pid);
            }
        }
        let mut tree = vec![root];
        let mut index = 0;
        while let Some(pid) = tree.get(index) {
            tree.extend(children.remove(pid).unwrap_or_default());
            index += 1;
        }
        Ok(Self(tree))
    }

    /// The processes' ids.
    pub fn pids(&self) -> &[u32] {
        &self.0
    }

    /// Processor seconds spent by all of them, in their own code and in the kernel on their behalf.
    pub fn spent_seconds(&self) -> f64 {
        // utime and stime, the 14th and 15th field; the state is the third.
        let spent = |fields: Vec<String>| fields.iter().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum::<u64>();
        seconds(self.0.iter().filter_map(|pid| fields(*pid)).map(spent).sum())
    }

    /// Bytes of memory that are theirs alone and in use: no files, nothing of the kernel.
    pub fn anonymous_bytes(&self) -> Result<u64> {
        self.0.iter().try_fold(0, |sum, pid| {
            let path = format!("/proc/{pid}/status");
            let text = read(&path)?;
            let kilobytes = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
            let kilobytes = kilobytes.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
            kilobytes.map(|kilobytes| sum + kilobytes * 1024).ok_or_else(|| cannot(&path, "it has no RssAnon"))
        })
    }

    /// Lets every thread of them run on `processors` only.
    pub fn pin(&self, processors: &Processors) -> Result<()> {
        for pid in &self.0 {
            let path = format!("/proc/{pid}/task");
            let threads = std::fs::read_dir(&path).map_err(|error| cannot(&path, error))?;
            for thread in threads.flatten() {
                if let Some(thread) = thread.file_name().to_str().and_then(|name| name.parse().ok()) {
                    processors.apply(thread);
                }
            }
        }
        Ok(())
    }
}

/// A set of processors.
#[derive(Clone)]
pub struct Processors(libc::cpu_set_t);

impl Processors {
    /// Those that this thread may run on.
    pub fn allowed() -> Result<Self> {
        // SAFETY: a cpu_set_t of zeroes is an empty set.
        let mut set: libc::cpu_set_t = unsafe { zeroed() };
        // SAFETY: the set has the length that the call is told. 0 is the calling thread.
        let got = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
        if got == 0 { Ok(Self(set)) } else { Err(cannot("the allowed processors", std::io::Error::last_os_error())) }
    }

    /// The last of these alone: interrupts tend to come to the first.
    #[must_use]
    pub fn last(&self) -> Self {
        // SAFETY: a cpu_set_t of zeroes is an empty set.
        let mut one: libc::cpu_set_t = unsafe { zeroed() };
        let most = usize::try_from(libc::CPU_SETSIZE).unwrap_or_default();
        // SAFETY: both macros stay within the set for numbers below CPU_SETSIZE.
        if let Some(last) = (0..most).rev().find(|number| unsafe { libc::CPU_ISSET(*number, &self.0) }) {
            // SAFETY: as above.
            unsafe { libc::CPU_SET(last, &mut one) };
        }
        Self(one)
    }

    /// Moves the calling thread there.
    pub fn enter(&self) {
        self.apply(0);
    }

    fn apply(&self, thread: libc::pid_t) {
        // A thread that has ended meanwhile needs no place; the set is never empty, which is all else that is refused.
        // SAFETY: the set has the length that the call is told.
        let _ = unsafe { libc::sched_setaffinity(thread, size_of::<libc::cpu_set_t>(), &raw const self.0) };
    }
}

/// The fields of /proc/PID/stat from the state on: the name before it is in parentheses and may hold anything.
fn fields(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

fn seconds(ticks: u64) -> f64 {
    // SAFETY: sysconf reads a constant.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    ticks as f64 / (per_second.max(1) as f64)
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| cannot(path, error))
}

fn cannot(subject: &str, cause: impl std::fmt::Display) -> Failure {
    Failure::new("read", subject, cause, "see whether the subject still runs, and that /proc is mounted")
}
