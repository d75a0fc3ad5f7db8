//! Chooses ranges, and the repairs that help: by the noise that rounding adds to the answers.

use anyhow::{Context, Result};
use graft_onnx::quantize::RangeMethod;
use graft_onnx::{Activations, Affine, Factors, Format, Layers, Outputs, Quantization, Value};
use rayon::prelude::*;
use serde::Serialize;

use super::observe::{self, Means, Seen, answers, crops, noise};
use super::repair::{Moments, Repair, correct_biases, means_of};
use super::{Plan, Quantized, Source};
use crate::dataset::{Dataset, Sample};
use crate::metrics::argmax;
use crate::rng::Rng;

/// One way of rounding that was tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    /// Which ranges or which repair.
    pub what: String,
    /// Energy of the answers' error by that of the answers.
    pub noise: f64,
    /// Share of pictures whose largest answer is the same.
    pub same: f64,
    /// Whether it was kept.
    pub kept: bool,
}

/// What was chosen.
pub(super) struct Found {
    pub(super) quantized: Quantized,
    /// What activations were divided by.
    pub(super) factors: Factors,
    /// Means of the features in the float network and as the head gets them, where biases are corrected.
    pub(super) features: Option<[Vec<f32>; 2]>,
    pub(super) method: String,
    pub(super) repairs: Vec<Repair>,
    pub(super) tried: Vec<Tried>,
    /// The best ranges of the network as it is.
    pub(super) plain: Activations,
}

/// The search, with the pictures by which ways of rounding are compared.
pub(super) struct Search<'a> {
    plan: &'a Plan<'a>,
    source: &'a Source<'a>,
    layers: &'a Layers,
    /// Some of the calibration pictures, as the network takes them.
    pub(super) compared: Vec<Vec<u8>>,
    /// What the float network answers to them.
    pub(super) float: Vec<Vec<f32>>,
}

/// A way of rounding, and how much noise it adds.
struct Best {
    quantized: Quantized,
    noise: f64,
    /// Its ranges.
    method: String,
    /// Means of each activation in the float network, by which its biases are corrected, where they are.
    means: Option<Means>,
}

impl<'a> Search<'a> {
    /// Has the float network answer the pictures that are compared.
    pub(super) fn new(plan: &'a Plan<'a>, source: &'a Source<'a>, layers: &'a Layers) -> Result<Self> {
        let compared =
            crops(&Dataset::spread(plan.calibration, COMPARED), &plan.run.record.preprocessing, plan.on_bad)?;
        let float = answers(&source.write(layers, Format::Float, Outputs::Last)?, &compared)?;
        Ok(Self { plan, source, layers, compared, float })
    }

