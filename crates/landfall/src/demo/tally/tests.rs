use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// One flow that endpoint 0 has answered, sending each 10 ms.
fn flowing() -> Tally {
    let mut tally = Tally::new(1, 1, 2);
    for seq in 0..10 {
        tally.sent(0, seq, ms(seq * 10));
        tally.answered(0, seq, 0);
    }
    tally
}

#[test]
fn a_failover_ends_with_the_last_datagram_that_was_lost() {
    let mut tally = flowing();
    tally.kill(0, ms(100));
    tally.dead(0, ms(102));
    for seq in 10..15 {
        tally.sent(0, seq, ms(seq * 10));
    }
    assert!(!tally.is_over(&tally.deaths()[0]));
    tally.sent(0, 15, ms(150));
    tally.answered(0, 15, 1);
    let death = &tally.deaths()[0];
    assert_eq!((death.flows_moved, death.last_lost), (1, ms(140)));
    assert!(tally.is_over(death));
    assert_eq!(*tally.datagrams(), Datagrams { sent: 16, answered: 11, to_the_dead: 5, ..Datagrams::default() });
    assert!(!tally.pending());
}

#[test]
fn a_flow_that_lost_nothing_moved_at_once() {
    let mut tally = flowing();
    tally.kill(0, ms(100));
    tally.sent(0, 10, ms(300));
    tally.answered(0, 10, 1);
    let death = &tally.deaths()[0];
    assert_eq!((death.flows_moved, tally.took(death.killed, death.last_lost).total), (1, ms(0)));
}

#[test]
fn what_was_lost_before_the_kill_is_not_the_dead_ones() {
    let mut tally = flowing();
    tally.sent(0, 10, ms(100));
    tally.sent(0, 11, ms(250));
    tally.kill(0, ms(300));
    tally.sent(0, 12, ms(310));
    tally.sent(0, 13, ms(320));
    tally.answered(0, 13, 1);
    assert_eq!(tally.datagrams().to_the_dead, 2, "the one that may have been queued, and the one sent after");
    tally.give_up(ms(330));
    assert_eq!(tally.datagrams().unanswered, 1);
}

#[test]
fn datagrams_to_a_dead_endpoint_without_a_move_are_still_told_apart() {
    let mut tally = flowing();
    tally.kill(0, ms(100));
    tally.sent(0, 10, ms(150));
    tally.restarts(0, ms(200));
    tally.sent(0, 11, ms(250));
    tally.sent(0, 12, ms(260));
    tally.answered(0, 12, 0);
    tally.give_up(ms(300));
    assert_eq!(*tally.datagrams(), Datagrams { sent: 13, answered: 11, to_the_dead: 1, unanswered: 1, flows_unanswered: 1 });
    assert_eq!(tally.deaths()[0].left, (1, 0), "the flow was still there at the restart");
}

#[test]
fn an_answer_counts_once_and_not_after_it_was_given_up() {
    let mut tally = flowing();
    tally.answered(0, 3, 0);
    assert_eq!(tally.datagrams().answered, 10);
    tally.sent(0, 10, ms(100));
    tally.sent(0, 11, ms(100) + datagrams::PATIENCE);
    assert_eq!(tally.datagrams().unanswered, 1);
    tally.answered(0, 10, 1);
    assert_eq!((tally.datagrams().answered, tally.flows_of(0)), (10, 1));
}

#[test]
fn a_flow_is_lost_that_nothing_sent_lately_was_answered() {
    let mut tally = flowing();
    assert_eq!((tally.flows_lost(ms(90)), tally.flows_lost(ms(91))), (0, 1));
    assert_eq!(Tally::new(2, 0, 1).flows_lost(ms(0)), 2);
    tally.sent(0, 10, ms(100));
    assert_eq!(tally.flows_lost(ms(95)), 1);
}

