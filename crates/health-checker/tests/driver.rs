//! The loop under paused time, with a prober that answers in the network's place.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::{
    collections::BTreeMap,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use endpoint_group::{EndpointId, Health, Name};
use health_checker::{
    BadReason, Checker, CheckerGone, Exchange, Expect, HealthCheck, LocalError, Outcome, ProbeKind, Prober, Report, Target,
    Timing, checker, driver::REPORTS,
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

const MS: Duration = Duration::from_millis(1);

/// Answers well after 1 ms, unless told otherwise.
#[derive(Debug, Clone, Default)]
struct Fake {
    answers: Arc<Mutex<BTreeMap<SocketAddr, (Duration, Outcome)>>>,
    running: Arc<AtomicUsize>,
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Fake {
    fn answer(&self, address: SocketAddr, after: Duration, outcome: Outcome) {
        self.answers.lock().unwrap().insert(address, (after, outcome));
    }

    fn silence(&self, address: SocketAddr) {
        self.answer(address, Duration::MAX, Outcome::Bad(BadReason::Timeout));
    }
}

impl Prober for Fake {
    fn probe(&self, target: SocketAddr, check: &HealthCheck) -> impl Future<Output = Outcome> + Send {
        let timeout = check.timing().timeout;
        self.running.fetch_add(1, Ordering::Relaxed);
        let running = Running(Arc::clone(&self.running));
        let (after, outcome) = self.answers.lock().unwrap().get(&target).cloned().unwrap_or((MS, Outcome::Good { latency: MS }));
        async move {
            tokio::time::sleep(after.min(timeout)).await;
            drop(running);
            outcome
        }
    }
}

struct Bench {
    fake: Fake,
    checker: Checker,
    reports: mpsc::Receiver<Report>,
    driver: JoinHandle<()>,
}

fn bench() -> Bench {
    let fake = Fake::default();
    let (checker, driver, reports) = checker(fake.clone(), fastrand::Rng::with_seed(7));
    Bench { fake, checker, reports, driver: tokio::spawn(driver.run()) }
}

impl Bench {
    /// All reports of the next `span`.
    async fn run(&mut self, span: Duration) -> Vec<Report> {
        let end = Instant::now() + span;
        let mut all = Vec::new();
        while let Ok(Some(report)) = timeout_at(end, self.reports.recv()).await {
            all.push(report);
        }
        all
    }
}

fn check(timing: Timing) -> Arc<HealthCheck> {
    Arc::new(HealthCheck::new(ProbeKind::Tcp(Exchange::default()), timing).unwrap())
}

fn address(host: usize) -> SocketAddr {
    let host = u32::try_from(host).unwrap();
    (Ipv4Addr::from_bits(0x0a00_0000 + host), 7000).into()
}

fn id(index: usize) -> EndpointId {
    EndpointId::new(index).unwrap()
}

fn targets(count: usize, timing: Timing) -> Vec<Target> {
    let check = check(timing);
    let target =
        |i| Target { id: id(i), name: Name::new(&format!("eu-{i}")).unwrap(), address: address(i), check: Arc::clone(&check) };
    (0..count).map(target).collect()
}

/// Send times of one endpoint's probes, as intervals.
fn intervals(reports: &[Report], of: EndpointId) -> Vec<Duration> {
    let sent: Vec<_> = reports.iter().filter(|report| report.id == of).map(|report| report.sent).collect();
    sent.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn everyone_is_probed_at_once_and_then_on_schedule_beside_a_black_hole() {
    let mut bench = bench();
    let timing = Timing::default();
    let hole = 3;
    bench.fake.silence(address(hole));
    let start = Instant::now().into_std();
    bench.checker.set_targets(targets(50, timing)).unwrap();
    let reports = bench.run(Duration::from_secs(60)).await;
    for i in (0..50).filter(|&i| i != hole) {
        let first = reports.iter().find(|report| report.id == id(i)).unwrap();
        assert!(first.sent - start <= 10 * MS);
        assert_eq!(first.transition, Some((Health::Unknown, Health::Healthy)));
        let intervals = intervals(&reports, id(i));
        assert!(intervals.len() >= 58);
        assert!(intervals.iter().all(|&interval| timing.interval * 9 / 10 <= interval && interval <= timing.interval));
        assert!(intervals.iter().min() < intervals.iter().max(), "without jitter");
    }
    assert!(reports.iter().filter(|report| report.id != id(hole)).all(|report| report.at - report.sent <= 2 * MS));
    let holed: Vec<_> = reports.iter().filter(|report| report.id == id(hole)).collect();
    assert_eq!(holed[0].transition, Some((Health::Unknown, Health::Unhealthy)));
    assert!(holed.iter().all(|report| report.at - report.sent >= timing.timeout && report.state.health == Health::Unhealthy));
}

#[tokio::test(start_paused = true)]
async fn death_is_found_within_the_bound_and_recovery_takes_its_time() {
    let mut bench = bench();
    let timing = Timing::default();
    bench.checker.set_targets(targets(20, timing)).unwrap();
    bench.run(Duration::from_millis(5_300)).await;
    let death = Instant::now().into_std();
    (0..20).for_each(|i| bench.fake.silence(address(i)));
    let reports = bench.run(Duration::from_secs(10)).await;
    for i in 0..20 {
        let changes: Vec<_> = reports.iter().filter(|r| r.id == id(i) && r.transition.is_some()).collect();
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].transition, Some((Health::Healthy, Health::Unhealthy)));
        assert!(changes[0].at - death <= timing.detection_bound());
        assert_eq!(changes[0].state.consecutive_bad, 3);
        assert!(changes[0].state.last_good_sent.unwrap() <= death);
        assert!(changes[0].state.first_bad.unwrap() > death && changes[0].state.first_bad.unwrap() < changes[0].at);
    }
    (0..20).for_each(|i| bench.fake.answer(address(i), MS, Outcome::Good { latency: MS }));
    let reports = bench.run(Duration::from_secs(3)).await;
    let recovered: Vec<_> = reports.iter().filter(|report| report.transition.is_some()).collect();
    assert_eq!(recovered.len(), 20);
    assert!(recovered.iter().all(|report| report.state.consecutive_good == 2 && report.state.first_bad.is_none()));
}

#[tokio::test(start_paused = true)]
async fn an_observation_starts_a_probe_at_once_but_not_a_flood() {
    let mut bench = bench();
    let timing = Timing::default();
    bench.checker.set_targets(targets(2, timing)).unwrap();
    bench.run(500 * MS).await;
    let observed = Instant::now().into_std();
    bench.checker.observe(id(0));
    bench.checker.observe(id(999));
    let report = bench.reports.recv().await.unwrap();
    assert_eq!((report.id, report.sent), (id(0), observed));
    assert_eq!((report.state.health, report.transition), (Health::Healthy, None));

    let mut reports = vec![report];
    for _ in 0..1000 {
        for _ in 0..10 {
            bench.checker.observe(id(0));
        }
        reports.extend(bench.run(MS).await);
    }
    let flooded = intervals(&reports, id(0));
    assert!(flooded.iter().all(|&interval| interval >= timing.fast_interval), "{flooded:?}");
    assert!(flooded.len() >= 4, "{flooded:?}");
    assert!(intervals(&reports, id(1)).iter().all(|&interval| interval >= timing.interval * 9 / 10));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_timing_keeps_health_and_a_change_of_address_does_not() {
    let mut bench = bench();
    let slow = Timing::default();
    let quick = Timing { interval: 100 * MS, fast_interval: 50 * MS, timeout: 50 * MS, ..slow };
    bench.checker.set_targets(targets(3, slow)).unwrap();
    bench.run(Duration::from_secs(5)).await;

    // 0 gets another timing, 1 another address, 2 goes.
    let mut changed = targets(2, quick);
    changed[1].address = address(101);
    bench.fake.silence(address(101));
    bench.checker.set_targets(changed.clone()).unwrap();
    let reports = bench.run(Duration::from_secs(1)).await;
    assert!(intervals(&reports, id(0)).iter().all(|&interval| (90 * MS..=100 * MS).contains(&interval)));
    let kept = reports.iter().find(|report| report.id == id(0)).unwrap();
    assert!(kept.transition.is_none() && kept.state.consecutive_good > 5);
    let renewed = reports.iter().find(|report| report.id == id(1)).unwrap();
    assert_eq!((renewed.address, renewed.transition), (address(101), Some((Health::Unknown, Health::Unhealthy))));
    assert!(reports.iter().all(|report| report.id != id(2)));

    // Another kind of probe asks another question.
    let udp = ProbeKind::Udp(Exchange::new("ping", Expect::Anything));
    changed[0].check = Arc::new(HealthCheck::new(udp, quick).unwrap());
    bench.checker.set_targets(changed).unwrap();
    let reports = bench.run(Duration::from_secs(1)).await;
    let renewed = reports.iter().find(|report| report.id == id(0)).unwrap();
    assert_eq!((renewed.transition, renewed.state.consecutive_good), (Some((Health::Unknown, Health::Healthy)), 1));
}

#[tokio::test(start_paused = true)]
async fn results_for_a_former_address_do_not_count() {
    let mut bench = bench();
    let timing = Timing::default();
    bench.fake.answer(address(0), 400 * MS, Outcome::Bad(BadReason::Refused));
    bench.fake.answer(address(100), 450 * MS, Outcome::Good { latency: 450 * MS });
    let mut targets = targets(1, timing);
    bench.checker.set_targets(targets.clone()).unwrap();
    assert!(bench.run(50 * MS).await.is_empty());
    targets[0].address = address(100);
    bench.checker.set_targets(targets.clone()).unwrap();
    let report = bench.reports.recv().await.unwrap();
    assert_eq!((report.address, report.state.health, report.state.consecutive_bad), (address(100), Health::Healthy, 0));

    // There and back again within one probe: the first probe's result belongs to no one any more.
    bench.checker.set_targets(Vec::new()).unwrap();
    assert!(bench.run(Duration::from_secs(5)).await.is_empty());
    bench.checker.set_targets(targets.clone()).unwrap();
    assert!(bench.run(50 * MS).await.is_empty());
    bench.checker.set_targets(Vec::new()).unwrap();
    assert!(bench.run(50 * MS).await.is_empty());
    let back = Instant::now().into_std();
    bench.checker.set_targets(targets).unwrap();
    assert!(bench.reports.recv().await.unwrap().sent >= back);
}

#[tokio::test(start_paused = true)]
async fn errors_of_this_host_are_reported_and_judge_nothing() {
    let mut bench = bench();
    let timing = Timing::default();
    bench.checker.set_targets(targets(1, timing)).unwrap();
    let before = bench.run(Duration::from_secs(3)).await.pop().unwrap().state;
    let error = LocalError { kind: std::io::ErrorKind::Other, text: "too many open files".into() };
    bench.fake.answer(address(0), Duration::ZERO, Outcome::Local(error.clone()));
    let reports = bench.run(Duration::from_secs(5)).await;
    let local: Vec<_> = reports.into_iter().filter(|report| report.outcome == Outcome::Local(error.clone())).collect();
    assert!(local.iter().all(|report| report.transition.is_none() && report.state.health == before.health));
    let retries = intervals(&local, id(0));
    let fast = timing.fast_interval;
    assert!(retries.len() >= 20 && retries.iter().all(|&retry| fast * 9 / 10 <= retry && retry <= fast), "{retries:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stalled_consumer_loses_no_result() {
    let mut bench = bench();
    let count = REPORTS + 1000;
    bench.checker.set_targets(targets(count, Timing::default())).unwrap();
    // Nobody reads while everyone is probed several times over.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(bench.reports.len(), REPORTS);
    let mut seen = vec![0; count];
    for report in bench.run(Duration::from_secs(3)).await {
        seen[report.id.index()] += 1;
        assert_eq!(report.state.consecutive_good, seen[report.id.index()], "a report is missing");
        assert!(report.at - report.sent <= 2 * MS, "waiting for the consumer counts as latency");
    }
    assert!(seen.iter().all(|&seen| seen >= 3));
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_ends_the_loop_and_its_probes() {
    let mut bench = bench();
    bench.fake.silence(address(0));
    bench.checker.set_targets(targets(1, Timing::default())).unwrap();
    bench.run(100 * MS).await;
    assert_eq!(bench.fake.running.load(Ordering::Relaxed), 1);
    let other = bench.checker.clone();
    drop(bench.checker);
    tokio::task::yield_now().await;
    assert!(!bench.driver.is_finished());
    drop(other);
    bench.driver.await.unwrap();
    assert!(bench.reports.recv().await.is_none());
    // Cancelled tasks are dropped by the runtime in its own time, which is the next turn.
    tokio::task::yield_now().await;
    assert_eq!(bench.fake.running.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_consumer_the_loop_ends() {
    let bench = bench();
    bench.checker.set_targets(targets(1, Timing::default())).unwrap();
    drop(bench.reports);
    bench.driver.await.unwrap();
    assert_eq!(bench.checker.set_targets(Vec::new()), Err(CheckerGone));
    bench.checker.observe(id(0));
}

struct Broken;

impl Prober for Broken {
    async fn probe(&self, _: SocketAddr, _: &HealthCheck) -> Outcome {
        panic!("a defect")
    }
}

#[tokio::test(start_paused = true)]
async fn a_defect_in_the_prober_is_not_swallowed() {
    let (checker, driver, mut reports) = checker(Broken, fastrand::Rng::with_seed(7));
    let driver = tokio::spawn(driver.run());
    checker.set_targets(targets(1, Timing::default())).unwrap();
    assert!(driver.await.unwrap_err().is_panic());
    assert!(reports.recv().await.is_none());
}
