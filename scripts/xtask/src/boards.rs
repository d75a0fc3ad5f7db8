//! `cargo xtask boards`: the kernels on the processors of boards, emulated.
//!
//! No board is here to try AArch64 code on, so QEMU stands in for one: the tests of graft-kernels and a network of its
//! layers run as on each processor of [`BOARDS`]. Equal results are what this can show; times it cannot, though counts of
//! instructions tell which of two engines has less to do.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::cross::{Toolchain, installed};

mod count;

/// A board, its processor by QEMU's name, and the instruction set that graft is expected to choose there.
const BOARDS: [(&str, &str, &str); 3] = [
    ("Raspberry Pi 3", "cortex-a53", "neon"),
    ("Raspberry Pi 4", "cortex-a72", "neon"),
    ("Raspberry Pi 5", "cortex-a76", "neon-dotprod"),
];

/// The example of graft-kernels that runs a network's layers.
const EXAMPLE: &str = "mobilenet";

/// Test the kernels on the processors of boards, emulated
///
/// Needs QEMU, a C compiler for arm64, and a Rust compiler with its standard library, which is fetched from Debian where
/// it is not there (target/boards, 0.7 GB). Without them it says what is missing and that it is skipped.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Count the instructions of MobileNetV2 as well, in graft's kernels and in tract
    ///
    /// Needs a QEMU that takes plugins, which says so where it does not. The first time builds tract for arm64, which takes a
    /// quarter of an hour.
    #[arg(long)]
    count: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let bench = match Bench::find() {
        Ok(bench) => bench,
        Err(reason) => {
            println!("skipped: {reason:#}");
            return Ok(());
        }
    };
    let plain = run_example(&mut bench.cargo(BOARDS[0].1, &["run", "--quiet"]), &["int8", "scalar"])?;
    let mut digests: Option<[String; 2]> = None;
    for (board, cpu, isa) in BOARDS {
        println!("testing as on a {board} ({cpu})");
        let status = bench.cargo(cpu, &["test", "--quiet", "--lib"]).status().context("starting cargo test")?;
        ensure!(
            status.success(),
            "expected the tests of graft-kernels to pass as on a {board} ({cpu}), found {status}"
        );
        let mut found = [String::new(), String::new()];
        for (digest, kind) in found.iter_mut().zip(["f32", "int8"]) {
            let printed = run_example(&mut bench.cargo(cpu, &["run", "--quiet"]), &[kind])?;
            ensure!(printed.0 == isa, "expected {isa} to be chosen on a {board} ({cpu}), found {}", printed.0);
            *digest = printed.1;
        }
        ensure!(
            found[1] == plain.1,
            "expected the bytes of the plain code, digest {}, on a {board} ({cpu}), found {}",
            plain.1,
            found[1]
        );
        let same = digests.get_or_insert_with(|| found.clone());
        ensure!(*same == found, "expected the digests {same:?} on a {board} ({cpu}) too, found {found:?}");
        println!("{board} ({cpu}): tests pass, {isa} is chosen, {EXAMPLE} gives f32 {} int8 {}", found[0], found[1]);
    }
    if args.count { count::count(&bench.0) } else { Ok(()) }
}

/// Runs the example under a command of cargo's and returns the instruction set and the digest that it prints.
fn run_example(cargo: &mut Command, arguments: &[&str]) -> Result<(String, String)> {
    cargo.args(["--example", EXAMPLE, "--"]).args(arguments);
    let output = cargo.stderr(Stdio::inherit()).output().with_context(|| format!("starting {cargo:?}"))?;
    ensure!(output.status.success(), "expected {cargo:?} to succeed, found {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    match text.split_whitespace().collect::<Vec<_>>()[..] {
        [isa, digest] => Ok((isa.to_owned(), digest.to_owned())),
        _ => bail!("expected an instruction set and a digest from {EXAMPLE}, found {text:?}"),
    }
}

/// What it takes to build for a board and to emulate its processor.
struct Bench(Toolchain);

impl Bench {
    /// Looks for what is needed.
    ///
    /// # Errors
    ///
    /// Why this machine cannot emulate processors, and what to do about it.
    fn find() -> Result<Self> {
        installed(&["boards"])?;
        // Its help comes with an exit status of 1.
        let known = Command::new("qemu-aarch64").args(["-cpu", "help"]).output().context("starting qemu-aarch64")?;
        let known = String::from_utf8_lossy(&known.stdout);
        for (_, cpu, _) in BOARDS {
            ensure!(known.contains(cpu), "expected a qemu-aarch64 that knows {cpu}, found an older one; 7.1 has all");
        }
        Ok(Self(Toolchain::find()?))
    }

    /// Returns a command of cargo's for graft-kernels whose programs run on an emulated processor.
    fn cargo(&self, cpu: &str, verb: &[&str]) -> Command {
        let mut command = self.0.cargo(verb);
        command.args(["--locked", "--package", "graft-kernels"]);
        command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", "qemu-aarch64");
        command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "--deny warnings");
        command.env("QEMU_CPU", cpu).env("QEMU_LD_PREFIX", &self.0.libraries);
        command
    }
}
