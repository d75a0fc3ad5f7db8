//! Measures a model on labelled pictures, in the engine that ships.

use std::time::Instant;

use anyhow::{Result, ensure};
use graft_runtime::{Model, Said};
use rayon::prelude::*;
use serde::Serialize;

use crate::dataset::{Dataset, Ignored, Sample, Task};
use crate::metrics::{self, Metrics, TagMetrics, ValueMetrics, argmax};
use crate::pictures::{self, OnBad};

mod worth;

pub(crate) use worth::worth;
pub use worth::{Covered, Strangers, Worth};

/// What an evaluation reports.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    /// How good the answers are.
    #[serde(flatten)]
    pub found: Found,
    /// What ran the model.
    pub engine: String,
    /// Median milliseconds of one run of the network, one thread a picture, decoding not counted.
    pub median_ms: f64,
    /// What probabilities and doubts are worth, of a model that was calibrated.
    pub worth: Option<Worth>,
    /// How well pictures of something else are told apart, where there were some.
    pub strangers: Option<Strangers>,
    /// Pictures left out.
    pub skipped: Vec<Ignored>,
}

/// How good answers are, by the model's task.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Found {
    /// Classes.
    Classes(Metrics),
    /// Tags.
    Tags {
        /// Pictures.
        n: usize,
        /// One entry a tag.
        tags: Vec<TagMetrics>,
        /// Mean of the tags' F1.
        macro_f1: f64,
    },
    /// Values.
    Values {
        /// Pictures.
        n: usize,
        /// One entry a value.
        values: Vec<ValueMetrics>,
    },
}

impl Found {
    /// Returns the figures of classes, where the task was to tell them.
    pub fn classes(&self) -> Option<&Metrics> {
        match self {
            Self::Classes(metrics) => Some(metrics),
            _ => None,
        }
    }

    /// Returns the one figure by which models of a task are compared, 1 at best: the share of right classes, the mean F1 of
    /// tags or the mean R² of values.
    pub fn score(&self) -> f64 {
        match self {
            Self::Classes(metrics) => metrics.top1,
            Self::Tags { macro_f1, .. } => *macro_f1,
            Self::Values { values, .. } => values.iter().map(|v| v.r2).sum::<f64>() / values.len().max(1) as f64,
        }
    }
}

/// One picture's answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Index into the samples.
    pub sample: usize,
    /// `[classes]`.
    pub logits: Vec<f32>,
    /// How far the picture is from those that the model was calibrated on, where that is known.
    pub distance: Option<f32>,
    /// Milliseconds of the network.
    pub milliseconds: f64,
}

/// Evaluates `model` on `data`, whose classes must be among the model's, or whose columns must be its own; `strangers` are
/// pictures of something else.
///
/// # Errors
///
/// If task or classes differ from the model's, no picture can be read, or the model fails.
pub fn evaluate(
    model: &Model,
    data: Dataset,
    strangers: &[Sample],
    on_bad: OnBad,
    mut progress: impl FnMut(usize, usize),
) -> Result<Evaluation> {
    let (data, answers, skipped) = answered(model, data, on_bad, &mut progress)?;
    let task = data.task;
    let found = found(&data, &answers);
    let mut times: Vec<f64> = answers.iter().map(|a| a.milliseconds).collect();
    times.sort_by(f64::total_cmp);
    let is_classes = task == Task::Classes;
    ensure!(
        is_classes || strangers.is_empty(),
        "expected a model that tells classes for strangers, found one of {}",
        task.name()
    );
    let worth = model.decision().filter(|_| is_classes).map(|decision| worth(decision, &data, &answers));
    let strangers = match strangers {
        [] => None,
        samples => Some(worth::strangers(model, &answers, samples, progress)?),
    };
    Ok(Evaluation { found, engine: model.engine(), median_ms: times[times.len() / 2], worth, strangers, skipped })
}

