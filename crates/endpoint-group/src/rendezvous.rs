//! Weighted rendezvous hashing (highest random weight: Thaler, Ravishankar 1998; weights by −w / log u: Schindelhauer, Schomaker 2005)
//! in integer arithmetic, so that every architecture agrees.
//!
//! For slot `s` and endpoint `e` a 64-bit draw is read as `u` in (0, 1). The endpoint with the highest `weight / −log2 u` takes the slot;
//! its chance is its weight over the sum of weights. Because a draw depends on nothing but slot and name, adding, removing or
//! re-weighting one endpoint moves exactly the slots that it wins or loses.

use std::{cmp::Ordering, hash::Hasher};

use siphasher::sip::SipHasher13;

use crate::{EndpointId, Name, Slot, flow_hash::KEY_TAIL};

/// A name as a number; endpoints and groups of the same name differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameKey(u64);

impl NameKey {
    /// Key of an endpoint's name.
    pub fn endpoint(name: &Name) -> Self {
        Self::keyed(u64::from_be_bytes(*b"endpoint"), name)
    }

    /// Key of an endpoint group's name.
    pub fn group(name: &Name) -> Self {
        Self::keyed(u64::from_be_bytes(*b"ep-group"), name)
    }

    fn keyed(domain: u64, name: &Name) -> Self {
        let mut hasher = SipHasher13::new_with_keys(domain, KEY_TAIL);
        hasher.write(name.as_str().as_bytes());
        Self(hasher.finish())
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The draw of this name for `slot`: the name times the slot's factor, both halves of the product folded into one.
    ///
    /// One multiplication, as in the hashes built on it (wyhash): a table build makes 65,536 of them for every endpoint.
    pub const fn draw(self, slot: Slot) -> u64 {
        fold(self.0, factor(slot))
    }
}

/// Number `slot + 1` of the SplitMix64 generator with seed 0 (Steele, Lea, Flood 2014), made odd, so that no name is lost in it.
const fn factor(slot: Slot) -> u64 {
    let mut z = (slot.0 as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31) | 1
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the two halves of the product")]
const fn fold(name: u64, factor: u64) -> u64 {
    let product = name as u128 * factor as u128;
    (product >> 64) as u64 ^ product as u64
}

/// Fractional bits of a [`cost`].
pub const COST_BITS: u32 = 44;

/// `−log2(draw / 2^64)` with [`COST_BITS`] fractional bits, at least 1; never grows as `draw` grows.
///
/// The logarithm is interpolated linearly between 1,024 points of each octave; its error is under 2^-22.
pub const fn cost(draw: u64) -> u64 {
    let draw = draw | 1;
    let zeros = draw.leading_zeros();
    let mantissa = draw << zeros;
    let index = ((mantissa >> 53) & 0x3ff) as usize;
    let between = (mantissa >> 33) & 0xf_ffff;
    let low = LOG2[index];
    let fraction = low + (((LOG2[index + 1] - low) * between) >> 20);
    let cost = ((zeros as u64 + 1) << COST_BITS) - fraction;
    if cost == 0 { 1 } else { cost }
}

/// `log2(1 + i / 1024)` with [`COST_BITS`] fractional bits.
static LOG2: [u64; 1025] = log2_points();

const fn log2_points() -> [u64; 1025] {
    let mut points = [0; 1025];
    let mut i = 0;
    while i < 1024 {
        // Binary logarithm digit by digit: squaring doubles the logarithm, an overflow past 2 is the next digit.
        let mut x: u128 = (1 << 63) + ((i as u128) << 53);
        let mut digits = 0u64;
        let mut bit = 0;
        while bit < COST_BITS {
            x = (x * x) >> 63;
            digits <<= 1;
            if x >= 1 << 64 {
                digits |= 1;
                x >>= 1;
            }
            bit += 1;
        }
        points[i] = digits;
        i += 1;
    }
    points[1024] = 1 << COST_BITS;
    points
}

/// One endpoint that can take slots. Weight is an effective weight, > 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Whom a won slot goes to.
    pub id: EndpointId,
    /// Its hashed name.
    pub key: NameKey,
    /// Its effective weight.
    pub weight: u32,
}

/// What a candidate offers for one slot.
#[derive(Clone, Copy)]
pub(crate) struct Bid {
    pub candidate: Candidate,
    draw: u64,
}

impl Bid {
    pub fn new(candidate: Candidate, slot: Slot) -> Self {
        Self { candidate, draw: candidate.key.draw(slot) }
    }

