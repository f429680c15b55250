//! The config as its file has it, and what is known of its DNS names; together they give the config that is in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    config::{Addresses, Config},
    resolve::Resolution,
};

/// What became of the last lookup of a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Last {
    /// There was none yet.
    #[default]
    None,
    Good,
    Failed(String),
}

/// What a lookup changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Learned {
    /// Nothing that anybody must hear of.
    Nothing,
    /// The name has other addresses than before.
    Addresses,
    /// It cannot be looked up any more, or for another reason than before; it keeps the addresses that it had.
    Failed(String),
    /// It can be looked up again, and has the addresses that it had.
    Recovered,
}

/// The file and its names.
#[derive(Debug)]
pub struct Names {
    file: Config,
    known: Addresses,
    last: BTreeMap<String, Last>,
}

impl Names {
    /// Nothing is known yet of the names of `file`.
    pub fn new(file: Config) -> Self {
        let last = file.hosts().into_iter().map(|host| (host.to_owned(), Last::None)).collect();
        Self { file, known: Addresses::new(), last }
    }

    /// The config as its file has it.
    pub fn file(&self) -> &Config {
        &self.file
    }

    /// The config in force: names replaced by what is known of them.
    pub fn config(&self) -> Config {
        self.file.resolved(&self.known)
    }

    /// Replaces the file; what is known of names that stay stays.
    pub fn replace(&mut self, file: Config) {
        let hosts: BTreeSet<String> = file.hosts().into_iter().map(str::to_owned).collect();
        self.file = file;
        self.known.retain(|host, _| hosts.contains(host));
        self.last.retain(|host, _| hosts.contains(host));
        for host in hosts {
            self.last.entry(host).or_default();
        }
    }

    /// Takes in a lookup. One of a name that has left the file teaches nothing.
    pub fn learn(&mut self, resolution: &Resolution) -> Learned {
        let Resolution { host, outcome } = resolution;
        let Some(last) = self.last.get_mut(host) else { return Learned::Nothing };
        match outcome {
            Ok(addresses) => {
                let failed = matches!(std::mem::replace(last, Last::Good), Last::Failed(_));
                if self.known.get(host) != Some(addresses) {
                    self.known.insert(host.clone(), addresses.clone());
                    return Learned::Addresses;
                }
                if failed { Learned::Recovered } else { Learned::Nothing }
            }
            Err(reason) => {
                let failed = Last::Failed(reason.clone());
                let news = *last != failed;
                *last = failed;
                if news { Learned::Failed(reason.clone()) } else { Learned::Nothing }
            }
        }
    }

    /// The names that have not been looked up yet: nobody knows their endpoints.
    pub fn waiting(&self) -> impl Iterator<Item = &str> {
        self.last.iter().filter(|(_, last)| **last == Last::None).map(|(host, _)| host.as_str())
    }

    /// Every name with its addresses, and why its last lookup failed if it did.
    pub fn known(&self) -> impl Iterator<Item = (&str, Vec<IpAddr>, Option<&str>)> {
        self.last.iter().map(|(host, last)| {
            let failed = match last {
                Last::Failed(reason) => Some(reason.as_str()),
                Last::None | Last::Good => None,
            };
            (host.as_str(), self.known.get(host).into_iter().flatten().copied().collect(), failed)
        })
    }
}
