//! Fits a linear head on feature vectors by L-BFGS, with L2 chosen by cross-validation: multinomial logistic regression for
//! classes, one logistic regression each for tags, ridge regression for values.
//!
//! # Source
//!
//! Nocedal and Wright, *Numerical Optimization*, 2nd ed., algorithms 7.4 and 7.5 (L-BFGS); the objective is that of
//! scikit-learn's `LogisticRegression`: mean loss plus `|w|^2 / (2 C n)`, the bias not penalised; what counts as several is a
//! `sample_weight` there. With half the mean square
//! as the loss that is its `Ridge` with `alpha = 1 / C`.

use std::collections::VecDeque;

use anyhow::{Result, bail, ensure};
use candle_core::{Device, Tensor};
use graft_onnx::Head;

use crate::metrics::score;
use crate::objective::{Loss, Targets};
use crate::rng::Rng;

/// The strengths `C` that cross-validation chooses from.
pub const STRENGTHS: [f64; 6] = [1e-4, 1e-3, 3e-3, 1e-2, 1e-1, 1.0];
/// Number of parts that cross-validation cuts the samples into.
pub const FOLDS: usize = 3;
const MAX_ITERATIONS: usize = 200;
const MEMORY: usize = 10;
/// Share of the mean variance of all features that is added to that of each.
const FLOOR: f64 = 0.05;
/// Stops where the largest gradient entry falls below this.
const GRADIENT_TOLERANCE: f64 = 1e-4;

/// Feature vectors with what is wanted of them.
#[derive(Debug, Clone)]
pub struct Samples {
    /// `[n, width]`, row-major.
    pub features: Vec<f32>,
    /// Length of a vector.
    pub width: usize,
    /// One row for each of `n` vectors.
    pub targets: Targets,
    /// So many vectors after each other are views of one picture, of which the first is the picture itself.
    pub views: usize,
    /// Those that count more than the others.
    pub weighty: Weighty,
}

/// The first so many vectors, each of which counts as several.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Weighty {
    /// How many vectors.
    pub first: usize,
    /// As how many each counts.
    pub times: f64,
}

impl Samples {
    /// Returns the vectors at `rows`, each as of a picture of its own.
    pub fn pick(&self, rows: &[usize]) -> Self {
        let features = rows.iter().flat_map(|&r| self.row(r)).copied().collect();
        Self { features, targets: self.targets.pick(rows), width: self.width, views: 1, weighty: Weighty::default() }
    }

    /// Returns the rows of some pictures' vectors.
    pub fn rows_of(&self, pictures: &[usize]) -> Vec<usize> {
        pictures.iter().flat_map(|p| p * self.views..(p + 1) * self.views).collect()
    }

    /// Returns what a vector counts.
    fn weight(&self, r: usize) -> f64 {
        if r < self.weighty.first { self.weighty.times } else { 1.0 }
    }

    /// Returns what all vectors count.
    fn total(&self) -> f64 {
        let first = self.weighty.first.min(self.targets.len());
        first as f64 * self.weighty.times + (self.targets.len() - first) as f64
    }

    pub(crate) fn row(&self, r: usize) -> &[f32] {
        &self.features[r * self.width..(r + 1) * self.width]
    }
}

/// A fitted head and how it came about.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// On features as the backbone gives them.
    pub head: Head,
    /// The chosen strength.
    pub strength: f64,
    /// `(C, score of held-out samples)` for each strength tried: the share that is right, or R².
    pub tried: Vec<(f64, f64)>,
    /// L-BFGS iterations of the last fit.
    pub iterations: usize,
    /// Mean loss on the samples, without the penalty.
    pub loss: f64,
}

