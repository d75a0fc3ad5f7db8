//! The rate of each step, and what else AdamW is told.
//!
//! # Source
//!
//! Loshchilov and Hutter, the cosine of *SGDR*, arXiv:1608.03983, without restarts.

use graft_kernels::train::Step;

/// Returns the step of AdamW that follows `done` others, with the usual weights of the past.
pub(crate) fn adamw(rate: f64, decay: f64, done: u64) -> Step {
    Step { rate: rate as f32, decay: decay as f32, betas: [0.9, 0.999], eps: 1e-8, count: done + 1, scale: 1.0 }
}

/// Returns the rate of a step: a line up over `warmup` steps, then half a cosine down to zero at `total`.
pub(crate) fn cosine(peak: f64, step: u64, warmup: u64, total: u64) -> f64 {
    if step < warmup {
        return peak * (step + 1) as f64 / warmup as f64;
    }
    let way = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
    peak * 0.5 * (1.0 + (std::f64::consts::PI * way.min(1.0)).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_in_a_line_and_falls_in_a_cosine() {
        let rates: Vec<f64> = (0..=6).map(|s| cosine(1.0, s, 2, 6)).collect();
        let expected = [0.5, 1.0, 1.0, 0.853_553, 0.5, 0.146_447, 0.0];
        for (found, expected) in rates.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{rates:?}");
        }
    }
}
