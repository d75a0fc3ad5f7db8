//! What pictures make of a network: ranges and means of every activation, and the answers.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use graft_onnx::{Activations, Affine, Observer, Value};
use graft_runtime::Model;
use graft_zoo::Preprocessing;
use rayon::prelude::*;

use crate::dataset::Sample;
use crate::pictures::{self, OnBad};

/// What was seen of one activation.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Its extremes and their distribution.
    pub(super) observer: Observer,
    /// The largest magnitude of each channel.
    pub(super) largest: Vec<f32>,
    sums: Vec<f64>,
    /// Numbers seen of each channel.
    count: usize,
}

impl Seen {
    fn new(channels: usize) -> Self {
        Self { observer: Observer::default(), largest: vec![0.0; channels], sums: vec![0.0; channels], count: 0 }
    }

    fn add(&mut self, name: &str, values: &[f32]) -> Result<()> {
        self.observer.observe(name, values)?;
        let channels = self.sums.len();
        ensure!(values.len().is_multiple_of(channels), "expected {channels} channels of {name}, found other numbers");
        let plane = values.len() / channels;
        for (c, values) in values.chunks_exact(plane.max(1)).enumerate() {
            let (largest, sum) = largest_and_sum(values);
            self.largest[c] = self.largest[c].max(largest);
            self.sums[c] += sum;
        }
        self.count += plane;
        Ok(())
    }

    /// Returns the mean of each channel.
    pub(super) fn means(&self) -> Vec<f32> {
        self.sums.iter().map(|s| (s / self.count.max(1) as f64) as f32).collect()
    }
}

/// Returns the largest magnitude and the sum of finite values.
fn largest_and_sum(values: &[f32]) -> (f32, f64) {
    const WIDE: usize = 8;
    let (whole, rest) = values.as_chunks::<WIDE>();
    let (mut largest, mut sums) = ([0.0f32; WIDE], [0.0f64; WIDE]);
    for values in whole {
        for i in 0..WIDE {
            let magnitude = values[i].abs();
            largest[i] = if magnitude > largest[i] { magnitude } else { largest[i] };
            sums[i] += f64::from(values[i]);
        }
    }
    let largest = largest.iter().chain(rest).fold(0.0f32, |m, v| m.max(v.abs()));
    (largest, sums.iter().sum::<f64>() + rest.iter().map(|v| f64::from(*v)).sum::<f64>())
}

/// Pictures in memory at a time: what one makes of a network takes tens of megabytes.
const CHUNK: usize = 4;

