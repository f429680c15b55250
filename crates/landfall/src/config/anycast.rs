//! `[anycast]`: how the static IPs are announced.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use ::anycast::{decide::WhenIsolated, device::LONGEST_NAME, reconcile::Carrier};

use super::{
    RawFile,
    diagnostic::{Fault, Mark, Marked},
    reader::{Item, Report, Section, Watch},
    values,
};

/// The longest name of a protocol that BIRD takes, in bytes.
const LONGEST_PROTOCOL: usize = 64;
const PROTOCOLS: &str =
    "write the name of the static protocol in BIRD for each static IP, such as { \"198.18.0.1\" = \"landfall_1\" }";

/// How static IPs are announced by BIRD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anycast {
    /// The network device that the routes hang on.
    pub device: String,
    /// BIRD's control socket.
    pub bird_socket: PathBuf,
    /// The static IPs that BIRD has protocols for, those that this edge announces among them, in the order of `static_ips`.
    pub carriers: Vec<(IpAddr, Carrier)>,
    /// What an edge does that reaches no endpoint.
    pub when_isolated: WhenIsolated,
    /// How long that must last.
    pub isolated_hold: Duration,
    /// From a withdrawal to the end of accepting, and from a step back to the withdrawal.
    pub shutdown_wait: Duration,
}

/// A name for each of some static IPs.
type Named = Vec<(Marked<IpAddr>, String)>;

/// `[anycast]` as read.
pub(super) struct RawAnycast {
    speaks: bool,
    protocols_at: Mark,
    deprefer_at: Mark,
    device: String,
    bird_socket: PathBuf,
    protocols: Named,
    deprefer: Named,
    isolated: Marked<WhenIsolated>,
    isolated_hold: Duration,
    shutdown_wait: Duration,
    /// Whether all of it could be read, so that nothing said about it is a consequence of another error.
    whole: bool,
}

impl RawAnycast {
    /// As the program needs it; `None` where nobody speaks.
    pub(super) fn build(&self, static_ips: &[IpAddr]) -> Option<Anycast> {
        let name = |names: &Named, ip: IpAddr| names.iter().find(|(of, _)| of.value == ip).map(|(_, name)| name.clone());
        let carrier = |&ip: &IpAddr| Some((ip, Carrier { normal: name(&self.protocols, ip)?, low: name(&self.deprefer, ip) }));
        self.speaks.then(|| Anycast {
            device: self.device.clone(),
            bird_socket: self.bird_socket.clone(),
            carriers: static_ips.iter().filter_map(carrier).collect(),
            when_isolated: self.isolated.value,
            isolated_hold: self.isolated_hold,
            shutdown_wait: self.shutdown_wait,
        })
    }
}

/// Reads `[anycast]`; without one nobody speaks.
pub(super) fn read(root: &mut Section<'_>, report: &Report) -> RawAnycast {
    let at = |key: &str| Mark { key: format!("anycast.{key}"), line: root.at.line };
    let mut raw = RawAnycast {
        speaks: false,
        protocols_at: at("bird_protocols"),
        deprefer_at: at("bird_deprefer"),
        device: "landfall0".to_owned(),
        bird_socket: PathBuf::from("/run/bird/bird.ctl"),
        protocols: Vec::new(),
        deprefer: Vec::new(),
        isolated: Marked { value: WhenIsolated::default(), at: at("isolated") },
        isolated_hold: Duration::from_secs(10),
        shutdown_wait: Duration::from_secs(2),
        whole: true,
    };
    let watch = Watch::new(report);
    let section = root.item("anycast").and_then(|item| item.section("write [anycast] above its keys"));
    let Some(mut anycast) = section else { return raw };
    let speakers = [("none", false), ("bird", true)];
    let speaker = anycast.get("speaker", |item| values::choice(item, &speakers, &[]));
    raw.speaks = speaker.unwrap_or(false);
    raw.protocols_at = anycast.mark("bird_protocols");
    raw.deprefer_at = anycast.mark("bird_deprefer");
    raw.isolated.at = anycast.mark("isolated");
    let mut item = |key: &'static str| {
        let item = anycast.item(key)?;
        if !raw.speaks && watch.clean() {
            let reason = format!("{key} has no effect without a speaker");
            report.warn(&item.at, Fault::new(reason, "write speaker = \"bird\", or remove it"));
        }
        Some(item)
    };
    if let Some(name) = item("device").and_then(|item| item.read(device)) {
        raw.device = name;
    }
    if let Some(path) = item("bird_socket").and_then(|item| item.read(|item| values::socket_path(item, "/run/bird/bird.ctl"))) {
        raw.bird_socket = path;
    }
    for (key, named, at) in [
        ("bird_protocols", &mut raw.protocols, &mut raw.protocols_at),
        ("bird_deprefer", &mut raw.deprefer, &mut raw.deprefer_at),
    ] {
        if let Some(item) = item(key) {
            at.clone_from(&item.at);
            *named = names(&item, report);
        }
    }
    let choices = [("keep", WhenIsolated::Keep), ("deprefer", WhenIsolated::Deprefer), ("withdraw", WhenIsolated::Withdraw)];
    if let Some(item) = item("isolated")
        && let Some(value) = item.read(|item| values::choice(item, &choices, &[]))
    {
        raw.isolated = Marked { value, at: item.at };
    }
    if let Some(hold) = item("isolated_hold").and_then(|item| item.read(values::duration_or_zero)) {
        raw.isolated_hold = hold;
    }
    if let Some(wait) = item("shutdown_wait").and_then(|item| item.read(values::duration_or_zero)) {
        raw.shutdown_wait = wait;
    }
    anycast.finish();
    raw.whole = watch.clean();
    raw
}

