//! Quantization arithmetic: scales, zero points, integers.
//!
//! # Source
//!
//! ONNX operators QuantizeLinear and DequantizeLinear, opset 13; Nagel et al., arXiv:2106.08295.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::OnnxError;
use crate::layers::{Layer, Layers};

mod bias;
mod equalize;
#[cfg(test)]
mod golden;
mod range;
mod rounding;

pub use bias::{Taps, correction};
pub use equalize::equalize;
pub use range::{Observer, RangeMethod, UnknownMethod};
pub use rounding::{Gram, round_compensated, weight_scales_mse};

/// Why numbers could not be quantized.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// The weights do not divide into output channels.
    #[error("expected a multiple of {out} weights, found {len}")]
    Shape {
        /// Output channels.
        out: usize,
        /// Number of weights.
        len: usize,
    },
    /// A value is NaN or infinite.
    #[error("expected finite values, found one that is not in {0}")]
    NotFinite(String),
    /// Nothing was observed.
    #[error("expected at least one calibration picture, found none")]
    NoSamples,
}

/// `real = scale * (q - zero_point)` with `q` in 0..=255.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Affine {
    /// Real units per integer step; positive.
    pub scale: f32,
    /// The integer that stands for zero, so that zero (padding, ReLU) is exact.
    pub zero_point: u8,
}

impl Affine {
    /// Returns the parameters of a range, widened to hold zero. An empty range gives scale 1.
    pub fn from_range(low: f32, high: f32) -> Self {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let scale = (high - low) / 255.0;
        if scale < f32::MIN_POSITIVE * 256.0 {
            return Self { scale: 1.0, zero_point: 0 };
        }
        let zero_point = (-low / scale).round_ties_even().clamp(0.0, 255.0) as u8;
        Self { scale, zero_point }
    }

    /// Quantizes as `QuantizeLinear` does: divides, rounds half to even, adds the zero point, saturates.
    pub fn quantize(self, x: f32) -> u8 {
        ((x / self.scale).round_ties_even() + f32::from(self.zero_point)).clamp(0.0, 255.0) as u8
    }
}

/// Returns one symmetric int8 scale for each output channel of a weight tensor.
///
/// `weights` is row-major with the output channel first. The scale of channel `c` is `max |w_c| / 127`; its zero
/// point is 0. A channel of zeros gets scale 1.0, so that dividing by a scale is always safe.
///
/// # Errors
///
/// [`QuantError::Shape`] if `weights.len()` is not a multiple of `out`, [`QuantError::NotFinite`] if any weight is
/// NaN or infinite.
pub fn weight_scales(weights: &[f32], out: usize) -> Result<Vec<f32>, QuantError> {
    if out == 0 || !weights.len().is_multiple_of(out) {
        return Err(QuantError::Shape { out, len: weights.len() });
    }
    if weights.iter().any(|w| !w.is_finite()) {
        return Err(QuantError::NotFinite("the weights".into()));
    }
    let per = weights.len() / out;
    Ok((0..out)
        .map(|c| {
            let max = weights[c * per..(c + 1) * per].iter().fold(0f32, |m, w| m.max(w.abs()));
            if max < f32::MIN_POSITIVE * 128.0 { 1.0 } else { max / 127.0 }
        })
        .collect())
}

/// Quantizes weights to int8 with one scale a channel.
pub fn quantize_weights(weights: &[f32], scales: &[f32]) -> Vec<i8> {
    let per = weights.len() / scales.len().max(1);
    weights
        .iter()
        .enumerate()
        .map(|(i, w)| (w / scales[i / per]).round_ties_even().clamp(-127.0, 127.0) as i8)
        .collect()
}

/// Quantizes a bias to int32 in steps of `input_scale * weight_scale`.
pub fn quantize_bias(bias: &[f32], input_scale: f32, scales: &[f32]) -> Vec<i32> {
    bias.iter()
        .zip(scales)
        .map(|(b, s)| {
            let q = (f64::from(*b) / (f64::from(input_scale) * f64::from(*s))).round_ties_even();
            q.clamp(f64::from(i32::MIN), f64::from(i32::MAX)) as i32
        })
        .collect()
}

/// Raises the scale of channels whose bias would not fit 30 bits, which happens where all weights are tiny.
pub fn fit_bias(scales: &mut [f32], bias: &[f32], input_scale: f32) {
    for (s, b) in scales.iter_mut().zip(bias) {
        *s = s.max(b.abs() / (input_scale * (1 << 30) as f32));
    }
}

