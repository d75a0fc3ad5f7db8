//! The command line of `graftd`: run, once, map, status, check, factory, bench.

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use graft_bundle::Bundle;
use graft_camera::{Setting, Spec as Source};
use graft_link::messages::RefusalCode;
use graft_runtime::{Cache, Detail, EngineChoice, Network, Raw, Report, Settings};

use crate::agent::{Agent, Start};
use crate::config::Config;
use crate::feed::{Choice, Feed};
use crate::health::Health;
#[cfg(feature = "map")]
use crate::map;
use crate::ports::listen;
use crate::status;
use crate::supervisor::Supervisor;

/// Run a graft bundle on this device
///
/// Exit codes: 0 done, 1 failed, 2 usage, 3 no daemon runs, 4 refused (no bundle, or a picture that cannot be read).
#[derive(Debug, Parser)]
#[command(name = "graftd", version, after_help = EXAMPLES)]
enum Command {
    /// Serve hosts on the lines of the configuration, and classify what its source gives
    Run {
        /// The configuration
        #[arg(long, default_value = DEFAULT)]
        config: PathBuf,
    },
    /// Classify one picture and exit
    Once {
        /// A JPEG or PNG file
        image: PathBuf,
        /// The configuration
        #[arg(long, default_value = DEFAULT)]
        config: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Look at large pictures in tiles, and map what is found
    ///
    /// Rows are read as they are needed, and a picture never is in memory as a whole. The folder gets a map for each picture and
    /// of all of them spots.geojson, spots.csv and summary.json. What is taken, and what hot spots and positions are, is told by
    /// `graft map --help`, whose figures these are.
    #[cfg(feature = "map")]
    #[command(after_help = MAP_EXAMPLES)]
    Map(map::Map),
    /// Tell how the running daemon and the board are
    ///
    /// Asks the daemon by a socket in its folder, which its user and root may. Without a daemon the board is told of alone, and
    /// the exit code is 3.
    Status {
        /// The configuration
        #[arg(long, default_value = DEFAULT)]
        config: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check a configuration and say what would run
    Check {
        /// The configuration
        #[arg(long, default_value = DEFAULT)]
        config: PathBuf,
    },
    /// Put a bundle into the factory slot
    ///
    /// It runs when no other bundle may, and nothing overwrites it. It must pass its self-test here. The daemon must not be
    /// running meanwhile, and knows of it from its next start on.
    Factory {
        /// A file made by `graft pack`
        bundle: PathBuf,
        /// The configuration
        #[arg(long, default_value = DEFAULT)]
        config: PathBuf,
    },
    /// Time a network on this board
    ///
    /// Takes any ONNX file whose one input is a picture, or a bundle; the network alone is timed, without decoding and
    /// resizing. The figures are those of `graft bench`.
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(Bench),
}

#[derive(Debug, clap::Args)]
struct Bench {
    /// An .onnx file or a .graft bundle
    model: PathBuf,
    /// Threads that share the work of a picture
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Pictures in the network at the same time: shows throughput
    #[arg(long, default_value_t = 1)]
    pictures: usize,
    /// For how long
    #[arg(long, default_value_t = 3.0)]
    seconds: f32,
    /// Tell what each step of the network costs
    #[arg(long)]
    explain: bool,
    /// Keep the network in this folder as the kernels run it, and load it from there the next time
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) const DEFAULT: &str = "/etc/graft/graftd.toml";
const EXAMPLES: &str = "Examples:
  graftd check --config graftd.toml
  graftd run --config graftd.toml
  graftd once leaf.jpg --config graftd.toml --json
  graftd status --json
  graftd factory leaves.graft --config graftd.toml
  graftd bench leaves.onnx --threads 4";
#[cfg(feature = "map")]
const MAP_EXAMPLES: &str = "Examples:
  graftd map /media/card/DCIM/*.JPG --out maps --class rust --config graftd.toml
  graftd map field.tif --out maps --model leaves.graft --tile 448 --json";
const BENCH_EXAMPLES: &str = "Examples:
  graftd bench leaves.onnx --threads 4 --json
  graftd bench leaves.graft --explain";

/// Does what the arguments say; the first is the program's name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let outcome = match Command::parse_from(arguments) {
        Command::Run { config } => run(&config).map(|()| ExitCode::SUCCESS),
        Command::Once { image, config, json } => once(&image, &config, json),
        Command::Status { config, json } => tell_status(&config, json),
        #[cfg(feature = "map")]
        Command::Map(arguments) => map::run(&arguments),
        Command::Check { config } => check(&config).map(|()| ExitCode::SUCCESS),
        Command::Factory { bundle, config } => factory(&bundle, &config),
        Command::Bench(arguments) => bench(&arguments).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        error.chain().skip(1).for_each(|cause| eprintln!("  because {cause}"));
        ExitCode::FAILURE
    })
}

fn run(config: &Path) -> Result<()> {
    let config = Config::open(config)?;
    ensure!(
        !config.listen.is_empty() || config.source.is_some(),
        "expected at least one line in `listen`, or a `source`, found none; such as listen = [\"/dev/ttyS0?baud=115200\"]"
    );
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)).context("listening for signals")?;
    let supervisor = Supervisor::from_env().context("reaching the supervisor")?;
    let (lines, root, source) = (config.listen.clone(), config.root.clone(), config.source.clone());
    let choice = Choice {
        per_minute: config.frames_per_minute,
        warm_up: config.warm_up,
        silence: source.as_ref().and_then(Source::silence),
        is_live: source.as_ref().is_some_and(Source::is_live),
    };
    let mut agent = Agent::open(config, Start::Counts)?;
    let summary = agent.summary();
    eprintln!("graftd: {summary}");
    let feed = Arc::new(Feed::default());
    if source.is_some() {
        agent.attach(Arc::clone(&feed));
    }
    let turns = agent.turns();
    let agent = Mutex::new(agent);
    thread::scope(|scope| {
        let (agent, feed, stop, root): (_, _, &AtomicBool, _) = (&agent, &*feed, &stop, &root);
        for line in &lines {
            eprintln!("graftd: listening on {line}");
            scope.spawn(|| listen(line, agent, stop));
        }
        scope.spawn(|| status::tell(root, agent, stop));
        if let Some(source) = &source {
            eprintln!("graftd: pictures come from {source}");
            let memory = root.join(SEEN);
            scope.spawn(move || {
                let setting = Setting { memory: &memory, is_whole: graft_runtime::picture::is_whole };
                feed.read(&mut || source.open(setting), choice, stop);
            });
            scope.spawn(|| feed.work(agent, stop));
        }
        supervisor.ready(&summary);
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            // A daemon stuck in its work must not be fed: waiting for the agent lets the watchdog bite, and so does a picture
            // that takes too long.
            {
                let _waiting = turns.wait();
                agent.lock().unwrap_or_else(PoisonError::into_inner).tick();
            }
            if let Some(interval) = supervisor.interval()
                && Instant::now() >= next
                && !feed.is_stuck(interval)
            {
                supervisor.alive();
                next = Instant::now() + interval;
            }
            thread::sleep(Duration::from_millis(100));
        }
        supervisor.stopping();
    });
    Ok(())
}

/// In the device's folder: which files of a watched folder are done.
const SEEN: &str = "seen";

fn tell_status(config: &Path, json: bool) -> Result<ExitCode> {
    let root = Config::open(config)?.root;
    let found = status::ask(&root).with_context(|| format!("asking the daemon of {}", root.display()))?;
    let is_running = found.is_some();
    let status = match found {
        Some(status) => status,
        None => serde_json::json!({ "daemon": null, "health": Health::read(&root) }),
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", status::told(&status));
    }
    if !is_running {
        eprintln!("error: no daemon runs on {}; start it with: systemctl start graftd", root.display());
    }
    Ok(if is_running { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn once(image: &Path, config: &Path, json: bool) -> Result<ExitCode> {
    let mut agent = Agent::open(Config::open(config)?, Start::Looks)?;
    let len = std::fs::metadata(image).with_context(|| format!("reading {}", image.display()))?.len();
    let limit = graft_runtime::picture::MAX_FILE_LEN as u64;
    ensure!(len <= limit, "expected a picture of at most {limit} bytes, found {len} in {}", image.display());
    let bytes = std::fs::read(image).with_context(|| format!("reading {}", image.display()))?;
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let judged = match agent.classify(&name, &bytes) {
        Ok(found) => found,
        Err((code, message)) => {
            eprintln!("error: {message}");
            let refused = matches!(code, RefusalCode::NoModel | RefusalCode::Image);
            return Ok(if refused { ExitCode::from(4) } else { ExitCode::FAILURE });
        }
    };
    let found = &judged.classified;
    if json {
        let top: Vec<_> =
            found.top.iter().map(|(label, p)| serde_json::json!({ "label": label, "probability": p })).collect();
        let text = serde_json::json!({
            "image": image, "label": found.label, "probability": found.probability, "latency_ms": found.latency_ms, "top": top,
            "doubt": judged.doubt, "set": judged.set, "kept": judged.is_kept,
        });
        println!("{}", serde_json::to_string_pretty(&text)?);
    } else {
        println!("{}  {:.1} %  {:.0} ms", judged.answer(), 100.0 * found.probability, found.latency_ms);
    }
    Ok(ExitCode::SUCCESS)
}

fn check(path: &Path) -> Result<()> {
    let config = Config::open(path)?;
    for line in &config.listen {
        println!("listens on {line}");
    }
    if let Some(source) = &config.source {
        println!("takes pictures from {source}");
    }
    println!("trusts {} keys", config.trusted_keys.len());
    println!("{}", Agent::open(config, Start::Looks)?.summary());
    Ok(())
}

fn factory(bundle: &Path, config: &Path) -> Result<ExitCode> {
    let mut agent = Agent::open(Config::open(config)?, Start::Looks)?;
    let bundle = Bundle::open(bundle).with_context(|| format!("cannot use {} as a bundle", bundle.display()))?;
    match agent.fill_factory(&bundle) {
        Ok(test) => println!("the factory slot has {} ({} golden samples)", bundle.manifest().name, test.samples),
        Err((_, message)) => {
            eprintln!("error: {message}");
            return Ok(ExitCode::from(4));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn bench(arguments: &Bench) -> Result<()> {
    let detail = if arguments.explain { Detail::Steps } else { Detail::Whole };
    let Bench { threads, pictures, seconds, .. } = *arguments;
    let settings = Settings { threads, pictures, seconds, detail }.checked()?;
    let model = &arguments.model;
    let start = Instant::now();
    let network = match &arguments.cache {
        Some(folder) => Network::open_cached(model, EngineChoice::Best, &Cache::folder(folder)),
        None => Network::open(model, EngineChoice::Best),
    };
    let mut network = network.with_context(|| format!("loading model {}", model.display()))?;
    let load = start.elapsed();
    let picture = Raw::grey(&network);
    let report = Report::of(&mut network, load, picture.view(), settings)?;
    if let Some(note) = report.note() {
        eprintln!("{note}");
    }
    let text = if arguments.json { serde_json::to_string_pretty(&report)? } else { report.to_string() };
    match writeln!(std::io::stdout(), "{text}") {
        // `| head` has seen enough.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("writing to standard output"),
    }
}
