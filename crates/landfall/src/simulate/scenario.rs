//! The scenario file: what happens, and when.
//!
//! ```toml
//! [[events]]
//! at = "10s"                  # from the start; ascending
//! down = ["eu-1", "us"]       # endpoints, or all of a group
//! [[events]]
//! at = "1m"
//! up = ["eu-1"]
//! weight = { eu-2 = 0 }
//! ```

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use endpoint_group::{EndpointId, Weight};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::Event;
use crate::{
    config::Diagnostic,
    explain::what_if::{Names, UnknownName, hint},
};

const KEYS: [&str; 4] = ["at", "down", "up", "weight"];
/// As in the config: far beyond any use, and small enough that no sum of times overflows.
const LATEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why there is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("cannot read the scenario {}: {source}; name a file that this user may read", path.display())]
    Read {
        /// As given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file has errors.
    #[error("{}", .errors.iter().map(|error| error.render(path)).collect::<Vec<_>>().join("\n"))]
    Invalid {
        /// As given.
        path: PathBuf,
        /// All of them, in the order of their lines.
        errors: Vec<Diagnostic>,
    },
}

/// Reads the scenario at `path`.
pub fn read(path: &Path, names: &Names) -> Result<Vec<Event>, ScenarioError> {
    let text = std::fs::read_to_string(path).map_err(|source| ScenarioError::Read { path: path.to_owned(), source })?;
    parse(&text, names).map_err(|errors| ScenarioError::Invalid { path: path.to_owned(), errors })
}

/// The events of `text`, or every error in it; of errors in the syntax the first.
pub fn parse(text: &str, names: &Names) -> Result<Vec<Event>, Vec<Diagnostic>> {
    let mut reader = Reader { text, names, errors: Vec::new() };
    let events = match DeTable::parse(text) {
        Ok(root) => reader.root(root.get_ref()),
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            reader.error(at, "syntax", error.message(), "write it as TOML 1.0 has it, https://toml.io");
            Vec::new()
        }
    };
    reader.errors.sort_by_key(|error| error.line);
    if reader.errors.is_empty() { Ok(events) } else { Err(reader.errors) }
}

struct Reader<'t> {
    text: &'t str,
    names: &'t Names,
    errors: Vec<Diagnostic>,
}

