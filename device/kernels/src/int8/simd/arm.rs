//! AArch64: NEON, with and without the instruction that multiplies bytes and sums fours (FEAT_DotProd).
//!
//! Both multiply signed bytes: an activation counts 128 less than what it is, which `Format::zero` makes up for.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Bytes, Finish, Format, Order};
use crate::int8::Steps;
use crate::simd::arm;

/// Four lanes, sums of two products in 16 bits.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// Four lanes, sums of four products.
#[derive(Clone, Copy)]
pub(crate) struct NeonDot;

/// What both share.
macro_rules! four_lanes {
    () => {
        type F = arm::Neon;
        type Q = uint8x16_t;
        #[inline(always)]
        unsafe fn load(p: *const u8) -> uint8x16_t {
            vld1q_u8(p)
        }
        #[inline(always)]
        unsafe fn larger(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
            vmaxq_u8(a, b)
        }
        #[inline(always)]
        unsafe fn store(p: *mut u8, q: uint8x16_t) {
            vst1q_u8(p, q);
        }
        type I = int32x4_t;
        type X = int8x16_t;
        type W = int8x16_t;
        #[inline(always)]
        unsafe fn store_pixels(p: *mut u8, v: [float32x4_t; 4], steps: Steps) {
            let (zero, top) = (vdupq_n_s32(steps.zero()), vdupq_n_s32(steps.top()));
            let byte = |v| vminq_s32(vmaxq_s32(vaddq_s32(vcvtnq_s32_f32(v), zero), vdupq_n_s32(0)), top);
            let [a, b, c, d] = [byte(v[0]), byte(v[1]), byte(v[2]), byte(v[3])];
            let low = vorrq_s32(a, vshlq_n_s32::<8>(b));
            let high = vorrq_s32(vshlq_n_s32::<16>(c), vshlq_n_s32::<24>(d));
            vst1q_u8(p, vreinterpretq_u8_s32(vorrq_s32(low, high)));
        }
        #[inline(always)]
        unsafe fn sums(p: *const i32) -> int32x4_t {
            vld1q_s32(p)
        }
        #[inline(always)]
        unsafe fn weights(p: *const u8) -> int8x16_t {
            vld1q_s8(p.cast())
        }
        #[inline(always)]
        unsafe fn float(sum: int32x4_t) -> float32x4_t {
            vcvtq_f32_s32(sum)
        }
        #[inline(always)]
        unsafe fn load_bytes(p: *const u8) -> float32x4_t {
            let bytes = vcreate_u8(u64::from(p.cast::<u32>().read_unaligned()));
            vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))))
        }
        #[inline(always)]
        unsafe fn store_bytes(p: *mut u8, v: float32x4_t, steps: Steps) {
            let words = vqadd_s16(vqmovn_s32(vcvtnq_s32_f32(v)), vdup_n_s16(steps.zero() as i16));
            let bytes = vmin_u8(vqmovun_s16(vcombine_s16(words, words)), vdup_n_u8(steps.top() as u8));
            p.cast::<u32>().write_unaligned(vget_lane_u32::<0>(vreinterpret_u32_u8(bytes)));
        }
        #[inline(always)]
        unsafe fn store_rows<const V: usize, const H: usize>(
            p: *mut u8,
            width: usize,
            sums: &[[int32x4_t; V]; H],
            finish: &impl Finish<Self>,
            steps: Steps,
        ) {
            assert!(V == 4, "sixteen bytes");
            for (h, row) in sums.iter().enumerate() {
                let row = [
                    finish.steps(row[0], h, 0),
                    finish.steps(row[1], h, 1),
                    finish.steps(row[2], h, 2),
                    finish.steps(row[3], h, 3),
                ];
                Self::store_interleaved(p.add(h * width), row, steps, 16);
            }
        }
        #[inline(always)]
        unsafe fn store_interleaved(p: *mut u8, v: [float32x4_t; 4], steps: Steps, _: usize) {
            let zero = vdupq_n_s16(steps.zero() as i16);
            let pair = |a, b| {
                let words = vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(a)), vcvtnq_s32_f32(b));
                vqmovun_s16(vqaddq_s16(words, zero))
            };
            let bytes = vcombine_u8(pair(v[0], v[1]), pair(v[2], v[3]));
            vst1q_u8(p, vminq_u8(bytes, vdupq_n_u8(steps.top() as u8)));
        }
    };
}

