//! The control loop's state in scripted and in simulated time: what is published when, and what never is.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use endpoint_group::{EndpointId, Health, Slot, Weight, plan::Stage};
use health_checker::{BadReason, Outcome, Report, Snapshot};
use landfall::{
    config::{Config, Host},
    control::{endpoints::Drain, state::State},
};

const CONFIG: &str = r#"
name = "t"
static_ips = ["198.18.0.1"]
hash_seed = 7
[edge]
name = "e"
drain_timeout = "30s"
[[listeners]]
name = "chat"
protocol = "tcp"
ports = [7000]
endpoint_groups = ["eu", "us"]
[[endpoint_groups]]
name = "eu"
region = "eu"
failback = { hold = "5s", ramp = "10s" }
health_check = { protocol = "tcp", port = 7000 }
endpoints = [{ name = "eu-1", address = "10.0.0.1" }, { name = "eu-2", address = "10.0.0.2" }]
[[endpoint_groups]]
name = "us"
region = "us"
failback = { hold = "5s", ramp = "10s" }
health_check = { protocol = "tcp", port = 7000 }
endpoints = [{ name = "us-1", address = "10.0.1.1" }]
"#;

fn parse(text: &str) -> Config {
    let host = Host {
        name: "t".into(),
        cores: NonZeroUsize::MIN,
        descriptors: 20_000,
        congestion: Vec::new(),
        ephemeral: Vec::new(),
        no_dispatcher: Some("a test".into()),
    };
    Config::parse(text, &host).unwrap()
}

/// A state, its clock, and what the checker would say of each endpoint.
struct World {
    state: State,
    start: Instant,
    now: Instant,
    snapshots: Vec<Snapshot>,
}

impl World {
    #[allow(clippy::disallowed_methods, reason = "one arbitrary origin; only differences matter")]
    fn new(text: &str) -> Self {
        let start = Instant::now();
        let state = State::new(parse(text), start).unwrap();
        let snapshots = state.endpoints().entries().iter().map(|entry| entry.snapshot).collect();
        Self { state, start, now: start, snapshots }
    }

    fn healthy(text: &str) -> Self {
        let mut world = Self::new(text);
        for name in ["eu-1", "eu-2", "us-1"] {
            world.result(name, true, 1);
        }
        world
    }

    fn at(&mut self, ms: u64) -> &mut Self {
        self.now = self.start + Duration::from_millis(ms);
        self
    }

    fn id(&self, name: &str) -> EndpointId {
        let entries = self.state.endpoints().entries();
        entries.iter().find(|entry| entry.is_member() && entry.target.name.as_str() == name).unwrap().id
    }

    /// The result of a probe sent and answered now, with the thresholds of the config defaults (3 bad, `good_needed` good).
    fn result(&mut self, name: &str, good: bool, good_needed: u32) -> bool {
        self.result_in(name, good, good_needed, Duration::from_millis(1))
    }

    /// A good result that took `ms`.
    fn answers_in(&mut self, name: &str, ms: u64) {
        self.result_in(name, true, 2, Duration::from_millis(ms));
    }

    fn result_in(&mut self, name: &str, good: bool, good_needed: u32, latency: Duration) -> bool {
        let id = self.id(name);
        let now = self.now;
        let entry = self.state.endpoints().get(id);
        self.snapshots.resize(self.state.endpoints().entries().len(), entry.snapshot);
        let snapshot = &mut self.snapshots[id.index()];
        if good {
            snapshot.consecutive_good += 1;
            snapshot.consecutive_bad = 0;
            snapshot.first_bad = None;
            snapshot.first_good_sent.get_or_insert(now);
            snapshot.last_good_sent = Some(now);
        } else {
            snapshot.consecutive_bad += 1;
            snapshot.consecutive_good = 0;
            snapshot.first_bad.get_or_insert(now);
            snapshot.first_good_sent = None;
            snapshot.last_bad_sent = Some(now);
        }
        let health = match snapshot.health {
            Health::Unknown if good => Health::Healthy,
            Health::Unknown => Health::Unhealthy,
            Health::Healthy if snapshot.consecutive_bad >= 3 => Health::Unhealthy,
            Health::Unhealthy if snapshot.consecutive_good >= good_needed => Health::Healthy,
            same => same,
        };
        if health != snapshot.health {
            snapshot.health = health;
            snapshot.since = now;
        }
        let outcome = if good { Outcome::Good { latency } } else { Outcome::Bad(BadReason::Refused) };
        let report = Report {
            id,
            address: entry.probe,
            at: now,
            sent: now,
            late: Duration::ZERO,
            outcome,
            state: *snapshot,
            transition: None,
        };
        self.state.report(&report);
        self.state.rebuild(now)
    }

