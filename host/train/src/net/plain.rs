//! The operations of a network by candle's own functions, channel-first: for devices that [`super::ops`] does not know.

use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use candle_core::Tensor as Array;
use graft_zoo::Padding;
use graft_zoo::network::{Activation, Conv};

use super::ops::Statistics;
use super::{Net, Seen};

/// Convolution, normalisation and activation: `x [n, c, h, w]`.
pub(super) fn conv(net: &Net, x: &Array, c: &Conv, seen: Option<&mut Seen>) -> Result<Array> {
    let weight = net.array(&format!("{}.weight", c.name))?;
    let (x, padding) = padded(x, net.network.padding, c.kernel, c.stride)?;
    let y = x.conv2d(weight, padding, c.stride, 1, c.groups)?;
    let (gamma, beta) = (net.array(&format!("{}.weight", c.norm))?, net.array(&format!("{}.bias", c.norm))?);
    let (scale, shift) = match seen {
        None => net.fixed(c, gamma, beta)?,
        Some(seen) => {
            let (n, channels, h, w) = y.dims4()?;
            let mean = y.mean((0, 2, 3))?;
            let centred = y.broadcast_sub(&mean.reshape((1, channels, 1, 1))?)?;
            let variance = centred.sqr()?.mean((0, 2, 3))?;
            let statistics = Statistics { mean: mean.to_vec1()?, variance: variance.to_vec1()?, count: n * h * w };
            seen.push((c.norm.clone(), Arc::new(Mutex::new(statistics))));
            let scale = (gamma / (variance + f64::from(net.network.bn_eps))?.sqrt()?)?;
            let shift = (beta - (mean * &scale)?)?;
            (scale, shift)
        }
    };
    let by_channel = |a: &Array| a.reshape((1, c.outputs, 1, 1));
    let y = y.broadcast_mul(&by_channel(&scale)?)?.broadcast_add(&by_channel(&shift)?)?;
    clamp(&y, c.activation)
}

pub(super) fn clamp(x: &Array, activation: Activation) -> Result<Array> {
    Ok(match activation {
        Activation::None => x.clone(),
        Activation::Relu => x.relu()?,
        Activation::Relu6 => x.clamp(0f32, 6f32)?,
    })
}

/// 3×3, stride 2. candle has no gradient for it, so it can only stand in a frozen stage.
pub(super) fn max_pool(x: &Array, padding: Padding) -> Result<Array> {
    ensure!(
        !x.track_op(),
        "expected the stem to stay frozen on this device, found it unfrozen: candle has no gradient for a 3×3 pool of stride 2; use --device cpu or a smaller --unfreeze"
    );
    // What stands before is a ReLU, so zeros never win over a picture's own values.
    let (_, _, h, w) = x.dims4()?;
    let ((top, bottom), (left, right)) = (padding.amounts(h, 3, 2), padding.amounts(w, 3, 2));
    Ok(x.pad_with_zeros(2, top, bottom)?.pad_with_zeros(3, left, right)?.max_pool2d_with_stride(3, 2)?)
}

/// Returns the picture with what padding the convolution itself cannot do, and the padding left to it.
fn padded(x: &Array, padding: Padding, kernel: usize, stride: usize) -> Result<(Array, usize)> {
    let (_, _, h, w) = x.dims4()?;
    let (down, across) = (padding.amounts(h, kernel, stride), padding.amounts(w, kernel, stride));
    if down.0 == down.1 && down == across {
        return Ok((x.clone(), down.0));
    }
    Ok((x.pad_with_zeros(2, down.0, down.1)?.pad_with_zeros(3, across.0, across.1)?, 0))
}
