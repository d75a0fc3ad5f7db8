//! Writes MobileNetV2 (width 1, 224 x 224) with random weights, for counts and times that need no trained network.
//!
//! ```text
//! random_mobilenet FOLDER
//! ```
//!
//! FOLDER gets `mobilenet_v2.onnx` in f32 and `mobilenet_v2_int8.onnx`, the same bytes on every machine. Nothing is calibrated:
//! weights are drawn so that every activation has about the variance of the one before, and the ranges are chosen for that.

use std::path::Path;
use std::process::ExitCode;

use graft_onnx::{Affine, Export, Format, Head, Layers, Metadata, OnnxError, Outputs, Quantization, values};
use graft_zoo::network::{Parameter, Role};
use graft_zoo::weights::Tensors;
use graft_zoo::{Activation, Architecture, Network, Op, Padding, Preprocessing, Tensor};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder] = &arguments[..] else {
        eprintln!("expected a folder, found {arguments:?}");
        return ExitCode::from(2);
    };
    let files = match files() {
        Ok(files) => files,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    for (name, bytes) in files {
        let path = Path::new(folder).join(name);
        if let Err(error) = std::fs::write(&path, bytes) {
            eprintln!("error: writing {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn files() -> Result<[(&'static str, Vec<u8>); 2], OnnxError> {
    let network = Architecture::MobileNetV2 { width: 1.0 }.backbone(Padding::Symmetric, 1e-5);
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let weights = weights(&network, &mut random);
    let weight = random.tensor(&[CLASSES, network.features], 1.0);
    let head = Head { weight, bias: random.tensor(&[CLASSES], 0.01).data };
    let preprocessing = Preprocessing::centre_crop(224, Preprocessing::UNIT);
    let layers = Layers::fold(&network, &weights, Some(&head))?;
    let export = Export { network: &network, layers: &layers, preprocessing: &preprocessing };
    let quantization = quantization(&export)?;
    let metadata = Metadata::new();
    Ok([
        ("mobilenet_v2.onnx", export.write(Format::Float, Outputs::Last, &metadata)?),
        ("mobilenet_v2_int8.onnx", export.write(Format::Bytes(&quantization), Outputs::Last, &metadata)?),
    ])
}

const CLASSES: usize = 1000;

/// Returns weights, and normalisation that only adds a little.
fn weights(network: &Network, random: &mut Random) -> Tensors {
    let tensor = |Parameter { name, shape, role }| {
        let tensor = match role {
            Role::Mean => Tensor { data: vec![0.0; shape[0]], shape },
            Role::Scale | Role::Variance => Tensor { data: vec![1.0; shape[0]], shape },
            Role::Bias => random.tensor(&shape, 0.01),
            // Half of what it reads is cut off by the function before: He et al., arXiv:1502.01852.
            Role::Weight { .. } => random.tensor(&shape, 2.0),
        };
        (name, tensor)
    };
    network.parameters().into_iter().map(tensor).collect()
}

/// Rounds to ranges that hold nearly all of what random weights give.
fn quantization(export: &Export<'_>) -> Result<Quantization, OnnxError> {
    let range = |op: &Op| match op {
        Op::Input => (-1.0, 1.0),
        Op::Conv(conv) if conv.activation == Activation::None => (-4.0, 4.0),
        Op::Add(_) => (-8.0, 8.0),
        _ => (0.0, 6.0),
    };
    let affine = |(low, high)| Affine::from_range(low, high);
    let ranges = export.network.nodes.iter().map(|node| affine(range(&node.op)));
    let names = values(export.network).into_iter().map(|v| v.name);
    Quantization::nearest(export.layers, names.zip(ranges).collect())
}

/// Xorshift, the same numbers everywhere.
struct Random(u64);

impl Random {
    /// Returns evenly distributed numbers with the variance `gain` over the length of all dimensions but the first.
    fn tensor(&mut self, shape: &[usize], gain: f32) -> Tensor {
        let depth: usize = shape[1..].iter().product();
        let largest = (3.0 * gain / depth as f32).sqrt();
        let number = |_| {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            ((self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0) * largest
        };
        Tensor { shape: shape.to_vec(), data: (0..shape.iter().product()).map(number).collect() }
    }
}
