//! How good a classifier is: accuracy, F1, the confusion of classes.

use serde::{Deserialize, Serialize};

use crate::objective::Targets;
use crate::rng::Rng;

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

/// What an evaluation of a regression found, of one value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValueMetrics {
    /// The value's name.
    pub label: String,
    /// Mean absolute error, in the value's unit.
    pub mae: f64,
    /// 95 % interval of it.
    pub mae_interval: [f64; 2],
    /// Root of the mean square error.
    pub rmse: f64,
    /// Share of the variance that is explained.
    pub r2: f64,
    /// 95 % interval of it.
    pub r2_interval: [f64; 2],
}

/// What an evaluation of tags found, of one tag.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TagMetrics {
    /// The tag.
    pub label: String,
    /// Pictures that have it.
    pub n: usize,
    /// Share of pictures with it among those said to have it; 0 where there are none.
    pub precision: f64,
    /// Share of the pictures with it that are found; 0 where there are none.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
}

/// Pictures drawn anew so many times for an interval.
const RESAMPLES: usize = 1000;

/// Compares values `[n, labels]`, row-major, with true ones. Intervals are percentiles of a bootstrap over pictures with a
/// fixed seed.
///
/// # Source
///
/// Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, section 13.3.
pub fn values(labels: &[String], outputs: &[f32], truths: &[f32]) -> Vec<ValueMetrics> {
    let width = labels.len().max(1);
    let n = truths.len() / width;
    let column = |of: &[f32], c: usize| -> Vec<f32> { of.iter().skip(c).step_by(width).copied().collect() };
    let mean = |of: &dyn Fn(f64) -> f64, o: &[f32], t: &[f32]| {
        o.iter().zip(t).map(|(o, t)| of(f64::from(*o) - f64::from(*t))).sum::<f64>() / t.len().max(1) as f64
    };
    let one = |(c, label): (usize, &String)| {
        let (o, t) = (column(outputs, c), column(truths, c));
        let mut rng = Rng::new(0xb007);
        let mut again = (vec![], vec![]);
        for _ in 0..RESAMPLES {
            let rows: Vec<usize> = (0..n).map(|_| rng.below(n)).collect();
            let pick = |of: &[f32]| rows.iter().map(|&r| of[r]).collect::<Vec<_>>();
            let (o, t) = (pick(&o), pick(&t));
            again.0.push(mean(&f64::abs, &o, &t));
            again.1.push(r2(&o, &t, 1));
        }
        let interval = |mut of: Vec<f64>| {
            of.sort_by(f64::total_cmp);
            [0.025, 0.975].map(|q| of[((of.len() - 1) as f64 * q).round() as usize])
        };
        ValueMetrics {
            label: label.clone(),
            mae: mean(&f64::abs, &o, &t),
            mae_interval: interval(again.0),
            rmse: mean(&|d| d * d, &o, &t).sqrt(),
            r2: r2(&o, &t, 1),
            r2_interval: interval(again.1),
        }
    };
    labels.iter().enumerate().map(one).collect()
}

/// Compares logits `[n, labels]`, row-major, with tags of 0 or 1; a tag is said to hold where its logit is above 0.
pub fn tags(labels: &[String], outputs: &[f32], truths: &[f32]) -> Vec<TagMetrics> {
    let width = labels.len().max(1);
    let one = |(c, label): (usize, &String)| {
        let [hit, said, true_] = tally(outputs.iter().copied().zip(truths.iter().copied()).skip(c).step_by(width));
        TagMetrics {
            label: label.clone(),
            n: true_,
            precision: share(hit, said),
            recall: share(hit, true_),
            f1: share(2 * hit, said + true_),
        }
    };
    labels.iter().enumerate().map(one).collect()
}

/// Counts `(logit, tag)` of one tag: pictures that have it and are said to, those that are said to, and those that have it.
pub(crate) fn tally(pairs: impl Iterator<Item = (f32, f32)>) -> [usize; 3] {
    pairs.fold([0; 3], |[hit, said, held], (logit, tag)| {
        let (is_said, is_held) = (logit > 0.0, tag > 0.5);
        [hit + usize::from(is_said && is_held), said + usize::from(is_said), held + usize::from(is_held)]
    })
}

