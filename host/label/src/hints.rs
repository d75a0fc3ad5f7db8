//! What is known of pictures before anybody looks: a model's answers, what a label would be worth, which are alike.

use serde::Serialize;

use crate::Seen;

/// What the caller knows; each list has a place for each picture of the folder, in its order.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    /// What a model said.
    pub answers: Vec<Option<Answer>>,
    /// What a label is expected to be worth, from 0 to 1.
    pub gains: Vec<f32>,
    /// Feature vectors, of one length; pictures without one have no neighbours.
    pub vectors: Vec<Option<Vec<f32>>>,
}

/// What a model said of a picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// The best label.
    pub label: String,
    /// Its probability.
    pub probability: f32,
    /// The next best label, and its probability.
    pub second: Option<(String, f32)>,
    /// Why the model was not sure.
    pub reason: Option<String>,
}

impl Answer {
    /// Takes what a device said.
    pub fn of_device(seen: &Seen) -> Self {
        Self {
            label: seen.answer.clone(),
            probability: seen.probability,
            second: seen.second.clone(),
            reason: seen.reason.clone(),
        }
    }

    /// Returns how unsure the model was, from 0 to 1: one less the margin between its two best labels, or one less the
    /// best one's probability where the second is not known.
    pub fn doubt(&self) -> f32 {
        let margin = self.second.as_ref().map_or(self.probability, |(_, p)| self.probability - p);
        (1.0 - margin).clamp(0.0, 1.0)
    }
}

/// Returns what labels are worth: by the devices' own `value` where all answered pictures have one, as ranks; else by
/// the doubt of the answers. A picture of which nothing was said is worth the most.
pub fn gains(values: &[Option<f32>], answers: &[Option<Answer>]) -> Vec<f32> {
    let is_valued = answers.iter().zip(values).all(|(a, v)| a.is_none() || v.is_some());
    if !(is_valued && values.iter().any(Option::is_some)) {
        return answers.iter().map(|a| a.as_ref().map_or(1.0, Answer::doubt)).collect();
    }
    let mut sorted: Vec<f32> = values.iter().flatten().copied().collect();
    sorted.sort_by(f32::total_cmp);
    let rank = |v: f32| sorted.partition_point(|s| *s <= v) as f32 / sorted.len() as f32;
    values.iter().map(|v| v.map_or(1.0, rank)).collect()
}

/// Returns the order in which to ask: next always the picture of the highest product of the gain's root and of the distance
/// to what comes before it or is labelled already, so that one odd plant does not fill the queue.
///
/// By the root, as pictures that a model is least sure of are of few kinds. What labels chosen so are worth: `docs/performance.md`.
///
/// Exact for the first [`SPREAD`] among the [`POOL`] of most gain, behind which the rest goes by gain alone.
pub(crate) fn order(gains: &[f32], vectors: &[Option<Unit>], labelled: &[usize]) -> Vec<usize> {
    let mut by_gain: Vec<usize> = (0..gains.len()).collect();
    by_gain.sort_by(|&a, &b| gains[b].total_cmp(&gains[a]).then(a.cmp(&b)));
    let vector = |i: usize| vectors.get(i).and_then(Option::as_ref);
    // Cosine distances are at most 2; without a vector a picture is as far from all others as may be.
    let distance = |a: usize, b: usize| match (vector(a), vector(b)) {
        (Some(a), Some(b)) => 1.0 - a.cosine(b),
        _ => 2.0,
    };
    let mut pool: Vec<(usize, f32)> = by_gain
        .iter()
        .take(POOL)
        .map(|&i| (i, labelled.iter().rev().take(SPREAD).map(|&l| distance(i, l)).fold(2.0, f32::min)))
        .collect();
    let mut order = Vec::with_capacity(gains.len());
    while order.len() < SPREAD && !pool.is_empty() {
        // The floor keeps the order by gain among copies of one picture.
        let worth = |(i, near): &(usize, f32)| (gains[*i] + 0.05).sqrt() * (near + 0.01);
        let best = (0..pool.len()).reduce(|a, b| if worth(&pool[b]) > worth(&pool[a]) { b } else { a });
        let (chosen, _) = pool.remove(best.unwrap_or(0));
        order.push(chosen);
        for (i, near) in &mut pool {
            *near = near.min(distance(*i, chosen));
        }
    }
    let mut is_taken = vec![false; gains.len()];
    order.iter().for_each(|&i| is_taken[i] = true);
    order.extend(by_gain.into_iter().filter(|&i| !is_taken[i]));
    order
}

