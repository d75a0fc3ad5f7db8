//! Batch normalisation and the function that closes it, forwards and backwards.
//!
//! All pass once over memory. Forwards and backwards compute `z * scale + shift` by the same instruction, so that a
//! clamp stops a gradient just where the forward pass held a number at a bound. What is not a number stays so forwards, and
//! lets the gradient pass backwards, which by then is not a number either: nothing hides it. An infinite number stops the
//! gradient on a side without a bound, too.

use super::sums::{self, Kind, TILE, Terms};
use crate::activation::{Any, Function, Held};
use crate::exchange::Shared;
use crate::simd::{Simd, dispatch};
use crate::{Activation, BLOCK, Isa, Threads};

/// Two sums for each stored channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Sums {
    /// The first, `[width]`.
    pub first: Vec<f64>,
    /// The second, `[width]`.
    pub second: Vec<f64>,
}

impl Sums {
    /// Returns sums of nothing.
    pub fn zeros(width: usize) -> Self {
        Self { first: vec![0.0; width], second: vec![0.0; width] }
    }
}

/// `activation(z * scale + shift)`, by channel.
#[derive(Debug, Clone, Copy)]
pub struct Affine<'a> {
    /// `[width]`.
    pub scale: &'a [f32],
    /// `[width]`.
    pub shift: &'a [f32],
    /// Applied last.
    pub activation: Activation,
}

impl Affine<'_> {
    /// Returns the width.
    ///
    /// # Panics
    ///
    /// If the lengths are no width, or `z` is not whole rows of it.
    pub(super) fn width(&self, z: &[f32]) -> usize {
        let width = self.scale.len();
        assert!(self.shift.len() == width, "scale and shift differ in length");
        whole_rows(z, width);
        width
    }
}

/// What is added before the activation.
#[derive(Debug, Clone, Copy)]
pub enum Residual<'a> {
    /// Numbers as they are, one for each of `z`.
    Plain(&'a [f32]),
    /// `z * scale + shift`.
    Scaled {
        /// One number for each of the other `z`.
        z: &'a [f32],
        /// `[width]`.
        scale: &'a [f32],
        /// `[width]`.
        shift: &'a [f32],
    },
}

/// The gradient by `z` as a sum: `a * gradient + k * z + b`, by channel.
#[derive(Debug, Clone, Copy)]
pub struct Coefficients<'a> {
    /// Of the gradient, `[width]`.
    pub a: &'a [f32],
    /// Of `z`, `[width]`; zeros where there is none.
    pub k: Option<&'a [f32]>,
    /// `[width]`; zeros where there is none.
    pub b: Option<&'a [f32]>,
}

/// Adds the sum of `z - centre` by channel to the first sums and that of its square to the second.
///
/// A centre near the mean, such as the running mean, keeps the digits of the variance.
///
/// # Panics
///
/// If a length does not fit.
pub fn statistics(isa: Isa, threads: &mut Threads, z: &[f32], centre: &[f32], sums: &mut Sums) {
    let width = centre.len();
    whole_rows(z, width);
    assert!(sums.first.len() == width && sums.second.len() == width, "sums do not fit the centre");
    assert!(isa.is_available());
    let affine = Affine { scale: &[], shift: &[], activation: Activation::NONE };
    let terms = Terms { kind: Kind::Statistics, z, width, affine, gradient: &[], centre };
    // SAFETY: the machine has the instruction set; lengths are checked above.
    unsafe { sums::add(isa, threads, terms, sums) }
}

