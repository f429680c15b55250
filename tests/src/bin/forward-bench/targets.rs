//! What Landfall is to reach, and whether it does.

use crate::figures::{Figure, Figures};
use crate::stats::{Interval, interval};
use crate::subjects::Subject;
use crate::works::Work;

/// What a figure is held against.
#[derive(Debug, Clone, Copy)]
enum Against {
    /// The best proxy in user space of the same run.
    Best,
    Peer(Subject),
    /// A number of its own.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

struct Target {
    of: Subject,
    work: Work,
    figure: Figure,
    against: Against,
    bound: Bound,
}

const fn target(work: Work, figure: Figure, against: Against, bound: Bound) -> Target {
    Target { of: Subject::Landfall, work, figure, against, bound }
}

const fn kernel(work: Work, figure: Figure, against: Subject, bound: Bound) -> Target {
    Target { of: Subject::LandfallKernel, work, figure, against: Against::Peer(against), bound }
}

const NGINX: Against = Against::Peer(Subject::Nginx);
const SPLICE: Against = Against::Peer(Subject::HaproxySplice);
const SPLICE_1M: Against = Against::Peer(Subject::HaproxySplice1m);

const TARGETS: [Target; 32] = [
    target(Work::UdpEcho64, Figure::Rate, Against::Best, Bound::AtLeast(1.1)),
    target(Work::UdpEcho64, Figure::EdgeCost, Against::Best, Bound::AtMost(0.85)),
    target(Work::UdpEcho64Flows1000, Figure::Rate, Against::Best, Bound::AtLeast(1.25)),
    target(Work::UdpEcho64Flows1000, Figure::EdgeCost, Against::Best, Bound::AtMost(0.85)),
    target(Work::UdpEcho1200, Figure::Rate, Against::Best, Bound::AtLeast(1.1)),
    target(Work::UdpEcho1200, Figure::EdgeCost, Against::Best, Bound::AtMost(0.85)),
    target(Work::UdpBurst64, Figure::Rate, Against::Best, Bound::AtLeast(2.0)),
    target(Work::UdpBurst1200, Figure::Rate, Against::Best, Bound::AtLeast(2.0)),
    target(Work::UdpJoined64, Figure::Rate, Against::Best, Bound::AtLeast(2.0)),
    target(Work::UdpJoined1200, Figure::Rate, Against::Best, Bound::AtLeast(2.0)),
    target(Work::UdpPingPong, Figure::AddedP50, NGINX, Bound::AtMost(0.85)),
    target(Work::TcpBulk1, Figure::Rate, NGINX, Bound::AtLeast(1.8)),
    target(Work::TcpBulk1, Figure::OwnCost, SPLICE, Bound::AtMost(0.75)),
    target(Work::TcpBulk1, Figure::OwnCost, SPLICE_1M, Bound::AtMost(0.75)),
    target(Work::TcpBulk16, Figure::Rate, NGINX, Bound::AtLeast(1.35)),
    target(Work::TcpBulk16, Figure::OwnCost, SPLICE, Bound::AtMost(0.75)),
    target(Work::TcpBulk16, Figure::OwnCost, SPLICE_1M, Bound::AtMost(0.75)),
    target(Work::TcpConnect, Figure::Rate, NGINX, Bound::AtLeast(1.05)),
    target(Work::TcpConnect, Figure::P99, NGINX, Bound::AtMost(1.0)),
    target(Work::TcpSyscalls, Figure::Syscalls, Against::Nothing, Bound::AtMost(14.0)),
    target(Work::TcpPingPong256, Figure::Rate, Against::Best, Bound::AtLeast(1.1)),
    target(Work::TcpPingPong256, Figure::P99, Against::Best, Bound::AtMost(1.0)),
    target(Work::TcpPingPong256, Figure::P999, Against::Best, Bound::AtMost(1.0)),
    target(Work::TcpIdle, Figure::Memory, Against::Nothing, Bound::AtMost(1_700.0)),
    target(Work::UdpIdle, Figure::Memory, Against::Nothing, Bound::AtMost(2_000.0)),
    kernel(Work::UdpEcho64, Figure::Rate, Subject::Nginx, Bound::AtLeast(2.0)),
    kernel(Work::UdpEcho64, Figure::Rate, Subject::Direct, Bound::AtLeast(0.95)),
    kernel(Work::UdpEcho64, Figure::EdgeCost, Subject::Nft, Bound::AtMost(0.5)),
    kernel(Work::UdpEcho64Flows1000, Figure::Rate, Subject::Nginx, Bound::AtLeast(2.2)),
    kernel(Work::UdpEcho64Flows1000, Figure::Rate, Subject::Direct, Bound::AtLeast(0.95)),
    kernel(Work::UdpEcho64Flows1000, Figure::EdgeCost, Subject::Nft, Bound::AtMost(0.5)),
    kernel(Work::UdpPingPong, Figure::P50, Subject::Direct, Bound::AtMost(1.05)),
];

/// A markdown table of all targets whose works are in the run.
pub fn table(figures: &Figures) -> String {
    let mut text = String::from("| of | work | figure | against | target | median [95 %] | |\n|---|---|---|---|---|---|---|\n");
    for target in &TARGETS {
        let Target { of, work, figure, against, bound } = target;
        let base = match against {
            Against::Best => figures.best_peer(*work),
            Against::Peer(peer) => Some(*peer),
            Against::Nothing => None,
        };
        let found = match (against, base) {
            (Against::Nothing, _) => interval(&figures.all(*work, *of, *figure)),
            (_, Some(base)) => figures.ratio(*work, *of, base, *figure),
            (_, None) => None,
        };
        let Some(found) = found else { continue };
        let against = base.map_or_else(|| "–".to_owned(), |base| base.to_string());
        let (sign, goal) = match bound {
            Bound::AtLeast(goal) => ("≥", goal),
            Bound::AtMost(goal) => ("≤", goal),
        };
        let (shown, times) = match base {
            Some(_) => (format!("{:.2} [{:.2}, {:.2}]", found.median, found.low, found.high), " ×"),
            None => (format!("{:.1} [{:.1}, {:.1}]", found.median, found.low, found.high), ""),
        };
        let verdict = verdict(*bound, found);
        text += &format!("| {of} | {work} | {} | {against} | {sign} {goal}{times} | {shown} | {verdict} |\n", name(*figure));
    }
    text
}

/// A figure is met when the interval reaches the goal; whether the median does is told apart.
fn verdict(bound: Bound, found: Interval) -> &'static str {
    let (by_median, by_interval) = match bound {
        Bound::AtLeast(goal) => (found.median >= goal, found.high >= goal),
        Bound::AtMost(goal) => (found.median <= goal, found.low <= goal),
    };
    match (by_median, by_interval) {
        (true, _) => "met",
        (false, true) => "met within the interval",
        (false, false) => "missed",
    }
}

fn name(figure: Figure) -> &'static str {
    match figure {
        Figure::Rate => "rate",
        Figure::EdgeCost => "edge CPU",
        Figure::OwnCost => "own CPU",
        Figure::P50 => "p50",
        Figure::P99 => "p99",
        Figure::P999 => "p99.9",
        Figure::AddedP50 => "p50 added to direct",
        Figure::Memory => "bytes each",
        Figure::Syscalls => "system calls each",
        Figure::Lost => "lost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_when_the_interval_reaches_it() {
        let found = Interval { low: 0.9, median: 1.0, high: 1.1 };
        assert_eq!(verdict(Bound::AtLeast(1.0), found), "met");
        assert_eq!(verdict(Bound::AtLeast(1.1), found), "met within the interval");
        assert_eq!(verdict(Bound::AtLeast(1.2), found), "missed");
        assert_eq!(verdict(Bound::AtMost(0.9), found), "met within the interval");
        assert_eq!(verdict(Bound::AtMost(0.8), found), "missed");
    }
}
