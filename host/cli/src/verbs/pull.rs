//! `graft pull`: brings back what a device has seen.

use std::path::PathBuf;

use anyhow::Result;
use graft_deploy::{Field, PullProgress, Then};

use super::flash::At;
use crate::ui::Ui;

/// Bring back the pictures that a device keeps, and what it said of them
///
/// Pictures come the most valuable first: those of which the device was least sure. Each is checked against the digest that
/// the device tells, and written to OUT/DEVICE-KEY/; OUT/field.csv says what the device said of it, OUT/predictions.csv has
/// all of its predictions. What is here, checked and on the disk, the device then deletes; with --leave it keeps it. A pull
/// that was cut off, by Ctrl-C too, goes on where it was, and nothing comes twice.
///
/// A device keeps pictures where its graftd.toml has `pictures = "unsure"` or `"keep"`. Several devices may share a folder,
/// which `graft label` then shows. Exit codes: 3 the device cannot be reached (try again), 4 it refused.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  graft pull --device /dev/ttyUSB0 --out field/
  graft pull --device tcp://raspberrypi.local:7878 --out field/ --site north
  graft pull --device file:/media/pi/rootfs --out field/ --leave
  graft label field/")]
pub(crate) struct Args {
    #[command(flatten)]
    at: At,
    /// The folder to bring them to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where the device stands: pictures of one site and day stay together when a set is split
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// Have the device keep its pictures
    #[arg(long)]
    leave: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let field = Field::open(&args.out, args.site.as_deref())?;
    let mut session = args.at.connect(ui)?;
    let then = if args.leave { Then::Leave } else { Then::Delete };
    let bar = ui.bar("pictures");
    let outcome = session.pull(&field, then, |p| match p {
        PullProgress::Pictures { done, total } => {
            bar.set_length(total);
            bar.set_position(done);
        }
        PullProgress::Predictions { done } => {
            bar.set_message("predictions");
            bar.set_position(done);
        }
    });
    bar.finish_and_clear();
    let report = outcome?;
    for left in &report.left {
        ui.note(&format!("left on the device: {left}"));
    }
    if args.json {
        return ui.json(&report);
    }
    let out = field.root().display();
    ui.line(&format!(
        "{}: {} of {} pictures came, {} were here; {} deleted on the device; {} predictions; {} bytes on the wire, {:.1} s",
        report.device,
        report.brought,
        report.kept,
        report.known,
        report.deleted,
        report.predictions,
        report.wire_bytes,
        report.seconds
    ))?;
    match report.brought + report.known {
        0 if report.kept == 0 && report.predictions > 0 => {
            ui.line("the device keeps no pictures; `pictures = \"unsure\"` in its graftd.toml has it keep some")
        }
        0 => Ok(()),
        _ => ui.line(&format!("next: graft label {out}")),
    }
}