#[test]
fn only_connections_from_before_a_death_can_die_with_it() {
    let mut tally = Tally::new(0, 0, 2);
    let connect = |tally: &mut Tally, opened, outcome: Outcome, at| {
        tally.opens();
        tally.ended(ms(opened), outcome, ms(at));
    };
    let cut = || Outcome::Cut("closed before the answer".into());
    connect(&mut tally, 10, Outcome::Answered(0), 11);
    connect(&mut tally, 20, cut(), 21);
    assert_eq!(tally.connections().failed, 1, "nobody had died");
    tally.kill(0, ms(100));
    tally.dead(0, ms(105));
    connect(&mut tally, 99, cut(), 101);
    connect(&mut tally, 104, cut(), 106);
    assert_eq!((tally.connections().died_with_endpoint, tally.connections().failed), (2, 1));
    connect(&mut tally, 106, cut(), 107);
    connect(&mut tally, 99, Outcome::Failed("no answer in 5 s".into()), 5_099);
    let expected = Connections {
        opened: 6,
        answered: 1,
        died_with_endpoint: 2,
        failed: 3,
        last_failure: Some("no answer in 5 s (opened at 0.10 s)".into()),
    };
    assert_eq!(*tally.connections(), expected);
    assert!(!tally.pending());
}

#[test]
fn a_held_connection_is_told_of_a_death_or_cut_without_need() {
    let mut tally = Tally::new(0, 3, 2);
    for connection in 0..3 {
        tally.held(connection, 0);
    }
    tally.kill(0, ms(100));
    tally.told(0, ms(103));
    tally.told(0, ms(104));
    assert_eq!((tally.held_of(0), tally.cut()), (2, 0));
    tally.held(0, 1);
    tally.told(0, ms(110));
    assert_eq!(tally.cut(), 1);
    tally.told(1, ms(120));
    tally.settle(0);
    tally.told(2, ms(900));
    tally.settle(0);
    let death = &tally.deaths()[0];
    assert_eq!((death.connections_told, death.last_told, death.left), (3, ms(900), (0, 1)));
}

#[test]
fn the_second_death_of_an_endpoint_is_its_own() {
    let mut tally = flowing();
    tally.kill(0, ms(100));
    tally.sent(0, 10, ms(110));
    tally.sent(0, 11, ms(120));
    tally.answered(0, 11, 1);
    tally.restarts(0, ms(500));
    tally.sent(0, 12, ms(510));
    tally.answered(0, 12, 0);
    tally.kill(0, ms(600));
    tally.sent(0, 13, ms(610));
    tally.sent(0, 14, ms(620));
    tally.answered(0, 14, 1);
    let moved: Vec<_> = tally.deaths().iter().map(|death| (death.flows_moved, death.last_lost)).collect();
    assert_eq!(moved, [(1, ms(110)), (1, ms(610))]);
}

#[test]
fn shares_are_of_the_latest_connections() {
    let mut tally = Tally::new(0, 0, 2);
    assert_eq!(tally.share_of(&[0], ms(0)), 0);
    for (at, endpoint) in [(0, 0), (600, 0), (700, 1), (800, 1)] {
        tally.opens();
        tally.ended(ms(at), Outcome::Answered(endpoint), ms(at));
    }
    assert_eq!((tally.share_of(&[0], ms(800)), tally.share_of(&[1], ms(800))), (33, 67));
    assert_eq!((tally.share_of(&[0], ms(1_150)), tally.share_of(&[1], ms(1_150))), (0, 100));
    assert_eq!(tally.share_of(&[1], ms(2_000)), 0);
    assert_eq!(tally.share_of(&[0, 1], ms(800)), 100, "a group's share is not a sum of rounded ones");
}

#[test]
fn time_in_which_the_clients_stood_still_does_not_count() {
    let mut tally = Tally::new(0, 0, 0);
    tally.stalled(ms(50), ms(150));
    tally.stalled(ms(200), ms(230));
    tally.stalled(ms(290), ms(400));
    let took = tally.took(ms(100), ms(300));
    assert_eq!((took.total, took.stalled, took.net()), (ms(200), ms(90), ms(110)));
}
