//! Makes what the measuring needs, once: Python environments, networks, ONNX Runtime's driver in C, graft.
//!
//! Each thing has a stamp beside it that is written last and holds what it was made from, so that an interrupted or
//! outdated one is made anew.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Args;
use super::engine::Engine;

/// All that [`Bench::time`] needs.
#[derive(Debug)]
pub(super) struct Bench {
    /// Of the environment with the engines.
    pub(super) python: PathBuf,
    pub(super) peer_script: PathBuf,
    /// Our program in C and ONNX Runtime's shared library, or why there is none.
    pub(super) ort: Result<(PathBuf, PathBuf), String>,
    pub(super) graft: Option<PathBuf>,
    /// Folder with the networks.
    pub(super) models: PathBuf,
    answers: PathBuf,
}

impl Bench {
    pub(super) fn picture(&self) -> PathBuf {
        self.models.join("input.f32")
    }

    /// Where an engine's last answer lies, if it gave one.
    pub(super) fn answer(&self, engine: Engine) -> PathBuf {
        self.answers.join(format!("{engine}.f32"))
    }

    /// Makes a message fit for a report that leaves this machine.
    pub(super) fn without_paths(&self, text: &str) -> String {
        let folders = [self.models.parent(), self.peer_script.parent(), self.graft.as_deref().and_then(Path::parent)];
        let folders = folders.into_iter().flatten().filter_map(Path::to_str);
        folders.fold(text.to_owned(), |text, folder| text.replace(&format!("{folder}/"), ""))
    }
}

pub(super) fn prepare(args: &Args, work: &Path) -> Result<Bench> {
    let scripts = crate::root().join("scripts/peers");
    let scripts = scripts.canonicalize().with_context(|| format!("resolving {}", scripts.display()))?;
    let (models, answers) = (work.join("models"), work.join("answers"));
    for folder in [&models, &answers] {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    make_models(&args.models, work, &scripts, &models)?;
    let python = if args.engines.iter().any(|engine| engine.is_peer()) {
        environment(&work.join("engines"), &scripts.join("requirements.txt"))?
    } else {
        PathBuf::new()
    };
    let ort = if args.engines.contains(&Engine::OnnxRuntimeC) {
        driver(work, &scripts.join("ort.c"), &python).map_err(|error| format!("{error:#}"))
    } else {
        Err("it was not asked for".to_owned())
    };
    let graft = match &args.graft {
        Some(program) => Some(program.canonicalize().with_context(|| format!("looking for {}", program.display()))?),
        None if args.engines.iter().any(|engine| engine.is_in_graft()) => Some(build_graft()?),
        None => None,
    };
    Ok(Bench { python, peer_script: scripts.join("peer.py"), ort, graft, models, answers })
}

/// Makes those networks that are not there or were made by other scripts.
fn make_models(names: &[String], work: &Path, scripts: &Path, models: &Path) -> Result<()> {
    let requirements = scripts.join("requirements-models.txt");
    let mut source = String::new();
    for file in [&scripts.join("models.py"), &scripts.join("ncnn_int8.py"), &requirements] {
        source += &std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    }
    let stamp = |name: &String| models.join(format!("{name}.stamp"));
    let mut missing: Vec<&String> = names.iter().filter(|name| !is_stamped(&stamp(name), &source)).collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let python = environment(&work.join("exporters"), &requirements)?;
    for name in missing {
        let log = work.join(format!("{name}.log"));
        eprintln!("making {name}: some minutes; what the converters say goes to {}", log.display());
        logged(Command::new(&python).arg(scripts.join("models.py")).arg(models).arg(name), &log)?;
        super::replace_file(&stamp(name), &source)?;
    }
    Ok(())
}

/// Returns the Python of an environment that has what `requirements` lists.
pub(super) fn environment(folder: &Path, requirements: &Path) -> Result<PathBuf> {
    let python = folder.join("bin/python");
    let stamp = folder.join("requirements.stamp");
    let wanted =
        std::fs::read_to_string(requirements).with_context(|| format!("reading {}", requirements.display()))?;
    if is_stamped(&stamp, &wanted) {
        return Ok(python);
    }
    quietly(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder))
        .context("making a Python environment; it needs python3 with its venv module (Debian: python3-venv)")?;
    quietly(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(requirements))
        .with_context(|| format!("installing {}; it needs PyPI", requirements.display()))?;
    super::replace_file(&stamp, &wanted)?;
    Ok(python)
}

/// Compiles our driver of ONNX Runtime's C interface and looks for the library in the wheel.
fn driver(work: &Path, source: &Path, python: &Path) -> Result<(PathBuf, PathBuf)> {
    let program = work.join("ort");
    let stamp = work.join("ort.stamp");
    let wanted = std::fs::read_to_string(source).with_context(|| format!("reading {}", source.display()))?;
    if !(program.exists() && is_stamped(&stamp, &wanted)) {
        quietly(Command::new("cc").args(["-O2", "-o"]).arg(&program).arg(source).arg("-ldl"))
            .context("compiling ort.c; it needs a C compiler as `cc`")?;
        super::replace_file(&stamp, &wanted)?;
    }
    const PRINT_FOLDER: &str = "import onnxruntime; print(onnxruntime.__path__[0])";
    let output = Command::new(python).args(["-c", PRINT_FOLDER]).output().context("starting Python")?;
    ensure!(output.status.success(), "expected ONNX Runtime's folder, found {}", output.status);
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).join("capi");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let library = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libonnxruntime.so")))
        .with_context(|| format!("expected libonnxruntime.so.* in {}, found none", folder.display()))?;
    Ok((program, library))
}

fn build_graft() -> Result<PathBuf> {
    crate::program::build(crate::cargo_command(&["build", "--release", "--locked", "--bin", "graft"]), &[])
}

fn is_stamped(stamp: &Path, wanted: &str) -> bool {
    std::fs::read_to_string(stamp).is_ok_and(|found| found == wanted)
}

/// Runs a command whose output is progress, so that standard output is the table's alone.
fn quietly(command: &mut Command) -> Result<()> {
    crate::run(command.stdout(std::io::stderr()))
}

/// Runs a command whose output is of use only if it fails.
fn logged(command: &mut Command, log: &Path) -> Result<()> {
    let file = File::create(log).with_context(|| format!("writing {}", log.display()))?;
    let errors = file.try_clone().with_context(|| format!("writing {}", log.display()))?;
    crate::run(command.stdout(file).stderr(errors)).with_context(|| format!("see the end of {}", log.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_paths_leaves_names_alone() {
        let bench = Bench {
            python: PathBuf::new(),
            peer_script: "/r/scripts/peers/peer.py".into(),
            ort: Err(String::new()),
            graft: Some("/t/release/graft".into()),
            models: "/w/peers/models".into(),
            answers: PathBuf::new(),
        };
        assert_eq!(
            bench.without_paths("cannot open /w/peers/models/a.onnx: /t/release/graft"),
            "cannot open models/a.onnx: graft"
        );
    }
}
