//! Whether one model is better than another on the same pictures.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::dataset::{Dataset, Task};
use crate::evaluate::{Answer, found};
use crate::metrics::argmax;
use crate::quantize::statistics::{interval, mcnemar};
use crate::rng::Rng;

/// The old and the new model on the same pictures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Pictures.
    pub n: usize,
    /// Groups that they are of; 0 where they tell none.
    pub groups: usize,
    /// The old model.
    pub old: Scored,
    /// The new one.
    pub new: Scored,
    /// Mean error of the new one less that of the old one: shares of wrong answers, or of values absolute errors.
    pub more_error: f64,
    /// 95 % interval of it.
    pub interval: [f64; 2],
    /// Whether whole groups were drawn for the interval.
    pub by_groups: bool,
    /// McNemar's p, of classes.
    pub p_value: Option<f64>,
}

/// How good a model is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scored {
    /// Share of right classes, mean F1 of tags, or mean R² of values.
    pub score: f64,
    /// 95 % interval of it, of classes.
    pub interval: Option<[f64; 2]>,
    /// Mean error.
    pub error: f64,
}

impl Comparison {
    /// Tells whether the new model is worse by more than chance explains.
    pub fn is_worse(&self) -> bool {
        self.interval[0] > 0.0
    }
}

/// Pictures or groups drawn anew so many times.
const RESAMPLES: usize = 2000;
/// Of fewer groups than this a bootstrap knows nothing.
const FEWEST_GROUPS: usize = 5;

/// Compares two models' answers to the same pictures; none where there are no pictures that both answered.
///
/// The interval is of percentiles of a paired bootstrap, over groups where there are at least five, with a fixed seed.
///
/// # Source
///
/// Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, section 13.3; groups as in Field and Welsh, *Bootstrapping
/// Clustered Data*, JRSS B 69 (2007), the randomized cluster bootstrap.
pub(super) fn compare(data: &Dataset, old: &[Answer], new: &[Answer]) -> Option<Comparison> {
    let of_old: BTreeMap<usize, &Answer> = old.iter().map(|a| (a.sample, a)).collect();
    let pairs: Vec<(&Answer, &Answer)> = new.iter().filter_map(|n| Some((*of_old.get(&n.sample)?, n))).collect();
    if pairs.is_empty() {
        return None;
    }
    let error = |answer: &Answer| error(data, answer);
    let errors: Vec<[f64; 2]> = pairs.iter().map(|(o, n)| [error(o), error(n)]).collect();
    let mut named: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, (o, _)) in pairs.iter().enumerate() {
        if let Some(group) = &data.samples[o.sample].group {
            named.entry(group).or_default().push(i);
        }
    }
    let told: usize = named.values().map(Vec::len).sum();
    let (groups, n) = (named.len(), pairs.len());
    let by_groups = told == n && groups >= FEWEST_GROUPS;
    let clusters: Vec<Vec<usize>> =
        if by_groups { named.into_values().collect() } else { (0..n).map(|i| vec![i]).collect() };
    let more: Vec<f64> = errors.iter().map(|[o, n]| n - o).collect();
    let is_classes = data.task == Task::Classes;
    let wrong = |side: usize| errors.iter().filter(|e| e[side] > 0.0).count();
    let scored = |side: usize| {
        let answers: Vec<Answer> = pairs.iter().map(|p| if side == 0 { p.0.clone() } else { p.1.clone() }).collect();
        Scored {
            // An old head may lack outputs that the new one has.
            score: if is_classes { (n - wrong(side)) as f64 / n as f64 } else { found(data, &answers).score() },
            interval: is_classes.then(|| interval(n - wrong(side), n)),
            error: errors.iter().map(|e| e[side]).sum::<f64>() / n as f64,
        }
    };
    let only = |right: usize, wrong: usize| errors.iter().filter(|e| e[right] == 0.0 && e[wrong] > 0.0).count();
    Some(Comparison {
        n,
        groups,
        old: scored(0),
        new: scored(1),
        more_error: more.iter().sum::<f64>() / n as f64,
        interval: bootstrap(&more, &clusters),
        by_groups,
        p_value: is_classes.then(|| mcnemar(only(0, 1), only(1, 0))),
    })
}

