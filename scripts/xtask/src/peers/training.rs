//! `cargo xtask peers --training`: steps of training, graft beside PyTorch, in turns.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use super::engine::{Measurement, ask};
use super::machine::{Machine, Watch};
use super::report::{range, table};
use super::{Args, least_disturbed, setup};

/// Network and side of its pictures.
const NETWORKS: [(&str, u32); 4] = [("mobilenet_v2", 128), ("mobilenet_v2", 224), ("resnet18", 128), ("resnet18", 224)];
/// Pictures a step.
const BATCH: u32 = 16;

/// Who trains: graft, and PyTorch with pictures laid out one way or the other.
const ENGINES: [&str; 3] = ["graft", "nchw", "channels_last"];

/// Steps of one network, and what each engine of [`ENGINES`] made of them in each turn.
#[derive(Debug, Serialize)]
struct Cell {
    network: &'static str,
    side: u32,
    threads: u16,
    turns: Vec<[Measurement; ENGINES.len()]>,
}

#[derive(Debug, Serialize)]
struct Results {
    machine: Machine,
    seconds: f64,
    cells: Vec<Cell>,
}

pub(super) fn run(args: &Args, work: &Path) -> Result<String> {
    let scripts = crate::root().join("scripts/peers").canonicalize().context("looking for scripts/peers")?;
    std::fs::create_dir_all(work).with_context(|| format!("making {}", work.display()))?;
    let python = setup::environment(&work.join("exporters"), &scripts.join("requirements-models.txt"))?;
    // Of the workspace, whose features are those of `cargo build --release`: nothing is built twice.
    let build = ["build", "--release", "--locked", "--workspace", "--example", "step"];
    let programs = Programs {
        graft: crate::program::build(crate::cargo_command(&build), &[])?,
        python,
        script: scripts.join("train.py"),
    };
    let mut results = Results { machine: Machine::probe(), seconds: args.seconds, cells: Vec::new() };
    for &(network, side) in NETWORKS.iter().filter(|n| args.models.iter().any(|m| m == n.0)) {
        for &threads in &args.threads {
            let mut cell = Cell { network, side, threads, turns: Vec::new() };
            for turn in 0..usize::from(args.turns) {
                let mut found = [const { None }; ENGINES.len()];
                for place in 0..ENGINES.len() {
                    // Each turn begins with another engine, as elsewhere.
                    let place = (place + turn) % ENGINES.len();
                    eprint!(
                        "{network} {side}, threads {threads}, turn {} of {}: {} ",
                        turn + 1,
                        args.turns,
                        ENGINES[place]
                    );
                    let patience = std::time::Duration::from_secs(args.patience.into());
                    let time = || programs.time(ENGINES[place], network, side, threads, args.seconds);
                    let measurement = least_disturbed(patience, time)?;
                    eprintln!("{:.1} ms", measurement.min_ms);
                    found[place] = Some(measurement);
                }
                let found = found.into_iter().collect::<Option<Vec<_>>>().context("every engine has its turn")?;
                cell.turns.push(found.try_into().ok().context("as many measurements as engines")?);
            }
            results.cells.push(cell);
            let text = serde_json::to_string_pretty(&results).context("writing the results as JSON")?;
            super::replace_file(&work.join("training.json"), &text)?;
        }
    }
    Ok(markdown(&results))
}

struct Programs {
    graft: PathBuf,
    python: PathBuf,
    script: PathBuf,
}

impl Programs {
    fn time(&self, engine: &str, network: &str, side: u32, threads: u16, seconds: f64) -> Result<Measurement> {
        let watch = Watch::start();
        let mut command = match engine {
            "graft" => Command::new(&self.graft),
            layout => {
                let mut command = Command::new(&self.python);
                // Without these PyTorch gives its memory back after each step and asks for it again: much slower.
                command.env("MALLOC_MMAP_MAX_", "0").env("MALLOC_TRIM_THRESHOLD_", "20000000000");
                command.env("MALLOC_TOP_PAD_", "268435456").arg(&self.script).arg(layout);
                command
            }
        };
        command.arg(network).args([side, BATCH, threads.into()].map(|n| n.to_string())).arg(seconds.to_string());
        let mut measurement = ask(&mut command)?;
        measurement.others_cores = watch.others();
        Ok(measurement)
    }
}

fn markdown(results: &Results) -> String {
    let machine = &results.machine;
    let mut text = format!(
        "{}, {} cores ({}). Steps of {BATCH} pictures, all layers trained, batch statistics, AdamW; fastest step of {} s a \
         turn in ms, least of the turns; peak memory in MB; graft's time divided by the faster PyTorch's of the same turn, \
         least to most.",
        machine.cpu,
        machine.cores,
        machine.features.join(", "),
        results.seconds,
    );
    let all = || results.cells.iter().flat_map(|c| c.turns.iter().flatten());
    if let Some((least, most)) = range(all().filter_map(|m| m.others_cores)) {
        _ = write!(text, " Other programs kept {least:.1} to {most:.1} cores busy meanwhile.");
    }
    let version = |place: usize| results.cells.first()?.turns.first()?[place].version.clone();
    _ = write!(text, " {}.\n\n", [version(0), version(1)].into_iter().flatten().collect::<Vec<_>>().join(", "));
    let title =
        ["network, pixels, threads", "graft", "PyTorch NCHW", "PyTorch channels last", "time ratio", "memory ratio"];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    for cell in &results.cells {
        let mut row = vec![format!("{} {}, {}", cell.network, cell.side, cell.threads)];
        for place in 0..ENGINES.len() {
            let least = range(cell.turns.iter().map(|t| t[place].min_ms)).map_or(f64::NAN, |r| r.0);
            let peak = range(cell.turns.iter().filter_map(|t| t[place].peak_rss_mb)).map_or(f64::NAN, |r| r.1);
            row.push(format!("{least:.0} ({peak:.0} MB)"));
        }
        let ratio = |of: &dyn Fn(&Measurement) -> Option<f64>| {
            let ratios = cell.turns.iter().filter_map(|t| Some(of(&t[0])? / of(&t[1])?.min(of(&t[2])?)));
            range(ratios).map_or("–".to_owned(), |(least, most)| format!("{least:.2}–{most:.2}"))
        };
        row.push(ratio(&|m| Some(m.min_ms)));
        row.push(ratio(&|m| m.peak_rss_mb));
        rows.push(row);
    }
    text + &table(&rows)
}