    /// Watches all calibration pictures and chooses.
    pub(super) fn run(&self, mut progress: impl FnMut(usize, usize)) -> Result<Found> {
        let steps = 2 * self.plan.calibration.len();
        let mut tried = vec![];
        let seen = self.observe(self.layers, self.plan.calibration, |done| progress(done, steps))?;
        let mut best = self.ranges(self.layers, &seen, "", &mut tried)?;
        let plain = best.quantized.quantization.activations.clone();
        let (mut factors, mut repairs, mut features) = (Factors::default(), vec![], None);
        if self.wants(Repair::Equalize) {
            let largest = self.source.values.iter().zip(&seen).map(|(v, s)| (v.name.clone(), s.largest.clone()));
            let found = Factors::of(&self.source.values, self.layers, &largest.collect())?;
            if !found.is_empty() {
                let mut layers = self.layers.clone();
                found.apply(&mut layers);
                // A few pictures tell whether it is worth while to watch all of them again.
                let few = Dataset::spread(self.plan.calibration, FEW);
                let seen = self.observe(&layers, &few, |_| ())?;
                let first = self.ranges(&layers, &seen, "equalize, ", &mut vec![])?;
                if first.noise < WORTH * best.noise {
                    let watched = |done| progress(self.plan.calibration.len() + done, steps);
                    let seen = self.observe(&layers, self.plan.calibration, watched)?;
                    let equal = self.ranges(&layers, &seen, "equalize, ", &mut tried)?;
                    if equal.noise < best.noise {
                        (best, factors) = (equal, found);
                        repairs.push(Repair::Equalize);
                    }
                }
            }
        }
        if self.wants(Repair::Round) {
            let rounded = self.rounded(&best)?;
            if self.better(&mut best, rounded, "round", &mut tried)? {
                repairs.push(Repair::Round);
            }
        }
        if let Some(means) = best.means.clone() {
            let mut bare = best.quantized.clone();
            for layer in bare.layers.iter() {
                if let Some(integers) = bare.quantization.layers.get_mut(&layer.name) {
                    integers.bias.clone_from(&layer.bias);
                }
            }
            let mut kept = !self.better(&mut best, bare, "biases as they were", &mut tried)?;
            let last = self.source.values.last().map(|v| v.name.clone()).unwrap_or_default();
            let mut features_of = [means.clone(), means];
            let samples = Dataset::spread(self.plan.calibration, FEW);
            let watched = self.source.write(&best.quantized.layers, Format::Float, Outputs::Activations)?;
            let affines = &best.quantized.quantization.activations;
            let [float, rounded] = observe::means(&watched, &self.source.values, affines, &samples, self.plan.on_bad)?;
            let mut corrected = best.quantized.clone();
            correct_biases(&mut corrected.quantization, &corrected.layers, &float, &rounded)?;
            if self.better(&mut best, corrected, "bias, by rounded inputs", &mut tried)? {
                (kept, features_of) = (true, [float, rounded]);
            }
            if kept {
                repairs.push(Repair::Bias);
                let [float, into_head] = features_of.map(|means| means.get(&last).cloned());
                features = float.zip(into_head).map(|(a, b)| [a, b]);
            }
        }
        progress(steps, steps);
        repairs.sort_unstable();
        let Best { quantized, method, .. } = best;
        Ok(Found { quantized, factors, features, method, repairs, tried, plain })
    }

    fn wants(&self, repair: Repair) -> bool {
        self.plan.repairs.contains(&repair)
    }

    fn observe(&self, layers: &Layers, samples: &[Sample], progress: impl FnMut(usize)) -> Result<Vec<Seen>> {
        let watched = self.source.write(layers, Format::Float, Outputs::Activations)?;
        observe::observe(&watched, &self.source.values, samples, self.plan.on_bad, progress)
    }

    /// Tries the ranges; returns the best.
    ///
    /// Where biases may be corrected they are before ranges are compared: a shift of the means drowns what tells ranges apart.
    fn ranges(&self, layers: &Layers, seen: &[Seen], with: &str, tried: &mut Vec<Tried>) -> Result<Best> {
        let methods = self.plan.ranges.map_or_else(|| METHODS.to_vec(), |m| vec![m]);
        let means = self.wants(Repair::Bias).then(|| means_of(&self.source.values, seen));
        let first = tried.len();
        let mut best: Option<(Best, usize)> = None;
        for method in methods {
            let quantization = Quantization::nearest(layers, activations(&self.source.values, seen, method)?)?;
            let mut quantized = Quantized { layers: layers.clone(), quantization };
            if let Some(means) = &means {
                correct_biases(&mut quantized.quantization, layers, means, means)?;
            }
            let (noise, same) = self.measure(&quantized)?;
            let bias = if means.is_some() { ", bias" } else { "" };
            tried.push(Tried { what: format!("{with}{method}{bias}"), noise, same, kept: false });
            if best.as_ref().is_none_or(|(b, _)| noise < b.noise) {
                let method = method.to_string();
                best = Some((Best { quantized, noise, method, means: means.clone() }, tried.len() - 1));
            }
        }
        let (best, place) = best.context("expected a method of calibration, found none")?;
        if tried[..first].iter().all(|t| best.noise < t.noise) {
            tried.iter_mut().for_each(|t| t.kept = false);
            tried[place].kept = true;
        }
        Ok(best)
    }

