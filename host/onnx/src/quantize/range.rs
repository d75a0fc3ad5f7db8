//! What range of an activation is kept: observers, and the methods that choose.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::QuantError;

mod divergence;
mod squares;

/// How a range is chosen from what was observed.
///
/// One spelling everywhere, that of [`fmt::Display`]: `min-max`, `percentile-99.99`, `entropy`, `mse`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum RangeMethod {
    /// The smallest and largest value seen.
    MinMax,
    /// The range that leaves out this share of the values, half of it at each end (0.0001 is the 99.99th percentile).
    Percentile(f64),
    /// The threshold on magnitudes at which the distribution over 256 levels diverges least from the one observed.
    ///
    /// # Source
    ///
    /// Migacz, *8-bit Inference with TensorRT*, GTC 2017.
    Entropy,
    /// The range whose grid of 256 levels, zero among them, has the least expected squared error.
    ///
    /// # Source
    ///
    /// Nagel et al., *A White Paper on Neural Network Quantization*, arXiv:2106.08295, section 3.1.
    Mse,
}

/// A text that names no method.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected min-max, percentile-P with P above 0 and up to 100 (percentile-99.99), entropy or mse, found {0:?}")]
pub struct UnknownMethod(pub String);

impl fmt::Display for RangeMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinMax => f.write_str("min-max"),
            Self::Percentile(left_out) => {
                write!(f, "percentile-{}", ((1.0 - left_out) * PARTS).round() / (PARTS / 100.0))
            }
            Self::Entropy => f.write_str("entropy"),
            Self::Mse => f.write_str("mse"),
        }
    }
}

impl FromStr for RangeMethod {
    type Err = UnknownMethod;

    fn from_str(text: &str) -> Result<Self, UnknownMethod> {
        match text {
            "min-max" => Ok(Self::MinMax),
            "entropy" => Ok(Self::Entropy),
            "mse" => Ok(Self::Mse),
            _ => text
                .strip_prefix("percentile-")
                .and_then(|p| p.parse::<f64>().ok())
                .filter(|p| *p > 0.0 && *p <= 100.0)
                .map(|p| Self::Percentile(((100.0 - p) * (PARTS / 100.0)).round() / PARTS))
                .ok_or_else(|| UnknownMethod(text.to_owned())),
        }
    }
}

impl From<RangeMethod> for String {
    fn from(method: RangeMethod) -> Self {
        method.to_string()
    }
}

impl TryFrom<String> for RangeMethod {
    type Error = UnknownMethod;

    fn try_from(text: String) -> Result<Self, UnknownMethod> {
        text.parse()
    }
}

/// Percentiles are told to this part of the whole, so that 99.99 in decimals and 1e-4 left out are the same method.
const PARTS: f64 = 1e12;

const BINS: usize = 2048;
/// Counters for each bin, and lanes of the search for extremes.
const LANES: usize = 4;
/// Values that counters of 32 bits hold for sure.
const COUNTED: usize = 1 << 30;

/// Returns the smallest and largest value, infinities of opposite signs where there are none; nothing where one is not finite.
fn extremes(values: &[f32]) -> Option<(f32, f32)> {
    const WIDE: usize = 16;
    let (whole, rest) = values.as_chunks::<WIDE>();
    // What is not finite makes a product with zero that is not zero.
    let (mut low, mut high, mut strange) = ([f32::INFINITY; WIDE], [f32::NEG_INFINITY; WIDE], [0.0f32; WIDE]);
    for values in whole {
        for i in 0..WIDE {
            let v = values[i];
            low[i] = if v < low[i] { v } else { low[i] };
            high[i] = if v > high[i] { v } else { high[i] };
            strange[i] += v * 0.0;
        }
    }
    let is_strange = strange.iter().any(|s| *s != 0.0) || rest.iter().any(|v| !v.is_finite());
    let smallest = low.iter().chain(rest).fold(f32::INFINITY, |l, v| l.min(*v));
    let largest = high.iter().chain(rest).fold(f32::NEG_INFINITY, |h, v| h.max(*v));
    (!is_strange).then_some((smallest, largest))
}

/// Watches an activation: exact extremes and a histogram whose range doubles as values demand it.
///
/// Memory is `2 * BINS` counters whatever the number of samples; the result does not depend on how samples are
/// cut into calls.
#[derive(Debug, Clone)]
pub struct Observer {
    low: f32,
    high: f32,
    /// Upper edge of each half of the histogram, above all magnitudes; a power of two, one more than `f32` has.
    reach: f64,
    negative: Vec<u64>,
    positive: Vec<u64>,
    /// How many of the positive are exactly zero, which every grid holds.
    zeros: u64,
}

