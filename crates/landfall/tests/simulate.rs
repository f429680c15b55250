//! `landfall simulate`: who has which share, what moves, and that nothing moves needlessly.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

mod imagined;

use std::time::Duration;

use endpoint_group::{EndpointId, Weight};
use fastrand::Rng;
use imagined::{CONFIG, landfall, origin, parse, random, stderr, stdout};
use landfall::{
    config::Config,
    explain::what_if::{Names, imagine},
    simulate::{Event, Load, Simulation, scenario, simulate},
};

fn run(config: &Config, flows: u64, events: impl FnOnce(&Names) -> Vec<Event>) -> Simulation {
    let start = origin();
    let state = imagine(config.clone(), &[], start).unwrap();
    let events = events(&Names::of(&state));
    simulate(state, &Load::new(config, flows, 1), &events, start)
}

fn deaths(names: &Names, down: &[String]) -> Vec<Event> {
    let down = down.iter().flat_map(|name| names.resolve(name).unwrap()).copied().collect();
    vec![Event { down, ..Event::default() }]
}

fn complete(simulation: &Simulation) {
    for step in std::iter::once(&simulation.start).chain(&simulation.steps) {
        assert_eq!(step.shares.iter().sum::<u64>() + step.refused, simulation.flows, "{step:?}");
        assert_eq!(step.moved_needlessly, 0, "{step:?}");
    }
}

#[test]
fn nothing_moves_needlessly_when_anything_dies() {
    let mut rng = Rng::with_seed(3);
    let mut moved = 0;
    for _ in 0..25 {
        let (text, down) = random(&mut rng);
        let simulation = run(&parse(&text), 20_000, |names| deaths(names, &down));
        complete(&simulation);
        moved += simulation.moved();
    }
    assert!(moved > 50_000, "{moved}: the configs are to move something");
}

#[test]
fn nothing_moves_needlessly_in_any_history() {
    let mut rng = Rng::with_seed(4);
    let mut failbacks = 0;
    for _ in 0..20 {
        let (text, _) = random(&mut rng);
        let config = parse(&text);
        let endpoints: usize = config.endpoint_groups.iter().map(|group| group.group.endpoints.len()).sum();
        let mut at = Duration::ZERO;
        let some = |rng: &mut Rng, percent: u8| -> Vec<EndpointId> {
            (0..endpoints).filter(|_| rng.u8(..100) < percent).filter_map(EndpointId::new).collect()
        };
        let history = (0..6).map(|_| {
            at += Duration::from_millis(rng.u64(1..9000));
            let (down, up) = (some(&mut rng, 40), some(&mut rng, 60));
            let weights = some(&mut rng, 10).into_iter().map(|id| (id, Weight::new(rng.u8(..)))).collect();
            Event { at, down, up, weights, what: "x".into() }
        });
        let history: Vec<Event> = history.collect();
        let simulation = run(&config, 5_000, |_| history);
        complete(&simulation);
        assert!(simulation.steps.is_sorted_by_key(|step| step.at));
        failbacks += simulation.steps.iter().filter(|step| step.what == "failback").count();
    }
    assert!(failbacks > 100, "{failbacks}");
}

#[test]
fn only_the_flows_of_the_dead_move() {
    let down = ["eu-1".to_owned()];
    let simulation = run(&parse(CONFIG), 50_000, |names| deaths(names, &down));
    complete(&simulation);
    assert_eq!(simulation.endpoints[0].endpoint, "eu-1");
    assert_eq!(simulation.moved(), simulation.start.shares[0]);
    assert_eq!(simulation.end().shares[0], 0);
    for (was, is) in simulation.start.shares.iter().zip(&simulation.end().shares).skip(1) {
        assert!(is >= was);
    }
}

