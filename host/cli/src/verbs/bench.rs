//! `graft bench`: times a model.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use graft_runtime::{ENGINE, bench, peak_rss_mb};
use serde_json::json;

use crate::model_file;
use crate::ui::Ui;

/// Time a model on one picture at a time, in the engine that runs on the device
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  graft bench leaves.onnx --threads 1 --json")]
pub(crate) struct Args {
    /// A run folder or an .onnx file
    model: PathBuf,
    /// Threads, each with a picture of its own
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// For how long
    #[arg(long, default_value_t = 3.0)]
    seconds: f32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    ensure!((1..=256).contains(&args.threads), "expected 1 to 256 threads, found {}", args.threads);
    ensure!(args.seconds > 0.0 && args.seconds <= 3600.0, "expected up to 3600 seconds, found {}", args.seconds);
    let start = Instant::now();
    let model = model_file::open(&args.model)?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let b = bench(&model, args.threads, args.seconds)?;
    let rss = peak_rss_mb();
    if args.json {
        return ui.json(&json!({
            "min_ms": b.min_ms, "median_ms": b.median_ms, "p95_ms": b.p95_ms, "load_ms": load_ms, "peak_rss_mb": rss,
            "runs": b.runs, "threads": args.threads, "engine": ENGINE,
        }));
    }
    ui.line(&format!(
        "min {:.2} ms, median {:.2} ms, 95 % under {:.2} ms ({} runs)",
        b.min_ms, b.median_ms, b.p95_ms, b.runs
    ))?;
    let rss = rss.map_or("unknown".into(), |mb| format!("{mb:.0} MB"));
    ui.line(&format!("load {load_ms:.0} ms, peak memory {rss}, {ENGINE}"))
}
