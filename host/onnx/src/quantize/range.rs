//! What range of an activation is kept: observers, and the methods that choose.

use serde::{Deserialize, Serialize};

use super::QuantError;

/// How a range is chosen from what was observed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RangeMethod {
    /// The smallest and largest value seen.
    MinMax,
    /// The range that leaves out this share of the values, half of it at each end (0.0001 is the 99.99th percentile).
    Percentile(f64),
}

const BINS: usize = 2048;

/// Watches an activation: exact extremes and a histogram whose range doubles as values demand it.
///
/// Memory is `2 * BINS` counters whatever the number of samples; the result does not depend on how samples are
/// cut into calls.
#[derive(Debug, Clone)]
pub struct Observer {
    low: f32,
    high: f32,
    /// Upper edge of each half of the histogram; a power of two.
    reach: f32,
    negative: Vec<u64>,
    positive: Vec<u64>,
}

impl Default for Observer {
    fn default() -> Self {
        let empty = || vec![0; BINS];
        Self {
            low: f32::INFINITY,
            high: f32::NEG_INFINITY,
            reach: 2f32.powi(-10),
            negative: empty(),
            positive: empty(),
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
        let (low, high) = values.iter().fold((self.low, self.high), |(l, h), &v| (l.min(v), h.max(v)));
        if values.iter().any(|v| !v.is_finite()) {
            return Err(QuantError::NotFinite(what.to_owned()));
        }
        (self.low, self.high) = (low, high);
        while low.abs().max(high.abs()) > self.reach && !values.is_empty() {
            self.reach *= 2.0;
            for half in [&mut self.negative, &mut self.positive] {
                for i in 0..BINS / 2 {
                    half[i] = half[2 * i] + half[2 * i + 1];
                }
                half[BINS / 2..].fill(0);
            }
        }
        let per_unit = BINS as f32 / self.reach;
        for &v in values {
            let bin = ((v.abs() * per_unit) as usize).min(BINS - 1);
            if v < 0.0 { self.negative[bin] += 1 } else { self.positive[bin] += 1 }
        }
        Ok(())
    }

    /// Chooses the range.
    ///
    /// # Errors
    ///
    /// [`QuantError::NoSamples`] if nothing was observed.
    pub fn range(&self, method: RangeMethod) -> Result<(f32, f32), QuantError> {
        if self.low > self.high {
            return Err(QuantError::NoSamples);
        }
        let RangeMethod::Percentile(left_out) = method else {
            return Ok((self.low, self.high));
        };
        let total: u64 = self.negative.iter().chain(&self.positive).sum();
        let cut = (left_out / 2.0 * total as f64) as u64;
        let width = self.reach / BINS as f32;
        let edge = |half: &[u64]| {
            let mut seen = 0;
            for (i, n) in half.iter().enumerate().rev() {
                seen += n;
                if seen > cut {
                    return (i + 1) as f32 * width;
                }
            }
            0.0
        };
        Ok((self.low.max(-edge(&self.negative)).min(0.0), self.high.min(edge(&self.positive)).max(0.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_drops_the_outlier_and_does_not_depend_on_the_cut_of_samples() {
        let mut values: Vec<f32> = (0..10_000).map(|i| i as f32 / 10_000.0 - 0.25).collect();
        values.push(50.0);
        let mut whole = Observer::default();
        whole.observe("x", &values).unwrap();
        let mut parts = Observer::default();
        for part in values.chunks(7) {
            parts.observe("x", part).unwrap();
        }
        let p = RangeMethod::Percentile(0.001);
        assert_eq!(whole.range(p).unwrap(), parts.range(p).unwrap());
        assert_eq!(whole.range(RangeMethod::MinMax).unwrap(), (-0.25, 50.0));
        let (low, high) = whole.range(p).unwrap();
        assert!((-0.27..=-0.2).contains(&low) && (0.74..0.8).contains(&high), "{low} {high}");
        assert!(Observer::default().range(p).is_err());
    }
}
