//! Listeners of many ports: how many sockets and descriptors they take, as far as file and host say.

#![allow(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

use std::num::NonZeroUsize;

use landfall::config::{Capacity, Config, ConfigErrors, Host, PortSockets};

const REASON: &str = "the process may not load programs";

fn host(no_dispatcher: Option<&str>) -> Host {
    Host {
        name: "lab".into(),
        cores: NonZeroUsize::new(2).unwrap(),
        descriptors: 20_000,
        congestion: Vec::new(),
        ephemeral: vec![32_768..=60_999],
        no_dispatcher: no_dispatcher.map(str::to_owned),
    }
}

/// A file with one listener on two static IPs, for two workers.
fn file(edge: &str, protocol: &str, ports: &str) -> String {
    format!(
        "name = \"voice\"\nstatic_ips = [\"198.18.0.1\", \"198.18.0.2\"]\nhash_seed = 7\n[edge]\nname = \"lab\"\n{edge}\n\
         [[listeners]]\nname = \"rtp\"\nprotocol = \"{protocol}\"\nports = [{ports}]\nendpoint_groups = [\"eu\"]\n\
         [[endpoint_groups]]\nname = \"eu\"\nhealth_check = {{ protocol = \"tcp\", port = 80 }}\n\
         endpoints = [{{ name = \"eu-1\", address = \"10.0.1.10\" }}]\n"
    )
}

fn parse(text: &str, host: &Host) -> Config {
    Config::parse(text, host).unwrap()
}

#[test]
fn more_than_64_ports_are_served_by_one_socket_where_that_can_be() {
    let off = "fast_path = \"off\"";
    let kernel = "nat_addresses = [\"10.0.1.5\"]";
    let each = |reason: &str| PortSockets::EachOfMany(reason.to_owned());
    for (edge, protocol, ports, lack, by, sockets, per_flow) in [
        ("", "udp", "\"10000-10063\"", None, PortSockets::EachOfFew, 256, 1),
        ("", "udp", "\"10000-10063\", 7", None, PortSockets::OneForAll, 4, 2),
        ("", "udp", "\"10000-20000\"", None, PortSockets::OneForAll, 4, 2),
        ("", "tcp", "\"1-65535\"", None, PortSockets::OneForAll, 4, 2),
        ("", "tcp_udp", "\"10000-20000\"", None, PortSockets::OneForAll, 8, 2),
        ("", "udp", "\"10000-10064\"", Some(REASON), each(REASON), 260, 1),
        (off, "udp", "\"10000-10064\"", None, each(off), 260, 1),
        // The kernel may forward it, or user space after all.
        (kernel, "udp", "\"10000-20000\"", None, PortSockets::OneForAll, 4, 2),
    ] {
        let host = host(lack);
        let config = parse(&file(edge, protocol, ports), &host);
        let listener = &config.listeners[0];
        let appetite = config.appetite(listener, &host);
        assert_eq!(config.port_sockets(listener, &host), by, "{edge} {protocol} {ports}");
        assert_eq!((appetite.sockets, appetite.per_flow), (sockets, per_flow), "{edge} {protocol} {ports}");
        assert_eq!(Capacity::of(&config, &host).listening_sockets, sockets);
    }
    let must = file(kernel, "udp", "\"10000-20000\"").replace("ports =", "forwarding = \"kernel\"\nports =");
    let config = parse(&must, &host(None));
    assert_eq!(config.port_sockets(&config.listeners[0], &host(None)), PortSockets::EachOfFew);
    assert_eq!(config.appetite(&config.listeners[0], &host(None)).sockets, 0);
}

#[test]
fn what_does_not_fit_without_it_is_refused_with_the_reason() {
    let text = file("", "udp", "\"10000-20000\"");
    let ConfigErrors(errors) = Config::parse(&text, &host(Some(REASON))).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!((errors[0].line, errors[0].key.as_str()), (10, "listeners[0].ports[0]"));
    assert!(errors[0].reason.starts_with("40004 listening sockets and 256 descriptors in reserve"), "{}", errors[0].reason);
    let cure = format!("one socket could serve all ports of a listener, but not here: {REASON}");
    assert!(errors[0].cure.ends_with(&cure), "{}", errors[0].cure);
    assert_eq!(parse(&text, &host(None)).listeners[0].settings.limits.max_flows, (20_000 - 4 - 256) / 2);
}

#[test]
fn it_is_told_in_words() {
    let text = file("", "udp", "\"10000-10099\"");
    let sentence = |host: &Host| {
        let config = parse(&text, host);
        config.port_sentence(&config.listeners[0], host)
    };
    let one = "listener rtp: 4 sockets take what comes for its 100 ports, chosen by a program in the kernel";
    assert_eq!(sentence(&host(None)).as_deref(), Some(one));
    let each =
        format!("listener rtp: 100 ports take 400 sockets, one for each port, static IP, protocol and worker, because {REASON}");
    assert_eq!(sentence(&host(Some(REASON))), Some(each));
    let few = parse(&file("", "udp", "7000"), &host(None));
    assert_eq!(few.port_sentence(&few.listeners[0], &host(None)), None);
}

#[test]
fn ports_that_any_socket_may_be_given_are_warned_of() {
    let warnings = |protocol: &str, ports: &str, lack| -> Vec<String> {
        let config = parse(&file("", protocol, ports), &host(lack));
        config.warnings.into_iter().map(|warning| warning.cure).collect()
    };
    let reserve = "reserve them: sysctl -w net.ipv4.ip_local_reserved_ports=30000-33000; or serve others";
    assert_eq!(warnings("udp", "7, \"30000-33000\"", None), [reserve]);
    assert_eq!(warnings("udp", "\"20000-32767\"", None), [""; 0]);
    // A socket of TCP's own takes the answers along, and sockets for each port hold it.
    assert_eq!(warnings("tcp", "\"30000-33000\"", None), [""; 0]);
    assert_eq!(warnings("udp", "\"33000-33099\"", Some(REASON)), [""; 0]);
}
