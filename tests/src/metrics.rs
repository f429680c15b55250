//! One scrape in the Prometheus text format, to be asked for values.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Failure, Result};

/// The samples of one scrape.
pub struct Metrics {
    text: String,
    samples: Vec<Sample>,
}

/// One line of a scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The name, with the suffix that histograms add.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Metrics {
    /// Reads a scrape.
    ///
    /// # Errors
    /// At the first line that is neither a comment nor a sample.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        let samples = lines
            .map(|(number, line)| {
                sample(line).ok_or_else(|| {
                    let subject = format!("line {} of the scrape, {line:?}", number + 1);
                    Failure::new("read", subject, "it is no sample", "see the Prometheus text format, version 0.0.4")
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { text: text.to_owned(), samples })
    }

    /// The scrape as it was sent, for `promtool check metrics`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All samples, in the order of the scrape.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The names that the scrape declares with `# TYPE`, with their types.
    pub fn declared(&self) -> BTreeSet<(&str, &str)> {
        self.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.trim().split_once(' ')).collect()
    }

    /// The value of the only sample that has this name and at least these labels; nothing if there is none or several.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut matching = self.matching(name, labels);
        let first = matching.next()?;
        matching.next().is_none().then_some(first.value)
    }

    /// The sum of all samples that have this name and at least these labels; 0 if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// The samples that have this name and at least these labels.
    pub fn matching<'a>(&'a self, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = &'a Sample> {
        let has = |sample: &Sample| labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|own| own == value));
        self.samples.iter().filter(move |sample| sample.name == name && has(sample))
    }
}

fn sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' ', '\t'])?;
    let (name, rest) = line.split_at(name_end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    // A time stamp may follow the value; nobody here needs it. Rust reads NaN, and inf with either sign, by itself.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    (!name.is_empty()).then(|| Sample { name: name.to_owned(), labels, value })
}

/// Reads `key="value",...}` and returns the labels and what follows the brace.
fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (key, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.insert(key.trim().to_owned(), value);
        rest = after;
    }
}

/// Reads up to the closing quote and returns the text without its escapes and what follows the quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAPE: &str = "# HELP landfall_flows_opened_total Flows opened.\n\
        # TYPE landfall_flows_opened_total counter\n\
        landfall_flows_opened_total{listener=\"match\",protocol=\"udp\"} 3\n\
        landfall_flows_opened_total{listener=\"match\",protocol=\"tcp\"} 4 1700000000000\n\
        landfall_flows_opened_total{listener=\"a, \\\"b\\\" {}\\\\\",protocol=\"tcp\"} 5e1\n\
        landfall_bucket{le=\"+Inf\"} +Inf\n\
        \n\
        landfall_ready 1\n";

    #[test]
    fn values_and_sums_match_by_a_subset_of_labels() {
        let metrics = Metrics::parse(SCRAPE).unwrap();
        let opened = "landfall_flows_opened_total";
        assert_eq!(metrics.value("landfall_ready", &[]), Some(1.0));
        assert_eq!(metrics.value(opened, &[("protocol", "udp")]), Some(3.0));
        assert_eq!(metrics.value(opened, &[("listener", "match")]), None, "two samples match, so there is no one value");
        assert_eq!(metrics.sum(opened, &[("listener", "match")]), 7.0);
        assert_eq!(metrics.sum(opened, &[("listener", "a, \"b\" {}\\")]), 50.0);
        assert_eq!(metrics.sum("landfall_nothing", &[]), 0.0);
        assert_eq!(metrics.value("landfall_bucket", &[]), Some(f64::INFINITY));
        assert!(metrics.declared().contains(&(opened, "counter")));
    }

    #[test]
    fn a_line_that_is_no_sample_is_named() {
        let failure = Metrics::parse("up 1\nlandfall_broken{a=\"b} 1\n").err().unwrap().to_string();
        assert!(failure.contains("line 2"), "{failure}");
    }
}
