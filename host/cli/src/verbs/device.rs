//! `graft device`: what a device is, its name, its clock, and starting it anew.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use graft_link::messages::Restart;
use serde_json::json;

use super::flash::At;
use super::slot::utc;
use crate::ui::Ui;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Tell what a device is, and the key that it proves to have
    #[command(after_help = "Example:\n  graft device info --device /dev/ttyUSB0 --json")]
    Info {
        #[command(flatten)]
        at: At,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Have a device classify pictures
    ///
    /// It answers, shows and remembers as if its own camera had taken them, and keeps those that its graftd.toml has it keep. A
    /// picture may be at most 1 MB.
    #[command(after_help = "Example:\n  graft device classify leaf.jpg --device /dev/ttyUSB0")]
    Classify {
        /// JPEG or PNG files
        #[arg(required = true)]
        images: Vec<PathBuf>,
        #[command(flatten)]
        at: At,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a device another name
    #[command(after_help = "Example:\n  graft device rename field-7 --device /dev/ttyUSB0")]
    Rename {
        /// 1 to 64 printable characters
        name: String,
        #[command(flatten)]
        at: At,
    },
    /// Tell a device's clock, or set it to this machine's
    ///
    /// Where graftd may not set the clock of its system, it keeps a clock of its own until it ends.
    #[command(after_help = "Example:\n  graft device time --set --device /dev/ttyUSB0")]
    Time {
        #[command(flatten)]
        at: At,
        /// Set it
        #[arg(long)]
        set: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Start a board anew
    #[command(after_help = "Examples:\n  graft device reboot --device /dev/ttyUSB0
  graft device reboot --daemon --device tcp://raspberrypi.local:7878")]
    Reboot {
        #[command(flatten)]
        at: At,
        /// Only graftd; its supervisor has to start it again
        #[arg(long)]
        daemon: bool,
    },
}

pub(crate) fn run(command: &Command, ui: &mut Ui) -> Result<()> {
    match command {
        Command::Info { at, json } => info(at, *json, ui),
        Command::Classify { images, at, json } => classify(images, at, *json, ui),
        Command::Rename { name, at } => {
            at.connect(ui)?.rename(name)?;
            ui.line(&format!("the device is {name} now"))
        }
        Command::Time { at, set, json } => time(at, *set, *json, ui),
        Command::Reboot { at, daemon } => {
            at.connect(ui)?.restart(if *daemon { Restart::Daemon } else { Restart::Board })?;
            ui.line(if *daemon { "graftd starts anew" } else { "the board starts anew" })
        }
    }
}

fn info(at: &At, as_json: bool, ui: &mut Ui) -> Result<()> {
    let mut session = at.connect(ui)?;
    let key = session.authenticate(at.manner.expect, None)?;
    let (i, a) = (session.info()?, session.about()?);
    if as_json {
        return ui.json(&json!({
            "name": i.name, "version": i.version, "arch": i.arch, "engine": i.engine, "uptime_ms": i.uptime_ms,
            "board": a.board, "system": a.system, "key": key.to_string(), "slot": i.slot, "bundle": i.bundle_name,
            "predictions": i.predictions, "free_bytes": i.free_bytes, "max_bundle_bytes": a.max_bundle_bytes,
            "guarded": a.is_guarded,
        }));
    }
    let board = if a.board.is_empty() { &i.arch } else { &a.board };
    ui.line(&format!("{}: {board}, {}", i.name, a.system))?;
    ui.line(&format!("graftd {}, {}, up for {} s", i.version, i.engine, i.uptime_ms / 1000))?;
    match (&i.slot, &i.bundle_name) {
        (Some(slot), Some(name)) => ui.line(&format!("slot {slot} runs {name}, {} pictures", i.predictions))?,
        _ => ui.line("no bundle runs")?,
    }
    ui.line(&format!(
        "{} MB free, bundles of at most {} MB",
        i.free_bytes / 1_000_000,
        a.max_bundle_bytes / 1_000_000
    ))?;
    ui.line(&format!("key {key}, proved"))?;
    if a.is_guarded {
        ui.line("it knows its hosts by their keys: without --host-key it tells its status alone")?;
    }
    Ok(())
}

fn classify(images: &[PathBuf], at: &At, as_json: bool, ui: &mut Ui) -> Result<()> {
    let mut session = at.connect(ui)?;
    let mut rows = vec![];
    for path in images {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let judged = session.judge(&name, &bytes)?;
        let found = &judged.classified;
        if as_json {
            rows.push(json!({
                "image": path, "label": found.label, "probability": found.probability, "latency_ms": found.latency_ms,
                "doubt": judged.doubt, "set": judged.set, "kept": judged.is_kept,
            }));
            continue;
        }
        let answer = judged.answer();
        let kept = if judged.is_kept { "  kept" } else { "" };
        let (percent, ms) = (100.0 * found.probability, found.latency_ms);
        ui.line(&format!("{}  {answer}  {percent:.1} %  {ms:.0} ms{kept}", path.display()))?;
    }
    if as_json {
        ui.json(&rows)?;
    }
    Ok(())
}

fn time(at: &At, set: bool, as_json: bool, ui: &mut Ui) -> Result<()> {
    let mut session = at.connect(ui)?;
    let here = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0));
    let (unix_ms, is_system) = session.clock(set.then(here))?;
    let ahead_ms = i128::from(unix_ms) - i128::from(here());
    if as_json {
        return ui.json(&json!({ "unix_ms": unix_ms, "ahead_ms": ahead_ms, "is_system": is_system }));
    }
    let ahead = ahead_ms as f64 / 1e3;
    ui.line(&format!("{} UTC, {ahead:+.1} s to this machine", utc(unix_ms)))?;
    if set && !is_system {
        ui.note("graftd may not set the system's clock, and keeps its own until it ends");
    }
    Ok(())
}
