//! What MODEL on the command line may be: a run folder or an exported file.

use std::path::Path;

use anyhow::{Context, Result};
use graft_runtime::{Cache, EngineChoice, Model, Network};
use graft_train::run::Run;

/// Loads a run folder or a file into the engine that ships.
pub(crate) fn open(path: &Path) -> Result<Model> {
    let doing = || format!("loading model {}", path.display());
    if path.is_dir() {
        let run = Run::open(path)?;
        return Model::from_onnx(&run.float()?).with_context(doing);
    }
    Model::open(path).with_context(doing)
}

/// Loads the network of a run folder or a file, without asking what its pictures are; that of a file from a folder of packed
/// ones, if there is one.
pub(crate) fn network(path: &Path, choice: EngineChoice, cache: Option<&Path>) -> Result<Network> {
    let doing = || format!("loading model {}", path.display());
    if path.is_dir() {
        let run = Run::open(path)?;
        return Network::from_onnx(&run.float()?, choice).with_context(doing);
    }
    match cache {
        Some(folder) => Network::open_cached(path, choice, &Cache::folder(folder)).with_context(doing),
        None => Network::open(path, choice).with_context(doing),
    }
}
