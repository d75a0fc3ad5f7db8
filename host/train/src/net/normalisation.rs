//! A batch normalisation between its passes: what the forward pass makes of sums, and the backward pass of others.

use graft_kernels::Activation;
use graft_kernels::train::norm::{Affine, Coefficients, Sums};

/// A batch normalisation as a factor and a summand, and what its gradient needs.
#[derive(Debug, Clone)]
pub(super) struct Normalisation {
    pub(super) scale: Vec<f32>,
    pub(super) shift: Vec<f32>,
    pub(super) activation: Activation,
    pub(super) mean: Vec<f32>,
    /// One over the standard deviation.
    pub(super) rstd: Vec<f32>,
}

impl Normalisation {
    /// Returns one of no channels.
    pub(super) fn closed_by(activation: Activation) -> Self {
        Self { scale: vec![], shift: vec![], activation, mean: vec![], rstd: vec![] }
    }

    pub(super) fn affine(&self) -> Affine<'_> {
        Affine { scale: &self.scale, shift: &self.shift, activation: self.activation }
    }
}

/// The gradient of a normalisation as `a g + k z + b`.
pub(super) struct Factors {
    a: Vec<f32>,
    kb: Option<[Vec<f32>; 2]>,
}

impl Factors {
    /// `count` is of the numbers that a channel's statistics were taken of, where they are the batch's.
    pub(super) fn of(n: &Normalisation, sums: &Sums, count: Option<usize>) -> Self {
        let kb = count.map(|count| {
            let count = count as f64;
            let (mut k, mut b) = (vec![], vec![]);
            for c in 0..n.scale.len() {
                // dz = gamma rstd (g - mean(g) - zhat mean(g zhat)).
                let (a, rstd) = (f64::from(n.scale[c]), f64::from(n.rstd[c]));
                let slope = -a * rstd * rstd * sums.second[c] / count;
                k.push(slope as f32);
                b.push((-a * sums.first[c] / count - slope * f64::from(n.mean[c])) as f32);
            }
            [k, b]
        });
        Self { a: n.scale.clone(), kb }
    }

    pub(super) fn coefficients(&self) -> Coefficients<'_> {
        let part = |i: usize| self.kb.as_ref().map(|kb| &kb[i][..]);
        Coefficients { a: &self.a, k: part(0), b: part(1) }
    }
}

/// Returns mean and biased variance of each channel.
pub(super) fn moments(sums: &Sums, centre: &[f32], count: usize) -> (Vec<f64>, Vec<f64>) {
    let n = count.max(1) as f64;
    let mean = |(s, c): (&f64, &f32)| f64::from(*c) + s / n;
    let variance = |(s, q): (&f64, &f64)| (q / n - (s / n) * (s / n)).max(0.0);
    (sums.first.iter().zip(centre).map(mean).collect(), sums.first.iter().zip(&sums.second).map(variance).collect())
}
