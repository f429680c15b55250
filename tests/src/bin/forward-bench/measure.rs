//! One measurement: both ends of a load are started, warmed, measured for a while, and stopped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use landfall_tests::wait::{self, wait_until};
use landfall_tests::{Failure, Result};

use crate::gauge::{Gauge, StopAtEnd};
use crate::machine::{self, Processors, Tree};
use crate::record::Row;
use crate::stats::quantile_micros;
use crate::subjects::{Running, Subject};
use crate::tcp::{self, Direction, Tcp};
use crate::udp;
use crate::works::{Load, Work};

/// How long a load runs before it is measured: neighbours, flows, congestion windows, caches.
const WARM: Duration = Duration::from_millis(150);
/// How long the first units may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What has been counted and spent up to a moment.
struct Mark {
    at: Instant,
    machine: f64,
    own: f64,
    counts: [u64; 3],
}

impl Mark {
    fn now(tree: &Tree, gauge: &Gauge) -> Result<Self> {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = [count(&gauge.done), count(&gauge.lost), count(&gauge.stale)];
        Ok(Self { at: wait::now(), machine: machine::busy_seconds()?, own: tree.spent_seconds(), counts })
    }
}

/// Runs `load` and calls `body` meanwhile; then stops it. A failure of either end is a failure of all.
pub fn under_load<T>(
    running: &Running,
    load: Load,
    gauge: &Gauge,
    at: Option<&Processors>,
    body: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let (path, target) = (&running.path, running.target);
    let move_there = || at.inspect(|processors| processors.enter());
    let result = std::thread::scope(|scope| {
        // Dropped before the scope waits for its threads, however `body` ends.
        let stop = StopAtEnd(gauge);
        scope.spawn(|| {
            path.server.enter(|| {
                move_there();
                gauge.guard(|| match load {
                    Load::Udp(load) => udp::serve(&path.udp_server, load.joined, gauge),
                    Load::Tcp(load) => tcp::serve(load, &path.listener, gauge),
                });
            });
        });
        scope.spawn(|| {
            path.client.enter(|| {
                move_there();
                gauge.guard(|| match load {
                    Load::Udp(load) => udp::generate(&load, &path.udp_client, target, gauge),
                    Load::Tcp(load) => tcp::generate(load, target, gauge),
                });
            });
        });
        let result = body();
        drop(stop);
        result
    });
    gauge.failure().map_or(result, Err)
}

/// Waits until a load has done at least `units` and [`WARM`] has passed.
pub fn warm(gauge: &Gauge, units: u64) -> Result<()> {
    let begin = wait::now();
    wait_until("the first answers to the load", PATIENCE, || {
        let warm = gauge.done.load(Ordering::Relaxed) >= units && begin.elapsed() >= WARM;
        warm || !gauge.runs()
    })
    .map(drop)
}

/// Measures `work` through `running` for `window`.
///
/// # Errors
/// When an end of the load fails or nothing passes.
pub fn measure(running: &Running, work: Work, round: usize, order: usize, window: Duration) -> Result<Row> {
    let load = work.load(round);
    let gauge = Gauge::default();
    let tree = running.tree()?;
    let everywhere = Processors::allowed()?;
    let one = work.is_pinned().then(|| everywhere.last());
    if let Some(one) = &one {
        tree.pin(one)?;
    }
    let units = match load {
        Load::Udp(load) => u64::from(load.flows * load.burst),
        Load::Tcp(_) => 1,
    };
    let measured = under_load(running, load, &gauge, one.as_ref(), || {
        warm(&gauge, units)?;
        gauge.measure();
        let begin = Mark::now(&tree, &gauge)?;
        wait::pass(window);
        let end = Mark::now(&tree, &gauge)?;
        gauge.warm();
        Ok((begin, end))
    });
    if one.is_some() {
        tree.pin(&everywhere)?;
    }
    let (begin, end) = measured?;
    let passed = |index: usize| end.counts[index] - begin.counts[index];
    if passed(0) == 0 {
        let cause = format!("nothing passed in {window:?}");
        return Err(Failure::new(
            "measure",
            format_args!("{work} through {}", running.subject),
            cause,
            "see whether it still runs",
        ));
    }
    let sorted = gauge.latencies();
    let quantile = |share| quantile_micros(&sorted, share);
    let mut row = Row::empty(round, work, running.subject, order);
    if let Load::Tcp(Tcp::Bulk(_, direction)) = load {
        row.direction = if direction == Direction::Up { "up" } else { "down" }.into();
    }
    row.seconds = (end.at - begin.at).as_secs_f64();
    (row.done, row.lost, row.stale) = (passed(0), passed(1), passed(2));
    row.wrong = gauge.wrong.load(Ordering::Relaxed);
    (row.machine, row.own) = (end.machine - begin.machine, end.own - begin.own);
    row.latencies = [quantile(50_000), quantile(99_000), quantile(99_900), quantile(100_000)];
    Ok(row)
}

/// Waits until the subject serves what it can.
///
/// # Errors
/// When it does not in time.
pub fn wait_served(running: &Running) -> Result<()> {
    let (path, target) = (&running.path, running.target);
    let (udp, tcp) =
        (running.subject.does(Work::UdpEcho64), !matches!(running.subject, Subject::Quilkin | Subject::LandfallKernel));
    let gauge = Gauge::default();
    let served = std::thread::scope(|scope| -> Result<()> {
        let stop = StopAtEnd(&gauge);
        scope.spawn(|| gauge.guard(|| udp::serve(&path.udp_server, false, &gauge)));
        scope.spawn(|| gauge.guard(|| tcp::echo(&path.listener, &gauge)));
        let what = format!("{} to serve", running.subject);
        if tcp {
            wait_until(&what, PATIENCE, || path.client.enter(|| tcp::hold(1, target)).is_ok())?;
        }
        if udp {
            udp::open_flows(1, &path.udp_client, target, PATIENCE)?;
        }
        drop(stop);
        Ok(())
    });
    gauge.failure().map_or(served, Err)
}
