//! The harness of the end-to-end tests: builds and runs the programs as a user would.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Built anew for each checkout: `.cargo/config.toml`.
const _: Option<&str> = option_env!("GRAFT_CHECKOUT");

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

/// Builds `graft` and `graftd` once, from these sources, and returns the folder of both.
///
/// They are built with the profile and in the target folder of the test. What is returned are links of their own, so that
/// a build that goes on meanwhile replaces none of them; one process at a time tells its stories in a target folder.
///
/// # Panics
///
/// If they do not build.
pub fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<(PathBuf, File)> = OnceLock::new();
    let (folder, _lock) = PROGRAMS.get_or_init(|| {
        // <target>/<profile>/deps/<test>
        let test = std::env::current_exe().expect("the test's own path");
        let profile = test.ancestors().nth(2).expect("a folder of the profile");
        let folder = profile.join("stories");
        fs::create_dir_all(&folder).expect("a folder beside the programs");
        let lock = File::create(folder.join("lock")).expect("a file to lock");
        lock.lock().expect("nobody else's stories");
        for (name, built) in build(profile) {
            let link = folder.join(name);
            let _ = fs::remove_file(&link);
            fs::hard_link(&built, &link).unwrap_or_else(|e| panic!("linking {}: {e}", built.display()));
        }
        (folder, lock)
    });
    folder
}

/// Builds the programs and returns the name and the path of each.
fn build(profile: &Path) -> [(&'static str, PathBuf); 2] {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let name = profile.file_name().expect("a profile's name").to_str().expect("one in ASCII");
    let mut command = Command::new(cargo);
    // What cargo tells a test of its package would have the build of the programs take crates that look at it for changed.
    let told = |name: &str| name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(told)) {
        command.env_remove(name);
    }
    let output = command
        // What the tests of the workspace are built with is not built again.
        .args(["build", "--locked", "--workspace", "--bins", "--message-format=json"])
        .args(["--profile", if name == "debug" { "dev" } else { name }])
        .arg("--target-dir")
        .arg(profile.parent().expect("a target folder"))
        .current_dir(root())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "building failed: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    ["graft", "graftd"].map(|name| {
        let artifact = messages.iter().find(|m| m["target"]["name"] == name && m["executable"].is_string());
        let path = artifact.and_then(|m| m["executable"].as_str());
        (name, PathBuf::from(path.unwrap_or_else(|| panic!("cargo built no program {name}"))))
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
