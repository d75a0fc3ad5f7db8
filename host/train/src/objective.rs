//! What training lowers: a loss of the network's outputs, and its gradient.
//!
//! Targets are rows of as many numbers as the network has outputs, whatever the task: one 1 among zeros for classes (or a
//! mixture of two such rows), a 0 or 1 each for tags, scaled values for a regression.

use anyhow::{Result, ensure};
use graft_onnx::Head;
use serde::{Deserialize, Serialize};

/// Tells the loss of outputs `[n, count]`, and its gradient.
pub(crate) type Objective<'a> = dyn Fn(&[f32]) -> Result<(f64, Vec<f32>)> + 'a;

/// What is wanted of each of some pictures.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// One class of `count`.
    Classes {
        /// Each below `count`.
        of: Vec<usize>,
        /// Number of classes.
        count: usize,
    },
    /// Tags, each of which holds or does not: 0 or 1.
    Tags {
        /// `[n, width]`, row-major.
        of: Vec<f32>,
        /// Tags a picture.
        width: usize,
    },
    /// Values, of a regression.
    Values {
        /// `[n, width]`, row-major.
        of: Vec<f32>,
        /// Values a picture.
        width: usize,
    },
}

impl Targets {
    /// Returns the number of pictures.
    #[allow(clippy::len_without_is_empty)] // a fit of none is refused by its number
    pub fn len(&self) -> usize {
        match self {
            Self::Classes { of, .. } => of.len(),
            Self::Tags { of, width } | Self::Values { of, width } => of.len() / (*width).max(1),
        }
    }

    /// Returns the numbers that are wanted of each.
    pub fn width(&self) -> usize {
        match self {
            Self::Classes { count, .. } => *count,
            Self::Tags { width, .. } | Self::Values { width, .. } => *width,
        }
    }

    /// Returns what is wanted of one picture, `[width]`.
    pub fn row(&self, index: usize) -> Vec<f32> {
        match self {
            Self::Classes { of, count } => (0..*count).map(|c| f32::from(u8::from(c == of[index]))).collect(),
            Self::Tags { of, width } | Self::Values { of, width } => of[index * width..(index + 1) * width].to_vec(),
        }
    }

    /// Returns the targets of the pictures at `rows`.
    pub fn pick(&self, rows: &[usize]) -> Self {
        let picked = || rows.iter().flat_map(|&r| self.row(r)).collect();
        match self {
            Self::Classes { of, count } => Self::Classes { of: rows.iter().map(|&r| of[r]).collect(), count: *count },
            Self::Tags { width, .. } => Self::Tags { of: picked(), width: *width },
            Self::Values { width, .. } => Self::Values { of: picked(), width: *width },
        }
    }

    /// Returns the loss that fits them, without anything that helps training.
    pub fn loss(&self) -> Loss {
        match self {
            Self::Classes { .. } => Loss::CrossEntropy { smoothing: 0.0, weights: vec![] },
            Self::Tags { .. } => Loss::Tags,
            Self::Values { .. } => Loss::Huber { delta: f32::INFINITY },
        }
    }

    /// Returns how many pictures there are of each class; of what are no classes, all as one.
    pub fn counts(&self) -> Vec<usize> {
        match self {
            Self::Classes { of, count } => of.iter().fold(vec![0; *count], |mut counts, &c| {
                counts[c] += 1;
                counts
            }),
            _ => vec![self.len()],
        }
    }
}

/// Mean and deviation of values, with which a regression is fitted on numbers of the usual size.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scale {
    mean: Vec<f32>,
    deviation: Vec<f32>,
}

impl Scale {
    /// Measures values; there is nothing to be scaled about classes and tags.
    pub(crate) fn of(targets: &Targets) -> Option<Self> {
        let Targets::Values { of, width } = targets else { return None };
        let n = (of.len() / width).max(1) as f64;
        let column = |c: usize| of.iter().skip(c).step_by(*width).map(|v| f64::from(*v));
        let mean: Vec<f64> = (0..*width).map(|c| column(c).sum::<f64>() / n).collect();
        let deviation = |c: usize| (column(c).map(|v| (v - mean[c]).powi(2)).sum::<f64>() / n).sqrt();
        // Values that are all the same have nothing to be told apart by.
        let deviation = (0..*width).map(deviation).map(|d| if d > 0.0 { d as f32 } else { 1.0 }).collect();
        Some(Self { deviation, mean: mean.iter().map(|m| *m as f32).collect() })
    }

    /// Returns the values less their mean, in deviations.
    pub(crate) fn scaled(&self, targets: &Targets) -> Targets {
        let Targets::Values { of, width } = targets else { return targets.clone() };
        let one = |(i, v): (usize, &f32)| (v - self.mean[i % width]) / self.deviation[i % width];
        Targets::Values { of: of.iter().enumerate().map(one).collect(), width: *width }
    }

