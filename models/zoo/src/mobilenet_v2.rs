//! MobileNetV2 under torchvision names. Source: arXiv:1801.04381, table 2.

use crate::inverted_residual::divisible;
use crate::network::{Activation, Builder, Conv, Network, Op};

/// Expansion, channels, repeats, stride of the first repeat.
const BLOCKS: [(usize, usize, usize, usize); 7] =
    [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];

pub(crate) fn backbone(width: f32) -> Network {
    let mut b = Builder::new();
    let mut channels = scaled(32, width);
    let mut x = b.conv(0, conv("features.0.0", "features.0.1", 3, channels, 3, 2, 1, Activation::Relu6));
    let mut index = 1;
    for (expansion, outputs, repeats, first_stride) in BLOCKS {
        b.stage += 1;
        let outputs = scaled(outputs, width);
        for repeat in 0..repeats {
            let stride = if repeat == 0 { first_stride } else { 1 };
            let hidden = channels * expansion;
            let p = format!("features.{index}.conv");
            let mut y = x;
            let mut at = 0;
            if expansion != 1 {
                y = b.conv(
                    y,
                    conv(&format!("{p}.0.0"), &format!("{p}.0.1"), channels, hidden, 1, 1, 1, Activation::Relu6),
                );
                at = 1;
            }
            let (dw, dw_norm) = (format!("{p}.{at}.0"), format!("{p}.{at}.1"));
            y = b.conv(y, conv(&dw, &dw_norm, hidden, hidden, 3, stride, hidden, Activation::Relu6));
            let (project, project_norm) = (format!("{p}.{}", at + 1), format!("{p}.{}", at + 2));
            y = b.conv(y, conv(&project, &project_norm, hidden, outputs, 1, 1, 1, Activation::None));
            x = if stride == 1 && channels == outputs { b.push(Op::Add(Activation::None), vec![x, y]) } else { y };
            channels = outputs;
            index += 1;
        }
    }
    b.stage += 1;
    let features = scaled(1280, width.max(1.0));
    x = b.conv(x, conv("features.18.0", "features.18.1", channels, features, 1, 1, 1, Activation::Relu6));
    b.push(Op::GlobalAveragePool, vec![x]);
    b.finish(features)
}

/// Channels times width, rounded.
fn scaled(channels: usize, width: f32) -> usize {
    divisible(f64::from(width) * channels as f64)
}

#[allow(clippy::too_many_arguments)] // the columns of a table
fn conv(
    name: &str,
    norm: &str,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
    groups: usize,
    activation: Activation,
) -> Conv {
    Conv { name: name.into(), norm: norm.into(), inputs, outputs, kernel, stride, groups, activation }
}
