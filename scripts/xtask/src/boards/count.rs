//! Instructions of one picture through a whole network, in graft's kernels and in tract, on emulated processors.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cargo_command;
use crate::cross::{TARGET, Toolchain};

/// A processor, and what tract is told that it is, which it cannot find out here: `generic` are those that it does not know.
const PROCESSORS: [(&str, &str); 2] = [("cortex-a72", "a72"), ("cortex-a76", "generic")];

/// Engine, precision and file of each network. The first is what the others are compared with.
const NETWORKS: [(&str, &str, &str); 3] = [
    ("tract", "f32", "mobilenet_v2.onnx"),
    ("graft", "f32", "mobilenet_v2.onnx"),
    ("graft", "int8", "mobilenet_v2_int8.onnx"),
];

/// Dependencies without checks for overflow, as tract is built elsewhere.
const UNCHECKED: &str = "profile.release.package.\"*\".overflow-checks=false";

/// Largest difference of an answer in f32 from this machine's, as a share of its largest number.
const TOLERANCE: f32 = 1e-4;

/// Prints the instructions of each network on each processor, and checks that its answer is that of this machine.
pub(super) fn count(toolchain: &Toolchain) -> Result<()> {
    let plugin = toolchain.folder.join("count.so");
    crate::run(Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&plugin).arg("scripts/boards/count.c"))?;
    if !takes_plugins(&plugin) {
        println!(
            "counts skipped: expected a qemu-aarch64 that takes plugins, such as QEMU 7.2 of Debian 12, found none"
        );
        return Ok(());
    }
    let folder = toolchain.folder.join("counts");
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let target = toolchain.folder.parent().context("expected a folder in that of cargo's, found none")?;
    // Of the whole workspace: what `cargo test` has built is not built again.
    let writer = ["build", "--locked", "--workspace", "--example", "random_mobilenet", "--example", PROGRAM];
    crate::run(cargo_command(&writer).arg("--target-dir").arg(target))?;
    println!("building tract for a board, a quarter of an hour the first time");
    let release = ["build", "--locked", "--package", "graft-runtime", "--example", PROGRAM, "--release"];
    crate::run(toolchain.cargo(&release).args(["--config", UNCHECKED]))?;

    let built = target.join("debug/examples");
    crate::run(Command::new(built.join("random_mobilenet")).arg(&folder))?;
    let mut here = Vec::new();
    for (_, _, file) in NETWORKS {
        here.push(Answer::of(Command::new(built.join(PROGRAM)).arg(folder.join(file)).args(["graft", "1"]))?);
    }
    let program = toolchain.folder.join(TARGET).join("release/examples").join(PROGRAM);
    println!("| Processor | Engine | | instructions, M | fmla | sdot | of tract's |\n|---|---|---|---|---|---|---|");
    for (cpu, tract_kind) in PROCESSORS {
        let mut first = None;
        for ((engine, precision, file), expected) in NETWORKS.iter().zip(&here) {
            let listing = folder.join(format!("{cpu}_{engine}_{precision}.txt"));
            let run = |runs: &str| {
                let mut command = Command::new("qemu-aarch64");
                command.env("QEMU_CPU", cpu).env("QEMU_LD_PREFIX", &toolchain.libraries);
                command.env("TRACT_CPU_AARCH64_KIND", tract_kind);
                command.arg("-plugin").arg(format!("{},out={}", plugin.display(), listing.display()));
                command.arg(&program).arg(folder.join(file)).args([engine, runs]);
                let answer = Answer::of(&mut command)?;
                answer.check(expected, precision).with_context(|| format!("{engine} {precision} as on a {cpu}"))?;
                Ok::<_, anyhow::Error>((answer.engine, read(&listing)?))
            };
            // What tract takes to load changes from time to time.
            let ((_, few), (engine, many)) = (run("1")?, run("11")?);
            let [all, fmla, sdot] = std::array::from_fn(|i| many[i].saturating_sub(few[i]) as f64 / 10.0 / 1e6);
            let of_tract = all / *first.get_or_insert(all);
            println!("| {cpu} | {engine} | {precision} | {all:.1} | {fmla:.1} | {sdot:.1} | {of_tract:.3} |");
        }
    }
    println!("instructions by function, of loading and eleven runs: {}", folder.join("*.txt").display());
    Ok(())
}

/// The program of graft-runtime that runs a network.
const PROGRAM: &str = "infer";

/// Whether the emulator of this machine takes plugins: Debian's later ones are built without.
fn takes_plugins(plugin: &Path) -> bool {
    let mut command = Command::new("qemu-aarch64");
    // Its usage is an exit with 0; an option it does not know is one with 1.
    command.arg("-plugin").arg(plugin).arg("--help").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|s| s.success())
}

/// Reads what the plugin counted: all instructions, `fmla` of four lanes, `sdot`.
fn read(listing: &Path) -> Result<[u64; 3]> {
    let text = std::fs::read_to_string(listing).with_context(|| format!("reading {}", listing.display()))?;
    let mut counts = [0; 3];
    for (count, name) in counts.iter_mut().zip(["total ", "fmla ", "sdot "]) {
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        *count =
            line.and_then(|n| n.parse().ok()).with_context(|| format!("expected {name}in {}", listing.display()))?;
    }
    Ok(counts)
}

/// What the program prints.
struct Answer {
    engine: String,
    numbers: Vec<f32>,
}

impl Answer {
    /// Runs the program.
    fn of(command: &mut Command) -> Result<Self> {
        let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("starting {command:?}"))?;
        ensure!(output.status.success(), "expected {command:?} to succeed, found {}", output.status);
        Self::parse(&String::from_utf8_lossy(&output.stdout))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        // `graft-runtime 0.1.0 (what of it)`
        let engine = lines.next().and_then(|l| l.split_once('(')?.1.strip_suffix(')'));
        let engine = engine.with_context(|| format!("expected an engine first, found {text:?}"))?.to_owned();
        let numbers = lines.map(|l| l.parse().with_context(|| format!("expected a number, found {l:?}")));
        Ok(Self { engine, numbers: numbers.collect::<Result<_>>()? })
    }

    /// Checks that the numbers are those expected: about, in f32, else to the bit.
    fn check(&self, expected: &Self, precision: &str) -> Result<()> {
        let (expected, found) = (&expected.numbers, &self.numbers);
        let lens = [expected.len(), found.len()];
        ensure!(lens[0] > 0 && lens[0] == lens[1], "expected {} numbers, found {}", lens[0], lens[1]);
        ensure!(found.iter().chain(expected).all(|v| v.is_finite()), "expected finite numbers, found {found:?}");
        let largest = expected.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        let off = expected.iter().zip(found).fold(0.0_f32, |m, (e, f)| m.max((e - f).abs())) / largest;
        let allowed = if precision == "f32" { TOLERANCE } else { 0.0 };
        ensure!(off <= allowed, "expected this machine's numbers within {allowed:e} of the largest, found {off:e}");
        Ok(())
    }
}
