//! `[[endpoint_groups]]`: where flows go.

use std::{collections::BTreeMap, num::NonZeroU16};

use endpoint_group::{Dial, Endpoint, EndpointGroup, MinHealthy, Name, Weight, model::FailbackPolicy};

use super::{
    diagnostic::{Fault, Mark, Marked, did_you_mean},
    health_check::{self, RawCheck},
    reader::{Item, Report, Section, Watch},
    resolved::UNRESOLVED,
    values::{self, Place},
};

/// One port override as read.
pub(super) struct RawOverride {
    pub(super) at: Mark,
    pub(super) listener_port: u16,
    pub(super) endpoint_port: u16,
}

/// One endpoint as read.
pub(super) struct RawEndpoint {
    pub(super) at: Mark,
    pub(super) name: Option<Marked<Name>>,
    pub(super) address: Option<Marked<(Place, Option<u16>)>>,
    pub(super) weight: Weight,
}

/// One endpoint group as read.
pub(super) struct RawGroup {
    pub(super) at: Mark,
    pub(super) name: Option<Marked<Name>>,
    region: String,
    pub(super) dial: Marked<Dial>,
    min_healthy: MinHealthy,
    pub(super) overrides: Vec<RawOverride>,
    failback: FailbackPolicy,
    pub(super) check: RawCheck,
    pub(super) endpoints: Vec<RawEndpoint>,
    /// Whether all of it could be read.
    pub(super) whole: bool,
}

impl RawGroup {
    pub(super) fn title(&self) -> String {
        self.name.as_ref().map_or_else(|| self.at.key.clone(), |name| format!("{:?}", name.value))
    }

    /// The group, if all of it could be read.
    pub(super) fn build(&self) -> Option<EndpointGroup> {
        let endpoint = |raw: &RawEndpoint| {
            let (place, port) = &raw.address.as_ref()?.value;
            let ip = match place {
                Place::Ip(ip) => *ip,
                Place::Host(_) => UNRESOLVED,
            };
            Some(Endpoint { name: raw.name.as_ref()?.value.clone(), ip, port: *port, weight: raw.weight })
        };
        Some(EndpointGroup {
            name: self.name.as_ref().filter(|_| self.whole)?.value.clone(),
            region: self.region.clone(),
            dial: self.dial.value,
            min_healthy: self.min_healthy,
            port_overrides: self.overrides.iter().map(|o| (o.listener_port, o.endpoint_port)).collect(),
            failback: self.failback,
            endpoints: self.endpoints.iter().map(endpoint).collect::<Option<_>>()?,
        })
    }
}

impl RawGroup {
    /// The DNS names of those endpoints that have one.
    pub(super) fn hosts(&self) -> BTreeMap<Name, String> {
        let host = |raw: &RawEndpoint| match &raw.address.as_ref()?.value.0 {
            Place::Host(host) => Some((raw.name.as_ref()?.value.clone(), host.clone())),
            Place::Ip(_) => None,
        };
        self.endpoints.iter().filter_map(host).collect()
    }
}

/// Reads every `[[endpoint_groups]]`.
pub(super) fn read_all(root: &mut Section<'_>, report: &Report) -> Vec<RawGroup> {
    const CURE: &str = "write one [[endpoint_groups]] table or more";
    let Some(item) = root.need_item("endpoint_groups", CURE) else { return Vec::new() };
    let elements = item.elements(CURE);
    if elements.is_empty() && item.value.is_array() {
        report.error(&item.at, Fault::new("no endpoint group", CURE));
    }
    elements.iter().filter_map(|element| read(element, report)).collect()
}

fn read(item: &Item<'_>, report: &Report) -> Option<RawGroup> {
    let watch = Watch::new(report);
    let mut section = item.section("write each endpoint group as a table, [[endpoint_groups]]")?;
    let name = marked(section.need_item("name", "give the endpoint group a name"), values::name);
    let region = section.get("region", region).unwrap_or_default();
    let dial = marked(section.item("traffic_dial"), values::dial)
        .unwrap_or_else(|| Marked { value: Dial::default(), at: section.mark("traffic_dial") });
    let min_healthy = marked(section.item("min_healthy"), values::min_healthy);
    let overrides = read_overrides(&mut section, report);
    let failback = read_failback(&mut section);
    let check = health_check::read(&mut section, report);
    let endpoints = read_endpoints(&mut section, report);
    check_source(report, &check, &endpoints);
    section.later(&["via"]);
    section.finish();

    let whole = watch.clean();
    if let Some(min_healthy) = min_healthy.as_ref().filter(|_| whole) {
        check_min_healthy(report, min_healthy, &endpoints);
    }
    if whole && endpoints.iter().all(|endpoint| endpoint.weight == Weight::ZERO) {
        let reason = "every endpoint has weight 0, so the group takes no new flow";
        report.warn(&item.at, Fault::new(reason, "give one endpoint a weight above 0, unless the group is to drain"));
    }
    Some(RawGroup {
        at: item.at.clone(),
        name,
        region,
        dial,
        min_healthy: min_healthy.map_or_else(MinHealthy::default, |min_healthy| min_healthy.value),
        overrides,
        failback,
        check,
        endpoints,
        whole,
    })
}

fn marked<'a, T>(item: Option<Item<'a>>, parse: impl FnOnce(&Item<'a>) -> Result<T, Fault>) -> Option<Marked<T>> {
    let item = item?;
    Some(Marked { value: item.read(parse)?, at: item.at })
}

