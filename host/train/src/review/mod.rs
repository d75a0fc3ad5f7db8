//! Gathers what a report tells of a model: how right, how sure of itself and why it is wrong, all in the engine that ships.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use graft_report::{
    Bin, Calibration, ClassRow, Classes, Coverage, Estimate, GroupRow, Layer, Mistake, OnDevice, Picture, Point,
    Quantization, Share, Tag, Told, Value,
};
use graft_runtime::decision::soften;
use graft_runtime::{Decision, Model};
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};
use rayon::prelude::*;

use crate::dataset::{Dataset, Ignored, Task};
use crate::evaluate::{Answer, answered, worth};
use crate::metrics::{self, Metrics, argmax};
use crate::pictures::{self, OnBad};
use crate::quantize::statistics::{BINS, bin_of, calibration_error, interval};
use crate::quantize::{Explanation, Kind};

mod occlusion;

/// What is to be gathered.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Wrong answers that are shown.
    pub worst: usize,
    /// Whether it is marked on them what spoke for the answer, which takes as many runs as [`occlusion_runs`] says for each.
    pub marks: bool,
    /// What to do with pictures that cannot be read.
    pub on_bad: OnBad,
}

/// What was gathered.
#[derive(Debug, Clone)]
pub struct Reviewed {
    /// What the model told, and how well.
    pub told: Told,
    /// Pictures that could not be read.
    pub skipped: Vec<Ignored>,
}

/// What takes its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The model answers.
    Answering,
    /// It is looked for what spoke for wrong answers.
    Marking,
}

/// Returns how often the model runs to mark one picture.
pub fn occlusion_runs() -> usize {
    occlusion::RUNS
}

/// Runs a model on labelled pictures and gathers what there is to tell.
///
/// # Errors
///
/// If task or classes differ from the model's, no picture can be read, or the model fails.
pub fn review(
    model: &Model,
    data: Dataset,
    plan: &Plan,
    mut progress: impl FnMut(Stage, usize, usize),
) -> Result<Reviewed> {
    let (data, answers, skipped) = answered(model, data, plan.on_bad, |done, of| progress(Stage::Answering, done, of))?;
    let told = match data.task {
        Task::Classes => {
            let mut classes = classes(model.decision(), &data, &answers);
            classes.mistakes = mistakes(model, &data, &answers, plan, |done, of| progress(Stage::Marking, done, of))?;
            Told::Classes(Box::new(classes))
        }
        Task::Tags => tags(&data, &answers),
        Task::Values => values(&data, &answers),
    };
    Ok(Reviewed { told, skipped })
}

/// Returns what a model's file tells of how it was quantized, if it does.
///
/// # Errors
///
/// If that cannot be understood.
pub fn quantization(model: &Model) -> Result<Option<Quantization>> {
    let Some(Explanation { verdict, method, repairs, layers, on_device }) = Explanation::of(model.metadata())? else {
        return Ok(None);
    };
    let shipped = match verdict.ship {
        Kind::Float => "f32",
        Kind::Int8 => "int8",
        Kind::Mixed => "int8 with layers in f32",
        Kind::Weights => "8-bit weights",
        Kind::Half => "16-bit weights",
    };
    let repairs: Vec<&str> = repairs.iter().map(|r| r.name()).collect();
    let repairs = if repairs.is_empty() { "none".to_owned() } else { repairs.join(", ") };
    let layer = |l: crate::quantize::LayerReport| Layer {
        name: l.name,
        is_float: l.is_float,
        snr_db: l.snr_db,
        share: l.share,
    };
    let method = format!("{method}; repairs: {repairs}");
    let layers = layers.into_iter().map(layer).collect();
    let device = on_device.map(|d| OnDevice {
        ms: d.written.ms,
        float_ms: d.float.ms,
        memory: d.written.memory,
        engine: d.written.engine,
    });
    Ok(Some(Quantization { shipped: shipped.into(), why: verdict.why, method, layers, device }))
}

fn share(hits: usize, n: usize) -> Share {
    Share { hits, n, share: if n == 0 { 0.0 } else { hits as f64 / n as f64 }, interval: interval(hits, n) }
}

