//! `graft report`: writes a page about a model.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use graft_report::{Latency, Report};
use graft_runtime::{Detail, EngineChoice, Network, Raw, Settings};
use graft_train::pictures::OnBad;
use graft_train::review::{Plan, Reviewed, Stage, quantization, review};
use graft_train::run::write_atomic;
use serde::Serialize;

use super::evaluate::Labelled;
use super::slot::utc;
use crate::model_file;
use crate::ui::{Ui, moves};

/// Write a page that shows how good a model is, and where it fails
///
/// One HTML file, which needs no network and runs no script: it can be mailed, printed and kept. It has the confusion matrix,
/// recall of each class and of each group of the pictures (column `group`: a site, a field, a day) with intervals, how far
/// probabilities can be trusted, with and without the temperature of a bundle that was packed with --calibrate, what is gained by
/// answering less often, the most confident mistakes with what in the picture spoke for them, how the model was quantized, and how
/// long a picture takes here. Of tags and values there are tables and scatter plots.
///
/// All of it is computed by the engine that runs on the device, on pictures that the model should not have seen in training. What
/// spoke for an answer is found by covering parts of the picture and asking again, 65 runs of the network for each mistake.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  graft report runs/leaves --data photos/test --out report.html
  graft report leaves.onnx --data photos/test --worst 24 --out report.html
  graft report leaves.graft --data field.csv --split test --json --out report.html
  graft report runs/yield --data plots.csv --split test --target yield --out report.html")]
pub(crate) struct Args {
    /// A run folder, an .onnx file or a bundle
    model: PathBuf,
    #[command(flatten)]
    labelled: Labelled,
    /// The most confident mistakes to show
    #[arg(long, value_name = "N", default_value_t = 12)]
    worst: usize,
    /// Do not look for what spoke for mistakes, which takes most of the time
    #[arg(long)]
    no_marks: bool,
    /// Stop at the first picture that cannot be read, instead of leaving it out
    #[arg(long)]
    strict: bool,
    /// The page, an HTML file
    #[arg(long, short)]
    out: PathBuf,
    /// Print JSON: every number of the page
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    ensure!(args.worst <= MOST_MISTAKES, "expected --worst of at most {MOST_MISTAKES}, found {}", args.worst);
    let model = model_file::open(&args.model)?;
    let data = args.labelled.open()?;
    let (pictures, groups) = (data.samples.len(), data.samples.iter().any(|s| s.group.is_some()));
    let on_bad = if args.strict { OnBad::Fail } else { OnBad::Skip };
    let bar = ui.bar("answering");
    let plan = Plan { worst: args.worst, marks: !args.no_marks, on_bad };
    let Reviewed { told, skipped } = review(&model, data, &plan, |stage, done, of| {
        bar.set_message(match stage {
            Stage::Answering => "answering",
            Stage::Marking => "looking at mistakes",
        });
        moves(&bar)(done, of);
    })?;
    bar.finish_and_clear();
    ui.skipped(skipped.iter().map(|i| (i.path.as_path(), i.reason.as_str())));
    let shown = |path: &Path| path.display().to_string();
    let Labelled { data, split, .. } = &args.labelled;
    let data = split.as_ref().map_or(shown(data), |split| format!("{}, {split}", shown(data)));
    let facts = [
        ("model", shown(&args.model)),
        ("pictures", format!("{data}: {pictures}{}", if groups { "" } else { ", without groups" })),
        ("preprocessing", seen(&model)),
        ("graft", env!("CARGO_PKG_VERSION").to_owned()),
        ("written", now()),
    ];
    let report = Report {
        model: name(&args.model),
        data,
        facts: facts.map(|(what, told)| (what.to_owned(), told)).into(),
        told,
        quantization: quantization(&model)?,
        latency: latency(&args.model)?,
        skipped: skipped.into_iter().map(|i| (i.path.display().to_string(), i.reason)).collect(),
    };
    let page = graft_report::page(&report);
    write_atomic(&args.out, page.as_bytes())?;
    if args.json {
        return ui.json(&Told { report: &report, out: &args.out, bytes: page.len() });
    }
    ui.line(&format!("{} ({} KB)", args.out.display(), page.len().div_ceil(1000)))
}

#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    report: &'a Report,
    out: &'a Path,
    bytes: usize,
}

/// Times the network as `graft bench` does.
fn latency(model: &Path) -> Result<Latency> {
    let start = Instant::now();
    let mut network: Network = model_file::network(model, EngineChoice::Best, None)?;
    let settings = Settings { threads: 1, pictures: 1, seconds: SECONDS, detail: Detail::Whole };
    let grey = Raw::grey(&network);
    let found = graft_runtime::Report::of(&mut network, start.elapsed(), grey.view(), settings)?;
    let bench = found.bench;
    Ok(Latency {
        median_ms: bench.median_ms,
        min_ms: bench.min_ms,
        p95_ms: bench.p95_ms,
        runs: bench.runs,
        threads: found.threads,
        engine: found.engine,
        machine: machine(),
    })
}

/// Names the processor, as far as the system tells it.
fn machine() -> String {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |key: &str| told.lines().find(|l| l.starts_with(key)).and_then(|l| l.split_once(':'));
    let name = ["model name", "Model", "Hardware"].into_iter().find_map(line).map(|l| l.1.trim());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{} ({}), {cores} cores", name.unwrap_or("processor of"), std::env::consts::ARCH)
}

fn seen(model: &graft_runtime::Model) -> String {
    let p = model.preprocessing();
    format!("shorter side {} pixels, {} in the middle", p.resize_shorter, p.crop)
}

fn name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
}

/// The time in UTC, to the minute.
fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let mut time = utc(since.as_millis() as u64);
    time.truncate(16);
    time + " UTC"
}

/// Most mistakes on a page.
const MOST_MISTAKES: usize = 500;
/// For how long the network is timed.
const SECONDS: f32 = 1.0;
