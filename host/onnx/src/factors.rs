//! Moves scale from channels of activations into the weights that read them, the function unchanged.
//!
//! # Source
//!
//! Nagel et al., arXiv:1906.04721, section 4.1, with the activations' own ranges as in Xiao et al., arXiv:2211.10438.

use std::collections::BTreeMap;

use graft_zoo::Activation;
use serde::{Deserialize, Serialize};

use crate::QuantError;
use crate::layers::Layers;
use crate::quantize::equalize;
use crate::values::Value;

/// What each channel of an activation is divided by, by the activation's name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Factors(BTreeMap<String, Vec<f32>>);

impl Factors {
    /// Finds the factors that make the channels of each activation as alike as their readers' weights allow.
    ///
    /// `largest` has the largest magnitude of each channel of each activation. Activations that are sums, maxima or means of
    /// each other share their factors. Factors are powers of two, so that dividing is exact; activations closed by a
    /// function that does not scale (ReLU6, hard-swish, SiLU) have none, and neither has the picture.
    ///
    /// # Errors
    ///
    /// [`QuantError::NotFinite`] if a magnitude is NaN or infinite.
    pub fn of(values: &[Value], layers: &Layers, largest: &BTreeMap<String, Vec<f32>>) -> Result<Self, QuantError> {
        let mut factors = BTreeMap::new();
        for group in groups(values) {
            let channels = values[group[0]].channels;
            let scales = |v: &Value| matches!(v.activation, Activation::None | Activation::Relu);
            let is_picture = |v: &Value| v.of.is_empty() && layers.get(&v.name).is_none();
            let members = || group.iter().map(|&i| &values[i]);
            if members().any(|v| !scales(v) || is_picture(v) || v.channels != channels) {
                continue;
            }
            let (mut inputs, mut columns) = (vec![0f32; channels], vec![0f32; channels]);
            for value in members() {
                let seen = largest.get(&value.name).into_iter().flatten();
                inputs.iter_mut().zip(seen).for_each(|(m, v)| *m = m.max(*v));
                for layer in layers.iter().filter(|l| l.input == value.name) {
                    let fan_in = layer.fan_in().0.max(1);
                    // An output has a step of its own, so only what is smaller than its largest weight suffers.
                    for (o, row) in layer.weight.data.chunks_exact(fan_in).enumerate() {
                        let most = row.iter().fold(f32::MIN_POSITIVE, |m, w| m.max(w.abs()));
                        for (i, w) in row.iter().enumerate() {
                            let column = &mut columns[layer.channel(o * fan_in + i)];
                            *column = column.max(w.abs() / most);
                        }
                    }
                }
            }
            let found = equalize(&inputs, &columns)?;
            if found.iter().any(|f| *f != 1.0) {
                factors.extend(members().map(|v| (v.name.clone(), found.clone())));
            }
        }
        Ok(Self(factors))
    }

    /// Whether nothing is divided.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Divides the channels of activations, in the layers that make them, and multiplies in those that read them.
    pub fn apply(&self, layers: &mut Layers) {
        for layer in layers.iter_mut() {
            let fan_in = layer.fan_in().0.max(1);
            if let Some(made) = self.0.get(&layer.name) {
                for ((row, bias), f) in layer.weight.data.chunks_exact_mut(fan_in).zip(&mut layer.bias).zip(made) {
                    row.iter_mut().for_each(|w| *w /= f);
                    *bias /= f;
                }
            }
            if let Some(read) = self.0.get(&layer.input) {
                for i in 0..layer.weight.data.len() {
                    let channel = layer.channel(i);
                    layer.weight.data[i] *= read[channel];
                }
            }
        }
    }
}

/// Groups the activations that can only be scaled together, by their places.
fn groups(values: &[Value]) -> Vec<Vec<usize>> {
    let mut group: Vec<usize> = (0..values.len()).collect();
    for (i, value) in values.iter().enumerate() {
        for j in value.of.iter().filter_map(|name| values.iter().position(|v| v.name == *name)) {
            let (kept, gone) = (group[j], group[i]);
            group.iter_mut().filter(|g| **g == gone).for_each(|g| *g = kept);
        }
    }
    let mut found: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    group.into_iter().enumerate().for_each(|(i, g)| found.entry(g).or_default().push(i));
    found.into_values().collect()
}
