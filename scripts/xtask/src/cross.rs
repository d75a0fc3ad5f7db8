//! `cargo xtask cross`: graftd for a board's processor, and the compilers that takes.
//!
//! The one place that knows where a Rust compiler, a linker and a C library for boards come from; knows no emulator.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{cargo_command, program, root, target_folder};

/// Build graftd for a board
///
/// Needs a C compiler for arm64, and a Rust compiler with its standard library: `rustup target add`, or where that has no
/// server Debian's, which is fetched (target/boards, 0.9 GB). The program runs with a C library of this machine's version or a
/// newer one.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The kind of processor
    #[arg(long, value_name = "TRIPLE", default_value = TARGET, value_parser = [TARGET])]
    target: String,
    /// Hardly optimised outside the kernels, in a third of the time: for an emulated board
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let effort = if args.quick { Effort::Quick } else { Effort::Full };
    let program = toolchain.graftd(effort)?;
    let len = std::fs::metadata(&program).with_context(|| format!("looking at {}", program.display()))?.len();
    println!("{} ({:.1} MB, {})", program.display(), len as f64 / 1e6, args.target);
    Ok(())
}

pub(crate) const TARGET: &str = "aarch64-unknown-linux-gnu";

/// How much time is spent on optimising graftd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// What a board gets: profile `device`.
    Full,
    /// The profile that [`QUICK`] makes.
    Quick,
}

/// Compilers and libraries for a board.
pub(crate) struct Toolchain {
    /// Where everything that is fetched or built lies.
    pub(crate) folder: PathBuf,
    /// A compiler other than cargo's own.
    compiler: Option<PathBuf>,
    /// Below which the libraries of the board lie.
    pub(crate) libraries: PathBuf,
}

impl Toolchain {
    /// Looks for what is needed and fetches a compiler where none has the board's standard library.
    ///
    /// # Errors
    ///
    /// Why this machine cannot build for boards, and what to do about it.
    pub(crate) fn find() -> Result<Self> {
        installed(&["cross"])?;
        // <root>/lib/libc.so.6
        let library = library("libc.so.6")?.canonicalize().context("looking for libc.so.6")?;
        let libraries =
            library.ancestors().nth(2).context("expected libc.so.6 in a folder lib, found none")?.to_owned();
        let folder = target_folder()?.join("boards");
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let compiler = if compiles(Path::new("rustc")) { None } else { Some(fetch_compiler(&folder)?) };
        Ok(Self { folder, compiler, libraries })
    }

    /// Returns a command of cargo's that builds for a board.
    pub(crate) fn cargo(&self, verb: &[&str]) -> Command {
        let mut command = cargo_command(verb);
        command.current_dir(root()).args(["--target", TARGET, "--target-dir"]).arg(&self.folder);
        command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", C_COMPILER);
        if let Some(compiler) = &self.compiler {
            command.env("RUSTC", compiler);
        }
        command
    }

    /// Builds graftd and returns its path.
    pub(crate) fn graftd(&self, effort: Effort) -> Result<PathBuf> {
        let mut command = self.cargo(&["rustc"]);
        command.args(["--locked", "--package", "graft-agent", "--bin", "graftd"]);
        match effort {
            Effort::Full => command.args(["--profile", "device"]),
            Effort::Quick => {
                command.args(["--profile", "emulated"]).args(QUICK.iter().flat_map(|setting| ["--config", setting]))
            }
        };
        // Of the program alone: the profile's would have every crate built anew.
        let names: &[&str] = if effort == Effort::Quick { &["--", "-C", "strip=symbols"] } else { &[] };
        program::build(command, names)
    }
}

/// A profile below `dev`. Networks of the zoo are not run by tract, which is most of the work of building, and how fast the kernels
/// are an emulator does not tell; what pictures and bundles pass through has a level that an emulator can live with.
const QUICK: [&str; 16] = [
    "profile.emulated.inherits='dev'",
    "profile.emulated.debug=false",
    "profile.emulated.incremental=false",
    "profile.emulated.package.'*'.opt-level=0",
    "profile.emulated.package.graft-kernels.opt-level=1",
    "profile.emulated.package.graft-kernels.overflow-checks=false",
    "profile.emulated.package.graft-kernels.debug-assertions=false",
    "profile.emulated.package.graft-runtime.opt-level=1",
    "profile.emulated.package.graft-link.opt-level=2",
    "profile.emulated.package.graft-agent.opt-level=1",
    "profile.emulated.package.zune-jpeg.opt-level=2",
    "profile.emulated.package.blake3.opt-level=2",
    "profile.emulated.package.zstd-sys.opt-level=1",
    "profile.emulated.package.crc32fast.opt-level=2",
    "profile.emulated.package.curve25519-dalek.opt-level=2",
    "profile.emulated.package.sha2.opt-level=2",
];

const C_COMPILER: &str = "aarch64-linux-gnu-gcc";

/// Checks that the programs of chores with boards are there.
///
/// # Errors
///
/// Names what is missing and its packages.
pub(crate) fn installed(chores: &[&str]) -> Result<()> {
    answer(Command::new("sh").arg("scripts/boards/packages.sh").args(chores)).map(drop)
}

/// Returns where the C compiler for boards has a library of the board's.
pub(crate) fn library(name: &str) -> Result<PathBuf> {
    let path = answer(Command::new(C_COMPILER).arg(format!("-print-file-name={name}")))?;
    let path = PathBuf::from(path.trim());
    ensure!(path.is_absolute(), "expected {C_COMPILER} to have {name}, found none; see scripts/boards/packages.sh");
    Ok(path)
}

/// Runs a command from the workspace's root and returns what it prints.
pub(crate) fn answer(command: &mut Command) -> Result<String> {
    let output = command.current_dir(root()).output().with_context(|| format!("starting {command:?}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (printed, complaint) = (text(&output.stdout), text(&output.stderr));
    ensure!(output.status.success(), "{}", format!("{printed}{complaint}").trim());
    Ok(printed)
}

/// Returns the compiler with the board's standard library that an earlier run fetched, or fetches it.
fn fetch_compiler(folder: &Path) -> Result<PathBuf> {
    let to = folder.join("rust");
    let compiler = to.join("bin/rustc");
    if !compiles(&compiler) {
        eprintln!(
            "no compiler here has the standard library of {TARGET}: fetching Debian's, or `rustup target add {TARGET}`"
        );
        answer(Command::new("sh").arg("scripts/boards/toolchain.sh").arg(&to))?;
        ensure!(compiles(&compiler), "expected {} to have the standard library of {TARGET}", compiler.display());
    }
    Ok(compiler)
}

/// Whether a compiler runs and has the board's standard library.
fn compiles(compiler: &Path) -> bool {
    let library = answer(Command::new(compiler).args(["--print", "target-libdir", "--target", TARGET]));
    library.is_ok_and(|folder| Path::new(folder.trim()).is_dir())
}
