//! `graft flash`: sends a bundle to a device.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use graft_bundle::Bundle;
use graft_deploy::{Address, FlashProgress, FlashReport, Session};

use crate::ui::Ui;

/// Send a bundle to a device
///
/// Writes BUNDLE into the slot that is not running, has the device check it, and starts it. Only chunks that the device
/// has not travel; a flash that was cut off goes on where it was. A device that refuses goes on as before. Exit codes:
/// 3 the device cannot be reached (try again), 4 it refused.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  graft flash leaves.graft --device /dev/ttyUSB0
  graft flash leaves.graft --device '/dev/ttyS0?baud=57600'
  graft flash leaves.graft --device tcp://raspberrypi.local:7878 --json")]
pub(crate) struct Args {
    /// A file made by `graft pack`
    bundle: PathBuf,
    #[command(flatten)]
    at: At,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Where a device is.
#[derive(Debug, clap::Args)]
pub(crate) struct At {
    /// /dev/ttyUSB0, /dev/ttyS0?baud=57600, COM3 or tcp://host:port
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) device: Address,
    /// Seconds to wait for an answer
    #[arg(long, default_value_t = 10.0)]
    pub(crate) timeout: f64,
}

impl At {
    pub(crate) fn connect(&self, ui: &Ui) -> Result<Session> {
        let patience = Duration::try_from_secs_f64(self.timeout).context("reading --timeout")?;
        Ok(Session::connect(&self.device, patience, Some(Arc::clone(&ui.stop)))?)
    }
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let bundle =
        Bundle::open(&args.bundle).with_context(|| format!("cannot use {} as a bundle", args.bundle.display()))?;
    let mut session = args.at.connect(ui)?;
    let report = flash(&mut session, &bundle, ui)?;
    if args.json {
        return ui.json(&report);
    }
    ui.line(&describe(&report))
}

/// Flashes with a progress bar.
pub(crate) fn flash(session: &mut Session, bundle: &Bundle, ui: &Ui) -> Result<FlashReport> {
    let bar = ui.bar("sending");
    let report = session.flash(bundle, |p| match p {
        FlashProgress::Sending { done, total } => {
            bar.set_length(total);
            bar.set_position(done);
        }
        FlashProgress::Device { text, done, total } => {
            bar.set_message(format!("device: {text}"));
            bar.set_length(total.into());
            bar.set_position(done.into());
        }
    });
    bar.finish_and_clear();
    Ok(report?)
}

pub(crate) fn describe(r: &FlashReport) -> String {
    format!(
        "slot {} runs: {} of {} chunks sent, {} bytes of bundle, {} on the wire, {:.1} s; {} golden samples within {:.2e}, {:.1} ms on the device",
        r.slot,
        r.chunks_sent,
        r.chunks_total,
        r.payload_bytes,
        r.wire_bytes,
        r.seconds,
        r.self_test_samples,
        r.self_test_max_abs_diff,
        r.device_latency_ms
    )
}
