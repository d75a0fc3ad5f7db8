//! x86-64: AVX2 and AVX-512, each with and without the instructions that multiply bytes (VNNI).
//!
//! Without them, bytes are widened to 16 bits and multiplied in pairs: `vpmaddubsw`, which takes bytes, saturates.

use std::arch::asm;
use std::arch::x86_64::*;

use super::{Bytes, Format, Order};
use crate::simd::x86;

/// Eight lanes, products of 16 bits.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// Eight lanes, products of bytes.
#[derive(Clone, Copy)]
pub(crate) struct AvxVnni;

/// Sixteen lanes, products of 16 bits.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// Sixteen lanes, products of bytes.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Vnni;

/// What both kinds of 256 bits share.
macro_rules! eight_lanes {
    () => {
        type F = x86::Avx2;
        #[inline(always)]
        unsafe fn store_pixels(p: *mut u8, v: [__m256; 4], zero: __m256i) {
            let [a, b, c, d] = [
                _mm256_add_epi32(_mm256_cvtps_epi32(v[0]), zero),
                _mm256_add_epi32(_mm256_cvtps_epi32(v[1]), zero),
                _mm256_add_epi32(_mm256_cvtps_epi32(v[2]), zero),
                _mm256_add_epi32(_mm256_cvtps_epi32(v[3]), zero),
            ];
            let low = _mm256_or_si256(a, _mm256_slli_epi32::<8>(b));
            let high = _mm256_or_si256(_mm256_slli_epi32::<16>(c), _mm256_slli_epi32::<24>(d));
            _mm256_storeu_si256(p.cast(), _mm256_or_si256(low, high));
        }
        #[inline(always)]
        fn anew(p: *const u8) -> *const u8 {
            let mut p = p;
            // SAFETY: no instruction at all.
            unsafe { asm!("/* {} */", inout(reg) p, options(readonly, nostack, preserves_flags)) };
            p
        }
        type I = __m256i;
        #[inline(always)]
        unsafe fn splat(sum: i32) -> __m256i {
            _mm256_set1_epi32(sum)
        }
        #[inline(always)]
        unsafe fn sums(p: *const i32) -> __m256i {
            _mm256_loadu_si256(p.cast())
        }
        #[inline(always)]
        unsafe fn float(sum: __m256i) -> __m256 {
            _mm256_cvtepi32_ps(sum)
        }
        #[inline(always)]
        unsafe fn load_bytes(p: *const u8) -> __m256 {
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())))
        }
        #[inline(always)]
        unsafe fn store_bytes(p: *mut u8, v: __m256, zero: __m256i) {
            let v = _mm256_add_epi32(_mm256_cvtps_epi32(v), zero);
            let words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            _mm_storel_epi64(p.cast(), _mm_packus_epi16(words, words));
        }
        #[inline(always)]
        unsafe fn store_interleaved(p: *mut u8, v: [__m256; 4], zero: __m256i, channels: usize) {
            let a = _mm256_add_epi32(_mm256_cvtps_epi32(v[0]), zero);
            let b = _mm256_add_epi32(_mm256_cvtps_epi32(v[1]), zero);
            let c = _mm256_add_epi32(_mm256_cvtps_epi32(v[2]), zero);
            let d = _mm256_add_epi32(_mm256_cvtps_epi32(v[3]), zero);
            let bytes = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
            if channels >= 32 {
                _mm256_storeu_si256(p.cast(), bytes);
            } else {
                _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(bytes));
            }
        }
    };
}

