//! `cargo xtask web`: graft's pages in a real browser.
//!
//! What the tests do is in `tests/web`; this finds the browser, builds the programs that serve and write the pages, and starts them.

use std::env;
use std::path::{self, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{cargo_command, program, root, run as start, target_folder};

/// Test the pages of `graft label` and `graft report` in a headless Chromium
///
/// Needs node 20 or newer, npm and Chromium: on Debian `apt-get install --no-install-recommends nodejs npm chromium`. Without them it
/// says what is missing and that it is skipped. playwright-core comes from npm, of the version in tests/web/package-lock.json.
/// Screenshots are left in target/web.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Fail where something is missing, instead of skipping
    #[arg(long)]
    required: bool,
    /// Only tests whose name has this in it
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Look at the reports of this folder, each NAME.html with its NAME.json, instead of made-up ones
    #[arg(long, value_name = "DIR")]
    reports: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let chromium = match browser() {
        Ok(chromium) => chromium,
        Err(reason) if args.required => return Err(reason),
        Err(reason) => {
            println!("skipped: {reason:#}");
            return Ok(());
        }
    };
    let folder = root().join("tests/web");
    if installed(&folder).is_none_or(|installed| installed != locked(&folder)) {
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"]).arg(&folder);
        match start(&mut npm) {
            Err(error) if !args.required => {
                println!("skipped: playwright-core cannot be had: {error:#}");
                return Ok(());
            }
            outcome => outcome?,
        }
    }
    let example = |package: &str, name: &str| {
        program::build(cargo_command(&["build", "--locked", "--package", package, "--example", name]), &[])
    };
    let (page, writer) = (example("graft-label", "leaves")?, example("graft-report", "pages")?);
    let out = target_folder()?.join("web");
    let reports = match &args.reports {
        Some(folder) => path::absolute(folder).context("finding the reports")?,
        None => {
            let folder = out.join("reports");
            start(Command::new(writer).arg(&folder))?;
            folder
        }
    };
    let mut command = Command::new("node");
    command.arg("--test").env("GRAFT_PAGE", page).env("GRAFT_CHROMIUM", chromium);
    command.env("GRAFT_REPORTS", reports).env("GRAFT_OUT", out);
    if let Some(only) = &args.only {
        command.arg(format!("--test-name-pattern={only}"));
    }
    start(command.args(["label.test.mjs", "report.test.mjs"].map(|f| folder.join(f))))
}

/// Finds the browser, and makes sure that what drives it is there.
fn browser() -> Result<PathBuf> {
    let version = Command::new("node").arg("--version").output().ok().filter(|o| o.status.success());
    let version = version.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    let Some(version) = version else { bail!("expected node, found none; {INSTALL}") };
    let major = version.trim_start_matches('v').split('.').next().and_then(|m| m.parse::<u32>().ok());
    ensure!(major.is_some_and(|m| m >= 20), "expected node 20 or newer, found {version}");
    ensure!(on_path("npm").is_some(), "expected npm, found none; {INSTALL}");
    ["chromium", "chromium-browser", "google-chrome"]
        .iter()
        .find_map(|name| on_path(name))
        .with_context(|| format!("expected chromium, found none; {INSTALL}"))
}

fn on_path(name: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The version of playwright-core that lies there.
fn installed(folder: &Path) -> Option<String> {
    version(&folder.join("node_modules/playwright-core/package.json"), &["version"])
}

/// The version that is to lie there.
fn locked(folder: &Path) -> String {
    let at = ["packages", "node_modules/playwright-core", "version"];
    version(&folder.join("package-lock.json"), &at).unwrap_or_default()
}

fn version(path: &Path, at: &[&str]) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
    at.iter().try_fold(&json, |value, key| value.get(key))?.as_str().map(str::to_owned)
}

const INSTALL: &str = "on Debian, as root: apt-get install --no-install-recommends nodejs npm chromium";
