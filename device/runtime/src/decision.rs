//! What an answer is worth: from logits to "rust", "unsure: rust or phoma" or "unfamiliar".
//!
//! The numbers are fitted on the host to the answers of the very model that ships (`graft_train::decide`) and travel in its
//! metadata under [`DECISION`], so that host and device decide alike. Knows nothing of pictures.

use std::cmp::Ordering;
use std::fmt::Display;

use serde::{Deserialize, Serialize};

use crate::network::softmax;

/// Metadata key of the JSON of a [`Decision`].
pub const DECISION: &str = "graft.decision";
/// Layout of that JSON.
pub const DECISION_FORMAT: u32 = 2;

/// How logits become an answer. What could not be fitted is left out.
///
/// # Source
///
/// Temperature: Guo et al., *On Calibration of Modern Neural Networks*, arXiv:1706.04599.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// [`DECISION_FORMAT`].
    pub format: u32,
    /// Divides the logits before the softmax.
    pub temperature: f32,
    /// Which labels an answer may be.
    pub set: Option<LabelSet>,
    /// Which answers count as sure.
    pub sure: Option<Sure>,
    /// Which pictures count as familiar.
    pub familiar: Option<Familiar>,
}

/// The labels of at least a probability: with a chance of `coverage` the true one is among them, for pictures like those
/// that this was fitted on.
///
/// # Source
///
/// The least ambiguous set-valued classifier of Sadinle, Lei and Wasserman, *Least Ambiguous Set-Valued Classifiers with
/// Bounded Error Levels*, arXiv:1609.00451, by split conformal prediction. Of all sets of one coverage these are the
/// smallest on average, and one number tells them; adaptive sets (Romano et al., arXiv:2006.02544) are larger, and one
/// label more is what a small screen and a person in a hurry cannot use.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelSet {
    /// The promised chance, above 0 and below 1.
    pub coverage: f32,
    /// Labels of at least this probability belong to the set.
    pub at_least: f32,
    /// Pictures that it was fitted on.
    pub pictures: u32,
}

/// Familiar answers of at least a probability count as sure.
///
/// # Source
///
/// Selection with guaranteed risk of Geifman and El-Yaniv, *Selective Classification for Deep Neural Networks*,
/// arXiv:1705.08500.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sure {
    /// The promised largest share of wrong answers among the sure ones.
    pub risk: f32,
    /// With which probability of the fit the promise holds.
    pub confidence: f32,
    /// Answers of at least this probability are sure.
    pub at_least: f32,
    /// Pictures that it was fitted on.
    pub pictures: u32,
}

/// Pictures whose features point nearly where those of some class do count as familiar.
///
/// # Source
///
/// Distance to the classes' means, as Lee et al., *A Simple Unified Framework for Detecting Out-of-Distribution Samples*,
/// arXiv:1807.03888, but by angle. Energy and the largest probability tell far less of pictures that are no leaves:
/// `docs/decisions/0004-how-strangers-are-told.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Familiar {
    /// The share of pictures like those of the fit that stay familiar.
    pub keeps: f32,
    /// The largest distance of a familiar picture: one less the cosine to the nearest mean.
    pub at_most: f32,
    /// Pictures that it was fitted on.
    pub pictures: u32,
    /// The output of the network that has the features.
    pub features: String,
    /// Where the features of each class point.
    pub means: Vec<Direction>,
}

impl Familiar {
    /// Returns the distance of features to the nearest mean, 0 to 2.
    pub fn distance(&self, features: &[f32]) -> f32 {
        let length = features.iter().map(|v| v * v).sum::<f32>().sqrt();
        let cosine = |mean: &Direction| mean.dot(features) / (mean.length() * length).max(f32::MIN_POSITIVE);
        1.0 - self.means.iter().map(cosine).fold(-1.0, f32::max)
    }
}

/// A direction among features, in steps of a seventh of its largest part, which tell as much as floats do.
///
/// Its text has a hexadecimal digit for each part: 8 stands for 0, f for 7, 1 for -7.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Direction(Vec<i8>);

impl Direction {
    /// Takes the direction of a vector.
    pub fn of(vector: &[f32]) -> Self {
        let largest = vector.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
        Self(vector.iter().map(|v| (v / largest * 7.0).round() as i8).collect())
    }

