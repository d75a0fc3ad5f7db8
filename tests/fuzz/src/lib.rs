//! What the targets share: how one begins, and which panics are findings.

use std::collections::BTreeSet;
use std::panic::{self, PanicHookInfo};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{fs, process};

#[cfg(feature = "engine")]
pub mod graph;
#[cfg(feature = "engine")]
pub mod models;

/// Names a folder into which a target writes what it begins with, instead of running.
const SEEDS: &str = "GRAFT_FUZZ_SEEDS";

/// Begins a target: to be called once, before the first input.
///
/// Where [`SEEDS`] is set, the target's seeds are written and the program ends. They are made by graft's own writers each
/// time, so that they follow its formats.
pub fn begin(seeds: impl FnOnce() -> Vec<Vec<u8>>) {
    let own = panic::take_hook();
    panic::set_hook(Box::new(move |info| match guarded(info) {
        Some(place) => note(place),
        None => {
            own(info);
            process::abort();
        }
    }));
    if let Some(folder) = std::env::var_os(SEEDS) {
        let folder = PathBuf::from(folder);
        for (number, bytes) in seeds().into_iter().enumerate() {
            fs::write(folder.join(format!("seed-{number:03}")), bytes).expect("a folder to write seeds to");
        }
        process::exit(0);
    }
}

/// Returns where a panic happened in a crate of others.
///
/// The runtime catches those, and they are its errors: uncaught ones end a target all the same. One of graft's own is a
/// finding even where it is caught.
fn guarded(info: &PanicHookInfo<'_>) -> Option<String> {
    let location = info.location()?;
    let (_, place) = location.file().split_once("/registry/src/")?;
    let (_, place) = place.split_once('/')?;
    Some(format!("{place}:{}", location.line()))
}

/// Tells of a place once.
fn note(place: String) {
    static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if !seen.contains(&place) {
        eprintln!("guarded panic: {place}");
        seen.insert(place);
    }
}

/// Returns the root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
