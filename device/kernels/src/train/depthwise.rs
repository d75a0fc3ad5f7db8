//! The gradients of a depthwise convolution by its weights and by its input.
//!
//! Both hold several neighbouring pixels of a row in registers, as the forward kernel does: strips from top to bottom, of so
//! few channels that the rows that the next pixels see again are still in the first cache.

use std::ops::Range;

use super::pool::each_row;
use crate::exchange::Shared;
use crate::simd::{Simd, dispatch};
use crate::{BLOCK, Isa, Threads, Window};

/// Adds to the sums, `[taps, width]`, the gradient by the weights of one picture `[h, w, width]`: for each tap the sum over
/// the outputs of their gradient, `[out h, out w, width]`, times the input that the tap sees.
///
/// # Panics
///
/// If a length does not fit.
#[allow(clippy::too_many_arguments)]
pub fn weight_gradient(
    isa: Isa,
    threads: &mut Threads,
    window: Window,
    input: &[f32],
    size: [usize; 2],
    width: usize,
    gradient: &[f32],
    sums: &mut [f32],
) {
    let out = fitting(&window, size, width, input.len(), gradient.len(), sums.len());
    assert!(isa.is_available());
    let (bands, blocks) = (out[0].div_ceil(BAND), width / BLOCK);
    let mut partial = vec![0.0_f64; bands * sums.len()];
    let taps = sums.len() / width;
    let shared = Shared::new(&mut partial);
    threads.split(
        bands * blocks,
        1,
        (taps * width).min(taps * BLOCK + CACHED) * size_of::<f32>(),
        &|range, scratch| {
            each_row(range, blocks, |band, blocks| {
                let job = Weights {
                    window,
                    input,
                    size,
                    out,
                    width,
                    gradient,
                    rows: band * out[0] / bands..(band + 1) * out[0] / bands,
                    channels: blocks.start * BLOCK..blocks.end * BLOCK,
                    sums: scratch.view().as_mut_ptr(),
                    to: shared.at(band * taps * width),
                };
                // SAFETY: the machine has the instruction set; lengths are checked above; no two threads have the same
                // channels of a band; the working memory holds the sums of a chunk of channels.
                unsafe { dispatch!(isa, run_weights, &job, &Weights<'_>) }
            });
        },
    );
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum += (0..bands).map(|band| partial[band * taps * width + i]).sum::<f64>() as f32;
    }
}

/// Computes the gradient by the input of one picture `[h, w, width]` from that of the output, `[out h, out w, width]`, and
/// the weights `[taps, width]`. What stood in `input_gradient` is overwritten.
///
/// # Panics
///
/// If a length does not fit.
#[allow(clippy::too_many_arguments)]
pub fn input_gradient(
    isa: Isa,
    threads: &mut Threads,
    window: Window,
    weights: &[f32],
    gradient: &[f32],
    size: [usize; 2],
    width: usize,
    input_gradient: &mut [f32],
) {
    let out = fitting(&window, size, width, input_gradient.len(), gradient.len(), weights.len());
    assert!(isa.is_available());
    let shared = Shared::new(input_gradient);
    threads.split(size[0], 1, 0, &|rows, _| {
        let job = Inputs { window, weights, gradient, size, out, width, rows, to: shared };
        // SAFETY: the machine has the instruction set; lengths are checked above; the threads' rows are disjoint.
        unsafe { dispatch!(isa, run_inputs, &job, &Inputs<'_>) }
    });
}

/// Returns the size of the output.
fn fitting(w: &Window, size: [usize; 2], width: usize, input: usize, gradient: usize, weights: usize) -> [usize; 2] {
    let (taps, out) = w.taps_in_all().zip(w.output(size)).expect("the window fits the input");
    assert!(width > 0 && width.is_multiple_of(BLOCK), "a width of {width}, which is not whole blocks");
    assert!(input == size[0] * size[1] * width, "the input does not fit its size");
    assert!(gradient == out[0] * out[1] * width, "the gradient does not fit the window");
    assert!(weights == taps * width, "the weights do not fit the window");
    out
}

/// What one thread does for the weights.
struct Weights<'a> {
    window: Window,
    input: &'a [f32],
    size: [usize; 2],
    out: [usize; 2],
    width: usize,
    gradient: &'a [f32],
    /// Of the output.
    rows: Range<usize>,
    channels: Range<usize>,
    /// Working memory, `[taps, chunk of channels]`.
    sums: *mut f32,
    /// `[taps, width]`, added to.
    to: *mut f64,
}

#[inline(always)]
unsafe fn run_weights<S: Simd, const V: usize, const R: usize>(job: &Weights<'_>) {
    let w = &job.window;
    match (w.kernel[1], w.stride[1], w.dilation[1]) {
        (3, 1, 1) => weight_strips::<S, 3, 1>(job),
        (3, 2, 1) => weight_strips::<S, 3, 2>(job),
        (5, 1, 1) => weight_strips::<S, 5, 1>(job),
        (5, 2, 1) => weight_strips::<S, 5, 2>(job),
        _ => any_weights::<S>(job),
    }
}

/// Does every row of any window, output by output.
#[inline(always)]
unsafe fn any_weights<S: Simd>(job: &Weights<'_>) {
    let (w, width) = (&job.window, job.width);
    for channels in chunks(&job.channels, w.kernel[0] * w.kernel[1]) {
        for y in job.rows.clone() {
            clear(job, &channels);
            let ys = w.taps(0, y, job.size[0]);
            for x in 0..job.out[1] {
                let from = job.gradient.as_ptr().add((y * job.out[1] + x) * width);
                for (ty, tx) in ys.clone().flat_map(|ty| w.taps(1, x, job.size[1]).map(move |tx| (ty, tx))) {
                    let at = w.pixel(0, y, ty) * job.size[1] + w.pixel(1, x, tx);
                    let input = job.input.as_ptr().add(at * width);
                    let to = job.sums.add((ty * w.kernel[1] + tx) * channels.len());
                    for i in (0..channels.len()).step_by(S::LANES) {
                        let channel = channels.start + i;
                        let product =
                            S::fma(S::load(input.add(channel)), S::load(from.add(channel)), S::load(to.add(i)));
                        S::store(to.add(i), product);
                    }
                }
            }
            flush(job, &channels);
        }
    }
}

/// Does every row with `K` taps and a stride of `T` on the width.
#[inline(always)]
unsafe fn weight_strips<S: Simd, const K: usize, const T: usize>(job: &Weights<'_>) {
    for channels in chunks(&job.channels, job.window.kernel[0] * ((WIDEST - 1) * T + 2 * K)) {
        let mut x = 0;
        while x < job.out[1] {
            clear(job, &channels);
            x += match job.out[1] - x {
                WIDEST.. => weight_strip::<S, K, T, WIDEST>(job, x, &channels),
                4.. => weight_strip::<S, K, T, 4>(job, x, &channels),
                _ => weight_strip::<S, K, T, 1>(job, x, &channels),
            };
            flush(job, &channels);
        }
    }
}

/// Adds up `N` neighbouring outputs of every row, and returns `N`.
#[inline(always)]
unsafe fn weight_strip<S: Simd, const K: usize, const T: usize, const N: usize>(
    job: &Weights<'_>,
    x: usize,
    channels: &Range<usize>,
) -> usize {
    let columns = (N - 1) * T + K;
    let (start, before) = (x * T, job.window.before[1]);
    // The columns that are on the picture, and a bit for each.
    let lo = before.saturating_sub(start).min(columns);
    let hi = (job.size[1] + before).saturating_sub(start).min(columns);
    let on = (1_u32 << hi) - (1 << lo);
    for y in job.rows.clone() {
        if lo == 0 && hi == columns {
            weight_tile::<S, K, T, N, false>(job, y, x, channels, 0);
        } else {
            weight_tile::<S, K, T, N, true>(job, y, x, channels, on);
        }
    }
    N
}

/// Adds up `N` outputs of a row; at an `EDGE` only the columns are read of which the bit is set in `on`.
#[inline(always)]
unsafe fn weight_tile<S: Simd, const K: usize, const T: usize, const N: usize, const EDGE: bool>(
    job: &Weights<'_>,
    y: usize,
    x: usize,
    channels: &Range<usize>,
    on: u32,
) {
    let (w, width, columns) = (&job.window, job.width, (N - 1) * T + K);
    let line = job.size[1] * width;
    let ys = w.taps(0, y, job.size[0]);
    // At an edge the first column may lie before the picture: its address is computed, never read.
    let top = (y * w.stride[0] + ys.start * w.dilation[0]).wrapping_sub(w.before[0]);
    let first = top.wrapping_mul(line).wrapping_add((x * T).wrapping_sub(w.before[1]).wrapping_mul(width));
    let input = job.input.as_ptr().wrapping_add(first);
    let gradient = job.gradient.as_ptr().add((y * job.out[1] + x) * width);
    let chunk = channels.len();
    let sums = job.sums.add(ys.start * K * chunk);
    for i in (0..channels.len()).step_by(S::LANES) {
        let channel = channels.start + i;
        let mut g = [S::splat(0.0); N];
        for (n, g) in g.iter_mut().enumerate() {
            *g = S::load(gradient.add(n * width + channel));
        }
        let (mut input, mut sums) = (input.wrapping_add(channel), sums.add(i));
        for _ in ys.clone() {
            let mut acc = [S::splat(0.0); K];
            for (tx, acc) in acc.iter_mut().enumerate() {
                *acc = S::load(sums.add(tx * chunk));
            }
            // Written out, as in the forward kernel.
            macro_rules! columns {
                ($($c:literal)*) => {
                    $(if $c < columns && (!EDGE || on & (1 << $c) != 0) {
                        weight_column::<S, K, T, N, $c>(&mut acc, &g, S::load(input.wrapping_add($c * width)));
                    })*
                };
            }
            columns!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
            for (tx, acc) in acc.iter().enumerate() {
                S::store(sums.add(tx * chunk), *acc);
            }
            input = input.wrapping_add(w.dilation[0] * line);
            sums = sums.wrapping_add(K * chunk);
        }
    }
}

/// Adds the products of the input in column `C` of a tile with the gradient of every output that sees it.
#[inline(always)]
unsafe fn weight_column<S: Simd, const K: usize, const T: usize, const N: usize, const C: usize>(
    acc: &mut [S::V; K],
    g: &[S::V; N],
    value: S::V,
) {
    for (tx, sum) in acc.iter_mut().enumerate() {
        if C >= tx && (C - tx).is_multiple_of(T) && (C - tx) / T < N {
            *sum = S::fma(value, g[(C - tx) / T], *sum);
        }
    }
}

/// Sets the working memory of a chunk of channels to zero.
#[inline(always)]
unsafe fn clear(job: &Weights<'_>, channels: &Range<usize>) {
    let taps = job.window.kernel[0] * job.window.kernel[1];
    std::slice::from_raw_parts_mut(job.sums, taps * channels.len()).fill(0.0);
}

/// Adds the working memory to the sums in double precision.
#[inline(always)]
unsafe fn flush(job: &Weights<'_>, channels: &Range<usize>) {
    for tap in 0..job.window.kernel[0] * job.window.kernel[1] {
        let from = std::slice::from_raw_parts(job.sums.add(tap * channels.len()), channels.len());
        let to = std::slice::from_raw_parts_mut(job.to.add(tap * job.width + channels.start), channels.len());
        for (to, from) in to.iter_mut().zip(from) {
            *to += f64::from(*from);
        }
    }
}

/// What one thread does for the input.
struct Inputs<'a> {
    window: Window,
    weights: &'a [f32],
    gradient: &'a [f32],
    size: [usize; 2],
    out: [usize; 2],
    width: usize,
    /// Of the input.
    rows: Range<usize>,
    to: Shared<'a, f32>,
}

#[inline(always)]
unsafe fn run_inputs<S: Simd, const V: usize, const R: usize>(job: &Inputs<'_>) {
    let w = &job.window;
    match (w.kernel[1], w.stride[1], w.dilation) {
        (3, 1, [1, 1]) => input_strips::<S, 3, 1, 7>(job),
        (3, 2, [1, 1]) => input_strips::<S, 3, 2, 8>(job),
        (5, 1, [1, 1]) => input_strips::<S, 5, 1, 7>(job),
        (5, 2, [1, 1]) => input_strips::<S, 5, 2, 8>(job),
        _ => any_inputs::<S>(job),
    }
}

/// Does every row of any window, input by input.
#[inline(always)]
unsafe fn any_inputs<S: Simd>(job: &Inputs<'_>) {
    let (w, width) = (&job.window, job.width);
    for y in job.rows.clone() {
        for x in 0..job.size[1] {
            let to = job.to.at((y * job.size[1] + x) * width);
            for channel in (0..width).step_by(S::LANES) {
                let mut acc = S::splat(0.0);
                for ty in 0..w.kernel[0] {
                    let Some(oy) = output(w, 0, y, ty, job.out[0]) else { continue };
                    for tx in 0..w.kernel[1] {
                        let Some(ox) = output(w, 1, x, tx, job.out[1]) else { continue };
                        let from = job.gradient.as_ptr().add((oy * job.out[1] + ox) * width + channel);
                        let weight = job.weights.as_ptr().add((ty * w.kernel[1] + tx) * width + channel);
                        acc = S::fma(S::load(from), S::load(weight), acc);
                    }
                }
                S::store(to.add(channel), acc);
            }
        }
    }
}

/// Returns the output that sees a pixel by a tap, on one axis with `len` outputs.
#[inline(always)]
fn output(w: &Window, axis: usize, at: usize, tap: usize, len: usize) -> Option<usize> {
    let start = (at + w.before[axis]).checked_sub(tap * w.dilation[axis])?;
    let out = start / w.stride[axis];
    (start % w.stride[axis] == 0 && out < len).then_some(out)
}

/// Does every row with `K` taps and a stride of `T` on the width, up to `M` inputs at a time. A tile starts where the first
/// tap of some output may lie, so that which taps see which of its inputs is known when it is compiled.
#[inline(always)]
unsafe fn input_strips<S: Simd, const K: usize, const T: usize, const M: usize>(job: &Inputs<'_>) {
    let before = job.window.before[1];
    for channels in chunks(&(0..job.width), job.window.kernel[0] * (columns(K, T, M) + K)) {
        // Counted from the first column of the padding.
        let (mut u, end) = (before - before % T, before + job.size[1]);
        while u < end {
            u += match end - u {
                5.. => input_strip::<S, K, T, M>(job, u, &channels),
                3.. => input_strip::<S, K, T, 4>(job, u, &channels),
                _ => input_strip::<S, K, T, 2>(job, u, &channels),
            };
        }
    }
}

/// Returns how many outputs see any of `m` neighbouring inputs.
const fn columns(k: usize, t: usize, m: usize) -> usize {
    (m - 1) / t + (k - 1) / t + 1
}

/// Computes `M` neighbouring inputs of every row, those that are on the picture, and returns `M`.
#[inline(always)]
unsafe fn input_strip<S: Simd, const K: usize, const T: usize, const M: usize>(
    job: &Inputs<'_>,
    u: usize,
    channels: &Range<usize>,
) -> usize {
    let (before, columns) = (job.window.before[1], columns(K, T, M));
    // The inputs of the tile that are on the picture.
    let inside = before.saturating_sub(u).min(M)..(before + job.size[1] - u).min(M);
    // The outputs that there are, and a bit for each; the first column is that of output `u / T - (K - 1) / T`.
    let lo = ((K - 1) / T).saturating_sub(u / T).min(columns);
    let hi = (job.out[1] + (K - 1) / T).saturating_sub(u / T).min(columns);
    let on = (1_u32 << hi.max(lo)) - (1 << lo);
    for y in job.rows.clone() {
        if lo == 0 && hi == columns && inside == (0..M) {
            input_tile::<S, K, T, M, false>(job, y, u, channels, 0, inside.clone());
        } else {
            input_tile::<S, K, T, M, true>(job, y, u, channels, on, inside.clone());
        }
    }
    M
}

/// Computes `M` inputs of a row; at an `EDGE` only the outputs are read of which the bit is set in `on`, and only the inputs
/// `inside` written.
#[inline(always)]
unsafe fn input_tile<S: Simd, const K: usize, const T: usize, const M: usize, const EDGE: bool>(
    job: &Inputs<'_>,
    y: usize,
    u: usize,
    channels: &Range<usize>,
    on: u32,
    inside: Range<usize>,
) {
    let (w, width, columns) = (&job.window, job.width, columns(K, T, M));
    let (line, down) = (job.out[1] * width, y + w.before[0]);
    // The last output row that sees this row, and by which of its taps; those before it see it by later ones.
    let last = (down / w.stride[0]).min(job.out[0] - 1);
    let first = down - last * w.stride[0];
    let rows = if first < w.kernel[0] { ((w.kernel[0] - 1 - first) / w.stride[0]).min(last) + 1 } else { 0 };
    // At an edge the first column may lie before the picture: its address is computed, never read.
    let start = (last * line).wrapping_add((u / T).wrapping_sub((K - 1) / T).wrapping_mul(width));
    let gradient = job.gradient.as_ptr().wrapping_add(start);
    let weights = job.weights.as_ptr().wrapping_add(first * K * width);
    let to = job.to.at(y * job.size[1] * width).wrapping_add(u.wrapping_sub(w.before[1]).wrapping_mul(width));
    for channel in channels.clone().step_by(S::LANES) {
        let mut acc = [S::splat(0.0); M];
        let (mut gradient, mut weights) = (gradient.wrapping_add(channel), weights.wrapping_add(channel));
        for _ in 0..rows {
            let mut k = [S::splat(0.0); K];
            for (tx, k) in k.iter_mut().enumerate() {
                *k = S::load(weights.add(tx * width));
            }
            // Written out, as in the forward kernel.
            macro_rules! columns {
                ($($c:literal)*) => {
                    $(if $c < columns && (!EDGE || on & (1 << $c) != 0) {
                        input_column::<S, K, T, M, $c>(&mut acc, &k, S::load(gradient.wrapping_add($c * width)));
                    })*
                };
            }
            columns!(0 1 2 3 4 5 6 7 8 9 10);
            gradient = gradient.wrapping_sub(line);
            weights = weights.wrapping_add(w.stride[0] * K * width);
        }
        for (n, acc) in acc.iter().enumerate() {
            if !EDGE || inside.contains(&n) {
                S::store(to.wrapping_add(n * width + channel), *acc);
            }
        }
    }
}

/// Adds the products of the gradient in column `C` of a tile, to every input that its output sees.
#[inline(always)]
unsafe fn input_column<S: Simd, const K: usize, const T: usize, const M: usize, const C: usize>(
    acc: &mut [S::V; M],
    k: &[S::V; K],
    value: S::V,
) {
    for (n, sum) in acc.iter_mut().enumerate() {
        let at = n + (K - 1) / T * T;
        if at >= C * T && at - C * T < K {
            *sum = S::fma(value, k[at - C * T], *sum);
        }
    }
}

/// Cuts channels into chunks of which `numbers` a channel fit the first cache.
fn chunks(channels: &Range<usize>, numbers: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let Range { start, end } = *channels;
    let chunk = (CACHED / numbers).max(BLOCK) / BLOCK * BLOCK;
    (start..end).step_by(chunk).map(move |at| at..end.min(at + chunk))
}

/// Outputs side by side of which the products are added up at once.
const WIDEST: usize = 7;
/// Output rows that are added up in single precision at most.
const BAND: usize = 32;
/// Numbers that a strip may have in the first cache.
const CACHED: usize = 6 << 10;
