//! Rounded passes against the exported graph on the device's engine, and against candle's gradients in double precision.

use std::cell::RefCell;

use graft_onnx::quantize::{RangeMethod, quantize_weights};
use graft_onnx::{Format, Observer, Outputs, Quantization, values};
use graft_runtime::Model;
use graft_zoo::network::{Activation, Conv, Linear, SqueezeExcite};
use graft_zoo::{Architecture, Padding};

use super::super::exported::Float;
use super::super::tests::{assert_near, by_candle, largest, net_of, smoothed};
use super::super::*;
use super::*;

impl Float {
    fn calibrate(&self, pictures: &[Vec<u8>], method: RangeMethod) -> Activations {
        let graph = self.write(Format::Float, Outputs::Activations);
        let model = Model::from_onnx(&graph).unwrap();
        let runs: Vec<_> = pictures.iter().map(|p| model.run(p).unwrap()).collect();
        let range = |name: String| {
            let at = model.outputs().iter().position(|o| *o == name).unwrap();
            let mut observer = Observer::default();
            runs.iter().for_each(|v| observer.observe(&name, &v[at]).unwrap());
            let (low, high) = observer.range(method).unwrap();
            (name, Affine::from_range(low, high))
        };
        values(&self.network).into_iter().map(|v| range(v.name)).collect()
    }

    /// Logits of the int8 graph on the device's engine.
    fn int8(&self, calibration: &Activations, pictures: &[Vec<u8>]) -> Vec<f32> {
        let quantization = Quantization::nearest(&self.layers(), calibration.clone()).unwrap();
        let model = Model::from_onnx(&self.write(Format::Bytes(&quantization), Outputs::Last)).unwrap();
        assert!(model.engine().contains("kernels"), "{}", model.engine());
        pictures.iter().flat_map(|p| model.run(p).unwrap()[0].clone()).collect()
    }
}

/// Gives the logits that a net learns from.
fn learn(net: &mut Net, pictures: &[Vec<u8>]) -> Vec<f32> {
    let logits = RefCell::new(vec![]);
    let objective = |l: &[f32]| {
        *logits.borrow_mut() = l.to_vec();
        smoothed(l)
    };
    net.learn(pictures, &objective).unwrap();
    logits.into_inner()
}

/// The first `len` nodes, and a mean over what they make.
fn truncated(id: &str, len: usize, side: usize) -> Network {
    let mut network = id.parse::<Architecture>().unwrap().backbone(Padding::TfSame, 1e-3);
    network.nodes.truncate(len);
    let last = network.nodes.len() - 1;
    let stage = network.nodes[last].stage;
    network.features = super::super::shape::shapes(&network, side).unwrap()[last].channels;
    network.nodes.push(Node { op: Op::GlobalAveragePool, inputs: vec![last], stage });
    network.stages = stage + 1;
    network
}

