//! AArch64: NEON, with and without the instruction that multiplies bytes and sums fours (FEAT_DotProd).
//!
//! Both multiply signed bytes: an activation counts 128 less than what it is, which `Format::zero` makes up for.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Bytes, Finish, Format, Order, Taps};
use crate::int8::Span;
use crate::simd::arm::{self, turns};

/// Four lanes, sums of two products in 16 bits.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// Four lanes, sums of four products.
#[derive(Clone, Copy)]
pub(crate) struct NeonDot;

/// Loads sixteen bytes a row, or fewer, and takes 128 off them.
macro_rules! load_rows {
    ($([$row:literal $($rest:tt)+])+) => { load_rows!("q" 16 $([$row])+) };
    ($size:literal $bytes:literal $([$row:literal])+) => {
        concat!(
            $("ldr ", $size, $row, ", [{a", $row, "}], #", $bytes, "\n",)+
            "movi v6.16b, #0x80\n",
            $("eor v", $row, ".16b, v", $row, ".16b, v6.16b\n",)+
        )
    };
}

/// The products of sixteen bytes a row, summed by fours.
macro_rules! four_products {
    ($four:literal $([$row:literal $s0:literal $s1:literal $s2:literal $s3:literal $at:ident])+) => {
        concat!(
            "ldp q6, q7, [{b}], #32\n",
            $("sdot ", $s0, ".4s, v6.16b, v", $row, ".4b[", $four, "]\n",)+
            $("sdot ", $s1, ".4s, v7.16b, v", $row, ".4b[", $four, "]\n",)+
            "ldp q6, q7, [{b}], #32\n",
            $("sdot ", $s2, ".4s, v6.16b, v", $row, ".4b[", $four, "]\n",)+
            $("sdot ", $s3, ".4s, v7.16b, v", $row, ".4b[", $four, "]\n",)+
        )
    };
    ($($rows:tt)+) => {
        concat!(
            load_rows!($($rows)+),
            four_products!(0 $($rows)+),
            four_products!(1 $($rows)+),
            four_products!(2 $($rows)+),
            four_products!(3 $($rows)+)
        )
    };
}

/// The products of four bytes a row.
macro_rules! one_four {
    ($([$row:literal $($rest:tt)+])+) => {
        concat!(load_rows!("s" 4 $([$row])+), four_products!(0 $([$row $($rest)+])+))
    };
}

/// The products of sixteen bytes a row, of which two at a time are summed in 16 bits: for no more than four rows, as the
/// registers of the others hold those sums.
macro_rules! pair_products {
    ($low:literal $high:literal $([$row:literal $s0:literal $s1:literal $s2:literal $s3:literal $at:ident])+) => {
        concat!(
            "ldp q4, q5, [{b}], #32\n",
            "ldp q6, q7, [{b}], #32\n",
            $("dup v24.8h, v", $row, ".h[", $low, "]\n",
              "dup v25.8h, v", $row, ".h[", $high, "]\n",
              "smull v26.8h, v24.8b, v4.8b\n",
              "smull v27.8h, v24.8b, v5.8b\n",
              "smull v28.8h, v24.8b, v6.8b\n",
              "smull v29.8h, v24.8b, v7.8b\n",
              "smlal2 v26.8h, v25.16b, v4.16b\n",
              "smlal2 v27.8h, v25.16b, v5.16b\n",
              "smlal2 v28.8h, v25.16b, v6.16b\n",
              "smlal2 v29.8h, v25.16b, v7.16b\n",
              "sadalp ", $s0, ".4s, v26.8h\n",
              "sadalp ", $s1, ".4s, v27.8h\n",
              "sadalp ", $s2, ".4s, v28.8h\n",
              "sadalp ", $s3, ".4s, v29.8h\n",)+
        )
    };
    ($($rows:tt)+) => {
        concat!(
            load_rows!($($rows)+),
            pair_products!(0 1 $($rows)+),
            pair_products!(2 3 $($rows)+),
            pair_products!(4 5 $($rows)+),
            pair_products!(6 7 $($rows)+)
        )
    };
}

