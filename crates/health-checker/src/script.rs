//! A conversation as data: what a probe sends and what the answers mean; and the pure machine that follows it.
//!
//! A [`Script`] says the same to every endpoint. What differs from probe to probe (the nonce, the addresses of the two ends)
//! is filled in by a `Dialogue`, which knows nothing of sockets: bytes in, the next step out.

use std::{borrow::Cow, net::SocketAddr};

use memchr::memmem;
use regex::bytes::{Captures, Regex, RegexBuilder};

/// Name of the capture that must be equal to the nonce for an answer to count.
const NONCE: &str = "nonce";

/// Patterns beyond this many bytes once compiled are mistakes.
const PATTERN_LIMIT: usize = 1 << 20;

/// A regular expression over bytes; two are equal that are written alike.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not a regular expression.
    #[error("{0}")]
    Syntax(String),
    /// Compiled, it would be larger than any answer needs.
    #[error("it is too large once compiled")]
    TooLarge,
}

impl Pattern {
    /// The pattern that `text` is, in the syntax of the crate `regex`.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let built = RegexBuilder::new(text).size_limit(PATTERN_LIMIT).build();
        built.map(Self).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => PatternError::TooLarge,
            // The last line says what is wrong; those before it point at it with a caret, which one line cannot.
            error => {
                let text = error.to_string();
                let cause = text.lines().last().unwrap_or_default();
                PatternError::Syntax(cause.trim_start_matches("error: ").to_owned())
            }
        })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// What an answer must contain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Expect {
    /// Nothing in particular.
    #[default]
    Anything,
    /// These bytes.
    Bytes(Vec<u8>),
    /// A match of this.
    Regex(Pattern),
}

impl Expect {
    /// These bytes, or anything if there are none.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Self::Anything } else { Self::Bytes(bytes) }
    }

    /// Whether it occurs in `answer`.
    pub(crate) fn is_in(&self, answer: &[u8]) -> bool {
        match self {
            Self::Anything => true,
            Self::Bytes(bytes) => memmem::find(answer, bytes).is_some(),
            Self::Regex(pattern) => pattern.0.is_match(answer),
        }
    }
}

/// The random bytes that tie an answer to its question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Nonce {
    /// The protocol has none.
    #[default]
    None,
    /// This many bytes.
    Bytes(usize),
    /// This many bytes, written as twice as many hexadecimal digits.
    Hex(usize),
}

impl Nonce {
    /// Draws one, as it stands in messages.
    pub(crate) fn draw(self) -> Result<Vec<u8>, getrandom::Error> {
        let (Self::Bytes(length) | Self::Hex(length)) = self else { return Ok(Vec::new()) };
        let mut bytes = vec![0; length];
        getrandom::fill(&mut bytes)?;
        Ok(match self {
            Self::Hex(_) => bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect(),
            _ => bytes,
        })
    }
}

/// A piece of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// These bytes.
    Bytes(Cow<'static, [u8]>),
    /// The nonce of this probe.
    Nonce,
    /// Address and port of this end, as text: `198.18.0.1:40000`, `[2001:db8::1]:40000`.
    Local,
    /// Address and port of the endpoint, as text.
    Peer,
    /// What the capture of this name caught in the answer that is being replied to.
    Captured(&'static str),
}

impl Part {
    /// A text as it stands.
    pub(crate) const fn text(text: &'static str) -> Self {
        Self::bytes(text.as_bytes())
    }

    /// Bytes as they stand.
    pub(crate) const fn bytes(bytes: &'static [u8]) -> Self {
        Self::Bytes(Cow::Borrowed(bytes))
    }
}

/// What to do about an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then {
    /// The endpoint is alive. Over TCP, `parting` is said before the connection is closed.
    Good {
        /// Empty where the protocol has no farewell.
        parting: Vec<Part>,
    },
    /// The endpoint says that it does not serve.
    Bad,
    /// Send this and go on. At most once in a probe, so that no endpoint can keep a probe busy.
    Send(Vec<Part>),
}