#[test]
fn shares_follow_dials_and_weights() {
    let simulation = run(&parse(CONFIG), 200_000, |_| Vec::new());
    // Half of the flows are the game's, 60 % of which go to eu by weights 2:1:1; the rest of them and all the web goes to us.
    let wanted = [30_000, 15_000, 15_000, 70_000, 70_000];
    for (place, (&share, wanted)) in simulation.endpoints.iter().zip(simulation.start.shares.iter().zip(wanted)) {
        let off = share.abs_diff(wanted);
        assert!(off * 20 < wanted, "{}: {share} of {wanted}", place.endpoint);
    }
}

const SCENARIO: &str = r#"
[[events]]
at = "10s"
down = ["eu-1"]

[[events]]
at = "20s"
up = ["eu-1"]
weight = { eu-2 = 0 }
"#;

#[test]
fn a_scenario_shows_every_step_of_a_failback() {
    let simulation = run(&parse(CONFIG), 50_000, |names| scenario::parse(SCENARIO, names).unwrap());
    complete(&simulation);
    let times: Vec<u64> = simulation.steps.iter().map(|step| step.at.as_secs()).collect();
    // Up at 20 s, held until 25 s, then in tenths of 10 s; the second tenth is the first over.
    assert_eq!(times, [10, 20, 25, 27, 28, 29, 30, 31, 32, 33, 34, 35]);
    let whats: Vec<&str> = simulation.steps.iter().take(3).map(|step| step.what.as_str()).collect();
    assert_eq!(whats, ["down eu-1", "up eu-1; weight eu-2 = 0", "failback"]);
    let eu_1: Vec<u64> = simulation.steps.iter().map(|step| step.shares[0]).collect();
    assert_eq!((eu_1[0], eu_1[1]), (0, 0));
    assert!(eu_1[1..].is_sorted() && eu_1[2] > 0, "{eu_1:?}");
    assert_eq!(simulation.end().shares[1], 0, "weight 0 takes nothing");
}

#[test]
fn errors_of_a_scenario_have_a_line_and_a_cure() {
    let state = imagine(parse(CONFIG), &[], origin()).unwrap();
    let names = Names::of(&state);
    let text = r#"
speed = 2
[[events]]
at = "10s"
down = ["eu-9", "eu", "eu-1"]
[[events]]
at = "5s"
dwon = ["eu-1"]
[[events]]
up = [1]
weight = { eu = 1, eu-2 = 256 }
"#;
    let errors = scenario::parse(text, &names).unwrap_err();
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "2: speed: unknown key; use one of events",
            "5: events[0].down[0]: no endpoint or endpoint group \"eu-9\"; did you mean \"eu-1\"?",
            "5: events[0].down[2]: \"eu-1\" is named twice at one time; keep one of the two",
            "6: events[1]: nothing happens; name who goes down or up, or set a weight",
            "7: events[1].at: not later than the event before it; \
             list events in the order of their times, and what happens at one time in one event",
            "8: events[1].dwon: unknown key; did you mean \"down\"?",
            "9: events[2].at: missing; write the time from the start, of at most 7 days, with its unit, such as \"10s\" or \"1m 30s\"",
            "10: events[2].up[0]: not a name; list names of endpoints or endpoint groups, such as [\"eu-1\", \"us\"]",
            "11: events[2].weight.eu: no endpoint \"eu\"; did you mean \"eu-1\"?",
            "11: events[2].weight.eu-2: not a weight; \
             write endpoints and their weights of 0 to 255, such as { eu-2 = 0 }; a name with a dot needs quotes",
        ]
    );
    let first = |text: &str| scenario::parse(text, &names).unwrap_err()[0].to_string();
    assert!(first("").starts_with("1: events: missing; "));
    assert!(first("events = 1").starts_with("1: events: not a list of tables; "));
    assert!(first("\n[[events]]\nat = 10s").starts_with("3: syntax: "));
}

