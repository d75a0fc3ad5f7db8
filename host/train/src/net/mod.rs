//! A network that learns: a description of the zoo's and its numbers.
//!
//! Tensors go in and out in the layout and under the names of torchvision, so that what is trained here is exported as
//! it is. On the CPU the description is walked by `engine`, on the kernels; on a GPU by `gpu`, on those of `graft-gpu`; in
//! tests by candle's own operations (`plain`), the reference of the two.

use std::borrow::Cow;

use anyhow::{Context, Result, anyhow, bail, ensure};
use graft_gpu::Gpu;
use graft_kernels::train::{Step as Adamw, adamw};
use graft_kernels::{Buffer, padded};
use graft_onnx::{Activations, Head};
use graft_zoo::network::{Parameter, Role};
use graft_zoo::weights::Tensors;
use graft_zoo::{Network, Preprocessing, Tensor};
use serde::{Deserialize, Serialize};

use crate::objective::Objective;
use crate::optimiser::{Optimiser, Step, sgd};
use crate::rng::Rng;

mod engine;
mod folded;
mod gpu;
mod linear;
mod memory;
mod normalisation;
#[cfg(test)]
mod plain;
mod quantized;
mod shape;
mod weights;

use engine::{Engine, Start};
pub use memory::Recompute;
#[cfg(test)]
use plain::Plain;
pub use quantized::Steps;
use weights::Weights;

/// What a net computes on.
#[derive(Debug, Clone, Default)]
pub enum Device {
    /// This machine's cores.
    #[default]
    Cpu,
    /// A GPU, in its precision.
    Gpu(Gpu),
}

/// Which batch statistics normalise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// The running ones, as pretrained: right for fine-tuning on few pictures.
    Frozen,
    /// Those of the batch, which also move the running ones: right from scratch.
    Batch,
}

/// A backbone and a head with trainable parameters.
pub struct Net {
    preprocessing: Preprocessing,
    norm: Norm,
    /// Stages from this one on are trained.
    first: usize,
    outputs: usize,
    weights: Weights,
    walk: Walk,
}

/// What computes.
enum Walk {
    Kernels(Box<Engine>),
    Gpu(Box<gpu::Walk>),
    #[cfg(test)]
    Candle(Plain),
}

const HEAD: &str = "head";
const HEAD_WEIGHT: &str = "head.weight";
const HEAD_BIAS: &str = "head.bias";
/// Weight of a batch in the running statistics, as in PyTorch.
const MOMENTUM: f64 = 0.1;

impl Net {
    /// Takes a backbone and a head, of which the last `unfrozen` stages and the head are trained.
    ///
    /// # Errors
    ///
    /// If a parameter is missing, there are fewer stages, or the network does not take pictures of the given size.
    pub fn new(
        network: &Network,
        backbone: &Tensors,
        head: &Head,
        preprocessing: &Preprocessing,
        unfrozen: usize,
        norm: Norm,
        device: &Device,
    ) -> Result<Self> {
        ensure!(
            unfrozen <= network.stages,
            "expected at most {} stages to fine-tune, found {unfrozen}; this network has no more",
            network.stages
        );
        let first = network.stages - unfrozen;
        let mut weights = Weights::default();
        let mut put = |name: String, from: &Tensors, groups: usize, depth: Option<usize>| -> Result<()> {
            let tensor = from.get(&name).with_context(|| format!("expected tensor {name}, found none"))?;
            weights.put(name, tensor, groups, depth);
            Ok(())
        };
        for node in &network.nodes {
            let depth = (node.stage >= first).then(|| network.stages - node.stage);
            for Parameter { name, role, .. } in node.op.parameters() {
                let groups = if let Role::Weight { groups } = role { groups } else { 1 };
                put(name, backbone, groups, depth.filter(|_| role.is_trained()))?;
            }
        }
        let bias = Tensor { shape: vec![head.bias.len()], data: head.bias.clone() };
        let tensors = Tensors::from([(HEAD_WEIGHT.to_owned(), head.weight.clone()), (HEAD_BIAS.to_owned(), bias)]);
        put(HEAD_WEIGHT.into(), &tensors, 1, Some(0))?;
        put(HEAD_BIAS.into(), &tensors, 1, Some(0))?;
        let side = preprocessing.crop as usize;
        let walk = match device {
            Device::Cpu => Walk::Kernels(Box::new(Engine::new(
                network,
                side,
                first,
                norm,
                rayon::current_num_threads(),
                &weights,
            )?)),
            Device::Gpu(gpu) => {
                Walk::Gpu(Box::new(gpu::Walk::new(gpu, network, preprocessing, first, norm, &weights)?))
            }
        };
        let preprocessing = preprocessing.clone();
        Ok(Self { preprocessing, norm, first, outputs: head.bias.len(), weights, walk })
    }

