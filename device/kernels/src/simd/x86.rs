//! x86-64: AVX2 with FMA, and AVX-512.

use std::arch::asm;
use std::arch::x86_64::*;

use super::{AHEAD, Simd};
use crate::BLOCK;

/// Eight lanes.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// Goes round a loop in assembly `$count` times, at least once: each time `$text!` of the rows, which takes `$step`
/// bytes of each row, at `{i}` from the address that it is given for it, and the weights at `{b}`, moves `{b}` past them, and adds to
/// `$sums`. The addresses are those of the rows' ends, so that `{i}` goes up to zero.
///
/// A compiler that is given the instructions one by one keeps some of the sums in memory, with sixteen registers for twelve
/// sums: half the speed.
///
/// A row is the registers of its two sums and the name of its address. Registers 0 to 3 are the text's own, and with four rows or
/// fewer those from 12 on; `$head` is done before the first turn.
macro_rules! turns {
    ($h:expr, $text:ident, $head:literal, $step:literal, $count:expr, $rows:expr, $b:expr, $sums:expr, $sum:ty) => {
        $crate::simd::x86::turns!(of $h, $text, $head, $step, $count, $rows, $b, $sums, $sum;
            1 [0 "ymm4" "ymm5" a0], {"ymm6" "ymm7" "ymm8" "ymm9" "ymm10" "ymm11" "ymm12" "ymm13" "ymm14" "ymm15"};
            2 [0 "ymm4" "ymm5" a0] [1 "ymm6" "ymm7" a1],
              {"ymm8" "ymm9" "ymm10" "ymm11" "ymm12" "ymm13" "ymm14" "ymm15"};
            3 [0 "ymm4" "ymm5" a0] [1 "ymm6" "ymm7" a1] [2 "ymm8" "ymm9" a2],
              {"ymm10" "ymm11" "ymm12" "ymm13" "ymm14" "ymm15"};
            4 [0 "ymm4" "ymm5" a0] [1 "ymm6" "ymm7" a1] [2 "ymm8" "ymm9" a2] [3 "ymm10" "ymm11" a3],
              {"ymm12" "ymm13" "ymm14" "ymm15"};
            5 [0 "ymm4" "ymm5" a0] [1 "ymm6" "ymm7" a1] [2 "ymm8" "ymm9" a2] [3 "ymm10" "ymm11" a3]
              [4 "ymm12" "ymm13" a4], {"ymm14" "ymm15"};
            6 [0 "ymm4" "ymm5" a0] [1 "ymm6" "ymm7" a1] [2 "ymm8" "ymm9" a2] [3 "ymm10" "ymm11" a3]
              [4 "ymm12" "ymm13" a4] [5 "ymm14" "ymm15" a5], {};
        )
    };
    (of $h:expr, $text:ident, $head:literal, $step:literal, $count:expr, $addresses:expr, $b:expr, $sums:expr, $sum:ty;
        $($rows:literal $([$row:literal $s0:tt $s1:tt $end:ident])+, {$($free:tt)*};)+
    ) => {{
        // By address, as indices past the rows that there are would not compile.
        let (rows, sums) = ($addresses.as_ptr(), $sums.as_mut_ptr().cast::<$sum>());
        let all = ($count as isize).wrapping_mul($step);
        match $h {
            $($rows => asm!(
                $head,
                "2:",
                $text!($([$s0 $s1 $end])+),
                concat!("add {i}, ", $step),
                "jne 2b",
                i = inout(reg) all.wrapping_neg() => _,
                b = inout(reg) $b,
                $($end = in(reg) (*rows.add($row)).wrapping_byte_offset(all),)+
                $(inout($s0) *sums.add($row * 2), inout($s1) *sums.add($row * 2 + 1),)+
                $(out($free) _,)*
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                options(readonly, nostack)
            ),)+
            _ => unreachable!("tiles have 1 to 6 rows"),
        }
    }};
}
pub(crate) use turns;

/// The products of one number a row.
macro_rules! products {
    ($([$s0:literal $s1:literal $end:ident])+) => {
        concat!(
            "vmovups ymm0, [{b}]\n",
            "vmovups ymm1, [{b} + 32]\n",
            "prefetcht0 [{b} + 2048]\n",
            "add {b}, 64\n",
            $("vbroadcastss ymm2, dword ptr [{", stringify!($end), "} + {i}]\n",
              "vfmadd231ps ", $s0, ", ymm0, ymm2\n",
              "vfmadd231ps ", $s1, ", ymm1, ymm2\n",)+
        )
    };
}
/// What `products!` is written for.
const _: () = assert!(BLOCK == 16 && AHEAD * BLOCK * size_of::<f32>() == 2048);

impl Avx2 {
    /// As [`Simd::products`]. A function of its own as registers of 256 bits may be named only where the instruction set is.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn multiply<const V: usize, const H: usize>(
        sums: &mut [[__m256; V]; H],
        rows: &[*const f32; H],
        weights: &mut [*const f32; V],
        depth: usize,
    ) {
        // The vectors of a block lie one after the other, so the first one's address does for all.
        assert!(V == 2 && V * Self::LANES == BLOCK);
        if depth == 0 {
            return;
        }
        turns!(H, products, "", 4, depth, rows, weights[0], sums, __m256);
    }
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        _mm256_set1_ps(x)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        _mm256_loadu_ps(p)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        _mm256_storeu_ps(p, v)
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const f32) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast())
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        _mm256_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        _mm256_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        _mm256_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sqrt(a: __m256) -> __m256 {
        _mm256_sqrt_ps(a)
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        _mm256_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn products<const V: usize, const H: usize>(
        sums: &mut [[__m256; V]; H],
        rows: &[*const f32; H],
        weights: &mut [*const f32; V],
        depth: usize,
    ) {
        Self::multiply(sums, rows, weights, depth);
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        _mm256_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        _mm256_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn between(x: __m256, low: __m256, high: __m256, value: __m256) -> __m256 {
        let above = _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLE_UQ>(x, low), value);
        _mm256_and_ps(_mm256_cmp_ps::<_CMP_NGE_UQ>(x, high), above)
    }
    #[inline(always)]
    unsafe fn equal(a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
        _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b))
    }
    #[inline(always)]
    unsafe fn round(a: __m256) -> __m256 {
        _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
    }
    #[inline(always)]
    unsafe fn times_pow2(a: __m256, n: __m256) -> __m256 {
        let bits = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(bits)))
    }
}

/// Sixteen lanes.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        _mm512_set1_ps(x)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        _mm512_loadu_ps(p)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        _mm512_storeu_ps(p, v)
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const f32) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast())
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        _mm512_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sqrt(a: __m512) -> __m512 {
        _mm512_sqrt_ps(a)
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        _mm512_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        _mm512_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn between(x: __m512, low: __m512, high: __m512, value: __m512) -> __m512 {
        let above = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(x, low);
        _mm512_maskz_mov_ps(_mm512_mask_cmp_ps_mask::<_CMP_NGE_UQ>(above, x, high), value)
    }
    #[inline(always)]
    unsafe fn equal(a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b), no, yes)
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
    }
    #[inline(always)]
    unsafe fn times_pow2(a: __m512, n: __m512) -> __m512 {
        _mm512_scalef_ps(a, n)
    }
}
