//! Numbers that are the same for the same seed, on every machine: for simulated lines and disks.
//!
//! # Source
//!
//! Steele et al., *Fast splittable pseudorandom number generators*, OOPSLA 2014 (SplitMix64).

/// A sequence of numbers.
#[derive(Debug, Clone)]
pub struct Random(u64);

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    /// Begins a sequence; different places of one run take different `at`.
    pub fn new(seed: u64, at: u64) -> Self {
        Self((seed ^ at.wrapping_mul(0xd1b5_4a32_d192_ed03)).wrapping_add(GAMMA))
    }

    /// Returns the next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `limit`, or 0 if that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number().checked_rem(limit).unwrap_or(0)
    }
}