    /// Takes a repaired network where it adds less noise than the best.
    fn better(&self, best: &mut Best, repaired: Quantized, what: &str, tried: &mut Vec<Tried>) -> Result<bool> {
        let (noise, same) = self.measure(&repaired)?;
        let kept = noise < best.noise;
        tried.push(Tried { what: what.to_owned(), noise, same, kept });
        if kept {
            (best.quantized, best.noise) = (repaired, noise);
        }
        Ok(kept)
    }

    fn measure(&self, quantized: &Quantized) -> Result<(f64, f64)> {
        let found = answers(&self.source.bytes(quantized, Outputs::Last)?, &self.compared)?;
        let same = self.float.iter().zip(&found).filter(|(a, b)| argmax(a) == argmax(b)).count();
        Ok((noise(&self.float, &found), same as f64 / found.len().max(1) as f64))
    }

    /// Rounds the weights again by the second moments of what each layer reads, as many layers at a time as memory allows.
    fn rounded(&self, Best { quantized, means, .. }: &Best) -> Result<Quantized> {
        let mut out = quantized.clone();
        let layers: Vec<_> = quantized.layers.iter().collect();
        let watched = self.source.write(&quantized.layers, Format::Float, Outputs::Activations)?;
        let model = graft_runtime::Model::from_onnx(&watched).context("loading the graph to watch")?;
        let mut at = 0;
        while at < layers.len() {
            let mut numbers = 0;
            let fits = |l: &&&graft_onnx::Layer| {
                numbers += Moments::numbers(l);
                numbers <= MOMENTS
            };
            let count = layers[at..].iter().take_while(fits).count().max(1);
            let part = &layers[at..at + count];
            let mut moments: Vec<Moments> = part.iter().map(|l| Moments::new(l)).collect();
            for (picture, crop) in self.compared.iter().enumerate() {
                let outputs = model.run(crop)?;
                moments.par_iter_mut().zip(part).enumerate().try_for_each(|(i, (moments, layer))| {
                    let place = self.source.values.iter().position(|v| v.name == layer.input);
                    let place = place.with_context(|| format!("expected an activation {}, found none", layer.input))?;
                    let (input, channels) = (&outputs[place + 1], self.source.values[place].channels);
                    // All feature maps are square: the input is.
                    let side = (input.len() / channels.max(1)).isqrt();
                    let windows = (4 * layer.fan_in().0).clamp(256, 8192).div_ceil(self.compared.len());
                    let mut rng = Rng::new(((at + i) << 32 | picture) as u64);
                    moments.add(layer, input, [side; 2], windows, &mut rng)?;
                    anyhow::Ok(())
                })?;
            }
            for (moments, layer) in moments.iter().zip(part) {
                if let Some(integers) = out.quantization.layers.get_mut(&layer.name) {
                    integers.weight = moments.round(layer, &integers.scales)?;
                }
            }
            at += count;
        }
        if let Some(means) = means {
            correct_biases(&mut out.quantization, &out.layers, means, means)?;
        }
        Ok(out)
    }
}

/// Chooses the range of every activation.
pub(super) fn activations(values: &[Value], seen: &[Seen], method: RangeMethod) -> Result<Activations> {
    let one = |(value, seen): (&Value, &Seen)| {
        let (low, high) = seen.observer.range(method).with_context(|| format!("calibrating {}", value.name))?;
        Ok((value.name.clone(), Affine::from_range(low, high)))
    };
    values.iter().zip(seen).map(one).collect()
}

/// Pictures on which ways of rounding are compared.
const COMPARED: usize = 64;
/// Pictures by which it is told whether equalizing is worth while, and how rounding moves the means of activations.
const FEW: usize = 32;
/// Less than this of the noise before is worth while.
const WORTH: f64 = 0.8;
/// Numbers that second moments may take at a time.
const MOMENTS: usize = 64 << 20;

/// The ranges that are tried.
pub(super) const METHODS: [RangeMethod; 6] = [
    RangeMethod::MinMax,
    RangeMethod::Percentile(1e-5),
    RangeMethod::Percentile(1e-4),
    RangeMethod::Percentile(1e-3),
    RangeMethod::Mse,
    RangeMethod::Entropy,
];
