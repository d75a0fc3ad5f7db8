//! AArch64: NEON.

use std::arch::aarch64::*;

use super::Simd;
use crate::BLOCK;

/// Four lanes.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn splat(x: f32) -> float32x4_t {
        vdupq_n_f32(x)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> float32x4_t {
        vld1q_f32(p)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: float32x4_t) {
        vst1q_f32(p, v)
    }
    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vaddq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vmulq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vdivq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        vfmaq_f32(c, a, b)
    }
    #[inline(always)]
    unsafe fn products<const V: usize, const H: usize>(
        sums: &mut [[float32x4_t; V]; H],
        rows: &[*const f32; H],
        weights: &mut [*const f32; V],
        depth: usize,
    ) {
        // The vectors of a block lie one after the other.
        assert!(V * Self::LANES <= BLOCK);
        let (mut a, mut b) = (*rows, weights[0]);
        // A load of four numbers a row, each multiplied as an element, saves three that would fill a vector with one.
        for _ in 0..depth / 4 {
            let mut x = [vdupq_n_f32(0.0); H];
            for h in 0..H {
                x[h] = vld1q_f32(a[h]);
                a[h] = a[h].add(4);
            }
            macro_rules! elements {
                ($($element:literal)*) => {$(
                    for v in 0..V {
                        let w = vld1q_f32(b.add(v * Self::LANES));
                        for h in 0..H {
                            sums[h][v] = vfmaq_laneq_f32::<$element>(sums[h][v], w, x[h]);
                        }
                    }
                    b = b.add(BLOCK);
                )*};
            }
            elements!(0 1 2 3);
        }
        for i in 0..depth % 4 {
            for v in 0..V {
                let w = vld1q_f32(b.add(v * Self::LANES));
                for h in 0..H {
                    sums[h][v] = vfmaq_n_f32(sums[h][v], w, *a[h].add(i));
                }
            }
            b = b.add(BLOCK);
        }
        for p in weights {
            *p = p.add(depth * BLOCK);
        }
    }
    #[inline(always)]
    unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vmaxq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vminq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn round(a: float32x4_t) -> float32x4_t {
        vrndnq_f32(a)
    }
    #[inline(always)]
    unsafe fn times_pow2(a: float32x4_t, n: float32x4_t) -> float32x4_t {
        let bits = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
        vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32::<23>(bits)))
    }
}
