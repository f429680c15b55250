//! The driver against a BIRD of this file's own, in virtual time: waits are exact and cost nothing.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use anycast::{
    State,
    device::{DeviceError, Link},
    driver::{Driver, LOOK, Report, Wanted},
    reconcile::{Carrier, Protocols},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

/// What the fake BIRD and its test share.
#[derive(Default)]
struct Inside {
    protocols: Protocols,
    /// Every command but the looks, and what was done to the device.
    log: Vec<String>,
    looks: usize,
    frozen: bool,
    refuses: Option<String>,
    link_up: bool,
    link_fails: bool,
}

#[derive(Clone, Default)]
struct World(Arc<Mutex<Inside>>);

impl World {
    fn with<T>(&self, change: impl FnOnce(&mut Inside) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    fn disable_all(&self) {
        self.with(|inside| inside.protocols.values_mut().for_each(|up| *up = false));
    }

    fn take_log(&self) -> Vec<String> {
        self.with(|inside| std::mem::take(&mut inside.log))
    }

    async fn serve(self, socket: UnixListener) {
        let mut conversations = JoinSet::new();
        loop {
            let (stream, _) = socket.accept().await.unwrap();
            conversations.spawn(self.clone().converse(stream));
        }
    }

    async fn converse(self, stream: UnixStream) {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        write.write_all(b"0001 BIRD 2.0.12 ready.\n").await.unwrap();
        while let Ok(Some(line)) = lines.next_line().await {
            let answer = self.with(|inside| inside.answer(&line));
            if write.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

impl Inside {
    fn answer(&mut self, line: &str) -> String {
        if self.frozen {
            return String::new();
        }
        if line == "show protocols" {
            self.looks += 1;
            let row =
                |(name, up): (&String, &bool)| format!("1002-{name} Static master4 {} now\n", if *up { "up" } else { "down" });
            return self.protocols.iter().map(row).collect::<String>() + "0000 \n";
        }
        self.log.push(line.to_owned());
        if self.refuses.as_deref() == Some(line) {
            return "8007 Access denied\n".to_owned();
        }
        let (verb, name) = line.split_once(' ').unwrap();
        match self.protocols.get_mut(name) {
            Some(up) => *up = verb == "enable",
            None => return "9001 syntax error\n".to_owned(),
        }
        format!("0011-{name}: {verb}d\n0000 \n")
    }
}

/// A device that is only said to be there.
struct Paper(World);

impl Link for Paper {
    fn set(&mut self, up: bool) -> Result<(), DeviceError> {
        self.0.with(|inside| {
            if inside.link_fails {
                let source = std::io::Error::from_raw_os_error(libc::EPERM);
                return Err(DeviceError { operation: "bring up", name: "paper0".into(), source });
            }
            if inside.link_up != up {
                inside.link_up = up;
                inside.log.push(if up { "device up" } else { "device down" }.to_owned());
            }
            Ok(())
        })
    }
}

struct Scene {
    world: World,
    path: PathBuf,
    bird: Option<JoinSet<()>>,
    wanted: watch::Sender<Wanted>,
    reports: watch::Receiver<Report>,
    _directory: tempfile::TempDir,
    _driver: JoinSet<()>,
}

const ONE: &str = "landfall_1";
const LOW: &str = "landfall_1_low";
const TWO: &str = "landfall_2";

impl Scene {
    /// Two static IPs, of which the first can be depreferred; nothing is wanted yet, and BIRD does not run.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bird.ctl");
        let world = World::default();
        world.with(|inside| inside.protocols = [ONE, LOW, TWO].map(|name| (name.to_owned(), false)).into());
        let (wanted, receiver) = watch::channel(Wanted { generation: 1, states: vec![State::Withdrawn; 2] });
        let carriers = vec![Carrier { normal: ONE.into(), low: Some(LOW.into()) }, Carrier { normal: TWO.into(), low: None }];
        let (driver, reports) = Driver::new(path.clone(), carriers, Paper(world.clone()), receiver);
        let mut task = JoinSet::new();
        task.spawn(driver.run());
        Self { world, path, bird: None, wanted, reports, _directory: directory, _driver: task }
    }

    fn start_bird(&mut self) {
        // Err: there was none.
        let _ = std::fs::remove_file(&self.path);
        let mut task = JoinSet::new();
        task.spawn(self.world.clone().serve(UnixListener::bind(&self.path).unwrap()));
        self.bird = Some(task);
    }

    /// As if its process ended: connections close, the socket's file stays.
    async fn kill_bird(&mut self) {
        self.bird.take().unwrap().shutdown().await;
    }

    fn want(&self, one: State, two: State) {
        self.wanted.send_modify(|wanted| *wanted = Wanted { generation: wanted.generation + 1, states: vec![one, two] });
    }

    /// Waits for a report, and says how long that took.
    async fn until(&mut self, what: impl Fn(&Report) -> bool) -> Duration {
        let begin = Instant::now();
        let waited = timeout(Duration::from_secs(30), self.reports.wait_for(|report| what(report))).await;
        assert!(waited.is_ok_and(|report| report.is_ok()), "{:?}", self.reports.borrow());
        begin.elapsed()
    }

    async fn until_said(&mut self, one: State, two: State) -> Duration {
        self.until(|report| report.bird.is_ok() && report.states == [one, two]).await
    }
}

use State::{Announced, Depreferred, Withdrawn};

#[tokio::test(start_paused = true)]
async fn announces_steps_back_and_withdraws() {
    let mut scene = Scene::new();
    scene.start_bird();
    scene.until_said(Withdrawn, Withdrawn).await;
    assert_eq!(scene.world.take_log(), [""; 0]);
    scene.want(Announced, Announced);
    assert!(scene.until_said(Announced, Announced).await < LOOK, "at once, not at the next look");
    assert_eq!(scene.world.take_log(), ["device up", "enable landfall_1", "enable landfall_2"]);
    scene.want(Depreferred, Withdrawn);
    scene.until_said(Depreferred, Withdrawn).await;
    assert_eq!(scene.world.take_log(), ["disable landfall_2", "enable landfall_1_low", "disable landfall_1"]);
    scene.want(Withdrawn, Withdrawn);
    scene.until(|report| report.carried_out == 4).await;
    assert_eq!(scene.world.take_log(), ["disable landfall_1_low", "device down"]);
    assert_eq!(scene.reports.borrow().states, [Withdrawn, Withdrawn]);
}

#[tokio::test(start_paused = true)]
async fn says_nothing_twice() {
    let mut scene = Scene::new();
    scene.start_bird();
    scene.want(Announced, Announced);
    scene.until_said(Announced, Announced).await;
    scene.world.take_log();
    scene.reports.borrow_and_update();
    let looks = scene.world.with(|inside| inside.looks);
    assert!(timeout(Duration::from_secs(100), scene.reports.changed()).await.is_err(), "no news is no report");
    assert_eq!(scene.world.take_log(), [""; 0]);
    let looks = scene.world.with(|inside| inside.looks) - looks;
    assert!((490..=500).contains(&looks), "{looks} looks in 100 s");
    // The same again in a new generation is nothing to tell BIRD.
    scene.want(Announced, Announced);
    scene.until(|report| report.carried_out == 3).await;
    assert_eq!(scene.world.take_log(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_bird_that_is_restarted_is_noticed_at_once_and_told_again() {
    let mut scene = Scene::new();
    scene.start_bird();
    scene.want(Announced, Announced);
    scene.until_said(Announced, Announced).await;
    scene.world.take_log();
    scene.kill_bird().await;
    let noticed = scene.until(|report| report.bird.is_err() && report.states == [Withdrawn, Withdrawn]).await;
    assert!(noticed < Duration::from_millis(10), "{noticed:?}");
    assert!(scene.reports.borrow().bird.clone().unwrap_err().contains("has closed the control connection"));
    scene.world.disable_all();
    scene.until(|report| report.bird.clone().is_err_and(|error| error.contains("start BIRD"))).await;
    scene.start_bird();
    let back = scene.until_said(Announced, Announced).await;
    assert!(back <= Duration::from_millis(260), "{back:?}");
    assert_eq!(scene.world.take_log(), ["enable landfall_1", "enable landfall_2"]);
}

#[tokio::test(start_paused = true)]
async fn a_reconfigured_bird_is_noticed_within_a_second() {
    let mut scene = Scene::new();
    scene.start_bird();
    scene.want(Announced, Withdrawn);
    scene.until_said(Announced, Withdrawn).await;
    scene.world.take_log();
    scene.reports.borrow_and_update();
    let begin = Instant::now();
    scene.world.disable_all();
    // The protocols are up again before anybody has been told that they were down.
    while scene.world.with(|inside| inside.log.is_empty()) {
        tokio::time::advance(Duration::from_millis(1)).await;
        tokio::task::yield_now().await;
        assert!(begin.elapsed() < Duration::from_secs(1));
    }
    assert_eq!(scene.world.take_log(), ["enable landfall_1"]);
    // What nobody could see in between is counted all the same: announced, withdrawn, announced.
    let counted = scene.until(|report| report.changes[0] == [1, 0, 2]).await;
    assert!(counted < LOOK, "{counted:?}");
    assert_eq!(scene.reports.borrow().changes[1], [0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_bird_that_hangs_is_noticed_within_a_second_and_does_not_hinder_a_withdrawal() {
    let mut scene = Scene::new();
    scene.start_bird();
    scene.want(Announced, Announced);
    scene.until_said(Announced, Announced).await;
    scene.world.take_log();
    scene.world.with(|inside| inside.frozen = true);
    let noticed = scene.until(|report| report.bird.is_err()).await;
    assert!(noticed < Duration::from_secs(1), "{noticed:?}");
    // It may go on to announce, for all that is known.
    assert_eq!(scene.reports.borrow().states, [Announced, Announced]);
    scene.want(Withdrawn, Withdrawn);
    let gone = scene.until(|report| report.carried_out == 3 && report.states == [Withdrawn, Withdrawn]).await;
    assert!(gone < Duration::from_secs(1), "{gone:?}");
    assert_eq!(scene.world.take_log(), ["device down"]);
}

#[tokio::test(start_paused = true)]
async fn what_an_edge_before_left_enabled_is_disabled_before_the_device_is_up() {
    let mut scene = Scene::new();
    scene.world.with(|inside| inside.protocols.values_mut().for_each(|up| *up = true));
    scene.want(Announced, Withdrawn);
    scene.start_bird();
    scene.until_said(Announced, Withdrawn).await;
    assert_eq!(scene.world.take_log(), ["disable landfall_2", "device up", "disable landfall_1_low"]);
}

#[tokio::test(start_paused = true)]
async fn without_bird_nothing_is_said_and_the_reason_is_known() {
    let mut scene = Scene::new();
    scene.want(Announced, Announced);
    scene.until(|report| report.bird.clone().is_err_and(|error| error.contains("cannot connect to BIRD at"))).await;
    assert_eq!(scene.reports.borrow().states, [Withdrawn, Withdrawn]);
    assert_eq!(scene.world.take_log(), [""; 0], "the device is not up before BIRD's protocols are known");
}

#[tokio::test(start_paused = true)]
async fn a_protocol_that_bird_lacks_hinders_its_static_ip_alone() {
    let mut scene = Scene::new();
    scene.world.with(|inside| inside.protocols.remove(TWO));
    scene.start_bird();
    scene.want(Announced, Announced);
    scene.until_said(Announced, Withdrawn).await;
    let problems = scene.reports.borrow().problems.clone();
    assert_eq!(problems[0], None);
    assert!(problems[1].as_ref().unwrap().contains("BIRD has no protocol landfall_2"), "{problems:?}");
    // Added by a reconfiguration.
    scene.world.with(|inside| inside.protocols.insert(TWO.into(), false));
    scene.until_said(Announced, Announced).await;
    assert_eq!(scene.reports.borrow().problems, [None, None]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_costs_no_route() {
    let mut scene = Scene::new();
    scene.start_bird();
    scene.want(Announced, Withdrawn);
    scene.until_said(Announced, Withdrawn).await;
    scene.world.with(|inside| inside.refuses = Some(format!("enable {LOW}")));
    scene.want(Depreferred, Withdrawn);
    scene.until(|report| report.problems[0].as_ref().is_some_and(|problem| problem.contains("8007 Access denied"))).await;
    assert_eq!(scene.reports.borrow().states, [Announced, Withdrawn]);
    // Tried again, but not at every look, and without a report at every try.
    scene.world.take_log();
    scene.reports.borrow_and_update();
    assert!(timeout(Duration::from_secs(20), scene.reports.changed()).await.is_err(), "{:?}", scene.reports.borrow());
    let tries = scene.world.take_log().len();
    assert!((20..=23).contains(&tries), "{tries} tries in 20 s");
    // Another wish is not made to wait.
    scene.want(Withdrawn, Withdrawn);
    assert!(scene.until_said(Withdrawn, Withdrawn).await < LOOK);
    scene.want(Depreferred, Withdrawn);
    scene.until(|report| report.problems[0].is_some()).await;
    scene.world.with(|inside| inside.refuses = None);
    assert!(scene.until_said(Depreferred, Withdrawn).await <= Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn without_its_device_an_edge_is_not_taken_to_announce() {
    let mut scene = Scene::new();
    scene.start_bird();
    scene.world.with(|inside| inside.link_fails = true);
    scene.want(Announced, Announced);
    scene.until(|report| report.problems[0].as_ref().is_some_and(|problem| problem.contains("CAP_NET_ADMIN"))).await;
    assert_eq!(scene.reports.borrow().states, [Withdrawn, Withdrawn]);
    scene.world.with(|inside| inside.link_fails = false);
    scene.until_said(Announced, Announced).await;
}
