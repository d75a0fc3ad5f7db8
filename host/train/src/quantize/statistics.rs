//! Whether two classifiers differ on the same pictures, and how sure each is of itself.

/// Returns the 95 % interval of a share of `hits` among `n` (Wilson's score interval); all of `[0, 1]` where there is none.
///
/// # Source
///
/// Wilson, JASA 22 (1927), as statsmodels' `proportion_confint(method="wilson")`.
pub fn interval(hits: usize, n: usize) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    let (z, n, share) = (1.959_963_984_540_054_f64, n as f64, hits as f64 / n as f64);
    let middle = share + z * z / (2.0 * n);
    let half = z * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    [middle - half, middle + half].map(|v| (v / (1.0 + z * z / n)).clamp(0.0, 1.0))
}

/// Returns the probability, were two classifiers equally good, of pictures that one alone gets right dividing as unevenly as
/// `only_first` to `only_second` or more so: McNemar's exact test, two-sided.
///
/// # Source
///
/// McNemar, Psychometrika 12 (1947); exact binomial form as statsmodels' `mcnemar(exact=True)`.
pub fn mcnemar(only_first: usize, only_second: usize) -> f64 {
    let (n, fewer) = (only_first + only_second, only_first.min(only_second));
    // By logarithms: 2^-n is nothing in f64 beyond a thousand pictures.
    let (mut log_choose, mut tail) = (0.0f64, 0.0f64);
    for k in 0..=fewer {
        if k > 0 {
            log_choose += ((n + 1 - k) as f64 / k as f64).ln();
        }
        tail += (log_choose - n as f64 * std::f64::consts::LN_2).exp();
    }
    (2.0 * tail).min(1.0)
}

/// Bins of [`calibration_error`].
pub const BINS: usize = 15;

/// Returns the bin that a probability falls in; a bin holds its upper edge.
pub fn bin_of(probability: f64) -> usize {
    ((probability * BINS as f64).ceil() as usize).clamp(1, BINS) - 1
}

/// Returns the expected calibration error of `(probability of the answer, whether it is right)`: the mean distance between
/// probability and share of right answers, over 15 bins of equal width.
///
/// # Source
///
/// Guo et al., arXiv:1706.04599, equation 3.
pub fn calibration_error(answers: &[(f64, bool)]) -> f64 {
    let mut bins = [(0usize, 0.0, 0usize); BINS];
    for (probability, right) in answers {
        let (n, sum, hits) = &mut bins[bin_of(*probability)];
        *n += 1;
        *sum += probability;
        *hits += usize::from(*right);
    }
    bins.iter().map(|(_, sum, hits)| (sum - *hits as f64).abs()).sum::<f64>() / answers.len().max(1) as f64
}

/// Returns the largest of the softmax of logits.
pub fn confidence(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    1.0 / logits.iter().map(|l| f64::from(l - largest).exp()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-6
    }

    #[test]
    fn intervals_equal_those_of_scipy() {
        for (hits, n, low, high) in WILSON {
            let [l, h] = interval(hits, n);
            assert!(near(l, low) && near(h, high), "{hits} of {n}: {l} {h}");
        }
        assert_eq!(interval(0, 0), [0.0, 1.0]);
    }

    #[test]
    fn probabilities_equal_those_of_scipy() {
        for (a, b, p) in MCNEMAR {
            assert!((mcnemar(a, b) - p).abs() <= 1e-9 + 1e-6 * p, "{a} {b}: {}", mcnemar(a, b));
            assert_eq!(mcnemar(a, b), mcnemar(b, a));
        }
    }

    #[test]
    fn the_calibration_error_is_that_of_the_definition() {
        // Bins of 1/15: 0.9 and 0.92 fall together (mean 0.91, half right), 0.3 alone (wrong), 0.6 alone (right).
        let answers = [(0.9, true), (0.92, false), (0.3, false), (0.6, true)];
        assert!(near(calibration_error(&answers), (2.0 * 0.41 + 0.3 + 0.4) / 4.0));
        assert_eq!(calibration_error(&[]), 0.0);
        assert!(near(calibration_error(&[(1.0, true), (1.0, false)]), 0.5));
        assert!(near(confidence(&[0.0, 0.0, 1e4]), 1.0) && near(confidence(&[3.0, 3.0]), 0.5));
    }

    // scipy 1.17.1: stats.binomtest(hits, n).proportion_ci(0.95, "wilson").
    const WILSON: [(usize, usize, f64, f64); 4] = [
        (0, 10, 0.0, 0.27753279986288926),
        (240, 300, 0.7510710762322137, 0.8413431410330587),
        (7, 9, 0.4525889691069889, 0.9367748928821533),
        (300, 300, 0.9873570287754541, 1.0),
    ];
    // scipy 1.17.1: stats.binomtest(a, a + b).pvalue.
    const MCNEMAR: [(usize, usize, f64); 6] = [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (3, 9, 0.14599609375),
        (5, 5, 1.0),
        (2, 20, 0.00012111663818359375),
        (900, 1100, 8.45708953550381e-06),
    ];
}
