//! The block of MobileNetV3 and EfficientNet: expand, look around channel by channel, weight the channels, project.
//!
//! Of MobileNetV2 it has no squeeze-and-excitation, and torchvision gives its parts other names: `mobilenet_v2`.

use crate::network::{Activation, Builder, Conv, Op, SqueezeExcite};

/// One block under torchvision names.
pub(crate) struct Block {
    /// Name of the sequence of its layers.
    pub(crate) name: String,
    /// Channels in, between and out; where the first two are equal, nothing expands.
    pub(crate) channels: [usize; 3],
    /// Side of the depthwise kernel.
    pub(crate) kernel: usize,
    /// Stride of the depthwise convolution.
    pub(crate) stride: usize,
    /// Channels within the squeeze-and-excitation, where there is one.
    pub(crate) squeezed: Option<usize>,
    /// Closes all convolutions but the last.
    pub(crate) activation: Activation,
    /// Closes the first layer of the squeeze-and-excitation.
    pub(crate) within: Activation,
    /// Closes its second layer.
    pub(crate) gate: Activation,
}

impl Block {
    /// Adds its nodes behind the node `x`, and returns the last.
    pub(crate) fn push(self, b: &mut Builder, x: usize) -> usize {
        let [inputs, hidden, outputs] = self.channels;
        let (mut y, mut at) = (x, 0);
        let mut next = || {
            at += 1;
            format!("{}.{}", self.name, at - 1)
        };
        if hidden != inputs {
            y = b.conv(y, Conv::closed(&next(), [inputs, hidden], 1, 1, self.activation));
        }
        let depthwise = Conv::closed(&next(), [hidden, hidden], self.kernel, self.stride, self.activation);
        y = b.conv(y, Conv { groups: hidden, ..depthwise });
        if let Some(squeezed) = self.squeezed {
            let name = next();
            let squeeze = SqueezeExcite {
                reduce: format!("{name}.fc1"),
                expand: format!("{name}.fc2"),
                channels: hidden,
                squeezed,
                activation: self.within,
                gate: self.gate,
            };
            y = b.push(Op::SqueezeExcite(squeeze), vec![y]);
        }
        y = b.conv(y, Conv::closed(&next(), [hidden, outputs], 1, 1, Activation::None));
        if self.stride == 1 && inputs == outputs { b.push(Op::Add(Activation::None), vec![x, y]) } else { y }
    }
}

/// Rounds a number of channels to a multiple of 8 without losing more than a tenth (torchvision's `_make_divisible`).
pub(crate) fn divisible(wanted: f64) -> usize {
    let rounded = (((wanted + 4.0) as usize) / 8 * 8).max(8);
    if (rounded as f64) < 0.9 * wanted { rounded + 8 } else { rounded }
}
