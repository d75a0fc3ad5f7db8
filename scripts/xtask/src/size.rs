//! `cargo xtask size`: how large the program of the boards is, and which crates make it so.
//!
//! Not part of `cargo xtask ci`: the whole program is optimised at once, which takes minutes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cross::Toolchain;
use crate::{cargo_command, program};

/// Build graftd as for a board and check its size
///
/// Fails above 15 MB (of 1,000,000 bytes). The first build takes some minutes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// For arm64 (Raspberry Pi, Jetson), with what `cargo xtask cross` needs, instead of this machine
    #[arg(long)]
    arm64: bool,
    /// Tell which crates its code is of; needs nm and links a second time, some minutes
    #[arg(long)]
    crates: bool,
}

/// Largest program, in bytes.
const MOST: u64 = 15_000_000;

pub(crate) fn run(args: &Args) -> Result<()> {
    // The stripped one last, to be left in its place.
    if args.crates {
        print_crates(&build(args.arm64, Symbols::Kept)?)?;
    }
    let program = build(args.arm64, Symbols::Stripped)?;
    let found = std::fs::metadata(&program).with_context(|| format!("looking at {}", program.display()))?.len();
    println!("{}: {:.2} MB, {:.2} allowed", program.display(), found as f64 / 1e6, MOST as f64 / 1e6);
    ensure!(found <= MOST, "expected graftd to take at most {MOST} bytes, found {found}; --crates tells of what");
    Ok(())
}

/// Whether a program has the names of its functions.
enum Symbols {
    Kept,
    Stripped,
}

/// Builds graftd and returns its path.
fn build(arm64: bool, symbols: Symbols) -> Result<PathBuf> {
    let mut command = if arm64 { Toolchain::find()?.cargo(&["rustc"]) } else { cargo_command(&["rustc"]) };
    command.args(["--locked", "--package", "graft-agent", "--bin", "graftd", "--profile", "device"]);
    // Of the program alone: the profile's would have every crate built anew.
    let names: &[&str] = if matches!(symbols, Symbols::Kept) { &["--", "-C", "strip=none"] } else { &[] };
    program::build(command, names)
}

/// Prints how much code each crate has, the largest first.
fn print_crates(program: &Path) -> Result<()> {
    let output =
        Command::new("nm").args(["--print-size", "--demangle"]).arg(program).output().context("starting nm")?;
    ensure!(output.status.success(), "expected nm to succeed, found {}", output.status);
    let mut crates = BTreeMap::<String, u64>::new();
    for (size, name) in String::from_utf8_lossy(&output.stdout).lines().filter_map(code) {
        *crates.entry(crate_of(name)).or_default() += size;
    }
    let mut crates: Vec<(String, u64)> = crates.into_iter().collect();
    crates.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    println!("| Crate | code, KB |\n|---|---|");
    let (listed, rest) = crates.split_at(crates.len().min(LISTED));
    for (name, size) in listed {
        println!("| {name} | {} |", size / 1000);
    }
    println!("| {} others | {} |", rest.len(), rest.iter().map(|(_, size)| size).sum::<u64>() / 1000);
    Ok(())
}

/// Returns the size and the name of a function from a line of nm's.
fn code(line: &str) -> Option<(u64, &str)> {
    let mut parts = line.splitn(4, ' ');
    let (_, size, kind, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let size = u64::from_str_radix(size, 16).ok()?;
    matches!(kind, "t" | "T" | "w" | "W").then_some((size, name))
}

/// Returns the crate that a function is of: the first in its name, unless another one made it of the standard library's.
fn crate_of(name: &str) -> String {
    let named = |word: &str| word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let first = |part: &str| {
        let word = part.rsplit(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default();
        (!word.is_empty() && named(word)).then(|| word.to_owned())
    };
    // `<a::B as c::D>::e` begins crates behind each mark that is not itself behind a colon.
    let mut found = Vec::new();
    for (at, _) in name.match_indices("::") {
        let head = &name[..at];
        let word = first(head);
        let begins = word.as_ref().is_some_and(|w| !head[..head.len() - w.len()].ends_with("::"));
        found.extend(word.filter(|_| begins));
    }
    let own = found.iter().find(|w| !STANDARD.contains(&w.as_str()));
    own.or(found.first()).cloned().unwrap_or_else(|| "C and assembly".to_owned())
}

/// Crates whose generic functions are made for others.
const STANDARD: [&str; 3] = ["core", "alloc", "std"];
/// Crates that get a line.
const LISTED: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_of_the_crate_that_made_them() {
        for (line, size, name) in [
            ("0000000000001000 0000000000000020 t rustfft::plan::new", 32, "rustfft"),
            ("0000000000001000 0000000000000020 t <tract_core::ops::Add as core::fmt::Debug>::fmt", 32, "tract_core"),
            (
                "0000000000001000 00000000000000ff t core::ptr::drop_in_place<graft_link::frame::Frame>",
                255,
                "graft_link",
            ),
            ("0000000000001000 0000000000000001 T <alloc::vec::Vec<T> as core::ops::Drop>::drop", 1, "alloc"),
            ("0000000000001000 0000000000000010 t ZSTD_decompress", 16, "C and assembly"),
        ] {
            assert_eq!(code(line).map(|(size, text)| (size, crate_of(text))), Some((size, name.to_owned())), "{line}");
        }
        assert_eq!(code("0000000000001000 0000000000000020 d data"), None);
        assert_eq!(code("                 U malloc"), None);
    }
}
