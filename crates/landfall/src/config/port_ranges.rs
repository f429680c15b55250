//! Listeners of many ports: whether user space serves them with a socket for each port, or with one for all.

use super::{
    Config, FastPath, Forwarding, Host, Listener, RawFile,
    diagnostic::Fault,
    listener::{overlap, shown},
    reader::Report,
};

/// Up to here each port has sockets of its own.
pub const FEW_PORTS: usize = 64;

/// What the ports of a listener are served with, on each static IP, for each protocol, by each forwarding thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortSockets {
    /// A socket for each: there are few, or user space serves none.
    EachOfFew,
    /// A socket for each, though there are many, for this reason.
    EachOfMany(String),
    /// One socket for all: a program in the kernel hands over what comes for the other ports.
    OneForAll,
}

impl PortSockets {
    /// For a listener of so many `ports`.
    pub(super) fn new(ports: usize, in_user_space: bool, fast_path: FastPath, host: &Host) -> Self {
        if ports <= FEW_PORTS || !in_user_space {
            return Self::EachOfFew;
        }
        match (&host.no_dispatcher, fast_path) {
            (_, FastPath::Off) => Self::EachOfMany("fast_path = \"off\"".into()),
            (Some(reason), _) => Self::EachOfMany(reason.clone()),
            (None, _) => Self::OneForAll,
        }
    }
}

impl Config {
    /// What the ports of `listener` are served with on `host`.
    pub fn port_sockets(&self, listener: &Listener, host: &Host) -> PortSockets {
        let in_user_space = listener.settings.tcp.is_some() || listener.forwarding != Forwarding::Kernel;
        PortSockets::new(listener.settings.all_ports().count(), in_user_space, self.edge.fast_path, host)
    }

    /// What is worth telling about the sockets of `listener` on `host`, if it has many ports.
    pub fn port_sentence(&self, listener: &Listener, host: &Host) -> Option<String> {
        let name = &listener.settings.name;
        let (ports, sockets) = (listener.settings.all_ports().count(), self.appetite(listener, host).sockets);
        match self.port_sockets(listener, host) {
            PortSockets::EachOfFew => None,
            PortSockets::OneForAll => Some(format!(
                "listener {name}: {sockets} sockets take what comes for its {ports} ports, chosen by a program in the kernel"
            )),
            PortSockets::EachOfMany(reason) => Some(format!(
                "listener {name}: {ports} ports take {sockets} sockets, one for each port, static IP, protocol and worker, because {reason}"
            )),
        }
    }
}

/// Warns of ports that replies are to leave from, and that any socket of the host may be given meanwhile: nothing holds them.
pub(super) fn check(report: &Report, file: &RawFile, config: &Config, host: &Host) {
    for (listener, raw) in config.listeners.iter().zip(&file.listeners) {
        if listener.settings.udp.is_none() || config.port_sockets(listener, host) != PortSockets::OneForAll {
            continue;
        }
        for range in &raw.ports {
            let Some(random) = host.ephemeral.iter().find(|random| overlap(random, &range.value)) else { continue };
            let reason = format!(
                "the kernel gives ports {} to any socket of this host, and from a port that one has no reply can leave",
                shown(random)
            );
            let cure =
                format!("reserve them: sysctl -w net.ipv4.ip_local_reserved_ports={}; or serve others", shown(&range.value));
            report.warn(&range.at, Fault::new(reason, cure));
        }
    }
}
