//! MobileNetV3 under torchvision names, without dropout. Source: arXiv:1905.02244, tables 1 and 2.

use crate::architecture::Size;
use crate::inverted_residual::{Block, divisible};
use crate::network::{Activation, Builder, Conv, Linear, Network, Op};

/// Stage, kernel, hidden channels, channels, whether it squeezes, whether it is of hard-swish, stride.
type Row = (usize, usize, usize, usize, bool, bool, usize);

const SMALL: [Row; 11] = [
    (1, 3, 16, 16, true, false, 2),
    (2, 3, 72, 24, false, false, 2),
    (2, 3, 88, 24, false, false, 1),
    (3, 5, 96, 40, true, true, 2),
    (3, 5, 240, 40, true, true, 1),
    (3, 5, 240, 40, true, true, 1),
    (4, 5, 120, 48, true, true, 1),
    (4, 5, 144, 48, true, true, 1),
    (5, 5, 288, 96, true, true, 2),
    (5, 5, 576, 96, true, true, 1),
    (5, 5, 576, 96, true, true, 1),
];
const LARGE: [Row; 15] = [
    (1, 3, 16, 16, false, false, 1),
    (2, 3, 64, 24, false, false, 2),
    (2, 3, 72, 24, false, false, 1),
    (3, 5, 72, 40, true, false, 2),
    (3, 5, 120, 40, true, false, 1),
    (3, 5, 120, 40, true, false, 1),
    (4, 3, 240, 80, false, true, 2),
    (4, 3, 200, 80, false, true, 1),
    (4, 3, 184, 80, false, true, 1),
    (4, 3, 184, 80, false, true, 1),
    (5, 3, 480, 112, true, true, 1),
    (5, 3, 672, 112, true, true, 1),
    (6, 5, 672, 160, true, true, 2),
    (6, 5, 960, 160, true, true, 1),
    (6, 5, 960, 160, true, true, 1),
];

pub(crate) fn backbone(size: Size) -> Network {
    let (blocks, features): (&[Row], _) = match size {
        Size::Small => (&SMALL, 1024),
        Size::Large => (&LARGE, 1280),
    };
    let mut b = Builder::new();
    let mut channels = 16;
    let mut x = b.conv(0, Conv::closed("features.0", [3, channels], 3, 2, Activation::HardSwish));
    for (i, &(stage, kernel, hidden, outputs, squeezes, swishes, stride)) in blocks.iter().enumerate() {
        b.stage = stage;
        let block = Block {
            name: format!("features.{}.block", i + 1),
            channels: [channels, hidden, outputs],
            kernel,
            stride,
            squeezed: squeezes.then(|| divisible(hidden as f64 / 4.0)),
            activation: if swishes { Activation::HardSwish } else { Activation::Relu },
            within: Activation::Relu,
            gate: Activation::HardSigmoid,
        };
        x = block.push(&mut b, x);
        channels = outputs;
    }
    b.stage += 1;
    let (name, last) = (format!("features.{}", blocks.len() + 1), 6 * channels);
    x = b.conv(x, Conv::closed(&name, [channels, last], 1, 1, Activation::HardSwish));
    x = b.push(Op::GlobalAveragePool, vec![x]);
    let linear =
        Linear { name: "classifier.0".into(), inputs: last, outputs: features, activation: Activation::HardSwish };
    b.push(Op::Linear(linear), vec![x]);
    b.finish(features)
}
