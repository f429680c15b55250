//! Forwarding beside other proxies, in the same lab and in turns: `cargo run --release -p landfall-tests --bin forward-bench`.
//!
//! Every subject stands between a client and a server of its own, in network namespaces, for the whole run. A repetition
//! measures each work through all subjects one after the other, in an order that rotates, before the next repetition begins.
//! The configs of all subjects are in `tests/bench/forward/`; what is printed is explained in `docs/BENCHMARKS.md`.
//!
//! In order: `works` (what), `subjects` (who), `path` (where), `udp` and `tcp` (the loads), `measure` (one measurement),
//! `machine` (what it costs), `record` (raw figures), `figures`, `targets` and `report` (what they say).

mod epoll;
mod figures;
mod gauge;
mod machine;
mod measure;
mod memory;
mod mmsg;
mod path;
mod pattern;
mod record;
mod report;
mod stats;
mod subjects;
mod syscalls;
mod targets;
mod tcp;
mod udp;
mod works;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use landfall_tests::{Failure, Result};

use record::{Record, Row};
use subjects::{Found, Running, Subject};
use works::Work;

/// How often memory is measured: it scatters little.
const MEMORY_ROUNDS: usize = 3;

/// Measures forwarding of Landfall and other proxies in turns.
#[derive(Parser)]
struct Arguments {
    /// Repetitions.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// How long each measurement takes, after a warm-up of 150 ms.
    #[arg(long, default_value_t = 800)]
    window_ms: u64,
    /// What to measure; all if not given.
    #[arg(long, value_enum, value_delimiter = ',', num_args = 1..)]
    works: Vec<Work>,
    /// Whom to measure; all that are there if not given.
    #[arg(long, value_enum, value_delimiter = ',', num_args = 1..)]
    subjects: Vec<Subject>,
    /// Where the raw figures go, one line a measurement, at once. Those that are there already are kept and reported.
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Measure memory instead.
    #[arg(long)]
    memory: bool,
    /// Count system calls instead; needs strace.
    #[arg(long)]
    syscalls: bool,
    /// Measure forwarding, memory and system calls.
    #[arg(long)]
    everything: bool,
    /// Measure nothing, and print what this file of raw figures says.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Where nginx is, if not in PATH.
    #[arg(long)]
    nginx: Option<PathBuf>,
    /// Where HAProxy is, if not in PATH.
    #[arg(long)]
    haproxy: Option<PathBuf>,
    /// Where Envoy is, if not in PATH.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Where Traefik is, if not in PATH.
    #[arg(long)]
    traefik: Option<PathBuf>,
    /// Where Quilkin is, if not in PATH.
    #[arg(long)]
    quilkin: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(rows) => {
            print!("{}", report::markdown(&rows));
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("forward-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<Vec<Row>> {
    if let Some(path) = &arguments.report {
        return record::read(path);
    }
    // Both ends of thousands of connections are descriptors of this process.
    rlimit::increase_nofile_limit(u64::MAX)
        .map_err(|error| Failure::new("raise", "the descriptor limit", error, "raise the hard limit (ulimit -Hn)"))?;
    let found = Found::look(&wanted(arguments), &given(arguments));
    for line in found.missing.iter().chain(&found.versions()) {
        eprintln!("{line}");
    }
    let mut record = Record::open(arguments.csv.as_deref())?;
    let alone = arguments.memory || arguments.syscalls;
    if !alone || arguments.everything {
        forwarding(arguments, &found, &mut record)?;
    }
    if arguments.memory || arguments.everything {
        for round in 0..arguments.rounds.min(MEMORY_ROUNDS) {
            memory(&found, round, &mut record)?;
        }
    }
    if arguments.syscalls || arguments.everything {
        syscalls(&found, &mut record)?;
    }
    Ok(record.rows().to_vec())
}

fn wanted(arguments: &Arguments) -> Vec<Subject> {
    if arguments.subjects.is_empty() { Subject::value_variants().to_vec() } else { arguments.subjects.clone() }
}

fn given(arguments: &Arguments) -> BTreeMap<Subject, PathBuf> {
    let Arguments { nginx, haproxy, envoy, traefik, quilkin, .. } = arguments;
    let all = [
        (Subject::Nginx, nginx),
        (Subject::Haproxy, haproxy),
        (Subject::HaproxySplice, haproxy),
        (Subject::HaproxySplice1m, haproxy),
        (Subject::Envoy, envoy),
        (Subject::Traefik, traefik),
        (Subject::Quilkin, quilkin),
    ];
    all.into_iter().filter_map(|(subject, path)| Some((subject, path.clone()?))).collect()
}

/// Repetitions of all works through all subjects.
fn forwarding(arguments: &Arguments, found: &Found, record: &mut Record) -> Result<()> {
    let works = if arguments.works.is_empty() { works::FORWARDING.to_vec() } else { arguments.works.clone() };
    if let Some(work) = works.iter().find(|work| !works::FORWARDING.contains(work)) {
        let cause = "it is not measured in repetitions";
        return Err(Failure::new("measure", work, cause, "use --memory or --syscalls"));
    }
    if record.rows().iter().any(|row| works::FORWARDING.contains(&row.work)) {
        let cause = "it holds an earlier run, and figures of two runs are not to be compared";
        return Err(Failure::new("add to", "the record", cause, "name another file with --csv"));
    }
    let window = Duration::from_millis(arguments.window_ms);
    let subjects: Vec<Subject> =
        found.subjects().into_iter().filter(|subject| works.iter().any(|work| subject.does(*work))).collect();
    let mut running = BTreeMap::new();
    for subject in &subjects {
        running.insert(*subject, found.start(*subject)?);
    }
    for round in 0..arguments.rounds {
        for work in &works {
            let mut order: Vec<Subject> = subjects.iter().copied().filter(|subject| subject.does(*work)).collect();
            if order.is_empty() {
                continue;
            }
            let turn = round % order.len();
            order.rotate_left(turn);
            for (place, subject) in order.into_iter().enumerate() {
                let row = one(&mut running, found, subject, |running| {
                    if work.is_bursty() {
                        running.path.bursty(true)?;
                    }
                    let measured = measure::measure(running, *work, round, place, window);
                    if work.is_bursty() {
                        running.path.bursty(false)?;
                    }
                    measured
                });
                record.add(row.unwrap_or_else(|| Row::empty(round, *work, subject, place)))?;
            }
        }
        eprintln!("repetition {} of {} done", round + 1, arguments.rounds);
    }
    Ok(())
}

/// One measurement. One that fails is said and stands in the record as nothing done, and its subject is started anew.
fn one(
    running: &mut BTreeMap<Subject, Running>,
    found: &Found,
    subject: Subject,
    measured: impl FnOnce(&Running) -> Result<Row>,
) -> Option<Row> {
    let failure = match running.get(&subject).map(measured) {
        Some(Ok(row)) => {
            if row.wrong > 0 {
                eprintln!("{} through {subject}: {} answers were not what was sent", row.work, row.wrong);
            }
            return Some(row);
        }
        Some(Err(failure)) => failure,
        None => Failure::new("use", subject, "it could not be started again", "see above"),
    };
    eprintln!("{}", failure.in_place(subject));
    running.remove(&subject);
    match found.start(subject) {
        Ok(again) => drop(running.insert(subject, again)),
        Err(failure) => eprintln!("{failure}"),
    }
    None
}

/// Memory of each subject, freshly started for each work.
fn memory(found: &Found, round: usize, record: &mut Record) -> Result<()> {
    for work in works::MEMORY {
        for (place, subject) in found.subjects().into_iter().filter(|subject| subject.does(work)).enumerate() {
            let measured = found.start(subject).and_then(|running| memory::measure(&running, work, round, place));
            record.add(measured.unwrap_or_else(|failure| {
                eprintln!("{}", failure.in_place(subject));
                Row::empty(round, work, subject, place)
            }))?;
        }
    }
    Ok(())
}

/// System calls of each subject, once.
fn syscalls(found: &Found, record: &mut Record) -> Result<()> {
    let work = Work::TcpSyscalls;
    for (place, subject) in found.subjects().into_iter().filter(|subject| subject.does(work)).enumerate() {
        match found.start(subject).and_then(|running| syscalls::measure(&running, 0, place)) {
            Ok((row, table)) => {
                eprintln!("{subject}: {} system calls for {} connections\n{table}", row.syscalls, row.done);
                record.add(row)?;
            }
            Err(failure) => eprintln!("{}", failure.in_place(subject)),
        }
    }
    Ok(())
}
