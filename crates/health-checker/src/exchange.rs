//! What a `tcp` or `udp` probe asks, in the operator's own words.

use std::borrow::Cow;

use crate::script::{Answer, Expect, Part, Script, Then};

/// What to send and what the answer must contain; with neither, a bare connect.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exchange {
    send: Vec<u8>,
    expect: Expect,
    script: Script,
}

impl Exchange {
    /// Sends `send` and awaits `expect`; [`Expect::Anything`] awaits nothing (TCP) or any answer (UDP).
    pub fn new(send: impl Into<Vec<u8>>, expect: Expect) -> Self {
        let send = send.into();
        let opening = if send.is_empty() { Vec::new() } else { vec![Part::Bytes(Cow::Owned(send.clone()))] };
        let answers = match &expect {
            Expect::Anything => Vec::new(),
            expect => vec![Answer { when: expect.clone(), then: Then::Good { parting: Vec::new() } }],
        };
        Self { send, expect, script: Script { opening, answers, ..Script::default() } }
    }

    /// Sent once connected.
    pub fn send(&self) -> &[u8] {
        &self.send
    }

    /// What the answer must contain.
    pub fn expect(&self) -> &Expect {
        &self.expect
    }

    /// Whether it only connects (over TCP).
    pub fn is_bare(&self) -> bool {
        self.send.is_empty() && self.expect == Expect::Anything
    }

    /// The same as a script.
    pub(crate) fn script(&self) -> &Script {
        &self.script
    }
}
