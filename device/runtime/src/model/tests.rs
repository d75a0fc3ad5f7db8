//! Tests of loading and running, on graphs small enough to be worked out by hand.

use std::sync::atomic::AtomicUsize;

use graft_zoo::Preprocessing;
use prost::Message;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, attribute_proto::AttributeType, type_proto,
};

use super::*;

const SIDE: i64 = 8;

pub(crate) fn value(name: &str, kind: DataType, dims: &[i64]) -> ValueInfoProto {
    let dim = dims.iter().map(|&d| Dimension {
        value: Some(match d {
            -1 => dimension::Value::DimParam("n".to_owned()),
            d => dimension::Value::DimValue(d),
        }),
        ..Default::default()
    });
    let shape = Some(TensorShapeProto { dim: dim.collect() });
    let tensor = type_proto::Tensor { elem_type: kind as i32, shape };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto { value, ..Default::default() }),
        ..Default::default()
    }
}

pub(crate) fn tensor(name: &str, kind: DataType, dims: &[i64], raw_data: Vec<u8>) -> TensorProto {
    let (name, dims) = (name.to_owned(), dims.to_vec());
    TensorProto { name, dims, data_type: kind as i32, raw_data, ..Default::default() }
}

pub(crate) fn floats(name: &str, dims: &[i64], data: &[f32]) -> TensorProto {
    let raw = data.iter().flat_map(|v| v.to_le_bytes()).collect();
    tensor(name, DataType::Float, dims, raw)
}

pub(crate) fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op.to_owned(),
        name: output.to_owned(),
        input: inputs.iter().map(|s| (*s).to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..Default::default()
    }
}

