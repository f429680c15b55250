//! The packet table, run through the program as it is embedded and as this host's clang compiles it.

#![cfg(all(target_os = "linux", feature = "kernel"))]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::{collections::BTreeMap, fmt::Write, path::Path, process::Command};

use common::{
    bed::Bed,
    cases::{self, Case, Outcome},
    hosts,
};
use fast_path::test_support::Verdict;

static EMBEDDED: &[u8] = include_bytes!("../bpf/fast_path.o");

const PASSED: i32 = -1;
const DROPPED: i32 = 2;
const REDIRECTED: i32 = 7;

const XDP_DROPPED: i32 = 1;
const XDP_PASSED: i32 = 2;
const XDP_SENT_BACK: i32 = 3;
const XDP_REDIRECTED: i32 = 4;

/// What only TCX does of a common packet: waits for a neighbour, answers, and refuses for what the routing says.
const LEFT_TO_TCX: &[&str] =
    &["unresolved", "endpoint_unreachable", "client_unreachable", "datagram_too_big", "forwarding_off", "malformed"];

/// `up L E B` and `down L E B` written out, and every other count as it stands.
fn expected(counts: &str) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for count in counts.split(", ").filter(|count| !count.is_empty()) {
        match count.split(' ').collect::<Vec<_>>()[..] {
            [way, listener, endpoint, bytes] => {
                for name in [listener.to_owned(), format!("endpoint{endpoint}")] {
                    all.insert(format!("{name}.{way}.packets"), 1);
                    all.insert(format!("{name}.{way}.bytes"), bytes.parse().unwrap());
                }
            }
            [name, count] => drop(all.insert(name.to_owned(), count.parse().unwrap())),
            _ => panic!("{count}"),
        }
    }
    all.retain(|_, count| *count > 0);
    all
}

fn changes(bed: &Bed, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let mut changes = bed.counts();
    changes.iter_mut().for_each(|(name, count)| *count -= before.get(name).copied().unwrap_or(0));
    changes.retain(|_, count| *count > 0);
    changes
}

/// What `case` gets wrong.
fn failures(bed: &mut Bed, case: &Case) -> Vec<String> {
    let (device, frame, outcome) = (case.packet)(bed);
    let before = bed.counts();
    let verdict = bed.run_at(device, &frame);
    check(case, &before, bed, verdict, frame, outcome)
}

fn check(
    case: &Case,
    before: &BTreeMap<String, u64>,
    bed: &Bed,
    verdict: Verdict,
    frame: Vec<u8>,
    outcome: Outcome,
) -> Vec<String> {
    let changes = changes(bed, before);
    let mut failures = Vec::new();
    if changes != expected(case.counts) {
        failures.push(format!("counted {changes:?}, expected {:?}", expected(case.counts)));
    }
    let (action, out) = match outcome {
        Outcome::Passed => (PASSED, frame),
        Outcome::Dropped => (DROPPED, frame),
        Outcome::Becomes(_) if verdict.action != REDIRECTED => (REDIRECTED, frame),
        Outcome::Becomes(expected) => (REDIRECTED, expected(bed)),
    };
    if verdict.action != action {
        failures.push(format!("action {}, expected {action}", verdict.action));
    } else if verdict.frame != out {
        failures.push(format!("became {}\n      expected {}", hex(&verdict.frame), hex(&out)));
    }
    failures
}

/// Whether XDP has to carry or drop the frame of this case itself: UDP to a port of ours, without anything odd.
fn is_xdps(case: &Case, frame: &[u8], outcome: &Outcome) -> bool {
    let common = match frame[12..14] {
        [8, 0] => frame[14] == 0x45 && frame[20] & 0x3f == 0 && frame[21] == 0 && frame[23] == 17 && frame[22] > 1,
        [0x86, 0xdd] => frame[20] == 17 && frame[21] > 1,
        _ => false,
    };
    common && !matches!(outcome, Outcome::Passed) && !LEFT_TO_TCX.iter().any(|word| case.counts.contains(word))
}

