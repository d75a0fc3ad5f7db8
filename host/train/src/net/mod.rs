//! A network that learns: zoo data and candle tensors.
//!
//! Parameters keep the layout and the names of torchvision, so that what is trained here is exported as it is. On the
//! CPU the operations are those of `ops`; on other devices they are candle's own (`plain`), which also serve as
//! the reference that the former are tested against.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow, ensure};
use candle_core::{D, DType, Device, Tensor as Array, Var};
use graft_onnx::Head;
use graft_zoo::network::{Activation, Conv, Op};
use graft_zoo::weights::Tensors;
use graft_zoo::{Network, Preprocessing, Tensor};

use serde::{Deserialize, Serialize};

use crate::rng::Rng;

mod ops;
mod plain;

use ops::{Affine, BatchNorm, Depthwise, MaxPool, Statistics, Unfold, Window};

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
    network: Network,
    preprocessing: Preprocessing,
    device: Device,
    norm: Norm,
    /// Stages from this one on are trained; `network.stages` trains the head alone.
    first: usize,
    /// Every parameter and statistic; a trained one shares its storage with its entry in `vars`.
    arrays: BTreeMap<String, Array>,
    vars: BTreeMap<String, Var>,
}

/// Statistics of the batch that a forward pass has seen, by name of the normalisation.
type Seen = Vec<(String, Arc<Mutex<Statistics>>)>;

const HEAD_WEIGHT: &str = "head.weight";
const HEAD_BIAS: &str = "head.bias";
/// Weight of a batch in the running statistics, as in PyTorch.
const MOMENTUM: f32 = 0.1;