impl Default for Observer {
    fn default() -> Self {
        let empty = || vec![0; BINS];
        Self {
            low: f32::INFINITY,
            high: f32::NEG_INFINITY,
            reach: 2f64.powi(-10),
            negative: empty(),
            positive: empty(),
            zeros: 0,
        }
    }
}

impl Observer {
    /// Takes in values.
    ///
    /// # Errors
    ///
    /// [`QuantError::NotFinite`] naming `what`.
    pub fn observe(&mut self, what: &str, values: &[f32]) -> Result<(), QuantError> {
        let (low, high) = extremes(values).ok_or_else(|| QuantError::NotFinite(what.to_owned()))?;
        (self.low, self.high) = (self.low.min(low), self.high.max(high));
        // A magnitude equal to the reach belongs to the first bin beyond, at whatever reach it came.
        while !values.is_empty() && f64::from(self.low.abs().max(self.high.abs())) >= self.reach {
            self.reach *= 2.0;
            for half in [&mut self.negative, &mut self.positive] {
                for i in 0..BINS / 2 {
                    half[i] = half[2 * i] + half[2 * i + 1];
                }
                half[BINS / 2..].fill(0);
            }
        }
        let per_unit = (BINS as f64 / self.reach) as f32;
        // Several counters for each bin, taken in turn: equal values, of which there are many zeros, would wait for each other's sum.
        for values in values.chunks(COUNTED) {
            let mut counts = vec![[[0u32; LANES]; 2]; BINS];
            let mut zeros = [0u32; LANES];
            let (whole, rest) = values.as_chunks::<LANES>();
            let mut count = |lane: usize, v: f32| {
                let bin = ((v.abs() * per_unit) as usize).min(BINS - 1);
                counts[bin][usize::from(v < 0.0)][lane] += 1;
                zeros[lane] += u32::from(v == 0.0);
            };
            whole.iter().for_each(|values| (0..LANES).for_each(|lane| count(lane, values[lane])));
            rest.iter().for_each(|&v| count(0, v));
            let sum = |lanes: &[u32; LANES]| lanes.iter().map(|n| u64::from(*n)).sum::<u64>();
            for (bin, [positive, negative]) in counts.iter().enumerate() {
                self.positive[bin] += sum(positive);
                self.negative[bin] += sum(negative);
            }
            self.zeros += sum(&zeros);
        }
        Ok(())
    }

    /// Chooses the range; it holds zero and nothing beyond the extremes but that.
    ///
    /// # Errors
    ///
    /// [`QuantError::NoSamples`] if nothing was observed.
    pub fn range(&self, method: RangeMethod) -> Result<(f32, f32), QuantError> {
        if self.low > self.high {
            return Err(QuantError::NoSamples);
        }
        let all = (self.low.min(0.0), self.high.max(0.0));
        Ok(match method {
            RangeMethod::MinMax => all,
            RangeMethod::Percentile(left_out) => self.within(self.percentile(left_out)),
            RangeMethod::Entropy => self.within(divergence::choose(&self.nonzero(), &self.negative)),
            RangeMethod::Mse => squares::Squares::new(self).choose(all),
        })
    }

    /// Returns the range of so many bins below and above zero, within the extremes.
    fn within(&self, (below, above): (usize, usize)) -> (f32, f32) {
        let edge = |bins: usize| bins as f64 * self.width();
        let low = f64::from(self.low).max(-edge(below)).min(0.0);
        let high = f64::from(self.high).min(edge(above)).max(0.0);
        (low as f32, high as f32)
    }

    fn percentile(&self, left_out: f64) -> (usize, usize) {
        let total: u64 = self.negative.iter().chain(&self.positive).sum();
        let cut = (left_out / 2.0 * total as f64) as u64;
        let bins = |half: &[u64]| {
            let mut seen = 0;
            half.iter()
                .rposition(|n| {
                    seen += n;
                    seen > cut
                })
                .map_or(0, |i| i + 1)
        };
        (bins(&self.negative), bins(&self.positive))
    }

    /// The positive half without exact zeros.
    fn nonzero(&self) -> Vec<u64> {
        let mut half = self.positive.clone();
        half[0] -= self.zeros;
        half
    }

    /// Width of a bin.
    fn width(&self) -> f64 {
        self.reach / BINS as f64
    }
}

#[cfg(test)]
mod tests {
    use super::super::Affine;
    use super::super::golden::{bell, draw};
    use super::*;

    const METHODS: [RangeMethod; 4] =
        [RangeMethod::MinMax, RangeMethod::Percentile(1e-3), RangeMethod::Entropy, RangeMethod::Mse];

