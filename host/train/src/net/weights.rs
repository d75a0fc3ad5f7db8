//! The numbers of a network that learns: parameters as kernels lay them out, and what stays fixed.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use graft_kernels::{Buffer, padded};
use graft_zoo::Tensor;
use graft_zoo::weights::Tensors;

use super::quantized::Quantized;

/// How kernels lay a parameter out, padded to blocks of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One number a channel.
    Vector { len: usize },
    /// `[taps, inputs, padded(outputs)]` of `[outputs, inputs, kernel, kernel]`.
    Dense { taps: usize, inputs: usize, outputs: usize },
    /// `[taps, padded(channels)]` of `[channels, 1, kernel, kernel]`.
    Depthwise { taps: usize, channels: usize },
}

impl Layout {
    /// Returns the layout of a tensor of torchvision's shape.
    pub(crate) fn of(shape: &[usize], groups: usize) -> Self {
        match *shape {
            [outputs, inputs, h, w] if groups == 1 => Self::Dense { taps: h * w, inputs, outputs },
            [channels, _, h, w] => Self::Depthwise { taps: h * w, channels },
            [outputs, inputs] => Self::Dense { taps: 1, inputs, outputs },
            _ => Self::Vector { len: shape.iter().product() },
        }
    }

    /// Returns the numbers it takes, padding included.
    pub(crate) fn numbers(self) -> usize {
        match self {
            Self::Vector { len } => padded(len),
            Self::Dense { taps, inputs, outputs } => taps * inputs * padded(outputs),
            Self::Depthwise { taps, channels } => taps * padded(channels),
        }
    }

    /// Calls `f` with the place of each number in a tensor and in this layout, whose rows `pad` makes longer.
    pub(crate) fn each(self, pad: impl Fn(usize) -> usize, mut f: impl FnMut(usize, usize)) {
        match self {
            Self::Vector { len } => (0..len).for_each(|i| f(i, i)),
            Self::Dense { taps, inputs, outputs } => {
                for (o, i) in (0..outputs).flat_map(|o| (0..inputs).map(move |i| (o, i))) {
                    for tap in 0..taps {
                        f((o * inputs + i) * taps + tap, (tap * inputs + i) * pad(outputs) + o);
                    }
                }
            }
            Self::Depthwise { taps, channels } => {
                for (c, tap) in (0..channels).flat_map(|c| (0..taps).map(move |t| (c, t))) {
                    f(c * taps + tap, tap * pad(channels) + c);
                }
            }
        }
    }

    pub(crate) fn pack(self, data: &[f32]) -> Buffer {
        let mut packed = Buffer::zeros(self.numbers());
        self.each(padded, |from, to| packed[to] = data[from]);
        packed
    }

    pub(crate) fn unpack(self, packed: &[f32], shape: &[usize]) -> Tensor {
        let mut data = vec![0.0; shape.iter().product()];
        self.each(padded, |to, from| data[to] = packed[from]);
        Tensor { shape: shape.to_vec(), data }
    }
}

/// A parameter that is trained, with its gradient and what the optimiser remembers of it. Padding is zero in all four.
#[derive(Debug, Clone)]
pub(crate) struct Parameter {
    /// As torchvision has it.
    pub(crate) shape: Vec<usize>,
    pub(crate) layout: Layout,
    pub(crate) values: Buffer,
    pub(crate) gradient: Buffer,
    /// First and second moment of the gradient.
    pub(crate) moments: [Buffer; 2],
    /// The mean of past values, where one is kept.
    pub(crate) average: Option<Buffer>,
    /// Stages between it and the outputs: 0 is the head.
    pub(crate) depth: usize,
    /// What its rate is, in rates of its stage.
    pub(crate) pace: f64,
    /// What is computed with instead of the values, where the network is quantized.
    pub(crate) stand_in: Option<Buffer>,
}

impl Parameter {
    pub(crate) fn new(tensor: &Tensor, groups: usize, depth: usize) -> Self {
        let layout = Layout::of(&tensor.shape, groups);
        let zeros = || Buffer::zeros(layout.numbers());
        let (shape, values) = (tensor.shape.clone(), layout.pack(&tensor.data));
        let (gradient, moments) = (zeros(), [zeros(), zeros()]);
        Self { shape, layout, values, gradient, moments, average: None, depth, pace: 1.0, stand_in: None }
    }

    /// Returns what is computed with.
    pub(crate) fn used(&self) -> &Buffer {
        self.stand_in.as_ref().unwrap_or(&self.values)
    }

    /// Moves the average towards the values, of which the past weighs `past`.
    pub(crate) fn average(&mut self, past: f64) {
        let average = self.average.get_or_insert_with(|| Buffer::copy_of(&self.values));
        let now = (1.0 - past) as f32;
        average.iter_mut().zip(self.values.iter()).for_each(|(a, v)| *a += now * (v - *a));
    }

