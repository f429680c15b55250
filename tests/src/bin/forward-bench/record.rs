//! The raw figures, one line each.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::str::FromStr;

use clap::ValueEnum;
use landfall_tests::{Failure, Result};

use crate::subjects::Subject;
use crate::works::Work;

const HEADER: &str = "round,work,subject,order,direction,seconds,done,lost,stale,wrong,machine_cpu_s,own_cpu_s,\
                      p50_us,p99_us,p999_us,max_us,memory_bytes,syscalls";
const FIELDS: usize = 18;

/// One measurement. What a work does not tell is 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub round: usize,
    pub work: Work,
    pub subject: Subject,
    /// The place of the subject in its repetition.
    pub order: usize,
    /// `up`, `down` or `-`.
    pub direction: String,
    pub seconds: f64,
    /// Units done: round trips, datagrams, bytes, connections, flows.
    pub done: u64,
    pub lost: u64,
    pub stale: u64,
    pub wrong: u64,
    /// Processor seconds that the machine was busy for.
    pub machine: f64,
    /// Processor seconds of the subject's processes.
    pub own: f64,
    /// p50, p99, p99.9 and the longest latency, in µs.
    pub latencies: [f64; 4],
    /// By how much the subject's memory grew.
    pub memory: i64,
    pub syscalls: u64,
}

impl Row {
    /// A row without figures, as it stands for a measurement that failed.
    pub fn empty(round: usize, work: Work, subject: Subject, order: usize) -> Self {
        Self {
            round,
            work,
            subject,
            order,
            direction: "-".into(),
            seconds: 0.0,
            done: 0,
            lost: 0,
            stale: 0,
            wrong: 0,
            machine: 0.0,
            own: 0.0,
            latencies: [0.0; 4],
            memory: 0,
            syscalls: 0,
        }
    }

    fn line(&self) -> String {
        let Self { round, work, subject, order, direction, seconds, done, lost, stale, wrong, machine, own, .. } = self;
        let [p50, p99, p999, most] = self.latencies;
        let (memory, syscalls) = (self.memory, self.syscalls);
        format!(
            "{round},{work},{subject},{order},{direction},{seconds:.4},{done},{lost},{stale},{wrong},{machine:.2},{own:.2},\
             {p50:.1},{p99:.1},{p999:.1},{most:.1},{memory},{syscalls}"
        )
    }

    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(',').collect();
        if fields.len() != FIELDS {
            return None;
        }
        fn number<T: FromStr>(text: &str) -> Option<T> {
            text.parse().ok()
        }
        Some(Self {
            round: number(fields[0])?,
            work: Work::from_str(fields[1], false).ok()?,
            subject: Subject::from_str(fields[2], false).ok()?,
            order: number(fields[3])?,
            direction: fields[4].to_owned(),
            seconds: number(fields[5])?,
            done: number(fields[6])?,
            lost: number(fields[7])?,
            stale: number(fields[8])?,
            wrong: number(fields[9])?,
            machine: number(fields[10])?,
            own: number(fields[11])?,
            latencies: [number(fields[12])?, number(fields[13])?, number(fields[14])?, number(fields[15])?],
            memory: number(fields[16])?,
            syscalls: number(fields[17])?,
        })
    }
}

/// Where rows go as soon as they are measured.
pub struct Record {
    file: Option<File>,
    rows: Vec<Row>,
}

impl Record {
    /// A record that is kept in `path` as well, if there is one. Rows that are in the file already stay, and come first.
    ///
    /// # Errors
    /// When the file cannot be written, or holds something else.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self { file: None, rows: Vec::new() }) };
        let rows = if path.exists() { read(path)? } else { Vec::new() };
        let opened = OpenOptions::new().create(true).append(true).open(path).and_then(|mut file| {
            if rows.is_empty() && file.metadata()?.len() == 0 {
                writeln!(file, "{HEADER}")?;
            }
            Ok(file)
        });
        let file = opened.map_err(|error| Failure::new("write", path.display(), error, "name another file"))?;
        Ok(Self { file: Some(file), rows })
    }

    /// Writes `row` at once.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn add(&mut self, row: Row) -> Result<()> {
        if let Some(file) = &mut self.file {
            let written = writeln!(file, "{}", row.line());
            written.map_err(|error| Failure::new("write", "a row of the record", error, "make room on the disk"))?;
        }
        self.rows.push(row);
        Ok(())
    }

    /// All rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }
}

/// The rows in `path`.
///
/// # Errors
/// When it cannot be read or a line is none of a record.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let cannot = |cause: &dyn std::fmt::Display| {
        Failure::new("read", path.display(), cause, "name a file that forward-bench --csv has written")
    };
    let text = std::fs::read_to_string(path).map_err(|error| cannot(&error))?;
    let lines = text.lines().filter(|line| *line != HEADER);
    lines.map(|line| Row::parse(line).ok_or_else(|| cannot(&format_args!("this line is no row: {line}")))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back_from_its_line() {
        let mut row = Row::empty(3, Work::TcpBulk16, Subject::HaproxySplice, 2);
        row.direction = "up".into();
        (row.seconds, row.done, row.own, row.latencies[1], row.memory) = (0.8, 7, 0.25, 12.5, -4096);
        assert_eq!(Row::parse(&row.line()), Some(row));
        assert_eq!(HEADER.split(',').count(), FIELDS);
    }
}
