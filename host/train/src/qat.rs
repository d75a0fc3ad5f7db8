//! Quantization-aware fine-tuning: a run is trained a little further while every pass computes what its int8 graph does, so
//! that weights and steps settle where rounding costs least. The last resort, as it needs pictures with their targets, and
//! time.
//!
//! # Source
//!
//! Jacob et al., arXiv:1712.05877; Esser et al., *Learned Step Size Quantization*, arXiv:1902.08153; Nagel et al., *A White
//! Paper on Neural Network Quantization*, arXiv:2106.08295, section 4 (from a calibrated network, statistics frozen).

use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use graft_onnx::Activations;

use crate::fit::{Data, Fit, Schedule, Source, fit};
use crate::net::{Device, Net, Norm, Recompute, Steps};
use crate::objective::{Loss, Scale, Targets};
use crate::rng::Rng;
use crate::run::Run;

/// How to go on.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many of the last stages are trained; none for all of them.
    pub unfrozen: Option<usize>,
    /// Whether the steps of activations are trained along with the weights.
    pub steps: Steps,
    /// How to descend; of its loss, only the smoothing and weights of classes count, as values come in deviations.
    pub schedule: Schedule,
    /// What computes.
    pub device: Device,
}

impl Default for Plan {
    fn default() -> Self {
        let schedule = Schedule { epochs: EPOCHS, rate: RATE, ..Schedule::default() };
        Self { unfrozen: None, steps: Steps::Trained { pace: PACE }, schedule, device: Device::Cpu }
    }
}

const EPOCHS: usize = 2;
/// The best in two epochs of 3e-5, 1e-4, 3e-4 and 1e-3, on 240 generated leaves with ranges cut to half, and with channels
/// of very different ranges.
const RATE: f64 = 3e-4;
/// Of 1, 10 and 30 no one was better there by more than 240 pictures can tell.
const PACE: f64 = 10.0;

/// A run that makes a better int8 graph.
#[derive(Debug, Clone)]
pub struct Tuned {
    /// The run with its new weights, in full precision. Its record is the old one's.
    pub run: Run,
    /// What its activations are rounded by: rounding its weights to the nearest makes the graph that was measured.
    pub activations: Activations,
    /// How the fit went. Epoch 0 is the graph before: where none was better, run and calibration are those given.
    pub fit: Fit,
}

/// Fine-tunes `run` for its int8 graph with these parameters of its activations. Sources give targets in the unit of the run's outputs.
///
/// `progress` is called with the pictures done and the pictures in all. The same plan, pictures and seed give the same
/// weights.
///
/// # Errors
///
/// If the activations are not this run's, a picture cannot be read, training diverges, or `stop` is raised.
pub fn fine_tune(
    run: &Run,
    activations: &Activations,
    data: Data<'_>,
    plan: &Plan,
    stop: &AtomicBool,
    progress: impl FnMut(usize, usize),
) -> Result<Tuned> {
    ensure!(data.views.is_none(), "expected pictures to learn from, found activations, which are not quantized");
    let scale = Scale::of(data.train.targets());
    let scaled = |source| Scaled::new(source, scale.as_ref());
    let (train, validation) = (scaled(data.train), data.validation.map(scaled));
    let data = Data::new(&train, validation.as_ref().map(|v| v as &dyn Source));
    let mut head = run.head.clone();
    if let Some(scale) = &scale {
        scale.scale(&mut head);
    }
    let network = run.network();
    let unfrozen = plan.unfrozen.unwrap_or(network.stages);
    let preprocessing = &run.record.preprocessing;
    let mut net = Net::new(network, &run.backbone, &head, preprocessing, unfrozen, Norm::Frozen, &plan.device)?;
    net.quantize(activations, plan.steps)?;
    net.recompute(Recompute::Auto, plan.schedule.batch)?;
    let schedule = Schedule { loss: loss(data.train.targets(), &plan.schedule.loss), ..plan.schedule.clone() };
    let fit = fit(&mut net, data, &schedule, None, stop, progress).context("fine-tuning for int8")?;
    if fit.best == 0 {
        return Ok(Tuned { run: run.clone(), activations: activations.clone(), fit });
    }
    let (backbone, mut head) = net.finish()?;
    if let Some(scale) = &scale {
        scale.unscale(&mut head);
    }
    let activations = net.activations().context("expected a net that was quantized")?;
    Ok(Tuned { run: Run::new(run.record.clone(), network, backbone, head), activations, fit })
}

/// Returns the loss that fits the targets, with what `wished` says of classes.
fn loss(targets: &Targets, wished: &Loss) -> Loss {
    match (targets.loss(), wished) {
        (Loss::CrossEntropy { .. }, Loss::CrossEntropy { .. }) => wished.clone(),
        // As where the run was trained.
        (Loss::Huber { .. }, _) => Loss::Huber { delta: 1.0 },
        (usual, _) => usual,
    }
}

/// Pictures whose values come in deviations.
struct Scaled<'a> {
    source: &'a dyn Source,
    targets: Targets,
}

impl<'a> Scaled<'a> {
    fn new(source: &'a dyn Source, scale: Option<&Scale>) -> Self {
        let targets = scale.map_or_else(|| source.targets().clone(), |s| s.scaled(source.targets()));
        Self { source, targets }
    }
}

impl Source for Scaled<'_> {
    fn targets(&self) -> &Targets {
        &self.targets
    }

    fn pixels(&self, index: usize, rng: Option<&mut Rng>) -> Result<Vec<u8>> {
        self.source.pixels(index, rng)
    }
}

#[cfg(test)]
mod tests;
