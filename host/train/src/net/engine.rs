//! Forward and backward through a network's description, node by node, on the CPU's kernels.
//!
//! Activations are channels last, all pictures of a batch after each other. Of a convolution the bare output is kept:
//! its normalisation and activation are computed again wherever it is read, a piece at a time that stays in the cache, on
//! the way back as well. Buffers go round: what a node no longer needs is the next one's gradient.

use std::ops::Range;
use std::rc::Rc;

use anyhow::{Context, Result};
use graft_kernels::conv::Source;
use graft_kernels::depthwise::Depthwise;
use graft_kernels::pool::{self, Pool};
use graft_kernels::train::norm::{self, Affine, Residual, Sums};
use graft_kernels::train::{Dense, depthwise, pool as pooled};
use graft_kernels::{Buffer, Isa, Threads, Window, conv, padded};
use graft_zoo::Network;
use graft_zoo::network::{Conv, Op};

use super::folded::{Folded, take};
use super::normalisation::{Factors, Normalisation, moments};
use super::shape::{Identity, Shape, shapes, window};
use super::weights::Weights;
use super::{HEAD_BIAS, HEAD_WEIGHT, MOMENTUM, Norm};

/// A network on the kernels.
pub(super) struct Engine {
    network: Network,
    norm: Norm,
    /// Nodes from this one on are trained; those before are frozen.
    first: usize,
    isa: Isa,
    threads: Threads,
    shapes: Vec<Shape>,
    identity: Identity,
    /// The frozen nodes.
    frozen: Folded,
    /// All nodes, until the next step makes it stale.
    whole: Option<Folded>,
    /// `[pictures, h, w, stride]` of each node: the bare output of a trained convolution.
    values: Vec<Buffer>,
    /// The normalisation of each trained convolution, as of the last forward pass.
    norms: Vec<Option<Normalisation>>,
    spare: Vec<Buffer>,
    scratch: Scratch,
}

