//! The live screen: at most 23 lines of 80 columns.

use super::{Colour, bar, moment, state, weight};
use crate::demo::{
    scene::STATIC_IPS,
    snapshot::{Row, Snapshot},
};

/// Width of the bar of UDP flows.
const FLOWS: usize = 20;
/// Width of the bar of new connections.
const SHARE: usize = 10;
/// The latest events that there is room for.
const EVENTS: usize = 8;

/// The screen at one moment.
pub(in crate::demo) fn frame(snapshot: &Snapshot, colour: Colour) -> String {
    let [one, two] = STATIC_IPS;
    let mut lines = vec![
        format!("{} on {one} and {two}", colour.paint("1", "Landfall")),
        format!("game: udp {}   chat: tcp {}   {}", snapshot.ports.game, snapshot.ports.chat, moment(snapshot.at).trim_start()),
        String::new(),
        colour.paint("1", &snapshot.now),
        String::new(),
        format!("{:<29} {:<FLOWS$}      held  new", "", "UDP flows"),
        format!("{:<29} {:<FLOWS$}      TCP   TCP", "", ""),
    ];
    for region in &snapshot.regions {
        lines.push(format!("{} {}", colour.paint("1", &region.name), region.region));
        lines.extend(region.endpoints.iter().map(|row| endpoint(row, snapshot.flows, colour)));
    }
    let (datagrams, connections) = (&snapshot.datagrams, &snapshot.connections);
    lines.push(String::new());
    lines.push(format!(
        "{} datagrams sent, {} answered · {} connections opened, {} failed",
        datagrams.sent, datagrams.answered, connections.opened, connections.failed
    ));
    let skipped = snapshot.events.len().saturating_sub(EVENTS);
    lines.extend(snapshot.events[skipped..].iter().map(|event| format!("{}  {}", moment(event.at), event.text)));
    lines.join("\n") + "\n"
}

fn endpoint(row: &Row, flows: usize, colour: Colour) -> String {
    let health = match (row.pid, row.health.as_str()) {
        (Some(_), "healthy") => "32",
        (_, "unhealthy") => "31",
        _ => "33",
    };
    // Padded before it is coloured: colours have no width.
    let state = colour.paint(health, &format!("{:<15}", state(row)));
    let (name, weight, udp) = (&row.name, weight(row), bar(row.flows, flows, FLOWS));
    let new = bar(row.share, 100, SHARE);
    format!("  {name:<5} {state} {weight:>9} {udp:<FLOWS$} {:>3}  {:>3}  {:>3} % {new}", row.flows, row.held, row.share)
        .trim_end()
        .to_owned()
}
