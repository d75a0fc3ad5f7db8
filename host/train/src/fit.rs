//! Gradient descent: epochs over pictures, early stopping, and checkpoints that go on exactly where they were.
//!
//! The order of an epoch and the view of a picture follow from seed, epoch and index alone, so a run that was stopped
//! in the middle of an epoch repeats nothing and skips nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use graft_zoo::Tensor;
use graft_zoo::weights::{Precision, Tensors, read_safetensors, write_safetensors};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::metrics::argmax;
use crate::net::Net;
use crate::objective::cross_entropy;
use crate::optimiser::{adamw, cosine};
use crate::rng::Rng;
use crate::run::write_atomic;

/// How to descend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Passes over the pictures.
    pub epochs: usize,
    /// Pictures a step.
    pub batch: usize,
    /// Peak rate of AdamW.
    pub rate: f64,
    /// Weight decay.
    pub decay: f64,
    /// Share of the target that is spread over all classes.
    pub smoothing: f32,
    /// Stops after this many epochs without a better validation; 0 never stops early.
    pub patience: usize,
    /// Seed of order and views.
    pub seed: u64,
}

/// Where pictures come from.
pub trait Source: Sync {
    /// Returns the class of each picture.
    fn classes(&self) -> &[usize];
    /// Returns `u8 [crop, crop, 3]` of a picture: a varied view where `rng` is given.
    ///
    /// # Errors
    ///
    /// If the picture cannot be read.
    fn pixels(&self, index: usize, rng: Option<&mut Rng>) -> Result<Vec<u8>>;
}

/// What one epoch came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// From 1.
    pub epoch: usize,
    /// Mean training loss.
    pub loss: f64,
    /// Share of validation pictures that are right, where there are any.
    pub top1: Option<f64>,
    /// Mean cross-entropy on the validation pictures.
    pub validation_loss: Option<f64>,
}

/// How a fit ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// Every epoch.
    pub epochs: Vec<Epoch>,
    /// The epoch whose weights the net now has, from 1.
    pub best: usize,
    /// Whether the fit went on from a checkpoint.
    pub resumed: bool,
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

/// A fit between two steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    schedule: Schedule,
    /// Names and classes of the pictures, and what the fit began with.
    identity: String,
    epoch: usize,
    /// Batches done in this epoch.
    batch: usize,
    loss: f64,
    epochs: Vec<Epoch>,
    best: usize,
    best_loss: Option<f64>,
}

