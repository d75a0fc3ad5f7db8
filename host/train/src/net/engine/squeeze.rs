//! Squeeze-and-excitation, forwards and backwards.

use std::rc::Rc;

use anyhow::{Context, Result};
use graft_kernels::pointwise::{self, Pointwise};
use graft_kernels::train::norm::{self, Coefficients, Sums};
use graft_kernels::{Activation, Buffer};
use graft_zoo::network::SqueezeExcite;

use super::super::folded::take;
use super::super::linear::{Layer, Made};
use super::super::shape::function;
use super::super::weights::Weights;
use super::{Engine, activation};

/// What lies between a batch and the factors of its channels.
pub(super) struct Gate {
    /// `[pictures, stride]`.
    means: Buffer,
    reduced: Made,
    factors: Made,
}

impl Engine {
    pub(super) fn squeeze(
        &mut self,
        weights: &Weights,
        i: usize,
        s: &SqueezeExcite,
        pictures: usize,
        y: &mut [f32],
    ) -> Result<()> {
        let from = self.network.nodes[i].inputs[0];
        let shape = self.shapes[from];
        let mut means = Buffer::zeros(pictures * shape.stride);
        self.means(from, pictures, &mut means);
        let ([reduce, expand], isa, threads) = (layers(s), self.isa, &mut self.threads);
        let reduced = reduce.forward(isa, threads, weights, &means, pictures)?;
        let factors = expand.forward(isa, threads, weights, &reduced.y, pictures)?;
        let each = factors.y.chunks_exact(shape.stride).zip(y.chunks_exact_mut(shape.numbers()));
        for (p, (factors, y)) in each.enumerate() {
            let pixels = p * shape.pixels()..(p + 1) * shape.pixels();
            let (values, norms, x) = (&self.values, &self.norms, &mut self.scratch.x);
            let x = activation(values, norms, from, shape.stride, pixels, isa, threads, x);
            pointwise::run(isa, threads, x, Pointwise::Scale(factors), Activation::NONE, y);
        }
        self.gates.insert(i, Gate { means, reduced, factors });
        Ok(())
    }

    pub(super) fn squeeze_backward(
        &mut self,
        weights: &mut Weights,
        i: usize,
        s: &SqueezeExcite,
        pictures: usize,
        gradient: &[f32],
        gradients: &mut [Option<Rc<Buffer>>],
    ) -> Result<()> {
        let from = self.network.nodes[i].inputs[0];
        let (shape, wanted) = (self.shapes[from], from >= self.first);
        let (stride, len) = (shape.stride, pictures * shape.numbers());
        let gate = self.gates.remove(&i).context("expected a squeeze that has run forwards")?;
        let ([reduce, expand], isa, threads) = (layers(s), self.isa, &mut self.threads);
        let open = self.identity.affine(stride, Activation::NONE);
        let mut by_factor = Buffer::zeros(pictures * stride);
        for (p, by_factor) in by_factor.chunks_exact_mut(stride).enumerate() {
            let pixels = p * shape.pixels()..(p + 1) * shape.pixels();
            let dy = &gradient[pixels.start * stride..pixels.end * stride];
            let (values, norms, x) = (&self.values, &self.norms, &mut self.scratch.x);
            let x = activation(values, norms, from, stride, pixels, isa, threads, x);
            let mut sums = Sums::zeros(stride);
            norm::moments(isa, threads, x, open, dy, open.shift, &mut sums);
            by_factor.iter_mut().zip(&sums.second).for_each(|(to, sum)| *to = *sum as f32);
        }
        let x = &gate.reduced.y;
        let by_reduced = expand.backward(isa, threads, weights, x, &gate.factors, &by_factor, true)?;
        let by_reduced = by_reduced.context("expected the gradient that was asked for")?;
        let means = &gate.means;
        let Some(mut by_mean) = reduce.backward(isa, threads, weights, means, &gate.reduced, &by_reduced, wanted)?
        else {
            return Ok(());
        };
        by_mean.iter_mut().for_each(|g| *g /= shape.pixels() as f32);
        let mut out = take(&mut self.spare, len);
        for (p, dx) in out[..len].chunks_exact_mut(shape.numbers()).enumerate() {
            let dy = &gradient[p * shape.numbers()..(p + 1) * shape.numbers()];
            let [a, b] = [&gate.factors.y, &by_mean].map(|v| &v[p * stride..(p + 1) * stride]);
            norm::combine(isa, threads, dy, open, dy, Coefficients { a, k: None, b: Some(b) }, dx);
        }
        self.give(&mut gradients[from], Rc::new(out), len);
        Ok(())
    }
}

fn layers(s: &SqueezeExcite) -> [Layer; 2] {
    [Layer::new(&s.reduce, function(s.activation)), Layer::new(&s.expand, function(s.gate))]
}
