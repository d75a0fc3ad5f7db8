//! The inner loop of the convolution: a tile of pixels by vectors of channels, held in registers.

use crate::BLOCK;
use crate::simd::Simd;

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

impl Even {
    /// Returns the pixels from the given one on.
    #[inline(always)]
    pub(super) unsafe fn after(self, pixels: usize) -> Self {
        Self { start: self.start.add(pixels * self.step), ..self }
    }
}

impl Rows for Even {
    #[inline(always)]
    unsafe fn row<const H: usize>(self, y: usize, x: usize, h: usize) -> *const f32 {
        self.start.add(y * self.tap[0] + x * self.tap[1] + h * self.step)
    }
}

/// A matrix product of input pixels, found by [`Rows`], with packed weights, and how it is closed.
///
/// Whoever makes one promises that what it points to is there for every pixel and block that is then asked for.
pub(super) struct Product {
    /// Taps on the height and on the width.
    pub(super) taps: [usize; 2],
    /// Channels of a tap.
    pub(super) inputs: usize,
    /// `[blocks, taps, inputs, BLOCK]`.
    pub(super) weights: *const f32,
    /// `[blocks, BLOCK]`.
    pub(super) bias: *const f32,
    /// `[pixels, width]`, added before the clamp.
    pub(super) residual: Option<*const f32>,
    /// Smallest and largest result.
    pub(super) bounds: (f32, f32),
    /// `[pixels, width]`.
    pub(super) output: *mut f32,
    pub(super) width: usize,
}

/// Returns how many blocks are computed together, of those left, where a block is `V` vectors: three of one vector if it can
/// be, one never beside others, as its few multiply-adds would wait for each other.
#[inline(always)]
pub(super) fn together<const V: usize>(left: usize) -> usize {
    match left {
        _ if V > 1 => 1,
        0 | 1 => 1,
        2 | 4 => 2,
        _ => 3,
    }
}

/// Computes `height` pixels, at most `R`, of as many blocks as [`together`] says.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, const V: usize, const R: usize>(
    product: &Product,
    height: usize,
    rows: impl Rows,
    pixel: usize,
    block: usize,
    blocks: usize,
) {
    match blocks {
        2 if V == 1 => pick::<S, 2, R>(product, height, rows, pixel, block),
        3 if V == 1 => pick::<S, 3, R>(product, height, rows, pixel, block),
        _ => pick::<S, V, R>(product, height, rows, pixel, block),
    }
}

#[inline(always)]
unsafe fn pick<S: Simd, const V: usize, const R: usize>(
    product: &Product,
    height: usize,
    rows: impl Rows,
    pixel: usize,
    block: usize,
) {
    macro_rules! heights {
        ($($h:literal)*) => {
            match height {
                $($h if $h <= R => tile::<S, V, $h>(product, rows, pixel, block),)*
                _ => unreachable!("tiles have 1 to R rows"),
            }
        };
    }
    heights!(1 2 3 4 5 6 7 8)
}

/// Computes `H` pixels of `V` vectors of channels.
#[inline(always)]
unsafe fn tile<S: Simd, const V: usize, const H: usize>(
    product: &Product,
    rows: impl Rows,
    pixel: usize,
    block: usize,
) {
    let ([taps_y, taps_x], inputs, width) = (product.taps, product.inputs, product.width);
    let panel = taps_y * taps_x * inputs * BLOCK;
    let weights = product.weights.add(block * panel);
    // Vector `v` of a tile is in block `v * LANES / BLOCK` of the weights.
    let mut b = [weights; V];
    for (v, p) in b.iter_mut().enumerate() {
        *p = weights.add(v * S::LANES / BLOCK * panel + v * S::LANES % BLOCK);
    }
    let mut acc = [[S::splat(0.0); V]; H];
    for v in 0..V {
        let bias = S::load(product.bias.add(block * BLOCK + v * S::LANES));
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
            if inputs == 3 {
                // The colours of a picture: a loop of three is worth unrolling.
                S::products::<V, H>(&mut acc, &a, &mut b, 3);
            } else {
                S::products::<V, H>(&mut acc, &a, &mut b, inputs);
            }
        }
    }
    let at = pixel * width + block * BLOCK;
    if let Some(residual) = product.residual {
        for (h, row) in acc.iter_mut().enumerate() {
            for (v, x) in row.iter_mut().enumerate() {
                *x = S::add(*x, S::load(residual.add(at + h * width + v * S::LANES)));
            }
        }
    }
    let (low, high) = (S::splat(product.bounds.0), S::splat(product.bounds.1));
    let out = product.output.add(at);
    for (h, row) in acc.iter().enumerate() {
        for (v, x) in row.iter().enumerate() {
            S::store(out.add(h * width + v * S::LANES), S::min(S::max(*x, low), high));
        }
    }
}
