//! `graft export`: writes a run as ONNX, in f32 or int8.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use graft_runtime::unsupported_operators;
use graft_train::calibrate::calibrate;
use graft_train::dataset::Dataset;
use graft_train::pictures::OnBad;
use graft_train::run::{Run, write_atomic};
use serde_json::json;

use crate::ui::{Ui, moves};

/// Write a run as ONNX, with scaling and normalisation inside
///
/// The graph takes `image`, u8 [n, h, w, 3], and gives `logits`. With --int8 activations become u8 and weights s8 by
/// channel (QDQ form); their ranges come from the pictures of --calibrate, which need no labels beyond their folders.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  graft export runs/leaves --out leaves.onnx\n  graft export runs/leaves --int8 --calibrate photos/ --out leaves.int8.onnx"
)]
pub(crate) struct Args {
    /// A run folder
    run: PathBuf,
    /// Quantize to int8
    #[arg(long, requires = "calibrate")]
    int8: bool,
    /// Pictures that show the ranges of the activations
    #[arg(long, value_name = "DIR", requires = "int8")]
    calibrate: Option<PathBuf>,
    /// Use at most this many pictures, spread over all classes
    #[arg(long, default_value_t = 200)]
    calibration_pictures: usize,
    /// Choose the ranges so, instead of trying all: min-max, percentile-99.999, percentile-99.99 or percentile-99.9. With
    /// the same pictures and method a new head on an old backbone leaves the backbone's bytes as they are
    #[arg(long, value_name = "METHOD", requires = "int8")]
    ranges: Option<String>,
    /// The file to write
    #[arg(long)]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let run = Run::open(&args.run)?;
    let (onnx, calibrated) = match &args.calibrate {
        None => (run.float()?, None),
        Some(folder) => {
            ensure!(args.calibration_pictures > 0, "expected at least one calibration picture, found 0");
            let data = Dataset::open(folder, None)?;
            let n = data.samples.len();
            let count = args.calibration_pictures.min(n);
            let samples: Vec<_> = (0..count).map(|i| data.samples[i * n / count].clone()).collect();
            let bar = ui.bar("calibrating");
            let found = calibrate(&run, &samples, args.ranges.as_deref(), OnBad::Skip, moves(&bar))?;
            bar.finish_and_clear();
            (run.int8(&found.calibration, &found.method)?, Some(found))
        }
    };
    let unsupported = unsupported_operators(&onnx).context("loading the exported graph as the device would")?;
    ensure!(unsupported.is_empty(), "expected operators that the device runs, found {}", unsupported.join(", "));
    write_atomic(&args.out, &onnx)?;
    if args.json {
        let tried = calibrated.as_ref().map(|c| &c.tried);
        let method = calibrated.as_ref().map(|c| &c.method);
        return ui.json(&json!({ "out": args.out, "bytes": onnx.len(), "calibration": method, "tried": tried }));
    }
    if let Some(c) = calibrated {
        for (name, error, equal) in &c.tried {
            let mark = if *name == c.method { "*" } else { " " };
            ui.line(&format!("{mark} {name:18} logit error {:.4}, same class {:.1} %", error.sqrt(), 100.0 * equal))?;
        }
    }
    ui.line(&format!("{} ({} bytes)", args.out.display(), onnx.len()))
}