/// Watches the activations of a graph written with [`graft_onnx::Outputs::Activations`], in the order of `values`. Memory
/// does not grow with the number of pictures.
///
/// # Errors
///
/// If no picture can be read, or the model fails or gives other outputs.
pub(super) fn observe(
    onnx: &[u8],
    values: &[Value],
    samples: &[Sample],
    on_bad: OnBad,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Seen>> {
    let model = Model::from_onnx(onnx).context("loading the graph to watch")?;
    let outputs = model.outputs();
    ensure!(
        outputs.len() == values.len() + 1,
        "expected {} outputs of the graph to watch, found {}",
        values.len() + 1,
        outputs.len()
    );
    let mut seen: Vec<Seen> = values.iter().map(|v| Seen::new(v.channels)).collect();
    for (index, chunk) in samples.chunks(CHUNK).enumerate() {
        let crops = crops(chunk, model.preprocessing(), on_bad)?;
        let runs: Vec<Vec<Vec<f32>>> = crops.par_iter().map(|c| model.run(c)).collect::<Result<_, _>>()?;
        // The first output is the last of the graph; those watched follow.
        seen.par_iter_mut().zip(values).enumerate().try_for_each(|(i, (seen, value))| {
            runs.iter().try_for_each(|outputs| seen.add(&value.name, &outputs[i + 1]))
        })?;
        progress(index * CHUNK + chunk.len());
    }
    ensure!(
        seen.iter().all(|s| s.count > 0),
        "expected calibration pictures that can be read, found none among {}",
        samples.len()
    );
    Ok(seen)
}

/// The mean of each channel of each activation.
pub(super) type Means = BTreeMap<String, Vec<f32>>;

/// Returns the means of the activations of a graph as [`observe`] takes it, as they are and rounded by `affines`: how much rounding
/// moves what a layer reads, without what the layers before it add, which their own biases make up for.
///
/// # Errors
///
/// As [`observe`].
pub(super) fn means(
    onnx: &[u8],
    values: &[Value],
    affines: &Activations,
    samples: &[Sample],
    on_bad: OnBad,
) -> Result<[Means; 2]> {
    let model = Model::from_onnx(onnx).context("loading the graph to watch")?;
    let crops = crops(samples, model.preprocessing(), on_bad)?;
    ensure!(!crops.is_empty(), "expected calibration pictures that can be read, found none among {}", samples.len());
    let one = |crop: &Vec<u8>| -> Result<Vec<Vec<[f64; 2]>>> {
        let outputs = model.run(crop)?;
        let of = |(value, numbers): (&Value, &Vec<f32>)| {
            let (plane, affine) = (numbers.len() / value.channels.max(1), affines.get(&value.name).copied());
            numbers.chunks_exact(plane.max(1)).map(|n| mean_and_rounded(n, affine)).collect()
        };
        // The first output is the last of the graph.
        Ok(values.iter().zip(&outputs[1..]).map(of).collect())
    };
    let found: Vec<Vec<Vec<[f64; 2]>>> = crops.par_iter().map(one).collect::<Result<_>>()?;
    let part = |part: usize| -> Means {
        let mean = |value: usize, channel: usize| {
            let sum: f64 = found.iter().map(|picture| picture[value][channel][part]).sum();
            (sum / found.len() as f64) as f32
        };
        let all = values.iter().enumerate();
        all.map(|(i, v)| (v.name.clone(), (0..v.channels).map(|c| mean(i, c)).collect())).collect()
    };
    Ok([part(0), part(1)])
}

fn mean_and_rounded(numbers: &[f32], affine: Option<Affine>) -> [f64; 2] {
    let n = numbers.len().max(1) as f64;
    let mean = numbers.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let Some(Affine { scale, zero_point }) = affine else { return [mean; 2] };
    let zero = f32::from(zero_point);
    let steps = |v: &f32| f64::from((v / scale).round_ties_even().clamp(-zero, 255.0 - zero));
    [mean, f64::from(scale) * numbers.iter().map(steps).sum::<f64>() / n]
}

/// Reads pictures as the network takes them; those that cannot be read are left out.
///
/// # Errors
///
/// With [`OnBad::Fail`], if one cannot be read.
pub(super) fn crops(samples: &[Sample], preprocessing: &Preprocessing, on_bad: OnBad) -> Result<Vec<Vec<u8>>> {
    let read = |s: &Sample| Ok(pictures::read(s, preprocessing, on_bad)?.ok().map(|p| p.data));
    let read: Vec<Result<Option<Vec<u8>>>> = samples.par_iter().map(read).collect();
    read.into_iter().filter_map(Result::transpose).collect()
}

/// Returns what a graph answers to each picture.
///
/// # Errors
///
/// If it does not load or run.
pub(super) fn answers(onnx: &[u8], crops: &[Vec<u8>]) -> Result<Vec<Vec<f32>>> {
    let model = Model::from_onnx(onnx)?;
    Ok(crops.par_iter().map(|c| model.logits(c)).collect::<Result<_, _>>()?)
}

/// Returns the energy of the difference by that of the signal about its mean: how much noise `found` adds to `wanted`.
pub(super) fn noise(wanted: &[Vec<f32>], found: &[Vec<f32>]) -> f64 {
    let pairs = || wanted.iter().flatten().zip(found.iter().flatten());
    let count = pairs().count().max(1) as f64;
    let mean = pairs().map(|(w, _)| f64::from(*w)).sum::<f64>() / count;
    let signal: f64 = pairs().map(|(w, _)| (f64::from(*w) - mean).powi(2)).sum();
    let difference: f64 = pairs().map(|(w, f)| f64::from(w - f).powi(2)).sum();
    if difference == 0.0 { 0.0 } else { difference / signal.max(f64::MIN_POSITIVE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounded_means_are_those_of_the_integers() {
        let affine = Affine { scale: 0.1, zero_point: 5 };
        let numbers = [0.04, -1.0, 30.0, 0.25, 0.35, 7.77];
        let rounded = |v: f32| f64::from(f32::from(affine.quantize(v)) - 5.0) * f64::from(affine.scale);
        let expected = numbers.iter().map(|v| rounded(*v)).sum::<f64>() / 6.0;
        let [mean, found] = mean_and_rounded(&numbers, Some(affine));
        assert!((mean - 37.41 / 6.0).abs() < 1e-6 && (found - expected).abs() < 1e-9, "{mean} {found} {expected}");
        // Cut at both ends: -0.5 and 25.
        assert_eq!(mean_and_rounded(&[-1.0, 30.0], Some(affine))[1], f64::from(affine.scale) * 122.5);
        assert_eq!(mean_and_rounded(&numbers, None), [mean; 2]);
    }
}
