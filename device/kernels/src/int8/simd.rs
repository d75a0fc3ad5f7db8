//! The vectors that byte kernels are written over, one implementation an instruction set.
//!
//! Weights are packed for the instruction set they run on: four of one output follow each other, as [`Format`] tells.

#[cfg(target_arch = "aarch64")]
mod arm;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub(crate) use arm::{Neon, NeonDot};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, Avx512Vnni, AvxVnni};

use super::{Span, Table};
use crate::simd::{Scalar, Simd};
use crate::{BLOCK, Isa};

/// Vectors of as many 32-bit sums as `F` has numbers.
///
/// # Safety
///
/// The functions need the machine to have the instruction set, and those with addresses that as much as they say lies
/// there.
pub(crate) trait Bytes: Copy {
    type F: Simd;
    /// A 32-bit sum a lane.
    type I: Copy;
    /// Four bytes a lane, ready to be multiplied.
    type X: Copy;
    /// Four weights a lane, ready to be multiplied.
    type W: Copy;
    /// Bytes, four times as many as there are lanes.
    type Q: Copy;
    const LANES: usize = Self::F::LANES;
    const FORMAT: Format;
    /// How a depthwise kernel multiplies.
    const TAPS: Taps = Taps::Fours;
    /// Whether registers hold a depthwise tile of four outputs rather than two.
    const WIDE_TILES: bool = false;
    /// Loads bytes.
    unsafe fn load(p: *const u8) -> Self::Q;
    /// Returns the larger of each two bytes.
    unsafe fn larger(a: Self::Q, b: Self::Q) -> Self::Q;
    /// Stores bytes.
    unsafe fn store(p: *mut u8, q: Self::Q);
    /// Replaces `len` bytes (a multiple of `LANES`, at most `4 * LANES`) in each of `rows` rows, `stride` bytes apart, by
    /// what a table has for them.
    #[inline(always)]
    unsafe fn look_up(table: &Table, bytes: *mut u8, rows: usize, stride: usize, len: usize) {
        look_up_singly(table, bytes, rows, stride, len);
    }
    /// As [`Bytes::store_bytes`], of `LANES` pixels of four bytes.
    unsafe fn store_pixels(p: *mut u8, v: [<Self::F as Simd>::V; 4], span: Span);
    /// Loads a sum for each lane.
    unsafe fn sums(p: *const i32) -> Self::I;
    /// Loads packed weights.
    unsafe fn weights(p: *const u8) -> Self::W;
    /// Loads the same four bytes into every lane.
    unsafe fn broadcast(p: *const u8) -> Self::X;
    /// Loads `channels` (a multiple of 16, at most `4 * LANES`) bytes of four rows, and brings together the four of a
    /// channel. Lane `l` of vector `v` has channel [`Format::channel`]`(v, l)`. With [`Taps::Rows`], loads them row by row.
    unsafe fn interleave(rows: [*const u8; 4], channels: usize) -> [Self::X; 4];
    /// Adds the products of bytes and weights, exactly.
    unsafe fn dot(sum: Self::I, x: Self::X, w: Self::W) -> Self::I;
    /// Adds the products of what [`Bytes::interleave`] gave and the weights that go with it, of which those of the first
    /// `taps` rows are not zero. `TAMED` claims that no weight is -128.
    #[inline(always)]
    unsafe fn column<const TAMED: bool>(sums: &mut [Self::I; 4], x: &[Self::X; 4], weights: *const u8, _taps: usize) {
        let vector = Self::LANES * Self::FORMAT.group();
        sums[0] = Self::dot(sums[0], x[0], Self::weights(weights));
        sums[1] = Self::dot(sums[1], x[1], Self::weights(weights.add(vector)));
        sums[2] = Self::dot(sums[2], x[2], Self::weights(weights.add(2 * vector)));
        sums[3] = Self::dot(sums[3], x[3], Self::weights(weights.add(3 * vector)));
    }
    /// Whether [`Bytes::products`] takes rows that [`Bytes::widen`] has written, rather than bytes.
    const WIDENS: bool = false;
    /// Writes `groups` times four bytes as words of 16 bits, eight bytes a group, in the order of their weights.
    #[inline(always)]
    unsafe fn widen(_from: *const u8, _groups: usize, _to: *mut u8) {
        unreachable!("rows are bytes where they are not widened");
    }
    /// Whether [`Bytes::columns`] does a tile of two depthwise outputs.
    const COLUMNS: bool = false;
    /// Adds the products of all taps, `KY` times `KX`, of a window that moves by `T` columns for each of `N` outputs. Of
    /// each row, its address and the bytes from one column to the next; `channels` as for [`Bytes::interleave`].
    #[inline(always)]
    unsafe fn columns<const KY: usize, const KX: usize, const T: usize, const N: usize>(
        _sums: &mut [[Self::I; 4]; N],
        _rows: &[(*const u8, usize)],
        _weights: *const u8,
        _channels: usize,
    ) {
        unreachable!("columns are multiplied one by one");
    }
    /// Adds the products of `groups` times four bytes of each row with the weights that lie at `weights` for each vector,
    /// [`BLOCK`] outputs after the other, and moves `weights` past them. `tame` claims that no weight is -128.
    #[inline(always)]
    unsafe fn products<const V: usize, const H: usize>(
        sums: &mut [[Self::I; V]; H],
        rows: &[*const u8; H],
        weights: &mut [*const u8; V],
        groups: usize,
        _tame: bool,
    ) {
        let (mut at, end) = (0, groups * 4);
        while at < end {
            let mut w = [Self::weights(weights[0]); V];
            for v in 0..V {
                w[v] = Self::weights(weights[v]);
                // Behind the last weights, all but the first point past the end of the memory.
                weights[v] = weights[v].wrapping_add(BLOCK * Self::FORMAT.group());
            }
            for h in 0..H {
                let x = Self::broadcast(rows[h].add(at));
                for v in 0..V {
                    sums[h][v] = Self::dot(sums[h][v], x, w[v]);
                }
            }
            // A check of overflow would keep the sums out of registers.
            at = at.wrapping_add(4);
        }
    }
    /// Returns the same address, of which the compiler does not know that: what is loaded from it is not kept from an
    /// earlier load, for which there are not registers enough.
    #[inline(always)]
    fn anew(p: *const u8) -> *const u8 {
        p
    }
    /// Returns `x / scale` to the last bit, given `1 / scale` too.
    #[inline(always)]
    unsafe fn over(x: <Self::F as Simd>::V, scale: f32, _reciprocal: f32) -> <Self::F as Simd>::V {
        Self::F::div(x, Self::F::splat(scale))
    }
    unsafe fn float(sum: Self::I) -> <Self::F as Simd>::V;
    /// Loads `LANES` bytes as numbers.
    unsafe fn load_bytes(p: *const u8) -> <Self::F as Simd>::V;
    /// Rounds to steps and stores them as bytes. Numbers are within 2^30 of zero, here and below.
    unsafe fn store_bytes(p: *mut u8, v: <Self::F as Simd>::V, span: Span);
    /// As [`Bytes::store_bytes`], of what [`Bytes::interleave`] spread over four vectors, `channels` of them.
    unsafe fn store_interleaved(p: *mut u8, v: [<Self::F as Simd>::V; 4], span: Span, channels: usize);
    /// As [`Bytes::store_bytes`], of sums in `H` rows, `width` bytes apart, as `finish` turns them into steps.
    #[inline(always)]
    unsafe fn store_rows<const V: usize, const H: usize>(
        p: *mut u8,
        width: usize,
        sums: &[[Self::I; V]; H],
        finish: &impl Finish<Self>,
        span: Span,
    ) {
        for (h, row) in sums.iter().enumerate() {
            for (v, sum) in row.iter().enumerate() {
                Self::store_bytes(p.add(h * width + v * Self::LANES), finish.steps(*sum, h, v), span);
            }
        }
    }
}

