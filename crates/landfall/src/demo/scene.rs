//! What the demonstration plays with: the cast of endpoints, the ports, and the config file they make.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
    time::Duration,
};

use super::DemoError;
use crate::config::Config;

/// Loopback is a whole /8: addresses of it need no set-up, and nobody else is likely to use these.
pub(super) const STATIC_IPS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 77, 1), Ipv4Addr::new(127, 0, 77, 2)];
/// Listening ports are chosen here, below the range from which the kernel takes the source ports of connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Ports tried before giving up.
const TRIES: usize = 1_000;

/// An endpoint as it stands in the config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Role {
    pub(super) name: &'static str,
    pub(super) group: &'static str,
    pub(super) weight: u8,
    /// Its own, so that no outgoing connection can take its port while it is dead.
    pub(super) ip: Ipv4Addr,
}

/// Everyone, by group in order of preference.
pub(super) const CAST: [Role; 4] = [
    Role { name: "eu-1", group: "eu", weight: 128, ip: Ipv4Addr::new(127, 0, 0, 11) },
    Role { name: "eu-2", group: "eu", weight: 64, ip: Ipv4Addr::new(127, 0, 0, 12) },
    Role { name: "us-1", group: "us", weight: 128, ip: Ipv4Addr::new(127, 0, 0, 21) },
    Role { name: "us-2", group: "us", weight: 128, ip: Ipv4Addr::new(127, 0, 0, 22) },
];
/// The endpoint that dies first, by its place in [`CAST`].
pub(super) const FIRST: usize = 0;
/// The endpoint that dies second, and its group with it.
pub(super) const SECOND: usize = 1;
const REGIONS: [(&str, &str); 2] = [("eu", "eu-central"), ("us", "us-east")];

/// The group that all flows go to while it lives.
pub(super) const NEAR: &str = "eu";

/// The place in [`CAST`] of the endpoint of this name.
pub(super) fn endpoint(name: &str) -> Option<usize> {
    CAST.iter().position(|role| role.name == name)
}

/// The places in [`CAST`] of the endpoints of this group.
pub(super) fn members(group: &str) -> Vec<usize> {
    CAST.iter().enumerate().filter(|(_, role)| role.group == group).map(|(index, _)| index).collect()
}

/// The ports of the accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) game: u16,
    pub(super) chat: u16,
    pub(super) admin: u16,
}

impl Ports {
    /// Free ones. Another process may take one before it is bound, so a start that fails is worth repeating.
    pub(super) fn choose() -> Result<Self, DemoError> {
        let (game, chat) = (free(&STATIC_IPS)?, free(&STATIC_IPS)?);
        Ok(Self { game, chat, admin: free(&[Ipv4Addr::LOCALHOST])? })
    }

    /// Where the UDP listener is, on the static IP whose turn it is.
    pub(super) fn game(&self, turn: usize) -> SocketAddr {
        SocketAddr::from((STATIC_IPS[turn % STATIC_IPS.len()], self.game))
    }

    /// Where the TCP listener is, on the static IP whose turn it is.
    pub(super) fn chat(&self, turn: usize) -> SocketAddr {
        SocketAddr::from((STATIC_IPS[turn % STATIC_IPS.len()], self.chat))
    }
}

/// A port that nobody has on any of `ips`. The accelerator's sockets share their ports with others that are willing; these do not.
fn free(ips: &[Ipv4Addr]) -> Result<u16, DemoError> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let port = fastrand::u16(PORTS);
        let bound: io::Result<Vec<_>> =
            ips.iter().map(|&ip| Ok((TcpListener::bind((ip, port))?, UdpSocket::bind((ip, port))?))).collect();
        match bound {
            Ok(_) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(DemoError::Ports { ip: ips.first().map_or(IpAddr::from(Ipv4Addr::LOCALHOST), |&ip| ip.into()), source: last })
}

/// The config file. Its times are short, so that everything is over in seconds.
pub(super) fn config(ports: Ports, endpoints: &[SocketAddr], control: &Path, hash_seed: u64) -> String {
    let [one, two] = STATIC_IPS;
    let Ports { game, chat, admin } = ports;
    let control = toml::Value::from(control.to_string_lossy().as_ref());
    let mut text = format!(
        r#"# `landfall try` runs with this file. What `landfall reload` applies is in docs/CONFIG.md; weights are a good start.
name = "try"
static_ips = ["{one}", "{two}"]
hash_seed = {hash_seed}

[edge]
name = "here"
admin = "127.0.0.1:{admin}"
control = {control}

[[listeners]]
name = "game"
protocol = "udp"
ports = [{game}]
endpoint_groups = ["eu", "us"]

[[listeners]]
name = "chat"
protocol = "tcp"
ports = [{chat}]
endpoint_groups = ["eu", "us"]
"#
    );
    for (group, region) in REGIONS {
        text.push_str(&format!(
            r#"
[[endpoint_groups]]
name = "{group}"
region = "{region}"
failback = {{ hold = "1s", ramp = "2s" }}
endpoints = [
"#
        ));
        for (role, address) in CAST.iter().zip(endpoints).filter(|(role, _)| role.group == group) {
            let Role { name, weight, .. } = role;
            text.push_str(&format!("  {{ name = \"{name}\", address = \"{address}\", weight = {weight} }},\n"));
        }
        text.push_str(
            r#"]
[endpoint_groups.health_check]
protocol = "udp"
send = "ping"
expect = "ping"
interval = "200ms"
fast_interval = "50ms"
timeout = "100ms"
unhealthy_threshold = 3
healthy_threshold = 2
"#,
        );
    }
    text
}

/// The published failover bound: the longest of all groups.
pub(super) fn bound(config: &Config) -> Duration {
    config.endpoint_groups.iter().map(|group| group.check.timing().failover_bound()).max().unwrap_or_default()
}

/// How long a recovered endpoint, is held back, and then takes to have its whole share again.
pub(super) fn failback(config: &Config) -> (Duration, Duration) {
    let near = config.endpoint_groups.iter().find(|group| group.group.name.as_str() == NEAR);
    near.map_or_else(Default::default, |group| (group.group.failback.hold, group.group.failback.ramp))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::config::Host;

    #[test]
    fn the_config_is_valid_and_without_warnings() {
        let host = Host {
            name: "any".into(),
            cores: NonZeroUsize::MIN,
            descriptors: 1024,
            congestion: Vec::new(),
            ephemeral: Vec::new(),
            no_dispatcher: Some("a test".into()),
        };
        let ports = Ports { game: 7000, chat: 7001, admin: 9900 };
        let endpoints: Vec<SocketAddr> = CAST.iter().map(|role| SocketAddr::from((role.ip, 9000))).collect();
        let text = config(ports, &endpoints, Path::new("/tmp/a \"quoted\" one/control.sock"), 5);
        let config = Config::parse(&text, &host).unwrap();
        assert_eq!(config.warnings, []);
        assert_eq!(config.edge.control, Path::new("/tmp/a \"quoted\" one/control.sock"));
        assert_eq!(failback(&config), (Duration::from_secs(1), Duration::from_secs(2)));
        let names: Vec<_> = config.endpoint_groups.iter().flat_map(|g| &g.group.endpoints).map(|e| e.name.to_string()).collect();
        assert_eq!(names, CAST.map(|role| role.name));
        assert!(bound(&config) < Duration::from_secs(1), "a demonstration is not to be waited for: {:?}", bound(&config));
    }
}
