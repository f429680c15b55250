//! What the probers noted, and the figures that follow from it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{PAYLOAD_BYTES, SPACING, Wire};

/// An exchange that took longer counts as disturbed, even if it succeeded: a lost SYN alone costs a second.
const SLOW: Duration = Duration::from_millis(500);

/// All that was noted between start and stop.
#[derive(Debug)]
pub struct Report {
    /// The connections, by their begin.
    pub attempts: Vec<Attempt>,
    /// The UDP flows.
    pub flows: Vec<Flow>,
    /// What arrived on the wire.
    pub wire: Wire,
    /// The machine's longest stall meanwhile.
    pub stall: Duration,
}

/// One connection.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Where to.
    pub target: SocketAddr,
    /// Before it was opened.
    pub begin: Instant,
    /// Until its outcome.
    pub took: Duration,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its 64 bytes came back, from the endpoint of this name.
    Answered(String),
    /// It was refused.
    Refused,
    /// It was not established in time.
    ConnectTimedOut,
    /// There was no way to the address.
    Unreachable,
    /// It was established, then reset.
    Reset,
    /// It was established, then ended in order before the answer was whole.
    EndedEarly,
    /// It was established, and nothing came.
    Silent,
    /// Something else, which is worth a look.
    Odd(String),
}

/// One UDP flow.
#[derive(Debug)]
pub struct Flow {
    /// Where to.
    pub target: SocketAddr,
    /// Its datagrams, in the order of sending.
    pub datagrams: Vec<Datagram>,
    /// Where datagrams came from that are no answer from the target.
    pub strangers: Vec<SocketAddr>,
}

/// One datagram.
#[derive(Debug)]
pub struct Datagram {
    /// When it was sent.
    pub sent: Instant,
    /// The endpoint that answered it, and how long that took.
    pub answer: Option<(String, Duration)>,
}

impl Flow {
    /// How many datagrams were never answered.
    pub fn lost(&self) -> usize {
        self.datagrams.iter().filter(|datagram| datagram.answer.is_none()).count()
    }

    /// The longest time between the sending of two answered datagrams that has a lost one in it; zero if none was lost.
    pub fn gap(&self) -> Duration {
        longest_run(self.datagrams.iter().map(|datagram| (datagram.sent, datagram.answer.is_none())))
    }

    /// The endpoints that answered, in turn.
    pub fn endpoints(&self) -> BTreeSet<&str> {
        self.datagrams.iter().filter_map(|datagram| Some(datagram.answer.as_ref()?.0.as_str())).collect()
    }
}

impl Attempt {
    fn is_disturbed(&self) -> bool {
        !matches!(self.outcome, Outcome::Answered(_)) || self.took > SLOW
    }
}

impl Report {
    /// How many connections ended as `is` says.
    pub fn count(&self, is: impl Fn(&Outcome) -> bool) -> usize {
        self.attempts.iter().filter(|attempt| is(&attempt.outcome)).count()
    }

    /// Connections that never came to be: refused, timed out, without a way or odd.
    pub fn failed_connects(&self) -> usize {
        self.count(|outcome| {
            matches!(outcome, Outcome::Refused | Outcome::ConnectTimedOut | Outcome::Unreachable | Outcome::Odd(_))
        })
    }

