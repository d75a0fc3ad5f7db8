//! `graft monitor`: what a device sees, as it sees it.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use graft_train::run::write_atomic;
use serde_json::json;

use super::flash::At;
use crate::ui::Ui;

/// Watch a device: what it is, what runs, and every new prediction
///
/// Ends on Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  graft monitor --device /dev/ttyUSB0
  graft monitor --device tcp://raspberrypi.local:7878 --once --screen screen.png")]
pub(crate) struct Args {
    #[command(flatten)]
    at: At,
    /// Report once and exit
    #[arg(long)]
    once: bool,
    /// Save the picture on the device's display
    #[arg(long, value_name = "FILE.png")]
    screen: Option<PathBuf>,
    /// Print JSON, an object a line
    #[arg(long)]
    json: bool,
}

/// Predictions asked for at once.
const COUNT: u32 = 20;

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let mut session = args.at.connect(ui)?;
    let i = session.info()?;
    if args.json {
        ui.line(
            &json!({
                "device": i.name, "version": i.version, "arch": i.arch, "engine": i.engine, "uptime_ms": i.uptime_ms,
                "slot": i.slot, "bundle": i.bundle_name, "predictions": i.predictions, "free_bytes": i.free_bytes,
            })
            .to_string(),
        )?;
    } else {
        let runs = match (&i.slot, &i.bundle_name) {
            (Some(slot), Some(name)) => format!("slot {slot} runs {name}"),
            _ => "no bundle runs".into(),
        };
        ui.line(&format!("{} (graftd {}, {}, {}), {runs}", i.name, i.version, i.arch, i.engine))?;
    }
    let mut seen = 0;
    loop {
        let mut fresh = session.recent(COUNT)?;
        fresh.retain(|p| p.id > seen);
        for p in fresh.iter().rev() {
            seen = seen.max(p.id);
            if args.json {
                ui.line(
                    &json!({
                        "id": p.id, "unix_ms": p.unix_ms, "source": p.source, "label": p.label, "probability": p.probability,
                        "latency_ms": p.latency_ms,
                    })
                    .to_string(),
                )?;
            } else {
                ui.line(&format!(
                    "{:6}  {}  {}  {:.1} %  {:.0} ms",
                    p.id,
                    p.source,
                    p.label,
                    100.0 * p.probability,
                    p.latency_ms
                ))?;
            }
        }
        if let Some(path) = args.screen.as_ref().filter(|_| args.once || !fresh.is_empty()) {
            write_atomic(path, &session.screen()?)?;
        }
        if args.once || ui.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        sleep(Duration::from_millis(500));
        if ui.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
}
