//! EfficientNet-B0 under torchvision names, without stochastic depth and dropout. Source: arXiv:1905.11946, table 1.

use crate::inverted_residual::Block;
use crate::network::{Activation, Builder, Conv, Network, Op};

/// Expansion, kernel, channels, repeats, stride of the first repeat.
const BLOCKS: [(usize, usize, usize, usize, usize); 7] = [
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
];

pub(crate) fn backbone() -> Network {
    let mut b = Builder::new();
    let mut channels = 32;
    let mut x = b.conv(0, Conv::closed("features.0", [3, channels], 3, 2, Activation::Silu));
    for (expansion, kernel, outputs, repeats, first_stride) in BLOCKS {
        b.stage += 1;
        for repeat in 0..repeats {
            let block = Block {
                name: format!("features.{}.{repeat}.block", b.stage),
                channels: [channels, channels * expansion, outputs],
                kernel,
                stride: if repeat == 0 { first_stride } else { 1 },
                // A quarter of what the block reads, not of what it expands that to.
                squeezed: Some(channels / 4),
                activation: Activation::Silu,
                within: Activation::Silu,
                gate: Activation::Sigmoid,
            };
            x = block.push(&mut b, x);
            channels = outputs;
        }
    }
    b.stage += 1;
    let features = 1280;
    x = b.conv(x, Conv::closed("features.8", [channels, features], 1, 1, Activation::Silu));
    b.push(Op::GlobalAveragePool, vec![x]);
    b.finish(features)
}
