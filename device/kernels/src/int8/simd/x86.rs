//! x86-64: AVX2 and AVX-512, each with and without the instructions that multiply bytes (VNNI).
//!
//! Without them, bytes are widened to 16 bits and multiplied in pairs: `vpmaddubsw`, which takes bytes, saturates.

mod words;

use std::arch::asm;
use std::arch::x86_64::*;

use super::{Bytes, Finish, Format, Order, look_up_singly};
use crate::int8::{Span, Table};
use crate::simd::{Simd, x86};

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
        type Q = __m256i;
        #[inline(always)]
        unsafe fn load(p: *const u8) -> __m256i {
            _mm256_loadu_si256(p.cast())
        }
        #[inline(always)]
        unsafe fn larger(a: __m256i, b: __m256i) -> __m256i {
            _mm256_max_epu8(a, b)
        }
        #[inline(always)]
        unsafe fn store(p: *mut u8, q: __m256i) {
            _mm256_storeu_si256(p.cast(), q);
        }
        // A product with the reciprocal, and once more with what it left: rounded as a division, at a fifth of its time
        // (Markstein, 1990).
        #[inline(always)]
        unsafe fn over(x: <Self::F as Simd>::V, scale: f32, reciprocal: f32) -> <Self::F as Simd>::V {
            let reciprocal = Self::F::splat(reciprocal);
            let first = Self::F::mul(x, reciprocal);
            Self::F::fma(Self::F::fma(first, Self::F::splat(-scale), x), reciprocal, first)
        }
        #[inline(always)]
        unsafe fn look_up(table: &Table, bytes: *mut u8, rows: usize, stride: usize, len: usize) {
            look_up256(table, bytes, rows, stride, len);
        }
        #[inline(always)]
        unsafe fn store_pixels(p: *mut u8, v: [__m256; 4], span: Span) {
            let zero = _mm256_set1_epi32(span.zero);
            let top = _mm256_set1_epi32(span.top);
            let byte = |v| {
                let v = _mm256_add_epi32(_mm256_cvtps_epi32(v), zero);
                _mm256_min_epi32(_mm256_max_epi32(v, _mm256_setzero_si256()), top)
            };
            let [a, b, c, d] = [byte(v[0]), byte(v[1]), byte(v[2]), byte(v[3])];
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
        unsafe fn store_bytes(p: *mut u8, v: __m256, span: Span) {
            let v = _mm256_cvtps_epi32(v);
            let words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            let words = _mm_adds_epi16(words, _mm_set1_epi16(span.zero as i16));
            let bytes = _mm_min_epu8(_mm_packus_epi16(words, words), _mm_set1_epi8(span.top as i8));
            _mm_storel_epi64(p.cast(), bytes);
        }
        #[inline(always)]
        unsafe fn store_rows<const V: usize, const H: usize>(
            p: *mut u8,
            width: usize,
            sums: &[[__m256i; V]; H],
            finish: &impl Finish<Self>,
            span: Span,
        ) {
            store_rows256::<Self, V, H>(p, width, sums, finish, span);
        }
        #[inline(always)]
        unsafe fn store_interleaved(p: *mut u8, v: [__m256; 4], span: Span, channels: usize) {
            let zero = _mm256_set1_epi16(span.zero as i16);
            let low = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
            let high = _mm256_packs_epi32(_mm256_cvtps_epi32(v[2]), _mm256_cvtps_epi32(v[3]));
            let bytes = _mm256_packus_epi16(_mm256_adds_epi16(low, zero), _mm256_adds_epi16(high, zero));
            let bytes = _mm256_min_epu8(bytes, _mm256_set1_epi8(span.top as i8));
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
        type Q = __m512i;
        #[inline(always)]
        unsafe fn load(p: *const u8) -> __m512i {
            _mm512_loadu_si512(p.cast())
        }
        #[inline(always)]
        unsafe fn larger(a: __m512i, b: __m512i) -> __m512i {
            _mm512_max_epu8(a, b)
        }
        #[inline(always)]
        unsafe fn store(p: *mut u8, q: __m512i) {
            _mm512_storeu_si512(p.cast(), q);
        }
        // A product with the reciprocal, and once more with what it left: rounded as a division, at a fifth of its time
        // (Markstein, 1990).
        #[inline(always)]
        unsafe fn over(x: <Self::F as Simd>::V, scale: f32, reciprocal: f32) -> <Self::F as Simd>::V {
            let reciprocal = Self::F::splat(reciprocal);
            let first = Self::F::mul(x, reciprocal);
            Self::F::fma(Self::F::fma(first, Self::F::splat(-scale), x), reciprocal, first)
        }
        #[inline(always)]
        unsafe fn look_up(table: &Table, bytes: *mut u8, rows: usize, stride: usize, len: usize) {
            look_up512(table, bytes, rows, stride, len);
        }
        #[inline(always)]
        unsafe fn store_pixels(p: *mut u8, v: [__m512; 4], span: Span) {
            let zero = _mm512_set1_epi32(span.zero);
            let top = _mm512_set1_epi32(span.top);
            let byte = |v| {
                let v = _mm512_add_epi32(_mm512_cvtps_epi32(v), zero);
                _mm512_min_epi32(_mm512_max_epi32(v, _mm512_setzero_si512()), top)
            };
            let [a, b, c, d] = [byte(v[0]), byte(v[1]), byte(v[2]), byte(v[3])];
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
        unsafe fn store_bytes(p: *mut u8, v: __m512, span: Span) {
            let words = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(v));
            let words = _mm256_adds_epi16(words, _mm256_set1_epi16(span.zero as i16));
            let words = _mm256_max_epi16(words, _mm256_setzero_si256());
            let bytes = _mm256_cvtepi16_epi8(_mm256_min_epi16(words, _mm256_set1_epi16(span.top as i16)));
            _mm_storeu_si128(p.cast(), bytes);
        }
        #[inline(always)]
        unsafe fn store_interleaved(p: *mut u8, v: [__m512; 4], span: Span, channels: usize) {
            let bytes = narrow512(
                [_mm512_cvtps_epi32(v[0]), _mm512_cvtps_epi32(v[1]), _mm512_cvtps_epi32(v[2]), _mm512_cvtps_epi32(v[3])],
                span,
            );
            // By parts: stores by a mask of bytes are slow on some machines.
            if channels >= 64 {
                return _mm512_storeu_si512(p.cast(), bytes);
            }
            if channels >= 32 {
                _mm256_storeu_si256(p.cast(), _mm512_castsi512_si256(bytes));
            }
            match channels {
                48 => _mm_storeu_si128(p.add(32).cast(), _mm512_extracti32x4_epi32::<2>(bytes)),
                16 => _mm_storeu_si128(p.cast(), _mm512_castsi512_si128(bytes)),
                _ => {}
            }
        }
        #[inline(always)]
        unsafe fn store_rows<const V: usize, const H: usize>(
            p: *mut u8,
            width: usize,
            sums: &[[__m512i; V]; H],
            finish: &impl Finish<Self>,
            span: Span,
        ) {
            store_rows512::<Self, V, H>(p, width, sums, finish, span);
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
        let [a, b, c, d] = interleave256(rows, channels);
        [halves256(a), halves256(b), halves256(c), halves256(d)]
    }
    #[inline(always)]
    unsafe fn dot(sum: __m256i, x: [__m256i; 2], w: [__m256i; 2]) -> __m256i {
        let sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x[0], w[0]));
        _mm256_add_epi32(sum, _mm256_madd_epi16(x[1], w[1]))
    }
    const COLUMNS: bool = true;
    #[inline(always)]
    unsafe fn columns<const KY: usize, const KX: usize, const T: usize, const N: usize>(
        sums: &mut [[__m256i; 4]; N],
        rows: &[(*const u8, usize)],
        weights: *const u8,
        channels: usize,
    ) {
        if channels == 4 * Self::LANES {
            Self::multiply_columns::<KY, KX, T, N, true>(sums, rows, weights);
        } else {
            Self::multiply_columns::<KY, KX, T, N, false>(sums, rows, weights);
        }
    }
    const WIDENS: bool = true;
    #[inline(always)]
    unsafe fn widen(from: *const u8, groups: usize, to: *mut u8) {
        // Of four words, the even ones come first.
        let order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
        let mut group = 0;
        while group + 4 <= groups {
            let bytes = _mm_shuffle_epi8(_mm_loadu_si128(from.add(group * 4).cast()), order);
            _mm256_storeu_si256(to.add(group * 8).cast(), _mm256_cvtepu8_epi16(bytes));
            group += 4;
        }
        while group < groups {
            let bytes = _mm_shuffle_epi8(_mm_cvtsi32_si128(from.add(group * 4).cast::<i32>().read_unaligned()), order);
            _mm_storel_epi64(to.add(group * 8).cast(), _mm_cvtepu8_epi16(bytes));
            group += 1;
        }
    }
    #[inline(always)]
    unsafe fn products<const V: usize, const H: usize>(
        sums: &mut [[__m256i; V]; H],
        rows: &[*const u8; H],
        weights: &mut [*const u8; V],
        groups: usize,
        _tame: bool,
    ) {
        Self::multiply(sums, rows, weights, groups);
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
        let [a, b, c, d] = interleave512(rows, channels);
        [halves512(a), halves512(b), halves512(c), halves512(d)]
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

/// Stores rows of two vectors each, two rows at a time.
#[inline(always)]
unsafe fn store_rows256<S: Bytes<F = x86::Avx2, I = __m256i>, const V: usize, const H: usize>(
    p: *mut u8,
    width: usize,
    sums: &[[__m256i; V]; H],
    finish: &impl Finish<S>,
    span: Span,
) {
    assert!(V == 2);
    // Narrowed, four numbers of each vector are together.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let zero = _mm256_set1_epi16(span.zero as i16);
    let top = _mm256_set1_epi8(span.top as i8);
    // A macro, as closures are not compiled for the instruction set of who calls them.
    macro_rules! words {
        ($h:expr) => {{
            let low = _mm256_cvtps_epi32(finish.steps(sums[$h][0], $h, 0));
            let high = _mm256_cvtps_epi32(finish.steps(sums[$h][1], $h, 1));
            _mm256_adds_epi16(_mm256_packs_epi32(low, high), zero)
        }};
    }
    for h in (0..H).step_by(2) {
        let first = words!(h);
        let second = if h + 1 < H { words!(h + 1) } else { first };
        let bytes = _mm256_min_epu8(_mm256_packus_epi16(first, second), top);
        let bytes = _mm256_permutevar8x32_epi32(bytes, order);
        _mm_storeu_si128(p.add(h * width).cast(), _mm256_castsi256_si128(bytes));
        if h + 1 < H {
            _mm_storeu_si128(p.add((h + 1) * width).cast(), _mm256_extracti128_si256::<1>(bytes));
        }
    }
}

/// Stores rows, four vectors at a time, of one row or several.
#[inline(always)]
unsafe fn store_rows512<S: Bytes<F = x86::Avx512, I = __m512i>, const V: usize, const H: usize>(
    p: *mut u8,
    width: usize,
    sums: &[[__m512i; V]; H],
    finish: &impl Finish<S>,
    span: Span,
) {
    // The narrowed ones lie by parts of four numbers.
    let order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    // Macros, as closures are not compiled for the instruction set of who calls them.
    macro_rules! whole {
        ($at:expr) => {{
            let at = if $at < V * H { $at } else { V * H - 1 };
            _mm512_cvtps_epi32(finish.steps(sums[at / V][at % V], at / V, at % V))
        }};
    }
    macro_rules! to {
        ($at:expr) => {
            p.add($at / V * width + $at % V * 16)
        };
    }
    macro_rules! fours {
        ($($at:literal)*) => {$(
            if $at < V * H {
                let bytes = narrow512([whole!($at), whole!($at + 1), whole!($at + 2), whole!($at + 3)], span);
                let bytes = _mm512_permutexvar_epi32(order, bytes);
                if V == 2 {
                    _mm256_storeu_si256(to!($at).cast(), _mm512_castsi512_si256(bytes));
                    if $at + 2 < V * H {
                        _mm256_storeu_si256(to!($at + 2).cast(), _mm512_extracti64x4_epi64::<1>(bytes));
                    }
                } else {
                    _mm_storeu_si128(to!($at).cast(), _mm512_castsi512_si128(bytes));
                    if $at + 1 < V * H {
                        _mm_storeu_si128(to!($at + 1).cast(), _mm512_extracti32x4_epi32::<1>(bytes));
                    }
                    if $at + 2 < V * H {
                        _mm_storeu_si128(to!($at + 2).cast(), _mm512_extracti32x4_epi32::<2>(bytes));
                    }
                    if $at + 3 < V * H {
                        _mm_storeu_si128(to!($at + 3).cast(), _mm512_extracti32x4_epi32::<3>(bytes));
                    }
                }
            }
        )*};
    }
    fours!(0 4 8 12);
}

/// Narrows whole numbers to the bytes of steps; parts of four of each vector follow each other.
#[inline(always)]
unsafe fn narrow512(v: [__m512i; 4], span: Span) -> __m512i {
    let zero = _mm512_set1_epi16(span.zero as i16);
    let low = _mm512_adds_epi16(_mm512_packs_epi32(v[0], v[1]), zero);
    let high = _mm512_adds_epi16(_mm512_packs_epi32(v[2], v[3]), zero);
    _mm512_min_epu8(_mm512_packus_epi16(low, high), _mm512_set1_epi8(span.top as i8))
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

/// Loads 16 or 32 bytes.
#[inline(always)]
unsafe fn load256(p: *const u8, channels: usize) -> __m256i {
    match channels {
        32.. => _mm256_loadu_si256(p.cast()),
        _ => _mm256_zextsi128_si256(_mm_loadu_si128(p.cast())),
    }
}

// The compiler may leave a closure for `map` out of line, and its instructions with it: half of a depthwise kernel's speed.
#[inline(always)]
unsafe fn interleave256(rows: [*const u8; 4], channels: usize) -> [__m256i; 4] {
    let [a, b, c, d] = [
        load256(rows[0], channels),
        load256(rows[1], channels),
        load256(rows[2], channels),
        load256(rows[3], channels),
    ];
    let (low, high) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
    let (low2, high2) = (_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d));
    [
        _mm256_unpacklo_epi16(low, low2),
        _mm256_unpackhi_epi16(low, low2),
        _mm256_unpacklo_epi16(high, high2),
        _mm256_unpackhi_epi16(high, high2),
    ]
}

/// Loads 16, 32, 48 or 64 bytes.
#[inline(always)]
unsafe fn load512(p: *const u8, channels: usize) -> __m512i {
    match channels {
        64.. => _mm512_loadu_si512(p.cast()),
        48.. => {
            let low = _mm512_zextsi256_si512(_mm256_loadu_si256(p.cast()));
            _mm512_inserti32x4::<2>(low, _mm_loadu_si128(p.add(32).cast()))
        }
        32.. => _mm512_zextsi256_si512(_mm256_loadu_si256(p.cast())),
        _ => _mm512_zextsi128_si512(_mm_loadu_si128(p.cast())),
    }
}

#[inline(always)]
unsafe fn interleave512(rows: [*const u8; 4], channels: usize) -> [__m512i; 4] {
    let [a, b, c, d] = [
        load512(rows[0], channels),
        load512(rows[1], channels),
        load512(rows[2], channels),
        load512(rows[3], channels),
    ];
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
unsafe fn look_up512(table: &Table, bytes: *mut u8, rows: usize, stride: usize, len: usize) {
    if is_x86_feature_detected!("avx512vbmi") {
        return look_up_vbmi(table, bytes, rows, stride, len);
    }
    look_up_singly(table, bytes, rows, stride, len);
}

/// By sixteens, as `vpshufb` looks up by four bits and has zero for a byte of which the highest is set: with 16 taken off again and
/// again, a byte has its low bits the same and finds something in every sixteen up to its own, each of which turns the one
/// before into itself.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn look_up256(table: &Table, bytes: *mut u8, rows: usize, stride: usize, len: usize) {
    let each = len / 16;
    let parts = rows * each;
    let mut part = 0;
    while part < parts {
        match parts - part {
            1 | 2 => look_up_parts::<1>(table, bytes, stride, each, part..parts),
            3 | 4 => look_up_parts::<2>(table, bytes, stride, each, part..parts),
            _ => look_up_parts::<3>(table, bytes, stride, each, part..parts),
        }
        part += 6;
    }
}

/// Looks up the first `2 * N` of some parts of 16 bytes, of which `each` make a row.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn look_up_parts<const N: usize>(
    table: &Table,
    bytes: *mut u8,
    stride: usize,
    each: usize,
    parts: std::ops::Range<usize>,
) {
    let mut at = [[bytes; 2]; N];
    for (i, p) in at.as_flattened_mut().iter_mut().enumerate() {
        // Of an odd number the last one is looked up twice.
        let part = (parts.start + i).min(parts.end - 1);
        *p = bytes.add(part / each * stride + part % each * 16);
    }
    let (step, half) = (_mm256_set1_epi8(16), _mm256_set1_epi8(-128));
    let (mut low, mut high) = ([half; N], [half; N]);
    for n in 0..N {
        low[n] = _mm256_loadu2_m128i(at[n][1].cast(), at[n][0].cast());
        high[n] = _mm256_xor_si256(low[n], half);
    }
    let mut found = [_mm256_setzero_si256(); N];
    let sixteen = table.turned().as_ptr();
    for i in 0..8 {
        let of_low = _mm256_broadcastsi128_si256(_mm_loadu_si128(sixteen.add(i * 16).cast()));
        let of_high = _mm256_broadcastsi128_si256(_mm_loadu_si128(sixteen.add(128 + i * 16).cast()));
        for n in 0..N {
            found[n] = _mm256_xor_si256(found[n], _mm256_shuffle_epi8(of_low, low[n]));
            found[n] = _mm256_xor_si256(found[n], _mm256_shuffle_epi8(of_high, high[n]));
            low[n] = _mm256_subs_epi8(low[n], step);
            high[n] = _mm256_subs_epi8(high[n], step);
        }
    }
    for n in 0..N {
        _mm256_storeu2_m128i(at[n][1].cast(), at[n][0].cast(), found[n]);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn look_up_vbmi(table: &Table, bytes: *mut u8, rows: usize, stride: usize, len: usize) {
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
