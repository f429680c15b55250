//! Real sockets on real devices: a client host, an edge and a host of endpoints, wired by veth. Packets of sockets have checksums that
//! are still to be filled in, and neighbours are still to be found.

#![cfg(all(target_os = "linux", feature = "kernel"))]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use common::{
    frame::{Datagram, Mac},
    hosts::{self, Host, ip},
    tables::{at, endpoint, id, listener, listener_table, routing_table, settings},
};
use fast_path::{Counters, DropReason, FastPath, ListenerCounters};

const PATIENCE: Duration = Duration::from_secs(10);
const VIPS: [&str; 2] = ["198.18.0.1:7000", "[fd18::1]:7001"];

struct Lab {
    fast_path: FastPath,
    client: Host,
    endpoints: Host,
}

impl Lab {
    fn new() -> Self {
        hosts::unshare();
        let client = Host::behind("client");
        let endpoints = Host::behind("server");
        for command in [
            "address add 198.18.0.1/32 dev lo",
            "address add fd18::1/128 dev lo nodad",
            "address add 198.18.1.1/24 dev client",
            "address add fd18:1::1/64 dev client nodad",
            "address add 198.18.2.1/24 dev server",
            "address add fd18:2::1/64 dev server nodad",
        ] {
            ip(command);
        }
        client.run(|| {
            ip("address add 198.18.1.2/24 dev eth0");
            ip("address add 198.18.1.3/24 dev eth0");
            ip("address add fd18:1::2/64 dev eth0 nodad");
            ip("route add default via 198.18.1.1");
            ip("route add default via fd18:1::1");
        });
        endpoints.run(|| {
            ip("address add 198.18.2.2/24 dev eth0");
            ip("address add 198.18.2.3/24 dev eth0");
            ip("address add fd18:2::2/64 dev eth0 nodad");
        });
        let mut fast_path = FastPath::load(settings(vec![listener(0, 7000), listener(1, 7001)])).unwrap();
        let endpoints_of_table = ["198.18.2.2", "198.18.2.3", "fd18:2::2"]
            .iter()
            .enumerate()
            .map(|(index, ip)| endpoint(index, ip, None, &[]))
            .collect();
        let listeners = vec![listener_table(&[0]), listener_table(&[2])];
        fast_path.publish(&routing_table(endpoints_of_table, listeners)).unwrap();
        let refused = fast_path.attach("client").unwrap_err().to_string();
        assert!(refused.contains("sysctl -w net.ipv4.conf.client.forwarding=1"), "{refused}");
        for family in ["ipv4", "ipv6"] {
            std::fs::write(format!("/proc/sys/net/{family}/conf/all/forwarding"), "1").unwrap();
        }
        fast_path.attach("client").unwrap();
        fast_path.attach("server").unwrap();
        assert_eq!(fast_path.devices(), ["client", "server"]);
        Self { fast_path, client, endpoints }
    }

    /// Endpoints that answer with what they are sent, and their own address after it if `named`.
    fn echo(&self, address: &'static str, named: bool) {
        self.endpoints.run(move || {
            let socket = UdpSocket::bind(address).unwrap();
            std::thread::spawn(move || {
                let mut buffer = vec![0; 65_536];
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let name = if named { address } else { "" };
                    socket.send_to(&[&buffer[..length], name.as_bytes()].concat(), from).unwrap();
                }
            });
        });
    }

    fn listener(&self, place: usize) -> ListenerCounters {
        let Counters { mut listeners, strays, .. } = self.fast_path.counters().unwrap();
        assert_eq!(strays.drops.iter().sum::<u64>(), 0, "{strays:?}");
        listeners.swap_remove(place)
    }
}