/// Computes `y = activation(z * scale + shift + residual)`.
///
/// # Panics
///
/// If a length does not fit.
pub fn normalise(
    isa: Isa,
    threads: &mut Threads,
    z: &[f32],
    affine: Affine<'_>,
    residual: Option<Residual<'_>>,
    y: &mut [f32],
) {
    let width = affine.width(z);
    assert!(y.len() == z.len(), "y does not fit z");
    match residual {
        None => {}
        Some(Residual::Plain(r)) => assert!(r.len() == z.len(), "the residual does not fit z"),
        Some(Residual::Scaled { z: r, scale, shift }) => {
            assert!(r.len() == z.len() && scale.len() == width && shift.len() == width, "the residual does not fit z");
        }
    }
    assert!(isa.is_available());
    let shared = Shared::new(y);
    threads.split(z.len() / width, TILE, 0, &|rows, _| {
        let (job, from) = (Rows { z, affine, rows }, residual);
        let job = Normalise { rows: job, residual: from, y: shared };
        // SAFETY: the machine has the instruction set; lengths are checked above; the threads' rows are disjoint.
        unsafe { dispatch!(isa, run_normalise, &job, &Normalise<'_>) }
    });
}

/// Adds the sum of the gradient by channel to the first sums, and that of its product with `z - centre` to the second.
/// The gradient given is that of `activation(z * scale + shift)`; summed is that of `z * scale + shift`.
///
/// # Panics
///
/// If a length does not fit.
pub fn moments(
    isa: Isa,
    threads: &mut Threads,
    z: &[f32],
    affine: Affine<'_>,
    gradient: &[f32],
    centre: &[f32],
    sums: &mut Sums,
) {
    let width = affine.width(z);
    assert!(gradient.len() == z.len(), "the gradient does not fit z");
    assert!(centre.len() == width && sums.first.len() == width && sums.second.len() == width, "sums do not fit scale");
    assert!(isa.is_available());
    let terms = Terms { kind: Kind::Moments, z, width, affine, gradient, centre };
    // SAFETY: the machine has the instruction set; lengths are checked above.
    unsafe { sums::add(isa, threads, terms, sums) }
}

/// Computes `out = a * gradient + k * z + b`. The gradient given is that of `activation(z * scale + shift)`; what counts is
/// that of `z * scale + shift`.
///
/// # Panics
///
/// If a length does not fit.
pub fn combine(
    isa: Isa,
    threads: &mut Threads,
    z: &[f32],
    affine: Affine<'_>,
    gradient: &[f32],
    by: Coefficients<'_>,
    out: &mut [f32],
) {
    assert!(gradient.len() == out.len(), "the gradient does not fit out");
    combine_shared(isa, threads, z, affine, Some(gradient), by, out);
}

/// Does what [`combine`] does, into the memory of the gradient.
///
/// # Panics
///
/// If a length does not fit.
pub fn combine_in_place(
    isa: Isa,
    threads: &mut Threads,
    z: &[f32],
    affine: Affine<'_>,
    gradient: &mut [f32],
    by: Coefficients<'_>,
) {
    combine_shared(isa, threads, z, affine, None, by, gradient);
}

/// Without a gradient of its own, it is what stands in `out`.
fn combine_shared(
    isa: Isa,
    threads: &mut Threads,
    z: &[f32],
    affine: Affine<'_>,
    gradient: Option<&[f32]>,
    by: Coefficients<'_>,
    out: &mut [f32],
) {
    let width = affine.width(z);
    assert!(out.len() == z.len(), "out does not fit z");
    let fits = |c: Option<&[f32]>| c.is_none_or(|c| c.len() == width);
    assert!(fits(Some(by.a)) && fits(by.k) && fits(by.b), "coefficients do not fit scale");
    assert!(isa.is_available());
    let zeros = vec![0.0; width];
    let more = match (by.k, by.b) {
        (None, None) => None,
        (k, b) => Some((k.unwrap_or(&zeros), b.unwrap_or(&zeros))),
    };
    let shared = Shared::new(out);
    threads.split(z.len() / width, TILE, 0, &|rows, _| {
        let gradient = gradient.map_or(shared.at(0).cast_const(), <[f32]>::as_ptr);
        let job = Combine { rows: Rows { z, affine, rows }, gradient, a: by.a, more, out: shared };
        // SAFETY: the machine has the instruction set; lengths are checked above; the threads' rows are disjoint.
        unsafe { dispatch!(isa, run_combine, &job, &Combine<'_>) }
    });
}

/// Sets the gradient to zero where `y`, already held between the bounds, is not between them.
///
/// # Panics
///
/// If a length does not fit.
pub fn mask(isa: Isa, threads: &mut Threads, y: &[f32], bounds: (f32, f32), gradient: &mut [f32]) {
    each(isa, threads, y, Some(bounds), gradient);
}

/// Adds numbers to others.
///
/// # Panics
///
/// If a length does not fit.
pub fn add(isa: Isa, threads: &mut Threads, from: &[f32], to: &mut [f32]) {
    each(isa, threads, from, None, to);
}

/// Masks by the bounds, or adds where there are none.
fn each(isa: Isa, threads: &mut Threads, from: &[f32], bounds: Option<(f32, f32)>, to: &mut [f32]) {
    assert!(from.len() == to.len() && from.len().is_multiple_of(BLOCK), "lengths differ, or are not whole blocks");
    assert!(isa.is_available());
    let shared = Shared::new(to);
    threads.split(from.len(), PIECE, 0, &|range, _| {
        let job = Each { bounds, from: &from[range.clone()], to: shared.at(range.start) };
        // SAFETY: the machine has the instruction set; lengths are checked above; the threads' ranges are disjoint.
        unsafe { dispatch!(isa, run_each, &job, &Each<'_>) }
    });
}

fn whole_rows(z: &[f32], width: usize) {
    assert!(width > 0 && width.is_multiple_of(BLOCK), "a width of {width}, which is not whole blocks");
    assert!(z.len().is_multiple_of(width), "{} numbers are not rows of {width}", z.len());
}

/// Rows of `z` that one thread does.
struct Rows<'a> {
    z: &'a [f32],
    affine: Affine<'a>,
    rows: std::ops::Range<usize>,
}

struct Normalise<'a> {
    rows: Rows<'a>,
    residual: Option<Residual<'a>>,
    y: Shared<'a, f32>,
}

#[inline(always)]
unsafe fn run_normalise<S: Simd, const V: usize, const R: usize>(job: &Normalise<'_>) {
    match job.rows.affine.activation {
        Activation::Clamp { low, high } => normalise_by::<S, V, _>(job, Held::<S>::between(low, high)),
        other => normalise_by::<S, V, _>(job, Any(other)),
    }
}

#[inline(always)]
unsafe fn normalise_by<S: Simd, const V: usize, F: Function<S>>(job: &Normalise<'_>, f: F) {
    let bare = Residual::Plain(&[]);
    match job.residual {
        None => normalise_rows::<S, V, F, false, false>(job, bare, f),
        Some(r @ Residual::Plain(_)) => normalise_rows::<S, V, F, true, false>(job, r, f),
        Some(r @ Residual::Scaled { .. }) => normalise_rows::<S, V, F, true, true>(job, r, f),
    }
}

/// A few rows at a time, as the sums do.
#[inline(always)]
unsafe fn normalise_rows<S: Simd, const V: usize, F: Function<S>, const ADDED: bool, const SCALED: bool>(
    job: &Normalise<'_>,
    residual: Residual<'_>,
    f: F,
) {
    let Rows { z, affine, ref rows } = job.rows;
    let (added, by, onto) = match residual {
        Residual::Plain(r) => (r, affine.scale, affine.shift),
        Residual::Scaled { z, scale, shift } => (z, scale, shift),
    };
    let (width, to) = (affine.scale.len(), job.y.at(0));
    for top in rows.clone().step_by(TILE) {
        for channel in (0..width).step_by(BLOCK) {
            let zero = [S::splat(0.0); V];
            let (mut scale, mut shift, mut scale2, mut shift2) = (zero, zero, zero, zero);
            for v in 0..V {
                let at = channel + v * S::LANES;
                scale[v] = S::load(affine.scale.as_ptr().add(at));
                shift[v] = S::load(affine.shift.as_ptr().add(at));
                if SCALED {
                    scale2[v] = S::load(by.as_ptr().add(at));
                    shift2[v] = S::load(onto.as_ptr().add(at));
                }
            }
            for row in top..rows.end.min(top + TILE) {
                for v in 0..V {
                    let at = row * width + channel + v * S::LANES;
                    let mut y = S::fma(S::load(z.as_ptr().add(at)), scale[v], shift[v]);
                    if ADDED {
                        let mut r = S::load(added.as_ptr().add(at));
                        if SCALED {
                            r = S::fma(r, scale2[v], shift2[v]);
                        }
                        y = S::add(y, r);
                    }
                    S::store(to.add(at), f.at(y));
                }
            }
        }
    }
}

struct Combine<'a> {
    rows: Rows<'a>,
    /// As long as `z`; may be the same memory as `out`.
    gradient: *const f32,
    a: &'a [f32],
    /// `k` and `b`.
    more: Option<(&'a [f32], &'a [f32])>,
    out: Shared<'a, f32>,
}

#[inline(always)]
unsafe fn run_combine<S: Simd, const V: usize, const R: usize>(job: &Combine<'_>) {
    match job.rows.affine.activation {
        Activation::Clamp { low, high } => combine_by::<S, V, _>(job, Held::<S>::between(low, high)),
        other => combine_by::<S, V, _>(job, Any(other)),
    }
}

#[inline(always)]
unsafe fn combine_by<S: Simd, const V: usize, F: Function<S>>(job: &Combine<'_>, f: F) {
    match job.more {
        None => combine_rows::<S, V, F, false>(job, (&[], &[]), f),
        Some(more) => combine_rows::<S, V, F, true>(job, more, f),
    }
}

#[inline(always)]
unsafe fn combine_rows<S: Simd, const V: usize, F: Function<S>, const MORE: bool>(
    job: &Combine<'_>,
    (by, onto): (&[f32], &[f32]),
    f: F,
) {
    let Rows { z, affine, ref rows } = job.rows;
    let (width, to) = (affine.scale.len(), job.out.at(0));
    for top in rows.clone().step_by(TILE) {
        for channel in (0..width).step_by(BLOCK) {
            let zero = [S::splat(0.0); V];
            let (mut scale, mut shift, mut a, mut k, mut b) = (zero, zero, zero, zero, zero);
            for v in 0..V {
                let at = channel + v * S::LANES;
                scale[v] = S::load(affine.scale.as_ptr().add(at));
                shift[v] = S::load(affine.shift.as_ptr().add(at));
                a[v] = S::load(job.a.as_ptr().add(at));
                if MORE {
                    k[v] = S::load(by.as_ptr().add(at));
                    b[v] = S::load(onto.as_ptr().add(at));
                }
            }
            for row in top..rows.end.min(top + TILE) {
                for v in 0..V {
                    let at = row * width + channel + v * S::LANES;
                    let z = S::load(z.as_ptr().add(at));
                    let y = S::fma(z, scale[v], shift[v]);
                    let g = f.back(y, S::load(job.gradient.add(at)));
                    let out = if MORE { S::fma(a[v], g, S::fma(k[v], z, b[v])) } else { S::mul(a[v], g) };
                    S::store(to.add(at), out);
                }
            }
        }
    }
}

struct Each<'a> {
    bounds: Option<(f32, f32)>,
    from: &'a [f32],
    to: *mut f32,
}

#[inline(always)]
unsafe fn run_each<S: Simd, const V: usize, const R: usize>(job: &Each<'_>) {
    match job.bounds {
        Some((low, high)) => {
            let (low, high) = (S::splat(low), S::splat(high));
            for at in (0..job.from.len()).step_by(S::LANES) {
                let y = S::load(job.from.as_ptr().add(at));
                S::store(job.to.add(at), S::between(y, low, high, S::load(job.to.add(at))));
            }
        }
        None => {
            for at in (0..job.from.len()).step_by(S::LANES) {
                S::store(job.to.add(at), S::add(S::load(job.from.as_ptr().add(at)), S::load(job.to.add(at))));
            }
        }
    }
}

/// Numbers of which a thread gets whole ones.
const PIECE: usize = 1024;