    /// Whether it is one that weight decay holds for: shifts and scales of a normalisation, and biases, are not.
    pub(crate) fn decays(&self) -> bool {
        !matches!(self.layout, Layout::Vector { .. })
    }

    pub(crate) fn tensor(&self) -> Tensor {
        self.layout.unpack(&self.values, &self.shape)
    }
}

/// All numbers of a network by torchvision's names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Weights {
    /// What is trained.
    pub(crate) parameters: BTreeMap<String, Parameter>,
    /// What is not, running statistics among it.
    pub(crate) fixed: Tensors,
    /// What is computed with instead of the latter, where the network is quantized.
    pub(crate) stand_ins: Tensors,
    /// How the network is quantized, if it is.
    pub(crate) quantized: Option<Arc<Quantized>>,
}

/// The moments' prefixes in a checkpoint.
const MOMENTS: [&str; 2] = ["m.", "v."];
const AVERAGE: &str = "a.";

impl Weights {
    /// Puts a tensor in: one that is trained where its depth is given.
    pub(crate) fn put(&mut self, name: String, tensor: &Tensor, groups: usize, depth: Option<usize>) {
        match depth {
            Some(depth) => drop(self.parameters.insert(name, Parameter::new(tensor, groups, depth))),
            None => drop(self.fixed.insert(name, tensor.clone())),
        }
    }

    pub(crate) fn parameter(&self, name: &str) -> Result<&Parameter> {
        self.parameters.get(name).with_context(|| format!("expected a trained tensor {name}, found none"))
    }

    pub(crate) fn parameter_mut(&mut self, name: &str) -> Result<&mut Parameter> {
        self.parameters.get_mut(name).with_context(|| format!("expected a trained tensor {name}, found none"))
    }

    /// Returns a tensor, trained or not, in torchvision's layout.
    pub(crate) fn tensor(&self, name: &str) -> Result<Tensor> {
        let fixed = || self.fixed.get(name).cloned();
        let found = self.parameters.get(name).map(Parameter::tensor).or_else(fixed);
        found.with_context(|| format!("expected tensor {name}, found none"))
    }

    /// Returns the numbers of a tensor that are computed with, trained or not, in torchvision's layout.
    pub(crate) fn used(&self, name: &str) -> Result<Vec<f32>> {
        if let Some(stand_in) = self.stand_ins.get(name) {
            return Ok(stand_in.data.clone());
        }
        match self.parameters.get(name) {
            Some(p) => Ok(p.layout.unpack(p.used(), &p.shape).data),
            None => Ok(self.tensor(name)?.data),
        }
    }

    /// Returns every tensor.
    pub(crate) fn all(&self) -> Tensors {
        let trained = self.parameters.iter().map(|(n, p)| (n.clone(), p.tensor()));
        self.fixed.iter().map(|(n, t)| (n.clone(), t.clone())).chain(trained).collect()
    }

    /// Takes values of tensors that are there.
    pub(crate) fn set(&mut self, tensors: &Tensors) -> Result<()> {
        for (name, tensor) in tensors {
            let shape = match (self.parameters.get(name), self.fixed.get(name)) {
                (Some(p), _) => &p.shape,
                (None, Some(t)) => &t.shape,
                (None, None) => anyhow::bail!("expected the tensors of this network, found {name}"),
            };
            ensure!(*shape == tensor.shape, "expected {name} of shape {shape:?}, found {:?}", tensor.shape);
            match self.parameters.get_mut(name) {
                Some(p) => p.values = p.layout.pack(&tensor.data),
                None => drop(self.fixed.insert(name.clone(), tensor.clone())),
            }
        }
        Ok(())
    }

    /// Returns what the optimiser remembers: `m.NAME`, `v.NAME` and, where an average is kept, `a.NAME`.
    pub(crate) fn remembered(&self) -> Tensors {
        let of = |(name, p): (&String, &Parameter)| {
            let remembered = MOMENTS.into_iter().zip(p.moments.iter()).chain(p.average.as_ref().map(|a| (AVERAGE, a)));
            remembered.map(|(kind, b)| (format!("{kind}{name}"), p.layout.unpack(b, &p.shape))).collect::<Vec<_>>()
        };
        self.parameters.iter().flat_map(of).collect()
    }

    /// Takes back what [`Weights::remembered`] returned, among other tensors.
    pub(crate) fn set_remembered(&mut self, tensors: &Tensors) -> Result<()> {
        for (name, p) in &mut self.parameters {
            for (moment, prefix) in p.moments.iter_mut().zip(MOMENTS) {
                let name = format!("{prefix}{name}");
                let tensor = tensors.get(&name).with_context(|| format!("expected tensor {name}, found none"))?;
                ensure!(tensor.shape == p.shape, "expected {name} of shape {:?}, found {:?}", p.shape, tensor.shape);
                *moment = p.layout.pack(&tensor.data);
            }
            p.average = tensors.get(&format!("{AVERAGE}{name}")).map(|t| p.layout.pack(&t.data));
        }
        Ok(())
    }
}
