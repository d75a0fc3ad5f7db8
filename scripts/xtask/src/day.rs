//! `cargo xtask day`: a day of pictures through the real graftd in minutes, and whether its memory, its disk and its books stay in
//! order.
//!
//! The daemon's clocks run ahead with the pictures (`source = "replay:…"`), so that what it does by the hour or the minute it does
//! as often as on that day. Knows of the daemon what it tells on its status socket, and of its process what the kernel does.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};
use graft_bundle::Bundle;
use serde::Serialize;
use serde_json::Value;

use crate::{cargo_command, program, target_folder};

/// Let a day of pictures pass through graftd in minutes
///
/// Has `graft demo` make a bundle and pictures of generated leaves, unless they are given, and runs graftd on them over and over,
/// with a store that is too small for the day. Fails where memory grows, the store goes over its limit, or a picture is not
/// accounted for. Bytes are those of the process, as the kernel counts them.
///
/// Examples:
///   cargo xtask day
///   cargo xtask day --frames 600 --hours 1
///   cargo xtask day --bundle leaves.graft --pictures photos --graftd target/device/graftd --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Pictures of the day
    #[arg(long, default_value_t = 50_000)]
    frames: u64,
    /// How long the day is
    #[arg(long, default_value_t = 24)]
    hours: u32,
    /// The room for predictions and pictures
    #[arg(long, default_value_t = 12)]
    store_mb: u64,
    /// A bundle to run instead of the demo's
    #[arg(long, value_name = "FILE", requires = "pictures")]
    bundle: Option<PathBuf>,
    /// A folder of pictures instead of the demo's
    #[arg(long, value_name = "FOLDER", requires = "bundle")]
    pictures: Option<PathBuf>,
    /// A graft to use instead of building one
    #[arg(long, value_name = "PROGRAM")]
    graft: Option<PathBuf>,
    /// A graftd to use instead of building one
    #[arg(long, value_name = "PROGRAM")]
    graftd: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What the day came to.
#[derive(Debug, Serialize)]
struct Day {
    frames: u64,
    hours: u32,
    seconds: f64,
    /// Mean resident memory in the first and the last hour, and the most at any time.
    first_hour_mb: f64,
    last_hour_mb: f64,
    most_mb: f64,
    store_most_bytes: u64,
    store_limit_bytes: u64,
    /// Given to the system, and sent to the disk by it, in all the day.
    written_bytes: u64,
    disk_bytes: u64,
    /// What the daemon tells in the end.
    status: Value,
}

/// One look at the daemon.
struct Sample {
    seen: u64,
    resident_bytes: u64,
    store_bytes: u64,
}

const LOOK: Duration = Duration::from_millis(200);
/// For the daemon to start, or to take the next picture.
const PATIENCE: Duration = Duration::from_secs(60);
/// More memory in the last hour than in the first is growth.
const GROWTH: (f64, f64) = (1.05, 2.0);

pub(crate) fn run(args: &Args) -> Result<()> {
    let folder = target_folder()?.join("day");
    // Of another day nothing must be counted.
    let root = folder.join("root");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
    let graftd = match &args.graftd {
        Some(program) => program.clone(),
        None => program::build(release(&["--package", "graft-agent", "--bin", "graftd"]), &[])?,
    };
    let (bundle, pictures) = match (&args.bundle, &args.pictures) {
        (Some(bundle), Some(pictures)) => (bundle.clone(), absolute(pictures)?),
        _ => demo(args, &folder)?,
    };
    let key = Bundle::open(&bundle).with_context(|| format!("opening {}", bundle.display()))?.head().key();
    let trusted: Vec<String> = key.iter().map(ToString::to_string).collect();
    let config = folder.join("graftd.toml");
    let text = format!(
        "name = \"day\"\nroot = \"root\"\nallow_unsigned = true\ntrusted_keys = {trusted:?}\npictures = \"unsure\"\nunsure_below = 0.9\nvote = 3\n\
         max_store_mb = {}\nmetrics = \"root/graft.prom\"\nsource = {:?}\n",
        args.store_mb,
        format!("replay:{}?frames={}&hours={}", pictures.display(), args.frames, args.hours)
    );
    fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
    let taken = Command::new(&graftd).arg("factory").arg(&bundle).arg("--config").arg(&config).status();
    ensure!(taken.context("starting graftd")?.success(), "expected graftd to take {}", bundle.display());
    let mut daemon = Daemon::start(&graftd, &config)?;
    let day = Day::watch(args, &mut daemon, &root);
    daemon.stop()?;
    let day = day?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&day)?);
    } else {
        day.print();
    }
    day.check(&root)
}

