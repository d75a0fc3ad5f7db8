//! `graft export`: writes a run as ONNX, in f32.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use graft_runtime::unsupported_operators;
use graft_train::run::{Run, write_atomic};
use serde_json::json;

use crate::ui::Ui;

/// Write a run as ONNX in f32, with scaling and normalisation inside
///
/// The graph takes `image`, u8 [n, h, w, 3], and gives `logits`. `graft quantize` writes one in fewer bits.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  graft export runs/leaves --out leaves.onnx")]
pub(crate) struct Args {
    /// A run folder
    run: PathBuf,
    /// The file to write
    #[arg(long, short)]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let onnx = Run::open(&args.run)?.float()?;
    let unsupported = unsupported_operators(&onnx).context("loading the exported graph as the device would")?;
    ensure!(unsupported.is_empty(), "expected operators that the device runs, found {}", unsupported.join(", "));
    write_atomic(&args.out, &onnx)?;
    if args.json {
        return ui.json(&json!({ "out": args.out, "bytes": onnx.len() }));
    }
    ui.line(&format!("{} ({} bytes)", args.out.display(), onnx.len()))
}