/// Returns how good outputs `[n, width]` are, against rows of the targets' numbers: the share that is right of classes or
/// tags, or R² of values.
pub fn score(targets: &Targets, outputs: &[f32], wanted: &[f32]) -> f64 {
    let share = |right: usize, of: usize| right as f64 / of.max(1) as f64;
    let width = targets.width().max(1);
    match targets {
        Targets::Classes { .. } => {
            let rows = outputs.chunks_exact(width).zip(wanted.chunks_exact(width));
            share(rows.filter(|(o, t)| argmax(o) == argmax(t)).count(), outputs.len() / width)
        }
        Targets::Tags { .. } => {
            share(outputs.iter().zip(wanted).filter(|(o, t)| (**o > 0.0) == (**t > 0.5)).count(), outputs.len())
        }
        Targets::Values { .. } => r2(outputs, wanted, width),
    }
}

/// Returns R², the share of the targets' variance that is explained, as the mean over the `width` numbers of a row
/// (scikit-learn's `r2_score`, `uniform_average`): 1 is perfect, 0 as good as the mean, below 0 worse.
pub fn r2(outputs: &[f32], targets: &[f32], width: usize) -> f64 {
    let width = width.max(1);
    let n = (targets.len() / width).max(1) as f64;
    let of = |column: usize| {
        let at = |values: &[f32], row: usize| f64::from(values[row * width + column]);
        let rows = 0..targets.len() / width;
        let mean = rows.clone().map(|r| at(targets, r)).sum::<f64>() / n;
        let total: f64 = rows.clone().map(|r| (at(targets, r) - mean).powi(2)).sum();
        let missed: f64 = rows.map(|r| (at(targets, r) - at(outputs, r)).powi(2)).sum();
        match (total > 0.0, missed > 0.0) {
            (true, _) => 1.0 - missed / total,
            (false, missed) => f64::from(u8::from(!missed)),
        }
    };
    (0..width).map(of).sum::<f64>() / width as f64
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
    fn r2_equals_that_of_scikit_learn() {
        // scikit-learn 1.9: r2_score([[0.5, 1], [-1, 1], [7, -6]], [[0, 2], [-1, 2], [8, -5]]) is 0.9368005.
        let found = r2(&[0.0, 2.0, -1.0, 2.0, 8.0, -5.0], &[0.5, 1.0, -1.0, 1.0, 7.0, -6.0], 2);
        assert!((found - 0.936_800_5).abs() < 1e-6, "{found}");
        assert_eq!((r2(&[1.0, 1.0], &[1.0, 1.0], 1), r2(&[1.0, 2.0], &[1.0, 1.0], 1)), (1.0, 0.0));
    }

    #[test]
    fn errors_of_values_equal_those_of_scikit_learn() {
        // scikit-learn 1.9, y_true = [3, -0.5, 2, 7], y_pred = [2.5, 0, 2, 8]: mean_absolute_error 0.5,
        // root_mean_squared_error 0.6123724, r2_score 0.9486081.
        let found = &values(&["a".into()], &[2.5, 0.0, 2.0, 8.0], &[3.0, -0.5, 2.0, 7.0])[0];
        assert!((found.mae - 0.5).abs() < 1e-9 && (found.rmse - 0.612_372_4).abs() < 1e-6);
        assert!((found.r2 - 0.948_608_1).abs() < 1e-6);
        assert!(found.mae_interval[0] < 0.5 && found.mae_interval[1] > 0.5, "{found:?}");
        assert!(found.r2_interval[0] <= found.r2 && found.r2_interval[1] >= found.r2, "{found:?}");
    }

    #[test]
    fn figures_of_tags_equal_those_of_scikit_learn() {
        // scikit-learn 1.9, y_true = [[1, 0], [1, 1], [0, 1], [1, 0]], y_pred = [[1, 0], [0, 1], [1, 1], [1, 1]]:
        // precision [0.6666667, 0.6666667], recall [0.6666667, 1], F1 [0.6666667, 0.8].
        let logits = [1.0, -1.0, -1.0, 1.0, 2.0, 3.0, 1.0, 1.0];
        let found = tags(&["a".into(), "b".into()], &logits, &[1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0]);
        let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
        assert!(
            near(found[0].precision, 2.0 / 3.0) && near(found[0].recall, 2.0 / 3.0) && near(found[0].f1, 2.0 / 3.0)
        );
        assert!(near(found[1].precision, 2.0 / 3.0) && near(found[1].recall, 1.0) && near(found[1].f1, 0.8));
    }

    #[test]
    fn nothing_gives_zeros_not_nan() {
        let m = Metrics::of(&["a".into()], []);
        assert_eq!((m.n, m.top1, m.macro_f1), (0, 0.0, 0.0));
    }
}
