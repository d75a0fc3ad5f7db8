//! Fits a linear classifier on feature vectors: multinomial logistic regression by L-BFGS, L2 chosen by
//! cross-validation.
//!
//! # Source
//!
//! Nocedal and Wright, *Numerical Optimization*, 2nd ed., algorithms 7.4 and 7.5 (L-BFGS); the objective is that of
//! scikit-learn's `LogisticRegression`: mean cross-entropy plus `|w|^2 / (2 C n)`, the bias not penalised.

use std::collections::VecDeque;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use graft_onnx::Head;

use crate::metrics::argmax;
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

/// Feature vectors with their classes.
#[derive(Debug, Clone)]
pub struct Samples {
    /// `[n, width]`, row-major.
    pub features: Vec<f32>,
    /// Length of a vector.
    pub width: usize,
    /// `[n]`, each below `classes`.
    pub classes: Vec<usize>,
    /// Number of classes.
    pub count: usize,
}

impl Samples {
    /// Returns the samples at `rows`.
    pub fn pick(&self, rows: &[usize]) -> Self {
        let mut features = Vec::with_capacity(rows.len() * self.width);
        for &r in rows {
            features.extend_from_slice(self.row(r));
        }
        let classes = rows.iter().map(|&r| self.classes[r]).collect();
        Self { features, classes, width: self.width, count: self.count }
    }

    fn row(&self, r: usize) -> &[f32] {
        &self.features[r * self.width..(r + 1) * self.width]
    }
}

/// A fitted head and how it came about.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// The classifier, on features as the backbone gives them.
    pub head: Head,
    /// The chosen strength.
    pub strength: f64,
    /// `(C, share of held-out samples that are right)` for each strength tried.
    pub tried: Vec<(f64, f64)>,
    /// L-BFGS iterations of the last fit.
    pub iterations: usize,
    /// Mean cross-entropy on the samples, without the penalty.
    pub loss: f64,
}

/// Fits a head, choosing `C` by stratified cross-validation.
///
/// # Errors
///
/// If there are fewer than two classes, a class has no sample, or a feature is not finite.
pub fn fit(samples: &Samples, seed: u64, mut progress: impl FnMut(usize, usize)) -> Result<Fitted> {
    check(samples)?;
    let steps = STRENGTHS.len() * FOLDS + 1;
    let mut done = 0;
    let mut hits = [0usize; STRENGTHS.len()];
    let folds = folds(samples, seed);
    for fold in 0..FOLDS {
        let rows = |held_out: bool| -> Vec<usize> {
            (0..samples.classes.len()).filter(|&i| (folds[i] == fold) == held_out).collect()
        };
        let (train, test) = (samples.pick(&rows(false)), samples.pick(&rows(true)));
        if train.classes.is_empty() || test.classes.is_empty() {
            continue;
        }
        let scaler = Scaler::of(&train);
        let problem = Problem::new(&train, &scaler)?;
        let mut at = vec![0.0; problem.len()];
        for (hit, &strength) in hits.iter_mut().zip(&STRENGTHS) {
            // Each strength starts where the one before it ended: they are sorted, so the way is short.
            at = problem.minimise(strength, at, MAX_ITERATIONS / 2)?.at;
            let head = scaler.head(&at, train.width, train.count);
            *hit += test.classes.iter().enumerate().filter(|&(i, &c)| argmax(&logits(&head, test.row(i))) == c).count();
            done += 1;
            progress(done, steps);
        }
    }
    let n = samples.classes.len() as f64;
    let tried: Vec<(f64, f64)> = STRENGTHS.iter().zip(hits).map(|(&c, h)| (c, h as f64 / n)).collect();
    // The weakest of equals: it is the smoother function.
    let strength = tried.iter().fold(tried[0], |best, &t| if t.1 > best.1 { t } else { best }).0;
    let fitted = fit_with(samples, strength)?;
    progress(steps, steps);
    Ok(Fitted { tried, ..fitted })
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
        head: scaler.head(&end.at, samples.width, samples.count),
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
    ensure!(samples.count >= 2, "expected at least two classes, found {}", samples.count);
    ensure!(samples.features.len() == samples.classes.len() * samples.width, "features and classes differ in number");
    for class in 0..samples.count {
        ensure!(samples.classes.contains(&class), "expected a picture of every class, found none of class {class}");
    }
    ensure!(samples.features.iter().all(|v| v.is_finite()), "expected finite features, found NaN or infinity");
    Ok(())
}

