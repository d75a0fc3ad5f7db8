//! Forward and backward through a network's description, node by node, on a GPU's kernels.
//!
//! As `engine` does it on the CPU: of a convolution the bare output is kept, and its normalisation and activation are computed
//! where it is read; only what a product of matrices reads is written out. All numbers that are trained lie behind each other
//! on the GPU, and come to the host when it asks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use graft_gpu::{
    CHANNELS, Closing, Gpu, Matrix, Memory, Normalisation, Order, Parameters, Part, Rate, Rule, Source, Spread,
    Staging, Statistics, Window,
};
use graft_zoo::network::{Activation, Conv, Linear, Op, SqueezeExcite};
use graft_zoo::weights::Tensors;
use graft_zoo::{Network, Preprocessing, Tensor};
use rayon::prelude::*;

use super::shape::{Shape, shapes, window};
use super::weights::{Layout, Weights};
use super::{HEAD, MOMENTUM, Norm};
use crate::optimiser::{MOMENTUM as NESTEROV, Optimiser, Step};

/// A network on a GPU.
pub(super) struct Walk {
    gpu: Gpu,
    network: Network,
    norm: Norm,
    /// Nodes from this one on are trained; those before are frozen.
    first: usize,
    shapes: Vec<Shape>,
    /// The last node that reads each.
    last: Vec<usize>,
    places: BTreeMap<String, Place>,
    /// The parameters that are trained, in the order of their rates.
    trained: Vec<String>,
    parameters: Parameters,
    norms: Vec<Option<Normalisation>>,
    values: Vec<Value>,
    /// What the fully connected layers made, by node and part; the head is behind the last node.
    layers: BTreeMap<(usize, usize), Made>,
    /// Scale and shift of the pictures' channels.
    levels: [[f32; 3]; 2],
    staging: Option<Staging>,
}

/// Where a tensor's numbers are.
struct Place {
    range: Range<usize>,
    layout: Layout,
    shape: Vec<usize>,
}

/// What is kept of a node.
#[derive(Default)]
struct Value {
    /// A convolution's bare output, another map, or rows `[pictures, channels]` of f32 once pictures have become these.
    z: Option<Rc<Memory>>,
    /// The activation of a convolution's output.
    closed: Option<Rc<Memory>>,
    /// Where in its windows a pool found the largest.
    taps: Option<Memory>,
}

/// What a fully connected layer made of rows.
struct Made {
    x: Rc<Memory>,
    z: Memory,
    y: Rc<Memory>,
}

/// A fully connected layer.
struct Layer<'a> {
    name: &'a str,
    inputs: usize,
    outputs: usize,
    closing: Closing,
}

/// Bytes of what a convolution's products read at once: much of it is still in the cache then.
const UNFOLDED: usize = 64 << 20;

