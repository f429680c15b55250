//! Names of endpoints, groups and listeners: the identity that survives reloads and the only text that becomes a metric label.

use std::{borrow::Borrow, fmt, net::IpAddr, sync::Arc};

/// A name of 1 to 64 characters out of `A-Z a-z 0-9 . _ - #`, beginning with a letter or digit.
///
/// Endpoints that come from a DNS name have its address behind theirs ([`Name::at`]), and may be longer. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Why a text is not a [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or more than 64 characters.
    #[error("a name has 1 to 64 characters, this one has {0}")]
    Length(usize),
    /// A character outside the set, or a first character that is not a letter or digit.
    #[error("a name begins with a letter or digit and goes on with letters, digits, '.', '_' and '-'; {0:?} does not fit")]
    Character(char),
}

impl Name {
    /// Checks `text` and makes it a name.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let length = text.chars().count();
        if length == 0 || length > 64 {
            return Err(NameError::Length(length));
        }
        let misfit = text
            .chars()
            .enumerate()
            .find(|&(position, c)| !(c.is_ascii_alphanumeric() || (position > 0 && matches!(c, '.' | '_' | '-' | '#'))));
        match misfit {
            Some((_, c)) => Err(NameError::Character(c)),
            None => Ok(Self(text.into())),
        }
    }

    /// The name of this endpoint at one of the addresses of its DNS name: `game#198.51.100.7`, `game#2001:db8::7`.
    pub fn at(&self, ip: IpAddr) -> Self {
        Self(format!("{self}#{ip}").into())
    }

    /// The name without the address that [`Name::at`] put there.
    pub fn base(&self) -> &str {
        self.0.split('#').next().unwrap_or(&self.0)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_operators_write() {
        for text in ["eu-1", "a", "7", "fra1.game_7", "game#198.51.100.7"] {
            assert_eq!(Name::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn an_address_of_a_dns_name_is_part_of_the_identity() {
        let name = Name::new("game").unwrap();
        let at = name.at("2001:db8::7".parse().unwrap());
        assert_eq!((at.as_str(), at.base(), name.base()), ("game#2001:db8::7", "game", "game"));
    }

    #[test]
    fn refuses_what_would_break_a_label_or_a_command() {
        assert_eq!(Name::new(""), Err(NameError::Length(0)));
        assert_eq!(Name::new(&"x".repeat(65)), Err(NameError::Length(65)));
        for (text, c) in [("-a", '-'), ("a b", ' '), ("a\"", '"'), ("ä", 'ä'), ("#x", '#')] {
            assert_eq!(Name::new(text), Err(NameError::Character(c)));
        }
    }
}
