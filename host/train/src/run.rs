//! A training run on disk: what was done, the weights, and the graph they make.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use graft_onnx::{Export, Format, Head, Layers, Metadata, Outputs};
use graft_runtime::{LABELS, PREPROCESSING, PREPROCESSING_DIGEST};
use graft_zoo::weights::{Precision, Tensors, read_safetensors, write_safetensors};
use graft_zoo::{Network, Preprocessing, Tensor};
use serde::{Deserialize, Serialize};

use crate::dataset::{Columns, Task};
use crate::fit::Epoch;
use crate::pretrained::{Conventions, Facts, Pretrained, network};
use crate::recipe::Tuning;

/// Everything needed to repeat a run; the text of `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this record's layout.
    pub format: u32,
    /// Version of graft that wrote it.
    pub graft: String,
    /// The data set's path as given.
    pub data: PathBuf,
    /// Of a set in parts, the part that was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Sets that the head has learnt from since, by `graft retrain`, the last one last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<Added>,
    /// BLAKE3 over the pictures used, in hex.
    pub data_digest: String,
    /// Pictures used.
    pub pictures: usize,
    /// Pictures left out.
    pub skipped: usize,
    /// What is told of a picture.
    #[serde(default)]
    pub task: Task,
    /// Names of classes, tags or values, in the order of the outputs.
    pub labels: Vec<String>,
    /// Seed of split and folds.
    pub seed: u64,
    /// The pretrained weights.
    pub weights: Facts,
    /// What is done to a picture.
    pub preprocessing: Preprocessing,
    /// The chosen strength `C` of the head's penalty.
    pub strength: f64,
    /// `(C, cross-validated share of right answers or R²)`.
    pub cross_validation: Vec<(f64, f64)>,
    /// Seconds spent on features.
    pub features_seconds: f64,
    /// Seconds spent on the head.
    pub head_seconds: f64,
    /// What was done after the head, where stages were fine-tuned.
    #[serde(default)]
    pub fine_tuned: Option<FineTuned>,
}

/// A set that was added to a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// Its path as given.
    pub data: PathBuf,
    /// The pictures that were learnt from, each by the beginning of its BLAKE3 in hex.
    pub learnt: Vec<String>,
    /// As how many pictures of the first set each counts.
    pub times: usize,
}

/// How stages were fine-tuned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FineTuned {
    /// What was done.
    pub tuning: Tuning,
    /// Why that.
    pub why: String,
    /// Every epoch, and what the net began with where there is a validation.
    pub epochs: Vec<Epoch>,
    /// The epoch whose weights were kept; 0 where none was better than the head on the frozen backbone.
    pub best: usize,
    /// Seconds.
    pub seconds: f64,
    /// Seconds of these that steps waited for pictures to be read and varied, without what an earlier process did.
    pub reading_seconds: f64,
    /// Whether activations were computed again on the way back, for lack of memory or as asked for.
    #[serde(default)]
    pub recomputed: bool,
}

/// Layout version of `run.json`.
pub const FORMAT: u32 = 2;
const RECORD: &str = "run.json";
const WEIGHTS: &str = "weights.safetensors";
const METRICS: &str = "metrics.jsonl";

impl Record {
    /// Returns the columns that say what is wanted of a picture, in sets for this run.
    pub fn columns(&self) -> Columns {
        match self.task {
            Task::Classes => Columns::Label,
            Task::Tags => Columns::Tags(self.labels.clone()),
            Task::Values => Columns::Values(self.labels.clone()),
        }
    }

    /// Returns every figure of the way as one JSON object a line.
    fn metrics(&self) -> String {
        let tried = self.cross_validation.iter();
        let tried = tried.map(|(c, share)| serde_json::json!({ "step": "cross_validation", "c": c, "score": share }));
        let epochs = self.fine_tuned.iter().flat_map(|f| &f.epochs);
        let epochs = epochs.map(|e| {
            serde_json::json!({
                "step": "epoch", "epoch": e.epoch, "loss": e.loss, "validation_score": e.score, "validation_loss": e.validation_loss,
            })
        });
        tried.chain(epochs).fold(String::new(), |text, line| text + &line.to_string() + "\n")
    }
}

/// A run read back.
#[derive(Debug, Clone)]
pub struct Run {
    /// What was done.
    pub record: Record,
    /// The backbone's parameters.
    pub backbone: Tensors,
    /// The fitted head.
    pub head: Head,
    network: Network,
}

impl Run {
    /// Puts a run together.
    pub fn new(record: Record, network: &Network, backbone: Tensors, head: Head) -> Self {
        Self { record, backbone, head, network: network.clone() }
    }

