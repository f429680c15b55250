//! A table of the file, read key by key.
//!
//! A [`Section`] hands out keys by name, remembers which it was asked for, and says which of the file's keys nobody wanted.
//! Nothing here stops at the first error: a key that cannot be read is reported and yields `None`, and reading goes on.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    diagnostic::{Diagnostic, Fault, Mark, did_you_mean, one_of},
    syntax::{Damage, Lines},
};

/// Collects what is found in one file.
pub(super) struct Report {
    lines: Lines,
    damage: Damage,
    errors: RefCell<Vec<Diagnostic>>,
    warnings: RefCell<Vec<Diagnostic>>,
    /// Every key that the readers asked for, list indices dropped: `listeners[].ports`.
    asked: RefCell<BTreeSet<String>>,
    /// Errors, and those not worth telling because a syntax error explains them.
    failures: Cell<usize>,
}

impl Report {
    pub(super) fn new(text: &str, damage: Damage) -> Self {
        let errors = RefCell::new(damage.errors.clone());
        Self {
            lines: Lines::of(text),
            damage,
            errors,
            warnings: RefCell::default(),
            asked: RefCell::default(),
            failures: Cell::default(),
        }
    }

    pub(super) fn error(&self, at: &Mark, fault: Fault) {
        self.failures.set(self.failures.get() + 1);
        if !self.damage.covers(at.line) {
            self.errors.borrow_mut().push(diagnostic(at, fault));
        }
    }

    /// An error that rests on an absence, at the key that is absent or whose counterpart is: a syntax error may explain it.
    pub(super) fn absent(&self, at: &Mark, fault: Fault) {
        if self.damage.may_hide(&at.key) {
            self.failures.set(self.failures.get() + 1);
        } else {
            self.error(at, fault);
        }
    }

    /// Whether what the file seems to say on this line is to be believed.
    pub(super) fn believes(&self, at: &Mark) -> bool {
        !self.damage.covers(at.line)
    }

    pub(super) fn warn(&self, at: &Mark, fault: Fault) {
        self.warnings.borrow_mut().push(diagnostic(at, fault));
    }

    /// Errors and warnings in the order of their lines, and the keys asked for.
    pub(super) fn into_parts(self) -> (Vec<Diagnostic>, Vec<Diagnostic>, BTreeSet<String>) {
        let (mut errors, mut warnings) = (self.errors.into_inner(), self.warnings.into_inner());
        errors.sort_by_key(|error| error.line);
        warnings.sort_by_key(|warning| warning.line);
        (errors, warnings, self.asked.into_inner())
    }
}

fn diagnostic(at: &Mark, fault: Fault) -> Diagnostic {
    Diagnostic { line: at.line, key: at.key.clone(), reason: fault.reason, cure: fault.cure }
}

/// One value of the file.
#[derive(Clone)]
pub(super) struct Item<'a> {
    pub(super) value: &'a DeValue<'a>,
    pub(super) at: Mark,
    report: &'a Report,
}

impl<'a> Item<'a> {
    fn new(report: &'a Report, key: String, value: &'a Spanned<DeValue<'a>>) -> Self {
        let line = report.lines.line(value.span().start);
        Self { value: value.get_ref(), at: Mark { key, line }, report }
    }

    /// Reads the value with `parse`, or reports why that fails.
    pub(super) fn read<T>(&self, parse: impl FnOnce(&Self) -> Result<T, Fault>) -> Option<T> {
        if !self.report.believes(&self.at) {
            self.report.failures.set(self.report.failures.get() + 1);
        }
        parse(self).map_err(|fault| self.report.error(&self.at, fault)).ok()
    }

    /// The value's text.
    pub(super) fn text(&self, cure: &str) -> Result<&'a str, Fault> {
        self.value.as_str().ok_or_else(|| self.not("a text", cure))
    }

    /// The elements of a list; reports and yields none if the value is not one.
    pub(super) fn elements(&self, cure: &str) -> Vec<Item<'a>> {
        match self.value.as_array() {
            Some(array) => {
                let element = |(index, value)| Item::new(self.report, format!("{}[{index}]", self.at.key), value);
                array.iter().enumerate().map(element).collect()
            }
            None => {
                self.report.error(&self.at, self.not("a list", cure));
                Vec::new()
            }
        }
    }

    /// The value as a table; reports if it is not one.
    pub(super) fn section(&self, cure: &str) -> Option<Section<'a>> {
        let table = self.read(|item| item.value.as_table().ok_or_else(|| item.not("a table", cure)))?;
        Some(Section { table, at: self.at.clone(), report: self.report, known: Vec::new() })
    }

    pub(super) fn not(&self, wanted: &str, cure: &str) -> Fault {
        let article = if self.value.type_str().starts_with(['a', 'i']) { "an" } else { "a" };
        let kind = match self.value {
            DeValue::Array(_) => "list",
            DeValue::String(_) => "text",
            other => other.type_str(),
        };
        let article = if kind == "list" { "a" } else { article };
        Fault::new(format!("{article} {kind} where {wanted} belongs"), cure)
    }
}

