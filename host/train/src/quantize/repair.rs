//! Repairs of what rounding does to a network.

use std::str::FromStr;

use anyhow::{Context, Result};
use graft_onnx::quantize::{Gram, Taps, correction, round_compensated};
use graft_onnx::{Integers, Layer, Layers, Quantization, Value};
use serde::{Deserialize, Serialize};

use super::observe::{Means, Seen};
use crate::rng::Rng;

/// A repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// Channels of an activation are made alike, and the weights that read them changed to match.
    Equalize,
    /// A layer's bias makes up for the mean error of what it computes.
    Bias,
    /// Weights are rounded one after the other, each making up for the error of those before.
    Round,
}

impl Repair {
    /// Every repair, in the order in which they are tried.
    pub const ALL: [Self; 3] = [Self::Equalize, Self::Bias, Self::Round];

    /// Returns the name that [`Repair::from_str`] takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Equalize => "equalize",
            Self::Bias => "bias",
            Self::Round => "round",
        }
    }
}

impl FromStr for Repair {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|r| r.name() == name)
            .with_context(|| format!("expected repairs of {known}, found {name}"))
    }
}

/// Moves the biases of layers by the mean error of what they compute, from the means of each channel of each activation in
/// the float network, and of what layers read in the place of these: the same, or rounded.
pub(super) fn correct_biases(
    quantization: &mut Quantization,
    layers: &Layers,
    float: &Means,
    rounded: &Means,
) -> Result<()> {
    for layer in layers.iter() {
        let means = float.get(&layer.input).zip(rounded.get(&layer.input));
        if let (Some(integers), Some((float, rounded))) = (quantization.layers.get_mut(&layer.name), means) {
            correct_bias(layer, integers, float, rounded)?;
        }
    }
    Ok(())
}

/// Moves one layer's bias, from the means of each channel that it reads.
pub(super) fn correct_bias(layer: &Layer, integers: &mut Integers, float: &[f32], rounded: &[f32]) -> Result<()> {
    let taps = Taps { spatial: layer.fan_in().1, groups: layer.groups };
    let by = correction(&layer.weight.data, &integers.dequantized(), float, rounded, taps)?;
    integers.bias = layer.bias.iter().zip(by).map(|(b, c)| b + c).collect();
    Ok(())
}

/// Returns the means of each activation by name.
pub(super) fn means_of(values: &[Value], seen: &[Seen]) -> Means {
    values.iter().zip(seen).map(|(v, s)| (v.name.clone(), s.means())).collect()
}

/// The second moments of what a layer's outputs read, one for each group.
pub(super) struct Moments(Vec<Gram>);

impl Moments {
    pub(super) fn new(layer: &Layer) -> Self {
        let (fan_in, _) = layer.fan_in();
        Self((0..layer.groups).map(|_| Gram::new(fan_in)).collect())
    }

    /// Returns how many numbers they take.
    pub(super) fn numbers(layer: &Layer) -> usize {
        layer.groups * layer.fan_in().0.pow(2)
    }

    /// Adds windows at random places of an input `[channels, h, w]`, zero beyond its borders.
    pub(super) fn add(
        &mut self,
        layer: &Layer,
        input: &[f32],
        [h, w]: [usize; 2],
        windows: usize,
        rng: &mut Rng,
    ) -> Result<()> {
        let (fan_in, taps) = layer.fan_in();
        let side = layer.weight.shape.get(2).copied().unwrap_or(1);
        let before = side / 2;
        let places: Vec<[usize; 2]> = (0..windows).map(|_| [rng.below(h), rng.below(w)]).collect();
        let mut rows = vec![0.0; windows * fan_in];
        for (group, gram) in self.0.iter_mut().enumerate() {
            for (row, [y, x]) in rows.chunks_exact_mut(fan_in).zip(&places) {
                for (i, value) in row.iter_mut().enumerate() {
                    let (channel, tap) = (group * (fan_in / taps) + i / taps, i % taps);
                    let (y, x) = ((y + tap / side).wrapping_sub(before), (x + tap % side).wrapping_sub(before));
                    *value = if y < h && x < w { input[(channel * h + y) * w + x] } else { 0.0 };
                }
            }
            gram.add(&rows)?;
        }
        Ok(())
    }

    /// Rounds a layer's weights.
    pub(super) fn round(&self, layer: &Layer, scales: &[f32]) -> Result<Vec<i8>> {
        let per_group = layer.outputs() / layer.groups;
        let len = per_group * layer.fan_in().0;
        let mut rounded = Vec::with_capacity(layer.weight.data.len());
        for ((gram, weights), scales) in
            self.0.iter().zip(layer.weight.data.chunks_exact(len)).zip(scales.chunks_exact(per_group))
        {
            rounded.extend(round_compensated(weights, scales, gram)?);
        }
        Ok(rounded)
    }
}
