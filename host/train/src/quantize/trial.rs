//! A network in fewer bits against the float one, on the same labelled pictures.

use anyhow::{Context, Result, ensure};
use graft_onnx::{Format, Integers, Layers, Metadata, Outputs};
use graft_runtime::{EngineChoice, Model, Network, Raw, bench};
use serde::{Deserialize, Serialize};

use super::statistics::{calibration_error, confidence, interval, mcnemar};
use super::{CALIBRATION, Evaluation, Kind, Plan, Quantized, Source};
use crate::dataset::{Dataset, Ignored, Task};
use crate::evaluate::{Answer, answers, found};
use crate::metrics::argmax;

/// How good, large and slow a network is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Share of right classes, mean F1 of tags, or mean R² of values.
    pub score: f64,
    /// 95 % interval of the share of right classes.
    pub interval: Option<[f64; 2]>,
    /// Expected calibration error of the classes' probabilities.
    pub ece: Option<f64>,
    /// Bytes of the file.
    pub bytes: usize,
    /// Bytes that the engine needs for it: packed weights, activations and scratch, one thread; none where tract runs it.
    #[serde(default)]
    pub memory: Option<usize>,
    /// The fastest milliseconds of a picture here, one thread: other programs make any but these longer.
    pub ms: f64,
    /// What a device measured, where one was asked.
    #[serde(default)]
    pub device: Option<OnDevice>,
    /// Why the device that was asked does not run it.
    #[serde(default)]
    pub refused: Option<String>,
}

/// How large and slow a network is on a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OnDevice {
    /// The fastest milliseconds of a picture, the network alone, one thread.
    pub ms: f64,
    /// Median milliseconds of a picture with its preprocessing.
    pub latency_ms: f64,
    /// Milliseconds that loading took.
    pub load_ms: f64,
    /// Bytes that the engine needs for it there.
    pub memory: Option<u64>,
    /// Largest difference of its answers to those given here.
    pub max_abs_diff: f32,
    /// The engine, and for which instructions.
    pub engine: String,
    /// Why the device may have been slower than it could be.
    pub warning: Option<String>,
}

/// What came of asking a device to measure a network.
#[derive(Debug)]
pub enum Asked {
    /// It runs there.
    Runs(OnDevice),
    /// The device does not take it, and why: its answers are others there, or it is too large.
    Refused(anyhow::Error),
}

impl Measured {
    /// Returns the milliseconds that the verdict goes by: the device's where one was asked.
    pub fn deciding_ms(&self) -> f64 {
        self.device.as_ref().map_or(self.ms, |d| d.ms)
    }

    /// Says where these milliseconds are from.
    pub fn place(&self) -> &'static str {
        if self.device.is_some() { "on the board" } else { "here" }
    }
}

/// A picture whose class changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// The picture.
    pub file: String,
    /// Its class.
    pub truth: String,
    /// What the float network says.
    pub float: String,
    /// What the other says.
    pub quantized: String,
}

/// A network in fewer bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its numbers.
    pub kind: Kind,
    /// Layers that stay in f32.
    pub float_layers: Vec<String>,
    /// Whether its weights were fine-tuned for it.
    pub is_tuned: bool,
    /// What came out.
    pub measured: Measured,
    /// Score that is lost.
    pub drop: f64,
    /// Probability of as uneven a difference between two equally good networks; classes only.
    pub p_value: Option<f64>,
    /// Change of each class's recall, for classes that occur.
    pub recall: Vec<(String, f64)>,
    /// Pictures whose class changes.
    pub changed: Vec<Changed>,
}

/// The labelled pictures, and what the float network makes of them.
pub(super) struct Trial<'a> {
    plan: &'a Plan<'a>,
    source: &'a Source<'a>,
    layers: &'a Layers,
    data: Dataset,
    answers: Vec<Answer>,
    skipped: Vec<Ignored>,
    pub(super) float: Measured,
    pub(super) candidates: Vec<Candidate>,
}

impl<'a> Trial<'a> {
    pub(super) fn new(
        plan: &'a Plan<'a>,
        source: &'a Source<'a>,
        layers: &'a Layers,
        device: Option<OnDevice>,
        progress: impl FnMut(usize, usize),
    ) -> Result<Self> {
        ensure!(
            plan.test.task == plan.run.record.task,
            "expected pictures for a model that tells {}, found {}",
            plan.run.record.task.name(),
            plan.test.task.name()
        );
        let data = plan.test.clone().relabel(&plan.run.record.labels)?;
        let onnx = source.write(layers, Format::Float, Outputs::Last)?;
        let (answers, skipped) = answers(&Model::from_onnx(&onnx)?, &data.samples, plan.on_bad, progress)?;
        ensure!(!answers.is_empty(), "expected pictures that can be read, found none among {}", data.samples.len());
        let float = Measured { device, ..measured(&data, &answers, &onnx)? };
        Ok(Self { plan, source, layers, data, answers, skipped, float, candidates: vec![] })
    }

    /// Returns the file of a kind, which tells `more` of itself than the run does.
    pub(super) fn write(&self, kind: Kind, quantized: &Quantized, more: &Metadata) -> Result<Vec<u8>> {
        let mut metadata = self.plan.run.metadata();
        metadata.extend(more.clone());
        let write = |layers, format| Ok(self.plan.run.export(layers).write(format, Outputs::Last, &metadata)?);
        match kind {
            Kind::Float => write(self.layers, Format::Float),
            Kind::Half => write(self.layers, Format::Half),
            Kind::Weights => {
                let integers = self.layers.iter().map(|l| Ok((l.name.clone(), Integers::nearest(l, None)?)));
                write(self.layers, Format::Weights(&integers.collect::<Result<_>>()?))
            }
            Kind::Int8 | Kind::Mixed => write(&quantized.layers, Format::Bytes(&quantized.quantization)),
        }
    }

