//! `graft pack`: puts a model into a signed bundle.

use std::path::PathBuf;

use anyhow::{Context, Result};
use graft_bundle::SecretKey;
use graft_train::dataset::Dataset;
use serde_json::json;

use crate::packing::{Packing, pack};
use crate::ui::Ui;

/// Pack a model into a signed bundle for a device
///
/// Golden samples are chosen from the pictures of --golden: small JPEGs with the outputs that this machine gives for
/// them. A device runs the bundle only after it has come to the same outputs itself.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  graft pack leaves.onnx --key field.key --golden test-photos/ --out leaves.graft")]
pub(crate) struct Args {
    /// A file made by `graft export`
    onnx: PathBuf,
    /// The key that signs, made by `graft key new`
    #[arg(long, value_name = "KEYFILE")]
    key: PathBuf,
    /// A folder with one folder for each class, a .zip or .tar of one, a CSV manifest or a COCO .json
    #[arg(long, value_name = "DIR")]
    golden: PathBuf,
    /// How many golden samples
    #[arg(long, default_value_t = 6)]
    golden_count: usize,
    /// Largest allowed difference of a logit on the device [default: 0.01 for f32, 0.5 for int8]
    #[arg(long)]
    tolerance: Option<f32>,
    /// Name of the bundle [default: the file's name]
    #[arg(long)]
    name: Option<String>,
    /// The file to write
    #[arg(long, value_name = "FILE.graft")]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let key = SecretKey::load(&args.key)?;
    let onnx = std::fs::read(&args.onnx).with_context(|| format!("reading {}", args.onnx.display()))?;
    let stem = args.onnx.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let packing = Packing {
        onnx: &onnx,
        name: args.name.as_deref().unwrap_or(&stem),
        golden: &Dataset::open(&args.golden, None)?,
        count: args.golden_count,
        tolerance: args.tolerance,
    };
    let done = pack(&packing, &key, &args.out)?;
    let signed_by = key.public().fingerprint();
    if args.json {
        return ui.json(&json!({
            "out": args.out, "bytes": done.file_len, "head_bytes": done.head_len, "unpacked_bytes": done.payload_len,
            "chunks": done.chunks, "digest": done.digest.to_string(), "signed_by": signed_by,
        }));
    }
    ui.line(&format!("{} ({} bytes, {} chunks, signed by {signed_by})", args.out.display(), done.file_len, done.chunks))
}
