//! Functions of one place at a time on bytes: sums, products by channel, tables, and the way to and from numbers.

use super::conv::To;
use super::simd::{Bytes, dispatch};
use super::{Grid, Output, Steps, bound};
use crate::activation::{Activation, apply};
use crate::simd::Simd;
use crate::{BLOCK, Isa, Threads};

/// What is computed of each place.
#[derive(Debug, Clone, Copy)]
pub enum Pointwise<'a> {
    /// `activation(a + b)`, of bytes of two grids.
    Add {
        /// The first operand and its grid.
        a: (&'a [u8], Grid),
        /// The second, of the same shape.
        b: (&'a [u8], Grid),
        /// The function of the sum.
        activation: Activation,
    },
    /// `a * b[channel]`.
    Scale {
        /// The first operand and its grid.
        a: (&'a [u8], Grid),
        /// A factor for each channel, `[padded(c)]`, and its grid.
        b: (&'a [u8], Grid),
    },
    /// The bytes themselves.
    Bytes(&'a [u8], Grid),
    /// Numbers to be rounded.
    Floats(&'a [f32]),
}

/// Computes the operation and rounds it to steps if bytes are to be written.
///
/// # Panics
///
/// If a length does not fit, or bytes are to be written and there are no steps.
pub fn run(isa: Isa, threads: &mut Threads, operation: Pointwise<'_>, steps: Option<Steps>, output: &mut Output<'_>) {
    let len = output.len();
    assert!(len.is_multiple_of(BLOCK) && isa.is_available());
    assert!(steps.is_some() == matches!(output, Output::Bytes(_)), "bytes have steps and numbers have none");
    let grain = match operation {
        Pointwise::Add { a, b, .. } => {
            assert!(a.0.len() == len && b.0.len() == len);
            BLOCK
        }
        Pointwise::Scale { a, b } => {
            assert!(a.0.len() == len && b.0.len().is_multiple_of(BLOCK) && !b.0.is_empty());
            assert!(len.is_multiple_of(b.0.len()));
            b.0.len()
        }
        Pointwise::Bytes(a, _) => {
            assert!(a.len() == len);
            BLOCK
        }
        Pointwise::Floats(a) => {
            assert!(a.len() == len);
            BLOCK
        }
    };
    let to = To::new(output);
    threads.split(len, grain, 0, &|range, _| {
        let job = Job { operation, steps, range, to };
        // SAFETY: the machine has the instruction set; lengths are checked above; the threads' ranges are disjoint.
        unsafe { dispatch!(isa, run_part, &job, &Job<'_>) }
    });
}

/// Replaces every byte by what a table has for it.
///
/// # Panics
///
/// If the lengths differ.
pub fn look_up(threads: &mut Threads, table: &[u8; 256], input: &[u8], output: &mut [u8]) {
    assert!(input.len() == output.len());
    let to = crate::exchange::Shared::new(output);
    threads.split(input.len(), BLOCK, 0, &|range, _| {
        for (i, byte) in range.clone().zip(&input[range]) {
            // SAFETY: within the slice, and the threads' ranges are disjoint.
            unsafe { *to.at(i) = table[usize::from(*byte)] };
        }
    });
}

/// Rounds planes of numbers, `[c, h, w]` with up to four channels, to bytes with the channels of a pixel together,
/// `[h, w, 4]`.
///
/// # Panics
///
/// If a length does not fit.
pub fn weave(isa: Isa, threads: &mut Threads, planes: &[f32], channels: usize, steps: Steps, output: &mut [u8]) {
    assert!((1..=4).contains(&channels) && planes.len().is_multiple_of(channels));
    let pixels = planes.len() / channels;
    assert!(output.len() >= pixels * 4 && isa.is_available());
    let to = crate::exchange::Shared::new(output);
    threads.split(pixels, BLOCK, 0, &|range, _| {
        let weave = Weave { planes, pixels, channels, steps, range, to };
        // SAFETY: the machine has the instruction set; lengths are checked above; the threads' ranges are disjoint.
        unsafe { dispatch!(isa, weave_part, &weave, &Weave<'_>) }
    });
}

struct Weave<'a> {
    planes: &'a [f32],
    pixels: usize,
    channels: usize,
    steps: Steps,
    range: std::ops::Range<usize>,
    to: crate::exchange::Shared<'a, u8>,
}

#[inline(always)]
unsafe fn weave_part<S: Bytes, const V: usize, const R: usize>(job: &Weave<'_>) {
    // The planes of channels that are not there are read from the first.
    let plane = |c: usize| job.planes.as_ptr().add(if c < job.channels { c * job.pixels } else { 0 });
    let (a, b, c, d) = (plane(0), plane(1), plane(2), plane(3));
    let (scale, span) = (S::F::splat(job.steps.scale), job.steps.span());
    let mut at = job.range.start;
    while at + S::LANES <= job.range.end {
        let load = |p: *const f32| bound::<S>(S::F::div(S::F::load(p.add(at)), scale), job.steps);
        S::store_pixels(job.to.at(at * 4), [load(a), load(b), load(c), load(d)], span);
        at += S::LANES;
    }
    while at < job.range.end {
        let load = |p: *const f32| (*p.add(at) / job.steps.scale).max(job.steps.low).min(job.steps.high);
        let pixel = [load(a), load(b), load(c), load(d)];
        crate::simd::Scalar::store_pixels(job.to.at(at * 4), pixel, span);
        at += 1;
    }
}

struct Job<'a> {
    operation: Pointwise<'a>,
    steps: Option<Steps>,
    range: std::ops::Range<usize>,
    to: To<'a>,
}

#[inline(always)]
unsafe fn run_part<S: Bytes, const V: usize, const R: usize>(job: &Job<'_>) {
    let range = job.range.clone();
    let zero = |grid: Grid| S::F::splat(-f32::from(grid.zero));
    match job.operation {
        Pointwise::Add { a, b, activation } => {
            for i in range.step_by(S::LANES) {
                let x = a.1.numbers::<S>(a.0.as_ptr().add(i));
                let y = b.1.numbers::<S>(b.0.as_ptr().add(i));
                let mut sum = [S::F::add(x, y)];
                apply::<S::F, 1>(&mut sum, activation);
                write::<S>(job, i, sum[0]);
            }
        }
        Pointwise::Scale { a, b } => {
            // The product of two whole numbers is exact; what it is worth is multiplied once, as in QLinearMul.
            let unit = a.1.scale * b.1.scale;
            let unit = S::F::splat(job.steps.map_or(unit, |s| unit / s.scale));
            let channels = b.0.len();
            for pixel in range.step_by(channels) {
                for c in (0..channels).step_by(S::LANES) {
                    let x = S::F::add(S::load_bytes(a.0.as_ptr().add(pixel + c)), zero(a.1));
                    let y = S::F::add(S::load_bytes(b.0.as_ptr().add(c)), zero(b.1));
                    let product = S::F::mul(S::F::mul(x, y), unit);
                    job.to.write::<S>(pixel + c, product, job.steps);
                }
            }
        }
        Pointwise::Bytes(a, grid) => {
            for i in range.step_by(S::LANES) {
                write::<S>(job, i, grid.numbers::<S>(a.as_ptr().add(i)));
            }
        }
        Pointwise::Floats(a) => {
            for i in range.step_by(S::LANES) {
                write::<S>(job, i, S::F::load(a.as_ptr().add(i)));
            }
        }
    }
}

/// Writes numbers, as bytes if there are steps.
#[inline(always)]
unsafe fn write<S: Bytes>(job: &Job<'_>, at: usize, x: <S::F as Simd>::V) {
    let x = match job.steps {
        Some(steps) => S::F::div(x, S::F::splat(steps.scale)),
        None => x,
    };
    job.to.write::<S>(at, x, job.steps);
}
