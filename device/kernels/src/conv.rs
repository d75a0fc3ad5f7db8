//! Dense convolution, pointwise and fully connected layers in f32: one indirect matrix product.
//!
//! For a tile of output pixels a table says where each of the kernel's taps finds its input pixel (a row of zeros where
//! the tap falls on padding), so that no patch is ever copied.
//!
//! # Source
//!
//! Dukhan, *The Indirect Convolution Algorithm*, arXiv:1907.02129.

use std::ops::Range;

use crate::activation::{Activation, apply};
use crate::exchange::Shared;
use crate::simd::{Simd, dispatch};
use crate::{BLOCK, Buffer, Isa, Threads, Window, padded};

/// A convolution with its weights packed.
#[derive(Debug, Clone)]
pub struct Conv {
    window: Window,
    /// Channels of a tap that are multiplied.
    inputs: usize,
    outputs: usize,
    /// `[padded(outputs) / BLOCK, taps, inputs, BLOCK]`.
    weights: Buffer,
    /// `[padded(outputs)]`.
    bias: Buffer,
    /// A pixel of padding.
    zeros: Buffer,
    activation: Activation,
}

/// An activation that is read: `[h, w]` pixels of `stride` numbers each.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Row-major pixels.
    pub data: &'a [f32],
    /// Height and width.
    pub size: [usize; 2],
    /// Numbers from one pixel to the next.
    pub stride: usize,
}

impl Conv {
    /// Packs weights `[outputs, inputs, kernel h, kernel w]`, row-major, and a bias `[outputs]`.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit each other.
    pub fn new(weights: &[f32], bias: &[f32], window: Window, activation: Activation) -> Self {
        let outputs = bias.len();
        let taps = window.kernel[0] * window.kernel[1];
        assert!(outputs > 0 && taps > 0 && weights.len().is_multiple_of(outputs * taps), "weights do not fit");
        let inputs = weights.len() / (outputs * taps);
        let mut packed = Buffer::zeros(padded(outputs) * taps * inputs);
        for o in 0..outputs {
            for i in 0..inputs {
                for t in 0..taps {
                    let at = ((o / BLOCK * taps + t) * inputs + i) * BLOCK + o % BLOCK;
                    packed[at] = weights[(o * inputs + i) * taps + t];
                }
            }
        }
        let mut padded_bias = Buffer::zeros(padded(outputs));
        padded_bias[..outputs].copy_from_slice(bias);
        let zeros = Buffer::zeros(inputs);
        Self { window, inputs, outputs, weights: packed, bias: padded_bias, zeros, activation }
    }

    /// Returns the bytes of working memory that a thread needs.
    pub fn scratch(&self) -> usize {
        PIXELS * self.window.kernel[0] * self.window.kernel[1] * size_of::<*const f32>()
    }

