//! The channel-last operations against candle's own: the same logits, gradients and statistics.

use candle_core::backprop::GradStore;
use graft_zoo::{Architecture, Padding};

use super::*;

/// Runs a net by candle's own operations, on the CPU as well.
fn plain_logits(net: &mut Net, pictures: &[Vec<u8>], training: bool) -> Array {
    let mut seen = Seen::new();
    let mut values: Vec<Array> = Vec::new();
    for node in &net.network.nodes {
        let from = |at: usize| &values[node.inputs[at]];
        let seen = Some(&mut seen).filter(|_| training && net.norm == Norm::Batch);
        let value = match &node.op {
            Op::Input => net.input(pictures, false).unwrap(),
            Op::Conv(c) => plain::conv(net, from(0), c, seen).unwrap(),
            Op::Add(a) => plain::clamp(&(from(0) + from(1)).unwrap(), *a).unwrap(),
            Op::MaxPool => plain::max_pool(from(0), net.network.padding).unwrap(),
            Op::GlobalAveragePool => from(0).mean((2, 3)).unwrap(),
        };
        values.push(value);
    }
    let (weight, bias) = (net.array(HEAD_WEIGHT).unwrap(), net.array(HEAD_BIAS).unwrap());
    values.last().unwrap().matmul(&weight.t().unwrap()).unwrap().broadcast_add(bias).unwrap()
}

fn net(id: &str, side: u32, padding: Padding, unfrozen: usize, norm: Norm) -> (Net, Vec<Vec<u8>>) {
    let network = id.parse::<Architecture>().unwrap().backbone(padding, 1e-3);
    let (mut backbone, mut head) = random(&network, 3, 5);
    let mut rng = Rng::new(9);
    // Normalisations that do something, so that a wrong gradient of theirs shows.
    for (name, tensor) in &mut backbone {
        if tensor.shape.len() == 1 {
            let low = if name.ends_with("bias") || name.ends_with("mean") { -0.2 } else { 0.6 };
            tensor.data.iter_mut().for_each(|v| *v = rng.range(low, low + 0.5));
        }
    }
    head.weight.data.iter_mut().for_each(|v| *v = rng.range(-0.2, 0.2));
    let p = Preprocessing::centre_crop(side, Preprocessing::UNIT);
    let pictures = (0..2).map(|_| (0..side * side * 3).map(|_| rng.next_u64() as u8).collect()).collect();
    (Net::new(&network, &backbone, &head, &p, unfrozen, norm, &Device::Cpu).unwrap(), pictures)
}

fn gradients(logits: &Array) -> GradStore {
    cross_entropy(logits, &[2, 0], 0.1).unwrap().backward().unwrap()
}

fn values(a: &Array) -> Vec<f32> {
    a.flatten_all().unwrap().to_vec1().unwrap()
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// Asserts that two lists agree within `tolerance` of the largest entry or of `floor`.
fn assert_near(what: &str, found: &[f32], expected: &[f32], floor: f32, tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = largest(expected).max(floor);
    let worst = found.iter().zip(expected).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst <= tolerance * scale, "{what}: {worst} of {scale}");
}

