//! Forward and backward through a network's description, node by node, on the CPU's kernels.
//!
//! Activations are channels last, all pictures of a batch after each other. Of a convolution the bare output is kept:
//! its normalisation and activation are computed again wherever it is read, a piece at a time that stays in the cache, on
//! the way back as well. Buffers go round: what a node no longer needs is the next one's gradient.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use graft_kernels::pool::{self, Pool};
use graft_kernels::train::norm::{self, Affine, Residual};
use graft_kernels::train::pool as pooled;
use graft_kernels::{Activation, Buffer, Isa, Threads, padded};
use graft_zoo::Network;
use graft_zoo::network::{Linear, Op};

use super::folded::{Folded, take};
use super::linear::{Layer, Made};
use super::normalisation::Normalisation;
use super::quantized::round;
use super::shape::{Identity, Shape, bounds, function, shapes, window};
use super::weights::Weights;
use super::{HEAD, Norm};

mod bare;
mod conv;
mod recompute;
mod squeeze;

use bare::Bare;
use squeeze::Gate;

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
    /// Trained nodes whose numbers are let go of once the node behind them has its own, and computed again on the way back.
    segments: Vec<Range<usize>>,
    /// `[pictures, h, w, stride]` of each node: the bare output of a trained convolution.
    values: Vec<Buffer>,
    /// The normalisation of each trained convolution, as of the last forward pass.
    norms: Vec<Option<Normalisation>>,
    /// Both of each trained node before its activation was rounded, where the network is quantized: then the former are
    /// rounded activations.
    bare: Vec<Option<Bare>>,
    /// What the fully connected layers made, by node, and the head behind the last.
    layers: BTreeMap<usize, Made>,
    /// What the squeezes made, by node.
    gates: BTreeMap<usize, Gate>,
    spare: Vec<Buffer>,
    scratch: Scratch,
}

/// Where a forward pass begins.
pub(super) enum Start<'a> {
    /// Normalised pictures, `[n, h, w, stride]`.
    Pictures(Buffer),
    /// What [`Engine::frozen`] returned of each.
    Frozen(&'a [Vec<f32>]),
}

/// Which time a node is computed of the same batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    First,
    /// On the way back: its statistics are known, and have moved the running ones.
    Again,
}

