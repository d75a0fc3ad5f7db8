//! Calibration: fits what an answer is worth to labelled pictures that the model has not seen.
//!
//! Takes the logits of the very model that ships, int8 as it may be. Half of the pictures settle the temperature and which
//! energy is familiar; the other half, which has seen neither, the promises: sets of labels and sure answers. What the
//! pictures are too few for is left out, and said.

use anyhow::{Result, ensure};
use graft_runtime::decision::{DECISION, DECISION_FORMAT, Decision, Direction, Familiar, LabelSet, Sure, soften};
use graft_runtime::{LOGITS, Model};
use serde::Serialize;

use crate::dataset::{Dataset, Ignored, Task};
use crate::evaluate::each;
use crate::metrics::argmax;
use crate::pictures::OnBad;
use crate::quantize::statistics::calibration_error;

/// What is to be promised. Shares are between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Promise {
    /// How often the true label is to be in the set.
    pub coverage: f64,
    /// How often a sure answer may be wrong.
    pub risk: f64,
    /// With which probability of the fit that holds.
    pub confidence: f64,
    /// Which share of pictures like these is to stay familiar.
    pub keeps: f64,
}

impl Default for Promise {
    fn default() -> Self {
        Self { coverage: 0.9, risk: 0.1, confidence: 0.9, keeps: 0.95 }
    }
}

/// What the network said of a picture, and its true class.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// One logit a class.
    pub logits: Vec<f32>,
    /// What the last layer reads; empty where that is not told.
    pub features: Vec<f32>,
    /// The true class.
    pub class: usize,
}

/// What came of a calibration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calibrated {
    /// The numbers that travel with the model.
    pub decision: Decision,
    /// What was left out, and why.
    pub left_out: Vec<String>,
    /// What the half that had no part in the temperature shows of it.
    pub temperature: TemperatureShown,
    /// Pictures that could not be read.
    #[serde(skip)]
    pub skipped: Vec<Ignored>,
}

/// How well probabilities fit the share of right answers, before and after.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TemperatureShown {
    /// Pictures that show it.
    pub pictures: usize,
    /// Expected calibration error without a temperature.
    pub ece_before: f64,
    /// Expected calibration error with it.
    pub ece_after: f64,
}

/// The seed of the halves: the same pictures give the same numbers.
const SEED: u64 = 0xca1;

impl Calibrated {
    /// Returns an ONNX file with the decision in it, behind the bytes as they are.
    pub fn apply(&self, onnx: &[u8]) -> Vec<u8> {
        let features = self.decision.familiar.as_ref().map(|f| graft_onnx::with_output(onnx, &f.features));
        graft_onnx::with_entry(features.as_deref().unwrap_or(onnx), DECISION, &self.decision.to_json())
    }
}

/// Runs a model, an ONNX file, on labelled pictures and fits its decision.
///
/// # Errors
///
/// If the model does not tell classes, has other classes than the pictures, or fails.
pub fn calibrate(
    onnx: &[u8],
    data: &Dataset,
    promise: &Promise,
    progress: impl FnMut(usize, usize),
) -> Result<Calibrated> {
    let features = graft_onnx::features_of(onnx, LOGITS)?;
    let watched = features.as_ref().map(|name| graft_onnx::with_output(onnx, name));
    let model = Model::from_onnx(watched.as_deref().unwrap_or(onnx))?;
    let task = Task::of(model.metadata())?;
    ensure!(task == Task::Classes, "expected a model that tells classes, found one of {}", task.name());
    let data = data.clone().relabel(model.labels())?;
    let places =
        [Some(LOGITS), features.as_deref()].map(|name| model.outputs().iter().position(|o| Some(o.as_str()) == name));
    let take = |outputs: &mut [Vec<f32>], place: Option<usize>| {
        place.and_then(|at| outputs.get_mut(at)).map(std::mem::take).unwrap_or_default()
    };
    let ask = |pixels: &[u8]| {
        let mut outputs = model.run(pixels)?;
        Ok(places.map(|place| take(&mut outputs, place)))
    };
    let (found, skipped) = each(&model, &data.samples, OnBad::Skip, ask, progress)?;
    // By groups where there are some: pictures of one plant on both sides would vouch for each other.
    let (first, _) = data.split(0.5, SEED);
    let mut halves = (vec![], vec![]);
    for (sample, [logits, features]) in found {
        let half = if first.binary_search(&sample).is_ok() { &mut halves.0 } else { &mut halves.1 };
        half.push(Seen { class: data.samples[sample].class, logits, features });
    }
    Ok(Calibrated { skipped, ..fit(&halves.0, &halves.1, features.as_deref(), promise)? })
}

