//! The function that closes a convolution or a sum.

use serde::{Deserialize, Serialize};

use crate::simd::{Scalar, Simd};

/// A function of one number, applied where a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Activation {
    /// `min(max(x, low), high)`: identity, ReLU and ReLU6 by their bounds.
    Clamp {
        /// Smallest result.
        low: f32,
        /// Largest result.
        high: f32,
    },
    /// `x * min(max(x / 6 + 1/2, 0), 1)`.
    HardSwish,
    /// `min(max(slope * x + offset, 0), 1)`.
    HardSigmoid {
        /// Factor of `x`.
        slope: f32,
        /// Result at zero.
        offset: f32,
    },
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `min(max(round(x / scale), low), high) * scale`, half to even: what a QuantizeLinear and its DequantizeLinear do,
    /// with the bounds counted from the zero point.
    Quantized {
        /// Size of a step.
        scale: f32,
        /// Smallest number of steps.
        low: f32,
        /// Largest number of steps.
        high: f32,
    },
}

impl Activation {
    /// The identity.
    pub const NONE: Self = Self::Clamp { low: f32::NEG_INFINITY, high: f32::INFINITY };
    /// `max(x, 0)`.
    pub const RELU: Self = Self::Clamp { low: 0.0, high: f32::INFINITY };
    /// `min(max(x, 0), 6)`.
    pub const RELU6: Self = Self::Clamp { low: 0.0, high: 6.0 };

    /// Returns its value at `x`.
    pub fn at(self, x: f32) -> f32 {
        let mut v = [x];
        // SAFETY: plain Rust needs no instruction set.
        unsafe { apply::<Scalar, 1>(&mut v, self) };
        v[0]
    }

    /// Returns the bounds of a clamp, those of the identity for another function, which [`close`] is then left with.
    pub(crate) fn bounds(self) -> (f32, f32) {
        match self {
            Self::Clamp { low, high } => (low, high),
            _ => (f32::NEG_INFINITY, f32::INFINITY),
        }
    }

    /// Returns the one function that is this and then `next`, where there is one.
    pub fn then(self, next: Self) -> Option<Self> {
        match (self, next) {
            (Self::NONE, next) => Some(next),
            (Self::Clamp { low, high }, Self::Clamp { low: floor, high: ceiling }) => {
                Some(Self::Clamp { low: low.max(floor).min(ceiling), high: high.max(floor).min(ceiling) })
            }
            // Rounding to steps never reverses an order, so the bounds may be rounded instead of the number before it.
            (Self::Clamp { low, high }, Self::Quantized { scale, low: floor, high: ceiling }) => {
                let steps = |x: f32| (x / scale).round_ties_even().max(floor).min(ceiling);
                Some(Self::Quantized { scale, low: steps(low), high: steps(high) })
            }
            _ => None,
        }
    }
}

/// Applies a function that is not a clamp to `len` numbers just written, a multiple of `V` vectors.
///
/// Kernels clamp while a result is in registers. The longer functions they leave to this, so that not each of their many
/// tiles holds the code of each function.
///
/// # Safety
///
/// The machine has the instructions of `S`, and `len` numbers lie at `at`.
#[inline(always)]
pub(crate) unsafe fn close<S: Simd, const V: usize>(at: *mut f32, len: usize, f: Activation) {
    if matches!(f, Activation::Clamp { .. }) {
        return;
    }
    for i in (0..len).step_by(V * S::LANES) {
        let mut x = [S::splat(0.0); V];
        for (v, x) in x.iter_mut().enumerate() {
            *x = S::load(at.add(i + v * S::LANES));
        }
        apply::<S, V>(&mut x, f);
        for (v, x) in x.iter().enumerate() {
            S::store(at.add(i + v * S::LANES), *x);
        }
    }
}

