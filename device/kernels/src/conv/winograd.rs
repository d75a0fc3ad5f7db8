//! Winograd's method for 3x3 windows: a quarter of the multiplications.
//!
//! An input patch of 6 x 6 pixels and the weights are transformed so that the convolution becomes 36 products, one a
//! place of the patch, and those are transformed back to 4 x 4 outputs. Over many patches each place is a matrix product.
//!
//! # Source
//!
//! Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, arXiv:1509.09308; the points of interpolation,
//! 0, ±1/√2, ±√2 and infinity, are ncnn's: they round better than the usual 0, ±1, ±2.

use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};
use std::mem::MaybeUninit;
use std::ops::Range;

use super::tile::{Even, Product, multiply, together};
use super::{Conv, Job, Source};
use crate::activation::close;
use crate::exchange::Shared;
use crate::simd::Simd;
use crate::tiles::{self, Ground, column};
use crate::{BLOCK, Buffer, Threads, Window, padded};

/// Whether the method is faster than the definition for so many inputs of `size`.
pub(super) fn pays(conv: &Conv, size: [usize; 2], pictures: usize) -> bool {
    places(conv.window, conv.inputs).is_some()
        && PLACES * conv.inputs * padded(conv.outputs) * size_of::<f32>() <= MOST_WEIGHTS
        && conv.window.output(size).is_some_and(|out| pictures * tiles(out) >= FEWEST_TILES)
}

/// Returns how many weights become of those of a window, or none where the method does not compute it.
pub(super) fn places(window: Window, inputs: usize) -> Option<usize> {
    let own = Window { kernel: [3; 2], before: window.before, after: window.after, ..Window::POINT };
    (window == own && inputs.is_multiple_of(BLOCK)).then_some(PLACES)
}

/// Returns the transformed weights of a convolution that holds direct ones, `[places, outputs / BLOCK, inputs, BLOCK]`.
pub(super) fn weights(conv: &Conv, threads: &mut Threads) -> Buffer {
    let (inputs, blocks) = (conv.inputs, padded(conv.outputs) / BLOCK);
    let direct = conv.weights.as_chunks::<BLOCK>().0;
    let transform = |rows: &mut [MaybeUninit<[f32; BLOCK]>]| {
        let rows = Shared::new(rows);
        threads.split(blocks, 1, 0, &|range, _| {
            for (block, i) in range.flat_map(|block| (0..inputs).map(move |i| (block, i))) {
                let mut g = [[[0.0; BLOCK]; 3]; 3];
                for (tap, g) in g.as_flattened_mut().iter_mut().enumerate() {
                    *g = direct[(block * 9 + tap) * inputs + i].map(f64::from);
                }
                let lines = g.map(weight_line);
                for x in 0..SIDE {
                    for (y, values) in weight_line(column(&lines, x)).into_iter().enumerate() {
                        let place = y * SIDE + x;
                        // SAFETY: a row of a block, and a block is one thread's alone.
                        unsafe {
                            (*rows.at((place * blocks + block) * inputs + i)).write(values.map(|v| v as f32));
                        }
                    }
                }
            }
        });
    };
    // SAFETY: every place of every block and input is written.
    unsafe { Buffer::written(PLACES * blocks * inputs, transform) }
}

/// Returns the bytes of working memory that a thread needs.
pub(super) fn scratch(conv: &Conv) -> usize {
    let batch = batch(conv);
    PLACES * (plane(batch, conv.inputs) + plane(batch, WIDEST)) * size_of::<f32>()
}

/// Returns the number of tiles of an output.
pub(super) fn tiles(out: [usize; 2]) -> usize {
    tiles::count(out, TILE)
}

/// What one thread does.
pub(super) struct Part<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) tiles: Range<usize>,
}