/// Where two engines round to different steps, what follows differs, the further the more: a step is 1/255 of a range.
#[test]
fn passes_give_what_the_exported_graph_gives_on_the_device() {
    const ALL: usize = usize::MAX;
    let mut sums = [0.0; 2];
    for (id, side, len, tolerance) in [
        ("mobilenet_v2:0.35", 64, 2, 1e-6),
        ("mobilenet_v2:0.35", 32, 10, 0.004),
        ("mobilenet_v2:0.35", 64, ALL, 0.02),
        ("mobilenet_v3_small", 64, 6, 0.003),
        ("mobilenet_v3_small", 64, 14, 0.006),
        ("mobilenet_v3_small", 64, 38, 0.025),
        ("resnet18", 64, 14, 0.003),
        ("resnet18", 64, ALL, 0.006),
        ("efficientnet_b0", 64, 14, 0.008),
    ] {
        let network = truncated(id, len, side);
        let stages = network.stages;
        let (mut net, network, pictures) = net_of(network, side as u32, stages, Norm::Frozen);
        let float = Float::of(&net, &network);
        let calibration = float.calibrate(&pictures, RangeMethod::MinMax);
        let before = net.logits(&pictures).unwrap();
        net.quantize(&calibration, Steps::Trained { pace: 1.0 }).unwrap();
        let device = float.int8(&calibration, &pictures);
        let [fixed, learning] = [net.logits(&pictures).unwrap(), learn(&mut net, &pictures)];
        let what = format!("{id} {side} {len}");
        assert_near(&format!("{what} measured"), &fixed, &device, 0.0, tolerance);
        assert_near(&format!("{what} learning"), &learning, &device, 0.0, tolerance);
        // With frozen stages, whose part is folded.
        let (mut net, ..) = net_of(network, side as u32, stages / 2, Norm::Frozen);
        net.quantize(&calibration, Steps::Trained { pace: 1.0 }).unwrap();
        assert_near(&format!("{what} half frozen"), &learn(&mut net, &pictures), &device, 0.0, tolerance);
        let far = |a: &[f32]| a.iter().zip(&device).map(|(a, b)| (a - b).abs()).sum::<f32>() / largest(&device);
        sums[0] += far(&learning);
        sums[1] += far(&before);
    }
    assert!(sums[0] < 0.5 * sums[1], "rounded passes are {}, those in f32 {} away from the device", sums[0], sums[1]);
}

/// PyTorch's values of `tests/golden/lsq.py`.
#[test]
fn rounding_and_its_gradients_equal_pytorchs() {
    let values = [-1.3, -0.52, -0.26, -0.06, 0.0, 0.04, 0.31, 0.76, 1.0, 24.3, 24.9, 25.0, 31.0];
    let gradient = [0.5, -1.0, 0.25, 2.0, 1.0, -0.5, 0.125, 3.0, -1.5, 0.75, 1.25, -2.0, 0.375];
    // Step, zero point, what is rounded to in steps, places where the gradient is stopped, gradient by the step.
    let cases = [
        (0.1, 5, [-5, -5, -3, -1, 0, 0, 3, 8, 10, 243, 249, 250, 250], vec![0, 12], 1.589_854_2),
        (0.098, 0, [0, 0, 0, 0, 0, 0, 3, 8, 10, 248, 254, 255, 255], vec![0, 1, 2, 3, 12], 1.684_418_8),
        (0.25, 128, [-5, -2, -1, 0, 0, 0, 1, 3, 4, 97, 100, 100, 124], vec![], 0.013_721_1),
        (0.1, 255, [-13, -5, -3, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0], (6..13).collect(), -0.015_631_5),
    ];
    let mut threads = Threads::new(2);
    for (scale, zero_point, steps, stopped, by_step) in cases {
        let affine = Affine { scale, zero_point };
        let (mut rounded, mut passed) = (values, gradient);
        round(&mut threads, affine, &mut rounded);
        assert_eq!(rounded, steps.map(|q| q as f32 * scale), "{affine:?}");
        let by = pass(&mut threads, affine, &values, &mut passed) * step_factor(values.len());
        let expected: [f32; 13] = std::array::from_fn(|i| if stopped.contains(&i) { 0.0 } else { gradient[i] });
        assert_eq!(passed, expected, "{affine:?}");
        assert!((by - by_step).abs() < 1e-5, "{affine:?} {by} {by_step}");
    }
}

