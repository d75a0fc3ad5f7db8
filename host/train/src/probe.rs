//! What a step costs on this machine: a few are run on a copy of the net.

use std::time::Instant;

use anyhow::Result;
use graft_onnx::Head;

use crate::fit::{Source, pictures};
use crate::net::{Device, Net, Norm};
use crate::optimiser::{Optimiser, Step};
use crate::pretrained::Pretrained;
use crate::recipe::{Cost, Wish};
use crate::views::Views;

/// Measures steps that train the last `unfrozen` stages, `batch` pictures each.
///
/// # Errors
///
/// If a picture cannot be read, or a step cannot be run.
pub(crate) fn probe(
    pretrained: &Pretrained,
    source: &dyn Source,
    unfrozen: usize,
    wish: &Wish,
    batch: usize,
    device: &Device,
    bytes: u64,
) -> Result<Cost> {
    let (p, outputs) = (pretrained, source.targets().width());
    let head = Head::zeros(outputs, p.network.features);
    let norm = wish.norm.unwrap_or(Norm::Frozen);
    let mut net = Net::new(&p.network, &p.backbone, &head, &p.preprocessing, unfrozen, norm, device)?;
    net.recompute(wish.recompute, batch)?;
    let n = source.targets().len();
    let rows: Vec<usize> = (0..batch.min(n)).map(|i| i * n / batch.min(n).max(1)).collect();
    // Any loss will do: its gradient alone is of use.
    let objective = |outputs: &[f32]| Ok((0.0, vec![1e-3; outputs.len()]));
    let (mut frozen, mut trained) = (f64::INFINITY, f64::INFINITY);
    for turn in 0..TURNS {
        let start = Instant::now();
        let views = pictures(source, 0, turn, &rows)?;
        let rows = net.frozen_len().map(|_| net.frozen(&views)).transpose()?;
        frozen = frozen.min(start.elapsed().as_secs_f64());
        let start = Instant::now();
        match rows {
            Some(rows) => net.learn_frozen(&rows, &objective)?,
            None => net.learn(&views, &objective)?,
        };
        net.step(&STEP)?;
        trained = trained.min(start.elapsed().as_secs_f64());
    }
    let each = 1.0 / rows.len().max(1) as f64;
    Ok(Cost { frozen: frozen * each, trained: trained * each, views: Views::fit(&net, n, bytes) })
}

/// The first turn takes memory; the faster of the others counts.
const TURNS: usize = 3;
/// A step that moves nothing.
pub(crate) const STEP: Step = Step {
    optimiser: Optimiser::Adamw,
    rate: 0.0,
    stage_decay: 1.0,
    decay: 0.0,
    done: 0,
    scale: 1.0,
    clip: None,
    average: None,
};
