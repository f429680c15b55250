//! UDP in a closed loop: bursts of datagrams, each burst of one flow, a fixed number of bursts in flight.
//!
//! A burst of one datagram is an ordinary echo. What is not answered within 200 ms is counted as lost and sent anew.

use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use landfall_tests::{Failure, Result, wait};

use crate::gauge::{Gauge, Latencies};
use crate::mmsg::{Incoming, Outgoing, join};
use crate::path::flow_address;

/// How often both ends look whether they are to stop, and what is overdue.
pub const LOOK: Duration = Duration::from_millis(20);
/// When a datagram is given up.
const OVERDUE: Duration = Duration::from_millis(200);
/// What a datagram says in front of its filling: slot, turn of the slot, number in the burst, flow; 4 bytes each.
const HEAD: usize = 16;
/// Flows that are opened at once.
const OPENING: u32 = 4;
/// Datagrams sent by one call where they are no bursts.
const SEND_BATCH: usize = 64;

/// A load of UDP.
#[derive(Debug, Clone, Copy)]
pub struct Udp {
    /// How many clients take turns.
    pub flows: u32,
    /// Bytes of payload.
    pub size: usize,
    /// Datagrams that one flow sends back to back; at most 64.
    pub burst: u32,
    /// Bursts on their way at any time.
    pub in_flight: u32,
    /// Whether both ends leave the cutting of a burst to the devices (GSO, GRO), so that they cost little beside the edge.
    pub joined: bool,
}

/// A burst on its way.
struct Slot {
    turn: u32,
    flow: u32,
    /// A bit for each datagram that is not back yet.
    missing: u64,
    sent: Instant,
}

/// What became of a datagram that came back.
enum Answer {
    /// It belongs to no burst that is on its way.
    Stale,
    /// It is not what was sent, or came to another client.
    Wrong,
    /// It is right.
    Right,
    /// It is right, and the last one of the burst in this slot.
    Last(usize),
}

struct Generator<'a> {
    load: &'a Udp,
    target: SocketAddrV4,
    socket: RawFd,
    template: Vec<u8>,
    outgoing: Outgoing,
    slots: Vec<Slot>,
    turn: u32,
    flow: u32,
}

/// Opens the flows a few at a time, then sends and receives until the gauge says stop.
///
/// A few at a time, as clients come: what is measured is forwarding, not flows that all begin at once.
///
/// # Errors
/// When the socket refuses to send or receive.
pub fn generate(load: &Udp, socket: &UdpSocket, target: SocketAddrV4, gauge: &Gauge) -> Result<()> {
    let opening = Udp { size: 64, burst: 1, in_flight: OPENING.min(load.flows), joined: false, ..*load };
    let opened = Gauge::default();
    run(&opening, socket, target, &opened, || gauge.runs() && opened.done.load(Ordering::Relaxed) < u64::from(load.flows))?;
    run(load, socket, target, gauge, || gauge.runs())
}

fn run(load: &Udp, socket: &UdpSocket, target: SocketAddrV4, gauge: &Gauge, goes_on: impl Fn() -> bool) -> Result<()> {
    let cannot = |operation: &str, error| Failure::new(operation, target, error, "see whether the subject still runs");
    join(socket, load.joined).map_err(|error| cannot("prepare for", error))?;
    let mut generator = Generator::new(load, socket.as_raw_fd(), target);
    generator.start().map_err(|error| cannot("send to", error))?;
    let mut incoming = Incoming::new(load.joined);
    let mut latencies = Latencies::new(gauge);
    let mut looked = wait::now();
    while goes_on() {
        let count = incoming.receive(generator.socket).map_err(|error| cannot("receive from", error))?;
        let now = wait::now();
        let (mut right, mut stale, mut wrong) = (0, 0, 0);
        let datagrams = (0..count).flat_map(|index| incoming.datagrams(index).map(move |datagram| (index, datagram)));
        for (index, datagram) in datagrams {
            match generator.take(&incoming, index, datagram) {
                Answer::Stale => stale += 1,
                Answer::Wrong => wrong += 1,
                Answer::Right => right += 1,
                Answer::Last(slot) => {
                    right += 1;
                    latencies.note(now - generator.slots[slot].sent);
                    generator.send(slot, now).map_err(|error| cannot("send to", error))?;
                }
            }
        }
        if now - looked >= LOOK {
            looked = now;
            let lost = generator.send_overdue(now).map_err(|error| cannot("send to", error))?;
            Gauge::count(&gauge.lost, lost);
        }
        generator.outgoing.flush(generator.socket).map_err(|error| cannot("send to", error))?;
        Gauge::count(&gauge.done, right);
        Gauge::count(&gauge.stale, stale);
        Gauge::count(&gauge.wrong, wrong);
    }
    Ok(())
}

impl<'a> Generator<'a> {
    fn new(load: &'a Udp, socket: RawFd, target: SocketAddrV4) -> Self {
        let template: Vec<u8> = (0..=u8::MAX).cycle().take(load.size).collect();
        let joined = if load.joined { usize::try_from(load.burst).unwrap_or(1) } else { 1 };
        let outgoing = Outgoing::new(target, load.size, joined, SEND_BATCH, &template);
        // Turns of earlier loads on the same socket are not mistaken for this one's.
        Self { load, target, socket, template, outgoing, slots: Vec::new(), turn: fastrand::u32(..), flow: 0 }
    }

