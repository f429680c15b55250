//! One value of the file → one value of the program, or what is wrong with it.

use std::{
    net::IpAddr,
    num::{NonZeroU8, NonZeroUsize},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use endpoint_group::{Dial, MinHealthy, Name, Weight};
use toml::de::DeValue;

use ipnet::IpNet;

use super::{
    diagnostic::{Fault, did_you_mean, one_of},
    reader::Item,
};

/// A Unix socket's path must fit into `sockaddr_un`, with its closing zero.
const LONGEST_SOCKET_PATH: usize = 107;
/// Timers tick in milliseconds.
const SHORTEST: Duration = Duration::from_millis(1);
/// Far beyond any use, and small enough that no sum of durations overflows.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

pub(super) fn name(item: &Item<'_>) -> Result<Name, Fault> {
    const CURE: &str = "use 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit";
    let text = item.text(CURE)?;
    if text.contains('#') {
        return Err(Fault::new(format!("{text:?} is not a name: '#' is kept for endpoints found by a DNS name"), CURE));
    }
    Name::new(text).map_err(|error| Fault::new(format!("{text:?} is not a name: {error}"), CURE))
}

/// A number of `range`, written as an integer.
pub(super) fn integer<T: TryFrom<u64>>(item: &Item<'_>, range: RangeInclusive<u64>) -> Result<T, Fault> {
    let cure = format!("write a whole number of {} to {}", range.start(), range.end());
    let number = item.value.as_integer().ok_or_else(|| item.not("a whole number", &cure))?;
    let in_range = u64::from_str_radix(number.as_str(), number.radix()).ok().filter(|n| range.contains(n));
    in_range.and_then(|n| T::try_from(n).ok()).ok_or_else(|| Fault::new(format!("{number} is out of range"), cure))
}

pub(super) fn port(item: &Item<'_>) -> Result<u16, Fault> {
    integer(item, 1..=65_535)
}

pub(super) fn weight(item: &Item<'_>) -> Result<Weight, Fault> {
    integer(item, 0..=255).map(Weight::new)
}

pub(super) fn threshold(item: &Item<'_>) -> Result<NonZeroU8, Fault> {
    let number = integer(item, 1..=255)?;
    NonZeroU8::new(number).ok_or_else(|| Fault::new("0 is out of range", "write a whole number of 1 to 255"))
}

/// A count of at least 1 and at most `most`.
pub(super) fn count(item: &Item<'_>, most: u64) -> Result<NonZeroUsize, Fault> {
    let number = integer(item, 1..=most)?;
    NonZeroUsize::new(number).ok_or_else(|| Fault::new("0 is out of range", "write a number above 0"))
}

/// The seed: any u64. TOML promises integers only up to 2^63 − 1, so larger ones may stand in quotes.
pub(super) fn seed(item: &Item<'_>) -> Result<u64, Fault> {
    const CURE: &str = "write a number of 0 to 2^64 - 1, or a text such as \"0x9e3779b97f4a7c15\"";
    let (digits, radix) = match item.value {
        DeValue::Integer(number) => (number.as_str().to_owned(), number.radix()),
        DeValue::String(text) => {
            let digits = text.replace('_', "");
            match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
                Some(hex) => (hex.to_owned(), 16),
                None => (digits, 10),
            }
        }
        _ => return Err(item.not("a number", CURE)),
    };
    // The value stays out of the message: it is a secret, and messages are logged.
    u64::from_str_radix(&digits, radix).map_err(|_| Fault::new("not a number of 64 bits", CURE))
}

pub(super) fn boolean(item: &Item<'_>) -> Result<bool, Fault> {
    const CURE: &str = "write true or false";
    item.value.as_bool().ok_or_else(|| item.not("true or false", CURE))
}

/// A duration above 0.
pub(super) fn duration(item: &Item<'_>) -> Result<Duration, Fault> {
    const CURE: &str = "write a duration of 1 ms to 7 days with its unit, such as \"500ms\" or \"30s\"";
    let duration = any_duration(item, CURE)?;
    if duration < SHORTEST {
        return Err(Fault::new(format!("{duration:?} is too short"), CURE));
    }
    Ok(duration)
}