fn release(arguments: &[&str]) -> Command {
    let mut command = cargo_command(&["build", "--locked", "--release"]);
    command.args(arguments);
    command
}

/// Has `graft demo` make a bundle and pictures.
fn demo(args: &Args, folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let out = folder.join("demo");
    let (bundle, pictures) = (out.join("leaves.graft"), folder.join("pictures"));
    if !bundle.exists() {
        let graft = match &args.graft {
            Some(program) => program.clone(),
            None => program::named(release(&["--package", "graft-cli", "--bin", "graft"]), "graft")?,
        };
        let mut command = Command::new(graft);
        command.args(["demo", "--per-class", "12", "--test-per-class", "12", "--epochs", "1", "--out"]).arg(&out);
        let status = command.stdout(Stdio::null()).status().context("starting graft")?;
        ensure!(status.success(), "expected {command:?} to succeed, found {status}");
    }
    // One folder for all classes.
    let _ = fs::remove_dir_all(&pictures);
    fs::create_dir_all(&pictures).with_context(|| format!("making {}", pictures.display()))?;
    for class in fs::read_dir(out.join("leaves/test")).context("listing the demo's leaves")? {
        let class = class?;
        for picture in fs::read_dir(class.path()).context("listing the demo's leaves")? {
            let picture = picture?;
            let name = format!("{}-{}", class.file_name().display(), picture.file_name().display());
            fs::copy(picture.path(), pictures.join(name)).context("copying a leaf")?;
        }
    }
    Ok((bundle, absolute(&pictures)?))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("looking for {}", path.display()))
}

/// A graftd that runs.
struct Daemon(Child);

impl Daemon {
    fn start(graftd: &Path, config: &Path) -> Result<Self> {
        let mut command = Command::new(graftd);
        command.arg("run").arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Self(command.spawn().with_context(|| format!("starting {command:?}"))?))
    }

    /// Has it end as systemd does, and waits for it.
    fn stop(&mut self) -> Result<()> {
        let id = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.0.try_wait().context("waiting for graftd")? {
                ensure!(status.success(), "expected graftd to end well, found {status}");
                return Ok(());
            }
            thread::sleep(LOOK);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
        bail!("expected graftd to end within {PATIENCE:?} of SIGTERM, found that it does not")
    }

    /// Reads a number of a file of the kernel's about the process.
    fn number(&self, file: &str, key: &str) -> Result<u64> {
        let path = format!("/proc/{}/{file}", self.0.id());
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}; has graftd ended?"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        number.with_context(|| format!("expected {key} in {path}, found none"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks the daemon how it is; none: it does not answer yet.
fn ask(root: &Path) -> Result<Option<Value>> {
    let Ok(mut stream) = UnixStream::connect(root.join("status.sock")) else { return Ok(None) };
    let mut json = vec![];
    stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.read_to_end(&mut json)).context("asking graftd")?;
    serde_json::from_slice(&json).context("reading what graftd tells").map(Some)
}

fn count(status: &Value, path: &str) -> Result<u64> {
    status.pointer(path).and_then(Value::as_u64).with_context(|| format!("expected {path} in the status, found none"))
}

