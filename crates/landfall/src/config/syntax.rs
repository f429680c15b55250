//! TOML text → a tree of values with positions, and every syntax error beside it.
//!
//! The parser goes on after an error, but some errors make it lose what follows. Two of those are repaired here so that one
//! mistake yields one error and the rest of the file is still read: a key without a value ends the parsing, and an array or
//! inline table that is never closed swallows what follows. Their lines are blanked and the text is parsed again.

use std::{borrow::Cow, ops::RangeInclusive};

use toml::{
    Spanned,
    de::{DeTable, Error},
};

use super::diagnostic::Diagnostic;

/// Blanking ends after this many lines, so that a file that is not TOML at all costs a bounded number of passes.
const MOST_REPAIRS: usize = 64;

/// Stands for the key of an error on a line that begins with none.
const NO_KEY: &str = "syntax";

/// Byte offset → line.
#[derive(Debug)]
pub(super) struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        let after_breaks = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at + 1);
        Self { starts: std::iter::once(0).chain(after_breaks).collect() }
    }

    /// The line of a byte, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset)
    }
}

/// Syntax errors, and how far the tree can be believed.
#[derive(Debug, Default)]
pub(super) struct Damage {
    pub(super) errors: Vec<Diagnostic>,
    /// Lines that were blanked.
    lost: Vec<RangeInclusive<usize>>,
    /// From this line on the tree is a consequence of an error.
    swallowed_from: Option<usize>,
    /// Whether more may be lost than the keys that the errors name, such as a table's header.
    structural: bool,
}

impl Damage {
    /// Whether what the tree says about `line` may be a consequence of a syntax error.
    pub(super) fn covers(&self, line: usize) -> bool {
        self.swallowed_from.is_some_and(|from| line >= from)
            || self.lost.iter().any(|lines| lines.contains(&line))
            || self.errors.iter().any(|error| error.line == line)
    }

    /// Whether `key` may be absent from the tree only because of a syntax error.
    pub(super) fn may_hide(&self, key: &str) -> bool {
        let last = |key: &str| key.rsplit('.').next().and_then(|last| last.split('[').next()).map(str::to_owned);
        self.structural || self.swallowed_from.is_some() || self.errors.iter().any(|error| last(&error.key) == last(key))
    }
}

/// A stretch of text that stops the parser, or makes it lose what follows.
#[derive(Debug)]
struct Lost {
    lines: RangeInclusive<usize>,
    message: String,
}

/// The text without the stretches that stop the parser; same offsets, same line numbers.
#[derive(Debug)]
pub(super) struct Repaired<'t> {
    original: &'t str,
    text: Cow<'t, str>,
    lost: Vec<Lost>,
}

impl<'t> Repaired<'t> {
    pub(super) fn new(original: &'t str) -> Self {
        let lines = Lines::of(original);
        let mut repaired = Self { original, text: Cow::Borrowed(original), lost: Vec::new() };
        for _ in 0..MOST_REPAIRS {
            let (_, errors) = DeTable::parse_recoverable(&repaired.text);
            let lost = no_value(&errors, &lines).or_else(|| never_closed(&errors, &lines, &repaired.text));
            let Some(lost) = lost else { break };
            let blanked = blank(&repaired.text, &lost.lines);
            if *blanked == *repaired.text {
                break;
            }
            repaired.text = Cow::Owned(blanked);
            repaired.lost.push(lost);
        }
        repaired
    }

    /// The tree, and every syntax error.
    pub(super) fn parse(&self) -> (Spanned<DeTable<'_>>, Damage) {
        let lines = Lines::of(self.original);
        let (tree, left) = DeTable::parse_recoverable(&self.text);
        let swallowed_from = if left.iter().any(is_unclosed) { symptom(&left, &lines) } else { None };
        let left = left.iter().map(|error| (line_of(error, &lines), error.message().to_owned()));
        let mut found: Vec<_> = self.lost.iter().map(|lost| (*lost.lines.start(), lost.message.clone())).chain(left).collect();
        // Stable: of several errors on one line the parser's first is the cause.
        found.sort_by_key(|(line, _)| *line);

        let lost = self.lost.iter().map(|lost| lost.lines.clone()).collect();
        let mut damage = Damage { lost, swallowed_from, ..Damage::default() };
        for (line, message) in found {
            let repeated = damage.errors.last().is_some_and(|last| last.line == line);
            if repeated || swallowed_from.is_some_and(|from| line > from) {
                continue;
            }
            let content = self.original.split('\n').nth(line - 1).unwrap_or_default().trim_start();
            let error = describe(line, &message, content);
            damage.structural |= error.key == NO_KEY || content.starts_with('[') || message.contains("multi-line");
            damage.errors.push(error);
        }
        (tree, damage)
    }
}

/// A key without a value, at which the parser stops.
fn no_value(errors: &[Error], lines: &Lines) -> Option<Lost> {
    let stop = errors.iter().find(|error| error.message().starts_with("key with no value"))?;
    let line = line_of(stop, lines);
    Some(Lost { lines: line..=line, message: stop.message().to_owned() })
}

