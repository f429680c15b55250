//! What the harness says when something does not work.

use std::fmt;

/// A result of the harness.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// One failed operation: what was tried, on what, why it failed and what to do about it.
///
/// `Debug` prints the same sentence as `Display`, because a test sees it through `unwrap()`.
pub struct Failure(String);

impl Failure {
    /// A failure of `operation` on `subject`, with its cause and its cure.
    pub fn new(
        operation: impl fmt::Display,
        subject: impl fmt::Display,
        cause: impl fmt::Display,
        cure: impl fmt::Display,
    ) -> Self {
        Self(format!("cannot {operation} {subject}: {cause}; {cure}"))
    }

    /// The same failure with the place in which it happened before it.
    #[must_use]
    pub fn in_place(self, place: impl fmt::Display) -> Self {
        Self(format!("in {place}: {}", self.0))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}
