//! Walks a network once and writes it as an ONNX graph, in f32 or, given a calibration, with QDQ pairs.
//!
//! The graph takes `image`, `u8 [n, h, w, 3]`, normalises it and ends in `logits`, `f32 [n, classes]` (or
//! `features`, `f32 [n, features]`, without a head). Batch normalisation is folded.

use std::collections::BTreeMap;

use graft_zoo::weights::Tensors;
use graft_zoo::{Activation, Network, Op, Preprocessing, Tensor};
use prost::Message;
use tract_onnx::pb::{AttributeProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, tensor_proto::DataType};

use crate::OnnxError;
use crate::fold::{Folded, fold, layer};
use crate::graph::{Dim, Graph, float, int, ints};
use crate::quantize::{Affine, Calibration, fit_bias, quantize_bias, quantize_weights, weight_scales};

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
    /// Every activation that quantization needs a range for, in the order of [`Export::activations`].
    Activations,
}

/// All that goes into a file.
#[derive(Debug, Clone, Copy)]
pub struct Export<'a> {
    /// The network.
    pub network: &'a Network,
    /// Its parameters.
    pub weights: &'a Tensors,
    /// The classifier, or none to end in features.
    pub head: Option<&'a Head>,
    /// Input size and normalisation.
    pub preprocessing: &'a Preprocessing,
}

