//! `landfall explain`: says what the table says, and why.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

mod imagined;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use endpoint_group::{FlowHasher, FlowKey, Health, Protocol, Weight};
use fastrand::Rng;
use imagined::{CONFIG, landfall, origin, parse, random, state, stderr, stdout};
use landfall::{
    control::state::State,
    explain::{ExplainError, Explanation, explain, what_if::imagine},
};

fn flow(protocol: Protocol, client: &str, to: &str) -> FlowKey {
    FlowKey { protocol, client: client.parse().unwrap(), to: to.parse().unwrap() }
}

/// Flows to the game of [`CONFIG`], one after another.
fn games(count: u16) -> impl Iterator<Item = FlowKey> {
    (0..count).map(|n| flow(Protocol::Udp, &format!("203.0.113.9:{}", 1024 + n), "198.18.0.1:7000"))
}

fn ask(state: &State, flow: &FlowKey) -> Explanation {
    let explanation = explain(state, flow).unwrap();
    assert_eq!(explanation.groups.iter().filter(|group| group.takes).count(), usize::from(explanation.endpoint.is_some()));
    assert_eq!(explanation.ranking.first(), explanation.endpoint.as_ref());
    explanation
}

#[test]
fn the_choice_is_what_the_table_says() {
    let mut rng = Rng::with_seed(11);
    for _ in 0..30 {
        let (text, down) = random(&mut rng);
        let config = parse(&text);
        let state = imagine(config.clone(), &down, origin()).unwrap();
        let table = state.table();
        for _ in 0..300 {
            let index = rng.usize(..config.listeners.len());
            let listener = &config.listeners[index].settings;
            let protocol = listener.protocols().next().unwrap();
            let client = SocketAddr::new(Ipv4Addr::from_bits(rng.u32(0x0100_0000..0xe000_0000)).into(), rng.u16(1..));
            let flow =
                FlowKey { protocol, client, to: SocketAddr::new(config.static_ips[0], listener.ports[0].start().to_owned()) };
            let said = ask(&state, &flow);

            let slot = FlowHasher::new(config.hash_seed).slot(&flow, listener.affinity);
            let target = table.listeners[index].choose(slot).map(|id| &table.endpoint(id).unwrap().target);
            assert_eq!(said.slot, slot.0);
            assert_eq!(said.endpoint, target.map(|target| target.name.to_string()));
            assert_eq!(said.group, target.map(|target| target.group.to_string()));
            assert_eq!(said.address, target.map(|target| target.address(flow.to.port())));
            assert_eq!(said.stage, table.listeners[index].stage().as_str());
            assert_eq!(said.reason.starts_with("refused"), target.is_none(), "{}", said.reason);
            let names = said.ranking.iter().collect::<std::collections::BTreeSet<_>>();
            assert_eq!(names.len(), said.ranking.len(), "a rank is held once");
            // What is said of each group agrees with who takes the slot.
            for group in &said.groups {
                let takes = ["takes the", "takes all"].iter().any(|words| group.verdict.contains(words));
                let passes = ["passes it on", "not reached", "not eligible"].iter().any(|words| group.verdict.contains(words));
                assert!(!group.takes || takes, "{}: {}", group.name, said.render());
                assert!(!passes || !group.takes || said.stage == "fail_open", "{}: {}", group.name, said.render());
            }
        }
    }
}

#[test]
fn when_the_first_dies_the_second_of_its_group_takes_over() {
    let healthy = state(CONFIG, &[]);
    for flow in games(200) {
        let before = ask(&healthy, &flow);
        let after = ask(&state(CONFIG, &[&before.ranking[0]]), &flow);
        assert_eq!(after.endpoint.as_ref(), Some(&before.ranking[1]));
        assert_eq!(after.group, before.group);
        assert!(after.render().contains(&format!("{} is unhealthy", before.ranking[0])));
    }
}

