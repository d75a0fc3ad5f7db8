//! A convolution with its normalisation, forwards and backwards, a piece at a time.

use std::ops::Range;
use std::rc::Rc;

use anyhow::{Context, Result};
use graft_kernels::conv::{self, Source};
use graft_kernels::depthwise::Depthwise;
use graft_kernels::train::norm::{self, Sums};
use graft_kernels::train::{Dense, depthwise};
use graft_kernels::{Buffer, Window, padded};
use graft_zoo::network::Conv;

use super::super::folded::take;
use super::super::normalisation::{Factors, Normalisation, moments};
use super::super::shape::{Shape, function, window};
use super::super::weights::Weights;
use super::super::{MOMENTUM, Norm};
use super::{Engine, Pass, activation, grow};

/// A convolution as it is computed.
enum Forward {
    Dense(conv::Conv),
    Depthwise(Depthwise),
}

/// Some pixels that are computed together.
struct Piece {
    input: Range<usize>,
    output: Range<usize>,
    /// Of what a kernel takes for a picture: one, or any pixels in a row.
    size: [usize; 2],
    /// How many of them.
    pictures: usize,
}

impl Engine {
    pub(super) fn conv(
        &mut self,
        weights: &mut Weights,
        i: usize,
        c: &Conv,
        pictures: usize,
        pass: Pass,
        z: &mut Buffer,
    ) -> Result<()> {
        let from = self.network.nodes[i].inputs[0];
        let (input, output) = (self.shapes[from], self.shapes[i]);
        let window = window(self.network.padding, input.size, c.kernel, c.stride);
        let weight = weights.parameter(&format!("{}.weight", c.name))?.used();
        let pieces = pieces(window, &input, &output, pictures);
        let kernel = if c.groups > 1 {
            Forward::Depthwise(Depthwise::of_taps(window, c.outputs, weight))
        } else {
            let dense = Dense { window, inputs: c.inputs, outputs: c.outputs };
            Forward::Dense(dense.forward(weight, input.size, pieces[0].pictures, &mut self.threads))
        };
        let width = output.stride;
        let centre = padded_vector(&weights.used(&format!("{}.running_mean", c.norm))?);
        let is_seen = self.norm == Norm::Batch && pass == Pass::First;
        let mut sums = Sums::zeros(width);
        for piece in &pieces {
            let x = activation(
                &self.values,
                &self.norms,
                from,
                input.stride,
                piece.input.clone(),
                self.isa,
                &mut self.threads,
                &mut self.scratch.x,
            );
            let z = &mut z[piece.output.start * width..piece.output.end * width];
            let source = Source { data: x, size: piece.size, stride: input.stride, edges: None };
            match &kernel {
                Forward::Dense(conv) => conv.run_batch(self.isa, &mut self.threads, source, piece.pictures, z),
                Forward::Depthwise(conv) => {
                    for (data, z) in x.chunks_exact(input.numbers()).zip(z.chunks_exact_mut(output.numbers())) {
                        conv.run(self.isa, &mut self.threads, Source { data, ..source }, z);
                    }
                }
            }
            if is_seen {
                norm::statistics(self.isa, &mut self.threads, z, &centre, &mut sums);
            }
        }
        let count = pictures * output.pixels();
        // Of a quantized network, whose statistics are fixed, the normalisation went with the numbers.
        if pass == Pass::First || self.norms[i].is_none() {
            let seen = is_seen.then(|| moments(&sums, &centre, count));
            self.norms[i] = Some(self.normalisation(weights, c, seen, count)?);
        }
        Ok(())
    }

    /// Settles the normalisation behind a convolution, by mean and variance of the batch where it was seen.
    fn normalisation(
        &self,
        weights: &mut Weights,
        c: &Conv,
        seen: Option<(Vec<f64>, Vec<f64>)>,
        count: usize,
    ) -> Result<Normalisation> {
        let name = |part: &str| format!("{}.{part}", c.norm);
        let (mean, variance) = match seen {
            Some(seen) => {
                // The running variance is the unbiased one, as in PyTorch.
                let unbiased = count as f64 / count.saturating_sub(1).max(1) as f64;
                for (part, seen, factor) in [("running_mean", &seen.0, 1.0), ("running_var", &seen.1, unbiased)] {
                    let name = name(part);
                    let running = weights.fixed.get_mut(&name).with_context(|| format!("expected tensor {name}"))?;
                    for (old, new) in running.data.iter_mut().zip(seen) {
                        *old = ((1.0 - MOMENTUM) * f64::from(*old) + MOMENTUM * factor * new) as f32;
                    }
                }
                seen
            }
            None => {
                let wide = |part: &str| -> Result<Vec<f64>> {
                    Ok(padded_vector(&weights.used(&name(part))?).into_iter().map(f64::from).collect())
                };
                (wide("running_mean")?, wide("running_var")?)
            }
        };
        let (gamma, beta) = (weights.parameter(&name("weight"))?.used(), weights.parameter(&name("bias"))?.used());
        let mut n = Normalisation::closed_by(function(c.activation));
        for (channel, (mean, variance)) in mean.iter().zip(&variance).enumerate() {
            let rstd = 1.0 / (variance + f64::from(self.network.bn_eps)).sqrt();
            let scale = f64::from(gamma[channel]) * rstd;
            n.scale.push(scale as f32);
            n.shift.push((f64::from(beta[channel]) - mean * scale) as f32);
            n.mean.push(*mean as f32);
            n.rstd.push(rstd as f32);
        }
        Ok(n)
    }