    /// Turns a head for values into one for scaled values.
    pub(crate) fn scale(&self, head: &mut Head) {
        let width = head.weight.data.len() / head.bias.len().max(1);
        for (c, row) in head.weight.data.chunks_exact_mut(width.max(1)).enumerate() {
            row.iter_mut().for_each(|w| *w /= self.deviation[c]);
            head.bias[c] = (head.bias[c] - self.mean[c]) / self.deviation[c];
        }
    }

    /// Turns a head for scaled values into one for the values themselves.
    pub(crate) fn unscale(&self, head: &mut Head) {
        let width = head.weight.data.len() / head.bias.len().max(1);
        for (c, row) in head.weight.data.chunks_exact_mut(width.max(1)).enumerate() {
            row.iter_mut().for_each(|w| *w *= self.deviation[c]);
            head.bias[c] = head.bias[c] * self.deviation[c] + self.mean[c];
        }
    }
}

/// How outputs are compared with targets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Loss {
    /// Softmax and cross-entropy, for one class of several.
    ///
    /// # Source
    ///
    /// Szegedy et al., *Rethinking the Inception Architecture*, arXiv:1512.00567, section 7 (smoothing); weights of
    /// classes as in PyTorch's `cross_entropy`.
    CrossEntropy {
        /// Share of the target that is spread over all classes.
        smoothing: f32,
        /// `[count]`, what each class counts; empty where all count the same.
        weights: Vec<f32>,
    },
    /// A sigmoid and binary cross-entropy of each output, for tags of which several may hold.
    Tags,
    /// Half the square of what is missed, or its absolute value beyond `delta`.
    ///
    /// # Source
    ///
    /// Huber, *Robust Estimation of a Location Parameter*, Ann. Math. Statist. 35 (1964), as PyTorch's `huber_loss`.
    Huber {
        /// Where the square ends; infinite for the mean square (times one half).
        delta: f32,
    },
}

impl Loss {
    /// Returns the loss of `outputs` against `targets`, both `[n, count]`, and its gradient.
    ///
    /// # Errors
    ///
    /// If the two differ in length, or weights and outputs in number.
    pub(crate) fn of(&self, outputs: &[f32], targets: &[f32], count: usize) -> Result<(f64, Vec<f32>)> {
        ensure!(
            outputs.len() == targets.len() && count > 0 && outputs.len().is_multiple_of(count),
            "expected {} outputs, as many as targets, found {}",
            targets.len(),
            outputs.len()
        );
        match self {
            Self::CrossEntropy { smoothing, weights } => {
                ensure!(
                    weights.is_empty() || weights.len() == count,
                    "expected weights of {count} classes, found {}",
                    weights.len()
                );
                Ok(cross_entropy(outputs, targets, count, f64::from(*smoothing), weights))
            }
            Self::Tags => Ok(each(outputs, targets, |z, t| {
                // log(1 + exp(z)) - t z, without overflow.
                (z.max(0.0) + (-z.abs()).exp().ln_1p() - t * z, 1.0 / (1.0 + (-z).exp()) - t)
            })),
            Self::Huber { delta } => {
                let delta = f64::from(*delta);
                Ok(each(outputs, targets, |y, t| {
                    let missed = y - t;
                    if missed.abs() <= delta {
                        (0.5 * missed * missed, missed)
                    } else {
                        (delta * (missed.abs() - 0.5 * delta), delta * missed.signum())
                    }
                }))
            }
        }
    }
}

/// The mean over all outputs of a loss of each, told with its slope.
fn each(outputs: &[f32], targets: &[f32], of: impl Fn(f64, f64) -> (f64, f64)) -> (f64, Vec<f32>) {
    let n = outputs.len().max(1) as f64;
    let both = outputs.iter().zip(targets).map(|(y, t)| of(f64::from(*y), f64::from(*t)));
    both.fold((0.0, Vec::with_capacity(outputs.len())), |(loss, mut gradient), (value, slope)| {
        gradient.push((slope / n) as f32);
        (loss + value / n, gradient)
    })
}

