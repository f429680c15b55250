//! Which listeners the kernel forwards, as far as the file says.

#![allow(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

use std::num::NonZeroUsize;

use landfall::config::{Config, ConfigErrors, ForwardingPath, Host};

fn host() -> Host {
    let ephemeral = vec![32_768..=60_999];
    Host {
        name: "lab".into(),
        cores: NonZeroUsize::MIN,
        descriptors: 524_288,
        congestion: Vec::new(),
        ephemeral,
        no_dispatcher: Some("a test".into()),
    }
}

/// A file with one UDP listener, its static IPs and its endpoint.
fn file(static_ips: &str, edge: &str, listener: &str, endpoint: &str) -> String {
    format!(
        "name = \"game\"\nstatic_ips = [{static_ips}]\nhash_seed = 7\n[edge]\nname = \"lab\"\n{edge}\n[[listeners]]\nname = \"match\"\n\
         ports = [7000]\n{listener}\nendpoint_groups = [\"eu\"]\n[[endpoint_groups]]\nname = \"eu\"\n\
         health_check = {{ protocol = \"udp\", send = \"ping\" }}\nendpoints = [{{ name = \"eu-1\", address = \"{endpoint}\" }}]\n"
    )
}

const V4: &str = "\"198.18.0.1\"";
const NAT: &str = "nat_addresses = [\"10.0.1.5\"]";
const UDP: &str = "protocol = \"udp\"";

fn path(static_ips: &str, edge: &str, listener: &str, endpoint: &str) -> Option<ForwardingPath> {
    let config = Config::parse(&file(static_ips, edge, listener, endpoint), &host()).unwrap();
    config.path(&config.listeners[0], &|ip| ip.to_string() == "10.0.1.77")
}

#[test]
fn a_listener_is_the_kernel_s_unless_something_needs_user_space() {
    let off = format!("{NAT}\nfast_path = \"off\"");
    let both = "nat_addresses = [\"10.0.1.5\", \"fd00::5\"]";
    let cases = [
        (V4, NAT, UDP, "10.0.1.10", ""),
        (V4, NAT, "protocol = \"tcp_udp\"", "10.0.1.10:9000", ""),
        ("\"fd18::1\", \"fd18::2\"", "nat_addresses = [\"fd00::5\"]", UDP, "fd00::10", ""),
        (V4, "", UDP, "10.0.1.10", "nat_addresses is not set"),
        (V4, &off, UDP, "10.0.1.10", "fast_path = \"off\""),
        (V4, NAT, "protocol = \"udp\"\nforwarding = \"user\"", "10.0.1.10", "forwarding = \"user\""),
        (V4, NAT, "protocol = \"udp\"\nclient_ip = \"proxy_v2\"", "10.0.1.10", "client_ip needs user space"),
        (V4, NAT, "protocol = \"udp\"\nclient_ip = \"transparent\"", "10.0.1.10", ""),
        (V4, "", "protocol = \"udp\"\nclient_ip = \"transparent\"", "10.0.1.10", "nat_addresses is not set"),
        (V4, "", "protocol = \"udp\"\nclient_ip = \"transparent\"\nforwarding = \"kernel\"", "10.0.1.10", ""),
        (V4, NAT, UDP, "fd00::10", "a static IP is IPv4, and endpoint eu-1 is not"),
        ("\"198.18.0.1\", \"fd18::1\"", NAT, UDP, "10.0.1.10", "a static IP is IPv6, and no address of nat_addresses is"),
        ("\"198.18.0.1\", \"fd18::1\"", both, UDP, "10.0.1.10", "a static IP is IPv6, and endpoint eu-1 is not"),
        (V4, NAT, UDP, "game.example.com", "endpoint eu-1 has a DNS name"),
        (V4, NAT, UDP, "127.0.0.1:9000", "endpoint eu-1 is on this host"),
        (V4, NAT, UDP, "10.0.1.77", "endpoint eu-1 is on this host"),
        (V4, NAT, UDP, "10.0.1.5", "endpoint eu-1 is on this host"),
    ];
    for (static_ips, edge, listener, endpoint, reason) in cases {
        let wanted = match reason {
            "" => ForwardingPath::Kernel,
            reason => ForwardingPath::User(reason.to_owned()),
        };
        assert_eq!(path(static_ips, edge, listener, endpoint), Some(wanted), "{static_ips} {edge} {listener} {endpoint}");
    }
    let tcp = file(V4, NAT, "protocol = \"tcp\"", "10.0.1.10").replace("send = \"ping\"", "send = \"ping\", port = 1");
    let config = Config::parse(&tcp, &host()).unwrap();
    assert_eq!(config.path(&config.listeners[0], &|_| false), None);
    assert_eq!((config.nat_capacity(false), config.nat_capacity(true)), (4536, 0));
}

fn refused(edge: &str, listener: &str, endpoint: &str) -> Vec<(String, String)> {
    let ConfigErrors(errors) = Config::parse(&file(V4, edge, listener, endpoint), &host()).unwrap_err();
    errors.into_iter().map(|error| (error.key, error.reason)).collect()
}

