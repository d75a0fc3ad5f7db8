//! Transfer from one task to another: a head on frozen features, then, where the recipe says so, stages of the backbone
//! along with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use graft_onnx::Head;
use graft_zoo::weights::Tensors;

use crate::dataset::{Dataset, Ignored, Sample, Task};
use crate::features::features;
use crate::fit::{Checkpoint, Data, Resume, Schedule, Source, fit};
use crate::head::{Samples, Weighty, fit as fit_head};
pub use crate::net::Device;
use crate::net::Net;
use crate::objective::{Scale, Targets};
use crate::photos::Photos;
use crate::pictures::OnBad;
use crate::pretrained::Pretrained;
use crate::probe::probe;
use crate::recipe::{PRESET, Recipe, Set, Settled, Tuning, Wish, settle};
use crate::run::{FORMAT, FineTuned, Record, Run, write_atomic};
use crate::views::Views;

/// What to train.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The data set's path, for the record.
    pub data: PathBuf,
    /// The part of it, for the record.
    pub split: Option<String>,
    /// The pictures.
    pub dataset: &'a Dataset,
    /// The backbone.
    pub pretrained: &'a Pretrained,
    /// Where features are kept.
    pub cache: &'a Path,
    /// What to do with a picture that cannot be read.
    pub on_bad: OnBad,
    /// What was asked for.
    pub wish: Wish,
    /// What computes while fine-tuning.
    pub device: Device,
    /// Where a fit keeps what it needs to go on, if anywhere.
    pub folder: Option<&'a Path>,
    /// Whether to go on from there.
    pub resume: Resume,
}

/// What goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Pictures through the backbone.
    Features,
    /// Fits of the head.
    Head,
    /// Views through the frozen stages.
    Views,
    /// Views through the unfrozen stages and back.
    FineTuning,
}

/// What is told of the work while it goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// So much of a stage is done.
    Progress {
        /// Which.
        stage: Stage,
        /// Done.
        done: usize,
        /// In all.
        of: usize,
    },
    /// How to fine-tune is settled.
    Settled(&'a Settled),
}

/// A run and what was noticed on the way.
#[derive(Debug)]
pub struct Trained {
    /// The run, not yet saved.
    pub run: Run,
    /// How it was settled.
    pub settled: Settled,
    /// Pictures left out.
    pub skipped: Vec<Ignored>,
    /// Feature vectors that were taken from the cache.
    pub cached: usize,
    /// Mean cross-entropy of the head on its pictures.
    pub loss: f64,
}

