//! A network as data: a list of nodes in topological order, each with the torchvision name of its parameters.
//!
//! Layout-free: shapes are given as channels, kernels and strides; an engine chooses NHWC or NCHW.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{mobilenet_v2, resnet};

/// An architecture with the choices that change its shape.
///
/// Its text form is the model id of the command line: `mobilenet_v2`, `mobilenet_v2:0.35`, `resnet18`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Architecture {
    /// MobileNetV2 (Sandler et al., arXiv:1801.04381) with its width multiplier.
    MobileNetV2 {
        /// Multiplies every channel count; 1.0 is the paper's network.
        width: f32,
    },
    /// ResNet (He et al., arXiv:1512.03385) of 18, 34 or 50 layers, torchvision's variant.
    ResNet {
        /// Number of layers.
        depth: u32,
    },
}

impl Architecture {
    /// Describes the network without its classifier; the output is the pooled feature vector `[n, features]`.
    pub fn backbone(self, padding: Padding, bn_eps: f32) -> Network {
        let mut net = match self {
            Self::MobileNetV2 { width } => mobilenet_v2::backbone(width),
            Self::ResNet { depth } => resnet::backbone(depth),
        };
        net.padding = padding;
        net.bn_eps = bn_eps;
        net
    }

    /// Returns the torchvision name of the classifier layer.
    pub fn head_name(self) -> &'static str {
        match self {
            Self::MobileNetV2 { .. } => "classifier.1",
            Self::ResNet { .. } => "fc",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MobileNetV2 { width } if *width == 1.0 => write!(f, "mobilenet_v2"),
            Self::MobileNetV2 { width } => write!(f, "mobilenet_v2:{width}"),
            Self::ResNet { depth } => write!(f, "resnet{depth}"),
        }
    }
}

impl From<Architecture> for String {
    fn from(a: Architecture) -> Self {
        a.to_string()
    }
}

impl TryFrom<String> for Architecture {
    type Error = UnknownArchitecture;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl FromStr for Architecture {
    type Err = UnknownArchitecture;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownArchitecture(s.to_owned());
        if let Some(depth) = s.strip_prefix("resnet") {
            let depth = depth.parse().map_err(|_| unknown())?;
            return if matches!(depth, 18 | 34 | 50) { Ok(Self::ResNet { depth }) } else { Err(unknown()) };
        }
        let rest = s.strip_prefix("mobilenet_v2").ok_or_else(unknown)?;
        let width: f32 = match rest.strip_prefix(':') {
            None if rest.is_empty() => 1.0,
            None => return Err(unknown()),
            Some(w) => w.parse().map_err(|_| unknown())?,
        };
        if !(0.1..=2.0).contains(&width) {
            return Err(unknown());
        }
        Ok(Self::MobileNetV2 { width })
    }
}

/// A model id that names no architecture.
#[derive(Debug, thiserror::Error)]
#[error(
    "expected an architecture (mobilenet_v2, mobilenet_v2:WIDTH with 0.1 <= WIDTH <= 2, resnet18, resnet34, resnet50), found {0:?}"
)]
pub struct UnknownArchitecture(pub String);

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
}

impl Activation {
    /// Returns the interval that the activation clamps to.
    pub fn bounds(self) -> (f32, f32) {
        match self {
            Self::None => (f32::NEG_INFINITY, f32::INFINITY),
            Self::Relu => (0.0, f32::INFINITY),
            Self::Relu6 => (0.0, 6.0),
        }
    }
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

    /// Lists every parameter and running statistic with its shape, under torchvision names.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let mut out = Vec::new();
        for (_, c) in self.convs() {
            out.push((format!("{}.weight", c.name), vec![c.outputs, c.inputs / c.groups, c.kernel, c.kernel]));
            for part in ["weight", "bias", "running_mean", "running_var"] {
                out.push((format!("{}.{part}", c.norm), vec![c.outputs]));
            }
        }
        out
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

    pub(crate) fn finish(mut self, from: usize, features: usize) -> Network {
        self.push(Op::GlobalAveragePool, vec![from]);
        let stages = self.stage + 1;
        Network { nodes: self.nodes, features, stages, padding: Padding::Symmetric, bn_eps: 1e-5 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_strangers_are_refused() {
        for id in ["mobilenet_v2", "mobilenet_v2:0.35", "resnet18", "resnet34", "resnet50"] {
            assert_eq!(id.parse::<Architecture>().unwrap().to_string(), id);
        }
        for id in ["", "resnet19", "mobilenet_v2:9", "mobilenet_v2:nan", "mobilenet_v2x", "vgg"] {
            assert!(id.parse::<Architecture>().is_err(), "{id}");
        }
    }

    #[test]
    fn tf_padding_puts_the_odd_pixel_after() {
        assert_eq!(Padding::TfSame.amounts(224, 3, 2), (0, 1));
        assert_eq!(Padding::TfSame.amounts(7, 3, 2), (1, 1));
        assert_eq!(Padding::TfSame.amounts(14, 3, 1), (1, 1));
        assert_eq!(Padding::TfSame.output_len(225, 3, 2), 113);
        assert_eq!(Padding::Symmetric.output_len(224, 7, 2), 112);
    }

    /// Parameter counts of torchvision 0.20's models without the classifier, running statistics not counted.
    #[test]
    fn parameter_counts_equal_torchvision() {
        for (id, count) in [
            ("mobilenet_v2", 3_504_872 - 1_281_000),
            ("resnet18", 11_689_512 - 513_000),
            ("resnet34", 21_797_672 - 513_000),
            ("resnet50", 25_557_032 - 2_049_000),
        ] {
            let net = id.parse::<Architecture>().unwrap().backbone(Padding::Symmetric, 1e-5);
            let found: usize = net
                .parameters()
                .iter()
                .filter(|(n, _)| !n.contains("running"))
                .map(|(_, s)| s.iter().product::<usize>())
                .sum();
            assert_eq!(found, count, "{id}");
        }
    }
}