/// Fits the temperature and what is familiar to the first half, the promises to the second. `features` is the output that has
/// them, if one does.
///
/// # Errors
///
/// If a promise is no share.
pub fn fit(first: &[Seen], second: &[Seen], features: Option<&str>, promise: &Promise) -> Result<Calibrated> {
    let Promise { coverage, risk, confidence, keeps } = *promise;
    for (what, share) in [
        ("coverage", coverage),
        ("share of wrong answers", risk),
        ("confidence", confidence),
        ("familiar share", keeps),
    ] {
        ensure!(share > 0.0 && share < 1.0, "expected a {what} above 0 and below 100 %, found {}", 100.0 * share);
    }
    let mut left_out = vec![];
    let temperature = temperature(first) as f32;
    let familiar = match familiar(first, features, keeps) {
        Ok(familiar) => Some(familiar),
        Err(why) => {
            left_out.push(why);
            None
        }
    };

    let soft = |temperature: f32| -> Vec<(Vec<f32>, &Seen)> {
        let one = |seen: &Seen| {
            let mut p = vec![0.0; seen.logits.len()];
            soften(&seen.logits, temperature, &mut p);
            p
        };
        second.iter().map(|seen| (one(seen), seen)).collect()
    };
    let softened = soft(temperature);
    // How unlike each true label is: 1 - p, but as -p, which rounds nothing.
    let scores: Vec<f64> = softened.iter().map(|(p, seen)| -f64::from(p[seen.class])).collect();
    let set = match quantile(&scores, coverage) {
        Some(score) => {
            Some(LabelSet { coverage: coverage as f32, at_least: (-score) as f32, pictures: count(second.len()) })
        }
        None => {
            left_out.push(too_few("sets of labels", coverage, second.len()));
            None
        }
    };
    let is_familiar = |seen: &Seen| familiar.as_ref().is_none_or(|f| f.distance(&seen.features) <= f.at_most);
    let answered: Vec<(f32, bool)> =
        softened.iter().filter(|(_, seen)| is_familiar(seen)).map(|(p, seen)| best(p, seen)).collect();
    let sure = match at_risk(&answered, risk, 1.0 - confidence) {
        Some(at_least) => {
            Some(Sure { risk: risk as f32, confidence: confidence as f32, at_least, pictures: count(answered.len()) })
        }
        None => {
            left_out.push(format!(
                "sure answers: no probability above which {} pictures show at most {:.0} % wrong with {:.0} % confidence",
                answered.len(),
                100.0 * risk,
                100.0 * confidence
            ));
            None
        }
    };
    let shown = |softened: &[(Vec<f32>, &Seen)]| {
        let best = softened.iter().map(|(p, seen)| best(p, seen)).map(|(p, is_right)| (f64::from(p), is_right));
        calibration_error(&best.collect::<Vec<_>>())
    };
    let decision = Decision { format: DECISION_FORMAT, temperature, set, sure, familiar };
    let temperature =
        TemperatureShown { pictures: second.len(), ece_before: shown(&soft(1.0)), ece_after: shown(&softened) };
    Ok(Calibrated { decision, left_out, temperature, skipped: vec![] })
}