fn classes(decision: Option<&Decision>, data: &Dataset, answers: &[Answer]) -> Classes {
    let truth = |a: &Answer| data.samples[a.sample].class;
    let m = Metrics::of(&data.labels, answers.iter().map(|a| (truth(a), argmax(&a.logits))));
    let rows = m.per_class.iter().enumerate().map(|(i, c)| ClassRow {
        label: c.label.clone(),
        recall: share(m.confusion[i][i], c.n),
        precision: c.precision,
        f1: c.f1,
    });
    let right = answers.iter().filter(|a| argmax(&a.logits) == truth(a)).count();
    let temperature = decision.map(|d| d.temperature).filter(|t| (t - 1.0).abs() > 1e-6);
    let at = |temperature: f32| -> Vec<(f64, bool)> {
        answers.iter().map(|a| (probability(&a.logits, temperature), argmax(&a.logits) == truth(a))).collect()
    };
    let (plain, shipped) = (at(1.0), at(temperature.unwrap_or(1.0)));
    Classes {
        top1: share(right, answers.len()),
        macro_f1: m.macro_f1,
        classes: rows.collect(),
        groups: groups(data, answers),
        calibration: Calibration {
            before: bins(&plain),
            ece_before: calibration_error(&plain),
            after: temperature.map(|_| bins(&shipped)),
            ece_after: temperature.map(|_| calibration_error(&shipped)),
            temperature: temperature.map(f64::from),
        },
        coverage: Coverage { sure: decision.and_then(|d| sure(d, data, answers)), ..coverage(&shipped) },
        confusion: m.confusion,
        mistakes: vec![],
    }
}

/// Returns the probability of the best answer.
fn probability(logits: &[f32], temperature: f32) -> f64 {
    let mut probabilities = vec![0.0; logits.len()];
    soften(logits, temperature, &mut probabilities);
    f64::from(probabilities[argmax(logits)])
}

/// Sorts answers into bins of equal width, as the calibration error does; empty ones are left out.
fn bins(answers: &[(f64, bool)]) -> Vec<Bin> {
    let mut bins = [(0usize, 0.0, 0usize); BINS];
    for (probability, is_right) in answers {
        let (n, sum, hits) = &mut bins[bin_of(*probability)];
        *n += 1;
        *sum += probability;
        *hits += usize::from(*is_right);
    }
    let filled = bins.into_iter().filter(|(n, ..)| *n > 0);
    filled.map(|(n, sum, hits)| Bin { probability: sum / n as f64, right: share(hits, n) }).collect()
}

/// Returns how many answers are wrong where the most probable ones alone are given.
///
/// # Source
///
/// The risk-coverage curve of Geifman and El-Yaniv, arXiv:1705.08500; its mean over all coverages is AURC of Geifman, Uziel and
/// El-Yaniv, arXiv:1805.08206.
fn coverage(answers: &[(f64, bool)]) -> Coverage {
    let mut sorted = answers.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let n = sorted.len();
    let (mut wrong, mut area, mut points) = (0usize, 0.0, vec![]);
    let mut begin = 0;
    // Answers of one probability are given together or not at all.
    for same in sorted.chunk_by(|a, b| a.0 == b.0) {
        wrong += same.iter().filter(|a| !a.1).count();
        begin += same.len();
        let risk = wrong as f64 / begin as f64;
        area += risk * same.len() as f64 / n as f64;
        points.push(Point { at_least: same[0].0, coverage: begin as f64 / n as f64, risk });
    }
    let step = points.len().div_ceil(MOST_POINTS).max(1);
    let last = points.len().saturating_sub(1);
    let kept = points.iter().enumerate().filter(|(i, _)| i % step == 0 || *i == last).map(|(_, p)| *p).collect();
    Coverage { points: kept, area, sure: None }
}

/// Returns where the model itself draws the line.
fn sure(decision: &Decision, data: &Dataset, answers: &[Answer]) -> Option<Point> {
    let at_least = f64::from(decision.sure?.at_least);
    let worth = worth(decision, data, answers);
    Some(Point { at_least, coverage: worth.sure, risk: worth.sure_wrong })
}

fn groups(data: &Dataset, answers: &[Answer]) -> Vec<GroupRow> {
    let mut groups: BTreeMap<&str, Vec<(usize, bool)>> = BTreeMap::new();
    for a in answers {
        let sample = &data.samples[a.sample];
        if let Some(group) = &sample.group {
            groups.entry(group).or_default().push((sample.class, argmax(&a.logits) == sample.class));
        }
    }
    let one = |(group, told): (&str, Vec<(usize, bool)>)| {
        let mut recalls = vec![(0usize, 0usize); data.labels.len()];
        for (class, is_right) in &told {
            recalls[*class].0 += usize::from(*is_right);
            recalls[*class].1 += 1;
        }
        let occurring: Vec<f64> = recalls.iter().filter(|r| r.1 > 0).map(|r| r.0 as f64 / r.1 as f64).collect();
        let mean_recall = occurring.iter().sum::<f64>() / occurring.len().max(1) as f64;
        GroupRow { group: group.to_owned(), right: share(told.iter().filter(|t| t.1).count(), told.len()), mean_recall }
    };
    let mut rows: Vec<GroupRow> = groups.into_iter().map(one).collect();
    // By the upper end of the interval: one wrong picture of one says little.
    rows.sort_by(|a, b| a.right.interval[1].total_cmp(&b.right.interval[1]).then_with(|| a.group.cmp(&b.group)));
    rows
}

