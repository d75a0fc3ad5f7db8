//! `graft evaluate`: measures a model on labelled pictures.

use std::path::PathBuf;

use anyhow::Result;
use graft_train::dataset::Dataset;
use graft_train::evaluate::{Found, Worth, evaluate};
use graft_train::pictures::OnBad;

use super::train::Columns;
use crate::model_file;
use crate::ui::{Ui, moves};

/// Measure a model on labelled pictures, in the engine that runs on the device
///
/// A bundle that was packed with --calibrate is also held to what it promises: how far probabilities are from the share of
/// right answers, how often the set of labels holds the true one, how many of the sure answers are wrong. --strangers has
/// pictures of something else, and tells how well they are told apart.
///
/// Shares (top1, macro_f1, precision, recall) are between 0 and 1 in JSON.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  graft evaluate runs/leaves --data test/\n  graft evaluate leaves.onnx --data test/ --json\n  graft evaluate runs/yield --data plots.csv --split test --target yield\n  graft evaluate leaves.graft --data test/ --strangers other/"
)]
pub(crate) struct Args {
    /// A run folder, an .onnx file or a bundle
    model: PathBuf,
    #[command(flatten)]
    labelled: Labelled,
    /// Pictures of something else, which the model should not take for its own
    #[arg(long, value_name = "DIR")]
    strangers: Option<PathBuf>,
    /// Stop at the first picture that cannot be read, instead of leaving it out
    #[arg(long)]
    strict: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The pictures to look at a model on.
#[derive(Debug, clap::Args)]
pub(crate) struct Labelled {
    /// Labelled pictures: a folder with one folder for each class, a .zip or .tar of one, a COCO .json, or a manifest of CSV or Parquet
    #[arg(long)]
    pub(crate) data: PathBuf,
    /// Of a set in parts (folders train and test, or a manifest's column `split`), only this part
    #[arg(long)]
    pub(crate) split: Option<String>,
    #[command(flatten)]
    columns: Columns,
}

impl Labelled {
    pub(crate) fn open(&self) -> Result<Dataset> {
        Dataset::open_as(&self.data, self.split.as_deref(), &self.columns.wanted())
    }
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let model = model_file::open(&args.model)?;
    let data = args.labelled.open()?;
    let bar = ui.bar("evaluating");
    let on_bad = if args.strict { OnBad::Fail } else { OnBad::Skip };
    let strangers = args.strangers.as_deref().map(Dataset::unlabelled).transpose()?.unwrap_or_default();
    let found = evaluate(&model, data, &strangers, on_bad, moves(&bar))?;
    bar.finish_and_clear();
    let skipped = found.skipped.iter().chain(found.strangers.iter().flat_map(|s| &s.skipped));
    ui.skipped(skipped.map(|i| (i.path.as_path(), i.reason.as_str())));
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
    if let Some(worth) = &found.worth {
        kept(ui, worth)?;
    }
    if let Some(s) = &found.strangers {
        let told = s.unfamiliar.map_or(String::new(), |u| format!("{:.1} % told as unfamiliar, ", 100.0 * u));
        let distance = s.distance_auroc.map_or(String::new(), |a| format!("of the distance {a:.3}, "));
        let probability = s.probability_auroc;
        ui.line(&format!("{} strangers: {told}AUROC {distance}of the probability {probability:.3}", s.n))?;
    }
    ui.line(&format!("median {:.1} ms a picture in {}", found.median_ms, found.engine))
}

/// Says how promises were kept.
fn kept(ui: &Ui, w: &Worth) -> Result<()> {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    ui.line(&format!("calibration error {}, {} without the temperature", percent(w.ece_after), percent(w.ece_before)))?;
    if let Some(c) = &w.covered {
        let [low, high] = c.interval.map(percent);
        let (found, promised) = (percent(c.found), percent(c.promised));
        ui.line(&format!(
            "the set of labels ({:.2} on average) holds the true one in {found} ({low} to {high}), promised {promised}",
            c.labels
        ))?;
    }
    ui.line(&format!(
        "{} sure, of which {} wrong; of the others {} wrong; {} unfamiliar",
        percent(w.sure),
        percent(w.sure_wrong),
        percent(w.others_wrong),
        percent(w.unfamiliar)
    ))
}