fn cross_entropy(logits: &[f32], targets: &[f32], count: usize, smoothing: f64, weights: &[f32]) -> (f64, Vec<f32>) {
    let weight = |class: usize| weights.get(class).map_or(1.0, |w| f64::from(*w));
    let rows = || logits.chunks_exact(count).zip(targets.chunks_exact(count));
    let total: f64 = rows().flat_map(|(_, t)| t.iter().enumerate()).map(|(c, t)| weight(c) * f64::from(*t)).sum();
    let total = total.max(f64::MIN_POSITIVE);
    let (mut loss, mut gradient) = (0.0, Vec::with_capacity(logits.len()));
    for (row, target) in rows() {
        let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = row.iter().map(|l| (f64::from(*l) - largest).exp()).sum();
        let wanted =
            |c: usize| weight(c) * (smoothing / count as f64 + (1.0 - smoothing) * f64::from(target[c])) / total;
        let mass: f64 = (0..count).map(wanted).sum();
        for (c, logit) in row.iter().enumerate() {
            let log_probability = f64::from(*logit) - largest - sum.ln();
            loss -= wanted(c) * log_probability;
            gradient.push((mass * log_probability.exp() - wanted(c)) as f32);
        }
    }
    (loss, gradient)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden values of PyTorch 2.14, `host/train/tests/golden/losses.py`.
    #[test]
    fn losses_and_gradients_equal_pytorch() {
        let outputs = [1.0, 2.0, 0.5, -1.0, 0.0, 3.0];
        let hard = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        let values = [0.5, 0.0, 0.5, 1.0, 0.25, 2.5];
        let entropy = |smoothing, weights: &[f32]| Loss::CrossEntropy { smoothing, weights: weights.to_vec() };
        let cases = [
            (
                entropy(0.0, &[]),
                hard,
                0.7651263,
                [-0.384_388_1, 0.314_265_8, 0.070_122_2, 0.008_573_9, 0.023_306_3, -0.031_880_2],
            ),
            (
                entropy(0.1, &[]),
                hard,
                0.8734597,
                [-0.351_054_7, 0.297_599_2, 0.053_455_5, -0.008_092_8, 0.006_639_6, 0.001_453_1],
            ),
            (
                entropy(0.0, &[2.0, 1.0, 0.5]),
                hard,
                1.1846719,
                [-0.615_020_9, 0.502_825_4, 0.112_195_5, 0.003_429_6, 0.009_322_5, -0.012_752_1],
            ),
            (
                entropy(0.1, &[2.0, 1.0, 0.5]),
                hard,
                1.2742832,
                [-0.569_395, 0.468_540_9, 0.100_854, -0.022_779_8, -0.002_767_8, 0.025_547_6],
            ),
            (
                entropy(0.0, &[]),
                [0.75, 0.25, 0.0, 0.0, 0.5, 0.5],
                1.3901263,
                [-0.259_388_1, 0.189_265_8, 0.070_122_2, 0.008_573_9, -0.226_693_7, 0.218_119_8],
            ),
            (
                Loss::Tags,
                [1.0, 0.0, 1.0, 0.0, 0.0, 1.0],
                0.6615438,
                [-0.044_823_6, 0.146_799_5, -0.062_923_4, 0.044_823_6, 0.083_333_3, -0.007_904_3],
            ),
            (
                Loss::Huber { delta: 1.0 },
                values,
                0.546875,
                [0.083_333_3, 0.166_666_7, 0.0, -0.166_666_7, -0.041_666_7, 0.083_333_3],
            ),
            (
                Loss::Huber { delta: f32::INFINITY },
                values,
                0.7135417,
                [0.083_333_3, 0.333_333_3, 0.0, -0.333_333_3, -0.041_666_7, 0.083_333_3],
            ),
        ];
        for (loss, targets, value, gradient) in cases {
            let found = loss.of(&outputs, &targets, 3).unwrap();
            assert!((found.0 - value).abs() < 1e-6, "{loss:?} {} {value}", found.0);
            for (f, e) in found.1.iter().zip(gradient) {
                assert!((f - e).abs() < 1e-6, "{loss:?} {f} {e}");
            }
        }
    }

    #[test]
    fn a_head_for_scaled_values_tells_the_values_once_unscaled() {
        let targets = Targets::Values { of: vec![1.0, 50.0, 3.0, 50.0], width: 2 };
        let scale = Scale::of(&targets).unwrap();
        assert_eq!(scale.scaled(&targets), Targets::Values { of: vec![-1.0, 0.0, 1.0, 0.0], width: 2 });
        let weight = graft_zoo::Tensor { shape: vec![2, 1], data: vec![2.0, 0.0] };
        let mut head = Head { weight, bias: vec![-1.0, 0.0] };
        scale.unscale(&mut head);
        // A feature of 0 is the first picture, of 1 the second.
        assert_eq!((&head.weight.data, &head.bias), (&vec![2.0, 0.0], &vec![1.0, 50.0]));
        scale.scale(&mut head);
        assert_eq!((head.weight.data, head.bias), (vec![2.0, 0.0], vec![-1.0, 0.0]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let loss = Loss::CrossEntropy { smoothing: 0.0, weights: vec![1.0; 2] };
        assert!(Loss::Tags.of(&[0.0; 5], &[0.0; 6], 3).is_err());
        assert!(loss.of(&[0.0; 6], &[0.0; 6], 3).is_err());
    }

    #[test]
    fn outputs_far_away_have_finite_losses() {
        for loss in [Loss::Tags, Loss::Huber { delta: 1.0 }, Loss::CrossEntropy { smoothing: 0.1, weights: vec![] }] {
            let (value, gradient) = loss.of(&[1e4, -1e4], &[0.0, 1.0], 2).unwrap();
            assert!(value.is_finite() && gradient.iter().all(|g| g.is_finite()), "{loss:?}");
        }
    }
}
