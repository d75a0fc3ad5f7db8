//! What the probabilities and doubts of a calibrated model are worth, on pictures that calibrated nothing; and whether it
//! tells pictures of something else from its own.

use anyhow::{Result, ensure};
use graft_runtime::decision::{Familiar, Weighed};
use graft_runtime::{Decision, Model, Standing};
use serde::Serialize;

use super::{Answer, answers};
use crate::dataset::{Dataset, Ignored, Sample};
use crate::metrics::argmax;
use crate::pictures::OnBad;
use crate::quantize::statistics::{calibration_error, confidence, interval};

/// What probabilities and doubts are worth.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Worth {
    /// Expected calibration error of the softmax as it is.
    pub ece_before: f64,
    /// Expected calibration error under the model's temperature.
    pub ece_after: f64,
    /// How often the set of labels holds the true one.
    pub covered: Option<Covered>,
    /// Share of pictures that are told as unfamiliar.
    pub unfamiliar: f64,
    /// Share of pictures whose answer is told as sure.
    pub sure: f64,
    /// Share of wrong answers among the sure ones.
    pub sure_wrong: f64,
    /// Share of wrong answers among the others.
    pub others_wrong: f64,
}

/// How often the set of labels holds the true one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Covered {
    /// As was promised.
    pub promised: f64,
    /// As it is.
    pub found: f64,
    /// 95 % interval of it.
    pub interval: [f64; 2],
    /// Labels in a set, on average.
    pub labels: f64,
}

/// How well pictures of something else are told from those of the task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Strangers {
    /// Pictures of something else.
    pub n: usize,
    /// Share of these that are told as unfamiliar, where the model was calibrated.
    pub unfamiliar: Option<f64>,
    /// Area under the curve of the distance: the chance that it is larger for a picture of something else. None where the model
    /// was not calibrated.
    pub distance_auroc: Option<f64>,
    /// Area under the curve of the largest probability: the chance that it is lower for a picture of something else.
    pub probability_auroc: f64,
    /// Pictures left out.
    #[serde(skip)]
    pub skipped: Vec<Ignored>,
}

/// Compares what a model promises with its answers.
pub(crate) fn worth(decision: &Decision, data: &Dataset, answers: &[Answer]) -> Worth {
    let weighed: Vec<(Weighed, usize, bool)> = answers
        .iter()
        .map(|a| {
            let class = data.samples[a.sample].class;
            (decision.weigh(&a.logits, a.distance), class, argmax(&a.logits) == class)
        })
        .collect();
    let n = weighed.len().max(1) as f64;
    let share = |part: usize, of: usize| part as f64 / of.max(1) as f64;
    let before: Vec<_> =
        answers.iter().zip(&weighed).map(|(a, (.., is_right))| (confidence(&a.logits), *is_right)).collect();
    let after: Vec<_> = weighed
        .iter()
        .map(|(w, _, is_right)| (f64::from(w.probabilities.iter().copied().fold(0.0, f32::max)), *is_right))
        .collect();
    let (sure, others): (Vec<_>, Vec<_>) = weighed.iter().partition(|(w, ..)| w.standing == Standing::Sure);
    let wrong = |of: &[&(Weighed, usize, bool)]| share(of.iter().filter(|w| !w.2).count(), of.len());
    let covered = decision.set.map(|set| {
        let hits = weighed.iter().filter(|(w, class, _)| w.set.contains(class)).count();
        Covered {
            promised: f64::from(set.coverage),
            found: hits as f64 / n,
            interval: interval(hits, weighed.len()),
            labels: weighed.iter().map(|(w, ..)| w.set.len()).sum::<usize>() as f64 / n,
        }
    });
    Worth {
        ece_before: calibration_error(&before),
        ece_after: calibration_error(&after),
        covered,
        unfamiliar: share(weighed.iter().filter(|(w, ..)| w.standing == Standing::Unfamiliar).count(), weighed.len()),
        sure: share(sure.len(), weighed.len()),
        sure_wrong: wrong(&sure),
        others_wrong: wrong(&others),
    }
}

/// Runs pictures of something else through a model, beside its answers to its own.
///
/// # Errors
///
/// If none can be read, or the model fails.
pub(super) fn strangers(
    model: &Model,
    own: &[Answer],
    samples: &[Sample],
    progress: impl FnMut(usize, usize),
) -> Result<Strangers> {
    let (found, skipped) = answers(model, samples, OnBad::Skip, progress)?;
    ensure!(!found.is_empty(), "expected pictures of something else that can be read, found none");
    let area = |of: &dyn Fn(&Answer) -> f64| {
        let all = |answers: &[Answer]| answers.iter().map(of).collect::<Vec<_>>();
        auroc(&all(own), &all(&found))
    };
    let is_told = own.iter().chain(&found).all(|a| a.distance.is_some());
    let familiar = model.decision().and_then(|d| d.familiar.as_ref());
    let far = |f: &Familiar| found.iter().filter(|a| a.distance.is_some_and(|d| d > f.at_most)).count();
    Ok(Strangers {
        n: found.len(),
        unfamiliar: familiar.map(|f| far(f) as f64 / found.len() as f64),
        distance_auroc: is_told.then(|| area(&|a| f64::from(a.distance.unwrap_or_default()))),
        probability_auroc: area(&|a| -confidence(&a.logits)),
        skipped,
    })
}

/// Returns the chance that a score of `high` is above one of `low`, equal ones counting half.
///
/// # Source
///
/// Mann and Whitney, Ann. Math. Statist. 18 (1947); equal to the area under the ROC curve.
fn auroc(low: &[f64], high: &[f64]) -> f64 {
    let mut sorted = low.to_vec();
    sorted.sort_by(f64::total_cmp);
    let below = |v: &f64| {
        let (less, at_most) = (sorted.partition_point(|l| l < v), sorted.partition_point(|l| l <= v));
        (less + at_most) as f64 / 2.0
    };
    high.iter().map(below).sum::<f64>() / (low.len() * high.len()).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_those_of_scipy() {
        // scipy 1.17.1: stats.mannwhitneyu([0.4, 0.9, 0.2], [0.1, 0.4, 0.4, 0.8]).statistic / 12 is 0.5833333.
        let found = auroc(&[0.1, 0.4, 0.4, 0.8], &[0.4, 0.9, 0.2]);
        assert!((found - 0.583_333_3).abs() < 1e-6, "{found}");
        assert_eq!((auroc(&[0.0], &[1.0]), auroc(&[1.0], &[0.0]), auroc(&[1.0], &[1.0])), (1.0, 0.0, 0.5));
    }
}
