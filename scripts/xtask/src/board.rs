//! `cargo xtask board`: the whole way of a model to a board that is really aarch64, emulated, and power cuts on the way.
//!
//! The board is QEMU's: Debian's kernel, graftd built for it, its data on a disk with a volatile cache, its link on a UART that
//! is a pseudo-terminal here. What is asked of it goes over that line, as it would to one on a table.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cross::{Effort, Toolchain, installed};
use crate::{cargo_command, program};

mod bench;
mod cpio;
mod disk;
mod emulator;
mod image;
mod kills;
mod models;

use bench::Bench;
use image::Kernel;
use kills::{HEAD, Matrix, Setting};
use models::{Flashed, Graft, Model, Models};

/// Flash an emulated board that is really aarch64, and cut its power meanwhile
///
/// Boots Debian's kernel in QEMU with graftd, its data on a virtual disk and its link on the UART; the host's graft makes
/// models, finds the board on a pseudo-terminal and flashes it; the board tests them and classifies pictures, whose answers
/// must be the host's. Then its power is cut in the middle of flashes: it must come back with the old model or the new one, and
/// take the next flash. Needs QEMU and a C compiler for arm64, and fetches a kernel; without them it says what is missing and
/// that it is skipped.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often to cut the power
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Of the moments of the cuts, and of what the disk loses
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A graft to use instead of building one
    #[arg(long, value_name = "PROGRAM")]
    graft: Option<PathBuf>,
    /// A graftd for arm64 to use instead of building one, such as that of `cargo xtask cross`
    #[arg(long, value_name = "PROGRAM")]
    graftd: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let start = Instant::now();
    let (toolchain, kernel) = match needed() {
        Ok(needed) => needed,
        Err(reason) => {
            let reason = format!("{reason:#}");
            println!(
                "{}",
                if args.json { json!({ "skipped": reason }).to_string() } else { format!("skipped: {reason}") }
            );
            return Ok(());
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)).context("listening for Ctrl-C")?;
    let graftd = args.graftd.clone().map_or_else(|| toolchain.graftd(Effort::Quick), Ok)?;
    let graft = args.graft.clone().map_or_else(build_graft, Ok)?;
    let built_seconds = start.elapsed().as_secs_f64();
    let folder = toolchain.folder.join("board");
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let graft = Graft { program: graft, cache: folder.join("cache") };
    let models = Models::make(&graft, &folder)?;
    let image = kernel.image(&graftd, &configuration(&models.key), &folder)?;
    let mut bench = Bench::new(image, &folder, stop)?;
    let story = Story::of(&mut bench, &graft, &models, start, built_seconds)?;
    if !args.json {
        story.print(kernel.version());
        println!("\n{HEAD}");
    }
    let clean = story.flashes.each_ref().map(|flash| &flash.flashed);
    let mut setting = Setting { bench: &mut bench, graft: &graft, models: &models, clean };
    let matrix = Matrix::of(&mut setting, args.kills, args.seed, |row| {
        if !args.json {
            println!("{}", row.line());
        }
    })?;
    let seconds = start.elapsed().as_secs_f64();
    if args.json {
        let all = json!({ "kernel": kernel.version(), "story": story, "matrix": matrix, "seconds": seconds });
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        let Matrix { cuts, unflushed, old, new, wrong, dead, stuck, seed, .. } = &matrix;
        let silences = story.silences + matrix.silences;
        println!(
            "\n{cuts} power cuts (seed {seed}), {unflushed} of them with writes to lose: {old} came back with the old model, {new} with the new one, {wrong} wrong, {dead} dead, {stuck} stuck; {silences} times a board was silent and asked again; {seconds:.0} s in all"
        );
    }
    let bad = matrix.wrong + matrix.dead + matrix.stuck;
    ensure!(
        bad == 0,
        "expected every board to come back whole, found one that did not; its journal: {}",
        bench.journal().display()
    );
    Ok(())
}

/// Looks for what cannot be built.
fn needed() -> Result<(Toolchain, Kernel)> {
    installed(&["board"])?;
    let toolchain = Toolchain::find()?;
    let kernel = Kernel::find(&toolchain)?;
    Ok((toolchain, kernel))
}

/// Builds the host's program; of the whole workspace, so that what its tests are built with is not built again.
fn build_graft() -> Result<PathBuf> {
    program::named(cargo_command(&["build", "--locked", "--workspace", "--bins"]), "graft")
}

