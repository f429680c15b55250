//! A simulation for people and for scripts.

use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;

use super::{Place, Simulation, Step};

/// Cells of the longest bar.
const BAR: u64 = 30;
/// More endpoints than these, and the steps of a scenario show groups.
const COLUMNS: usize = 8;

/// `flows`, `moved`, `moved_needlessly`, `shares_before` and `shares_after` are stable; more may be added.
#[derive(Serialize)]
struct Report<'a> {
    flows: u64,
    seed: u64,
    moved: u64,
    moved_needlessly: u64,
    refused_before: u64,
    refused_after: u64,
    shares_before: BTreeMap<&'a str, u64>,
    shares_after: BTreeMap<&'a str, u64>,
    stages_after: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<Vec<ReportStep<'a>>>,
}

#[derive(Serialize)]
struct ReportStep<'a> {
    at_seconds: f64,
    what: &'a str,
    moved: u64,
    moved_needlessly: u64,
    refused: u64,
    shares: BTreeMap<&'a str, u64>,
}

impl<'a> ReportStep<'a> {
    fn new(step: &'a Step, shares: BTreeMap<&'a str, u64>) -> Self {
        let Step { at, what, moved, moved_needlessly, refused, .. } = step;
        Self { at_seconds: at.as_secs_f64(), what, moved: *moved, moved_needlessly: *moved_needlessly, refused: *refused, shares }
    }
}

/// For scripts; with every step if `timed`.
pub(super) fn json(simulation: &Simulation, timed: bool) -> String {
    let shares = |step: &Step| {
        let names = simulation.endpoints.iter().map(|place| place.endpoint.as_str());
        names.zip(step.shares.iter().copied()).collect()
    };
    let timed_step = |step| ReportStep::new(step, shares(step));
    let report = Report {
        flows: simulation.flows,
        seed: simulation.seed,
        moved: simulation.moved(),
        moved_needlessly: simulation.moved_needlessly(),
        refused_before: simulation.start.refused,
        refused_after: simulation.end().refused,
        shares_before: shares(&simulation.start),
        shares_after: shares(simulation.end()),
        stages_after: simulation.stages.iter().map(|(listener, stage)| (listener.as_str(), *stage)).collect(),
        steps: timed.then(|| simulation.steps.iter().map(timed_step).collect()),
    };
    // There are no map keys or values here that JSON cannot hold.
    serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
}

/// For people; with a line for every step if `timed`.
pub(super) fn text(simulation: &Simulation, timed: bool) -> String {
    let Simulation { flows, seed, .. } = simulation;
    let mut out = format!("{} flows, seed {seed}; everything healthy, then ", grouped(*flows));
    if timed {
        out.push_str("as the scenario says\n\n");
        steps(&mut out, simulation);
        out.push('\n');
    } else {
        out.push_str(&format!("{}\n\n", simulation.end().what));
    }
    bars(&mut out, simulation);

    // Writing to a String does not fail.
    out.push('\n');
    for (listener, stage) in simulation.stages.iter().filter(|(_, stage)| *stage != "eligible") {
        let _ = writeln!(out, "listener {listener} ends in stage {stage}");
    }
    let moved = simulation.moved();
    let _ = match simulation.steps.len() {
        0 | 1 => writeln!(out, "moved: {} ({} of all flows)", grouped(moved), percent(moved, *flows).trim_start()),
        steps => writeln!(out, "moved: {} in {steps} steps; a flow may move more than once", grouped(moved)),
    };
    let _ = writeln!(out, "moved needlessly: {}", grouped(simulation.moved_needlessly()));
    out
}

/// What stands beside two bars.
struct Row<'a> {
    group: &'a str,
    endpoint: &'a str,
    before: u64,
    after: u64,
}

