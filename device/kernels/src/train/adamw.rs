//! A step of AdamW over parameters, their gradients and moments, in one pass.
//!
//! # Source
//!
//! Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, arXiv:1711.05101, as PyTorch computes it.

use crate::exchange::Shared;
use crate::simd::{Simd, dispatch};
use crate::{BLOCK, Isa, Threads};

/// What a step needs to know.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Learning rate.
    pub rate: f32,
    /// Weight decay, times the rate.
    pub decay: f32,
    /// Weight of the past in the first and the second moment.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Which step it is, from 1.
    pub count: u64,
    /// What the gradients are multiplied with first, as of clipping.
    pub scale: f32,
}

/// Moves `parameters` by their `gradient` and updates both moments; all of one length, a multiple of [`BLOCK`].
///
/// # Panics
///
/// If a length does not fit.
pub fn adamw(
    isa: Isa,
    threads: &mut Threads,
    step: &Step,
    parameters: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let len = parameters.len();
    assert!(len.is_multiple_of(BLOCK) && gradient.len() == len && first.len() == len && second.len() == len);
    assert!(isa.is_available());
    let count = i32::try_from(step.count).unwrap_or(i32::MAX);
    let bias = step.betas.map(|b| 1.0 - f64::from(b).powi(count));
    let factors = Factors {
        step,
        keep: 1.0 - step.rate * step.decay,
        rate: (f64::from(step.rate) / bias[0]) as f32,
        root: (1.0 / bias[1].sqrt()) as f32,
    };
    let [parameters, first, second] = [parameters, first, second].map(Shared::new);
    threads.split(len / BLOCK, GRAIN, 0, &|blocks, _| {
        let range = blocks.start * BLOCK..blocks.end * BLOCK;
        let job =
            Job { factors: &factors, parameters, gradient: &gradient[range.clone()], first, second, at: range.start };
        // SAFETY: the machine has the instruction set; lengths are checked above; the threads' ranges are disjoint.
        unsafe { dispatch!(isa, run_part, job, Job<'_>) }
    });
}

struct Factors<'a> {
    step: &'a Step,
    /// What weight decay leaves.
    keep: f32,
    /// The rate over the first moment's bias.
    rate: f32,
    /// One over the root of the second moment's bias.
    root: f32,
}

struct Job<'a> {
    factors: &'a Factors<'a>,
    parameters: Shared<'a, f32>,
    gradient: &'a [f32],
    first: Shared<'a, f32>,
    second: Shared<'a, f32>,
    at: usize,
}

#[inline(always)]
unsafe fn run_part<S: Simd, const V: usize, const R: usize>(job: Job<'_>) {
    let f = job.factors;
    let [b1, b2] = f.step.betas;
    let (keep, eps, root, rate) = (S::splat(f.keep), S::splat(f.step.eps), S::splat(f.root), S::splat(-f.rate));
    let (c1, c2) = (S::splat(1.0 - b1), S::splat(1.0 - b2));
    let (b1, b2) = (S::splat(b1), S::splat(b2));
    let scale = S::splat(f.step.scale);
    let (p, m, v) = (job.parameters.at(job.at), job.first.at(job.at), job.second.at(job.at));
    for i in (0..job.gradient.len()).step_by(S::LANES) {
        let g = S::mul(S::load(job.gradient.as_ptr().add(i)), scale);
        let first = S::fma(b1, S::load(m.add(i)), S::mul(c1, g));
        let second = S::fma(b2, S::load(v.add(i)), S::mul(S::mul(c2, g), g));
        S::store(m.add(i), first);
        S::store(v.add(i), second);
        let moved = S::div(first, S::fma(S::sqrt(second), root, eps));
        S::store(p.add(i), S::fma(rate, moved, S::mul(S::load(p.add(i)), keep)));
    }
}

/// Blocks below which a thread is not worth waking.
const GRAIN: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::conv::tests::{cases, most, numbers};

    /// PyTorch 2.15: `w = tensor([[1., -2.]]); b = tensor([0.5])`, `AdamW([w, b], lr=0.1, weight_decay=0.01)` for `w`,
    /// 0 for `b`; loss `(w**2).sum() + 3 * b.sum()`, two steps. See `device/kernels/tests/golden/adamw.py`.
    #[test]
    fn two_steps_equal_pytorch() {
        for isa in Isa::available() {
            let mut threads = Threads::new(1);
            let fresh = || ([0.0; BLOCK], [0.0; BLOCK]);
            let (mut w, mut b) = ([0.0; BLOCK], [0.0; BLOCK]);
            (w[0], w[1], b[0]) = (1.0, -2.0, 0.5);
            let (mut of_w, mut of_b) = (fresh(), fresh());
            for count in 1..3 {
                let step = Step { rate: 0.1, decay: 0.01, betas: [0.9, 0.999], eps: 1e-8, count, scale: 1.0 };
                let gradient = w.map(|w| 2.0 * w);
                adamw(isa, &mut threads, &step, &mut w, &gradient, &mut of_w.0, &mut of_w.1);
                let (step, gradient) = (Step { decay: 0.0, ..step }, [3.0; BLOCK]);
                adamw(isa, &mut threads, &step, &mut b, &gradient, &mut of_b.0, &mut of_b.1);
            }
            for (found, expected) in [w[0], w[1], b[0]].iter().zip(GOLDEN) {
                assert!((found - expected).abs() < 2e-6, "{found} {expected}");
            }
            assert_eq!(w[2..], [0.0; BLOCK - 2], "padding stays");
        }
    }

    const GOLDEN: [f32; 3] = [0.798_519, -1.796_272_6, 0.3];

    proptest! {
        #![proptest_config(cases(256, 4))]

        #[test]
        fn adamw_is_that_of_the_paper(seed: u64, blocks in 1..most(2000, 9)) {
            let step = Step { rate: 0.1, decay: 0.01, betas: [0.9, 0.999], eps: 1e-8, count: 3, scale: 0.5 };
            let len = blocks * crate::BLOCK;
            let (p, g, m) = (numbers(seed, len), numbers(seed ^ 1, len), numbers(seed ^ 2, len));
            let v: Vec<f32> = numbers(seed ^ 3, len).iter().map(|v| v.abs()).collect();
            for isa in Isa::available() {
                let (mut p2, mut m2, mut v2) = (p.clone(), m.clone(), v.clone());
                adamw(isa, &mut Threads::new(2), &step, &mut p2, &g, &mut m2, &mut v2);
                for i in 0..len {
                    let [p, g, m, v] = [p[i], g[i] / 2.0, m[i], v[i]].map(f64::from);
                    let (m, v) = (0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g);
                    let root = (v / (1.0 - 0.999_f64.powi(3))).sqrt() + 1e-8;
                    let p = p * (1.0 - 0.1 * 0.01) - 0.1 * m / (1.0 - 0.9_f64.powi(3)) / root;
                    for (found, expected) in [(p2[i], p), (m2[i], m), (v2[i], v)] {
                        prop_assert!((f64::from(found) - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{}", isa.name());
                    }
                }
            }
        }
    }
}