#[test]
fn what_the_kernel_must_do_and_cannot_is_an_error() {
    let must = "protocol = \"udp\"\nforwarding = \"kernel\"";
    let error = |key: &str, reason: &str| vec![(key.to_owned(), reason.to_owned())];
    let cannot = "the kernel cannot forward this listener: ";
    assert_eq!(refused("", must, "10.0.1.10"), error("listeners[0].forwarding", &format!("{cannot}nat_addresses is not set")));
    assert_eq!(
        refused(NAT, must, "game.example.com"),
        error("listeners[0].forwarding", &format!("{cannot}endpoint eu-1 has a DNS name"))
    );
    assert_eq!(
        refused("fast_path = \"on\"", UDP, "10.0.1.10"),
        error("edge.fast_path", "the kernel can forward no listener; listener match: nat_addresses is not set")
    );
    let shared = "nat_addresses = [\"198.18.0.1\"]\nnat_ports = \"6000-7999\"";
    let reason = "6000-7999 overlaps 7000 of listener \"match\", and 198.18.0.1 is a static IP";
    assert_eq!(refused(shared, UDP, "10.0.1.10"), error("edge.nat_ports", reason));
}

#[test]
fn ports_that_any_socket_may_be_given_are_warned_of() {
    let warnings = |nat: &str| {
        let config = Config::parse(&file(V4, nat, UDP, "10.0.1.10"), &host()).unwrap();
        config.warnings.into_iter().map(|warning| (warning.key, warning.cure)).collect::<Vec<_>>()
    };
    assert_eq!(warnings(NAT), []);
    assert_eq!(warnings("nat_ports = \"40000-50000\""), [], "no port is used without an address");
    assert_eq!(
        warnings(&format!("{NAT}\nnat_ports = \"40000-50000\"")),
        [("edge.nat_ports".to_owned(), "reserve them: sysctl -w net.ipv4.ip_local_reserved_ports=40000-50000".to_owned())]
    );
}

#[test]
fn ports_that_no_socket_holds_are_warned_of() {
    let warnings = |edge: &str, ports: &str| {
        let text = file(V4, edge, UDP, "10.0.1.10").replace("ports = [7000]", &format!("ports = {ports}"));
        let config = Config::parse(&text, &host()).unwrap();
        config.warnings.into_iter().map(|warning| (warning.key, warning.cure)).collect::<Vec<_>>()
    };
    let cure = "reserve it: sysctl -w net.ipv4.ip_local_reserved_ports=40000-40100";
    let ports = "[7000, \"40000-40100\"]";
    assert_eq!(warnings(NAT, ports), [("listeners[0].ports[1]".to_owned(), cure.to_owned())]);
    assert_eq!(warnings("", ports), [], "in user space sockets hold them");
    assert_eq!(warnings(NAT, "[7000]"), []);
}

#[test]
fn without_a_limit_of_its_own_a_listener_has_its_share_of_the_nat_s_ports() {
    let most = |listener: &str, listeners: usize| {
        let config = Config::parse(&file(V4, NAT, listener, "10.0.1.10"), &host()).unwrap();
        config.kernel_max_flows(&config.listeners[0], listeners)
    };
    assert_eq!(most(UDP, 1), 4536);
    assert_eq!(most("protocol = \"udp\"\nlimits = { max_flows_per_client = 9 }", 2), 2268);
    assert_eq!(most("protocol = \"udp\"\nlimits = { max_flows = 99 }", 2), 99);
}

const TRANSPARENT: &str = "protocol = \"udp\"\nclient_ip = \"transparent\"";

#[test]
fn a_transparent_listener_takes_no_nat_ports() {
    let config = Config::parse(&file(V4, NAT, TRANSPARENT, "10.0.1.10"), &host()).unwrap();
    assert_eq!(config.kernel_max_flows(&config.listeners[0], 1), 65_536);
    let limited = format!("{TRANSPARENT}\nlimits = {{ max_flows = 99 }}");
    let config = Config::parse(&file(V4, NAT, &limited, "10.0.1.10"), &host()).unwrap();
    assert_eq!(config.kernel_max_flows(&config.listeners[0], 1), 99);
}

#[test]
fn a_transparent_listener_without_nat_addresses_is_warned_of_what_it_refuses() {
    let warnings = |edge: &str| {
        let text = file(V4, edge, &format!("{TRANSPARENT}\nforwarding = \"kernel\""), "10.0.1.10");
        let config = Config::parse(&text, &host()).unwrap();
        let of_it = config.warnings.into_iter().filter(|warning| warning.reason.contains("client_ip_in_use"));
        of_it.map(|warning| (warning.key, warning.reason)).collect::<Vec<_>>()
    };
    let reason =
        "nat_addresses is not set, so the second of two flows from one client port to one endpoint is refused (client_ip_in_use)";
    assert_eq!(warnings(""), [("listeners[0].client_ip".to_owned(), reason.to_owned())]);
    assert_eq!(warnings(NAT), []);
}