/// Deals the samples of each class into folds.
fn folds(samples: &Samples, seed: u64) -> Vec<usize> {
    let mut fold = vec![0; samples.classes.len()];
    let mut rng = Rng::new(seed ^ 0xf01d);
    for class in 0..samples.count {
        let mut rows: Vec<usize> = (0..fold.len()).filter(|&i| samples.classes[i] == class).collect();
        rng.shuffle(&mut rows);
        for (place, row) in rows.into_iter().enumerate() {
            fold[row] = (place + class) % FOLDS;
        }
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
        let n = samples.classes.len().max(1) as f64;
        let width = samples.width;
        let (mut mean, mut square) = (vec![0.0f64; width], vec![0.0f64; width]);
        for row in samples.features.chunks_exact(width) {
            for (m, &v) in mean.iter_mut().zip(row) {
                *m += f64::from(v) / n;
            }
        }
        for row in samples.features.chunks_exact(width) {
            for ((s, m), &v) in square.iter_mut().zip(&mean).zip(row) {
                *s += (f64::from(v) - m).powi(2) / n;
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
struct Problem<'a> {
    features: Tensor,
    transposed: Tensor,
    classes: &'a [usize],
    width: usize,
    count: usize,
}

impl<'a> Problem<'a> {
    fn new(samples: &'a Samples, scaler: &Scaler) -> Result<Self> {
        let shape = (samples.classes.len(), samples.width);
        let features = Tensor::from_vec(scaler.scaled(samples), shape, &Device::Cpu)?;
        let transposed = features.t()?.contiguous()?;
        Ok(Self { features, transposed, classes: &samples.classes, width: samples.width, count: samples.count })
    }

    /// Number of variables: weights `[width, classes]`, then bias `[classes]`.
    fn len(&self) -> usize {
        (self.width + 1) * self.count
    }

    /// Returns the objective, the mean cross-entropy in it, and the gradient.
    fn evaluate(&self, at: &[f64], strength: f64) -> Result<(f64, f64, Vec<f64>)> {
        let (weights, bias) = at.split_at(self.width * self.count);
        let n = self.classes.len() as f64;
        let w: Vec<f32> = weights.iter().map(|&v| v as f32).collect();
        let w = Tensor::from_vec(w, (self.width, self.count), &Device::Cpu)?;
        let mut residual: Vec<f32> = self.features.matmul(&w)?.flatten_all()?.to_vec1()?;
        let mut loss = 0.0;
        let mut bias_gradient = vec![0.0f64; self.count];
        for (row, &class) in residual.chunks_exact_mut(self.count).zip(self.classes) {
            let z: Vec<f64> = row.iter().zip(bias).map(|(&r, b)| f64::from(r) + b).collect();
            let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = z.iter().map(|v| (v - top).exp()).sum();
            loss += (top + sum.ln() - z[class]) / n;
            for (c, r) in row.iter_mut().enumerate() {
                let d = ((z[c] - top).exp() / sum - f64::from(u8::from(c == class))) / n;
                bias_gradient[c] += d;
                *r = d as f32;
            }
        }
        let residual = Tensor::from_vec(residual, (self.classes.len(), self.count), &Device::Cpu)?;
        let product: Vec<f32> = self.transposed.matmul(&residual)?.flatten_all()?.to_vec1()?;
        let penalty = 1.0 / (strength * n);
        let mut gradient: Vec<f64> = product.iter().zip(weights).map(|(&g, w)| f64::from(g) + penalty * w).collect();
        gradient.extend(bias_gradient);
        let objective = loss + 0.5 * penalty * weights.iter().map(|w| w * w).sum::<f64>();
        Ok((objective, loss, gradient))
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
        Samples { features, width: 2, classes, count: 3 }
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
        let right = (0..300).filter(|&i| argmax(&logits(&fitted.head, samples.row(i))) == samples.classes[i]).count();
        assert!(right > 220, "{right}");
        assert_eq!(fit(&samples, 1, |_, _| ()).unwrap().head, fitted.head);
    }

    #[test]
    fn a_class_without_samples_is_refused() {
        let mut samples = clouds(30);
        samples.count = 4;
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