    fn dies(&mut self, name: &str) {
        for _ in 0..3 {
            self.result(name, false, 2);
        }
    }

    fn comes_back(&mut self, name: &str) {
        for _ in 0..2 {
            self.result(name, true, 2);
        }
    }

    /// The share of slots that `name` holds, in percent.
    fn share(&mut self, name: &str) -> f64 {
        self.state.rebuild(self.now);
        let table = self.state.table();
        let id = self.id(name);
        let held = Slot::all().filter(|&slot| table.listeners[0].choose(slot) == Some(id)).count();
        held as f64 / 655.36
    }

    fn leaving(&self) -> Vec<String> {
        let table = self.state.table();
        table.listeners[0].leaving().iter().map(|&id| table.endpoint(id).unwrap().target.name.to_string()).collect()
    }

    fn stage(&self) -> Stage {
        self.state.table().listeners[0].stage()
    }
}

fn about(share: f64, expected: f64) {
    assert!((share - expected).abs() < 1.0, "{share} is not about {expected}");
}

#[test]
fn nothing_is_served_before_every_endpoint_has_a_verdict_or_one_is_healthy() {
    let mut world = World::new(CONFIG);
    assert_eq!(world.stage().as_str(), "refuse_not_ready");
    assert_eq!(world.state.awaited().count(), 3);
    world.dies("eu-1");
    assert_eq!(world.stage().as_str(), "refuse_not_ready", "fail-open needs a verdict on every endpoint");
    world.result("eu-2", true, 2);
    assert_eq!(world.stage(), Stage::Eligible);
    world.result("us-1", true, 2);
    assert_eq!(world.state.awaited().count(), 0);
    about(world.share("eu-2"), 100.0);
}

#[test]
fn a_recovered_endpoint_is_held_and_then_ramps_to_its_whole_share() {
    let mut world = World::healthy(CONFIG);
    world.at(1_000).dies("eu-1");
    about(world.share("eu-1"), 0.0);
    world.at(2_000).comes_back("eu-1");
    // Held for 5 s, then tenths of its weight of 128 beside the other's whole 128.
    for (ms, weight) in
        [(2_000, 0.0), (6_999, 0.0), (7_000, 12.8), (9_000, 25.6), (12_000, 64.0), (16_999, 115.2), (17_000, 128.0)]
    {
        about(world.at(ms).share("eu-1"), 100.0 * weight / (weight + 128.0));
        about(world.share("us-1"), 0.0);
    }
    assert_eq!(world.state.due(), None, "nothing is left to wait for");
}

#[test]
fn due_names_every_step_of_the_ramp() {
    let mut world = World::healthy(CONFIG);
    world.at(1_000).dies("eu-1");
    world.at(2_000).comes_back("eu-1");
    let mut steps = Vec::new();
    while let Some(due) = world.state.due() {
        steps.push(due.duration_since(world.start).as_millis());
        world.now = due;
        assert!(world.state.rebuild(due), "a due change changes the tables");
    }
    assert_eq!(steps, [7_000, 9_000, 10_000, 11_000, 12_000, 13_000, 14_000, 15_000, 16_000, 17_000]);
}

#[test]
fn a_returning_region_takes_traffic_by_tenths() {
    let mut world = World::healthy(CONFIG);
    world.at(1_000).dies("eu-1");
    world.dies("eu-2");
    about(world.share("us-1"), 100.0);
    world.at(2_000).comes_back("eu-1");
    about(world.at(6_999).share("us-1"), 100.0);
    // Held for 5 s; then the group is eligible again, and its dial ramps like its endpoint's weight.
    for (ms, eu) in [(7_000, 10.0), (9_000, 20.0), (12_000, 50.0), (17_000, 100.0)] {
        about(world.at(ms).share("eu-1"), eu);
        about(world.share("us-1"), 100.0 - eu);
    }
}

#[test]
fn held_endpoints_are_used_in_full_before_fail_open() {
    let mut world = World::healthy(CONFIG);
    world.at(1_000).dies("us-1");
    world.dies("eu-1");
    world.dies("eu-2");
    assert_eq!(world.stage(), Stage::FailOpen);
    about(world.share("eu-1") + world.share("eu-2"), 100.0);
    world.at(2_000).comes_back("us-1");
    assert_eq!(world.stage(), Stage::HeldInFull);
    about(world.share("us-1"), 100.0);
}

#[test]
fn flows_leave_a_dead_endpoint_once_another_has_answered_since() {
    let mut world = World::healthy(CONFIG);
    world.at(1_000).dies("eu-1");
    assert_eq!(world.leaving(), [""; 0], "nobody has answered since");
    let asked: Vec<_> = world.state.witnesses(world.id("eu-1"), world.now).into_iter().collect();
    assert_eq!(asked, [world.id("eu-2"), world.id("us-1")]);
    world.at(1_001).result("eu-2", true, 2);
    assert_eq!(world.leaving(), ["eu-1"]);
    assert!(world.state.witnesses(world.id("eu-1"), world.now).is_empty(), "one answer is enough");
    world.at(3_000).comes_back("eu-1");
    assert_eq!(world.leaving(), [""; 0]);
}

