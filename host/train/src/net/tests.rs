//! The walk on the kernels against candle's own operations: the same logits, gradients and statistics.

use graft_zoo::{Activation, Architecture, Padding};

use super::*;
use crate::objective::{Loss, Targets};

/// A net whose activations are all well within the bends of their activation or well beyond them, as their channel has it:
/// rounding must not decide which gradients pass.
pub(super) fn net(id: &str, side: u32, padding: Padding, unfrozen: usize, norm: Norm) -> (Net, Network, Vec<Vec<u8>>) {
    net_of(id.parse::<Architecture>().unwrap().backbone(padding, 1e-3), side, unfrozen, norm)
}

pub(super) fn net_of(network: Network, side: u32, unfrozen: usize, norm: Norm) -> (Net, Network, Vec<Vec<u8>>) {
    let (mut backbone, mut head) = random(&network, 3, 5);
    let mut rng = Rng::new(9);
    for (_, c) in network.convs() {
        let gamma = (0..c.outputs).map(|_| rng.range(0.2, 0.3)).collect();
        let about = match c.activation {
            Activation::HardSwish => [1.5, -5.0, 6.0, 0.0, -1.5],
            Activation::Silu => [1.0, -3.0, 4.0, 0.0, -1.0],
            _ => [3.0, -3.0, 9.0, 3.0, 3.0],
        };
        let beta = (0..c.outputs).map(|channel| about[channel % 5] + rng.range(-0.2, 0.2)).collect();
        for (part, data) in [("weight", gamma), ("bias", beta)] {
            backbone.insert(format!("{}.{part}", c.norm), Tensor { shape: vec![c.outputs], data });
        }
    }
    for Parameter { name, shape, .. } in network.nodes.iter().flat_map(|n| n.op.parameters()) {
        let tensor = backbone.get_mut(&name).unwrap();
        if tensor.data.iter().all(|v| *v == 0.0) && !name.ends_with("running_mean") {
            // A bias without a normalisation.
            *tensor = Tensor { data: (0..shape[0]).map(|_| rng.range(-0.5, 0.5)).collect(), shape };
        }
    }
    head.weight.data.iter_mut().for_each(|v| *v = rng.range(-0.2, 0.2));
    let p = Preprocessing::centre_crop(side, Preprocessing::UNIT);
    let pictures: Vec<Vec<u8>> = (0..2).map(|_| (0..side * side * 3).map(|_| rng.next_u64() as u8).collect()).collect();
    let make = |backbone: &Tensors, unfrozen, norm| {
        Net::new(&network, backbone, &head, &p, unfrozen, norm, &Device::Cpu).unwrap()
    };
    // Running statistics that are those of these pictures, so that fixed ones normalise as well.
    let mut settled = make(&backbone, network.stages, Norm::Batch);
    settled.learn(&pictures, &smoothed).unwrap();
    for (name, tensor) in settled.state().unwrap().into_iter().filter(|(n, _)| n.contains(".running_")) {
        let before = backbone.get_mut(&name).unwrap();
        before.data.iter_mut().zip(tensor.data).for_each(|(old, new)| *old = (new - 0.9 * *old) / 0.1);
    }
    (make(&backbone, unfrozen, norm), network, pictures)
}

/// Smoothed cross-entropy of two pictures, of the third and the first of three classes.
pub(super) fn smoothed(outputs: &[f32]) -> Result<(f64, Vec<f32>)> {
    let targets = Targets::Classes { of: vec![2, 0], count: 3 };
    let rows: Vec<f32> = (0..2).flat_map(|i| targets.row(i)).collect();
    Loss::CrossEntropy { smoothing: 0.1, weights: vec![] }.of(outputs, &rows, 3)
}

/// The same net, walked by candle in double precision.
pub(super) fn by_candle(net: &Net, network: &Network, unfrozen: usize) -> Net {
    let first = network.stages - unfrozen;
    Net {
        preprocessing: net.preprocessing.clone(),
        weights: net.weights.clone(),
        walk: Walk::Candle(Plain::new(network, first, net.norm)),
        ..*net
    }
}

