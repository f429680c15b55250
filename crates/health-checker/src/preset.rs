//! The protocols of the field as data: what a probe of each says, byte by byte with its source, and which answers mean alive.
//!
//! Nothing here is executed; `script` says how a [`Script`] is followed, and `probe::{tcp, udp}` carry it.

use std::{fmt, str::FromStr};

use crate::script::{Answer, Expect, Nonce, Part, Pattern, PatternError, Script, Then};

/// What carries a preset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A stream.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Transport {
    /// The word in the config.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A protocol that is known by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protocol {
    /// Source server query.
    A2s,
    /// STUN Binding.
    Stun,
    /// SIP OPTIONS.
    SipOptions,
    /// MQTT CONNECT.
    Mqtt,
    /// A DNS query for this name.
    Dns(DnsName),
}

impl Protocol {
    /// The word in the config.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::A2s => "a2s",
            Self::Stun => "stun",
            Self::SipOptions => "sip_options",
            Self::Mqtt => "mqtt",
            Self::Dns(_) => "dns",
        }
    }

    /// What can carry it, the default first.
    pub const fn transports(&self) -> &'static [Transport] {
        match self {
            Self::A2s => &[Transport::Udp],
            Self::Stun | Self::SipOptions | Self::Dns(_) => &[Transport::Udp, Transport::Tcp],
            Self::Mqtt => &[Transport::Tcp],
        }
    }

    fn script(&self, transport: Transport) -> Result<Script, PatternError> {
        match self {
            Self::A2s => a2s(),
            Self::Stun => stun(),
            Self::SipOptions => sip_options(transport),
            Self::Mqtt => mqtt(),
            Self::Dns(name) => dns(name, transport),
        }
    }
}

/// A protocol over what carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preset {
    protocol: Protocol,
    transport: Transport,
    script: Script,
}

/// Why there is no such preset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PresetError {
    /// The protocol does not run over that.
    #[error("{protocol} does not run over {transport}")]
    Transport {
        /// Which.
        protocol: &'static str,
        /// Over what.
        transport: &'static str,
    },
    /// A defect of this file, which its tests rule out.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

impl Preset {
    /// `protocol` over `transport`, or over its usual one.
    pub fn new(protocol: Protocol, transport: Option<Transport>) -> Result<Self, PresetError> {
        let possible = protocol.transports();
        let transport = match transport {
            Some(transport) if !possible.contains(&transport) => {
                return Err(PresetError::Transport { protocol: protocol.as_str(), transport: transport.as_str() });
            }
            Some(transport) => transport,
            None => possible.first().copied().unwrap_or(Transport::Udp),
        };
        let script = protocol.script(transport)?;
        Ok(Self { protocol, transport, script })
    }

    /// What is spoken.
    pub const fn protocol(&self) -> &Protocol {
        &self.protocol
    }

    /// What carries it.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// What is said.
    pub fn script(&self) -> &Script {
        &self.script
    }
}

/// A name that DNS can be asked for: ASCII, at most 253 characters, without the dot at its end; the root is `.`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsName(String);

impl DnsName {
    /// The root of the DNS.
    pub fn root() -> Self {
        Self(".".to_owned())
    }

    /// As it is sent, RFC 1035 section 3.1: each label behind its length, the root's empty label last.
    fn to_wire(&self) -> Vec<u8> {
        let labels = self.0.split('.').filter(|label| !label.is_empty());
        // A label has at most 63 bytes.
        let wire = labels.flat_map(|label| u8::try_from(label.len()).into_iter().chain(label.bytes()));
        wire.chain([0]).collect()
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text is no name that DNS can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("labels of 1 to 63 letters, digits, '-' and '_', 253 characters in all")]
pub struct NotADnsName;

impl FromStr for DnsName {
    type Err = NotADnsName;

