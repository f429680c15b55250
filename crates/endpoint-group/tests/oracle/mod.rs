//! The rules of choice once more, written from the documents alone: slow, plain, and without a line of the crate's code.
//!
//! No weight classes, no tables, no early exits: every endpoint of the group is scored and the list is sorted.

use std::{cmp::Ordering, sync::OnceLock};

use endpoint_group::Health;

use crate::common::{GroupSpec, ListenerSpec, Min};

/// SipHash-1-3 as published: one round a word, three at the end.
fn siphash13(key: [u64; 2], bytes: &[u8]) -> u64 {
    fn round(v: &mut [u64; 4]) {
        v[0] = v[0].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[2] = v[2].rotate_left(32);
    }
    let mut v = [
        key[0] ^ u64::from_be_bytes(*b"somepseu"),
        key[1] ^ u64::from_be_bytes(*b"dorandom"),
        key[0] ^ u64::from_be_bytes(*b"lygenera"),
        key[1] ^ u64::from_be_bytes(*b"tedbytes"),
    ];
    let mut padded = bytes.to_vec();
    while padded.len() % 8 != 7 {
        padded.push(0);
    }
    padded.push(bytes.len().to_le_bytes()[0]);
    for word in padded.chunks(8) {
        let word = u64::from_le_bytes(word.try_into().unwrap());
        v[3] ^= word;
        round(&mut v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    (0..3).for_each(|_| round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn key(domain: &[u8; 8], name: &str) -> u64 {
    siphash13([u64::from_be_bytes(*domain), u64::from_be_bytes(*b"landfall")], name.as_bytes())
}

/// The key times the slot's number of the SplitMix64 sequence that starts at 0, made odd; the product's halves, one upon the other.
fn draw(key: u64, slot: u16) -> u64 {
    let state = (u128::from(slot) + 1) * 0x9e37_79b9_7f4a_7c15 % (1 << 64);
    let mix = |z: u64, shift: u32, factor: u64| (z ^ (z >> shift)).wrapping_mul(factor);
    let z = mix(u64::try_from(state).unwrap(), 30, 0xbf58_476d_1ce4_e5b9);
    let z = mix(z, 27, 0x94d0_49bb_1331_11eb);
    let factor = (z ^ (z >> 31)) | 1;
    let words = (u128::from(key) * u128::from(factor)).to_le_bytes();
    let half = |at: usize| u64::from_le_bytes(words[at..at + 8].try_into().unwrap());
    half(0) ^ half(8)
}

/// `log2(1 + i / 1024)` with 44 fractional bits, rounded down.
///
/// By ln(1 + x) = 2 artanh(x / (2 + x)) as a power series with 80 fractional bits, over the same for ln 2.
fn log2_point(i: u64) -> u64 {
    fn artanh(numerator: u128, denominator: u128) -> u128 {
        let mut term = (numerator << 80) / denominator;
        let mut sum = 0;
        for odd in (1..).step_by(2) {
            if term == 0 {
                break;
            }
            sum += term / odd;
            term = term * numerator / denominator * numerator / denominator;
        }
        sum
    }
    u64::try_from((artanh(i.into(), 2048 + u128::from(i)) << 44) / artanh(1, 3)).unwrap()
}

/// `−log2(draw / 2^64)` with 44 fractional bits, by the definition beside the golden vectors.
pub fn cost(draw: u64) -> u64 {
    static POINTS: OnceLock<Vec<u64>> = OnceLock::new();
    let points = POINTS.get_or_init(|| (0..=1024).map(log2_point).collect());
    let odd = draw | 1;
    let octave = u64::from(odd.ilog2());
    // The mantissa as a fraction of 1: 10 bits choose the interval, 20 the place in it, the rest is dropped.
    let fraction = (u128::from(odd) << 64 >> octave) & u128::from(u64::MAX);
    let thirty = u64::try_from(fraction >> 34).unwrap();
    let (interval, place) = (usize::try_from(thirty >> 20).unwrap(), thirty & 0xf_ffff);
    let rise = points[interval + 1] - points[interval];
    let log = (octave << 44) + points[interval] + rise * place / (1 << 20);
    ((64 << 44) - log).max(1)
}

struct Contender<'a> {
    name: &'a str,
    key: u64,
    weight: u32,
}

struct OpenGroup<'a> {
    key: u64,
    /// Thousandths of a percent.
    dial: u32,
    ramping: bool,
    contenders: Vec<Contender<'a>>,
}

/// One listener's answers.
pub struct Oracle<'a> {
    pub stage: &'static str,
    groups: Vec<OpenGroup<'a>>,
}

/// How much of a group counts.
#[derive(Clone, Copy, PartialEq)]
enum Count {
    /// Healthy ones, as far as the ramp has come.
    AsRamped,
    /// Healthy ones, held and ramping included, in full.
    HeldInFull,
    /// Whatever the health.
    All,
}

fn weights(group: &GroupSpec, count: Count) -> Vec<Contender<'_>> {
    let mut list = Vec::new();
    for e in &group.endpoints {
        let weight = match count {
            Count::AsRamped if e.health == Health::Healthy => u32::from(e.weight) * e.ramp,
            Count::HeldInFull if e.health == Health::Healthy => u32::from(e.weight) * 10,
            Count::All => u32::from(e.weight) * 10,
            _ => 0,
        };
        if weight > 0 {
            list.push(Contender { name: &e.name, key: key(b"endpoint", &e.name), weight });
        }
    }
    list
}

