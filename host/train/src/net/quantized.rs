//! Numbers as the int8 graph has them: weights, biases and activations rounded in every pass, while gradients pass as if
//! they were not.
//!
//! The arithmetic is the exporter's own, so that a pass gives what the exported graph gives. What a layer computes with
//! stands beside the parameter that is trained. Of activations the steps may be trained, by their logarithm: they stay
//! positive, and a rate means the same for large and small ones. Zero points stay.
//!
//! # Source
//!
//! Jacob et al., arXiv:1712.05877 (simulated quantization); Esser et al., *Learned Step Size Quantization*,
//! arXiv:1902.08153 (gradient of a step, and what it is scaled with).

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use graft_kernels::{Buffer, Threads, padded};
use graft_onnx::quantize::{fit_bias, quantize_bias, weight_scales};
use graft_onnx::{Activations, Affine, values};
use graft_zoo::network::{Node, Op};
use graft_zoo::{Network, Tensor};
use rayon::prelude::*;

use super::weights::{Layout, Parameter, Weights};
use super::{HEAD_BIAS, HEAD_WEIGHT};

/// Whether the steps of activations are trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Steps {
    /// They stay as calibrated.
    Fixed,
    /// Those of trained stages are.
    Trained {
        /// What their rate is, in rates of the weights.
        pace: f64,
    },
}

/// What of a network is quantized, and how it was calibrated.
#[derive(Debug)]
pub(crate) struct Quantized {
    /// The names of every node's activations: those within it, then its own.
    names: Vec<Vec<String>>,
    layers: Vec<Layer>,
    bn_eps: f64,
    activations: Activations,
}

/// A layer by the names of its tensors.
#[derive(Debug)]
struct Layer {
    weight: String,
    /// Groups that its channels in fall into.
    groups: usize,
    /// A layer's bias, or a normalisation's summand.
    bias: String,
    /// The normalisation that is folded into it.
    norm: Option<String>,
    /// The activation that it reads.
    input: String,
}

impl Quantized {
    /// Takes what every activation of `network` was calibrated to.
    ///
    /// # Errors
    ///
    /// If an activation has no step that is positive and finite.
    fn new(network: &Network, activations: &Activations) -> Result<Self> {
        let names: Vec<String> = values(network).into_iter().map(|v| v.name).collect();
        for name in &names {
            let found = activations.get(name).with_context(|| {
                format!("expected a calibrated range of activation {name}, found none; calibrate on this very network")
            })?;
            ensure!(
                found.scale.is_finite() && found.scale > 0.0,
                "expected a positive step of activation {name}, found {}",
                found.scale
            );
        }
        let (mut all, mut names) = (names.into_iter(), Vec::<Vec<String>>::new());
        let mut layers = vec![];
        for node in &network.nodes {
            let within = if matches!(node.op, Op::SqueezeExcite(_)) { WITHIN } else { 0 };
            let own: Vec<String> = all.by_ref().take(within + 1).collect();
            let read = || node.inputs.first().and_then(|&j| names[j].last()).cloned().unwrap_or_default();
            let mut layer = |name: &str, groups: usize, norm: Option<&str>, input: String| {
                let bias = format!("{}.bias", norm.unwrap_or(name));
                let (weight, norm) = (format!("{name}.weight"), norm.map(str::to_owned));
                layers.push(Layer { weight, groups, bias, norm, input });
            };
            match &node.op {
                Op::Conv(c) => layer(&c.name, c.groups, Some(&c.norm), read()),
                Op::Linear(l) => layer(&l.name, 1, None, read()),
                Op::SqueezeExcite(s) => {
                    layer(&s.reduce, 1, None, own[MEANS].clone());
                    layer(&s.expand, 1, None, own[REDUCED].clone());
                }
                Op::Input | Op::Add(_) | Op::MaxPool | Op::GlobalAveragePool => {}
            }
            names.push(own);
        }
        let input = names.last().and_then(|own| own.last()).context("expected a network with nodes")?.clone();
        layers.push(Layer { weight: HEAD_WEIGHT.into(), groups: 1, bias: HEAD_BIAS.into(), norm: None, input });
        Ok(Self { names, layers, bn_eps: f64::from(network.bn_eps), activations: activations.clone() })
    }
}

