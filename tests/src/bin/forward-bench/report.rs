//! The figures as markdown: a table for each work, then what was to be reached.

use crate::figures::{Figure, Figures};
use crate::record::Row;
use crate::stats::Interval;
use crate::subjects::Subject;
use crate::targets;
use crate::works::{FORWARDING, Work};

/// All tables of the rows.
pub fn markdown(rows: &[Row]) -> String {
    let figures = Figures(rows);
    let mut text = String::new();
    for work in FORWARDING {
        if !figures.subjects(work).is_empty() {
            text += &forwarding(&figures, work);
        }
    }
    text += &each(&figures, "Memory in user space, bytes each", &[Work::TcpIdle, Work::UdpIdle], Figure::Memory);
    text += &each(&figures, "System calls", &[Work::TcpSyscalls], Figure::Syscalls);
    text += "### Targets\n\n";
    text += &targets::table(&figures);
    text
}

fn forwarding(figures: &Figures, work: Work) -> String {
    let unit = work.unit();
    let best = figures.best_peer(work);
    let best_name = best.map_or_else(|| "the best peer".to_owned(), |best| best.to_string());
    let mut text = format!("### {work}\n\n{} {} repetitions.\n\n", sentence(&work.title()), figures.rounds(work));
    text += &format!(
        "| | {}, median (min – max) | × nginx [95 %] | × {best_name} [95 %] | edge CPU, {} | own CPU, {} |",
        unit.rate, unit.cost, unit.cost
    );
    text += if work.is_bulk() {
        " to client / to server |\n|---|---|---|---|---|---|---|\n"
    } else {
        " p50 / p99 / p99.9 µs | lost |\n|---|---|---|---|---|---|---|---|\n"
    };
    let mut faults = String::new();
    let digits = if work.is_bulk() { 2 } else { 1 };
    for subject in figures.subjects(work) {
        let mut rates = figures.all(work, subject, Figure::Rate);
        rates.sort_unstable_by(f64::total_cmp);
        let rate = |rate: Option<f64>| number(rate, if work.is_bulk() { 2 } else { 0 });
        let median = |figure| figures.median(work, subject, figure);
        let ratio = |base| ratio(figures.ratio(work, subject, base, Figure::Rate));
        let (least, most) = (rates.first().copied(), rates.last().copied());
        text += &format!(
            "| {subject} | {} ({} – {}) | {} | {} | {} | {} |",
            rate(median(Figure::Rate)),
            rate(least),
            rate(most),
            ratio(Subject::Nginx),
            best.map_or_else(|| "–".to_owned(), ratio),
            number(median(Figure::EdgeCost).filter(|_| subject != Subject::Direct), digits),
            number(median(Figure::OwnCost).filter(|_| subject.is_peer() || subject.is_landfall()), digits),
        );
        if work.is_bulk() {
            let to = |direction| rate(figures.median_rate(work, subject, direction));
            text += &format!(" {} / {} |", to("down"), to("up"));
        } else {
            let latency = |figure| number(median(figure), 0);
            let (p50, p99, p999) = (latency(Figure::P50), latency(Figure::P99), latency(Figure::P999));
            let lost = figures.all(work, subject, Figure::Lost).iter().sum::<f64>();
            text += &format!(" {p50} / {p99} / {p999} | {lost} |");
        }
        text += "\n";
        let (wrong, failed) = (figures.wrong(work, subject), figures.failed(work, subject));
        if wrong > 0 || failed > 0 {
            faults += &format!(
                "\n{subject}: {failed} repetitions failed and count as a rate of 0; {wrong} answers were not what was sent.\n"
            );
        }
    }
    text + &faults + "\n"
}

/// A table of one figure that does not depend on a rate.
fn each(figures: &Figures, title: &str, works: &[Work], figure: Figure) -> String {
    let mut subjects: Vec<Subject> = works.iter().flat_map(|work| figures.subjects(*work)).collect();
    subjects.sort_unstable();
    subjects.dedup();
    if subjects.is_empty() {
        return String::new();
    }
    let titles: Vec<String> = works.iter().map(|work| sentence(&work.title())).collect();
    let mut text = format!("### {title}\n\n| | {} |\n|---|{}\n", titles.join(" | "), "---|".repeat(works.len()));
    for subject in subjects {
        let cells = works.iter().map(|work| number(figures.median(*work, subject, figure), 1));
        text += &format!("| {subject} | {} |\n", cells.collect::<Vec<_>>().join(" | "));
    }
    text + "\n"
}

fn ratio(interval: Option<Interval>) -> String {
    interval.map_or_else(|| "–".to_owned(), |found| format!("{:.2} [{:.2}, {:.2}]", found.median, found.low, found.high))
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

/// clap takes the last full stop of a description away.
fn sentence(text: &str) -> String {
    if text.ends_with('.') { text.to_owned() } else { format!("{text}.") }
}
