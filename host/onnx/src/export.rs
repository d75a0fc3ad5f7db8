//! Walks a network once and writes it as an ONNX graph, in f32, in halves, or with QDQ pairs.
//!
//! The graph takes `image`, `u8 [n, h, w, 3]`, normalises it and ends in `logits`, `f32 [n, classes]` (or
//! `features`, `f32 [n, features]`, without a head). Batch normalisation is folded.

use std::collections::{BTreeMap, BTreeSet};

use graft_zoo::{Activation, Network, Op, Preprocessing, Tensor};
use prost::Message;
use tract_onnx::pb::{AttributeProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, tensor_proto::DataType};

use crate::graph::{Dim, Graph, float, int, ints};
use crate::layers::{Layer, Layers};
use crate::quantize::{Affine, Integers, QuantError, Quantization, quantize_bias};
use crate::values::{NORMALISED, Value, name_of, values, within};
use crate::{HEAD, OnnxError};

/// Operator set of every graph written.
pub const OPSET: i64 = 17;
/// File format version that goes with the operator set.
const IR_VERSION: i64 = 8;

/// A linear classifier on the feature vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// `[classes, features]`.
    pub weight: Tensor,
    /// `[classes]`.
    pub bias: Vec<f32>,
}

impl Head {
    /// Returns one that tells nothing yet.
    pub fn zeros(outputs: usize, features: usize) -> Self {
        let weight = Tensor { shape: vec![outputs, features], data: vec![0.0; outputs * features] };
        Self { weight, bias: vec![0.0; outputs] }
    }
}

/// Key-value pairs for `metadata_props`, written in key order.
pub type Metadata = BTreeMap<String, String>;

/// What the graph returns besides its last value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    /// Nothing.
    Last,
    /// Every activation, as its readers see it, in the order of [`values`].
    Activations,
}

/// What numbers a file holds.
#[derive(Debug, Clone, Copy)]
pub enum Format<'a> {
    /// f32.
    Float,
    /// f16 weights, computed with in f32.
    Half,
    /// s8 weights by channel, computed with in f32: layers without an entry stay f32.
    Weights(&'a BTreeMap<String, Integers>),
    /// u8 activations, s8 weights by channel, s32 biases, as QDQ pairs: layers without an entry stay f32.
    Bytes(&'a Quantization),
}

/// All that goes into a file.
#[derive(Debug, Clone, Copy)]
pub struct Export<'a> {
    /// The network.
    pub network: &'a Network,
    /// Its layers; without a head the graph ends in features.
    pub layers: &'a Layers,
    /// Input size and normalisation.
    pub preprocessing: &'a Preprocessing,
}

impl Export<'_> {
    /// Writes the graph.
    ///
    /// # Errors
    ///
    /// [`OnnxError::MissingLayer`] where the layers are another network's, and [`OnnxError::NotCalibrated`].
    pub fn write(&self, format: Format<'_>, outputs: Outputs, metadata: &Metadata) -> Result<Vec<u8>, OnnxError> {
        let values = values(self.network);
        let rounded = match format {
            Format::Bytes(quantization) => rounded(&values, quantization),
            _ => BTreeSet::new(),
        };
        let mut walk = Walk { export: self, graph: Graph::default(), format, rounded, ready: BTreeMap::new() };
        let features = walk.backbone()?;
        let (last, width) = match self.layers.get(HEAD) {
            Some(head) => (walk.head(head, &features)?, head.outputs()),
            None => (walk.graph.node("Identity", &[&features.0], "features", vec![]), self.network.features),
        };
        let mut graph = std::mem::take(&mut walk.graph);
        let side = self.preprocessing.crop as usize;
        graph.input("image", DataType::Uint8, &[Dim::Named("n"), Dim::Fixed(side), Dim::Fixed(side), Dim::Fixed(3)]);
        graph.output(&last, DataType::Float, &[Dim::Named("n"), Dim::Fixed(width)]);
        if outputs == Outputs::Activations {
            for Value { name, channels, .. } in values {
                let size = if name == NORMALISED {
                    [(); 2].map(|()| Dim::Fixed(side))
                } else {
                    [Dim::Named("h"), Dim::Named("w")]
                };
                let [h, w] = size;
                let name = if walk.rounded.contains(&name) { format!("{name}/dq") } else { name };
                graph.output(&name, DataType::Float, &[Dim::Named("n"), Dim::Fixed(channels), h, w]);
            }
        }
        let metadata_props =
            metadata.iter().map(|(k, v)| StringStringEntryProto { key: k.clone(), value: v.clone() }).collect();
        let model = ModelProto {
            ir_version: IR_VERSION,
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            producer_name: "graft".into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            graph: Some(graph.finish("graft")),
            metadata_props,
            ..Default::default()
        };
        Ok(model.encode_to_vec())
    }
}