    /// Measures a network in fewer bits and keeps what came out as the last candidate.
    pub(super) fn add(
        &mut self,
        kind: Kind,
        quantized: &Quantized,
        progress: impl FnMut(usize, usize),
    ) -> Result<&Candidate> {
        let onnx = self.write(kind, quantized, &marks(kind))?;
        let (answers, _) = answers(&Model::from_onnx(&onnx)?, &self.data.samples, self.plan.on_bad, progress)?;
        ensure!(answers.len() == self.answers.len(), "expected the pictures of before, found others; do they change?");
        let (device, refused) = match self.plan.on_device.map(|measure| measure(&onnx)).transpose()? {
            Some(Asked::Runs(device)) => (Some(device), None),
            Some(Asked::Refused(why)) => (None, Some(format!("{why:#}"))),
            None => (None, None),
        };
        let measured = Measured { device, refused, ..measured(&self.data, &answers, &onnx)? };
        let float_layers = match kind {
            Kind::Mixed => {
                let on_bytes = &quantized.quantization.layers;
                quantized.layers.iter().map(|l| l.name.clone()).filter(|n| !on_bytes.contains_key(n)).collect()
            }
            _ => vec![],
        };
        let (mut changed, mut alone, mut p_value, mut recall) = (vec![], [0usize; 2], None, vec![]);
        if self.data.task == Task::Classes {
            for (f, q) in self.answers.iter().zip(&answers) {
                let sample = &self.data.samples[f.sample];
                let (float, quantized) = (argmax(&f.logits), argmax(&q.logits));
                if float == quantized {
                    continue;
                }
                alone[0] += usize::from(float == sample.class);
                alone[1] += usize::from(quantized == sample.class);
                let label = |class: usize| self.data.labels[class].clone();
                changed.push(Changed {
                    file: sample.location.to_string(),
                    truth: label(sample.class),
                    float: label(float),
                    quantized: label(quantized),
                });
            }
            p_value = Some(mcnemar(alone[0], alone[1]));
            let classes = [&self.answers, &answers].map(|a| found(&self.data, a));
            if let [Some(f), Some(q)] = [classes[0].classes(), classes[1].classes()] {
                let pairs = f.per_class.iter().zip(&q.per_class).filter(|(f, _)| f.n > 0);
                recall = pairs.map(|(f, q)| (f.label.clone(), q.recall - f.recall)).collect();
            }
        }
        let drop = self.float.score - measured.score;
        self.candidates.push(Candidate {
            kind,
            float_layers,
            is_tuned: false,
            measured,
            drop,
            p_value,
            recall,
            changed,
        });
        self.candidates.last().context("expected the candidate that was just added")
    }

    /// As [`Trial::add`], of a network whose weights were fine-tuned for it.
    pub(super) fn add_tuned(
        &mut self,
        quantized: &Quantized,
        progress: impl FnMut(usize, usize),
    ) -> Result<&Candidate> {
        self.add(Kind::Int8, quantized, progress)?;
        let last = self.candidates.last_mut().context("expected the candidate that was just added")?;
        last.is_tuned = true;
        Ok(last)
    }

    /// Returns the score of a network on bytes.
    pub(super) fn score(&self, quantized: &Quantized, progress: impl FnMut(usize, usize)) -> Result<f64> {
        let model = Model::from_onnx(&self.source.bytes(quantized, Outputs::Last)?)?;
        let (answers, _) = answers(&model, &self.data.samples, self.plan.on_bad, progress)?;
        Ok(found(&self.data, &answers).score())
    }

    pub(super) fn finish(self) -> (Evaluation, Vec<Ignored>) {
        (Evaluation { n: self.answers.len(), float: self.float, candidates: self.candidates }, self.skipped)
    }
}

/// Returns what a file of this kind says of itself already while it is only tried: a device allows bytes more difference.
fn marks(kind: Kind) -> Metadata {
    match kind {
        Kind::Int8 | Kind::Mixed => Metadata::from([(CALIBRATION.to_owned(), String::new())]),
        _ => Metadata::new(),
    }
}

fn measured(data: &Dataset, answers: &[Answer], onnx: &[u8]) -> Result<Measured> {
    let (score, n) = (found(data, answers).score(), answers.len());
    let is_right = |a: &Answer| argmax(&a.logits) == data.samples[a.sample].class;
    let sure: Option<Vec<(f64, bool)>> =
        (data.task == Task::Classes).then(|| answers.iter().map(|a| (confidence(&a.logits), is_right(a))).collect());
    let hits = answers.iter().filter(|a| is_right(a)).count();
    let mut network = Network::from_onnx(onnx, EngineChoice::Best)?;
    network.set_threads(1);
    let ms = bench(&network, Raw::grey(&network).view(), 1, SECONDS)?.min_ms;
    Ok(Measured {
        score,
        interval: sure.is_some().then(|| interval(hits, n)),
        ece: sure.map(|s| calibration_error(&s)),
        bytes: onnx.len(),
        memory: network.memory(),
        ms,
        device: None,
        refused: None,
    })
}

/// For how long a network is timed.
const SECONDS: f32 = 0.4;
