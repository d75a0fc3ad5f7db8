//! `graft ports`: the serial ports of this machine, and which of them a device answers on.

use anyhow::{Context, Result};
use graft_deploy::{Found, PROBE, Port};

use crate::ui::Ui;

/// List serial ports, USB first, and the devices that answer on them
///
/// Every port is opened and asked at once, for at most three seconds; adapters that restart a board when they are opened
/// do so. Where a port does not open, the command that mends it is told.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  graft ports
  graft ports --json
  graft ports --no-probe")]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Only list the ports; open none
    #[arg(long)]
    no_probe: bool,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let mut ports = graft_deploy::ports().context("listing serial ports")?;
    if !args.no_probe {
        graft_deploy::probe(&mut ports, PROBE, &ui.stop);
    }
    if args.json {
        return ui.json(&ports);
    }
    if ports.is_empty() {
        ui.note("no serial port found; plug in the cable, or use tcp://host:port");
    }
    for p in ports {
        ui.line(format!("{:20} {:10} {}", p.address, p.kind, adapter(&p)).trim_end())?;
        match &p.found {
            None => {}
            Some(Found::Device(d)) => {
                ui.line(&format!(
                    "    {} ({}), graftd {}, {} MB free",
                    d.name,
                    d.board,
                    d.version,
                    d.free_bytes / 1_000_000
                ))?;
                d.slots.iter().try_for_each(|slot| ui.line(&format!("    slot {slot}")))?;
            }
            Some(Found::Nothing { because }) => ui.line(&format!("    no device: {because}"))?,
            Some(Found::Trouble(t)) => {
                ui.line(&format!("    cannot be opened: {}", t.what))?;
                ui.line(&format!("    hint: {}", t.remedy))?;
            }
        }
    }
    Ok(())
}

fn adapter(port: &Port) -> String {
    let Some(usb) = &port.usb else { return String::new() };
    let words = [&usb.manufacturer, &usb.product, &usb.serial].into_iter().flatten();
    words.fold(format!("{:04x}:{:04x}", usb.vendor_id, usb.product_id), |all, word| format!("{all} {word}"))
}
