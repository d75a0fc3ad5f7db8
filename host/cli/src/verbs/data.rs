//! `graft data`: looks at a data set before training on it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, bail};
use graft_train::dataset::{Dataset, Ignored};
use graft_train::pictures;
use rayon::prelude::*;
use serde::Serialize;

use crate::ui::Ui;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Read every picture and report classes, counts and everything that cannot be used
    #[command(
        after_help = "Examples:\n  graft data check photos/\n  graft data check labels.csv --split train --strict"
    )]
    Check {
        /// A folder with one folder for each class, or a CSV manifest
        dir: PathBuf,
        /// Of a manifest with a column `split`, only these rows
        #[arg(long)]
        split: Option<String>,
        /// Exit with 1 if any picture cannot be used
        #[arg(long)]
        strict: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
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

pub(crate) fn run(command: &Command, ui: &mut Ui) -> Result<()> {
    let Command::Check { dir, split, strict, json } = command;
    let data = Dataset::open(dir, split.as_deref())?;
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
                Err(reason) => Some(Ignored { path: s.path.clone(), reason }),
            }
        })
        .collect();
    bar.finish_and_clear();
    let classes = data.labels.iter().zip(data.counts()).map(|(l, n)| Class { label: l.clone(), n }).collect();
    let bad = unusable.len();
    let report =
        Report { n: data.samples.len(), usable: usable.into_inner(), classes, unusable, ignored: data.ignored };
    if *json {
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
    if *strict && bad > 0 {
        bail!("expected pictures that can all be used, found {bad} that cannot");
    }
    Ok(())
}
