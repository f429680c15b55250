//! A listener as TOML.

use std::fmt::{self, Write};

use edge_listener::client_ip::ClientIp;
use edge_listener::settings::{LegOptions, Limits, OnUnhealthy, TcpSettings, UdpSettings};
use endpoint_group::{Affinity, Protocol as Transport, WhenAllUnhealthy};

use super::{list, quoted, span};
use crate::config::{Config, Forwarding, Listener, Proximity, listener::shown};

/// Writes one `[[listeners]]`.
pub(super) fn write(out: &mut String, config: &Config, listener: &Listener) -> fmt::Result {
    let settings = &listener.settings;
    let protocol = match (&settings.tcp, &settings.udp) {
        (Some(_), Some(_)) => "tcp_udp",
        (Some(_), None) => "tcp",
        (None, _) => "udp",
    };
    let affinity = match settings.affinity {
        Affinity::None => "none",
        Affinity::SourceIp => "source_ip",
    };
    let when_all_unhealthy = match listener.when_all_unhealthy {
        WhenAllUnhealthy::FailOpen => "fail_open",
        WhenAllUnhealthy::FailClosed => "fail_closed",
    };
    let forwarding = match listener.forwarding {
        Forwarding::Auto => "auto",
        Forwarding::User => "user",
        Forwarding::Kernel => "kernel",
    };
    let groups = listener.groups.iter().filter_map(|&group| config.endpoint_groups.get(group));
    writeln!(out, "\n[[listeners]]\nname = {}\nprotocol = {}", quoted(&settings.name), quoted(protocol))?;
    let ports = settings.ports.iter().map(|range| if range.len() == 1 { shown(range) } else { quoted(shown(range)) });
    writeln!(out, "ports = [{}]", ports.collect::<Vec<_>>().join(", "))?;
    writeln!(out, "client_affinity = {}", quoted(affinity))?;
    write_protocols(out, settings.tcp.as_ref(), settings.udp.as_ref())?;
    writeln!(out, "when_all_unhealthy = {}", quoted(when_all_unhealthy))?;
    let client_ip = settings.udp.as_ref().map(|udp| udp.client_ip).or(settings.tcp.as_ref().map(|tcp| tcp.client_ip));
    let client_ip = match client_ip.unwrap_or_default() {
        ClientIp::None => "none",
        ClientIp::ProxyV2 => "proxy_v2",
        ClientIp::ProxyV2Every => "proxy_v2_every",
        ClientIp::Transparent => "transparent",
    };
    writeln!(out, "forwarding = {}\nclient_ip = {}", quoted(forwarding), quoted(client_ip))?;
    write_limits(out, listener)?;
    writeln!(out, "allow = {}\ndeny = {}", list(settings.access.allow()), list(settings.access.deny()))?;
    writeln!(out, "endpoint_groups = {}", list(groups.map(|group| &group.group.name)))?;
    let proximity = match listener.proximity {
        Proximity::Listed => "listed",
        Proximity::Latency => "latency",
    };
    writeln!(out, "proximity = {}", quoted(proximity))
}

/// A default `max_flows` stands in a comment, because it is another in the kernel than in user space.
fn write_limits(out: &mut String, listener: &Listener) -> fmt::Result {
    let Limits { max_flows, max_flows_per_client, new_flows_per_client_per_second } = listener.settings.limits;
    let limits = [
        (!listener.default_max_flows).then(|| format!("max_flows = {max_flows}")),
        max_flows_per_client.map(|most| format!("max_flows_per_client = {most}")),
        new_flows_per_client_per_second.map(|most| format!("new_flows_per_client_per_second = {most}")),
    ];
    write!(out, "limits = {{ {} }}", limits.into_iter().flatten().collect::<Vec<_>>().join(", "))?;
    if listener.default_max_flows {
        writeln!(out, "  # max_flows = {max_flows} in user space, by default")
    } else {
        writeln!(out)
    }
}

fn write_protocols(out: &mut String, tcp: Option<&TcpSettings>, udp: Option<&UdpSettings>) -> fmt::Result {
    let tcp_side = tcp.map(|tcp| (span(tcp.idle_timeout), quoted(on_unhealthy(Transport::Tcp, tcp.on_unhealthy))));
    let udp_side = udp.map(|udp| (span(udp.idle_timeout), quoted(on_unhealthy(Transport::Udp, udp.on_unhealthy))));
    match (tcp_side, udp_side) {
        (Some((tcp_idle, tcp_leave)), Some((udp_idle, udp_leave))) => {
            writeln!(out, "idle_timeout = {{ tcp = {tcp_idle}, udp = {udp_idle} }}")?;
            writeln!(out, "on_unhealthy = {{ tcp = {tcp_leave}, udp = {udp_leave} }}")?;
        }
        (Some((idle, leave)), None) | (None, Some((idle, leave))) => {
            writeln!(out, "idle_timeout = {idle}\non_unhealthy = {leave}")?;
        }
        (None, None) => {}
    }
    if let Some(udp) = udp {
        writeln!(out, "unanswered_timeout = {}\ncarry_dscp = {}", span(udp.unanswered_timeout), udp.carry_dscp)?;
    }
    tcp.map_or(Ok(()), |tcp| write_tcp(out, tcp))
}

fn write_tcp(out: &mut String, tcp: &TcpSettings) -> fmt::Result {
    if let Some(mss) = tcp.mss {
        writeln!(out, "tcp_mss = {mss}")?;
    }
    writeln!(out, "connect_timeout = {}\nconnect_attempts = {}", span(tcp.connect_timeout), tcp.connect_attempts)?;
    write_socket(out, "client_socket", &tcp.client_socket)?;
    write_socket(out, "endpoint_socket", &tcp.endpoint_socket)?;
    writeln!(out, "tcp = \"proxy\"")
}

/// What the kernel's defaults decide is left out: no value says so.
fn write_socket(out: &mut String, key: &str, options: &LegOptions) -> fmt::Result {
    let LegOptions { nodelay, keepalive, user_timeout, congestion } = options;
    write!(out, "{key} = {{ nodelay = {nodelay}")?;
    for (key, timeout) in [("keepalive", keepalive), ("user_timeout", user_timeout)] {
        if let Some(timeout) = timeout {
            write!(out, ", {key} = {}", span(*timeout))?;
        }
    }
    if let Some(congestion) = congestion {
        write!(out, ", congestion = {}", quoted(congestion))?;
    }
    writeln!(out, " }}")
}

fn on_unhealthy(protocol: Transport, then: OnUnhealthy) -> &'static str {
    match (then, protocol) {
        (OnUnhealthy::Keep, _) => "keep",
        (OnUnhealthy::Leave, Transport::Tcp) => "reset",
        (OnUnhealthy::Leave, Transport::Udp) => "move",
    }
}