/// The products of four bytes a row, in pairs as above.
macro_rules! two_pairs {
    ($([$row:literal $($rest:tt)+])+) => {
        concat!(load_rows!("s" 4 $([$row])+), pair_products!(0 1 $([$row $($rest)+])+))
    };
}

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
        unsafe fn store_pixels(p: *mut u8, v: [float32x4_t; 4], span: Span) {
            let (zero, top) = (vdupq_n_s32(span.zero), vdupq_n_s32(span.top));
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
        unsafe fn store_bytes(p: *mut u8, v: float32x4_t, span: Span) {
            let words = vqadd_s16(vqmovn_s32(vcvtnq_s32_f32(v)), vdup_n_s16(span.zero as i16));
            let bytes = vmin_u8(vqmovun_s16(vcombine_s16(words, words)), vdup_n_u8(span.top as u8));
            p.cast::<u32>().write_unaligned(vget_lane_u32::<0>(vreinterpret_u32_u8(bytes)));
        }
        #[inline(always)]
        unsafe fn store_rows<const V: usize, const H: usize>(
            p: *mut u8,
            width: usize,
            sums: &[[int32x4_t; V]; H],
            finish: &impl Finish<Self>,
            span: Span,
        ) {
            assert!(V == 4, "sixteen bytes");
            for (h, row) in sums.iter().enumerate() {
                let row = [
                    finish.steps(row[0], h, 0),
                    finish.steps(row[1], h, 1),
                    finish.steps(row[2], h, 2),
                    finish.steps(row[3], h, 3),
                ];
                Self::store_interleaved(p.add(h * width), row, span, 16);
            }
        }
        #[inline(always)]
        unsafe fn store_interleaved(p: *mut u8, v: [float32x4_t; 4], span: Span, _: usize) {
            let zero = vdupq_n_s16(span.zero as i16);
            let pair = |a, b| {
                let words = vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(a)), vcvtnq_s32_f32(b));
                vqmovun_s16(vqaddq_s16(words, zero))
            };
            let bytes = vcombine_u8(pair(v[0], v[1]), pair(v[2], v[3]));
            vst1q_u8(p, vminq_u8(bytes, vdupq_n_u8(span.top as u8)));
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
    const TAPS: Taps = Taps::Rows;
    const WIDE_TILES: bool = true;
    #[inline(always)]
    unsafe fn interleave(rows: [*const u8; 4], _: usize) -> [int8x16_t; 4] {
        rows.map(|row| load(row))
    }
    #[inline(always)]
    unsafe fn column<const TAMED: bool>(
        sums: &mut [int32x4_t; 4],
        x: &[int8x16_t; 4],
        weights: *const u8,
        taps: usize,
    ) {
        let w = [0, 16, 32, 48].map(|row| Self::weights(weights.add(row)));
        for tap in 0..taps {
            let mut low = vmull_s8(vget_low_s8(x[tap]), vget_low_s8(w[tap]));
            let mut high = vmull_high_s8(x[tap], w[tap]);
            if TAMED && tap % 2 == 1 {
                // Summed with the tap before.
                continue;
            }
            if TAMED && tap + 1 < taps {
                low = vmlal_s8(low, vget_low_s8(x[tap + 1]), vget_low_s8(w[tap + 1]));
                high = vmlal_high_s8(high, x[tap + 1], w[tap + 1]);
            }
            sums[0] = vaddw_s16(sums[0], vget_low_s16(low));
            sums[1] = vaddw_high_s16(sums[1], low);
            sums[2] = vaddw_s16(sums[2], vget_low_s16(high));
            sums[3] = vaddw_high_s16(sums[3], high);
        }
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
        assert!(V == 4 && H <= 4, "vectors that lie one after the other, and registers for sums in 16 bits");
        let mut a = *rows;
        let (turns, fours) = (groups / 4, groups % 4);
        if !tame {
            // Two products are summed in 16 bits: of -128 all four, they would overflow.
            one_by_one(sums, a, weights[0], groups);
            weights[0] = weights[0].add(groups * 64);
        } else {
            if turns > 0 {
                turns!(H, pair_products, "", turns, a, weights[0], sums, int32x4_t);
            }
            if fours > 0 {
                turns!(H, two_pairs, "", fours, a, weights[0], sums, int32x4_t);
            }
        }
    }
}

impl Bytes for NeonDot {
    four_lanes!();
    const FORMAT: Format = Format { lanes: 4, order: Order::Fours, signed: true };
    const WIDE_TILES: bool = true;
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
        let mut a = *rows;
        let turns = groups / 4;
        if turns > 0 {
            turns!(H, four_products, ".arch_extension dotprod", turns, a, weights[0], sums, int32x4_t);
        }
        let fours = groups % 4;
        if fours > 0 {
            turns!(H, one_four, ".arch_extension dotprod", fours, a, weights[0], sums, int32x4_t);
        }
    }
}

/// Does as `Bytes::products` with each product summed in 32 bits.
#[inline(always)]
unsafe fn one_by_one<const V: usize, const H: usize>(
    sums: &mut [[int32x4_t; V]; H],
    mut rows: [*const u8; H],
    mut weights: *const u8,
    groups: usize,
) {
    for _ in 0..groups {
        let w = [0, 16, 32, 48].map(|v| Neon::weights(weights.add(v)));
        weights = weights.add(64);
        for h in 0..H {
            let x = Neon::broadcast(rows[h]);
            rows[h] = rows[h].add(4);
            for v in 0..V {
                sums[h][v] = Neon::dot(sums[h][v], x, w[v]);
            }
        }
    }
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
