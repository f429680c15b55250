//! Numbers without a pattern that follow from `hash_seed`: who does not know it cannot tell which addresses meet in the program's tables.

/// What the place of a flow, and the line of a denied address, are computed with.
pub(super) fn place_keys(seed: u64) -> [u64; 10] {
    let mut state = seed;
    std::array::from_fn(|_| split_mix(&mut state))
}

/// The next number without a pattern (`SplitMix64`; Steele, Lea and Flood, 2014).
pub(super) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
