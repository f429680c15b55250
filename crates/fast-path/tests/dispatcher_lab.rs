//! One socket for many ports, in a network namespace of the test's own. Needs root.

#![cfg(all(target_os = "linux", feature = "kernel"))]
#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

#[allow(dead_code, reason = "this test needs a namespace, and no hosts behind it")]
#[path = "common/hosts.rs"]
mod hosts;

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::Path,
    process::Command,
    time::Duration,
};

use endpoint_group::Protocol;
use fast_path::{Dispatched, Dispatcher};

const IPV4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1));
const IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, 1));
/// The listener of UDP, and the second one, of TCP on other ports and of UDP on none.
const UDP: usize = 0;
const TCP: usize = 1;

fn start() -> Dispatcher {
    let udp = Dispatched { ports: vec![10_000..=20_000, 65_535..=65_535], tcp: false, udp: true };
    let tcp = Dispatched { ports: vec![1..=1, 30_000..=30_099], tcp: true, udp: false };
    Dispatcher::start(&[IPV6, IPV4], &[udp, tcp]).unwrap()
}

/// A namespace whose loopback has the static IPs.
fn namespace() {
    hosts::unshare();
    hosts::ip("address add 198.18.0.1/32 dev lo");
    hosts::ip("address add fd00:18::1/128 dev lo nodad");
}

/// What became of a datagram to `to`: whether `socket` received it, or the host refused it.
fn send(socket: &UdpSocket, to: SocketAddr) -> Result<(), ErrorKind> {
    let client = UdpSocket::bind((to.ip(), 0)).unwrap();
    client.connect(to).unwrap();
    client.send(b"for whom?").unwrap();
    // A refusal comes before the call that sent returns, and so does the datagram.
    client.set_nonblocking(true).unwrap();
    match client.recv(&mut [0; 16]).unwrap_err().kind() {
        ErrorKind::WouldBlock => {}
        refused => return Err(refused),
    }
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (_, from) = socket.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(from, client.local_addr().unwrap());
    Ok(())
}

#[test]
fn datagrams_for_every_port_come_to_the_one_socket() {
    namespace();
    let sockets = [IPV4, IPV6].map(|ip| (ip, UdpSocket::bind((ip, 10_000)).unwrap()));
    let mut dispatcher = start();
    for (ip, socket) in &sockets {
        assert_eq!(send(socket, (*ip, 10_001).into()), Err(ErrorKind::ConnectionRefused), "before it was handed over");
        dispatcher.hand_over(UDP, Protocol::Udp, *ip, socket.as_fd()).unwrap();
        for port in [10_000, 10_001, 15_000, 20_000, 65_535] {
            assert_eq!(send(socket, (*ip, port).into()), Ok(()), "{ip} {port}");
        }
        for port in [9_999, 20_001, 30_000, 65_534] {
            assert_eq!(send(socket, (*ip, port).into()), Err(ErrorKind::ConnectionRefused), "{ip} {port}");
        }
    }
    assert_eq!(send(&sockets[0].1, "127.0.0.1:15000".parse().unwrap()), Err(ErrorKind::ConnectionRefused), "no static IP");
    hosts::close(dispatcher);
    for (ip, socket) in &sockets {
        assert_eq!(send(socket, (*ip, 15_000).into()), Err(ErrorKind::ConnectionRefused), "after its end");
        assert_eq!(send(socket, (*ip, 10_000).into()), Ok(()));
    }
}

#[test]
fn connections_to_every_port_come_to_the_one_socket_until_it_closes() {
    namespace();
    let mut dispatcher = start();
    for ip in [IPV4, IPV6] {
        let listener = TcpListener::bind((ip, 1)).unwrap();
        dispatcher.hand_over(TCP, Protocol::Tcp, ip, listener.as_fd()).unwrap();
        let mut kept = Vec::new();
        for port in [1, 30_000, 30_050, 30_099] {
            let client = TcpStream::connect((ip, port)).unwrap();
            let (accepted, from) = listener.accept().unwrap();
            assert_eq!((from, accepted.local_addr().unwrap()), (client.local_addr().unwrap(), (ip, port).into()));
            kept.push((client, accepted));
        }
        assert_eq!(TcpStream::connect((ip, 30_100)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        hosts::close(listener);
        assert_eq!(TcpStream::connect((ip, 30_050)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        for (client, accepted) in &mut kept {
            client.write_all(b"x").unwrap();
            accepted.read_exact(&mut [0]).unwrap();
        }
    }
}

#[test]
fn of_two_the_first_is_obeyed_where_it_has_a_socket() {
    namespace();
    let [first, second] = [10_000, 10_001].map(|port| UdpSocket::bind((IPV4, port)).unwrap());
    let mut earlier = start();
    earlier.hand_over(UDP, Protocol::Udp, IPV4, first.as_fd()).unwrap();
    let mut later = start();
    later.hand_over(UDP, Protocol::Udp, IPV4, second.as_fd()).unwrap();
    let target = (IPV4, 15_000).into();
    assert_eq!(send(&first, target), Ok(()), "nobody's traffic is taken away");
    hosts::close(first);
    assert_eq!(send(&second, target), Ok(()), "as after a drain");
    hosts::close(later);
    assert_eq!(send(&second, target), Err(ErrorKind::ConnectionRefused));
}

#[test]
fn what_it_was_not_started_for_is_refused() {
    namespace();
    let socket = UdpSocket::bind((IPV4, 10_000)).unwrap();
    let mut dispatcher = start();
    let other = dispatcher.hand_over(UDP, Protocol::Udp, "198.18.0.9".parse().unwrap(), socket.as_fd()).unwrap_err();
    assert!(other.to_string().starts_with("cannot hand a socket to the program that chooses sockets"), "{other}");
    assert!(dispatcher.hand_over(2, Protocol::Udp, IPV4, socket.as_fd()).is_err(), "there is no third listener");
    let five: Vec<IpAddr> = (1..6).map(|last| Ipv4Addr::new(198, 18, 0, last).into()).collect();
    assert!(Dispatcher::start(&five, &[]).unwrap_err().to_string().contains("5 static IPs are more than 4"));
}

#[test]
fn the_object_is_what_its_source_compiles_to() {
    let clang = hosts::run(Command::new("clang").arg("--version"));
    let directory = tempfile::tempdir().unwrap();
    let object = directory.path().join("sk_lookup.o");
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf/build");
    let output = hosts::run(Command::new(build).arg(&object).arg("sk_lookup"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    if String::from_utf8_lossy(&clang.stdout).contains("clang version 14.0.6") {
        let same = std::fs::read(object).unwrap() == include_bytes!("../bpf/sk_lookup.o");
        assert!(same, "bpf/sk_lookup.o is not what its source compiles to: run crates/fast-path/bpf/build");
    }
}
