//! `graft data check`: reads every picture of a set.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, bail};
use graft_train::dataset::{Dataset, Ignored};
use graft_train::pictures;
use rayon::prelude::*;
use serde::Serialize;

use crate::ui::Ui;

/// Read every picture and report classes, counts and everything that cannot be used
///
/// DATA is a folder with one folder for each class, a .zip or .tar of one (read in place), a CSV manifest with columns
/// file and label, or a COCO .json whose pictures each have annotations of one category. `graft train` takes the same.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  graft data check photos/
  graft data check photos.zip --split train
  graft data check labels.csv --split train --strict
  graft data check coco/annotations.json")]
pub(crate) struct Args {
    /// A folder, .zip, .tar, CSV manifest or COCO .json
    data: PathBuf,
    /// Of a set in parts (folders train and test, or a manifest's column `split`), only this part
    #[arg(long)]
    split: Option<String>,
    /// Exit with 1 if any picture cannot be used
    #[arg(long)]
    strict: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    n: usize,
    usable: usize,
    classes: Vec<Class>,
    unusable: Vec<Ignored>,
    ignored: Vec<Ignored>,
}

#[derive(Serialize)]
struct Class {
    label: String,
    n: usize,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let data = Dataset::open(&args.data, args.split.as_deref())?;
    let bar = ui.bar("reading pictures");
    bar.set_length(data.samples.len() as u64);
    let usable = AtomicUsize::new(0);
    let unusable: Vec<Ignored> = data
        .samples
        .par_iter()
        .filter_map(|s| {
            bar.inc(1);
            match pictures::check(s) {
                Ok(_) => {
                    usable.fetch_add(1, Ordering::Relaxed);
                    None
                }
                Err(reason) => Some(Ignored { path: s.location.path(), reason }),
            }
        })
        .collect();
    bar.finish_and_clear();
    let classes = data.labels.iter().zip(data.counts()).map(|(l, n)| Class { label: l.clone(), n }).collect();
    let bad = unusable.len();
    let report =
        Report { n: data.samples.len(), usable: usable.into_inner(), classes, unusable, ignored: data.ignored };
    if args.json {
        ui.json(&report)?;
    } else {
        for class in &report.classes {
            ui.line(&format!("{:6} {}", class.n, class.label))?;
        }
        ui.line(&format!("{:6} pictures, {} usable", report.n, report.usable))?;
        for i in report.unusable.iter().chain(&report.ignored) {
            ui.line(&format!("left out {}: {}", i.path.display(), i.reason))?;
        }
    }
    if args.strict && bad > 0 {
        bail!("expected pictures that can all be used, found {bad} that cannot");
    }
    Ok(())
}
