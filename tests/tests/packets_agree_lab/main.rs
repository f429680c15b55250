//! The same frames through an edge that forwards in user space and through one that forwards in the kernel: what reaches the endpoint and the
//! client, and what is counted. Where the two differ, the case says how and why.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

mod bench;
mod cases;
#[path = "../../../crates/fast-path/tests/common/frame.rs"]
#[expect(dead_code, reason = "the packet table of the fast path writes ICMP errors too")]
mod frame;

use std::fmt::Write;

use bench::Bench;
use cases::Case;
use landfall_tests::path::{Families, Path};

/// What is wrong of `cases` in one run.
fn run(path: Path, families: Families, cases: &[&Case]) -> String {
    let mut bench = Bench::start(path, families, cases);
    bench.run(cases);
    let seen = bench.seen();
    let mut wrong = String::new();
    for (case, seen) in cases.iter().zip(&seen) {
        let expected = case.expected(path);
        if *seen != expected {
            writeln!(wrong, "{path:?} {families:?}: {}:\n  saw      {seen}\n  expected {expected}", case.what).unwrap();
        }
    }
    let mut strays = bench.strays();
    strays.sort_unstable();
    let mut expected: Vec<_> = cases.iter().filter(|_| path == Path::Kernel).filter_map(|case| case.stray).collect();
    expected.sort_unstable();
    if strays != expected {
        writeln!(wrong, "{path:?} {families:?}: packets of no listener: {strays:?}\n  expected {expected:?}").unwrap();
    }
    wrong
}

#[test]
fn both_paths_do_the_same_to_a_packet() {
    let mut wrong = String::new();
    for families in [Families::V4, Families::V6] {
        let cases: Vec<_> = cases::ALL.iter().filter(|case| case.only.is_none_or(|only| only == families)).collect();
        assert!(cases.len() >= 25, "{}", cases.len());
        let differing = cases.iter().filter(|case| !case.why.is_empty()).count();
        println!("{families:?}: {} cases, of which {differing} differ by design", cases.len());
        for path in [Path::User, Path::Kernel] {
            wrong += &run(path, families, &cases);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn every_difference_has_a_reason() {
    for case in cases::ALL {
        let differs = case.kernel.is_some();
        assert_eq!(differs, !case.why.is_empty(), "{}", case.what);
        assert_ne!(case.kernel, Some(case.seen), "{}", case.what);
    }
}
