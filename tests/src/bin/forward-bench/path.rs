//! The way of the packets: client, edge and server, each a namespace, one such way for every subject.
//!
//! ```text
//!   client 198.18.1.2 ──────── .1 edge, 198.18.0.1 on lo .1 ──────── .2 server 198.18.2.2
//!     and 198.19.0.0/16                                                 TCP and UDP port 7000, probes to 7999
//! ```
//!
//! Clients of UDP differ in their address, so one socket plays thousands of them, and the generator costs little.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};

use landfall_tests::lab::{End, Namespace};
use landfall_tests::{Failure, Result};
use socket2::{Domain, Protocol, Socket, Type};

/// Where the subject listens, unless it is plain routing.
pub const STATIC_IP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 7000);
/// The edge's own address on the clients' side.
pub const EDGE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 1, 1), 7000);
/// The server.
pub const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 2, 2), 7000);
/// Where Landfall's probes go.
const PROBED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 2, 2), 7999);
/// The source port of every UDP client.
const CLIENT_PORT: u16 = 5000;
/// Every connection of a work may wait to be accepted at once.
const BACKLOG: libc::c_int = 4096;
/// What is in flight at 1,200 bytes exceeds the customary 208 KiB, and a generator that drops would be measured instead.
const BUFFER: usize = 8 << 20;

/// The address of a UDP client.
pub fn flow_address(flow: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(198, 19, 1, 0).to_bits() + flow)
}

/// The three hosts, and the sockets at both ends that stay for the whole run.
pub struct Path {
    pub client: Namespace,
    pub edge: Namespace,
    pub server: Namespace,
    pub udp_client: UdpSocket,
    pub udp_server: UdpSocket,
    pub listener: TcpListener,
}

impl Path {
    /// Builds the hosts. The edge routes packets only if `routes` says so, so that what passes a proxy has passed its process.
    pub fn new(name: &str, routes: bool) -> Result<Self> {
        let host = |role: &str| Namespace::new(&format!("{name}-{role}"));
        let (client, edge, server) = (host("client")?, host("edge")?, host("server")?);
        let near = End { interface: "uplink", addresses: &["198.18.1.2/24"] };
        client.connect(&near, &edge, &End { interface: "clients", addresses: &["198.18.1.1/24"] })?;
        let far = End { interface: "uplink", addresses: &["198.18.2.2/24"] };
        edge.connect(&End { interface: "servers", addresses: &["198.18.2.1/24"] }, &server, &far)?;
        client.ip("route add local 198.19.0.0/16 dev lo\nroute add default via 198.18.1.1\n")?;
        edge.ip("address add 198.18.0.1/32 dev lo\nroute add 198.19.0.0/16 via 198.18.1.2\n")?;
        server.ip("route add default via 198.18.2.1\n")?;
        edge.set("net/ipv4/ip_forward", if routes { "1" } else { "0" })?;
        for host in [&client, &edge] {
            // Thousands of short connections a second: their ports must be free again before the range is used up.
            host.set("net/ipv4/ip_local_port_range", "10240 65000")?;
            host.set("net/ipv4/tcp_tw_reuse", "1")?;
        }
        coalesce(&edge)?;

        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT);
        let udp_client = client.enter(|| udp(any))?;
        let (udp_server, listener) = server.enter(|| Ok::<_, Failure>((udp(SERVER)?, listen(SERVER)?)))?;
        let probed = server.enter(|| listen(PROBED))?;
        // Ends with the process. A probe is over once it is accepted.
        std::thread::spawn(move || probed.incoming().for_each(drop));
        listener.set_nonblocking(true).map_err(|error| cannot("prepare", SERVER, error))?;
        Ok(Self { client, edge, server, udp_client, udp_server, listener })
    }

    /// Whether the devices hand datagrams to the edge as network cards do, so that a burst of one flow may coalesce (GRO).
    ///
    /// A veth takes that way only for what its peer did not prepare for segmentation, hence TSO, which TCP needs, is the switch.
    pub fn bursty(&self, bursty: bool) -> Result<()> {
        for host in [&self.client, &self.server] {
            host.run(["ethtool", "-K", "uplink", "tso", if bursty { "off" } else { "on" }])?;
        }
        Ok(())
    }
}

/// Lets the edge's devices coalesce what a look at them finds together, as network cards do. They are looked at by a thread of the kernel, so
/// that there is something to find: by default a veth is looked at by its sender, after each packet.
fn coalesce(edge: &Namespace) -> Result<()> {
    let mut script = String::from("mount -t sysfs sysfs /sys");
    for device in ["clients", "servers"] {
        let file = format!("/sys/class/net/{device}/threaded");
        script += &format!(" && ethtool -K {device} gro on && echo 1 >{file}");
    }
    // /sys shows the devices of the namespace that mounted it.
    edge.run(["unshare", "--mount", "sh", "-c", &script]).map(drop)
}

fn udp(address: SocketAddrV4) -> Result<UdpSocket> {
    let bound = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        crate::mmsg::force_buffers(&socket, BUFFER)?;
        crate::mmsg::tell_destination(&socket)?;
        socket.set_read_timeout(Some(crate::udp::LOOK))?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    bound().map_err(|error| cannot("bind", address, error))
}

fn listen(address: SocketAddrV4) -> Result<TcpListener> {
    let bound = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bound().map_err(|error| cannot("listen on", address, error))
}

fn cannot(operation: &str, address: SocketAddrV4, error: std::io::Error) -> Failure {
    Failure::new(operation, address, error, "run it as root, on a machine where 198.18.0.0/15 is free in a new namespace")
}
