//! The gradient of a largest-of-a-window, and the mean of a whole picture forwards and backwards.

use std::ops::Range;

use super::norm::Affine;
use super::sums::{self, Kind, Terms, run_part as run_sums};
use crate::exchange::Shared;
use crate::simd::{Simd, dispatch};
use crate::{BLOCK, Isa, Threads, Window};

/// Computes the gradient by one picture `[h, w, width]` of the largest of each window.
///
/// The gradient of an output, `[out h, out w, width]`, goes to the first input of its window, row by row, that equals it;
/// where none does, as the output is not a number, it is lost. What stood in `input_gradient` is overwritten.
///
/// # Panics
///
/// If a length does not fit.
#[allow(clippy::too_many_arguments)]
pub fn max_gradient(
    isa: Isa,
    threads: &mut Threads,
    window: &Window,
    input: &[f32],
    size: [usize; 2],
    width: usize,
    output: &[f32],
    gradient: &[f32],
    input_gradient: &mut [f32],
) {
    let out = window.output(size).expect("the window fits the input");
    let (inputs, outputs) = (size[0] * size[1] * width, out[0] * out[1] * width);
    assert!(width.is_multiple_of(BLOCK), "a width of {width}, which is not whole blocks");
    assert!(input.len() == inputs && input_gradient.len() == inputs, "the input does not fit its size");
    assert!(output.len() == outputs && gradient.len() == outputs, "the output does not fit the window");
    assert!(isa.is_available());
    let shared = Shared::new(input_gradient);
    // Windows overlap, so threads share by channels.
    threads.split(width / BLOCK, 1, 0, &|blocks, _| {
        let job = Job { window, input, size, out, width, output, gradient, blocks, input_gradient: shared };
        // SAFETY: the machine has the instruction set; lengths are checked above; the threads' blocks are disjoint.
        unsafe { dispatch!(isa, run_part, &job, &Job<'_>) }
    });
}

struct Job<'a> {
    window: &'a Window,
    input: &'a [f32],
    size: [usize; 2],
    out: [usize; 2],
    width: usize,
    output: &'a [f32],
    gradient: &'a [f32],
    blocks: Range<usize>,
    input_gradient: Shared<'a, f32>,
}

#[inline(always)]
unsafe fn run_part<S: Simd, const V: usize, const R: usize>(job: &Job<'_>) {
    let (w, zero) = (job.window, S::splat(0.0));
    let (start, end) = (job.blocks.start * BLOCK, job.blocks.end * BLOCK);
    let to = job.input_gradient.at(0);
    for pixel in 0..job.size[0] * job.size[1] {
        for channel in (start..end).step_by(S::LANES) {
            S::store(to.add(pixel * job.width + channel), zero);
        }
    }
    for y in 0..job.out[0] {
        let ys = w.taps(0, y, job.size[0]);
        for x in 0..job.out[1] {
            let xs = w.taps(1, x, job.size[1]);
            let at = (y * job.out[1] + x) * job.width;
            for channel in (start..end).step_by(S::LANES) {
                let largest = S::load(job.output.as_ptr().add(at + channel));
                // What has not found its place yet.
                let mut left = S::load(job.gradient.as_ptr().add(at + channel));
                for ty in ys.clone() {
                    for tx in xs.clone() {
                        let from = (w.pixel(0, y, ty) * job.size[1] + w.pixel(1, x, tx)) * job.width + channel;
                        let value = S::load(job.input.as_ptr().add(from));
                        let sum = S::add(S::load(to.add(from)), S::equal(value, largest, left, zero));
                        S::store(to.add(from), sum);
                        left = S::equal(value, largest, zero, left);
                    }
                }
            }
        }
    }
}

/// Computes the mean over the pixels of each picture of `activation(z * scale + shift)`, `[pictures, width]`.
///
/// # Panics
///
/// If a length does not fit.
pub fn mean(
    isa: Isa,
    threads: &mut Threads,
    z: &[f32],
    affine: Affine<'_>,
    pixels: usize,
    width: usize,
    out: &mut [f32],
) {
    assert!(affine.width(z) == width, "scale does not fit a width of {width}");
    assert!(pixels > 0 && out.len() * pixels == z.len(), "means do not fit pictures of {pixels} pixels");
    assert!(isa.is_available());
    let terms = Terms { kind: Kind::Activated, z, width, affine, gradient: &[], centre: &[] };
    let mut totals = vec![0.0_f64; out.len() * 2];
    let shared = Shared::new(&mut totals);
    let blocks = width / BLOCK;
    threads.split(out.len() / BLOCK, 1, sums::scratch(width), &|range, scratch| {
        each_row(range, blocks, |picture, blocks| {
            let job = sums::Job {
                terms,
                rows: picture * pixels..(picture + 1) * pixels,
                channels: blocks.start * BLOCK..blocks.end * BLOCK,
                sums: scratch.view().as_mut_ptr(),
                to: shared.at(picture * 2 * width),
            };
            // SAFETY: the machine has the instruction set; lengths are checked above; the working memory is as long as
            // asked for; no two threads have the same channels of a picture.
            unsafe { dispatch!(isa, run_sums, &job, &sums::Job<'_>) }
        });
    });
    for (out, totals) in out.chunks_exact_mut(width).zip(totals.chunks_exact(2 * width)) {
        out.iter_mut().zip(totals).for_each(|(out, total)| *out = (total / pixels as f64) as f32);
    }
}

/// Cuts a range of the numbers `row * len + column` into rows and the columns of each.
pub(super) fn each_row(range: Range<usize>, len: usize, mut f: impl FnMut(usize, Range<usize>)) {
    let mut at = range.start;
    while at < range.end {
        let (row, end) = (at / len, range.end.min((at / len + 1) * len));
        f(row, at - row * len..end - row * len);
        at = end;
    }
}

/// Computes the gradient of a mean by every pixel: that of the mean, `[pictures, width]`, over the number of pixels.
///
/// # Panics
///
/// If a length does not fit.
pub fn mean_gradient(isa: Isa, threads: &mut Threads, gradient: &[f32], pixels: usize, width: usize, out: &mut [f32]) {
    assert!(width > 0 && gradient.len().is_multiple_of(width), "the gradient is not rows of {width}");
    assert!(pixels > 0 && gradient.len() * pixels == out.len(), "out does not fit pictures of {pixels} pixels");
    assert!(isa.is_available());
    let each: Vec<f32> = gradient.iter().map(|g| g / pixels as f32).collect();
    let shared = Shared::new(out);
    threads.split(each.len() / width * pixels, 1, 0, &|rows, _| {
        for row in rows {
            let from = &each[row / pixels * width..][..width];
            // SAFETY: `out` has that many rows, checked above, and the threads' rows are disjoint.
            unsafe { std::slice::from_raw_parts_mut(shared.at(row * width), width) }.copy_from_slice(from);
        }
    });
}