fn socket(to: SocketAddr) -> UdpSocket {
    let any: IpAddr = if to.is_ipv6() { "::".parse().unwrap() } else { "0.0.0.0".parse().unwrap() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // Only what comes from the static IP and port is received.
    socket.connect(to).unwrap();
    socket
}

/// Sends and waits for the answer.
fn ask(socket: &UdpSocket, question: &[u8]) -> io::Result<Vec<u8>> {
    socket.send(question)?;
    let mut buffer = vec![0; 65_536];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

#[test]
fn datagrams_of_every_size_come_back_whole() {
    let lab = Lab::new();
    lab.echo("198.18.2.2:7000", false);
    lab.echo("[fd18:2::2]:7001", false);
    for (place, vip) in VIPS.into_iter().enumerate() {
        let (flows, each) = lab.client.run(move || {
            let mut rng = fastrand::Rng::with_seed(5);
            let sockets: Vec<_> = (0..32).map(|_| socket(at(vip))).collect();
            for socket in &sockets {
                let random: Vec<_> = (0..24).map(|_| rng.usize(..1400)).collect();
                for size in [0, 1, 2, 3, 1000, 1400].into_iter().chain(random) {
                    let question: Vec<u8> = (0..size).map(|_| rng.u8(..)).collect();
                    assert_eq!(ask(socket, &question).unwrap(), question, "{size} bytes to {vip}");
                }
            }
            (32, 30)
        });
        let counted = lab.listener(place);
        assert_eq!((counted.to_endpoint.packets, counted.to_client.packets, counted.opened), (flows * each, flows * each, flows));
        assert_eq!(counted.to_endpoint.bytes, counted.to_client.bytes);
        assert_eq!(counted.drops.iter().sum::<u64>(), 0, "{counted:?}");
    }
}

#[test]
fn datagrams_in_fragments_come_back_whole() {
    let lab = Lab::new();
    lab.echo("198.18.2.2:7000", false);
    lab.echo("[fd18:2::2]:7001", false);
    for (place, vip) in VIPS.into_iter().enumerate() {
        lab.client.run(move || {
            let socket = socket(at(vip));
            for size in [1473, 2961, 5000, 20_000] {
                let question: Vec<u8> = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect();
                assert!(ask(&socket, &question).unwrap() == question, "{size} bytes to {vip}");
            }
        });
        let counted = lab.listener(place);
        assert_eq!((counted.opened, counted.drops.iter().sum::<u64>()), (1, 0), "{counted:?}");
        assert!(counted.to_endpoint.packets > 4 && counted.to_endpoint.packets == counted.to_client.packets);
    }
}

#[test]
fn fragments_of_clients_that_count_alike_are_not_mixed() {
    let lab = Lab::new();
    let (datagrams, received) = std::sync::mpsc::channel();
    lab.endpoints.run(move || {
        let socket = UdpSocket::bind("198.18.2.2:7000").unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4000];
            while let Ok(length) = socket.recv(&mut buffer) {
                datagrams.send(buffer[..length].to_vec()).unwrap();
            }
        });
    });
    lab.client.run(|| {
        // Parts of both, by turns, under one number.
        let whole = |client: &str, byte: u8| Datagram { payload: vec![byte; 2000], ..Datagram::new(at(client), at(VIPS[0])) };
        let both = [whole("198.18.1.2:5000", 1), whole("198.18.1.3:5000", 2)];
        for part in [(0, 800), (800, 1600), (1600, 2008)] {
            both.iter().for_each(|datagram| send_raw(&Datagram { fragment: Some(part), ..datagram.clone() }.packet()));
        }
    });
    let mut both = [received.recv_timeout(PATIENCE).unwrap(), received.recv_timeout(PATIENCE).unwrap()];
    both.sort();
    assert!(both == [vec![1; 2000], vec![2; 2000]]);
    assert_eq!(lab.listener(0).to_endpoint.packets, 6);
}

/// Sends an IPv4 packet as it stands.
fn send_raw(packet: &[u8]) {
    // SAFETY: an address of all zeros is one, but for its family; the packet and the address outlive the calls.
    let sent = unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW);
        assert!(socket >= 0, "{}", io::Error::last_os_error());
        let socket = OwnedFd::from_raw_fd(socket);
        let mut to: libc::sockaddr_in = std::mem::zeroed();
        to.sin_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap();
        to.sin_addr.s_addr = u32::from_ne_bytes(packet[16..20].try_into().unwrap());
        let length = size_of_val(&to).try_into().unwrap();
        libc::sendto(socket.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0, (&raw const to).cast(), length)
    };
    assert_eq!(sent, isize::try_from(packet.len()).unwrap(), "{}", io::Error::last_os_error());
}