/// Applies a function to vectors.
///
/// Loops and no closures: a closure that is not inlined has lost the instruction set, and every vector operation in it
/// becomes a call.
///
/// # Safety
///
/// The machine has the instructions of `S`.
#[inline(always)]
pub(crate) unsafe fn apply<S: Simd, const N: usize>(v: &mut [S::V; N], f: Activation) {
    match f {
        Activation::Clamp { low, high } => {
            let (low, high) = (S::splat(low), S::splat(high));
            for x in v {
                *x = S::min(S::max(*x, low), high);
            }
        }
        Activation::HardSwish => {
            for x in v {
                *x = S::mul(*x, hard_sigmoid::<S>(*x, 1.0 / 6.0, 0.5));
            }
        }
        Activation::HardSigmoid { slope, offset } => {
            for x in v {
                *x = hard_sigmoid::<S>(*x, slope, offset);
            }
        }
        Activation::Sigmoid => {
            for x in v {
                *x = S::div(S::splat(1.0), one_plus_exp_neg::<S>(*x));
            }
        }
        Activation::Silu => {
            for x in v {
                *x = S::div(*x, one_plus_exp_neg::<S>(*x));
            }
        }
        Activation::Quantized { scale, low, high } => {
            let (scale, low, high) = (S::splat(scale), S::splat(low), S::splat(high));
            for x in v {
                // A division, as the specification has it: a product with the reciprocal may round to another step.
                *x = S::mul(S::min(S::max(S::round(S::div(*x, scale)), low), high), scale);
            }
        }
    }
}

/// A function over vectors and its gradient, for kernels that are compiled for it.
///
/// # Safety
///
/// The functions need the machine to have the instructions of `S`.
pub(crate) trait Function<S: Simd>: Copy {
    /// Returns its value at `x`.
    unsafe fn at(self, x: S::V) -> S::V;
    /// Returns the gradient by `x`, given that by its value.
    unsafe fn back(self, x: S::V, gradient: S::V) -> S::V;
}

/// Holds numbers between bounds. The gradient passes where a number is between them; what is not a number stays so, and lets
/// it pass.
#[derive(Clone, Copy)]
pub(crate) struct Held<S: Simd> {
    low: S::V,
    high: S::V,
}

impl<S: Simd> Held<S> {
    #[inline(always)]
    pub(crate) unsafe fn between(low: f32, high: f32) -> Self {
        Self { low: S::splat(low), high: S::splat(high) }
    }
}

impl<S: Simd> Function<S> for Held<S> {
    #[inline(always)]
    unsafe fn at(self, x: S::V) -> S::V {
        // The number last: x86-64 returns the second operand where one is not a number.
        S::min(self.high, S::max(self.low, x))
    }
    #[inline(always)]
    unsafe fn back(self, x: S::V, gradient: S::V) -> S::V {
        S::between(x, self.low, self.high, gradient)
    }
}

/// Any function, looked up for each vector.
#[derive(Clone, Copy)]
pub(crate) struct Any(pub(crate) Activation);

impl<S: Simd> Function<S> for Any {
    #[inline(always)]
    unsafe fn at(self, x: S::V) -> S::V {
        let mut v = [x];
        apply::<S, 1>(&mut v, self.0);
        v[0]
    }

