//! The packet table, run through the program as it is embedded and as this host's clang compiles it.

#![cfg(all(target_os = "linux", feature = "kernel"))]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::{collections::BTreeMap, fmt::Write, path::Path, process::Command};

use common::{
    bed::Bed,
    cases::{self, Case, Outcome},
};

static EMBEDDED: &[u8] = include_bytes!("../bpf/fast_path.o");

const PASSED: i32 = -1;
const DROPPED: i32 = 2;
const REDIRECTED: i32 = 7;

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

/// What `case` gets wrong.
fn failures(bed: &mut Bed, case: &Case) -> Vec<String> {
    let (device, frame, outcome) = (case.packet)(bed);
    let before = bed.counts();
    let verdict = bed.run_at(device, &frame);
    let mut changes = bed.counts();
    changes.iter_mut().for_each(|(name, count)| *count -= before.get(name).copied().unwrap_or(0));
    changes.retain(|_, count| *count > 0);
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

#[test]
fn the_embedded_object() {
    run_table(None);
}

#[test]
fn the_object_that_this_host_compiles() {
    let clang = Command::new("clang").arg("--version").output().expect("clang: install the packages clang and llvm");
    let directory = tempfile::tempdir().unwrap();
    let object = directory.path().join("fast_path.o");
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf/build");
    let output = Command::new(build).arg(&object).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let object = std::fs::read(object).unwrap();
    run_table(Some(&object));
    // The version that the embedded object is from: it must be what the sources say.
    if String::from_utf8_lossy(&clang.stdout).contains("clang version 14.0.6") {
        assert!(object == EMBEDDED, "bpf/fast_path.o is not what its sources compile to: run crates/fast-path/bpf/build");
    }
}