/// Activations within a squeeze-and-excitation, and their places among the node's.
pub(super) const WITHIN: usize = 3;
pub(super) const MEANS: usize = 0;
pub(super) const REDUCED: usize = 1;
pub(super) const FACTORS: usize = 2;

impl Weights {
    /// Has every pass compute with what the int8 graph has.
    ///
    /// # Errors
    ///
    /// If the activations are not this network's, or a weight is not finite.
    pub(super) fn quantize(
        &mut self,
        network: &Network,
        first: usize,
        activations: &Activations,
        steps: Steps,
    ) -> Result<()> {
        let quantized = Quantized::new(network, activations)?;
        if let Steps::Trained { pace } = steps {
            // The input's range is that of pixels: nothing is to be learnt about it.
            let trained = |(i, node): &(usize, &Node)| *i > 0 && node.stage >= first;
            for (i, node) in network.nodes.iter().enumerate().filter(trained) {
                for name in &quantized.names[i] {
                    let log = activations[name].scale.ln();
                    let tensor = Tensor { shape: vec![1], data: vec![log] };
                    let parameter = Parameter { pace, ..Parameter::new(&tensor, 1, network.stages - node.stage) };
                    self.parameters.insert(step_name(name), parameter);
                }
            }
        }
        for layer in quantized.layers.iter().filter(|l| !self.parameters.contains_key(&l.weight)) {
            let [weight, bias] = self.rounded(&quantized, layer)?;
            for (name, groups, made) in [(&layer.weight, layer.groups, weight), (&layer.bias, 1, bias)] {
                let shape = self.tensor(name)?.shape;
                self.stand_ins.insert(name.clone(), Layout::of(&shape, groups).unpack(&made, &shape));
            }
        }
        self.quantized = Some(Arc::new(quantized));
        self.refresh()
    }

    /// Computes anew what stands in for trained parameters, which have changed.
    ///
    /// # Errors
    ///
    /// If a weight is infinite: training has diverged.
    pub(super) fn refresh(&mut self) -> Result<()> {
        let Some(quantized) = self.quantized.clone() else { return Ok(()) };
        let trained: Vec<&Layer> =
            quantized.layers.iter().filter(|l| self.parameters.contains_key(&l.weight)).collect();
        let made: Vec<_> = trained.par_iter().map(|l| self.rounded(&quantized, l)).collect::<Result<_>>()?;
        for (layer, [weight, bias]) in trained.iter().zip(made) {
            self.parameter_mut(&layer.weight)?.stand_in = Some(weight);
            self.parameter_mut(&layer.bias)?.stand_in = Some(bias);
        }
        Ok(())
    }

    /// Returns weight and bias of a layer, as kernels lay them out, such that its normalisation makes of them what the int8
    /// graph has.
    fn rounded(&self, quantized: &Quantized, layer: &Layer) -> Result<[Buffer; 2]> {
        let bias = self.tensor(&layer.bias)?.data;
        let out = bias.len();
        let (factors, offsets) = self.folding(quantized, layer, out)?;
        let packed;
        let weight: &[f32] = match self.parameters.get(&layer.weight) {
            Some(p) => &p.values,
            None => {
                let tensor = self.tensor(&layer.weight)?;
                packed = Layout::of(&tensor.shape, layer.groups).pack(&tensor.data);
                &packed
            }
        };
        let shift: Vec<f32> = bias.iter().zip(&offsets).map(|(b, o)| (f64::from(*b) - o) as f32).collect();
        let input = self.affine_of(quantized, &layer.input).scale;
        let largest = largest(weight, &factors);
        // A channel of one weight has the scale of all those that it is the largest of.
        let mut scales = weight_scales(&largest[..out], out).with_context(|| format!("quantizing {}", layer.weight))?;
        fit_bias(&mut scales, &shift, input);
        let steps = quantize_bias(&shift, input, &scales).into_iter().zip(&scales);
        let mut biases = Buffer::zeros(out);
        for ((to, (q, scale)), offset) in biases.iter_mut().zip(steps).zip(&offsets) {
            *to = (f64::from(q) * f64::from(scale * input) + offset) as f32;
        }
        scales.resize(factors.len(), 1.0);
        Ok([round_weights(weight, &factors, &scales), biases])
    }

