//! The walk through a network by candle's own operations and gradients, channel-first and in double precision: what the other
//! walks are tested against.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor as Array, Var};
use graft_zoo::network::{Activation, Conv, Op, SqueezeExcite};
use graft_zoo::{Network, Padding, Tensor};

use super::quantized::{FACTORS, MEANS, REDUCED, WITHIN, ends, step_factor};
use super::weights::Weights;
use super::{MOMENTUM, Norm};
use crate::objective::Objective;

/// A network that candle walks.
pub(super) struct Plain {
    network: Network,
    /// Stages from this one on are trained.
    first: usize,
    norm: Norm,
}

/// Of all that is computed; what comes in and goes out is f32.
const PRECISION: DType = DType::F64;

/// Mean and biased variance of a batch, by name of the normalisation, and of how many numbers.
type Seen = Vec<(String, Vec<f32>, Vec<f32>, usize)>;

/// The network's tensors on the device.
struct Arrays<'a> {
    arrays: BTreeMap<String, Array>,
    weights: &'a Weights,
}

impl Arrays<'_> {
    fn get(&self, name: &str) -> Result<&Array> {
        self.arrays.get(name).with_context(|| format!("expected tensor {name}, found none"))
    }

    /// Rounds an activation of a node, `[n, ...]`, where the network is quantized: that at `part`.
    fn round(&self, node: usize, part: usize, x: &Array) -> Result<Array> {
        let Some(affine) = self.weights.affines(node).get(part).copied() else { return Ok(x.clone()) };
        let (low, high) = ends(affine);
        let scale = match self.weights.step_of(node, part) {
            None => Array::new(&[affine.scale], x.device())?.to_dtype(x.dtype())?,
            Some(log) => {
                // The number itself, with a gradient that is scaled.
                let (log, factor) = (self.get(&log)?, step_factor(x.elem_count() / x.dim(0)?));
                ((log * factor)? + (log - (log * factor)?)?.detach())?.exp()?
            }
        };
        let steps = x.broadcast_div(&scale)?.clamp(low - 0.5, high + 0.5)?;
        // Half to even, by a sum whose last digit is that of the ones.
        let ones = if x.dtype() == DType::F64 { 1.5 * 2f64.powi(52) } else { 1.5 * 2f64.powi(23) };
        let whole = ((&steps.detach() + ones)? - ones)?.clamp(low, high)?;
        Ok((&steps + (whole - &steps)?.detach())?.broadcast_mul(&scale)?)
    }
}

impl Plain {
    pub(super) fn new(network: &Network, first: usize, norm: Norm) -> Self {
        Self { network: network.clone(), first, norm }
    }

    /// Returns logits `[pictures, classes]` with fixed statistics.
    pub(super) fn logits(&self, weights: &mut Weights, input: &[f32], pictures: usize) -> Result<Vec<f32>> {
        weights.refresh()?;
        let (arrays, _) = self.arrays(weights)?;
        numbers(&self.run(&arrays, input, pictures, None)?)
    }

    /// Returns the value of every node with fixed statistics, in the order of the nodes.
    pub(super) fn nodes(&self, weights: &Weights, input: &[f32], pictures: usize) -> Result<Vec<Vec<f32>>> {
        self.walk(&self.arrays(weights)?.0, input, pictures, None)?.iter().map(numbers).collect()
    }

