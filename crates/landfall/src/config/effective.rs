//! A [`Config`] as TOML with every default filled in: parsing it again on the same host gives an equal `Config`.

mod listener;

use std::{
    fmt::{self, Write},
    ops::RangeInclusive,
    time::Duration,
};

use ::anycast::{decide::WhenIsolated, reconcile::Carrier};
use endpoint_group::{Endpoint, EndpointGroup, MinHealthy};
use health_checker::{Expect, ProbeKind, preset::Protocol, tls::TlsSettings};

use super::{Anycast, Config, Edge, FastPath, Group, ProbePort};
use crate::config::listener::shown;

impl Config {
    /// This config as a file that says everything.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        let _ = write_config(&mut out, self);
        out
    }
}

fn write_config(out: &mut String, config: &Config) -> fmt::Result {
    writeln!(out, "name = {}", quoted(&config.name))?;
    writeln!(out, "static_ips = {}", list(&config.static_ips))?;
    writeln!(out, "hash_seed = {}    # a secret, the same on every edge", seed(config.hash_seed))?;
    write_edge(out, &config.edge)?;
    for listener in &config.listeners {
        listener::write(out, config, listener)?;
    }
    for group in &config.endpoint_groups {
        write_group(out, group)?;
    }
    write_anycast(out, config.anycast.as_ref())
}

fn write_anycast(out: &mut String, anycast: Option<&Anycast>) -> fmt::Result {
    let Some(anycast) = anycast else { return writeln!(out, "\n[anycast]\nspeaker = \"none\"") };
    let table = |name: &dyn Fn(&Carrier) -> Option<String>| {
        let named = anycast.carriers.iter().filter_map(|(ip, carrier)| Some((ip, name(carrier)?)));
        let entries: Vec<_> = named.map(|(ip, name)| format!("{} = {}", quoted(ip), quoted(name))).collect();
        format!("{{ {} }}", entries.join(", "))
    };
    let isolated = match anycast.when_isolated {
        WhenIsolated::Keep => "keep",
        WhenIsolated::Deprefer => "deprefer",
        WhenIsolated::Withdraw => "withdraw",
    };
    writeln!(out, "\n[anycast]\nspeaker = \"bird\"\ndevice = {}", quoted(&anycast.device))?;
    writeln!(out, "bird_socket = {}", quoted(anycast.bird_socket.display()))?;
    writeln!(out, "bird_protocols = {}", table(&|carrier| Some(carrier.normal.clone())))?;
    if anycast.carriers.iter().any(|(_, carrier)| carrier.low.is_some()) {
        writeln!(out, "bird_deprefer = {}", table(&|carrier| carrier.low.clone()))?;
    }
    writeln!(out, "isolated = {}\nisolated_hold = {}", quoted(isolated), span(anycast.isolated_hold))?;
    writeln!(out, "shutdown_wait = {}", span(anycast.shutdown_wait))
}

fn write_edge(out: &mut String, edge: &Edge) -> fmt::Result {
    let word = |wanted: FastPath| match wanted {
        FastPath::Auto => quoted("auto"),
        FastPath::On => quoted("on"),
        FastPath::Off => quoted("off"),
    };
    writeln!(out, "\n[edge]\nname = {}\nworkers = {}\npin = {}", quoted(&edge.name), edge.workers, edge.pin)?;
    writeln!(out, "admin = {}\ncontrol = {}", quoted(edge.admin), quoted(edge.control.display()))?;
    writeln!(out, "fast_path = {}\nfast_path_xdp = {}", word(edge.fast_path), word(edge.fast_path_xdp))?;
    writeln!(out, "announce = {}", list(&edge.announce))?;
    writeln!(out, "nat_addresses = {}\nnat_ports = {}", list(&edge.nat_addresses), quoted(shown(&edge.nat_ports)))?;
    if let Some(devices) = &edge.fast_path_devices {
        writeln!(out, "fast_path_devices = {}", list(devices))?;
    }
    if !edge.resolvers.is_empty() {
        writeln!(out, "resolvers = {}", list(&edge.resolvers))?;
    }
    writeln!(out, "drain_timeout = {}", span(edge.drain_timeout))
}

fn write_group(out: &mut String, group: &Group) -> fmt::Result {
    let EndpointGroup { name, region, dial, min_healthy, port_overrides, failback, endpoints } = &group.group;
    writeln!(out, "\n[[endpoint_groups]]\nname = {}\nregion = {}", quoted(name), quoted(region))?;
    let min_healthy = match min_healthy {
        MinHealthy::Count(count) => count.to_string(),
        MinHealthy::Percent(_) => quoted(min_healthy),
    };
    writeln!(out, "traffic_dial = {:?}\nmin_healthy = {min_healthy}", dial.percent())?;
    let overrides = port_overrides.iter().map(|(from, to)| format!("{{ listener_port = {from}, endpoint_port = {to} }}"));
    writeln!(out, "port_overrides = [{}]", overrides.collect::<Vec<_>>().join(", "))?;
    writeln!(out, "failback = {{ hold = {}, ramp = {} }}", span(failback.hold), span(failback.ramp))?;
    writeln!(out, "endpoints = [")?;
    for endpoint @ Endpoint { name, weight, .. } in endpoints {
        let address = group.address(endpoint);
        writeln!(out, "  {{ name = {}, address = {}, weight = {} }},", quoted(name), quoted(address), weight.get())?;
    }
    writeln!(out, "]")?;
    write_check(out, group)
}