impl Day {
    /// Looks at the daemon until its day is over.
    fn watch(args: &Args, daemon: &mut Daemon, root: &Path) -> Result<Self> {
        let start = Instant::now();
        let (mut samples, mut moved): (Vec<Sample>, _) = (vec![], Instant::now());
        let status = loop {
            ensure!(moved.elapsed() < PATIENCE, "expected a picture within {PATIENCE:?}, found none");
            let Some(status) = ask(root)? else {
                thread::sleep(LOOK);
                continue;
            };
            let seen = count(&status, "/frames/seen")?;
            if samples.last().is_none_or(|s| s.seen < seen) {
                moved = Instant::now();
            }
            let resident_bytes = daemon.number("status", "VmRSS:")? * 1024;
            samples.push(Sample { seen, resident_bytes, store_bytes: folder_bytes(&root.join("store")) });
            if seen >= args.frames && count(&status, "/frames/waiting")? == 0 && status["camera"] == "ended" {
                break status;
            }
            thread::sleep(LOOK);
        };
        let hour = args.frames / u64::from(args.hours.max(1));
        let mean = |within: &dyn Fn(&&Sample) -> bool| {
            let found: Vec<f64> = samples.iter().filter(within).map(|s| s.resident_bytes as f64 / 1e6).collect();
            found.iter().sum::<f64>() / found.len().max(1) as f64
        };
        // Before the first pictures there is nothing to compare with.
        let first_hour_mb = mean(&|s| s.seen > hour / 4 && s.seen <= hour.max(args.frames / 10));
        Ok(Self {
            frames: args.frames,
            hours: args.hours,
            seconds: start.elapsed().as_secs_f64(),
            first_hour_mb,
            last_hour_mb: mean(&|s| s.seen > args.frames - hour),
            most_mb: samples.iter().map(|s| s.resident_bytes).max().unwrap_or(0) as f64 / 1e6,
            store_most_bytes: samples.iter().map(|s| s.store_bytes).max().unwrap_or(0),
            store_limit_bytes: count(&status, "/store/limit_bytes")?,
            written_bytes: daemon.number("io", "wchar:")?,
            disk_bytes: daemon.number("io", "write_bytes:")?,
            status,
        })
    }

    fn print(&self) {
        let of = |path: &str| self.status.pointer(path).cloned().unwrap_or_default();
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        println!("| {} pictures, {} hours in {:.0} s | |\n|---|---|", self.frames, self.hours, self.seconds);
        println!(
            "| resident memory, first and last hour, most | {:.1}, {:.1}, {:.1} MB |",
            self.first_hour_mb, self.last_hour_mb, self.most_mb
        );
        println!(
            "| pictures seen = classified + dropped + refused | {} = {} + {} + {} |",
            of("/frames/seen"),
            of("/frames/classified"),
            of("/frames/dropped"),
            of("/frames/refused")
        );
        println!(
            "| pictures kept = in the store + gave way | {} = {} + {} |",
            of("/store/pictures/kept"),
            of("/store/pictures/here"),
            of("/store/pictures/evicted")
        );
        println!(
            "| store, at most, of | {:.2} of {:.2} MB |",
            megabytes(self.store_most_bytes),
            megabytes(self.store_limit_bytes)
        );
        println!(
            "| written in the day, of it sent to the disk in blocks | {:.1}, {:.1} MB |",
            megabytes(self.written_bytes),
            megabytes(self.disk_bytes)
        );
    }

    fn check(&self, root: &Path) -> Result<()> {
        let of = |path: &str| count(&self.status, path);
        let seen = of("/frames/seen")?;
        let fates =
            of("/frames/classified")? + of("/frames/dropped")? + of("/frames/refused")? + of("/frames/skipped")?;
        ensure!(
            seen == self.frames && fates == seen,
            "expected all of {} pictures, found {seen} seen and {fates} accounted for",
            self.frames
        );
        let (kept, here) = (of("/store/pictures/kept")?, of("/store/pictures/here")?);
        let gone = of("/store/pictures/evicted")? + of("/store/pictures/forgotten")?;
        let files = fs::read_dir(root.join("store/pictures")).map_or(0, |entries| entries.count() as u64);
        ensure!(
            kept == here + gone,
            "expected {kept} kept pictures to be here or to have given way, found {here} and {gone}"
        );
        ensure!(files == here, "expected {here} pictures in the store, found {files} files");
        ensure!(
            self.store_most_bytes <= self.store_limit_bytes,
            "expected at most {} bytes in the store, found {}",
            self.store_limit_bytes,
            self.store_most_bytes
        );
        let allowed = self.first_hour_mb * GROWTH.0 + GROWTH.1;
        ensure!(
            self.last_hour_mb <= allowed,
            "expected at most {allowed:.1} MB in the last hour, found {:.1}, and {:.1} in the first",
            self.last_hour_mb,
            self.first_hour_mb
        );
        Ok(())
    }
}

/// Returns the bytes of the files below a folder, some of which may come and go.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(m) if m.is_dir() => folder_bytes(&entry.path()),
        Ok(m) => m.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}