/// Fits a head, choosing `C` by cross-validation, stratified where there are classes.
///
/// # Errors
///
/// If there are fewer than two classes, a class has no sample, or a feature or target is not finite.
pub fn fit(samples: &Samples, seed: u64, mut progress: impl FnMut(usize, usize)) -> Result<Fitted> {
    check(samples)?;
    let steps = STRENGTHS.len() * FOLDS + 1;
    let mut done = 0;
    // What each strength says of held-out samples, in the folds' order, and what is true.
    let mut outputs = vec![vec![]; STRENGTHS.len()];
    let mut wanted = vec![];
    // Views of one picture fall into one fold, and what is held out is measured as the device sees it.
    let firsts: Vec<usize> = (0..samples.targets.len()).step_by(samples.views.max(1)).collect();
    let folds = folds(&samples.targets.pick(&firsts), seed);
    for fold in 0..FOLDS {
        let pictures =
            |held_out: bool| -> Vec<usize> { (0..folds.len()).filter(|&i| (folds[i] == fold) == held_out).collect() };
        let train = samples.pick(&samples.rows_of(&pictures(false)));
        let test = samples.pick(&pictures(true).iter().map(|p| firsts[*p]).collect::<Vec<_>>());
        if train.targets.len() == 0 || test.targets.len() == 0 {
            continue;
        }
        wanted.extend((0..test.targets.len()).flat_map(|i| test.targets.row(i)));
        for (outputs, head) in outputs.iter_mut().zip(path(&train)?) {
            outputs.extend((0..test.targets.len()).flat_map(|i| logits(&head, test.row(i))));
            done += 1;
        }
        progress(done, steps);
    }
    let score = |outputs: &Vec<f32>| score(&samples.targets, outputs, &wanted);
    let tried: Vec<(f64, f64)> = STRENGTHS.iter().zip(&outputs).map(|(&c, o)| (c, score(o))).collect();
    // The weakest of equals: it is the smoother function.
    let strength = tried.iter().fold(tried[0], |best, &t| if t.1 > best.1 { t } else { best }).0;
    let fitted = fit_with(samples, strength)?;
    progress(steps, steps);
    Ok(Fitted { tried, ..fitted })
}

/// Fits a head with each of [`STRENGTHS`].
///
/// # Errors
///
/// If the samples do not fit together.
pub(crate) fn path(samples: &Samples) -> Result<Vec<Head>> {
    let scaler = Scaler::of(samples);
    let problem = Problem::new(samples, &scaler)?;
    let mut at = vec![0.0; problem.len()];
    let one = |&strength: &f64| {
        // Each strength starts where the one before it ended: they are sorted, so the way is short.
        at = problem.minimise(strength, std::mem::take(&mut at), MAX_ITERATIONS / 2)?.at;
        Ok(scaler.head(&at, samples.width, samples.targets.width()))
    };
    STRENGTHS.iter().map(one).collect()
}

/// Fits a head with a given `C`.
///
/// # Errors
///
/// As [`fit`].
pub fn fit_with(samples: &Samples, strength: f64) -> Result<Fitted> {
    check(samples)?;
    let scaler = Scaler::of(samples);
    let problem = Problem::new(samples, &scaler)?;
    let end = problem.minimise(strength, vec![0.0; problem.len()], MAX_ITERATIONS)?;
    Ok(Fitted {
        head: scaler.head(&end.at, samples.width, samples.targets.width()),
        strength,
        tried: vec![],
        iterations: end.iterations,
        loss: end.loss,
    })
}

/// Returns `weight * features + bias`.
pub fn logits(head: &Head, features: &[f32]) -> Vec<f32> {
    let rows = head.weight.data.chunks_exact(features.len().max(1));
    rows.zip(&head.bias).map(|(w, b)| b + w.iter().zip(features).map(|(w, x)| w * x).sum::<f32>()).collect()
}

fn check(samples: &Samples) -> Result<()> {
    let targets = &samples.targets;
    ensure!(samples.features.len() == targets.len() * samples.width, "features and targets differ in number");
    ensure!(samples.features.iter().all(|v| v.is_finite()), "expected finite features, found NaN or infinity");
    match targets {
        Targets::Classes { count, .. } => {
            ensure!(*count >= 2, "expected at least two classes, found {count}");
            if let Some(class) = targets.counts().iter().position(|&c| c == 0) {
                bail!("expected a picture of every class, found none of class {class}");
            }
        }
        Targets::Tags { of, .. } | Targets::Values { of, .. } => {
            ensure!(!of.is_empty(), "expected targets to fit, found none");
            ensure!(of.iter().all(|v| v.is_finite()), "expected finite targets, found NaN or infinity");
        }
    }
    Ok(())
}

/// Deals the samples, of each class where there are classes, into folds.
fn folds(targets: &Targets, seed: u64) -> Vec<usize> {
    let mut fold = vec![0; targets.len()];
    let mut rng = Rng::new(seed ^ 0xf01d);
    let mut deal = |mut rows: Vec<usize>, first: usize| {
        rng.shuffle(&mut rows);
        rows.into_iter().enumerate().for_each(|(place, row)| fold[row] = (place + first) % FOLDS);
    };
    match targets {
        Targets::Classes { of, count } => {
            for class in 0..*count {
                deal((0..of.len()).filter(|&i| of[i] == class).collect(), class);
            }
        }
        _ => deal((0..targets.len()).collect(), 0),
    }
    fold
}