/// Memory for a piece of an input, of a gradient, of an input's gradient, and of a kernel.
#[derive(Default)]
struct Scratch {
    x: Buffer,
    dz: Buffer,
    dx: Buffer,
    kernel: Buffer,
}

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
    pub(super) fn new(
        network: &Network,
        side: usize,
        first_stage: usize,
        norm: Norm,
        threads: usize,
        weights: &Weights,
    ) -> Result<Self> {
        let shapes = shapes(network, side)?;
        let nodes = network.nodes.len();
        let first = network.nodes.iter().position(|n| n.stage >= first_stage).unwrap_or(nodes).max(1);
        Ok(Self {
            frozen: Folded::new(network, &shapes, weights, first)?,
            whole: None,
            network: network.clone(),
            norm,
            first,
            isa: Isa::best(),
            threads: Threads::new(threads),
            identity: Identity::new(&shapes),
            values: vec![Buffer::default(); nodes],
            norms: vec![None; nodes],
            shapes,
            spare: vec![],
            scratch: Scratch::default(),
        })
    }

    /// Returns logits `[pictures, padded(classes)]` with fixed statistics.
    pub(super) fn logits(&mut self, weights: &Weights, input: &[f32], pictures: usize) -> Result<Vec<f32>> {
        let nodes = self.network.nodes.len();
        if self.whole.is_none() {
            self.whole = Some(Folded::new(&self.network, &self.shapes, weights, nodes)?);
        }
        let whole = self.whole.as_ref().context("expected the network folded")?;
        let width = padded(self.network.features);
        let mut features = vec![0.0; pictures * width];
        let mut values = vec![Buffer::default(); nodes];
        for (input, features) in input.chunks_exact(self.shapes[0].numbers()).zip(features.chunks_exact_mut(width)) {
            values[0] = Buffer::copy_of(input);
            whole.run(&self.network, &self.shapes, self.isa, &mut self.threads, &mut self.spare, &mut values)?;
            let last = values.last_mut().context("expected a network with nodes")?;
            features.copy_from_slice(&last[..width]);
            self.spare.push(std::mem::take(last));
        }
        self.head(weights, &features, pictures)
    }

    /// Returns logits `[pictures, padded(classes)]` as training sees them, and moves running statistics.
    pub(super) fn forward(&mut self, weights: &mut Weights, input: Buffer, pictures: usize) -> Result<Vec<f32>> {
        self.whole = None;
        self.spare.extend(self.values.iter_mut().map(std::mem::take).filter(|b| !b.is_empty()));
        if self.first > 1 {
            self.run_frozen(&input, pictures)?;
        } else {
            self.values[0] = input;
        }
        for i in self.first..self.network.nodes.len() {
            let node = self.network.nodes[i].clone();
            let mut y = take(&mut self.spare, pictures * self.shapes[i].numbers());
            match &node.op {
                Op::Input => {}
                Op::Conv(c) => self.conv(weights, i, c, pictures, &mut y)?,
                Op::Add(activation) => {
                    self.add(&node.inputs, activation.bounds(), &mut y[..pictures * self.shapes[i].numbers()])
                }
                Op::MaxPool => self.max_pool(node.inputs[0], i, pictures, &mut y),
                Op::GlobalAveragePool => {
                    let from = node.inputs[0];
                    let shape = self.shapes[from];
                    let z = &self.values[from][..pictures * shape.numbers()];
                    let affine = affine(&self.norms, &self.identity, from, shape.stride);
                    let y = &mut y[..pictures * shape.stride];
                    pooled::mean(self.isa, &mut self.threads, z, affine, shape.pixels(), shape.stride, y);
                }
            }
            self.values[i] = y;
        }
        let features = std::mem::take(self.values.last_mut().context("expected a network with nodes")?);
        let logits = self.head(weights, &features, pictures);
        *self.values.last_mut().context("expected a network with nodes")? = features;
        logits
    }

    fn run_frozen(&mut self, input: &[f32], pictures: usize) -> Result<()> {
        let mut values = vec![Buffer::default(); self.first];
        for (p, input) in input.chunks_exact(self.shapes[0].numbers()).take(pictures).enumerate() {
            values[0] = Buffer::copy_of(input);
            self.frozen.run(&self.network, &self.shapes, self.isa, &mut self.threads, &mut self.spare, &mut values)?;
            for (i, value) in values.iter_mut().enumerate().skip(1).filter(|(_, v)| !v.is_empty()) {
                let len = self.shapes[i].numbers();
                if self.values[i].is_empty() {
                    self.values[i] = take(&mut self.spare, pictures * len);
                }
                self.values[i][p * len..][..len].copy_from_slice(&value[..len]);
                self.spare.push(std::mem::take(value));
            }
        }
        Ok(())
    }

    fn head(&mut self, weights: &Weights, features: &[f32], pictures: usize) -> Result<Vec<f32>> {
        let weight = weights.parameter(HEAD_WEIGHT)?;
        let bias = &weights.parameter(HEAD_BIAS)?.values;
        let (classes, inputs) = (weight.shape[0], weight.shape[1]);
        let dense = Dense { window: Window::POINT, inputs, outputs: classes };
        let mut logits = vec![0.0; pictures * padded(classes)];
        let source = Source { data: features, size: [1, pictures], stride: padded(inputs), edges: None };
        let (isa, threads) = (self.isa, &mut self.threads);
        dense.forward(&weight.values, [1, pictures], 1, threads).run(isa, threads, source, None, &mut logits);
        for row in logits.chunks_exact_mut(padded(classes)) {
            row.iter_mut().zip(bias.iter()).for_each(|(l, b)| *l += b);
        }
        Ok(logits)
    }

    fn conv(&mut self, weights: &mut Weights, i: usize, c: &Conv, pictures: usize, z: &mut Buffer) -> Result<()> {
        let from = self.network.nodes[i].inputs[0];
        let (input, output) = (self.shapes[from], self.shapes[i]);
        let window = window(self.network.padding, input.size, c.kernel, c.stride);
        let weight = &weights.parameter(&format!("{}.weight", c.name))?.values;
        let pieces = pieces(window, &input, &output, pictures);
        let kernel = if c.groups > 1 {
            Forward::Depthwise(Depthwise::of_taps(window, c.outputs, weight))
        } else {
            let dense = Dense { window, inputs: c.inputs, outputs: c.outputs };
            Forward::Dense(dense.forward(weight, input.size, pieces[0].pictures, &mut self.threads))
        };
        let width = output.stride;
        let centre = padded_vector(&weights.vector(&format!("{}.running_mean", c.norm))?);
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
            if self.norm == Norm::Batch {
                norm::statistics(self.isa, &mut self.threads, z, &centre, &mut sums);
            }
        }
        let count = pictures * output.pixels();
        let seen = (self.norm == Norm::Batch).then(|| moments(&sums, &centre, count));
        self.norms[i] = Some(self.normalisation(weights, c, seen, count)?);
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
                    Ok(padded_vector(&weights.vector(&name(part))?).into_iter().map(f64::from).collect())
                };
                (wide("running_mean")?, wide("running_var")?)
            }
        };
        let (gamma, beta) = (&weights.parameter(&name("weight"))?.values, &weights.parameter(&name("bias"))?.values);
        let mut n = Normalisation { bounds: c.activation.bounds(), ..Normalisation::default() };
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

    fn add(&mut self, inputs: &[usize], bounds: (f32, f32), y: &mut [f32]) {
        let (a, b) = (inputs[0], inputs[1]);
        let width = self.shapes[a].stride;
        let first = Affine { bounds, ..affine(&self.norms, &self.identity, a, width) };
        let z = &self.values[b][..y.len()];
        let residual = match &self.norms[b] {
            Some(n) => Residual::Scaled { z, scale: &n.scale, shift: &n.shift },
            None => Residual::Plain(z),
        };
        norm::normalise(self.isa, &mut self.threads, &self.values[a][..y.len()], first, Some(residual), y);
    }

    fn max_pool(&mut self, from: usize, i: usize, pictures: usize, y: &mut [f32]) {
        let (input, output) = (self.shapes[from], self.shapes[i]);
        let window = window(self.network.padding, input.size, 3, 2);
        for p in 0..pictures {
            let pixels = p * input.pixels()..(p + 1) * input.pixels();
            let x = activation(
                &self.values,
                &self.norms,
                from,
                input.stride,
                pixels,
                self.isa,
                &mut self.threads,
                &mut self.scratch.x,
            );
            let y = &mut y[p * output.numbers()..(p + 1) * output.numbers()];
            pool::run(self.isa, &mut self.threads, Pool::Max, &window, x, input.size, input.stride, y);
        }
    }

    /// Adds to every parameter's gradient, given that of the logits `[pictures, padded(classes)]` that
    /// [`Engine::forward`] returned. What it had kept is gone then.
    pub(super) fn backward(&mut self, weights: &mut Weights, logits: &[f32], pictures: usize) -> Result<()> {
        let nodes = self.network.nodes.len();
        let mut gradients: Vec<Option<Rc<Buffer>>> = vec![None; nodes];
        gradients[nodes - 1] = self.head_backward(weights, logits, pictures)?.map(Rc::new);
        for i in (self.first..nodes).rev() {
            let node = self.network.nodes[i].clone();
            let Some(mut gradient) = gradients[i].take() else { continue };
            match &node.op {
                Op::Input => {}
                Op::Conv(c) => self.conv_backward(weights, i, c, pictures, &gradient, &mut gradients)?,
                Op::Add(activation) => {
                    let len = pictures * self.shapes[i].numbers();
                    if activation.bounds() != Identity::OPEN {
                        let g = self.own(&mut gradient, len);
                        norm::mask(
                            self.isa,
                            &mut self.threads,
                            &self.values[i][..len],
                            activation.bounds(),
                            &mut g[..len],
                        );
                    }
                    let first = self.first;
                    for &j in node.inputs.iter().filter(|&&j| j >= first) {
                        self.give(&mut gradients[j], Rc::clone(&gradient), len);
                    }
                }
                Op::MaxPool => self.max_pool_backward(node.inputs[0], i, pictures, &gradient, &mut gradients),
                Op::GlobalAveragePool => {
                    let j = node.inputs[0];
                    if j >= self.first {
                        let shape = self.shapes[j];
                        let mut out = take(&mut self.spare, pictures * shape.numbers());
                        let g = &gradient[..pictures * shape.stride];
                        pooled::mean_gradient(
                            self.isa,
                            &mut self.threads,
                            g,
                            shape.pixels(),
                            shape.stride,
                            &mut out[..pictures * shape.numbers()],
                        );
                        self.give(&mut gradients[j], Rc::new(out), pictures * shape.numbers());
                    }
                }
            }
            self.release(gradient);
            self.spare.push(std::mem::take(&mut self.values[i]));
        }
        Ok(())
    }

    fn head_backward(&mut self, weights: &mut Weights, logits: &[f32], pictures: usize) -> Result<Option<Buffer>> {
        let bias = &mut weights.parameter_mut(HEAD_BIAS)?.gradient;
        for row in logits.chunks_exact(bias.len()) {
            bias.iter_mut().zip(row).for_each(|(b, g)| *b += g);
        }
        let weight = weights.parameter_mut(HEAD_WEIGHT)?;
        let (classes, inputs) = (weight.shape[0], weight.shape[1]);
        let dense = Dense { window: Window::POINT, inputs, outputs: classes };
        let features = self.values.last().context("expected a network with nodes")?;
        let size = [1, pictures];
        let source = Source { data: features, size, stride: padded(inputs), edges: None };
        dense.weight_gradient(self.isa, &mut self.threads, source, logits, &mut weight.gradient);
        if self.first == self.network.nodes.len() {
            return Ok(None);
        }
        let mut gradient = take(&mut self.spare, pictures * padded(inputs));
        let (isa, threads) = (self.isa, &mut self.threads);
        let backward = dense.backward(&weight.values, size, 1, threads);
        backward.run(isa, threads, logits, size, 1, &mut [], &mut gradient);
        Ok(Some(gradient))
    }

    fn conv_backward(
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
            (wanted && c.groups == 1).then(|| dense.backward(&weight.values, input.size, at_once, &mut self.threads));
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
                        depthwise::input_gradient(isa, threads, window, &weight.values, dz, input.size, width, dx);
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

    fn max_pool_backward(
        &mut self,
        from: usize,
        i: usize,
        pictures: usize,
        gradient: &[f32],
        gradients: &mut [Option<Rc<Buffer>>],
    ) {
        if from < self.first {
            return;
        }
        let (input, output) = (self.shapes[from], self.shapes[i]);
        let window = window(self.network.padding, input.size, 3, 2);
        let mut out = take(&mut self.spare, pictures * input.numbers());
        for p in 0..pictures {
            let pixels = p * input.pixels()..(p + 1) * input.pixels();
            let x = activation(
                &self.values,
                &self.norms,
                from,
                input.stride,
                pixels.clone(),
                self.isa,
                &mut self.threads,
                &mut self.scratch.x,
            );
            let of = p * output.numbers()..(p + 1) * output.numbers();
            let dx = &mut out[p * input.numbers()..(p + 1) * input.numbers()];
            pooled::max_gradient(
                self.isa,
                &mut self.threads,
                &window,
                x,
                input.size,
                input.stride,
                &self.values[i][of.clone()],
                &gradient[of],
                dx,
            );
        }
        self.give(&mut gradients[from], Rc::new(out), pictures * input.numbers());
    }

    /// Gives a node's gradient over, or adds it where there is one.
    fn give(&mut self, slot: &mut Option<Rc<Buffer>>, gradient: Rc<Buffer>, len: usize) {
        match slot {
            None => *slot = Some(gradient),
            Some(sum) => {
                let sum = self.own(sum, len);
                norm::add(self.isa, &mut self.threads, &gradient[..len], &mut sum[..len]);
                self.release(gradient);
            }
        }
    }

    /// Returns a gradient to be changed: a copy where another node still has it.
    fn own<'a>(&mut self, gradient: &'a mut Rc<Buffer>, len: usize) -> &'a mut Buffer {
        if Rc::get_mut(gradient).is_none() {
            let mut copy = take(&mut self.spare, len);
            copy[..len].copy_from_slice(&gradient[..len]);
            *gradient = Rc::new(copy);
        }
        Rc::make_mut(gradient)
    }

    /// Takes memory back once nobody reads it.
    fn release(&mut self, gradient: Rc<Buffer>) {
        self.spare.extend(Rc::try_unwrap(gradient));
    }

    /// Forgets what was made of weights that have changed.
    pub(super) fn forget(&mut self) {
        self.whole = None;
    }

    /// Returns the kernels' instruction set and threads.
    pub(super) fn team(&mut self) -> (Isa, &mut Threads) {
        (self.isa, &mut self.threads)
    }
}

