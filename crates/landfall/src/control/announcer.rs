//! The control loop's side of the announcements: facts in, what is wanted out, and what came of it in words.

use std::{net::IpAddr, time::Instant};

use anycast::{
    State,
    decide::{Decider, EdgeFacts, IpFacts, Policy, Reason, Verdict},
    device::{DeviceError, Tun},
    driver::{Driver, Report, Wanted},
};
use tokio::sync::{oneshot, watch};

use super::status::{AnycastStatus, StaticIpStatus};
use crate::{
    config::{Anycast, Config},
    metrics::Metrics,
};

/// A static IP and what is to be said of it.
#[derive(Debug)]
struct StaticIp {
    facts: IpFacts,
    verdict: Verdict,
}

/// Decides what is announced, and knows what is.
#[derive(Debug)]
pub struct Announcer {
    decider: Decider,
    ips: Vec<StaticIp>,
    wanted: watch::Sender<Wanted>,
    reports: watch::Receiver<Report>,
    /// The last report that was taken in.
    said: Report,
    /// Whether BIRD answered when it was last told of; `None` before the first news.
    bird_up: Option<bool>,
    /// Who waits for the end of all routes.
    stopping: Vec<oneshot::Sender<()>>,
    metrics: Metrics,
}

/// Makes the device of the routes, and an announcer for `config` with the driver that it needs. Nothing is announced yet.
pub fn announcer(config: &Config, anycast: &Anycast, metrics: Metrics) -> Result<(Announcer, Driver<Tun>), DeviceError> {
    let tun = Tun::create(&anycast.device)?;
    let policy =
        Policy { when_isolated: anycast.when_isolated, isolated_hold: anycast.isolated_hold, step: anycast.shutdown_wait };
    let static_ip = |&(ip, ref carrier): &(IpAddr, _)| {
        let carrier: &anycast::reconcile::Carrier = carrier;
        let configured = config.edge.announce.contains(&ip);
        metrics.static_ip(ip);
        StaticIp {
            facts: IpFacts { ip, configured, local: false, can_deprefer: carrier.low.is_some() },
            verdict: Verdict { state: State::Withdrawn, reason: Reason::NotReady },
        }
    };
    let ips: Vec<StaticIp> = anycast.carriers.iter().map(static_ip).collect();
    let carriers = anycast.carriers.iter().map(|(_, carrier)| carrier.clone()).collect();
    let (wanted, receiver) = watch::channel(Wanted { generation: 1, states: vec![State::Withdrawn; ips.len()] });
    let (driver, reports) = Driver::new(anycast.bird_socket.clone(), carriers, tun, receiver);
    let said = reports.borrow().clone();
    let decider = Decider::new(policy);
    Ok((Announcer { decider, ips, wanted, reports, said, bird_up: None, stopping: Vec::new(), metrics }, driver))
}

/// Waits for news of what is said; for ever where nobody speaks.
pub async fn news(announcer: &mut Option<Announcer>) {
    if let Some(announcer) = announcer
        && announcer.reports.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

impl Announcer {
    /// The static IPs that are not on this host.
    pub fn away(&mut self, away: &[IpAddr]) {
        for ip in &mut self.ips {
            ip.facts.local = !away.contains(&ip.facts.ip);
        }
    }

    /// Decides anew, hands on what changed, and takes in what was reported.
    pub fn look(&mut self, edge: EdgeFacts, now: Instant) {
        self.decider.look(edge, now);
        for ip in &mut self.ips {
            ip.verdict = self.decider.verdict(&ip.facts, now);
        }
        let states: Vec<State> = self.ips.iter().map(|ip| ip.verdict.state).collect();
        self.wanted.send_if_modified(|wanted| {
            let news = wanted.states != states;
            if news {
                *wanted = Wanted { generation: wanted.generation + 1, states };
            }
            news
        });
        self.take_report();
        let wanted = self.wanted.borrow();
        let gone = wanted.states.iter().all(|&state| state == State::Withdrawn) && self.said.carried_out >= wanted.generation;
        if gone {
            for waiting in self.stopping.drain(..) {
                // Err: whoever waited has lost patience.
                let _ = waiting.send(());
            }
        }
    }

    /// Answers once no route is left, of an edge that leaves.
    pub fn tell_when_gone(&mut self, waiting: oneshot::Sender<()>) {
        self.stopping.push(waiting);
    }

    /// When time alone changes what is wanted next.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.decider.due(now)
    }

    fn take_report(&mut self) {
        let report = self.reports.borrow_and_update().clone();
        if report == self.said {
            return;
        }
        self.tell_bird(&report);
        let before = std::mem::replace(&mut self.said, report);
        for (index, old) in before.states.iter().enumerate() {
            let StaticIp { facts: IpFacts { ip, .. }, .. } = self.ips[index];
            let state = self.said.states[index];
            for state in State::ALL {
                let count = |report: &Report| report.changes[index][state as usize];
                self.metrics.announcement_changes(ip, state, count(&self.said) - count(&before));
            }
            if state != *old {
                let reason = self.reason(index);
                tracing::info!(static_ip = %ip, from = old.as_str(), to = state.as_str(), reason, "static IP changed its announcement");
            }
            match (&before.problems[index], &self.said.problems[index]) {
                (old, Some(problem)) if old.as_ref() != Some(problem) => {
                    tracing::warn!(static_ip = %ip, "cannot announce as wanted: {problem}");
                }
                _ => {}
            }
        }
    }

    fn tell_bird(&mut self, report: &Report) {
        match (self.bird_up, &report.bird) {
            (None | Some(true), Err(error)) => tracing::warn!("nothing can be announced: {error}"),
            (None | Some(false), Ok(())) => tracing::info!("BIRD answers"),
            _ => {}
        }
        self.bird_up = Some(report.bird.is_ok());
    }

    fn reason(&self, index: usize) -> String {
        let Verdict { state: wanted, reason } = self.ips[index].verdict;
        let said = self.said.states[index];
        match (&self.said.problems[index], &self.said.bird) {
            (Some(problem), _) => problem.clone(),
            (None, Err(error)) if wanted > State::Withdrawn || said > State::Withdrawn => format!("BIRD is down: {error}"),
            _ if said != wanted => format!("about to be {}: {reason}", wanted.as_str()),
            _ => reason.to_string(),
        }
    }

    /// For `/status`.
    pub fn status(&self) -> AnycastStatus {
        let static_ips = self.ips.iter().enumerate().map(|(index, ip)| StaticIpStatus {
            ip: ip.facts.ip.to_string(),
            state: self.said.states[index].as_str().to_owned(),
            reason: self.reason(index),
        });
        let bird = match &self.said.bird {
            Ok(()) => "up".to_owned(),
            Err(error) => format!("down: {error}"),
        };
        AnycastStatus { bird, static_ips: static_ips.collect() }
    }
}