#[test]
fn a_blind_edge_cuts_nothing_and_neither_does_its_return() {
    let mut world = World::healthy(CONFIG);
    for (ms, name) in [(1_000, "eu-1"), (1_200, "us-1"), (1_400, "eu-2")] {
        world.at(ms).dies(name);
        assert_eq!(world.leaving(), [""; 0]);
    }
    for (ms, name) in [(6_000, "us-1"), (6_300, "eu-2"), (6_500, "eu-1")] {
        world.at(ms).comes_back(name);
        assert_eq!(world.leaving(), [""; 0], "{name} is back, the others have their hold to come back too");
    }
}

#[test]
fn one_that_stays_dead_after_a_blackout_is_left_when_the_hold_of_the_others_is_over() {
    let mut world = World::healthy(CONFIG);
    for name in ["eu-1", "eu-2", "us-1"] {
        world.at(1_000).dies(name);
    }
    world.at(6_000).comes_back("eu-2");
    world.at(6_500).result("eu-1", false, 2);
    assert_eq!(world.leaving(), [""; 0]);
    world.at(11_000);
    world.state.rebuild(world.now);
    assert_eq!(world.leaving(), ["eu-1"]);
}

#[test]
fn a_reload_keeps_health_and_ids_and_moves_only_what_it_must() {
    let mut world = World::healthy(CONFIG);
    let before = world.state.table();
    let ids: Vec<_> = ["eu-1", "eu-2", "us-1"].iter().map(|name| world.id(name)).collect();
    let text = CONFIG.replace("\"10.0.0.2\" }", "\"10.0.0.2\", weight = 64 }, { name = \"eu-3\", address = \"10.0.0.3\" }");
    world.state.apply(parse(&text), world.now).unwrap();
    assert!(world.state.rebuild(world.now));
    assert_eq!(["eu-1", "eu-2", "us-1"].map(|name| world.id(name)).to_vec(), ids);
    assert_eq!(world.state.endpoints().get(ids[1]).snapshot.health, Health::Healthy);
    assert_eq!(world.stage(), Stage::Eligible);
    about(world.share("eu-3"), 0.0);
    about(world.share("eu-2"), 100.0 / 3.0);
    let after = world.state.table();
    for slot in Slot::all() {
        let (old, new) = (before.listeners[0].choose(slot), after.listeners[0].choose(slot));
        assert!(old == new || (old, new) == (Some(ids[1]), Some(ids[0])), "a lower weight moves slots from eu-2 to eu-1 only");
    }
}

#[test]
fn a_removed_or_moved_endpoint_drains_and_is_then_left() {
    let mut world = World::healthy(CONFIG);
    let old = world.id("eu-1");
    world.state.apply(parse(&CONFIG.replace("10.0.0.1\"", "10.0.9.9\"")), world.now).unwrap();
    world.state.rebuild(world.now);
    assert_ne!(world.id("eu-1"), old, "another address is another endpoint");
    let table = world.state.table();
    assert!(Slot::all().all(|slot| table.listeners[0].choose(slot) != Some(old)));
    assert!(world.leaving().is_empty());
    assert_eq!(world.state.targets(world.now).len(), 4, "it is probed while its flows may go on");
    world.at(30_000);
    assert!(world.state.rebuild(world.now));
    assert_eq!(world.leaving(), ["eu-1"]);
    assert_eq!(world.state.targets(world.now).len(), 3);
    world.state.apply(parse(CONFIG), world.now).unwrap();
    assert_eq!(world.id("eu-1"), old, "the old address comes back under its id");
    assert_eq!(world.state.endpoints().get(old).snapshot.health, Health::Unknown, "and is probed anew");
}

#[test]
fn reports_without_news_publish_nothing() {
    let mut world = World::healthy(CONFIG);
    let generation = world.state.table().generation;
    for ms in 0..50 {
        assert!(!world.at(ms * 100).result("eu-1", true, 2));
        assert!(!world.result("us-1", ms % 2 == 0, 2), "a single lost probe is no news");
    }
    assert_eq!(world.state.table().generation, generation);
}

#[test]
fn a_weight_set_at_run_time_outlives_reloads_until_its_key_changes() {
    let mut world = World::healthy(CONFIG);
    assert!(world.state.set_weight("eu-1", Some(Weight::ZERO)));
    assert!(!world.state.set_weight("eu-9", Some(Weight::ZERO)));
    about(world.share("eu-2"), 100.0);
    assert!(world.leaving().is_empty(), "old flows stay");
    world.state.apply(parse(CONFIG), world.now).unwrap();
    about(world.share("eu-2"), 100.0);
    world.state.apply(parse(&CONFIG.replace("\"10.0.0.1\" }", "\"10.0.0.1\", weight = 64 }")), world.now).unwrap();
    about(world.share("eu-1"), 100.0 / 3.0);
}