    fn from_str(text: &str) -> Result<Self, NotADnsName> {
        if text == "." {
            return Ok(Self::root());
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(letter);
        if name.len() <= 253 && name.split('.').all(label) { Ok(Self(name.to_owned())) } else { Err(NotADnsName) }
    }
}

fn when(pattern: &str, then: Then) -> Result<Answer, PatternError> {
    Ok(Answer { when: Expect::Regex(Pattern::new(pattern)?), then })
}

const fn good() -> Then {
    Then::Good { parting: Vec::new() }
}

/// Source server query, <https://developer.valvesoftware.com/wiki/Server_queries>, A2S_INFO.
///
/// Alive: an info answer. A server may ask for a challenge first, which costs the one extra datagram that it is sent back in.
fn a2s() -> Result<Script, PatternError> {
    // -1: a packet that is not split; 'T': A2S_INFO; its payload ends with a zero byte.
    const INFO: Part = Part::bytes(b"\xff\xff\xff\xffTSource Engine Query\0");
    Ok(Script {
        nonce: Nonce::None,
        opening: vec![INFO],
        answers: vec![
            // 'I': the information.
            when(r"(?s-u)\A\xff\xff\xff\xffI", good())?,
            // 'A': S2C_CHALLENGE, four bytes that the question is to be asked again with.
            when(r"(?s-u)\A\xff\xff\xff\xffA(?P<challenge>.{4})", Then::Send(vec![INFO, Part::Captured("challenge")]))?,
        ],
    })
}

/// STUN, RFC 8489.
///
/// Alive: a success or an error response to our transaction. A server that answers 401 or 420 serves.
fn stun() -> Result<Script, PatternError> {
    Ok(Script {
        // Section 5: a transaction id of 96 random bits.
        nonce: Nonce::Bytes(12),
        opening: vec![
            // Section 5: type 0x0001 is a Binding request; length 0, for there are no attributes; the magic cookie.
            Part::bytes(b"\x00\x01\x00\x00\x21\x12\xa4\x42"),
            Part::Nonce,
        ],
        // Section 5: 0x0101 is a Binding success response, 0x0111 a Binding error response.
        answers: vec![when(r"(?s-u)\A\x01[\x01\x11].{2}\x21\x12\xa4\x42(?P<nonce>.{12})", good())?],
    })
}

/// SIP OPTIONS, RFC 3261.
///
/// Alive: any final response but 408, 5xx and 6xx. A server that answers 404 or 401 serves; one that is shutting down or
/// overloaded answers 503. Provisional responses (1xx) are waited through.
fn sip_options(transport: Transport) -> Result<Script, PatternError> {
    let (via, contact) = match transport {
        Transport::Udp => ("Via: SIP/2.0/UDP ", ""),
        Transport::Tcp => ("Via: SIP/2.0/TCP ", ";transport=tcp"),
    };
    // Sections 8.1.3.3 and 17.1.3: a response belongs to the request whose branch its topmost Via carries.
    let ours = r" .*?;\s*branch\s*=\s*z9hG4bK(?P<nonce>[0-9a-f]{16})";
    Ok(Script {
        nonce: Nonce::Hex(8),
        // Section 11.1, and 8.1.1 for the header fields that every request has.
        opening: vec![
            Part::text("OPTIONS sip:"),
            Part::Peer,
            Part::text(" SIP/2.0\r\n"),
            // Section 8.1.1.7: the cookie z9hG4bK; rport (RFC 3581) has the answer come to the port that the question came from.
            Part::text(via),
            Part::Local,
            Part::text(";rport;branch=z9hG4bK"),
            Part::Nonce,
            Part::text("\r\nMax-Forwards: 70\r\nFrom: <sip:landfall@"),
            Part::Local,
            Part::text(">;tag="),
            Part::Nonce,
            Part::text("\r\nTo: <sip:"),
            Part::Peer,
            Part::text(">\r\nCall-ID: "),
            Part::Nonce,
            Part::text("\r\nCSeq: 1 OPTIONS\r\nContact: <sip:landfall@"),
            Part::Local,
            Part::text(contact),
            Part::text(">\r\nAccept: application/sdp\r\nUser-Agent: Landfall\r\nContent-Length: 0\r\n\r\n"),
        ],
        // Section 7.2: the status line. In a stream, a provisional response may stand before it.
        answers: vec![
            when(&format!(r"(?ms-u)^SIP/2\.0 (?:408|[56][0-9]{{2}}){ours}"), Then::Bad)?,
            when(&format!(r"(?ms-u)^SIP/2\.0 [234][0-9]{{2}}{ours}"), good())?,
        ],
    })
}

/// MQTT 3.1.1, <https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/os/mqtt-v3.1.1-os.html>.
///
/// Alive: a CONNACK with any code but 3, server unavailable: a broker that answers "not authorised" works. A broker of MQTT 5
/// alone answers with its own codes, of which 0x88 (server unavailable) and 0x89 (server busy) are not alive.
fn mqtt() -> Result<Script, PatternError> {
    Ok(Script {
        // Section 3.1.3.1: every server takes a client identifier of 1 to 23 letters and digits.
        nonce: Nonce::Hex(6),
        opening: vec![
            // Section 3.1: CONNECT; 32 bytes remain: the protocol name "MQTT", level 4, flags (clean session, so that nothing
            // is kept for us), a keep alive of 10 s, and the length of the identifier, 20.
            Part::bytes(b"\x10\x20\x00\x04MQTT\x04\x02\x00\x0a\x00\x14landfall"),
            Part::Nonce,
        ],
        answers: vec![
            // Section 3.2: CONNACK, what remains (2; more in MQTT 5), session present or not, code.
            when(r"(?s-u)\A\x20[\x02-\x7f][\x00\x01][\x03\x88\x89]", Then::Bad)?,
            // Section 3.14: who was let in says goodbye with a DISCONNECT.
            when(r"(?s-u)\A\x20[\x02-\x7f][\x00\x01]\x00", Then::Good { parting: vec![Part::bytes(b"\xe0\x00")] })?,
            when(r"(?s-u)\A\x20[\x02-\x7f][\x00\x01].", good())?,
        ],
    })
}

/// DNS, RFC 1035.
///
/// Alive: any response to our query but SERVFAIL and REFUSED. NXDOMAIN is an answer like another.
fn dns(name: &DnsName, transport: Transport) -> Result<Script, PatternError> {
    // Section 4.1.1, behind the identifier: a query with "recursion desired", one question and no records.
    let mut query = b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    // Section 4.1.2: the name, type NS (2) for the root, which every resolver has at hand, else A (1); class IN (1).
    query.extend(name.to_wire());
    query.extend(if *name == DnsName::root() { b"\x00\x02\x00\x01" } else { b"\x00\x01\x00\x01" });
    // Section 4.2.2: over TCP the length of the message, its identifier included, stands before it.
    let (mut opening, before) = match transport {
        Transport::Udp => (Vec::new(), ""),
        Transport::Tcp => {
            (vec![Part::Bytes(u16::try_from(query.len() + 2).unwrap_or_default().to_be_bytes().to_vec().into())], ".{2}")
        }
    };
    opening.extend([Part::Nonce, Part::Bytes(query.into())]);
    // Section 4.1.1: the first flag says that this is a response, the last four bits of the second byte are the code.
    let code = |code: u8| (0..=15u8).map(|high| format!("\\x{high:x}{code:x}")).collect::<String>();
    let (servfail, refused) = (code(2), code(5));
    Ok(Script {
        nonce: Nonce::Bytes(2),
        opening,
        answers: vec![
            when(&format!(r"(?s-u)\A{before}(?P<nonce>.{{2}})[\x80-\xff][{servfail}{refused}]"), Then::Bad)?,
            when(&format!(r"(?s-u)\A{before}(?P<nonce>.{{2}})[\x80-\xff]."), good())?,
        ],
    })
}

#[cfg(test)]
mod tests;
