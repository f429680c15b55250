//! The loop: looks at what BIRD does, compares it with what is wanted, sends what is missing, reports.
//!
//! A connection to BIRD is kept. Its end is noticed at once, and a BIRD that was restarted or reconfigured, which puts the protocols
//! back to `disabled`, at the next look. Nothing is sent while nothing differs.

use std::{path::PathBuf, time::Duration};

use tokio::{sync::watch, time};

use crate::{
    State,
    bird::{Bird, BirdError},
    device::Link,
    reconcile::{Carrier, Command, Protocols, commands},
};

/// The pause between two looks while nothing happens.
pub const LOOK: Duration = Duration::from_millis(200);
/// The pause between two attempts to connect.
pub const RECONNECT: Duration = Duration::from_millis(250);

/// Commands that changed nothing are repeated at this many looks in a row, and then at every [`SELDOM`]th.
const EAGER: u32 = 3;
/// See [`EAGER`].
const SELDOM: u32 = 5;

/// What is to be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Counts changes.
    pub generation: u64,
    /// Of each static IP, in the order of the carriers.
    pub states: Vec<State>,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whether BIRD answers; if not, why.
    pub bird: Result<(), String>,
    /// What is said of each static IP, in the order of the carriers; the last that was known while BIRD does not answer.
    pub states: Vec<State>,
    /// How often each of them has changed to which state, by [`State`] as a number: also what lasted from one look to the next only,
    /// as when BIRD was reconfigured.
    pub changes: Vec<[u64; 3]>,
    /// What hinders each of them.
    pub problems: Vec<Option<String>>,
    /// The generation of [`Wanted`] that was carried out last.
    pub carried_out: u64,
}

/// The loop, before it runs.
#[derive(Debug)]
pub struct Driver<L> {
    socket: PathBuf,
    carriers: Vec<Carrier>,
    link: L,
    link_up: bool,
    /// For each carrier, how many looks in a row have found it other than wanted.
    unsettled: Vec<u32>,
    wanted: watch::Receiver<Wanted>,
    report: watch::Sender<Report>,
}

impl<L: Link> Driver<L> {
    /// A driver for BIRD at `socket`; `wanted` has a state for each of `carriers`. Its reports come at the other end.
    pub fn new(
        socket: PathBuf,
        carriers: Vec<Carrier>,
        link: L,
        wanted: watch::Receiver<Wanted>,
    ) -> (Self, watch::Receiver<Report>) {
        let start = Report {
            bird: Err("not asked yet".to_owned()),
            states: vec![State::Withdrawn; carriers.len()],
            changes: vec![[0; 3]; carriers.len()],
            problems: vec![None; carriers.len()],
            carried_out: 0,
        };
        let (report, reports) = watch::channel(start);
        let unsettled = vec![0; carriers.len()];
        (Self { socket, carriers, link, link_up: false, unsettled, wanted, report }, reports)
    }

