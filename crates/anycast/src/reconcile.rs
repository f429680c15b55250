//! What is wanted, and what BIRD says → the commands that are missing. Pure.

use std::{collections::BTreeMap, fmt};

use crate::State;

/// The protocols of BIRD by name, and whether each is up.
pub type Protocols = BTreeMap<String, bool>;

/// The static protocols of BIRD that carry the route of one static IP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carrier {
    /// Up when it is announced.
    pub normal: String,
    /// Up when it is depreferred.
    pub low: Option<String>,
}

impl Carrier {
    /// What BIRD says of the static IP; `None` if it does not know the protocol.
    pub fn observed(&self, protocols: &Protocols) -> Option<State> {
        let low = self.low.as_ref().is_some_and(|low| protocols.get(low) == Some(&true));
        match protocols.get(&self.normal)? {
            true => Some(State::Announced),
            false if low => Some(State::Depreferred),
            false => Some(State::Withdrawn),
        }
    }

    /// The protocols that BIRD does not have.
    pub fn missing<'a>(&'a self, protocols: &Protocols) -> Option<&'a str> {
        let mut names = [Some(&self.normal), self.low.as_ref()].into_iter().flatten();
        names.find(|name| !protocols.contains_key(*name)).map(String::as_str)
    }
}

/// What BIRD is told to do with a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command<'a> {
    /// Up or down.
    pub enable: bool,
    /// Which one.
    pub protocol: &'a str,
}

impl fmt::Display for Command<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.enable { "enable" } else { "disable" };
        write!(f, "{verb} {}", self.protocol)
    }
}

/// The commands that bring `carrier` from what BIRD says to `wanted`, in order; none if nothing differs.
///
/// Between announced and depreferred the new route comes before the old one goes, so there is always one. A withdrawal takes the
/// lesser route first, so that nobody sees the better one replaced by it.
///
/// What BIRD does not have cannot be commanded: a protocol that is missing is left out, and the other kept if it is all there is.
pub fn commands<'a>(carrier: &'a Carrier, wanted: State, protocols: &Protocols) -> Vec<Command<'a>> {
    let (normal, low) = (carrier.normal.as_str(), carrier.low.as_deref());
    let is = |protocol: &str, up: bool| protocols.get(protocol) == Some(&up);
    let enable = |protocol| Command { enable: true, protocol };
    let disable = |protocol| Command { enable: false, protocol };
    let mut commands = Vec::new();
    // First what comes, then what goes.
    let (comes, goes): (Option<&str>, [Option<&str>; 2]) = match wanted {
        State::Announced => (Some(normal), [low, None]),
        // Without a way to deprefer, the route stays as it is.
        State::Depreferred => (low, [low.map(|_| normal), None]),
        State::Withdrawn => (None, [low, Some(normal)]),
    };
    commands.extend(comes.filter(|name| is(name, false)).map(enable));
    let replaced = comes.is_none_or(|name| protocols.contains_key(name));
    commands.extend(goes.into_iter().flatten().filter(|name| replaced && is(name, true)).map(disable));
    commands
}