    #[inline(always)]
    unsafe fn back(self, x: S::V, gradient: S::V) -> S::V {
        let (zero, one) = (S::splat(0.0), S::splat(1.0));
        match self.0 {
            Activation::Clamp { low, high } => S::between(x, S::splat(low), S::splat(high), gradient),
            Activation::HardSwish => {
                let slope = S::fma(x, S::splat(1.0 / 3.0), S::splat(0.5));
                let within = S::between(x, S::splat(-3.0), S::splat(3.0), S::mul(gradient, slope));
                // From 3 on it is `x`.
                S::add(
                    within,
                    S::between(x, S::splat(const { 3.0_f32.next_down() }), S::splat(f32::INFINITY), gradient),
                )
            }
            Activation::HardSigmoid { slope, offset } => {
                let y = S::fma(x, S::splat(slope), S::splat(offset));
                S::between(y, zero, one, S::mul(gradient, S::splat(slope)))
            }
            Activation::Sigmoid => {
                let y = S::div(one, one_plus_exp_neg::<S>(x));
                S::mul(gradient, S::mul(y, S::fma(S::splat(-1.0), y, one)))
            }
            Activation::Silu => {
                let y = S::div(one, one_plus_exp_neg::<S>(x));
                let slope = S::fma(S::mul(x, y), S::fma(S::splat(-1.0), y, one), y);
                S::mul(gradient, slope)
            }
            // As if it did not round: Bengio et al., arXiv:1308.3432.
            Activation::Quantized { scale, low, high } => {
                S::between(S::div(x, S::splat(scale)), S::splat(low), S::splat(high), gradient)
            }
        }
    }
}

#[inline(always)]
unsafe fn hard_sigmoid<S: Simd>(x: S::V, slope: f32, offset: f32) -> S::V {
    let y = S::fma(x, S::splat(slope), S::splat(offset));
    S::min(S::max(y, S::splat(0.0)), S::splat(1.0))
}

/// Returns `1 + exp(-x)`; the exponential is off by 5e-7 of its value at most, and by `|x|` / 10^7 more where products are not
/// fused.
///
/// With `x = t - n ln 2`, where `n` is whole and `|t| <= ln 2 / 2`, it is `2^n exp(-t)`. The polynomial for `exp(-t)` is exact at
/// zero and meets it at the Chebyshev points of the interval; its relative error is 2e-7.
#[inline(always)]
unsafe fn one_plus_exp_neg<S: Simd>(x: S::V) -> S::V {
    let x = S::min(S::max(x, S::splat(-87.0)), S::splat(87.0));
    let n = S::round(S::mul(x, S::splat(-std::f32::consts::LOG2_E)));
    let t = S::fma(n, S::splat(std::f32::consts::LN_2), x);
    let mut p = S::splat(-0.008_363_203);
    for c in [0.041_875_854, -0.166_665_76, 0.499_993_7, -1.0, 1.0] {
        p = S::fma(p, t, S::splat(c));
    }
    S::add(S::times_pow2(p, n), S::splat(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::tests::most;

    #[test]
    fn exponentials_are_close_everywhere() {
        for i in (-100_000..=100_000).step_by(most(1, 4000)) {
            let x = i as f32 * 1e-3;
            let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
            for isa in crate::Isa::available() {
                let mut y = [x; crate::BLOCK];
                crate::pointwise::run(
                    isa,
                    &mut crate::Threads::new(1),
                    &[x; crate::BLOCK],
                    crate::pointwise::Pointwise::Nothing,
                    Activation::Sigmoid,
                    &mut y,
                );
                // Below -87 the exponential is held, so that no number is too large.
                let off = (f64::from(y[0]) - exact).abs();
                assert!(
                    off <= (5e-7 + 1e-7 * f64::from(x.abs())) * exact || (x < -87.0 && off < 1e-37),
                    "{isa:?} {x}: {} {exact}",
                    y[0]
                );
            }
        }
    }

    #[test]
    fn a_function_and_the_next_equal_both_in_turn() {
        let steps = Activation::Quantized { scale: 0.03, low: -12.0, high: 243.0 };
        let odd = Activation::Clamp { low: -0.1, high: 0.77 };
        for first in [Activation::NONE, Activation::RELU, Activation::RELU6, odd] {
            for next in [Activation::RELU6, odd, steps] {
                let both = first.then(next).unwrap();
                for i in (-2000..2000).step_by(most(1, 100)) {
                    let x = i as f32 * 0.005;
                    assert_eq!(both.at(x), next.at(first.at(x)), "{first:?} {next:?} {x}");
                }
            }
        }
        assert_eq!(Activation::Silu.then(steps), None);
        assert_eq!(steps.then(Activation::RELU), None);
    }
}