    /// Returns the number of its parts.
    #[allow(clippy::len_without_is_empty)] // its parts are as many as features
    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn length(&self) -> f32 {
        self.0.iter().map(|v| f32::from(*v) * f32::from(*v)).sum::<f32>().sqrt()
    }

    fn dot(&self, vector: &[f32]) -> f32 {
        self.0.iter().zip(vector).map(|(a, b)| f32::from(*a) * b).sum()
    }
}

impl From<Direction> for String {
    fn from(direction: Direction) -> Self {
        direction.0.into_iter().filter_map(|v| char::from_digit((i32::from(v) + 8).unsigned_abs(), 16)).collect()
    }
}

impl TryFrom<String> for Direction {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digit = |c: char| match c.to_digit(16) {
            Some(d @ 1..=15) => Ok(d as i8 - 8),
            _ => Err(format!("expected digits 1 to f of a direction, found {c:?}")),
        };
        text.chars().map(digit).collect::<Result<_, _>>().map(Self)
    }
}

/// What is to be made of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The model was not calibrated: nothing is known but the probability.
    Unknown,
    /// It may be relied on as far as was promised.
    Sure,
    /// It may be one of several, or is not likely enough.
    Unsure,
    /// The picture is unlike those that the model was calibrated on.
    Unfamiliar,
}

/// One picture's answer, weighed.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighed {
    /// The calibrated probabilities, one a label.
    pub probabilities: Vec<f32>,
    /// What is to be made of the best one.
    pub standing: Standing,
    /// The labels that it may be, the most probable first; none where no set was fitted or no label is likely enough.
    pub set: Vec<usize>,
    /// How far the picture is from those of the task, where that is known: see [`Familiar`].
    pub distance: Option<f32>,
}

impl Decision {
    /// Reads the JSON of a decision.
    ///
    /// # Errors
    ///
    /// What was expected and found, where it is none of this format or a number is out of its range.
    pub fn parse(json: &str) -> Result<Self, String> {
        let decision: Self = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let share = |v: f32| v > 0.0 && v < 1.0;
        let probability = |v: f32| (0.0..=1.0).contains(&v);
        let Self { format, temperature, set, sure, familiar } = &decision;
        let familiar = familiar.as_ref();
        let parts = familiar.map_or(1, |f| f.means.first().map_or(0, Direction::len));
        let even = familiar.is_none_or(|f| f.means.iter().all(|m| m.len() == parts));
        let checks = [
            (*format == DECISION_FORMAT, "format", *format as f32),
            (temperature.is_finite() && *temperature > 0.0, "temperature", *temperature),
            (set.is_none_or(|s| share(s.coverage)), "coverage", set.map_or(0.0, |s| s.coverage)),
            (set.is_none_or(|s| probability(s.at_least)), "probability of a set", set.map_or(0.0, |s| s.at_least)),
            (sure.is_none_or(|s| share(s.risk)), "risk", sure.map_or(0.0, |s| s.risk)),
            (sure.is_none_or(|s| share(s.confidence)), "confidence", sure.map_or(0.0, |s| s.confidence)),
            (sure.is_none_or(|s| probability(s.at_least)), "sure probability", sure.map_or(0.0, |s| s.at_least)),
            (familiar.is_none_or(|f| share(f.keeps)), "familiar share", familiar.map_or(0.0, |f| f.keeps)),
            (familiar.is_none_or(|f| f.at_most.is_finite()), "distance", familiar.map_or(0.0, |f| f.at_most)),
            (parts > 0 && even, "number of features of a mean", parts as f32),
        ];
        match checks.iter().find(|(is_right, ..)| !is_right) {
            Some((_, what, found)) => Err(format!("a {what} of {found}")),
            None => Ok(decision),
        }
    }

