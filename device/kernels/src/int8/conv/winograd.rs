//! Winograd's method for 3x3 windows on words: four ninths of the multiplications, and the same sums to the last unit.
//!
//! A patch of 4 x 4 inputs and the weights are transformed so that the convolution becomes 16 products, one a place of the patch,
//! and those are transformed back to 2 x 2 outputs. With the transform of the weights doubled on each axis all of it is whole
//! numbers: inputs become words of at most 1020, weights of at most 1152, and what comes out is four times the sum.
//!
//! # Source
//!
//! Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, arXiv:1509.09308, F(2 x 2, 3 x 3).

use std::ops::Range;

use super::{Conv, Job, Source, write};
use crate::int8::simd::{Avx2, Bytes, Words};
use crate::tiles::{self, Ground, column};
use crate::{BLOCK, Buffer, Isa, Window, padded};

/// Whether the method is faster than the definition for inputs of `size`.
pub(super) fn pays(conv: &Conv, size: [usize; 2]) -> bool {
    places(conv.isa, conv.window, conv.inputs).is_some()
        && conv.window.output(size).is_some_and(|out| tiles(out) >= FEWEST_TILES)
}

/// Returns how many weights become of those of a window, or none where the method does not compute it.
pub(super) fn places(isa: Isa, window: Window, inputs: usize) -> Option<usize> {
    let own = Window { kernel: [3; 2], before: window.before, after: window.after, ..Window::POINT };
    (isa == Isa::Avx2 && window == own && inputs.is_multiple_of(BLOCK) && inputs <= MOST_INPUTS).then_some(PLACES)
}

/// Returns the transformed weights of a convolution that holds direct ones.
pub(super) fn weights(conv: &Conv) -> Buffer<u8> {
    let (groups, blocks) = (conv.groups, padded(conv.outputs) / BLOCK);
    let mut all = Buffer::zeros(PLACES * blocks * groups * GROUP);
    for (block, group) in (0..blocks).flat_map(|block| (0..groups).map(move |group| (block, group))) {
        for (o, i) in (0..BLOCK).flat_map(|o| (0..4).map(move |i| (o, i))) {
            // The even inputs of four come before the odd ones in direct weights, and the first two before the last two here.
            let [from, to] = [[i % 2, i / 2], [i / 2, i % 2]]
                .map(|[pair, at]| (o / Avx2::LANES * 2 + pair) * Avx2::LANES * 4 + o % Avx2::LANES * 4 + at * 2);
            let mut g = [[0; 3]; 3];
            for (tap, g) in g.as_flattened_mut().iter_mut().enumerate() {
                let at = ((block * 9 + tap) * groups + group) * GROUP + from;
                *g = i16::from_le_bytes([conv.weights[at], conv.weights[at + 1]]);
            }
            let lines = g.map(weight_line);
            for x in 0..SIDE {
                for (y, value) in weight_line(lines.map(|line| line[x])).into_iter().enumerate() {
                    let at = (((y * SIDE + x) * blocks + block) * groups + group) * GROUP + to;
                    all[at..at + 2].copy_from_slice(&value.to_le_bytes());
                }
            }
        }
    }
    all
}

/// Returns the bytes of working memory that a thread needs.
pub(super) fn scratch(conv: &Conv) -> usize {
    let batch = batch(conv);
    PLACES * (plane(batch, conv.inputs) * size_of::<i16>() + plane(batch, BLOCK) * size_of::<i32>())
}

/// Returns the number of tiles of an output.
pub(super) fn tiles(out: [usize; 2]) -> usize {
    tiles::count(out, TILE)
}

/// Computes some tiles.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run_tiles_avx2(job: &Job<'_>, tiles: Range<usize>, scratch: &mut Buffer<u8>) {
    run_tiles::<Avx2, 2, 6>(job, tiles, scratch);
}