/// Runs a model on a set of its own task; returns the set with its classes numbered as the model's, and at least one answer.
///
/// # Errors
///
/// As [`evaluate`].
pub(crate) fn answered(
    model: &Model,
    data: Dataset,
    on_bad: OnBad,
    progress: impl FnMut(usize, usize),
) -> Result<(Dataset, Vec<Answer>, Vec<Ignored>)> {
    let task = Task::of(model.metadata())?;
    ensure!(
        task == data.task,
        "expected data for a model that tells {}, found {}; {}",
        task.name(),
        data.task.name(),
        match task {
            Task::Classes => "leave out --tags and --target".to_owned(),
            Task::Tags => format!("give --tags {}", model.labels().join(",")),
            Task::Values => format!("give --target {}", model.labels().join(",")),
        }
    );
    let data = data.relabel(model.labels())?;
    let (answers, skipped) = answers(model, &data.samples, on_bad, progress)?;
    ensure!(!answers.is_empty(), "expected pictures that can be read, found none among {}", data.samples.len());
    Ok((data, answers, skipped))
}

/// Returns how good answers are.
pub(crate) fn found(data: &Dataset, answers: &[Answer]) -> Found {
    let n = answers.len();
    let outputs: Vec<f32> = answers.iter().flat_map(|a| &a.logits).copied().collect();
    let truths: Vec<f32> = answers.iter().flat_map(|a| &data.samples[a.sample].values).copied().collect();
    match data.task {
        Task::Classes => {
            let pairs = answers.iter().map(|a| (data.samples[a.sample].class, argmax(&a.logits)));
            Found::Classes(Metrics::of(&data.labels, pairs))
        }
        Task::Tags => {
            let tags = metrics::tags(&data.labels, &outputs, &truths);
            let macro_f1 = tags.iter().map(|t| t.f1).sum::<f64>() / tags.len().max(1) as f64;
            Found::Tags { n, tags, macro_f1 }
        }
        Task::Values => Found::Values { n, values: metrics::values(&data.labels, &outputs, &truths) },
    }
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
    progress: impl FnMut(usize, usize),
) -> Result<(Vec<Answer>, Vec<Ignored>)> {
    let ask = |pixels: &[u8]| {
        let start = Instant::now();
        Ok((model.ask(pixels)?, start.elapsed().as_secs_f64() * 1e3))
    };
    let (said, skipped) = each(model, samples, on_bad, ask, progress)?;
    let answer = |(sample, (said, milliseconds)): (usize, (Said, f64))| Answer {
        sample,
        logits: said.logits,
        distance: said.distance,
        milliseconds,
    };
    Ok((said.into_iter().map(answer).collect(), skipped))
}

/// What came of each picture, with its sample's place; and those that were left out.
pub(crate) type Asked<T> = (Vec<(usize, T)>, Vec<Ignored>);

/// Asks something of each picture, several at a time; returns what came of it with the samples' places, in their order.
///
/// # Errors
///
/// As [`answers`].
pub(crate) fn each<T: Send>(
    model: &Model,
    samples: &[Sample],
    on_bad: OnBad,
    ask: impl Fn(&[u8]) -> Result<T> + Sync,
    mut progress: impl FnMut(usize, usize),
) -> Result<Asked<T>> {
    let (mut found, mut skipped) = (vec![], vec![]);
    for (index, chunk) in samples.chunks(CHUNK).enumerate() {
        let one = |(i, sample): (usize, &Sample)| -> Result<Result<(usize, T), Ignored>> {
            match pictures::read(sample, model.preprocessing(), on_bad)? {
                Ok(pixels) => Ok(Ok((index * CHUNK + i, ask(&pixels.data)?))),
                Err(ignored) => Ok(Err(ignored)),
            }
        };
        for outcome in chunk.par_iter().enumerate().map(one).collect::<Vec<_>>() {
            match outcome? {
                Ok(answer) => found.push(answer),
                Err(ignored) => skipped.push(ignored),
            }
        }
        progress(index * CHUNK + chunk.len(), samples.len());
    }
    Ok((found, skipped))
}

/// Pictures between two words of progress.
const CHUNK: usize = 32;
