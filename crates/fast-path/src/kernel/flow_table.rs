//! The flow table, read as memory: a flow at the index of its NAT address and port.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use endpoint_group::{EndpointId, Slot};

use super::layout::{FlowKey, ip};

/// 64-bit words of a flow: life, last, five of key, route.
const WORDS: usize = 8;
/// Those, and the flow's ways out.
const STRIDE: usize = 16;
/// States of a life; higher ones are live.
const UNANSWERED: u64 = 2;
const ANSWERED: u64 = 3;
/// Which of the two, whether or not it is moving.
const STATE: u64 = 3;

/// The map `flows`, mapped for reading.
#[derive(Debug)]
pub(super) struct FlowTable {
    words: NonNull<AtomicU64>,
    places: usize,
}

// SAFETY: only read, and only through atomics.
unsafe impl Send for FlowTable {}
// SAFETY: as above.
unsafe impl Sync for FlowTable {}

/// A live flow, read at one moment: the words of `struct flow`. Most are looked at for their first two only.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub index: u32,
    words: [u64; WORDS],
}

impl Place {
    pub fn generation(&self) -> u32 {
        // The program remembers as many bits.
        #[allow(clippy::cast_possible_truncation)]
        let generation = (self.words[0] >> 8) as u32;
        generation
    }

    pub fn answered(&self) -> bool {
        self.words[0] & STATE == ANSWERED
    }

    /// When the latest packet came, in nanoseconds.
    pub fn last(&self) -> u64 {
        self.words[1]
    }

    pub fn key(&self) -> FlowKey {
        let [_, _, a, b, c, d, rest, _] = self.words;
        let [client_port, vip_port, protocol, _] = quarters(rest);
        let protocol = protocol.to_le_bytes()[0];
        FlowKey { client: pair(a, b), vip: pair(c, d), client_port, vip_port, protocol, zero: [0; 3] }
    }

    pub fn client(&self) -> SocketAddr {
        let key = self.key();
        SocketAddr::new(ip(key.client), u16::from_be(key.client_port))
    }

    pub fn to(&self) -> SocketAddr {
        let key = self.key();
        SocketAddr::new(ip(key.vip), u16::from_be(key.vip_port))
    }

    pub fn endpoint(&self) -> Option<EndpointId> {
        EndpointId::new(quarters(self.words[7])[0].into())
    }

    pub fn endpoint_port(&self) -> u16 {
        u16::from_be(quarters(self.words[7])[1])
    }

    pub fn slot(&self) -> Slot {
        Slot(quarters(self.words[7])[2])
    }

    pub fn listener(&self) -> usize {
        quarters(self.words[7])[3].into()
    }
}

impl FlowTable {
    /// Maps the array map `map` of `places` flows.
    pub fn new(map: impl AsFd, places: usize) -> io::Result<Self> {
        let bytes = places * STRIDE * size_of::<AtomicU64>();
        // SAFETY: a new mapping of a descriptor that is open; nothing else is at an address that the kernel chooses.
        let at =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, map.as_fd().as_raw_fd(), 0) };
        match NonNull::new(at.cast()) {
            Some(words) if at != libc::MAP_FAILED => Ok(Self { words, places }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// How many there are.
    pub fn places(&self) -> usize {
        self.places
    }

    fn words(&self, index: u32) -> Option<&[AtomicU64; WORDS]> {
        let index = usize::try_from(index).ok().filter(|&index| index < self.places)?;
        // SAFETY: within the mapping, which lives as long as `self`; the kernel aligns it to pages.
        Some(unsafe { self.words.add(index * STRIDE).cast().as_ref() })
    }

    /// The flow at `index`, if one lives there.
    pub fn get(&self, index: u32) -> Option<Place> {
        let words = self.words(index)?;
        let life = words[0].load(Ordering::Acquire);
        if life & 0xff < UNANSWERED {
            return None;
        }
        let mut read = std::array::from_fn(|i| words[i].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        // Another generation has moved in meanwhile; its answered bit does not matter.
        if words[0].load(Ordering::Relaxed) >> 8 != life >> 8 {
            return None;
        }
        read[0] = life;
        Some(Place { index, words: read })
    }
}

impl Drop for FlowTable {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, of the same length; nothing refers into it beyond `self`.
        unsafe { libc::munmap(self.words.as_ptr().cast(), self.places * STRIDE * size_of::<AtomicU64>()) };
    }
}

fn quarters(word: u64) -> [u16; 4] {
    let b = word.to_le_bytes();
    [[b[0], b[1]], [b[2], b[3]], [b[4], b[5]], [b[6], b[7]]].map(u16::from_le_bytes)
}

fn pair(low: u64, high: u64) -> [u8; 16] {
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}
