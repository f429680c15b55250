//! What to say of each static IP. Pure: time is an argument, nothing here does I/O.
//!
//! The health of a single endpoint is no input, and so never a BGP event. The only thing that health can do is to isolate the edge,
//! and that acts only once it has lasted, and only under a policy that says so.

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

/// What is said of a static IP, the least inviting first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// There is no route to it here.
    Withdrawn,
    /// There is a route, for when no other edge has a better one.
    Depreferred,
    /// Clients are invited.
    Announced,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Announced, Self::Depreferred, Self::Withdrawn];

    /// In `/status` and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Withdrawn => "withdrawn",
            Self::Depreferred => "depreferred",
            Self::Announced => "announced",
        }
    }
}

/// What an edge does that reaches no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenIsolated {
    /// Nothing: a common cause would otherwise make every edge withdraw.
    #[default]
    Keep,
    /// It steps back behind the others, and still serves if there are none.
    Deprefer,
    /// It leaves.
    Withdraw,
}

/// The rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Of an isolated edge.
    pub when_isolated: WhenIsolated,
    /// How long isolation, and its end, must last before it counts.
    pub isolated_hold: Duration,
    /// How long an edge that leaves stays depreferred before it withdraws, where it can.
    pub step: Duration,
}

/// Why an edge leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// An operator drained it.
    Drained,
    /// The process ends.
    Stopping,
}

/// What is known of the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeFacts {
    /// Every endpoint has had its first result.
    pub ready: bool,
    /// No listener has an eligible endpoint.
    pub isolated: bool,
    /// Whether it is on its way out.
    pub leaving: Option<Leaving>,
}

/// What is known of a static IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpFacts {
    /// Which one.
    pub ip: IpAddr,
    /// This edge is to announce it.
    pub configured: bool,
    /// It is an address of this host.
    pub local: bool,
    /// There is a way to deprefer it.
    pub can_deprefer: bool,
}

/// Why a static IP is in its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// All is well.
    Serving,
    /// All but the endpoints; the policy is to stay.
    IsolatedKept,
    /// No endpoint for long.
    Isolated,
    /// Not every endpoint has had a first result.
    NotReady,
    /// The edge leaves.
    Leaving(Leaving),
    /// The host does not have the address.
    NotLocal(IpAddr),
    /// Another edge's.
    NotConfigured,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serving => f.write_str("serving"),
            Self::IsolatedKept => f.write_str("no endpoint is eligible; anycast.isolated = \"keep\""),
            Self::Isolated => f.write_str("no endpoint has been eligible for anycast.isolated_hold"),
            Self::NotReady => f.write_str("not ready: the first results of the probes are awaited"),
            Self::Leaving(Leaving::Drained) => f.write_str("the edge is drained; `landfall undrain` brings it back"),
            Self::Leaving(Leaving::Stopping) => f.write_str("the edge is stopping"),
            Self::NotLocal(ip) => write!(f, "not an address of this host: `ip addr add {ip} dev lo`"),
            Self::NotConfigured => f.write_str("not in edge.announce"),
        }
    }
}

/// A decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What is to be said.
    pub state: State,
    /// And why.
    pub reason: Reason,
}

/// Whether isolation counts. It must last before it does, and so must its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Isolation {
    /// `None` before the first look, which decides at once: an edge that begins isolated must not announce for a while first.
    counts: Option<bool>,
    /// Since when the edge is not as it counts.
    differs: Option<Instant>,
}

impl Isolation {
    fn look(&mut self, isolated: bool, hold: Duration, now: Instant) {
        if self.counts.is_none_or(|counts| counts == isolated) {
            *self = Self { counts: Some(isolated), differs: None };
            return;
        }
        let since = *self.differs.get_or_insert(now);
        if now.saturating_duration_since(since) >= hold {
            *self = Self { counts: Some(isolated), differs: None };
        }
    }
}

/// Decides for all static IPs of an edge.
#[derive(Debug)]
pub struct Decider {
    policy: Policy,
    edge: EdgeFacts,
    /// Readiness is for the start: what a reload adds does not take it away again.
    was_ready: bool,
    isolation: Isolation,
    leaving_since: Option<Instant>,
}

impl Decider {
    /// Knows nothing yet, and withdraws.
    pub fn new(policy: Policy) -> Self {
        let edge = EdgeFacts { ready: false, isolated: false, leaving: None };
        Self { policy, edge, was_ready: false, isolation: Isolation::default(), leaving_since: None }
    }

    /// Takes in how the edge is at `now`.
    pub fn look(&mut self, edge: EdgeFacts, now: Instant) {
        self.edge = edge;
        self.was_ready |= edge.ready;
        if self.was_ready {
            self.isolation.look(edge.isolated, self.policy.isolated_hold, now);
        }
        match edge.leaving {
            Some(_) => _ = self.leaving_since.get_or_insert(now),
            None => self.leaving_since = None,
        }
    }

    /// What is to be said of a static IP, as of the last look.
    pub fn verdict(&self, ip: &IpFacts, now: Instant) -> Verdict {
        let present = self.unless_leaving(ip);
        match (self.edge.leaving, self.leaving_since) {
            // What is withdrawn already does not come back to be depreferred.
            (Some(leaving), Some(since)) if present.state > State::Withdrawn => {
                let stepping = ip.can_deprefer && now.saturating_duration_since(since) < self.policy.step;
                let state = if stepping { State::Depreferred } else { State::Withdrawn };
                Verdict { state, reason: Reason::Leaving(leaving) }
            }
            _ => present,
        }
    }

    fn unless_leaving(&self, ip: &IpFacts) -> Verdict {
        let withdrawn = |reason| Verdict { state: State::Withdrawn, reason };
        if !ip.configured {
            return withdrawn(Reason::NotConfigured);
        }
        if !ip.local {
            return withdrawn(Reason::NotLocal(ip.ip));
        }
        if !self.was_ready {
            return withdrawn(Reason::NotReady);
        }
        let counts = self.isolation.counts.unwrap_or_default();
        match self.policy.when_isolated {
            WhenIsolated::Deprefer if counts && ip.can_deprefer => {
                Verdict { state: State::Depreferred, reason: Reason::Isolated }
            }
            WhenIsolated::Withdraw if counts => withdrawn(Reason::Isolated),
            _ => {
                let reason = if self.edge.isolated { Reason::IsolatedKept } else { Reason::Serving };
                let reason = if self.policy.when_isolated == WhenIsolated::Keep { reason } else { Reason::Serving };
                Verdict { state: State::Announced, reason }
            }
        }
    }

    /// When time alone changes a verdict next, so that it is worth to look again.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let isolation = self.isolation.differs.map(|since| since + self.policy.isolated_hold);
        let step = self.leaving_since.map(|since| since + self.policy.step).filter(|&due| due > now);
        isolation.into_iter().chain(step).min()
    }
}
