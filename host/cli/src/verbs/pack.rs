//! `graft pack`: puts a model into a signed bundle.

use std::path::PathBuf;

use anyhow::{Context, Result};
use graft_bundle::{Needs, SecretKey};
use graft_train::dataset::Dataset;
use graft_train::decide::{Calibrated, Promise};
use serde_json::json;

use crate::packing::{Packed, Packing, pack};
use crate::ui::{Ui, moves};

/// Pack a model into a signed bundle for a device
///
/// Golden samples are chosen from the pictures of --golden: small JPEGs with the outputs that this machine gives for
/// them. A device runs the bundle only after it has come to the same outputs itself.
///
/// With --calibrate the bundle also has what an answer is worth: a temperature that makes probabilities honest, the sets of
/// labels that hold the true one as often as --coverage says, the probability from which an answer is sure, and which
/// pictures are unlike all of these. The device then says "unsure: rust or phoma", or "unfamiliar". Its pictures must be
/// labelled, like those of the field, and neither among those of training nor among those that chose between models.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A file made by `graft export`
    onnx: PathBuf,
    /// The key that signs, made by `graft key new`
    #[arg(long, value_name = "KEYFILE")]
    key: PathBuf,
    /// A folder with one folder for each class, a .zip or .tar of one, a COCO .json, or a manifest of CSV or Parquet
    #[arg(long, value_name = "DIR")]
    golden: PathBuf,
    /// How many golden samples
    #[arg(long, default_value_t = 6)]
    golden_count: usize,
    /// Largest allowed difference of a logit on the device [default: 0.01 for f32, 0.5 for int8]
    #[arg(long)]
    tolerance: Option<f32>,
    /// Labelled pictures that the model has not seen, a few hundred, laid out as those of --golden
    #[arg(long, value_name = "DIR", help_heading = WORTH)]
    calibrate: Option<PathBuf>,
    /// In how many of 100 pictures the set of labels is to hold the true one
    #[arg(long, value_name = "PERCENT", default_value_t = 90.0, help_heading = WORTH)]
    coverage: f64,
    /// How many of 100 sure answers may be wrong, with 90 % confidence
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0, help_heading = WORTH)]
    sure_wrong: f64,
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

const WORTH: &str = "What an answer is worth";
const NEEDS: &str = "What a device must have, or refuse the bundle before a byte is written";
const EXAMPLES: &str = "Examples:
  graft pack leaves.onnx --key field.key --golden test-photos/ --out leaves.graft
  graft pack leaves.onnx --key field.key --golden test-photos/ --calibrate more-photos/ --out leaves.graft
  graft pack leaves.onnx --key field.key --golden test-photos/ --needs-board 'Raspberry Pi 4' --needs-memory 900 --out pi4.graft";

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let key = SecretKey::load(&args.key)?;
    let onnx = std::fs::read(&args.onnx).with_context(|| format!("reading {}", args.onnx.display()))?;
    let stem = args.onnx.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut needs = Needs::default();
    needs.agent.clone_from(&args.needs_agent);
    needs.boards.clone_from(&args.needs_board);
    (needs.memory_mb, needs.free_mb) = (args.needs_memory, args.needs_free);
    let calibrate = args.calibrate.as_deref().map(|path| Dataset::open(path, None)).transpose()?;
    let (coverage, risk) = (args.coverage / 100.0, args.sure_wrong / 100.0);
    let promise = Promise { coverage, risk, ..Promise::default() };
    let packing = Packing {
        onnx: &onnx,
        name: args.name.as_deref().unwrap_or(&stem),
        golden: &Dataset::open(&args.golden, None)?,
        count: args.golden_count,
        tolerance: args.tolerance,
        needs: needs.checked()?,
        calibrate: calibrate.as_ref().map(|data| (data, promise)),
    };
    let bar = ui.bar("calibrating");
    let Packed { summary: done, calibrated } = pack(&packing, &key, &args.out, moves(&bar))?;
    bar.finish_and_clear();
    if let Some(found) = &calibrated {
        ui.skipped(found.skipped.iter().map(|i| (i.path.as_path(), i.reason.as_str())));
    }
    let signed_by = key.public().fingerprint();
    if args.json {
        return ui.json(&json!({
            "out": args.out, "bytes": done.file_len, "head_bytes": done.head_len, "unpacked_bytes": done.payload_len,
            "chunks": done.chunks, "digest": done.digest.to_string(), "signed_by": signed_by, "calibrated": calibrated,
        }));
    }
    if let Some(found) = &calibrated {
        report(ui, found)?;
    }
    ui.line(&format!("{} ({} bytes, {} chunks, signed by {signed_by})", args.out.display(), done.file_len, done.chunks))
}

fn report(ui: &Ui, found: &Calibrated) -> Result<()> {
    let (d, t) = (&found.decision, &found.temperature);
    ui.line(&format!(
        "temperature {:.3}: calibration error {:.1} %, {:.1} without it, on {} pictures that did not settle it",
        d.temperature,
        100.0 * t.ece_after,
        100.0 * t.ece_before,
        t.pictures
    ))?;
    if let Some(set) = d.set {
        let (p, share) = (set.at_least, 100.0 * set.coverage);
        ui.line(&format!("labels of at least {p:.3} hold the true one in {share:.0} % ({} pictures)", set.pictures))?;
    }
    if let Some(sure) = d.sure {
        let (p, wrong, confidence) = (sure.at_least, 100.0 * sure.risk, 100.0 * sure.confidence);
        ui.line(&format!(
            "sure from {p:.3}: at most {wrong:.0} % wrong, with {confidence:.0} % confidence ({} pictures)",
            sure.pictures
        ))?;
    }
    if let Some(f) = &d.familiar {
        let (distance, share) = (f.at_most, 100.0 * f.keeps);
        ui.line(&format!(
            "familiar up to a distance of {distance:.3}: {share:.0} % of pictures like these ({})",
            f.pictures
        ))?;
    }
    for left in &found.left_out {
        ui.note(&format!("left out {left}"));
    }
    Ok(())
}
