//! Measures a model on labelled pictures, in the engine that ships.

use std::time::Instant;

use anyhow::{Result, ensure};
use graft_runtime::Model;
use rayon::prelude::*;
use serde::Serialize;

use crate::dataset::{Dataset, Ignored, Sample};
use crate::metrics::{Metrics, argmax};
use crate::pictures::{self, OnBad};

/// What an evaluation reports.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    /// Accuracy.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// What ran the model.
    pub engine: String,
    /// Median milliseconds of one run of the network, one thread a picture, decoding not counted.
    pub median_ms: f64,
    /// Pictures left out.
    pub skipped: Vec<Ignored>,
}

/// One picture's answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Index into the samples.
    pub sample: usize,
    /// `[classes]`.
    pub logits: Vec<f32>,
    /// Milliseconds of the network.
    pub milliseconds: f64,
}

/// Evaluates `model` on `data`, whose classes must be among the model's.
///
/// # Errors
///
/// If a class is unknown to the model, no picture can be read, or the model fails.
pub fn evaluate(model: &Model, data: Dataset, on_bad: OnBad, progress: impl FnMut(usize, usize)) -> Result<Evaluation> {
    let data = data.relabel(model.labels())?;
    let (answers, skipped) = answers(model, &data.samples, on_bad, progress)?;
    ensure!(!answers.is_empty(), "expected pictures that can be read, found none among {}", data.samples.len());
    let pairs = answers.iter().map(|a| (data.samples[a.sample].class, argmax(&a.logits)));
    let metrics = Metrics::of(&data.labels, pairs);
    let mut times: Vec<f64> = answers.iter().map(|a| a.milliseconds).collect();
    times.sort_by(f64::total_cmp);
    Ok(Evaluation { metrics, engine: model.engine(), median_ms: times[times.len() / 2], skipped })
}

/// Runs a model on samples, in their order.
///
/// # Errors
///
/// If the model fails or, with [`OnBad::Fail`], a picture cannot be read.
pub fn answers(
    model: &Model,
    samples: &[Sample],
    on_bad: OnBad,
    mut progress: impl FnMut(usize, usize),
) -> Result<(Vec<Answer>, Vec<Ignored>)> {
    let (mut answers, mut skipped) = (vec![], vec![]);
    for (index, chunk) in samples.chunks(32).enumerate() {
        let one = |(i, sample): (usize, &Sample)| -> Result<Result<Answer, Ignored>> {
            let pixels = match pictures::read(sample, model.preprocessing(), on_bad)? {
                Ok(pixels) => pixels,
                Err(ignored) => return Ok(Err(ignored)),
            };
            let start = Instant::now();
            let logits = model.logits(&pixels.data)?;
            let milliseconds = start.elapsed().as_secs_f64() * 1e3;
            Ok(Ok(Answer { sample: index * 32 + i, logits, milliseconds }))
        };
        let done: Vec<Result<Result<Answer, Ignored>>> = chunk.par_iter().enumerate().map(one).collect();
        for outcome in done {
            match outcome? {
                Ok(answer) => answers.push(answer),
                Err(ignored) => skipped.push(ignored),
            }
        }
        progress(index * 32 + chunk.len(), samples.len());
    }
    Ok((answers, skipped))
}