    /// As [`super::Net::learn`].
    pub(super) fn learn(
        &self,
        weights: &mut Weights,
        input: &[f32],
        pictures: usize,
        objective: &Objective<'_>,
    ) -> Result<f64> {
        weights.refresh()?;
        let (arrays, vars) = self.arrays(weights)?;
        let mut seen = Seen::new();
        let logits = self.run(&arrays, input, pictures, (self.norm == Norm::Batch).then_some(&mut seen))?;
        let (loss, gradient) = objective(&numbers(&logits)?)?;
        // Of this sum the logits have the gradient that the objective told.
        let gradient = Array::from_vec(gradient, logits.shape(), &Device::Cpu)?.to_dtype(PRECISION)?;
        let gradients = (&logits * gradient)?.sum_all()?.backward()?;
        for (name, var) in &vars {
            let Some(gradient) = gradients.get(var) else { continue };
            let p = weights.parameter_mut(name)?;
            let packed = p.layout.pack(&numbers(gradient)?);
            p.gradient.iter_mut().zip(packed.iter()).for_each(|(sum, g)| *sum += g);
        }
        for (name, mean, variance, count) in seen {
            // The running variance is the unbiased one, as in PyTorch.
            let unbiased = count as f64 / count.saturating_sub(1).max(1) as f64;
            for (part, seen, factor) in [("running_mean", mean, 1.0), ("running_var", variance, unbiased)] {
                let name = format!("{name}.{part}");
                let running = weights.fixed.get_mut(&name).with_context(|| format!("expected tensor {name}"))?;
                for (old, new) in running.data.iter_mut().zip(seen) {
                    *old = ((1.0 - MOMENTUM) * f64::from(*old) + MOMENTUM * factor * f64::from(new)) as f32;
                }
            }
        }
        Ok(loss)
    }

    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    fn arrays<'a>(&self, weights: &'a Weights) -> Result<(Arrays<'a>, BTreeMap<String, Var>)> {
        let array = |t: &Tensor| Array::from_slice(&t.data, t.shape.as_slice(), &Device::Cpu)?.to_dtype(PRECISION);
        let (mut arrays, mut vars) = (BTreeMap::new(), BTreeMap::new());
        for (name, tensor) in &weights.fixed {
            arrays.insert(name.clone(), array(weights.stand_ins.get(name).unwrap_or(tensor))?);
        }
        for (name, parameter) in &weights.parameters {
            // The gradient of what is computed with is taken for that of the parameter.
            let used = parameter.layout.unpack(parameter.used(), &parameter.shape);
            let var = Var::from_tensor(&array(&used)?)?;
            arrays.insert(name.clone(), var.as_tensor().clone());
            vars.insert(name.clone(), var);
        }
        Ok((Arrays { arrays, weights }, vars))
    }

    fn run(&self, arrays: &Arrays<'_>, input: &[f32], pictures: usize, seen: Option<&mut Seen>) -> Result<Array> {
        let values = self.walk(arrays, input, pictures, seen)?;
        let features = values.last().context("expected a network with nodes, found none")?;
        product(arrays, features, super::HEAD)
    }

    /// Returns the value of every node.
    fn walk(
        &self,
        arrays: &Arrays<'_>,
        input: &[f32],
        pictures: usize,
        mut seen: Option<&mut Seen>,
    ) -> Result<Vec<Array>> {
        let side = (input.len() / (3 * pictures.max(1))).isqrt();
        let input = Array::from_slice(&input[..pictures * side * side * 3], (pictures, side, side, 3), &Device::Cpu)?;
        let input = input.permute((0, 3, 1, 2))?.contiguous()?.to_dtype(PRECISION)?;
        let mut values: Vec<Array> = Vec::with_capacity(self.network.nodes.len());
        for (i, node) in self.network.nodes.iter().enumerate() {
            let from = |at: usize| {
                node.inputs.get(at).map(|&j| &values[j]).with_context(|| format!("node {i} lacks its input {at}"))
            };
            // Statistics of a frozen stage are those it was trained with.
            let seen = seen.as_deref_mut().filter(|_| node.stage >= self.first);
            let value = match &node.op {
                Op::Input => input.clone(),
                Op::Conv(c) => self.conv(arrays, from(0)?, c, seen)?,
                Op::Add(activation) => apply(&(from(0)? + from(1)?)?, *activation)?,
                Op::MaxPool => max_pool(from(0)?, self.network.padding)?,
                Op::GlobalAveragePool => from(0)?.mean((2, 3))?,
                Op::SqueezeExcite(s) => squeeze(arrays, from(0)?, i, s)?,
                Op::Linear(l) => apply(&product(arrays, from(0)?, &l.name)?, l.activation)?,
            };
            let own = if matches!(node.op, Op::SqueezeExcite(_)) { WITHIN } else { 0 };
            values.push(arrays.round(i, own, &value)?);
        }
        Ok(values)
    }

    /// Convolution, normalisation and activation: `x [n, c, h, w]`.
    fn conv(&self, arrays: &Arrays<'_>, x: &Array, c: &Conv, seen: Option<&mut Seen>) -> Result<Array> {
        let (x, padding) = padded(x, self.network.padding, c.kernel, c.stride)?;
        let y = x.conv2d(arrays.get(&format!("{}.weight", c.name))?, padding, c.stride, 1, c.groups)?;
        let part = |name: &str| arrays.get(&format!("{}.{name}", c.norm));
        let (mean, variance) = match seen {
            None => (part("running_mean")?.clone(), part("running_var")?.clone()),
            Some(seen) => {
                let (n, channels, h, w) = y.dims4()?;
                let mean = y.mean((0, 2, 3))?;
                let centred = y.broadcast_sub(&mean.reshape((1, channels, 1, 1))?)?;
                let variance = centred.sqr()?.mean((0, 2, 3))?;
                seen.push((c.norm.clone(), numbers(&mean)?, numbers(&variance)?, n * h * w));
                (mean, variance)
            }
        };
        let scale = (part("weight")? / (variance + f64::from(self.network.bn_eps))?.sqrt()?)?;
        let shift = (part("bias")? - (mean * &scale)?)?;
        let by_channel = |a: &Array| a.reshape((1, c.outputs, 1, 1));
        let y = y.broadcast_mul(&by_channel(&scale)?)?.broadcast_add(&by_channel(&shift)?)?;
        apply(&y, c.activation)
    }
}