/// Vectors whose products are of words, and what sums of such are transformed with.
///
/// # Safety
///
/// As for [`Bytes`].
#[cfg(target_arch = "x86_64")]
pub(crate) trait Words: Bytes {
    /// Words of 16 bits.
    type H: Copy;
    /// How many.
    const WORDS: usize;
    /// Loads bytes as words.
    unsafe fn words(p: *const u8) -> Self::H;
    unsafe fn add_words(a: Self::H, b: Self::H) -> Self::H;
    unsafe fn sub_words(a: Self::H, b: Self::H) -> Self::H;
    unsafe fn store_words(p: *mut i16, words: Self::H);
    unsafe fn add_sums(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn sub_sums(a: Self::I, b: Self::I) -> Self::I;
    /// Returns a fourth of sums that are multiples of four.
    unsafe fn quarter(sums: Self::I) -> Self::I;
    unsafe fn store_sums(p: *mut i32, sums: Self::I);
}

/// As [`Bytes::look_up`], byte by byte.
#[inline(always)]
unsafe fn look_up_singly(table: &Table, bytes: *mut u8, rows: usize, stride: usize, len: usize) {
    for row in 0..rows {
        for i in 0..len {
            let byte = bytes.add(row * stride + i);
            *byte = *table.get_unchecked(usize::from(*byte));
        }
    }
}

/// How the sums of a tile become steps. Not a closure: those are not compiled for the instruction set of who calls them.
pub(crate) trait Finish<S: Bytes> {
    /// Returns steps, still to be rounded, for vector `v` of row `h`.
    ///
    /// # Safety
    ///
    /// The machine has the instructions of `S`.
    unsafe fn steps(&self, sum: S::I, h: usize, v: usize) -> <S::F as Simd>::V;
}

/// How a depthwise kernel multiplies four taps of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "which of them are used depends on the machine")]
pub(crate) enum Taps {
    /// The four of a channel at once: weights lie in the order of the format.
    Fours,
    /// Row by row: weights lie so, too.
    Rows,
}

/// How weights lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub lanes: usize,
    pub order: Order,
    /// Bytes are multiplied as signed numbers, 128 less than what they are.
    pub signed: bool,
}