/// Brings each feature to mean 0 and deviation 1.
struct Scaler {
    mean: Vec<f64>,
    inverse: Vec<f64>,
}

impl Scaler {
    fn of(samples: &Samples) -> Self {
        let total = samples.total().max(1.0);
        let width = samples.width;
        let (mut mean, mut square) = (vec![0.0f64; width], vec![0.0f64; width]);
        for (r, row) in samples.features.chunks_exact(width).enumerate() {
            let share = samples.weight(r) / total;
            for (m, &v) in mean.iter_mut().zip(row) {
                *m += share * f64::from(v);
            }
        }
        for (r, row) in samples.features.chunks_exact(width).enumerate() {
            let share = samples.weight(r) / total;
            for ((s, m), &v) in square.iter_mut().zip(&mean).zip(row) {
                *s += share * (f64::from(v) - m).powi(2);
            }
        }
        // A feature that never varies says nothing; dividing by its rounding noise would make it shout. One that varies
        // little is not raised to the rest either: the noise of int8 would be raised with it.
        let typical = square.iter().sum::<f64>() / width.max(1) as f64;
        let scale = |&s: &f64| if s > 1e-12 { 1.0 / (s + FLOOR * typical).sqrt() } else { 0.0 };
        let inverse = square.iter().map(scale).collect();
        Self { mean, inverse }
    }

    fn scaled(&self, samples: &Samples) -> Vec<f32> {
        let scale = |(v, (m, i)): (&f32, (&f64, &f64))| ((f64::from(*v) - m) * i) as f32;
        let rows = samples.features.chunks_exact(samples.width);
        rows.flat_map(|row| row.iter().zip(self.mean.iter().zip(&self.inverse)).map(scale)).collect()
    }

    /// Turns weights `[width, classes]` and bias `[classes]` on scaled features into a head on raw ones.
    fn head(&self, at: &[f64], width: usize, classes: usize) -> Head {
        let (weights, bias) = at.split_at(width * classes);
        let mut head = Head {
            weight: graft_zoo::Tensor { shape: vec![classes, width], data: vec![0.0; classes * width] },
            bias: vec![0.0; classes],
        };
        for c in 0..classes {
            let mut shift = bias[c];
            for d in 0..width {
                let w = weights[d * classes + c] * self.inverse[d];
                head.weight.data[c * width + d] = w as f32;
                shift -= w * self.mean[d];
            }
            head.bias[c] = shift as f32;
        }
        head
    }
}

/// Where a minimisation ended.
struct End {
    at: Vec<f64>,
    loss: f64,
    iterations: usize,
}

/// The objective on scaled features; candle's matrix product does the heavy part.
struct Problem {
    features: Tensor,
    transposed: Tensor,
    /// `[n, count]`.
    targets: Vec<f32>,
    loss: Loss,
    n: usize,
    /// So many vectors come first and make so much of the loss.
    first: (usize, f64),
    /// What all vectors count.
    total: f64,
    width: usize,
    count: usize,
}

impl Problem {
    fn new(samples: &Samples, scaler: &Scaler) -> Result<Self> {
        let (n, width, count) = (samples.targets.len(), samples.width, samples.targets.width());
        let features = Tensor::from_vec(scaler.scaled(samples), (n, width), &Device::Cpu)?;
        let transposed = features.t()?.contiguous()?;
        let targets = (0..n).flat_map(|i| samples.targets.row(i)).collect();
        let (first, total) = (samples.weighty.first.min(n), samples.total());
        let first = (first, first as f64 * samples.weighty.times / total.max(1.0));
        Ok(Self { features, transposed, targets, loss: samples.targets.loss(), n, first, total, width, count })
    }

    /// Number of variables: weights `[width, classes]`, then bias `[classes]`.
    fn len(&self) -> usize {
        (self.width + 1) * self.count
    }