/// An array or inline table that takes in what stands behind it: from its key to the next header, or to where it shows.
fn never_closed(errors: &[Error], lines: &Lines, text: &str) -> Option<Lost> {
    let unclosed = errors.iter().find(|error| is_unclosed(error))?;
    let shows = symptom(errors, lines)?;
    let before: Vec<_> = text.split('\n').zip(1..).take_while(|(_, line)| *line < shows).collect();
    let (_, opens) = before.iter().rev().find(|(content, _)| begins_with_key(content))?;
    let header = before.iter().skip(*opens).find(|(content, _)| content.starts_with('['));
    let ends = header.map_or(shows, |(_, line)| *line) - 1;
    Some(Lost { lines: *opens..=ends, message: unclosed.message().to_owned() })
}

fn is_unclosed(error: &Error) -> bool {
    error.message().starts_with("unclosed array,") || error.message().starts_with("unclosed inline table")
}

/// The line on which an array or inline table that is never closed first shows.
fn symptom(errors: &[Error], lines: &Lines) -> Option<usize> {
    const SIGNS: [&str; 4] = ["missing comma between", "missing key for inline", "unexpected `=` in array", "unclosed"];
    let shows = |error: &&Error| SIGNS.iter().any(|sign| error.message().starts_with(sign));
    errors.iter().filter(shows).map(|error| line_of(error, lines)).min()
}

fn begins_with_key(content: &str) -> bool {
    let rest = content.trim_start().trim_start_matches(is_bare);
    rest.len() < content.trim_start().len() && rest.trim_start().starts_with('=')
}

fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

fn line_of(error: &Error, lines: &Lines) -> usize {
    error.span().map_or(1, |span| lines.line(span.start))
}

fn blank(text: &str, lines: &RangeInclusive<usize>) -> String {
    let spaces = |c: char| if matches!(c, '\r' | '\n') { c.to_string() } else { " ".repeat(c.len_utf8()) };
    let parts = text.split_inclusive('\n').zip(1..);
    let blanked = |(content, at): (&str, usize)| {
        if lines.contains(&at) { content.chars().map(spaces).collect() } else { content.to_owned() }
    };
    parts.map(blanked).collect()
}

fn describe(line: usize, message: &str, content: &str) -> Diagnostic {
    let cure = match message.split(", expected").next().unwrap_or_default() {
        "string values must be quoted" => "put the value in double quotes",
        "key with no value" => "write key = value",
        "duplicate key" => "keep one of the two",
        "invalid basic string" | "invalid literal string" => "close the text with the quote that opened it",
        "missing comma between array elements" => "put a comma between the values, or close the array with ]",
        "missing comma between key-value pairs" => "put a comma between the keys, or close the table with }",
        "unclosed table" | "unclosed array table" => "close the header with ]",
        "unclosed array" => "close the array with ]",
        "unclosed inline table" => "close the table with }",
        _ => "write it as TOML 1.0 has it, https://toml.io",
    };
    let word = content.split(|c: char| !is_bare(c) && c != '[').next().unwrap_or_default().trim_start_matches('[');
    let key = if word.is_empty() || word.contains('[') { NO_KEY } else { word };
    Diagnostic { line, key: key.to_owned(), reason: message.to_owned(), cure: cure.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<(usize, String)> {
        let repaired = Repaired::new(text);
        let (_, damage) = repaired.parse();
        damage.errors.into_iter().map(|error| (error.line, error.key)).collect()
    }

    #[test]
    fn one_mistake_is_one_error() {
        assert_eq!(errors("a = 1\nb = \"x\nc = 1\n"), [(2, "b".into())]);
        assert_eq!(errors("a 1\n[b]\nc = on\n"), [(1, "a".into()), (3, "c".into())]);
        assert_eq!(errors("a = [1, 2\nb = 1\n[c]\nd = 2\ne 3\n"), [(1, "a".into()), (5, "e".into())]);
        assert_eq!(errors("[x]\na = [\n{ b = 1 },\n[[c]]\nd = 2\ne = on\n"), [(2, "a".into()), (6, "e".into())]);
        assert_eq!(errors("a = { b = 1\n[c]\nd = 2\n[e]\nf = 1\n"), [(1, "a".into())]);
        assert_eq!(errors("a = [\n1\n2,\n]\n"), [(3, "2".into())]);
        assert_eq!(errors("a = 1\na = 2\n"), [(2, "a".into())]);
    }

    #[test]
    fn what_follows_a_line_without_a_value_is_still_read() {
        let repaired = Repaired::new("ä 1\r\nb = 2\n");
        let (tree, damage) = repaired.parse();
        assert_eq!(damage.errors.len(), 1);
        assert!(damage.covers(1) && !damage.covers(2));
        assert!(tree.get_ref().contains_key("b"));
    }

    #[test]
    fn absence_proves_nothing_where_something_was_lost() {
        let damage = |text: &str| Repaired::new(text).parse().1;
        let key_lost = damage("[x]\nports = [1\nname = 2\n");
        assert!(key_lost.may_hide("x[0].ports") && key_lost.may_hide("ports[3]") && !key_lost.may_hide("x.name"));
        assert!(damage("[x\nports = [1]\n").may_hide("anything"));
        assert!(damage("a = \"\"\"x\nb = 1\n").may_hide("b"));
    }

    #[test]
    fn lines_count_from_one() {
        let lines = Lines::of("ab\ncd\n");
        assert_eq!([0, 2, 3, 5, 6].map(|at| lines.line(at)), [1, 1, 2, 2, 3]);
    }
}
