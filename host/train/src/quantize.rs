//! Quantization after training: ranges and repairs, what they cost in answers and save in time, and a verdict.
//!
//! What is chosen for the backbone is pinned ([`Pins`]): a head that is fitted again leaves every byte of it as it was.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use graft_onnx::quantize::RangeMethod;
use graft_onnx::{Activations, Format, Layers, Metadata, Outputs, Quantization, Value, values};
use serde::{Deserialize, Serialize};

use crate::dataset::{Dataset, Ignored, Sample};
use crate::fit::Data;
use crate::photos::Photos;
use crate::pictures::OnBad;
use crate::qat;
use crate::recipe::PRESET;
use crate::run::Run;

mod layers;
mod observe;
mod pin;
mod repair;
mod search;
pub mod statistics;
mod trial;
mod verdict;

pub use layers::LayerReport;
pub use pin::Pins;
pub use repair::Repair;
pub use search::Tried;
pub use trial::{Asked, Candidate, Changed, Measured, OnDevice};
pub use verdict::Verdict;

use pin::Pinned;
use search::{Found, Search};
use trial::Trial;
use verdict::Chosen;

/// What numbers a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// f32 everywhere.
    Float,
    /// Weights and activations in 8 bits.
    Int8,
    /// The same but for a few layers, which stay in f32.
    Mixed,
    /// Weights in 8 bits, computed with in f32.
    Weights,
    /// Weights in 16 bits, computed with in f32.
    Half,
}

/// What to do.
pub struct Plan<'a> {
    /// The float network.
    pub run: &'a Run,
    /// Pictures that show the ranges.
    pub calibration: &'a [Sample],
    /// Labelled pictures that tell the price.
    pub test: &'a Dataset,
    /// How ranges are chosen; none tries all.
    pub ranges: Option<RangeMethod>,
    /// The repairs to try; each is kept only where it helps.
    pub repairs: &'a [Repair],
    /// The numbers to write; none leaves that to the verdict.
    pub kind: Option<Kind>,
    /// How much of the score may be lost, 0.01 for a point.
    pub budget: f64,
    /// Milliseconds that a picture may take, here or on the device, on one thread; none asks for less than float takes.
    pub budget_ms: Option<f64>,
    /// Measures a file on a device, whose milliseconds then decide; none leaves that to this machine.
    pub on_device: Option<&'a Measure<'a>>,
    /// Where the backbone's parameters are pinned; none pins nothing.
    pub pins: Option<Pins>,
    /// How to fine-tune for int8 where it loses too much; none leaves the weights alone.
    pub tuning: Option<Tuning<'a>>,
    /// What to do with pictures that cannot be read.
    pub on_bad: OnBad,
}

/// Has a device measure a file; an error is of the way there.
pub type Measure<'a> = dyn Fn(&[u8]) -> Result<Asked> + Sync + 'a;

/// How to fine-tune for int8.
pub struct Tuning<'a> {
    /// The pictures to learn from.
    pub pictures: &'a Dataset,
    /// How.
    pub plan: qat::Plan,
    /// Raised to stop.
    pub stop: &'a AtomicBool,
}

/// What came of it.
pub struct Outcome {
    /// The file, except where the verdict is that float serves better.
    pub onnx: Option<Vec<u8>>,
    /// All that was found.
    pub report: Report,
    /// Pictures left out.
    pub skipped: Vec<Ignored>,
}

/// All that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What to ship, and why.
    pub verdict: Verdict,
    /// How ranges and repairs were chosen.
    pub calibration: Calibration,
    /// The price on the test pictures.
    pub evaluation: Evaluation,
    /// Every layer, the one that adds the most noise first.
    pub layers: Vec<LayerReport>,
}

/// How ranges and repairs were chosen.
#[derive(Debug, Clone, Serialize)]
pub struct Calibration {
    /// Files of the pictures, as given.
    pub pictures: Vec<String>,
    /// Which ranges.
    pub method: String,
    /// What was kept of the repairs.
    pub repairs: Vec<Repair>,
    /// All that was tried.
    pub tried: Vec<Tried>,
    /// Score that the backbone's pinned parameters cost against those that these pictures would give; none where nothing
    /// had been pinned before.
    pub pinned_cost: Option<f64>,
    /// Seconds that watching the pictures and choosing took.
    pub seconds: f64,
}

