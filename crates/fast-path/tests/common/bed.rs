//! A loaded fast path with a listener for each rule, frames put through it, and what they must become.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
};

use endpoint_group::{Affinity, EndpointId, RoutingTable};
use fast_path::{
    Access, Counters, DropReason, EndReason, EndpointCounters, FastPath, FlowEntry, Listener, ListenerCounters, Traffic,
    test_support::{self, Verdict},
};

use super::{
    frame::{Datagram, IcmpError, Mac},
    tables::{at, endpoint, id, listener, listener_table, routing_table, settings},
    world::{self, CLIENT_SIDE, ENDPOINTS, GATEWAY, SERVER_SIDE},
};

/// Names of the listeners, in the order of the settings; `LISTENERS` says what is special about each.
const NAMES: &[&str] = &[
    "plain",
    "six",
    "fixed",
    "override",
    "full",
    "per_client",
    "rate",
    "private",
    "bleach",
    "none",
    "unresolved",
    "no_route",
    "six_limited",
    "mover",
    "keeper",
    "six_bleach",
    "seen",
    "seen_too",
    "seen_six",
    "seen_mover",
];

/// Where flows of each listener may go.
const CHOICES: &[&[usize]] =
    &[&[0], &[2], &[3], &[4], &[0], &[0], &[0], &[0], &[0], &[], &[5], &[6], &[2], &[0], &[0], &[2], &[3], &[3], &[2], &[0]];

pub struct Bed {
    pub fast_path: FastPath,
    pub table: RoutingTable,
    /// What became of the frame that was run last.
    pub out: Vec<u8>,
    port: u16,
    devices: HashMap<&'static str, u32>,
}

fn listeners() -> Vec<Listener> {
    let mut all: Vec<_> = (0u16..).zip(NAMES).map(|(index, _)| listener(index.into(), 7000 + index)).collect();
    let mut special = |name: &str, change: &dyn Fn(&mut Listener)| {
        change(&mut all[NAMES.iter().position(|n| *n == name).unwrap()]);
    };
    special("plain", &|l| l.ports = vec![7000..=7000, 7100..=7199, 1..=1, 65_535..=65_535]);
    special("override", &|l| l.ports.push(7200..=7200));
    special("full", &|l| l.limits.max_flows = 2);
    special("per_client", &|l| l.limits.max_flows_per_client = NonZeroUsize::new(2));
    special("rate", &|l| l.limits.new_flows_per_client_per_second = NonZeroU32::new(2));
    special("private", &|l| {
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
        l.access = Access { allow: nets(&["198.18.64.0/24", "::/0"]), deny: nets(&["198.18.64.128/25", "fd18:64:0:bad::/64"]) };
    });
    special("bleach", &|l| l.carry_dscp = false);
    special("six_limited", &|l| l.limits.max_flows_per_client = NonZeroUsize::new(1));
    special("keeper", &|l| l.keep = true);
    special("six_bleach", &|l| {
        l.carry_dscp = false;
        l.affinity = Affinity::SourceIp;
    });
    for name in ["seen", "seen_too", "seen_six", "seen_mover"] {
        special(name, &|l| l.transparent = true);
    }
    all
}

impl Bed {
    /// Enters a namespace and loads `object`, or the one that is embedded.
    pub fn new(object: Option<&[u8]>) -> Self {
        world::enter();
        let settings = settings(listeners());
        let mut fast_path = match object {
            Some(object) => test_support::load(object, settings),
            None => FastPath::load(settings),
        }
        .unwrap();
        let endpoints = vec![
            endpoint(0, "198.18.2.2", None, &[]),
            endpoint(1, "198.18.2.3", None, &[]),
            endpoint(2, "fd18:2::2", None, &[]),
            endpoint(3, "198.18.2.3", Some(9000), &[(7002, 1)]),
            endpoint(4, "198.18.2.3", None, &[(7003, 17_003)]),
            endpoint(5, "198.18.2.4", None, &[]),
            endpoint(6, "198.19.0.1", None, &[]),
        ];
        let table = routing_table(endpoints, CHOICES.iter().map(|choice| listener_table(choice)).collect());
        fast_path.publish(&table).unwrap();
        let devices = ["client", "server", "closed", "strict", "loose"].map(|device| (device, world::number(device))).into();
        Self { fast_path, table, out: Vec::new(), port: 1024, devices }
    }

