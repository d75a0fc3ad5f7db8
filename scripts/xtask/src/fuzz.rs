//! `cargo xtask fuzz`: what a device reads from outside, fed with what libFuzzer finds.
//!
//! The targets are those of `tests/fuzz`, laid out for cargo-fuzz. They are built here without it, because the stable compiler
//! has all that it takes: cargo-fuzz's own flags for `--sanitizer none`. Nothing is written into the repository but by `--keep`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::cross::answer;
use crate::{cargo_command, root, target_folder};

/// Feed what a device reads from outside with what a fuzzer finds
///
/// Each target begins with seeds that graft's own writers make, the corpus in tests/fuzz/corpus, and what earlier runs found
/// (target/fuzz/found). A panic of graft's own ends a target even where the program would catch it; so do what takes too long,
/// too much memory, or more than the target's promise. One of another crate that graft catches is counted.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Targets; all where none is named
    targets: Vec<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 15)]
    seconds: u32,
    /// Watch memory with AddressSanitizer too, which has the compiler take a flag of nightly's
    #[arg(long)]
    address: bool,
    /// Put what was found, minimised, into tests/fuzz/corpus instead of running
    #[arg(long)]
    keep: bool,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

/// A target and the longest input that is tried, in bytes: a few times the longest seed.
const TARGETS: [(&str, usize); 12] = [
    ("frame", 20_000),
    ("message", 4096),
    ("channel", 4096),
    ("manifest", 16_384),
    ("bundle", 16_384),
    ("rows", 32_768),
    ("packed", 32_768),
    ("onnx", 8192),
    ("picture", 16_384),
    ("config", 4096),
    ("store", 4096),
    ("device", 4096),
];
/// Those that are built without the engine, where no other is asked for: in a fraction of the time.
const LIGHT: [&str; 6] = ["frame", "message", "channel", "manifest", "bundle", "rows"];
/// Most seconds for one input, most megabytes at once and in all: the largest activation that a model may have takes 1024.
const LIMITS: [&str; 3] = ["-timeout=20", "-malloc_limit_mb=1100", "-rss_limit_mb=2600"];
/// What cargo-fuzz passes.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";
const FLAGS_LINUX: &str = " -Cllvm-args=-sanitizer-coverage-stack-depth";
const FLAGS_ADDRESS: &str = " -Zsanitizer=address";
/// Most bytes of a target's corpus that are kept, and most files.
const MOST_KEPT: u64 = 48_000;
const MOST_FILES: usize = 64;
/// Where the targets are, from the root.
const PACKAGE: &str = "tests/fuzz";

