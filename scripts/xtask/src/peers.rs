//! `cargo xtask peers`: times graft and its peers side by side on the same networks.
//!
//! Each cell (network, precision, threads) runs its engines in turns, each in a process of its own, because the speed
//! of a shared machine drifts: only figures of the same turn are divided by each other.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;

use answers::Difference;
use engine::{Engine, Measurement};
use machine::Machine;
use report::Results;
use setup::Bench;

mod answers;
mod engine;
mod machine;
mod report;
mod setup;
mod training;

/// Time graft and its peers on the same networks
///
/// The first run makes two Python environments and the networks below target/peers: some minutes and 8 GB. Prints a
/// table in Markdown; peers.json in the work folder has everything, after each cell. Needs python3 with venv; a C
/// compiler for ONNX Runtime's figures without Python.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Time the link on a serial line at 115200 baud instead, beside ZMODEM (package lrzsz) and mcumgr's SMP (smpclient
    /// from PyPI) on the same paced pseudo-terminals, and on noisy lines in simulated time
    #[arg(long)]
    line: bool,
    /// Time steps of training instead, beside PyTorch's; of the networks and threads asked for
    #[arg(long)]
    training: bool,
    /// The program `graft`; default: a release build of this workspace
    #[arg(long, value_name = "PATH")]
    graft: Option<PathBuf>,
    /// Networks
    #[arg(long, value_delimiter = ',', default_values_t = NETWORKS.map(str::to_owned))]
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(NETWORKS))]
    models: Vec<String>,
    /// Precisions
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Precision::F32, Precision::Int8])]
    precisions: Vec<Precision>,
    /// Engines
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Engine::value_variants().to_vec())]
    engines: Vec<Engine>,
    /// Threads inside one picture
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Vec<u16>,
    /// How often each engine's turn comes in a cell
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    turns: u16,
    /// For how long an engine runs in each turn
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// For how long, in each turn, to wait for other programs to leave the machine alone, and to measure anew if they
    /// came back meanwhile
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    patience: u32,
    /// Where environments, networks and results go; default: target/peers
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Also put the table between `<!-- peers -->` and `<!-- /peers -->` in this file
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// Bytes of noise in the bundle that crosses the paced line: some 20 s.
const LINE_BYTES: &str = "200000";
/// The networks that scripts/peers/models.py can make.
const NETWORKS: [&str; 4] = ["mobilenet_v2", "mobilenet_v3_small", "resnet18", "efficientnet_b0"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Precision {
    F32,
    Int8,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
        })
    }
}

/// One network in one precision on so many threads, and what each engine made of it.
#[derive(Debug, Serialize)]
struct Cell {
    model: String,
    precision: Precision,
    threads: u16,
    /// In the order asked for.
    engines: Vec<Outcome>,
}

/// What became of one engine in one cell.
#[derive(Debug, Serialize)]
struct Outcome {
    engine: Engine,
    turns: Vec<Measurement>,
    /// Why it has no more turns than these.
    left_out: Option<String>,
    /// Against ONNX Runtime's answer for the same file.
    difference: Option<Difference>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.seconds > 0.0 && args.seconds <= 600.0, "expected up to 600 --seconds, found {}", args.seconds);
    // Now rather than after an hour of measuring.
    if let Some(file) = &args.write {
        write_table(file, None)?;
    }
    let work = match &args.work {
        Some(folder) => std::path::absolute(folder).context("resolving --work")?,
        None => crate::root().canonicalize().context("resolving the workspace's root")?.join("target/peers"),
    };
    if args.line {
        return line(args, &work);
    }
    if args.training {
        let table = training::run(args, &work)?;
        return show(args, &table);
    }
    let bench = setup::prepare(args, &work)?;
    let mut results =
        Results { machine: Machine::probe(), turns: args.turns, seconds: args.seconds, cells: Vec::new() };
    for model in &args.models {
        for &precision in &args.precisions {
            for &threads in &args.threads {
                results.cells.push(measure(model, precision, threads, args, &bench));
                // After each: an interrupted run keeps what it has measured.
                let text = serde_json::to_string_pretty(&results).context("writing the results as JSON")?;
                replace_file(&work.join("peers.json"), &text)?;
            }
        }
    }
    show(args, &report::markdown(&results))
}

