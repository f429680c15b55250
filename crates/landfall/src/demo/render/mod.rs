//! Pictures and tables: text made of a moment or of the summary. Pure.

mod live;
mod plain;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub(super) use self::{
    live::frame,
    plain::{commands, event, headline, phase, summary, table},
};

/// Whether text may be coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Yes,
    No,
}

impl Colour {
    /// `text` in this colour of the terminal (SGR), if there are any.
    fn paint(self, sgr: &str, text: &str) -> String {
        match self {
            Self::Yes => format!("\x1b[{sgr}m{text}\x1b[0m"),
            Self::No => text.to_owned(),
        }
    }
}

/// `0.23 s`.
fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// A time of the demonstration, as a column.
fn moment(at: Duration) -> String {
    format!("{:5.2} s", at.as_secs_f64())
}

/// `parts` of `whole` as a bar of up to `width` characters; anything above nothing shows.
fn bar(parts: usize, whole: usize, width: usize) -> String {
    let length = if whole == 0 { 0 } else { (parts * width).div_ceil(whole).min(width) };
    "█".repeat(length)
}

/// The effective weight, and the configured one where it differs.
fn weight(row: &super::snapshot::Row) -> String {
    let full = f64::from(row.weight);
    if (row.effective_weight - full).abs() < 0.5 {
        format!("{}", row.weight)
    } else {
        format!("{:.0} of {}", row.effective_weight, row.weight)
    }
}

/// The health, in one word where the process is known to be gone.
fn state(row: &super::snapshot::Row) -> String {
    match row.pid {
        Some(_) => row.health.clone(),
        None => format!("dead, {}", row.health),
    }
}
