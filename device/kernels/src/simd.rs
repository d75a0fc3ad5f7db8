//! The vector type that kernels are written over, one implementation an instruction set.
//!
//! Every function is inlined into a kernel that carries the instruction set's `target_feature`; none may be called
//! from elsewhere.

#[cfg(target_arch = "aarch64")]
pub(crate) mod arm;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

use crate::BLOCK;

/// A vector of `LANES` single-precision numbers.
///
/// # Safety
///
/// The functions need the machine to have the instruction set, and `load` and `store` that `LANES` numbers lie there.
pub(crate) trait Simd: Copy {
    type V: Copy;
    const LANES: usize;
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// Asks for the cache line at an address, which need not exist.
    #[inline(always)]
    unsafe fn prefetch(_p: *const f32) {}
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sqrt(a: Self::V) -> Self::V;
    /// `a * b + c`.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Adds the products of `depth` numbers of each row with the weights that lie at `weights` for each vector, [`BLOCK`]
    /// outputs after the other, and moves `weights` past them.
    #[inline(always)]
    unsafe fn products<const V: usize, const H: usize>(
        sums: &mut [[Self::V; V]; H],
        rows: &[*const f32; H],
        weights: &mut [*const f32; V],
        depth: usize,
    ) {
        for i in 0..depth {
            let mut w = [Self::splat(0.0); V];
            for v in 0..V {
                w[v] = Self::load(weights[v].add(i * BLOCK));
                Self::prefetch(weights[v].wrapping_add((i + AHEAD) * BLOCK));
            }
            for h in 0..H {
                let x = Self::splat(*rows[h].add(i));
                for v in 0..V {
                    sums[h][v] = Self::fma(x, w[v], sums[h][v]);
                }
            }
        }
        // Behind the last weights, all but the first point past the end of the memory.
        for p in weights {
            *p = p.wrapping_add(depth * BLOCK);
        }
    }
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// Returns zero where `x <= low` or `x >= high` and `value` elsewhere, also where `x` is not a number.
    unsafe fn between(x: Self::V, low: Self::V, high: Self::V, value: Self::V) -> Self::V;
    /// Returns `yes` where `a == b` and `no` elsewhere.
    unsafe fn equal(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// Rounds half to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// Returns `a * 2^n` for whole numbers `n` from -126 to 127.
    unsafe fn times_pow2(a: Self::V, n: Self::V) -> Self::V;
}

/// Steps of depth that weights are asked for before they are multiplied.
const AHEAD: usize = 32;

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

impl Simd for Scalar {
    type V = f32;
    const LANES: usize = 1;
    #[inline(always)]
    unsafe fn splat(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> f32 {
        *p
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: f32) {
        *p = v;
    }
    #[inline(always)]
    unsafe fn add(a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    unsafe fn mul(a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline(always)]
    unsafe fn div(a: f32, b: f32) -> f32 {
        a / b
    }
    #[inline(always)]
    unsafe fn sqrt(a: f32) -> f32 {
        a.sqrt()
    }
    #[inline(always)]
    unsafe fn fma(a: f32, b: f32, c: f32) -> f32 {
        // Not `mul_add`, which is a call into libm where the target has no such instruction.
        a * b + c
    }
    #[inline(always)]
    unsafe fn max(a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }
    #[inline(always)]
    unsafe fn min(a: f32, b: f32) -> f32 {
        if a < b { a } else { b }
    }
    #[inline(always)]
    unsafe fn between(x: f32, low: f32, high: f32, value: f32) -> f32 {
        if x <= low || x >= high { 0.0 } else { value }
    }
    #[inline(always)]
    unsafe fn equal(a: f32, b: f32, yes: f32, no: f32) -> f32 {
        if a == b { yes } else { no }
    }
    #[inline(always)]
    unsafe fn round(a: f32) -> f32 {
        a.round_ties_even()
    }
    #[inline(always)]
    unsafe fn times_pow2(a: f32, n: f32) -> f32 {
        a * f32::from_bits(((n as i32 + 127) as u32) << 23)
    }
}

/// Compiles `$generic::<S, VECTORS, ROWS>` for every instruction set and picks one at run time; `VECTORS` vectors hold
/// a block of channels and `ROWS` is how many rows of a tile the registers hold, the addresses of the rows included: with
/// 12 rows AVX-512 would have accumulators enough, but runs at a third of the speed as the addresses spill.
macro_rules! dispatch {
    ($isa:expr, $generic:ident, $args:expr, $type:ty) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2(args: $type) {
            $generic::<crate::simd::x86::Avx2, 2, 6>(args)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        unsafe fn avx512(args: $type) {
            $generic::<crate::simd::x86::Avx512, 1, 8>(args)
        }
        #[cfg(target_arch = "aarch64")]
        #[target_feature(enable = "neon")]
        unsafe fn neon(args: $type) {
            $generic::<crate::simd::arm::Neon, 4, 6>(args)
        }
        unsafe fn scalar(args: $type) {
            $generic::<crate::simd::Scalar, 16, 2>(args)
        }
        match $isa {
            crate::Isa::Scalar => scalar($args),
            #[cfg(target_arch = "x86_64")]
            crate::Isa::Avx2 | crate::Isa::AvxVnni => avx2($args),
            #[cfg(target_arch = "x86_64")]
            crate::Isa::Avx512 | crate::Isa::Avx512Vnni => avx512($args),
            #[cfg(target_arch = "aarch64")]
            crate::Isa::Neon | crate::Isa::NeonDot => neon($args),
        }
    }};
}
pub(crate) use dispatch;
