//! The inner loop of the convolution: a tile of pixels by vectors of channels, held in registers.

use super::Job;
use crate::simd::Simd;
use crate::{BLOCK, padded};

/// Where the taps of a tile's pixels find their input.
pub(super) trait Rows: Copy {
    /// Returns the address of the input pixel that tap `[y, x]` of pixel `h`, of `H`, sees.
    unsafe fn row<const H: usize>(self, y: usize, x: usize, h: usize) -> *const f32;
}

/// Addresses `[tap, pixel]`, for pixels anywhere.
#[derive(Clone, Copy)]
pub(super) struct Table {
    pub(super) rows: *const *const f32,
    /// Taps on the width.
    pub(super) taps: usize,
}

impl Rows for Table {
    #[inline(always)]
    unsafe fn row<const H: usize>(self, y: usize, x: usize, h: usize) -> *const f32 {
        *self.rows.add((y * self.taps + x) * H + h)
    }
}

/// Steps, in numbers, for pixels that lie at equal distances and see no padding.
#[derive(Clone, Copy)]
pub(super) struct Even {
    pub(super) start: *const f32,
    /// From one pixel of the tile to the next.
    pub(super) step: usize,
    /// From one tap to the next on the height and on the width.
    pub(super) tap: [usize; 2],
}

impl Rows for Even {
    #[inline(always)]
    unsafe fn row<const H: usize>(self, y: usize, x: usize, h: usize) -> *const f32 {
        self.start.add(y * self.tap[0] + x * self.tap[1] + h * self.step)
    }
}

/// Calls the tile of `height` pixels.
#[inline(always)]
pub(super) unsafe fn pick<S: Simd, const V: usize, const R: usize>(
    job: &Job<'_>,
    height: usize,
    rows: impl Rows,
    pixel: usize,
    block: usize,
) {
    macro_rules! heights {
        ($($h:literal)*) => {
            match height {
                $($h if $h <= R => tile::<S, V, $h>(job, rows, pixel, block),)*
                _ => unreachable!("tiles have 1 to R rows"),
            }
        };
    }
    heights!(1 2 3 4 5 6 7 8)
}

/// Computes `H` pixels of `V` vectors of channels, but for an activation that is not a clamp.
#[inline(always)]
unsafe fn tile<S: Simd, const V: usize, const H: usize>(job: &Job<'_>, rows: impl Rows, pixel: usize, block: usize) {
    let conv = job.conv;
    let [taps_y, taps_x] = conv.window.kernel;
    let panel = taps_y * taps_x * conv.inputs * BLOCK;
    let weights = conv.weights.as_ptr().add(block * panel);
    // Vector `v` of a tile is in block `v * LANES / BLOCK` of the weights.
    let mut b = [weights; V];
    for (v, p) in b.iter_mut().enumerate() {
        *p = weights.add(v * S::LANES / BLOCK * panel + v * S::LANES % BLOCK);
    }
    let mut acc = [[S::splat(0.0); V]; H];
    for v in 0..V {
        let bias = S::load(conv.bias.as_ptr().add(block * BLOCK + v * S::LANES));
        for row in &mut acc {
            row[v] = bias;
        }
    }
    for y in 0..taps_y {
        for x in 0..taps_x {
            let mut a = [std::ptr::null(); H];
            for (h, p) in a.iter_mut().enumerate() {
                *p = rows.row::<H>(y, x, h);
            }
            if conv.inputs == 3 {
                // The colours of a picture: a loop of three is worth unrolling.
                products::<S, V, H>(&mut acc, &a, &mut b, 3);
            } else {
                products::<S, V, H>(&mut acc, &a, &mut b, conv.inputs);
            }
        }
    }
    let width = padded(conv.outputs);
    let at = pixel * width + block * BLOCK;
    if let Some(residual) = job.residual {
        for (h, row) in acc.iter_mut().enumerate() {
            for (v, x) in row.iter_mut().enumerate() {
                *x = S::add(*x, S::load(residual.as_ptr().add(at + h * width + v * S::LANES)));
            }
        }
    }
    let (low, high) = conv.activation.bounds();
    let (low, high) = (S::splat(low), S::splat(high));
    let out = job.output.at(at);
    for (h, row) in acc.iter().enumerate() {
        for (v, x) in row.iter().enumerate() {
            S::store(out.add(h * width + v * S::LANES), S::min(S::max(*x, low), high));
        }
    }
}

/// Adds the products of one tap, and moves `b` on to the next.
#[inline(always)]
unsafe fn products<S: Simd, const V: usize, const H: usize>(
    acc: &mut [[S::V; V]; H],
    a: &[*const f32; H],
    b: &mut [*const f32; V],
    inputs: usize,
) {
    for i in 0..inputs {
        let mut w = [S::splat(0.0); V];
        for v in 0..V {
            w[v] = S::load(b[v].add(i * BLOCK));
            S::prefetch(b[v].wrapping_add((i + AHEAD) * BLOCK));
        }
        for h in 0..H {
            let x = S::splat(*a[h].add(i));
            for v in 0..V {
                acc[h][v] = S::fma(x, w[v], acc[h][v]);
            }
        }
    }
    for p in b {
        *p = p.add(inputs * BLOCK);
    }
}

/// Multiplications from a weight's use back to where it is asked for, so that it arrives from the second or third cache.
const AHEAD: usize = 32;