impl Bytes for Neon {
    four_lanes!();
    const FORMAT: Format = Format { lanes: 4, order: Order::Pairs, signed: true };
    #[inline(always)]
    unsafe fn broadcast(p: *const u8) -> int8x16_t {
        let pair = |p: *const u8| vreinterpret_u8_u16(vdup_n_u16(p.cast::<u16>().read_unaligned()));
        signed(vcombine_u8(pair(p), pair(p.add(2))))
    }
    #[inline(always)]
    unsafe fn interleave(rows: [*const u8; 4], _: usize) -> [int8x16_t; 4] {
        let [a, b, c, d] = [load(rows[0]), load(rows[1]), load(rows[2]), load(rows[3])];
        let (low, high) = (vreinterpretq_s64_s8(vzip1q_s8(a, b)), vreinterpretq_s64_s8(vzip2q_s8(a, b)));
        let (low2, high2) = (vreinterpretq_s64_s8(vzip1q_s8(c, d)), vreinterpretq_s64_s8(vzip2q_s8(c, d)));
        [vzip1q_s64(low, low2), vzip2q_s64(low, low2), vzip1q_s64(high, high2), vzip2q_s64(high, high2)]
            .map(|v| vreinterpretq_s8_s64(v))
    }
    #[inline(always)]
    unsafe fn dot(sum: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
        let sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(x), vget_low_s8(w)));
        vpadalq_s16(sum, vmull_high_s8(x, w))
    }
    #[inline(always)]
    unsafe fn products<const V: usize, const H: usize>(
        sums: &mut [[int32x4_t; V]; H],
        rows: &[*const u8; H],
        weights: &mut [*const u8; V],
        groups: usize,
        tame: bool,
    ) {
        assert!(V == 4, "vectors that lie one after the other");
        let (mut a, mut b) = (*rows, weights[0]);
        // Two products are summed in 16 bits: of -128 all four, they would overflow.
        let deep = if tame { groups / 4 } else { 0 };
        for _ in 0..deep {
            let mut x = [vdupq_n_s8(0); H];
            for h in 0..H {
                x[h] = load(a[h]);
                a[h] = a[h].add(16);
            }
            macro_rules! pairs {
                ($($low:literal $high:literal)*) => {$(
                    let w = [vld1q_s8(b.cast()), vld1q_s8(b.add(16).cast()), vld1q_s8(b.add(32).cast()), vld1q_s8(b.add(48).cast())];
                    b = b.add(64);
                    for h in 0..H {
                        four_sums::<$low, $high, V>(&mut sums[h], x[h], w);
                    }
                )*};
            }
            pairs!(0 1  2 3  4 5  6 7);
        }
        rest::<Self, V, H>(sums, a, b, groups - deep * 4);
        weights[0] = weights[0].add(groups * 64);
    }
}

impl Bytes for NeonDot {
    four_lanes!();
    const FORMAT: Format = Format { lanes: 4, order: Order::Fours, signed: true };
    #[inline(always)]
    unsafe fn broadcast(p: *const u8) -> int8x16_t {
        signed(vreinterpretq_u8_u32(vdupq_n_u32(p.cast::<u32>().read_unaligned())))
    }
    #[inline(always)]
    unsafe fn interleave(rows: [*const u8; 4], _: usize) -> [int8x16_t; 4] {
        let [a, b, c, d] = [load(rows[0]), load(rows[1]), load(rows[2]), load(rows[3])];
        let (low, high) = (vreinterpretq_s16_s8(vzip1q_s8(a, b)), vreinterpretq_s16_s8(vzip2q_s8(a, b)));
        let (low2, high2) = (vreinterpretq_s16_s8(vzip1q_s8(c, d)), vreinterpretq_s16_s8(vzip2q_s8(c, d)));
        [vzip1q_s16(low, low2), vzip2q_s16(low, low2), vzip1q_s16(high, high2), vzip2q_s16(high, high2)]
            .map(|v| vreinterpretq_s8_s16(v))
    }
    #[inline(always)]
    unsafe fn dot(sum: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
        let mut sum = sum;
        // The intrinsic is not stable.
        asm!(
            ".arch_extension dotprod",
            "sdot {sum:v}.4s, {x:v}.16b, {w:v}.16b",
            sum = inout(vreg) sum,
            x = in(vreg) x,
            w = in(vreg) w,
            options(pure, nomem, nostack, preserves_flags)
        );
        sum
    }
    #[inline(always)]
    unsafe fn products<const V: usize, const H: usize>(
        sums: &mut [[int32x4_t; V]; H],
        rows: &[*const u8; H],
        weights: &mut [*const u8; V],
        groups: usize,
        _tame: bool,
    ) {
        assert!(V == 4, "vectors that lie one after the other");
        let (mut a, mut b) = (*rows, weights[0]);
        for _ in 0..groups / 4 {
            let mut x = [vdupq_n_s8(0); H];
            for h in 0..H {
                x[h] = load(a[h]);
                a[h] = a[h].add(16);
            }
            macro_rules! fours {
                ($($four:literal)*) => {$(
                    for v in 0..V {
                        let w = vld1q_s8(b.add(v * 16).cast());
                        for h in 0..H {
                            sums[h][v] = dot_with::<$four>(sums[h][v], w, x[h]);
                        }
                    }
                    b = b.add(64);
                )*};
            }
            fours!(0 1 2 3);
        }
        rest::<Self, V, H>(sums, a, b, groups % 4);
        weights[0] = weights[0].add(groups * 64);
    }
}

