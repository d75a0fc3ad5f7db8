//! A fully connected layer with bias and activation over the rows of a batch, forwards and backwards.

use anyhow::Result;
use graft_kernels::conv::Source;
use graft_kernels::train::Dense;
use graft_kernels::train::norm::{self, Affine, Coefficients, Sums};
use graft_kernels::{Activation, Buffer, Isa, Threads, Window, padded};

use super::weights::Weights;

/// A layer by the names of its parameters, which are trained: `[outputs, inputs]`, a 1×1 convolution's perhaps, and
/// `[outputs]`.
pub(super) struct Layer {
    weight: String,
    bias: String,
    activation: Activation,
}

/// What a layer made of a batch.
pub(super) struct Made {
    /// The product, `[rows, padded(outputs)]`.
    z: Buffer,
    /// The activation of product and bias, likewise.
    pub(super) y: Buffer,
}

impl Layer {
    pub(super) fn new(name: &str, activation: Activation) -> Self {
        Self { weight: format!("{name}.weight"), bias: format!("{name}.bias"), activation }
    }

    /// Takes rows `[rows, padded(inputs)]`.
    pub(super) fn forward(
        &self,
        isa: Isa,
        threads: &mut Threads,
        weights: &Weights,
        x: &[f32],
        rows: usize,
    ) -> Result<Made> {
        let (weight, bias) = (weights.parameter(&self.weight)?, weights.parameter(&self.bias)?);
        let dense = dense(&weight.shape);
        let width = padded(dense.outputs);
        let [mut z, mut y] = [(); 2].map(|()| Buffer::zeros(rows * width));
        let source = Source { data: x, size: [1, rows], stride: padded(dense.inputs), edges: None };
        dense.forward(weight.used(), [1, rows], 1, threads).run(isa, threads, source, None, &mut z);
        let affine = Affine { scale: &vec![1.0; width], shift: bias.used(), activation: self.activation };
        norm::normalise(isa, threads, &z, affine, None, &mut y);
        Ok(Made { z, y })
    }

    /// Adds to the gradient of the parameters, given that of what was made of the rows `x`; returns that of the rows where it
    /// is wanted.
    #[allow(clippy::too_many_arguments)] // what was given and made, and whose gradient
    pub(super) fn backward(
        &self,
        isa: Isa,
        threads: &mut Threads,
        weights: &mut Weights,
        x: &[f32],
        made: &Made,
        gradient: &[f32],
        wanted: bool,
    ) -> Result<Option<Buffer>> {
        let bias = weights.parameter_mut(&self.bias)?;
        let width = bias.values.len();
        let (ones, zeros) = (vec![1.0; width], vec![0.0; width]);
        let affine = Affine { scale: &ones, shift: bias.used(), activation: self.activation };
        let gradient = &gradient[..made.z.len()];
        let (mut sums, mut dz) = (Sums::zeros(width), Buffer::zeros(made.z.len()));
        norm::moments(isa, threads, &made.z, affine, gradient, &zeros, &mut sums);
        norm::combine(isa, threads, &made.z, affine, gradient, Coefficients { a: &ones, k: None, b: None }, &mut dz);
        bias.gradient.iter_mut().zip(&sums.first).for_each(|(to, sum)| *to += *sum as f32);
        let weight = weights.parameter_mut(&self.weight)?;
        let dense = dense(&weight.shape);
        let (size, stride) = ([1, dz.len() / width], padded(dense.inputs));
        let source = Source { data: x, size, stride, edges: None };
        dense.weight_gradient(isa, threads, source, &dz, &mut weight.gradient);
        if !wanted {
            return Ok(None);
        }
        let mut dx = Buffer::zeros(size[1] * stride);
        dense.backward(weight.used(), size, 1, threads).run(isa, threads, &dz, size, 1, &mut [], &mut dx);
        Ok(Some(dx))
    }
}

fn dense(shape: &[usize]) -> Dense {
    Dense { window: Window::POINT, inputs: shape[1], outputs: shape[0] }
}