pub(crate) fn int(name: &str, i: i64) -> AttributeProto {
    let r#type = AttributeType::Int as i32;
    AttributeProto { name: name.to_owned(), r#type, i, ..Default::default() }
}

pub(crate) fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    let r#type = AttributeType::Ints as i32;
    AttributeProto { name: name.to_owned(), r#type, ints: ints.to_vec(), ..Default::default() }
}

fn definition() -> Preprocessing {
    Preprocessing { resize_shorter: 8, crop: 8, mean: [0.0; 3], std: [1.0; 3] }
}

/// Logits are 2 * red + 1, green - blue and 0.5 * blue, of the picture's mean colour.
pub(crate) fn colours() -> ModelProto {
    let graph = GraphProto {
        name: "colours".to_owned(),
        input: vec![value("image", DataType::Uint8, &[-1, SIDE, SIDE, 3])],
        output: vec![value("logits", DataType::Float, &[-1, 3])],
        initializer: vec![
            floats("w", &[3, 3], &[2.0, 0.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.5]),
            floats("b", &[3], &[1.0, 0.0, 0.0]),
        ],
        node: vec![
            node("Transpose", &["image"], "nchw", vec![ints("perm", &[0, 3, 1, 2])]),
            node("Cast", &["nchw"], "f32", vec![int("to", DataType::Float as i64)]),
            node("GlobalAveragePool", &["f32"], "pool", vec![]),
            node("Flatten", &["pool"], "flat", vec![int("axis", 1)]),
            node("Gemm", &["flat", "w", "b"], "logits", vec![int("transB", 1)]),
        ],
        ..Default::default()
    };
    let metadata = [
        (LABELS, r#"["red","green","blue"]"#.to_owned()),
        (PREPROCESSING, definition().to_json()),
        (PREPROCESSING_DIGEST, definition().digest()),
    ];
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
        graph: Some(graph),
        metadata_props: metadata.map(|(key, value)| StringStringEntryProto { key: key.to_owned(), value }).to_vec(),
        ..Default::default()
    }
}

/// A 1x1 convolution to two channels as QDQ; the weights' scales are 0.5 and 0.25, one a channel.
fn quantized() -> ModelProto {
    let u8_of = |name: &str, v: u8| tensor(name, DataType::Uint8, &[], vec![v]);
    let mut m = colours();
    let graph = graph_of(&mut m);
    let weights: Vec<u8> = [2_i8, 0, 0, 0, -4, 8].iter().map(|v| v.to_le_bytes()[0]).collect();
    let biases = [100_i32, -100].iter().flat_map(|v| v.to_le_bytes()).collect();
    graph.initializer = vec![
        floats("xs", &[], &[2.0]),
        u8_of("xz", 10),
        tensor("wq", DataType::Int8, &[2, 3, 1, 1], weights),
        floats("ws", &[2], &[0.5, 0.25]),
        tensor("wz", DataType::Int8, &[2], vec![0, 0]),
        tensor("bq", DataType::Int32, &[2], biases),
        floats("bs", &[2], &[1.0, 0.5]),
        tensor("bz", DataType::Int32, &[2], vec![0; 8]),
        floats("ys", &[], &[1.5]),
        u8_of("yz", 0),
    ];
    graph.node.truncate(2);
    graph.node.extend([
        node("QuantizeLinear", &["f32", "xs", "xz"], "xq", vec![]),
        node("DequantizeLinear", &["xq", "xs", "xz"], "x", vec![]),
        node("DequantizeLinear", &["wq", "ws", "wz"], "w", vec![int("axis", 0)]),
        node("DequantizeLinear", &["bq", "bs", "bz"], "b", vec![int("axis", 0)]),
        node("Conv", &["x", "w", "b"], "y", vec![ints("kernel_shape", &[1, 1])]),
        node("QuantizeLinear", &["y", "ys", "yz"], "yq", vec![]),
        node("DequantizeLinear", &["yq", "ys", "yz"], "yd", vec![]),
        node("GlobalAveragePool", &["yd"], "pool", vec![]),
        node("Flatten", &["pool"], "logits", vec![int("axis", 1)]),
    ]);
    graph.output = vec![value("logits", DataType::Float, &[-1, 2])];
    set(&mut m, LABELS, r#"["a","b"]"#);
    m
}

fn with(change: impl FnOnce(&mut ModelProto)) -> Vec<u8> {
    let mut model = colours();
    change(&mut model);
    model.encode_to_vec()
}

pub(crate) fn graph_of(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().unwrap()
}

fn set(model: &mut ModelProto, key: &str, value: &str) {
    let entry = model.metadata_props.iter_mut().find(|p| p.key == key).unwrap();
    entry.value = value.to_owned();
}

fn pixels(rgb: [u8; 3]) -> Vec<u8> {
    rgb.repeat((SIDE * SIDE) as usize)
}

#[test]
fn run_does_the_arithmetic_of_the_graph() {
    let model = Model::from_onnx(&colours().encode_to_vec()).unwrap();
    assert_eq!(model.run(&pixels([10, 30, 4])).unwrap(), [vec![21.0, 26.0, 2.0]]);
    assert_eq!(model.outputs(), ["logits"]);
    assert_eq!(model.labels(), ["red", "green", "blue"]);
    assert_eq!(model.preprocessing(), &definition());
    assert!(model.metadata().contains_key(LABELS));
}

#[test]
fn run_returns_every_output_in_the_order_of_the_graph() {
    let bytes = with(|m| {
        graph_of(m).output.insert(0, value("flat", DataType::Float, &[-1, 3]));
    });
    let model = Model::from_onnx(&bytes).unwrap();
    assert_eq!(model.outputs(), ["flat", "logits"]);
    let found = model.run(&pixels([10, 30, 4])).unwrap();
    assert_eq!(found, [vec![10.0, 30.0, 4.0], vec![21.0, 26.0, 2.0]]);
    assert_eq!(model.logits(&pixels([10, 30, 4])).unwrap(), [21.0, 26.0, 2.0]);
}

#[test]
fn run_batch_gives_the_same_on_any_number_of_threads() {
    let model = Model::from_onnx(&colours().encode_to_vec()).unwrap();
    let pictures: Vec<_> = (0..40).map(|i| pixels([i, 200 - i, 3 * i])).collect();
    let expected: Vec<_> = pictures.iter().map(|p| model.run(p).unwrap()).collect();
    for threads in [0, 1, 3, 100] {
        let most = AtomicUsize::new(0);
        let found = model
            .run_batch(&pictures, threads, &|done| {
                most.fetch_max(done, Ordering::Relaxed);
            })
            .unwrap();
        assert_eq!(found, expected);
        assert_eq!(most.into_inner(), 40);
    }
    assert!(model.run_batch(&[], 2, &|_| ()).unwrap().is_empty());
    let mut short = pictures;
    short[17].pop();
    let error = model.run_batch(&short, 3, &|_| ()).unwrap_err();
    assert!(matches!(error, RuntimeError::Pixels { expected: 192, found: 191 }), "{error}");
}

#[test]
fn classify_gives_label_probability_and_softmax() {
    let model = Model::from_onnx(&colours().encode_to_vec()).unwrap();
    let picture = RgbImage::from_pixel(20, 30, image::Rgb([0, 3, 2]));
    let found = model.classify(&picture).unwrap();
    assert_eq!(found.logits, [1.0, 1.0, 1.0]);
    assert_eq!((found.index, found.label.as_str()), (0, "red"), "the first of equals");
    assert!((found.probability - 1.0 / 3.0).abs() < 1e-6);
    let sure = model.classify(&RgbImage::from_pixel(9, 9, image::Rgb([0, 255, 0]))).unwrap();
    assert_eq!((sure.label.as_str(), sure.probability), ("green", 1.0));
    assert!((sure.probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    let error = model.prediction(Said { logits: vec![0.0, f32::NAN], distance: None }, Duration::ZERO).unwrap_err();
    assert!(matches!(error, RuntimeError::NotFinite { class: 1, .. }), "{error}");
}

#[test]
fn several_pictures_are_answered_by_the_mean_of_what_each_says() {
    let json = r#"{"format":2,"temperature":2.0,"set":{"coverage":0.9,"at_least":0.36,"pictures":99},"sure":null,"familiar":{"keeps":0.9,"at_most":0.36,"pictures":99,"features":"logits","means":["f88"]}}"#;
    let bytes =
        with(|m| m.metadata_props.push(StringStringEntryProto { key: DECISION.to_owned(), value: json.to_owned() }));
    let model = Model::from_onnx(&bytes).unwrap();
    let told = |logits: [f32; 3], distance| {
        model.prediction(Said { logits: logits.to_vec(), distance: Some(distance) }, Duration::ZERO).unwrap()
    };
    let (first, second) = (told([3.0, 1.0, 0.5], 0.2), told([0.0, 2.0, 1.0], 0.5));
    let found = model.together([&first, &second]).unwrap();
    // Python 3.11: the mean of exp(z / 2) / sum(exp(z / 2)) over both.
    for (p, expected) in found.probabilities.iter().zip([0.395_389_1, 0.364_423_4, 0.240_187_5]) {
        assert!((p - expected).abs() < 1e-6, "{p} {expected}");
    }
    assert!((found.distance.unwrap() - 0.35).abs() < 1e-6 && found.index == 0, "{found:?}");
    assert_eq!((found.standing, found.doubt.as_deref()), (Standing::Unsure, Some("unsure: red or green")));
    let third = model.together([&first, &second, &second]).unwrap();
    assert_eq!((third.index, third.standing), (1, Standing::Unfamiliar));
    assert_eq!(model.together([&first]).unwrap(), first);
    let short = Prediction { probabilities: vec![1.0], ..first.clone() };
    assert!(model.together([]).is_none() && model.together([&short, &first]).is_none());
}

#[test]
fn a_calibrated_model_tells_what_it_may_be() {
    let json = r#"{"format":2,"temperature":4.0,"set":{"coverage":0.9,"at_least":0.2,"pictures":99},"sure":null,"familiar":null}"#;
    let calibrated = |json: &str| {
        with(|m| m.metadata_props.push(StringStringEntryProto { key: DECISION.to_owned(), value: json.to_owned() }))
    };
    let model = Model::from_onnx(&calibrated(json)).unwrap();
    assert_eq!(model.decision().unwrap().temperature, 4.0);
    // Logits 5, 3 and 0.5.
    let found = model.classify(&RgbImage::from_pixel(8, 8, image::Rgb([2, 4, 1]))).unwrap();
    assert_eq!(found.logits, [5.0, 3.0, 0.5]);
    // scipy 1.17.1: softmax([5, 3, 0.5] / 4).
    assert!((found.probability - 0.517_817_3).abs() < 1e-5, "{}", found.probability);
    assert_eq!((found.standing, found.doubt.as_deref()), (Standing::Unsure, Some("unsure: red or green")));
    let error = Model::from_onnx(&calibrated(&json.replace("4.0", "-1.0"))).unwrap_err().to_string();
    assert!(error.contains(DECISION) && error.contains("temperature of -1"), "{error}");
}

#[test]
fn features_tell_what_is_unfamiliar() {
    let json = |features: &str, mean: &str| {
        let familiar =
            format!(r#"{{"keeps":0.9,"at_most":0.1,"pictures":99,"features":"{features}","means":["{mean}"]}}"#);
        format!(r#"{{"format":2,"temperature":1.0,"set":null,"sure":null,"familiar":{familiar}}}"#)
    };
    let calibrated = |json: String| {
        with(|m| m.metadata_props.push(StringStringEntryProto { key: DECISION.to_owned(), value: json }))
    };
    let model = Model::from_onnx(&calibrated(json("logits", "fb8"))).unwrap();
    let told = |rgb| model.classify(&RgbImage::from_pixel(8, 8, image::Rgb(rgb))).unwrap();
    // Logits 5, 3 and 0.5, as above; scipy 1.17.1: distance.cosine with [7, 3, 0] is 0.0127926.
    let near = told([2, 4, 1]);
    assert!((near.distance.unwrap() - 0.012_792_6).abs() < 1e-5, "{near:?}");
    assert_ne!(near.standing, Standing::Unfamiliar);
    assert_eq!(told([0, 0, 255]).doubt.as_deref(), Some("unfamiliar"));
    for (bad, word) in [(json("flat", "f88"), "flat among logits"), (json("logits", "f8"), "means of 2")] {
        let error = Model::from_onnx(&calibrated(bad)).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn a_quantized_convolution_gives_the_dequantized_numbers() {
    let bytes = quantized().encode_to_vec();
    assert!(unsupported_operators(&bytes).unwrap().is_empty());
    let model = Model::from_onnx(&bytes).unwrap();
    // 51 -> 51/2 = 25.5, to even 26, + 10, back 52; 20 -> 20; 63 -> 31.5, to even 32, 64.
    // y = [52 * 1 + 100, 20 * -1 + 64 * 2 - 50] = [152, 58]; in steps of 1.5: 101.33 -> 101, 38.67 -> 39.
    assert_eq!(model.logits(&pixels([51, 20, 63])).unwrap(), [151.5, 58.5]);
    // Activations below the range of u8 are cut off: y = [100, -50 - 250] -> [66.67 -> 67, 0].
    assert_eq!(model.logits(&pixels([0, 250, 0])).unwrap(), [100.5, 0.0]);
}

#[test]
fn from_onnx_says_what_it_expected_and_what_it_found() {
    let altered = Preprocessing { mean: [1.0; 3], ..definition() };
    let flat = Preprocessing { std: [0.0; 3], ..definition() };
    let cases: Vec<(Vec<u8>, &[&str])> = vec![
        (vec![], &["ONNX file", "empty"]),
        (b"not a model".to_vec(), &["ONNX file"]),
        (with(|m| m.graph = None), &["a graph", "none"]),
        (with(|m| m.metadata_props.clear()), &[PREPROCESSING, "no metadata"]),
        (with(|m| drop(m.metadata_props.remove(2))), &[PREPROCESSING_DIGEST, "graft.labels"]),
        (with(|m| set(m, PREPROCESSING, "{}")), &[PREPROCESSING, "missing field"]),
        (with(|m| set(m, PREPROCESSING, &altered.to_json())), &["digest", "altered"]),
        (
            with(|m| {
                set(m, PREPROCESSING, &flat.to_json());
                set(m, PREPROCESSING_DIGEST, &flat.digest());
            }),
            &["std of 0", "[0.0, 0.0, 0.0]"],
        ),
        (with(|m| set(m, LABELS, "[1]")), &[LABELS, "strings"]),
        (with(|m| set(m, LABELS, r#"["a","b"]"#)), &["each of 2 labels", "3 logits"]),
        (
            with(|m| {
                graph_of(m).input = vec![value("image", DataType::Float, &[-1, 3, 224, 224])];
            }),
            &["u8 [n, 8, 8, 3]", "image float [n, 3, 224, 224]"],
        ),
        (with(|m| graph_of(m).input.push(value("mask", DataType::Float, &[1]))), &["one input", "and mask float [1]"]),
        (with(|m| graph_of(m).node[4].op_type = "Frobnicate".to_owned()), &["Frobnicate"]),
        (with(|m| graph_of(m).node[4].input[0] = "gone".to_owned()), &["named gone", "(Gemm)"]),
        (with(|m| graph_of(m).output[0].name = "gone".to_owned()), &["gone", "output"]),
        (with(|m| graph_of(m).output.clear()), &["an output", "none"]),
        (with(|m| graph_of(m).node[1].output[0] = "nchw".to_owned()), &["one value named nchw", "(Cast)"]),
        (
            with(|m| {
                graph_of(m).node[4].output[0] = "answer".to_owned();
                graph_of(m).output[0].name = "answer".to_owned();
            }),
            &["named logits", "answer"],
        ),
        (
            with(|m| {
                let tensor = &mut graph_of(m).initializer[0];
                tensor.data_location = Some(DataLocation::External as i32);
            }),
            &["w in an external file"],
        ),
        (with(|m| graph_of(m).initializer[0].dims = vec![3, 1 << 40]), &["load the model"]),
        (with(|m| graph_of(m).initializer[0].dims = vec![-3, -3]), &["load the model"]),
        (with(|m| graph_of(m).initializer[0].data_type = 9999), &["load the model"]),
    ];
    for (bytes, words) in cases {
        let text = Model::from_onnx(&bytes).unwrap_err().to_string();
        assert!(words.iter().all(|w| text.contains(w)), "{words:?} in: {text}");
    }
}

#[test]
fn a_model_without_labels_numbers_its_classes_and_one_without_logits_says_so() {
    let bytes = with(|m| drop(m.metadata_props.remove(0)));
    let model = Model::from_onnx(&bytes).unwrap();
    let picture = RgbImage::from_pixel(8, 8, image::Rgb([0, 0, 9]));
    assert_eq!(model.classify(&picture).unwrap().label, "class 2");
    let bytes = with(|m| {
        m.metadata_props.remove(0);
        graph_of(m).node.truncate(4);
        graph_of(m).output = vec![value("flat", DataType::Float, &[-1, 3])];
    });
    let model = Model::from_onnx(&bytes).unwrap();
    assert_eq!(model.run(&pixels([1, 2, 3])).unwrap(), [vec![1.0, 2.0, 3.0]]);
    let error = model.logits(&pixels([1, 2, 3])).unwrap_err();
    assert!(error.to_string().contains("found flat"), "{error}");
}

#[test]
fn unsupported_operators_names_the_unknown_and_the_refused() {
    let sound = colours().encode_to_vec();
    assert!(unsupported_operators(&sound).unwrap().is_empty());
    let unknown = with(|m| {
        graph_of(m).node[4].op_type = "QLinearAdd".to_owned();
        graph_of(m).node[2].op_type = "Frobnicate".to_owned();
    });
    assert_eq!(unsupported_operators(&unknown).unwrap(), ["Frobnicate", "QLinearAdd"]);
    // Known by name, refused for its attributes.
    let refused = with(|m| graph_of(m).node[1].attribute.clear());
    assert_eq!(unsupported_operators(&refused).unwrap(), ["Cast"]);
    let damaged = with(|m| graph_of(m).output.clear());
    assert!(unsupported_operators(&damaged).is_err());
}

#[test]
fn no_damaged_file_panics() {
    let whole = colours().encode_to_vec();
    let picture = pixels([1, 2, 3]);
    let mut refused = 0;
    for len in 0..whole.len() {
        refused += usize::from(Model::from_onnx(&whole[..len]).is_err());
    }
    assert_eq!(refused, whole.len(), "every proper prefix lacks metadata or more");
    for whole in [whole, quantized().encode_to_vec()] {
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(model) = Model::from_onnx(&bytes) {
                let _ = model.run(&picture);
            }
        }
    }
}

#[test]
fn open_reads_a_file_and_names_the_one_it_cannot_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    let error = Model::open(&path).unwrap_err();
    assert!(error.to_string().contains("m.onnx"), "{error}");
    std::fs::write(&path, colours().encode_to_vec()).unwrap();
    assert_eq!(Model::open(&path).unwrap().labels().len(), 3);
}

#[test]
fn a_cached_model_is_the_model_and_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let cache = crate::Cache::file(dir.path().join("packed"));
    let bytes = colours().encode_to_vec();
    let digest = *blake3::hash(&bytes).as_bytes();
    let rebuilt =
        |because, not_kept: Option<&str>| crate::Loaded::Rebuilt { because, not_kept: not_kept.map(Into::into) };
    let model = Model::cached(digest, &cache, || Ok::<_, RuntimeError>(bytes.clone())).unwrap();
    assert_eq!(*model.network().loaded(), rebuilt(Miss::Absent, None));
    let cached = Model::cached(digest, &cache, || -> Result<_, RuntimeError> { panic!("it is in the cache") }).unwrap();
    assert_eq!(*cached.network().loaded(), crate::Loaded::Cache);
    assert_eq!((cached.labels(), cached.metadata()), (model.labels(), model.metadata()));
    assert_eq!((cached.preprocessing(), cached.outputs()), (model.preprocessing(), model.outputs()));
    let picture = pixels([10, 30, 4]);
    assert_eq!(cached.run(&picture).unwrap(), model.run(&picture).unwrap());
    // A digest that is not that of the bytes: what they are is not kept under it.
    let other = Model::cached([7; 32], &cache, || Ok::<_, RuntimeError>(bytes.clone())).unwrap();
    assert_eq!(*other.network().loaded(), rebuilt(Miss::Model, Some("the model was changed meanwhile")));
}

#[test]
fn a_network_with_open_sides_is_kept_for_the_model_alone() {
    let dir = tempfile::tempdir().unwrap();
    let cache = crate::Cache::file(dir.path().join("packed"));
    let path = dir.path().join("m.onnx");
    let bytes = with(|m| graph_of(m).input = vec![value("image", DataType::Uint8, &[-1, -1, -1, 3])]);
    std::fs::write(&path, &bytes).unwrap();
    let digest = *blake3::hash(&bytes).as_bytes();
    let open = || Network::open_cached(&path, EngineChoice::Best, &cache);
    let before = open().unwrap_err().to_string();
    Model::cached(digest, &cache, || Ok::<_, RuntimeError>(bytes.clone())).unwrap();
    assert_eq!(open().unwrap_err().to_string(), before);
}

#[test]
fn the_model_of_a_bundle_is_found_by_the_digest_in_its_head() {
    let dir = tempfile::tempdir().unwrap();
    let cache = crate::Cache::folder(dir.path().join("packed"));
    let path = dir.path().join("m.graft");
    let mut writer = graft_bundle::BundleWriter::new("bench", "test");
    writer.labels(&["red", "green", "blue"].map(str::to_owned));
    writer.add_file(MODEL_FILE, &colours().encode_to_vec(), &[]).unwrap();
    std::fs::write(&path, writer.to_bytes(None).unwrap()).unwrap();
    let open = || Network::open_cached(&path, EngineChoice::Best, &cache);
    let rebuilt = |because| crate::Loaded::Rebuilt { because, not_kept: None };
    assert_eq!(*open().unwrap().loaded(), rebuilt(Miss::Absent));
    assert_eq!(*open().unwrap().loaded(), crate::Loaded::Cache);
    // The same bytes as a file of their own have the same digest.
    let onnx = dir.path().join("m.onnx");
    std::fs::write(&onnx, colours().encode_to_vec()).unwrap();
    let network = Network::open_cached(&onnx, EngineChoice::Best, &cache).unwrap();
    assert_eq!(*network.loaded(), crate::Loaded::Cache);
    let mut altered = std::fs::read(&path).unwrap();
    altered[30] ^= 1;
    std::fs::write(&path, altered).unwrap();
    assert!(open().is_err(), "a head that was changed");
}

#[test]
fn bench_orders_its_figures() {
    let model = Model::from_onnx(&colours().encode_to_vec()).unwrap();
    let found = crate::bench(model.network(), Picture::Bytes(&pixels([1, 2, 3])), 2, 0.01).unwrap();
    assert!(found.runs >= 6 && found.pictures == 2);
    assert!(0.0 < found.min_ms && found.min_ms <= found.median_ms);
    assert!(found.median_ms <= found.p95_ms && found.pictures_per_second > 0.0);
}

#[test]
fn a_model_may_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Model>();
}