/// How four weights of each lane make a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "which of them are used depends on the machine")]
pub(crate) enum Order {
    /// The four of a lane, then those of the next.
    Fours,
    /// The first two of every lane, then the last two of every lane.
    Pairs,
    /// Two vectors: of 16 bits each the even ones, then the odd ones.
    Words,
}

impl Format {
    pub fn of(isa: Isa) -> Self {
        match isa {
            Isa::Scalar => <Scalar as Bytes>::FORMAT,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::FORMAT,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => AvxVnni::FORMAT,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::FORMAT,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Avx512Vnni::FORMAT,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Neon::FORMAT,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => NeonDot::FORMAT,
        }
    }

    /// Returns how depthwise kernels of an instruction set multiply.
    pub fn taps(isa: Isa) -> Taps {
        match isa {
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Neon::TAPS,
            _ => Taps::Fours,
        }
    }

    /// Returns whether rows are widened for the products of an instruction set.
    pub fn widens(isa: Isa) -> bool {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::WIDENS,
            _ => false,
        }
    }

    /// Returns the bytes that four weights take.
    pub fn group(self) -> usize {
        if self.order == Order::Words { 8 } else { 4 }
    }

    /// Writes the four weights of each lane of a vector.
    pub fn pack(self, weights: impl Iterator<Item = [i8; 4]>, to: &mut [u8]) {
        for (lane, w) in weights.enumerate() {
            let bytes = w.map(|v| v.cast_unsigned());
            match self.order {
                Order::Fours => to[lane * 4..lane * 4 + 4].copy_from_slice(&bytes),
                Order::Pairs => {
                    for (half, pair) in bytes.as_chunks::<2>().0.iter().enumerate() {
                        let at = (half * self.lanes + lane) * 2;
                        to[at..at + 2].copy_from_slice(pair);
                    }
                }
                Order::Words => {
                    let wide = w.map(|v| i16::from(v).to_le_bytes());
                    for (half, pair) in [[wide[0], wide[2]], [wide[1], wide[3]]].iter().enumerate() {
                        let at = (half * self.lanes + lane) * 4;
                        to[at..at + 4].copy_from_slice(pair.as_flattened());
                    }
                }
            }
        }
    }

    /// Returns what a byte that stands for zero counts as in a product.
    pub fn zero(self, zero: u8) -> i32 {
        i32::from(zero) - if self.signed { 128 } else { 0 }
    }

    /// Returns the channel, of `4 * lanes`, that interleaved vectors hold in a lane: vectors are interleaved by parts of
    /// 16 bytes, so a part of four lanes of vector `v` holds channels `4 v..` of the part's sixteen.
    pub fn channel(self, vector: usize, lane: usize) -> usize {
        if self.lanes < 4 { vector * self.lanes + lane } else { lane / 4 * 16 + vector * 4 + lane % 4 }
    }
}