#[test]
fn logits_gradients_and_statistics_equal_those_of_candles_own_operations() {
    let cases = [
        ("mobilenet_v2:0.35", 97, Padding::Symmetric, 9, Norm::Batch),
        ("mobilenet_v2:0.35", 32, Padding::TfSame, 9, Norm::Frozen),
        ("mobilenet_v2:0.35", 47, Padding::TfSame, 3, Norm::Batch),
        ("resnet18", 40, Padding::Symmetric, 4, Norm::Frozen),
        ("resnet50", 33, Padding::Symmetric, 2, Norm::Frozen),
    ];
    for (id, side, padding, unfrozen, norm) in cases {
        let what = format!("{id} {side} {padding:?} {unfrozen} {norm:?}");
        let (mut net, pictures) = net(id, side, padding, unfrozen, norm);
        if norm == Norm::Batch && net.first > 0 {
            // The plain walk of this test knows no frozen stages.
            net.norm = Norm::Frozen;
        }
        let expected = plain_logits(&mut net, &pictures, true);
        let wanted = gradients(&expected);
        let found = net.train(&pictures).unwrap();
        assert_near(&what, &values(&found), &values(&expected), 0.0, 1e-4);
        let got = gradients(&found);
        assert!(!net.vars().is_empty());
        // Some gradients are zero but for rounding: a shift that the next normalisation takes away again.
        let floor = 1e-3 * net.vars().values().map(|v| largest(&values(wanted.get(v).unwrap()))).fold(0.0, f32::max);
        for (name, var) in net.vars() {
            let (a, b) = (got.get(var), wanted.get(var));
            assert_near(&format!("{what} {name}"), &values(a.unwrap()), &values(b.unwrap()), floor, 2e-3);
        }
    }
}

#[test]
fn the_pool_gives_its_gradient_to_the_winner() {
    // candle has no backward here; a difference quotient is the reference.
    let window = Window { kernel: 3, stride: 2, padding: Padding::Symmetric };
    let mut rng = Rng::new(2);
    let x: Vec<f32> = (0..2 * 5 * 6 * 3).map(|_| rng.unit()).collect();
    let weights: Vec<f32> = (0..2 * 3 * 3 * 3).map(|_| rng.unit()).collect();
    let loss = |x: &[f32]| -> (Var, Array) {
        let var = Var::from_slice(x, (2, 5, 6, 3), &Device::Cpu).unwrap();
        let w = Array::from_slice(&weights, (2, 3, 3, 3), &Device::Cpu).unwrap();
        let y = var.apply_op1(MaxPool(window)).unwrap();
        (var, (y * w).unwrap().sum_all().unwrap())
    };
    let (var, total) = loss(&x);
    let gradient = values(total.backward().unwrap().get(&var).unwrap());
    for i in (0..x.len()).step_by(7) {
        let mut moved = x.clone();
        moved[i] += 1e-3;
        let quotient = (loss(&moved).1.to_scalar::<f32>().unwrap() - total.to_scalar::<f32>().unwrap()) / 1e-3;
        assert!((quotient - gradient[i]).abs() < 2e-2, "{i}: {quotient} {}", gradient[i]);
    }
}

#[test]
fn running_statistics_move_by_a_tenth() {
    let (mut net, pictures) = net("mobilenet_v2:0.35", 32, Padding::Symmetric, 9, Norm::Batch);
    let before = net.state().unwrap();
    net.train(&pictures).unwrap();
    let after = net.state().unwrap();
    let name = "features.0.1.running_mean";
    let seen: Vec<f32> = before[name].data.iter().zip(&after[name].data).map(|(b, a)| (a - 0.9 * b) / 0.1).collect();
    // The mean of the first convolution's output, by candle.
    let x = net.input(&pictures, false).unwrap();
    let y = x.conv2d(net.array("features.0.0.weight").unwrap(), 1, 2, 1, 1).unwrap().mean((0, 2, 3)).unwrap();
    assert_near(name, &seen, &values(&y), 0.0, 1e-3);
    let frozen = "features.0.1.weight";
    assert_eq!(before[frozen], after[frozen], "only the optimiser changes parameters");
}

#[test]
fn more_stages_than_there_are_is_refused() {
    let network = "resnet18".parse::<Architecture>().unwrap().backbone(Padding::Symmetric, 1e-5);
    let (backbone, head) = random(&network, 2, 0);
    let p = Preprocessing::centre_crop(32, Preprocessing::UNIT);
    let error = Net::new(&network, &backbone, &head, &p, 6, Norm::Frozen, &Device::Cpu).err().unwrap();
    assert!(error.to_string().contains("at most 5"), "{error}");
}