pub(super) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// Asserts that two lists agree within `tolerance` of the largest entry or of `floor`.
pub(super) fn assert_near(what: &str, found: &[f32], expected: &[f32], floor: f32, tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = largest(expected).max(floor);
    let worst = found.iter().zip(expected).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst <= tolerance * scale, "{what}: {worst} of {scale}");
}

/// Forward and backward by [`smoothed`]; returns the loss and the logits.
pub(super) fn learn(net: &mut Net, pictures: &[Vec<u8>]) -> (f64, Vec<f32>) {
    let logits = std::cell::RefCell::new(vec![]);
    let objective = |l: &[f32]| {
        *logits.borrow_mut() = l.to_vec();
        smoothed(l)
    };
    let loss = net.learn(pictures, &objective).unwrap();
    (loss, logits.into_inner())
}

/// Asserts that a net has the logits, the loss and the statistics of one that candle walks within `tolerance`, and the
/// gradients within ten times that; `fetch` returns its numbers.
pub(super) fn assert_equal(
    what: &str,
    [net, candle]: [&mut Net; 2],
    pictures: &[Vec<u8>],
    tolerance: f32,
    fetch: impl Fn(&Net) -> Weights,
) {
    assert_answers_equal(what, [&mut *net, &mut *candle], pictures, tolerance);
    let found = fetch(net);
    // Some gradients are zero but for rounding: a shift that the next normalisation takes away again.
    let largest = candle.weights.parameters.values().map(|p| largest(&p.gradient)).fold(0.0, f32::max);
    let floor = 1e-3 * largest;
    // Without a trained stage the head's are left.
    assert!(floor > 0.0 && !found.parameters.is_empty());
    for (name, p) in &found.parameters {
        let expected = &candle.weights.parameters[name].gradient;
        assert_near(&format!("{what} {name}"), &p.gradient, expected, floor, 10.0 * tolerance);
    }
    for (name, tensor) in &found.fixed {
        assert_near(&format!("{what} {name}"), &tensor.data, &candle.weights.fixed[name].data, 0.0, tolerance);
    }
}

/// Asserts that two nets have the same logits, with fixed statistics and as they learn, and the same loss.
pub(super) fn assert_answers_equal(what: &str, nets: [&mut Net; 2], pictures: &[Vec<u8>], tolerance: f32) {
    let [net, candle] = nets;
    let fixed = [&mut *net, &mut *candle].map(|n| n.logits(pictures).unwrap());
    assert_near(&format!("{what} fixed"), &fixed[0], &fixed[1], 0.0, tolerance);
    // Twice, as gradients are added up, and what a first walk leaves in memory must not matter.
    for _ in 0..2 {
        let (found, expected) = (learn(net, pictures), learn(candle, pictures));
        assert_near(what, &found.1, &expected.1, 0.0, tolerance);
        assert!((found.0 - expected.0).abs() < f64::from(tolerance), "{what}: {} {}", found.0, expected.0);
    }
}

#[test]
fn logits_gradients_and_statistics_equal_those_of_candles_own_operations() {
    let cases = [
        ("mobilenet_v2:0.35", 65, Padding::Symmetric, 9, Norm::Batch),
        ("mobilenet_v2:0.35", 64, Padding::TfSame, 9, Norm::Frozen),
        ("mobilenet_v2:0.35", 79, Padding::TfSame, 3, Norm::Batch),
        ("mobilenet_v2:0.35", 79, Padding::TfSame, 0, Norm::Batch),
        ("resnet18", 65, Padding::Symmetric, 5, Norm::Batch),
        ("resnet18", 65, Padding::Symmetric, 4, Norm::Frozen),
        ("resnet50", 65, Padding::Symmetric, 2, Norm::Frozen),
        ("mobilenet_v3_small", 64, Padding::Symmetric, 7, Norm::Batch),
        ("mobilenet_v3_small", 79, Padding::TfSame, 7, Norm::Frozen),
        ("mobilenet_v3_small", 64, Padding::Symmetric, 3, Norm::Batch),
        ("mobilenet_v3_large", 64, Padding::Symmetric, 8, Norm::Batch),
        ("efficientnet_b0", 64, Padding::Symmetric, 9, Norm::Batch),
        ("efficientnet_b0", 64, Padding::Symmetric, 2, Norm::Frozen),
    ];
    for (id, side, padding, unfrozen, norm) in cases {
        let what = format!("{id} {side} {padding:?} {unfrozen} {norm:?}");
        let (mut net, network, pictures) = net(id, side, padding, unfrozen, norm);
        let mut candle = by_candle(&net, &network, unfrozen);
        assert_equal(&what, [&mut net, &mut candle], &pictures, 1e-4, |net| net.weights.clone());
    }
}