impl Walk {
    pub(super) fn new(
        gpu: &Gpu,
        network: &Network,
        p: &Preprocessing,
        first_stage: usize,
        norm: Norm,
        weights: &Weights,
    ) -> Result<Self> {
        let shapes = shapes(network, p.crop as usize)?;
        let nodes = network.nodes.len();
        for (_, c) in network.convs() {
            ensure!(
                c.outputs.is_multiple_of(CHANNELS),
                "expected channels in multiples of {CHANNELS} on a GPU, found {} of {}; use --device cpu",
                c.outputs,
                c.name
            );
        }
        let first = network.nodes.iter().position(|n| n.stage >= first_stage).unwrap_or(nodes).max(1);
        let mut last = vec![0; nodes];
        for (i, node) in network.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|&j| last[j] = i);
        }
        let (mut places, mut end) = (BTreeMap::new(), 0);
        let fixed = weights.fixed.iter().map(|(n, t)| (n, &t.shape, Layout::of(&t.shape, groups(&t.shape))));
        let all = weights.parameters.iter().map(|(n, p)| (n, &p.shape, p.layout)).chain(fixed);
        for (name, shape, layout) in all {
            let range = end..end + numbers(layout);
            // Whole packs, and aligned for products.
            end = range.end.next_multiple_of(64);
            places.insert(name.clone(), Place { range, layout, shape: shape.clone() });
        }
        let trained: Vec<String> = weights.parameters.keys().cloned().collect();
        let ranges: Vec<Range<usize>> = trained.iter().map(|n| places[n].range.clone()).collect();
        let conv = |op: &Op| match op {
            Op::Conv(c) => Normalisation::new(gpu, c.outputs).map(Some),
            _ => Ok(None),
        };
        let mut walk = Self {
            parameters: Parameters::new(gpu, end, &ranges)?,
            norms: network.nodes.iter().map(|n| conv(&n.op)).collect::<Result<_>>()?,
            gpu: gpu.clone(),
            network: network.clone(),
            norm,
            first,
            shapes,
            last,
            places,
            trained,
            values: std::iter::repeat_with(Value::default).take(nodes).collect(),
            layers: BTreeMap::new(),
            levels: [p.std.map(|s| 1.0 / s), [0, 1, 2].map(|c| -p.mean[c] / p.std[c])],
            staging: None,
        };
        walk.put(weights)?;
        Ok(walk)
    }

    /// Takes values over from the host, and what an optimiser remembers.
    pub(super) fn put(&mut self, weights: &Weights) -> Result<()> {
        let values: Tensors = weights.all();
        self.write(&self.parameters.values, |name| values.get(name))?;
        self.round()?;
        let moment = |at: usize| {
            weights.parameters.iter().map(move |(n, p)| (n.clone(), p.layout.unpack(&p.moments[at], &p.shape)))
        };
        for at in 0..2 {
            let moments: Tensors = moment(at).collect();
            self.write(&self.parameters.moments[at], |name| moments.get(name))?;
        }
        let averages: Tensors = weights
            .parameters
            .iter()
            .filter_map(|(n, p)| Some((n.clone(), p.layout.unpack(p.average.as_ref()?, &p.shape))))
            .collect();
        self.parameters.average = None;
        if !averages.is_empty() {
            let average = self.gpu.zeros(self.end_of_trained())?;
            self.write(&average, |name| averages.get(name))?;
            self.parameters.average = Some(average);
        }
        Ok(())
    }

    /// Hands values over to the host.
    pub(super) fn fetch(&self, weights: &mut Weights) -> Result<()> {
        let values = self.gpu.read(self.parameters.values.floats(0..self.end()))?;
        let tensors = self.places.iter().map(|(n, p)| (n.clone(), p.unpack(&values))).collect();
        weights.set(&tensors)
    }

    /// Hands over to the host what an optimiser remembers.
    pub(super) fn fetch_remembered(&self, weights: &mut Weights) -> Result<()> {
        let trained = 0..self.end_of_trained();
        let [first, second] = [0, 1].map(|at| self.gpu.read(self.parameters.moments[at].floats(trained.clone())));
        let moments = [first?, second?];
        let average = self.parameters.average.as_ref().map(|a| self.gpu.read(a.floats(trained.clone()))).transpose()?;
        for (name, p) in &mut weights.parameters {
            let place = self.place(name)?;
            for (to, from) in p.moments.iter_mut().zip(&moments) {
                *to = p.layout.pack(&place.unpack(from).data);
            }
            p.average = average.as_ref().map(|a| p.layout.pack(&place.unpack(a).data));
        }
        Ok(())
    }

    /// Hands the gradients over to the host.
    #[cfg(test)]
    pub(super) fn fetch_gradients(&self, weights: &mut Weights) -> Result<()> {
        let all = self.gpu.read(self.parameters.gradient.floats(0..self.end_of_trained()))?;
        for (name, p) in &mut weights.parameters {
            p.gradient = p.layout.pack(&self.place(name)?.unpack(&all).data);
        }
        Ok(())
    }

    /// Moves every parameter along its gradient, which then is zero again.
    pub(super) fn step(&mut self, weights: &Weights, step: &Step) -> Result<()> {
        let rate = |name: &String| {
            let p = weights.parameter(name)?;
            let (rate, decay) = step.of(p.pace, p.depth, p.decays());
            Ok(Rate { rate: rate as f32, decay: decay as f32 })
        };
        let rule = match step.optimiser {
            Optimiser::Adamw => Rule::Adamw { betas: [0.9, 0.999], epsilon: 1e-8, count: step.done + 1 },
            Optimiser::Sgd => Rule::Sgd { momentum: NESTEROV },
        };
        let step = graft_gpu::Step {
            rule,
            rates: self.trained.iter().map(rate).collect::<Result<_>>()?,
            scale: step.scale as f32,
            clip: step.clip.map(|c| c as f32),
            average: step.past().map(|a| a as f32),
        };
        self.gpu.step(&mut self.parameters, &step)
    }

    /// Changes parameters for their averages and back, where these are kept.
    pub(super) fn swap_averages(&mut self) -> Result<()> {
        let Some(average) = &self.parameters.average else { return Ok(()) };
        let bytes = self.end_of_trained() * 4;
        let kept = self.gpu.memory(bytes)?;
        self.gpu.copy(average.bytes(0..bytes), kept.all())?;
        self.gpu.copy(self.parameters.values.bytes(0..bytes), average.all())?;
        self.gpu.copy(kept.bytes(0..bytes), self.parameters.values.all())?;
        self.round()
    }

    /// Returns logits `[pictures, classes]` with fixed statistics.
    pub(super) fn logits(&mut self, pictures: &[Vec<u8>]) -> Result<Vec<f32>> {
        let logits = self.run(pictures, false)?;
        self.forget();
        Ok(logits)
    }

    /// Returns logits as training sees them, and moves running statistics; what [`Walk::backward`] needs is kept.
    pub(super) fn forward(&mut self, pictures: &[Vec<u8>]) -> Result<Vec<f32>> {
        self.run(pictures, true)
    }

    fn run(&mut self, pictures: &[Vec<u8>], trains: bool) -> Result<Vec<f32>> {
        self.forget();
        let n = pictures.len();
        self.values[0].z = Some(Rc::new(self.input(pictures)?));
        for i in 1..self.network.nodes.len() {
            let node = self.network.nodes[i].clone();
            let from = node.inputs[0];
            let shape = self.shapes[i];
            let z = match &node.op {
                Op::Input => bail!("expected one input, found another at node {i}"),
                Op::Conv(c) => self.conv(i, c, n, trains)?,
                Op::Add(activation) => {
                    let y = self.gpu.map(n * numbers_of(shape))?;
                    let [a, b] = [node.inputs[0], node.inputs[1]].map(|j| self.source(j));
                    self.gpu.sum(n * numbers_of(shape), shape.channels, &a?, Some(&b?), closing(*activation), &y)?;
                    y
                }
                Op::MaxPool => {
                    let y = self.gpu.map(n * numbers_of(shape))?;
                    let w = self.window(from, i, 3, 2);
                    self.values[i].taps = Some(self.gpu.max_pool(n, shape.channels, w, &self.source(from)?, &y)?);
                    y
                }
                Op::GlobalAveragePool => self.means(from, n)?,
                Op::SqueezeExcite(s) => self.squeeze(i, s, n)?,
                Op::Linear(l) => {
                    let x = self.rows(from)?;
                    let y = self.layer(&linear(l), (i, 0), x, n)?;
                    self.values[i].z = Some(y);
                    continue;
                }
            };
            self.values[i].z = Some(Rc::new(z));
            for &j in &node.inputs {
                // The way back needs what trained nodes read.
                if self.last[j] == i && (!trains || i < self.first) {
                    self.values[j] = Value::default();
                }
            }
        }
        let nodes = self.network.nodes.len();
        let features = self.rows(nodes - 1)?;
        let head = self.head()?;
        let logits = self.layer(&head, (nodes, 0), features, n)?;
        self.gpu.read(logits.floats(0..n * head.outputs))
    }

    /// Adds to every parameter's gradient, given that of the logits that [`Walk::forward`] returned. What it had kept is gone then.
    pub(super) fn backward(&mut self, logits: &[f32], pictures: usize) -> Result<()> {
        let nodes = self.network.nodes.len();
        let mut gradients: Vec<Option<Rc<Memory>>> = vec![None; nodes];
        let gradient = self.gpu.numbers(logits)?;
        let head = self.head()?;
        gradients[nodes - 1] = self.layer_backward(&head, (nodes, 0), &gradient, pictures, self.first < nodes)?;
        for i in (self.first..nodes).rev() {
            let node = self.network.nodes[i].clone();
            let Some(gradient) = gradients[i].take() else { continue };
            let from = node.inputs[0];
            let wanted = from >= self.first;
            match &node.op {
                Op::Input => {}
                Op::Conv(c) => self.conv_backward(i, c, pictures, &gradient, &mut gradients[from])?,
                Op::Add(activation) => {
                    let (shape, len) = (self.shapes[i], pictures * numbers_of(self.shapes[i]));
                    let mut gradient = gradient;
                    if closing(*activation) != Closing::None {
                        let masked = self.gpu.map(len)?;
                        let y = self.kept(i)?;
                        self.gpu.mask(len, shape.channels, closing(*activation), y, &gradient, &masked)?;
                        gradient = Rc::new(masked);
                    }
                    for &j in node.inputs.iter().filter(|&&j| j >= self.first) {
                        match gradients[j].take() {
                            None => gradients[j] = Some(Rc::clone(&gradient)),
                            Some(sum) => {
                                let sum = self.own(sum, len)?;
                                self.gpu.add(len, shape.channels, &gradient, &sum)?;
                                gradients[j] = Some(sum);
                            }
                        }
                    }
                }
                Op::MaxPool if wanted => {
                    let len = pictures * numbers_of(self.shapes[from]);
                    let (dx, adds) = self.slot(gradients[from].take(), len)?;
                    let (w, channels) = (self.window(from, i, 3, 2), self.shapes[i].channels);
                    let taps = self.values[i].taps.as_ref().context("expected a pool that has run forwards")?;
                    self.gpu.max_pool_input(pictures, channels, w, taps, &gradient, adds, &dx)?;
                    gradients[from] = Some(dx);
                }
                Op::GlobalAveragePool if wanted => {
                    let shape = self.shapes[from];
                    let len = pictures * numbers_of(shape);
                    let (dx, adds) = self.slot(gradients[from].take(), len)?;
                    let by = 1.0 / shape.pixels() as f32;
                    let spread = Spread { scaled: None, summands: gradient.all(), by, adds };
                    self.gpu.spread(len, shape.channels, shape.pixels(), &spread, &dx)?;
                    gradients[from] = Some(dx);
                }
                Op::MaxPool | Op::GlobalAveragePool => {}
                Op::SqueezeExcite(s) => self.squeeze_backward(i, s, pictures, &gradient, &mut gradients[from])?,
                Op::Linear(l) => {
                    let dx = self.layer_backward(&linear(l), (i, 0), &gradient, pictures, wanted)?;
                    ensure!(gradients[from].is_none(), "expected rows that one layer reads, found two at node {from}");
                    gradients[from] = dx;
                }
            }
            self.values[i] = Value::default();
        }
        self.forget();
        Ok(())
    }

    /// Sends pictures and normalises them.
    fn input(&mut self, pictures: &[Vec<u8>]) -> Result<Memory> {
        let side = self.shapes[0].size[0];
        let (len, bytes) = (side * side * 3, pictures.len() * side * side * 3);
        for picture in pictures {
            ensure!(picture.len() == len, "expected {len} values in a picture, found {}", picture.len());
        }
        let staging = match self.staging.take().filter(|s| s.len() >= bytes) {
            Some(staging) => staging,
            None => self.gpu.staging(bytes)?,
        };
        let staging = self.staging.insert(staging);
        staging.bytes()?[..bytes].par_chunks_mut(len).zip(pictures).for_each(|(to, from)| to.copy_from_slice(from));
        let (levels, to) = (self.gpu.memory(bytes)?, self.gpu.map(bytes)?);
        self.gpu.send(staging, levels.bytes(0..bytes))?;
        self.gpu.pictures(&levels, bytes, self.levels[0], self.levels[1], &to)?;
        Ok(to)
    }

    fn conv(&mut self, i: usize, c: &Conv, pictures: usize, trains: bool) -> Result<Memory> {
        let from = self.network.nodes[i].inputs[0];
        let output = self.shapes[i];
        let w = self.window(from, i, c.kernel, c.stride);
        let pixels = pictures * output.pixels();
        let z = self.gpu.map(pixels * c.outputs)?;
        let weight = format!("{}.weight", c.name);
        if c.groups > 1 {
            self.gpu.depthwise(pictures, c.outputs, w, &self.source(from)?, self.floats(&weight)?, &z)?;
        } else if w.is_point() {
            let x = self.close(from, pictures)?;
            let a = self.matrix(&x, c.inputs);
            let (b, c_) = (self.weight(&weight, c.outputs)?, self.matrix(&z, c.outputs));
            self.gpu.product(&Order { sizes: [pixels, c.outputs, c.inputs], a, b, c: c_, adds: false })?;
        } else {
            let row = row(c);
            for range in self.pieces(pictures, output.pixels() * row) {
                let rows = range.len() * output.pixels();
                let seen = self.seen(from, &range, w, row)?;
                let to = self.map_part(&z, range.start * output.pixels() * c.outputs, rows * c.outputs);
                let c_ = Matrix::of_map(&self.gpu, to, c.outputs);
                let (a, b) = (self.matrix(&seen, row), self.weight(&weight, c.outputs)?);
                self.gpu.product(&Order { sizes: [rows, c.outputs, row], a, b, c: c_, adds: false })?;
            }
        }
        let part = |name: &str| self.floats(&format!("{}.{name}", c.norm));
        let running = [part("running_mean")?, part("running_var")?];
        let by_batch = trains && self.norm == Norm::Batch && i >= self.first;
        let sums = by_batch.then(|| self.gpu.statistics(pixels, c.outputs, &z, running[0])).transpose()?;
        let statistics = Statistics {
            weight: part("weight")?,
            bias: part("bias")?,
            running,
            epsilon: self.network.bn_eps,
            momentum: MOMENTUM as f32,
        };
        self.gpu.settle(self.normalisation(i)?, sums.as_ref(), &statistics)?;
        Ok(z)
    }

    fn conv_backward(
        &mut self,
        i: usize,
        c: &Conv,
        pictures: usize,
        gradient: &Memory,
        slot: &mut Option<Rc<Memory>>,
    ) -> Result<()> {
        let from = self.network.nodes[i].inputs[0];
        let (input, output) = (self.shapes[from], self.shapes[i]);
        let w = self.window(from, i, c.kernel, c.stride);
        let pixels = pictures * output.pixels();
        let (n, z, close) = (self.normalisation(i)?, self.kept(i)?, closing(c.activation));
        let sums = self.gpu.moments(pixels, n, z, close, gradient)?;
        let [by_scale, by_shift] = ["weight", "bias"].map(|part| self.gradient(&format!("{}.{part}", c.norm)));
        self.gpu.settle_gradient(n, &sums, by_scale?, by_shift?)?;
        let dz = self.gpu.map(pixels * c.outputs)?;
        self.gpu.combine(pixels, n, z, close, gradient, self.norm == Norm::Batch, &dz)?;

        let weight = format!("{}.weight", c.name);
        let by_weight = self.gradient(&weight)?;
        let wanted = from >= self.first;
        let target = match wanted {
            true => Some(self.slot(slot.take(), pictures * numbers_of(input))?),
            false => None,
        };
        if c.groups > 1 {
            self.gpu.depthwise_weight(pictures, c.outputs, w, &self.source(from)?, &dz, by_weight)?;
            if let Some((dx, adds)) = &target {
                self.gpu.depthwise_input(pictures, c.outputs, w, &dz, self.floats(&weight)?, *adds, dx)?;
            }
        } else if w.is_point() {
            let x = self.close(from, pictures)?;
            let by = Matrix::of_floats(self.gradient(&weight)?, c.outputs);
            let (a, b) = (self.matrix(&x, c.inputs).turned(), self.matrix(&dz, c.outputs));
            self.gpu.product(&Order { sizes: [c.inputs, c.outputs, pixels], a, b, c: by, adds: true })?;
            if let Some((dx, adds)) = &target {
                let (a, b) = (self.matrix(&dz, c.outputs), self.weight(&weight, c.outputs)?.turned());
                let c_ = self.matrix(dx, c.inputs);
                self.gpu.product(&Order { sizes: [pixels, c.inputs, c.outputs], a, b, c: c_, adds: *adds })?;
            }
        } else {
            let row = row(c);
            for range in self.pieces(pictures, output.pixels() * row) {
                let rows = range.len() * output.pixels();
                let seen = self.seen(from, &range, w, row)?;
                let part = self.map_part(&dz, range.start * output.pixels() * c.outputs, rows * c.outputs);
                let dz = Matrix::of_map(&self.gpu, part, c.outputs);
                let (a, by) = (self.matrix(&seen, row), Matrix::of_floats(by_weight, c.outputs));
                self.gpu.product(&Order { sizes: [row, c.outputs, rows], a: a.turned(), b: dz, c: by, adds: true })?;
                if let Some((dx, adds)) = &target {
                    let b = self.weight(&weight, c.outputs)?.turned();
                    self.gpu.product(&Order { sizes: [rows, row, c.outputs], a: dz, b, c: a, adds: false })?;
                    self.gpu.fold(range, input.channels, row, w, &seen, *adds, dx)?;
                }
            }
        }
        *slot = target.map(|t| t.0);
        Ok(())
    }

    /// Lays out what the outputs of some pictures see of a node through a window, in rows of so many numbers.
    fn seen(&self, from: usize, pictures: &Range<usize>, w: Window, row: usize) -> Result<Memory> {
        let seen = self.gpu.map(pictures.len() * w.output[0] * w.output[1] * row)?;
        self.gpu.unfold(pictures.clone(), self.shapes[from].channels, row, w, &self.source(from)?, &seen)?;
        Ok(seen)
    }

    fn means(&self, from: usize, pictures: usize) -> Result<Memory> {
        let shape = self.shapes[from];
        let means = self.gpu.memory(pictures * shape.channels * 4)?;
        let by = 1.0 / shape.pixels() as f32;
        self.gpu.sum_pixels(pictures, shape.pixels(), shape.channels, &self.source(from)?, None, by, &means)?;
        Ok(means)
    }

    fn squeeze(&mut self, i: usize, s: &SqueezeExcite, pictures: usize) -> Result<Memory> {
        let from = self.network.nodes[i].inputs[0];
        let (shape, len) = (self.shapes[from], pictures * numbers_of(self.shapes[from]));
        let means = Rc::new(self.means(from, pictures)?);
        let [reduce, expand] = layers(s);
        let reduced = self.layer(&reduce, (i, 0), means, pictures)?;
        let factors = self.layer(&expand, (i, 1), reduced, pictures)?;
        let y = self.gpu.map(len)?;
        self.gpu.scale(len, shape.channels, shape.pixels(), &self.source(from)?, factors.all(), &y)?;
        Ok(y)
    }

    fn squeeze_backward(
        &mut self,
        i: usize,
        s: &SqueezeExcite,
        pictures: usize,
        gradient: &Rc<Memory>,
        slot: &mut Option<Rc<Memory>>,
    ) -> Result<()> {
        let from = self.network.nodes[i].inputs[0];
        let (shape, len) = (self.shapes[from], pictures * numbers_of(self.shapes[from]));
        let factors = Rc::clone(&self.layers.get(&(i, 1)).context("expected a squeeze that has run forwards")?.y);
        let by_factor = self.gpu.memory(pictures * shape.channels * 4)?;
        let x = self.source(from)?;
        self.gpu.sum_pixels(pictures, shape.pixels(), shape.channels, &x, Some(gradient), 1.0, &by_factor)?;
        let [reduce, expand] = layers(s);
        let wanted = from >= self.first;
        let by_reduced = self.layer_backward(&expand, (i, 1), &by_factor, pictures, true)?;
        let by_reduced = by_reduced.context("expected the gradient that was asked for")?;
        let Some(by_mean) = self.layer_backward(&reduce, (i, 0), &by_reduced, pictures, wanted)? else { return Ok(()) };
        let (dx, adds) = self.slot(slot.take(), len)?;
        let by = 1.0 / shape.pixels() as f32;
        let spread = Spread { scaled: Some((gradient, factors.all())), summands: by_mean.all(), by, adds };
        self.gpu.spread(len, shape.channels, shape.pixels(), &spread, &dx)?;
        *slot = Some(dx);
        Ok(())
    }

    /// Runs a layer over rows; what it made is kept.
    fn layer(&mut self, l: &Layer<'_>, key: (usize, usize), x: Rc<Memory>, rows: usize) -> Result<Rc<Memory>> {
        let (weight, bias) = (format!("{}.weight", l.name), format!("{}.bias", l.name));
        let [z, y] = [(); 2].map(|()| self.gpu.memory(rows * l.outputs * 4));
        let (z, y) = (z?, Rc::new(y?));
        let a = Matrix::of_floats(x.all(), l.inputs);
        let (b, c) = (Matrix::of_floats(self.floats(&weight)?, l.outputs), Matrix::of_floats(z.all(), l.outputs));
        self.gpu.product(&Order { sizes: [rows, l.outputs, l.inputs], a, b, c, adds: false })?;
        self.gpu.close_rows(rows, l.outputs, &z, self.floats(&bias)?, l.closing, &y)?;
        self.layers.insert(key, Made { x, z, y: Rc::clone(&y) });
        Ok(y)
    }

    /// Adds to the gradient of a layer's parameters; returns that of its rows where it is wanted.
    fn layer_backward(
        &mut self,
        l: &Layer<'_>,
        key: (usize, usize),
        gradient: &Memory,
        rows: usize,
        wanted: bool,
    ) -> Result<Option<Rc<Memory>>> {
        let (weight, bias) = (format!("{}.weight", l.name), format!("{}.bias", l.name));
        let made = self.layers.remove(&key).context("expected a forward pass before")?;
        let dz = self.gpu.memory(rows * l.outputs * 4)?;
        self.gpu.open_rows(rows, l.outputs, &made.z, self.floats(&bias)?, l.closing, gradient, &dz)?;
        self.gpu.add_rows(rows, l.outputs, dz.all(), self.gradient(&bias)?)?;
        let by = Matrix::of_floats(self.gradient(&weight)?, l.outputs);
        let (a, b) = (Matrix::of_floats(made.x.all(), l.inputs).turned(), Matrix::of_floats(dz.all(), l.outputs));
        self.gpu.product(&Order { sizes: [l.inputs, l.outputs, rows], a, b, c: by, adds: true })?;
        if !wanted {
            return Ok(None);
        }
        let dx = self.gpu.memory(rows * l.inputs * 4)?;
        let (a, c) = (Matrix::of_floats(dz.all(), l.outputs), Matrix::of_floats(dx.all(), l.inputs));
        let b = Matrix::of_floats(self.floats(&weight)?, l.outputs).turned();
        self.gpu.product(&Order { sizes: [rows, l.inputs, l.outputs], a, b, c, adds: false })?;
        Ok(Some(Rc::new(dx)))
    }

    fn head(&self) -> Result<Layer<'static>> {
        let place = self.place(&format!("{HEAD}.bias"))?;
        Ok(Layer { name: HEAD, inputs: self.network.features, outputs: place.shape[0], closing: Closing::None })
    }

    /// Returns a map or rows of a node as they are kept.
    fn kept(&self, node: usize) -> Result<&Rc<Memory>> {
        self.values[node].z.as_ref().with_context(|| format!("expected node {node} to have run, found nothing of it"))
    }

    /// Returns rows of f32, of a node behind which there are no maps.
    fn rows(&self, node: usize) -> Result<Rc<Memory>> {
        let is_rows = matches!(self.network.nodes[node].op, Op::GlobalAveragePool | Op::Linear(_));
        ensure!(is_rows, "expected means of the pixels before a layer or at the end, found node {node}");
        self.kept(node).cloned()
    }

    /// Returns what a node's readers make its activation of.
    fn source(&self, node: usize) -> Result<Source<'_>> {
        let z = self.kept(node)?;
        match &self.network.nodes[node].op {
            Op::Conv(c) => Ok(self.normalisation(node)?.of(z, closing(c.activation))),
            _ => Ok(Source::plain(z)),
        }
    }

    /// Writes a node's activation out, where it is not what is kept.
    fn close(&mut self, node: usize, pictures: usize) -> Result<Rc<Memory>> {
        if !matches!(self.network.nodes[node].op, Op::Conv(_)) {
            return self.kept(node).cloned();
        }
        if let Some(closed) = &self.values[node].closed {
            return Ok(Rc::clone(closed));
        }
        let (shape, len) = (self.shapes[node], pictures * numbers_of(self.shapes[node]));
        let y = Rc::new(self.gpu.map(len)?);
        self.gpu.sum(len, shape.channels, &self.source(node)?, None, Closing::None, &y)?;
        self.values[node].closed = Some(Rc::clone(&y));
        Ok(y)
    }

    /// Returns memory for a gradient, and whether another node has left its own there.
    fn slot(&self, slot: Option<Rc<Memory>>, len: usize) -> Result<(Rc<Memory>, bool)> {
        match slot {
            None => Ok((Rc::new(self.gpu.map(len)?), false)),
            Some(sum) => Ok((self.own(sum, len)?, true)),
        }
    }

    /// Returns a gradient to be changed: a copy where another node still has it.
    fn own(&self, gradient: Rc<Memory>, len: usize) -> Result<Rc<Memory>> {
        if Rc::strong_count(&gradient) == 1 {
            return Ok(gradient);
        }
        let copy = self.gpu.map(len)?;
        self.gpu.copy(gradient.bytes(0..len * self.gpu.width()), copy.all())?;
        Ok(Rc::new(copy))
    }

    fn normalisation(&self, node: usize) -> Result<&Normalisation> {
        self.norms[node].as_ref().context("expected a convolution")
    }

    fn place(&self, name: &str) -> Result<&Place> {
        self.places.get(name).with_context(|| format!("expected tensor {name}, found none"))
    }

    fn floats(&self, name: &str) -> Result<Part<'_>> {
        Ok(self.parameters.values.floats(self.place(name)?.range.clone()))
    }

    fn gradient(&self, name: &str) -> Result<Part<'_>> {
        Ok(self.parameters.gradient.floats(self.place(name)?.range.clone()))
    }

    /// Returns a convolution's weights, `[taps and inputs, outputs]`, in the numbers of maps.
    fn weight(&self, name: &str, outputs: usize) -> Result<Matrix<'_>> {
        let range = self.place(name)?.range.clone();
        let width = self.gpu.width();
        let part = match &self.parameters.rounded {
            Some(rounded) => rounded.bytes(range.start * width..range.end * width),
            None => self.parameters.values.floats(range),
        };
        Ok(Matrix::of_map(&self.gpu, part, outputs))
    }

    fn matrix<'a>(&self, map: &'a Memory, channels: usize) -> Matrix<'a> {
        Matrix::of_map(&self.gpu, map.all(), channels)
    }

    fn map_part<'a>(&self, map: &'a Memory, from: usize, len: usize) -> Part<'a> {
        let width = self.gpu.width();
        map.bytes(from * width..(from + len) * width)
    }

    fn window(&self, from: usize, to: usize, kernel: usize, stride: usize) -> Window {
        let (input, output) = (self.shapes[from].size, self.shapes[to].size);
        let before = window(self.network.padding, input, kernel, stride).before;
        Window { input, output, side: kernel, stride, before }
    }

    /// Cuts pictures into ranges of which so many numbers each are not too many.
    fn pieces(&self, pictures: usize, numbers: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let each = (UNFOLDED / (numbers * self.gpu.width())).clamp(1, pictures.max(1));
        (0..pictures).step_by(each).map(move |start| start..pictures.min(start + each))
    }

    fn end(&self) -> usize {
        self.places.values().map(|p| p.range.end).max().unwrap_or(0)
    }

    fn end_of_trained(&self) -> usize {
        self.trained.iter().filter_map(|n| Some(self.places.get(n)?.range.end)).max().unwrap_or(0)
    }

    fn write<'a>(&self, to: &Memory, tensor: impl Fn(&str) -> Option<&'a Tensor>) -> Result<()> {
        let found = || self.places.iter().filter_map(|(n, p)| Some((p, tensor(n)?)));
        let end = found().map(|(p, _)| p.range.end).max().unwrap_or(0);
        let mut all = vec![0.0; end];
        for (place, tensor) in found() {
            place.pack(&tensor.data, &mut all);
        }
        if end == 0 { Ok(()) } else { self.gpu.write(to.floats(0..end), &all) }
    }

    fn round(&self) -> Result<()> {
        match &self.parameters.rounded {
            Some(rounded) => self.gpu.round(self.end(), self.parameters.values.all(), rounded),
            None => Ok(()),
        }
    }

    fn forget(&mut self) {
        self.values.iter_mut().for_each(|v| *v = Value::default());
        self.layers.clear();
    }
}

