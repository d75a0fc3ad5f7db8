//! Pooling on bytes: largest or mean of a window.

use std::ops::Range;

use super::conv::To;
use super::simd::{Bytes, dispatch};
use super::{Output, Source, Steps};
use crate::exchange::Shared;
use crate::pool::Pool;
use crate::simd::{Scalar, Simd};
use crate::{BLOCK, Isa, Threads, Window};

/// Pools `[h, w, stride]` into `[out h, out w, stride]`.
///
/// The largest keeps its grid. The sum of a mean is exact and then multiplied once, by what it is worth in `steps`; a
/// window has at most [`MAX_WINDOW`] pixels.
///
/// # Panics
///
/// If a length does not fit.
pub fn run(
    isa: Isa,
    threads: &mut Threads,
    kind: Pool,
    window: &Window,
    input: Source<'_>,
    steps: Steps,
    output: &mut [u8],
) {
    let out = window.output(input.size).expect("the window fits the input");
    assert!(input.stride.is_multiple_of(BLOCK) && input.data.len() >= input.size[0] * input.size[1] * input.stride);
    assert!(output.len() >= out[0] * out[1] * input.stride);
    assert!(window.kernel[0].min(input.size[0]) * window.kernel[1].min(input.size[1]) <= MAX_WINDOW);
    assert!(isa.is_available());
    let mut output = Output::Bytes(output);
    let to = To::new(&mut output);
    // One output, as of a global pool, is split by channels and several by rows.
    let by_channel = out[0] < threads.count();
    let blocks = input.stride / BLOCK;
    threads.split(if by_channel { blocks } else { out[0] }, 1, 0, &|range, _| {
        let (rows, blocks) = if by_channel { (0..out[0], range) } else { (range, 0..blocks) };
        let job = Job { kind, window, input, steps, out, rows, blocks, to };
        // SAFETY: the machine has the instruction set; lengths are checked above; the threads' rows or blocks of
        // channels are disjoint.
        unsafe { dispatch!(isa, run_part, &job, &Job<'_>) }
    });
}

/// Most pixels of a window: their sum is still exact in single precision.
pub const MAX_WINDOW: usize = (1 << 24) / 255;

struct Job<'a> {
    kind: Pool,
    window: &'a Window,
    input: Source<'a>,
    steps: Steps,
    out: [usize; 2],
    rows: Range<usize>,
    blocks: Range<usize>,
    to: To<'a>,
}

#[inline(always)]
unsafe fn run_part<S: Bytes, const V: usize, const R: usize>(job: &Job<'_>) {
    let (w, input) = (job.window, &job.input);
    if let (Pool::Max, To::Bytes(to)) = (job.kind, job.to) {
        return largest::<S>(job, to);
    }
    for y in job.rows.clone() {
        let ys = w.taps(0, y, input.size[0]);
        for x in 0..job.out[1] {
            let xs = w.taps(1, x, input.size[1]);
            let count = ys.len() * xs.len();
            let size = if job.kind == Pool::MeanWithPadding { w.kernel[0] * w.kernel[1] } else { count.max(1) };
            let unit = S::F::splat(input.grid.scale / (size as f32 * job.steps.scale));
            let zero = S::F::splat(-(count as f32 * f32::from(input.grid.zero)));
            for block in job.blocks.clone() {
                let mut acc = [S::F::splat(0.0); V];
                for ty in ys.clone() {
                    for tx in xs.clone() {
                        let at = w.pixel(0, y, ty) * input.size[1] + w.pixel(1, x, tx);
                        let from = input.data.as_ptr().add(at * input.stride + block * BLOCK);
                        for (v, a) in acc.iter_mut().enumerate() {
                            let value = S::load_bytes(from.add(v * S::LANES));
                            *a = S::F::add(*a, value);
                        }
                    }
                }
                let to = (y * job.out[1] + x) * input.stride + block * BLOCK;
                for (v, a) in acc.iter().enumerate() {
                    let done = S::F::mul(S::F::add(*a, zero), unit);
                    job.to.write::<S>(to + v * S::LANES, done, Some(job.steps));
                }
            }
        }
    }
}

/// Takes the largest byte of each window.
#[inline(always)]
unsafe fn largest<S: Bytes>(job: &Job<'_>, to: Shared<'_, u8>) {
    let (w, input) = (job.window, &job.input);
    let (start, len) = (job.blocks.start * BLOCK, job.blocks.len() * BLOCK);
    for y in job.rows.clone() {
        let ys = w.taps(0, y, input.size[0]);
        for x in 0..job.out[1] {
            let xs = w.taps(1, x, input.size[1]);
            let out = to.at((y * job.out[1] + x) * input.stride + start);
            if ys.is_empty() || xs.is_empty() {
                out.write_bytes(0, len);
                continue;
            }
            let first = w.pixel(0, y, ys.start) * input.size[1] + w.pixel(1, x, xs.start);
            let seen = Seen {
                first: input.data.as_ptr().add(first * input.stride + start),
                taps: [ys.len(), xs.len()],
                steps: [w.dilation[0] * input.size[1] * input.stride, w.dilation[1] * input.stride],
            };
            if len >= 4 * S::LANES {
                for at in (0..len).step_by(4 * S::LANES) {
                    // The last ones may be taken twice.
                    seen.largest::<S>(at.min(len - 4 * S::LANES), out);
                }
            } else {
                (0..len).step_by(4).for_each(|at| seen.largest::<Scalar>(at, out));
            }
        }
    }
}

/// The part of a window that falls on the picture.
struct Seen {
    first: *const u8,
    /// On the height and on the width.
    taps: [usize; 2],
    /// Bytes from one tap to the next.
    steps: [usize; 2],
}

impl Seen {
    /// Writes the largest of each channel from `at` on, four vectors of lanes of them.
    #[inline(always)]
    unsafe fn largest<S: Bytes>(&self, at: usize, out: *mut u8) {
        let mut largest = S::load(self.first.add(at));
        for ty in 0..self.taps[0] {
            for tx in 0..self.taps[1] {
                let from = self.first.add(ty * self.steps[0] + tx * self.steps[1] + at);
                largest = S::larger(largest, S::load(from));
            }
        }
        S::store(out.add(at), largest);
    }
}
