//! Gradient descent: epochs over pictures, early stopping, and checkpoints that go on exactly where they were.
//!
//! The order of an epoch and the view of a picture follow from seed, epoch and index alone, so a run that was stopped
//! in the middle of an epoch repeats nothing and skips nothing.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use graft_zoo::weights::Tensors;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::augment::Mix;
use crate::net::Net;
use crate::objective::{Loss, Targets};
use crate::optimiser::{Optimiser, Step, cosine};
use crate::rng::Rng;
use crate::views::Views;

mod checkpoint;
mod measure;

use checkpoint::{State, load, save};
use measure::Losses;
pub use measure::{Measured, measure};

/// How to descend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Schedule {
    /// Passes over the pictures.
    pub epochs: usize,
    /// Pictures that go through the network together.
    pub batch: usize,
    /// Batches whose gradients make one step.
    pub accumulate: usize,
    /// The rule of a step.
    pub optimiser: Optimiser,
    /// Peak rate of the head.
    pub rate: f64,
    /// What the rate of a stage is multiplied with for each stage from the head down to it.
    pub stage_decay: f64,
    /// Weight decay.
    pub decay: f64,
    /// Longest gradient; a longer one is scaled down to it.
    pub clip: Option<f64>,
    /// Weight of the past in the average of the weights, which then is what is measured and kept.
    pub average: Option<f64>,
    /// What is lowered.
    pub loss: Loss,
    /// How pictures of a batch are mixed.
    pub mix: Mix,
    /// Stops after this many epochs without a better validation; 0 never stops early.
    pub patience: usize,
    /// Seed of order and views.
    pub seed: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            epochs: 10,
            batch: 16,
            accumulate: 1,
            optimiser: Optimiser::Adamw,
            rate: 1e-3,
            stage_decay: 1.0,
            decay: 0.01,
            clip: None,
            average: None,
            loss: Loss::CrossEntropy { smoothing: 0.1, weights: vec![] },
            mix: Mix::default(),
            patience: 0,
            seed: 0,
        }
    }
}

impl Schedule {
    /// Returns a step of one batch at a rate, after so many others.
    pub(crate) fn step(&self, rate: f64, done: u64) -> Step {
        Step {
            optimiser: self.optimiser,
            rate,
            stage_decay: self.stage_decay,
            decay: self.decay,
            done,
            scale: 1.0,
            clip: self.clip,
            average: self.average,
        }
    }
}

/// Where pictures come from.
pub trait Source: Sync {
    /// Returns what is wanted of each picture.
    fn targets(&self) -> &Targets;
    /// Returns `u8 [crop, crop, 3]` of a picture: a varied view where `rng` is given.
    ///
    /// # Errors
    ///
    /// If the picture cannot be read.
    fn pixels(&self, index: usize, rng: Option<&mut Rng>) -> Result<Vec<u8>>;
}

/// What a fit sees.
#[derive(Clone, Copy)]
pub struct Data<'a> {
    /// The pictures to learn from.
    pub train: &'a dyn Source,
    /// Views of them that have gone through the frozen stages already.
    pub views: Option<&'a Views>,
    /// The pictures that choose the best epoch, the last one that is as good as any; without, the last one is taken.
    pub validation: Option<&'a dyn Source>,
}

impl<'a> Data<'a> {
    /// Takes pictures to learn from, and others that choose the best epoch.
    pub fn new(train: &'a dyn Source, validation: Option<&'a dyn Source>) -> Self {
        Self { train, views: None, validation }
    }
}

/// What one epoch came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// From 1; 0 is before the first.
    pub epoch: usize,
    /// Mean training loss; none before the first.
    pub loss: Option<f64>,
    /// How good the validation's answers are, where there is one: the share that is right, or R² of a regression.
    pub score: Option<f64>,
    /// Mean loss on the validation pictures.
    pub validation_loss: Option<f64>,
}

/// How a fit ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// Every epoch, and what the net began with where there is a validation.
    pub epochs: Vec<Epoch>,
    /// The epoch whose weights the net now has; 0 where none was better than those it began with.
    pub best: usize,
    /// Whether the fit went on from a checkpoint.
    pub resumed: bool,
    /// Seconds of this process that steps waited for pictures to be read and varied.
    pub reading_seconds: f64,
}

/// What to do about checkpoints.
#[derive(Debug, Clone, Copy)]
pub struct Checkpoint<'a> {
    /// The file.
    pub path: &'a Path,
    /// Whether to go on from it.
    pub resume: Resume,
}

/// Whether to go on from a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Begin anew.
    No,
    /// Go on where there is one of this very fit.
    Yes,
}