    /// Puts both programs on every device, as the process does on NICs. The other ends take redirected frames.
    pub fn attach(&mut self) {
        for device in self.devices.keys() {
            // Where the host does not forward there is nothing to attach to; that it does not any more is another matter.
            let forwarding = |value| {
                for family in ["ipv4", "ipv6"] {
                    std::fs::write(format!("/proc/sys/net/{family}/conf/{device}/forwarding"), value).unwrap();
                }
            };
            world::ethtool(&format!("-K {device}-far gro on"));
            forwarding("1");
            self.fast_path.attach(device).unwrap();
            self.fast_path.attach_xdp(device).unwrap();
            if *device == "closed" {
                forwarding("0");
            }
        }
    }

    /// Publishes another answer for one listener, and whom its flows leave.
    pub fn republish(&mut self, name: &str, choice: &[usize], leaving: &[usize], ending: &[usize]) {
        let ids = |list: &[usize]| -> Vec<EndpointId> { list.iter().map(|&index| id(index)).collect() };
        let place = NAMES.iter().position(|n| *n == name).unwrap();
        self.table.listeners[place] = Arc::new(listener_table(choice).with_leaving(ids(leaving), ids(ending)));
        self.table.generation += 1;
        self.fast_path.publish(&self.table).unwrap();
    }

    /// A datagram of a client that has not been seen before, to a port of the static IP of `ip`'s family.
    pub fn from(&mut self, ip: &str, port: u16) -> Datagram {
        self.port += 1;
        let client = SocketAddr::new(ip.parse().unwrap(), self.port);
        let vip: IpAddr = if client.is_ipv6() { "fd18::1" } else { "198.18.0.1" }.parse().unwrap();
        let mut datagram = Datagram::new(client, SocketAddr::new(vip, port));
        datagram.macs = (GATEWAY, CLIENT_SIDE);
        datagram
    }

    pub fn v4(&mut self, port: u16) -> Datagram {
        self.from("198.18.64.9", port)
    }

    pub fn v6(&mut self, port: u16) -> Datagram {
        self.from("fd18:64::9", port)
    }

    pub fn flow(&self, datagram: &Datagram) -> FlowEntry {
        self.fast_path.flow(datagram.from, datagram.to).unwrap().unwrap_or_else(|| panic!("no flow of {datagram:?}"))
    }

    fn endpoint_of(&self, flow: &FlowEntry) -> SocketAddr {
        SocketAddr::new(self.table.endpoint(flow.endpoint).unwrap().target.ip, flow.endpoint_port)
    }

    /// What reaches the endpoint of a client's datagram.
    pub fn at_endpoint(&self, datagram: &Datagram) -> Datagram {
        let flow = self.flow(datagram);
        let to = self.endpoint_of(&flow);
        let macs = (SERVER_SIDE, mac(to.ip()));
        Datagram { from: flow.nat, to, macs, ttl: datagram.ttl - 1, ..datagram.clone() }
    }

    /// What the endpoint of a client's datagram answers.
    pub fn answer(&self, datagram: &Datagram) -> Datagram {
        let flow = self.flow(datagram);
        let from = self.endpoint_of(&flow);
        Datagram { macs: (mac(from.ip()), SERVER_SIDE), payload: b"answer".to_vec(), ..Datagram::new(from, flow.nat) }
    }

    /// What reaches the client of an answer to its `datagram`.
    pub fn at_client(&self, answer: &Datagram, datagram: &Datagram) -> Datagram {
        let macs = (CLIENT_SIDE, GATEWAY);
        Datagram { from: datagram.to, to: datagram.from, macs, ttl: answer.ttl - 1, ..answer.clone() }
    }

    /// An error that the endpoint's side sends about `datagram` as it went to the endpoint.
    pub fn endpoint_error(&self, datagram: &Datagram, kind: u8, code: u8, from: Option<&str>) -> IcmpError {
        let sent = self.at_endpoint(datagram);
        let from = from.map_or(sent.to.ip(), |ip| ip.parse().unwrap());
        let macs = (ENDPOINTS[0], SERVER_SIDE);
        IcmpError { macs, from, to: sent.from.ip(), ttl: 64, kind, code, word: 1280, quote: sent.packet() }
    }