/// Returns how wrong an answer is: 0 or 1 for a class, the share of wrong tags, or the mean absolute error of values.
fn error(data: &Dataset, answer: &Answer) -> f64 {
    let sample = &data.samples[answer.sample];
    let mean = |of: &dyn Fn((&f32, &f32)) -> f64| {
        answer.logits.iter().zip(&sample.values).map(of).sum::<f64>() / sample.values.len().max(1) as f64
    };
    match data.task {
        Task::Classes => f64::from(u8::from(argmax(&answer.logits) != sample.class)),
        Task::Tags => mean(&|(z, t)| f64::from(u8::from((*z > 0.0) != (*t > 0.5)))),
        Task::Values => mean(&|(y, t)| f64::from((y - t).abs())),
    }
}

/// Returns the 95 % interval of the mean.
fn bootstrap(values: &[f64], clusters: &[Vec<usize>]) -> [f64; 2] {
    let mut rng = Rng::new(0xb007);
    let mut one = || {
        let (mut sum, mut n) = (0.0, 0);
        for _ in 0..clusters.len() {
            let cluster = &clusters[rng.below(clusters.len())];
            sum += cluster.iter().map(|&i| values[i]).sum::<f64>();
            n += cluster.len();
        }
        sum / n.max(1) as f64
    };
    let mut means: Vec<f64> = (0..RESAMPLES).map(|_| one()).collect();
    means.sort_by(f64::total_cmp);
    [0.025, 0.975].map(|q| means[((RESAMPLES - 1) as f64 * q).round() as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_scipy() {
        // scipy 1.17.1: stats.bootstrap((v,), np.mean, method="percentile", n_resamples=200000), of 40 values and of the
        // means of 8 groups of 5 of them.
        let values: Vec<f64> = (0..40).map(|i| f64::from((i * 37 + 11) % 23) / 10.0 - 1.0).collect();
        let near = |found: [f64; 2], expected: [f64; 2]| {
            // So many resamples leave about a tenth of the width.
            assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 0.03), "{found:?} {expected:?}");
        };
        near(bootstrap(&values, &(0..40).map(|i| vec![i]).collect::<Vec<_>>()), [-0.115, 0.2925]);
        near(bootstrap(&values, &(0..8).map(|g| (5 * g..5 * g + 5).collect()).collect::<Vec<_>>()), [-0.01, 0.1825]);
    }

    fn answered(right: &[bool]) -> (Dataset, Vec<Answer>) {
        let sample = |i: usize| crate::dataset::Sample {
            location: crate::dataset::Location::File(format!("{i}.jpg").into()),
            key: format!("{i}.jpg"),
            class: 0,
            values: vec![],
            group: Some(format!("day {}", i / 10)),
        };
        let labels = ["a", "b"].map(str::to_owned).to_vec();
        let samples = (0..right.len()).map(sample).collect();
        let logits = |r: &bool| if *r { vec![1.0, 0.0] } else { vec![0.0, 1.0] };
        let answer =
            |(sample, r): (usize, &bool)| Answer { sample, logits: logits(r), distance: None, milliseconds: 1.0 };
        let answers = right.iter().enumerate().map(answer).collect();
        (Dataset { task: Task::Classes, labels, samples, ignored: vec![] }, answers)
    }

    #[test]
    fn worse_is_what_is_worse_beyond_chance() {
        let (data, good) = answered(&[true; 60]);
        let (_, bad) = answered(&(0..60).map(|i| i % 4 != 0).collect::<Vec<_>>());
        let (_, nearly) = answered(&(0..60).map(|i| i != 7).collect::<Vec<_>>());
        let worse = compare(&data, &good, &bad).unwrap();
        assert!(worse.is_worse() && worse.by_groups && worse.groups == 6, "{worse:?}");
        assert_eq!((worse.old.score, worse.new.score, worse.more_error), (1.0, 0.75, 0.25));
        assert!(!compare(&data, &good, &nearly).unwrap().is_worse(), "one picture may be chance");
        assert!(!compare(&data, &bad, &good).unwrap().is_worse());
        // What one of them could not read is left out.
        assert_eq!(compare(&data, &good[..20], &bad[10..]).unwrap().n, 10);
        assert!(compare(&data, &[], &bad).is_none());
    }
}