fn configuration(key: &str) -> String {
    format!(
        "name = \"{NAME}\"\nroot = \"/data/graft\"\nlisten = [\"/dev/ttyS0?baud=115200\"]\ntrusted_keys = [\"{key}\"]\nconfirm_after = {CONFIRM_AFTER}\n"
    )
}

/// Pictures until the board keeps a model for good.
const CONFIRM_AFTER: usize = 3;
/// The board's name.
const NAME: &str = "emulated";

/// The way of the models to a board on which nothing happens.
#[derive(Debug, Serialize)]
struct Story {
    /// Until the programs were there.
    built_seconds: f64,
    /// From switching the board on to its first answer.
    boot_seconds: f64,
    /// From the command to the first prediction read back.
    prediction_seconds: f64,
    /// The same from switching the board on.
    prediction_after_boot_seconds: f64,
    /// What `graft device info` tells.
    info: Value,
    flashes: [Flash; 3],
    /// How often the board was silent, and was asked again.
    silences: u32,
}

/// One whole flash.
#[derive(Debug, Serialize)]
struct Flash {
    model: &'static str,
    flashed: Flashed,
    /// Of a logit, in the self-test.
    tolerance: f32,
    pictures: usize,
    /// Of a probability of the pictures, to the host's.
    largest_difference: f32,
}

impl Story {
    fn of(bench: &mut Bench, graft: &Graft, models: &Models, start: Instant, built_seconds: f64) -> Result<Self> {
        let on = Instant::now();
        let boot_seconds = bench.switch_on()?;
        let port = bench.port()?.to_owned();
        let info =
            bench.answered(|| graft.json(&mut graft.command(&["device", "info", "--json", "--device", &port])))?;
        let name = info.get("name").and_then(Value::as_str);
        let arch = info.get("arch").and_then(Value::as_str);
        ensure!(
            (name, arch) == (Some(NAME), Some("aarch64")),
            "expected {NAME} of aarch64 to answer at {port}, found {info}"
        );
        let [first, second, third] = &models.all;
        let flashed = bench.flash(graft, first)?;
        bench.check(models, first, 1)?;
        let (prediction_seconds, prediction_after_boot_seconds) = (start.elapsed(), on.elapsed());
        let flashes = [
            Flash::checked(bench, models, first, flashed)?,
            Flash::checked(bench, models, second, bench.flash(graft, second)?)?,
            Flash::checked(bench, models, third, bench.flash(graft, third)?)?,
        ];
        Ok(Self {
            built_seconds,
            boot_seconds,
            prediction_seconds: prediction_seconds.as_secs_f64(),
            prediction_after_boot_seconds: prediction_after_boot_seconds.as_secs_f64(),
            info,
            flashes,
            silences: bench.silences(),
        })
    }

    fn print(&self, kernel: &str) {
        println!(
            "{NAME}, aarch64 (cortex-a72, Linux {kernel}), answers after {:.1} s; first prediction after {:.1} s, {:.1} s of them from \
             switching it on, {:.1} s building\n",
            self.boot_seconds, self.prediction_seconds, self.prediction_after_boot_seconds, self.built_seconds
        );
        println!(
            "| flash | chunks | bytes on the wire | s | of them sending | changes of the disk after that | golden samples as the host's | largest difference of a logit (allowed) | pictures as the host's | of a probability |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
        for Flash { model, flashed: f, tolerance, pictures, largest_difference } in &self.flashes {
            println!(
                "| {model} | {} of {} | {} | {:.1} | {:.1} | {} | {} | {:.1e} ({tolerance:.1e}) | {pictures} | {largest_difference:.1e} |",
                f.chunks_sent,
                f.chunks_total,
                f.wire_bytes,
                f.seconds,
                f.transfer_seconds,
                f.changes,
                f.self_test_samples,
                f.self_test_max_abs_diff
            );
        }
    }
}

impl Flash {
    /// Has the board classify all pictures.
    fn checked(bench: &Bench, models: &Models, model: &Model, flashed: Flashed) -> Result<Self> {
        let pictures = models.pictures.len();
        let largest_difference = bench.check(models, model, pictures)?;
        let tolerance = model.bundle.manifest().tolerance;
        Ok(Self { model: model.name, flashed, tolerance, pictures, largest_difference })
    }
}
