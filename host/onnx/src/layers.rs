//! The layers of a network as a file holds them: batch normalisation folded in, a fully connected layer as a convolution of
//! one pixel.

use graft_zoo::network::{Conv, Op};
use graft_zoo::weights::Tensors;
use graft_zoo::{Network, Tensor};

use crate::export::Head;
use crate::values::{name_of, within};
use crate::{HEAD, OnnxError};

/// A layer with weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Name of the activation that it makes, or [`HEAD`].
    pub name: String,
    /// Name of the activation that it reads.
    pub input: String,
    /// `[outputs, inputs / groups, k, k]`, of the head `[outputs, inputs]`.
    pub weight: Tensor,
    /// `[outputs]`.
    pub bias: Vec<f32>,
    /// Groups that inputs and outputs are cut into, each seeing itself alone.
    pub groups: usize,
}

impl Layer {
    /// Returns the number of outputs.
    pub fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// Returns the weights that one output reads, and how many of them belong to one channel of the input.
    pub fn fan_in(&self) -> (usize, usize) {
        let taps = self.weight.shape.iter().skip(2).product();
        (self.weight.data.len() / self.outputs().max(1), taps)
    }

    /// Returns the channels that it reads.
    pub fn inputs(&self) -> usize {
        self.weight.shape.get(1).copied().unwrap_or(0) * self.groups
    }

    /// Returns the channel of the input that a weight is for.
    pub fn channel(&self, weight: usize) -> usize {
        let (fan_in, taps) = self.fan_in();
        let group = weight / fan_in / (self.outputs() / self.groups).max(1);
        group * (fan_in / taps) + weight % fan_in / taps
    }
}

/// All layers, in the network's order; the head, if any, is the last.
#[derive(Debug, Clone, PartialEq)]
pub struct Layers(Vec<Layer>);

impl Layers {
    /// Folds the running statistics of batch normalisation into weights and biases, in f64.
    ///
    /// # Errors
    ///
    /// [`OnnxError::MissingTensor`], or [`OnnxError::Head`] where the head reads another number of features.
    pub fn fold(network: &Network, weights: &Tensors, head: Option<&Head>) -> Result<Self, OnnxError> {
        let mut layers = Vec::new();
        for (index, node) in network.nodes.iter().enumerate() {
            let name = name_of(network, index);
            let input = node.inputs.first().map(|&j| name_of(network, j)).unwrap_or_default();
            match &node.op {
                Op::Conv(conv) => {
                    let (weight, bias) = convolution(conv, network.bn_eps, weights)?;
                    layers.push(Layer { name, input, weight, bias, groups: conv.groups });
                }
                Op::Linear(l) => layers.push(connected(name, input, &l.name, weights)?),
                Op::SqueezeExcite(s) => {
                    let [means, reduced, factors] = within(&name);
                    layers.push(connected(reduced.clone(), means, &s.reduce, weights)?);
                    layers.push(connected(factors, reduced, &s.expand, weights)?);
                }
                Op::Input | Op::Add(_) | Op::MaxPool | Op::GlobalAveragePool => {}
            }
        }
        if let Some(head) = head {
            let (classes, features) = (head.bias.len(), network.features);
            if head.weight.shape != [classes, features] {
                return Err(OnnxError::Head { classes, features, found: head.weight.shape.clone() });
            }
            let input = name_of(network, network.nodes.len() - 1);
            let (weight, bias) = (head.weight.clone(), head.bias.clone());
            layers.push(Layer { name: HEAD.into(), input, weight, bias, groups: 1 });
        }
        Ok(Self(layers))
    }

    /// Returns the layers in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Layer> {
        self.0.iter()
    }

    /// Returns the layers in order, to be changed.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Layer> {
        self.0.iter_mut()
    }

    /// Returns a layer by the name of what it makes.
    pub fn get(&self, name: &str) -> Option<&Layer> {
        self.0.iter().find(|l| l.name == name)
    }
}

fn convolution(conv: &Conv, eps: f32, weights: &Tensors) -> Result<(Tensor, Vec<f32>), OnnxError> {
    let tensor = |name: String| weights.get(&name).ok_or(OnnxError::MissingTensor(name));
    let norm = |part: &str| tensor(format!("{}.{part}", conv.norm));
    let (gamma, beta, mean, var) = (norm("weight")?, norm("bias")?, norm("running_mean")?, norm("running_var")?);
    let mut weight = tensor(format!("{}.weight", conv.name))?.clone();
    let per_output = weight.data.len() / conv.outputs;
    let mut bias = Vec::with_capacity(conv.outputs);
    for c in 0..conv.outputs {
        let factor = f64::from(gamma.data[c]) / (f64::from(var.data[c]) + f64::from(eps)).sqrt();
        for w in &mut weight.data[c * per_output..(c + 1) * per_output] {
            *w = (f64::from(*w) * factor) as f32;
        }
        bias.push((f64::from(beta.data[c]) - f64::from(mean.data[c]) * factor) as f32);
    }
    Ok((weight, bias))
}

fn connected(name: String, input: String, of: &str, weights: &Tensors) -> Result<Layer, OnnxError> {
    let tensor = |name: String| weights.get(&name).cloned().ok_or(OnnxError::MissingTensor(name));
    let (mut weight, bias) = (tensor(format!("{of}.weight"))?, tensor(format!("{of}.bias"))?.data);
    weight.shape.resize(4, 1);
    Ok(Layer { name, input, weight, bias, groups: 1 })
}