/// Two lines an endpoint: before and after.
fn bars(out: &mut String, simulation: &Simulation) {
    let (before, after) = (&simulation.start, simulation.end());
    let mut rows = Vec::new();
    for (Place { endpoint, group }, (&before, &after)) in simulation.endpoints.iter().zip(before.shares.iter().zip(&after.shares))
    {
        rows.push(Row { group, endpoint, before, after });
    }
    if before.refused + after.refused > 0 {
        rows.push(Row { group: "", endpoint: "(refused)", before: before.refused, after: after.refused });
    }
    // Names are ASCII.
    let group_width = rows.iter().map(|row| row.group.len()).max().unwrap_or(0);
    let endpoint_width = rows.iter().map(|row| row.endpoint.len()).max().unwrap_or(0);
    let longest = rows.iter().map(|row| row.before.max(row.after)).max().unwrap_or(0);
    let digits = grouped(longest).len();
    for Row { group, endpoint, before, after } in rows {
        for (group, endpoint, when, count, ink) in [(group, endpoint, "before", before, '░'), ("", "", "after", after, '█')] {
            let (number, share) = (grouped(count), percent(count, simulation.flows));
            let bar = bar(count, longest, ink);
            let line = format!("{group:group_width$}  {endpoint:endpoint_width$}  {when:6} {number:>digits$} {share}  {bar}");
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
}

/// One line a step.
fn steps(out: &mut String, simulation: &Simulation) {
    let columns = columns(simulation);
    let all: Vec<&Step> = std::iter::once(&simulation.start).chain(&simulation.steps).collect();
    let times: Vec<String> = all.iter().map(|step| humantime::format_duration(step.at).to_string()).collect();
    let width = |cells: &mut dyn Iterator<Item = usize>, least: usize| cells.max().unwrap_or(0).max(least);
    let at = width(&mut times.iter().map(String::len), "at".len());
    let what = width(&mut all.iter().map(|step| step.what.chars().count()), "what".len());
    let moved = width(&mut all.iter().map(|step| grouped(step.moved).len()), "moved".len());

    let _ = write!(out, "{:>at$}  {:what$}  {:>moved$}  needless", "at", "what", "moved");
    for (name, _) in &columns {
        let _ = write!(out, "  {name:>7}");
    }
    out.push('\n');
    for (step, time) in all.iter().zip(&times) {
        let needless = grouped(step.moved_needlessly);
        let _ = write!(out, "{time:>at$}  {:what$}  {:>moved$}  {needless:>8}", step.what, grouped(step.moved));
        for (name, members) in &columns {
            let count = members.iter().map(|&index| step.shares.get(index).copied().unwrap_or(step.refused)).sum();
            let width = name.chars().count().max(7);
            let _ = write!(out, "  {:>width$}", percent(count, simulation.flows));
        }
        out.push('\n');
    }
}

/// What stands over the columns of steps, and which shares make each up; the share behind the last endpoint is what is refused.
fn columns(simulation: &Simulation) -> Vec<(&str, Vec<usize>)> {
    let mut columns: Vec<(&str, Vec<usize>)> = Vec::new();
    let by_endpoint = simulation.endpoints.len() <= COLUMNS;
    for (index, place) in simulation.endpoints.iter().enumerate() {
        match columns.last_mut() {
            Some((name, members)) if !by_endpoint && *name == place.group => members.push(index),
            _ if by_endpoint => columns.push((&place.endpoint, vec![index])),
            _ => columns.push((&place.group, vec![index])),
        }
    }
    if simulation.steps.iter().any(|step| step.refused > 0) || simulation.start.refused > 0 {
        columns.push(("refused", vec![simulation.endpoints.len()]));
    }
    columns
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// ` 33.3 %`, rounded, always seven cells.
fn percent(count: u64, of: u64) -> String {
    let tenths = (u128::from(count) * 1000 + u128::from(of / 2)) / u128::from(of.max(1));
    format!("{:>3}.{} %", tenths / 10, tenths % 10)
}

/// A bar of `ink`, [`BAR`] cells for `longest`; the least count that is not 0 shows.
fn bar(count: u64, longest: u64, ink: char) -> String {
    let cells = (u128::from(count) * u128::from(BAR)).div_ceil(u128::from(longest.max(1)));
    std::iter::repeat_n(ink, usize::try_from(cells).unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([percent(1, 3), percent(2, 3), percent(1, 1), percent(0, 0)], [" 33.3 %", " 66.7 %", "100.0 %", "  0.0 %"]);
    }

    #[test]
    fn bars_are_to_scale_and_never_hide_a_flow() {
        let cells = |count| bar(count, 300, 'x').len();
        assert_eq!([0, 1, 10, 11, 150, 300].map(cells), [0, 1, 1, 2, 15, 30]);
        assert_eq!(bar(0, 0, 'x'), "");
    }
}
