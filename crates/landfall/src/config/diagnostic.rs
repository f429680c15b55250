//! What is wrong in a file, where, and what would be right.

use std::{fmt, path::Path};

/// One finding in a config file: an error or a warning.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// Line in the file, from 1.
    pub line: usize,
    /// Dotted path of the key, list elements by index from 0: `listeners[0].ports[1]`.
    pub key: String,
    /// What is wrong.
    pub reason: String,
    /// What would be right.
    pub cure: String,
}

impl Diagnostic {
    /// The finding on one line, as compilers print theirs: `FILE:LINE: KEY: reason; cure`.
    pub fn render(&self, file: &Path) -> String {
        format!("{}:{self}", file.display())
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}; {}", self.line, self.key, self.reason, self.cure)
    }
}

/// Every error of one file, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} in the config: {}", count(.0.len()), .0.iter().map(|d| format!("line {d}")).collect::<Vec<_>>().join(" | "))]
pub struct ConfigErrors(pub Vec<Diagnostic>);

fn count(errors: usize) -> String {
    if errors == 1 { "1 error".to_owned() } else { format!("{errors} errors") }
}

/// What is wrong with a value, before it is known where the value stands.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) reason: String,
    pub(super) cure: String,
}

impl Fault {
    pub(super) fn new(reason: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { reason: reason.into(), cure: cure.into() }
    }

    /// A value or key of the contract that this version does not know how to honour.
    pub(super) fn later(what: impl fmt::Display, cure: impl Into<String>) -> Self {
        Self::new(format!("{what} is not supported yet"), cure)
    }
}

/// Where a key stands, kept beside its value for checks that need more than one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) key: String,
    pub(super) line: usize,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Marked<T> {
    pub(super) value: T,
    pub(super) at: Mark,
}

/// `did you mean "x"?` for the closest of `known`, if one is close.
pub(super) fn did_you_mean<'k>(text: &str, known: impl IntoIterator<Item = &'k str>) -> Option<String> {
    let score = |candidate: &str| strsim::jaro_winkler(text, candidate);
    let best = known.into_iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) > 0.8).then(|| format!("did you mean {best:?}?"))
}

/// `"a", "b" or "c"`.
pub(super) fn one_of<'k>(known: impl IntoIterator<Item = &'k str>) -> String {
    let quoted: Vec<_> = known.into_iter().map(|word| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_like_a_compiler_message() {
        let finding = Diagnostic { line: 7, key: "a.b".into(), reason: "is wrong".into(), cure: "write right".into() };
        assert_eq!(finding.render(Path::new("x.toml")), "x.toml:7: a.b: is wrong; write right");
        assert_eq!(ConfigErrors(vec![finding]).to_string(), "1 error in the config: line 7: a.b: is wrong; write right");
    }

    #[test]
    fn suggests_only_what_is_close() {
        assert_eq!(did_you_mean("prots", ["ports", "name"]), Some("did you mean \"ports\"?".into()));
        assert_eq!(did_you_mean("zzz", ["ports", "name"]), None);
        assert_eq!(one_of(["a", "b", "c"]), r#""a", "b" or "c""#);
    }
}