/// What the section and the rest of the file must agree on.
pub(super) fn check(report: &Report, file: &RawFile) {
    let raw = &file.anycast;
    if !raw.speaks || !raw.whole || !file.static_ips_whole {
        return;
    }
    let is_static = |ip: IpAddr| file.static_ips.iter().any(|other| other.value == ip);
    let has = |names: &Named, ip: IpAddr| names.iter().any(|(of, _)| of.value == ip);
    for (ip, _) in raw.protocols.iter().chain(&raw.deprefer).filter(|(ip, _)| !is_static(ip.value)) {
        let reason = format!("{} is not one of static_ips", ip.value);
        report.error(&ip.at, Fault::new(reason, "list it in static_ips, or remove it here"));
    }
    let announced = file.edge.announce.as_ref().unwrap_or(&file.static_ips);
    let announced = || announced.iter().map(|ip| ip.value).filter(|&ip| is_static(ip));
    for ip in announced().filter(|&ip| !has(&raw.protocols, ip)) {
        let reason = format!("no protocol for {ip}, which this edge announces");
        report.absent(&raw.protocols_at, Fault::new(reason, PROTOCOLS));
    }
    for (ip, _) in raw.deprefer.iter().filter(|(ip, _)| is_static(ip.value) && !has(&raw.protocols, ip.value)) {
        let reason = format!("{} has no protocol in bird_protocols", ip.value);
        report.error(&ip.at, Fault::new(reason, "name the one that announces it, or remove it here"));
    }
    if raw.isolated.value == WhenIsolated::Deprefer {
        for ip in announced().filter(|&ip| !has(&raw.deprefer, ip)) {
            let reason = format!("\"deprefer\" needs a protocol for {ip} in bird_deprefer");
            report.error(&raw.isolated.at, Fault::new(reason, "name it there, or write \"keep\" or \"withdraw\""));
        }
    }
    let all: Vec<_> = raw.protocols.iter().chain(&raw.deprefer).collect();
    for (index, (ip, name)) in all.iter().enumerate() {
        if let Some((first, _)) = all[..index].iter().find(|(_, other)| other == name) {
            let reason = format!("the protocol {name:?} already stands for {} on line {}", first.value, first.at.line);
            report.error(&ip.at, Fault::new(reason, "give each static IP protocols of its own"));
        }
    }
}

/// A table of static IPs and names of protocols.
fn names(item: &Item<'_>, report: &Report) -> Named {
    let mut names = Named::new();
    for (key, item) in item.section(PROTOCOLS).map(Section::entries).unwrap_or_default() {
        let ip =
            values::static_ip_of(key, "write a static IP in quotes before \"=\"").map_err(|fault| report.error(&item.at, fault));
        let (Ok(value), Some(name)) = (ip, item.read(protocol)) else { continue };
        if names.iter().any(|(ip, _)| ip.value == value) {
            report.error(&item.at, Fault::new(format!("{value} is listed twice"), "list it once"));
        } else {
            names.push((Marked { value, at: item.at }, name));
        }
    }
    names
}

/// A name that BIRD takes without quotes, so that a command is one with any name.
fn protocol(item: &Item<'_>) -> Result<String, Fault> {
    const CURE: &str = "write the name of a protocol in BIRD's config: letters, digits and '_', such as \"landfall_1\"";
    let text = item.text(CURE)?;
    let first = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let rest = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    // "all" would command every protocol of BIRD.
    if first && rest && text.len() <= LONGEST_PROTOCOL && text != "all" {
        return Ok(text.to_owned());
    }
    Err(Fault::new(format!("{text:?} is not the name of a protocol"), CURE))
}

/// A name that Linux gives a device as it stands.
fn device(item: &Item<'_>) -> Result<String, Fault> {
    const CURE: &str = "write a name of at most 15 letters, digits, '_', '-' and '.', such as \"landfall0\"";
    let text = item.text(CURE)?;
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if plain && (1..=LONGEST_NAME).contains(&text.len()) && !matches!(text, "." | ".." | "all" | "default" | "lo") {
        return Ok(text.to_owned());
    }
    Err(Fault::new(format!("{text:?} is not a name for a device"), CURE))
}
