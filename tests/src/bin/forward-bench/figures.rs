//! What is read out of the raw figures: rates, costs, and ratios taken inside a repetition.

use crate::record::Row;
use crate::stats::{Interval, interval, median};
use crate::subjects::Subject;
use crate::works::Work;

/// A figure of one measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Units a second, in the work's unit.
    Rate,
    /// Processor time of the whole machine per unit, less that of plain routing in the same repetition.
    EdgeCost,
    /// Processor time of the subject's processes per unit.
    OwnCost,
    P50,
    P99,
    P999,
    /// p50 less that of plain routing in the same repetition.
    AddedP50,
    /// Bytes for each flow.
    Memory,
    /// System calls for each connection.
    Syscalls,
    /// Units that were given up.
    Lost,
}

/// The rows of a run.
pub struct Figures<'a>(pub &'a [Row]);

impl Figures<'_> {
    /// The subjects that did `work`, in their order.
    pub fn subjects(&self, work: Work) -> Vec<Subject> {
        let mut subjects: Vec<Subject> = self.of(work).map(|row| row.subject).collect();
        subjects.sort_unstable();
        subjects.dedup();
        subjects
    }

    /// How often `work` was repeated.
    pub fn rounds(&self, work: Work) -> usize {
        self.of(work).map(|row| row.round + 1).max().unwrap_or_default()
    }

    fn of(&self, work: Work) -> impl Iterator<Item = &Row> {
        self.0.iter().filter(move |row| row.work == work)
    }

    fn row(&self, work: Work, subject: Subject, round: usize) -> Option<&Row> {
        self.of(work).find(|row| row.subject == subject && row.round == round)
    }

    /// One figure of one repetition. Nothing for what was not measured, or was but did not work.
    fn one(&self, work: Work, subject: Subject, round: usize, figure: Figure) -> Option<f64> {
        let row = self.row(work, subject, round)?;
        if figure == Figure::Rate && row.done == 0 {
            return Some(0.0);
        }
        if figure == Figure::Lost {
            return Some(row.lost as f64);
        }
        let unit = work.unit();
        let each = |row: &Row, amount: f64| (row.done > 0).then(|| amount / row.done as f64);
        let direct = || self.row(work, Subject::Direct, round).filter(|row| row.done > 0);
        match figure {
            Figure::Rate => Some(row.done as f64 / row.seconds * unit.rate_factor),
            Figure::OwnCost => each(row, row.own * unit.cost_factor),
            Figure::EdgeCost => {
                let direct = direct()?;
                Some((each(row, row.machine)? - each(direct, direct.machine)?) * unit.cost_factor)
            }
            Figure::P50 => each(row, row.latencies[0] * row.done as f64),
            Figure::P99 => each(row, row.latencies[1] * row.done as f64),
            Figure::P999 => each(row, row.latencies[2] * row.done as f64),
            Figure::AddedP50 => each(row, (row.latencies[0] - direct()?.latencies[0]) * row.done as f64),
            Figure::Memory => each(row, row.memory as f64),
            Figure::Syscalls => each(row, row.syscalls as f64),
            Figure::Lost => None,
        }
    }

    /// The figure in every repetition in which there is one.
    pub fn all(&self, work: Work, subject: Subject, figure: Figure) -> Vec<f64> {
        (0..self.rounds(work)).filter_map(|round| self.one(work, subject, round, figure)).collect()
    }

    /// The median rate of the repetitions in which bytes went in `direction`.
    pub fn median_rate(&self, work: Work, subject: Subject, direction: &str) -> Option<f64> {
        let there = |round: &usize| self.row(work, subject, *round).is_some_and(|row| row.direction == direction);
        let rates = (0..self.rounds(work)).filter(there);
        median(&rates.filter_map(|round| self.one(work, subject, round, Figure::Rate)).collect::<Vec<_>>())
    }

    /// Answers that were not what was sent.
    pub fn wrong(&self, work: Work, subject: Subject) -> u64 {
        self.of(work).filter(|row| row.subject == subject).map(|row| row.wrong).sum()
    }

    /// Repetitions that failed: they stand in the record with nothing done.
    pub fn failed(&self, work: Work, subject: Subject) -> usize {
        self.of(work).filter(|row| row.subject == subject && row.done == 0).count()
    }

    /// The figure's median.
    pub fn median(&self, work: Work, subject: Subject, figure: Figure) -> Option<f64> {
        median(&self.all(work, subject, figure))
    }

    /// The ratio to `base`, taken inside each repetition in which both have the figure.
    pub fn ratio(&self, work: Work, subject: Subject, base: Subject, figure: Figure) -> Option<Interval> {
        let inside = |round| {
            let base = self.one(work, base, round, figure).filter(|base| *base > 0.0)?;
            Some(self.one(work, subject, round, figure)? / base)
        };
        interval(&(0..self.rounds(work)).filter_map(inside).collect::<Vec<_>>())
    }

    /// The best proxy in user space beside Landfall, by the median of its rate.
    pub fn best_peer(&self, work: Work) -> Option<Subject> {
        let peers = self.subjects(work).into_iter().filter(|subject| subject.is_peer());
        let rated = peers.filter_map(|peer| Some((peer, self.median(work, peer, Figure::Rate)?)));
        rated.max_by(|one, other| one.1.total_cmp(&other.1)).map(|(peer, _)| peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(round: usize, subject: Subject, done: u64, machine: f64) -> Row {
        let mut row = Row::empty(round, Work::UdpEcho64, subject, 0);
        (row.done, row.seconds, row.machine) = (done, 1.0, machine);
        row
    }

    #[test]
    fn ratios_are_taken_inside_a_repetition() {
        let rows = [
            row(0, Subject::Direct, 100, 1.0),
            row(0, Subject::Nginx, 50, 1.0),
            row(0, Subject::Landfall, 100, 1.5),
            row(1, Subject::Direct, 10, 1.0),
            row(1, Subject::Nginx, 5, 1.0),
            row(1, Subject::Landfall, 10, 1.5),
        ];
        let figures = Figures(&rows);
        let ratio = |figure| figures.ratio(Work::UdpEcho64, Subject::Landfall, Subject::Nginx, figure).unwrap();
        assert_eq!((ratio(Figure::Rate).low, ratio(Figure::Rate).high), (2.0, 2.0));
        assert!((ratio(Figure::EdgeCost).median - 0.5).abs() < 1e-9, "(15 - 10) / (20 - 10) thousandths of a second");
        assert_eq!(figures.best_peer(Work::UdpEcho64), Some(Subject::Nginx));
    }

    #[test]
    fn what_did_not_work_has_a_rate_of_nothing_and_no_cost() {
        let rows = [row(0, Subject::Direct, 9, 1.0), row(0, Subject::Envoy, 0, 0.0)];
        let figures = Figures(&rows);
        assert_eq!(figures.all(Work::UdpEcho64, Subject::Envoy, Figure::Rate), [0.0]);
        assert!(figures.all(Work::UdpEcho64, Subject::Envoy, Figure::EdgeCost).is_empty());
    }
}