/// The price on the test pictures.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    /// Pictures.
    pub n: usize,
    /// The float network.
    pub float: Measured,
    /// Those in fewer bits that were tried, the one that is written last.
    pub candidates: Vec<Candidate>,
}

/// A part of the work, for progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Watching activations, and comparing ranges and repairs.
    Calibrating,
    /// Quantizing one layer at a time.
    Layers,
    /// Answering the test pictures.
    Evaluating,
    /// Fine-tuning for int8.
    Tuning,
}

/// A run's graph, as it is written again and again.
struct Source<'a> {
    run: &'a Run,
    values: Vec<Value>,
}

/// How a network is rounded, with the layers, which may have been changed for it.
#[derive(Debug, Clone)]
struct Quantized {
    layers: Layers,
    quantization: Quantization,
}

impl Source<'_> {
    fn write(&self, layers: &Layers, format: Format<'_>, outputs: Outputs) -> Result<Vec<u8>> {
        Ok(self.run.export(layers).write(format, outputs, &self.run.metadata())?)
    }

    fn bytes(&self, of: &Quantized, outputs: Outputs) -> Result<Vec<u8>> {
        self.write(&of.layers, Format::Bytes(&of.quantization), outputs)
    }
}

/// Quantizes a run and says what that is worth.
///
/// # Errors
///
/// If no picture can be read, a graph cannot be written or run, or the pinned parameters are not this backbone's.
pub fn quantize(plan: &Plan<'_>, mut progress: impl FnMut(Stage, usize, usize)) -> Result<Outcome> {
    ensure!(!plan.calibration.is_empty(), "expected calibration pictures, found none");
    let source = Source { run: plan.run, values: values(plan.run.network()) };
    let layers = plan.run.layers()?;
    // First of all: a device that takes nothing should say so before the long work.
    let float = plan.on_device.map(|measure| measure(&source.write(&layers, Format::Float, Outputs::Last)?));
    let float = match float.transpose()? {
        Some(Asked::Runs(device)) => Some(device),
        Some(Asked::Refused(why)) => return Err(why),
        None => None,
    };
    let start = Instant::now();
    let search = Search::new(plan, &source, &layers)?;
    let fresh = search.run(|done, of| progress(Stage::Calibrating, done, of))?;
    let seconds = start.elapsed().as_secs_f64();
    let pinned = plan.pins.as_ref().map(|p| p.read(plan.run)).transpose()?.flatten();
    let applied = pinned.as_ref().map(|p| p.apply(&layers)).transpose()?;
    let quantized = applied.as_ref().unwrap_or(&fresh.quantized);

    let on_layer = |done, of| progress(Stage::Layers, done, of);
    let mut told = layers::explain(&source, &layers, quantized, &search, on_layer)?;
    let mut trial = Trial::new(plan, &source, &layers, float, |done, of| progress(Stage::Evaluating, done, of))?;
    let tune = |progress: &mut dyn FnMut(Stage, usize, usize)| tuned(plan, &fresh.plain, progress);
    let (verdict, chosen) = verdict::find(plan, &mut trial, quantized, &told, pinned.is_some(), &tune, &mut progress)?;
    // Only numbers on bytes go by what is pinned.
    let on_bytes = trial.candidates.first().filter(|c| matches!(c.kind, Kind::Int8 | Kind::Mixed));
    let pinned_cost = match (&applied, on_bytes) {
        (Some(_), Some(first)) => Some(
            trial.score(&fresh.quantized, |done, of| progress(Stage::Evaluating, done, of))? - first.measured.score,
        ),
        _ => None,
    };
    let shipped = chosen.as_ref().map_or(quantized, |c| &c.quantized);
    told.iter_mut().for_each(|l| l.is_float = !shipped.quantization.layers.contains_key(&l.name));
    told.sort_by(|a, b| b.noise.total_cmp(&a.noise));
    // Weights that were tuned are another backbone's.
    let is_pinnable = |c: &Chosen| matches!(c.kind, Kind::Int8 | Kind::Mixed) && !c.is_tuned;
    if let (Some(pins), None, true) = (&plan.pins, &pinned, chosen.as_ref().is_some_and(is_pinnable)) {
        let float_layers = told.iter().filter(|l| l.is_float).map(|l| l.name.clone()).collect();
        pins.write(plan.run, &Pinned::of(&fresh, float_layers))?;
    }
    let Found { method, repairs, tried, .. } = fresh;
    let (method, repairs) = pinned.map_or((method, repairs), |p| (p.method, p.repairs));
    let pictures = plan.calibration.iter().map(|s| s.location.to_string()).collect();
    let calibration = Calibration { pictures, method, repairs, tried, pinned_cost, seconds };
    // What is written was tried last.
    let last = trial.candidates.last().and_then(|c| c.measured.device.clone());
    let on_device = trial.float.device.clone().zip(last).map(|(float, written)| OnDevices { float, written });
    let explanation = Explanation {
        verdict: verdict.clone(),
        method: calibration.method.clone(),
        repairs: calibration.repairs.clone(),
        layers: told.clone(),
        on_device,
    };
    let onnx = chosen.map(|c| trial.write(c.kind, &c.quantized, &explanation.metadata()?)).transpose()?;
    let (evaluation, skipped) = trial.finish();
    Ok(Outcome { onnx, report: Report { verdict, calibration, evaluation, layers: told }, skipped })
}

