//! A network as data: a list of nodes in topological order, each with the torchvision name of its parameters.
//!
//! Layout-free: shapes are given as channels, kernels and strides; an engine chooses NHWC or NCHW.

use serde::{Deserialize, Serialize};

/// How a strided convolution or pool pads an image: a property of the weights, not of the architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// `kernel / 2` on every side (PyTorch, torchvision, timm).
    #[default]
    Symmetric,
    /// TensorFlow "SAME": as little as gives `ceil(size / stride)` outputs, the odd pixel after.
    TfSame,
}

impl Padding {
    /// Returns the pixels padded before and after one axis of length `size`.
    pub fn amounts(self, size: usize, kernel: usize, stride: usize) -> (usize, usize) {
        match self {
            Self::Symmetric => (kernel / 2, kernel / 2),
            Self::TfSame => {
                let total = ((size.div_ceil(stride) - 1) * stride + kernel).saturating_sub(size);
                (total / 2, total - total / 2)
            }
        }
    }

    /// Returns the output length of one axis.
    pub fn output_len(self, size: usize, kernel: usize, stride: usize) -> usize {
        let (before, after) = self.amounts(size, kernel, stride);
        (size + before + after - kernel) / stride + 1
    }
}

/// The non-linearity that closes a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Identity.
    None,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x * min(max(x / 6 + 1/2, 0), 1)`.
    HardSwish,
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `min(max(x / 6 + 1/2, 0), 1)`.
    HardSigmoid,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

/// A convolution without bias, followed by batch normalisation and an activation.
#[derive(Debug, Clone, PartialEq)]
pub struct Conv {
    /// Name of the convolution; its weight is `{name}.weight`, `[out, in / groups, k, k]`.
    pub name: String,
    /// Name of the batch normalisation: `{norm}.weight|bias|running_mean|running_var`, each `[out]`.
    pub norm: String,
    /// Channels in.
    pub inputs: usize,
    /// Channels out.
    pub outputs: usize,
    /// Kernel side.
    pub kernel: usize,
    /// Stride, both axes.
    pub stride: usize,
    /// 1, or `inputs` for a depthwise convolution.
    pub groups: usize,
    /// Closing activation.
    pub activation: Activation,
}

impl Conv {
    /// Returns a dense convolution under the names of torchvision's `Conv2dNormActivation`: `{name}.0` and `{name}.1`.
    pub(crate) fn closed(
        name: &str,
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        stride: usize,
        activation: Activation,
    ) -> Self {
        let (norm, name) = (format!("{name}.1"), format!("{name}.0"));
        Self { name, norm, inputs, outputs, kernel, stride, groups: 1, activation }
    }
}

/// Weights each channel by what a small network of two layers makes of all channels' means:
/// `x * gate(expand(activation(reduce(mean(x)))))`.
///
/// # Source
///
/// Hu et al., *Squeeze-and-Excitation Networks*, arXiv:1709.01507.
#[derive(Debug, Clone, PartialEq)]
pub struct SqueezeExcite {
    /// Name of the first layer: `{reduce}.weight`, `[squeezed, channels, 1, 1]`, and `{reduce}.bias`, `[squeezed]`.
    pub reduce: String,
    /// Name of the second layer: `{expand}.weight`, `[channels, squeezed, 1, 1]`, and `{expand}.bias`, `[channels]`.
    pub expand: String,
    /// Channels in and out.
    pub channels: usize,
    /// Channels between the layers.
    pub squeezed: usize,
    /// Closes the first layer.
    pub activation: Activation,
    /// Closes the second layer; its values are factors.
    pub gate: Activation,
}

/// A fully connected layer and an activation.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// Its name: `{name}.weight`, `[outputs, inputs]`, and `{name}.bias`, `[outputs]`.
    pub name: String,
    /// Numbers in.
    pub inputs: usize,
    /// Numbers out.
    pub outputs: usize,
    /// Closing activation.
    pub activation: Activation,
}

/// What a node computes.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// The normalised picture, 3 channels.
    Input,
    /// Convolution, batch normalisation, activation.
    Conv(Conv),
    /// Sum of two nodes of one shape, then an activation.
    Add(Activation),
    /// 3×3 max pool, stride 2.
    MaxPool,
    /// Mean over the spatial axes: `[n, c]`.
    GlobalAveragePool,
    /// Factors for the channels.
    SqueezeExcite(SqueezeExcite),
    /// A fully connected layer on `[n, c]`.
    Linear(Linear),
}

/// A tensor that a node needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// torchvision's name.
    pub name: String,
    /// torchvision's shape.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
}

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Of a convolution or a fully connected layer.
    Weight {
        /// Groups that the channels in fall into.
        groups: usize,
    },
    /// Factor of a normalisation.
    Scale,
    /// Summand of a normalisation or a layer.
    Bias,
    /// Running mean of a normalisation: no gradient moves it.
    Mean,
    /// Running variance of a normalisation: no gradient moves it.
    Variance,
}

impl Role {
    /// Whether a gradient moves it.
    pub fn is_trained(self) -> bool {
        !matches!(self, Self::Mean | Self::Variance)
    }
}

impl Op {
    /// Lists what it needs.
    pub fn parameters(&self) -> Vec<Parameter> {
        let layer = |name: &str, shape: Vec<usize>| {
            let bias = vec![shape[0]];
            [("weight", shape, Role::Weight { groups: 1 }), ("bias", bias, Role::Bias)]
                .map(|(part, shape, role)| Parameter { name: format!("{name}.{part}"), shape, role })
        };
        match self {
            Self::Conv(c) => {
                let shape = vec![c.outputs, c.inputs / c.groups, c.kernel, c.kernel];
                let role = Role::Weight { groups: c.groups };
                let mut all = vec![Parameter { name: format!("{}.weight", c.name), shape, role }];
                for (part, role) in [
                    ("weight", Role::Scale),
                    ("bias", Role::Bias),
                    ("running_mean", Role::Mean),
                    ("running_var", Role::Variance),
                ] {
                    all.push(Parameter { name: format!("{}.{part}", c.norm), shape: vec![c.outputs], role });
                }
                all
            }
            Self::SqueezeExcite(s) => [
                layer(&s.reduce, vec![s.squeezed, s.channels, 1, 1]),
                layer(&s.expand, vec![s.channels, s.squeezed, 1, 1]),
            ]
            .concat(),
            Self::Linear(l) => layer(&l.name, vec![l.outputs, l.inputs]).to_vec(),
            Self::Input | Self::Add(_) | Self::MaxPool | Self::GlobalAveragePool => vec![],
        }
    }
}

/// One node; `inputs` index earlier nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it computes.
    pub op: Op,
    /// Indices of the nodes it reads.
    pub inputs: Vec<usize>,
    /// Stage it belongs to, the unit of freezing: 0 is the stem.
    pub stage: usize,
}

/// A backbone: from the normalised picture to a feature vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// Nodes in topological order; the last is the output.
    pub nodes: Vec<Node>,
    /// Length of the feature vector.
    pub features: usize,
    /// Number of stages.
    pub stages: usize,
    /// Padding the weights were trained with.
    pub padding: Padding,
    /// Epsilon of batch normalisation the weights were trained with.
    pub bn_eps: f32,
}

impl Network {
    /// Iterates over the convolutions with their node index.
    pub fn convs(&self) -> impl Iterator<Item = (usize, &Conv)> {
        self.nodes.iter().enumerate().filter_map(|(i, n)| match &n.op {
            Op::Conv(c) => Some((i, c)),
            _ => None,
        })
    }

    /// Lists every parameter and running statistic, in the order of the nodes.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.nodes.iter().flat_map(|node| node.op.parameters()).collect()
    }
}

/// Builds a network node by node, keeping track of channels and stage.
pub(crate) struct Builder {
    nodes: Vec<Node>,
    pub(crate) stage: usize,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self { nodes: vec![Node { op: Op::Input, inputs: vec![], stage: 0 }], stage: 0 }
    }

    pub(crate) fn push(&mut self, op: Op, inputs: Vec<usize>) -> usize {
        self.nodes.push(Node { op, inputs, stage: self.stage });
        self.nodes.len() - 1
    }

    pub(crate) fn conv(&mut self, from: usize, conv: Conv) -> usize {
        self.push(Op::Conv(conv), vec![from])
    }

    /// Closes a network whose last node gives the features.
    pub(crate) fn finish(self, features: usize) -> Network {
        let stages = self.stage + 1;
        Network { nodes: self.nodes, features, stages, padding: Padding::Symmetric, bn_eps: 1e-5 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Architecture;

    #[test]
    fn tf_padding_puts_the_odd_pixel_after() {
        assert_eq!(Padding::TfSame.amounts(224, 3, 2), (0, 1));
        assert_eq!(Padding::TfSame.amounts(7, 3, 2), (1, 1));
        assert_eq!(Padding::TfSame.amounts(14, 3, 1), (1, 1));
        assert_eq!(Padding::TfSame.output_len(225, 3, 2), 113);
        assert_eq!(Padding::Symmetric.output_len(224, 7, 2), 112);
    }

    /// Parameter counts of torchvision 0.29's models without the classifier, running statistics not counted.
    #[test]
    fn parameter_counts_equal_torchvision() {
        for (id, count) in [
            ("mobilenet_v2", 3_504_872 - 1_281_000),
            ("mobilenet_v3_small", 2_542_856 - 1_025_000),
            ("mobilenet_v3_large", 5_483_032 - 1_281_000),
            ("efficientnet_b0", 5_288_548 - 1_281_000),
            ("resnet18", 11_689_512 - 513_000),
            ("resnet34", 21_797_672 - 513_000),
            ("resnet50", 25_557_032 - 2_049_000),
        ] {
            let net = id.parse::<Architecture>().unwrap().backbone(Padding::Symmetric, 1e-5);
            let found: usize = net
                .parameters()
                .iter()
                .filter(|p| p.role.is_trained())
                .map(|p| p.shape.iter().product::<usize>())
                .sum();
            assert_eq!(found, count, "{id}");
        }
    }
}