impl Net {
    /// Takes a backbone and a head, of which the last `unfrozen` stages and the head are trained.
    ///
    /// # Errors
    ///
    /// If a parameter is missing or there are fewer stages.
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
        let mut net = Self {
            network: network.clone(),
            preprocessing: preprocessing.clone(),
            device: device.clone(),
            norm,
            first,
            arrays: BTreeMap::new(),
            vars: BTreeMap::new(),
        };
        for node in &network.nodes {
            let Op::Conv(c) = &node.op else { continue };
            let trained = node.stage >= first;
            net.put(format!("{}.weight", c.name), backbone, trained)?;
            net.put(format!("{}.weight", c.norm), backbone, trained)?;
            net.put(format!("{}.bias", c.norm), backbone, trained)?;
            net.put(format!("{}.running_mean", c.norm), backbone, false)?;
            net.put(format!("{}.running_var", c.norm), backbone, false)?;
        }
        let bias = Tensor { shape: vec![head.bias.len()], data: head.bias.clone() };
        let head = Tensors::from([(HEAD_WEIGHT.to_owned(), head.weight.clone()), (HEAD_BIAS.to_owned(), bias)]);
        net.put(HEAD_WEIGHT.into(), &head, true)?;
        net.put(HEAD_BIAS.into(), &head, true)?;
        Ok(net)
    }

    fn put(&mut self, name: String, from: &Tensors, trained: bool) -> Result<()> {
        let tensor = from.get(&name).with_context(|| format!("expected tensor {name}, found none"))?;
        let array = Array::from_slice(&tensor.data, tensor.shape.as_slice(), &self.device)?;
        if trained {
            let var = Var::from_tensor(&array)?;
            self.arrays.insert(name.clone(), var.as_tensor().clone());
            self.vars.insert(name, var);
        } else {
            self.arrays.insert(name, array);
        }
        Ok(())
    }

    /// Returns what is trained, by name.
    pub(crate) fn vars(&self) -> &BTreeMap<String, Var> {
        &self.vars
    }

    /// Returns everything that training changes: trained parameters and running statistics.
    pub(crate) fn state(&self) -> Result<Tensors> {
        let changes =
            |name: &str| self.vars.contains_key(name) || (self.norm == Norm::Batch && name.contains(".running_"));
        self.arrays.iter().filter(|(n, _)| changes(n)).map(|(n, a)| Ok((n.clone(), tensor(a)?))).collect()
    }

    /// Takes back what [`Net::state`] returned.
    pub(crate) fn restore(&mut self, state: &Tensors) -> Result<()> {
        for (name, tensor) in state {
            let array = Array::from_slice(&tensor.data, tensor.shape.as_slice(), &self.device)?;
            match self.vars.get(name) {
                Some(var) => var.set(&array)?,
                None => drop(self.arrays.insert(name.clone(), array)),
            }
        }
        Ok(())
    }

    /// Returns the trained backbone and head.
    ///
    /// # Errors
    ///
    /// If a value is not finite: training has diverged.
    pub fn finish(&self) -> Result<(Tensors, Head)> {
        let mut all = Tensors::new();
        for (name, array) in &self.arrays {
            let tensor = tensor(array)?;
            ensure!(
                tensor.data.iter().all(|v| v.is_finite()),
                "expected finite weights, found NaN or infinity in {name}: training diverged; lower --rate"
            );
            all.insert(name.clone(), tensor);
        }
        let (Some(weight), Some(bias)) = (all.remove(HEAD_WEIGHT), all.remove(HEAD_BIAS)) else {
            return Err(anyhow!("expected a head, found none"));
        };
        Ok((all, Head { weight, bias: bias.data }))
    }

    /// Returns the logits `[n, classes]` of a batch of pictures (`u8 [crop, crop, 3]` each) with fixed statistics.
    pub(crate) fn logits(&self, pictures: &[Vec<u8>]) -> Result<Array> {
        self.run(pictures, None)
    }

    /// As [`Net::logits`], as training sees it: with gradients, and moving the running statistics.
    pub(crate) fn train(&mut self, pictures: &[Vec<u8>]) -> Result<Array> {
        let mut seen = Seen::new();
        let logits = self.run(pictures, Some(&mut seen))?;
        for (name, statistics) in seen {
            let s = statistics.lock().map_err(|_| anyhow!("a thread that computed batch statistics has died"))?;
            // The running variance is the unbiased one, as in PyTorch.
            let unbiased = s.count as f32 / s.count.saturating_sub(1).max(1) as f32;
            self.move_running(&format!("{name}.running_mean"), &s.mean, 1.0)?;
            self.move_running(&format!("{name}.running_var"), &s.variance, unbiased)?;
        }
        Ok(logits)
    }

    fn move_running(&mut self, name: &str, seen: &[f32], factor: f32) -> Result<()> {
        let old: Vec<f32> = self.array(name)?.to_vec1()?;
        let new: Vec<f32> = old.iter().zip(seen).map(|(o, s)| (1.0 - MOMENTUM) * o + MOMENTUM * factor * s).collect();
        let array = Array::from_vec(new, old.len(), &self.device)?;
        self.arrays.insert(name.to_owned(), array);
        Ok(())
    }

    fn array(&self, name: &str) -> Result<&Array> {
        self.arrays.get(name).with_context(|| format!("expected tensor {name}, found none"))
    }

    fn run(&self, pictures: &[Vec<u8>], mut seen: Option<&mut Seen>) -> Result<Array> {
        let channel_last = self.device.is_cpu();
        let mut last_use = vec![0; self.network.nodes.len()];
        for (i, node) in self.network.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|&j| last_use[j] = i);
        }
        let mut values: Vec<Option<Array>> = vec![None; self.network.nodes.len()];
        let mut last = None;
        for (i, node) in self.network.nodes.iter().enumerate() {
            let arguments: Vec<Array> = node.inputs.iter().filter_map(|&j| values[j].clone()).collect();
            let from = |at: usize| arguments.get(at).with_context(|| format!("node {i} lacks its input {at}"));
            // Statistics of a frozen stage are those it was trained with.
            let seen = seen.as_deref_mut().filter(|_| self.norm == Norm::Batch && node.stage >= self.first);
            let value = match &node.op {
                Op::Input => self.input(pictures, channel_last)?,
                Op::Conv(c) if channel_last => self.conv(from(0)?, c, seen)?,
                Op::Conv(c) => plain::conv(self, from(0)?, c, seen)?,
                Op::Add(activation) => {
                    let sum = (from(0)? + from(1)?)?;
                    if *activation == Activation::None { sum } else { plain::clamp(&sum, *activation)? }
                }
                Op::MaxPool if channel_last => from(0)?.apply_op1(MaxPool(self.window(3, 2)))?,
                Op::MaxPool => plain::max_pool(from(0)?, self.network.padding)?,
                Op::GlobalAveragePool if channel_last => from(0)?.mean((1, 2))?,
                Op::GlobalAveragePool => from(0)?.mean((2, 3))?,
            };
            for &j in &node.inputs {
                if last_use[j] == i {
                    values[j] = None;
                }
            }
            last = Some(value.clone());
            values[i] = Some(value);
        }
        let features = last.context("expected a network with nodes, found none")?;
        let (weight, bias) = (self.array(HEAD_WEIGHT)?, self.array(HEAD_BIAS)?);
        Ok(features.matmul(&weight.t()?)?.broadcast_add(bias)?)
    }

    fn input(&self, pictures: &[Vec<u8>], channel_last: bool) -> Result<Array> {
        let (side, p) = (self.preprocessing.crop as usize, &self.preprocessing);
        let mut data = Vec::with_capacity(pictures.len() * side * side * 3);
        for picture in pictures {
            ensure!(
                picture.len() == side * side * 3,
                "expected {} values in a picture, found {}",
                side * side * 3,
                picture.len()
            );
            let normal = |(i, &v): (usize, &u8)| (f32::from(v) - p.mean[i % 3]) / p.std[i % 3];
            data.extend(picture.iter().enumerate().map(normal));
        }
        let batch = Array::from_vec(data, (pictures.len(), side, side, 3), &self.device)?;
        Ok(if channel_last { batch } else { batch.permute((0, 3, 1, 2))?.contiguous()? })
    }

    fn window(&self, kernel: usize, stride: usize) -> Window {
        Window { kernel, stride, padding: self.network.padding }
    }

    fn conv(&self, x: &Array, c: &Conv, seen: Option<&mut Seen>) -> Result<Array> {
        let weight = self.array(&format!("{}.weight", c.name))?;
        let window = self.window(c.kernel, c.stride);
        let y = if c.groups > 1 {
            let taps = weight.reshape((c.outputs, c.kernel * c.kernel))?.t()?.contiguous()?;
            x.apply_op2(&taps, Depthwise(window))?
        } else {
            let patches = if c.kernel == 1 && c.stride == 1 { x.clone() } else { x.apply_op1(Unfold(window))? };
            let (n, h, w, patch) = patches.dims4()?;
            let flat = weight.permute((0, 2, 3, 1))?.reshape((c.outputs, patch))?;
            patches.reshape((n * h * w, patch))?.matmul(&flat.t()?)?.reshape((n, h, w, c.outputs))?
        };
        let bounds = c.activation.bounds();
        let (gamma, beta) = (self.array(&format!("{}.weight", c.norm))?, self.array(&format!("{}.bias", c.norm))?);
        if let Some(seen) = seen {
            let statistics = Arc::new(Mutex::new(Statistics::default()));
            seen.push((c.norm.clone(), Arc::clone(&statistics)));
            let norm = BatchNorm { eps: self.network.bn_eps, bounds, statistics };
            return Ok(y.apply_op3(gamma, beta, norm)?);
        }
        let (scale, shift) = self.fixed(c, gamma, beta)?;
        Ok(y.apply_op3(&scale, &shift, Affine { bounds })?)
    }

    /// Returns scale and shift of a normalisation with fixed statistics.
    fn fixed(&self, c: &Conv, gamma: &Array, beta: &Array) -> Result<(Array, Array)> {
        let mean = self.array(&format!("{}.running_mean", c.norm))?;
        let variance = self.array(&format!("{}.running_var", c.norm))?;
        let scale = (gamma / (variance + f64::from(self.network.bn_eps))?.sqrt()?)?;
        let shift = (beta - (mean * &scale)?)?;
        Ok((scale, shift))
    }
}