    /// Runs until nobody wants anything any more: until the other end of `wanted` is dropped.
    pub async fn run(mut self) {
        loop {
            let error = match Bird::connect(&self.socket).await {
                Ok(bird) => match self.serve(bird).await {
                    Some(error) => error,
                    None => return,
                },
                Err(error) => error,
            };
            self.without_bird(&error);
            tokio::select! {
                () = time::sleep(RECONNECT) => {}
                changed = self.wanted.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Serves until the connection fails; `None` if nobody wants anything any more.
    async fn serve(&mut self, mut bird: Bird) -> Option<BirdError> {
        self.unsettled.fill(0);
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            if let Err(error) = self.round(&mut bird, &wanted).await {
                return Some(error);
            }
            tokio::select! {
                error = bird.closed() => return Some(error),
                () = time::sleep(LOOK) => {}
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.unsettled.fill(0),
                    Err(_) => return None,
                },
            }
        }
    }

    /// One look at BIRD, and what follows from it.
    async fn round(&mut self, bird: &mut Bird, wanted: &Wanted) -> Result<(), BirdError> {
        let mut protocols = bird.protocols().await?;
        // What BIRD did by itself since the last look.
        let found = self.observed(&protocols);
        let mut changes = self.changes_to(&found);
        let mut problems: Vec<Option<String>> = vec![None; self.carriers.len()];
        let any = wanted.states.iter().any(|&state| state > State::Withdrawn);
        let mut sent = false;
        // What must not be announced goes first: the device, once it is up, is up for all.
        for withdraw in [true, false] {
            for (index, (carrier, &state)) in self.carriers.iter().zip(&wanted.states).enumerate() {
                if (state == State::Withdrawn) == withdraw {
                    let missing = commands(carrier, state, &protocols);
                    let unsettled = &mut self.unsettled[index];
                    *unsettled = if missing.is_empty() { 0 } else { unsettled.saturating_add(1) };
                    if *unsettled > EAGER && !unsettled.is_multiple_of(SELDOM) {
                        // It was refused, or undone by somebody else: said once a second, and no more.
                        problems[index] = self.report.borrow().problems[index].clone().or(problems[index].take());
                        continue;
                    }
                    sent |= !missing.is_empty();
                    let problem = carry_out(bird, &missing).await?;
                    problems[index] = problem.or(problems[index].take());
                }
            }
            let ready = any && problems.iter().all(Option::is_none);
            if withdraw && (ready || !any) {
                self.set_link(any, &mut problems);
            }
        }
        if sent {
            protocols = bird.protocols().await?;
        }
        let states = self.observed(&protocols);
        count(&mut changes, &found, &states);
        for (problem, (carrier, &state)) in problems.iter_mut().zip(self.carriers.iter().zip(&wanted.states)) {
            // An edge that does not announce it need not be able to.
            if let (None, true, Some(name)) = (&problem, state > State::Withdrawn, carrier.missing(&protocols)) {
                *problem = Some(format!("BIRD has no protocol {name}: add it to BIRD's config, or correct [anycast]"));
            }
        }
        let done = (states == wanted.states).then_some(wanted.generation);
        self.tell(|old| Report { bird: Ok(()), states, changes, problems, carried_out: done.unwrap_or(old.carried_out) });
        Ok(())
    }

    /// BIRD cannot be asked. What is to be withdrawn can be withdrawn all the same: without the device there are no routes.
    fn without_bird(&mut self, error: &BirdError) {
        let wanted = self.wanted.borrow_and_update().clone();
        let leave = wanted.states.iter().all(|&state| state == State::Withdrawn);
        let mut problems: Vec<Option<String>> = vec![None; self.carriers.len()];
        if leave {
            self.set_link(false, &mut problems);
        }
        let gone = error.is_dead() || !self.link_up;
        let states = if gone { vec![State::Withdrawn; problems.len()] } else { self.report.borrow().states.clone() };
        let changes = self.changes_to(&states);
        self.tell(|old| Report {
            bird: Err(error.to_string()),
            states,
            changes,
            carried_out: if gone && leave { wanted.generation } else { old.carried_out },
            problems,
        });
    }

    /// What is said, by the protocols; without the device nothing is.
    fn observed(&self, protocols: &Protocols) -> Vec<State> {
        let observed = |carrier: &Carrier| carrier.observed(protocols).filter(|_| self.link_up).unwrap_or(State::Withdrawn);
        self.carriers.iter().map(observed).collect()
    }

    /// The changes so far and those that lead to `states`.
    fn changes_to(&self, states: &[State]) -> Vec<[u64; 3]> {
        let last = self.report.borrow();
        let mut changes = last.changes.clone();
        count(&mut changes, &last.states, states);
        changes
    }

    fn set_link(&mut self, up: bool, problems: &mut [Option<String>]) {
        match self.link.set(up) {
            Ok(()) => self.link_up = up,
            Err(error) => {
                // One that could not be taken down is still up.
                self.link_up &= !up;
                problems.fill(Some(error.to_string()));
            }
        }
    }

    /// Reports, if there is news.
    fn tell(&self, report: impl FnOnce(&Report) -> Report) {
        self.report.send_if_modified(|old| {
            let new = report(old);
            let news = *old != new;
            *old = new;
            news
        });
    }
}

fn count(changes: &mut [[u64; 3]], from: &[State], to: &[State]) {
    for (changes, (from, to)) in changes.iter_mut().zip(from.iter().zip(to)) {
        changes[*to as usize] += u64::from(from != to);
    }
}

/// Sends commands in their order; what hinders them.
async fn carry_out(bird: &mut Bird, commands: &[Command<'_>]) -> Result<Option<String>, BirdError> {
    for command in commands {
        match bird.command(command).await {
            Ok(()) => tracing::info!(%command, "told BIRD"),
            Err(error) if error.is_fatal() => return Err(error),
            // What would follow rests on it.
            Err(error) => return Ok(Some(error.to_string())),
        }
    }
    Ok(None)
}