/// What both kinds of 512 bits share.
macro_rules! sixteen_lanes {
    () => {
        type F = x86::Avx512;
        #[inline(always)]
        unsafe fn look_up(table: &[u8; 256], bytes: *mut u8, rows: usize, stride: usize, len: usize) {
            look_up512(table, bytes, rows, stride, len);
        }
        #[inline(always)]
        unsafe fn store_pixels(p: *mut u8, v: [__m512; 4], zero: __m512i) {
            let [a, b, c, d] = [
                _mm512_add_epi32(_mm512_cvtps_epi32(v[0]), zero),
                _mm512_add_epi32(_mm512_cvtps_epi32(v[1]), zero),
                _mm512_add_epi32(_mm512_cvtps_epi32(v[2]), zero),
                _mm512_add_epi32(_mm512_cvtps_epi32(v[3]), zero),
            ];
            let low = _mm512_or_si512(a, _mm512_slli_epi32::<8>(b));
            let high = _mm512_or_si512(_mm512_slli_epi32::<16>(c), _mm512_slli_epi32::<24>(d));
            _mm512_storeu_si512(p.cast(), _mm512_or_si512(low, high));
        }
        #[inline(always)]
        fn anew(p: *const u8) -> *const u8 {
            let mut p = p;
            // SAFETY: no instruction at all.
            unsafe { asm!("/* {} */", inout(reg) p, options(readonly, nostack, preserves_flags)) };
            p
        }
        type I = __m512i;
        #[inline(always)]
        unsafe fn splat(sum: i32) -> __m512i {
            _mm512_set1_epi32(sum)
        }
        #[inline(always)]
        unsafe fn sums(p: *const i32) -> __m512i {
            _mm512_loadu_si512(p.cast())
        }
        #[inline(always)]
        unsafe fn float(sum: __m512i) -> __m512 {
            _mm512_cvtepi32_ps(sum)
        }
        #[inline(always)]
        unsafe fn load_bytes(p: *const u8) -> __m512 {
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())))
        }
        #[inline(always)]
        unsafe fn store_bytes(p: *mut u8, v: __m512, zero: __m512i) {
            _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(v), zero)));
        }
        #[inline(always)]
        unsafe fn store_interleaved(p: *mut u8, v: [__m512; 4], zero: __m512i, channels: usize) {
            let a = _mm512_add_epi32(_mm512_cvtps_epi32(v[0]), zero);
            let b = _mm512_add_epi32(_mm512_cvtps_epi32(v[1]), zero);
            let c = _mm512_add_epi32(_mm512_cvtps_epi32(v[2]), zero);
            let d = _mm512_add_epi32(_mm512_cvtps_epi32(v[3]), zero);
            let bytes = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
            if channels >= 64 {
                _mm512_storeu_si512(p.cast(), bytes);
            } else {
                _mm512_mask_storeu_epi8(p.cast(), (1 << channels) - 1, bytes);
            }
        }
    };
}

impl Bytes for Avx2 {
    eight_lanes!();
    /// The even bytes, then the odd ones.
    type X = [__m256i; 2];
    type W = [__m256i; 2];
    const FORMAT: Format = Format { lanes: 8, order: Order::Words, signed: false };
    #[inline(always)]
    unsafe fn weights(p: *const u8) -> [__m256i; 2] {
        [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())]
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const u8) -> [__m256i; 2] {
        halves256(_mm256_set1_epi32(p.cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    unsafe fn interleave(rows: [*const u8; 4], channels: usize) -> [[__m256i; 2]; 4] {
        interleave256(rows, channels).map(|x| halves256(x))
    }
    #[inline(always)]
    unsafe fn dot(sum: __m256i, x: [__m256i; 2], w: [__m256i; 2]) -> __m256i {
        let sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x[0], w[0]));
        _mm256_add_epi32(sum, _mm256_madd_epi16(x[1], w[1]))
    }
}