/// Returns the mean cross-entropy of `logits` `[n, classes]`, with `smoothing` of the target spread over all classes.
///
/// # Source
///
/// Szegedy et al., *Rethinking the Inception Architecture*, arXiv:1512.00567, section 7.
pub(crate) fn cross_entropy(logits: &Array, classes: &[usize], smoothing: f32) -> Result<Array> {
    let (n, count) = logits.dims2()?;
    let mut target = vec![smoothing / count as f32; n * count];
    for (row, &class) in classes.iter().enumerate() {
        ensure!(row < n && class < count, "expected {n} classes below {count}, found class {class} in row {row}");
        target[row * count + class] += 1.0 - smoothing;
    }
    let target = Array::from_vec(target, (n, count), logits.device())?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let log_probabilities = shifted.broadcast_sub(&log_sum)?;
    Ok(((log_probabilities * target)?.sum_all()? / -(n as f64))?)
}

/// Returns random parameters for every convolution, and a head of zeros.
///
/// # Source
///
/// He et al., *Delving Deep into Rectifiers*, arXiv:1502.01852 (fan out, as torchvision does).
pub fn random(network: &Network, classes: usize, seed: u64) -> (Tensors, Head) {
    let mut rng = Rng::new(seed ^ 0x1217);
    let mut tensors = Tensors::new();
    for (_, c) in network.convs() {
        let shape = vec![c.outputs, c.inputs / c.groups, c.kernel, c.kernel];
        let deviation = (2.0 / (c.kernel * c.kernel * c.outputs / c.groups) as f32).sqrt();
        let data = (0..shape.iter().product()).map(|_| rng.normal() * deviation).collect();
        tensors.insert(format!("{}.weight", c.name), Tensor { shape, data });
        for (part, value) in [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)] {
            tensors
                .insert(format!("{}.{part}", c.norm), Tensor { shape: vec![c.outputs], data: vec![value; c.outputs] });
        }
    }
    let weight = Tensor { shape: vec![classes, network.features], data: vec![0.0; classes * network.features] };
    (tensors, Head { weight, bias: vec![0.0; classes] })
}

fn tensor(array: &Array) -> Result<Tensor> {
    let data = array.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    Ok(Tensor { shape: array.dims().to_vec(), data })
}

#[cfg(test)]
mod tests;