#[test]
fn transparent_listeners_take_one_path_together() {
    let second = "\n[[listeners]]\nname = \"second\"\nprotocol = \"udp\"\nports = [7001]\nendpoint_groups = [\"eu\"]\n";
    let paths = |keys: &str| {
        let text =
            file(V4, NAT, TRANSPARENT, "10.0.1.10").replace("send = \"ping\"", "send = \"ping\", port = 1") + second + keys;
        let config = Config::parse(&text, &host()).unwrap();
        [0, 1].map(|index| config.path(&config.listeners[index], &|_| false).unwrap())
    };
    let user = |reason: &str| ForwardingPath::User(reason.to_owned());
    let in_user_space = "client_ip = \"transparent\"\nforwarding = \"user\"\n";
    let reason = "listener second is transparent too, and in user space: forwarding = \"user\"";
    assert_eq!(paths(in_user_space), [user(reason), user("forwarding = \"user\"")]);
    assert_eq!(paths("forwarding = \"user\"\n"), [ForwardingPath::Kernel, user("forwarding = \"user\"")]);
    assert_eq!(paths("client_ip = \"transparent\"\n"), [ForwardingPath::Kernel, ForwardingPath::Kernel]);
}

#[test]
fn transparent_listeners_with_more_flows_than_the_kernel_has_room_for_stay_in_user_space() {
    let second = "\n[[listeners]]\nname = \"second\"\nprotocol = \"udp\"\nports = [7001]\nendpoint_groups = [\"eu\"]\n";
    let text = |second_flows: usize, keys: &str| {
        let first = format!("{TRANSPARENT}\nlimits = {{ max_flows = 4000000 }}\n{keys}");
        let first = file(V4, NAT, &first, "10.0.1.10").replace("send = \"ping\"", "send = \"ping\", port = 1");
        format!("{first}{second}client_ip = \"transparent\"\nlimits = {{ max_flows = {second_flows} }}\n")
    };
    let paths = |second_flows: usize| {
        let config = Config::parse(&text(second_flows, ""), &host()).unwrap();
        [0, 1].map(|index| config.path(&config.listeners[index], &|_| false).unwrap())
    };
    let reason = "the max_flows of transparent listeners come to 4194305, and the kernel has room for 4194304";
    assert_eq!(paths(194_304), [ForwardingPath::Kernel, ForwardingPath::Kernel]);
    assert_eq!(paths(194_305), [ForwardingPath::User(reason.to_owned()), ForwardingPath::User(reason.to_owned())]);
    let ConfigErrors(errors) = Config::parse(&text(194_305, "forwarding = \"kernel\""), &host()).unwrap_err();
    let faults: Vec<_> = errors.into_iter().map(|error| (error.key, error.reason)).collect();
    assert_eq!(faults, [("listeners[0].forwarding".to_owned(), format!("the kernel cannot forward this listener: {reason}"))]);
}

#[test]
fn all_of_it_needs_a_restart_and_survives_being_written_out() {
    let edge = "nat_addresses = [\"10.0.1.5\"]\nnat_ports = \"62000-63000\"\nfast_path = \"on\"\nfast_path_xdp = \"off\"\nfast_path_devices = [\"eth0\"]";
    let rich = file(V4, edge, "protocol = \"udp\"\nforwarding = \"kernel\"", "10.0.1.10");
    let config = Config::parse(&rich, &host()).unwrap();
    assert_eq!(Config::parse(&config.to_toml(), &host()).unwrap(), config);
    let plain = Config::parse(&file(V4, NAT, UDP, "10.0.1.10"), &host()).unwrap();
    assert_eq!(
        plain.restart_needed(&config),
        [
            "edge.fast_path",
            "edge.fast_path_xdp",
            "edge.nat_ports",
            "edge.fast_path_devices",
            "listeners[0].forwarding",
            "listeners[0].limits"
        ]
    );
}

#[test]
fn devices_have_names_that_linux_gives_and_are_listed_once() {
    let faults = |devices: &str| {
        let ConfigErrors(errors) =
            Config::parse(&file(V4, &format!("fast_path_devices = [{devices}]"), UDP, "10.0.1.10"), &host()).unwrap_err();
        errors.into_iter().map(|error| (error.key, error.reason)).collect::<Vec<_>>()
    };
    let fault = |at: usize, reason: &str| (format!("edge.fast_path_devices[{at}]"), reason.to_owned());
    assert_eq!(faults("\"eth0\", \"eth1\", \"eth0\""), [fault(2, "eth0 is listed twice")]);
    for name in ["", ".", "..", "../all", "eth 0", "eth0:1", "sixteen_letters_"] {
        assert_eq!(faults(&format!("\"eth0\", \"{name}\"")), [fault(1, &format!("no device can have the name {name:?}"))]);
    }
    for name in ["eth0.100", "fifteen_letters", "wan@é"] {
        assert!(Config::parse(&file(V4, &format!("fast_path_devices = [\"{name}\"]"), UDP, "10.0.1.10"), &host()).is_ok());
    }
}
