//! The discrete Fourier transform, as far as tract asks for it, in place of the crate rustfft.
//!
//! tract links that crate for two operators that no network of pictures has (DFT, STFT), and its code for every length and
//! instruction set is a twelfth of `graftd`. This one is plain: `n * (sum of the prime factors of n)` steps. Names and
//! results are those of rustfft 6; `[patch.crates-io]` in the workspace's `Cargo.toml` puts it in place.

use std::f64::consts::TAU;
use std::fmt::Debug;

pub use num_complex;
use num_complex::Complex;
pub use num_traits;
use num_traits::{FromPrimitive, Signed, Zero};

/// A number that can be transformed: `f32` or `f64`.
pub trait FftNum: Copy + FromPrimitive + Signed + Sync + Send + Debug + 'static {}

impl<T: Copy + FromPrimitive + Signed + Sync + Send + Debug + 'static> FftNum for T {}

/// The sign of the exponent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FftDirection {
    /// Negative.
    Forward,
    /// Positive. Nothing is divided by the length.
    Inverse,
}

/// Makes transforms.
#[derive(Debug, Clone, Default)]
pub struct FftPlanner;

/// A transform of one length.
#[derive(Debug, Clone)]
pub struct Fft<T> {
    len: usize,
    /// `e^(-+ 2 pi i k / len)` for each `k`.
    roots: Vec<Complex<T>>,
}

impl FftPlanner {
    /// Returns a planner.
    pub fn new() -> Self {
        Self
    }

    /// Returns the transform of a length.
    pub fn plan_fft<T: FftNum>(&mut self, len: usize, direction: FftDirection) -> Fft<T> {
        let sign = match direction {
            FftDirection::Forward => -1.0,
            FftDirection::Inverse => 1.0,
        };
        let number = |v: f64| T::from_f64(v).unwrap_or_else(T::zero);
        let root = |k: usize| {
            let angle = sign * TAU * k as f64 / len as f64;
            Complex::new(number(angle.cos()), number(angle.sin()))
        };
        Fft { len, roots: (0..len).map(root).collect() }
    }

    /// Returns the forward transform of a length.
    pub fn plan_fft_forward<T: FftNum>(&mut self, len: usize) -> Fft<T> {
        self.plan_fft(len, FftDirection::Forward)
    }
}

impl<T: FftNum> Fft<T> {
    /// Transforms each run of the length in `buffer`.
    ///
    /// # Panics
    ///
    /// If the buffer is no whole number of runs.
    pub fn process(&self, buffer: &mut [Complex<T>]) {
        if self.len == 0 {
            return;
        }
        assert!(buffer.len().is_multiple_of(self.len), "{} numbers for runs of {}", buffer.len(), self.len);
        for run in buffer.chunks_exact_mut(self.len) {
            let input = run.to_vec();
            self.transform(&input, 1, run);
        }
    }

    /// Transforms every `stride`-th number of `input`, as many as `output` has.
    ///
    /// # Source
    ///
    /// Cooley and Tukey, *An algorithm for the machine calculation of complex Fourier series*, 1965.
    fn transform(&self, input: &[Complex<T>], stride: usize, output: &mut [Complex<T>]) {
        let len = output.len();
        if len == 1 {
            output[0] = input[0];
            return;
        }
        let radix = (2..).take_while(|f| f * f <= len).find(|f| len.is_multiple_of(*f)).unwrap_or(len);
        let part = len / radix;
        for (i, output) in output.chunks_exact_mut(part).enumerate() {
            self.transform(&input[i * stride..], stride * radix, output);
        }
        let step = self.len / len;
        let mut column = vec![Complex::zero(); radix];
        for k in 0..part {
            for (i, value) in column.iter_mut().enumerate() {
                *value = output[i * part + k] * self.roots[i * k * step];
            }
            for j in 0..radix {
                let term = |(i, value): (usize, &Complex<T>)| *value * self.roots[i * j % radix * part * step];
                output[j * part + k] = column.iter().enumerate().map(term).fold(Complex::zero(), |sum, v| sum + v);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_are_those_of_the_definition() {
        for len in (1..40).chain([64, 97, 210, 256]) {
            let numbers: Vec<Complex<f64>> =
                (0..2 * len).map(|i| Complex::new((i * 7 % 11) as f64 - 5.0, (i * i % 13) as f64 - 6.0)).collect();
            for (direction, sign) in [(FftDirection::Forward, -1.0), (FftDirection::Inverse, 1.0)] {
                let mut found = numbers.clone();
                FftPlanner::new().plan_fft(len, direction).process(&mut found);
                let mut single: Vec<Complex<f32>> =
                    numbers.iter().map(|v| Complex::new(v.re as f32, v.im as f32)).collect();
                FftPlanner::new().plan_fft(len, direction).process(&mut single);
                for (at, found) in found.iter().enumerate() {
                    let run = &numbers[at / len * len..][..len];
                    let term = |(n, v): (usize, &Complex<f64>)| {
                        *v * Complex::from_polar(1.0, sign * TAU * ((n * (at % len)) % len) as f64 / len as f64)
                    };
                    let expected: Complex<f64> = run.iter().enumerate().map(term).sum();
                    assert!((found - expected).norm() < 1e-10 * len as f64, "{at} of {len}");
                    let single = Complex::new(f64::from(single[at].re), f64::from(single[at].im));
                    assert!((single - expected).norm() < 1e-5 * len as f64, "{at} of {len} in single precision");
                }
            }
        }
    }

    #[test]
    fn nothing_is_transformed_to_nothing() {
        FftPlanner::new().plan_fft_forward::<f32>(0).process(&mut []);
    }

    #[test]
    #[should_panic(expected = "3 numbers for runs of 2")]
    fn a_part_of_a_run_is_refused() {
        FftPlanner::new().plan_fft_forward(2).process(&mut [Complex::new(0f32, 0.0); 3]);
    }
}
