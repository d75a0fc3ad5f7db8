//! How good a net is on pictures that it does not learn from.

use anyhow::{Result, ensure};
use rayon::prelude::*;

use super::Source;
use crate::metrics::score;
use crate::net::Net;

/// What a measurement found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// The share that is right of classes or tags, or R² of a regression.
    pub score: f64,
    /// Mean loss.
    pub loss: f64,
}

/// Measures `net` on the pictures of `source`, as they are.
///
/// # Errors
///
/// If there is no picture, or one cannot be read.
pub fn measure(net: &mut Net, source: &dyn Source, batch: usize) -> Result<Measured> {
    let targets = source.targets();
    ensure!(targets.len() > 0, "expected pictures to validate on, found none");
    let count = net.outputs();
    let (mut outputs, mut wanted, mut sum) = (vec![], vec![], 0.0);
    let rows: Vec<usize> = (0..targets.len()).collect();
    for rows in rows.chunks(batch.max(1)) {
        let pictures: Vec<Vec<u8>> = rows.par_iter().map(|&r| source.pixels(r, None)).collect::<Result<_>>()?;
        let found = net.logits(&pictures)?;
        let target: Vec<f32> = rows.iter().flat_map(|&r| targets.row(r)).collect();
        sum += targets.loss().of(&found, &target, count)?.0 * rows.len() as f64;
        outputs.extend(found);
        wanted.extend(target);
    }
    Ok(Measured { score: score(targets, &outputs, &wanted), loss: sum / targets.len() as f64 })
}