    fn observed(values: &[f32]) -> Observer {
        let mut observer = Observer::default();
        observer.observe("x", values).unwrap();
        observer
    }

    /// Mean squared error of quantizing in a range values that come so often, but the last once.
    fn error(values: &[f32], times: usize, (low, high): (f32, f32)) -> f64 {
        let grid = Affine::from_range(low, high);
        let back = |x: f32| f64::from(grid.scale) * (f64::from(grid.quantize(x)) - f64::from(grid.zero_point));
        let sum = |values: &[f32]| values.iter().map(|&x| (f64::from(x) - back(x)).powi(2)).sum::<f64>();
        let (most, last) = values.split_at(values.len() - 1);
        (sum(most) * times as f64 + sum(last)) / (most.len() * times + 1) as f64
    }

    /// A line of `golden/ranges.json`.
    #[derive(Deserialize)]
    struct Golden {
        name: String,
        /// How often all values but the last are seen for the errors.
        times: usize,
        ort_entropy: (f32, f32),
        ort_percentile: (f32, f32),
        entropy: (f32, f32),
        mse_error: f64,
        full_error: f64,
    }

    fn golden() -> Vec<(Golden, Vec<f32>)> {
        let lines: Vec<Golden> = serde_json::from_str(include_str!("../../golden/ranges.json")).unwrap();
        lines.into_iter().map(|g| (activation(&g.name), g)).map(|(x, g)| (g, x)).collect()
    }

    /// As `activations` of `ranges.py`.
    fn activation(name: &str) -> Vec<f32> {
        let mut z = if name == "even" { draw("even", 20_000) } else { bell("activations", 20_000) };
        if name.starts_with("rare") {
            z.push(40.0);
        }
        let of = |(i, z): (usize, f64)| {
            let far = if i % 2000 == 999 { 12.0 } else { 1.0 };
            match name {
                "bell" | "even" | "rare outlier on two sides" => z,
                "rectified" => z.max(0.0),
                "peaked" => z * z * z,
                "outliers on both sides" => z * far,
                "outliers on one side" => z.abs() * far,
                "hard swish" => z * 2.0 * (z * 2.0 + 3.0).clamp(0.0, 6.0) / 6.0,
                "capped" => (z * 3.0).clamp(0.0, 6.0),
                "below zero" => -z.abs(),
                "rare outlier on one side" => z.abs(),
                _ => panic!("unknown activation {name}"),
            }
        };
        let raw: Vec<f64> = z.into_iter().enumerate().map(of).collect();
        let largest = raw.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        raw.iter().map(|v| (v / largest * (1.0 - 2f64.powi(-24))) as f32).collect()
    }

    #[test]
    fn the_percentile_drops_the_outlier() {
        let mut values: Vec<f32> = (0..10_000).map(|i| i as f32 / 10_000.0 - 0.25).collect();
        values.push(50.0);
        let whole = observed(&values);
        assert_eq!(whole.range(RangeMethod::MinMax).unwrap(), (-0.25, 50.0));
        let (low, high) = whole.range(RangeMethod::Percentile(0.001)).unwrap();
        assert!((-0.27..=-0.2).contains(&low) && (0.74..0.8).contains(&high), "{low} {high}");
    }

    #[test]
    fn no_range_depends_on_how_samples_are_cut() {
        // Powers of two lie on edges of bins at every reach.
        let mut values = activation("bell");
        values.extend([0.25, -0.5, 1.0, 2.0, -4.0, 4.0, 4.5]);
        values.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
        let whole = observed(&values);
        let mut parts = Observer::default();
        for part in values.chunks(7) {
            parts.observe("x", part).unwrap();
        }
        assert_eq!((&whole.negative, &whole.positive), (&parts.negative, &parts.positive));
        for method in METHODS {
            assert_eq!(whole.range(method).unwrap(), parts.range(method).unwrap(), "{method}");
        }
    }

    #[test]
    fn percentiles_are_those_of_onnxruntime() {
        // ONNX Runtime takes the inner edge of a bin, graft the outer; one leaves out the last value of a share, the
        // other does not.
        let bin = 1.01 / BINS as f32;
        for (g, x) in golden() {
            let found = observed(&x).range(RangeMethod::Percentile(1e-3)).unwrap();
            let expected = (g.ort_percentile.0.min(0.0), g.ort_percentile.1.max(0.0));
            for (a, b) in [(found.0, expected.0), (found.1, expected.1)] {
                let between = x.iter().filter(|v| (a.min(b)..a.max(b)).contains(v)).count();
                let near = (a - b).abs() <= bin || between <= 2;
                assert!(near, "{}: expected {expected:?}, found {found:?}", g.name);
            }
        }
    }