#[test]
fn dials_say_whether_the_draw_falls_under_them() {
    let state = state(CONFIG, &[]);
    let mut taken = 0;
    for flow in games(1000) {
        let said = ask(&state, &flow);
        let [eu, us] = said.groups.as_slice() else { panic!("{said:?}") };
        let draw: f64 = eu.verdict.split("draw of ").nth(1).unwrap().split(" %").next().unwrap().parse().unwrap();
        assert!(eu.verdict.starts_with("eligible: 3 of 3 usable, min_healthy 1; dial 60 %, "), "{}", eu.verdict);
        assert_eq!(eu.takes, draw < 60.0);
        if eu.takes {
            assert!(eu.verdict.ends_with(" falls under it: takes the slot"), "{}", eu.verdict);
            assert!(us.verdict.ends_with("; not reached"), "{}", us.verdict);
            assert!(
                said.reason.starts_with("eu is the first group whose dial accepts the slot; of its 3 endpoints"),
                "{}",
                said.reason
            );
            taken += 1;
        } else {
            assert!(eu.verdict.ends_with(" does not fall under it: passes it on"), "{}", eu.verdict);
            assert_eq!(us.verdict, "eligible: 2 of 2 usable, min_healthy 1; takes the rest");
            assert!(
                said.reason.starts_with("no group before it accepts the slot, and us takes all that reaches it"),
                "{}",
                said.reason
            );
        }
    }
    assert!((540..660).contains(&taken), "{taken} of 1000 at dial 60");
}

#[test]
fn the_last_eligible_group_takes_the_rest_whatever_its_dial() {
    let said = ask(&state(CONFIG, &["us"]), &games(1).next().unwrap());
    assert_eq!(
        said.groups[0].verdict,
        "eligible: 3 of 3 usable, min_healthy 1; takes the rest: the last that is eligible, so its dial of 60 % has no effect"
    );
    assert_eq!(said.groups[1].verdict, "not eligible: 0 of 2 usable (us-1 is unhealthy, us-2 is unhealthy), min_healthy 1");
}

#[test]
fn a_closed_dial_opens_when_nothing_else_is_left() {
    let text = CONFIG.replace("traffic_dial = 60", "traffic_dial = 0");
    let flow = games(1).next().unwrap();
    let said = ask(&state(&text, &[]), &flow);
    assert!(said.groups[0].verdict.ends_with("dial 0 %: takes nothing while a group with an open dial is eligible"));
    let said = ask(&state(&text, &["us"]), &flow);
    assert_eq!((said.stage.as_str(), said.group.as_deref()), ("dials_ignored", Some("eu")));
    assert!(said.reason.starts_with("no group with an open dial is eligible, so dials are ignored"), "{}", said.reason);
}

#[test]
fn the_address_has_the_override_or_the_fixed_port() {
    let address = |to: &str, down: &[&str]| {
        ask(&state(CONFIG, down), &flow(Protocol::Udp, "203.0.113.9:5555", to)).address.unwrap().to_string()
    };
    assert_eq!(address("198.18.0.1:7000", &["us", "eu-2", "eu-3"]), "10.0.1.10:17000");
    assert_eq!(address("198.18.0.1:7150", &["us", "eu-2", "eu-3"]), "10.0.1.10:7150");
    assert_eq!(address("198.18.0.1:7000", &["us", "eu-1", "eu-3"]), "10.0.1.11:9000");
}

#[test]
fn affinity_to_the_client_ignores_its_port() {
    let state = state(CONFIG, &[]);
    let slot = |client: &str| ask(&state, &flow(Protocol::Tcp, client, "198.18.0.1:443")).slot;
    assert_eq!(slot("203.0.113.9:5555"), slot("203.0.113.9:6666"));
    assert_eq!(slot("203.0.113.9:5555"), slot("[::ffff:203.0.113.9]:1"), "an IPv4 address written as IPv6 is that IPv4 address");
}