    /// Returns the number of output channels.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Returns the multiplications in one number of the output.
    pub fn depth(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1] * self.inputs
    }

    /// Returns the function that closes it.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Returns the function that closes it, to be changed.
    pub fn activation_mut(&mut self) -> &mut Activation {
        &mut self.activation
    }

    /// Computes `activation(conv(input) + bias + residual)` into `[h, w, padded(outputs)]`.
    ///
    /// # Panics
    ///
    /// If a length does not fit.
    pub fn run(
        &self,
        isa: Isa,
        threads: &mut Threads,
        input: Source<'_>,
        residual: Option<&[f32]>,
        output: &mut [f32],
    ) {
        let size = self.window.output(input.size).expect("the window fits the input");
        let pixels = size[0] * size[1];
        let width = padded(self.outputs);
        assert!(input.stride >= self.inputs && input.data.len() >= input.size[0] * input.size[1] * input.stride);
        assert!(output.len() >= pixels * width && residual.is_none_or(|r| r.len() >= pixels * width));
        assert!(isa.is_available());
        let shared = Shared::new(output);
        // One pixel is split by channels, many by pixels.
        let blocks = width / BLOCK;
        let by_channel = pixels < 4 * threads.count();
        let work = |range: Range<usize>, scratch: &mut Buffer<u8>| {
            let (pixels, blocks) = if by_channel { (0..pixels, range) } else { (range, 0..blocks) };
            let job = Job { conv: self, input, size, residual, output: shared, pixels, blocks };
            // SAFETY: the machine has the instruction set; lengths are checked above; the ranges of the threads are
            // disjoint, in pixels or in blocks of channels, so no place is written twice.
            unsafe { dispatch!(isa, run_part, (&job, scratch.view()), (&Job<'_>, &mut [*const f32])) }
        };
        if by_channel {
            threads.split(blocks, 1, self.scratch(), &work);
        } else {
            threads.split(pixels, 1, self.scratch(), &work);
        }
    }
}

/// What one thread does.
struct Job<'a> {
    conv: &'a Conv,
    input: Source<'a>,
    size: [usize; 2],
    residual: Option<&'a [f32]>,
    output: Shared<'a, f32>,
    pixels: Range<usize>,
    blocks: Range<usize>,
}

#[inline(always)]
unsafe fn run_part<S: Simd, const V: usize, const R: usize>((job, rows): (&Job<'_>, &mut [*const f32])) {
    let taps = job.conv.window.kernel[0] * job.conv.window.kernel[1];
    assert!(rows.len() >= PIXELS * taps);
    let mut at = job.pixels.start;
    while at < job.pixels.end {
        let left = job.pixels.end - at;
        let count = left.div_ceil(left.div_ceil(PIXELS));
        // Tiles of equal height: 49 pixels are seven tiles of seven rather than six of eight and one of one.
        let height = count.div_ceil(count.div_ceil(R));
        find_rows(job, at..at + count, height, rows);
        let mut block = job.blocks.start;
        while block < job.blocks.end {
            let wide = V == 1 && block + 1 < job.blocks.end;
            let mut done = 0;
            while done < count {
                let h = height.min(count - done);
                let table = rows.as_ptr().add(done * taps);
                if wide {
                    pick::<S, 2, R>(job, h, taps, table, at + done, block);
                } else {
                    pick::<S, V, R>(job, h, taps, table, at + done, block);
                }
                done += h;
            }
            block += if wide { 2 } else { 1 };
        }
        at += count;
    }
}

/// Fills the table of input rows, `[tile, tap, pixel of the tile]`.
#[inline(always)]
unsafe fn find_rows(job: &Job<'_>, pixels: Range<usize>, height: usize, rows: &mut [*const f32]) {
    let w = &job.conv.window;
    let [taps_y, taps_x] = w.kernel;
    let data = job.input.data.as_ptr();
    let count = pixels.len();
    for (i, pixel) in pixels.enumerate() {
        let (y, x) = (pixel / job.size[1], pixel % job.size[1]);
        let tile = i / height * height;
        let (in_tile, tile_height) = (i - tile, height.min(count - tile));
        let base = tile * taps_y * taps_x + in_tile;
        let (ys, xs) = (w.taps(0, y, job.input.size[0]), w.taps(1, x, job.input.size[1]));
        for ty in 0..taps_y {
            for tx in 0..taps_x {
                let row = if ys.contains(&ty) && xs.contains(&tx) {
                    let at = w.pixel(0, y, ty) * job.input.size[1] + w.pixel(1, x, tx);
                    data.add(at * job.input.stride)
                } else {
                    job.conv.zeros.as_ptr()
                };
                *rows.get_unchecked_mut(base + (ty * taps_x + tx) * tile_height) = row;
            }
        }
    }
}

/// Calls the tile of `height` rows.
#[inline(always)]
unsafe fn pick<S: Simd, const V: usize, const R: usize>(
    job: &Job<'_>,
    height: usize,
    taps: usize,
    rows: *const *const f32,
    pixel: usize,
    block: usize,
) {
    macro_rules! heights {
        ($($h:literal)*) => {
            match height {
                $($h if $h <= R => tile::<S, V, $h>(job, taps, rows, pixel, block),)*
                _ => unreachable!("tiles have 1 to R rows"),
            }
        };
    }
    heights!(1 2 3 4 5 6 7 8)
}

/// Computes `H` pixels of `V` vectors of channels.
#[inline(always)]
unsafe fn tile<S: Simd, const V: usize, const H: usize>(
    job: &Job<'_>,
    taps: usize,
    rows: *const *const f32,
    pixel: usize,
    block: usize,
) {
    let conv = job.conv;
    let k = conv.inputs;
    let depth = taps * k * BLOCK;
    let weights = conv.weights.as_ptr().add(block * depth);
    // Vector `v` of a tile is in block `v * LANES / BLOCK` of the weights.
    let mut b: [*const f32; V] = [weights; V];
    for (v, p) in b.iter_mut().enumerate() {
        *p = weights.add(v * S::LANES / BLOCK * depth + v * S::LANES % BLOCK);
    }
    let mut acc = [[S::splat(0.0); V]; H];
    for v in 0..V {
        let bias = S::load(conv.bias.as_ptr().add(block * BLOCK + v * S::LANES));
        for row in &mut acc {
            row[v] = bias;
        }
    }
    for tap in 0..taps {
        let mut a = [std::ptr::null(); H];
        for (h, p) in a.iter_mut().enumerate() {
            *p = *rows.add(tap * H + h);
        }
        for i in 0..k {
            let mut w = [S::splat(0.0); V];
            for v in 0..V {
                w[v] = S::load(b[v].add((tap * k + i) * BLOCK));
            }
            for h in 0..H {
                let x = S::splat(*a[h].add(i));
                for v in 0..V {
                    acc[h][v] = S::fma(x, w[v], acc[h][v]);
                }
            }
        }
    }
    let width = padded(conv.outputs);
    for (h, row) in acc.iter_mut().enumerate() {
        let at = (pixel + h) * width + block * BLOCK;
        if let Some(residual) = job.residual {
            for (v, x) in row.iter_mut().enumerate() {
                *x = S::add(*x, S::load(residual.as_ptr().add(at + v * S::LANES)));
            }
        }
        apply::<S, V>(row, conv.activation);
        let out = job.output.at(at);
        for (v, x) in row.iter().enumerate() {
            S::store(out.add(v * S::LANES), *x);
        }
    }
}

/// Pixels whose input rows are looked up together; their inputs stay in the cache while the weights pass by.
const PIXELS: usize = 96;

#[cfg(test)]
mod tests;
