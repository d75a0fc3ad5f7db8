//! Functions of one place at a time: sums, products by channel, activations.

use crate::activation::{Activation, apply};
use crate::exchange::Shared;
use crate::simd::{Simd, dispatch};
use crate::{Isa, Threads};

/// What is done to each number of the output, which holds the first operand.
#[derive(Debug, Clone, Copy)]
pub enum Pointwise<'a> {
    /// Adds another activation of the same shape.
    Add(&'a [f32]),
    /// Multiplies each channel by a factor, `[padded(c)]`.
    Scale(&'a [f32]),
    /// Nothing but the activation.
    Nothing,
}

/// Computes `activation(operation(input))` into `output`, of the same length, a multiple of the block of channels.
///
/// # Panics
///
/// If a length does not fit.
pub fn run(
    isa: Isa,
    threads: &mut Threads,
    input: &[f32],
    operation: Pointwise<'_>,
    activation: Activation,
    output: &mut [f32],
) {
    let len = input.len();
    assert!(output.len() == len && len.is_multiple_of(crate::BLOCK));
    assert!(isa.is_available());
    let grain = match operation {
        Pointwise::Add(other) => {
            assert!(other.len() == len);
            crate::BLOCK
        }
        Pointwise::Scale(factors) => {
            assert!(
                factors.len().is_multiple_of(crate::BLOCK) && !factors.is_empty() && len.is_multiple_of(factors.len())
            );
            factors.len()
        }
        Pointwise::Nothing => crate::BLOCK,
    };
    let shared = Shared::new(output);
    threads.split(len, grain, 0, &|range, _| {
        let job = Job { input: &input[range.clone()], start: range.start, operation, activation, output: shared };
        // SAFETY: the machine has the instruction set; lengths are checked above; the threads' ranges are disjoint.
        unsafe { dispatch!(isa, run_part, &job, &Job<'_>) }
    });
}

struct Job<'a> {
    input: &'a [f32],
    start: usize,
    operation: Pointwise<'a>,
    activation: Activation,
    output: Shared<'a, f32>,
}

#[inline(always)]
unsafe fn run_part<S: Simd, const V: usize, const R: usize>(job: &Job<'_>) {
    let (from, to) = (job.input.as_ptr(), job.output.at(job.start));
    let len = job.input.len();
    match job.operation {
        Pointwise::Add(other) => {
            let other = other.as_ptr().add(job.start);
            for i in (0..len).step_by(S::LANES) {
                close::<S>(to.add(i), S::add(S::load(from.add(i)), S::load(other.add(i))), job.activation);
            }
        }
        Pointwise::Scale(factors) => {
            for pixel in (0..len).step_by(factors.len()) {
                for c in (0..factors.len()).step_by(S::LANES) {
                    let product = S::mul(S::load(from.add(pixel + c)), S::load(factors.as_ptr().add(c)));
                    close::<S>(to.add(pixel + c), product, job.activation);
                }
            }
        }
        Pointwise::Nothing => {
            for i in (0..len).step_by(S::LANES) {
                close::<S>(to.add(i), S::load(from.add(i)), job.activation);
            }
        }
    }
}

#[inline(always)]
unsafe fn close<S: Simd>(to: *mut f32, v: S::V, f: Activation) {
    let mut done = [v];
    apply::<S, 1>(&mut done, f);
    S::store(to, done[0]);
}