/// Trains `net`, leaving it with the weights of the best epoch (the last one without `validation`).
///
/// `progress` is called with the pictures done and the pictures in all.
///
/// # Errors
///
/// If a picture cannot be read, training diverges, a checkpoint is of another fit, or `stop` is raised: then the
/// checkpoint, where there is one, has been written.
pub fn fit(
    net: &mut Net,
    train: &dyn Source,
    validation: Option<&dyn Source>,
    schedule: &Schedule,
    checkpoint: Option<Checkpoint<'_>>,
    stop: &AtomicBool,
    mut progress: impl FnMut(usize, usize),
) -> Result<Fit> {
    let n = train.classes().len();
    ensure!(n > 0, "expected pictures to train on, found none");
    ensure!(schedule.batch > 0, "expected at least one picture a batch, found 0");
    let batches = n.div_ceil(schedule.batch);
    let total = (batches * schedule.epochs) as u64;
    // A tenth of the way, as far as an epoch: the fresh moments of AdamW are noise.
    let warmup = (total / 10).clamp(1, batches as u64);
    let mut state = State {
        schedule: schedule.clone(),
        identity: identity(net, train)?,
        epoch: 0,
        batch: 0,
        loss: 0.0,
        epochs: vec![],
        best: 0,
        best_loss: None,
    };
    let mut best = Tensors::new();
    let mut resumed = false;
    if let Some(c) = checkpoint.filter(|c| c.resume == Resume::Yes && c.path.exists()) {
        (state, best) = load(c.path, net, &state)?;
        resumed = true;
    }
    while state.epoch < schedule.epochs && !out_of_patience(&state) {
        let order = order(n, schedule.seed, state.epoch);
        for (at, rows) in order.chunks(schedule.batch).enumerate().skip(state.batch) {
            if stop.load(Ordering::Relaxed) {
                let Some(c) = checkpoint else { bail!("stopped") };
                save(c.path, net, &state, &best)?;
                bail!(
                    "stopped in epoch {} of {}; add --resume to the same command to go on",
                    state.epoch + 1,
                    schedule.epochs
                );
            }
            let views: Vec<Vec<u8>> = rows
                .par_iter()
                .map(|&row| train.pixels(row, Some(&mut view_rng(schedule.seed, state.epoch, row))))
                .collect::<Result<_>>()?;
            let classes: Vec<usize> = rows.iter().map(|&r| train.classes()[r]).collect();
            let count = net.classes();
            let value = net.learn(&views, &|logits| cross_entropy(logits, &classes, count, schedule.smoothing))?;
            let step = (state.epoch * batches + at) as u64;
            net.step(&adamw(cosine(schedule.rate, step, warmup, total), schedule.decay, step));
            ensure!(
                value.is_finite(),
                "expected a finite loss, found {value} in epoch {}: lower the rate",
                state.epoch + 1
            );
            state.loss += value * rows.len() as f64 / n as f64;
            state.batch = at + 1;
            progress(
                (state.epoch * n + at * schedule.batch + rows.len()).min(n * schedule.epochs),
                n * schedule.epochs,
            );
        }
        finish_epoch(net, validation, &mut state, &mut best)?;
        if let Some(c) = checkpoint {
            save(c.path, net, &state, &best)?;
        }
    }
    if validation.is_some() {
        net.restore(&best)?;
    }
    Ok(Fit { epochs: state.epochs, best: state.best, resumed })
}

fn finish_epoch(net: &mut Net, validation: Option<&dyn Source>, state: &mut State, best: &mut Tensors) -> Result<()> {
    let measured = validation.map(|v| measure(net, v, state.schedule.batch)).transpose()?;
    state.epoch += 1;
    state.batch = 0;
    let epoch = Epoch {
        epoch: state.epoch,
        loss: std::mem::take(&mut state.loss),
        top1: measured.map(|m| m.0),
        validation_loss: measured.map(|m| m.1),
    };
    state.epochs.push(epoch);
    // The loss and not top-1: on few pictures the latter moves in steps of several per cent.
    let better = measured.is_none_or(|m| state.best_loss.is_none_or(|b| m.1 < b));
    if better {
        state.best = state.epoch;
        state.best_loss = measured.map(|m| m.1);
        if measured.is_some() {
            *best = net.state();
        }
    }
    Ok(())
}

fn out_of_patience(state: &State) -> bool {
    let patience = state.schedule.patience;
    patience > 0 && state.best_loss.is_some() && state.epoch >= state.best + patience
}

/// Returns the share of right answers and the mean cross-entropy.
///
/// # Errors
///
/// If a picture cannot be read.
pub fn measure(net: &mut Net, source: &dyn Source, batch: usize) -> Result<(f64, f64)> {
    let classes = source.classes();
    ensure!(!classes.is_empty(), "expected pictures to validate on, found none");
    let (mut hits, mut loss) = (0usize, 0.0);
    let rows: Vec<usize> = (0..classes.len()).collect();
    for rows in rows.chunks(batch.max(1)) {
        let pictures: Vec<Vec<u8>> = rows.par_iter().map(|&r| source.pixels(r, None)).collect::<Result<_>>()?;
        let logits = net.logits(&pictures)?;
        let wanted: Vec<usize> = rows.iter().map(|&r| classes[r]).collect();
        loss += cross_entropy(&logits, &wanted, net.classes(), 0.0)?.0 * rows.len() as f64;
        hits += logits.chunks_exact(net.classes()).zip(&wanted).filter(|(l, c)| argmax(l) == **c).count();
    }
    let n = classes.len() as f64;
    Ok((hits as f64 / n, loss / n))
}