/// Returns the names of the activations that are rounded: those that a layer of bytes reads, and those that a rounded one is
/// computed from without weights.
fn rounded(values: &[Value], quantization: &Quantization) -> BTreeSet<String> {
    let mut rounded = BTreeSet::new();
    for value in values.iter().rev() {
        let by_layer = value.layers.iter().any(|l| quantization.layers.contains_key(l));
        if by_layer || value.makes.iter().any(|v| rounded.contains(v)) {
            rounded.insert(value.name.clone());
        }
    }
    rounded
}

/// Returns the name of what an activation is applied to: the node's own where there is none.
fn bare(name: &str, part: &str, activation: Activation) -> String {
    if activation == Activation::None { name.to_owned() } else { format!("{name}/{part}") }
}

/// The state of one walk over the network.
struct Walk<'a> {
    export: &'a Export<'a>,
    graph: Graph,
    format: Format<'a>,
    /// The activations that a QDQ pair follows.
    rounded: BTreeSet<String>,
    /// For every activation written: the name its readers use and its quantization, if any.
    ready: BTreeMap<usize, (String, Option<Affine>)>,
}

impl Walk<'_> {
    fn backbone(&mut self) -> Result<(String, Option<Affine>), OnnxError> {
        let network = self.export.network;
        let mut side = self.export.preprocessing.crop as usize;
        let mut sides = vec![side; network.nodes.len()];
        for (index, node) in network.nodes.iter().enumerate() {
            let name = name_of(network, index);
            let value = match &node.op {
                Op::Input => {
                    self.normalise();
                    name
                }
                Op::Conv(conv) => {
                    let size = sides[node.inputs[0]];
                    side = network.padding.output_len(size, conv.kernel, conv.stride);
                    let (before, after) = network.padding.amounts(size, conv.kernel, conv.stride);
                    let input = self.ready[&node.inputs[0]].clone();
                    let attributes = vec![
                        ints("kernel_shape", [conv.kernel; 2]),
                        ints("strides", [conv.stride; 2]),
                        ints("pads", [before, before, after, after]),
                        int("group", conv.groups as i64),
                    ];
                    self.conv(&name, &input, attributes, conv.activation)?
                }
                Op::Add(activation) => {
                    side = sides[node.inputs[0]];
                    let (a, b) = (self.ready[&node.inputs[0]].0.clone(), self.ready[&node.inputs[1]].0.clone());
                    let raw = self.graph.node("Add", &[&a, &b], &bare(&name, "add", *activation), vec![]);
                    self.activate(*activation, &raw, &name)
                }
                Op::MaxPool => {
                    let size = sides[node.inputs[0]];
                    side = network.padding.output_len(size, 3, 2);
                    let (before, after) = network.padding.amounts(size, 3, 2);
                    let input = self.ready[&node.inputs[0]].0.clone();
                    let attributes = vec![
                        ints("kernel_shape", [3; 2]),
                        ints("strides", [2; 2]),
                        ints("pads", [before, before, after, after]),
                    ];
                    self.graph.node("MaxPool", &[&input], &name, attributes)
                }
                Op::GlobalAveragePool => {
                    let input = self.ready[&node.inputs[0]].0.clone();
                    self.graph.node("GlobalAveragePool", &[&input], &name, vec![])
                }
                Op::SqueezeExcite(s) => {
                    side = sides[node.inputs[0]];
                    let input = self.ready[&node.inputs[0]].0.clone();
                    let [means, reduced, factors] = within(&name);
                    self.graph.node("GlobalAveragePool", &[&input], &means, vec![]);
                    let means = self.quantize(&means)?;
                    let reduced = self.connected(&reduced, &means, s.activation)?;
                    let reduced = self.quantize(&reduced)?;
                    let factors = self.connected(&factors, &reduced, s.gate)?;
                    let factors = self.quantize(&factors)?;
                    self.graph.node("Mul", &[&input, &factors.0], &name, vec![])
                }
                Op::Linear(l) => {
                    let input = self.ready[&node.inputs[0]].clone();
                    self.connected(&name, &input, l.activation)?
                }
            };
            sides[index] = side;
            let done = self.quantize(&value)?;
            self.ready.insert(index, done);
        }
        let (pooled, affine) = self.ready[&(network.nodes.len() - 1)].clone();
        Ok((self.graph.node("Flatten", &[&pooled], "flat", vec![int("axis", 1)]), affine))
    }

    /// Writes `(image - mean) / std` in NCHW.
    fn normalise(&mut self) {
        let p = self.export.preprocessing;
        let g = &mut self.graph;
        g.f32s("mean", &[1, 3, 1, 1], &p.mean);
        g.f32s("std", &[1, 3, 1, 1], &p.std);
        g.node("Transpose", &["image"], "image/nchw", vec![ints("perm", [0, 3, 1, 2])]);
        g.node("Cast", &["image/nchw"], "image/f32", vec![int("to", DataType::Float as i64)]);
        g.node("Sub", &["image/f32", "mean"], "image/centred", vec![]);
        g.node("Div", &["image/centred", "std"], NORMALISED, vec![]);
    }

    /// Writes a convolution and its activation.
    fn conv(
        &mut self,
        name: &str,
        input: &(String, Option<Affine>),
        attributes: Vec<AttributeProto>,
        activation: Activation,
    ) -> Result<String, OnnxError> {
        let layers = self.export.layers;
        let layer = layers.get(name).ok_or_else(|| OnnxError::MissingLayer(name.to_owned()))?;
        let (weight, bias) = self.parameters(layer, input.1)?;
        let raw = self.graph.node("Conv", &[&input.0, &weight, &bias], &bare(name, "conv", activation), attributes);
        Ok(self.activate(activation, &raw, name))
    }

    /// Writes a fully connected layer on `[n, c, 1, 1]` and its activation.
    fn connected(
        &mut self,
        name: &str,
        input: &(String, Option<Affine>),
        activation: Activation,
    ) -> Result<String, OnnxError> {
        self.conv(name, input, vec![ints("kernel_shape", [1; 2])], activation)
    }

    fn activate(&mut self, activation: Activation, raw: &str, name: &str) -> String {
        match activation {
            Activation::None => name.to_owned(),
            Activation::Relu => self.graph.node("Relu", &[raw], name, vec![]),
            Activation::Relu6 => {
                if !self.ready.values().any(|(n, _)| n == "clip bounds") {
                    self.graph.f32s("zero", &[], &[0.0]);
                    self.graph.f32s("six", &[], &[6.0]);
                    self.ready.insert(usize::MAX, ("clip bounds".into(), None));
                }
                self.graph.node("Clip", &[raw, "zero", "six"], name, vec![])
            }
            Activation::HardSwish => self.graph.node("HardSwish", &[raw], name, vec![]),
            Activation::HardSigmoid => {
                let attributes = vec![float("alpha", 1.0 / 6.0), float("beta", 0.5)];
                self.graph.node("HardSigmoid", &[raw], name, attributes)
            }
            Activation::Sigmoid => self.graph.node("Sigmoid", &[raw], name, vec![]),
            Activation::Silu => {
                let gate = self.graph.node("Sigmoid", &[raw], &format!("{name}/sigmoid"), vec![]);
                self.graph.node("Mul", &[raw, &gate], name, vec![])
            }
        }
    }

    /// Follows an activation by a QDQ pair where it is to be rounded; returns the name that readers use.
    fn quantize(&mut self, name: &str) -> Result<(String, Option<Affine>), OnnxError> {
        let Format::Bytes(quantization) = self.format else { return Ok((name.to_owned(), None)) };
        if !self.rounded.contains(name) {
            return Ok((name.to_owned(), None));
        }
        let affine = quantization.affine(name)?;
        let scale = self.graph.f32s(&format!("{name}/scale"), &[], &[affine.scale]);
        let zero = self.graph.u8s(&format!("{name}/zero_point"), &[], &[affine.zero_point]);
        let q = self.graph.node("QuantizeLinear", &[name, &scale, &zero], &format!("{name}/q"), vec![]);
        let dq = self.graph.node("DequantizeLinear", &[&q, &scale, &zero], &format!("{name}/dq"), vec![]);
        Ok((dq, Some(affine)))
    }

    /// Writes a layer's weight and bias in the file's numbers, with what makes floats of them; `input` is how its input is
    /// rounded, if it is.
    fn parameters(&mut self, layer: &Layer, input: Option<Affine>) -> Result<(String, String), OnnxError> {
        let name = &layer.name;
        let (weight, bias) = (format!("{name}/weight"), format!("{name}/bias"));
        let Tensor { shape, data } = &layer.weight;
        let (integers, input) = match self.format {
            Format::Half => {
                if data.iter().any(|w| !half::f16::from_f32(*w).is_finite()) {
                    return Err(QuantError::NotFinite(format!("the weights of {name} as halves")).into());
                }
                let halves = self.graph.f16s(&format!("{weight}/half"), shape, data);
                self.graph.node("Cast", &[&halves], &weight, vec![int("to", DataType::Float as i64)]);
                (None, None)
            }
            Format::Weights(layers) => (layers.get(name), None),
            Format::Bytes(quantization) => (quantization.layers.get(name), input),
            Format::Float => (None, None),
        };
        let Some(integers) = integers else {
            if !matches!(self.format, Format::Half) {
                self.graph.f32s(&weight, shape, data);
            }
            self.graph.f32s(&bias, &[layer.outputs()], &layer.bias);
            return Ok((weight, bias));
        };
        let out = layer.outputs();
        let g = &mut self.graph;
        let axis = || vec![int("axis", 0)];
        let dequantize = |g: &mut Graph, base: &str| {
            let [q, scale, zero] = ["q", "scale", "zero_point"].map(|part| format!("{base}/{part}"));
            g.node("DequantizeLinear", &[&q, &scale, &zero], base, axis());
        };
        g.i8s(&format!("{weight}/q"), shape, &integers.weight);
        g.f32s(&format!("{weight}/scale"), &[out], &integers.scales);
        g.i8s(&format!("{weight}/zero_point"), &[out], &vec![0; out]);
        dequantize(g, &weight);
        match input {
            Some(input) => {
                let scales: Vec<f32> = integers.scales.iter().map(|s| s * input.scale).collect();
                let quantized = quantize_bias(&integers.bias, input.scale, &integers.scales);
                g.i32s(&format!("{bias}/q"), &[out], &quantized);
                g.f32s(&format!("{bias}/scale"), &[out], &scales);
                g.i32s(&format!("{bias}/zero_point"), &[out], &vec![0; out]);
                dequantize(g, &bias);
            }
            None => {
                g.f32s(&bias, &[out], &integers.bias);
            }
        }
        Ok((weight, bias))
    }

    fn head(&mut self, head: &Layer, features: &(String, Option<Affine>)) -> Result<String, OnnxError> {
        let (w, b) = self.parameters(head, features.1)?;
        Ok(self.graph.node("Gemm", &[&features.0, &w, &b], "logits", vec![int("transB", 1)]))
    }
}
