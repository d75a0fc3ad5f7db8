//! What a fit needs to go on: kept between steps, in one file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use graft_zoo::Tensor;
use graft_zoo::weights::{Precision, Tensors, read_safetensors, write_safetensors};
use serde::{Deserialize, Serialize};

use super::measure::Losses;
use super::{Data, Epoch, Schedule};
use crate::net::Net;
use crate::run::write_atomic;

/// A fit between two batches.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) schedule: Schedule,
    /// Targets of the pictures, and what the fit began with.
    identity: String,
    pub(super) epoch: usize,
    /// Batches done in this epoch.
    pub(super) batch: usize,
    pub(super) loss: f64,
    pub(super) epochs: Vec<Epoch>,
    /// The epoch whose weights are kept.
    pub(super) best: usize,
    /// The epoch of the least validation loss.
    pub(super) least: Option<Losses>,
}

impl State {
    pub(super) fn new(net: &Net, data: &Data<'_>, schedule: &Schedule) -> Result<Self> {
        Ok(Self {
            schedule: schedule.clone(),
            identity: identity(net, data)?,
            epoch: 0,
            batch: 0,
            loss: 0.0,
            epochs: vec![],
            best: 0,
            least: None,
        })
    }
}

/// Returns a digest of what the fit begins with: weights and targets.
fn identity(net: &Net, data: &Data<'_>) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let targets = data.train.targets();
    for value in (0..targets.len()).flat_map(|i| targets.row(i)) {
        hasher.update(&value.to_le_bytes());
    }
    for (name, tensor) in net.state()? {
        hasher.update(name.as_bytes());
        for value in &tensor.data {
            hasher.update(&value.to_le_bytes());
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

const STATE: &str = "state";

pub(super) fn save(path: &Path, net: &Net, state: &State, best: &Tensors) -> Result<()> {
    let mut tensors = net.remembered()?;
    let mut add = |prefix: &str, from: &Tensors| {
        tensors.extend(from.iter().map(|(n, t): (&String, &Tensor)| (format!("{prefix}.{n}"), t.clone())));
    };
    add("net", &net.state()?);
    add("best", best);
    let metadata = BTreeMap::from([(STATE.to_owned(), serde_json::to_string(state)?)]);
    write_atomic(path, &write_safetensors(&tensors, &metadata, Precision::F32))
}

pub(super) fn load(path: &Path, net: &mut Net, fresh: &State) -> Result<(State, Tensors)> {
    let doing = || format!("reading the checkpoint {}", path.display());
    let (tensors, metadata) = read_safetensors(&fs::read(path).with_context(doing)?).with_context(doing)?;
    let text = metadata
        .get(STATE)
        .with_context(|| format!("expected a checkpoint of graft in {}, found none", path.display()))?;
    let state: State = serde_json::from_str(text).with_context(doing)?;
    ensure!(
        state.identity == fresh.identity && state.schedule == fresh.schedule,
        "expected a checkpoint of this very command in {}, found one of other pictures, weights or options; repeat its command or leave out --resume",
        path.display()
    );
    let part = |prefix: &str| -> Tensors {
        tensors.iter().filter_map(|(n, t)| Some((n.strip_prefix(prefix)?.to_owned(), t.clone()))).collect()
    };
    let weights = part("net.");
    let names = |t: &Tensors| t.keys().cloned().collect::<Vec<_>>();
    ensure!(
        names(&weights) == names(&net.state()?),
        "expected the weights of this net in {}, found others",
        path.display()
    );
    net.restore(&weights)?;
    net.restore_remembered(&tensors).with_context(doing)?;
    Ok((state, part("best.")))
}