    /// Returns what the normalisation behind a layer of `out` channels multiplies each with, padded by ones, and what it
    /// takes from its bias: as the exporter folds them.
    fn folding(&self, quantized: &Quantized, layer: &Layer, out: usize) -> Result<(Vec<f64>, Vec<f64>)> {
        let mut factors = vec![1.0; padded(out)];
        let Some(norm) = &layer.norm else { return Ok((factors, vec![0.0; out])) };
        let part = |part: &str| Ok::<_, anyhow::Error>(self.tensor(&format!("{norm}.{part}"))?.data);
        let (gamma, mean, variance) = (part("weight")?, part("running_mean")?, part("running_var")?);
        for (to, (g, v)) in factors.iter_mut().zip(gamma.iter().zip(&variance)) {
            *to = f64::from(*g) / (f64::from(*v) + quantized.bn_eps).sqrt();
        }
        let offsets = mean.iter().zip(&factors).map(|(m, f)| f64::from(*m) * f).collect();
        Ok((factors, offsets))
    }

    /// Returns how the activations of a node are quantized, those within it first; nothing where they are not.
    pub(super) fn affines(&self, node: usize) -> Vec<Affine> {
        let Some(quantized) = &self.quantized else { return vec![] };
        quantized.names[node].iter().map(|name| self.affine_of(quantized, name)).collect()
    }

    /// Returns how a node's own activation is quantized, if it is.
    pub(super) fn affine(&self, node: usize) -> Option<Affine> {
        self.affines(node).pop()
    }

    fn affine_of(&self, quantized: &Quantized, name: &str) -> Affine {
        let affine = quantized.activations[name];
        match self.parameters.get(&step_name(name)) {
            Some(p) => Affine { scale: f64::from(p.values[0]).exp() as f32, ..affine },
            None => affine,
        }
    }

    /// Returns the name of the parameter that is the logarithm of an activation's step: of those of a node, the one at
    /// `part`. None where it is not trained.
    pub(super) fn step_of(&self, node: usize, part: usize) -> Option<String> {
        let name = step_name(self.quantized.as_ref()?.names[node].get(part)?);
        self.parameters.contains_key(&name).then_some(name)
    }

    /// Adds to the gradient of a step: `by` is that of a loss by the step itself, `numbers` how many of a picture it rounds.
    pub(super) fn add_by_step(&mut self, node: usize, part: usize, by: f64, numbers: usize) -> Result<()> {
        let Some(name) = self.step_of(node, part) else { return Ok(()) };
        let p = self.parameter_mut(&name)?;
        let by_log = by * f64::from(p.values[0]).exp();
        p.gradient[0] += (by_log * step_factor(numbers)) as f32;
        Ok(())
    }

    /// Returns the activations' parameters that it was quantized by, with steps as they are now.
    pub(super) fn activations(&self) -> Option<Activations> {
        let quantized = self.quantized.as_ref()?;
        let mut activations = quantized.activations.clone();
        for (name, affine) in &mut activations {
            if self.parameters.contains_key(&step_name(name)) {
                *affine = self.affine_of(quantized, name);
            }
        }
        Some(activations)
    }

    /// Whether a tensor is one of quantization alone, that no float network has.
    pub(super) fn is_step(&self, name: &str) -> bool {
        let of = |q: &Arc<Quantized>| q.names.iter().flatten().any(|n| step_name(n) == name);
        self.quantized.as_ref().is_some_and(of)
    }
}

/// As the exported graph names it.
fn step_name(activation: &str) -> String {
    format!("{activation}/scale")
}

/// Returns what the gradient of a step that rounds so many numbers of a picture is scaled with, so that steps and weights
/// move at comparable rates.
pub(super) fn step_factor(numbers: usize) -> f64 {
    1.0 / (numbers.max(1) as f64 * LEVELS).sqrt()
}

const LEVELS: f64 = 255.0;

/// The smallest and the largest step that a byte tells.
pub(super) fn ends(affine: Affine) -> (f32, f32) {
    let zero = f32::from(affine.zero_point);
    (-zero, LEVELS as f32 - zero)
}

/// Returns the largest folded weight of each channel, of rows `[..., channels]`.
fn largest(weight: &[f32], factors: &[f64]) -> Vec<f32> {
    let mut largest = vec![0f32; factors.len()];
    for row in weight.chunks_exact(factors.len()) {
        for ((l, w), f) in largest.iter_mut().zip(row).zip(factors) {
            *l = l.max(((f64::from(*w) * f) as f32).abs());
        }
    }
    largest
}

