//! What pictures make of a network: ranges and means of every activation, and the answers.

use anyhow::{Context, Result, ensure};
use graft_onnx::{Observer, Value};
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