impl Bytes for Scalar {
    type F = Scalar;
    type I = i32;
    type X = [u8; 4];
    type W = [i8; 4];
    type Q = [u8; 4];
    const FORMAT: Format = Format { lanes: 1, order: Order::Fours, signed: false };
    #[inline(always)]
    unsafe fn load(p: *const u8) -> [u8; 4] {
        p.cast::<[u8; 4]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn larger(a: [u8; 4], b: [u8; 4]) -> [u8; 4] {
        std::array::from_fn(|i| a[i].max(b[i]))
    }
    #[inline(always)]
    unsafe fn store(p: *mut u8, q: [u8; 4]) {
        p.cast::<[u8; 4]>().write_unaligned(q);
    }
    #[inline(always)]
    unsafe fn store_pixels(p: *mut u8, v: [f32; 4], span: Span) {
        Self::store_interleaved(p, v, span, 4);
    }
    #[inline(always)]
    unsafe fn sums(p: *const i32) -> i32 {
        *p
    }
    #[inline(always)]
    unsafe fn weights(p: *const u8) -> [i8; 4] {
        p.cast::<[i8; 4]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const u8) -> [u8; 4] {
        p.cast::<[u8; 4]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn interleave(rows: [*const u8; 4], _: usize) -> [[u8; 4]; 4] {
        std::array::from_fn(|c| rows.map(|row| *row.add(c)))
    }
    #[inline(always)]
    unsafe fn dot(sum: i32, x: [u8; 4], w: [i8; 4]) -> i32 {
        x.iter().zip(w).fold(sum, |sum, (x, w)| sum.wrapping_add(i32::from(*x) * i32::from(w)))
    }
    #[inline(always)]
    unsafe fn float(sum: i32) -> f32 {
        sum as f32
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> f32 {
        f32::from(*p)
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: f32, span: Span) {
        *p = (v.round_ties_even() as i32 + span.zero).clamp(0, span.top) as u8;
    }
    #[inline(always)]
    unsafe fn store_interleaved(p: *mut u8, v: [f32; 4], span: Span, _: usize) {
        for (i, v) in v.into_iter().enumerate() {
            Self::store_bytes(p.add(i), v, span);
        }
    }
}

/// Compiles `$generic::<S, VECTORS, ROWS>` for every instruction set and picks one at run time; see the macro of the
/// same purpose for single precision.
macro_rules! dispatch {
    ($isa:expr, $generic:ident, $args:expr, $type:ty) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2(args: $type) {
            $generic::<crate::int8::simd::Avx2, 2, 6>(args)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,avxvnni")]
        unsafe fn avx_vnni(args: $type) {
            $generic::<crate::int8::simd::AvxVnni, 2, 6>(args)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        unsafe fn avx512(args: $type) {
            $generic::<crate::int8::simd::Avx512, 1, 8>(args)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        unsafe fn avx512_vnni(args: $type) {
            $generic::<crate::int8::simd::Avx512Vnni, 1, 8>(args)
        }
        #[cfg(target_arch = "aarch64")]
        #[target_feature(enable = "neon")]
        unsafe fn neon(args: $type) {
            $generic::<crate::int8::simd::Neon, 4, 4>(args)
        }
        #[cfg(target_arch = "aarch64")]
        #[target_feature(enable = "neon,dotprod")]
        unsafe fn neon_dot(args: $type) {
            $generic::<crate::int8::simd::NeonDot, 4, 6>(args)
        }
        unsafe fn scalar(args: $type) {
            $generic::<crate::simd::Scalar, 16, 1>(args)
        }
        match $isa {
            crate::Isa::Scalar => scalar($args),
            #[cfg(target_arch = "x86_64")]
            crate::Isa::Avx2 => avx2($args),
            #[cfg(target_arch = "x86_64")]
            crate::Isa::AvxVnni => avx_vnni($args),
            #[cfg(target_arch = "x86_64")]
            crate::Isa::Avx512 => avx512($args),
            #[cfg(target_arch = "x86_64")]
            crate::Isa::Avx512Vnni => avx512_vnni($args),
            #[cfg(target_arch = "aarch64")]
            crate::Isa::Neon => neon($args),
            #[cfg(target_arch = "aarch64")]
            crate::Isa::NeonDot => neon_dot($args),
        }
    }};
}
pub(crate) use dispatch;