impl Bytes for AvxVnni {
    eight_lanes!();
    type X = __m256i;
    type W = __m256i;
    const FORMAT: Format = Format { lanes: 8, order: Order::Fours, signed: false };
    #[inline(always)]
    unsafe fn weights(p: *const u8) -> __m256i {
        _mm256_loadu_si256(p.cast())
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const u8) -> __m256i {
        _mm256_set1_epi32(p.cast::<i32>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn interleave(rows: [*const u8; 4], channels: usize) -> [__m256i; 4] {
        interleave256(rows, channels)
    }
    #[inline(always)]
    unsafe fn dot(sum: __m256i, x: __m256i, w: __m256i) -> __m256i {
        _mm256_dpbusd_avx_epi32(sum, x, w)
    }
}

impl Bytes for Avx512 {
    sixteen_lanes!();
    /// The even bytes, then the odd ones.
    type X = [__m512i; 2];
    type W = [__m512i; 2];
    const FORMAT: Format = Format { lanes: 16, order: Order::Words, signed: false };
    #[inline(always)]
    unsafe fn weights(p: *const u8) -> [__m512i; 2] {
        [_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(64).cast())]
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const u8) -> [__m512i; 2] {
        halves512(_mm512_set1_epi32(p.cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    unsafe fn interleave(rows: [*const u8; 4], channels: usize) -> [[__m512i; 2]; 4] {
        interleave512(rows, channels).map(|x| halves512(x))
    }
    #[inline(always)]
    unsafe fn dot(sum: __m512i, x: [__m512i; 2], w: [__m512i; 2]) -> __m512i {
        let sum = _mm512_add_epi32(sum, _mm512_madd_epi16(x[0], w[0]));
        _mm512_add_epi32(sum, _mm512_madd_epi16(x[1], w[1]))
    }
}

impl Bytes for Avx512Vnni {
    sixteen_lanes!();
    type X = __m512i;
    type W = __m512i;
    const FORMAT: Format = Format { lanes: 16, order: Order::Fours, signed: false };
    #[inline(always)]
    unsafe fn weights(p: *const u8) -> __m512i {
        _mm512_loadu_si512(p.cast())
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const u8) -> __m512i {
        _mm512_set1_epi32(p.cast::<i32>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn interleave(rows: [*const u8; 4], channels: usize) -> [__m512i; 4] {
        interleave512(rows, channels)
    }
    #[inline(always)]
    unsafe fn dot(sum: __m512i, x: __m512i, w: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(sum, x, w)
    }
}

/// Splits groups of four bytes into the even and the odd ones, 16 bits each.
#[inline(always)]
unsafe fn halves256(x: __m256i) -> [__m256i; 2] {
    [_mm256_and_si256(x, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(x)]
}

#[inline(always)]
unsafe fn halves512(x: __m512i) -> [__m512i; 2] {
    [_mm512_and_si512(x, _mm512_set1_epi16(0xff)), _mm512_srli_epi16::<8>(x)]
}

#[inline(always)]
unsafe fn interleave256(rows: [*const u8; 4], channels: usize) -> [__m256i; 4] {
    let [a, b, c, d] = rows.map(|p| match channels {
        32.. => _mm256_loadu_si256(p.cast()),
        _ => _mm256_zextsi128_si256(_mm_loadu_si128(p.cast())),
    });
    let (low, high) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
    let (low2, high2) = (_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d));
    [
        _mm256_unpacklo_epi16(low, low2),
        _mm256_unpackhi_epi16(low, low2),
        _mm256_unpacklo_epi16(high, high2),
        _mm256_unpackhi_epi16(high, high2),
    ]
}

#[inline(always)]
unsafe fn interleave512(rows: [*const u8; 4], channels: usize) -> [__m512i; 4] {
    let [a, b, c, d] = rows.map(|p| match channels {
        64.. => _mm512_loadu_si512(p.cast()),
        _ => _mm512_maskz_loadu_epi8((1 << channels) - 1, p.cast()),
    });
    let (low, high) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
    let (low2, high2) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
    [
        _mm512_unpacklo_epi16(low, low2),
        _mm512_unpackhi_epi16(low, low2),
        _mm512_unpacklo_epi16(high, high2),
        _mm512_unpackhi_epi16(high, high2),
    ]
}

/// Looks bytes up 64 at a time where the machine has AVX-512 VBMI, as all have that came after the first with VNNI.
#[inline(always)]
unsafe fn look_up512(table: &[u8; 256], bytes: *mut u8, rows: usize, stride: usize, len: usize) {
    if is_x86_feature_detected!("avx512vbmi") {
        return look_up_vbmi(table, bytes, rows, stride, len);
    }
    for row in 0..rows {
        for i in 0..len {
            let byte = bytes.add(row * stride + i);
            *byte = *table.get_unchecked(usize::from(*byte));
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn look_up_vbmi(table: &[u8; 256], bytes: *mut u8, rows: usize, stride: usize, len: usize) {
    let part = |i: usize| _mm512_loadu_si512(table.as_ptr().add(i * 64).cast());
    let (a, b, c, d) = (part(0), part(1), part(2), part(3));
    let mask = if len >= 64 { u64::MAX } else { (1 << len) - 1 };
    for row in 0..rows {
        let p = bytes.add(row * stride).cast::<i8>();
        let x = _mm512_maskz_loadu_epi8(mask, p);
        let (low, high) = (_mm512_permutex2var_epi8(a, x, b), _mm512_permutex2var_epi8(c, x, d));
        _mm512_mask_storeu_epi8(p, mask, _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high));
    }
}