    /// Returns the text of the metadata.
    pub fn to_json(&self) -> String {
        // Numbers, of which the check of each fit sees to it that they are finite.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Weighs the logits of a picture, which are finite and at least one, and its distance.
    pub fn weigh(&self, logits: &[f32], distance: Option<f32>) -> Weighed {
        let mut probabilities = vec![0.0; logits.len()];
        soften(logits, self.temperature, &mut probabilities);
        self.judge(probabilities, distance)
    }

    /// Judges calibrated probabilities and a distance, of one picture or the mean of several.
    pub fn judge(&self, probabilities: Vec<f32>, distance: Option<f32>) -> Weighed {
        let set = self.set.map_or(vec![], |s| at_least(&probabilities, s.at_least));
        let best = probabilities.iter().copied().fold(0.0, f32::max);
        let is_sure = match (self.sure, self.set) {
            (Some(sure), _) => best >= sure.at_least,
            // One label is an answer, none and several are not.
            (None, Some(_)) => set.len() == 1,
            (None, None) => true,
        };
        let is_strange = self.familiar.as_ref().zip(distance).is_some_and(|(f, distance)| distance > f.at_most);
        let standing = match (is_strange, is_sure) {
            (true, _) => Standing::Unfamiliar,
            (_, false) => Standing::Unsure,
            (_, true) if self.sure.is_none() && self.set.is_none() => Standing::Unknown,
            (_, true) => Standing::Sure,
        };
        Weighed { probabilities, standing, set, distance }
    }
}

impl Weighed {
    /// Weighs the logits of a model that was not calibrated.
    pub fn plain(logits: &[f32]) -> Self {
        let mut probabilities = vec![0.0; logits.len()];
        softmax(logits, &mut probabilities);
        Self { probabilities, standing: Standing::Unknown, set: vec![], distance: None }
    }
}

/// Says why an answer is not to be relied on, for a person; none where it is. `set` has the labels that it may be.
pub fn doubt(standing: Standing, label: &str, set: &[impl Display]) -> Option<String> {
    match (standing, set) {
        (Standing::Unknown | Standing::Sure, _) => None,
        (Standing::Unfamiliar, _) => Some("unfamiliar".into()),
        (Standing::Unsure, [] | [_]) => Some(format!("unsure: {label}?")),
        (Standing::Unsure, [first, last]) => Some(format!("unsure: {first} or {last}")),
        (Standing::Unsure, [first, second, last]) => Some(format!("unsure: {first}, {second} or {last}")),
        (Standing::Unsure, [first, second, rest @ ..]) => {
            Some(format!("unsure: {first}, {second} or {} others", rest.len()))
        }
    }
}

/// Writes the softmax of logits over a temperature.
pub fn soften(logits: &[f32], temperature: f32, probabilities: &mut [f32]) {
    let softer: Vec<f32> = logits.iter().map(|z| z / temperature).collect();
    softmax(&softer, probabilities);
}

/// Returns the labels of at least a probability, the most probable first.
fn at_least(probabilities: &[f32], least: f32) -> Vec<usize> {
    let mut set: Vec<usize> = (0..probabilities.len()).filter(|&i| probabilities[i] >= least).collect();
    let by_probability = |&a: &usize, &b: &usize| -> Ordering { probabilities[b].total_cmp(&probabilities[a]) };
    set.sort_by(by_probability);
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision() -> Decision {
        Decision {
            format: DECISION_FORMAT,
            temperature: 2.0,
            set: Some(LabelSet { coverage: 0.9, at_least: 0.25, pictures: 100 }),
            sure: Some(Sure { risk: 0.1, confidence: 0.9, at_least: 0.6, pictures: 100 }),
            familiar: Some(Familiar {
                keeps: 0.95,
                at_most: 0.1,
                pictures: 100,
                features: "flat".into(),
                means: vec![Direction::of(&[7.0, 0.0, 3.0]), Direction::of(&[-1.0, 1.0, 0.0])],
            }),
        }
    }

    #[test]
    fn probabilities_and_distances_are_those_of_scipy() {
        // scipy 1.17.1: softmax(z / 2) of z = [3, 1, 0.5].
        let found = decision().weigh(&[3.0, 1.0, 0.5], None);
        for (p, expected) in found.probabilities.iter().zip([0.604_454_5, 0.222_366_4, 0.173_179_1]) {
            assert!((p - expected).abs() < 1e-6, "{p} {expected}");
        }
        // The least of scipy.spatial.distance.cosine(x, m) over the means [7, 0, 3] and [-7, 7, 0].
        let familiar = decision().familiar.unwrap();
        for (x, expected) in
            [([1.0, 2.0, 3.0], 0.438_510_1), ([-0.5, 2.0, 0.25], 0.148_743_5), ([70.0, 0.0, 30.0], 0.0)]
        {
            assert!((familiar.distance(&x) - expected).abs() < 1e-6, "{x:?} {}", familiar.distance(&x));
        }
        assert!((familiar.distance(&[0.0; 3]) - 1.0).abs() < 1e-6, "what has no direction is near nothing");
    }

    #[test]
    fn a_direction_is_a_digit_a_part() {
        let text = String::from(Direction::of(&[0.7, -0.1, 0.0, 0.31, -0.7]));
        assert_eq!(text, "f78b1");
        assert_eq!(String::from(Direction::try_from(text).unwrap()), "f78b1");
        assert_eq!(Direction::of(&[0.0, 0.0]), Direction::of(&[-0.0, 0.0]));
        for bad in ["f0", "g", "é"] {
            assert!(Direction::try_from(bad.to_owned()).unwrap_err().contains("1 to f"));
        }
    }

    #[test]
    fn an_answer_is_sure_unsure_or_unfamiliar() {
        let d = decision();
        let stand = |logits: &[f32]| d.weigh(logits, Some(0.05)).standing;
        assert_eq!(stand(&[3.0, 1.0, 0.5]), Standing::Sure);
        assert_eq!(stand(&[3.0, 2.0, 0.5]), Standing::Unsure);
        assert_eq!(d.weigh(&[3.0, 1.0, 0.5], Some(0.2)).standing, Standing::Unfamiliar);
        let unsure = d.weigh(&[2.0, 3.0, 0.5], Some(0.05));
        assert_eq!(unsure.set, [1, 0]);
        let only_set = Decision { sure: None, familiar: None, ..decision() };
        assert_eq!(only_set.weigh(&[3.0, 2.0, 0.5], None).standing, Standing::Unsure);
        assert_eq!(only_set.weigh(&[9.0, 2.0, 0.5], None).standing, Standing::Sure);
        let softer = Decision { set: None, ..only_set };
        assert_eq!(softer.weigh(&[9.0, 2.0, 0.5], None).standing, Standing::Unknown);
        assert_eq!(Weighed::plain(&[0.0, 0.0]).standing, Standing::Unknown);
    }

    #[test]
    fn doubt_is_told_in_a_line() {
        let told = |standing, set: &[&str]| doubt(standing, "rust", set).unwrap_or_default();
        assert_eq!(told(Standing::Sure, &["rust"]), "");
        assert_eq!(told(Standing::Unsure, &["rust"]), "unsure: rust?");
        assert_eq!(told(Standing::Unsure, &["rust", "phoma"]), "unsure: rust or phoma");
        assert_eq!(told(Standing::Unsure, &["rust", "phoma", "miner"]), "unsure: rust, phoma or miner");
        assert_eq!(told(Standing::Unsure, &["a", "b", "c", "d"]), "unsure: a, b or 2 others");
        assert_eq!(told(Standing::Unfamiliar, &["rust"]), "unfamiliar");
    }

    #[test]
    fn json_comes_back_and_what_is_out_of_range_is_named() {
        let json = decision().to_json();
        assert_eq!(Decision::parse(&json).unwrap(), decision());
        for (from, to, word) in [
            ("\"format\":2", "\"format\":1", "format of 1"),
            ("\"temperature\":2.0", "\"temperature\":0.0", "temperature of 0"),
            ("\"temperature\":2.0", "\"temperature\":1e39", "number out of range"),
            ("\"coverage\":0.9", "\"coverage\":1.0", "coverage of 1"),
            ("\"at_least\":0.6", "\"at_least\":1.5", "sure probability of 1.5"),
            ("\"at_most\":0.1", "\"at_most\":1e39", "number out of range"),
            ("\"f8b\"", "\"f8\"", "number of features"),
            ("\"f8b\"", "\"f0b\"", "digits 1 to f"),
            ("[\"f8b\",\"1f8\"]", "[]", "number of features of a mean of 0"),
            ("\"set\"", "\"sets\"", "sets"),
        ] {
            let altered = json.replacen(from, to, 1);
            assert_ne!(altered, json);
            let error = Decision::parse(&altered).unwrap_err();
            assert!(error.contains(word), "{altered}: {error}");
        }
    }
}
