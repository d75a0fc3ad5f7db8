//! `graft pack`: puts a model into a signed bundle.

use std::path::PathBuf;

use anyhow::{Context, Result};
use graft_bundle::{Needs, SecretKey};
use graft_train::dataset::Dataset;
use serde_json::json;

use crate::packing::{Packing, pack};
use crate::ui::Ui;

/// Pack a model into a signed bundle for a device
///
/// Golden samples are chosen from the pictures of --golden: small JPEGs with the outputs that this machine gives for
/// them. A device runs the bundle only after it has come to the same outputs itself.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
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
    /// Oldest graftd that may run it, such as 0.2.1
    #[arg(long, value_name = "VERSION", help_heading = NEEDS)]
    needs_agent: Option<String>,
    /// What the name of the board must begin with, as `graft device info` tells it; several times: any of them
    #[arg(long, value_name = "NAME", help_heading = NEEDS)]
    needs_board: Vec<String>,
    /// Least memory of the board, in MB
    #[arg(long, value_name = "MB", help_heading = NEEDS)]
    needs_memory: Option<u64>,
    /// Room to be left on the device's disk beside the bundle, in MB
    #[arg(long, value_name = "MB", help_heading = NEEDS)]
    needs_free: Option<u64>,
    /// The file to write
    #[arg(long, value_name = "FILE.graft")]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const NEEDS: &str = "What a device must have, or refuse the bundle before a byte is written";
const EXAMPLES: &str = "Examples:
  graft pack leaves.onnx --key field.key --golden test-photos/ --out leaves.graft
  graft pack leaves.onnx --key field.key --golden test-photos/ --needs-board 'Raspberry Pi 4' --needs-memory 900 --out pi4.graft";

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let key = SecretKey::load(&args.key)?;
    let onnx = std::fs::read(&args.onnx).with_context(|| format!("reading {}", args.onnx.display()))?;
    let stem = args.onnx.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut needs = Needs::default();
    needs.agent.clone_from(&args.needs_agent);
    needs.boards.clone_from(&args.needs_board);
    (needs.memory_mb, needs.free_mb) = (args.needs_memory, args.needs_free);
    let packing = Packing {
        onnx: &onnx,
        name: args.name.as_deref().unwrap_or(&stem),
        golden: &Dataset::open(&args.golden, None)?,
        count: args.golden_count,
        tolerance: args.tolerance,
        needs: needs.checked()?,
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
