//! The threshold of least Kullback-Leibler divergence, from the two halves of a histogram of magnitudes.
//!
//! # Source
//!
//! Migacz, *8-bit Inference with TensorRT*, GTC 2017, whose 128 levels of magnitudes are here 256 levels between both
//! thresholds. As in ONNX Runtime's `HistogramCalibrater` a window grows around zero, but it stops at each side where
//! the values do, as levels beyond would be spent on nothing: a window on the output of a ReLU has one side.
//! Levels that are no whole number of bins take turns in width, as NVIDIA's pytorch-quantization has it, instead of
//! leaving the rest to the last.

/// Levels of a byte.
const LEVELS: usize = 256;
/// The count of an empty level; that of ONNX Runtime's `smooth_distribution`.
const NEXT_TO_NOTHING: f64 = 1e-4;

/// Returns how many bins below and above zero to keep.
///
/// Exact zeros are to be left out of `positive`: every grid holds zero, and one bin of half the values would make each
/// window wrong that spreads it over a level. Where there are not more bins than levels, all are kept.
pub(super) fn choose(positive: &[u64], negative: &[u64]) -> (usize, usize) {
    let used = |half: &[u64]| half.iter().rposition(|&n| n > 0).map_or(0, |i| i + 1);
    let (below, above) = (used(negative), used(positive));
    let line: Vec<u64> = negative[..below].iter().rev().chain(&positive[..above]).copied().collect();
    let sums = Sums::new(&line);
    let mut best = (f64::INFINITY, (below, above));
    for threshold in 1..=below.max(above) {
        let (a, b) = (threshold.min(below), threshold.min(above));
        if a + b >= LEVELS {
            let divergence = sums.divergence(below - a, below + b);
            // Of equals the widest.
            if divergence <= best.0 {
                best = (divergence, (a, b));
            }
        }
    }
    best.1
}

/// Sums over the first bins of a histogram, so that a window costs a logarithm a level instead of one a bin.
struct Sums {
    /// Counts.
    counts: Vec<u64>,
    /// Bins that are not empty.
    filled: Vec<u32>,
    /// `n ln n`.
    logs: Vec<f64>,
}

impl Sums {
    fn new(line: &[u64]) -> Self {
        let (mut counts, mut filled, mut logs) = (vec![0], vec![0], vec![0.0]);
        let (mut count, mut full, mut log) = (0, 0, 0.0);
        for &n in line {
            count += n;
            full += u32::from(n > 0);
            log += times_log(n as f64);
            counts.push(count);
            filled.push(full);
            logs.push(log);
        }
        Self { counts, filled, logs }
    }

    /// Returns the divergence of what a window of bins tells of the whole from the whole.
    ///
    /// The reference has what lies outside in its outermost bins. A level of the window spreads its own counts evenly
    /// over those of its bins that the reference fills. A level that is empty but for outliers has next to nothing, as
    /// nothing at all would make the divergence infinite and no threshold could lie in the gap before an outlier.
    fn divergence(&self, start: usize, end: usize) -> f64 {
        let n = end - start;
        let whole = *self.counts.last().unwrap_or(&0);
        let mut inside = (self.counts[end] - self.counts[start]) as f64;
        let count = |bin: usize| self.counts[bin + 1] - self.counts[bin];
        let outliers = [(start, self.counts[start]), (end - 1, whole - self.counts[end])];
        let mut reference = self.logs[end] - self.logs[start];
        for (bin, outside) in outliers {
            reference += times_log((count(bin) + outside) as f64) - times_log(count(bin) as f64);
        }
        let mut levels = 0.0;
        for level in 0..LEVELS {
            let (from, to) = (start + (level * n).div_ceil(LEVELS), start + ((level + 1) * n).div_ceil(LEVELS));
            let own = self.counts[to] - self.counts[from];
            let (mut total, mut filled) = (own, self.filled[to] - self.filled[from]);
            for (bin, outside) in outliers {
                if (from..to).contains(&bin) {
                    total += outside;
                    filled += u32::from(outside > 0 && count(bin) == 0);
                }
            }
            if total == 0 {
                continue;
            }
            let mut spread = own as f64;
            if own == 0 {
                spread = NEXT_TO_NOTHING;
                inside += NEXT_TO_NOTHING;
            }
            levels += total as f64 * (spread / f64::from(filled)).ln();
        }
        let whole = whole as f64;
        (reference - levels) / whole - whole.ln() + inside.ln()
    }
}

fn times_log(n: f64) -> f64 {
    if n > 0.0 { n * n.ln() } else { 0.0 }
}
