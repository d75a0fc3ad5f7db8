//! Depthwise convolution in f32: each channel by its own window.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::activation::{Activation, close};
use crate::conv::Source;
use crate::exchange::Shared;
use crate::simd::{Simd, dispatch};
use crate::store::{Store, Stores, count};
use crate::{BLOCK, Buffer, Isa, Threads, Window, padded};

/// A depthwise convolution with its weights packed.
#[derive(Debug, Clone)]
pub struct Depthwise {
    window: Window,
    channels: usize,
    /// `[taps, padded(channels)]`.
    weights: Store,
    /// `[padded(channels)]`.
    bias: Store,
    activation: Activation,
}

/// What a depthwise convolution is, but for its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Form {
    window: Window,
    channels: usize,
    activation: Activation,
}

impl Depthwise {
    /// Packs weights `[channels, 1, kernel h, kernel w]`, row-major, and a bias `[channels]`.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit each other.
    pub fn new(weights: &[f32], bias: &[f32], window: Window, activation: Activation) -> Self {
        let channels = bias.len();
        let taps = window.kernel[0] * window.kernel[1];
        assert!(taps > 0 && weights.len() == channels * taps, "weights do not fit");
        let width = padded(channels);
        let mut packed = Buffer::zeros(width * taps);
        for c in 0..channels {
            for t in 0..taps {
                packed[t * width + c] = weights[c * taps + t];
            }
        }
        let mut padded_bias = Buffer::zeros(width);
        padded_bias[..channels].copy_from_slice(bias);
        Self { window, channels, weights: packed.into(), bias: padded_bias.into(), activation }
    }

    /// Takes weights as kernels lay them out, `[taps, padded(channels)]`. No bias, no activation.
    ///
    /// # Panics
    ///
    /// If the length does not fit.
    pub fn of_taps(window: Window, channels: usize, weights: &[f32]) -> Self {
        let width = padded(channels);
        assert_eq!(weights.len(), window.kernel[0] * window.kernel[1] * width, "weights do not fit");
        let (weights, bias) = (Buffer::copy_of(weights).into(), Buffer::zeros(width).into());
        Self { window, channels, weights, bias, activation: Activation::NONE }
    }

    /// Takes it apart: what it is, and the memory of its numbers in turn.
    pub fn apart(&self) -> (Form, Vec<&[u8]>) {
        let Self { window, channels, activation, .. } = *self;
        (Form { window, channels, activation }, vec![self.weights.bytes(), self.bias.bytes()])
    }

    /// Puts one together from what [`Depthwise::apart`] gave; none where the form is of no convolution, or there are fewer
    /// numbers than it needs.
    pub fn whole(form: Form, numbers: &mut Stores) -> Option<Self> {
        let Form { window, channels, activation } = form;
        let width = channels.checked_next_multiple_of(BLOCK)?;
        let weights = numbers.take(count(&[width, window.taps_in_all()?])?)?;
        Some(Self { window, channels, weights, bias: numbers.take(width)?, activation })
    }

    /// Returns the number of channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Returns the multiplications in one number of the output.
    pub fn depth(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1]
    }

    /// Returns the function that closes it, to be changed.
    pub fn activation_mut(&mut self) -> &mut Activation {
        &mut self.activation
    }

    /// Returns its window.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Computes `activation(conv(input) + bias)` from `[h, w, padded(channels)]` into the same layout.
    ///
    /// # Panics
    ///
    /// If a length does not fit.
    pub fn run(&self, isa: Isa, threads: &mut Threads, input: Source<'_>, output: &mut [f32]) {
        let Source { data: input, size, stride, edges } = input;
        let window = self.window.over(edges);
        let out = window.output(size).expect("the window fits the input");
        let width = padded(self.channels);
        assert!(stride == width && input.len() >= size[0] * size[1] * width && output.len() >= out[0] * out[1] * width);
        assert!(isa.is_available());
        let shared = Shared::new(output);
        threads.split(out[0], 1, 0, &|rows, _| {
            let job = Job { conv: self, window, input, size, out, output: shared, rows };
            // SAFETY: the machine has the instruction set; lengths are checked above; the threads' rows are disjoint.
            unsafe { dispatch!(isa, run_part, &job, &Job<'_>) }
        });
    }
}

/// What one thread does.
struct Job<'a> {
    conv: &'a Depthwise,
    window: Window,
    input: &'a [f32],
    size: [usize; 2],
    out: [usize; 2],
    output: Shared<'a, f32>,
    rows: Range<usize>,
}

#[inline(always)]
unsafe fn run_part<S: Simd, const V: usize, const R: usize>(job: &Job<'_>) {
    let w = &job.window;
    match (w.kernel[1], w.stride[1], w.dilation[1]) {
        (3, 1, 1) => strips::<S, V, 3, 1>(job),
        (3, 2, 1) => strips::<S, V, 3, 2>(job),
        (5, 1, 1) => strips::<S, V, 5, 1>(job),
        (5, 2, 1) => strips::<S, V, 5, 2>(job),
        _ => any::<S, V>(job),
    }
}

/// Does every row with `K` taps and a stride of `T` on the width: strips from top to bottom, of so few channels that the
/// rows that the next output sees again are still in the first cache.
#[inline(always)]
unsafe fn strips<S: Simd, const V: usize, const K: usize, const T: usize>(job: &Job<'_>) {
    let width = padded(job.conv.channels);
    let column = job.window.kernel[0] * size_of::<f32>();
    let chunk = (CACHED / (column * ((WIDEST - 1) * T + K))).max(BLOCK) / BLOCK * BLOCK;
    for start in (0..width).step_by(chunk) {
        let channels = start..width.min(start + chunk);
        let mut x = 0;
        while x < job.out[1] {
            x += match job.out[1] - x {
                WIDEST.. => strip::<S, V, K, T, WIDEST>(job, x, channels.clone()),
                4.. => strip::<S, V, K, T, 4>(job, x, channels.clone()),
                2.. => strip::<S, V, K, T, 2>(job, x, channels.clone()),
                _ => strip::<S, V, K, T, 1>(job, x, channels.clone()),
            };
        }
    }
}