    /// Returns the objective, the mean loss in it, and the gradient.
    fn evaluate(&self, at: &[f64], strength: f64) -> Result<(f64, f64, Vec<f64>)> {
        let (weights, bias) = at.split_at(self.width * self.count);
        let w: Vec<f32> = weights.iter().map(|&v| v as f32).collect();
        let w = Tensor::from_vec(w, (self.width, self.count), &Device::Cpu)?;
        let mut outputs: Vec<f32> = self.features.matmul(&w)?.flatten_all()?.to_vec1()?;
        for row in outputs.chunks_exact_mut(self.count) {
            row.iter_mut().zip(bias).for_each(|(o, b)| *o += *b as f32);
        }
        let (loss, residual) = self.weighed(&outputs)?;
        let mut bias_gradient = vec![0.0f64; self.count];
        for row in residual.chunks_exact(self.count) {
            bias_gradient.iter_mut().zip(row).for_each(|(sum, r)| *sum += f64::from(*r));
        }
        let residual = Tensor::from_vec(residual, (self.n, self.count), &Device::Cpu)?;
        let product: Vec<f32> = self.transposed.matmul(&residual)?.flatten_all()?.to_vec1()?;
        let penalty = 1.0 / (strength * self.total);
        let mut gradient: Vec<f64> = product.iter().zip(weights).map(|(&g, w)| f64::from(g) + penalty * w).collect();
        gradient.extend(bias_gradient);
        let objective = loss + 0.5 * penalty * weights.iter().map(|w| w * w).sum::<f64>();
        Ok((objective, loss, gradient))
    }

    /// Returns the mean loss of outputs and its gradient, what comes first by its share.
    fn weighed(&self, outputs: &[f32]) -> Result<(f64, Vec<f32>)> {
        let (first, share) = self.first;
        if first == 0 || first == self.n {
            return self.loss.of(outputs, &self.targets, self.count);
        }
        let at = first * self.count;
        let (mut loss, mut gradient) = (0.0, Vec::with_capacity(outputs.len()));
        for (part, share) in [(0..at, share), (at..outputs.len(), 1.0 - share)] {
            let (value, slopes) = self.loss.of(&outputs[part.clone()], &self.targets[part], self.count)?;
            loss += share * value;
            gradient.extend(slopes.into_iter().map(|s| share as f32 * s));
        }
        Ok((loss, gradient))
    }

    fn minimise(&self, strength: f64, mut at: Vec<f64>, max_iterations: usize) -> Result<End> {
        let (mut value, mut loss, mut gradient) = self.evaluate(&at, strength)?;
        let mut history: VecDeque<(Vec<f64>, Vec<f64>)> = VecDeque::with_capacity(MEMORY);
        let mut iterations = 0;
        while iterations < max_iterations && gradient.iter().any(|g| g.abs() > GRADIENT_TOLERANCE) {
            iterations += 1;
            let direction = descent(&gradient, &history);
            let slope = dot(&direction, &gradient);
            let mut step = if history.is_empty() { 1.0 / dot(&gradient, &gradient).sqrt().max(1.0) } else { 1.0 };
            // Armijo back-tracking is enough: the objective is convex, and pairs of no curvature are dropped below.
            let next = loop {
                let there: Vec<f64> = at.iter().zip(&direction).map(|(a, d)| a + step * d).collect();
                let (v, l, g) = self.evaluate(&there, strength)?;
                if v <= value + 1e-4 * step * slope || step < 1e-10 {
                    break (there, v, l, g);
                }
                step *= 0.5;
            };
            let moved: Vec<f64> = next.0.iter().zip(&at).map(|(a, b)| a - b).collect();
            let turned: Vec<f64> = next.3.iter().zip(&gradient).map(|(a, b)| a - b).collect();
            if dot(&moved, &turned) > 1e-12 {
                if history.len() == MEMORY {
                    history.pop_front();
                }
                history.push_back((moved, turned));
            }
            let gained = value - next.1;
            (at, value, loss, gradient) = next;
            if gained.abs() < 1e-10 * value.abs().max(1e-3) {
                break;
            }
        }
        Ok(End { at, loss, iterations })
    }
}