fn write_check(out: &mut String, group: &Group) -> fmt::Result {
    let timing = group.check.timing();
    writeln!(out, "[endpoint_groups.health_check]\nprotocol = {}", quoted(group.check.kind().as_str()))?;
    match group.probe_port {
        ProbePort::Fixed(port) => writeln!(out, "port = {port}")?,
        ProbePort::OfListenerPort(port) => writeln!(out, "# port: of each endpoint, where listener port {port} leads")?,
    }
    if let Some(source) = group.check.source() {
        writeln!(out, "source = {}", quoted(source))?;
    }
    write_question(out, group.check.kind())?;
    writeln!(out, "interval = {}\nfast_interval = {}", span(timing.interval), span(timing.fast_interval))?;
    writeln!(out, "timeout = {}\nunhealthy_threshold = {}", span(timing.timeout), timing.unhealthy_threshold)?;
    writeln!(out, "healthy_threshold = {}", timing.healthy_threshold)?;
    match timing.flap {
        Some(flap) => writeln!(out, "flap = {{ changes = {}, window = {} }}", flap.changes, span(flap.window)),
        None => Ok(()),
    }
}

fn quoted(text: impl fmt::Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

fn list(items: impl IntoIterator<Item = impl fmt::Display>) -> String {
    format!("[{}]", items.into_iter().map(quoted).collect::<Vec<_>>().join(", "))
}

fn span(duration: Duration) -> String {
    quoted(humantime::format_duration(duration))
}

/// Other readers of TOML promise no integers above 2^63 − 1.
fn seed(seed: u64) -> String {
    i64::try_from(seed).map_or_else(|_| format!("\"{seed:#x}\""), |seed| seed.to_string())
}

fn write_question(out: &mut String, kind: &ProbeKind) -> fmt::Result {
    match kind {
        ProbeKind::Tcp(exchange) | ProbeKind::Udp(exchange) => {
            if !exchange.send().is_empty() {
                writeln!(out, "send = {}", probe_bytes(exchange.send()))?;
            }
            write_expect(out, exchange.expect())
        }
        ProbeKind::Http(http) => {
            writeln!(out, "method = {}\npath = {}", quoted(http.method.as_str()), quoted(&http.path))?;
            if let Some(host) = &http.host {
                writeln!(out, "host = {}", quoted(host))?;
            }
            let status = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
                (first, last) if first == last => first.to_string(),
                (first, last) => quoted(format_args!("{first}-{last}")),
            };
            writeln!(out, "status = [{}]", http.status.iter().map(status).collect::<Vec<_>>().join(", "))?;
            write_expect(out, &http.body)?;
            http.tls.as_ref().map_or(Ok(()), |tls| write_tls(out, tls.settings()))
        }
        ProbeKind::Quic(quic) => {
            let alpn = quic.alpn();
            // They were texts in the file.
            writeln!(out, "alpn = {}", list(alpn.iter().map(|protocol| String::from_utf8_lossy(protocol))))?;
            write_tls(out, quic.tls().settings())
        }
        ProbeKind::Preset(preset) => {
            writeln!(out, "transport = {}", quoted(preset.transport().as_str()))?;
            match preset.protocol() {
                Protocol::Dns(name) => writeln!(out, "query = {}", quoted(name)),
                _ => Ok(()),
            }
        }
    }
}

fn write_expect(out: &mut String, expect: &Expect) -> fmt::Result {
    match expect {
        Expect::Anything => Ok(()),
        Expect::Bytes(bytes) => writeln!(out, "expect = {}", probe_bytes(bytes)),
        Expect::Regex(pattern) => writeln!(out, "expect = {{ regex = {} }}", quoted(pattern.as_str())),
    }
}

fn write_tls(out: &mut String, tls: &TlsSettings) -> fmt::Result {
    let TlsSettings { server_name, ca, verify } = tls;
    match server_name {
        Some(name) => writeln!(out, "server_name = {}", quoted(name.to_str()))?,
        None => writeln!(out, "# server_name: the address of each endpoint")?,
    }
    match ca {
        Some(path) => writeln!(out, "ca = {}", quoted(path.display()))?,
        None if *verify => writeln!(out, "# ca: what this host trusts")?,
        None => {}
    }
    writeln!(out, "verify = {verify}")
}

/// Text where it reads as such, hexadecimal otherwise.
fn probe_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with("hex:") && !text.contains(char::is_control) => quoted(text),
        _ => format!("\"hex:{}\"", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}