    fn start(&mut self) -> std::io::Result<()> {
        let now = wait::now();
        for slot in 0..usize::try_from(self.load.in_flight).unwrap_or_default() {
            self.slots.push(Slot { turn: 0, flow: 0, missing: 0, sent: now });
            self.send(slot, now)?;
        }
        self.outgoing.flush(self.socket)
    }

    /// Sends the next flow's burst in `slot`.
    fn send(&mut self, slot: usize, now: Instant) -> std::io::Result<()> {
        self.turn = self.turn.wrapping_add(1);
        let sent = Slot { turn: self.turn, flow: self.flow, missing: u64::MAX >> (64 - self.load.burst), sent: now };
        self.flow = (self.flow + 1) % self.load.flows;
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&u32::try_from(slot).unwrap_or(u32::MAX).to_le_bytes());
        head[4..8].copy_from_slice(&sent.turn.to_le_bytes());
        head[12..].copy_from_slice(&sent.flow.to_le_bytes());
        let heads = |parts: std::ops::Range<u32>| {
            parts.map(move |part| {
                head[8..12].copy_from_slice(&part.to_le_bytes());
                head
            })
        };
        let step = if self.load.joined { self.load.burst } else { 1 };
        for part in (0..self.load.burst).step_by(usize::try_from(step).unwrap_or(1)) {
            if self.outgoing.is_full() {
                self.outgoing.flush(self.socket)?;
            }
            self.outgoing.push(flow_address(sent.flow), heads(part..part + step));
        }
        self.slots[slot] = sent;
        // A call for each burst: nothing of another flow comes between its datagrams.
        if self.load.burst > 1 && !self.load.joined { self.outgoing.flush(self.socket) } else { Ok(()) }
    }

    /// Takes `datagram` in, one of the datagrams `index` of the batch.
    fn take(&mut self, incoming: &Incoming, index: usize, datagram: &[u8]) -> Answer {
        let number = |at: usize| match datagram.get(at..at + 4) {
            Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
            _ => u32::MAX,
        };
        if incoming.sender(index) != self.target {
            return Answer::Wrong;
        }
        let number_of_slot = usize::try_from(number(0)).unwrap_or(usize::MAX);
        let bit = 1_u64.checked_shl(number(8)).unwrap_or_default();
        let Some(slot) = self.slots.get_mut(number_of_slot).filter(|slot| slot.turn == number(4) && slot.missing & bit != 0)
        else {
            return Answer::Stale;
        };
        let whole = datagram.get(HEAD..) == self.template.get(HEAD..) && number(12) == slot.flow;
        if !whole || incoming.destination(index) != Some(flow_address(slot.flow)) {
            return Answer::Wrong;
        }
        slot.missing &= !bit;
        if slot.missing == 0 { Answer::Last(number_of_slot) } else { Answer::Right }
    }

    /// Gives up what is overdue, and returns how many datagrams that were.
    fn send_overdue(&mut self, now: Instant) -> std::io::Result<u64> {
        let mut lost = 0;
        for slot in 0..self.slots.len() {
            if now - self.slots[slot].sent > OVERDUE {
                lost += u64::from(self.slots[slot].missing.count_ones());
                self.send(slot, now)?;
            }
        }
        Ok(lost)
    }
}

/// Sends everything back until the gauge says stop.
///
/// # Errors
/// When the socket refuses to send or receive.
pub fn serve(socket: &UdpSocket, joined: bool, gauge: &Gauge) -> Result<()> {
    let mut incoming = Incoming::new(joined);
    join(socket, joined)
        .map_err(|error| Failure::new("prepare", "the server's UDP socket", error, "take a kernel with UDP GRO"))?;
    while gauge.runs() {
        let count = match incoming.receive(socket.as_raw_fd()) {
            Ok(count) => count,
            // The report of a client's port that is closed, such as a proxy's that has ended; it concerns nobody else.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => 0,
            Err(error) => return Err(Failure::new("receive on", "the server's UDP socket", error, "run it as root")),
        };
        let answered = incoming.answer(socket.as_raw_fd(), count);
        answered
            .map_err(|error| Failure::new("answer on", "the server's UDP socket", error, "see whether the subject still runs"))?;
    }
    Ok(())
}

/// Opens that many flows through the subject, and waits for twice as many answers.
///
/// # Errors
/// When some stay unanswered.
pub fn open_flows(flows: u32, socket: &UdpSocket, target: SocketAddrV4, limit: Duration) -> Result<()> {
    let gauge = Gauge::default();
    let load = Udp { flows, size: 64, burst: 1, in_flight: flows.min(128), joined: false };
    std::thread::scope(|scope| {
        let stop = crate::gauge::StopAtEnd(&gauge);
        scope.spawn(|| gauge.guard(|| run(&load, socket, target, &gauge, || gauge.runs())));
        let answered = wait::wait_until(&format!("{flows} UDP flows to be answered"), limit, || {
            // Twice, because a flow whose datagram was lost comes round again.
            gauge.done.load(Ordering::Relaxed) >= u64::from(flows) * 2 || !gauge.runs()
        });
        drop(stop);
        answered
    })?;
    gauge.failure().map_or(Ok(()), Err)
}