/// Takes means through two layers to factors of the channels: `x [n, c, h, w]`.
fn squeeze(arrays: &Arrays<'_>, x: &Array, node: usize, s: &SqueezeExcite) -> Result<Array> {
    let means = arrays.round(node, MEANS, &x.mean((2, 3))?)?;
    let reduced = apply(&product(arrays, &means, &s.reduce)?, s.activation)?;
    let reduced = arrays.round(node, REDUCED, &reduced)?;
    let factors = apply(&product(arrays, &reduced, &s.expand)?, s.gate)?;
    let factors = arrays.round(node, FACTORS, &factors)?;
    Ok(x.broadcast_mul(&factors.unsqueeze(2)?.unsqueeze(3)?)?)
}

/// The product of rows `[n, inputs]` with a layer's weights, and its bias.
fn product(arrays: &Arrays<'_>, x: &Array, name: &str) -> Result<Array> {
    // `[outputs, inputs]`, or a 1×1 convolution's.
    let weight = arrays.get(&format!("{name}.weight"))?.flatten_from(1)?;
    Ok(x.matmul(&weight.t()?)?.broadcast_add(arrays.get(&format!("{name}.bias"))?)?)
}

fn numbers(array: &Array) -> Result<Vec<f32>> {
    Ok(array.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

fn apply(x: &Array, activation: Activation) -> Result<Array> {
    let hard_sigmoid = || ((x / 6.0)? + 0.5)?.clamp(0.0, 1.0);
    Ok(match activation {
        Activation::None => x.clone(),
        Activation::Relu => x.relu()?,
        Activation::Relu6 => x.clamp(0.0, 6.0)?,
        Activation::HardSwish => (x * hard_sigmoid()?)?,
        Activation::HardSigmoid => hard_sigmoid()?,
        Activation::Silu => x.silu()?,
        // As `1 / (1 + exp(-x))` its gradient would be of an infinite number where `x` is small.
        Activation::Sigmoid => (((x * 0.5)?.tanh()? * 0.5)? + 0.5)?,
    })
}

/// 3×3, stride 2. candle's pool has no gradient for windows that overlap, the largest of nine pictures has.
fn max_pool(x: &Array, padding: Padding) -> Result<Array> {
    let (n, c, h, w) = x.dims4()?;
    let ((top, bottom), (left, right)) = (padding.amounts(h, 3, 2), padding.amounts(w, 3, 2));
    let (out_h, out_w) = (padding.output_len(h, 3, 2), padding.output_len(w, 3, 2));
    // What stands before is a ReLU, so zeros never win over a picture's own values. One more on each axis makes pairs.
    let x = x.pad_with_zeros(2, top, bottom + 1)?.pad_with_zeros(3, left, right + 1)?;
    let mut largest: Option<Array> = None;
    for (dy, dx) in (0..3).flat_map(|dy| (0..3).map(move |dx| (dy, dx))) {
        let part = x.narrow(2, dy, 2 * out_h)?.narrow(3, dx, 2 * out_w)?.contiguous()?;
        let part = part.reshape((n, c, out_h, 2, out_w, 2))?.narrow(3, 0, 1)?.narrow(5, 0, 1)?;
        let part = part.contiguous()?.reshape((n, c, out_h, out_w))?;
        largest = Some(match largest {
            None => part,
            Some(l) => l.maximum(&part)?,
        });
    }
    largest.context("a window has nine places")
}

/// Returns the picture with what padding the convolution itself cannot do, and the padding left to it.
fn padded(x: &Array, padding: Padding, kernel: usize, stride: usize) -> Result<(Array, usize)> {
    let (_, _, h, w) = x.dims4()?;
    let (down, across) = (padding.amounts(h, kernel, stride), padding.amounts(w, kernel, stride));
    if down.0 == down.1 && down == across {
        return Ok((x.clone(), down.0));
    }
    Ok((x.pad_with_zeros(2, down.0, down.1)?.pad_with_zeros(3, across.0, across.1)?, 0))
}