#[inline(always)]
unsafe fn run_tiles<S: Words, const V: usize, const R: usize>(
    job: &Job<'_>,
    tiles: Range<usize>,
    scratch: &mut Buffer<u8>,
) {
    let conv = job.conv;
    let (blocks, limit) = (padded(conv.outputs) / BLOCK, batch(conv));
    let (inner, outer) = (plane(limit, conv.inputs), plane(limit, BLOCK));
    assert!(scratch.len() >= self::scratch(conv) && V * S::LANES == BLOCK);
    // Both parts start on a cache line.
    let patches = scratch.as_mut_ptr().cast::<i16>();
    let results = patches.add(PLACES * inner).cast::<i32>();
    let mut at = tiles.start;
    while at < tiles.end {
        let left = tiles.end - at;
        let count = left.div_ceil(left.div_ceil(limit));
        for tile in 0..count {
            spread::<S>(job, at + tile, patches.add(tile * conv.inputs), inner);
        }
        for block in 0..blocks {
            for place in 0..PLACES {
                let weights = conv.weights.as_ptr().add((place * blocks + block) * conv.groups * GROUP);
                let (from, to) = (patches.add(place * inner), results.add(place * outer));
                let runs = count.div_ceil(R);
                for run in 0..runs {
                    let (start, end) = (run * count / runs, (run + 1) * count / runs);
                    let (from, to) = (from.add(start * conv.inputs), to.add(start * BLOCK));
                    multiply::<S, V, R>(end - start, from, conv.inputs, weights, to);
                }
            }
            for tile in 0..count {
                gather::<S, V>(job, at + tile, results.add(tile * BLOCK), outer, block);
            }
        }
        at += count;
    }
}

/// Multiplies `height` rows of `inputs` words with the weights of a block.
#[inline(always)]
unsafe fn multiply<S: Words, const V: usize, const R: usize>(
    height: usize,
    rows: *const i16,
    inputs: usize,
    weights: *const u8,
    to: *mut i32,
) {
    macro_rules! heights {
        ($($h:literal)*) => {
            match height {
                $($h if $h <= R => product::<S, V, $h>(rows, inputs, weights, to),)*
                _ => unreachable!("tiles have 1 to R rows"),
            }
        };
    }
    heights!(1 2 3 4 5 6)
}

#[inline(always)]
unsafe fn product<S: Words, const V: usize, const H: usize>(
    rows: *const i16,
    inputs: usize,
    weights: *const u8,
    to: *mut i32,
) {
    let mut sums = [[S::sums(ZEROS.as_ptr()); V]; H];
    let mut a = [std::ptr::null(); H];
    for (h, a) in a.iter_mut().enumerate() {
        *a = rows.add(h * inputs).cast::<u8>();
    }
    S::products::<V, H>(&mut sums, &a, &mut [weights; V], inputs / 4, true);
    for (h, row) in sums.iter().enumerate() {
        for (v, sum) in row.iter().enumerate() {
            S::store_sums(to.add(h * BLOCK + v * S::LANES), *sum);
        }
    }
}

/// Transforms the input patch of a tile into its place in every one of `patches`, which are `plane` words apart.
#[inline(always)]
unsafe fn spread<S: Words>(job: &Job<'_>, tile: usize, patches: *mut i16, plane: usize) {
    let Source { data, size, stride, .. } = job.input;
    let padding = job.conv.padding.as_ptr();
    let ground = Ground { data: data.as_ptr(), size, stride, before: job.window.before, padding };
    let from = ground.patch::<SIDE>(tiles::corner(tile, job.size, TILE));
    for channel in (0..job.conv.inputs).step_by(S::WORDS) {
        let zero = S::words(padding);
        let mut rows = [[zero; SIDE]; SIDE];
        for (row, from) in rows.iter_mut().zip(&from) {
            for (value, p) in row.iter_mut().zip(from) {
                *value = S::words(p.add(channel));
            }
            *row = input_line::<S>(*row);
        }
        for x in 0..SIDE {
            let places = input_line::<S>(column(&rows, x));
            for (y, value) in places.iter().enumerate() {
                S::store_words(patches.add((y * SIDE + x) * plane + channel), *value);
            }
        }
    }
}