/// More numbers than one piece, none of them a multiple of what runs side by side.
#[test]
fn rounding_does_not_depend_on_the_number_of_threads() {
    let mut rng = Rng::new(3);
    let values: Vec<f32> = (0..2 * PIECE + 77).map(|_| rng.normal()).collect();
    let affine = Affine { scale: 0.01, zero_point: 100 };
    let run = |threads| {
        let (mut threads, mut rounded, mut gradient) = (Threads::new(threads), values.clone(), values.clone());
        round(&mut threads, affine, &mut rounded);
        (pass(&mut threads, affine, &values, &mut gradient), rounded, gradient)
    };
    let (found, expected) = (run(3), run(1));
    assert_eq!(found, expected);
    let exact: Vec<f32> =
        values.iter().map(|&v| (f32::from(affine.quantize(v)) - f32::from(affine.zero_point)) * affine.scale).collect();
    assert_eq!(found.1, exact);
    assert!(found.2.contains(&0.0) && found.2.iter().filter(|g| **g != 0.0).count() > PIECE);
}

/// A node of most kinds, in few layers: a number that rounding takes to another step in f32 than in f64 spreads no further.
fn shallow() -> Network {
    let squeeze = SqueezeExcite {
        reduce: "squeeze.fc1".into(),
        expand: "squeeze.fc2".into(),
        channels: 20,
        squeezed: 8,
        activation: Activation::Relu,
        gate: Activation::HardSigmoid,
    };
    let linear = Linear { name: "last".into(), inputs: 24, outputs: 40, activation: Activation::HardSwish };
    let nodes = [
        (Op::Input, vec![], 0),
        (conv("stem", [3, 20], 3, 2, Activation::Relu6), vec![0], 0),
        (conv("deep", [20, 20], 3, 1, Activation::HardSwish), vec![1], 1),
        (Op::SqueezeExcite(squeeze), vec![2], 1),
        (conv("project", [20, 20], 1, 1, Activation::None), vec![3], 1),
        (Op::Add(Activation::Relu), vec![1, 4], 1),
        (Op::Add(Activation::None), vec![5, 4], 1),
        (conv("expand", [20, 24], 1, 1, Activation::Silu), vec![6], 2),
        (Op::GlobalAveragePool, vec![7], 2),
        (Op::Linear(linear), vec![8], 2),
    ];
    network_of(nodes.to_vec(), 40)
}

fn network_of(nodes: Vec<(Op, Vec<usize>, usize)>, features: usize) -> Network {
    let stages = nodes.last().unwrap().2 + 1;
    let nodes = nodes.into_iter().map(|(op, inputs, stage)| Node { op, inputs, stage }).collect();
    Network { nodes, features, stages, padding: Padding::Symmetric, bn_eps: 1e-3 }
}

fn conv(name: &str, [inputs, outputs]: [usize; 2], kernel: usize, stride: usize, activation: Activation) -> Op {
    let (name, norm) = (format!("{name}.0"), format!("{name}.1"));
    let groups = if kernel == 3 && inputs > 3 { inputs } else { 1 };
    Op::Conv(Conv { name, norm, inputs, outputs, kernel, stride, groups, activation })
}

/// The straight-through gradients, and those of steps, against candle's own of the same rounded network.
#[test]
fn gradients_of_weights_and_steps_equal_candles() {
    for unfrozen in [3, 2, 1] {
        let (mut net, network, pictures) = net_of(shallow(), 17, unfrozen, Norm::Frozen);
        // Ranges that clip.
        let calibration = Float::of(&net, &network).calibrate(&pictures, RangeMethod::Percentile(0.05));
        let plain = learn(&mut net, &pictures);
        net.weights.parameters.values_mut().for_each(|p| p.gradient.fill(0.0));
        net.quantize(&calibration, Steps::Trained { pace: 1.0 }).unwrap();
        let mut candle = by_candle(&net, &network, unfrozen);
        for _ in 0..2 {
            let (found, expected) = (learn(&mut net, &pictures), learn(&mut candle, &pictures));
            assert_near("logits", &found, &expected, 0.0, 1e-3);
            assert!(found.iter().zip(&plain).any(|(a, b)| (a - b).abs() > 1e-2 * largest(&plain)), "nothing rounded");
        }
        let steps = net.weights.parameters.keys().filter(|n| net.weights.is_step(n)).count();
        // Of all activations but the input, three of them within the squeeze.
        assert_eq!(steps, [12, 11, 3][3 - unfrozen]);
        let all = |net: &Net, steps: bool| {
            let of_kind = net.weights.parameters.iter().filter(|(n, _)| net.weights.is_step(n) == steps);
            of_kind.map(|(_, p)| largest(&p.gradient)).fold(0.0, f32::max)
        };
        for (name, p) in &net.weights.parameters {
            let expected = &candle.weights.parameters[name].gradient;
            let floor = 1e-2 * all(&candle, net.weights.is_step(name));
            // Of a step it is a sum over what rounding takes away, and a number that goes the other way counts as one.
            let tolerance = if net.weights.is_step(name) { 5e-2 } else { 2e-3 };
            assert_near(&format!("{unfrozen} {name}"), &p.gradient, expected, floor, tolerance);
            assert!(floor > 0.0);
        }
    }
}

