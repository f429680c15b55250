//! An edge that is only imagined: the state that a config and assumed deaths lead to, without a probe or a socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Instant,
};

use endpoint_group::{EndpointId, Health, Name};

use crate::{
    check,
    config::{Config, Host, LoadError},
    control::{endpoints::Exhausted, state::State},
    explain::ExplainError,
    simulate::scenario::ScenarioError,
};

/// Exit status of a question that has no answer.
pub const EXIT_IMPOSSIBLE: u8 = 1;

/// Why a question about an imagined edge has no answer.
#[derive(Debug, thiserror::Error)]
pub enum WhatIfError {
    /// There is no config.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// There are more endpoints than ids.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// A name that the config does not have.
    #[error("cannot take {:?} for dead: {}", .0.name, .0)]
    Name(#[from] UnknownName),
    /// The flow could not exist.
    #[error(transparent)]
    Explain(#[from] ExplainError),
    /// There is no scenario.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
}

impl WhatIfError {
    /// What the command exits with: as `check` does for files, else [`EXIT_IMPOSSIBLE`].
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Config(LoadError::Read { .. }) | Self::Scenario(ScenarioError::Read { .. }) => check::EXIT_NO_INPUT,
            Self::Config(LoadError::Invalid { .. }) | Self::Scenario(ScenarioError::Invalid { .. }) => check::EXIT_CONFIG,
            Self::Exhausted(_) | Self::Name(_) | Self::Explain(_) => EXIT_IMPOSSIBLE,
        }
    }
}

/// A name of neither an endpoint nor a group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no endpoint or endpoint group of that name; {hint}")]
pub struct UnknownName {
    /// As given.
    pub name: String,
    /// What was perhaps meant, or what there is.
    pub hint: String,
}

/// Who can be named.
#[derive(Debug, Clone)]
pub struct Names {
    endpoints: BTreeMap<Name, EndpointId>,
    groups: BTreeMap<Name, Vec<EndpointId>>,
}

impl Names {
    /// The names of `state`'s config.
    pub fn of(state: &State) -> Self {
        let mut names = Self { endpoints: BTreeMap::new(), groups: BTreeMap::new() };
        for (index, group) in state.config().endpoint_groups.iter().enumerate() {
            let members = || state.endpoints().of_group(index);
            names.endpoints.extend(members().map(|entry| (entry.target.name.clone(), entry.id)));
            names.groups.insert(group.group.name.clone(), members().map(|entry| entry.id).collect());
        }
        names
    }

    /// The endpoint of this name, else all endpoints of the group of this name. Where both have it the endpoint is meant: the
    /// group can still be said by its endpoints.
    pub fn resolve(&self, name: &str) -> Result<&[EndpointId], UnknownName> {
        let endpoint = self.endpoints.get(name).map(std::slice::from_ref);
        let group = || self.groups.get(name).map(Vec::as_slice);
        endpoint.or_else(group).ok_or_else(|| self.unknown(name, true))
    }

    /// The endpoint of this name.
    pub fn endpoint(&self, name: &str) -> Result<EndpointId, UnknownName> {
        self.endpoints.get(name).copied().ok_or_else(|| self.unknown(name, false))
    }

    fn unknown(&self, name: &str, groups: bool) -> UnknownName {
        let known = || self.groups.keys().filter(|_| groups).chain(self.endpoints.keys()).map(Name::as_str);
        UnknownName { name: name.to_owned(), hint: hint(name, known) }
    }
}

/// `did you mean "x"?` for the closest of `known`, else what there is, as far as that can be read.
pub(crate) fn hint<'k, I: Iterator<Item = &'k str>>(text: &str, known: impl Fn() -> I) -> String {
    const SHOWN: usize = 8;
    let score = |candidate: &str| strsim::jaro_winkler(text, candidate);
    // Of equally close names the first.
    let best = known().fold(None, |best: Option<&str>, next| match best {
        Some(best) if score(best) >= score(next) => Some(best),
        _ => Some(next),
    });
    if let Some(best) = best.filter(|best| score(best) > 0.8) {
        return format!("did you mean {best:?}?");
    }
    format!("use one of {}", shortened(known(), SHOWN))
}

/// The first `most` of `words`, and how many more there are.
pub(crate) fn shortened<W: AsRef<str>>(words: impl Iterator<Item = W>, most: usize) -> String {
    let words: Vec<W> = words.collect();
    let mut text = words.iter().take(most).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if words.len() > most {
        text.push_str(&format!(" and {} more", words.len() - most));
    }
    text
}

/// The config at `path`, as this host reads it.
pub fn load(path: &Path) -> Result<Config, WhatIfError> {
    Ok(Config::load(path, &Host::detect())?)
}

/// An edge under `config` on which every endpoint has been healthy from the start, except those of `down`, which have been dead.
pub fn imagine(config: Config, down: &[String], now: Instant) -> Result<State, WhatIfError> {
    let mut state = State::new(config, now)?;
    let names = Names::of(&state);
    let mut dead: BTreeSet<EndpointId> = BTreeSet::new();
    for name in down {
        dead.extend(names.resolve(name)?);
    }
    let ids: Vec<EndpointId> = state.endpoints().entries().iter().map(|entry| entry.id).collect();
    for id in ids {
        state.assume(id, if dead.contains(&id) { Health::Unhealthy } else { Health::Healthy }, now);
    }
    state.rebuild(now);
    Ok(state)
}