#[inline(always)]
pub(super) unsafe fn run_tiles<S: Simd, const V: usize, const R: usize>((part, memory): (Part<'_>, &mut [f32])) {
    let (job, conv) = (part.job, part.job.conv);
    let blocks = padded(conv.outputs) / BLOCK;
    let (inner, limit) = (plane(batch(conv), conv.inputs), batch(conv));
    let (patches, results) = memory.split_at_mut(PLACES * inner);
    let outer = plane(limit, WIDEST);
    assert!(results.len() >= PLACES * outer);
    let zeros = [0.0; WIDEST];
    let mut at = part.tiles.start;
    while at < part.tiles.end {
        let left = part.tiles.end - at;
        let count = left.div_ceil(left.div_ceil(limit));
        for tile in 0..count {
            spread::<S>(job, at + tile, patches.as_mut_ptr().add(tile * conv.inputs), inner);
        }
        let mut block = 0;
        while block < blocks {
            let some = together::<V>(blocks - block);
            for place in 0..PLACES {
                let product = Product {
                    taps: [1, 1],
                    inputs: conv.inputs,
                    weights: conv.weights.as_ptr().add((place * blocks + block) * conv.inputs * BLOCK),
                    bias: zeros.as_ptr(),
                    residual: None,
                    bounds: (f32::NEG_INFINITY, f32::INFINITY),
                    output: results.as_mut_ptr().add(place * outer),
                    width: WIDEST,
                };
                let rows = Even { start: patches.as_ptr().add(place * inner), step: conv.inputs, tap: [0; 2] };
                let groups = count.div_ceil(R);
                for group in 0..groups {
                    let (start, end) = (group * count / groups, (group + 1) * count / groups);
                    multiply::<S, V, R>(&product, end - start, rows.after(start), start, 0, some);
                }
            }
            for tile in 0..count {
                gather::<S, V>(job, at + tile, results.as_ptr().add(tile * WIDEST), outer, block..block + some);
            }
            block += some;
        }
        at += count;
    }
}

/// Transforms the input patch of a tile into its place in every one of `patches`, which are `plane` numbers apart.
#[inline(always)]
unsafe fn spread<S: Simd>(job: &Job<'_>, tile: usize, patches: *mut f32, plane: usize) {
    let (picture, corner) = corner(job, tile);
    let Source { data, size, stride, .. } = job.input;
    let data = data.as_ptr().add(picture * size[0] * size[1] * stride);
    let ground = Ground { data, size, stride, before: job.window.before, padding: job.conv.zeros.as_ptr() };
    let from = ground.patch::<SIDE>(corner);
    for channel in (0..job.conv.inputs).step_by(S::LANES) {
        let mut rows = [[S::splat(0.0); SIDE]; SIDE];
        for (row, from) in rows.iter_mut().zip(&from) {
            for (value, p) in row.iter_mut().zip(from) {
                *value = S::load(p.add(channel));
            }
            *row = input_line::<S>(*row);
        }
        for x in 0..SIDE {
            let places = input_line::<S>(column(&rows, x));
            for (y, value) in places.iter().enumerate() {
                S::store(patches.add((y * SIDE + x) * plane + channel), *value);
            }
        }
    }
}

/// Transforms a tile's products back, and closes and writes those of its outputs that are on the picture.
#[inline(always)]
unsafe fn gather<S: Simd, const V: usize>(
    job: &Job<'_>,
    tile: usize,
    results: *const f32,
    plane: usize,
    blocks: Range<usize>,
) {
    let (picture, [ty, tx]) = corner(job, tile);
    let (conv, [h, w]) = (job.conv, job.size);
    let start = picture * h * w;
    let width = padded(conv.outputs);
    let (low, high) = conv.activation.bounds();
    let (low, high) = (S::splat(low), S::splat(high));
    let len = blocks.len() * BLOCK;
    for channel in (0..len).step_by(S::LANES) {
        let mut rows = [[S::splat(0.0); TILE]; SIDE];
        for (y, row) in rows.iter_mut().enumerate() {
            let mut line = [S::splat(0.0); SIDE];
            for (x, value) in line.iter_mut().enumerate() {
                *value = S::load(results.add((y * SIDE + x) * plane + channel));
            }
            *row = output_line::<S>(line);
        }
        let at = blocks.start * BLOCK + channel;
        let bias = S::load(conv.bias.as_ptr().add(at));
        for dx in 0..TILE.min(w - tx) {
            for (dy, value) in output_line::<S>(column(&rows, dx)).iter().enumerate().take(h - ty) {
                let at = (start + (ty + dy) * w + tx + dx) * width + at;
                let mut value = S::add(*value, bias);
                if let Some(residual) = job.residual {
                    value = S::add(value, S::load(residual.as_ptr().add(at)));
                }
                S::store(job.output.at(at), S::min(S::max(value, low), high));
            }
        }
    }
    for y in ty..h.min(ty + TILE) {
        for x in tx..w.min(tx + TILE) {
            close::<S, V>(job.output.at((start + y * w + x) * width + blocks.start * BLOCK), len, conv.activation);
        }
    }
}

/// Returns the picture of a tile and its first output.
#[inline(always)]
fn corner(job: &Job<'_>, tile: usize) -> (usize, [usize; 2]) {
    let each = tiles(job.size);
    (tile / each, tiles::corner(tile % each, job.size, TILE))
}

/// Transforms three weights of each of some outputs.
#[inline(always)]
fn weight_line<const N: usize>(g: [[f64; N]; 3]) -> [[f64; N]; SIDE] {
    let root = std::f64::consts::SQRT_2;
    let mut line = [[0.0; N]; SIDE];
    for o in 0..N {
        let (even, odd) = (g[0][o] + g[2][o] / 2.0, g[1][o] * root / 2.0);
        let (wide, far) = (g[0][o] / 2.0 + g[2][o], g[1][o] * root / 2.0);
        line[0][o] = g[0][o];
        line[1][o] = (even + odd) * -2.0 / 3.0;
        line[2][o] = (even - odd) * -2.0 / 3.0;
        line[3][o] = (wide + far) / 3.0;
        line[4][o] = (wide - far) / 3.0;
        line[5][o] = g[2][o];
    }
    line
}

/// Transforms six inputs.
#[inline(always)]
unsafe fn input_line<S: Simd>(d: [S::V; SIDE]) -> [S::V; SIDE] {
    let near = (scaled::<S>(-2.0, d[2], d[4]), scaled::<S>(-2.0, d[1], d[3]));
    let far = (scaled::<S>(-0.5, d[2], d[4]), scaled::<S>(-0.5, d[1], d[3]));
    [
        scaled::<S>(-2.5, d[2], S::add(d[0], d[4])),
        scaled::<S>(FRAC_1_SQRT_2, near.1, near.0),
        scaled::<S>(-FRAC_1_SQRT_2, near.1, near.0),
        scaled::<S>(SQRT_2, far.1, far.0),
        scaled::<S>(-SQRT_2, far.1, far.0),
        scaled::<S>(-2.5, d[3], S::add(d[1], d[5])),
    ]
}

/// Transforms six products back to four outputs.
#[inline(always)]
unsafe fn output_line<S: Simd>(m: [S::V; SIDE]) -> [S::V; TILE] {
    let minus = S::splat(-1.0);
    let near = (S::add(m[1], m[2]), S::fma(m[2], minus, m[1]));
    let far = (S::add(m[3], m[4]), S::fma(m[4], minus, m[3]));
    let odd = scaled::<S>(2.0, far.1, near.1);
    [
        S::add(m[0], S::add(near.0, far.0)),
        S::mul(S::splat(FRAC_1_SQRT_2), odd),
        scaled::<S>(0.5, near.0, S::mul(S::splat(2.0), far.0)),
        scaled::<S>(SQRT_2 / 4.0, scaled::<S>(8.0, far.1, near.1), m[5]),
    ]
}

/// Returns `factor * a + b`.
#[inline(always)]
unsafe fn scaled<S: Simd>(factor: f32, a: S::V, b: S::V) -> S::V {
    S::fma(S::splat(factor), a, b)
}

/// Returns how many tiles are computed together: as many as keep the patches in half of a second cache of 1 MB, and enough
/// to make up for reading the weights once each time.
fn batch(conv: &Conv) -> usize {
    ((512 << 10) / (PLACES * conv.inputs * size_of::<f32>())).max(16)
}

/// Returns the numbers between one place's matrix and the next: not a power of two, which would put a patch's places into the
/// same set of the cache.
fn plane(rows: usize, width: usize) -> usize {
    rows * width + BLOCK
}

/// Outputs on each axis of a tile.
const TILE: usize = 4;
/// Inputs on each axis of a patch.
const SIDE: usize = 6;
const PLACES: usize = SIDE * SIDE;
/// Channels that are computed together at most.
const WIDEST: usize = 3 * BLOCK;
/// Tiles below which reading the weights costs more than the multiplications saved.
const FEWEST_TILES: usize = 8;
/// Bytes of transformed weights.
const MOST_WEIGHTS: usize = 10 << 20;