/// An answer and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Must occur in the answer. If it is a pattern that captures a `nonce`, that must be this probe's.
    pub when: Expect,
    /// What to do about it.
    pub then: Then,
}

/// What a probe says and what the answers mean.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Script {
    /// Drawn anew for each probe.
    pub nonce: Nonce,
    /// The first message; empty to listen only.
    pub opening: Vec<Part>,
    /// The first that fits decides; what none fits is ignored. None at all: nothing is awaited (TCP), or any answer will do (UDP).
    pub answers: Vec<Answer>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing that was said decides anything: wait for more.
    Wait,
    /// Send this, forget what was heard, and wait.
    Send(Vec<u8>),
    /// Say this, if anything, and end well.
    Good(Vec<u8>),
    /// End badly.
    Bad,
}

/// What a pattern captured, where there is a pattern.
type Found<'a> = Option<Captures<'a>>;

/// One probe's way through a script.
#[derive(Debug)]
pub(crate) struct Dialogue<'s> {
    script: &'s Script,
    nonce: Vec<u8>,
    local: SocketAddr,
    peer: SocketAddr,
    /// Per answer of the script, whether its reply was sent.
    replied: Vec<bool>,
}

impl<'s> Dialogue<'s> {
    /// Begins a probe between `local` and `peer`.
    pub(crate) fn new(script: &'s Script, nonce: Vec<u8>, local: SocketAddr, peer: SocketAddr) -> Self {
        Self { script, nonce, local, peer, replied: vec![false; script.answers.len()] }
    }

    /// The first message.
    pub(crate) fn opening(&self) -> Vec<u8> {
        self.fill(&self.script.opening, None)
    }

    /// Whether any answer is described.
    pub(crate) fn awaits(&self) -> bool {
        !self.script.answers.is_empty()
    }

    /// What follows from `answer`: a datagram, or everything that a stream has said since the last message to it.
    pub(crate) fn hear(&mut self, answer: &[u8]) -> Step {
        let script = self.script;
        for (index, Answer { when, then }) in script.answers.iter().enumerate() {
            let Some(found) = self.fits(when, answer) else { continue };
            match then {
                Then::Good { parting } => return Step::Good(self.fill(parting, found.as_ref())),
                Then::Bad => return Step::Bad,
                Then::Send(_) if self.replied[index] => {}
                Then::Send(parts) => {
                    self.replied[index] = true;
                    return Step::Send(self.fill(parts, found.as_ref()));
                }
            }
        }
        Step::Wait
    }

