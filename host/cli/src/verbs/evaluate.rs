//! `graft evaluate`: measures a model on labelled pictures.

use std::path::PathBuf;

use anyhow::Result;
use graft_train::dataset::Dataset;
use graft_train::evaluate::{Found, evaluate};
use graft_train::pictures::OnBad;

use super::train::Columns;
use crate::model_file;
use crate::ui::{Ui, moves};

/// Measure a model on labelled pictures, in the engine that runs on the device
///
/// Shares (top1, macro_f1, precision, recall) are between 0 and 1 in JSON.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  graft evaluate runs/leaves --data test/\n  graft evaluate leaves.onnx --data test/ --json\n  graft evaluate runs/yield --data plots.csv --split test --target yield"
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
    #[command(flatten)]
    columns: Columns,
    /// Stop at the first picture that cannot be read, instead of leaving it out
    #[arg(long)]
    strict: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let model = model_file::open(&args.model)?;
    let data = Dataset::open_as(&args.data, args.split.as_deref(), &args.columns.wanted())?;
    let bar = ui.bar("evaluating");
    let on_bad = if args.strict { OnBad::Fail } else { OnBad::Skip };
    let found = evaluate(&model, data, on_bad, moves(&bar))?;
    bar.finish_and_clear();
    ui.skipped(found.skipped.iter().map(|i| (i.path.as_path(), i.reason.as_str())));
    if args.json {
        return ui.json(&found);
    }
    match &found.found {
        Found::Classes(m) => {
            ui.line(&format!("{:32} {:>5} {:>9} {:>7} {:>6}", "class", "n", "precision", "recall", "F1"))?;
            for c in &m.per_class {
                ui.line(&format!("{:32} {:>5} {:>9.3} {:>7.3} {:>6.3}", c.label, c.n, c.precision, c.recall, c.f1))?;
            }
            ui.line(&format!("top-1 {:.1} %, macro F1 {:.3} on {} pictures", 100.0 * m.top1, m.macro_f1, m.n))?;
        }
        Found::Tags { n, tags, macro_f1 } => {
            ui.line(&format!("{:32} {:>5} {:>9} {:>7} {:>6}", "tag", "n", "precision", "recall", "F1"))?;
            for t in tags {
                ui.line(&format!("{:32} {:>5} {:>9.3} {:>7.3} {:>6.3}", t.label, t.n, t.precision, t.recall, t.f1))?;
            }
            ui.line(&format!("macro F1 {macro_f1:.3} on {n} pictures"))?;
        }
        Found::Values { n, values } => {
            ui.line(&format!("{:24} {:>24} {:>8} {:>22}", "value", "MAE (95 %)", "RMSE", "R2 (95 %)"))?;
            for v in values {
                let ([a, b], [c, d]) = (v.mae_interval, v.r2_interval);
                let (mae, r2) = (format!("{:.3} ({a:.3}-{b:.3})", v.mae), format!("{:.3} ({c:.3}-{d:.3})", v.r2));
                ui.line(&format!("{:24} {mae:>24} {:>8.3} {r2:>22}", v.label, v.rmse))?;
            }
            ui.line(&format!("on {n} pictures"))?;
        }
    }
    ui.line(&format!("median {:.1} ms a picture in {}", found.median_ms, found.engine))
}
