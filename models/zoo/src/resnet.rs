//! ResNet-18/34/50 under torchvision names (stride on the 3×3 of a bottleneck). Source: arXiv:1512.03385, table 1.

use crate::network::{Activation, Builder, Conv, Network, Op};

pub(crate) fn backbone(depth: u32) -> Network {
    let (repeats, bottleneck) = match depth {
        18 => ([2, 2, 2, 2], false),
        34 => ([3, 4, 6, 3], false),
        _ => ([3, 4, 6, 3], true),
    };
    let expansion = if bottleneck { 4 } else { 1 };
    let mut b = Builder::new();
    let stem = b.conv(0, conv("conv1", "bn1", [3, 64], 7, 2, Activation::Relu));
    let mut x = b.push(Op::MaxPool, vec![stem]);
    let mut channels = 64;
    for (layer, repeats) in repeats.into_iter().enumerate() {
        b.stage += 1;
        let mid = 64 << layer;
        let outputs = mid * expansion;
        for block in 0..repeats {
            let stride = if block == 0 && layer > 0 { 2 } else { 1 };
            let p = format!("layer{}.{block}", layer + 1);
            let named = |i: u32| (format!("{p}.conv{i}"), format!("{p}.bn{i}"));
            let mut y = x;
            let plan: &[([usize; 2], usize, usize)] = &if bottleneck {
                vec![([channels, mid], 1, 1), ([mid, mid], 3, stride), ([mid, outputs], 1, 1)]
            } else {
                vec![([channels, mid], 3, stride), ([mid, mid], 3, 1)]
            };
            for (i, &(io, kernel, stride)) in plan.iter().enumerate() {
                let (name, norm) = named(i as u32 + 1);
                let activation = if i + 1 == plan.len() { Activation::None } else { Activation::Relu };
                y = b.conv(y, conv(&name, &norm, io, kernel, stride, activation));
            }
            let shortcut = if stride != 1 || channels != outputs {
                let (name, norm) = (format!("{p}.downsample.0"), format!("{p}.downsample.1"));
                b.conv(x, conv(&name, &norm, [channels, outputs], 1, stride, Activation::None))
            } else {
                x
            };
            x = b.push(Op::Add(Activation::Relu), vec![y, shortcut]);
            channels = outputs;
        }
    }
    b.push(Op::GlobalAveragePool, vec![x]);
    b.finish(channels)
}

fn conv(
    name: &str,
    norm: &str,
    [inputs, outputs]: [usize; 2],
    kernel: usize,
    stride: usize,
    activation: Activation,
) -> Conv {
    Conv { name: name.into(), norm: norm.into(), inputs, outputs, kernel, stride, groups: 1, activation }
}