    #[test]
    fn entropy_is_that_of_its_formula_and_near_onnxruntime() {
        // Where zeros or outliers are many the two differ on purpose: ONNX Runtime takes zeros for values like others,
        // and gives what is left over of a window to its last level.
        let alike = ["bell", "even", "hard swish", "below zero"];
        for (g, x) in golden() {
            let found = observed(&x).range(RangeMethod::Entropy).unwrap();
            let off = |expected: (f32, f32)| (found.0 - expected.0).abs().max((found.1 - expected.1).abs());
            assert!(off(g.entropy) < 1e-6, "{}: expected {:?}, found {found:?}", g.name, g.entropy);
            if alike.contains(&g.name.as_str()) {
                assert!(off(g.ort_entropy) < 0.05, "{}: expected {:?}, found {found:?}", g.name, g.ort_entropy);
            }
        }
    }

    #[test]
    fn mse_is_as_good_as_trying_all_ranges() {
        for (g, x) in golden() {
            let mut observer = observed(&x);
            (1..g.times).for_each(|_| observer.observe("x", &x[..x.len() - 1]).unwrap());
            let [full, least] = [RangeMethod::MinMax, RangeMethod::Mse]
                .map(|method| error(&x, g.times, observer.range(method).unwrap()));
            assert!((full / g.full_error - 1.0).abs() < 1e-3, "{}: {full} {}", g.name, g.full_error);
            assert!(least < g.mse_error * 1.01, "{}: expected {}, found {least}", g.name, g.mse_error);
        }
    }

    #[test]
    fn every_method_answers_whatever_was_observed() {
        let far: Vec<f32> = (0..1000).map(|i| i as f32 / 1000.0).chain([1e9]).collect();
        let cases: [(&str, &[f32]); 8] = [
            ("zeros", &[0.0; 9]),
            ("minus zero", &[-0.0]),
            ("one value", &[3.0; 9]),
            ("one negative value", &[-3.0; 9]),
            ("a power of two", &[4.0; 9]),
            ("the tiniest", &[f32::MIN_POSITIVE / 4.0, -f32::MIN_POSITIVE]),
            ("the largest", &[f32::MAX / 4.0, 1.0, -f32::MAX / 4.0]),
            ("an outlier", &far),
        ];
        for (what, values) in cases {
            let observer = observed(values);
            let all = observer.range(RangeMethod::MinMax).unwrap();
            for method in METHODS {
                let (low, high) = observer.range(method).unwrap();
                let within = all.0 <= low && low <= 0.0 && 0.0 <= high && high <= all.1;
                assert!(within, "{what} by {method}: {low}..{high} of {all:?}");
                let grid = Affine::from_range(low, high);
                assert!(grid.scale > 0.0 && grid.scale.is_finite(), "{what} by {method}: {grid:?}");
            }
            // One value is the end of the range; nothing is gained by clipping it.
            if what.contains("one") {
                assert_eq!(observer.range(RangeMethod::Mse).unwrap(), all, "{what}");
            }
        }
        for method in METHODS {
            assert!(matches!(Observer::default().range(method), Err(QuantError::NoSamples)));
        }
        let refused = Observer::default().observe("node7", &[1.0, f32::NAN]);
        assert!(matches!(refused, Err(QuantError::NotFinite(what)) if what == "node7"));
    }

    #[test]
    fn names_are_read_back() {
        let cases = [
            ("min-max", RangeMethod::MinMax),
            ("percentile-99.999", RangeMethod::Percentile(1e-5)),
            ("percentile-99.99", RangeMethod::Percentile(1e-4)),
            ("percentile-99.9", RangeMethod::Percentile(1e-3)),
            ("percentile-100", RangeMethod::Percentile(0.0)),
            ("entropy", RangeMethod::Entropy),
            ("mse", RangeMethod::Mse),
        ];
        for (name, method) in cases {
            assert_eq!((name.parse(), method.to_string().as_str()), (Ok(method), name));
            let json = serde_json::to_string(&method).unwrap();
            assert_eq!((json.as_str(), serde_json::from_str(&json).unwrap()), (format!("{name:?}").as_str(), method));
        }
        for name in ["", "minmax", "percentile", "percentile-", "percentile-0", "percentile-101", "percentile-NaN"] {
            let error = name.parse::<RangeMethod>().unwrap_err().to_string();
            assert!(error.contains("expected min-max") && error.ends_with(&format!("found {name:?}")), "{error}");
        }
    }
}