/// Returns how the activations of a run are rounded by one method.
#[cfg(test)]
pub(crate) fn ranges(run: &Run, samples: &[Sample], method: RangeMethod) -> Result<Activations> {
    let source = Source { run, values: values(run.network()) };
    let watched = source.write(&run.layers()?, Format::Float, Outputs::Activations)?;
    let seen = observe::observe(&watched, &source.values, samples, OnBad::Skip, |_| ())?;
    search::activations(&source.values, &seen, method)
}

/// Fine-tunes for int8, if that is asked for.
fn tuned(
    plan: &Plan<'_>,
    activations: &Activations,
    progress: &mut dyn FnMut(Stage, usize, usize),
) -> Result<Option<Quantized>> {
    let Some(tuning) = &plan.tuning else { return Ok(None) };
    let data = tuning.pictures.clone().relabel(&plan.run.record.labels)?;
    let photos = Photos::all(&data, &plan.run.record.preprocessing, PRESET);
    let bar = |done, of| progress(Stage::Tuning, done, of);
    let found = qat::fine_tune(plan.run, activations, Data::new(&photos, None), &tuning.plan, tuning.stop, bar)?;
    let layers = found.run.layers()?;
    let quantization = Quantization::nearest(&layers, found.activations)?;
    Ok(Some(Quantized { layers, quantization }))
}

/// What a quantized file tells of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// What to ship, and why.
    pub verdict: Verdict,
    /// Which ranges.
    pub method: String,
    /// What was repaired.
    pub repairs: Vec<Repair>,
    /// Every layer, the one that adds the most noise first.
    pub layers: Vec<LayerReport>,
    /// What a device measured, where one was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_device: Option<OnDevices>,
}

/// The float network and the one in the file, on the same device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OnDevices {
    /// The float network.
    pub float: OnDevice,
    /// The one in the file.
    pub written: OnDevice,
}

impl Explanation {
    /// The key in a file's metadata.
    pub const KEY: &str = "graft.quantization";

    /// Reads what a file tells of itself, if it does.
    ///
    /// # Errors
    ///
    /// If it is not to be understood.
    pub fn of(metadata: &BTreeMap<String, String>) -> Result<Option<Self>> {
        let Some(text) = metadata.get(Self::KEY) else { return Ok(None) };
        Ok(Some(serde_json::from_str(text).with_context(|| format!("reading the model's {}", Self::KEY))?))
    }

    fn metadata(&self) -> Result<Metadata> {
        let mut ranges = self.method.clone();
        self.repairs.iter().for_each(|r| ranges += &format!(", {}", r.name()));
        let mut metadata = Metadata::from([(Self::KEY.to_owned(), serde_json::to_string(self)?)]);
        if matches!(self.verdict.ship, Kind::Int8 | Kind::Mixed) {
            metadata.insert(CALIBRATION.to_owned(), ranges);
        }
        Ok(metadata)
    }
}

/// The key in a file's metadata of how the ranges of its activations were chosen: one that has it computes with bytes.
pub const CALIBRATION: &str = "graft.calibration";
