//! Values of a health check that say what its probes ask.

use std::{
    net::IpAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use health_checker::{
    Expect,
    http::{Authority, Method, PathAndQuery},
    preset::{DnsName, Transport},
    script::Pattern,
    tls::ServerName,
};

use super::{
    diagnostic::Fault,
    reader::{Item, Section},
    values::{choice, integer, unicast},
};

/// One endpoint is asked with one small packet.
const MOST_PROBE_BYTES: usize = 1024;

/// What a probe sends: text, `hex:…`, or a table that says which; reports what is wrong.
pub(super) fn send(item: &Item<'_>) -> Option<Vec<u8>> {
    const CURE: &str = "write one of { text = \"ping\" } and { hex = \"70696e67\" }";
    if !item.value.is_table() {
        return item.read(probe_bytes);
    }
    let mut section = item.section(CURE)?;
    let found = bytes_of(&mut section);
    section.finish();
    one_form(item, found, CURE)
}

/// What an answer must contain: text, `hex:…`, or a table that says which; reports what is wrong.
pub(super) fn expect(item: &Item<'_>) -> Option<Expect> {
    const CURE: &str = "write one of { text = \"pong\" }, { hex = \"706f6e67\" } and { regex = \"^pong\" }";
    if !item.value.is_table() {
        return item.read(probe_bytes).map(Expect::bytes);
    }
    let mut section = item.section(CURE)?;
    let mut found: Vec<_> = bytes_of(&mut section).into_iter().map(|bytes| bytes.map(Expect::bytes)).collect();
    found.extend(section.item("regex").map(|item| item.read(regex).map(Expect::Regex)));
    section.finish();
    one_form(item, found, CURE)
}

/// The bytes under each of `text` and `hex` that is there.
fn bytes_of(section: &mut Section<'_>) -> Vec<Option<Vec<u8>>> {
    let text = section.item("text").map(|item| item.read(plain_text));
    let hex = section.item("hex").map(|item| item.read(plain_hex));
    text.into_iter().chain(hex).collect()
}

fn one_form<T>(item: &Item<'_>, mut found: Vec<Option<T>>, cure: &str) -> Option<T> {
    match found.len() {
        1 => found.pop()?,
        // The keys that are there instead are told as unknown.
        0 if item.value.as_table().is_some_and(|table| !table.is_empty()) => None,
        count => {
            item.read(|_| Err::<(), _>(Fault::new(format!("{count} of the forms of bytes where one belongs"), cure)));
            None
        }
    }
}

/// Text, or hexadecimal digits behind `hex:`.
fn probe_bytes(item: &Item<'_>) -> Result<Vec<u8>, Fault> {
    const CURE: &str =
        "write a text, or pairs of hexadecimal digits such as \"hex:50494e47\" or { hex = \"50494e47\" }, of at most 1024 bytes";
    let text = item.text(CURE)?;
    match text.strip_prefix("hex:") {
        Some(digits) => short(hex(digits, text, CURE)?, CURE),
        None => short(text.as_bytes().to_vec(), CURE),
    }
}

fn plain_text(item: &Item<'_>) -> Result<Vec<u8>, Fault> {
    const CURE: &str = "write a text of at most 1024 bytes";
    short(item.text(CURE)?.as_bytes().to_vec(), CURE)
}

fn plain_hex(item: &Item<'_>) -> Result<Vec<u8>, Fault> {
    const CURE: &str = "write pairs of hexadecimal digits, such as \"50494e47\", of at most 1024 bytes";
    let digits = item.text(CURE)?;
    short(hex(digits, digits, CURE)?, CURE)
}

fn short(bytes: Vec<u8>, cure: &str) -> Result<Vec<u8>, Fault> {
    if bytes.len() > MOST_PROBE_BYTES {
        return Err(Fault::new(format!("{} bytes are too many", bytes.len()), cure));
    }
    Ok(bytes)
}

fn hex(digits: &str, text: &str, cure: &str) -> Result<Vec<u8>, Fault> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = digits.as_bytes().chunks(2);
    let bytes: Option<_> = pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect();
    bytes.ok_or_else(|| Fault::new(format!("{text:?} is not hexadecimal"), cure))
}

fn regex(item: &Item<'_>) -> Result<Pattern, Fault> {
    const CURE: &str = "write a regular expression such as \"^PONG\"; bytes are \"(?-u)\\\\xff\", see docs.rs/regex";
    let text = item.text(CURE)?;
    if text.is_empty() {
        return Err(Fault::new("an empty pattern is in every answer", CURE));
    }
    Pattern::new(text).map_err(|error| Fault::new(format!("{text:?} is not a regular expression: {error}"), CURE))
}

