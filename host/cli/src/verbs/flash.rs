//! `graft flash`: sends a bundle to a device.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use graft_bundle::{Bundle, PublicKey, SecretKey};
use graft_deploy::{Address, FlashProgress, FlashReport, Session};
use indicatif::{ProgressBar, ProgressStyle};

use crate::ui::Ui;

/// Send a bundle to a device
///
/// Writes BUNDLE into the slot that is not running, has the device check it, and starts it. Only chunks that the device
/// has not travel; a flash that was cut off, by Ctrl-C too, goes on where it was. A bundle that does not fit is refused
/// before anything is written, and a device that refuses goes on as before. A serial line begins at 115200 baud (?baud=)
/// and goes up to the fastest rate that it carries (?max=). Exit codes: 3 the device cannot be reached (try again), 4 it
/// refused.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  graft flash leaves.graft --device /dev/ttyUSB0
  graft flash leaves.graft
  graft flash leaves.graft --device '/dev/ttyS0?baud=57600&max=460800'
  graft flash leaves.graft --device file:/media/pi/rootfs
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

/// Where a device is, and who asks.
#[derive(Debug, clap::Args)]
pub(crate) struct At {
    /// /dev/ttyUSB0, /dev/ttyS0?baud=57600&max=460800, COM3, tcp://host:port, unix:/path, or file:DIR for a mounted card
    /// [default: the one device that answers]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) device: Option<Address>,
    #[command(flatten)]
    pub(crate) manner: Manner,
}

/// How a device is asked.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Manner {
    /// Seconds to wait for an answer
    #[arg(long, default_value_t = 10.0)]
    pub(crate) timeout: f64,
    /// Refuse a device that does not prove to have this key (see `graft device info`)
    #[arg(long, value_name = "KEY")]
    pub(crate) expect: Option<PublicKey>,
    /// The key that a device with trusted_hosts knows you by, made by `graft key new`
    #[arg(long, value_name = "KEYFILE")]
    pub(crate) host_key: Option<PathBuf>,
}

/// A session, and the card that it may go to.
pub(crate) struct Connected {
    // Dropped first: the card waits for its end.
    session: Session,
    #[cfg(target_os = "linux")]
    _card: Option<crate::card::Card>,
}

impl Deref for Connected {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl DerefMut for Connected {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}

impl At {
    pub(crate) fn connect(&self, ui: &Ui) -> Result<Connected> {
        let patience = Duration::try_from_secs_f64(self.manner.timeout).context("reading --timeout")?;
        let key = self.manner.host_key.as_deref().map(SecretKey::load).transpose()?;
        let mut connected = self.reach(patience, ui)?;
        if key.is_some() || self.manner.expect.is_some() {
            connected.authenticate(self.manner.expect, key.as_ref())?;
        }
        Ok(connected)
    }

    fn reach(&self, patience: Duration, ui: &Ui) -> Result<Connected> {
        let address = match &self.device {
            Some(address) => address.clone(),
            None => {
                let address = graft_deploy::discover(&ui.stop)?;
                ui.note(&format!("the device at {address}"));
                address
            }
        };
        #[cfg(target_os = "linux")]
        if let Address::Folder(folder) = &address {
            let (session, card) = crate::card::Card::open(folder, patience)?;
            return Ok(Connected { session, _card: Some(card) });
        }
        let session = Session::connect(&address, patience, Some(Arc::clone(&ui.stop)))?;
        Ok(Connected {
            session,
            #[cfg(target_os = "linux")]
            _card: None,
        })
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
    let report = session.flash(bundle, |p| show(&bar, p));
    bar.finish_and_clear();
    Ok(report?)
}

/// Shows on a bar how far a bundle has come.
pub(crate) fn show(bar: &ProgressBar, progress: FlashProgress) {
    let (template, text, done, total) = match progress {
        FlashProgress::Sending { done, total } => {
            let template = "{msg:24} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
            (template, "sending".to_owned(), done, total)
        }
        FlashProgress::Device { text, done, total } => {
            ("{msg:24} {bar:30} {pos}/{len}", format!("device: {text}"), done.into(), total.into())
        }
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(text);
    bar.set_length(total);
    bar.set_position(done);
}

pub(crate) fn describe(r: &FlashReport) -> String {
    let trial = match r.on_trial {
        Some(true) => {
            "\non trial: it stays once it has classified some pictures, or by `graft slot commit`; else the old one comes back"
        }
        _ => "",
    };
    format!(
        "slot {} runs: {} of {} chunks sent, {} bytes of bundle, {} on the wire, {:.1} s; {} golden samples within {:.2e}, {:.1} ms on the device{trial}",
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
