//! Every architecture of the zoo against torchvision's and timm's models, node by node: values of `models/zoo/golden`.

use std::collections::BTreeMap;
use std::path::Path;

use graft_onnx::quantize::RangeMethod;
use graft_onnx::{Format, Observer, Outputs, Quantization, values};
use graft_runtime::Model;
use graft_zoo::network::{Op, Parameter, Role};
use graft_zoo::{Architecture, Names, Padding, names};

use super::exported::Float;
use super::*;
use crate::metrics::argmax;

const SIDE: u32 = 72;
const CLASSES: usize = 1000;

/// A file of `layers.py`.
#[derive(Deserialize)]
struct Golden {
    bn_eps: f32,
    /// Hash of the names and shapes of all tensors.
    tensors: String,
    nodes: Vec<Record>,
}

/// A node's value.
#[derive(Deserialize)]
struct Record {
    name: String,
    shape: Vec<usize>,
    mean: f64,
    std: f64,
    samples: Vec<f64>,
}

#[path = "../../../../models/zoo/golden/draw.rs"]
mod draw;

use draw::{draw, hash};

/// As `fill` of `layers.py`.
fn fill(name: &str, shape: &[usize], role: Role) -> Tensor {
    let spread = (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt();
    let data = draw(name, shape.iter().product()).into_iter().map(|u| {
        (match role {
            Role::Variance => 0.5 + u,
            Role::Weight { .. } => (2.0 * u - 1.0) * spread,
            Role::Scale => 0.75 + 0.5 * u,
            Role::Bias | Role::Mean => (2.0 * u - 1.0) * 0.25,
        }) as f32
    });
    Tensor { data: data.collect(), shape: shape.to_vec() }
}

/// A network with the weights of a file, which are read as if they came from one of that naming.
struct Case {
    what: String,
    golden: Golden,
    network: Network,
    /// Names of the layers in the file by torchvision's.
    layers: BTreeMap<String, String>,
    backbone: Tensors,
    head: Head,
    preprocessing: Preprocessing,
}

impl Case {
    fn new(id: &str, by: Names) -> Self {
        let what = format!("{}.{}", id.replace(':', "_"), if by == Names::Timm { "timm" } else { "torchvision" });
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../models/zoo/golden/{what}.json"));
        let golden: Golden = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let architecture: Architecture = id.parse().unwrap();
        assert_eq!(architecture.bn_eps(by), golden.bn_eps, "{what}");
        let network = architecture.backbone(Padding::Symmetric, golden.bn_eps);
        let table = if by == Names::Timm { names::of_timm(architecture, &network) } else { BTreeMap::new() };
        let layers: BTreeMap<String, String> = table.into_iter().map(|(timm, own)| (own, timm)).collect();
        let (mut tensors, mut lines) = (Tensors::new(), vec![]);
        let head = architecture.head_name();
        let mut all = network.parameters();
        for (part, shape, role) in [
            ("weight", vec![CLASSES, network.features], Role::Weight { groups: 1 }),
            ("bias", vec![CLASSES], Role::Bias),
        ] {
            all.push(Parameter { name: format!("{head}.{part}"), shape, role });
        }
        for Parameter { name, mut shape, role } in all {
            let (layer, part) = name.rsplit_once('.').unwrap();
            let name = layers.get(layer).map_or(name.clone(), |layer| format!("{layer}.{part}"));
            if name == "conv_head.weight" {
                shape.resize(4, 1);
            }
            let sides: Vec<String> = shape.iter().map(ToString::to_string).collect();
            lines.push(format!("{name} {}\n", sides.join(" ")));
            tensors.insert(name.clone(), fill(&name, &shape, role));
        }
        lines.sort();
        assert_eq!(
            format!("{:016x}", hash(&lines.concat())),
            golden.tensors,
            "{what}: names and shapes of all tensors"
        );
        let weights = graft_zoo::Weights::from_tensors(architecture, &network, tensors).unwrap();
        let (weight, bias) = weights.head.unwrap();
        let preprocessing = Preprocessing::centre_crop(SIDE, Preprocessing::UNIT);
        let head = Head { weight, bias: bias.data };
        Self { what, golden, network, layers, backbone: weights.backbone, head, preprocessing }
    }

    fn all() -> impl Iterator<Item = Self> {
        let both = ["mobilenet_v2", "mobilenet_v2:0.35", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0"];
        let timm = both.into_iter().map(|id| (id, Names::Timm));
        let torchvision = both.into_iter().chain(["resnet18", "resnet34", "resnet50"]);
        torchvision.map(|id| (id, Names::Torchvision)).chain(timm).map(|(id, by)| Self::new(id, by))
    }

    fn net(&self) -> Net {
        let (network, device) = (&self.network, Device::Cpu);
        Net::new(network, &self.backbone, &self.head, &self.preprocessing, 0, Norm::Frozen, &device).unwrap()
    }

    fn float(&self) -> Float {
        let (network, backbone, head) = (self.network.clone(), self.backbone.clone(), self.head.clone());
        Float { network, backbone, head, preprocessing: self.preprocessing.clone() }
    }

    /// The name that the file has for what a node computes, as far as that has one.
    fn name<'a>(&'a self, op: &'a Op) -> Option<&'a str> {
        let own = match op {
            Op::Conv(c) => &c.name,
            Op::SqueezeExcite(s) => &s.reduce,
            Op::Linear(l) => &l.name,
            _ => return None,
        };
        let name = self.layers.get(own).unwrap_or(own);
        Some(if matches!(op, Op::SqueezeExcite(_)) { name.rsplit_once('.')?.0 } else { name })
    }
}

fn picture() -> Vec<u8> {
    draw("picture", (SIDE * SIDE * 3) as usize).into_iter().map(|u| (u * 256.0) as u8).collect()
}

/// Asserts that a value is that of a record, within `tolerance` of its largest numbers.
fn assert_recorded(what: &str, record: &Record, values: &[f32], tolerance: f64) {
    assert_eq!(values.len(), record.shape.iter().product::<usize>(), "{what} {}", record.name);
    let values: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
    let (count, len) = (values.len() as f64, values.len());
    let mean = values.iter().sum::<f64>() / count;
    let std = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count).sqrt();
    let near = |found: f64, expected: f64| (found - expected).abs() <= tolerance * (record.std + record.mean.abs());
    assert!(near(mean, record.mean) && near(std, record.std), "{what} {}: mean {mean} deviation {std}", record.name);
    for (at, expected) in [len / 7, len / 2, len - 1].into_iter().zip(&record.samples) {
        assert!(near(values[at], *expected), "{what} {} [{at}]: {} {expected}", record.name, values[at]);
    }
}

#[test]
fn every_node_gives_what_torchvision_and_timm_give() {
    for case in Case::all() {
        let mut net = case.net();
        let plain = Plain::new(&case.network, 0, Norm::Frozen);
        let (records, logits) = (&case.golden.nodes, case.golden.nodes.last().unwrap());
        let values = plain.nodes(&net.weights, &input(&net.preprocessing, &[picture()]).unwrap(), 1).unwrap();
        assert_eq!(values.len(), records.len(), "{}: an input and no logits", case.what);
        for ((node, value), record) in case.network.nodes[1..].iter().zip(&values[1..]).zip(records) {
            assert_recorded(&case.what, record, value, 1e-5);
            if let Some(name) = case.name(&node.op) {
                assert_eq!(name, record.name, "{}", case.what);
            }
        }
        assert_recorded(&case.what, logits, &net.logits(&[picture()]).unwrap(), 1e-4);
    }
}

#[test]
fn exported_graphs_run_on_our_kernels_and_give_the_same() {
    for case in Case::all() {
        let model = Model::from_onnx(&case.float().write(Format::Float, Outputs::Last)).unwrap();
        assert!(model.engine().contains("kernels"), "{}: {}", case.what, model.engine());
        assert_recorded(&case.what, case.golden.nodes.last().unwrap(), &model.run(&picture()).unwrap()[0], 1e-4);
    }
}

#[test]
fn int8_graphs_answer_as_the_float_ones_do() {
    for id in ["mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0", "mobilenet_v2:0.35"] {
        let case = Case::new(id, Names::Torchvision);
        let mut rng = Rng::new(4);
        // Flat fields with noise: random weights tell them apart, other than noise alone.
        let pictures: Vec<Vec<u8>> = (0..24)
            .map(|_| {
                let base: [f32; 12] = std::array::from_fn(|_| rng.range(20.0, 235.0));
                let number = |i: usize| {
                    let (y, x, c) = (i / 3 / SIDE as usize, i / 3 % SIDE as usize, i % 3);
                    let quarter = 2 * usize::from(y > 30) + usize::from(x > 40);
                    base[quarter * 3 + c]
                };
                (0..(SIDE * SIDE * 3) as usize).map(|i| (number(i) + rng.range(-20.0, 20.0)) as u8).collect()
            })
            .collect();
        let watched = Model::from_onnx(&case.float().write(Format::Float, Outputs::Activations)).unwrap();
        let names: Vec<String> = values(&case.network).into_iter().map(|v| v.name).collect();
        let outputs = watched.outputs();
        let mut observers = vec![Observer::default(); names.len()];
        let mut float = vec![];
        for picture in &pictures {
            let values = watched.run(picture).unwrap();
            for (observer, name) in observers.iter_mut().zip(&names) {
                let at = outputs.iter().position(|o| o == name).unwrap();
                observer.observe(name, &values[at]).unwrap();
            }
            float.push(values[0].clone());
        }
        let range = |(name, o): (&String, &Observer)| {
            let (low, high) = o.range(RangeMethod::MinMax).unwrap();
            (name.clone(), graft_onnx::Affine::from_range(low, high))
        };
        let activations = names.iter().zip(&observers).map(range).collect();
        let quantization = Quantization::nearest(&case.float().layers(), activations).unwrap();
        let model = Model::from_onnx(&case.float().write(Format::Bytes(&quantization), Outputs::Last)).unwrap();
        assert!(model.engine().contains("kernels"), "{id}: {}", model.engine());
        let answers = float.iter().zip(&pictures).map(|(f, p)| (argmax(f), argmax(&model.run(p).unwrap()[0])));
        let equal = answers.filter(|(a, b)| a == b).count();
        assert!(3 * equal >= 2 * pictures.len(), "{id}: {equal} of {}", pictures.len());
    }
}
