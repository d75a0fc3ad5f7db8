//! The models that go to the board, made by the host's `graft` as a user would, and what the host says of some pictures.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fmt, fs};

use anyhow::{Context, Result, bail, ensure};
use graft_bundle::{Bundle, MODEL_FILE};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A model, packed for the board.
pub(super) struct Model {
    /// What it is, for people.
    pub(super) name: &'static str,
    pub(super) path: PathBuf,
    pub(super) bundle: Bundle,
    /// What the host tells of each picture.
    pub(super) answers: Vec<Answer>,
}

/// The best class of a picture, and its probability.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub(super) label: String,
    pub(super) probability: f32,
}

pub(super) struct Models {
    /// The first two share a backbone, so that a board which has one is sent a head only; the last shares nothing with them.
    pub(super) all: [Model; 3],
    /// Who signed them.
    pub(super) key: String,
    /// Files that nobody has trained on, one of each class.
    pub(super) pictures: Vec<PathBuf>,
}

/// Pictures of each class, to train on and to test on: the models need not be good, but different.
const PICTURES: &str = "6";

impl Models {
    /// Makes them with the host's `graft` in `folder`.
    pub(super) fn make(graft: &Graft, folder: &Path) -> Result<Self> {
        let demo = folder.join("demo");
        let demo_arguments = ["--per-class", PICTURES, "--test-per-class", PICTURES, "--epochs", "1", "--json"];
        graft.json(graft.command(&["demo", "--out"]).arg(&demo).args(demo_arguments))?;
        let (train, test) = (demo.join("leaves/train"), demo.join("leaves/test"));
        let (run, onnx, other) = (demo.join("run-other"), demo.join("other.onnx"), demo.join("other.graft"));
        // The backbone as it was before the demo changed it.
        let mut head = graft.command(&["train", "--json", "--model", "graft-tiny", "--recipe", "head"]);
        graft.json(head.arg(&train).arg("--out").arg(&run))?;
        let mut quantize = graft.command(&["quantize", "--json", "--numbers", "int8", "--method", "min-max"]);
        quantize.args(["--budget-drop", "100"]).arg(&run).arg("--data").arg(&train).arg("--test").arg(&test);
        graft.json(quantize.arg("--out").arg(&onnx))?;
        let mut pack = graft.command(&["pack", "--json"]);
        pack.arg(&onnx).arg("--key").arg(demo.join("demo.key")).arg("--golden").arg(&test);
        graft.json(pack.arg("--out").arg(&other))?;
        let key = fs::read_to_string(demo.join("demo.key.pub")).context("reading the public key of the demo")?;
        let pictures = one_of_each(&test)?;
        let model = |name, path: PathBuf| -> Result<Model> {
            let bundle = Bundle::open(&path).with_context(|| format!("opening {}", path.display()))?;
            let onnx = path.with_extension("answers.onnx");
            fs::write(&onnx, bundle.file(MODEL_FILE)?).with_context(|| format!("writing {}", onnx.display()))?;
            let answers = graft.json(graft.command(&["predict", "--json"]).arg(&onnx).args(&pictures))?;
            let answers = answers.as_array().context("expected a list of answers from graft predict")?;
            let answers = answers.iter().map(Answer::of).collect::<Result<Vec<Answer>>>()?;
            ensure!(answers.len() == pictures.len(), "expected {} answers, found {}", pictures.len(), answers.len());
            Ok(Model { name, path, bundle, answers })
        };
        let all = [
            model("first", demo.join("leaves.graft"))?,
            model("new head", demo.join("leaves-2.graft"))?,
            model("other backbone", other)?,
        ];
        Ok(Self { all, key: key.trim().to_owned(), pictures })
    }

    /// Reads the first `count` pictures; returns their names, too.
    pub(super) fn read(&self, count: usize) -> Result<Vec<(String, Vec<u8>)>> {
        let read = |path: &PathBuf| {
            let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            Ok((path.display().to_string(), bytes))
        };
        self.pictures.iter().take(count).map(read).collect()
    }
}

impl Answer {
    fn of(row: &Value) -> Result<Self> {
        let label = row.get("label").and_then(Value::as_str);
        let probability = row.get("probability").and_then(Value::as_f64);
        let (label, probability) = label.zip(probability).with_context(|| format!("expected a label, found {row}"))?;
        Ok(Self { label: label.to_owned(), probability: probability as f32 })
    }
}

/// Returns the first picture of each class.
fn one_of_each(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = |folder: &Path| -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
        let mut paths = entries.map(|e| Ok(e?.path())).collect::<Result<Vec<PathBuf>>>()?;
        paths.sort();
        Ok(paths)
    };
    let classes = list(folder)?.into_iter().filter(|path| path.is_dir());
    let pictures = classes.filter_map(|class| list(&class).map(|p| p.into_iter().next()).transpose());
    let pictures = pictures.collect::<Result<Vec<PathBuf>>>()?;
    ensure!(!pictures.is_empty(), "expected pictures of classes in {}, found none", folder.display());
    Ok(pictures)
}

/// The host's program.
pub(super) struct Graft {
    pub(super) program: PathBuf,
    /// Where it may keep what it computes.
    pub(super) cache: PathBuf,
}

impl Graft {
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("GRAFT_CACHE", &self.cache);
        command
    }

    /// Runs it and returns the JSON that it prints.
    ///
    /// # Errors
    ///
    /// [`Unreachable`] among others.
    pub(super) fn json(&self, command: &mut Command) -> Result<Value> {
        let output = command.output().with_context(|| format!("starting {command:?}"))?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        let (status, complaint) = (output.status, complaint.trim());
        if status.code() == Some(UNREACHABLE) {
            bail!(Unreachable(complaint.to_owned()));
        }
        ensure!(status.success(), "expected {command:?} to succeed, found {status}: {complaint}");
        serde_json::from_slice(&output.stdout).with_context(|| format!("expected JSON from {command:?}"))
    }

    /// Flashes a model to the board at a port, to the end, and checks that the board tested all of its golden samples.
    pub(super) fn flash(&self, model: &Model, port: &str) -> Result<Flashed> {
        let report = self.json(self.command(&["flash", "--json", "--device", port]).arg(&model.path))?;
        let flashed: Flashed = serde_json::from_value(report).context("reading what graft flash prints")?;
        let (golden, tested) = (model.bundle.manifest().golden.len(), flashed.self_test_samples);
        ensure!(tested == golden, "expected {golden} golden samples to be tested, found {tested}");
        Ok(flashed)
    }
}

/// A device that `graft` did not reach; it says that one may try again.
#[derive(Debug)]
pub(super) struct Unreachable(String);

impl std::error::Error for Unreachable {}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected the board to answer graft, found it silent: {}", self.0)
    }
}

/// The exit code of `graft` for it.
const UNREACHABLE: i32 = 3;

/// What `graft flash` tells of a flash.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Flashed {
    pub(super) seconds: f64,
    /// Of those, until the last chunk was stored.
    pub(super) transfer_seconds: f64,
    pub(super) wire_bytes: u64,
    pub(super) chunks_sent: usize,
    pub(super) chunks_total: usize,
    pub(super) self_test_samples: usize,
    /// Of any logit to the host's.
    pub(super) self_test_max_abs_diff: f32,
    /// Writes and flushes of the board's disk after the last chunk was stored; not told by `graft`.
    #[serde(skip_deserializing)]
    pub(super) changes: u64,
}
