//! AArch64: NEON.

use std::arch::aarch64::*;
use std::arch::asm;

use super::Simd;
use crate::BLOCK;

/// Four lanes.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// Goes round a loop in assembly `$count` times, at least once: each time `$text!` of the rows, which takes some bytes from the
/// address `$a` of each row, and what weights go with them from `$b`, and adds to `$sums`. Addresses are moved past what
/// is taken.
///
/// A compiler that is given the instructions one by one moves sums from register to register, and adds up an address anew
/// for each row.
///
/// A row is its number, which is also that of the vector that its bytes are loaded into, the registers of its four
/// sums, and the name of its address. Registers 6 and 7, and those before that are no row's, are the text's own; with four
/// rows or fewer, those from 24 on are too.
macro_rules! turns {
    ($h:expr, $text:ident, $head:literal, $count:expr, $a:expr, $b:expr, $sums:expr, $sum:ty) => {
        turns!(of $h, $text, $head, $count, $a, $b, $sums, $sum;
            1 [0 "v8" "v9" "v10" "v11" a0], {"v24" "v25" "v26" "v27" "v28" "v29" "v30" "v31"};
            2 [0 "v8" "v9" "v10" "v11" a0] [1 "v12" "v13" "v14" "v15" a1],
              {"v24" "v25" "v26" "v27" "v28" "v29" "v30" "v31"};
            3 [0 "v8" "v9" "v10" "v11" a0] [1 "v12" "v13" "v14" "v15" a1] [2 "v16" "v17" "v18" "v19" a2],
              {"v24" "v25" "v26" "v27" "v28" "v29" "v30" "v31"};
            4 [0 "v8" "v9" "v10" "v11" a0] [1 "v12" "v13" "v14" "v15" a1] [2 "v16" "v17" "v18" "v19" a2]
              [3 "v20" "v21" "v22" "v23" a3], {"v24" "v25" "v26" "v27" "v28" "v29" "v30" "v31"};
            5 [0 "v8" "v9" "v10" "v11" a0] [1 "v12" "v13" "v14" "v15" a1] [2 "v16" "v17" "v18" "v19" a2]
              [3 "v20" "v21" "v22" "v23" a3] [4 "v24" "v25" "v26" "v27" a4], {};
            6 [0 "v8" "v9" "v10" "v11" a0] [1 "v12" "v13" "v14" "v15" a1] [2 "v16" "v17" "v18" "v19" a2]
              [3 "v20" "v21" "v22" "v23" a3] [4 "v24" "v25" "v26" "v27" a4] [5 "v28" "v29" "v30" "v31" a5], {};
        )
    };
    (of $h:expr, $text:ident, $head:literal, $count:expr, $a:expr, $b:expr, $sums:expr, $sum:ty;
        $($rows:literal $([$row:literal $s0:tt $s1:tt $s2:tt $s3:tt $at:ident])+, {$($free:tt)*};)+
    ) => {{
        // By address, as indices past the rows that there are would not compile.
        let (at, sums) = ($a.as_mut_ptr(), $sums.as_mut_ptr().cast::<$sum>());
        match $h {
            $($rows => asm!(
                $head,
                "2:",
                $text!($([$row $s0 $s1 $s2 $s3 $at])+),
                "subs {count}, {count}, #1",
                "b.ne 2b",
                count = inout(reg) $count => _,
                b = inout(reg) $b,
                $($at = inout(reg) *at.add($row),)+
                $(inout($s0) *sums.add($row * 4),
                  inout($s1) *sums.add($row * 4 + 1),
                  inout($s2) *sums.add($row * 4 + 2),
                  inout($s3) *sums.add($row * 4 + 3),)+
                $(out($free) _,)*
                out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
                options(readonly, nostack)
            ),)+
            _ => unreachable!("tiles have 1 to 6 rows"),
        }
    }};
}
pub(crate) use turns;

/// The products of four numbers a row, each multiplied as an element: one load instead of four that would fill a vector.
macro_rules! element_products {
    (load $([$row:literal $($rest:tt)+])+) => {
        concat!($("ldr q", $row, ", [{a", $row, "}], #16\n",)+)
    };
    ($element:literal $([$row:literal $s0:literal $s1:literal $s2:literal $s3:literal $at:ident])+) => {
        concat!(
            "ldp q6, q7, [{b}], #32\n",
            $("fmla ", $s0, ".4s, v6.4s, v", $row, ".s[", $element, "]\n",)+
            $("fmla ", $s1, ".4s, v7.4s, v", $row, ".s[", $element, "]\n",)+
            "ldp q6, q7, [{b}], #32\n",
            $("fmla ", $s2, ".4s, v6.4s, v", $row, ".s[", $element, "]\n",)+
            $("fmla ", $s3, ".4s, v7.4s, v", $row, ".s[", $element, "]\n",)+
        )
    };
    ($($rows:tt)+) => {
        concat!(
            element_products!(load $($rows)+),
            element_products!(0 $($rows)+),
            element_products!(1 $($rows)+),
            element_products!(2 $($rows)+),
            element_products!(3 $($rows)+)
        )
    };
}

/// The products of one number a row.
macro_rules! single_products {
    ($([$row:literal $($rest:tt)+])+) => {
        concat!(
            $("ldr s", $row, ", [{a", $row, "}], #4\n",)+
            element_products!(0 $([$row $($rest)+])+)
        )
    };
}

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
    unsafe fn sqrt(a: float32x4_t) -> float32x4_t {
        vsqrtq_f32(a)
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
        // The vectors of a block lie one after the other, so the first one's address does for all.
        assert!(V == 4 && V * Self::LANES == BLOCK);
        let mut a = *rows;
        let fours = depth / 4;
        if fours > 0 {
            turns!(H, element_products, "", fours, a, weights[0], sums, float32x4_t);
        }
        let ones = depth % 4;
        if ones > 0 {
            turns!(H, single_products, "", ones, a, weights[0], sums, float32x4_t);
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
    unsafe fn between(x: float32x4_t, low: float32x4_t, high: float32x4_t, value: float32x4_t) -> float32x4_t {
        let closed = vorrq_u32(vcleq_f32(x, low), vcgeq_f32(x, high));
        vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(value), closed))
    }
    #[inline(always)]
    unsafe fn equal(a: float32x4_t, b: float32x4_t, yes: float32x4_t, no: float32x4_t) -> float32x4_t {
        vbslq_f32(vceqq_f32(a, b), yes, no)
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
