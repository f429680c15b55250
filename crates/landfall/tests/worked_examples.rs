//! What the documents show is what the program prints.
//!
//! A block that begins with `$ landfall …` is run and compared; a line `…` in it stands for any lines. Files that the commands name are
//! the `toml` blocks of `docs/FAILOVER.md` that begin with `# NAME`. `UPDATE_DOCS=1` writes whole new outputs into the documents; cut
//! them down where they say too much.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::{fs, path::Path, process::Command, time::Duration};

use endpoint_group::{failback::RampStep, model::FailbackPolicy};
use health_checker::Timing;

const FAILOVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/FAILOVER.md");
const OPERATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/OPERATIONS.md");

/// A fenced block: the line of its fence in the document, its language and its lines.
struct Block<'a> {
    line: usize,
    language: &'a str,
    lines: Vec<&'a str>,
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut inside = false;
    for (line, number) in text.lines().zip(1..) {
        match (line.strip_prefix("```"), inside) {
            (Some(language), false) => blocks.push(Block { line: number, language, lines: Vec::new() }),
            (Some(_), true) => {}
            (None, true) => blocks.last_mut().unwrap().lines.push(line),
            (None, false) => continue,
        }
        inside ^= line.starts_with("```");
    }
    blocks
}

/// Writes the files that the documents name into `directory`.
fn write_files(directory: &Path) {
    let text = fs::read_to_string(FAILOVER).unwrap();
    for block in blocks(&text).iter().filter(|block| block.language == "toml") {
        if let Some(name) = block.lines.first().and_then(|line| line.strip_prefix("# ")).filter(|name| name.ends_with(".toml")) {
            fs::write(directory.join(name), block.lines.join("\n")).unwrap();
        }
    }
}

fn output(directory: &Path, command: &str) -> String {
    let words = command.split_whitespace().skip(1);
    let output = Command::new(env!("CARGO_BIN_EXE_landfall")).args(words).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The first line of `shown` that is not in `real` where it should be.
fn difference<'a>(shown: &[&'a str], real: &[&str]) -> Option<&'a str> {
    let mut at = 0;
    let mut anywhere = false;
    for line in shown {
        if *line == "…" {
            anywhere = true;
            continue;
        }
        let found = real[at..].iter().position(|candidate| candidate == line);
        match found {
            Some(0) => at += 1,
            Some(further) if anywhere => at += further + 1,
            _ => return Some(line),
        }
        anywhere = false;
    }
    (!anywhere && at < real.len()).then_some("(the end: more lines follow)")
}

/// Compares, or rewrites, every command of a document; how many there are.
fn verify(document: &str) -> usize {
    let directory = tempfile::tempdir().unwrap();
    write_files(directory.path());
    let text = fs::read_to_string(document).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut commands = 0;
    let mut wrong = Vec::new();
    // From the last, so that a rewritten block does not move those before it.
    for block in blocks(&text).iter().rev() {
        let Some(command) = block.lines.first().and_then(|line| line.strip_prefix("$ ")) else { continue };
        // What asks a running edge is shown by the tests of the lab.
        if !command.starts_with("landfall ") {
            continue;
        }
        commands += 1;
        let real = output(directory.path(), command);
        let real: Vec<&str> = real.lines().collect();
        let Some(line) = difference(&block.lines[1..], &real) else { continue };
        wrong.push(format!("{document}:{}: `{command}` does not print {line:?}, but\n{}", block.line, real.join("\n")));
        lines.splice(block.line + 1..block.line + block.lines.len(), real.iter().map(|line| (*line).to_owned()));
    }
    if std::env::var_os("UPDATE_DOCS").is_some() && !wrong.is_empty() {
        fs::write(document, lines.join("\n") + "\n").unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    commands
}

#[test]
fn failover() {
    assert!(verify(FAILOVER) >= 10);
}

#[test]
fn operations() {
    assert!(verify(OPERATIONS) >= 2);
}

#[test]
fn a_difference_is_seen() {
    let real = ["one", "two", "three", "four"];
    assert_eq!(difference(&["one", "two", "three", "four"], &real), None);
    assert_eq!(difference(&["…", "two", "…", "four"], &real), None);
    assert_eq!(difference(&["one", "…"], &real), None);
    assert_eq!(difference(&["one", "2", "three", "four"], &real), Some("2"));
    assert_eq!(difference(&["one", "three", "four"], &real), Some("three"));
    assert_eq!(difference(&["…", "three", "two", "…"], &real), Some("two"));
    assert!(difference(&["one", "two"], &real).is_some());
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// The time line of a death under the default timings.
#[test]
fn the_bound() {
    let text = fs::read_to_string(FAILOVER).unwrap();
    let Timing { interval, fast_interval, timeout, .. } = Timing::default();
    let pace = fast_interval.max(timeout);
    let first = interval + timeout;
    let times =
        [Duration::ZERO, interval, first, first + pace, Timing::default().detection_bound(), Timing::default().failover_bound()];
    let section = text.split("falls silent just after it answered the probe").nth(1).unwrap();
    let shown: Vec<&str> =
        section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next()).skip(1).take(6).collect();
    assert_eq!(shown, times.map(seconds), "the table of the bound");
    let sentence = format!("The bound is {}.", seconds(Timing::default().failover_bound()));
    assert!(text.contains(&sentence), "{sentence}");
    let refused = [0, 1, 2].map(|repeats| format!("{:.1}", (interval + fast_interval * repeats).as_secs_f64()));
    let sentence = format!("results at {}, {} and {} s", refused[0], refused[1], refused[2]);
    assert!(text.contains(&sentence), "{sentence}");
}

/// When a returning endpoint reaches a tenth, two, three, and all of its weight.
#[test]
fn the_ramp() {
    let text = fs::read_to_string(FAILOVER).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    let policy = FailbackPolicy::default();
    let reached = |tenths: u32| {
        let second = (0..60).find(|&second| RampStep::at(&policy, Duration::from_secs(second)).get() >= tenths).unwrap();
        format!("{second} s")
    };
    let [one, two, three, all] = [1, 2, 3, 10].map(reached);
    let sentence = format!("1/10 from {one}, 2/10 from {two}, 3/10 from {three}, all from {all} after");
    assert!(text.contains(&sentence), "{sentence}");
}