/// Finds where the features of each class point, and how far from there `keeps` of further pictures lie at most.
///
/// Each picture is held against means without itself, as a further one would be.
fn familiar(seen: &[Seen], features: Option<&str>, keeps: f64) -> Result<Familiar, String> {
    const WHAT: &str = "which pictures are familiar";
    let name = features.ok_or_else(|| format!("{WHAT}: the network does not end in a linear layer"))?;
    let classes = seen.first().map_or(0, |s| s.logits.len());
    let parts = seen.first().map_or(0, |s| s.features.len());
    if classes * parts > MOST_PARTS {
        return Err(format!(
            "{WHAT}: expected at most {MOST_PARTS} features of all classes, found {}",
            classes * parts
        ));
    }
    let mut sums = vec![(0usize, vec![0.0f64; parts]); classes];
    for s in seen {
        let (n, sum) = &mut sums[s.class];
        *n += 1;
        sum.iter_mut().zip(&s.features).for_each(|(sum, v)| *sum += f64::from(*v));
    }
    let direction = |sum: &[f64]| Direction::of(&sum.iter().map(|v| *v as f32).collect::<Vec<_>>());
    let means: Vec<Option<Direction>> = sums.iter().map(|(n, sum)| (*n > 0).then(|| direction(sum))).collect();
    let all = Familiar {
        keeps: keeps as f32,
        at_most: 0.0,
        pictures: count(seen.len()),
        features: name.to_owned(),
        means: means.iter().flatten().cloned().collect(),
    };
    let without = |s: &Seen| {
        let (n, sum) = &sums[s.class];
        let rest: Vec<f64> = sum.iter().zip(&s.features).map(|(sum, v)| sum - f64::from(*v)).collect();
        let own = (*n > 1).then(|| direction(&rest));
        let others = means.iter().enumerate().filter(|(class, _)| *class != s.class).filter_map(|(_, m)| m.clone());
        let means = others.chain(own).collect();
        f64::from(Familiar { means, ..all.clone() }.distance(&s.features))
    };
    let distances: Vec<f64> = seen.iter().map(without).collect();
    let at_most = quantile(&distances, keeps).ok_or_else(|| too_few(WHAT, keeps, seen.len()))?;
    Ok(Familiar { at_most: at_most as f32, ..all })
}

/// Numbers in the means of all classes together: they travel with each calibration.
const MOST_PARTS: usize = 1 << 18;