/// Trains a head on the frozen backbone, then fine-tunes where that is asked for or found to be of use.
///
/// # Errors
///
/// If pictures are missing for a class, or anything cannot be read or computed.
pub fn transfer(plan: &Plan<'_>, stop: &AtomicBool, mut tell: impl FnMut(Event<'_>)) -> Result<Trained> {
    let labels = &plan.dataset.labels;
    let task = plan.dataset.task;
    if task == Task::Classes {
        ensure!(labels.len() >= 2, "expected at least two classes, found {}: {}", labels.len(), labels.join(", "));
    }
    let start = Instant::now();
    let samples = &plan.dataset.samples;
    let varied = plan.wish.varied();
    let found = features(plan.pretrained, samples, &varied, plan.cache, plan.on_bad, stop, |done, of| {
        tell(Event::Progress { stage: Stage::Features, done, of })
    })?;
    let features_seconds = start.elapsed().as_secs_f64();
    let mut targets = plan.dataset.targets(&found.rows);
    if task == Task::Classes {
        for (label, count) in labels.iter().zip(targets.counts()) {
            ensure!(count > 0, "expected a readable picture of every class, found none of {label:?}");
        }
    }
    let scale = Scale::of(&targets);
    if let Some(scale) = &scale {
        targets = scale.scaled(&targets);
    }
    let settled = settled(plan, &found.rows, &targets)?;
    tell(Event::Settled(&settled));
    let start = Instant::now();
    let each: Vec<usize> = (0..targets.len()).flat_map(|p| std::iter::repeat_n(p, varied.views)).collect();
    let views = varied.views;
    let problem = Samples {
        features: found.data,
        width: found.width,
        targets: targets.pick(&each),
        views,
        weighty: Weighty::default(),
    };
    // What chooses the best epoch must be new to the head as well.
    let share = settled.tuning.as_ref().map_or(0.0, |t| t.validation);
    let (kept, held_out) = parts(plan.dataset, &found.rows, share, plan.wish.seed);
    let fit_on = |pictures: &[usize], tell: &mut dyn FnMut(Event<'_>)| {
        let bar = |done, of| tell(Event::Progress { stage: Stage::Head, done, of });
        let samples = Samples { views, ..problem.pick(&problem.rows_of(pictures)) };
        fit_head(&samples, plan.wish.seed, bar).context("fitting the head")
    };
    let mut fitted = fit_on(&kept, &mut tell)?;
    let mut head_seconds = start.elapsed().as_secs_f64();
    let (mut backbone, mut fine_tuned) = (plan.pretrained.backbone.clone(), None);
    if let Some(tuning) = &settled.tuning {
        let photos = |places: &[usize]| {
            let samples: Vec<&Sample> = places.iter().map(|&p| &samples[found.rows[p]]).collect();
            let targets = targets.pick(places);
            Photos::new(&samples, targets, &plan.pretrained.preprocessing, tuning.augmentation.clone())
        };
        let work = Work { plan, tuning, why: &settled.why };
        let (tensors, head, record) =
            work.fine_tune(fitted.head.clone(), &photos(&kept), &photos(&held_out), stop, &mut tell)?;
        if record.best > 0 {
            (backbone, fitted.head) = (tensors, head);
        } else {
            // No epoch was better than the head on frozen features, which then may learn from all pictures.
            let start = Instant::now();
            fitted = fit_on(&(0..targets.len()).collect::<Vec<_>>(), &mut tell)?;
            head_seconds += start.elapsed().as_secs_f64();
        }
        fine_tuned = Some(record);
    }
    if let Some(scale) = &scale {
        scale.unscale(&mut fitted.head);
    }
    let record = Record {
        format: FORMAT,
        task,
        graft: env!("CARGO_PKG_VERSION").into(),
        data: plan.data.clone(),
        split: plan.split.clone(),
        added: vec![],
        data_digest: found.data_digest,
        pictures: found.rows.len(),
        skipped: found.skipped.len(),
        labels: labels.clone(),
        seed: plan.wish.seed,
        weights: plan.pretrained.facts.clone(),
        preprocessing: plan.pretrained.preprocessing.clone(),
        strength: fitted.strength,
        cross_validation: fitted.tried,
        features_seconds,
        head_seconds,
        fine_tuned,
    };
    let run = Run::new(record, &plan.pretrained.network, backbone, fitted.head);
    Ok(Trained { run, settled, skipped: found.skipped, cached: found.cached, loss: fitted.loss })
}

/// Removes what a fit had kept to go on, once its run is saved.
pub fn clean_up(folder: &Path) {
    for name in [CHECKPOINT, VIEWS, SETTLED] {
        // A file that is not there, or stays, does no harm.
        let _ = fs::remove_file(folder.join(name));
    }
}

const CHECKPOINT: &str = "checkpoint.safetensors";
const VIEWS: &str = "activations.bin";
const SETTLED: &str = "settled.json";
/// Bytes that kept activations take on disk at most.
const VIEWS_BYTES: u64 = 8 << 30;

