//! AArch64: NEON, with and without the instruction that multiplies bytes and sums fours (FEAT_DotProd).
//!
//! Both multiply signed bytes: an activation counts 128 less than what it is, which `Format::zero` makes up for.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Bytes, Format};
use crate::int8::Steps;
use crate::simd::arm;

/// Four lanes, products widened to 16 bits.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// Four lanes, sums of four products.
#[derive(Clone, Copy)]
pub(crate) struct NeonDot;

/// What both share.
macro_rules! four_lanes {
    () => {
        type F = arm::Neon;
        type I = int32x4_t;
        type X = int8x16_t;
        type W = int8x16_t;
        const FORMAT: Format = Format { lanes: 4, split: false, signed: true };
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
        unsafe fn broadcast(p: *const u8) -> int8x16_t {
            signed(vreinterpretq_u8_u32(vdupq_n_u32(p.cast::<u32>().read_unaligned())))
        }
        #[inline(always)]
        unsafe fn interleave(rows: [*const u8; 4], _: usize) -> [int8x16_t; 4] {
            let [a, b, c, d] = rows.map(|p| signed(vld1q_u8(p)));
            let (low, high) = (vreinterpretq_s16_s8(vzip1q_s8(a, b)), vreinterpretq_s16_s8(vzip2q_s8(a, b)));
            let (low2, high2) = (vreinterpretq_s16_s8(vzip1q_s8(c, d)), vreinterpretq_s16_s8(vzip2q_s8(c, d)));
            [vzip1q_s16(low, low2), vzip2q_s16(low, low2), vzip1q_s16(high, high2), vzip2q_s16(high, high2)]
                .map(|v| vreinterpretq_s8_s16(v))
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
        unsafe fn store_interleaved(p: *mut u8, v: [float32x4_t; 4], steps: Steps, _: usize) {
            let zero = vdupq_n_s16(steps.zero() as i16);
            let pair = |a, b| {
                let words = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(a)), vqmovn_s32(vcvtnq_s32_f32(b)));
                vqmovun_s16(vqaddq_s16(words, zero))
            };
            let bytes = vcombine_u8(pair(v[0], v[1]), pair(v[2], v[3]));
            vst1q_u8(p, vminq_u8(bytes, vdupq_n_u8(steps.top() as u8)));
        }
    };
}

impl Bytes for Neon {
    four_lanes!();
    #[inline(always)]
    unsafe fn dot(sum: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
        let low = vpaddlq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(w)));
        let high = vpaddlq_s16(vmull_high_s8(x, w));
        vaddq_s32(sum, vpaddq_s32(low, high))
    }
}

impl Bytes for NeonDot {
    four_lanes!();
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
}

/// Takes 128 off bytes.
#[inline(always)]
unsafe fn signed(x: uint8x16_t) -> int8x16_t {
    vreinterpretq_s8_u8(veorq_u8(x, vdupq_n_u8(0x80)))
}