pub(crate) fn run(args: &Args) -> Result<()> {
    let targets = chosen(&args.targets)?;
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    if let Err(reason) = answer(Command::new(&compiler).arg("--version")) {
        println!("skipped: no C++ compiler, which libFuzzer needs ({reason:#}); `apt install g++`, or name one in CXX");
        return Ok(());
    }
    let is_light = targets.iter().all(|(name, _)| LIGHT.contains(name));
    let bench = Bench::build(args.address, if is_light { &["--no-default-features"] } else { &[] })?;
    let mut rows = Vec::new();
    for &(name, longest) in &targets {
        let target = Target { bench: &bench, name, longest };
        target.seed()?;
        if args.keep {
            target.keep()?;
        } else {
            eprintln!("fuzzing {name} for {} s", args.seconds);
            rows.push(target.fuzz(args.seconds)?);
        }
    }
    if args.keep {
        return Ok(());
    }
    print(&rows, args.json)?;
    let findings: Vec<&str> = rows.iter().filter_map(|row| row.finding.as_deref()).collect();
    if findings.is_empty() {
        return Ok(());
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    bail!("expected no finding, found {}", findings.len())
}

fn chosen(names: &[String]) -> Result<Vec<(&'static str, usize)>> {
    if names.is_empty() {
        return Ok(TARGETS.to_vec());
    }
    let find = |name: &String| TARGETS.into_iter().find(|t| t.0 == name);
    let known = || TARGETS.map(|t| t.0).join(", ");
    names.iter().map(|name| find(name).with_context(|| format!("expected one of {}, found {name}", known()))).collect()
}

/// One target's run.
#[derive(Debug, Serialize)]
struct Row {
    target: &'static str,
    executions: u64,
    seconds: f64,
    per_second: f64,
    peak_rss_mb: u64,
    /// Places in crates of others that panicked and were caught.
    guarded: Vec<String>,
    /// What ended the target, and how to see it again.
    finding: Option<String>,
}

fn print(rows: &[Row], is_json: bool) -> Result<()> {
    if is_json {
        println!("{}", serde_json::to_string_pretty(rows)?);
        return Ok(());
    }
    println!(
        "| Target | executions | s | a second | peak, MB | guarded panics | findings |\n|---|---|---|---|---|---|---|"
    );
    for row in rows {
        let Row { target, executions, seconds, per_second, peak_rss_mb, guarded, finding } = row;
        let (guarded, found) = (guarded.len(), usize::from(finding.is_some()));
        println!("| {target} | {executions} | {seconds:.0} | {per_second:.0} | {peak_rss_mb} | {guarded} | {found} |");
    }
    for place in rows.iter().flat_map(|row| &row.guarded) {
        println!("guarded: {place}");
    }
    Ok(())
}

/// Where the programs and what they find lie.
struct Bench {
    programs: PathBuf,
    folder: PathBuf,
}

impl Bench {
    /// Builds all targets that these features allow.
    fn build(address: bool, features: &[&str]) -> Result<Self> {
        let folder = target_folder()?.join("fuzz");
        let facts = answer(Command::new("rustc").arg("-vV"))?;
        let host = facts.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc tells no host")?;
        let built = folder.join(if address { "address" } else { "build" });
        let mut flags = FLAGS.to_owned();
        flags.push_str(if host.contains("-linux-") { FLAGS_LINUX } else { "" });
        flags.push_str(if address { FLAGS_ADDRESS } else { "" });
        // For a named target, so that programs of the build itself are built without the flags.
        let mut command = cargo_command(&["build", "--locked", "--bins", "--target", host, "--target-dir"]);
        command
            .arg(&built)
            .args(features)
            .args(["--manifest-path", &format!("{PACKAGE}/Cargo.toml")])
            .env("RUSTFLAGS", flags);
        if address {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        crate::run(&mut command)?;
        Ok(Self { programs: built.join(host).join("debug"), folder })
    }
}

/// One of the targets.
struct Target<'a> {
    bench: &'a Bench,
    name: &'static str,
    longest: usize,
}

impl Target<'_> {
    /// Makes a folder of the target's for `what`.
    fn folder(&self, what: &str) -> Result<PathBuf> {
        let folder = self.bench.folder.join(what).join(self.name);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(folder)
    }

    fn program(&self) -> PathBuf {
        self.bench.programs.join(self.name)
    }

    /// Returns the folder of what is kept in the repository.
    fn corpus(&self) -> PathBuf {
        root().join(PACKAGE).join("corpus").join(self.name)
    }

    /// Returns a command of the target's with its limits.
    fn command(&self) -> Command {
        let mut command = Command::new(self.program());
        command.current_dir(root()).args(LIMITS).arg(format!("-max_len={}", self.longest));
        let words = root().join(PACKAGE).join("dictionaries").join(self.name);
        if words.exists() {
            command.arg(format!("-dict={}", words.display()));
        }
        command
    }

    /// Has the target write its seeds anew.
    fn seed(&self) -> Result<()> {
        let folder = emptied(self.folder("seeds")?)?;
        let mut command = Command::new(self.program());
        command.env("GRAFT_FUZZ_SEEDS", folder).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().with_context(|| format!("starting {}", self.program().display()))?;
        ensure!(status.success(), "expected {} to write its seeds, found {status}", self.name);
        Ok(())
    }

    fn fuzz(&self, seconds: u32) -> Result<Row> {
        let crashes = self.folder("findings")?;
        let log = self.bench.folder.join(format!("{}.log", self.name));
        let output = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let mut command = self.command();
        command.arg(format!("-max_total_time={seconds}")).arg("-print_final_stats=1");
        command.arg(format!("-artifact_prefix={}/", crashes.display()));
        // What is found goes into the first.
        command.args([self.folder("found")?, self.folder("seeds")?]);
        command.args(Some(self.corpus()).filter(|corpus| corpus.exists()));
        let start = Instant::now();
        let status = command.stdout(output.try_clone()?).stderr(output).status().context("starting a target")?;
        let seconds = start.elapsed().as_secs_f64();
        let text = fs::read(&log).with_context(|| format!("reading {}", log.display()))?;
        let Told { executions, peak_rss_mb, guarded, input } = Told::of(&String::from_utf8_lossy(&text));
        let finding = (!status.success()).then(|| {
            let again = match &input {
                Some(input) => format!("`{} {input}` shows it again", self.program().display()),
                None => "it left no input".to_owned(),
            };
            format!("{}: {status}; what it said is in {}; {again}", self.name, log.display())
        });
        let per_second = executions as f64 / seconds;
        Ok(Row { target: self.name, executions, seconds, per_second, peak_rss_mb, guarded, finding })
    }

    /// Keeps of what was found the least that reaches as much, beyond what the seeds reach.
    fn keep(&self) -> Result<()> {
        let (seeds, merged) = (self.folder("seeds")?, emptied(self.folder("merged")?)?);
        for (name, path, _) in files(&seeds)? {
            fs::copy(path, merged.join(name)).context("copying a seed")?;
        }
        let mut command = self.command();
        command.arg("-merge=1").args([&merged, &self.folder("found")?]);
        command.args(Some(self.corpus()).filter(|corpus| corpus.exists()));
        crate::run(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
        let mut found = files(&merged)?;
        found.retain(|(name, ..)| !seeds.join(name).exists());
        // Evenly from the shortest to the longest: the short ones alone come no further than a first check.
        found.sort_by_key(|(name, _, len)| (*len, name.clone()));
        let step = found.len().div_ceil(MOST_FILES).max(1);
        let corpus = self.corpus();
        fs::create_dir_all(&corpus).with_context(|| format!("making {}", corpus.display()))?;
        let corpus = emptied(corpus)?;
        let (mut bytes, mut kept) = (0, 0);
        for (name, path, len) in found.into_iter().step_by(step) {
            if bytes + len <= MOST_KEPT {
                fs::copy(path, corpus.join(name)).context("keeping an input")?;
                (bytes, kept) = (bytes + len, kept + 1);
            }
        }
        println!("{}: {kept} inputs of {bytes} bytes kept", self.name);
        Ok(())
    }
}

/// What libFuzzer and a target said.
#[derive(Debug, PartialEq)]
struct Told {
    executions: u64,
    peak_rss_mb: u64,
    guarded: Vec<String>,
    /// What ended the target.
    input: Option<String>,
}

impl Told {
    fn of(text: &str) -> Self {
        let after = |mark: &str| -> Vec<String> {
            text.lines().filter_map(|line| Some(line.split_once(mark)?.1.trim().to_owned())).collect()
        };
        let number = |mark: &str| after(mark).last().and_then(|n| n.parse().ok()).unwrap_or(0);
        Self {
            executions: number("stat::number_of_executed_units:"),
            peak_rss_mb: number("stat::peak_rss_mb:"),
            guarded: after("guarded panic: "),
            input: after("Test unit written to ").pop(),
        }
    }
}

/// Returns name, path and length of the files in a folder.
fn files(folder: &Path) -> Result<Vec<(String, PathBuf, u64)>> {
    let doing = || format!("listing {}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(doing)? {
        let entry = entry.with_context(doing)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.push((name, entry.path(), entry.metadata().with_context(doing)?.len()));
    }
    Ok(files)
}

/// Removes the files of a folder.
fn emptied(folder: PathBuf) -> Result<PathBuf> {
    for (_, path, _) in files(&folder)? {
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_target_said_is_understood() {
        let text = "INFO: Seed: 1\nguarded panic: tract-core-0.23.9/src/a.rs:7\n#2 NEW\n\
                    artifact_prefix='x/'; Test unit written to x/crash-1\nBase64: AA==\n\
                    stat::number_of_executed_units: 1234\nstat::peak_rss_mb:              56\n";
        let expected = Told {
            executions: 1234,
            peak_rss_mb: 56,
            guarded: vec!["tract-core-0.23.9/src/a.rs:7".to_owned()],
            input: Some("x/crash-1".to_owned()),
        };
        assert_eq!(Told::of(text), expected);
        let nothing = Told { executions: 0, peak_rss_mb: 0, guarded: vec![], input: None };
        assert_eq!(Told::of("Killed\n"), nothing);
    }

    #[test]
    fn every_target_is_known_and_there() {
        let folder = root().join(PACKAGE).join("fuzz_targets");
        let mut there: Vec<String> = files(&folder).unwrap().into_iter().map(|f| f.0).collect();
        let mut known = TARGETS.map(|t| format!("{}.rs", t.0)).to_vec();
        there.sort();
        known.sort();
        assert_eq!(known, there);
        assert!(chosen(&["frames".to_owned()]).unwrap_err().to_string().contains("frame, message"));
    }
}
