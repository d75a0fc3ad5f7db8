//! `graft predict`: tells what is to be told of pictures.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use graft_runtime::{Prediction, picture};
use graft_train::dataset::Task;
use graft_train::run::write_atomic;
use graft_zoo::Preprocessing;
use image::RgbImage;
use serde_json::json;

use crate::model_file;
use crate::sheet::to_png;
use crate::ui::Ui;

/// Classify pictures, as the device would
///
/// A picture that cannot be read is reported and the others go on; the exit code is then 1. A bundle that was packed with
/// --calibrate answers as its device does: "unsure: rust or phoma", or "unfamiliar".
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  graft predict leaves.onnx leaf.jpg\n  graft predict runs/leaves photos/*.jpg --json\n  graft predict leaves.graft leaf.jpg"
)]
pub(crate) struct Args {
    /// A run folder, an .onnx file or a bundle
    model: PathBuf,
    /// Pictures
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// Save what the network sees of each picture in this folder, as 0000.png, 0001.png and so on
    #[arg(long, value_name = "DIR")]
    crops: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let model = model_file::open(&args.model)?;
    let task = Task::of(model.metadata())?;
    let (mut rows, mut bad) = (vec![], 0usize);
    for (index, path) in args.images.iter().enumerate() {
        let answer = std::fs::read(path).context("reading the file").and_then(|bytes| {
            let rgb = picture::decode(&bytes)?;
            if let Some(folder) = &args.crops {
                save_crop(&folder.join(format!("{index:04}.png")), &rgb, model.preprocessing())?;
            }
            Ok(model.classify(&rgb)?)
        });
        match answer {
            Ok(p) => {
                let ms = p.latency.as_secs_f64() * 1e3;
                if args.json {
                    rows.push(row(task, model.labels(), path, &p, ms));
                } else {
                    ui.line(&format!("{}  {}  {ms:.1} ms", path.display(), told(task, model.labels(), &p)))?;
                }
            }
            Err(error) => {
                bad += 1;
                if args.json {
                    rows.push(json!({ "image": path, "error": format!("{error:#}") }));
                }
                ui.note(&format!("{}: {error:#}", path.display()));
            }
        }
    }
    if args.json {
        ui.json(&rows)?;
    }
    if bad > 0 {
        bail!("expected {} pictures that can be read, found {bad} that cannot", args.images.len());
    }
    Ok(())
}

/// One picture's answer in JSON.
fn row(task: Task, labels: &[String], path: &Path, p: &Prediction, ms: f64) -> serde_json::Value {
    let named = |of: &dyn Fn(f32) -> f32| -> serde_json::Map<String, serde_json::Value> {
        labels.iter().zip(&p.logits).map(|(label, z)| (label.clone(), of(*z).into())).collect()
    };
    match task {
        Task::Classes => {
            json!({
                "image": path, "label": p.label, "probability": p.probability, "standing": p.standing, "doubt": p.doubt, "set": p.set,
                "distance": p.distance, "latency_ms": ms, "logits": p.logits,
            })
        }
        Task::Tags => json!({ "image": path, "tags": named(&sigmoid), "latency_ms": ms, "logits": p.logits }),
        Task::Values => json!({ "image": path, "values": named(&|z| z), "latency_ms": ms }),
    }
}

/// One picture's answer for a person.
fn told(task: Task, labels: &[String], p: &Prediction) -> String {
    let outputs = || labels.iter().zip(&p.logits);
    match task {
        Task::Classes => {
            format!("{}  {:.1} %", p.doubt.as_deref().unwrap_or(&p.label), 100.0 * p.probability)
        }
        Task::Tags => {
            let held = outputs().filter(|(_, z)| **z > 0.0);
            let held: Vec<String> = held.map(|(label, z)| format!("{label} {:.0} %", 100.0 * sigmoid(*z))).collect();
            if held.is_empty() { "no tag".into() } else { held.join("  ") }
        }
        Task::Values => outputs().map(|(label, z)| format!("{label} {z:.3}")).collect::<Vec<_>>().join("  "),
    }
}

/// Returns the probability that a tag of this logit holds.
pub(super) fn sigmoid(z: f32) -> f32 {
    1.0 / (1.0 + (-z).exp())
}

fn save_crop(path: &Path, rgb: &RgbImage, preprocessing: &Preprocessing) -> Result<()> {
    let side = preprocessing.crop;
    let seen = RgbImage::from_raw(side, side, picture::preprocess(rgb, preprocessing)).context("cropping")?;
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    write_atomic(path, &to_png(&seen)?)
}