    /// Connections that were established and broke: an exchange in flight at a flip.
    pub fn broken(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Reset | Outcome::EndedEarly | Outcome::Silent))
    }

    /// From the begin of the first disturbed connection to the begin of the first one after the last disturbed one. Every other
    /// flow may pass meanwhile, on the other edge.
    pub fn tcp_gap(&self) -> Duration {
        let disturbed = |attempt: &&Attempt| attempt.is_disturbed();
        let Some(first) = self.attempts.iter().find(disturbed) else { return Duration::ZERO };
        let last = self.attempts.iter().rposition(|attempt| attempt.is_disturbed()).unwrap_or_default();
        let after = self.attempts.get(last + 1).map_or(self.attempts[last].begin + SPACING, |next| next.begin);
        after - first.begin
    }

    /// The longest time that one answered exchange took.
    pub fn slowest(&self) -> Duration {
        let answered = self.attempts.iter().filter(|attempt| matches!(attempt.outcome, Outcome::Answered(_)));
        answered.map(|attempt| attempt.took).max().unwrap_or_default()
    }

    /// The longest gap of any UDP flow.
    pub fn udp_gap(&self) -> Duration {
        self.flows.iter().map(Flow::gap).max().unwrap_or_default()
    }

    /// Datagrams of all flows that were never answered.
    pub fn lost(&self) -> usize {
        self.flows.iter().map(Flow::lost).sum()
    }

    /// How many flows were answered by more than one endpoint.
    pub fn moved(&self) -> usize {
        self.flows.iter().filter(|flow| flow.endpoints().len() > 1).count()
    }

    /// Fails unless every connection and datagram was answered from where it was sent to, as the clients and the wire saw it.
    ///
    /// # Panics
    /// When something came from elsewhere, or the capture missed a packet, or nothing passed at all.
    pub fn assert_sources(&self) {
        assert_eq!(self.wire.foreign, [], "packets came from another address than a static IP");
        assert_eq!(self.wire.missed, 0, "the capture missed packets");
        let strangers: Vec<_> = self.flows.iter().flat_map(|flow| &flow.strangers).collect();
        assert!(strangers.is_empty(), "datagrams that are no answers: {strangers:?}");
        let answered = self.flows.iter().flat_map(|flow| &flow.datagrams).filter(|datagram| datagram.answer.is_some()).count();
        let connections = self.count(|outcome| matches!(outcome, Outcome::Answered(_)));
        assert!(answered + connections > 0, "nothing was answered");
        assert!(self.wire.packets > connections, "the capture saw {} packets, {connections} connections", self.wire.packets);
        // An answer is what was asked, and the endpoint's name.
        let bytes = answered * PAYLOAD_BYTES;
        assert!(self.wire.udp_bytes >= bytes, "the capture saw {} bytes over UDP, the flows {bytes}", self.wire.udp_bytes);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            ("refused", self.count(|outcome| *outcome == Outcome::Refused)),
            ("timed out", self.count(|outcome| *outcome == Outcome::ConnectTimedOut)),
            ("without a route", self.count(|outcome| *outcome == Outcome::Unreachable)),
            ("odd", self.count(|outcome| matches!(outcome, Outcome::Odd(_)))),
            ("reset", self.count(|outcome| *outcome == Outcome::Reset)),
            ("cut short", self.count(|outcome| *outcome == Outcome::EndedEarly)),
            ("silent", self.count(|outcome| *outcome == Outcome::Silent)),
        ];
        write!(formatter, "TCP {} connections:", self.attempts.len())?;
        for (name, count) in counts.iter().filter(|(_, count)| *count > 0) {
            write!(formatter, " {count} {name},")?;
        }
        write!(formatter, " gap {:.2?}, slowest answer {:.2?}; ", self.tcp_gap(), self.slowest())?;
        let sent: usize = self.flows.iter().map(|flow| flow.datagrams.len()).sum();
        write!(
            formatter,
            "UDP {} flows: {} of {sent} datagrams lost, longest gap {:.2?}, ",
            self.flows.len(),
            self.lost(),
            self.udp_gap()
        )?;
        write!(formatter, "{} flows changed endpoint; ", self.moved())?;
        write!(
            formatter,
            "wire {} packets, {} from elsewhere; longest stall {:.2?}",
            self.wire.packets,
            self.wire.foreign.len(),
            self.stall
        )
    }
}

/// The longest run of bad moments: from the good one before it to the good one after it.
fn longest_run(moments: impl Iterator<Item = (Instant, bool)>) -> Duration {
    let (mut longest, mut last_good, mut last_bad) = (Duration::ZERO, None, None);
    for (at, bad) in moments {
        if bad {
            last_good = last_good.or(Some(at));
            last_bad = Some(at);
            continue;
        }
        if let (Some(_), Some(begin)) = (last_bad.take(), last_good) {
            longest = longest.max(at.saturating_duration_since(begin));
        }
        last_good = Some(at);
    }
    match (last_bad, last_good) {
        (Some(end), Some(begin)) => longest.max(end + SPACING - begin),
        _ => longest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait;

    fn attempts(pattern: &str) -> Report {
        let begin = wait::now();
        let one = |(at, kind): (usize, char)| {
            let (outcome, took) = match kind {
                'o' => (Outcome::Answered("a".into()), 1),
                's' => (Outcome::Answered("a".into()), 1000),
                'r' => (Outcome::Refused, 1),
                't' => (Outcome::ConnectTimedOut, 3000),
                _ => (Outcome::Reset, 1),
            };
            let begin = begin + SPACING * u32::try_from(at).unwrap();
            Attempt { target: "198.18.0.1:1".parse().unwrap(), begin, took: Duration::from_millis(took), outcome }
        };
        let attempts = pattern.chars().enumerate().map(one).collect();
        Report { attempts, flows: Vec::new(), wire: Wire::default(), stall: Duration::ZERO }
    }

    #[test]
    fn the_tcp_gap_spans_all_disturbed_connections() {
        assert_eq!(attempts("oooo").tcp_gap(), Duration::ZERO);
        assert_eq!(attempts("oroo").tcp_gap(), SPACING);
        assert_eq!(attempts("orosoXoo").tcp_gap(), SPACING * 5, "the passed ones between them went the other way");
        assert_eq!(attempts("oorr").tcp_gap(), SPACING * 2);
        let report = attempts("orttXs");
        assert_eq!((report.failed_connects(), report.broken(), report.slowest()), (3, 1, Duration::from_secs(1)));
    }

    #[test]
    fn the_udp_gap_lasts_from_good_to_good() {
        let begin = wait::now();
        let run = |pattern: &str| {
            let moments =
                pattern.chars().enumerate().map(|(at, kind)| (begin + SPACING * u32::try_from(at).unwrap(), kind == '-'));
            longest_run(moments)
        };
        assert_eq!(run("++++"), Duration::ZERO);
        assert_eq!(run("+-++"), SPACING * 2);
        assert_eq!(run("+-+---+"), SPACING * 4);
        assert_eq!(run("+--"), SPACING * 3, "it never came back");
        assert_eq!(run("--+"), SPACING * 2);
    }
}