/// Rounded activations that are computed again are those that were let go of.
#[test]
fn recomputing_changes_no_gradient() {
    let nets = [Recompute::Never, Recompute::Always].map(|wish| {
        let network = truncated("mobilenet_v3_small", 38, 64);
        let stages = network.stages;
        let (mut net, network, pictures) = net_of(network, 64, stages, Norm::Frozen);
        let calibration = Float::of(&net, &network).calibrate(&pictures, RangeMethod::MinMax);
        net.quantize(&calibration, Steps::Trained { pace: 1.0 }).unwrap();
        net.recompute(wish, 2).unwrap();
        let found = [learn(&mut net, &pictures), learn(&mut net, &pictures)];
        (found, net)
    });
    let [(kept, kept_net), (again, again_net)] = &nets;
    assert_eq!(kept, again);
    for (name, p) in &kept_net.weights.parameters {
        assert_eq!(p.gradient[..], again_net.weights.parameters[name].gradient[..], "{name}");
        assert!(p.gradient.iter().any(|g| *g != 0.0), "{name}");
    }
}

/// Weights of channels whose factor is negative or zero, that are all zero, or too small for their bias.
#[test]
fn folded_weights_are_the_whole_steps_that_are_exported() {
    let (mut net, network, pictures) = net_of(shallow(), 17, 2, Norm::Frozen);
    let calibration = Float::of(&net, &network).calibrate(&pictures, RangeMethod::MinMax);
    for name in ["stem", "deep", "project", "expand"] {
        let [mut gamma, mut weight] =
            ["1.weight", "0.weight"].map(|part| net.weights.tensor(&format!("{name}.{part}")).unwrap());
        gamma.data[1] *= -1.0;
        gamma.data[2] = 0.0;
        let per = weight.data.len() / gamma.data.len();
        weight.data[3 * per..4 * per].fill(0.0);
        weight.data[4 * per..5 * per].iter_mut().for_each(|w| *w *= 1e-12);
        net.weights.set(&[(format!("{name}.1.weight"), gamma), (format!("{name}.0.weight"), weight)].into()).unwrap();
    }
    net.quantize(&calibration, Steps::Trained { pace: 1.0 }).unwrap();
    let quantized = net.weights.quantized.clone().unwrap();
    assert_eq!(quantized.layers.len(), 8);
    for layer in &quantized.layers {
        let [used, weight] = [net.weights.used(&layer.weight), net.weights.tensor(&layer.weight).map(|t| t.data)];
        let [used_bias, bias] = [net.weights.used(&layer.bias), net.weights.tensor(&layer.bias).map(|t| t.data)];
        let (used, weight, used_bias, bias) = (used.unwrap(), weight.unwrap(), used_bias.unwrap(), bias.unwrap());
        let out = bias.len();
        let (factors, offsets) = net.weights.folding(&quantized, layer, out).unwrap();
        let per = weight.len() / out;
        let fold = |of: &[f32]| -> Vec<f32> {
            of.iter().enumerate().map(|(i, w)| (f64::from(*w) * factors[i / per]) as f32).collect()
        };
        let shift: Vec<f32> = bias.iter().zip(&offsets).map(|(b, o)| (f64::from(*b) - o) as f32).collect();
        let folded = fold(&weight);
        let mut scales = weight_scales(&folded, out).unwrap();
        let input = calibration[&layer.input].scale;
        fit_bias(&mut scales, &shift, input);
        let found: Vec<f32> = fold(&used).iter().enumerate().map(|(i, w)| w / scales[i / per]).collect();
        let expected = quantize_weights(&folded, &scales);
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((found - f32::from(expected)).abs() < 1e-4, "{layer:?} {i} {found} {expected}");
        }
        for (c, q) in quantize_bias(&shift, input, &scales).into_iter().enumerate() {
            let (expected, found) = (f64::from(q) * f64::from(scales[c] * input), f64::from(used_bias[c]) - offsets[c]);
            assert!((found - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{layer:?} {c} {found} {expected}");
        }
    }
    // The gradient of a factor of zero is of the weights themselves.
    assert_eq!(
        net.weights.used("stem.0.weight").unwrap()[54..81],
        net.weights.tensor("stem.0.weight").unwrap().data[54..81]
    );
}

/// candle shares a gradient between equal numbers of a window, of which rounding makes many: their sum is the same.
#[test]
fn gradients_pass_a_pool_of_rounded_numbers() {
    let nodes = vec![
        (Op::Input, vec![], 0),
        (conv("stem", [3, 20], 3, 2, Activation::Relu), vec![0], 0),
        (Op::MaxPool, vec![1], 0),
        (Op::GlobalAveragePool, vec![2], 0),
    ];
    let (mut net, network, pictures) = net_of(network_of(nodes, 20), 32, 1, Norm::Frozen);
    let calibration = Float::of(&net, &network).calibrate(&pictures, RangeMethod::MinMax);
    net.quantize(&calibration, Steps::Trained { pace: 1.0 }).unwrap();
    let mut candle = by_candle(&net, &network, 1);
    let (found, expected) = (learn(&mut net, &pictures), learn(&mut candle, &pictures));
    assert_near("logits", &found, &expected, 0.0, 1e-4);
    let [found, expected] = [&net, &candle].map(|n| &n.weights.parameters["stem.1.bias"].gradient);
    assert_near("bias", found, expected, 0.0, 1e-3);
}

#[test]
fn a_calibration_of_another_network_and_statistics_of_batches_are_refused() {
    let (mut own, network, pictures) = net_of(shallow(), 17, 3, Norm::Frozen);
    let calibration = Float::of(&own, &network).calibrate(&pictures, RangeMethod::MinMax);
    let refused = |net: &mut Net, calibration: &Activations, words: &str| {
        let error = format!("{:#}", net.quantize(calibration, Steps::Fixed).unwrap_err());
        assert!(error.contains(words), "{error}");
    };
    let mut lacking = calibration.clone();
    lacking.remove("node3/reduced");
    refused(&mut own, &lacking, "node3/reduced");
    let mut flat = calibration.clone();
    flat.get_mut("node4").unwrap().scale = 0.0;
    refused(&mut own, &flat, "positive step");
    refused(&mut net_of(shallow(), 17, 3, Norm::Batch).0, &calibration, "frozen statistics");
    own.quantize(&calibration, Steps::Fixed).unwrap();
    assert_eq!(own.activations(), Some(calibration));
    // What is exported has no tensors but the network's.
    own.quantize(&own.activations().unwrap(), Steps::Trained { pace: 1.0 }).unwrap();
    let names = |t: Tensors| t.into_keys().collect::<Vec<_>>();
    assert_eq!(names(own.finish().unwrap().0), names(Float::of(&own, &network).backbone));
    assert!(own.state().unwrap().contains_key("node4/scale"));
}