    pub(super) fn conv_backward(
        &mut self,
        weights: &mut Weights,
        i: usize,
        c: &Conv,
        pictures: usize,
        gradient: &[f32],
        gradients: &mut [Option<Rc<Buffer>>],
    ) -> Result<()> {
        let from = self.network.nodes[i].inputs[0];
        let (input, output) = (self.shapes[from], self.shapes[i]);
        let window = window(self.network.padding, input.size, c.kernel, c.stride);
        let (width, count) = (output.stride, pictures * output.pixels());
        let normalisation = self.norms[i].take().context("expected a forward pass first")?;
        let n = &normalisation;
        let kept = std::mem::take(&mut self.values[i]);
        let (z, gradient) = (&kept[..count * width], &gradient[..count * width]);

        let mut sums = Sums::zeros(width);
        norm::moments(self.isa, &mut self.threads, z, n.affine(), gradient, &n.mean, &mut sums);
        let by = Factors::of(n, &sums, (self.norm == Norm::Batch).then_some(count));
        let add = |to: &mut Buffer, from: &[f64]| to.iter_mut().zip(from).for_each(|(t, f)| *t += *f as f32);
        let by_scale: Vec<f64> = sums.second.iter().zip(&n.rstd).map(|(s, r)| s * f64::from(*r)).collect();
        add(&mut weights.parameter_mut(&format!("{}.weight", c.norm))?.gradient, &by_scale);
        add(&mut weights.parameter_mut(&format!("{}.bias", c.norm))?.gradient, &sums.first);

        let weight = weights.parameter_mut(&format!("{}.weight", c.name))?;
        let dense = Dense { window, inputs: c.inputs, outputs: c.outputs };
        let wanted = from >= self.first;
        let pieces = pieces(window, &input, &output, pictures);
        let at_once = pieces[0].pictures;
        let backward =
            (wanted && c.groups == 1).then(|| dense.backward(weight.used(), input.size, at_once, &mut self.threads));
        let need = backward.as_ref().map_or(0, |b| b.scratch(input.size, at_once));
        grow(&mut self.scratch.kernel, need);
        // Where another node has left a gradient already, this one's is added to it.
        let mut sum = gradients[from].take();
        let mut out = match &mut sum {
            Some(g) => {
                self.own(g, pictures * input.numbers());
                None
            }
            None => wanted.then(|| take(&mut self.spare, pictures * input.numbers())),
        };
        let (isa, threads) = (self.isa, &mut self.threads);
        for piece in &pieces {
            let range = piece.output.start * width..piece.output.end * width;
            grow(&mut self.scratch.dz, range.len());
            let dz = &mut self.scratch.dz[..range.len()];
            norm::combine(isa, threads, &z[range.clone()], n.affine(), &gradient[range], by.coefficients(), dz);
            let pixels = piece.input.clone();
            let x =
                activation(&self.values, &self.norms, from, input.stride, pixels, isa, threads, &mut self.scratch.x);
            if c.groups > 1 {
                for (x, dz) in x.chunks_exact(input.numbers()).zip(dz.chunks_exact(output.numbers())) {
                    let sums = &mut weight.gradient;
                    depthwise::weight_gradient(isa, threads, window, x, input.size, width, dz, sums);
                }
            } else {
                let source = Source { data: x, size: piece.size, stride: input.stride, edges: None };
                dense.weight_gradient(isa, threads, source, dz, &mut weight.gradient);
            }
            if !wanted {
                continue;
            }
            let range = piece.input.start * input.stride..piece.input.end * input.stride;
            let dx = match &mut out {
                Some(out) => &mut out[range.clone()],
                None => {
                    grow(&mut self.scratch.dx, range.len());
                    &mut self.scratch.dx[..range.len()]
                }
            };
            match &backward {
                Some(backward) => {
                    backward.run(isa, threads, dz, piece.size, piece.pictures, &mut self.scratch.kernel, dx);
                }
                None => {
                    for (dx, dz) in dx.chunks_exact_mut(input.numbers()).zip(dz.chunks_exact(output.numbers())) {
                        depthwise::input_gradient(isa, threads, window, weight.used(), dz, input.size, width, dx);
                    }
                }
            }
            if let Some(sum) = sum.as_mut().and_then(Rc::get_mut) {
                norm::add(isa, threads, dx, &mut sum[range]);
            }
        }
        gradients[from] = sum.or(out.map(Rc::new));
        self.values[i] = kept;
        Ok(())
    }
}

fn padded_vector(values: &[f32]) -> Vec<f32> {
    let mut wide = values.to_vec();
    wide.resize(padded(values.len()), 0.0);
    wide
}

/// Cuts the pixels of a batch into pieces of which input and output stay in the cache: whole pictures, or what fits where
/// a pixel of the output sees but its own.
fn pieces(window: Window, input: &Shape, output: &Shape, pictures: usize) -> Vec<Piece> {
    let fits = ((CACHED / size_of::<f32>()) / (input.stride + output.stride)).max(LEAST);
    if window == Window::POINT {
        let all = pictures * input.pixels();
        let cut = |start: usize| {
            let range = start..all.min(start + fits);
            Piece { size: [1, range.len()], input: range.clone(), output: range, pictures: 1 }
        };
        return (0..all).step_by(fits).map(cut).collect();
    }
    let each = (fits / input.pixels().max(output.pixels())).clamp(1, pictures.max(1));
    let cut = |start: usize| {
        let range = start..pictures.min(start + each);
        let of = |shape: &Shape| range.start * shape.pixels()..range.end * shape.pixels();
        Piece { size: input.size, input: of(input), output: of(output), pictures: range.len() }
    };
    (0..pictures).step_by(each).map(cut).collect()
}

/// Bytes of a piece's input and output: half of a usual second cache of two cores.
const CACHED: usize = 1 << 20;
/// Pixels of a piece at least, so that weights are read for enough of them.
const LEAST: usize = 512;