fn mistakes(
    model: &Model,
    data: &Dataset,
    answers: &[Answer],
    plan: &Plan,
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<Mistake>> {
    let temperature = model.decision().map_or(1.0, |d| d.temperature);
    let is_wrong = |a: &&Answer| argmax(&a.logits) != data.samples[a.sample].class;
    let mut wrong: Vec<(f64, &Answer)> =
        answers.iter().filter(is_wrong).map(|a| (probability(&a.logits, temperature), a)).collect();
    wrong.sort_by(|a, b| b.0.total_cmp(&a.0));
    wrong.truncate(plan.worst);
    let count = wrong.len();
    let mut made = Vec::with_capacity(count);
    // A few at a time, so that progress can be told.
    for chunk in wrong.chunks(4) {
        let done: Vec<Result<Mistake>> =
            chunk.par_iter().map(|(p, a)| mistake(model, data, a, *p, plan.marks)).collect();
        for mistake in done {
            made.push(mistake?);
        }
        progress(made.len(), count);
    }
    Ok(made)
}

fn mistake(model: &Model, data: &Dataset, answer: &Answer, probability: f64, marks: bool) -> Result<Mistake> {
    let sample = &data.samples[answer.sample];
    let pixels = pictures::read(sample, model.preprocessing(), OnBad::Fail)?
        .map_err(|i| anyhow::anyhow!("{}: {}", i.path.display(), i.reason))?
        .data;
    let (side, said) = (model.preprocessing().crop, argmax(&answer.logits));
    let marked = marks.then(|| occlusion::marked(model, &pixels, said)).transpose()?;
    Ok(Mistake {
        file: sample.key.clone(),
        truth: data.labels[sample.class].clone(),
        answer: data.labels[said].clone(),
        probability,
        seen: jpeg(&pixels, side)?,
        marked: marked.map(|m| jpeg(&m, side)).transpose()?,
    })
}

fn jpeg(pixels: &[u8], side: u32) -> Result<Picture> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, QUALITY);
    encoder.write_image(pixels, side, side, ExtendedColorType::Rgb8).context("writing a picture of the report")?;
    Ok(Picture(bytes))
}

fn tags(data: &Dataset, answers: &[Answer]) -> Told {
    let one = |(t, label): (usize, &String)| {
        let [hit, said, held] = metrics::tally(answers.iter().map(|a| (a.logits[t], data.samples[a.sample].values[t])));
        let f1 = if said + held == 0 { 0.0 } else { 2.0 * hit as f64 / (said + held) as f64 };
        Tag { label: label.clone(), recall: share(hit, held), precision: share(hit, said), f1 }
    };
    let tags: Vec<Tag> = data.labels.iter().enumerate().map(one).collect();
    let macro_f1 = tags.iter().map(|t| t.f1).sum::<f64>() / tags.len().max(1) as f64;
    Told::Tags { n: answers.len(), macro_f1, tags }
}

fn values(data: &Dataset, answers: &[Answer]) -> Told {
    let outputs: Vec<f32> = answers.iter().flat_map(|a| &a.logits).copied().collect();
    let truths: Vec<f32> = answers.iter().flat_map(|a| &data.samples[a.sample].values).copied().collect();
    let found = metrics::values(&data.labels, &outputs, &truths);
    let one = |(c, m): (usize, metrics::ValueMetrics)| {
        let column =
            |of: &[f32]| of.iter().skip(c).step_by(data.labels.len()).map(|v| f64::from(*v)).collect::<Vec<_>>();
        Value {
            label: m.label,
            mae: Estimate { value: m.mae, interval: m.mae_interval },
            rmse: m.rmse,
            r2: Estimate { value: m.r2, interval: m.r2_interval },
            points: column(&truths).into_iter().zip(column(&outputs)).collect(),
        }
    };
    Told::Values { n: answers.len(), values: found.into_iter().enumerate().map(one).collect() }
}

/// Points of a curve.
const MOST_POINTS: usize = 400;
/// Quality of the pictures on a page.
const QUALITY: u8 = 85;

#[cfg(test)]
mod tests;
