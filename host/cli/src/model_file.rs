//! What MODEL on the command line may be: a run folder or an exported file.

use std::path::Path;

use anyhow::{Context, Result};
use graft_runtime::Model;
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
