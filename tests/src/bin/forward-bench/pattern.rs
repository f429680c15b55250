//! A stream whose bytes say where they belong, so that a missing, doubled or misplaced stretch is seen at little cost.

/// Bytes written or read by one call.
pub const CHUNK: usize = 256 << 10;
/// The stream repeats after this many bytes: a prime, so that no buffer size hides a shift.
const PERIOD: usize = 262_139;
/// How much of each end of what was read is looked at. Looking at all would cost more than some subjects do.
const LOOKED_AT: usize = 64;

/// The repeating stream.
pub struct Pattern(Vec<u8>);

impl Pattern {
    pub fn new() -> Self {
        let mut random = fastrand::Rng::with_seed(7);
        let period: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(PERIOD).collect();
        Self(period.iter().copied().cycle().take(PERIOD + CHUNK).collect())
    }

    /// The chunk that begins at `position` of the stream.
    pub fn at(&self, position: usize) -> &[u8] {
        let begin = position % PERIOD;
        &self.0[begin..begin + CHUNK]
    }

    /// Whether `bytes`, read at `position`, are that part of the stream, by a look at both ends.
    pub fn agrees(&self, position: usize, bytes: &[u8]) -> bool {
        let expected = &self.at(position)[..bytes.len()];
        let looked_at = LOOKED_AT.min(bytes.len());
        let tail = bytes.len() - looked_at;
        bytes[..looked_at] == expected[..looked_at] && bytes[tail..] == expected[tail..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_stream_does_not_agree() {
        let pattern = Pattern::new();
        let bytes = pattern.at(1_000_000).to_vec();
        assert!(pattern.agrees(1_000_000, &bytes));
        assert!(!pattern.agrees(1_000_001, &bytes) && !pattern.agrees(1_000_000 - CHUNK, &bytes));
    }
}
