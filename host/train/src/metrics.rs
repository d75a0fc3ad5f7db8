//! How good a classifier is: accuracy, F1, the confusion of classes.

use serde::{Deserialize, Serialize};

/// What an evaluation found. Shares are in `[0, 1]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Number of pictures.
    pub n: usize,
    /// Share whose most probable class is the true one.
    pub top1: f64,
    /// Mean of the classes' F1, over the classes that occur among truths or predictions.
    pub macro_f1: f64,
    /// One entry per class, in label order.
    pub per_class: Vec<ClassMetrics>,
    /// `confusion[truth][prediction]` counts pictures.
    pub confusion: Vec<Vec<usize>>,
}

/// What an evaluation found of one class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    /// The class.
    pub label: String,
    /// Pictures of the class.
    pub n: usize,
    /// Share of the predictions of this class that are right; 0 where there are none.
    pub precision: f64,
    /// Share of the pictures of this class that are found; 0 where there are none.
    pub recall: f64,
    /// Harmonic mean of precision and recall.
    pub f1: f64,
}

impl Metrics {
    /// Compares predictions with truths, both as indices into `labels`; indices beyond it are left out.
    pub fn of(labels: &[String], pairs: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let k = labels.len();
        let mut confusion = vec![vec![0usize; k]; k];
        for (truth, predicted) in pairs {
            if let Some(cell) = confusion.get_mut(truth).and_then(|row| row.get_mut(predicted)) {
                *cell += 1;
            }
        }
        let n: usize = confusion.iter().flatten().sum();
        let right: usize = (0..k).map(|c| confusion[c][c]).sum();
        let per_class: Vec<ClassMetrics> = (0..k)
            .map(|c| {
                let hit = confusion[c][c];
                let truths: usize = confusion[c].iter().sum();
                let predictions: usize = confusion.iter().map(|row| row[c]).sum();
                ClassMetrics {
                    label: labels[c].clone(),
                    n: truths,
                    precision: share(hit, predictions),
                    recall: share(hit, truths),
                    f1: share(2 * hit, truths + predictions),
                }
            })
            .collect();
        let occurring: Vec<f64> = (0..k)
            .filter(|&c| (0..k).any(|o| confusion[c][o] + confusion[o][c] > 0))
            .map(|c| per_class[c].f1)
            .collect();
        let macro_f1 = occurring.iter().sum::<f64>() / occurring.len().max(1) as f64;
        Self { n, top1: share(right, n), macro_f1, per_class, confusion }
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Returns the index of the largest value, the first where several are equal.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_equal_those_of_scikit_learn() {
        // scikit-learn 1.7: y_true = [0,0,0,1,1,2], y_pred = [0,0,1,1,2,2]:
        // accuracy_score 0.6666667, f1_score(average="macro") 0.6555556, f1 per class [0.8, 0.5, 0.6666667].
        let labels: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
        let m = Metrics::of(&labels, [(0, 0), (0, 0), (0, 1), (1, 1), (1, 2), (2, 2)]);
        assert_eq!(m.n, 6);
        assert!((m.top1 - 0.666_666_7).abs() < 1e-6);
        assert!((m.macro_f1 - 0.655_555_6).abs() < 1e-6);
        assert!((m.per_class[0].f1 - 0.8).abs() < 1e-9 && (m.per_class[1].f1 - 0.5).abs() < 1e-9);
    }

    #[test]
    fn nothing_gives_zeros_not_nan() {
        let m = Metrics::of(&["a".into()], []);
        assert_eq!((m.n, m.top1, m.macro_f1), (0, 0.0, 0.0));
    }
}
