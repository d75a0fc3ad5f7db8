//! What a person sees: results on standard output; progress, notes and errors on standard error.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use graft_train::transfer::Event;
use indicatif::{ProgressBar, ProgressStyle};

/// The terminal, and the flag that Ctrl-C raises.
pub(crate) struct Ui {
    pub(crate) stop: Arc<AtomicBool>,
}

impl Ui {
    pub(crate) fn new() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        ctrlc::set_handler(move || {
            // The second one does not wait: files are written whole or not at all.
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(1);
            }
        })
        .context("listening for Ctrl-C")?;
        Ok(Self { stop })
    }

    /// Starts a bar, which draws itself on a terminal only.
    pub(crate) fn bar(&self, what: &str) -> ProgressBar {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{msg:24} {bar:40} {pos}/{len} {eta}") {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar
    }

    /// Starts a bar for each stage of training, and tells what moves them.
    pub(crate) fn stages(&self) -> (Vec<ProgressBar>, impl Fn(&Event<'_>) + use<>) {
        let bars: Vec<ProgressBar> = ["features", "head", "frozen stages", "fine-tuning"].map(|s| self.bar(s)).into();
        let shown = bars.clone();
        let show = move |event: &Event<'_>| {
            let &Event::Progress { stage, done, of } = event else { return };
            moves(&shown[stage as usize])(done, of);
        };
        (bars, show)
    }

    /// Prints a line of the result; a closed pipe (`| head`) is no error.
    pub(crate) fn line(&self, text: &str) -> Result<()> {
        match writeln!(io::stdout(), "{text}") {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.context("writing to standard output"),
        }
    }

    pub(crate) fn json(&self, value: &impl serde::Serialize) -> Result<()> {
        self.line(&serde_json::to_string_pretty(value)?)
    }

    pub(crate) fn note(&self, text: &str) {
        eprintln!("{text}");
    }

    /// Lists pictures that were left out, the first few by name.
    pub(crate) fn skipped<'a>(&self, bad: impl Iterator<Item = (&'a Path, &'a str)> + Clone) {
        let count = bad.clone().count();
        for (path, reason) in bad.take(5) {
            self.note(&format!("skipped {}: {reason}", path.display()));
        }
        if count > 5 {
            self.note(&format!("skipped {} more; `graft data check` lists all", count - 5));
        }
    }

    pub(crate) fn error(&self, error: &anyhow::Error) {
        let mut causes = error.chain();
        if let Some(first) = causes.next() {
            eprintln!("error: {first}");
        }
        for cause in causes {
            eprintln!("  because {cause}");
        }
    }
}

/// Returns what moves a bar: it is told what is done, and of how much.
pub(crate) fn moves(bar: &ProgressBar) -> impl Fn(usize, usize) + use<> {
    let bar = bar.clone();
    move |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    }
}