#[test]
fn a_drained_endpoint_keeps_its_flows_until_they_are_ended() {
    let mut world = World::healthy(CONFIG);
    let id = world.id("eu-1");
    let ends = world.start + Duration::from_secs(10);
    assert!(world.state.set_drain("eu-1", Some(Drain { ends: Some(ends) })));
    about(world.share("eu-1"), 0.0);
    let ended = |world: &World| world.state.table().listeners[0].must_leave(id, true);
    world.at(9_999);
    world.state.rebuild(world.now);
    assert!(!ended(&world));
    assert_eq!(world.state.due(), Some(ends));
    world.at(10_000);
    assert!(world.state.rebuild(world.now));
    assert!(ended(&world), "also flows that keep to an unhealthy endpoint");
    assert!(world.state.set_drain("eu-1", None));
    about(world.share("eu-1"), 50.0);
    assert!(!ended(&world));
}

const BY_LATENCY: &str = "endpoint_groups = [\"eu\", \"us\"]\nproximity = \"latency\"";

impl World {
    /// Slots that go to `name`.
    fn chosen(&self, name: &str) -> usize {
        let shares = self.state.table().listeners[0].shares();
        shares.iter().find(|(id, _)| *id == self.id(name)).map_or(0, |(_, slots)| *slots)
    }
}

/// Names of the listener's groups, in order of preference.
fn order(world: &World) -> Vec<&str> {
    let groups = &world.state.config().endpoint_groups;
    world.state.order(0).iter().map(|&group| groups[group].group.name.as_str()).collect()
}

#[test]
fn the_nearest_group_by_measured_time_comes_first() {
    let mut world = World::new(&CONFIG.replace("endpoint_groups = [\"eu\", \"us\"]", BY_LATENCY));
    world.answers_in("eu-1", 30);
    world.answers_in("eu-2", 50);
    assert_eq!((order(&world), world.chosen("eu-1") > 0), (vec!["eu", "us"], true), "the file's order until all have answered");
    world.answers_in("us-1", 10);
    assert_eq!((order(&world), world.chosen("us-1")), (vec!["us", "eu"], 65_536));
    assert_eq!(world.state.rtt(0), Some(Duration::from_millis(40)), "the mean of equal weights");

    // A drained one hardly counts: 30 against 10. A short burst changes nothing.
    world.state.set_weight("eu-2", Some(Weight::ZERO));
    for ms in [1_000, 2_000, 3_000] {
        world.at(ms).answers_in("us-1", 500);
    }
    assert_eq!(order(&world), ["us", "eu"]);
    for ms in (4_000..=60_000).step_by(1_000) {
        world.at(ms).answers_in("us-1", 10);
    }
    assert_eq!(order(&world), ["us", "eu"]);
    // What lasts does, after ten seconds and not before.
    let mut changed = None;
    for ms in (61_000..=120_000).step_by(1_000) {
        world.at(ms).answers_in("us-1", 90);
        if changed.is_none() && order(&world) == ["eu", "us"] {
            changed = Some(ms);
        }
    }
    // 90 smoothed by eighths from 10: past 30 × 5 / 4 (and eu's own 30) with the fourth.
    assert!(changed.is_some_and(|ms| (71_000..=76_000).contains(&ms)), "{changed:?}");
    assert_eq!(world.chosen("eu-1"), 65_536);
    assert!(world.state.table().listeners[0].leaving().is_empty(), "an order moves no flow");
}

#[test]
fn changes_of_health_are_remembered_with_their_evidence() {
    let mut world = World::healthy(CONFIG);
    world.at(10_000).dies("eu-1");
    world.at(20_000).comes_back("eu-1");
    let entry = world.state.endpoints().get(world.id("eu-1"));
    let changes: Vec<_> = entry.history.changes().map(|c| (c.from, c.to, c.reason, c.results.join(" "))).collect();
    let (unknown, healthy, unhealthy) = (Health::Unknown, Health::Healthy, Health::Unhealthy);
    assert_eq!(
        changes,
        [
            (unknown, healthy, "good", "good".to_owned()),
            (healthy, unhealthy, "refused", "good refused refused refused".to_owned()),
            (unhealthy, healthy, "good", "good refused refused refused good good".to_owned()),
        ]
    );
    let last = entry.history.changes().next_back().unwrap();
    assert_eq!((last.at, last.latency), (world.now, Some(Duration::from_millis(1))));
}