#[test]
fn a_refusal_says_why() {
    let web = flow(Protocol::Tcp, "203.0.113.9:5555", "198.18.0.1:443");
    let said = ask(&state(CONFIG, &["eu", "us"]), &web);
    assert_eq!((said.endpoint, said.group, said.address), (None, None, None));
    assert_eq!(said.reason, "refused: no group is eligible, and when_all_unhealthy is \"fail_closed\"");

    let unknown = State::new(parse(CONFIG), origin()).unwrap();
    let said = ask(&unknown, &games(1).next().unwrap());
    assert_eq!(said.stage, "refuse_not_ready");
    assert!(said.reason.ends_with("without a probe result for eu-1, eu-2, eu-3, us-1 and 1 more none can be"), "{}", said.reason);

    let mut drained = state(CONFIG, &[]);
    for name in ["eu-1", "eu-2", "eu-3", "us-1", "us-2"] {
        assert!(drained.set_weight(name, Some(Weight::ZERO)));
    }
    drained.rebuild(origin());
    let said = ask(&drained, &web);
    assert!(said.groups[0].verdict.contains("us-1 has weight 0"), "{}", said.groups[0].verdict);
    assert_eq!(said.reason, "refused: every endpoint of these groups has weight 0");
    assert!(said.render().contains("choice    none: the flow is refused"), "{}", said.render());
}

#[test]
fn failing_open_says_so() {
    let said = ask(&state(CONFIG, &["eu", "us"]), &games(1).next().unwrap());
    assert_eq!((said.stage.as_str(), said.group.as_deref()), ("fail_open", Some("eu")));
    assert!(said.groups[0].verdict.starts_with("not eligible: 0 of 3 usable"), "{}", said.groups[0].verdict);
    assert!(said.reason.starts_with("no group is eligible, so the listener fails open to eu"), "{}", said.reason);
}

#[test]
fn a_live_view_shows_holds_and_ramps() {
    let start = origin();
    let mut state = imagine(parse(CONFIG), &[], start).unwrap();
    let eu: Vec<_> = state.endpoints().of_group(0).map(|entry| entry.id).collect();
    for (health, second) in [(Health::Unhealthy, 1), (Health::Healthy, 2)] {
        let now = start + Duration::from_secs(second);
        eu.iter().for_each(|&id| state.assume(id, health, now));
        state.rebuild(now);
    }
    let verdict = |state: &State| ask(state, &games(1).next().unwrap()).groups[0].verdict.clone();
    assert!(
        verdict(&state).starts_with("not eligible: 0 of 3 usable (eu-1 is held after its recovery, eu-2"),
        "{}",
        verdict(&state)
    );
    state.rebuild(start + Duration::from_secs(10));
    let said = verdict(&state);
    assert!(said.starts_with("eligible: 3 of 3 usable (eu-1 is back by 3/10, eu-2"), "{said}");
    assert!(said.contains("; dial 60 %, back by 1/10: 6 %, the slot's draw of "), "{said}");

    // Nobody else is left: what is held counts in full.
    let us: Vec<_> = state.endpoints().of_group(1).map(|entry| entry.id).collect();
    for second in [11, 12] {
        let now = start + Duration::from_secs(second);
        let dead = if second == 11 { [&eu, &us] } else { [&us, &us] };
        dead.iter().copied().flatten().for_each(|&id| state.assume(id, Health::Unhealthy, now));
        eu.iter().filter(|_| second == 12).for_each(|&id| state.assume(id, Health::Healthy, now));
        state.rebuild(now);
    }
    let said = ask(&state, &games(1).next().unwrap());
    assert_eq!(said.stage, "held_in_full");
    assert!(said.reason.starts_with("without held and ramping endpoints no group is eligible, so they count in full; eu is"));
}