fn padded_vector(values: &[f32]) -> Vec<f32> {
    let mut wide = values.to_vec();
    wide.resize(padded(values.len()), 0.0);
    wide
}

/// Returns what makes a node's activation out of what is kept of it.
fn affine<'a>(norms: &'a [Option<Normalisation>], identity: &'a Identity, node: usize, width: usize) -> Affine<'a> {
    norms[node].as_ref().map_or_else(|| identity.affine(width, Identity::OPEN), Normalisation::affine)
}

/// Returns the activation of some pixels of a node.
#[allow(clippy::too_many_arguments)] // parts of an engine of which others are borrowed meanwhile
fn activation<'a>(
    values: &'a [Buffer],
    norms: &[Option<Normalisation>],
    node: usize,
    stride: usize,
    pixels: Range<usize>,
    isa: Isa,
    threads: &mut Threads,
    scratch: &'a mut Buffer,
) -> &'a [f32] {
    let z = &values[node][pixels.start * stride..pixels.end * stride];
    let Some(n) = &norms[node] else { return z };
    grow(scratch, z.len());
    norm::normalise(isa, threads, z, n.affine(), None, &mut scratch[..z.len()]);
    &scratch[..z.len()]
}

fn grow(buffer: &mut Buffer, len: usize) {
    if buffer.len() < len {
        *buffer = Buffer::zeros(len);
    }
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
