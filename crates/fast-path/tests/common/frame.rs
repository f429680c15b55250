//! Frames written out of their parts, with checksums computed over the whole: what a rewritten frame must equal byte for byte.

use std::net::{IpAddr, SocketAddr};

pub type Mac = [u8; 6];

const UDP: u8 = 17;
/// A flow label, which must stay.
const LABEL: u32 = 0xa_bcde;

/// A UDP datagram in a frame, or a fragment of one.
#[derive(Debug, Clone)]
pub struct Datagram {
    pub macs: (Mac, Mac),
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub ttl: u8,
    pub tos: u8,
    /// Of the datagram; IPv4 has the lower half, IPv6 what is in fragments.
    pub id: u32,
    pub payload: Vec<u8>,
    pub checksum: bool,
    /// First byte and end of the fragment within the UDP datagram, header included.
    pub fragment: Option<(usize, usize)>,
    /// IPv4 options, or IPv6 extension headers before the UDP header: (kind, bytes).
    pub options: Vec<(u8, Vec<u8>)>,
    /// What the UDP header says instead of its length.
    pub length: Option<u16>,
}

impl Datagram {
    pub fn new(from: SocketAddr, to: SocketAddr) -> Self {
        Self {
            macs: ([0; 6], [0; 6]),
            from,
            to,
            ttl: 64,
            tos: 0,
            id: 7,
            payload: b"hello".to_vec(),
            checksum: true,
            fragment: None,
            options: Vec::new(),
            length: None,
        }
    }

    fn udp(&self) -> Vec<u8> {
        let length = self.length.unwrap_or(u16::try_from(8 + self.payload.len()).unwrap());
        let mut udp = Vec::new();
        for word in [self.from.port(), self.to.port(), length, 0] {
            udp.extend_from_slice(&word.to_be_bytes());
        }
        udp.extend_from_slice(&self.payload);
        if self.checksum {
            let sum = match checksum(&pseudo(self.from.ip(), self.to.ip(), UDP, &udp)) {
                0 => 0xffff,
                sum => sum,
            };
            udp[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        udp
    }

    /// The IP packet.
    pub fn packet(&self) -> Vec<u8> {
        let whole = self.udp();
        let (start, end) = self.fragment.unwrap_or((0, whole.len()));
        let body = &whole[start..end];
        let more = self.fragment.is_some() && end < whole.len();
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let options: Vec<u8> = self.options.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
                let offset = u16::try_from(start / 8).unwrap() | if more { 0x2000 } else { 0 };
                let id = u16::try_from(self.id & 0xffff).unwrap();
                let header = Ipv4 { tos: self.tos, ttl: self.ttl, protocol: UDP, id, offset, options };
                [header.bytes(from.octets(), to.octets(), body.len()), body.to_vec()].concat()
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut headers = self.options.clone();
                if self.fragment.is_some() {
                    let offset = u16::try_from(start).unwrap() | u16::from(more);
                    headers.push((44, [&[0, 0][..], &offset.to_be_bytes(), &self.id.to_be_bytes()].concat()));
                }
                let mut next = UDP;
                let mut body = body.to_vec();
                for (kind, mut header) in headers.into_iter().rev() {
                    header[0] = next;
                    body.splice(0..0, header);
                    next = kind;
                }
                [ipv6((self.tos, LABEL), self.ttl, next, from.octets(), to.octets(), body.len()), body].concat()
            }
            mixed => panic!("{mixed:?}"),
        }
    }

    pub fn frame(&self) -> Vec<u8> {
        frame(self.macs, self.from.is_ipv6(), self.packet())
    }
}

/// An ICMP error in a frame.
#[derive(Debug, Clone)]
pub struct IcmpError {
    pub macs: (Mac, Mac),
    pub from: IpAddr,
    pub to: IpAddr,
    pub ttl: u8,
    pub kind: u8,
    pub code: u8,
    /// The second word of the header, such as an MTU.
    pub word: u32,
    /// The packet that it is about.
    pub quote: Vec<u8>,
}

impl IcmpError {
    pub fn frame(&self) -> Vec<u8> {
        let mut body = vec![self.kind, self.code, 0, 0];
        body.extend_from_slice(&self.word.to_be_bytes());
        body.extend_from_slice(&self.quote);
        let v6 = self.from.is_ipv6();
        let sum = if v6 { checksum(&pseudo(self.from, self.to, 58, &body)) } else { checksum(&body) };
        body[2..4].copy_from_slice(&sum.to_be_bytes());
        let header = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let header = Ipv4 { tos: 0, ttl: self.ttl, protocol: 1, id: 0, offset: 0, options: Vec::new() };
                header.bytes(from.octets(), to.octets(), body.len())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => ipv6((0, 0), self.ttl, 58, from.octets(), to.octets(), body.len()),
            mixed => panic!("{mixed:?}"),
        };
        frame(self.macs, v6, [header, body].concat())
    }
}

struct Ipv4 {
    tos: u8,
    ttl: u8,
    protocol: u8,
    id: u16,
    offset: u16,
    options: Vec<u8>,
}

impl Ipv4 {
    fn bytes(&self, from: [u8; 4], to: [u8; 4], body: usize) -> Vec<u8> {
        let length = 20 + self.options.len();
        let mut header = vec![0x40 | u8::try_from(length / 4).unwrap(), self.tos];
        for word in [u16::try_from(length + body).unwrap(), self.id, self.offset] {
            header.extend_from_slice(&word.to_be_bytes());
        }
        header.extend_from_slice(&[self.ttl, self.protocol, 0, 0]);
        header.extend_from_slice(&from);
        header.extend_from_slice(&to);
        header.extend_from_slice(&self.options);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }
}

fn ipv6((class, label): (u8, u32), hops: u8, next: u8, from: [u8; 16], to: [u8; 16], body: usize) -> Vec<u8> {
    let first = 6u32 << 28 | u32::from(class) << 20 | label;
    let length = u16::try_from(body).unwrap().to_be_bytes();
    [&first.to_be_bytes()[..], &length, &[next, hops], &from, &to].concat()
}

fn frame((from, to): (Mac, Mac), v6: bool, packet: Vec<u8>) -> Vec<u8> {
    let kind: u16 = if v6 { 0x86dd } else { 0x0800 };
    [&to[..], &from, &kind.to_be_bytes(), &packet].concat()
}

fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let octets = |ip| match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&octets(from)[..], &octets(to), &length, &[0, 0, 0, protocol], body].concat()
}

/// The number of the datagram that a frame has a fragment of.
pub fn id_of(frame: &[u8]) -> u32 {
    match frame[14] >> 4 {
        4 => u16::from_be_bytes(frame[18..20].try_into().unwrap()).into(),
        _ => u32::from_be_bytes(frame[58..62].try_into().unwrap()),
    }
}

/// The Internet checksum.
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
