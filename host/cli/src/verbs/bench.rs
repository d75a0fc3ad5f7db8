//! `graft bench`: times a network.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use graft_runtime::{Detail, EngineChoice, Network, Raw, Report, Settings};

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
    /// Keep the network in this folder as the kernels run it, and load it from there the next time
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
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
    let detail = if args.explain { Detail::Steps } else { Detail::Whole };
    let Args { threads, pictures, seconds, .. } = *args;
    let settings = Settings { threads, pictures, seconds, detail }.checked()?;
    let choice = match args.engine {
        Engine::Best => EngineChoice::Best,
        Engine::Tract => EngineChoice::Tract,
    };
    let start = Instant::now();
    let mut network = model_file::network(&args.model, choice, args.cache.as_deref())?;
    let load = start.elapsed();
    let picture = match &args.input {
        Some(path) => read(path, &network)?,
        None => Raw::grey(&network),
    };
    let report = Report::of(&mut network, load, picture.view(), settings)?;
    if let Some(note) = report.note().filter(|_| choice == EngineChoice::Best) {
        ui.note(&note);
    }
    if let Some(path) = &args.output {
        let outputs = network.run(picture.view())?;
        let bytes: Vec<u8> = outputs.first().into_iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(path, bytes).with_context(|| format!("writing the output to {}", path.display()))?;
    }
    if args.json { ui.json(&report) } else { ui.line(&report.to_string()) }
}

fn read(path: &Path, network: &Network) -> Result<Raw> {
    let bytes = std::fs::read(path).with_context(|| format!("reading the picture {}", path.display()))?;
    let shape = network.input();
    let len: usize = shape.iter().product();
    let expected = if network.takes_bytes() { len } else { 4 * len };
    ensure!(
        bytes.len() == expected,
        "expected {expected} bytes for an input of {shape:?}, found {} in {}",
        bytes.len(),
        path.display()
    );
    Ok(match network.takes_bytes() {
        true => Raw::Bytes(bytes),
        false => Raw::Floats(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
    })
}
