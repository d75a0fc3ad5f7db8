//! `graft bench`: times a network.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use graft_runtime::{EngineChoice, Explained, Network, Picture, bench, peak_rss_mb};
use serde_json::json;

use crate::model_file;
use crate::ui::Ui;

/// Time a network in the engine that runs on the device
///
/// Takes any ONNX file whose one input is a picture, `u8` or `f32`, `[1, h, w, c]` or `[1, c, h, w]`; the network alone
/// is timed, without decoding and resizing.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  graft bench leaves.onnx --threads 2 --json\n  graft bench leaves.onnx --explain\n  graft bench leaves.onnx --engine tract"
)]
pub(crate) struct Args {
    /// A run folder or an .onnx file
    model: PathBuf,
    /// Threads that share the work of a picture
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Pictures in the network at the same time: shows throughput
    #[arg(long, default_value_t = 1)]
    pictures: usize,
    /// For how long
    #[arg(long, default_value_t = 3.0)]
    seconds: f32,
    /// Which engine may run it
    #[arg(long, value_enum, default_value_t = Engine::Best)]
    engine: Engine,
    /// Raw numbers of the picture, as the network takes them (little-endian); grey where this is left out
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Write the first output as raw f32
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Tell what each step of the network costs
    #[arg(long)]
    explain: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Engine {
    /// Graft's kernels where they know every operator, else tract
    Best,
    /// Tract alone
    Tract,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    for (what, n) in [("threads", args.threads), ("pictures", args.pictures)] {
        ensure!((1..=256).contains(&n), "expected 1 to 256 {what}, found {n}");
    }
    ensure!(args.seconds > 0.0 && args.seconds <= 3600.0, "expected up to 3600 seconds, found {}", args.seconds);
    let choice = match args.engine {
        Engine::Best => EngineChoice::Best,
        Engine::Tract => EngineChoice::Tract,
    };
    let start = Instant::now();
    let mut network = model_file::network(&args.model, choice)?;
    network.set_threads(args.threads);
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let picture = Raw::read(args.input.as_deref(), &network)?;
    let b = bench(&network, picture.view(), args.pictures, args.seconds)?;
    let rss = peak_rss_mb();
    if let Some(operator) = network.unrecognised().filter(|_| choice == EngineChoice::Best) {
        ui.note(&format!("tract runs the whole network, which is slower: graft's kernels do not know its {operator}"));
    }
    if let Some(path) = &args.output {
        let outputs = network.run(picture.view())?;
        let bytes: Vec<u8> = outputs.first().into_iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(path, bytes).with_context(|| format!("writing the output to {}", path.display()))?;
    }
    let steps = if args.explain { network.explain(picture.view(), EXPLAIN_RUNS)? } else { None };
    if args.json {
        return ui.json(&json!({
            "min_ms": b.min_ms, "median_ms": b.median_ms, "p95_ms": b.p95_ms, "first_ms": b.first_ms, "load_ms": load_ms,
            "peak_rss_mb": rss, "runs": b.runs, "threads": args.threads, "pictures": b.pictures,
            "pictures_per_second": b.pictures_per_second, "engine": network.engine(),
            "unrecognised": network.unrecognised(), "steps": steps,
        }));
    }
    ui.line(&format!(
        "min {:.2} ms, median {:.2} ms, 95 % under {:.2} ms ({} runs)",
        b.min_ms, b.median_ms, b.p95_ms, b.runs
    ))?;
    if b.pictures > 1 {
        ui.line(&format!("{:.1} pictures a second, {} at a time", b.pictures_per_second, b.pictures))?;
    }
    let rss = rss.map_or("unknown".into(), |mb| format!("{mb:.0} MB"));
    let engine = network.engine();
    ui.line(&format!("load {load_ms:.0} ms, first run {:.2} ms, peak memory {rss}, {engine}", b.first_ms))?;
    steps.unwrap_or_default().iter().try_for_each(|step| ui.line(&row(step)))
}

/// A picture as the network takes it.
enum Raw {
    Bytes(Vec<u8>),
    Floats(Vec<f32>),
}

impl Raw {
    /// Reads a file, or makes a grey picture.
    fn read(file: Option<&Path>, network: &Network) -> Result<Self> {
        let len: usize = network.input().iter().product();
        let Some(path) = file else {
            return Ok(if network.takes_bytes() { Self::Bytes(vec![127; len]) } else { Self::Floats(vec![0.1; len]) });
        };
        let bytes = std::fs::read(path).with_context(|| format!("reading the picture {}", path.display()))?;
        let expected = if network.takes_bytes() { len } else { 4 * len };
        let shape = network.input();
        ensure!(
            bytes.len() == expected,
            "expected {expected} bytes for an input of {shape:?}, found {} in {}",
            bytes.len(),
            path.display()
        );
        Ok(match network.takes_bytes() {
            true => Self::Bytes(bytes),
            false => Self::Floats(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        })
    }

    fn view(&self) -> Picture<'_> {
        match self {
            Self::Bytes(b) => Picture::Bytes(b),
            Self::Floats(f) => Picture::Floats(f),
        }
    }
}

fn row(s: &Explained) -> String {
    let [h, w, c] = s.shape;
    let shape = format!("{h}x{w}x{c}");
    let rate = if s.gflops > 0.0 { format!("{:6.1} GFLOP/s", s.gflops) } else { String::new() };
    format!("{:<24} {:<24} {shape:<13} {:8.3} ms {:5.1} % {rate}", s.node, s.kernel, s.ms, s.share * 100.0)
}

/// Runs of which each step's fastest counts.
const EXPLAIN_RUNS: usize = 50;
