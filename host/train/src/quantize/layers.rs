//! What each layer loses by rounding, and what it saves.

use std::collections::BTreeMap;

use anyhow::Result;
use graft_onnx::{Affine, Format, HEAD, Layers, Outputs};
use graft_runtime::{EngineChoice, Model, Network, Raw};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::observe::{answers, noise};
use super::search::Search;
use super::{Quantized, Source};

/// What one layer loses by rounding, and what it saves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Name of what it makes, in the graph.
    pub name: String,
    /// How the activation that it reads is rounded.
    pub input: Affine,
    /// The least and largest value that can be of the activation that it reads.
    pub range: [f32; 2],
    /// Largest magnitude of its weights.
    pub largest_weight: f32,
    /// Its weights, and with them its bytes when they are rounded.
    pub weights: usize,
    /// Energy of what it makes by that of the error in it, all layers rounded, in decibels; none where it is exact.
    pub snr_db: Option<f64>,
    /// Noise that it adds to the answers when it alone is rounded.
    pub noise: f64,
    /// That noise by the sum over all layers.
    pub share: f64,
    /// Whether it stays in f32 in what is shipped.
    pub is_float: bool,
    /// Milliseconds here, in f32 and on bytes, where its time can be told from that of its neighbours.
    pub ms: Option<[f64; 2]>,
}

/// Looks at each layer that runs on bytes.
pub(super) fn explain(
    source: &Source<'_>,
    float: &Layers,
    quantized: &Quantized,
    search: &Search<'_>,
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<LayerReport>> {
    // A few pictures suffice to put layers in order.
    let few: Vec<Vec<u8>> =
        search.compared.iter().step_by(search.compared.len().div_ceil(FEW).max(1)).cloned().collect();
    let wanted = answers(&source.write(float, Format::Float, Outputs::Last)?, &few)?;
    let ratios = ratios(source, quantized, &few)?;
    let times = times(source, float, quantized)?;
    let mut found = vec![];
    for (done, layer) in quantized.layers.iter().enumerate() {
        progress(done, quantized.layers.iter().count());
        if !quantized.quantization.layers.contains_key(&layer.name) {
            continue;
        }
        let quantization = quantized.quantization.only(&|name| name == layer.name);
        let alone = Quantized { layers: quantized.layers.clone(), quantization };
        let input = quantized.quantization.affine(&layer.input)?;
        let zero = f32::from(input.zero_point);
        found.push(LayerReport {
            name: layer.name.clone(),
            input,
            range: [-zero * input.scale, (255.0 - zero) * input.scale],
            largest_weight: layer.weight.data.iter().fold(0.0, |m, w| m.max(w.abs())),
            weights: layer.weight.data.len(),
            snr_db: ratios.get(&layer.name).copied(),
            noise: noise(&wanted, &answers(&source.bytes(&alone, Outputs::Last)?, &few)?),
            share: 0.0,
            is_float: false,
            ms: times.get(&layer.name).copied(),
        });
    }
    let sum: f64 = found.iter().map(|l| l.noise).sum();
    found.iter_mut().for_each(|l| l.share = l.noise / sum.max(f64::MIN_POSITIVE));
    Ok(found)
}

/// Returns, by layer, the energy of what it makes by that of the error, in decibels.
fn ratios(source: &Source<'_>, quantized: &Quantized, crops: &[Vec<u8>]) -> Result<BTreeMap<String, f64>> {
    let float = Model::from_onnx(&source.write(&quantized.layers, Format::Float, Outputs::Activations)?)?;
    let bytes = Model::from_onnx(&source.bytes(quantized, Outputs::Activations)?)?;
    let mut energies = vec![[0.0; 2]; source.values.len() + 1];
    for crop in crops {
        let (float, bytes) = (float.run(crop)?, bytes.run(crop)?);
        energies.par_iter_mut().zip(&float).zip(&bytes).for_each(|(([signal, error], float), bytes)| {
            *signal += float.iter().map(|f| f64::from(*f).powi(2)).sum::<f64>();
            *error += float.iter().zip(bytes).map(|(f, b)| f64::from(f - b).powi(2)).sum::<f64>();
        });
    }
    // The answers come first.
    let names = std::iter::once(HEAD).chain(source.values.iter().map(|v| v.name.as_str()));
    let named = names.zip(energies).filter(|(_, [_, error])| *error > 0.0);
    Ok(named.map(|(name, [signal, error])| (name.to_owned(), 10.0 * (signal / error).log10())).collect())
}

/// Returns, by layer, the milliseconds of the steps that end in it, in f32 and on bytes.
fn times(source: &Source<'_>, float: &Layers, quantized: &Quantized) -> Result<BTreeMap<String, [f64; 2]>> {
    let steps = |onnx: &[u8]| -> Result<BTreeMap<String, f64>> {
        let mut network = Network::from_onnx(onnx, EngineChoice::Best)?;
        network.set_threads(1);
        let steps = network.explain(Raw::grey(&network).view(), RUNS)?.unwrap_or_default();
        let mut sums = BTreeMap::new();
        for step in steps {
            *sums.entry(layer_of(&step.node).to_owned()).or_insert(0.0) += step.ms;
        }
        Ok(sums)
    };
    let float = steps(&source.write(float, Format::Float, Outputs::Last)?)?;
    let bytes = steps(&source.bytes(quantized, Outputs::Last)?)?;
    Ok(float.into_iter().filter_map(|(name, f)| bytes.get(&name).map(|b| (name, [f, *b]))).collect())
}

/// Returns the layer that a value of the graph belongs to: `node5/conv` and `node5/q` to `node5`.
fn layer_of(value: &str) -> &str {
    if value == "logits" {
        return HEAD;
    }
    match value.rsplit_once('/') {
        Some((layer, "conv" | "add" | "q" | "dq" | "sigmoid")) => layer,
        _ => value,
    }
}

/// Pictures that layers are compared on.
const FEW: usize = 16;
/// Runs of a network of which the fastest counts.
const RUNS: usize = 5;