fn region(item: &Item<'_>) -> Result<String, Fault> {
    const CURE: &str = "write a text of at most 64 characters, such as \"eu-central\"";
    let text = item.text(CURE)?;
    if text.chars().count() > 64 || text.contains(char::is_control) {
        return Err(Fault::new("too long, or with control characters", CURE));
    }
    Ok(text.to_owned())
}

/// A group that drains as a whole keeps its `min_healthy`: it is compared with the endpoints that could take flows again.
fn check_min_healthy(report: &Report, min_healthy: &Marked<MinHealthy>, endpoints: &[RawEndpoint]) {
    let MinHealthy::Count(count) = min_healthy.value else { return };
    let named = |endpoint: &RawEndpoint| matches!(&endpoint.address, Some(Marked { value: (Place::Host(_), _), .. }));
    // A DNS name may stand for any number.
    if endpoints.iter().any(named) {
        return;
    }
    let weighted = endpoints.iter().filter(|endpoint| endpoint.weight > Weight::ZERO).count();
    let most = if weighted == 0 { endpoints.len() } else { weighted };
    if usize::from(NonZeroU16::get(count)) > most {
        let reason = format!("{count} healthy endpoints are asked for, and {most} have a weight above 0");
        report.error(&min_healthy.at, Fault::new(reason, format!("write a count of 1 to {most}, or a share such as \"50%\"")));
    }
}

/// Probes from an IPv4 address reach no IPv6 endpoint, and the other way round.
fn check_source(report: &Report, check: &RawCheck, endpoints: &[RawEndpoint]) {
    let Some(source) = &check.source else { return };
    let mut ips = endpoints.iter().filter_map(|endpoint| match endpoint.address.as_ref()?.value.0 {
        Place::Ip(ip) => Some(ip),
        Place::Host(_) => None,
    });
    if let Some(ip) = ips.find(|ip| ip.is_ipv4() != source.value.is_ipv4()) {
        let reason = format!("no probe gets from {} to an endpoint at {ip}", source.value);
        let cure = "write an address of the endpoints' family; give endpoints of the other family a group of their own";
        report.error(&source.at, Fault::new(reason, cure));
    }
}

fn read_overrides(section: &mut Section<'_>, report: &Report) -> Vec<RawOverride> {
    const CURE: &str = "write [{ listener_port = 7000, endpoint_port = 17000 }]";
    let Some(list) = section.item("port_overrides") else { return Vec::new() };
    let mut overrides: Vec<RawOverride> = Vec::new();
    for element in list.elements(CURE) {
        let Some(mut entry) = element.section(CURE) else { continue };
        let listener_port = entry.need("listener_port", CURE, values::port);
        let endpoint_port = entry.need("endpoint_port", CURE, values::port);
        entry.finish();
        let (Some(listener_port), Some(endpoint_port)) = (listener_port, endpoint_port) else { continue };
        if overrides.iter().any(|other| other.listener_port == listener_port) {
            let reason = format!("listener port {listener_port} is overridden twice");
            report.error(&element.at, Fault::new(reason, "keep one of the two"));
        }
        overrides.push(RawOverride { at: element.at, listener_port, endpoint_port });
    }
    overrides
}

fn read_failback(section: &mut Section<'_>) -> FailbackPolicy {
    let default = FailbackPolicy::default();
    let table = section.item("failback").and_then(|item| item.section("write { hold = \"5s\", ramp = \"10s\" }"));
    let Some(mut table) = table else { return default };
    let policy = FailbackPolicy {
        hold: table.get("hold", values::duration_or_zero).unwrap_or(default.hold),
        ramp: table.get("ramp", values::duration_or_zero).unwrap_or(default.ramp),
    };
    table.finish();
    policy
}

fn read_endpoints(section: &mut Section<'_>, report: &Report) -> Vec<RawEndpoint> {
    const CURE: &str = "list one or more, such as [{ name = \"eu-1\", address = \"10.0.1.10\", weight = 128 }]";
    let Some(list) = section.need_item("endpoints", CURE) else { return Vec::new() };
    let elements = list.elements(CURE);
    if elements.is_empty() && list.value.is_array() {
        report.error(&list.at, Fault::new("no endpoint", CURE));
    }
    let mut endpoints: Vec<RawEndpoint> = Vec::new();
    for element in elements {
        let Some(mut entry) = element.section(CURE) else { continue };
        let name = marked(entry.need_item("name", "give the endpoint a name"), values::name);
        let address = marked(entry.need_item("address", "write address = \"10.0.1.10\""), values::endpoint_address);
        let weight = entry.get("weight", values::weight).unwrap_or_default();
        entry.finish();
        endpoints.push(RawEndpoint { at: element.at, name, address, weight });
    }
    refuse_same_address(report, &endpoints);
    endpoints
}

fn refuse_same_address(report: &Report, endpoints: &[RawEndpoint]) {
    let mut first = BTreeMap::new();
    for endpoint in endpoints {
        let Some(address) = &endpoint.address else { continue };
        let title = endpoint.name.as_ref().map_or(endpoint.at.key.as_str(), |name| name.value.as_str());
        if let Some(other) = first.get(&address.value) {
            let reason = format!("the same address as endpoint {other:?} of this group");
            report.error(&address.at, Fault::new(reason, "keep one of the two, with the sum of their weights"));
        } else {
            first.insert(address.value.clone(), title);
        }
    }
}

/// What to write where a group is named that does not exist.
pub(super) fn known_groups(wanted: &Name, groups: &[RawGroup]) -> String {
    let names = || groups.iter().filter_map(|group| Some(group.name.as_ref()?.value.as_str()));
    did_you_mean(wanted.as_str(), names())
        .unwrap_or_else(|| format!("write [[endpoint_groups]] with name = {:?}, or name one that exists", wanted.as_str()))
}