/// One table of the file.
pub(super) struct Section<'a> {
    table: &'a DeTable<'a>,
    pub(super) at: Mark,
    pub(super) report: &'a Report,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(super) fn root(table: &'a DeTable<'a>, report: &'a Report) -> Self {
        Self { table, at: Mark { key: String::new(), line: 1 }, report, known: Vec::new() }
    }

    fn path(&self, key: &str) -> String {
        let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let key = if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { format!("{key:?}") };
        if self.at.key.is_empty() { key } else { format!("{}.{key}", self.at.key) }
    }

    /// Where `key` would stand: for errors about its absence.
    pub(super) fn mark(&self, key: &str) -> Mark {
        Mark { key: self.path(key), line: self.at.line }
    }

    /// The value of `key`, if it is there.
    pub(super) fn item(&mut self, key: &'static str) -> Option<Item<'a>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let path = self.path(key);
        self.report.asked.borrow_mut().insert(path.split('[').map(after_index).collect());
        self.table.get(key).map(|value| Item::new(self.report, path, value))
    }

    /// The value of `key` through `parse`; `None` if it is absent, or wrong and reported.
    pub(super) fn get<T>(&mut self, key: &'static str, parse: impl FnOnce(&Item<'a>) -> Result<T, Fault>) -> Option<T> {
        self.item(key)?.read(parse)
    }

    /// Like [`Section::get`], and its absence is an error.
    pub(super) fn need<T>(
        &mut self,
        key: &'static str,
        cure: &str,
        parse: impl FnOnce(&Item<'a>) -> Result<T, Fault>,
    ) -> Option<T> {
        self.need_item(key, cure)?.read(parse)
    }

    /// Like [`Section::item`], and its absence is an error.
    pub(super) fn need_item(&mut self, key: &'static str, cure: &str) -> Option<Item<'a>> {
        let item = self.item(key);
        if item.is_none() {
            self.report.absent(&self.mark(key), Fault::new("missing", cure));
        }
        item
    }

    /// Keys of the contract that this version does not honour: refused, never ignored.
    pub(super) fn later(&mut self, keys: &[&'static str]) {
        for key in keys {
            if let Some(item) = self.item(key) {
                self.report.error(&item.at, Fault::later(key, format!("remove {key}")));
            }
        }
    }

    /// All keys, for a table whose keys are the operator's choice.
    pub(super) fn entries(self) -> Vec<(&'a str, Item<'a>)> {
        let entry = |(key, value): (&'a Spanned<_>, &'a Spanned<DeValue<'a>>)| {
            let key: &'a std::borrow::Cow<'a, str> = key.get_ref();
            (key.as_ref(), Item::new(self.report, self.path(key), value))
        };
        self.table.iter().map(entry).collect()
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(self) {
        for (key, value) in self.table {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let line = self.report.lines.line(key.span().start.min(value.span().start));
            let cure = did_you_mean(name, self.known.iter().copied())
                .unwrap_or_else(|| format!("keys here are {}", one_of(self.known.iter().copied())));
            self.report.error(&Mark { key: self.path(name), line }, Fault::new("unknown key", cure));
        }
    }
}

/// The part of a path behind `[`, its list index dropped.
fn after_index(part: &str) -> String {
    match part.split_once(']') {
        Some((_, rest)) => format!("[]{rest}"),
        None => part.to_owned(),
    }
}

/// Remembers whether any error was reported since it was made.
pub(super) struct Watch<'a> {
    report: &'a Report,
    before: usize,
}

impl<'a> Watch<'a> {
    pub(super) fn new(report: &'a Report) -> Self {
        Self { report, before: report.failures.get() }
    }

    /// Whether nothing went wrong since.
    pub(super) fn clean(&self) -> bool {
        self.report.failures.get() == self.before
    }
}