fn eligible(group: &GroupSpec, count: Count) -> bool {
    let weighted = group.endpoints.iter().filter(|e| e.weight > 0).count();
    let needed = match group.min {
        Min::Count(n) => f64::from(n),
        // A float on purpose: the crate rounds up in integers.
        Min::Percent(p) => (weighted as f64 * f64::from(p) / 100.0 - 1e-9).ceil().max(1.0),
    };
    weights(group, count).len() as f64 >= needed
}

impl<'a> Oracle<'a> {
    pub fn new(listener: &'a ListenerSpec) -> Self {
        let open = |stage, count: Count, dial: &dyn Fn(&GroupSpec) -> u32| {
            let ramp = |g: &GroupSpec| if count == Count::AsRamped { g.ramp } else { 10 };
            let mut groups = Vec::new();
            for g in &listener.groups {
                let dial = dial(g);
                if dial > 0 && eligible(g, count) {
                    let (key, contenders) = (key(b"ep-group", &g.name), weights(g, count));
                    groups.push((OpenGroup { key, dial, ramping: ramp(g) < 10, contenders }, ramp(g)));
                }
            }
            // Whatever its own dial, the last takes all that reaches it, as far as it has come back.
            if let Some((last, ramp)) = groups.last_mut() {
                last.dial = 100_000 * *ramp / 10;
            }
            let groups = groups.into_iter().map(|(group, _)| group).collect();
            Self { stage, groups }
        };
        let stages = [
            open("eligible", Count::AsRamped, &|g| g.dial * g.ramp / 10),
            open("held_in_full", Count::HeldInFull, &|g| g.dial),
            open("dials_ignored", Count::HeldInFull, &|_| 100_000),
        ];
        if let Some(stage) = stages.into_iter().find(|s| !s.groups.is_empty()) {
            return stage;
        }
        let weighted: Vec<_> = listener.endpoints().filter(|e| e.weight > 0).collect();
        let refuse = |stage| Self { stage, groups: Vec::new() };
        if weighted.is_empty() {
            refuse("refuse_drained")
        } else if weighted.iter().any(|e| e.health == Health::Unknown) {
            refuse("refuse_not_ready")
        } else if !listener.fail_open {
            refuse("refuse_fail_closed")
        } else {
            let first = listener.groups.iter().find(|g| g.endpoints.iter().any(|e| e.weight > 0)).unwrap();
            let only = OpenGroup { key: 0, dial: 100_000, ramping: false, contenders: weights(first, Count::All) };
            Self { stage: "fail_open", groups: vec![only] }
        }
    }

    fn accepts(group: &OpenGroup<'a>, slot: u16) -> bool {
        // The top 32 bits as a fraction of 1, in whole thousandths of a percent, lie under the dial.
        let fraction = u128::from(draw(group.key, slot) >> 32) * 100_000 / (1 << 32);
        fraction < u128::from(group.dial)
    }

    /// The groups in the order in which they would take the slot if those before were not there.
    fn order(&self, slot: u16) -> Vec<usize> {
        let all: Vec<usize> = (0..self.groups.len()).collect();
        let rest = all.iter().rev().find(|&&i| !self.groups[i].ramping).or(all.last()).copied();
        let mut order: Vec<usize> = all.iter().copied().filter(|&i| Self::accepts(&self.groups[i], slot)).collect();
        for i in rest.into_iter().chain(all.iter().rev().copied()) {
            if !order.contains(&i) {
                order.push(i);
            }
        }
        order
    }

    fn ranked(group: &OpenGroup<'a>, slot: u16) -> Vec<&'a str> {
        let mut list: Vec<_> = group.contenders.iter().map(|c| (c, draw(c.key, slot))).collect();
        list.sort_by(|(a, a_draw), (b, b_draw)| {
            // Highest weight / cost first; a tie goes to the higher draw, then to the higher key.
            let a_score = u128::from(a.weight) * u128::from(cost(*b_draw));
            let b_score = u128::from(b.weight) * u128::from(cost(*a_draw));
            match b_score.cmp(&a_score) {
                Ordering::Equal => (*b_draw, b.key).cmp(&(*a_draw, a.key)),
                unequal => unequal,
            }
        });
        list.into_iter().map(|(c, _)| c.name).collect()
    }

    /// Every endpoint in the order in which it is tried; the first is the choice.
    pub fn ranking(&self, slot: u16) -> Vec<&'a str> {
        self.order(slot).into_iter().flat_map(|i| Self::ranked(&self.groups[i], slot)).collect()
    }

    pub fn choose(&self, slot: u16) -> Option<&'a str> {
        let own = *self.order(slot).first()?;
        Self::ranked(&self.groups[own], slot).first().copied()
    }
}
