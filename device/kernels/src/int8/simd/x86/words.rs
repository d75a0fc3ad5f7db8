//! AVX2's products of words: the inner loops in assembly, and what Winograd's method transforms words and sums with.

use std::arch::asm;
use std::arch::x86_64::*;

use super::Avx2;
use crate::BLOCK;
use crate::int8::simd::{Bytes, Words};
use crate::simd::x86;

/// The products of four words a row, first those of the first pair.
macro_rules! word_products {
    ($([$s0:literal $s1:literal $end:ident])+) => {
        concat!(
            "vmovdqu ymm0, [{b}]\n",
            "vmovdqu ymm1, [{b} + 64]\n",
            $("vpbroadcastd ymm2, dword ptr [{", stringify!($end), "} + {i}]\n",
              "vpmaddwd ymm3, ymm2, ymm0\n",
              "vpaddd ", $s0, ", ", $s0, ", ymm3\n",
              "vpmaddwd ymm3, ymm2, ymm1\n",
              "vpaddd ", $s1, ", ", $s1, ", ymm3\n",)+
            "vmovdqu ymm0, [{b} + 32]\n",
            "vmovdqu ymm1, [{b} + 96]\n",
            "add {b}, 128\n",
            $("vpbroadcastd ymm2, dword ptr [{", stringify!($end), "} + {i} + 4]\n",
              "vpmaddwd ymm3, ymm2, ymm0\n",
              "vpaddd ", $s0, ", ", $s0, ", ymm3\n",
              "vpmaddwd ymm3, ymm2, ymm1\n",
              "vpaddd ", $s1, ", ", $s1, ", ymm3\n",)+
        )
    };
}

impl Avx2 {
    /// As [`Bytes::products`]; see the function of the same name for single precision.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn multiply<const V: usize, const H: usize>(
        sums: &mut [[__m256i; V]; H],
        rows: &[*const u8; H],
        weights: &mut [*const u8; V],
        groups: usize,
    ) {
        // The vectors of a block lie one after the other, so the first one's address does for all.
        assert!(V == 2 && V * Self::LANES == BLOCK);
        if groups == 0 {
            return;
        }
        x86::turns!(H, word_products, "", 8, groups, rows, weights[0], sums, __m256i);
    }
}

/// The products of a vector of four bytes a lane, its even ones and its odd ones, for some outputs.
macro_rules! fours {
    ($x:literal $even:literal $odd:literal $([$sum:literal $w:literal])+) => {
        concat!(
            "vpsrlw ymm2, ", $x, ", 8\n",
            "vpand ", $x, ", ", $x, ", ymm7\n",
            $("vpmaddwd ymm5, ", $x, ", [", $w, " + ", $even, "]\n",
              "vpaddd ", $sum, ", ", $sum, ", ymm5\n",
              "vpmaddwd ymm6, ymm2, [", $w, " + ", $odd, "]\n",
              "vpaddd ", $sum, ", ", $sum, ", ymm6\n",)+
        )
    };
}

/// The products of a vector of one byte a lane.
macro_rules! ones {
    ($x:literal $even:literal $([$sum:literal $w:literal])+) => {
        concat!(
            $("vpmaddwd ymm5, ", $x, ", [", $w, " + ", $even, "]\n",
              "vpaddd ", $sum, ", ", $sum, ", ymm5\n",)+
        )
    };
}

/// The products of a column of four rows, for each output that sees it: its sums and its weights.
macro_rules! four_rows {
    ($l:literal $([$s0:literal $s1:literal $s2:literal $s3:literal $w:literal])+) => {
        concat!(
            "vmovdqu ", $l, "0, [{r0}]\n",
            "vmovdqu ", $l, "1, [{r1}]\n",
            "vmovdqu ", $l, "2, [{r2}]\n",
            "vmovdqu ", $l, "3, [{r3}]\n",
            "vpunpckhbw ymm4, ymm0, ymm1\n",
            "vpunpcklbw ymm0, ymm0, ymm1\n",
            "vpunpckhbw ymm5, ymm2, ymm3\n",
            "vpunpcklbw ymm2, ymm2, ymm3\n",
            "vpunpcklwd ymm1, ymm0, ymm2\n",
            "vpunpckhwd ymm0, ymm0, ymm2\n",
            "vpunpcklwd ymm3, ymm4, ymm5\n",
            "vpunpckhwd ymm4, ymm4, ymm5\n",
            fours!("ymm1" "0" "32" $([$s0 $w])+),
            fours!("ymm0" "64" "96" $([$s1 $w])+),
            fours!("ymm3" "128" "160" $([$s2 $w])+),
            fours!("ymm4" "192" "224" $([$s3 $w])+),
        )
    };
}

/// The same of a column of one row.
macro_rules! one_row {
    ($l:literal $([$s0:literal $s1:literal $s2:literal $s3:literal $w:literal])+) => {
        concat!(
            "vmovdqu ", $l, "0, [{r0}]\n",
            "vpxor xmm2, xmm2, xmm2\n",
            "vpunpckhbw ymm4, ymm0, ymm2\n",
            "vpunpcklbw ymm0, ymm0, ymm2\n",
            "vpunpcklwd ymm1, ymm0, ymm2\n",
            "vpunpckhwd ymm0, ymm0, ymm2\n",
            "vpunpcklwd ymm3, ymm4, ymm2\n",
            "vpunpckhwd ymm4, ymm4, ymm2\n",
            ones!("ymm1" "0" $([$s0 $w])+),
            ones!("ymm0" "64" $([$s1 $w])+),
            ones!("ymm3" "128" $([$s2 $w])+),
            ones!("ymm4" "192" $([$s3 $w])+),
        )
    };
}