#[test]
fn impossible_questions_say_what_is_possible() {
    let state = state(CONFIG, &[]);
    let error = |protocol, client, to| explain(&state, &flow(protocol, client, to)).unwrap_err();
    let client = "203.0.113.9:5555";
    assert_eq!(
        error(Protocol::Udp, client, "10.9.9.9:7000").to_string(),
        "cannot explain a flow to 10.9.9.9:7000: 10.9.9.9 is not a static IP of this accelerator; ask about 198.18.0.1 or 2001:db8:18::1"
    );
    assert_eq!(
        error(Protocol::Tcp, client, "198.18.0.1:7000").to_string(),
        "cannot explain a flow to 198.18.0.1:7000: no listener takes tcp on port 7000; \
         there are match (udp 7000, 7100-7199), web (tcp 443)"
    );
    assert!(matches!(error(Protocol::Udp, client, "[2001:db8:18::1]:7000"), ExplainError::Family { .. }));
    assert!(matches!(error(Protocol::Udp, "224.0.0.1:1", "198.18.0.1:7000"), ExplainError::Client { .. }));
}

#[test]
fn json_has_the_stable_fields_and_reads_back() {
    let said = ask(&state(CONFIG, &["eu-1"]), &games(1).next().unwrap());
    let json: serde_json::Value = serde_json::from_str(&said.to_json()).unwrap();
    assert!(json["slot"].is_u64() && json["reason"].is_string());
    assert_eq!(json["group"].as_str(), said.group.as_deref());
    assert_eq!(json["endpoint"].as_str(), said.endpoint.as_deref());
    assert_eq!(json["ranking"].as_array().unwrap().len(), 4);
    let back: Explanation = serde_json::from_value(json).unwrap();
    assert_eq!(back.render(), said.render());
    assert_eq!(back, said);

    let refused = ask(&state(CONFIG, &["eu", "us"]), &flow(Protocol::Tcp, "203.0.113.9:5555", "198.18.0.1:443"));
    let json: serde_json::Value = serde_json::from_str(&refused.to_json()).unwrap();
    assert!(json["group"].is_null() && json["endpoint"].is_null() && json["ranking"].as_array().unwrap().is_empty());
}

#[test]
fn the_command_exits_as_scripts_expect() {
    let base = "explain --config CONFIG --client 203.0.113.9:5555 --to 198.18.0.1:7000 --protocol udp";
    let run = |args: &str| landfall(CONFIG, "", args);
    let ok = run(&format!("{base} --down eu-1 us-2 --json"));
    assert_eq!(ok.status.code(), Some(0), "{}", stderr(&ok));
    let said: Explanation = serde_json::from_str(&stdout(&ok)).unwrap();
    assert_eq!(said, ask(&state(CONFIG, &["eu-1", "us-2"]), &flow(Protocol::Udp, "203.0.113.9:5555", "198.18.0.1:7000")));
    assert_eq!(stdout(&run(&format!("{base} --down eu-1,us-2"))), said.render());

    let refused = run("explain --config CONFIG --client 203.0.113.9:5555 --to 198.18.0.1:443 --protocol tcp --down eu --down us");
    assert_eq!(refused.status.code(), Some(0));
    assert!(stdout(&refused).contains("because   refused: "), "{}", stdout(&refused));

    let unknown = run(&format!("{base} --down eu-9"));
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(
        stderr(&unknown),
        "landfall: cannot take \"eu-9\" for dead: there is no endpoint or endpoint group of that name; did you mean \"eu-1\"?\n"
    );
    let impossible = run("explain --config CONFIG --client 203.0.113.9:5555 --to 198.18.0.1:1 --protocol udp");
    assert_eq!(impossible.status.code(), Some(1));
    assert!(stderr(&impossible).contains("no listener takes udp on port 1"));
    assert_eq!(run("explain --config CONFIG --client here --to 198.18.0.1:1 --protocol udp").status.code(), Some(2));
    assert_eq!(run(&base.replace("CONFIG", "/nowhere/landfall.toml")).status.code(), Some(66));
    let wrong = landfall("name = 1\n", "", base);
    assert_eq!(wrong.status.code(), Some(78));
    assert!(stderr(&wrong).contains("landfall.toml:1: name: "), "{}", stderr(&wrong));
}
