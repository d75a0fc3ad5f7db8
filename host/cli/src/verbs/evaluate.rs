//! `graft evaluate`: measures a model on labelled pictures.

use std::path::PathBuf;

use anyhow::Result;
use graft_train::dataset::Dataset;
use graft_train::evaluate::evaluate;
use graft_train::pictures::OnBad;

use crate::model_file;
use crate::ui::Ui;

/// Measure a model on labelled pictures, in the engine that runs on the device
///
/// Shares (top1, macro_f1, precision, recall) are between 0 and 1 in JSON.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  graft evaluate runs/leaves --data test/\n  graft evaluate leaves.onnx --data test/ --json"
)]
pub(crate) struct Args {
    /// A run folder or an .onnx file
    model: PathBuf,
    /// A folder with one folder for each class, a .zip or .tar of one, a CSV manifest or a COCO .json
    #[arg(long)]
    data: PathBuf,
    /// Of a set in parts (folders train and test, or a manifest's column `split`), only this part
    #[arg(long)]
    split: Option<String>,
    /// Stop at the first picture that cannot be read, instead of leaving it out
    #[arg(long)]
    strict: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let model = model_file::open(&args.model)?;
    let data = Dataset::open(&args.data, args.split.as_deref())?;
    let bar = ui.bar("evaluating");
    let on_bad = if args.strict { OnBad::Fail } else { OnBad::Skip };
    let found = evaluate(&model, data, on_bad, |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    ui.skipped(found.skipped.iter().map(|i| (i.path.as_path(), i.reason.as_str())));
    if args.json {
        return ui.json(&found);
    }
    let m = &found.metrics;
    ui.line(&format!("{:32} {:>5} {:>9} {:>7} {:>6}", "class", "n", "precision", "recall", "F1"))?;
    for c in &m.per_class {
        ui.line(&format!("{:32} {:>5} {:>9.3} {:>7.3} {:>6.3}", c.label, c.n, c.precision, c.recall, c.f1))?;
    }
    ui.line(&format!("top-1 {:.1} %, macro F1 {:.3} on {} pictures", 100.0 * m.top1, m.macro_f1, m.n))?;
    ui.line(&format!("median {:.1} ms a picture in {}", found.median_ms, found.engine))
}