/// Memory for a piece of an input, of a gradient, of an input's gradient, and of a kernel.
#[derive(Default)]
struct Scratch {
    x: Buffer,
    dz: Buffer,
    dx: Buffer,
    kernel: Buffer,
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
            bare: vec![None; nodes],
            layers: BTreeMap::new(),
            gates: BTreeMap::new(),
            segments: vec![],
            shapes,
            spare: vec![],
            scratch: Scratch::default(),
        })
    }

    /// Returns logits `[pictures, padded(classes)]` with fixed statistics.
    pub(super) fn logits(&mut self, weights: &mut Weights, input: &[f32], pictures: usize) -> Result<Vec<f32>> {
        let nodes = self.network.nodes.len();
        if self.whole.is_none() {
            weights.refresh()?;
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
        Ok(head().forward(self.isa, &mut self.threads, weights, &features, pictures)?.y.to_vec())
    }

    /// Returns outputs `[pictures, padded(outputs)]` as training sees them, and moves running statistics.
    pub(super) fn forward(&mut self, weights: &mut Weights, start: Start<'_>, pictures: usize) -> Result<Vec<f32>> {
        self.whole = None;
        weights.refresh()?;
        self.reuse_values();
        match start {
            Start::Pictures(input) if self.first > 1 => self.run_frozen(&input, pictures)?,
            Start::Pictures(mut input) => {
                if let Some(affine) = weights.affine(0) {
                    round(&mut self.threads, affine, &mut input);
                }
                self.values[0] = input;
            }
            Start::Frozen(rows) => self.take_frozen(rows)?,
        }
        for i in self.first..self.network.nodes.len() {
            self.compute(weights, i, pictures, Pass::First)?;
            self.let_go_before(i);
        }
        let features = self.values.last().context("expected a network with nodes")?;
        let made = head().forward(self.isa, &mut self.threads, weights, features, pictures)?;
        let logits = made.y.to_vec();
        self.layers.insert(self.network.nodes.len(), made);
        Ok(logits)
    }

    /// Computes what a trained node keeps.
    fn compute(&mut self, weights: &mut Weights, i: usize, pictures: usize, pass: Pass) -> Result<()> {
        let node = self.network.nodes[i].clone();
        let mut y = take(&mut self.spare, pictures * self.shapes[i].numbers());
        match &node.op {
            Op::Input => {}
            Op::Conv(c) => self.conv(weights, i, c, pictures, pass, &mut y)?,
            Op::Add(activation) => {
                let y = &mut y[..pictures * self.shapes[i].numbers()];
                self.add(&node.inputs, function(*activation), y);
            }
            Op::MaxPool => self.max_pool(node.inputs[0], i, pictures, &mut y),
            Op::GlobalAveragePool => self.means(node.inputs[0], pictures, &mut y),
            Op::SqueezeExcite(s) => self.squeeze(weights, i, s, pictures, &mut y)?,
            Op::Linear(l) => self.linear(weights, i, l, pictures, &mut y)?,
        }
        self.values[i] = y;
        self.close(weights, i, pictures);
        Ok(())
    }

    /// Whether anything but the picture itself is frozen.
    pub(super) fn has_frozen(&self) -> bool {
        self.first > 1
    }

    /// Returns the length of a picture's row of [`Engine::frozen`].
    pub(super) fn frozen_len(&self) -> usize {
        self.border().iter().map(|&i| self.shapes[i].numbers()).sum()
    }

    /// Returns what trained nodes read of frozen ones, a row for each picture.
    pub(super) fn frozen(&mut self, input: &[f32], pictures: usize) -> Result<Vec<Vec<f32>>> {
        self.reuse_values();
        self.run_frozen(input, pictures)?;
        let border = self.border();
        let part = |p: usize, i: usize| {
            let len = self.shapes[i].numbers();
            &self.values[i][p * len..][..len]
        };
        Ok((0..pictures).map(|p| border.iter().flat_map(|&i| part(p, i)).copied().collect()).collect())
    }

    fn take_frozen(&mut self, rows: &[Vec<f32>]) -> Result<()> {
        let len = self.frozen_len();
        ensure!(rows.iter().all(|r| r.len() == len), "expected {len} frozen numbers of each picture, found others");
        let mut at = 0;
        for i in self.border() {
            let len = self.shapes[i].numbers();
            let mut value = take(&mut self.spare, rows.len() * len);
            for (to, row) in value.chunks_exact_mut(len).zip(rows) {
                to.copy_from_slice(&row[at..at + len]);
            }
            self.values[i] = value;
            at += len;
        }
        Ok(())
    }

    /// Lists the frozen nodes that trained ones read.
    fn border(&self) -> Vec<usize> {
        let read = |i: &usize| self.network.nodes[self.first..].iter().any(|n| n.inputs.contains(i));
        (0..self.first).filter(read).collect()
    }

    fn reuse_values(&mut self) {
        // The pictures came from elsewhere.
        self.values[0] = Buffer::default();
        self.spare.extend(self.bare.iter_mut().filter_map(Option::take).map(|b| b.values));
        self.spare.extend(self.values.iter_mut().map(std::mem::take).filter(|b| !b.is_empty()));
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

    /// Writes the mean of each channel of each picture, `[pictures, stride]`.
    fn means(&mut self, from: usize, pictures: usize, y: &mut [f32]) {
        let shape = self.shapes[from];
        let z = &self.values[from][..pictures * shape.numbers()];
        let affine = affine(&self.norms, &self.identity, from, shape.stride);
        let y = &mut y[..pictures * shape.stride];
        pooled::mean(self.isa, &mut self.threads, z, affine, shape.pixels(), shape.stride, y);
    }

    fn linear(&mut self, weights: &Weights, i: usize, l: &Linear, pictures: usize, y: &mut [f32]) -> Result<()> {
        let from = self.network.nodes[i].inputs[0];
        let (values, norms, stride) = (&self.values, &self.norms, self.shapes[from].stride);
        let (isa, threads) = (self.isa, &mut self.threads);
        let x = activation(values, norms, from, stride, 0..pictures, isa, threads, &mut self.scratch.x);
        let made = layer(l).forward(isa, threads, weights, x, pictures)?;
        y[..made.y.len()].copy_from_slice(&made.y);
        self.layers.insert(i, made);
        Ok(())
    }

    fn add(&mut self, inputs: &[usize], activation: Activation, y: &mut [f32]) {
        let is_closed = |j: usize| self.norms[j].as_ref().is_some_and(|n| n.activation != Activation::NONE);
        // One of them may have an activation of its own: it goes second.
        let (a, b) = if is_closed(inputs[0]) { (inputs[1], inputs[0]) } else { (inputs[0], inputs[1]) };
        let shape = self.shapes[a];
        let first = Affine { activation, ..affine(&self.norms, &self.identity, a, shape.stride) };
        if is_closed(b) {
            let (values, norms, isa, threads) = (&self.values, &self.norms, self.isa, &mut self.threads);
            for (p, y) in y.chunks_exact_mut(shape.numbers()).enumerate() {
                let pixels = p * shape.pixels()..(p + 1) * shape.pixels();
                let z = &values[a][p * shape.numbers()..(p + 1) * shape.numbers()];
                let x = self::activation(values, norms, b, shape.stride, pixels, isa, threads, &mut self.scratch.x);
                norm::normalise(isa, threads, z, first, Some(Residual::Plain(x)), y);
            }
            return;
        }
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
        let made = self.layers.remove(&nodes).context("expected a forward pass before")?;
        let features = self.values.last().context("expected a network with nodes")?;
        let (isa, threads, wanted) = (self.isa, &mut self.threads, self.first < nodes);
        let dx = head().backward(isa, threads, weights, features, &made, logits, wanted)?;
        gradients[nodes - 1] = dx.map(|dx| self.adopt(&dx));
        for i in (self.first..nodes).rev() {
            self.bring_back_before(weights, i, pictures)?;
            let node = self.network.nodes[i].clone();
            let Some(mut gradient) = gradients[i].take() else { continue };
            self.open(weights, i, pictures, &mut gradient)?;
            match &node.op {
                Op::Input => {}
                Op::Conv(c) => self.conv_backward(weights, i, c, pictures, &gradient, &mut gradients)?,
                Op::Add(activation) => {
                    let len = pictures * self.shapes[i].numbers();
                    if function(*activation) != Activation::NONE {
                        let bounds = bounds(*activation).context("expected a sum closed by a clamp")?;
                        let g = self.own(&mut gradient, len);
                        norm::mask(self.isa, &mut self.threads, &self.values[i][..len], bounds, &mut g[..len]);
                    }
                    let first = self.first;
                    for &j in node.inputs.iter().filter(|&&j| j >= first) {
                        self.give(&mut gradients[j], Rc::clone(&gradient), len);
                    }
                }
                Op::MaxPool => self.max_pool_backward(node.inputs[0], i, pictures, &gradient, &mut gradients),
                Op::SqueezeExcite(s) => {
                    self.squeeze_backward(weights, i, s, pictures, &gradient, &mut gradients)?;
                }
                Op::Linear(l) => {
                    let (j, made) = (node.inputs[0], self.layers.remove(&i).context("expected a forward pass before")?);
                    let (stride, wanted) = (self.shapes[j].stride, j >= self.first);
                    let (values, norms, isa, threads) = (&self.values, &self.norms, self.isa, &mut self.threads);
                    let x = activation(values, norms, j, stride, 0..pictures, isa, threads, &mut self.scratch.x);
                    if let Some(dx) = layer(l).backward(isa, threads, weights, x, &made, &gradient, wanted)? {
                        let dx = self.adopt(&dx);
                        self.give(&mut gradients[j], dx, pictures * stride);
                    }
                }
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

    /// Copies what was made elsewhere into memory that goes round: more would be in it after every step.
    fn adopt(&mut self, made: &[f32]) -> Rc<Buffer> {
        let mut own = take(&mut self.spare, made.len());
        own[..made.len()].copy_from_slice(made);
        Rc::new(own)
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

    /// Returns the numbers in memory that goes round.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.spare.iter().chain(&self.values[1..]).map(|b| b.len()).sum()
    }

    /// Forgets what was made of weights that have changed.
    pub(super) fn forget(&mut self) {
        self.whole = None;
    }

    /// Folds frozen nodes anew, whose weights have come to be quantized.
    pub(super) fn refreeze(&mut self, weights: &Weights) -> Result<()> {
        self.frozen = Folded::new(&self.network, &self.shapes, weights, self.first)?;
        self.whole = None;
        Ok(())
    }

    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    /// Returns the kernels' instruction set and threads.
    pub(super) fn team(&mut self) -> (Isa, &mut Threads) {
        (self.isa, &mut self.threads)
    }
}

fn head() -> Layer {
    Layer::new(HEAD, Activation::NONE)
}

fn layer(l: &Linear) -> Layer {
    Layer::new(&l.name, function(l.activation))
}

/// Returns what makes a node's activation out of what is kept of it.
fn affine<'a>(norms: &'a [Option<Normalisation>], identity: &'a Identity, node: usize, width: usize) -> Affine<'a> {
    norms[node].as_ref().map_or_else(|| identity.affine(width, Activation::NONE), Normalisation::affine)
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