    /// Writes the run into `folder`, `run.json` last: a folder with it is complete.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let mut tensors = self.backbone.clone();
        let name = self.record.weights.architecture.head_name();
        tensors.insert(format!("{name}.weight"), self.head.weight.clone());
        let bias = Tensor { shape: vec![self.head.bias.len()], data: self.head.bias.clone() };
        tensors.insert(format!("{name}.bias"), bias);
        // With their conventions, so that a run can be the pretrained weights of the next.
        let told = serde_json::to_string(&Conventions::of_run(&self.record.weights, &self.record.preprocessing))?;
        let metadata = BTreeMap::from([(Conventions::KEY.to_owned(), told)]);
        let weights = write_safetensors(&tensors, &metadata, Precision::F32);
        write_atomic(&folder.join(WEIGHTS), &weights)?;
        write_atomic(&folder.join(METRICS), self.record.metrics().as_bytes())?;
        write_atomic(&folder.join(RECORD), serde_json::to_string_pretty(&self.record)?.as_bytes())
    }

    /// Reads a run.
    ///
    /// # Errors
    ///
    /// If the folder is not a complete run of this layout.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(RECORD);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("expected a finished run in {}, found no readable {RECORD}", folder.display()))?;
        let record: Record = serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        ensure!(
            record.format == FORMAT,
            "expected a run of format {FORMAT}, found {} in {}",
            record.format,
            path.display()
        );
        let path = folder.join(WEIGHTS);
        let doing = || format!("reading {}", path.display());
        let (tensors, _) = read_safetensors(&fs::read(&path).with_context(doing)?).with_context(doing)?;
        let network = network(&record.weights);
        let weights =
            graft_zoo::Weights::from_tensors(record.weights.architecture, &network, tensors).with_context(doing)?;
        let (weight, bias) =
            weights.head.with_context(|| format!("expected a head in {}, found none", path.display()))?;
        ensure!(
            bias.data.len() == record.labels.len(),
            "expected {} classes in {}, found {}",
            record.labels.len(),
            path.display(),
            bias.data.len()
        );
        Ok(Self { record, backbone: weights.backbone, head: Head { weight, bias: bias.data }, network })
    }

    /// Returns the backbone, as what a further head is grafted on.
    pub fn pretrained(&self) -> Pretrained {
        Pretrained {
            network: self.network.clone(),
            backbone: self.backbone.clone(),
            preprocessing: self.record.preprocessing.clone(),
            facts: self.record.weights.clone(),
        }
    }

    /// Returns the network without its head.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Returns the BLAKE3 of the backbone's graph in f32 and of its preprocessing, in hex.
    ///
    /// # Errors
    ///
    /// If the weights do not make the network.
    pub fn backbone_digest(&self) -> Result<String> {
        let layers = Layers::fold(&self.network, &self.backbone, None)?;
        let preprocessing = Metadata::from([(PREPROCESSING.to_owned(), self.record.preprocessing.to_json())]);
        let graph = self.export(&layers).write(Format::Float, Outputs::Last, &preprocessing)?;
        Ok(blake3::hash(&graph).to_hex().to_string())
    }

    /// Returns the layers with normalisation folded in, the head behind them.
    ///
    /// # Errors
    ///
    /// If the weights do not make the network.
    pub fn layers(&self) -> Result<Layers> {
        Ok(Layers::fold(&self.network, &self.backbone, Some(&self.head))?)
    }

    /// Returns what the ONNX writer needs, of layers that may have been changed.
    pub fn export<'a>(&'a self, layers: &'a Layers) -> Export<'a> {
        Export { network: &self.network, layers, preprocessing: &self.record.preprocessing }
    }

    /// Returns the metadata that travels in the ONNX file.
    pub fn metadata(&self) -> Metadata {
        let r = &self.record;
        let mut metadata = Metadata::from([
            (LABELS.to_owned(), serde_json::json!(r.labels).to_string()),
            (PREPROCESSING.to_owned(), r.preprocessing.to_json()),
            (PREPROCESSING_DIGEST.to_owned(), r.preprocessing.digest()),
            ("graft.version".into(), env!("CARGO_PKG_VERSION").into()),
            ("graft.data_digest".into(), r.data_digest.clone()),
            ("graft.architecture".into(), r.weights.architecture.to_string()),
            ("graft.weights_sha256".into(), r.weights.sha256.clone()),
        ]);
        if r.task != Task::Classes {
            metadata.insert(Task::KEY.into(), r.task.name().into());
        }
        if let Some(licence) = &r.weights.licence {
            metadata.insert("graft.weights_licence".into(), licence.clone());
        }
        metadata
    }

    /// Writes the run as an f32 graph.
    ///
    /// # Errors
    ///
    /// If the weights do not make a graph.
    pub fn float(&self) -> Result<Vec<u8>> {
        Ok(self.export(&self.layers()?).write(Format::Float, Outputs::Last, &self.metadata())?)
    }
}

/// Writes a file so that it is there whole or not at all.
///
/// # Errors
///
/// If the folder cannot be written.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    graft_bundle::write_whole(path, bytes).with_context(|| format!("writing {}", path.display()))
}
