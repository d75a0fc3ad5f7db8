//! How a step moves parameters: the rule, the rate of each step and of each stage, clipping and averaging.
//!
//! # Source
//!
//! Loshchilov and Hutter, the cosine of *SGDR*, arXiv:1608.03983, without restarts.

use serde::{Deserialize, Serialize};

/// The rule by which a gradient becomes a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimiser {
    /// AdamW (Loshchilov and Hutter, arXiv:1711.05101) with betas of 0.9 and 0.999.
    Adamw,
    /// Stochastic gradient descent with Nesterov's momentum of 0.9, its decay coupled, as PyTorch's `SGD`.
    Sgd,
}

/// One step of an optimiser.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Step {
    pub(crate) optimiser: Optimiser,
    /// Rate of the head.
    pub(crate) rate: f64,
    /// What the rate of a stage is multiplied with for each stage between it and the head, itself included.
    pub(crate) stage_decay: f64,
    /// Weight decay. Weights decay; shifts and scales do not.
    pub(crate) decay: f64,
    /// Steps done before.
    pub(crate) done: u64,
    /// What gradients are multiplied with, such as one over the batches summed up.
    pub(crate) scale: f64,
    /// Longest gradient over all parameters, beyond which it is scaled down.
    pub(crate) clip: Option<f64>,
    /// Weight of the past in the average of the parameters, where one is kept.
    pub(crate) average: Option<f64>,
}

impl Step {
    /// Returns rate and decay of a parameter: its rate in those of its stage, the stages between it and the outputs, and whether
    /// it is one that decays.
    pub(crate) fn of(&self, pace: f64, depth: usize, decays: bool) -> (f64, f64) {
        let stage = self.stage_decay.powi(i32::try_from(depth).unwrap_or(i32::MAX));
        (pace * self.rate * stage, if decays { self.decay } else { 0.0 })
    }

    /// Returns the weight of the past in the average at this step: less while the past is short, as in TensorFlow's
    /// `ExponentialMovingAverage`.
    pub(crate) fn past(&self) -> Option<f64> {
        let done = self.done as f64;
        self.average.map(|a| a.min((1.0 + done) / (10.0 + done)))
    }
}

/// Moves parameters by their gradient with momentum.
pub(crate) fn sgd(rate: f64, decay: f64, scale: f64, values: &mut [f32], gradient: &[f32], momentum: &mut [f32]) {
    let (rate, decay, scale) = (rate as f32, decay as f32, scale as f32);
    for ((v, g), m) in values.iter_mut().zip(gradient).zip(momentum) {
        let g = g * scale + decay * *v;
        *m = MOMENTUM * *m + g;
        *v -= rate * (g + MOMENTUM * *m);
    }
}

/// Weight of the past in SGD.
pub(crate) const MOMENTUM: f32 = 0.9;

/// Returns the rate of a step: a line up over `warmup` steps, then half a cosine down to zero at `total`.
pub(crate) fn cosine(peak: f64, step: u64, warmup: u64, total: u64) -> f64 {
    if step < warmup {
        return peak * (step + 1) as f64 / warmup as f64;
    }
    let way = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
    peak * 0.5 * (1.0 + (std::f64::consts::PI * way.min(1.0)).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_in_a_line_and_falls_in_a_cosine() {
        let rates: Vec<f64> = (0..=6).map(|s| cosine(1.0, s, 2, 6)).collect();
        let expected = [0.5, 1.0, 1.0, 0.853_553, 0.5, 0.146_447, 0.0];
        for (found, expected) in rates.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{rates:?}");
        }
    }

    /// PyTorch 2.14: `SGD([p], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)`, three steps with gradients
    /// [1, -2], [0.5, 0], [-1, 3] from p = [1, -1].
    #[test]
    fn momentum_is_that_of_pytorch() {
        let (mut values, mut momentum) = ([1.0f32, -1.0], [0.0f32; 2]);
        for gradient in [[1.0, -2.0], [0.5, 0.0], [-1.0, 3.0]] {
            sgd(0.1, 0.01, 1.0, &mut values, &gradient, &mut momentum);
        }
        let expected = [0.703_774_5, -0.876_223_1];
        assert!(values.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-6), "{values:?}");
    }
}