#[test]
fn the_same_seed_prints_the_same_bytes() {
    for args in ["--down eu-1,us", "--scenario SCENARIO", "--down eu-1 --json", "--scenario SCENARIO --json"] {
        let print =
            |seed: u32| landfall(CONFIG, SCENARIO, &format!("simulate --config CONFIG --flows 3000 --seed {seed} {args}"));
        let (one, same, other) = (print(5), print(5), print(6));
        assert_eq!(one.status.code(), Some(0), "{}", stderr(&one));
        assert_eq!(one.stdout, same.stdout);
        assert_ne!(one.stdout, other.stdout);
    }
}

#[test]
fn a_small_run_is_known() {
    let output = landfall(CONFIG, "", "simulate --config CONFIG --flows 1000 --down eu-1,us-1");
    assert_eq!(stdout(&output), GOLDEN);
}

const GOLDEN: &str = "\
1,000 flows, seed 1; everything healthy, then down eu-1, us-1

eu  eu-1  before 161  16.1 %  ░░░░░░░
          after    0   0.0 %
eu  eu-2  before  63   6.3 %  ░░░
          after  139  13.9 %  ██████
eu  eu-3  before  69   6.9 %  ░░░
          after  154  15.4 %  ███████
us  us-1  before 371  37.1 %  ░░░░░░░░░░░░░░░░
          after    0   0.0 %
us  us-2  before 336  33.6 %  ░░░░░░░░░░░░░░░
          after  707  70.7 %  ██████████████████████████████

moved: 532 (53.2 % of all flows)
moved needlessly: 0
";

#[test]
fn json_has_the_stable_fields() {
    let output = landfall(CONFIG, SCENARIO, "simulate --config CONFIG --flows 2000 --down eu us --json");
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(json["flows"], 2000);
    assert_eq!(json["moved_needlessly"], 0);
    let sum = |key: &str| json[key].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("shares_before"), 2000);
    assert_eq!(json["shares_before"].as_object().unwrap().len(), 5);
    // The game fails open, the web closed.
    assert_eq!(sum("shares_after") + json["refused_after"].as_u64().unwrap(), 2000);
    assert_eq!(
        (&json["stages_after"]["match"], &json["stages_after"]["web"]),
        (&"fail_open".into(), &"refuse_fail_closed".into())
    );
    assert!(json.get("steps").is_none());

    let output = landfall(CONFIG, SCENARIO, "simulate --config CONFIG --flows 2000 --scenario SCENARIO --json");
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let steps = json["steps"].as_array().unwrap();
    assert_eq!((&steps[0]["at_seconds"], &steps[0]["what"]), (&10.0.into(), &"down eu-1".into()));
    assert_eq!(json["moved"].as_u64().unwrap(), steps.iter().map(|step| step["moved"].as_u64().unwrap()).sum::<u64>());
}

#[test]
fn the_command_exits_as_scripts_expect() {
    let code = |scenario: &str, args: &str| landfall(CONFIG, scenario, args).status.code();
    assert_eq!(code("", "simulate --config CONFIG --flows 10"), Some(2), "neither --down nor --scenario");
    assert_eq!(code(SCENARIO, "simulate --config CONFIG --down eu --scenario SCENARIO"), Some(2), "both");
    assert_eq!(code("", "simulate --config CONFIG --flows 0 --down eu"), Some(2));
    assert_eq!(code("", "simulate --config CONFIG --flows 10 --down nobody"), Some(1));
    assert_eq!(code("", "simulate --config CONFIG --flows 10 --scenario /nowhere"), Some(66));
    let wrong = landfall(CONFIG, "[[events]]\nat = \"1s\"\ndown = [\"ue-1\"]\n", "simulate --config CONFIG --scenario SCENARIO");
    assert_eq!(wrong.status.code(), Some(78));
    assert!(
        stderr(&wrong).contains("scenario.toml:3: events[0].down[0]: no endpoint or endpoint group \"ue-1\""),
        "{}",
        stderr(&wrong)
    );
    assert_eq!(landfall("x = 1", "", "simulate --config CONFIG --down eu").status.code(), Some(78));
}
