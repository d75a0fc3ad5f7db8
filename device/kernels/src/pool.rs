//! Pooling: largest or mean of a window, mean of a whole picture.

use serde::{Deserialize, Serialize};

use crate::exchange::Shared;
use crate::simd::{Simd, dispatch};
use crate::{BLOCK, Isa, Threads, Window};

/// What becomes of the numbers in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Pool {
    /// The largest; padding does not count.
    Max,
    /// The mean of those that are not padding.
    Mean,
    /// The sum over the size of the window, padding counted as zeros.
    MeanWithPadding,
}

/// Pools `[h, w, width]` into `[out h, out w, width]`; `width` is a multiple of the block of channels.
///
/// # Panics
///
/// If a length does not fit.
#[allow(clippy::too_many_arguments)]
pub fn run(
    isa: Isa,
    threads: &mut Threads,
    kind: Pool,
    window: &Window,
    input: &[f32],
    size: [usize; 2],
    width: usize,
    output: &mut [f32],
) {
    let out = window.output(size).expect("the window fits the input");
    assert!(width.is_multiple_of(BLOCK) && input.len() >= size[0] * size[1] * width);
    assert!(output.len() >= out[0] * out[1] * width);
    assert!(isa.is_available());
    let shared = Shared::new(output);
    // One output, as of a global pool, is split by channels and several by rows.
    let by_channel = out[0] < threads.count();
    let blocks = width / BLOCK;
    threads.split(if by_channel { blocks } else { out[0] }, 1, 0, &|range, _| {
        let (rows, blocks) = if by_channel { (0..out[0], range) } else { (range, 0..blocks) };
        let job = Job { kind, window, input, size, out, width, rows, blocks, output: shared };
        // SAFETY: the machine has the instruction set; lengths are checked above; the threads' rows or blocks of
        // channels are disjoint.
        unsafe { dispatch!(isa, run_part, &job, &Job<'_>) }
    });
}

struct Job<'a> {
    kind: Pool,
    window: &'a Window,
    input: &'a [f32],
    size: [usize; 2],
    out: [usize; 2],
    width: usize,
    rows: std::ops::Range<usize>,
    blocks: std::ops::Range<usize>,
    output: Shared<'a, f32>,
}

#[inline(always)]
unsafe fn run_part<S: Simd, const V: usize, const R: usize>(job: &Job<'_>) {
    let w = job.window;
    let start = if job.kind == Pool::Max { f32::NEG_INFINITY } else { 0.0 };
    for y in job.rows.clone() {
        let ys = w.taps(0, y, job.size[0]);
        for x in 0..job.out[1] {
            let xs = w.taps(1, x, job.size[1]);
            let count = match job.kind {
                Pool::Max => 1,
                Pool::Mean => (ys.len() * xs.len()).max(1),
                Pool::MeanWithPadding => w.kernel[0] * w.kernel[1],
            };
            let factor = S::splat(1.0 / count as f32);
            for block in job.blocks.clone() {
                let mut acc = [S::splat(start); V];
                for ty in ys.clone() {
                    for tx in xs.clone() {
                        let at = w.pixel(0, y, ty) * job.size[1] + w.pixel(1, x, tx);
                        let from = job.input.as_ptr().add(at * job.width + block * BLOCK);
                        for (v, a) in acc.iter_mut().enumerate() {
                            let value = S::load(from.add(v * S::LANES));
                            *a = if job.kind == Pool::Max { S::max(*a, value) } else { S::add(*a, value) };
                        }
                    }
                }
                let to = job.output.at((y * job.out[1] + x) * job.width + block * BLOCK);
                for (v, a) in acc.iter().enumerate() {
                    S::store(to.add(v * S::LANES), if job.kind == Pool::Max { *a } else { S::mul(*a, factor) });
                }
            }
        }
    }
}
