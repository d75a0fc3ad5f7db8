//! The harness of the end-to-end tests: builds and runs the programs as a user would.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Returns the workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the folder of shared data and weights, or says that the test is skipped.
pub fn shared(test: &str) -> Option<PathBuf> {
    let folder = root().join("../shared");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("{test}: skipped, {} is not there", folder.display());
    None
}

/// Builds `graft` and `graftd` once and returns their folder.
///
/// # Panics
///
/// If they do not build.
pub fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let arguments = ["build", "--locked", "-p", "graft-cli", "-p", "graft-agent", "--message-format=json"];
        let output = Command::new(cargo).args(arguments).current_dir(root()).output().expect("cargo starts");
        assert!(output.status.success(), "building failed: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        let executables = text.lines().filter_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            message["executable"].as_str().map(PathBuf::from)
        });
        let graft = executables.rev().find(|p| p.file_stem().is_some_and(|n| n == "graft")).expect("a program graft");
        graft.parent().expect("a folder").to_owned()
    })
}

/// Runs `graft` in a folder, with its caches there.
///
/// # Panics
///
/// If it cannot be started.
pub fn graft(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(programs().join("graft"))
        .args(arguments)
        .current_dir(folder)
        .env("GRAFT_CACHE", folder.join("cache"))
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", folder.join("hub"))
        .output()
        .expect("graft starts")
}

/// Runs `graft`, which must succeed, and returns the JSON it prints.
///
/// # Panics
///
/// If it fails or prints no JSON.
pub fn graft_json(folder: &Path, arguments: &[&str]) -> serde_json::Value {
    let output = graft(folder, arguments);
    assert!(output.status.success(), "graft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("graft {arguments:?} printed no JSON: {e}"))
}