/// Transforms a tile's products of a block back, and closes and writes those of its outputs that are on the picture.
#[inline(always)]
unsafe fn gather<S: Words, const V: usize>(
    job: &Job<'_>,
    tile: usize,
    results: *const i32,
    plane: usize,
    block: usize,
) {
    let [ty, tx] = tiles::corner(tile, job.size, TILE);
    let [h, w] = job.size;
    let start = job.conv.start.as_ptr().add(block * BLOCK);
    let mut sums = [[[S::sums(start); V]; TILE]; TILE];
    for v in 0..V {
        let mut rows = [[sums[0][0][0]; TILE]; SIDE];
        for (y, row) in rows.iter_mut().enumerate() {
            let mut line = [sums[0][0][0]; SIDE];
            for (x, value) in line.iter_mut().enumerate() {
                *value = S::sums(results.add((y * SIDE + x) * plane + v * S::LANES));
            }
            *row = output_line::<S>(line);
        }
        let start = S::sums(start.add(v * S::LANES));
        let columns = [output_line::<S>(column(&rows, 0)), output_line::<S>(column(&rows, 1))];
        for (y, row) in sums.iter_mut().enumerate() {
            for (sum, column) in row.iter_mut().zip(&columns) {
                sum[v] = S::add_sums(S::quarter(column[y]), start);
            }
        }
    }
    for (dy, row) in sums.iter().enumerate().take(h - ty) {
        let pixel = (ty + dy) * w + tx;
        if tx + TILE <= w {
            write::<S, V, TILE>(job, row, pixel, block);
        } else {
            write::<S, V, 1>(job, &[row[0]], pixel, block);
        }
    }
}

/// Transforms three weights, doubled.
fn weight_line(g: [i16; 3]) -> [i16; SIDE] {
    [2 * g[0], g[0] + g[1] + g[2], g[0] - g[1] + g[2], 2 * g[2]]
}

/// Transforms four inputs.
#[inline(always)]
unsafe fn input_line<S: Words>(d: [S::H; SIDE]) -> [S::H; SIDE] {
    [S::sub_words(d[0], d[2]), S::add_words(d[1], d[2]), S::sub_words(d[2], d[1]), S::sub_words(d[1], d[3])]
}

/// Transforms four products back to two outputs.
#[inline(always)]
unsafe fn output_line<S: Words>(m: [S::I; SIDE]) -> [S::I; TILE] {
    let (both, apart) = (S::add_sums(m[1], m[2]), S::sub_sums(m[1], m[2]));
    [S::add_sums(m[0], both), S::sub_sums(apart, m[3])]
}

/// Returns how many tiles are computed together: as many as keep the patches in half of a second cache of 512 KB, and enough to
/// make up for reading the weights once each time.
fn batch(conv: &Conv) -> usize {
    ((256 << 10) / (PLACES * conv.inputs * size_of::<i16>())).clamp(16, 96)
}

/// Returns the numbers between one place's matrix and the next: not a power of two, which would put a patch's places into the
/// same set of the cache.
fn plane(rows: usize, width: usize) -> usize {
    rows * width + 2 * BLOCK
}

static ZEROS: [i32; BLOCK] = [0; BLOCK];
/// Outputs on each axis of a tile.
const TILE: usize = 2;
/// Inputs on each axis of a patch.
const SIDE: usize = 4;
const PLACES: usize = SIDE * SIDE;
/// Bytes of four weights of each output of a block.
const GROUP: usize = BLOCK * 4 * size_of::<i16>();
/// Tiles below which reading the weights costs more than the multiplications saved.
const FEWEST_TILES: usize = 8;
/// With up to 1827 of them, four times the largest sum fits in 32 bits.
const MOST_INPUTS: usize = 1024;
