//! Numbers drawn from a name, for tests: as `draw.py` has them.

/// FNV-1a.
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// Numbers of [0, 1): as `draw` of `draw.py`.
pub(crate) fn draw(name: &str, len: usize) -> Vec<f64> {
    let start = hash(name);
    let number = |i: usize| {
        let mut x = start.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 40) as f64 / f64::from(1 << 24)
    };
    (0..len).map(number).collect()
}