impl Avx2 {
    /// As [`Bytes::columns`], of 32 channels if `WHOLE`, else of 16. In assembly, as the compiler keeps what does not fit in sixteen
    /// registers, and most of what does, in memory.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn multiply_columns<
        const KY: usize,
        const KX: usize,
        const T: usize,
        const N: usize,
        const WHOLE: bool,
    >(
        sums: &mut [[__m256i; 4]; N],
        rows: &[(*const u8, usize)],
        weights: *const u8,
    ) {
        assert!(N == 2 && (KY == 3 || KY == 5) && KX + T <= 7 && rows.len() >= KY);
        let [mut a0, mut a1, mut a2, mut a3] = sums[0];
        let [mut b0, mut b1, mut b2, mut b3] = sums[1];
        let mask = _mm256_set1_epi16(0xff);
        // Bytes of the weights of four rows of a column.
        let group = 4 * Self::LANES * Self::FORMAT.group();
        macro_rules! multiply {
            ($text:ident $load:literal $i:literal $group:literal $($name:ident $row:expr),+) => {{
                let tap = |column: usize| (column * KY.div_ceil(4) + $group) * group;
                match ($i < KX, $i >= T) {
                    (true, true) => asm!(
                        $text!($load ["ymm8" "ymm9" "ymm10" "ymm11" "{w0}"] ["ymm12" "ymm13" "ymm14" "ymm15" "{w1}"]),
                        $($name = in(reg) rows[$row].0.add($i * rows[$row].1),)+
                        w0 = in(reg) weights.add(tap($i)), w1 = in(reg) weights.add(tap($i - T)),
                        inout("ymm8") a0, inout("ymm9") a1, inout("ymm10") a2, inout("ymm11") a3,
                        inout("ymm12") b0, inout("ymm13") b1, inout("ymm14") b2, inout("ymm15") b3,
                        in("ymm7") mask,
                        out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _, out("ymm6") _,
                        options(readonly, nostack, preserves_flags)
                    ),
                    (true, false) => asm!(
                        $text!($load ["ymm8" "ymm9" "ymm10" "ymm11" "{w0}"]),
                        $($name = in(reg) rows[$row].0.add($i * rows[$row].1),)+
                        w0 = in(reg) weights.add(tap($i)),
                        inout("ymm8") a0, inout("ymm9") a1, inout("ymm10") a2, inout("ymm11") a3,
                        in("ymm7") mask,
                        out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _, out("ymm6") _,
                        options(readonly, nostack, preserves_flags)
                    ),
                    _ => asm!(
                        $text!($load ["ymm12" "ymm13" "ymm14" "ymm15" "{w1}"]),
                        $($name = in(reg) rows[$row].0.add($i * rows[$row].1),)+
                        w1 = in(reg) weights.add(tap($i - T)),
                        inout("ymm12") b0, inout("ymm13") b1, inout("ymm14") b2, inout("ymm15") b3,
                        in("ymm7") mask,
                        out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _, out("ymm6") _,
                        options(readonly, nostack, preserves_flags)
                    ),
                }
            }};
        }
        macro_rules! columns {
            ($($i:literal)*) => {$(
                if $i < KX + T {
                    // In place of a row past the window, whose weights are zero, the last one.
                    if WHOLE {
                        multiply!(four_rows "ymm" $i 0 r0 0, r1 1, r2 2, r3 KY.min(4) - 1);
                    } else {
                        multiply!(four_rows "xmm" $i 0 r0 0, r1 1, r2 2, r3 KY.min(4) - 1);
                    }
                    if KY == 5 && WHOLE {
                        multiply!(one_row "ymm" $i 1 r0 4);
                    } else if KY == 5 {
                        multiply!(one_row "xmm" $i 1 r0 4);
                    }
                }
            )*};
        }
        columns!(0 1 2 3 4 5 6);
        sums[0] = [a0, a1, a2, a3];
        sums[1] = [b0, b1, b2, b3];
    }
}

impl Words for Avx2 {
    type H = __m256i;
    const WORDS: usize = 16;
    #[inline(always)]
    unsafe fn words(p: *const u8) -> __m256i {
        _mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast()))
    }
    #[inline(always)]
    unsafe fn add_words(a: __m256i, b: __m256i) -> __m256i {
        _mm256_add_epi16(a, b)
    }
    #[inline(always)]
    unsafe fn sub_words(a: __m256i, b: __m256i) -> __m256i {
        _mm256_sub_epi16(a, b)
    }
    #[inline(always)]
    unsafe fn store_words(p: *mut i16, words: __m256i) {
        _mm256_storeu_si256(p.cast(), words);
    }
    #[inline(always)]
    unsafe fn add_sums(a: __m256i, b: __m256i) -> __m256i {
        _mm256_add_epi32(a, b)
    }
    #[inline(always)]
    unsafe fn sub_sums(a: __m256i, b: __m256i) -> __m256i {
        _mm256_sub_epi32(a, b)
    }
    #[inline(always)]
    unsafe fn quarter(sums: __m256i) -> __m256i {
        _mm256_srai_epi32::<2>(sums)
    }
    #[inline(always)]
    unsafe fn store_sums(p: *mut i32, sums: __m256i) {
        _mm256_storeu_si256(p.cast(), sums);
    }
}