fn line(args: &Args, work: &Path) -> Result<()> {
    let requirements = crate::root().join("scripts/peers/requirements-smp.txt");
    std::fs::create_dir_all(work).with_context(|| format!("making {}", work.display()))?;
    let python = setup::environment(&work.join("smp"), &requirements);
    if let Err(error) = &python {
        eprintln!("SMP is left out: {error:#}");
    }
    let example = |arguments: &[&str]| {
        let run = ["run", "--release", "--locked", "--quiet", "-p", "graft-deploy", "--example", "line", "--"];
        let mut command = crate::cargo_command(&run);
        command.args(arguments);
        command
    };
    crate::run(example(&["pace", LINE_BYTES, &args.turns.to_string()]).args(python.ok()))?;
    crate::run(&mut example(&["noise"]))
}

/// Prints the table, and writes it where it was asked for.
fn show(args: &Args, table: &str) -> Result<()> {
    if let Some(file) = &args.write {
        write_table(file, Some(table))?;
    }
    std::io::stdout().write_all(table.as_bytes()).context("printing the table; the work folder has the figures")
}

/// Lets each engine have its turns.
fn measure(model: &str, precision: Precision, threads: u16, args: &Args, bench: &Bench) -> Cell {
    let outcome = |&engine: &Engine| Outcome { engine, turns: Vec::new(), left_out: None, difference: None };
    let mut engines: Vec<Outcome> = args.engines.iter().map(outcome).collect();
    let file = bench.models.join(format!("{model}.{precision}.onnx"));
    for turn in 0..usize::from(args.turns) {
        for place in 0..engines.len() {
            // Each turn begins with another engine: being first after a pause may be an advantage.
            let place = (place + turn) % args.engines.len();
            let outcome = &mut engines[place];
            if outcome.left_out.is_some() {
                continue;
            }
            eprint!("{model} {precision}, threads {threads}, turn {} of {}: {} ", turn + 1, args.turns, outcome.engine);
            let patience = Duration::from_secs(args.patience.into());
            match least_disturbed(patience, || bench.time(outcome.engine, &file, threads, args.seconds)) {
                Ok(measurement) => {
                    eprintln!("{:.3} ms", measurement.min_ms);
                    outcome.turns.push(measurement);
                }
                Err(error) => {
                    let error = bench.without_paths(&format!("{error:#}"));
                    eprintln!("left out: {error}");
                    outcome.left_out = Some(error);
                }
            }
        }
    }
    answers::compare(&mut engines, bench);
    Cell { model: model.to_owned(), precision, threads, engines }
}

/// Measures once or, while patience lasts and others disturb, again; returns the least disturbed measurement.
fn least_disturbed(patience: Duration, mut time: impl FnMut() -> Result<Measurement>) -> Result<Measurement> {
    // Where nobody tells of others, nothing is gained by measuring again.
    let disturbance = |measurement: &Measurement| measurement.others_cores.unwrap_or(0.0);
    let start = Instant::now();
    machine::wait_for_quiet(patience);
    let mut best = time()?;
    while disturbance(&best) > machine::QUIET_CORES && start.elapsed() < patience {
        machine::wait_for_quiet(patience.saturating_sub(start.elapsed()));
        let again = time()?;
        if disturbance(&again) < disturbance(&best) {
            best = again;
        }
    }
    Ok(best)
}

/// Puts `table` between the markers of `file`; without a table, only checks that they are there.
fn write_table(file: &Path, table: Option<&str>) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let replaced = report::replace_between_markers(&text, table.unwrap_or_default())
        .with_context(|| format!("looking for the table's place in {}", file.display()))?;
    if table.is_some() { replace_file(file, &replaced) } else { Ok(()) }
}

/// Writes by way of a temporary file, so that the file is the old one or the new one, never half of it.
fn replace_file(file: &Path, text: &str) -> Result<()> {
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(".part");
    std::fs::write(&temporary, text)
        .and_then(|()| std::fs::rename(&temporary, file))
        .with_context(|| format!("writing {}", file.display()))
}
