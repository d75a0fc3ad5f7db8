//! The recipes: a head on frozen features, then, if asked for, the last stages along with it.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
pub use candle_core::Device;
use graft_onnx::Head;
use graft_runtime::picture::preprocess;
use graft_zoo::Preprocessing;
use graft_zoo::weights::Tensors;

use crate::augment::{Augmentation, Preset};
use crate::dataset::{Dataset, Ignored, Sample};
use crate::features::features;
use crate::fit::{Checkpoint, Schedule, Source, fit};
use crate::head::{Samples, fit as fit_head};
use crate::net::{Net, Norm};
use crate::pictures::{self, OnBad};
use crate::pretrained::Pretrained;
use crate::rng::Rng;
use crate::run::{FORMAT, FineTuned, Record, Run};

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
    /// Seed of folds, splits, order and views.
    pub seed: u64,
    /// What to do with a picture that cannot be read.
    pub on_bad: OnBad,
    /// What to do after the head, if anything.
    pub fine_tune: Option<FineTune<'a>>,
}

/// How to fine-tune.
#[derive(Debug)]
pub struct FineTune<'a> {
    /// How many of the last stages.
    pub unfrozen: usize,
    /// Which statistics normalise: those of a few pictures are worse than those of the many that a large backbone has
    /// seen, but let a small one go further.
    pub norm: Norm,
    /// How to descend.
    pub schedule: Schedule,
    /// Share of the pictures that chooses the best epoch; 0 takes the last one.
    pub validation: f64,
    /// What computes.
    pub device: Device,
    /// Where to keep the state.
    pub checkpoint: Option<Checkpoint<'a>>,
}

/// Which part of the work is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Pictures through the backbone.
    Features,
    /// Fits of the head.
    Head,
    /// Pictures through the unfrozen stages and back.
    FineTuning,
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

/// Trains a head on the frozen backbone, then fine-tunes where the plan says so.
///
/// # Errors
///
/// If pictures are missing for a class, or anything cannot be read or computed.
pub fn transfer(plan: &Plan<'_>, stop: &AtomicBool, mut progress: impl FnMut(Stage, usize, usize)) -> Result<Trained> {
    let labels = &plan.dataset.labels;
    ensure!(labels.len() >= 2, "expected at least two classes, found {}: {}", labels.len(), labels.join(", "));
    let start = Instant::now();
    let samples = &plan.dataset.samples;
    let found = features(plan.pretrained, samples, plan.cache, plan.on_bad, stop, |done, of| {
        progress(Stage::Features, done, of)
    })?;
    let features_seconds = start.elapsed().as_secs_f64();
    let classes: Vec<usize> = found.rows.iter().map(|&i| samples[i].class).collect();
    for (class, label) in labels.iter().enumerate() {
        ensure!(classes.contains(&class), "expected a readable picture of every class, found none of {label:?}");
    }
    let start = Instant::now();
    let problem = Samples { features: found.data, width: found.width, classes, count: labels.len() };
    // What chooses the best epoch must be new to the head as well.
    let share = plan.fine_tune.as_ref().map_or(0.0, |f| f.validation);
    let (kept, held_out) = parts(plan.dataset, &found.rows, share, plan.seed);
    let fitted = fit_head(&problem.pick(&kept), plan.seed, |done, of| progress(Stage::Head, done, of))
        .context("fitting the head")?;
    let head_seconds = start.elapsed().as_secs_f64();
    let (mut backbone, mut head, mut fine_tuned) = (plan.pretrained.backbone.clone(), fitted.head, None);
    if let Some(tune) = &plan.fine_tune {
        let pick = |rows: &[usize]| rows.iter().map(|&r| &samples[found.rows[r]]).collect::<Vec<_>>();
        let (train, validation) = (pick(&kept), pick(&held_out));
        let bar = |done, of| progress(Stage::FineTuning, done, of);
        let (b, h, record) = fine_tune(plan, tune, head, &train, &validation, stop, bar)?;
        (backbone, head, fine_tuned) = (b, h, Some(record));
    }
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
        head_seconds,
        fine_tuned,
    };
    let run = Run::new(record, &plan.pretrained.network, backbone, head);
    Ok(Trained { run, skipped: found.skipped, cached: found.cached, loss: fitted.loss })
}

/// Splits `rows` (indices into the samples) by the data set's own split; returns places in `rows`.
fn parts(dataset: &Dataset, rows: &[usize], share: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    if share <= 0.0 {
        return ((0..rows.len()).collect(), vec![]);
    }
    let (_, off) = dataset.split(share, seed);
    (0..rows.len()).partition(|&place| off.binary_search(&rows[place]).is_err())
}

fn fine_tune(
    plan: &Plan<'_>,
    tune: &FineTune<'_>,
    head: Head,
    train: &[&Sample],
    validation: &[&Sample],
    stop: &AtomicBool,
    progress: impl FnMut(usize, usize),
) -> Result<(Tensors, Head, FineTuned)> {
    let start = Instant::now();
    let p = plan.pretrained;
    let mut net = Net::new(&p.network, &p.backbone, &head, &p.preprocessing, tune.unfrozen, tune.norm, &tune.device)?;
    let train = Photos::new(train, &p.preprocessing);
    let validation = Photos::new(validation, &p.preprocessing);
    let held_out: Option<&dyn Source> = if validation.classes.is_empty() { None } else { Some(&validation) };
    let done =
        fit(&mut net, &train, held_out, &tune.schedule, tune.checkpoint, stop, progress).context("fine-tuning")?;
    let (backbone, head) = net.finish()?;
    let record = FineTuned {
        unfrozen: tune.unfrozen,
        norm: tune.norm,
        validation: tune.validation,
        schedule: tune.schedule.clone(),
        epochs: done.epochs,
        best: done.best,
        seconds: start.elapsed().as_secs_f64(),
    };
    Ok((backbone, head, record))
}

/// Pictures on disk, varied for training.
#[derive(Debug)]
pub struct Photos<'a> {
    samples: Vec<&'a Sample>,
    classes: Vec<usize>,
    preprocessing: &'a Preprocessing,
}

impl<'a> Photos<'a> {
    /// Takes samples that are known to be readable.
    pub fn new(samples: &[&'a Sample], preprocessing: &'a Preprocessing) -> Self {
        Self { samples: samples.to_vec(), classes: samples.iter().map(|s| s.class).collect(), preprocessing }
    }
}

impl Source for Photos<'_> {
    fn classes(&self) -> &[usize] {
        &self.classes
    }

    fn pixels(&self, index: usize, rng: Option<&mut Rng>) -> Result<Vec<u8>> {
        let picture = pictures::open(self.samples[index])?;
        Ok(match rng {
            None => preprocess(&picture, self.preprocessing),
            Some(rng) => Augmentation::from(Preset::Light).view(&picture, self.preprocessing, rng),
        })
    }
}