    /// Has the net compute from here on what the int8 graph of its weights and these activations computes, while what is
    /// trained stays in full precision: every weight, bias and activation is rounded, and gradients pass as if it were not,
    /// but stop where an activation is clipped.
    ///
    /// # Errors
    ///
    /// If the activations are not this network's, a weight is not finite, or statistics of batches normalise: the graph
    /// has the running ones folded in.
    pub fn quantize(&mut self, activations: &Activations, steps: Steps) -> Result<()> {
        ensure!(self.norm == Norm::Frozen, "expected frozen statistics of a net to quantize, found those of batches");
        let network = match &self.walk {
            Walk::Kernels(engine) => engine.network(),
            Walk::Gpu(_) => bail!("expected the CPU for a net that rounds as its int8 graph does, found a GPU"),
            #[cfg(test)]
            Walk::Candle(plain) => plain.network(),
        };
        self.weights.quantize(network, self.first, activations, steps)?;
        if let Walk::Kernels(engine) = &mut self.walk {
            engine.refreeze(&self.weights)?;
        }
        Ok(())
    }

    /// Returns the activations' parameters that the net was quantized by, with steps as they have been trained; none of a float net.
    pub fn activations(&self) -> Option<Activations> {
        self.weights.activations()
    }

    /// Returns everything that training changes: trained parameters and running statistics.
    pub(crate) fn state(&self) -> Result<Tensors> {
        let trained = |name: &str| self.weights.parameters.contains_key(name);
        let changes = |name: &str| trained(name) || (self.norm == Norm::Batch && name.contains(".running_"));
        Ok(self.host(gpu::Walk::fetch)?.all().into_iter().filter(|(n, _)| changes(n)).collect())
    }