/// Returns the probability of the best answer, and whether it is right.
fn best(p: &[f32], seen: &Seen) -> (f32, bool) {
    let best = argmax(&seen.logits);
    (p[best], best == seen.class)
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn too_few(what: &str, share: f64, found: usize) -> String {
    // As in `quantile`.
    let needed = (share / (1.0 - share) - 1e-9).ceil();
    format!("{what}: expected at least {needed} pictures for {:.0} %, found {found}", 100.0 * share)
}

/// Returns the likeliest temperature: what the true labels say of it, and before them that its logarithm is about 0, give or
/// take [`SPREAD`]. Without pictures that is 1, and it is finite where all answers are right.
///
/// # Source
///
/// Guo et al., arXiv:1706.04599, section 4.2, with a prior.
fn temperature(seen: &[Seen]) -> f64 {
    // The slope of the loss and of the prior in ln 1/T.
    let rises = |log: f64| {
        let beta = log.exp();
        seen.len() as f64 * slope(seen, beta) * beta + log / SPREAD.powi(2) > 0.0
    };
    let [mut low, mut high] = BETA.map(f64::ln);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if rises(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    (-0.5 * (low + high)).exp()
}

/// Standard deviation of ln T before any picture: with it 20 to 150 pictures of two sets gave others a smaller loss and
/// calibration error than with none, with 0.15 or with 0.5 (`docs/performance.md`).
const SPREAD: f64 = 0.25;
/// Least and largest `1/T` that is looked at.
const BETA: [f64; 2] = [1e-2, 1e2];

/// Returns the derivative of the mean loss in `1/T`: mean logit under the softmax less the true label's.
fn slope(seen: &[Seen], beta: f64) -> f64 {
    let of = |s: &Seen| {
        let largest = s.logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (mut sum, mut mean) = (0.0, 0.0);
        for &z in &s.logits {
            let weight = (beta * f64::from(z - largest)).exp();
            sum += weight;
            mean += weight * f64::from(z);
        }
        mean / sum - s.logits.get(s.class).map_or(0.0, |&z| f64::from(z))
    };
    seen.iter().map(of).sum::<f64>() / seen.len().max(1) as f64
}

/// Returns the value which a further one of the same kind exceeds with a chance of at most `1 - share`, or none where there
/// are too few.
///
/// # Source
///
/// Split conformal prediction: the `⌈(n + 1) share⌉`-th smallest of `n`, as in Angelopoulos and Bates, *A Gentle
/// Introduction to Conformal Prediction*, arXiv:2107.07511, section 1.
fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    // A hair less, lest 10 * 0.9 be rounded up to 10.
    let rank = ((values.len() + 1) as f64 * share - 1e-9).ceil() as usize;
    sorted.get(rank.checked_sub(1)?).copied()
}

/// Returns the smallest probability above which `(probability, is right)` answers are wrong at most as often as `risk`, but
/// for a chance of `delta`.
///
/// # Source
///
/// Algorithm 2 of Geifman and El-Yaniv, arXiv:1705.08500.
fn at_risk(answers: &[(f32, bool)], risk: f64, delta: f64) -> Option<f32> {
    let mut sorted = answers.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let n = sorted.len();
    let rounds = usize::BITS - n.checked_sub(1)?.leading_zeros();
    let each = delta / f64::from(rounds.max(1));
    let (mut low, mut high, mut best) = (0, n - 1, None);
    for _ in 0..rounds.max(1) {
        let middle = (low + high).div_ceil(2);
        let at_least = sorted[middle].0;
        let chosen = sorted.partition_point(|a| a.0 < at_least);
        let wrong = sorted[chosen..].iter().filter(|a| !a.1).count();
        if worst_risk(wrong, n - chosen, each) < risk {
            best = Some(best.map_or(at_least, |b: f32| b.min(at_least)));
            high = middle.saturating_sub(1).max(low);
        } else {
            low = middle;
        }
    }
    best
}

/// Returns the largest risk under which `wrong` or fewer of `n` have a chance of `delta`: the upper end of Clopper and
/// Pearson's one-sided interval.
fn worst_risk(wrong: usize, n: usize, delta: f64) -> f64 {
    if wrong >= n {
        return 1.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if at_most(wrong, n, middle) > delta {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// Returns the chance of at most `k` among `n`, each with chance `p`, above 0 and below 1.
fn at_most(k: usize, n: usize, p: f64) -> f64 {
    let (mut log, mut sum) = (n as f64 * (-p).ln_1p(), 0.0);
    for i in 0..=k {
        sum += log.exp();
        log += ((n - i) as f64 / (i + 1) as f64).ln() + p.ln() - (-p).ln_1p();
    }
    sum
}

#[cfg(test)]
mod tests {
    use graft_runtime::Standing;

    use super::*;
    use crate::rng::Rng;

    const CLASSES: usize = 5;

    /// The pictures of `tests/golden/decide.py`.
    fn draw(n: usize, seed: u64) -> Vec<Seen> {
        let mut state = seed;
        let mut number = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        let mut one = |_| {
            let z: Vec<f32> = (0..CLASSES).map(|_| 8.0 * number()).collect();
            let u = f64::from(number());
            let sum: f64 = z.iter().map(|&v| f64::from(v).exp()).sum();
            let mut below = 0.0;
            let class = z.iter().take(CLASSES - 1).take_while(|&&v| {
                below += f64::from(v).exp() / sum;
                below < u
            });
            Seen { class: class.count(), logits: z.iter().map(|v| 2.0 * v).collect(), features: z }
        };
        (0..n).map(&mut one).collect()
    }

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{found} instead of {expected}");
    }

    #[test]
    fn the_fit_is_that_of_scipy_and_numpy() {
        let (first, second) = (draw(120, 1), draw(150, 2));
        let found = fit(&first, &second, Some("flat"), &Promise::default()).unwrap();
        let d = &found.decision;
        near(f64::from(d.temperature), 1.426_514_465_8);
        near(f64::from(d.familiar.as_ref().unwrap().at_most), 0.128_463_436_2);
        near(f64::from(d.set.unwrap().at_least), 0.132_727_948_3);
        near(found.temperature.ece_before, 0.118_414_378_4);
        near(found.temperature.ece_after, 0.108_708_328_2);
        let sizes: usize = second.iter().map(|s| d.weigh(&s.logits, None).set.len()).sum();
        near(sizes as f64 / 150.0, 1.74);
        assert_eq!((d.set.unwrap().pictures, d.familiar.as_ref().unwrap().pictures), (150, 120));
    }

    #[test]
    fn risks_are_those_of_scipy() {
        for (wrong, n, delta, expected) in [
            (0, 22, 0.1, 0.099_371_979_8),
            (3, 60, 0.0125, 0.153_438_343_6),
            (20, 400, 0.05, 0.071_828_590_0),
            (5, 5, 0.1, 1.0),
        ] {
            near(worst_risk(wrong, n, delta), expected);
        }
    }

    /// Each promise is a chance over fits and pictures: over many of both it has to show.
    #[test]
    fn what_is_promised_is_kept() {
        let fresh = draw(2000, 77);
        let (mut covered, mut unfamiliar, mut broken, mut fits) = (0, 0, 0, 0);
        for seed in 0..60 {
            let (first, second) = (draw(100, 1000 + seed), draw(200, 5000 + seed));
            let found = fit(&first, &second, Some("flat"), &Promise { risk: 0.2, ..Promise::default() }).unwrap();
            let weighed: Vec<_> = fresh
                .iter()
                .map(|s| {
                    (
                        found
                            .decision
                            .weigh(&s.logits, found.decision.familiar.as_ref().map(|f| f.distance(&s.features))),
                        s,
                    )
                })
                .collect();
            covered += weighed.iter().filter(|(w, s)| w.set.contains(&s.class)).count();
            unfamiliar += weighed.iter().filter(|(w, _)| w.standing == Standing::Unfamiliar).count();
            let sure: Vec<_> = weighed.iter().filter(|(w, _)| w.standing == Standing::Sure).collect();
            if found.decision.sure.is_some() {
                fits += 1;
                let wrong = sure.iter().filter(|(_, s)| argmax(&s.logits) != s.class).count();
                broken += usize::from(wrong as f64 > 0.2 * sure.len() as f64);
            }
        }
        let share = |n: usize| n as f64 / (60.0 * fresh.len() as f64);
        assert!((0.89..0.93).contains(&share(covered)), "{}", share(covered));
        assert!(share(unfamiliar) < 0.06, "{}", share(unfamiliar));
        assert!(fits >= 10 && broken * 10 <= fits, "{broken} of {fits}");
    }

    #[test]
    fn what_pictures_are_too_few_for_is_left_out_and_said() {
        let found = fit(&draw(8, 1), &draw(8, 2), Some("flat"), &Promise::default()).unwrap();
        let d = &found.decision;
        assert_eq!((d.set, d.sure, d.familiar.clone()), (None, None, None));
        for (told, words) in found.left_out.iter().zip([
            ["familiar", "at least 19 pictures for 95 %, found 8"],
            ["sets of labels", "at least 9 pictures for 90 %, found 8"],
            ["sure answers", "8 pictures"],
        ]) {
            assert!(words.iter().all(|w| told.contains(w)), "{told}");
        }
        assert_eq!(quantile(&[3.0, 1.0, 2.0, 9.0, 5.0, 4.0, 8.0, 7.0, 6.0], 0.9), Some(9.0));
        assert!(fit(&[], &[], Some("flat"), &Promise { coverage: 1.0, ..Promise::default() }).is_err());
        assert_eq!(fit(&[], &[], Some("flat"), &Promise::default()).unwrap().left_out.len(), 3);
    }

    #[test]
    fn few_pictures_say_little_of_the_temperature() {
        let mut rng = Rng::new(3);
        let seen = |logit: f32, i: usize| Seen { logits: vec![logit, 0.5], class: i % 2, features: vec![] };
        let right = |n: usize| -> Vec<Seen> { (0..n).map(|i| seen(f32::from(i % 2 == 0), i)).collect() };
        let noise: Vec<Seen> = (0..2000).map(|i| seen(rng.below(2) as f32, i)).collect();
        near(temperature(&[]), 1.0);
        let (few, many) = (temperature(&right(5)), temperature(&right(500)));
        assert!(0.02 < many && many < few && few < 1.0, "all right: {few}, then {many}");
        assert!(temperature(&noise) > 2.0, "logits that say nothing");
    }
}