/// A duration, or 0.
pub(super) fn duration_or_zero(item: &Item<'_>) -> Result<Duration, Fault> {
    const CURE: &str = "write \"0s\" or a duration of 1 ms to 7 days with its unit, such as \"500ms\" or \"30s\"";
    let duration = any_duration(item, CURE)?;
    if !duration.is_zero() && duration < SHORTEST {
        return Err(Fault::new(format!("{duration:?} is too short"), CURE));
    }
    Ok(duration)
}

/// A duration, which may be 0 or too short for a timer.
pub(super) fn any_duration(item: &Item<'_>, cure: &str) -> Result<Duration, Fault> {
    let text = item.text(cure)?;
    let duration =
        humantime::parse_duration(text).map_err(|error| Fault::new(format!("{text:?} is not a duration: {error}"), cure))?;
    if duration > LONGEST {
        return Err(Fault::new(format!("{text:?} is too long"), cure));
    }
    Ok(duration)
}

/// One of the words of `known`; words of `later` are part of the contract and refused as such.
pub(super) fn choice<T: Copy>(item: &Item<'_>, known: &[(&'static str, T)], later: &[&str]) -> Result<T, Fault> {
    let words = || known.iter().map(|(word, _)| *word);
    let cure = format!("write {}", one_of(words()));
    let text = item.text(&cure)?;
    if let Some((_, value)) = known.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    if later.contains(&text) {
        return Err(Fault::later(format!("{text:?}"), cure));
    }
    let guess = did_you_mean(text, words()).map_or_else(|| cure.clone(), |guess| format!("{cure}; {guess}"));
    Err(Fault::new(format!("unknown value {text:?}"), guess))
}

/// An address that a flow can be sent to.
pub(super) fn unicast(ip: IpAddr, cure: &str) -> Result<IpAddr, Fault> {
    let ip = ip.to_canonical();
    let kind = match ip {
        ip if ip.is_unspecified() => "the unspecified address",
        ip if ip.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local address, which means nothing without an interface",
        ip => return Ok(ip),
    };
    Err(Fault::new(format!("{ip} is {kind}"), cure))
}

pub(super) fn static_ip(item: &Item<'_>) -> Result<IpAddr, Fault> {
    const CURE: &str = "write one IPv4 or IPv6 address, such as \"198.18.0.1\"";
    static_ip_of(item.text(CURE)?, CURE)
}

pub(super) fn static_ip_of(text: &str, cure: &str) -> Result<IpAddr, Fault> {
    let ip = text.parse().map_err(|_| Fault::new(format!("{text:?} is not an IP address"), cure))?;
    unicast(ip, cure)
}

/// Where a Unix socket is.
pub(super) fn socket_path(item: &Item<'_>, example: &str) -> Result<PathBuf, Fault> {
    let cure = format!("write an absolute path of at most {LONGEST_SOCKET_PATH} bytes, such as {example:?}");
    let text = item.text(&cure)?;
    if !text.starts_with('/') || text.ends_with('/') || text.contains('\0') {
        return Err(Fault::new(format!("{text:?} is not an absolute path of a socket"), cure));
    }
    if text.len() > LONGEST_SOCKET_PATH {
        return Err(Fault::new(format!("the path has {} bytes, too many for a Unix socket", text.len()), cure));
    }
    Ok(PathBuf::from(text))
}

/// A port, or a range written `"7100-7199"`.
pub(super) fn port_range(item: &Item<'_>) -> Result<RangeInclusive<u16>, Fault> {
    const CURE: &str = "write a port of 1 to 65535, or a range from the lower to the higher such as \"7100-7199\"";
    if item.value.is_integer() {
        return port(item).map(|port| port..=port);
    }
    let text = item.text(CURE)?;
    let wrong = || Fault::new(format!("{text:?} is not a range of ports"), CURE);
    let number = |part: &str| part.trim().parse::<u16>().ok().filter(|&port| port > 0).ok_or_else(wrong);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(Fault::new(format!("the range {text:?} ends before it begins"), CURE));
    }
    Ok(first..=last)
}

