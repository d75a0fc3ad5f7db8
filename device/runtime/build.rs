//! Tells builds apart whose packed models may differ: `GRAFT_BUILD` is made of all that decides how weights are packed.
//!
//! That is the code of this crate and of the kernels, whether or not their version was raised, and the target. Two builds
//! with the same sources pack alike and may use each other's files.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let mut files = BTreeMap::new();
    for folder in ["src", "../kernels/src"] {
        println!("cargo::rerun-if-changed={folder}");
        read(Path::new(folder), &mut files)?;
    }
    // Not a digest: it has to tell builds apart, not to withstand an attack.
    let mut hasher = DefaultHasher::new();
    (files, env::var("CARGO_PKG_VERSION").ok(), env::var("TARGET").ok()).hash(&mut hasher);
    println!("cargo::rustc-env=GRAFT_BUILD={:016x}", hasher.finish());
    Ok(())
}

fn read(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, files)?;
        } else {
            files.insert(path.clone(), fs::read(path)?);
        }
    }
    Ok(())
}
