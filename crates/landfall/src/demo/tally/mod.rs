//! The clients' own books: who answered what and when. Pure; every time is an argument, counted from the start of the demonstration.

mod datagrams;
mod death;
mod said;
mod stalls;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

pub(super) use self::{
    datagrams::Datagrams,
    death::{Death, Took},
};
use self::{datagrams::Flow, stalls::Stalls};

/// Over how long the shares of new connections are taken.
pub(super) const SHARE_WINDOW: Duration = Duration::from_millis(500);

/// How a connection ended that was to be answered once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Answered by this endpoint.
    Answered(usize),
    /// Closed or reset before the answer.
    Cut(String),
    /// Refused, or not answered in time.
    Failed(String),
}

/// TCP connections that were opened to be answered once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Connections {
    pub(super) opened: u64,
    pub(super) answered: u64,
    /// Those that an endpoint took with it: opened before it was dead, and not answered yet.
    pub(super) died_with_endpoint: u64,
    /// The others: each one is a broken promise.
    pub(super) failed: u64,
    /// Why the last of them failed.
    pub(super) last_failure: Option<String>,
}

/// The books.
#[derive(Debug)]
pub(super) struct Tally {
    flows: Vec<Flow>,
    /// By held connection: the endpoint that answers it.
    held: Vec<Option<usize>>,
    /// By endpoint.
    alive: Vec<bool>,
    deaths: Vec<Death>,
    datagrams: Datagrams,
    connections: Connections,
    /// When each of the latest connections was answered, and by whom.
    recent: VecDeque<(Duration, usize)>,
    /// Held connections that ended although their endpoint lived.
    cut: u64,
    stalls: Stalls,
}

impl Tally {
    /// Of so many UDP flows, held connections and endpoints, all of them alive.
    pub(super) fn new(flows: usize, held: usize, endpoints: usize) -> Self {
        Self {
            flows: vec![Flow::default(); flows],
            held: vec![None; held],
            alive: vec![true; endpoints],
            deaths: Vec::new(),
            datagrams: Datagrams::default(),
            connections: Connections::default(),
            recent: VecDeque::new(),
            cut: 0,
            stalls: Stalls::default(),
        }
    }

    /// A flow sends its datagram number `seq`, each higher than the one before.
    pub(super) fn sent(&mut self, flow: usize, seq: u64, at: Duration) {
        self.datagrams.sent += 1;
        self.flows[flow].sent(seq, at);
        self.expire(flow, at);
    }

    fn expire(&mut self, flow: usize, now: Duration) {
        let overdue = self.flows[flow].overdue(now);
        for sent in overdue {
            let endpoint = self.flows[flow].endpoint;
            if self.deaths.iter().any(|death| endpoint == Some(death.endpoint) && death.covers(sent)) {
                self.datagrams.to_the_dead += 1;
            } else {
                self.datagrams.unanswered += 1;
                if !std::mem::replace(&mut self.flows[flow].unanswered, true) {
                    self.datagrams.flows_unanswered += 1;
                }
            }
        }
    }

    /// `endpoint` answered a flow's datagram number `seq`. A dead one's flow that another answers has moved.
    pub(super) fn answered(&mut self, flow: usize, seq: u64, endpoint: usize) {
        let flow = &mut self.flows[flow];
        // Given up already, or answered twice.
        if !flow.is_pending(seq) {
            return;
        }
        self.datagrams.answered += 1;
        if let Some(old) = flow.endpoint.filter(|&old| old != endpoint)
            && let Some(death) = latest(&mut self.deaths, old)
        {
            let lost = flow.take_lost(seq, |sent| death.covers(sent));
            self.datagrams.to_the_dead += lost.iter().map(|_| 1).sum::<u64>();
            death.flow_moved(lost.last().copied());
        }
        flow.answered(seq, endpoint);
    }

    /// A connection is opened that is to be answered once.
    pub(super) fn opens(&mut self) {
        self.connections.opened += 1;
    }

    /// A connection that was opened at `opened` has ended at `at`.
    pub(super) fn ended(&mut self, opened: Duration, outcome: Outcome, at: Duration) {
        let in_flight = self.deaths.iter().any(|death| death.cuts(opened, at));
        match outcome {
            Outcome::Answered(endpoint) => {
                self.connections.answered += 1;
                self.recent.push_back((at, endpoint));
                self.recent.retain(|&(answered, _)| answered + SHARE_WINDOW >= at);
            }
            Outcome::Cut(_) if in_flight => self.connections.died_with_endpoint += 1,
            Outcome::Cut(reason) | Outcome::Failed(reason) => {
                self.connections.failed += 1;
                self.connections.last_failure = Some(format!("{reason} (opened at {:.2} s)", opened.as_secs_f64()));
            }
        }
    }

    /// A held connection is answered by `endpoint`.
    pub(super) fn held(&mut self, connection: usize, endpoint: usize) {
        self.held[connection] = Some(endpoint);
    }

    /// A held connection learnt that it has ended.
    pub(super) fn told(&mut self, connection: usize, at: Duration) {
        let Some(endpoint) = self.held[connection].take() else { return };
        match latest(&mut self.deaths, endpoint).filter(|_| !self.alive[endpoint]) {
            Some(death) => death.connection_told(at),
            None => self.cut += 1,
        }
    }

    /// `endpoint` is about to be killed.
    pub(super) fn kill(&mut self, endpoint: usize, at: Duration) {
        self.alive[endpoint] = false;
        self.deaths.push(Death::new(endpoint, at));
    }

    /// No socket of `endpoint` is left.
    pub(super) fn dead(&mut self, endpoint: usize, at: Duration) {
        if let Some(death) = latest(&mut self.deaths, endpoint) {
            death.complete(at);
        }
    }

    /// `endpoint` is about to be started again.
    pub(super) fn restarts(&mut self, endpoint: usize, at: Duration) {
        self.settle(endpoint);
        if let Some(death) = latest(&mut self.deaths, endpoint) {
            death.end(at);
        }
        self.alive[endpoint] = true;
    }

    /// What has not left the dead `endpoint` by now has stayed too long.
    pub(super) fn settle(&mut self, endpoint: usize) {
        let left = (self.flows_of(endpoint), self.held_of(endpoint));
        if let Some(death) = latest(&mut self.deaths, endpoint) {
            death.settle(left);
        }
    }

    /// The clients themselves stood still from when they should have run to when they did.
    pub(super) fn stalled(&mut self, from: Duration, to: Duration) {
        self.stalls.add(from, to);
    }

    /// All datagrams that are not answered by `now` never will be.
    pub(super) fn give_up(&mut self, now: Duration) {
        for flow in 0..self.flows.len() {
            self.expire(flow, now + datagrams::PATIENCE);
        }
    }
}

fn latest(deaths: &mut [Death], endpoint: usize) -> Option<&mut Death> {
    deaths.iter_mut().rev().find(|death| death.endpoint == endpoint)
}
