//! Compiled graphs against tract's own answer on the same graph.

use std::path::Path;

use prost::Message;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, ModelProto, OperatorSetIdProto};

use crate::input::Input;
use crate::model::tests::{colours, floats, graph_of, int, ints, node, tensor, value};
use crate::outline::Source;
use crate::plan::Plan;
use crate::{EngineChoice, Model, Network, Picture};

/// Uniform numbers in [-1, 1), the same for a seed.
fn numbers(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// An inverted residual block with its stem, pool and head: 8x8 pixels, 5 and 20 channels; `act0` and `sum` are read as
/// outputs too.
fn block() -> ModelProto {
    let mut model = colours();
    let graph = graph_of(&mut model);
    let weights = |name: &str, seed: u32, dims: &[i64]| {
        let len = dims.iter().product::<i64>() as usize;
        floats(name, dims, &numbers(seed, len))
    };
    graph.initializer = vec![
        floats("mean", &[1, 3, 1, 1], &[120.0, 110.0, 100.0]),
        floats("std", &[1, 3, 1, 1], &[60.0, 50.0, 40.0]),
        floats("zero", &[], &[0.0]),
        floats("six", &[], &[6.0]),
        weights("w0", 1, &[5, 3, 3, 3]),
        weights("b0", 2, &[5]),
        weights("w1", 3, &[20, 5, 1, 1]),
        weights("b1", 4, &[20]),
        weights("w2", 5, &[20, 1, 3, 3]),
        weights("b2", 6, &[20]),
        weights("w3", 7, &[5, 20, 1, 1]),
        weights("w", 8, &[3, 5]),
        weights("b", 9, &[3]),
    ];
    graph.node = vec![
        node("Transpose", &["image"], "nchw", vec![ints("perm", &[0, 3, 1, 2])]),
        node("Cast", &["nchw"], "f32", vec![int("to", DataType::Float as i64)]),
        node("Sub", &["f32", "mean"], "centred", vec![]),
        node("Div", &["centred", "std"], "normalised", vec![]),
        node("Conv", &["normalised", "w0", "b0"], "conv0", vec![ints("pads", &[0, 1, 2, 1]), ints("strides", &[1, 2])]),
        node("Clip", &["conv0", "zero", "six"], "act0", vec![]),
        node("Conv", &["act0", "w1", "b1"], "conv1", vec![]),
        node("HardSwish", &["conv1"], "act1", vec![]),
        node("Conv", &["act1", "w2", "b2"], "conv2", vec![ints("pads", &[1, 1, 1, 1]), int("group", 20)]),
        node("Relu", &["conv2"], "act2", vec![]),
        node("Conv", &["act2", "w3"], "conv3", vec![]),
        node("Add", &["act0", "conv3"], "sum", vec![]),
        node("MaxPool", &["sum"], "largest", vec![ints("kernel_shape", &[3, 2]), ints("pads", &[1, 0, 1, 1])]),
        node("AveragePool", &["largest"], "means", vec![ints("kernel_shape", &[2, 2]), ints("pads", &[1, 0, 0, 1])]),
        node("Sigmoid", &["means"], "soft", vec![]),
        node("GlobalAveragePool", &["soft"], "pool", vec![]),
        node("Flatten", &["pool"], "flat", vec![int("axis", 1)]),
        node("Gemm", &["flat", "w", "b"], "logits", vec![int("transB", 1)]),
    ];
    for name in ["normalised", "act0", "sum"] {
        graph.output.push(value(name, DataType::Float, &[-1, 5, 8, 4]));
    }
    model
}

fn compiled(model: ModelProto) -> Result<Plan, String> {
    let bytes = model.encode_to_vec();
    let mut source = Source::held(Path::new("m.onnx"), &bytes);
    let mut outline = source.outline().unwrap();
    let input = Input::of(&outline.graph, None).unwrap();
    let constants = source.constants(&mut outline).unwrap();
    super::compile(&outline.graph, constants, &input)
}

fn pixels() -> Vec<u8> {
    numbers(99, 8 * 8 * 3).iter().map(|v| (v * 127.0 + 128.0) as u8).collect()
}

#[test]
fn a_compiled_network_answers_as_tract_does() {
    let bytes = block().encode_to_vec();
    let (ours, tract) = (Model::from_onnx(&bytes).unwrap(), Model::in_tract(&bytes).unwrap());
    assert_eq!(ours.network().unrecognised(), None);
    assert!(tract.network().unrecognised().is_some());
    let (found, expected) = (ours.run(&pixels()).unwrap(), tract.run(&pixels()).unwrap());
    for (f, e) in found.iter().zip(&expected) {
        assert_eq!(f.len(), e.len());
        let largest = e.iter().fold(1f32, |m, v| m.max(v.abs()));
        for (f, e) in f.iter().zip(e) {
            assert!((f - e).abs() <= 1e-5 * largest, "{f} {e}");
        }
    }
    assert_eq!(found, ours.run(&pixels()).unwrap(), "a second run in the same memory");
}

/// The block with QDQ pairs, one of them with two readers. No value of the picture falls between two steps, where tract,
/// which multiplies by the reciprocal of the scale, may round otherwise than the specification.
fn quantized_block() -> ModelProto {
    let mut model = block();
    let graph = graph_of(&mut model);
    graph.output.truncate(1);
    let pairs = [
        ("normalised", 0.0193, 120),
        ("act0", 6.0 / 255.0, 0),
        ("act1", 0.03, 9),
        ("conv3", 0.05, 130),
        ("sum", 0.06, 77),
    ];
    for (name, scale, zero) in pairs {
        let (q, dq) = (format!("{name}/q"), format!("{name}/dq"));
        for reader in graph.node.iter_mut().flat_map(|n| &mut n.input).filter(|i| *i == name) {
            reader.clone_from(&dq);
        }
        let (s, z) = (format!("{name}/s"), format!("{name}/z"));
        graph.initializer.push(floats(&s, &[], &[scale]));
        graph.initializer.push(tensor(&z, DataType::Uint8, &[], vec![zero]));
        let after = graph.node.iter().position(|n| n.output[0] == name).unwrap() + 1;
        graph.node.insert(after, node("DequantizeLinear", &[&q, &s, &z], &dq, vec![]));
        graph.node.insert(after, node("QuantizeLinear", &[name, &s, &z], &q, vec![]));
    }
    model
}

#[test]
fn quantization_pairs_round_as_tract_does() {
    let bytes = quantized_block().encode_to_vec();
    let (ours, tract) = (Model::from_onnx(&bytes).unwrap(), Model::in_tract(&bytes).unwrap());
    assert_eq!(ours.network().unrecognised(), None);
    let (found, expected) = (ours.run(&pixels()).unwrap(), tract.run(&pixels()).unwrap());
    for (f, e) in found[0].iter().zip(&expected[0]) {
        assert!((f - e).abs() <= 1e-4, "{f} {e}");
    }
}

#[test]
fn pairs_of_unlike_scales_are_left_to_tract() {
    let mut model = quantized_block();
    let graph = graph_of(&mut model);
    graph.initializer.push(floats("other", &[], &[0.5]));
    let at = graph.node.iter().position(|n| n.op_type == "DequantizeLinear").unwrap();
    graph.node[at].input[1] = "other".to_owned();
    let bytes = model.encode_to_vec();
    let (ours, tract) = (Model::from_onnx(&bytes).unwrap(), Model::in_tract(&bytes).unwrap());
    assert_eq!(ours.network().unrecognised(), Some("DequantizeLinear"));
    assert_eq!(ours.run(&pixels()).unwrap(), tract.run(&pixels()).unwrap());
}

#[test]
fn what_is_not_recognised_is_named() {
    for (op, attributes) in [("Softplus", vec![]), ("LeakyRelu", vec![]), ("Flatten", vec![int("axis", 2)])] {
        let mut model = block();
        let graph = graph_of(&mut model);
        let at = graph.node.iter().position(|n| n.output[0] == "soft").unwrap();
        graph.node[at] = node(op, &["means"], "soft", attributes);
        assert_eq!(compiled(model).err().as_deref(), Some(op));
    }
}

#[test]
fn windows_that_do_not_fit_and_shapes_that_contradict_are_not_compiled() {
    let change = |name: &str, attributes: Vec<_>| {
        let mut model = block();
        let graph = graph_of(&mut model);
        let at = graph.node.iter().position(|n| n.output[0] == name).unwrap();
        graph.node[at].attribute = attributes;
        compiled(model).is_ok()
    };
    assert!(change("conv1", vec![ints("kernel_shape", &[1, 1])]));
    assert!(!change("conv1", vec![ints("kernel_shape", &[3, 3])]));
    assert!(!change("conv1", vec![ints("strides", &[0, 1])]));
    assert!(!change("conv1", vec![ints("strides", &[1])]));
    assert!(!change("conv1", vec![ints("pads", &[-1, 0, 0, 0])]));
    assert!(!change("conv1", vec![ints("pads", &[4096, 4096, 4096, 4096])]));
    assert!(!change("conv0", vec![ints("dilations", &[9, 9])]));
    assert!(!change("conv1", vec![int("group", -1)]));
    assert!(!change("conv2", vec![int("group", 5)]));
    assert!(!change("logits", vec![]));
    let largest = |name: &str, value: i64, pad: i64| {
        change("largest", vec![ints("kernel_shape", &[3, 3]), ints("pads", &[1, pad, 1, 1]), int(name, value)])
    };
    assert!(largest("ceil_mode", 1, 2));
    assert!(!largest("ceil_mode", 2, 2), "neither yes nor no");
    assert!(!largest("ceil_mode", 0, 3), "a window of border alone");
}

#[test]
fn groups_are_made_dense_where_that_is_small() {
    let grouped = |channels: i64, groups: i64| {
        let mut model = block();
        let graph = graph_of(&mut model);
        let per = channels / groups;
        let dims = [channels, per, 3, 3];
        graph.initializer.push(floats("wide", &[channels, 5, 1, 1], &vec![0.1; channels as usize * 5]));
        graph.initializer.push(floats("few", &dims, &vec![0.1; dims.iter().product::<i64>() as usize]));
        let at = graph.node.iter().position(|n| n.output[0] == "conv1").unwrap();
        graph.node.truncate(at);
        graph.node.push(node("Conv", &["act0", "wide"], "wider", vec![]));
        graph.node.push(node("Conv", &["wider", "few"], "grouped", vec![int("group", groups)]));
        graph.output = vec![value("grouped", DataType::Float, &[-1, channels, 6, 2])];
        compiled(model).err()
    };
    assert_eq!(grouped(80, 2), None);
    assert_eq!(grouped(96, 2).as_deref(), Some("Conv"));
    assert_eq!(grouped(96, 96), None, "depthwise");
}

#[test]
fn what_training_and_blocks_of_scales_ask_for_is_left_to_tract() {
    let replaced = |name: &str, op: &str, inputs: &[&str], attribute| {
        let mut model = block();
        let graph = graph_of(&mut model);
        graph.initializer.push(floats("ones", &[5], &[1.0; 5]));
        graph.initializer.push(tensor("yes", DataType::Bool, &[], vec![1]));
        graph.initializer.push(tensor("bytes", DataType::Int8, &[5, 10], vec![1; 50]));
        graph.initializer.push(floats("blocks", &[5, 2], &[1.0; 10]));
        let at = graph.node.iter().position(|n| n.output[0] == name).unwrap();
        graph.node[at] = node(op, inputs, name, attribute);
        compiled(model).err()
    };
    let norm = ["means", "ones", "ones", "ones", "ones"];
    assert_eq!(replaced("soft", "BatchNormalization", &norm, vec![]), None);
    let training = vec![int("training_mode", 1)];
    assert_eq!(replaced("soft", "BatchNormalization", &norm, training).as_deref(), Some("BatchNormalization"));
    assert_eq!(replaced("soft", "Dropout", &["means"], vec![]), None);
    assert_eq!(replaced("soft", "Dropout", &["means", "", "yes"], vec![]).as_deref(), Some("Dropout"));
    let blocks = vec![int("axis", 1), int("block_size", 5)];
    let found = replaced("soft", "DequantizeLinear", &["bytes", "blocks"], blocks);
    assert_eq!(found.as_deref(), Some("DequantizeLinear"));
}

#[test]
fn weights_of_no_numbers_claim_no_memory() {
    let mut model = block();
    let graph = graph_of(&mut model);
    graph.initializer.push(floats("none", &[1 << 40, 0, 1, 1], &[]));
    let at = graph.node.iter().position(|n| n.output[0] == "conv3").unwrap();
    graph.node[at].input[1] = "none".to_owned();
    assert_eq!(compiled(model).err().as_deref(), Some("Conv"));
}

#[test]
fn every_step_has_a_name_and_a_share() {
    let explain = |model: &Model| model.network().explain(Picture::Bytes(&pixels()), 2).unwrap();
    let model = Model::from_onnx(&block().encode_to_vec()).unwrap();
    let steps = explain(&model).unwrap();
    let named: Vec<&str> = steps.iter().map(|s| s.node.as_str()).collect();
    let made = ["normalised", "act0", "act1", "act2", "sum", "largest", "soft", "soft", "flat", "logits"];
    assert_eq!(named, made);
    assert!((steps.iter().map(|s| s.share).sum::<f64>() - 1.0).abs() < 1e-9);
    assert_eq!(explain(&Model::in_tract(&block().encode_to_vec()).unwrap()), None);
}

/// What is between the convolutions is 1.5 MB, above what is left whole.
#[test]
fn a_block_by_bands_answers_as_tract_does() {
    let weights = |name: &str, seed: u32, dims: &[i64]| {
        let len = dims.iter().product::<i64>() as usize;
        floats(name, dims, &numbers(seed, len))
    };
    let graph = GraphProto {
        input: vec![value("x", DataType::Float, &[1, 3, 64, 64])],
        output: vec![value("sum", DataType::Float, &[1, 8, 31, 32])],
        initializer: vec![
            weights("w0", 1, &[8, 3, 3, 3]),
            weights("w1", 2, &[96, 3, 3, 3]),
            weights("w2", 3, &[96, 1, 5, 3]),
            weights("w3", 4, &[8, 96, 1, 1]),
        ],
        node: vec![
            node("Conv", &["x", "w0"], "beside", vec![ints("pads", &[0, 1, 0, 1]), ints("strides", &[2, 2])]),
            node("Conv", &["x", "w1"], "wide", vec![ints("pads", &[1, 1, 1, 1])]),
            node("Relu", &["wide"], "wide relu", vec![]),
            node(
                "Conv",
                &["wide relu", "w2"],
                "filtered",
                vec![ints("pads", &[2, 1, 0, 1]), ints("strides", &[2, 2]), int("group", 96)],
            ),
            node("HardSwish", &["filtered"], "filtered swish", vec![]),
            node("Conv", &["filtered swish", "w3"], "narrow", vec![]),
            node("Add", &["beside", "narrow"], "sum", vec![]),
        ],
        ..Default::default()
    };
    let operators = OperatorSetIdProto { domain: String::new(), version: 17 };
    let model = ModelProto { ir_version: 8, opset_import: vec![operators], graph: Some(graph), ..Default::default() };
    let bytes = model.encode_to_vec();
    let mut ours = Network::from_onnx(&bytes, EngineChoice::Best).unwrap();
    let tract = Network::from_onnx(&bytes, EngineChoice::Tract).unwrap();
    let picture = numbers(7, 3 * 64 * 64);
    let steps = ours.explain(Picture::Floats(&picture), 1).unwrap().unwrap();
    assert!(steps.iter().any(|s| s.kernel == "conv + depthwise + conv"), "{steps:?}");
    let expected = tract.run(Picture::Floats(&picture)).unwrap();
    for threads in [1, 3] {
        ours.set_threads(threads);
        let found = ours.run(Picture::Floats(&picture)).unwrap();
        let largest = expected[0].iter().fold(1f32, |m, v| m.max(v.abs()));
        for (f, e) in found[0].iter().zip(&expected[0]) {
            assert!((f - e).abs() <= 1e-5 * largest, "{f} {e}");
        }
    }
}