impl Export<'_> {
    /// Returns the names of the activations that are quantized, in graph order.
    pub fn activations(&self) -> Vec<String> {
        self.values().into_iter().map(|(name, _)| name).collect()
    }

    /// Returns them with their channels.
    fn values(&self) -> Vec<(String, usize)> {
        let (mut values, mut channels) = (Vec::new(), Vec::new());
        for (index, node) in self.network.nodes.iter().enumerate() {
            let (name, mut width) = (self.name(index), node.inputs.first().map_or(3, |&j| channels[j]));
            match &node.op {
                Op::Conv(c) => width = c.outputs,
                Op::Linear(l) => width = l.outputs,
                Op::SqueezeExcite(s) => {
                    values.extend(within(&name).into_iter().zip([s.channels, s.squeezed, s.channels]));
                }
                Op::Input | Op::Add(_) | Op::MaxPool | Op::GlobalAveragePool => {}
            }
            values.push((name, width));
            channels.push(width);
        }
        values
    }

    /// Writes the f32 graph.
    ///
    /// # Errors
    ///
    /// [`OnnxError::MissingTensor`] or [`OnnxError::Head`].
    pub fn float(&self, outputs: Outputs, metadata: &Metadata) -> Result<Vec<u8>, OnnxError> {
        self.write(None, outputs, metadata)
    }

    /// Writes the int8 graph: u8 activations, per-channel s8 weights, s32 biases, as QDQ pairs.
    ///
    /// # Errors
    ///
    /// As [`Export::float`], and [`OnnxError::NotCalibrated`].
    pub fn int8(&self, calibration: &Calibration, metadata: &Metadata) -> Result<Vec<u8>, OnnxError> {
        self.write(Some(calibration), Outputs::Last, metadata)
    }

    fn name(&self, node: usize) -> String {
        match self.network.nodes[node].op {
            Op::Input => NORMALISED.to_owned(),
            _ => format!("node{node}"),
        }
    }

    fn write(
        &self,
        calibration: Option<&Calibration>,
        outputs: Outputs,
        metadata: &Metadata,
    ) -> Result<Vec<u8>, OnnxError> {
        let mut walk = Walk { export: self, graph: Graph::default(), calibration, ready: BTreeMap::new() };
        let features = walk.backbone()?;
        let (last, width) = match self.head {
            Some(head) => (walk.head(head, &features)?, head.bias.len()),
            None => (walk.graph.node("Identity", &[&features.0], "features", vec![]), self.network.features),
        };
        let mut graph = walk.graph;
        let side = self.preprocessing.crop as usize;
        graph.input("image", DataType::Uint8, &[Dim::Named("n"), Dim::Fixed(side), Dim::Fixed(side), Dim::Fixed(3)]);
        graph.output(&last, DataType::Float, &[Dim::Named("n"), Dim::Fixed(width)]);
        if outputs == Outputs::Activations {
            for (name, channels) in self.values() {
                let size = if name == NORMALISED {
                    [(); 2].map(|()| Dim::Fixed(side))
                } else {
                    [Dim::Named("h"), Dim::Named("w")]
                };
                let [h, w] = size;
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

/// Returns the names of the activations within a squeeze-and-excitation: means, what they are reduced to, factors.
fn within(node: &str) -> [String; 3] {
    ["means", "reduced", "factors"].map(|part| format!("{node}/{part}"))
}

const NORMALISED: &str = "normalised";

/// Returns the name of what an activation is applied to: the node's own where there is none.
fn bare(name: &str, part: &str, activation: Activation) -> String {
    if activation == Activation::None { name.to_owned() } else { format!("{name}/{part}") }
}

/// The state of one walk over the network.
struct Walk<'a> {
    export: &'a Export<'a>,
    graph: Graph,
    calibration: Option<&'a Calibration>,
    /// For every activation written: the name its readers use and its quantization, if any.
    ready: BTreeMap<usize, (String, Option<Affine>)>,
}

impl Walk<'_> {
    fn backbone(&mut self) -> Result<(String, Option<Affine>), OnnxError> {
        let network = self.export.network;
        let mut side = self.export.preprocessing.crop as usize;
        let mut sides = vec![side; network.nodes.len()];
        for (index, node) in network.nodes.iter().enumerate() {
            let name = self.export.name(index);
            let value = match &node.op {
                Op::Input => {
                    self.normalise();
                    name
                }
                Op::Conv(conv) => {
                    let size = sides[node.inputs[0]];
                    side = network.padding.output_len(size, conv.kernel, conv.stride);
                    let (before, after) = network.padding.amounts(size, conv.kernel, conv.stride);
                    let folded = fold(conv, network.bn_eps, self.export.weights)?;
                    let input = self.ready[&node.inputs[0]].clone();
                    let attributes = vec![
                        ints("kernel_shape", [conv.kernel; 2]),
                        ints("strides", [conv.stride; 2]),
                        ints("pads", [before, before, after, after]),
                        int("group", conv.groups as i64),
                    ];
                    self.conv(&name, &input, &folded, attributes, conv.activation)?
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
                    let reduced = self.layer(&reduced, &means, &s.reduce, s.activation)?;
                    let reduced = self.quantize(&reduced)?;
                    let factors = self.layer(&factors, &reduced, &s.expand, s.gate)?;
                    let factors = self.quantize(&factors)?;
                    self.graph.node("Mul", &[&input, &factors.0], &name, vec![])
                }
                Op::Linear(l) => {
                    let input = self.ready[&node.inputs[0]].clone();
                    self.layer(&name, &input, &l.name, l.activation)?
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
        folded: &Folded,
        attributes: Vec<AttributeProto>,
        activation: Activation,
    ) -> Result<String, OnnxError> {
        let (weight, bias) = self.parameters(name, input, &folded.weight, &folded.bias)?;
        let raw = self.graph.node("Conv", &[&input.0, &weight, &bias], &bare(name, "conv", activation), attributes);
        Ok(self.activate(activation, &raw, name))
    }

    /// Writes a fully connected layer on `[n, c, 1, 1]` and its activation.
    fn layer(
        &mut self,
        name: &str,
        input: &(String, Option<Affine>),
        of: &str,
        activation: Activation,
    ) -> Result<String, OnnxError> {
        let folded = layer(of, self.export.weights)?;
        self.conv(name, input, &folded, vec![ints("kernel_shape", [1; 2])], activation)
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

    /// Follows an activation by a QDQ pair where there is a calibration; returns the name that readers use.
    fn quantize(&mut self, name: &str) -> Result<(String, Option<Affine>), OnnxError> {
        let Some(calibration) = self.calibration else {
            return Ok((name.to_owned(), None));
        };
        let affine = *calibration.activations.get(name).ok_or_else(|| OnnxError::NotCalibrated(name.to_owned()))?;
        let scale = self.graph.f32s(&format!("{name}/scale"), &[], &[affine.scale]);
        let zero = self.graph.u8s(&format!("{name}/zero_point"), &[], &[affine.zero_point]);
        let q = self.graph.node("QuantizeLinear", &[name, &scale, &zero], &format!("{name}/q"), vec![]);
        let dq = self.graph.node("DequantizeLinear", &[&q, &scale, &zero], &format!("{name}/dq"), vec![]);
        Ok((dq, Some(affine)))
    }

    /// Writes weight `[out, ...]` and bias `[out]` as floats, or as integers with their DequantizeLinear.
    fn parameters(
        &mut self,
        name: &str,
        input: &(String, Option<Affine>),
        weight: &Tensor,
        bias: &[f32],
    ) -> Result<(String, String), OnnxError> {
        let (w, b) = (format!("{name}/weight"), format!("{name}/bias"));
        let Some(affine) = input.1 else {
            return Ok((self.graph.f32s(&w, &weight.shape, &weight.data), self.graph.f32s(&b, &[bias.len()], bias)));
        };
        let out = bias.len();
        let mut scales = weight_scales(&weight.data, out)?;
        fit_bias(&mut scales, bias, affine.scale);
        let g = &mut self.graph;
        let axis = || vec![int("axis", 0)];
        g.i8s(&format!("{w}/q"), &weight.shape, &quantize_weights(&weight.data, &scales));
        g.f32s(&format!("{w}/scale"), &[out], &scales);
        g.i8s(&format!("{w}/zero_point"), &[out], &vec![0; out]);
        g.i32s(&format!("{b}/q"), &[out], &quantize_bias(bias, affine.scale, &scales));
        let bias_scales: Vec<f32> = scales.iter().map(|s| s * affine.scale).collect();
        g.f32s(&format!("{b}/scale"), &[out], &bias_scales);
        g.i32s(&format!("{b}/zero_point"), &[out], &vec![0; out]);
        let part = |base: &str, p: &str| format!("{base}/{p}");
        g.node("DequantizeLinear", &[&part(&w, "q"), &part(&w, "scale"), &part(&w, "zero_point")], &w, axis());
        g.node("DequantizeLinear", &[&part(&b, "q"), &part(&b, "scale"), &part(&b, "zero_point")], &b, axis());
        Ok((w, b))
    }

    fn head(&mut self, head: &Head, features: &(String, Option<Affine>)) -> Result<String, OnnxError> {
        let width = self.export.network.features;
        if head.weight.shape != [head.bias.len(), width] {
            return Err(OnnxError::Head {
                classes: head.bias.len(),
                features: width,
                found: head.weight.shape.clone(),
            });
        }
        let (w, b) = self.parameters("head", features, &head.weight, &head.bias)?;
        Ok(self.graph.node("Gemm", &[&features.0, &w, &b], "logits", vec![int("transB", 1)]))
    }
}