#[test]
fn frames_with_a_priority_but_no_vlan_are_taken() {
    const MACS: (Mac, Mac) = ([2, 0, 0, 0, 0, 7], [2, 0, 0, 0, 0, 8]);
    let lab = Lab::new();
    lab.echo("198.18.2.2:7000", false);
    ip("link set client address 02:00:00:00:00:08");
    lab.client.run(|| {
        ip("link set eth0 address 02:00:00:00:00:07");
        let socket = UdpSocket::bind("198.18.1.2:5000").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // Priority 5; of VLAN 5, then of none.
        for (tag, payload) in [([0xa0, 5], b"tagged"), ([0xa0, 0], b"first!"), ([0xa0, 0], b"second")] {
            let datagram =
                Datagram { macs: MACS, payload: payload.to_vec(), ..Datagram::new(at("198.18.1.2:5000"), at(VIPS[0])) };
            let mut frame = datagram.frame();
            frame.splice(12..12, [0x81, 0, tag[0], tag[1]]);
            send_frame(&frame);
        }
        for answer in [b"first!", b"second"] {
            let mut buffer = [0; 100];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (&answer[..], at(VIPS[0])));
        }
    });
    let counted = lab.listener(0);
    assert_eq!((counted.to_endpoint.packets, counted.to_client.packets), (2, 2));
}

/// Sends a frame by the host's only device.
fn send_frame(frame: &[u8]) {
    // SAFETY: an address of all zeros is one, but for its family; the frame, the address and the name outlive the calls.
    let sent = unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        assert!(socket >= 0, "{}", io::Error::last_os_error());
        let socket = OwnedFd::from_raw_fd(socket);
        let mut to: libc::sockaddr_ll = std::mem::zeroed();
        to.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).unwrap();
        to.sll_ifindex = libc::if_nametoindex(c"eth0".as_ptr()).cast_signed();
        let length = size_of_val(&to).try_into().unwrap();
        libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, (&raw const to).cast(), length)
    };
    assert_eq!(sent, isize::try_from(frame.len()).unwrap(), "{}", io::Error::last_os_error());
}

/// Has what the socket sends cut into datagrams of `size` bytes.
fn segment(socket: &UdpSocket, size: libc::c_int) {
    // SAFETY: the option is an int that outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            size_of_val(&size).try_into().unwrap(),
        )
    };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
}

#[test]
fn a_super_packet_arrives_as_its_datagrams() {
    let lab = Lab::new();
    lab.echo("198.18.2.2:7000", false);
    lab.client.run(|| {
        let socket = socket(at(VIPS[0]));
        segment(&socket, 1000);
        let question: Vec<u8> = (0..20_000u32).map(|i| (i / 1000).to_le_bytes()[0]).collect();
        socket.send(&question).unwrap();
        let mut buffer = [0; 2000];
        for number in 0..20 {
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..length], [number; 1000]);
        }
    });
    let counted = lab.listener(0);
    assert_eq!((counted.to_endpoint.packets, counted.to_endpoint.bytes), (20, 20_000));
    assert_eq!((counted.to_client.packets, counted.to_client.bytes), (20, 20_000));
}

#[test]
fn a_super_packet_of_datagrams_that_are_too_large_is_told_to_its_sender() {
    let lab = Lab::new();
    lab.echo("198.18.2.2:7000", false);
    ip("link set server mtu 1300");
    lab.endpoints.run(|| ip("link set eth0 mtu 1300"));
    lab.client.run(|| {
        let socket = socket(at(VIPS[0]));
        segment(&socket, 1400);
        // The client's host refuses once it knows.
        let refused = |_| socket.send(&[0; 14_000]).is_err();
        assert!((0..5).any(refused));
        segment(&socket, 1200);
        assert_eq!(ask(&socket, &[1; 2400]).unwrap(), [1; 1200]);
    });
    assert!((1..5).contains(&lab.listener(0).dropped(DropReason::TooBig)));
}

#[test]
fn the_path_s_mtu_is_found_both_ways() {
    let lab = Lab::new();
    lab.echo("198.18.2.2:7000", false);
    lab.echo("[fd18:2::2]:7001", false);
    // The client, then the endpoint, sends over a wider link than the one beyond the edge, and knows no better until the edge tells it.
    // From then on its host sends fragments that fit.
    let found = |lab: &Lab, size: usize| {
        for vip in VIPS {
            lab.client.run(move || {
                let socket = socket(at(vip));
                socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
                let question = vec![7; size];
                let tries = (0..5).map(|_| ask(&socket, &question)).take_while(Result::is_err).count();
                assert!((1..5).contains(&tries), "{tries} tries failed of {size} bytes to {vip}");
            });
        }
    };
    let narrow = |host: &Host, device: &str, mtu: &'static str| {
        ip(&format!("link set {device} mtu {mtu}"));
        host.run(move || ip(&format!("link set eth0 mtu {mtu}")));
    };
    narrow(&lab.endpoints, "server", "1400");
    found(&lab, 1420);
    narrow(&lab.endpoints, "server", "1500");
    narrow(&lab.client, "client", "1300");
    found(&lab, 1280);
    for place in 0..VIPS.len() {
        assert_eq!(lab.listener(place).dropped(DropReason::TooBig), 2, "each is told once");
    }
}