/// Trains `net`, leaving it with the weights of the best epoch (the last one without a validation).
///
/// `progress` is called with the pictures done and the pictures in all.
///
/// # Errors
///
/// If a picture cannot be read, training diverges, a checkpoint is of another fit, or `stop` is raised: then the
/// checkpoint, where there is one, has been written.
pub fn fit(
    net: &mut Net,
    data: Data<'_>,
    schedule: &Schedule,
    checkpoint: Option<Checkpoint<'_>>,
    stop: &AtomicBool,
    mut progress: impl FnMut(usize, usize),
) -> Result<Fit> {
    let n = data.train.targets().len();
    check(net, &data, schedule)?;
    let pace = Pace::of(n, schedule);
    let mut state = State::new(net, &data, schedule)?;
    let mut best = Tensors::new();
    let (mut resumed, mut reading) = (false, Duration::ZERO);
    match checkpoint.filter(|c| c.resume == Resume::Yes && c.path.exists()) {
        Some(c) => {
            (state, best) = load(c.path, net, &state)?;
            resumed = true;
        }
        None if data.validation.is_some() => judge(net, data.validation, &mut state, &mut best)?,
        None => {}
    }
    while state.epoch < schedule.epochs && !out_of_patience(&state) {
        let order = order(n, schedule.seed, state.epoch);
        let rest: Vec<&[usize]> = order.chunks(schedule.batch).skip(state.batch).collect();
        let reader = Reader { data: &data, schedule, side: net.side(), epoch: state.epoch };
        reader.batches(&rest, net.leaves_cores_idle(), |next| {
            for rows in &rest {
                if stop.load(Ordering::Relaxed) {
                    let Some(c) = checkpoint else { bail!("stopped") };
                    save(c.path, net, &state, &best)?;
                    bail!(
                        "stopped in epoch {} of {}; add --resume to the same command to go on",
                        state.epoch + 1,
                        schedule.epochs
                    );
                }
                let start = Instant::now();
                let batch = next()?;
                reading += start.elapsed();
                let value = learn(net, batch, schedule)?;
                ensure!(
                    value.is_finite(),
                    "expected a finite loss, found {value} in epoch {}: lower the rate",
                    state.epoch + 1
                );
                let at = state.batch;
                if let Some(step) = pace.step(schedule, state.epoch, at) {
                    net.step(&step)?;
                }
                state.loss += value * rows.len() as f64 / n as f64;
                state.batch = at + 1;
                progress(state.epoch * n + (at * schedule.batch + rows.len()).min(n), n * schedule.epochs);
            }
            Ok(())
        })?;
        state.epoch += 1;
        state.batch = 0;
        judge(net, data.validation, &mut state, &mut best)?;
        if let Some(c) = checkpoint {
            save(c.path, net, &state, &best)?;
        }
    }
    match data.validation {
        Some(_) => net.restore(&best)?,
        // Of a fit without an average nothing is changed.
        None => net.swap_averages()?,
    }
    Ok(Fit { epochs: state.epochs, best: state.best, resumed, reading_seconds: reading.as_secs_f64() })
}

fn check(net: &Net, data: &Data<'_>, schedule: &Schedule) -> Result<()> {
    let targets = data.train.targets();
    ensure!(targets.len() > 0, "expected pictures to train on, found none");
    ensure!(schedule.batch > 0, "expected at least one picture a batch, found 0");
    ensure!(schedule.accumulate > 0, "expected at least one batch a step, found 0");
    ensure!(
        data.views.is_none() || schedule.mix == Mix::default(),
        "expected no mixture of pictures whose activations are kept, found {:?}",
        schedule.mix
    );
    for width in [targets.width()].into_iter().chain(data.validation.map(|v| v.targets().width())) {
        ensure!(width == net.outputs(), "expected targets of {} numbers, found {width}", net.outputs());
    }
    Ok(())
}

/// What goes through the network together.
struct Batch {
    inputs: Inputs,
    targets: Vec<f32>,
}

enum Inputs {
    Pictures(Vec<Vec<u8>>),
    /// What frozen stages made of them.
    Frozen(Vec<Vec<f32>>),
}

/// Reads pictures as an epoch sees them.
struct Reader<'a> {
    data: &'a Data<'a>,
    schedule: &'a Schedule,
    side: usize,
    epoch: usize,
}

impl Reader<'_> {
    /// Calls `f` with a function that returns one batch of these rows after the other: read when it asks, or ahead beside it where
    /// cores are idle.
    fn batches(
        &self,
        rows: &[&[usize]],
        is_ahead: bool,
        f: impl FnOnce(&mut dyn FnMut() -> Result<Batch>) -> Result<()>,
    ) -> Result<()> {
        let mut all = rows.iter().map(|rows| self.read(rows));
        if !is_ahead {
            return f(&mut || all.next().context("expected another batch, found none")?);
        }
        let (send, receive) = mpsc::sync_channel(BATCHES_AHEAD);
        thread::scope(|scope| {
            // Ends when nobody takes what it has read any more.
            scope.spawn(move || all.try_for_each(|batch| send.send(batch)));
            f(&mut move || receive.recv().context("expected another batch, found none")?)
        })
    }

    fn read(&self, rows: &[usize]) -> Result<Batch> {
        let Self { data, schedule, side, epoch } = *self;
        let mut targets: Vec<Vec<f32>> = rows.iter().map(|&r| data.train.targets().row(r)).collect();
        if let Some(views) = data.views {
            return Ok(Batch { inputs: Inputs::Frozen(views.rows(rows, epoch)?), targets: targets.concat() });
        }
        let mut pictures = pictures(data.train, schedule.seed, epoch, rows)?;
        // One of the batch's pictures tells its mixture from those of the others.
        let mut rng = view_rng(schedule.seed ^ 0x5e7, epoch, rows[0]);
        schedule.mix.apply(&mut pictures, &mut targets, side, &mut rng)?;
        Ok(Batch { inputs: Inputs::Pictures(pictures), targets: targets.concat() })
    }
}

