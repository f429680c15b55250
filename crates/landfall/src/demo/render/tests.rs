use std::path::Path;

use super::*;
use crate::demo::{
    scene::Ports,
    snapshot::{Event, Region, Row, Snapshot},
    summary,
    tally::{Connections, Datagrams},
};

fn row(name: &str, pid: Option<u32>, health: &str, effective_weight: f64, share: usize) -> Row {
    Row { name: name.into(), pid, health: health.into(), weight: 128, effective_weight, flows: share * 64 / 100, held: 4, share }
}

fn snapshot() -> Snapshot {
    let events = (0..20).map(|n| Event { at: Duration::from_millis(n * 100), text: format!("event {n}") });
    Snapshot {
        at: Duration::from_millis(7_340),
        ports: Ports { game: 21_034, chat: 21_035, admin: 21_036 },
        now: "eu-1 is dead".into(),
        regions: vec![
            Region {
                name: "eu".into(),
                region: "eu-central".into(),
                share: 67,
                endpoints: vec![row("eu-1", None, "unhealthy", 0.0, 0), row("eu-2", Some(12), "healthy", 25.6, 67)],
            },
            Region {
                name: "us".into(),
                region: "us-east".into(),
                share: 33,
                endpoints: vec![row("us-1", Some(13), "healthy", 128.0, 33), row("us-2", Some(14), "unknown", 128.0, 0)],
            },
        ],
        flows: 64,
        datagrams: Datagrams { sent: 30_000, answered: 29_900, to_the_dead: 99, unanswered: 1, flows_unanswered: 1 },
        connections: Connections { opened: 700, answered: 699, ..Connections::default() },
        events: events.collect(),
    }
}

#[test]
fn the_screen_fits_a_small_terminal() {
    let screen = frame(&snapshot(), Colour::No);
    assert!(screen.lines().count() <= 23, "{screen}");
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    assert!(!screen.contains('\x1b'));
    assert!(screen.contains("eu-1  dead, unhealthy") && screen.contains("26 of 128"), "{screen}");
    assert!(screen.contains("event 19") && !screen.contains("event 3\n"), "the latest events are the ones shown:\n{screen}");
}

#[test]
fn colours_change_nothing_else() {
    let mut plain = frame(&snapshot(), Colour::Yes);
    for sgr in ["0", "1", "31", "32", "33"] {
        plain = plain.replace(&format!("\x1b[{sgr}m"), "");
    }
    assert_eq!(plain, frame(&snapshot(), Colour::No));
}

#[test]
fn bars_show_all_there_is_and_never_nothing_for_something() {
    assert_eq!([bar(0, 64, 20), bar(1, 64, 20), bar(64, 64, 20), bar(9, 0, 20)].map(|bar| bar.chars().count()), [0, 1, 20, 0]);
}

#[test]
fn the_table_has_a_row_for_each_endpoint() {
    assert_eq!(
        table(&snapshot()),
        "         region       endpoint health              weight  UDP flows  held TCP  new TCP
         eu-central   eu-1     dead, unhealthy   0 of 128          0         4      0 %
         eu-central   eu-2     healthy          26 of 128         42         4     67 %
         us-east      us-1     healthy                128         21         4     33 %
         us-east      us-2     unknown                128          0         4      0 %\n"
    );
}

#[test]
fn the_summary_sets_what_was_measured_beside_what_was_promised() {
    assert_eq!(
        plain::summary(&summary::tests::good()),
        "
Summary
  published failover bound  0.60 s
  eu-1 killed               43 UDP flows moved, the slowest after 231 ms: within the bound
                            11 held TCP connections told, the last after 700 ms, less 120 ms in which this machine had no time for the clients: within the bound
  new TCP connections       1000 opened, 0 failed
                            1 were open at an endpoint when it was killed, and died with it
  UDP flows                 64, 0 lost
  UDP datagrams             40000 sent, 39800 answered
                            200 went to a dead endpoint before its flows moved: nobody can answer those
                            0 unanswered otherwise
  failback                  all new connections back in the near region 3.40 s after the restart
                            0 held TCP connections cut

No connection failed, no flow was lost, every failover was within its bound.
"
    );
}

#[test]
fn a_bad_summary_does_not_praise() {
    let mut bad = summary::tests::good();
    bad.failovers[0].flows_took.total = Duration::from_secs(2);
    let text = plain::summary(&bad);
    assert!(text.ends_with("Missed:\n  it took 2.000s for the UDP flows of eu-1 to move, and the bound is 600ms\n"), "{text}");
    assert!(
        text.contains("after 2000 ms, 0 ms of them without time for the clients: BEYOND THE BOUND")
            && !text.contains("No connection failed"),
        "{text}"
    );
}

#[test]
fn commands_can_be_pasted() {
    let text = commands(
        Path::new("/opt/land fall/landfall"),
        snapshot().ports,
        &[("eu-1", Some(7)), ("eu-2", None)],
        Path::new("/tmp/t/landfall.toml"),
        Path::new("/tmp/t/control.sock"),
        Duration::from_secs(5),
    );
    for line in [
        "  curl -s http://127.0.0.1:21036/status",
        "  echo hello | nc -u -w1 127.0.77.1 21034",
        "  kill -9 7    # eu-1",
        "  '/opt/land fall/landfall' reload --control /tmp/t/control.sock",
        "  '/opt/land fall/landfall' check --config /tmp/t/landfall.toml",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
    }
    assert!(!text.contains("eu-2"));
}