/// The integers of a layer's weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Integers {
    /// Real units per step of each output channel, `[outputs]`.
    pub scales: Vec<f32>,
    /// As the layer's weights.
    pub weight: Vec<i8>,
    /// `[outputs]`, in real units.
    pub bias: Vec<f32>,
}

impl Integers {
    /// Rounds a layer's weights to the nearest step, the largest of each output to 127; `input` is how its input is rounded.
    ///
    /// # Errors
    ///
    /// [`QuantError::Shape`], or [`QuantError::NotFinite`] if a weight is NaN or infinite.
    pub fn nearest(layer: &Layer, input: Option<Affine>) -> Result<Self, QuantError> {
        let mut scales = weight_scales(&layer.weight.data, layer.outputs())?;
        if let Some(input) = input {
            fit_bias(&mut scales, &layer.bias, input.scale);
        }
        let weight = quantize_weights(&layer.weight.data, &scales);
        Ok(Self { scales, weight, bias: layer.bias.clone() })
    }

    /// Returns the weights that the integers stand for.
    pub fn dequantized(&self) -> Vec<f32> {
        let per = self.weight.len() / self.scales.len().max(1);
        self.weight.iter().enumerate().map(|(i, q)| f32::from(*q) * self.scales[i / per]).collect()
    }
}

/// Parameters of activations, by name.
pub type Activations = BTreeMap<String, Affine>;

/// How a network is rounded: its activations, and the layers that run on bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantization {
    /// Parameters of activations, by name.
    pub activations: Activations,
    /// Integers of the layers that run on bytes, by name; the others stay in single precision.
    pub layers: BTreeMap<String, Integers>,
}

impl Quantization {
    /// Rounds all layers to the nearest step.
    ///
    /// # Errors
    ///
    /// As [`Integers::nearest`], and [`OnnxError::NotCalibrated`] if an activation has no parameters.
    pub fn nearest(layers: &Layers, activations: Activations) -> Result<Self, OnnxError> {
        let mut made = Self { activations, layers: BTreeMap::new() };
        for layer in layers.iter() {
            let input = made.affine(&layer.input)?;
            made.layers.insert(layer.name.clone(), Integers::nearest(layer, Some(input))?);
        }
        Ok(made)
    }

    /// Returns an activation's parameters.
    ///
    /// # Errors
    ///
    /// [`OnnxError::NotCalibrated`] if it has none.
    pub fn affine(&self, activation: &str) -> Result<Affine, OnnxError> {
        let found = self.activations.get(activation).copied();
        found.ok_or_else(|| OnnxError::NotCalibrated(activation.to_owned()))
    }

    /// Returns it with these layers alone on bytes.
    pub fn only(&self, layers: &dyn Fn(&str) -> bool) -> Self {
        let kept = self.layers.iter().filter(|(name, _)| layers(name)).map(|(n, i)| (n.clone(), i.clone()));
        Self { activations: self.activations.clone(), layers: kept.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_exact_and_rounding_is_half_to_even() {
        let a = Affine::from_range(-1.0, 3.0);
        assert_eq!(a.quantize(0.0), a.zero_point);
        // onnx.reference 1.17, QuantizeLinear, scale 2, zero point 128 (the vector of ONNX's own test_quantizelinear).
        let a = Affine { scale: 2.0, zero_point: 128 };
        let found: Vec<u8> = [0.0, 2.0, 3.0, 1000.0, -254.0, -1000.0, 5.0].iter().map(|&x| a.quantize(x)).collect();
        assert_eq!(found, [128, 129, 130, 255, 1, 0, 130]);
        assert_eq!(Affine::from_range(0.5, 2.55).zero_point, 0);
    }

    #[test]
    fn weights_keep_their_largest_value() {
        let w = [0.5, -1.27, 0.01, 0.0, 0.0, 0.0];
        let s = weight_scales(&w, 2).unwrap();
        assert_eq!(s, [1.27 / 127.0, 1.0]);
        assert_eq!(quantize_weights(&w, &s), [50, -127, 1, 0, 0, 0]);
        assert!(matches!(weight_scales(&w, 4), Err(QuantError::Shape { .. })));
        assert!(matches!(weight_scales(&[f32::NAN], 1), Err(QuantError::NotFinite(_))));
    }

    #[test]
    fn a_bias_never_overflows() {
        let mut s = [1e-12f32];
        fit_bias(&mut s, &[3.0], 0.02);
        let q = quantize_bias(&[3.0], 0.02, &s);
        assert!((q[0] - (1 << 30)).abs() < 256, "{q:?}");
    }
}
