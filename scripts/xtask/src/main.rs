//! Chores of the workspace: `cargo xtask ci`, `cargo xtask board`, `cargo xtask boards`, `cargo xtask cross`,
//! `cargo xtask day`, `cargo xtask fuzz`, `cargo xtask size`, `cargo xtask pretrain`, `cargo xtask peers`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Parser;

mod board;
mod boards;
mod cross;
mod day;
mod fuzz;
mod peers;
mod program;
mod size;
mod web;

/// Do a chore
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Chore {
    /// Check format, lints, documentation and the shell scripts; the tests are `cargo test --workspace`
    Ci,
    Board(board::Args),
    Boards(boards::Args),
    Cross(cross::Args),
    Day(day::Args),
    Fuzz(fuzz::Args),
    Size(size::Args),
    /// Train the embedded backbone anew: models/weights/mobilenet_v2_0.35_96.safetensors
    ///
    /// Takes about half an hour on two cores. Ctrl-C loses at most an epoch: the same command goes on.
    Pretrain {
        /// Passed on to the trainer, such as `--epochs 10`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    Peers(peers::Args),
    Web(web::Args),
}

fn main() -> ExitCode {
    let outcome = match Chore::parse() {
        Chore::Ci => ci(),
        Chore::Board(arguments) => board::run(&arguments),
        Chore::Boards(arguments) => boards::run(&arguments),
        Chore::Cross(arguments) => cross::run(&arguments),
        Chore::Day(arguments) => day::run(&arguments),
        Chore::Fuzz(arguments) => fuzz::run(&arguments),
        Chore::Size(arguments) => size::run(&arguments),
        Chore::Pretrain { arguments } => pretrain(&arguments),
        Chore::Peers(arguments) => peers::run(&arguments),
        Chore::Web(arguments) => web::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn ci() -> Result<()> {
    cargo(&["fmt", "--all", "--check"], &[])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"], &[])?;
    cargo(&["doc", "--workspace", "--no-deps", "--locked", "--quiet"], &[("RUSTDOCFLAGS", "-D warnings")])?;
    run(Command::new("sh").arg("scripts/tests/install-device.sh"))
}

fn pretrain(arguments: &[String]) -> Result<()> {
    let mut command =
        cargo_command(&["run", "--release", "--locked", "-p", "graft-train", "--example", "pretrain", "--"]);
    run(command.args(arguments))
}

fn cargo(arguments: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    run(cargo_command(arguments).envs(variables.iter().copied()))
}

fn cargo_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    // What cargo tells this program of its package would have cargo take crates that look at it for changed.
    let told = |name: &str| name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(told)) {
        command.env_remove(name);
    }
    command
}

/// Runs a command from the workspace's root.
fn run(command: &mut Command) -> Result<()> {
    let text = format!("{command:?}");
    eprintln!("+ {text}");
    let status = command.current_dir(root()).status().with_context(|| format!("starting {text}"))?;
    ensure!(status.success(), "expected {text} to succeed, found {status}");
    Ok(())
}

/// Returns cargo's target folder.
fn target_folder() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    Ok(root().canonicalize().context("finding the workspace")?.join(target))
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