#[test]
fn only_a_step_changes_parameters() {
    let (mut net, _, pictures) = net("mobilenet_v2:0.35", 32, Padding::Symmetric, 9, Norm::Batch);
    let before = net.state().unwrap();
    net.learn(&pictures, &smoothed).unwrap();
    let after = net.state().unwrap();
    assert_ne!(before["features.0.1.running_mean"], after["features.0.1.running_mean"]);
    assert_eq!(before["features.0.1.weight"], after["features.0.1.weight"]);
    net.step(&Step { rate: 0.1, ..crate::probe::STEP }).unwrap();
    assert_ne!(before["features.0.1.weight"], net.state().unwrap()["features.0.1.weight"]);
    let logits = net.logits(&pictures).unwrap();
    net.restore(&before).unwrap();
    assert_ne!(logits, net.logits(&pictures).unwrap(), "folded anew");
}

#[test]
fn more_stages_than_there_are_is_refused() {
    let network = "resnet18".parse::<Architecture>().unwrap().backbone(Padding::Symmetric, 1e-5);
    let (backbone, head) = random(&network, 2, 0);
    let p = Preprocessing::centre_crop(32, Preprocessing::UNIT);
    let error = Net::new(&network, &backbone, &head, &p, 6, Norm::Frozen, &Device::Cpu).err().unwrap();
    assert!(error.to_string().contains("at most 5"), "{error}");
}

/// Memory goes round: no step leaves more of it behind than the one before, whatever the batches.
#[test]
fn steps_take_no_more_memory_than_those_before() {
    for (id, unfrozen) in
        [("mobilenet_v2:0.35", 9), ("mobilenet_v2:0.35", 3), ("mobilenet_v3_small", 7), ("resnet18", 5)]
    {
        let (mut net, _, pictures) = net(id, 64, Padding::Symmetric, unfrozen, Norm::Frozen);
        let mut held = [0; 2];
        for held in &mut held {
            for batch in [2, 1, 2, 2, 1] {
                let objective = |o: &[f32]| Ok((0.0, vec![0.1; o.len()]));
                net.learn(&pictures[..batch], &objective).unwrap();
            }
            net.logits(&pictures).unwrap();
            let Walk::Kernels(engine) = &net.walk else { unreachable!() };
            *held = engine.held();
        }
        assert!(held[0] > 0 && held[0] == held[1], "{id} {held:?}");
    }
}

/// Activations that are computed again are those that were let go of: gradients and statistics are the same to the bit, in less
/// memory.
#[test]
fn recomputing_changes_nothing_but_the_memory() {
    let cases = [
        ("mobilenet_v2:0.35", 9, Norm::Batch, 0.7),
        ("mobilenet_v2:0.35", 5, Norm::Frozen, 0.65),
        ("mobilenet_v3_small", 7, Norm::Batch, 0.6),
        ("resnet18", 5, Norm::Batch, 0.85),
        ("resnet50", 5, Norm::Frozen, 0.45),
        ("efficientnet_b0", 9, Norm::Batch, 0.65),
        ("efficientnet_b0", 0, Norm::Frozen, 1.0),
    ];
    for (id, unfrozen, norm, most) in cases {
        let [mut kept, mut again] = [(); 2].map(|()| net(id, 64, Padding::Symmetric, unfrozen, norm).0);
        let pictures = net(id, 64, Padding::Symmetric, unfrozen, norm).2;
        assert!(!kept.recompute(Recompute::Never, 2).unwrap() && again.recompute(Recompute::Always, 2).unwrap());
        // Twice, as the second pass finds what the first has left.
        for _ in 0..2 {
            let found = [&mut kept, &mut again].map(|net| net.learn(&pictures, &smoothed).unwrap());
            assert_eq!(found[0], found[1], "{id}");
            for (name, p) in &kept.weights.parameters {
                assert_eq!(p.gradient[..], again.weights.parameters[name].gradient[..], "{id} {name}");
            }
            assert_eq!(kept.state().unwrap(), again.state().unwrap(), "{id}");
        }
        let held = [&kept, &again].map(|net| {
            let Walk::Kernels(engine) = &net.walk else { unreachable!() };
            engine.held() as f64
        });
        assert!(held[1] <= most * held[0], "{id} {held:?}");
    }
}