impl Place {
    fn pack(&self, tensor: &[f32], all: &mut [f32]) {
        let all = &mut all[self.range.clone()];
        self.layout.each(|n| n, |from, to| all[to] = tensor[from]);
    }

    fn unpack(&self, all: &[f32]) -> Tensor {
        let mut data = vec![0.0; self.shape.iter().product()];
        let all = &all[self.range.clone()];
        self.layout.each(|n| n, |to, from| data[to] = all[from]);
        Tensor { shape: self.shape.clone(), data }
    }
}

fn linear(l: &Linear) -> Layer<'_> {
    Layer { name: &l.name, inputs: l.inputs, outputs: l.outputs, closing: closing(l.activation) }
}

fn layers(s: &SqueezeExcite) -> [Layer<'_>; 2] {
    let layer = |name, inputs, outputs, activation| Layer { name, inputs, outputs, closing: closing(activation) };
    [layer(&s.reduce, s.channels, s.squeezed, s.activation), layer(&s.expand, s.squeezed, s.channels, s.gate)]
}

/// Returns the numbers of a row of what a convolution's outputs see.
fn row(c: &Conv) -> usize {
    (c.kernel * c.kernel * c.inputs).next_multiple_of(CHANNELS)
}

/// Returns the numbers that a tensor takes here: no padding but of rows that a product reads.
fn numbers(layout: Layout) -> usize {
    match layout {
        Layout::Vector { len } => len,
        Layout::Dense { taps, inputs, outputs } => (taps * inputs).next_multiple_of(CHANNELS) * outputs,
        Layout::Depthwise { taps, channels } => taps * channels,
    }
}

fn numbers_of(shape: Shape) -> usize {
    shape.pixels() * shape.channels
}

/// Returns the groups of a frozen tensor by its shape: those of one input are depthwise, or of so few inputs that it is all the same.
fn groups(shape: &[usize]) -> usize {
    match *shape {
        [outputs, 1, _, _] => outputs,
        _ => 1,
    }
}

#[cfg(test)]
mod tests;

fn closing(activation: Activation) -> Closing {
    match activation {
        Activation::None => Closing::None,
        Activation::Relu => Closing::Clamp { low: 0.0, high: f32::INFINITY },
        Activation::Relu6 => Closing::Clamp { low: 0.0, high: 6.0 },
        Activation::HardSwish => Closing::HardSwish,
        Activation::Silu => Closing::Silu,
        Activation::HardSigmoid => Closing::HardSigmoid,
        Activation::Sigmoid => Closing::Sigmoid,
    }
}