pub(super) fn path(item: &Item<'_>) -> Result<PathAndQuery, Fault> {
    const CURE: &str = "write a path that begins with '/', such as \"/health\"";
    let text = item.text(CURE)?;
    let path = Some(text).filter(|text| text.starts_with('/') && !text.contains('#'));
    path.and_then(|path| path.parse().ok()).ok_or_else(|| Fault::new(format!("{text:?} is not a path"), CURE))
}

pub(super) fn method(item: &Item<'_>) -> Result<Method, Fault> {
    choice(item, &[("GET", Method::Get), ("HEAD", Method::Head)], &[])
}

pub(super) fn host(item: &Item<'_>) -> Result<Authority, Fault> {
    const CURE: &str = "write a host, with a port if need be, such as \"play.example.com\"";
    let text = item.text(CURE)?;
    let host = text.parse::<Authority>().ok().filter(|host| !host.host().is_empty() && !host.as_str().contains('@'));
    host.ok_or_else(|| Fault::new(format!("{text:?} is not a host"), CURE))
}

/// Which statuses are good; reports what is wrong.
pub(super) fn statuses(item: &Item<'_>) -> Option<Vec<RangeInclusive<u16>>> {
    const CURE: &str = "list statuses and ranges of them, such as [200, \"300-399\"]";
    let elements = item.elements(CURE);
    if elements.is_empty() {
        if item.value.is_array() {
            item.read(|_| Err::<(), _>(Fault::new("no status is good", CURE)));
        }
        return None;
    }
    // All of them, so that every mistake is told.
    let ranges: Vec<_> = elements.iter().map(|element| element.read(status)).collect();
    ranges.into_iter().collect()
}

/// A status, or a range written `"200-299"`.
fn status(item: &Item<'_>) -> Result<RangeInclusive<u16>, Fault> {
    const CURE: &str = "write a status of 100 to 599, or a range from the lower to the higher such as \"200-299\"";
    if item.value.is_integer() {
        return integer(item, 100..=599).map(|status| status..=status);
    }
    let text = item.text(CURE)?;
    let number = |part: &str| part.parse::<u16>().ok().filter(|status| (100..=599).contains(status));
    let range = text.split_once('-').and_then(|(first, last)| Some(number(first)?..=number(last)?));
    let range = range.filter(|range| !range.is_empty());
    range.ok_or_else(|| Fault::new(format!("{text:?} is not a range of statuses"), CURE))
}

pub(super) fn server_name(item: &Item<'_>) -> Result<ServerName<'static>, Fault> {
    const CURE: &str = "write the name or address that the certificate is for, such as \"play.example.com\"";
    let text = item.text(CURE)?;
    text.to_owned().try_into().map_err(|_| Fault::new(format!("{text:?} is neither a DNS name nor an address"), CURE))
}

pub(super) fn ca(item: &Item<'_>) -> Result<PathBuf, Fault> {
    const CURE: &str = "write an absolute path, such as \"/etc/landfall/ca.pem\"";
    let path = Path::new(item.text(CURE)?);
    if !path.is_absolute() {
        return Err(Fault::new(format!("{path:?} is not an absolute path"), CURE));
    }
    Ok(path.to_owned())
}

/// The protocols to offer; reports what is wrong.
pub(super) fn alpn(item: &Item<'_>) -> Option<Vec<Vec<u8>>> {
    const CURE: &str = "list what the service speaks, such as [\"h3\"]: 1 to 16 texts of 1 to 255 bytes";
    let elements = item.elements(CURE);
    if !(1..=16).contains(&elements.len()) {
        if item.value.is_array() {
            item.read(|_| Err::<(), _>(Fault::new(format!("{} protocols", elements.len()), CURE)));
        }
        return None;
    }
    let protocol = |item: &Item<'_>| match item.text(CURE)?.as_bytes() {
        protocol if (1..=255).contains(&protocol.len()) => Ok(protocol.to_vec()),
        protocol => Err(Fault::new(format!("a protocol of {} bytes", protocol.len()), CURE)),
    };
    let protocols: Vec<_> = elements.iter().map(|element| element.read(protocol)).collect();
    protocols.into_iter().collect()
}

pub(super) fn transport(item: &Item<'_>) -> Result<Transport, Fault> {
    choice(item, &[("udp", Transport::Udp), ("tcp", Transport::Tcp)], &[])
}

pub(super) fn dns_name(item: &Item<'_>) -> Result<DnsName, Fault> {
    const CURE: &str = "write the name to ask for, such as \"example.com\", or \".\" for the root";
    let text = item.text(CURE)?;
    text.parse().map_err(|error| Fault::new(format!("{text:?} is not a DNS name: {error}"), CURE))
}

pub(super) fn source(item: &Item<'_>) -> Result<IpAddr, Fault> {
    const CURE: &str = "write an address of this host, such as \"198.18.0.1\"";
    let text = item.text(CURE)?;
    let ip = text.parse().map_err(|_| Fault::new(format!("{text:?} is not an IP address"), CURE))?;
    unicast(ip, CURE)
}