/// What trained stages read of frozen ones says all about a picture: the same gradients from it as from pixels.
#[test]
fn frozen_activations_stand_for_their_pictures() {
    for (id, unfrozen) in [("mobilenet_v2:0.35", 3), ("resnet18", 2)] {
        let (mut net, _, pictures) = net(id, 64, Padding::TfSame, unfrozen, Norm::Batch);
        let (mut other, ..) = self::net(id, 64, Padding::TfSame, unfrozen, Norm::Batch);
        let rows = net.frozen(&pictures).unwrap();
        assert!(rows.iter().all(|r| r.len() == net.frozen_len().unwrap()));
        let (a, b) = (net.learn_frozen(&rows, &smoothed).unwrap(), other.learn(&pictures, &smoothed).unwrap());
        assert_eq!(a, b, "{id}");
        for (name, p) in &net.weights.parameters {
            assert_eq!(p.gradient[..], other.weights.parameters[name].gradient[..], "{id} {name}");
        }
        assert!(net.learn_frozen(&[vec![0.0; 3]], &smoothed).is_err());
    }
}

/// The average of weights follows them, and can be put in their place and taken away again.
#[test]
fn averages_take_the_place_of_weights_and_give_it_back() {
    let (mut net, _, pictures) = net("mobilenet_v2:0.35", 32, Padding::Symmetric, 1, Norm::Frozen);
    let step = Step { rate: 0.01, average: Some(0.5), ..crate::probe::STEP };
    let mut expected: Option<Vec<f32>> = None;
    for done in 0..5 {
        net.learn(&pictures, &smoothed).unwrap();
        net.step(&Step { done, ..step }).unwrap();
        let now = net.weights.parameters[HEAD_WEIGHT].values.to_vec();
        // TensorFlow's ExponentialMovingAverage with num_updates.
        let past = (0.5f64).min((1.0 + done as f64) / (10.0 + done as f64)) as f32;
        expected = Some(match expected {
            None => now,
            Some(old) => old.iter().zip(&now).map(|(o, n)| o * past + n * (1.0 - past)).collect(),
        });
    }
    let before = net.state().unwrap();
    net.swap_averages().unwrap();
    let found = net.weights.parameters[HEAD_WEIGHT].values.to_vec();
    assert_near("average", &found, &expected.unwrap(), 1e-3, 1e-5);
    assert_ne!(net.state().unwrap(), before);
    net.swap_averages().unwrap();
    assert_eq!(net.state().unwrap(), before);
}

/// A gradient longer than it may be makes the step of one that was scaled to that length, as SGD shows.
#[test]
fn a_long_gradient_is_scaled_down_to_the_longest() {
    let (mut net, _, pictures) = net("mobilenet_v2:0.35", 32, Padding::Symmetric, 1, Norm::Frozen);
    let before = net.state().unwrap();
    net.learn(&pictures, &smoothed).unwrap();
    let step = Step { optimiser: Optimiser::Sgd, rate: 1.0, clip: Some(1e-3), ..crate::probe::STEP };
    net.step(&step).unwrap();
    let moved: f64 = net
        .state()
        .unwrap()
        .iter()
        .flat_map(|(n, t)| t.data.iter().zip(&before[n].data))
        .map(|(a, b)| f64::from(a - b).powi(2))
        .sum();
    // The first step with Nesterov's momentum of 0.9 is 1.9 times as long.
    assert!((moved.sqrt() / 1.9e-3 - 1.0).abs() < 1e-2, "{}", moved.sqrt());
}
