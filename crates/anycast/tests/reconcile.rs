//! From every state of BIRD to every wanted one.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use anycast::{
    State,
    reconcile::{Carrier, Protocols, commands},
};

fn carrier() -> Carrier {
    Carrier { normal: "n".into(), low: Some("l".into()) }
}

fn told(carrier: &Carrier, wanted: State, normal: Option<bool>, low: Option<bool>) -> Vec<String> {
    let named = [("n", normal), ("l", low)].into_iter();
    let protocols: Protocols = named.filter_map(|(name, up)| Some((name.to_owned(), up?))).collect();
    commands(carrier, wanted, &protocols).iter().map(ToString::to_string).collect()
}

#[test]
fn every_step_in_its_order() {
    const UP: Option<bool> = Some(true);
    const DOWN: Option<bool> = Some(false);
    use State::{Announced, Depreferred, Withdrawn};
    for (wanted, normal, low, expected) in [
        (Announced, DOWN, DOWN, &["enable n"][..]),
        (Announced, UP, DOWN, &[]),
        (Announced, DOWN, UP, &["enable n", "disable l"]),
        (Announced, UP, UP, &["disable l"]),
        (Depreferred, DOWN, DOWN, &["enable l"]),
        (Depreferred, UP, DOWN, &["enable l", "disable n"]),
        (Depreferred, DOWN, UP, &[]),
        (Depreferred, UP, UP, &["disable n"]),
        (Withdrawn, DOWN, DOWN, &[]),
        (Withdrawn, UP, DOWN, &["disable n"]),
        (Withdrawn, DOWN, UP, &["disable l"]),
        (Withdrawn, UP, UP, &["disable l", "disable n"]),
        // BIRD lacks one of them: no command for it, and no route given up for it.
        (Announced, None, UP, &[]),
        (Announced, None, None, &[]),
        (Announced, DOWN, None, &["enable n"]),
        (Depreferred, UP, None, &[]),
        (Depreferred, None, DOWN, &["enable l"]),
        (Withdrawn, None, UP, &["disable l"]),
        (Withdrawn, UP, None, &["disable n"]),
    ] {
        assert_eq!(told(&carrier(), wanted, normal, low), expected, "{wanted:?} {normal:?} {low:?}");
    }
}

#[test]
fn one_protocol_is_enough_without_deprefer() {
    let alone = Carrier { normal: "n".into(), low: None };
    assert_eq!(told(&alone, State::Announced, Some(false), None), ["enable n"]);
    assert_eq!(told(&alone, State::Withdrawn, Some(true), None), ["disable n"]);
    assert_eq!(told(&alone, State::Depreferred, Some(true), None), [""; 0]);
    assert_eq!(alone.missing(&Protocols::new()), Some("n"));
    assert_eq!(alone.observed(&Protocols::new()), None);
}