    /// What reaches the client of such an error.
    pub fn error_at_client(&self, error: &IcmpError, datagram: &Datagram) -> Vec<u8> {
        let quote = Datagram { ttl: datagram.ttl - 1, ..datagram.clone() }.packet();
        let (from, to) = (datagram.to.ip(), datagram.from.ip());
        IcmpError { macs: (CLIENT_SIDE, GATEWAY), from, to, ttl: error.ttl - 1, quote, ..error.clone() }.frame()
    }

    /// Puts a frame through the program as if a device had received it.
    pub fn run_at(&mut self, device: &str, frame: &[u8]) -> Verdict {
        let verdict = test_support::run(&self.fast_path, frame, self.devices[device], 1).unwrap();
        self.out.clone_from(&verdict.frame);
        verdict
    }

    /// As [`Bed::run_at`], through the program that XDP runs.
    pub fn run_xdp_at(&mut self, device: &str, frame: &[u8]) -> Verdict {
        test_support::run_xdp(&self.fast_path, frame, self.devices[device], 1).unwrap()
    }

    pub fn run(&mut self, frame: &[u8]) -> Verdict {
        let device = if frame[..6] == SERVER_SIDE { "server" } else { "client" };
        self.run_at(device, frame)
    }

    /// Opens the flow of a datagram.
    pub fn open(&mut self, datagram: &Datagram) {
        self.run(&datagram.frame());
        self.flow(datagram);
    }

    /// Opens it and has the endpoint answer.
    pub fn converse(&mut self, datagram: &Datagram) {
        self.open(datagram);
        let answer = self.answer(datagram).frame();
        self.run(&answer);
        assert!(self.flow(datagram).answered);
    }

    /// Every counter that is not zero, by name.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let counters = self.fast_path.counters().unwrap();
        let endpoints = self.fast_path.endpoint_counters(0..self.table.endpoints.len()).unwrap();
        let pinned: u64 = endpoints.iter().map(|endpoint| endpoint.opened).sum();
        assert_eq!(pinned, counters.listeners.iter().map(|listener| listener.opened + listener.moved).sum());
        flatten(&counters, &endpoints)
    }
}

fn mac(endpoint: IpAddr) -> Mac {
    let second = endpoint == at("198.18.2.3:1").ip();
    ENDPOINTS[usize::from(second)]
}

fn flatten(counters: &Counters, endpoints: &[EndpointCounters]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (name, listener) in NAMES.iter().copied().zip(&counters.listeners) {
        add_listener(&mut all, name, listener);
    }
    add_listener(&mut all, "strays", &counters.strays);
    for (id, endpoint) in endpoints.iter().enumerate() {
        add_traffic(&mut all, &format!("endpoint{id}.up"), endpoint.to_endpoint);
        add_traffic(&mut all, &format!("endpoint{id}.down"), endpoint.to_client);
        all.insert(format!("endpoint{id}.refused"), endpoint.refused);
    }
    all.retain(|_, count| *count > 0);
    all
}

fn add_listener(all: &mut BTreeMap<String, u64>, name: &str, listener: &ListenerCounters) {
    add_traffic(all, &format!("{name}.up"), listener.to_endpoint);
    add_traffic(all, &format!("{name}.down"), listener.to_client);
    all.insert(format!("{name}.opened"), listener.opened);
    all.insert(format!("{name}.moved"), listener.moved);
    all.insert(format!("{name}.by_xdp"), listener.by_xdp);
    all.insert(format!("{name}.fallbacks"), listener.fallbacks);
    all.insert(format!("{name}.icmp_up"), listener.icmp[0]);
    all.insert(format!("{name}.icmp_down"), listener.icmp[1]);
    for &reason in EndReason::ALL {
        all.insert(format!("{name}.{}", reason.as_str()), listener.ended_by(reason));
    }
    for &reason in DropReason::ALL {
        all.insert(format!("{name}.{}", reason.as_str()), listener.dropped(reason));
    }
}

fn add_traffic(all: &mut BTreeMap<String, u64>, name: &str, traffic: Traffic) {
    all.insert(format!("{name}.packets"), traffic.packets);
    all.insert(format!("{name}.bytes"), traffic.bytes);
}
