//! How good a net is on pictures that it does not learn from.

use anyhow::{Result, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Source;
use crate::metrics::score;
use crate::net::Net;

/// What a measurement found.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The share that is right of classes or tags, or R² of a regression.
    pub score: f64,
    /// The loss of each picture.
    pub losses: Vec<f64>,
}

impl Measured {
    /// Returns the mean loss.
    pub fn loss(&self) -> f64 {
        mean(&self.losses)
    }
}

/// An epoch and what each held-out picture lost in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Losses {
    pub(super) epoch: usize,
    each: Vec<f64>,
}

impl Losses {
    pub(super) fn new(epoch: usize, measured: &Measured) -> Self {
        Self { epoch, each: measured.losses.clone() }
    }

    /// Returns whether the mean loss of `other`, of the same pictures, is smaller.
    pub(super) fn exceeds(&self, other: &Measured) -> bool {
        other.loss() < mean(&self.each)
    }

    /// Returns whether the mean loss of `other` is smaller, or larger by no more than one standard error of the difference.
    ///
    /// # Source
    ///
    /// The one-standard-error rule of Breiman et al., *Classification and Regression Trees* (1984), section 3.4.3, on pairs.
    pub(super) fn is_like(&self, other: &Measured) -> bool {
        let differences: Vec<f64> = other.losses.iter().zip(&self.each).map(|(b, a)| b - a).collect();
        let (n, mean) = (differences.len() as f64, mean(&differences));
        let squares: f64 = differences.iter().map(|d| (d - mean).powi(2)).sum();
        // Of one picture nothing is known: then only what is no worse is alike.
        let error = (squares / (n * (n - 1.0).max(1.0))).sqrt();
        mean <= error
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
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
    let (mut outputs, mut wanted, mut losses) = (vec![], vec![], vec![]);
    let rows: Vec<usize> = (0..targets.len()).collect();
    for rows in rows.chunks(batch.max(1)) {
        let pictures: Vec<Vec<u8>> = rows.par_iter().map(|&r| source.pixels(r, None)).collect::<Result<_>>()?;
        let found = net.logits(&pictures)?;
        let target: Vec<f32> = rows.iter().flat_map(|&r| targets.row(r)).collect();
        for (found, target) in found.chunks_exact(count).zip(target.chunks_exact(count)) {
            losses.push(targets.loss().of(found, target, count)?.0);
        }
        outputs.extend(found);
        wanted.extend(target);
    }
    Ok(Measured { score: score(targets, &outputs, &wanted), losses })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(losses: [f64; 4]) -> Measured {
        Measured { score: 0.0, losses: losses.to_vec() }
    }

    /// `scipy.stats.sem([0.1, 0.3, -0.2, 0.2])` is 0.10801, of the mean 0.1.
    #[test]
    fn what_differs_by_less_than_one_standard_error_is_alike() {
        let least = Losses::new(3, &measured([0.5, 0.1, 0.7, 0.2]));
        assert!(least.is_like(&measured([0.6, 0.4, 0.5, 0.4])));
        assert!(!least.is_like(&measured([0.61, 0.41, 0.51, 0.41])), "a mean of 0.11");
        assert!(!least.exceeds(&measured([0.6, 0.4, 0.5, 0.4])));
        let better = measured([0.5, 0.1, 0.6, 0.2]);
        assert!(least.exceeds(&better) && least.is_like(&better));
        let alone = Losses::new(0, &Measured { score: 0.0, losses: vec![0.5] });
        assert!(!alone.is_like(&Measured { score: 0.0, losses: vec![0.6] }), "one picture tells no error");
    }
}