    /// Returns the numbers as they are now, where a GPU has them what `fetch` takes from it.
    fn host(&self, fetch: fn(&gpu::Walk, &mut Weights) -> Result<()>) -> Result<Cow<'_, Weights>> {
        match &self.walk {
            Walk::Gpu(walk) => {
                let mut weights = self.weights.clone();
                fetch(walk, &mut weights)?;
                Ok(Cow::Owned(weights))
            }
            _ => Ok(Cow::Borrowed(&self.weights)),
        }
    }

    /// Takes back what [`Net::state`] returned.
    pub(crate) fn restore(&mut self, state: &Tensors) -> Result<()> {
        self.change(|weights| weights.set(state))
    }

    /// Changes numbers, those of a GPU as well.
    fn change(&mut self, f: impl FnOnce(&mut Weights) -> Result<()>) -> Result<()> {
        if let Walk::Gpu(walk) = &self.walk {
            walk.fetch(&mut self.weights)?;
            walk.fetch_remembered(&mut self.weights)?;
        }
        f(&mut self.weights)?;
        match &mut self.walk {
            Walk::Kernels(engine) => engine.forget(),
            Walk::Gpu(walk) => walk.put(&self.weights)?,
            #[cfg(test)]
            Walk::Candle(_) => {}
        }
        Ok(())
    }

    /// Returns what a step remembers of each parameter: its moments and, where one is kept, its average.
    pub(crate) fn remembered(&self) -> Result<Tensors> {
        Ok(self.host(gpu::Walk::fetch_remembered)?.remembered())
    }

    /// Takes back what [`Net::remembered`] returned, among other tensors.
    pub(crate) fn restore_remembered(&mut self, tensors: &Tensors) -> Result<()> {
        self.change(|weights| weights.set_remembered(tensors))
    }

    /// Returns the trained backbone and head.
    ///
    /// # Errors
    ///
    /// If a value is not finite: training has diverged.
    pub fn finish(&self) -> Result<(Tensors, Head)> {
        let mut all = self.host(gpu::Walk::fetch)?.all();
        all.retain(|name, _| !self.weights.is_step(name));
        for (name, tensor) in &all {
            ensure!(
                tensor.data.iter().all(|v| v.is_finite()),
                "expected finite weights, found NaN or infinity in {name}: training diverged; lower --rate"
            );
        }
        let (Some(weight), Some(bias)) = (all.remove(HEAD_WEIGHT), all.remove(HEAD_BIAS)) else {
            return Err(anyhow!("expected a head, found none"));
        };
        Ok((all, Head { weight, bias: bias.data }))
    }

    /// Returns the side of the pictures that it takes.
    pub(crate) fn side(&self) -> usize {
        self.preprocessing.crop as usize
    }

    /// Returns the number of the head's outputs.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Returns the logits `[n, outputs]` of a batch of pictures (`u8 [crop, crop, 3]` each) with fixed statistics.
    pub(crate) fn logits(&mut self, pictures: &[Vec<u8>]) -> Result<Vec<f32>> {
        let p = &self.preprocessing;
        match &mut self.walk {
            Walk::Kernels(engine) => {
                Ok(narrow(&engine.logits(&mut self.weights, &input(p, pictures)?, pictures.len())?, self.outputs))
            }
            Walk::Gpu(walk) => walk.logits(pictures),
            #[cfg(test)]
            Walk::Candle(plain) => plain.logits(&mut self.weights, &input(p, pictures)?, pictures.len()),
        }
    }

    /// Returns the numbers that [`Net::frozen`] gives of a picture, or none where nothing is frozen or no kernels run.
    pub(crate) fn frozen_len(&self) -> Option<usize> {
        match &self.walk {
            Walk::Kernels(engine) if engine.has_frozen() => Some(engine.frozen_len()),
            _ => None,
        }
    }

    /// Returns what the trained stages read of the frozen ones, a row for each picture.
    pub(crate) fn frozen(&mut self, pictures: &[Vec<u8>]) -> Result<Vec<Vec<f32>>> {
        match &mut self.walk {
            Walk::Kernels(engine) => engine.frozen(&input(&self.preprocessing, pictures)?, pictures.len()),
            _ => bail!("expected the CPU for activations of frozen stages, found another device"),
        }
    }

    /// As [`Net::learn`], from rows of [`Net::frozen`].
    pub(crate) fn learn_frozen(&mut self, rows: &[Vec<f32>], objective: &Objective<'_>) -> Result<f64> {
        match &mut self.walk {
            Walk::Kernels(engine) => {
                learn(engine, &mut self.weights, Start::Frozen(rows), rows.len(), self.outputs, objective)
            }
            _ => bail!("expected the CPU for activations of frozen stages, found another device"),
        }
    }

    /// Adds to the gradient of every parameter, of a loss that `objective` tells of the outputs `[n, outputs]` along with
    /// its own gradient; moves the running statistics where batches normalise. Returns the loss.
    pub(crate) fn learn(&mut self, pictures: &[Vec<u8>], objective: &Objective<'_>) -> Result<f64> {
        ensure!(!pictures.is_empty(), "expected pictures to learn from, found none");
        let (p, n) = (&self.preprocessing, pictures.len());
        match &mut self.walk {
            Walk::Kernels(engine) => {
                let start = Start::Pictures(input(p, pictures)?);
                learn(engine, &mut self.weights, start, n, self.outputs, objective)
            }
            Walk::Gpu(walk) => {
                let (loss, gradient) = objective(&walk.forward(pictures)?)?;
                walk.backward(&gradient, n)?;
                Ok(loss)
            }
            #[cfg(test)]
            Walk::Candle(plain) => plain.learn(&mut self.weights, &input(p, pictures)?, n, objective),
        }
    }

    /// Whether pictures can be read while this computes.
    pub(crate) fn leaves_cores_idle(&self) -> bool {
        matches!(self.walk, Walk::Gpu(_))
    }

    /// Moves every parameter along its gradient, which then is zero again.
    pub(crate) fn step(&mut self, step: &Step) -> Result<()> {
        let (isa, threads) = match &mut self.walk {
            Walk::Kernels(engine) => engine.team(),
            Walk::Gpu(walk) => return walk.step(&self.weights, step),
            #[cfg(test)]
            Walk::Candle(_) => bail!("expected kernels to step with, found candle"),
        };
        let mut scale = step.scale;
        if let Some(longest) = step.clip {
            let squares = |p: &weights::Parameter| p.gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
            let length = scale * self.weights.parameters.values().map(squares).sum::<f64>().sqrt();
            // As PyTorch's clip_grad_norm_.
            scale *= (longest / (length + 1e-6)).min(1.0);
        }
        for p in self.weights.parameters.values_mut() {
            let (rate, decay) = step.of(p.pace, p.depth, p.decays());
            let [first, second] = &mut p.moments;
            match step.optimiser {
                Optimiser::Adamw => {
                    let (rate, decay, scale) = (rate as f32, decay as f32, scale as f32);
                    let fused = Adamw { rate, decay, betas: [0.9, 0.999], eps: 1e-8, count: step.done + 1, scale };
                    adamw(isa, threads, &fused, &mut p.values, &p.gradient, first, second);
                }
                Optimiser::Sgd => sgd(rate, decay, scale, &mut p.values, &p.gradient, first),
            }
            p.gradient.fill(0.0);
            if let Some(past) = step.past() {
                p.average(past);
            }
        }
        Ok(())
    }

    /// Changes parameters for their averages and back, where these are kept.
    pub(crate) fn swap_averages(&mut self) -> Result<()> {
        if let Walk::Gpu(walk) = &mut self.walk {
            return walk.swap_averages();
        }
        for p in self.weights.parameters.values_mut() {
            if let Some(average) = &mut p.average {
                std::mem::swap(average, &mut p.values);
            }
        }
        if let Walk::Kernels(engine) = &mut self.walk {
            engine.forget();
        }
        Ok(())
    }
}

