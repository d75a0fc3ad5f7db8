//! A head that learns from the field: the pictures of a run again, those that came back, and whether that made it better.
//!
//! The backbone stays as it is, so that a device needs the head alone. Old features come from the cache. Whole groups of
//! what came back (a site, a day) are held out: on them the old and the new head are compared, by the engine that ships.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use graft_runtime::Model;
use serde::Serialize;

use crate::dataset::{Dataset, Ignored, Task};
use crate::evaluate::answers;
use crate::features::{Features, Varied, features};
use crate::head::{Samples, Weighty, fit_with};
use crate::objective::Scale;
use crate::pictures::OnBad;
use crate::run::Run;

mod compare;
mod pool;
mod weigh;

pub use compare::{Comparison, Scored};
pub use pool::{HeldOut, Places, Pool};
pub use weigh::Tried;

use compare::compare;

/// What to do.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The run to go on from.
    pub run: &'a Run,
    /// Its pictures and those of the field.
    pub pool: &'a Pool,
    /// Labelled pictures of the old kind that no head has learnt from, to see what is forgotten.
    pub before: Option<&'a Dataset>,
    /// Where features are kept.
    pub cache: &'a Path,
    /// What to do with a picture that cannot be read.
    pub on_bad: OnBad,
}

/// What goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Pictures through the backbone.
    Features,
    /// Fits of the head.
    Head,
    /// Held-out pictures through both models.
    Comparing,
}

/// A run with a new head, and whether it is better.
#[derive(Debug)]
pub struct Retrained {
    /// The run, not yet saved.
    pub run: Run,
    /// What was found.
    pub report: Report,
    /// Pictures left out.
    pub skipped: Vec<Ignored>,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Pictures of the old sets that the head learnt from.
    pub old: usize,
    /// Pictures of the field that it learnt from.
    pub field: usize,
    /// How pictures were held out, and how many.
    pub held_out: HeldOut,
    /// Labels that the old head did not have.
    pub new_labels: Vec<String>,
    /// Feature vectors that came from the cache.
    pub cached: usize,
    /// Strength `C` of the penalty.
    pub strength: f64,
    /// As how many pictures of the old sets one of the field counts.
    pub times: usize,
    /// What cross-validation on pictures of the field tried.
    pub tried: Vec<Tried>,
    /// Old and new on the pictures of the field that were held out.
    pub compared: Option<Comparison>,
    /// Old and new on pictures of the old kind.
    pub before: Option<Comparison>,
    /// Seconds spent on features.
    pub features_seconds: f64,
    /// Seconds spent on the head.
    pub head_seconds: f64,
}

impl Report {
    /// Tells whether the new head is worse on held-out pictures of the field, beyond its interval.
    pub fn is_worse(&self) -> bool {
        self.compared.as_ref().is_some_and(Comparison::is_worse)
    }
}

/// Fits a new head on the run's backbone, on old pictures and those of the field.
///
/// # Errors
///
/// If a class has no picture to learn from, or anything cannot be read or computed.
pub fn retrain(plan: &Plan<'_>, stop: &AtomicBool, mut progress: impl FnMut(Stage, usize, usize)) -> Result<Retrained> {
    let Plan { run, pool, .. } = plan;
    let start = Instant::now();
    let pretrained = run.pretrained();
    let learn = &pool.learn;
    let bar = |done, of| progress(Stage::Features, done, of);
    let found = features(&pretrained, &learn.samples, &Varied::plain(), plan.cache, plan.on_bad, stop, bar)?;
    let features_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let Features { rows, data, width, mut skipped, cached, data_digest } = found;
    let mut targets = learn.targets(&rows);
    if learn.task == Task::Classes {
        for (label, count) in learn.labels.iter().zip(targets.counts()) {
            ensure!(count > 0, "expected a readable picture of every class to learn from, found none of {label:?}");
        }
    }
    let scale = Scale::of(&targets);
    if let Some(scale) = &scale {
        targets = scale.scaled(&targets);
    }
    let field = rows.iter().filter(|&&r| pool.is_field(r)).count();
    let groups: Vec<Option<&str>> = rows.iter().map(|&r| learn.samples[r].group.as_deref()).collect();
    ensure!(field > 0, "expected a readable picture of the field to learn from, found none");
    // The pool has the field's pictures first.
    let weighty = Weighty { first: field, times: 1.0 };
    let mut samples = Samples { features: data, width, targets, views: 1, weighty };
    let chosen = weigh::choose(&samples, &groups[..field], run.record.strength, run.record.seed, |done, of| {
        ensure!(!stop.load(Ordering::Relaxed), "stopped; nothing was written");
        progress(Stage::Head, done, of);
        Ok(())
    })?;
    samples.weighty.times = chosen.times as f64;
    let fitted = fit_with(&samples, chosen.strength);
    let mut head = fitted.context("fitting the head")?.head;
    if let Some(scale) = &scale {
        scale.unscale(&mut head);
    }

    let mut record = run.record.clone();
    record.graft = env!("CARGO_PKG_VERSION").into();
    record.labels.clone_from(&learn.labels);
    (record.data_digest, record.pictures, record.skipped) = (data_digest, rows.len(), skipped.len());
    (record.strength, record.cross_validation) = (chosen.strength, vec![]);
    (record.features_seconds, record.head_seconds) = (features_seconds, start.elapsed().as_secs_f64());
    record.added = pool.added(&rows, chosen.times);
    let head_seconds = record.head_seconds;
    let new = Run::new(record, run.network(), run.backbone.clone(), head);

    let models = [Model::from_onnx(&run.float()?)?, Model::from_onnx(&new.float()?)?];
    let mut on = |data: &Dataset| -> Result<Option<Comparison>> {
        let total = 2 * data.samples.len();
        let mut both = vec![];
        for (i, model) in models.iter().enumerate() {
            let bar = |done, _| progress(Stage::Comparing, i * total / 2 + done, total);
            let (found, bad) = answers(model, &data.samples, plan.on_bad, bar)?;
            if i == 0 {
                skipped.extend(bad);
            }
            both.push(found);
        }
        Ok(compare(data, &both[0], &both[1]))
    };
    let compared = on(&pool.held_out)?;
    let before = plan.before.map(|data| on(&data.clone().relabel(&learn.labels)?)).transpose()?.flatten();
    let report = Report {
        old: rows.len() - field,
        field,
        held_out: pool.how.clone(),
        new_labels: learn.labels.iter().filter(|l| !run.record.labels.contains(l)).cloned().collect(),
        cached,
        strength: chosen.strength,
        times: chosen.times,
        tried: chosen.tried,
        compared,
        before,
        features_seconds,
        head_seconds,
    };
    Ok(Retrained { run: new, report, skipped })
}

#[cfg(test)]
mod tests;