/// Computes `N` neighbouring outputs of every row, and returns `N`.
#[inline(always)]
unsafe fn strip<S: Simd, const V: usize, const K: usize, const T: usize, const N: usize>(
    job: &Job<'_>,
    x: usize,
    channels: Range<usize>,
) -> usize {
    let columns = (N - 1) * T + K;
    let (start, before) = (x * T, job.window.before[1]);
    // The columns that are on the picture, and a bit for each.
    let lo = before.saturating_sub(start).min(columns);
    let hi = (job.size[1] + before).saturating_sub(start).min(columns);
    let on = (1_u32 << hi) - (1 << lo);
    let width = padded(job.conv.channels);
    for y in job.rows.clone() {
        if lo == 0 && hi == columns {
            tile::<S, K, T, N, false>(job, y, x, channels.clone(), 0);
        } else {
            tile::<S, K, T, N, true>(job, y, x, channels.clone(), on);
        }
        for n in 0..N {
            let out = job.output.at((y * job.out[1] + x + n) * width + channels.start);
            close::<S, V>(out, channels.len(), job.conv.activation);
        }
    }
    N
}

/// Computes `N` outputs of a row; at an `EDGE` only the columns are read of which the bit is set in `on`.
#[inline(always)]
unsafe fn tile<S: Simd, const K: usize, const T: usize, const N: usize, const EDGE: bool>(
    job: &Job<'_>,
    y: usize,
    x: usize,
    channels: Range<usize>,
    on: u32,
) {
    let (conv, w) = (job.conv, &job.window);
    let (width, columns) = (padded(conv.channels), (N - 1) * T + K);
    let line = job.size[1] * width;
    let ys = w.taps(0, y, job.size[0]);
    let (low, high) = conv.activation.bounds();
    let (low, high) = (S::splat(low), S::splat(high));
    // At an edge the first column may lie before the picture: its address is computed, never read.
    let top = (y * w.stride[0] + ys.start * w.dilation[0]).wrapping_sub(w.before[0]);
    let first = top.wrapping_mul(line).wrapping_add((x * T).wrapping_sub(w.before[1]).wrapping_mul(width));
    let from = job.input.as_ptr().wrapping_add(first);
    let weights = conv.weights.as_ptr().add(ys.start * K * width);
    let out = job.output.at((y * job.out[1] + x) * width);
    for channel in channels.step_by(S::LANES) {
        let mut acc = [S::load(conv.bias.as_ptr().add(channel)); N];
        let (mut from, mut weights) = (from.wrapping_add(channel), weights.add(channel));
        for _ in ys.clone() {
            let mut k = [S::splat(0.0); K];
            for (tx, k) in k.iter_mut().enumerate() {
                *k = S::load(weights.add(tx * width));
            }
            // Written out: left to the compiler, the longer of these loops stay loops, with their sums in memory.
            macro_rules! columns {
                ($($c:literal)*) => {
                    $(if $c < columns && (!EDGE || on & (1 << $c) != 0) {
                        column::<S, K, T, N, $c>(&mut acc, &k, S::load(from.wrapping_add($c * width)));
                    })*
                };
            }
            columns!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
            from = from.wrapping_add(w.dilation[0] * line);
            weights = weights.wrapping_add(K * width);
        }
        for (n, a) in acc.iter().enumerate() {
            S::store(out.add(n * width + channel), S::min(S::max(*a, low), high));
        }
    }
}

/// Adds the products of the input in column `C` of a tile, to every output of which it is a tap.
#[inline(always)]
unsafe fn column<S: Simd, const K: usize, const T: usize, const N: usize, const C: usize>(
    acc: &mut [S::V; N],
    k: &[S::V; K],
    value: S::V,
) {
    for (n, sum) in acc.iter_mut().enumerate() {
        if n * T <= C && C < n * T + K {
            *sum = S::fma(value, k[C - n * T], *sum);
        }
    }
}

/// Does every row of any window.
#[inline(always)]
unsafe fn any<S: Simd, const V: usize>(job: &Job<'_>) {
    let (conv, w) = (job.conv, &job.window);
    let width = padded(conv.channels);
    for y in job.rows.clone() {
        let ys = w.taps(0, y, job.size[0]);
        for x in 0..job.out[1] {
            let xs = w.taps(1, x, job.size[1]);
            let out = job.output.at((y * job.out[1] + x) * width);
            for channel in (0..width).step_by(S::LANES) {
                let mut acc = S::load(conv.bias.as_ptr().add(channel));
                for ty in ys.clone() {
                    for tx in xs.clone() {
                        let at = w.pixel(0, y, ty) * job.size[1] + w.pixel(1, x, tx);
                        let weight = S::load(conv.weights.as_ptr().add((ty * w.kernel[1] + tx) * width + channel));
                        acc = S::fma(S::load(job.input.as_ptr().add(at * width + channel)), weight, acc);
                    }
                }
                let (low, high) = conv.activation.bounds();
                S::store(out.add(channel), S::min(S::max(acc, S::splat(low)), S::splat(high)));
            }
            close::<S, V>(out, width, conv.activation);
        }
    }
}

/// Outputs of a strip, side by side. Seven divides the sizes of networks made for 224 pixels, and the registers of AVX2
/// hold no more.
const WIDEST: usize = 7;
/// Bytes of the first cache that a strip's inputs may fill.
const CACHED: usize = 24 << 10;