/// Rounds weights such that, folded, they are whole steps: as [`graft_onnx::quantize::quantize_weights`] has them.
fn round_weights(weight: &[f32], factors: &[f64], scales: &[f32]) -> Buffer {
    // What a factor of zero takes away is not rounded.
    let back: Vec<f64> =
        factors.iter().zip(scales).map(|(f, s)| if *f == 0.0 { 0.0 } else { f64::from(*s) / f }).collect();
    let kept: Vec<f32> = factors.iter().map(|f| f32::from(u8::from(*f == 0.0))).collect();
    let mut rounded = Buffer::zeros(weight.len());
    let width = factors.len();
    for (to, row) in rounded.chunks_exact_mut(width).zip(weight.chunks_exact(width)) {
        for c in 0..width {
            let folded = (f64::from(row[c]) * factors[c]) as f32;
            let steps = whole(folded / scales[c]).clamp(-127.0, 127.0);
            to[c] = (f64::from(steps) * back[c]) as f32 + kept[c] * row[c];
        }
    }
    rounded
}

/// Rounds numbers to those that bytes tell, half to even, as `QuantizeLinear` and `DequantizeLinear` do.
pub(super) fn round(threads: &mut Threads, affine: Affine, values: &mut [f32]) {
    let (low, high) = ends(affine);
    let parts: Vec<_> = values.chunks_mut(PIECE).map(Mutex::new).collect();
    threads.split(parts.len(), 1, 0, &|range, _| {
        for part in &parts[range] {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            for v in part.iter_mut() {
                *v = whole(*v / affine.scale).clamp(low, high) * affine.scale;
            }
        }
    });
}

/// Sets a gradient to zero where rounding `values` clips them; returns the gradient by the step.
pub(super) fn pass(threads: &mut Threads, affine: Affine, values: &[f32], gradient: &mut [f32]) -> f64 {
    let parts: Vec<_> =
        values.chunks(PIECE).zip(gradient.chunks_mut(PIECE)).map(|(v, g)| Mutex::new((v, g, 0.0))).collect();
    threads.split(parts.len(), 1, 0, &|range, _| {
        for part in &parts[range] {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            let (values, gradient, sum) = &mut *part;
            *sum = pass_piece(affine, values, gradient);
        }
    });
    // In the order of the pieces: the same for any number of threads.
    parts.into_iter().map(|part| part.into_inner().unwrap_or_else(PoisonError::into_inner).2).sum()
}

fn pass_piece(affine: Affine, values: &[f32], gradient: &mut [f32]) -> f64 {
    let (low, high) = ends(affine);
    let mut sums = [0.0f32; LANES];
    let one = |sum: &mut f32, v: f32, g: &mut f32| {
        let steps = v / affine.scale;
        let nearest = whole(steps);
        let held = nearest.clamp(low, high);
        // A number is clipped where another than the nearest is taken for it, as PyTorch has it: what lies on an end of
        // the range, as all that a ReLU6 holds does, must not depend on rounding.
        let inside = nearest == held;
        *sum += *g * if inside { held - steps } else { held };
        *g = if inside { *g } else { 0.0 };
    };
    let (rows, left) = values.as_chunks::<LANES>();
    let (gradient_rows, gradient_left) = gradient.as_chunks_mut::<LANES>();
    for (v, g) in rows.iter().zip(gradient_rows) {
        for lane in 0..LANES {
            one(&mut sums[lane], v[lane], &mut g[lane]);
        }
    }
    for (v, g) in left.iter().zip(gradient_left) {
        one(&mut sums[0], *v, g);
    }
    sums.iter().map(|s| f64::from(*s)).sum()
}

/// Rounds half to even. A sum with a number whose last digit is that of the ones does so, which compilers make vectors of.
fn whole(steps: f32) -> f32 {
    (steps.clamp(-FAR, FAR) + ONES) - ONES
}

/// 1.5 · 2²³.
const ONES: f32 = 12_582_912.0;
/// Beyond any byte, and where sums with [`ONES`] still round to ones.
const FAR: f32 = 65_536.0;
/// Sums that run side by side.
const LANES: usize = 16;
/// Numbers that a thread takes at a time: sums of so many lose nothing in f32.
const PIECE: usize = 1 << 14;

#[cfg(test)]
mod tests;