/// Batches that wait for the one that computes.
const BATCHES_AHEAD: usize = 2;

/// Runs a batch forwards and backwards; returns its loss.
fn learn(net: &mut Net, batch: Batch, schedule: &Schedule) -> Result<f64> {
    let (count, targets) = (net.outputs(), batch.targets);
    match batch.inputs {
        Inputs::Pictures(pictures) => net.learn(&pictures, &|o| schedule.loss.of(o, &targets, count)),
        Inputs::Frozen(rows) => net.learn_frozen(&rows, &|o| schedule.loss.of(o, &targets, count)),
    }
}

/// Returns the views that an epoch has of some pictures.
pub(crate) fn pictures(source: &dyn Source, seed: u64, epoch: usize, rows: &[usize]) -> Result<Vec<Vec<u8>>> {
    rows.par_iter().map(|&row| source.pixels(row, Some(&mut view_rng(seed, epoch, row)))).collect()
}

/// How many batches make a step, and steps a fit.
struct Pace {
    batches: usize,
    steps: usize,
    total: u64,
    warmup: u64,
}

impl Pace {
    fn of(pictures: usize, schedule: &Schedule) -> Self {
        let batches = pictures.div_ceil(schedule.batch);
        let steps = batches.div_ceil(schedule.accumulate);
        let total = (steps * schedule.epochs) as u64;
        // A tenth of the way, as far as an epoch: the fresh moments of AdamW are noise.
        Self { batches, steps, total, warmup: (total / 10).clamp(1, steps as u64) }
    }

    /// Returns the step that follows a batch, if one does.
    fn step(&self, schedule: &Schedule, epoch: usize, batch: usize) -> Option<Step> {
        let last = batch + 1 == self.batches;
        if !last && !(batch + 1).is_multiple_of(schedule.accumulate) {
            return None;
        }
        let done = (epoch * self.steps + batch / schedule.accumulate) as u64;
        // Of means over a batch each, the mean.
        let summed = batch % schedule.accumulate + 1;
        let rate = cosine(schedule.rate, done, self.warmup, self.total);
        Some(Step { scale: 1.0 / summed as f64, ..schedule.step(rate, done) })
    }
}

/// Measures the net after an epoch, or before the first, and keeps its weights where they are the best.
///
/// That is the last epoch of those whose loss the few pictures held out do not tell from the least: as the rate falls, later ones
/// are the better ones, and the least of many is the luckiest of them.
fn judge(net: &mut Net, validation: Option<&dyn Source>, state: &mut State, best: &mut Tensors) -> Result<()> {
    net.swap_averages()?;
    let measured = validation.map(|v| measure(net, v, state.schedule.batch)).transpose()?;
    let loss = std::mem::take(&mut state.loss);
    state.epochs.push(Epoch {
        epoch: state.epoch,
        loss: (state.epoch > 0).then_some(loss),
        score: measured.as_ref().map(|m| m.score),
        validation_loss: measured.as_ref().map(Measured::loss),
    });
    match measured {
        None => state.best = state.epoch,
        // The loss and not the score: on few pictures the latter moves in steps of several per cent.
        Some(measured) => {
            if state.least.as_ref().is_none_or(|l| l.is_like(&measured)) {
                state.best = state.epoch;
                *best = net.state()?;
            }
            if state.least.as_ref().is_none_or(|l| l.exceeds(&measured)) {
                state.least = Some(Losses::new(state.epoch, &measured));
            }
        }
    }
    net.swap_averages()?;
    Ok(())
}

fn out_of_patience(state: &State) -> bool {
    let patience = state.schedule.patience;
    patience > 0 && state.least.as_ref().is_some_and(|l| state.epoch >= l.epoch + patience)
}

fn order(n: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    Rng::new(seed ^ 0x0e0c ^ (epoch as u64).rotate_left(32)).shuffle(&mut order);
    order
}

fn view_rng(seed: u64, epoch: usize, row: usize) -> Rng {
    Rng::new(seed ^ (epoch as u64).rotate_left(40) ^ (row as u64).rotate_left(8))
}

#[cfg(test)]
mod tests;