/// As [`failures`], with XDP before TCX: what XDP does not pass is as TCX would have it, and what it passes is untouched and as TCX has
/// it then. Also says whether XDP did it.
fn xdp_failures(bed: &mut Bed, case: &Case) -> (bool, Vec<String>) {
    let (device, frame, outcome) = (case.packet)(bed);
    let before = bed.counts();
    let must = is_xdps(case, &frame, &outcome);
    let verdict = bed.run_xdp_at(device, &frame);
    if verdict.action == XDP_PASSED {
        let mut failures = Vec::new();
        if must {
            failures.push("XDP passed it".to_owned());
        }
        if verdict.frame != frame {
            failures.push(format!("XDP passed it as {}", hex(&verdict.frame)));
        }
        let verdict = bed.run_at(device, &frame);
        failures.extend(check(case, &before, bed, verdict, frame, outcome));
        return (false, failures);
    }
    let changes = changes(bed, &before);
    let mut wanted = expected(case.counts);
    let carried = case.counts.split(", ").find_map(|count| count.strip_prefix("up ").or(count.strip_prefix("down ")));
    if let Some(listener) = carried.and_then(|rest| rest.split(' ').next()) {
        wanted.insert(format!("{listener}.by_xdp"), 1);
    }
    let mut failures = Vec::new();
    if changes != wanted {
        failures.push(format!("counted {changes:?}, expected {wanted:?}"));
    }
    match (outcome, verdict.action) {
        (Outcome::Dropped, XDP_DROPPED) => {}
        (Outcome::Becomes(expected), XDP_REDIRECTED | XDP_SENT_BACK) => {
            let out = expected(bed);
            if verdict.frame != out {
                failures.push(format!("became {}\n      expected {}", hex(&verdict.frame), hex(&out)));
            }
        }
        (_, action) => failures.push(format!("XDP's action was {action}")),
    }
    (true, failures)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn run_table(object: Option<&[u8]>) {
    let mut bed = Bed::new(object);
    let cases = cases::all();
    assert!(cases.len() >= 100, "{}", cases.len());
    let mut wrong = String::new();
    for case in &cases {
        for failure in failures(&mut bed, case) {
            writeln!(wrong, "{}: {failure}", case.what).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// As many cases at least are XDP's own.
const XDPS: usize = 60;

#[test]
fn xdp_before_tcx() {
    let mut bed = Bed::new(None);
    bed.attach();
    let (mut wrong, mut by_xdp) = (String::new(), 0);
    for case in &cases::all() {
        let (did, failures) = xdp_failures(&mut bed, case);
        by_xdp += usize::from(did);
        for failure in failures {
            writeln!(wrong, "{}: {failure}", case.what).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(by_xdp >= XDPS, "XDP did {by_xdp} cases itself");
}

#[test]
fn the_embedded_object() {
    run_table(None);
}

/// What this host's clang makes of a program: the committed object, if it is of the version that made that.
fn compiled(program: &str, committed: &[u8]) -> Vec<u8> {
    let clang = hosts::run(Command::new("clang").arg("--version"));
    let directory = tempfile::tempdir().unwrap();
    let object = directory.path().join("object");
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf/build");
    let output = hosts::run(Command::new(build).arg(&object).arg(program));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let object = std::fs::read(object).unwrap();
    if String::from_utf8_lossy(&clang.stdout).contains("clang version 14.0.6") {
        assert!(object == committed, "bpf/{program}.o is not what its sources compile to: run crates/fast-path/bpf/build");
    }
    object
}

#[test]
fn the_object_that_this_host_compiles() {
    run_table(Some(&compiled("fast_path", EMBEDDED)));
}

#[test]
fn the_benchmark_s_object_is_what_its_source_compiles_to() {
    compiled("live_frames", include_bytes!("../bpf/live_frames.o"));
}