/// Returns the normalised pictures, `[n, crop, crop, 3]`.
fn input(p: &Preprocessing, pictures: &[Vec<u8>]) -> Result<Buffer> {
    let side = p.crop as usize;
    let len = side * side * 3;
    let mut data = Buffer::zeros(pictures.len() * len);
    let [scale, shift] =
        [0, 1].map(|part| [0, 1, 2].map(|c| if part == 0 { 1.0 / p.std[c] } else { -p.mean[c] / p.std[c] }));
    for (to, picture) in data.chunks_exact_mut(len).zip(pictures) {
        ensure!(picture.len() == len, "expected {len} values in a picture, found {}", picture.len());
        for (to, from) in to.as_chunks_mut::<3>().0.iter_mut().zip(picture.as_chunks::<3>().0) {
            *to = [0, 1, 2].map(|c| f32::from(from[c]).mul_add(scale[c], shift[c]));
        }
    }
    Ok(data)
}

/// Forward, the objective, and backward.
fn learn(
    engine: &mut Engine,
    weights: &mut Weights,
    start: Start<'_>,
    pictures: usize,
    outputs: usize,
    objective: &Objective<'_>,
) -> Result<f64> {
    let found = engine.forward(weights, start, pictures)?;
    let (loss, gradient) = objective(&narrow(&found, outputs))?;
    engine.backward(weights, &widen(&gradient, outputs), pictures)?;
    Ok(loss)
}

/// Drops the padding of rows.
fn narrow(rows: &[f32], len: usize) -> Vec<f32> {
    rows.chunks_exact(padded(len)).flat_map(|row| &row[..len]).copied().collect()
}

/// Pads rows with zeros.
fn widen(rows: &[f32], len: usize) -> Vec<f32> {
    let mut wide = vec![0.0; rows.len() / len * padded(len)];
    for (to, from) in wide.chunks_exact_mut(padded(len)).zip(rows.chunks_exact(len)) {
        to[..len].copy_from_slice(from);
    }
    wide
}

/// Returns random weights, normalisations that change nothing and biases of zero, and a head of zeros.
///
/// # Source
///
/// He et al., *Delving Deep into Rectifiers*, arXiv:1502.01852 (fan out, as torchvision does).
pub fn random(network: &Network, classes: usize, seed: u64) -> (Tensors, Head) {
    let mut rng = Rng::new(seed ^ 0x1217);
    let mut tensors = Tensors::new();
    for Parameter { name, shape, role } in network.parameters() {
        let len = shape.iter().product();
        let data = match role {
            Role::Weight { groups } => {
                let taps: usize = shape[2..].iter().product();
                let deviation = (2.0 / (taps * shape[0] / groups) as f32).sqrt();
                (0..len).map(|_| rng.normal() * deviation).collect()
            }
            Role::Scale | Role::Variance => vec![1.0; len],
            Role::Bias | Role::Mean => vec![0.0; len],
        };
        tensors.insert(name, Tensor { shape, data });
    }
    (tensors, Head::zeros(classes, network.features))
}

#[cfg(test)]
mod exported;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