/// The two-loop recursion: minus the gradient times the inverse Hessian that the history implies.
fn descent(gradient: &[f64], history: &VecDeque<(Vec<f64>, Vec<f64>)>) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut alphas = Vec::with_capacity(history.len());
    for (s, y) in history.iter().rev() {
        let alpha = dot(s, &q) / dot(s, y);
        q.iter_mut().zip(y).for_each(|(q, y)| *q -= alpha * y);
        alphas.push(alpha);
    }
    if let Some((s, y)) = history.back() {
        let scale = dot(s, y) / dot(y, y);
        q.iter_mut().for_each(|q| *q *= scale);
    }
    for ((s, y), alpha) in history.iter().zip(alphas.into_iter().rev()) {
        let beta = dot(y, &q) / dot(s, y);
        q.iter_mut().zip(s).for_each(|(q, s)| *q += (alpha - beta) * s);
    }
    q
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::argmax;

    /// Three overlapping clouds in the plane.
    fn clouds(n: usize) -> Samples {
        let mut rng = Rng::new(11);
        let centres = [(0.0, 0.0), (2.0, 0.5), (-0.5, 2.0)];
        let (mut features, mut classes) = (vec![], vec![]);
        for i in 0..n {
            let (x, y) = centres[i % 3];
            features.extend([x + rng.normal(), 100.0 + 10.0 * (y + rng.normal())]);
            classes.push(i % 3);
        }
        Samples {
            features,
            width: 2,
            targets: Targets::Classes { of: classes, count: 3 },
            views: 1,
            weighty: Weighty::default(),
        }
    }

    #[test]
    fn the_gradient_vanishes_at_the_fit_as_finite_differences_see_it() {
        let samples = clouds(300);
        let scaler = Scaler::of(&samples);
        let problem = Problem::new(&samples, &scaler).unwrap();
        let end = problem.minimise(0.1, vec![0.0; problem.len()], 200).unwrap();
        let best = problem.evaluate(&end.at, 0.1).unwrap().0;
        for i in 0..problem.len() {
            for step in [-0.02, 0.02] {
                let mut at = end.at.clone();
                at[i] += step;
                assert!(problem.evaluate(&at, 0.1).unwrap().0 > best - 1e-7, "variable {i}");
            }
        }
        assert!(end.iterations < 60, "{}", end.iterations);
    }

    #[test]
    fn the_head_works_on_unscaled_features_and_the_seed_fixes_it() {
        let samples = clouds(300);
        let fitted = fit(&samples, 1, |_, _| ()).unwrap();
        let right = (0..300).filter(|&i| argmax(&logits(&fitted.head, samples.row(i))) == i % 3).count();
        assert!(right > 220, "{right}");
        assert_eq!(fit(&samples, 1, |_, _| ()).unwrap().head, fitted.head);
    }

    /// Views that are copies say nothing new, and none helps to foretell its own picture.
    #[test]
    fn copies_as_views_are_no_better_than_one() {
        let samples = clouds(60);
        let rows: Vec<usize> = (0..60).flat_map(|r| [r, r]).collect();
        let doubled = Samples { views: 2, ..samples.pick(&rows) };
        let best = |s: &Samples| fit(s, 3, |_, _| ()).unwrap().tried.iter().map(|t| t.1).fold(0.0, f64::max);
        // Twice the vectors are half the penalty, so the two need not be equal.
        assert!((best(&samples) - best(&doubled)).abs() < 0.03, "{} {}", best(&samples), best(&doubled));
    }

    #[test]
    fn what_counts_as_three_is_there_three_times() {
        let samples = clouds(60);
        let weighty = Samples { weighty: Weighty { first: 7, times: 3.0 }, ..samples.clone() };
        let rows: Vec<usize> = (0..60).flat_map(|r| std::iter::repeat_n(r, if r < 7 { 3 } else { 1 })).collect();
        let repeated = samples.pick(&rows);
        let (a, b) = (fit_with(&weighty, 0.5).unwrap(), fit_with(&repeated, 0.5).unwrap());
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 2e-3 * (1.0 + b.abs()));
        assert!(near(&a.head.weight.data, &b.head.weight.data) && near(&a.head.bias, &b.head.bias), "{a:?} {b:?}");
        assert!((a.loss - b.loss).abs() < 1e-6);
        let plain = fit_with(&samples, 0.5).unwrap();
        assert!(!near(&a.head.bias, &plain.head.bias), "weights change the fit");
    }

    #[test]
    fn a_class_without_samples_is_refused() {
        let mut samples = clouds(30);
        samples.targets = Targets::Classes { of: (0..30).map(|i| i % 3).collect(), count: 4 };
        assert!(fit(&samples, 1, |_, _| ()).unwrap_err().to_string().contains("class 3"));
    }

    #[test]
    fn a_constant_feature_is_harmless() {
        let mut samples = clouds(60);
        samples.features.iter_mut().step_by(2).for_each(|v| *v = 5.0);
        let fitted = fit_with(&samples, 1.0).unwrap();
        assert!(fitted.head.weight.data.iter().step_by(2).all(|&w| w == 0.0));
    }
}
