//! `graft bench`: times a model.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use graft_runtime::{Explained, bench, peak_rss_mb};
use serde_json::json;

use crate::model_file;
use crate::ui::Ui;

/// Time a model on one picture at a time, in the engine that runs on the device
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  graft bench leaves.onnx --threads 1 --json\n  graft bench leaves.onnx --explain")]
pub(crate) struct Args {
    /// A run folder or an .onnx file
    model: PathBuf,
    /// Threads, each with a picture of its own
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// For how long
    #[arg(long, default_value_t = 3.0)]
    seconds: f32,
    /// Tell what each step of the network costs
    #[arg(long)]
    explain: bool,
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
    if let Some(operator) = model.unrecognised() {
        ui.note(&format!("tract runs the whole network, which is slower: graft's kernels do not know its {operator}"));
    }
    let steps = if args.explain { model.explain(EXPLAIN_RUNS) } else { None };
    if args.json {
        return ui.json(&json!({
            "min_ms": b.min_ms, "median_ms": b.median_ms, "p95_ms": b.p95_ms, "load_ms": load_ms, "peak_rss_mb": rss,
            "runs": b.runs, "threads": args.threads, "engine": model.engine(), "unrecognised": model.unrecognised(), "steps": steps,
        }));
    }
    ui.line(&format!(
        "min {:.2} ms, median {:.2} ms, 95 % under {:.2} ms ({} runs)",
        b.min_ms, b.median_ms, b.p95_ms, b.runs
    ))?;
    let rss = rss.map_or("unknown".into(), |mb| format!("{mb:.0} MB"));
    ui.line(&format!("load {load_ms:.0} ms, peak memory {rss}, {}", model.engine()))?;
    steps.unwrap_or_default().iter().try_for_each(|step| ui.line(&row(step)))
}

fn row(s: &Explained) -> String {
    let [h, w, c] = s.shape;
    let shape = format!("{h}x{w}x{c}");
    let rate = if s.gflops > 0.0 { format!("{:6.1} GFLOP/s", s.gflops) } else { String::new() };
    format!("{:<24} {:<10} {shape:<13} {:8.3} ms {:5.1} % {rate}", s.node, s.kernel, s.ms, s.share * 100.0)
}

/// Runs of which each step's fastest counts.
const EXPLAIN_RUNS: usize = 50;