    /// What of `answer` fits, if anything does; captures only a pattern has.
    fn fits<'a>(&self, when: &Expect, answer: &'a [u8]) -> Option<Found<'a>> {
        let Expect::Regex(pattern) = when else { return when.is_in(answer).then_some(None) };
        let is_ours = |found: &Captures<'_>| found.name(NONCE).is_none_or(|nonce| nonce.as_bytes() == self.nonce);
        pattern.0.captures_iter(answer).find(is_ours).map(Some)
    }

    fn fill(&self, parts: &[Part], found: Option<&Captures<'_>>) -> Vec<u8> {
        let mut message = Vec::new();
        for part in parts {
            match part {
                Part::Bytes(bytes) => message.extend_from_slice(bytes),
                Part::Nonce => message.extend_from_slice(&self.nonce),
                Part::Local => message.extend_from_slice(self.local.to_string().as_bytes()),
                Part::Peer => message.extend_from_slice(self.peer.to_string().as_bytes()),
                Part::Captured(name) => {
                    let captured = found.and_then(|found| found.name(name));
                    message.extend_from_slice(captured.map_or(&[], |captured| captured.as_bytes()));
                }
            }
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(pattern: &str, then: Then) -> Answer {
        Answer { when: Expect::Regex(Pattern::new(pattern).unwrap()), then }
    }

    fn good() -> Then {
        Then::Good { parting: Vec::new() }
    }

    fn dialogue(script: &Script) -> Dialogue<'_> {
        Dialogue::new(script, b"42".to_vec(), "10.0.0.1:9".parse().unwrap(), "[2001:db8::1]:5".parse().unwrap())
    }

    #[test]
    fn a_message_is_filled_in() {
        let opening = vec![Part::text("a "), Part::Nonce, Part::text(" "), Part::Local, Part::text(" "), Part::Peer];
        let script = Script { nonce: Nonce::Bytes(2), opening, ..Script::default() };
        assert_eq!(dialogue(&script).opening(), b"a 42 10.0.0.1:9 [2001:db8::1]:5");
    }

    #[test]
    fn the_first_answer_that_fits_decides() {
        let script = Script { answers: vec![answer("^no", Then::Bad), answer("o", good())], ..Script::default() };
        for (heard, step) in [("no", Step::Bad), ("yo", Step::Good(Vec::new())), ("", Step::Wait), ("x", Step::Wait)] {
            assert_eq!(dialogue(&script).hear(heard.as_bytes()), step, "{heard}");
        }
    }

    #[test]
    fn another_probe_s_answer_is_ignored_even_before_ours() {
        let script = Script { answers: vec![answer("ok (?P<nonce>[0-9]+)", good())], ..Script::default() };
        assert_eq!(dialogue(&script).hear(b"ok 41"), Step::Wait);
        assert_eq!(dialogue(&script).hear(b"ok 4242"), Step::Wait);
        assert_eq!(dialogue(&script).hear(b"ok 41, ok 42"), Step::Good(Vec::new()));
    }

    #[test]
    fn a_challenge_is_answered_once() {
        let reply = Then::Send(vec![Part::text("now "), Part::Captured("token"), Part::Captured("nothing")]);
        let script = Script { answers: vec![answer("token=(?P<token>.)", reply), answer("done", good())], ..Script::default() };
        let mut dialogue = dialogue(&script);
        assert_eq!(dialogue.hear(b"token=7"), Step::Send(b"now 7".to_vec()));
        for _ in 0..3 {
            assert_eq!(dialogue.hear(b"token=8"), Step::Wait);
        }
        assert_eq!(dialogue.hear(b"done"), Step::Good(Vec::new()));
    }

    #[test]
    fn nonces_are_as_long_as_asked() {
        assert_eq!(Nonce::None.draw().unwrap(), b"");
        assert_eq!(Nonce::Bytes(12).draw().unwrap().len(), 12);
        let hex = Nonce::Hex(8).draw().unwrap();
        assert!(hex.len() == 16 && hex.iter().all(u8::is_ascii_hexdigit), "{hex:?}");
        assert_ne!(Nonce::Bytes(12).draw().unwrap(), Nonce::Bytes(12).draw().unwrap());
    }

    #[test]
    fn an_answer_is_found_anywhere() {
        let regex = |text: &str| Expect::Regex(Pattern::new(text).unwrap());
        let all: Vec<u8> = (0..=255).collect();
        for (expect, answer, found) in [
            (Expect::bytes("pong"), &b"say pong now"[..], true),
            (Expect::bytes("pong"), b"pon", false),
            (Expect::bytes("pong"), b"", false),
            (Expect::bytes(""), b"", true),
            (Expect::bytes(all.clone()), &all, true),
            (Expect::bytes(all.clone()), &all[1..], false),
            (regex("^p.ng$"), b"pong", true),
            (regex("^p.ng$"), b"say pong", false),
            (regex("(?-u)\\xff\\x00"), b"\xfe\xff\x00", true),
        ] {
            assert_eq!(expect.is_in(answer), found, "{expect:?} in {answer:?}");
        }
    }

    #[test]
    fn bad_patterns_say_why_on_one_line() {
        assert_eq!(Pattern::new("(").unwrap_err().to_string(), "unclosed group");
        assert_eq!(Pattern::new("\\w{999}{999}").unwrap_err(), PatternError::TooLarge);
    }
}
