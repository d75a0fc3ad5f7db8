//! Sums over rows by channel.
//!
//! Rows are cut into blocks of a fixed size; a block is summed in single precision and the blocks in double, in order.

use std::ops::Range;

use super::norm::{Affine, Sums};
use crate::activation::{Any, Function, Held};
use crate::exchange::Shared;
use crate::simd::{Simd, dispatch};
use crate::{Activation, BLOCK, Isa, Threads};

/// What is summed by channel, of `z`, `y = z * scale + shift` and the gradient by `y`, given that by its activation.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// `z - centre`, and its square.
    Statistics,
    /// The gradient, and its product with `z - centre`.
    Moments,
    /// The activation of `y`; there is no second sum.
    Activated,
}

/// What is summed over. Slices that the kind does not speak of may be empty.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms<'a> {
    pub(super) kind: Kind,
    pub(super) z: &'a [f32],
    pub(super) width: usize,
    pub(super) affine: Affine<'a>,
    pub(super) gradient: &'a [f32],
    pub(super) centre: &'a [f32],
}

/// Adds the sums over all rows.
///
/// # Safety
///
/// The machine has the instruction set; `z` is whole rows of `width`, a multiple of the block; what the kind speaks of is
/// as long as `z`, or `width`.
pub(super) unsafe fn add(isa: Isa, threads: &mut Threads, terms: Terms<'_>, sums: &mut Sums) {
    let width = terms.width;
    let rows = terms.z.len() / width;
    let part = rows.div_ceil(PARTS).next_multiple_of(ROWS).max(ROWS);
    let mut partial = vec![0.0_f64; rows.div_ceil(part) * 2 * width];
    let parts = partial.len() / (2 * width);
    let shared = Shared::new(&mut partial);
    threads.split(parts, 1, scratch(width), &|range, scratch| {
        for index in range {
            let rows = index * part..rows.min((index + 1) * part);
            let to = shared.at(index * 2 * width);
            let job = Job { terms, rows, channels: 0..width, sums: scratch.view().as_mut_ptr(), to };
            // SAFETY: as the caller promises; the working memory is as long as asked for, and no two threads have the same
            // part.
            unsafe { dispatch!(isa, run_part, &job, &Job<'_>) }
        }
    });
    for part in partial.chunks_exact(2 * width) {
        let (first, second) = part.split_at(width);
        sums.first.iter_mut().zip(first).for_each(|(to, from)| *to += from);
        sums.second.iter_mut().zip(second).for_each(|(to, from)| *to += from);
    }
}

/// Returns the bytes of working memory that a [`Job`] needs.
pub(super) fn scratch(width: usize) -> usize {
    2 * width * size_of::<f32>()
}

/// The sums over some rows and channels.
pub(super) struct Job<'a> {
    pub(super) terms: Terms<'a>,
    pub(super) rows: Range<usize>,
    pub(super) channels: Range<usize>,
    /// Working memory, `[2, width]`.
    pub(super) sums: *mut f32,
    /// `[2, width]`, added to.
    pub(super) to: *mut f64,
}

/// Adds the sums of a job.
#[inline(always)]
pub(super) unsafe fn run_part<S: Simd, const V: usize, const R: usize>(job: &Job<'_>) {
    match job.terms.affine.activation {
        Activation::Clamp { low, high } => run_by::<S, V, _>(job, Held::<S>::between(low, high)),
        other => run_by::<S, V, _>(job, Any(other)),
    }
}

#[inline(always)]
unsafe fn run_by<S: Simd, const V: usize, F: Function<S>>(job: &Job<'_>, f: F) {
    let Job { terms, channels, .. } = job;
    for start in job.rows.clone().step_by(ROWS) {
        let rows = start..job.rows.end.min(start + ROWS);
        for row in 0..2 {
            let at = row * terms.width + channels.start;
            std::slice::from_raw_parts_mut(job.sums.add(at), channels.len()).fill(0.0);
        }
        match terms.kind {
            Kind::Statistics => block::<S, V, F, { Kind::Statistics as u8 }>(job, rows, f),
            Kind::Moments => block::<S, V, F, { Kind::Moments as u8 }>(job, rows, f),
            Kind::Activated => block::<S, V, F, { Kind::Activated as u8 }>(job, rows, f),
        }
        for row in 0..2 {
            let at = row * terms.width + channels.start;
            let from = std::slice::from_raw_parts(job.sums.add(at), channels.len());
            let to = std::slice::from_raw_parts_mut(job.to.add(at), channels.len());
            for (to, from) in to.iter_mut().zip(from) {
                *to += f64::from(*from);
            }
        }
    }
}

/// Adds to the sums in single precision. A few rows at a time, channel by channel: memory is read in order, and what belongs
/// to a channel is loaded once for all of the rows.
#[inline(always)]
unsafe fn block<S: Simd, const V: usize, F: Function<S>, const KIND: u8>(job: &Job<'_>, rows: Range<usize>, f: F) {
    let Terms { width, affine, .. } = job.terms;
    let (statistics, activated) = (KIND == Kind::Statistics as u8, KIND == Kind::Activated as u8);
    for top in rows.clone().step_by(TILE) {
        for channel in job.channels.clone().step_by(BLOCK) {
            let zero = [S::splat(0.0); V];
            let (mut first, mut second, mut scale, mut shift, mut centre) = (zero, zero, zero, zero, zero);
            let to = job.sums.add(channel);
            for v in 0..V {
                let at = v * S::LANES;
                first[v] = S::load(to.add(at));
                if !activated {
                    second[v] = S::load(to.add(width + at));
                    centre[v] = S::load(job.terms.centre.as_ptr().add(channel + at));
                }
                if !statistics {
                    scale[v] = S::load(affine.scale.as_ptr().add(channel + at));
                    shift[v] = S::load(affine.shift.as_ptr().add(channel + at));
                }
            }
            let minus = S::splat(-1.0);
            for row in top..rows.end.min(top + TILE) {
                for v in 0..V {
                    let at = row * width + channel + v * S::LANES;
                    let z = S::load(job.terms.z.as_ptr().add(at));
                    if statistics {
                        let z = S::fma(minus, centre[v], z);
                        first[v] = S::add(first[v], z);
                        second[v] = S::fma(z, z, second[v]);
                        continue;
                    }
                    let y = S::fma(z, scale[v], shift[v]);
                    if activated {
                        first[v] = S::add(first[v], f.at(y));
                    } else {
                        let g = f.back(y, S::load(job.terms.gradient.as_ptr().add(at)));
                        first[v] = S::add(first[v], g);
                        second[v] = S::fma(g, S::fma(minus, centre[v], z), second[v]);
                    }
                }
            }
            for v in 0..V {
                let at = v * S::LANES;
                S::store(to.add(at), first[v]);
                if !activated {
                    S::store(to.add(width + at), second[v]);
                }
            }
        }
    }
}

/// Rows that are summed in single precision.
pub(super) const ROWS: usize = 128;
/// Parts that rows are cut into at most, for threads to share.
const PARTS: usize = 64;
/// Rows that are read side by side.
pub(super) const TILE: usize = 8;
