//! `graftd map`: hot spots in pictures that are larger than what the network sees, on the device.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use graft_runtime::{Model, Standing, TASK};
use graft_tiles::Answer;
use graft_tiles::verb::{Arguments, Subject, Teller, map};
use image::RgbImage;

use crate::agent::{Agent, Start};
use crate::config::Config;

/// What is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Map {
    #[command(flatten)]
    arguments: Arguments,
    /// An .onnx file or a bundle, instead of the bundle that runs here
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// The configuration
    #[arg(long, default_value = crate::command::DEFAULT)]
    config: PathBuf,
}

pub(crate) fn run(args: &Map) -> Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        // The second one does not wait: files are written whole or not at all.
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(1);
        }
    })
    .context("listening for signals")?;
    let model = match &args.model {
        Some(path) => Arc::new(Model::open(path).with_context(|| format!("loading model {}", path.display()))?),
        None => {
            let agent = Agent::open(Config::open(&args.config)?, Start::Looks)?;
            agent.job().map_err(|(_, message)| anyhow!(message))?.model()
        }
    };
    // Tags and values are the host's: nothing here tells them from classes but this.
    let task = model.metadata().get(TASK).map_or("classes", String::as_str);
    ensure!(task == "classes", "expected a model of classes, found one of {task}; map with graft on a host");
    let look = |tile: &RgbImage| {
        let found = model.classify_tile(tile).map_err(|e| e.to_string())?;
        Ok(Answer { probabilities: found.probabilities, is_unfamiliar: found.standing == Standing::Unfamiliar })
    };
    let subject = Subject {
        labels: model.labels(),
        side: model.preprocessing().crop,
        sure: model.decision().and_then(|d| d.sure).map(|s| s.at_least),
        is_one_of_all: true,
        look: &look,
    };
    let outcome = map(&args.arguments, &subject, &mut Shown { stop: &stop, begin: None, percent: 0 })?;
    if args.arguments.json {
        told(&serde_json::to_string_pretty(&outcome.summary)?);
    }
    match outcome.failure(&args.arguments) {
        Some(failure) => Err(anyhow!(failure)),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// The terminal, if there is one.
struct Shown<'a> {
    stop: &'a AtomicBool,
    begin: Option<Instant>,
    percent: usize,
}

impl Teller for Shown<'_> {
    fn progress(&mut self, picture: &str, done: usize, of: usize) -> ControlFlow<()> {
        let begin = *self.begin.get_or_insert_with(Instant::now);
        let percent = 100 * done / of.max(1);
        if percent != self.percent && done > 0 && std::io::stderr().is_terminal() {
            self.percent = percent;
            let left = begin.elapsed().mul_f64((of - done) as f64 / done as f64).as_secs();
            eprint!("\r{picture}  {percent} %, {left} s left   ");
        }
        if self.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn end(&mut self) {
        if self.begin.take().is_some() && std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
        self.percent = 0;
    }

    fn line(&mut self, text: &str) {
        told(text);
    }

    fn note(&mut self, text: &str) {
        eprintln!("{text}");
    }
}

/// Prints a line; a closed pipe has seen enough.
fn told(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
