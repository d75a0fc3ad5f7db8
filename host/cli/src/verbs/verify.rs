//! `graft verify`: checks a bundle as a device would.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use graft_bundle::{Bundle, MODEL_FILE, PublicKey, Trust, TrustPolicy, Unsigned};
use graft_runtime::{Model, picture};
use serde_json::json;

use crate::ui::Ui;

/// Check a bundle: every digest, the signature, and the golden samples
///
/// Exit code 4 means that a device would refuse it. With --trust the key must be that one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  graft verify leaves.graft\n  graft verify leaves.graft --trust field.key.pub")]
pub(crate) struct Args {
    /// A file made by `graft pack`
    bundle: PathBuf,
    /// A public key, as text or as a file
    #[arg(long)]
    trust: Option<String>,
    /// Take a bundle without a signature
    #[arg(long)]
    allow_unsigned: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let doing = || format!("cannot use {} as a bundle", args.bundle.display());
    let bundle = Bundle::open(&args.bundle).with_context(doing)?;
    let head = bundle.head();
    let keys = match &args.trust {
        Some(text) => vec![public_key(text)?],
        // Without a key to compare with, the signature has at least to be right.
        None => head.key().into_iter().collect(),
    };
    let unsigned = if args.allow_unsigned { Unsigned::Allow } else { Unsigned::Refuse };
    let trust = head.trust(&TrustPolicy { keys, unsigned }).with_context(doing)?;
    let m = bundle.manifest();
    let model = Model::from_onnx(&bundle.file(MODEL_FILE)?).context("loading its model")?;
    ensure!(model.labels() == m.labels, "expected the manifest's labels in the model, found others; pack it again");
    let mut worst = 0f32;
    for golden in &m.golden {
        let rgb = picture::decode(&bundle.file(&golden.file)?).with_context(|| format!("reading {}", golden.file))?;
        let found = model.logits(&picture::preprocess(&rgb, model.preprocessing()))?;
        let difference = found.iter().zip(&golden.logits).fold(0f32, |w, (a, b)| w.max((a - b).abs()));
        ensure!(
            difference <= m.tolerance,
            "expected logits within {} of those in the manifest for {}, found a difference of {difference}",
            m.tolerance,
            golden.file
        );
        worst = worst.max(difference);
    }
    let signed_by = match trust {
        Trust::Signed(key) => Some(key.fingerprint()),
        Trust::Unsigned => None,
    };
    if args.json {
        return ui.json(&json!({
            "name": m.name, "digest": head.digest().to_string(), "signed_by": signed_by, "labels": m.labels, "files": m.files.len(),
            "chunks": m.chunks.len(), "bytes": head.bytes().len() as u64 + m.stored_len(), "golden": m.golden.len(),
            "golden_max_abs_diff": worst, "tolerance": m.tolerance, "created_by": m.created_by,
        }));
    }
    let signed = signed_by.map_or("not signed".into(), |f| format!("signed by {f}"));
    ui.line(&format!("{}: {} ({signed})", args.bundle.display(), m.name))?;
    ui.line(&format!("{} files in {} chunks, every digest right", m.files.len(), m.chunks.len()))?;
    ui.line(&format!("{} golden samples, largest difference {worst} of {} allowed", m.golden.len(), m.tolerance))
}

pub(super) fn public_key(text: &str) -> Result<PublicKey> {
    if let Ok(key) = text.parse() {
        return Ok(key);
    }
    let read = std::fs::read_to_string(text)
        .with_context(|| format!("expected a public key or a file with one, found {text}"))?;
    Ok(read.parse()?)
}
