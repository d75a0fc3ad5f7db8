//! What a node had before its activation was rounded, kept for the way back.

use std::rc::Rc;

use anyhow::Result;
use graft_kernels::Buffer;
use graft_kernels::train::norm;

use super::super::folded::take;
use super::super::normalisation::Normalisation;
use super::super::quantized::{pass, round};
use super::super::weights::Weights;
use super::{Engine, activation};

/// A node's numbers, and the normalisation that makes activations of them, if one does.
#[derive(Debug, Clone)]
pub(super) struct Bare {
    pub(super) values: Buffer,
    norm: Option<Normalisation>,
}

impl Engine {
    /// Puts rounded activations in the place of a node's numbers, where the network is quantized.
    pub(super) fn close(&mut self, weights: &Weights, i: usize, pictures: usize) {
        let Some(affine) = weights.affine(i) else { return };
        let len = pictures * self.shapes[i].numbers();
        let mut y = take(&mut self.spare, len);
        let (values, norm) = (std::mem::take(&mut self.values[i]), self.norms[i].take());
        let piece = PIECE * self.shapes[i].stride;
        for (y, z) in y[..len].chunks_mut(piece).zip(values[..len].chunks(piece)) {
            match &norm {
                Some(n) => norm::normalise(self.isa, &mut self.threads, z, n.affine(), None, y),
                None => y.copy_from_slice(z),
            }
            round(&mut self.threads, affine, y);
        }
        self.values[i] = y;
        self.bare[i] = Some(Bare { values, norm });
    }

    /// Turns the gradient of a node's rounded activation into that of the activation, and puts its numbers back: nobody
    /// reads the rounded ones any more.
    pub(super) fn open(
        &mut self,
        weights: &mut Weights,
        i: usize,
        pictures: usize,
        gradient: &mut Rc<Buffer>,
    ) -> Result<()> {
        let (Some(bare), Some(affine)) = (self.bare[i].take(), weights.affine(i)) else { return Ok(()) };
        self.spare.push(std::mem::replace(&mut self.values[i], bare.values));
        self.norms[i] = bare.norm;
        let shape = self.shapes[i];
        let gradient = self.own(gradient, pictures * shape.numbers());
        let (pixels, stride, mut by) = (pictures * shape.pixels(), shape.stride, 0.0);
        for start in (0..pixels).step_by(PIECE) {
            let range = start..pixels.min(start + PIECE);
            let gradient = &mut gradient[range.start * stride..range.end * stride];
            let (values, norms, isa, threads) = (&self.values, &self.norms, self.isa, &mut self.threads);
            let x = activation(values, norms, i, stride, range, isa, threads, &mut self.scratch.x);
            by += pass(threads, affine, x, gradient);
        }
        let own = weights.affines(i).len() - 1;
        weights.add_by_step(i, own, by, shape.pixels() * shape.channels)
    }
}

/// Pixels that are rounded while they are in the cache.
const PIECE: usize = 2048;