/// A vector of length one.
#[derive(Debug, Clone)]
pub(crate) struct Unit(Vec<f32>);

impl Unit {
    /// Scales a vector; none comes of one without a direction.
    pub(crate) fn new(mut vector: Vec<f32>) -> Option<Self> {
        let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
        if !(norm.is_finite() && norm > 0.0) {
            return None;
        }
        vector.iter_mut().for_each(|v| *v /= norm);
        Some(Self(vector))
    }

    pub(crate) fn cosine(&self, other: &Self) -> f32 {
        // In eight lanes: a plain sum of floats is not vectorised.
        let mut lanes = [0.0f32; 8];
        let (a, b) = (self.0.chunks_exact(8), other.0.chunks_exact(8));
        let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
        for (a, b) in a.zip(b) {
            for ((lane, x), y) in lanes.iter_mut().zip(a).zip(b) {
                *lane += x * y;
            }
        }
        lanes.iter().sum::<f32>() + rest
    }
}

/// Pictures that are spread out; more than somebody labels in a sitting.
const SPREAD: usize = 300;
/// Pictures among which these are chosen.
const POOL: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(probability: f32, second: Option<f32>) -> Option<Answer> {
        let second = second.map(|p| ("b".to_owned(), p));
        Some(Answer { label: "a".into(), probability, second, reason: None })
    }

    fn close(found: &[f32], expected: &[f32]) -> bool {
        found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6)
    }

    #[test]
    fn gain_is_the_rank_of_the_value_or_else_the_doubt() {
        let answers = [answer(0.9, None), answer(0.5, Some(0.4)), None];
        assert!(close(&gains(&[None, None, None], &answers), &[0.1, 0.9, 1.0]));
        assert!(close(&gains(&[Some(10.0), Some(-3.0), None], &answers), &[1.0, 0.5, 1.0]));
        // One answered picture without a value: values and doubts are not on one scale.
        assert!(close(&gains(&[Some(10.0), None, None], &answers), &[0.1, 0.9, 1.0]));
    }

    #[test]
    fn the_order_takes_one_of_each_kind_before_the_copies_of_the_best() {
        let unit = |x: f32, y: f32| Unit::new(vec![x, y]);
        // 0, 1 and 2 are one plant; 3 is another of less gain, 4 a third of none.
        let vectors = [unit(1.0, 0.0), unit(1.0, 0.001), unit(1.0, 0.002), unit(0.0, 1.0), unit(-1.0, 0.0)];
        let gains = [0.9, 0.8, 0.7, 0.5, 0.3];
        assert_eq!(order(&gains, &vectors, &[]), [0, 4, 3, 1, 2]);
        assert_eq!(order(&gains, &vectors, &[3])[0], 0, "what is labelled counts as seen");
        assert_eq!(order(&gains, &vectors, &[0])[..2], [4, 3]);
        let none = vec![None; 5];
        assert_eq!(order(&gains, &none, &[]), [0, 1, 2, 3, 4], "without vectors, by gain");
    }

    #[test]
    fn cosine_is_that_of_the_definition_at_every_length() {
        for len in [1usize, 7, 8, 9, 20] {
            let a: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin() + 0.1).collect();
            let b: Vec<f32> = (0..len).map(|i| (i as f32 * 1.3).cos()).collect();
            let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
            let expected = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
            let found = Unit::new(a).unwrap().cosine(&Unit::new(b).unwrap());
            assert!((f64::from(found) - expected).abs() < 1e-6, "{len}: {found} {expected}");
        }
        assert!(Unit::new(vec![0.0; 3]).is_none() && Unit::new(vec![f32::NAN]).is_none());
    }
}