fn order(n: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    Rng::new(seed ^ 0x0e0c ^ (epoch as u64).rotate_left(32)).shuffle(&mut order);
    order
}

fn view_rng(seed: u64, epoch: usize, row: usize) -> Rng {
    Rng::new(seed ^ (epoch as u64).rotate_left(40) ^ (row as u64).rotate_left(8))
}

/// Returns a digest of what the fit begins with: weights and classes.
fn identity(net: &Net, train: &dyn Source) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for class in train.classes() {
        hasher.update(&(*class as u64).to_le_bytes());
    }
    for (name, tensor) in net.state() {
        hasher.update(name.as_bytes());
        for value in &tensor.data {
            hasher.update(&value.to_le_bytes());
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

const STATE: &str = "state";

fn save(path: &Path, net: &Net, state: &State, best: &Tensors) -> Result<()> {
    let mut tensors = net.moments();
    let mut add = |prefix: &str, from: &Tensors| {
        tensors.extend(from.iter().map(|(n, t): (&String, &Tensor)| (format!("{prefix}.{n}"), t.clone())));
    };
    add("net", &net.state());
    add("best", best);
    let metadata = BTreeMap::from([(STATE.to_owned(), serde_json::to_string(state)?)]);
    write_atomic(path, &write_safetensors(&tensors, &metadata, Precision::F32))
}

fn load(path: &Path, net: &mut Net, fresh: &State) -> Result<(State, Tensors)> {
    let doing = || format!("reading the checkpoint {}", path.display());
    let (tensors, metadata) = read_safetensors(&fs::read(path).with_context(doing)?).with_context(doing)?;
    let text = metadata
        .get(STATE)
        .with_context(|| format!("expected a checkpoint of graft in {}, found none", path.display()))?;
    let state: State = serde_json::from_str(text).with_context(doing)?;
    ensure!(
        state.identity == fresh.identity && state.schedule == fresh.schedule,
        "expected a checkpoint of this very command in {}, found one of other pictures, weights or options; repeat its command or leave out --resume",
        path.display()
    );
    let part = |prefix: &str| -> Tensors {
        tensors.iter().filter_map(|(n, t)| Some((n.strip_prefix(prefix)?.to_owned(), t.clone()))).collect()
    };
    let weights = part("net.");
    let names = |t: &Tensors| t.keys().cloned().collect::<Vec<_>>();
    ensure!(
        names(&weights) == names(&net.state()),
        "expected the weights of this net in {}, found others",
        path.display()
    );
    net.restore(&weights)?;
    net.restore_moments(&tensors).with_context(doing)?;
    Ok((state, part("best.")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Norm, random};
    use candle_core::Device;
    use graft_zoo::{Architecture, Padding, Preprocessing};

    /// Two classes: noise that is rather red or rather blue.
    struct Hues {
        classes: Vec<usize>,
    }

    impl Source for Hues {
        fn classes(&self) -> &[usize] {
            &self.classes
        }

        fn pixels(&self, index: usize, rng: Option<&mut Rng>) -> Result<Vec<u8>> {
            let mut own = Rng::new(index as u64);
            let rng = rng.unwrap_or(&mut own);
            let bright = 2 * self.classes[index];
            let value = |i: usize, rng: &mut Rng| rng.below(160) + if i % 3 == bright { 90 } else { 0 };
            Ok((0..32 * 32 * 3).map(|i| value(i, rng) as u8).collect())
        }
    }

    fn net(norm: Norm) -> Net {
        let network = Architecture::MobileNetV2 { width: 0.35 }.backbone(Padding::Symmetric, 1e-3);
        let (backbone, head) = random(&network, 2, 3);
        let p = Preprocessing::centre_crop(32, Preprocessing::UNIT);
        Net::new(&network, &backbone, &head, &p, network.stages, norm, &Device::Cpu).unwrap()
    }

    fn schedule() -> Schedule {
        Schedule { epochs: 3, batch: 8, rate: 2e-3, decay: 0.01, smoothing: 0.0, patience: 0, seed: 4 }
    }

    #[test]
    fn a_net_from_scratch_learns_two_hues() {
        let (train, test) = (Hues { classes: (0..48).map(|i| i % 2).collect() }, Hues { classes: vec![0, 1, 0, 1] });
        // With their own statistics, 16 pictures of one pixel at the last stage would say little.
        let mut net = net(Norm::Frozen);
        let schedule = Schedule { epochs: 8, ..schedule() };
        let found = fit(&mut net, &train, None, &schedule, None, &AtomicBool::new(false), |_, _| ()).unwrap();
        assert!(found.epochs[7].loss < 0.5 * found.epochs[0].loss, "{found:?}");
        assert_eq!(measure(&mut net, &train, 8).unwrap().0, 1.0);
        assert_eq!(measure(&mut net, &test, 3).unwrap().0, 1.0);
    }

    #[test]
    fn a_stopped_fit_goes_on_exactly() {
        let train = Hues { classes: (0..20).map(|i| i % 2).collect() };
        let whole = {
            let mut net = net(Norm::Batch);
            fit(&mut net, &train, Some(&train), &schedule(), None, &AtomicBool::new(false), |_, _| ()).unwrap();
            net.finish().unwrap()
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint.safetensors");
        // Stopped in the middle of the first and of the second epoch, and once on the border.
        for (resume, at) in [(Resume::No, 8), (Resume::Yes, 20), (Resume::Yes, 28)] {
            let stop = AtomicBool::new(false);
            let checkpoint = Checkpoint { path: &path, resume };
            let raise = |done: usize, _| stop.store(done >= at, Ordering::Relaxed);
            let error = fit(&mut net(Norm::Batch), &train, Some(&train), &schedule(), Some(checkpoint), &stop, raise)
                .unwrap_err();
            assert!(error.to_string().contains("--resume"), "{error}");
        }
        let mut last = net(Norm::Batch);
        let checkpoint = Some(Checkpoint { path: &path, resume: Resume::Yes });
        let found =
            fit(&mut last, &train, Some(&train), &schedule(), checkpoint, &AtomicBool::new(false), |_, _| ()).unwrap();
        assert!(found.resumed && found.epochs.len() == 3);
        assert_eq!(last.finish().unwrap(), whole);
        let other = Schedule { rate: 1e-3, ..schedule() };
        let error = fit(&mut net(Norm::Batch), &train, None, &other, checkpoint, &AtomicBool::new(false), |_, _| ())
            .unwrap_err();
        assert!(error.to_string().contains("of this very command"), "{error}");
    }

    #[test]
    fn no_better_epoch_ends_the_fit_early_with_the_best_weights() {
        let train = Hues { classes: (0..16).map(|i| i % 2).collect() };
        // The validation says the opposite, so learning makes it worse from the start.
        struct Opposite(Hues, Vec<usize>);
        impl Source for Opposite {
            fn classes(&self) -> &[usize] {
                &self.1
            }
            fn pixels(&self, index: usize, rng: Option<&mut Rng>) -> Result<Vec<u8>> {
                self.0.pixels(index, rng)
            }
        }
        let inner = Hues { classes: vec![0, 1] };
        let opposite = Opposite(inner, vec![1, 0]);
        let mut net = net(Norm::Batch);
        let schedule = Schedule { epochs: 30, patience: 2, ..schedule() };
        let found =
            fit(&mut net, &train, Some(&opposite), &schedule, None, &AtomicBool::new(false), |_, _| ()).unwrap();
        assert_eq!(found.epochs.len(), found.best + 2);
        let loss = measure(&mut net, &opposite, 2).unwrap().1;
        assert!((loss - found.epochs[found.best - 1].validation_loss.unwrap()).abs() < 1e-5);
    }
}