pub(super) fn dial(item: &Item<'_>) -> Result<Dial, Fault> {
    const CURE: &str = "write a percentage of 0 to 100, such as 12.5";
    let text = match item.value {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        DeValue::Float(number) => number.as_str(),
        _ => return Err(item.not("a percentage", CURE)),
    };
    let percent = text.parse().ok().and_then(Dial::from_percent);
    percent.ok_or_else(|| Fault::new(format!("{text} is out of range"), CURE))
}

pub(super) fn min_healthy(item: &Item<'_>) -> Result<MinHealthy, Fault> {
    const CURE: &str = "write a count of at least 1, or \"1%\" to \"100%\" of the endpoints with weight above 0";
    match item.value {
        DeValue::String(text) => {
            let percent = text.strip_suffix('%').and_then(|number| number.trim().parse().ok());
            let percent = percent.filter(|percent| (1..=100).contains(percent)).map(MinHealthy::Percent);
            percent.ok_or_else(|| Fault::new(format!("{text:?} is not a share of the endpoints"), CURE))
        }
        DeValue::Integer(number) => {
            let count = number.as_str().parse().ok().map(MinHealthy::Count);
            count.ok_or_else(|| Fault::new(format!("{number} is out of range"), CURE))
        }
        _ => Err(item.not("a count or a share", CURE)),
    }
}

/// Where an endpoint is, as the file says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// At an address.
    Ip(IpAddr),
    /// Wherever this DNS name leads: lower case, without the dot at its end.
    Host(String),
}

/// An address or a DNS name, and the port if it is fixed.
pub(super) fn endpoint_address(item: &Item<'_>) -> Result<(Place, Option<u16>), Fault> {
    const CURE: &str = "write an IP address or a DNS name, with a port if it has a fixed one: \"10.0.1.10\", \"10.0.1.10:9000\", \"[2001:db8::1]:9000\" or \"game.example.com:9000\"";
    let text = item.text(CURE)?;
    if let Ok(ip) = text.parse() {
        return Ok((Place::Ip(unicast(ip, CURE)?), None));
    }
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        if address.port() == 0 {
            return Err(Fault::new(format!("{text:?} has port 0"), CURE));
        }
        return Ok((Place::Ip(unicast(address.ip(), CURE)?), Some(address.port())));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => match port.parse::<u16>() {
            Ok(port) if port > 0 => (host, Some(port)),
            _ => return Err(Fault::new(format!("{text:?} is not an address"), CURE)),
        },
        None => (text, None),
    };
    match host_name(host) {
        Some(host) => Ok((Place::Host(host), port)),
        None => Err(Fault::new(format!("{text:?} is not an address"), CURE)),
    }
}

/// A host name (RFC 1123, section 2.1) as it is asked for; `None` if `text` is none, or could be a mistyped address.
fn host_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let fits = |label: &str| {
        let within = label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        (1..=63).contains(&label.len()) && within && !label.starts_with('-') && !label.ends_with('-')
    };
    // The last label of an address is a number, that of a name never is.
    let last = name.rsplit('.').next()?;
    let named = last.chars().any(|c| c.is_ascii_alphabetic());
    (name.len() <= 253 && named && name.split('.').all(fits)).then(|| name.to_ascii_lowercase())
}

/// A network, or one address; an IPv4 network written as IPv6 is that IPv4 network.
pub(super) fn network(item: &Item<'_>) -> Result<IpNet, Fault> {
    const CURE: &str = "write a network such as \"203.0.113.0/24\" or \"2001:db8::/32\", or an address";
    let text = item.text(CURE)?;
    let parsed = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let network = parsed.map_err(|_| Fault::new(format!("{text:?} is not a network"), CURE))?;
    match network {
        IpNet::V6(v6) if v6.prefix_len() >= 96 && v6.addr().to_ipv4_mapped().is_some() => {
            let v4 = v6.addr().to_ipv4_mapped().unwrap_or(std::net::Ipv4Addr::UNSPECIFIED);
            ipnet::Ipv4Net::new(v4, v6.prefix_len() - 96)
                .map(IpNet::V4)
                .map_err(|_| Fault::new(format!("{text:?} is not a network"), CURE))
        }
        network => Ok(network),
    }
}
