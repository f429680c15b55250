//! The packet table: what comes, what becomes of it, what is counted.

mod client;
mod endpoint;
mod errors;
mod fragments;
mod odd;
mod reverse_path;
mod transparent;

use super::{
    bed::Bed,
    frame::{Datagram, IcmpError},
};

/// A frame that is known once the flow is there.
pub type Expected = Box<dyn FnOnce(&Bed) -> Vec<u8>>;

/// What becomes of a frame.
pub enum Outcome {
    /// It is dropped.
    Dropped,
    /// It goes on to the host, untouched.
    Passed,
    /// It leaves as this frame.
    Becomes(Expected),
}

/// One line of the table.
pub struct Case {
    pub what: &'static str,
    /// What changes in the counters, and nothing else: `name count`, by comma; `up L E B` is a datagram of B bytes of listener L to
    /// endpoint E, `down L E B` one back.
    pub counts: &'static str,
    /// Prepares, and gives the device, the frame and what becomes of it.
    pub packet: fn(&mut Bed) -> (&'static str, Vec<u8>, Outcome),
}

/// Every case.
pub fn all() -> Vec<Case> {
    [client::CASES, endpoint::CASES, errors::CASES, fragments::CASES, odd::CASES, transparent::CASES, reverse_path::CASES]
        .into_iter()
        .flatten()
        .map(copy)
        .collect()
}

fn copy(case: &Case) -> Case {
    Case { ..*case }
}

type Packet = (&'static str, Vec<u8>, Outcome);

fn becomes(frame: impl FnOnce(&Bed) -> Vec<u8> + 'static) -> Outcome {
    Outcome::Becomes(Box::new(frame))
}

/// A client's datagram goes on to its endpoint.
fn up(datagram: Datagram) -> Packet {
    ("client", datagram.frame(), becomes(move |bed| bed.at_endpoint(&datagram).frame()))
}

/// The answer to a client's datagram goes on to it.
fn down(answer: Datagram, datagram: Datagram) -> Packet {
    ("server", answer.frame(), becomes(move |bed| bed.at_client(&answer, &datagram).frame()))
}

fn dropped(device: &'static str, frame: Vec<u8>) -> Packet {
    (device, frame, Outcome::Dropped)
}

fn passed(frame: Vec<u8>) -> Packet {
    ("client", frame, Outcome::Passed)
}

/// A datagram, or the answer to one, that is too large: its sender is told what the device takes.
fn told_too_big(device: &'static str, datagram: &Datagram) -> Packet {
    let v6 = datagram.from.is_ipv6();
    let (kind, code, quote) = if v6 { (2, 0, 48) } else { (3, 4, 28) };
    let error = IcmpError {
        macs: (datagram.macs.1, datagram.macs.0),
        from: datagram.to.ip(),
        to: datagram.from.ip(),
        ttl: 64,
        kind,
        code,
        word: 1500,
        quote: datagram.packet()[..quote].to_vec(),
    };
    (device, datagram.frame(), becomes(move |_| error.frame()))
}
