//! Depthwise convolution in f32: each channel by its own window.

use std::ops::Range;

use crate::activation::{Activation, apply};
use crate::exchange::Shared;
use crate::simd::{Simd, dispatch};
use crate::{Buffer, Isa, Threads, Window, padded};

/// A depthwise convolution with its weights packed.
#[derive(Debug, Clone)]
pub struct Depthwise {
    window: Window,
    channels: usize,
    /// `[taps, padded(channels)]`.
    weights: Buffer,
    /// `[padded(channels)]`.
    bias: Buffer,
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
        Self { window, channels, weights: packed, bias: padded_bias, activation }
    }

    /// Returns the multiplications in one number of the output.
    pub fn depth(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1]
    }

    /// Returns the function that closes it, to be changed.
    pub fn activation_mut(&mut self) -> &mut Activation {
        &mut self.activation
    }

    /// Computes `activation(conv(input) + bias)` from `[h, w, padded(channels)]` into the same layout.
    ///
    /// # Panics
    ///
    /// If a length does not fit.
    pub fn run(&self, isa: Isa, threads: &mut Threads, input: &[f32], size: [usize; 2], output: &mut [f32]) {
        let out = self.window.output(size).expect("the window fits the input");
        let width = padded(self.channels);
        assert!(input.len() >= size[0] * size[1] * width && output.len() >= out[0] * out[1] * width);
        assert!(isa.is_available());
        let shared = Shared::new(output);
        threads.split(out[0], 1, 0, &|rows, _| {
            let job = Job { conv: self, input, size, out, output: shared, rows };
            // SAFETY: the machine has the instruction set; lengths are checked above; the threads' rows are disjoint.
            unsafe { dispatch!(isa, run_part, &job, &Job<'_>) }
        });
    }
}

/// What one thread does.
struct Job<'a> {
    conv: &'a Depthwise,
    input: &'a [f32],
    size: [usize; 2],
    out: [usize; 2],
    output: Shared<'a, f32>,
    rows: Range<usize>,
}

#[inline(always)]
unsafe fn run_part<S: Simd, const V: usize, const R: usize>(job: &Job<'_>) {
    let w = &job.conv.window;
    match (w.kernel, w.stride[1], w.dilation[1]) {
        ([_, 3], 1, 1) => run_rows::<S, 3, 1>(job),
        ([_, 3], 2, 1) => run_rows::<S, 3, 2>(job),
        ([_, 5], 1, 1) => run_rows::<S, 5, 1>(job),
        ([_, 5], 2, 1) => run_rows::<S, 5, 2>(job),
        _ => run_rows::<S, 0, 0>(job),
    }
}

/// Does every row; `K` taps and stride `T` on the width are known, or 0 where they are not.
#[inline(always)]
unsafe fn run_rows<S: Simd, const K: usize, const T: usize>(job: &Job<'_>) {
    let w = &job.conv.window;
    let inside = if K == 0 { 0..0 } else { w.inside(1, job.size[1], job.out[1]) };
    let width = padded(job.conv.channels);
    for y in job.rows.clone() {
        for channel in (0..width).step_by(S::LANES) {
            let mut x = 0;
            while x < job.out[1] {
                if !inside.contains(&x) {
                    border::<S>(job, y, x, channel);
                    x += 1;
                } else if x + TILE <= inside.end {
                    tile::<S, K, T, TILE>(job, y, x, channel);
                    x += TILE;
                } else {
                    tile::<S, K, T, 1>(job, y, x, channel);
                    x += 1;
                }
            }
        }
    }
}

/// Computes `N` neighbouring outputs that see no padding on the sides.
#[inline(always)]
unsafe fn tile<S: Simd, const K: usize, const T: usize, const N: usize>(
    job: &Job<'_>,
    y: usize,
    x: usize,
    channel: usize,
) {
    let (conv, w) = (job.conv, &job.conv.window);
    let width = padded(conv.channels);
    let mut acc = [S::load(conv.bias.as_ptr().add(channel)); N];
    for ty in w.taps(0, y, job.size[0]) {
        let at = w.pixel(0, y, ty) * job.size[1] + w.pixel(1, x, 0);
        let row = job.input.as_ptr().add(at * width + channel);
        let weights = conv.weights.as_ptr().add(ty * K * width + channel);
        // With the loops unrolled, neighbours share their loads.
        for tx in 0..K {
            let weight = S::load(weights.add(tx * width));
            for (n, a) in acc.iter_mut().enumerate() {
                *a = S::fma(S::load(row.add((n * T + tx) * width)), weight, *a);
            }
        }
    }
    apply::<S, N>(&mut acc, conv.activation);
    let out = job.output.at((y * job.out[1] + x) * width + channel);
    for (n, a) in acc.iter().enumerate() {
        S::store(out.add(n * width), *a);
    }
}

/// Computes one output of any window.
#[inline(always)]
unsafe fn border<S: Simd>(job: &Job<'_>, y: usize, x: usize, channel: usize) {
    let (conv, w) = (job.conv, &job.conv.window);
    let width = padded(conv.channels);
    let mut acc = S::load(conv.bias.as_ptr().add(channel));
    for ty in w.taps(0, y, job.size[0]) {
        for tx in w.taps(1, x, job.size[1]) {
            let at = w.pixel(0, y, ty) * job.size[1] + w.pixel(1, x, tx);
            let weight = S::load(conv.weights.as_ptr().add((ty * w.kernel[1] + tx) * width + channel));
            acc = S::fma(S::load(job.input.as_ptr().add(at * width + channel)), weight, acc);
        }
    }
    let mut done = [acc];
    apply::<S, 1>(&mut done, conv.activation);
    S::store(job.output.at((y * job.out[1] + x) * width + channel), done[0]);
}

/// Outputs computed together.
const TILE: usize = 4;