    /// Total order of bids for one slot: weight over cost, compared crosswise to stay in integers (12 + 51 bits); then draw, then name.
    pub fn compare(&self, other: &Self) -> Ordering {
        let mine = u64::from(self.candidate.weight) * cost(other.draw);
        let theirs = u64::from(other.candidate.weight) * cost(self.draw);
        mine.cmp(&theirs).then(self.draw.cmp(&other.draw)).then(self.candidate.key.cmp(&other.candidate.key))
    }
}

/// The place and the value of the highest draw of `keys`, which are not empty; of equal draws the last, which has the highest key.
///
/// In blocks: the highest alone is found without a branch, four at a time, and only the block that has it is searched for its place.
fn highest(keys: &[u64], factor: u64) -> (usize, u64) {
    const BLOCK: usize = 64;
    let (mut at, mut best) = (0, 0);
    for (block, keys) in keys.chunks(BLOCK).enumerate() {
        let mut lanes = [0u64; 4];
        let fours = keys.chunks_exact(4);
        let rest = fours.remainder().iter().map(|&key| fold(key, factor)).max().unwrap_or(0);
        for four in fours {
            for (lane, &key) in lanes.iter_mut().zip(four) {
                *lane = (*lane).max(fold(key, factor));
            }
        }
        let highest = lanes.into_iter().fold(rest, u64::max);
        if highest >= best {
            (at, best) = (block * BLOCK, highest);
        }
    }
    let block = &keys[at..keys.len().min(at + BLOCK)];
    let within = block.iter().rposition(|&key| fold(key, factor) == best);
    (at + within.unwrap_or(0), best)
}

/// Endpoints of one group that can take slots, sorted so that equal weights stand together.
///
/// Among equal weights the highest draw wins without a logarithm, so a slot costs one multiplication per endpoint and one
/// logarithm per distinct weight.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Candidates {
    list: Vec<Candidate>,
    /// The keys of `list` alone, close together: a table build reads them 65,536 times.
    keys: Vec<u64>,
    /// Where each weight begins in `list`, and the end.
    bounds: Vec<usize>,
}

impl Candidates {
    /// Keeps those with weight > 0; the order given has no effect on any choice.
    pub fn new(candidates: impl IntoIterator<Item = Candidate>) -> Self {
        let mut list: Vec<_> = candidates.into_iter().filter(|c| c.weight > 0).collect();
        list.sort_by_key(|c| (c.weight, c.key, c.id));
        let keys = list.iter().map(|c| c.key.get()).collect();
        let mut bounds = vec![0];
        for class in list.chunk_by(|a, b| a.weight == b.weight) {
            bounds.push(bounds[bounds.len() - 1] + class.len());
        }
        Self { list, keys, bounds }
    }

    /// The candidates, by weight, then name key.
    pub fn as_slice(&self) -> &[Candidate] {
        &self.list
    }

    /// Who takes `slot`; `None` without candidates.
    pub fn winner(&self, slot: Slot) -> Option<EndpointId> {
        self.best(slot).map(|bid| bid.candidate.id)
    }

    pub(crate) fn best(&self, slot: Slot) -> Option<Bid> {
        let factor = factor(slot);
        let best_of_class = self.bounds.windows(2).map(|class| {
            let keys = &self.keys[class[0]..class[1]];
            let (index, draw) = highest(keys, factor);
            Bid { candidate: self.list[class[0] + index], draw }
        });
        best_of_class.max_by(Bid::compare)
    }

    /// All candidates, the winner of `slot` first, then the order in which they would inherit it.
    pub fn ranking(&self, slot: Slot) -> impl Iterator<Item = EndpointId> + use<> {
        let mut bids: Vec<_> = self.list.iter().map(|&candidate| Bid::new(candidate, slot)).collect();
        bids.sort_by(|a, b| b.compare(a));
        bids.into_iter().map(|bid| bid.candidate.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_the_negative_binary_logarithm() {
        assert_eq!(cost(1 << 63), 1 << COST_BITS);
        assert_eq!(cost(1 << 62), 2 << COST_BITS);
        assert_eq!(cost(0), 64 << COST_BITS);
        for draw in [3u64, 0x1234_5678, 0x8000_0001_0000_0000, 0xc000_0000_0000_0000, u64::MAX - 7, u64::MAX] {
            let exact = 64.0 - (draw as f64).log2();
            let ours = cost(draw) as f64 / (1u64 << COST_BITS) as f64;
            assert!((exact - ours).abs() < 1.0 / f64::from(1 << 21), "{draw:x}: {exact} {ours}");
        }
    }

    #[test]
    fn cost_never_grows_with_the_draw() {
        let mut last = u64::MAX;
        for step in 0..=1_000_000u64 {
            let now = cost(step * (u64::MAX / 1_000_000));
            assert!(now <= last);
            last = now;
        }
        // Around every interpolation point of the top octave.
        for point in 0..1024u64 {
            let at = (1 << 63) + (point << 53);
            assert!(cost(at + 1) <= cost(at) && cost(at) <= cost(at - 1));
        }
    }
}