/// Settles how to fine-tune, or reads how it was settled where a fit goes on: the clock would say something else now.
fn settled(plan: &Plan<'_>, rows: &[usize], targets: &Targets) -> Result<Settled> {
    let path = plan.folder.map(|f| f.join(SETTLED));
    if let Some(path) = path.as_ref().filter(|p| plan.resume == Resume::Yes && p.exists()) {
        let doing = || format!("reading {}", path.display());
        let before: Settled = serde_json::from_slice(&fs::read(path).with_context(doing)?).with_context(doing)?;
        ensure!(
            before.wish == plan.wish,
            "expected the very command that was stopped, found other options; repeat it or leave out --resume"
        );
        return Ok(before);
    }
    let p = plan.pretrained;
    let set = Set { targets, stages: p.network.stages, pretrained: p.facts.random_seed.is_none() };
    let batch = plan.wish.batch.unwrap_or(Schedule::default().batch);
    let settled = settle(&plan.wish, set, |unfrozen| {
        let samples: Vec<&Sample> = rows.iter().map(|&r| &plan.dataset.samples[r]).collect();
        let photos = Photos::new(&samples, targets.clone(), &p.preprocessing, PRESET);
        probe(p, &photos, unfrozen, &plan.wish, batch, &plan.device, VIEWS_BYTES)
    })?;
    if let (Some(path), Some(_)) = (path, &settled.tuning) {
        write_atomic(&path, serde_json::to_string_pretty(&settled)?.as_bytes())?;
    }
    Ok(settled)
}

/// Splits `rows` (indices into the samples) by the data set's own split; returns places in `rows`.
fn parts(dataset: &Dataset, rows: &[usize], share: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    if share <= 0.0 {
        return ((0..rows.len()).collect(), vec![]);
    }
    let (_, off) = dataset.split(share, seed);
    (0..rows.len()).partition(|&place| off.binary_search(&rows[place]).is_err())
}

/// A fine-tuning.
struct Work<'a> {
    plan: &'a Plan<'a>,
    tuning: &'a Tuning,
    why: &'a str,
}

impl Work<'_> {
    fn fine_tune(
        &self,
        mut head: Head,
        train: &Photos<'_>,
        validation: &Photos<'_>,
        stop: &AtomicBool,
        mut tell: impl FnMut(Event<'_>),
    ) -> Result<(Tensors, Head, FineTuned)> {
        let start = Instant::now();
        let (p, tuning) = (self.plan.pretrained, self.tuning);
        if tuning.recipe == Recipe::Scratch {
            // What fits features of random weights says nothing about those to come.
            head = Head::zeros(head.bias.len(), p.network.features);
        }
        let mut net = Net::new(
            &p.network,
            &p.backbone,
            &head,
            &p.preprocessing,
            tuning.unfrozen,
            tuning.norm,
            &self.plan.device,
        )?;
        let recomputed = net.recompute(self.plan.wish.recompute, tuning.schedule.batch)?;
        let held_out = (!validation.is_empty()).then_some(validation as &dyn Source);
        let views = self.views(&mut net, train, stop, &mut tell)?;
        let data = Data { train, views: views.as_ref(), validation: held_out };
        let path = self.plan.folder.map(|f| f.join(CHECKPOINT));
        let checkpoint = path.as_deref().map(|path| Checkpoint { path, resume: self.plan.resume });
        let bar = |done, of| tell(Event::Progress { stage: Stage::FineTuning, done, of });
        let done = fit(&mut net, data, &tuning.schedule, checkpoint, stop, bar).context("fine-tuning")?;
        let (backbone, head) = net.finish()?;
        let record = FineTuned {
            tuning: tuning.clone(),
            why: self.why.to_owned(),
            epochs: done.epochs,
            best: done.best,
            seconds: start.elapsed().as_secs_f64(),
            reading_seconds: done.reading_seconds,
            recomputed,
        };
        Ok((backbone, head, record))
    }

    /// Computes the activations at the freeze point that are to be kept, if any.
    fn views(
        &self,
        net: &mut Net,
        train: &Photos<'_>,
        stop: &AtomicBool,
        mut tell: impl FnMut(Event<'_>),
    ) -> Result<Option<Views>> {
        let count = self.tuning.views;
        let Some(folder) = self.plan.folder.filter(|_| count > 0 && net.frozen_len().is_some()) else {
            return Ok(None);
        };
        let path = folder.join(VIEWS);
        if self.plan.resume == Resume::No {
            // One of another fit would be taken for one that was stopped.
            let _ = fs::remove_file(&path);
        }
        let seed = self.tuning.schedule.seed;
        let bar = |done, of| tell(Event::Progress { stage: Stage::Views, done, of });
        Ok(Some(Views::make(net, train, seed, count, &path, stop, bar)?))
    }
}