impl Reader<'_> {
    fn error(&mut self, offset: usize, key: &str, reason: impl Into<String>, cure: impl Into<String>) {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        self.errors.push(Diagnostic { line, key: key.to_owned(), reason: reason.into(), cure: cure.into() });
    }

    fn unknown_keys(&mut self, table: &DeTable<'_>, path: &str, known: &[&str]) {
        for key in table.keys().filter(|key| !known.contains(&&**key.get_ref())) {
            let name: &str = key.get_ref();
            let cure = hint(name, || known.iter().copied());
            self.error(key.span().start, &format!("{path}{name}"), "unknown key", cure);
        }
    }

    fn root(&mut self, root: &DeTable<'_>) -> Vec<Event> {
        const CURE: &str = "write [[events]], and under it at = \"10s\" and what happens then, such as down = [\"eu-1\"]";
        self.unknown_keys(root, "", &["events"]);
        let Some(list) = root.get("events") else {
            self.error(0, "events", "missing", CURE);
            return Vec::new();
        };
        let mut events: Vec<Event> = Vec::new();
        for (index, item) in list.get_ref().as_array().into_iter().flat_map(|list| list.iter()).enumerate() {
            let path = format!("events[{index}]");
            match item.get_ref().as_table() {
                Some(table) => {
                    let latest = events.last().map(|event| event.at);
                    events.extend(self.event(table, item.span().start, &path, latest));
                }
                None => self.error(item.span().start, &path, "not a table", CURE),
            }
        }
        if list.get_ref().as_array().is_none_or(|list| list.is_empty()) {
            self.error(list.span().start, "events", "not a list of tables", CURE);
        }
        events
    }

    fn event(&mut self, table: &DeTable<'_>, offset: usize, path: &str, latest: Option<Duration>) -> Option<Event> {
        self.unknown_keys(table, &format!("{path}."), &KEYS);
        let at = self.at(table, offset, path, latest);
        let mut what = Vec::new();
        let mut seen = BTreeSet::new();
        let mut event = Event::default();
        for (key, list) in [("down", &mut event.down), ("up", &mut event.up)] {
            if let Some(item) = table.get(key) {
                let words = self.endpoints(item, &format!("{path}.{key}"), list, &mut seen);
                what.push(format!("{key} {}", words.join(", ")));
            }
        }
        if let Some(item) = table.get("weight") {
            let words = self.weights(item, &format!("{path}.weight"), &mut event.weights);
            what.push(format!("weight {}", words.join(", ")));
        }
        if what.is_empty() {
            self.error(offset, path, "nothing happens", "name who goes down or up, or set a weight");
        }
        Some(Event { at: at?, what: what.join("; "), ..event })
    }

    fn at(&mut self, table: &DeTable<'_>, offset: usize, path: &str, latest: Option<Duration>) -> Option<Duration> {
        const CURE: &str = "write the time from the start, of at most 7 days, with its unit, such as \"10s\" or \"1m 30s\"";
        let path = format!("{path}.at");
        let Some(item) = table.get("at") else {
            self.error(offset, &path, "missing", CURE);
            return None;
        };
        let at = item.get_ref().as_str().and_then(|text| humantime::parse_duration(text).ok()).filter(|at| *at <= LATEST);
        let Some(at) = at else {
            self.error(item.span().start, &path, "not a time", CURE);
            return None;
        };
        if latest.is_some_and(|latest| at <= latest) {
            let cure = "list events in the order of their times, and what happens at one time in one event";
            self.error(item.span().start, &path, "not later than the event before it", cure);
        }
        Some(at)
    }

    /// Adds the endpoints that `item` names to `list`, none of which may be in `seen`; the names as written.
    fn endpoints(
        &mut self,
        item: &Spanned<DeValue<'_>>,
        path: &str,
        list: &mut Vec<EndpointId>,
        seen: &mut BTreeSet<EndpointId>,
    ) -> Vec<String> {
        const CURE: &str = "list names of endpoints or endpoint groups, such as [\"eu-1\", \"us\"]";
        let mut words = Vec::new();
        let elements = item.get_ref().as_array().filter(|elements| !elements.is_empty());
        if elements.is_none() {
            self.error(item.span().start, path, "not a list of names", CURE);
        }
        for (index, element) in elements.into_iter().flat_map(|elements| elements.iter()).enumerate() {
            let (at, path) = (element.span().start, format!("{path}[{index}]"));
            let Some(name) = element.get_ref().as_str() else {
                self.error(at, &path, "not a name", CURE);
                continue;
            };
            match self.names.resolve(name) {
                Ok(ids) if ids.iter().all(|&id| seen.insert(id)) => list.extend(ids),
                Ok(_) => self.error(at, &path, format!("{name:?} is named twice at one time"), "keep one of the two"),
                Err(UnknownName { hint, .. }) => {
                    self.error(at, &path, format!("no endpoint or endpoint group {name:?}"), hint);
                }
            }
            words.push(name.to_owned());
        }
        words
    }

    fn weights(&mut self, item: &Spanned<DeValue<'_>>, path: &str, list: &mut Vec<(EndpointId, Weight)>) -> Vec<String> {
        const CURE: &str = "write endpoints and their weights of 0 to 255, such as { eu-2 = 0 }; a name with a dot needs quotes";
        let mut words = Vec::new();
        let Some(table) = item.get_ref().as_table().filter(|table| !table.is_empty()) else {
            self.error(item.span().start, path, "not a table of weights", CURE);
            return words;
        };
        for (key, value) in table {
            let name: &str = key.get_ref();
            let path = format!("{path}.{name}");
            let number = value.get_ref().as_integer();
            let number = number.and_then(|number| u8::from_str_radix(number.as_str(), number.radix()).ok());
            match (self.names.endpoint(name), number) {
                (Ok(id), Some(weight)) => {
                    list.push((id, Weight::new(weight)));
                    words.push(format!("{name} = {weight}"));
                }
                (Err(UnknownName { hint, .. }), _) => self.error(key.span().start, &path, format!("no endpoint {name:?}"), hint),
                (_, None) => self.error(value.span().start, &path, "not a weight", CURE),
            }
        }
        words
    }
}
