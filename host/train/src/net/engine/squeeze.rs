//! Squeeze-and-excitation, forwards and backwards.

use std::rc::Rc;

use anyhow::{Context, Result};
use graft_kernels::pointwise::{self, Pointwise};
use graft_kernels::train::norm::{self, Coefficients, Sums};
use graft_kernels::{Activation, Buffer, Threads};
use graft_zoo::network::SqueezeExcite;

use super::super::folded::take;
use super::super::linear::{Layer, Made};
use super::super::quantized::{FACTORS, MEANS, REDUCED, pass, round};
use super::super::shape::function;
use super::super::weights::Weights;
use super::{Engine, activation};

/// What lies between a batch and the factors of its channels.
pub(super) struct Gate {
    /// `[pictures, stride]`.
    means: Buffer,
    reduced: Made,
    factors: Made,
    /// The three before they were rounded, where they are.
    bare: Option<[Buffer; 3]>,
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
        let affines = weights.affines(i);
        let mut bare: [Buffer; 3] = Default::default();
        let mut close = |threads: &mut Threads, part: usize, values: &mut Buffer| {
            if let Some(affine) = affines.get(part) {
                bare[part] = values.clone();
                round(threads, *affine, values);
            }
        };
        close(threads, MEANS, &mut means);
        let mut reduced = reduce.forward(isa, threads, weights, &means, pictures)?;
        close(threads, REDUCED, &mut reduced.y);
        let mut factors = expand.forward(isa, threads, weights, &reduced.y, pictures)?;
        close(threads, FACTORS, &mut factors.y);
        let bare = (!affines.is_empty()).then_some(bare);
        let each = factors.y.chunks_exact(shape.stride).zip(y.chunks_exact_mut(shape.numbers()));
        for (p, (factors, y)) in each.enumerate() {
            let pixels = p * shape.pixels()..(p + 1) * shape.pixels();
            let (values, norms, x) = (&self.values, &self.norms, &mut self.scratch.x);
            let x = activation(values, norms, from, shape.stride, pixels, isa, threads, x);
            pointwise::run(isa, threads, x, Pointwise::Scale(factors), Activation::NONE, y);
        }
        self.gates.insert(i, Gate { means, reduced, factors, bare });
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
        let identity = self.identity.affine(stride, Activation::NONE);
        let mut by_factor = Buffer::zeros(pictures * stride);
        for (p, by_factor) in by_factor.chunks_exact_mut(stride).enumerate() {
            let pixels = p * shape.pixels()..(p + 1) * shape.pixels();
            let dy = &gradient[pixels.start * stride..pixels.end * stride];
            let (values, norms, x) = (&self.values, &self.norms, &mut self.scratch.x);
            let x = activation(values, norms, from, stride, pixels, isa, threads, x);
            let mut sums = Sums::zeros(stride);
            norm::moments(isa, threads, x, identity, dy, identity.shift, &mut sums);
            by_factor.iter_mut().zip(&sums.second).for_each(|(to, sum)| *to = *sum as f32);
        }
        // Steps of the three round so many numbers of a picture.
        let numbers = [s.channels, s.squeezed, s.channels];
        let open = |threads: &mut Threads, weights: &mut Weights, part: usize, gradient: &mut Buffer| -> Result<()> {
            let (Some(bare), Some(affine)) = (&gate.bare, weights.affines(i).get(part).copied()) else {
                return Ok(());
            };
            let by = pass(threads, affine, &bare[part], gradient);
            weights.add_by_step(i, part, by, numbers[part])
        };
        open(threads, weights, FACTORS, &mut by_factor)?;
        let x = &gate.reduced.y;
        let by_reduced = expand.backward(isa, threads, weights, x, &gate.factors, &by_factor, true)?;
        let mut by_reduced = by_reduced.context("expected the gradient that was asked for")?;
        open(threads, weights, REDUCED, &mut by_reduced)?;
        let means = &gate.means;
        let Some(mut by_mean) = reduce.backward(isa, threads, weights, means, &gate.reduced, &by_reduced, wanted)?
        else {
            return Ok(());
        };
        open(threads, weights, MEANS, &mut by_mean)?;
        by_mean.iter_mut().for_each(|g| *g /= shape.pixels() as f32);
        let mut out = take(&mut self.spare, len);
        for (p, dx) in out[..len].chunks_exact_mut(shape.numbers()).enumerate() {
            let dy = &gradient[p * shape.numbers()..(p + 1) * shape.numbers()];
            let [a, b] = [&gate.factors.y, &by_mean].map(|v| &v[p * stride..(p + 1) * stride]);
            norm::combine(isa, threads, dy, identity, dy, Coefficients { a, k: None, b: Some(b) }, dx);
        }
        self.give(&mut gradients[from], Rc::new(out), len);
        Ok(())
    }
}

fn layers(s: &SqueezeExcite) -> [Layer; 2] {
    [Layer::new(&s.reduce, function(s.activation)), Layer::new(&s.expand, function(s.gate))]
}
