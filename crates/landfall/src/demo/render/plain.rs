//! Plain text, line after line.

use std::{net::SocketAddr, path::Path, time::Duration};

use super::{moment, seconds, state, weight};
use crate::demo::{
    scene::{Ports, STATIC_IPS},
    snapshot::{Event, Snapshot},
    summary::{Failover, Summary},
    tally::Took,
    traffic::{CONNECTION_EVERY, FLOWS, HELD},
};

/// What there is to see.
pub(in crate::demo) fn headline(ports: Ports, bound: Duration) -> String {
    let [one, two] = STATIC_IPS;
    let Ports { game, chat, .. } = ports;
    let rate = Duration::from_secs(1).as_millis() / CONNECTION_EVERY.as_millis().max(1);
    format!(
        "Landfall on two static IPs, {one} and {two}: game on UDP port {game}, chat on TCP port {chat}.\n\
         Four endpoints in two regions. Traffic: {FLOWS} UDP flows, {HELD} held TCP connections, {rate} new ones a second.\n\
         Published failover bound: {}.\n",
        seconds(bound)
    )
}

/// A new phase begins.
pub(in crate::demo) fn phase(at: Duration, sentence: &str) -> String {
    format!("\n{}  {sentence}\n", moment(at))
}

/// Something happened.
pub(in crate::demo) fn event(event: &Event) -> String {
    format!("{}    {}\n", moment(event.at), event.text)
}

/// Where everything goes.
pub(in crate::demo) fn table(snapshot: &Snapshot) -> String {
    let mut text = format!(
        "{:9}{:<13}{:<9}{:<17}{:>9}{:>11}{:>10}{:>9}\n",
        "", "region", "endpoint", "health", "weight", "UDP flows", "held TCP", "new TCP"
    );
    for region in &snapshot.regions {
        for row in &region.endpoints {
            let (state, weight) = (state(row), weight(row));
            text.push_str(&format!(
                "{:9}{:<13}{:<9}{state:<17}{weight:>9}{:>11}{:>10}{:>7} %\n",
                "", region.region, row.name, row.flows, row.held, row.share
            ));
        }
    }
    text
}

/// The outcome.
pub(in crate::demo) fn summary(summary: &Summary) -> String {
    let mut text = format!("\nSummary\n  published failover bound  {}\n", seconds(summary.bound));
    for failover in &summary.failovers {
        let Failover { name, flows, flows_took, held, held_took, .. } = failover;
        let flows = format!("{flows} UDP flows moved, the slowest after {}", took(*flows_took, summary.bound));
        let held = format!("{held} held TCP connections told, the last after {}", took(*held_took, summary.bound));
        text.push_str(&format!("  {:<26}{flows}\n{:28}{held}\n", format!("{name} killed"), ""));
    }
    let connections = &summary.connections;
    text.push_str(&format!("  {:<26}{} opened, {} failed\n", "new TCP connections", connections.opened, connections.failed));
    if connections.died_with_endpoint > 0 {
        let died = connections.died_with_endpoint;
        text.push_str(&format!("{:28}{died} were open at an endpoint when it was killed, and died with it\n", ""));
    }
    let datagrams = &summary.datagrams;
    text.push_str(&format!("  {:<26}{}, {} lost\n", "UDP flows", summary.flows, summary.flows_lost));
    text.push_str(&format!("  {:<26}{} sent, {} answered\n", "UDP datagrams", datagrams.sent, datagrams.answered));
    let to_the_dead = datagrams.to_the_dead;
    text.push_str(&format!("{:28}{to_the_dead} went to a dead endpoint before its flows moved: nobody can answer those\n", ""));
    let otherwise = match (datagrams.unanswered, datagrams.flows_unanswered) {
        (0, _) => "0 unanswered otherwise".to_owned(),
        (datagrams, flows) => format!("{datagrams} unanswered otherwise, of {flows} flows"),
    };
    text.push_str(&format!("{:28}{otherwise}\n", ""));
    let returned = match summary.returned {
        Some(after) => format!("all new connections back in the near region {} after the restart", seconds(after)),
        None => "new connections did not return to the near region".to_owned(),
    };
    text.push_str(&format!("  {:<26}{returned}\n{:28}{} held TCP connections cut\n", "failback", "", summary.cut));
    let missed = summary.missed();
    if missed.is_empty() {
        text.push_str("\nNo connection failed, no flow was lost, every failover was within its bound.\n");
    } else {
        text.push_str(&format!("\nMissed:\n  {}\n", missed.join("\n  ")));
    }
    text
}

/// By the clock if that will do: what the clients could not see is only worth a word where it decides.
fn took(took: Took, bound: Duration) -> String {
    let (total, stalled) = (took.total.as_millis(), took.stalled.as_millis());
    if took.total <= bound {
        format!("{total} ms: within the bound")
    } else if took.net() <= bound {
        format!("{total} ms, less {stalled} ms in which this machine had no time for the clients: within the bound")
    } else {
        format!("{total} ms, {stalled} ms of them without time for the clients: BEYOND THE BOUND")
    }
}

/// What to try while everything keeps running. `pids` and `names` belong together.
pub(in crate::demo) fn commands(
    program: &Path,
    ports: Ports,
    endpoints: &[(&str, Option<u32>)],
    config: &Path,
    control: &Path,
    restart: Duration,
) -> String {
    let (program, config, control) = (quote(program), quote(config), quote(control));
    let admin = SocketAddr::from(([127, 0, 0, 1], ports.admin));
    let ([one, two], Ports { game, chat, .. }) = (STATIC_IPS, ports);
    let mut text = format!(
        "\nEverything keeps running, with traffic, until Ctrl-C. In another terminal:\n\n  \
         curl -s http://{admin}/status\n  \
         curl -s http://{admin}/metrics | grep '^landfall_'\n  \
         echo hello | nc -u -w1 {one} {game}\n  \
         echo hello | nc -w1 {two} {chat}\n\n\
         Kill an endpoint; it is started again {} s later, under another pid:\n\n",
        restart.as_secs()
    );
    for (name, pid) in endpoints {
        if let Some(pid) = pid {
            text.push_str(&format!("  kill -9 {pid}    # {name}\n"));
        }
    }
    text.push_str(&format!(
        "\nEdit the config, a weight for instance, then check it and have it applied:\n\n  \
         ${{EDITOR:-vi}} {config}\n  \
         {program} check --config {config}\n  \
         {program} reload --control {control}\n\n"
    ));
    text
}

/// `path` as a shell takes it.
fn quote(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
