//! The frozen-backbone recipe: features once, then a head.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::dataset::{Dataset, Ignored};
use crate::features::features;
use crate::head::{Samples, fit};
use crate::pictures::OnBad;
use crate::pretrained::Pretrained;
use crate::run::{FORMAT, Record, Run};

/// What to train.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The data set's path, for the record.
    pub data: PathBuf,
    /// The pictures.
    pub dataset: &'a Dataset,
    /// The backbone.
    pub pretrained: &'a Pretrained,
    /// Where features are kept.
    pub cache: &'a Path,
    /// Seed of the folds.
    pub seed: u64,
    /// What to do with a picture that cannot be read.
    pub on_bad: OnBad,
}

/// Which part of the work is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Pictures through the backbone.
    Features,
    /// Fits of the head.
    Head,
}

/// A run and what was noticed on the way.
#[derive(Debug)]
pub struct Trained {
    /// The run, not yet saved.
    pub run: Run,
    /// Pictures left out.
    pub skipped: Vec<Ignored>,
    /// Feature vectors that were taken from the cache.
    pub cached: usize,
    /// Mean cross-entropy of the head on its pictures.
    pub loss: f64,
}

/// Trains a head on the frozen backbone.
///
/// # Errors
///
/// If pictures are missing for a class, or anything cannot be read or computed.
pub fn transfer(plan: &Plan<'_>, stop: &AtomicBool, mut progress: impl FnMut(Stage, usize, usize)) -> Result<Trained> {
    let labels = &plan.dataset.labels;
    ensure!(labels.len() >= 2, "expected at least two classes, found {}: {}", labels.len(), labels.join(", "));
    let start = Instant::now();
    let samples = &plan.dataset.samples;
    let found = features(plan.pretrained, samples, plan.cache, plan.on_bad, stop, |done, of| progress(Stage::Features, done, of))?;
    let features_seconds = start.elapsed().as_secs_f64();
    let classes: Vec<usize> = found.rows.iter().map(|&i| samples[i].class).collect();
    for (class, label) in labels.iter().enumerate() {
        ensure!(classes.contains(&class), "expected a readable picture of every class, found none of {label:?}");
    }
    let start = Instant::now();
    let problem = Samples { features: found.data, width: found.width, classes, count: labels.len() };
    let fitted = fit(&problem, plan.seed, |done, of| progress(Stage::Head, done, of)).context("fitting the head")?;
    let record = Record {
        format: FORMAT,
        graft: env!("CARGO_PKG_VERSION").into(),
        data: plan.data.clone(),
        data_digest: found.data_digest,
        pictures: found.rows.len(),
        skipped: found.skipped.len(),
        labels: labels.clone(),
        seed: plan.seed,
        weights: plan.pretrained.facts.clone(),
        preprocessing: plan.pretrained.preprocessing.clone(),
        strength: fitted.strength,
        cross_validation: fitted.tried,
        features_seconds,
        head_seconds: start.elapsed().as_secs_f64(),
    };
    let run = Run::new(record, plan.pretrained, fitted.head);
    Ok(Trained { run, skipped: found.skipped, cached: found.cached, loss: fitted.loss })
}
