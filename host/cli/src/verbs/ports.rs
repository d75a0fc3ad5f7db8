//! `graft ports`: the serial ports of this machine.

use anyhow::{Context, Result};

use crate::ui::Ui;

/// List serial ports, USB first
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  graft ports --json")]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let ports = graft_deploy::ports().context("listing serial ports")?;
    if args.json {
        return ui.json(&ports);
    }
    if ports.is_empty() {
        ui.note("no serial port found; plug in the cable, or use tcp://host:port");
    }
    for p in ports {
        ui.line(&format!("{:20} {:10} {}", p.address, p.kind, p.description))?;
    }
    Ok(())
}