/// Adds to the sums of a row the products of weights with four bytes, pairs `LOW` and `HIGH` of sixteen.
///
/// Two products are summed in 16 bits. In assembly, as a compiler brings so many instructions forward that registers spill.
#[inline(always)]
unsafe fn four_sums<const LOW: usize, const HIGH: usize, const V: usize>(
    sums: &mut [int32x4_t; V],
    x: int8x16_t,
    w: [int8x16_t; 4],
) {
    asm!(
        "dup {low:v}.8h, {x:v}.h[{LOW}]",
        "dup {high:v}.8h, {x:v}.h[{HIGH}]",
        "smull {t0:v}.8h, {low:v}.8b, {w0:v}.8b",
        "smull {t1:v}.8h, {low:v}.8b, {w1:v}.8b",
        "smull {t2:v}.8h, {low:v}.8b, {w2:v}.8b",
        "smull {t3:v}.8h, {low:v}.8b, {w3:v}.8b",
        "smlal2 {t0:v}.8h, {high:v}.16b, {w0:v}.16b",
        "smlal2 {t1:v}.8h, {high:v}.16b, {w1:v}.16b",
        "smlal2 {t2:v}.8h, {high:v}.16b, {w2:v}.16b",
        "smlal2 {t3:v}.8h, {high:v}.16b, {w3:v}.16b",
        "sadalp {s0:v}.4s, {t0:v}.8h",
        "sadalp {s1:v}.4s, {t1:v}.8h",
        "sadalp {s2:v}.4s, {t2:v}.8h",
        "sadalp {s3:v}.4s, {t3:v}.8h",
        LOW = const LOW,
        HIGH = const HIGH,
        x = in(vreg) x,
        w0 = in(vreg) w[0],
        w1 = in(vreg) w[1],
        w2 = in(vreg) w[2],
        w3 = in(vreg) w[3],
        s0 = inout(vreg) sums[0],
        s1 = inout(vreg) sums[1],
        s2 = inout(vreg) sums[2],
        s3 = inout(vreg) sums[3],
        low = out(vreg) _,
        high = out(vreg) _,
        t0 = out(vreg) _,
        t1 = out(vreg) _,
        t2 = out(vreg) _,
        t3 = out(vreg) _,
        options(pure, nomem, nostack, preserves_flags)
    );
}

/// Does the groups that are fewer than sixteen bytes.
#[inline(always)]
unsafe fn rest<S, const V: usize, const H: usize>(
    sums: &mut [[S::I; V]; H],
    mut rows: [*const u8; H],
    mut weights: *const u8,
    groups: usize,
) where
    S: Bytes,
{
    for _ in 0..groups {
        let w = [0, 16, 32, 48].map(|v| S::weights(weights.add(v)));
        weights = weights.add(64);
        for h in 0..H {
            let x = S::broadcast(rows[h]);
            rows[h] = rows[h].add(4);
            for v in 0..V {
                sums[h][v] = S::dot(sums[h][v], x, w[v]);
            }
        }
    }
}

/// Adds the products of weights and the same four bytes, those at place `FOUR` of sixteen.
#[inline(always)]
unsafe fn dot_with<const FOUR: usize>(sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    asm!(
        ".arch_extension dotprod",
        "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{four}]",
        sum = inout(vreg) sum,
        w = in(vreg) w,
        x = in(vreg) x,
        four = const FOUR,
        options(pure, nomem, nostack, preserves_flags)
    );
    sum
}

/// Loads sixteen bytes to be multiplied.
#[inline(always)]
unsafe fn load(p: *const u8) -> int8x16_t {
    signed(vld1q_u8(p))
}

/// Takes 128 off bytes.
#[inline(always)]
unsafe fn signed(x: uint8x16_t) -> int8x16_t {
    vreinterpretq_s8_u8(veorq_u8(x, vdupq_n_u8(0x80)))
}