#[test]
fn a_closed_port_is_told_to_the_client() {
    let mut lab = Lab::new();
    let mut refusals = lab.fast_path.refusals().unwrap();
    for (place, vip) in VIPS.into_iter().enumerate() {
        let error = lab.client.run(move || ask(&socket(at(vip)), b"anyone?").unwrap_err());
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{vip}");
        assert_eq!(lab.listener(place).icmp, [0, 1]);
    }
    assert_eq!(refusals.by_ref().collect::<Vec<_>>(), [id(0), id(2)]);
}

#[test]
fn a_flow_moves_under_the_client_s_feet() {
    let mut lab = Lab::new();
    lab.echo("198.18.2.2:7000", true);
    lab.echo("198.18.2.3:7000", true);
    let (say, said) = std::sync::mpsc::channel::<()>();
    let (answered, answers) = std::sync::mpsc::channel();
    let _talk = lab.client.spawn(move || {
        let socket = socket(at(VIPS[0]));
        while said.recv().is_ok() {
            answered.send(String::from_utf8(ask(&socket, b"").unwrap()).unwrap()).unwrap();
        }
    });
    let endpoints: Vec<_> =
        ["198.18.2.2", "198.18.2.3", "fd18:2::2"].iter().enumerate().map(|(index, ip)| endpoint(index, ip, None, &[])).collect();
    for (to, name) in [(1, "198.18.2.3:7000"), (0, "198.18.2.2:7000"), (1, "198.18.2.3:7000")] {
        let table = listener_table(&[to]).with_leaving(vec![id(1 - to)], Vec::new());
        lab.fast_path.publish(&routing_table(endpoints.clone(), vec![table, listener_table(&[2])])).unwrap();
        for _ in 0..3 {
            say.send(()).unwrap();
            assert_eq!(answers.recv_timeout(PATIENCE).unwrap(), name);
        }
    }
    let counted = lab.listener(0);
    assert_eq!((counted.opened, counted.to_endpoint.packets, counted.drops.iter().sum::<u64>()), (1, 9, 0));
}

#[test]
fn a_device_is_let_go_of() {
    let mut lab = Lab::new();
    lab.echo("198.18.2.2:7000", false);
    let asked = |lab: &Lab| lab.client.run(|| ask(&socket(at(VIPS[0])), b"hello").map_err(|error| error.kind()));
    assert_eq!(asked(&lab), Ok(b"hello".to_vec()));
    lab.fast_path.detach("client").unwrap();
    refused_by_the_host(&lab.client);
    lab.fast_path.attach("client").unwrap();
    assert_eq!(asked(&lab), Ok(b"hello".to_vec()));
    let Lab { fast_path, client, .. } = lab;
    drop(fast_path);
    refused_by_the_host(&client);
}

/// Waits until the host says that it has no socket at the static IP. A test beside this one that starts a program holds a copy of every
/// descriptor for a moment, and with it the attachment.
fn refused_by_the_host(client: &Host) {
    client.run(|| {
        let socket = socket(at(VIPS[0]));
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let refused = |_| ask(&socket, b"hello").is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        assert!((0..100).any(refused), "the fast path still takes packets");
    });
}

#[test]
fn devices_that_will_not_do_are_refused_in_plain_words() {
    let mut lab = Lab::new();
    let refused = lab.fast_path.attach("lo").unwrap_err().to_string();
    assert_eq!(
        refused,
        "cannot attach the fast path to device lo: it carries no Ethernet frames, so its packets stay in user space"
    );
    let unknown = lab.fast_path.attach("nowhere").unwrap_err().to_string();
    assert!(unknown.contains("device nowhere") && unknown.contains("name a device of this host"), "{unknown}");
}
