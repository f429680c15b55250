//! What a reload may change, and what needs a restart.

use super::{Anycast, Config, Listener};

impl Config {
    /// The keys that differ in `new` and that a running edge cannot change; empty if a reload can apply `new`.
    ///
    /// A reload applies endpoint groups whole (endpoints, weights, dials, health checks, failback), which groups a listener
    /// uses and in which order, and what it does when all are unhealthy. All else is bound to sockets and threads.
    pub fn restart_needed(&self, new: &Self) -> Vec<String> {
        let Self { name, static_ips, hash_seed, edge, anycast, listeners, endpoint_groups: _, warnings: _ } = self;
        let differ = [
            ("name", *name != new.name),
            ("static_ips", *static_ips != new.static_ips),
            ("hash_seed", *hash_seed != new.hash_seed),
            ("edge.name", edge.name != new.edge.name),
            ("edge.workers", edge.workers != new.edge.workers),
            ("edge.pin", edge.pin != new.edge.pin),
            ("edge.admin", edge.admin != new.edge.admin),
            ("edge.control", edge.control != new.edge.control),
            ("edge.announce", edge.announce != new.edge.announce),
            ("edge.resolvers", edge.resolvers != new.edge.resolvers),
            ("edge.drain_timeout", edge.drain_timeout != new.edge.drain_timeout),
            ("edge.fast_path", edge.fast_path != new.edge.fast_path),
            ("edge.fast_path_xdp", edge.fast_path_xdp != new.edge.fast_path_xdp),
            ("edge.nat_addresses", edge.nat_addresses != new.edge.nat_addresses),
            ("edge.nat_ports", edge.nat_ports != new.edge.nat_ports),
            ("edge.fast_path_devices", edge.fast_path_devices != new.edge.fast_path_devices),
        ];
        let mut keys: Vec<String> = differ.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key.to_owned()).collect();
        keys.extend(anycast_keys(anycast.as_ref(), new.anycast.as_ref()).into_iter().map(|key| format!("anycast.{key}")));
        let same_listeners = listeners.len() == new.listeners.len()
            && listeners.iter().zip(&new.listeners).all(|(old, new)| old.settings.name == new.settings.name);
        if !same_listeners {
            keys.push("listeners (added, removed, renamed or reordered)".to_owned());
            return keys;
        }
        for (at, (old, new)) in listeners.iter().zip(&new.listeners).enumerate() {
            keys.extend(listener_keys(old, new).into_iter().map(|key| format!("listeners[{at}].{key}")));
        }
        keys
    }
}

fn anycast_keys(from: Option<&Anycast>, to: Option<&Anycast>) -> Vec<&'static str> {
    let (from, to) = match (from, to) {
        (None, None) => return Vec::new(),
        (Some(from), Some(to)) => (from, to),
        _ => return vec!["speaker"],
    };
    let normal = |anycast: &Anycast| anycast.carriers.iter().map(|(ip, c)| (*ip, c.normal.clone())).collect::<Vec<_>>();
    let low = |anycast: &Anycast| anycast.carriers.iter().map(|(ip, c)| (*ip, c.low.clone())).collect::<Vec<_>>();
    let differ = [
        ("device", from.device != to.device),
        ("bird_socket", from.bird_socket != to.bird_socket),
        ("bird_protocols", normal(from) != normal(to)),
        ("bird_deprefer", low(from) != low(to)),
        ("isolated", from.when_isolated != to.when_isolated),
        ("isolated_hold", from.isolated_hold != to.isolated_hold),
        ("shutdown_wait", from.shutdown_wait != to.shutdown_wait),
    ];
    differ.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

fn listener_keys(old: &Listener, new: &Listener) -> Vec<&'static str> {
    let (from, to) = (&old.settings, &new.settings);
    let both = |differs: &dyn Fn(&Listener) -> bool| differs(old) != differs(new);
    let mut keys = Vec::new();
    let mut note = |key, differs| {
        if differs {
            keys.push(key);
        }
    };
    note("protocol", both(&|l| l.settings.tcp.is_some()) || both(&|l| l.settings.udp.is_some()));
    note("ports", from.ports != to.ports);
    note("client_affinity", from.affinity != to.affinity);
    note("forwarding", old.forwarding != new.forwarding);
    note("limits", from.limits != to.limits);
    if let (Some(from), Some(to)) = (&from.tcp, &to.tcp) {
        note("client_ip", from.client_ip != to.client_ip);
        note("idle_timeout.tcp", from.idle_timeout != to.idle_timeout);
        note("on_unhealthy.tcp", from.on_unhealthy != to.on_unhealthy);
        note("connect_timeout", from.connect_timeout != to.connect_timeout);
        note("connect_attempts", from.connect_attempts != to.connect_attempts);
        note("tcp_mss", from.mss != to.mss);
        note("client_socket", from.client_socket != to.client_socket);
        note("endpoint_socket", from.endpoint_socket != to.endpoint_socket);
    }
    if let (Some(from), Some(to)) = (&from.udp, &to.udp) {
        if new.settings.tcp.is_none() {
            note("client_ip", from.client_ip != to.client_ip);
        }
        note("idle_timeout.udp", from.idle_timeout != to.idle_timeout);
        note("unanswered_timeout", from.unanswered_timeout != to.unanswered_timeout);
        note("carry_dscp", from.carry_dscp != to.carry_dscp);
        note("on_unhealthy.udp", from.on_unhealthy != to.on_unhealthy);
    }
    keys
}
