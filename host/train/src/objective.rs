//! What training lowers: a loss of the network's outputs, and its gradient.

use anyhow::{Result, ensure};

/// Tells the loss of outputs `[n, count]`, and its gradient.
pub(crate) type Objective<'a> = dyn Fn(&[f32]) -> Result<(f64, Vec<f32>)> + 'a;

/// Returns the mean cross-entropy of `logits` `[classes.len(), count]`, with `smoothing` of the target spread over all
/// classes, and its gradient.
///
/// # Errors
///
/// If there are other than `count` logits a picture, or a class is not below `count`.
///
/// # Source
///
/// Szegedy et al., *Rethinking the Inception Architecture*, arXiv:1512.00567, section 7.
pub(crate) fn cross_entropy(
    logits: &[f32],
    classes: &[usize],
    count: usize,
    smoothing: f32,
) -> Result<(f64, Vec<f32>)> {
    ensure!(
        logits.len() == classes.len() * count && count > 0,
        "expected {} logits, found {}",
        classes.len() * count,
        logits.len()
    );
    let pictures = classes.len().max(1) as f64;
    let (smoothing, mut loss) = (f64::from(smoothing), 0.0);
    let mut gradient = Vec::with_capacity(logits.len());
    for (row, &class) in logits.chunks_exact(count).zip(classes) {
        ensure!(class < count, "expected classes below {count}, found {class}");
        let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let total: f64 = row.iter().map(|l| (f64::from(*l) - largest).exp()).sum();
        for (i, logit) in row.iter().enumerate() {
            let log_probability = f64::from(*logit) - largest - total.ln();
            let target = smoothing / count as f64 + if i == class { 1.0 - smoothing } else { 0.0 };
            loss -= target * log_probability / pictures;
            gradient.push(((log_probability.exp() - target) / pictures) as f32);
        }
    }
    Ok((loss, gradient))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PyTorch 2.14: `cross_entropy(tensor([[1., 2., 0.5], [-1., 0., 3.]], requires_grad=True), tensor([0, 2]),
    /// label_smoothing=s)`, see `host/train/tests/golden/cross_entropy.py`.
    #[test]
    fn loss_and_gradient_equal_pytorch() {
        let logits = [1.0, 2.0, 0.5, -1.0, 0.0, 3.0];
        for (smoothing, loss, gradient) in GOLDEN {
            let found = cross_entropy(&logits, &[0, 2], 3, smoothing).unwrap();
            assert!((found.0 - loss).abs() < 1e-6, "{} {loss}", found.0);
            for (f, e) in found.1.iter().zip(gradient) {
                assert!((f - e).abs() < 1e-6, "{f} {e}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(cross_entropy(&[0.0; 5], &[0, 1], 3, 0.0).is_err());
        assert!(cross_entropy(&[0.0; 6], &[0, 3], 3, 0.0).is_err());
    }

    const GOLDEN: [(f32, f64, [f32; 6]); 2] = [
        (0.0, 0.7651263, [-0.384_388_1, 0.314_265_8, 0.070_122_2, 0.008_573_9, 0.023_306_3, -0.031_880_2]),
        (0.1, 0.8734597, [-0.351_054_7, 0.297_599_2, 0.053_455_5, -0.008_092_8, 0.006_639_6, 0.001_453_1]),
    ];
}
