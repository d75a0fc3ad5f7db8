//! Factors between the channels of an activation and the weights that read them, so that both waste fewer steps.

use super::QuantError;

/// Returns for each channel the factor to divide the activation by and to multiply the weights that read it with.
///
/// `inputs` has the largest magnitude of each channel of the activation, `weights` the largest of the weights on it
/// among all layers that read it. The factor balances both, but for one common factor, which leaves the activation's
/// largest magnitude where it is to the nearest power of two. Factors are powers of two, 2^-13 to 2^13, so that
/// products of the two are what they were to the last bit; a channel that is dead on either side gets 1.
///
/// Whatever makes the activation is to be divided too: this holds behind convolutions, sums and rectifiers without
/// a cap, not behind functions that bend elsewhere than at zero.
///
/// # Errors
///
/// [`QuantError::Shape`] if the lengths differ, [`QuantError::NotFinite`] if a magnitude is negative, NaN or infinite.
///
/// # Source
///
/// Nagel et al., *Data-Free Quantization*, arXiv:1906.04721, equation 11, with the activation's observed magnitudes for
/// the first range: Xiao et al., *SmoothQuant*, arXiv:2211.10438, equation 4, α = 0.5.
pub fn equalize(inputs: &[f32], weights: &[f32]) -> Result<Vec<f32>, QuantError> {
    if inputs.len() != weights.len() {
        return Err(QuantError::Shape { out: inputs.len(), len: weights.len() });
    }
    if inputs.iter().chain(weights).any(|m| !m.is_finite() || *m < 0.0) {
        return Err(QuantError::NotFinite("the magnitudes of channels".into()));
    }
    let alive = || inputs.iter().zip(weights).filter(|(x, w)| **x > 0.0 && **w > 0.0);
    let log = |m: f32| f64::from(m).log2();
    let largest = alive().map(|(x, _)| log(*x)).fold(f64::NEG_INFINITY, f64::max);
    let balanced = alive().map(|(x, w)| (log(*x) + log(*w)) / 2.0).fold(f64::NEG_INFINITY, f64::max);
    let factor = |(x, w): (&f32, &f32)| {
        if *x > 0.0 && *w > 0.0 {
            let exponent = (log(*x) - log(*w)) / 2.0 + balanced - largest;
            2f32.powi(exponent.round_ties_even().clamp(-LIMIT, LIMIT) as i32)
        } else {
            1.0
        }
    };
    Ok(inputs.iter().zip(weights).map(factor).collect())
}

/// The largest exponent of a factor: channels that differ by more hold nothing that an eighth bit could show.
const LIMIT: f64 = 13.0;

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::golden::bell;
    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        balance: Balance,
    }

    #[derive(Deserialize)]
    struct Balance {
        inputs: Vec<f32>,
        weights: Vec<f32>,
        factors: Vec<f32>,
    }

    #[test]
    fn factors_are_those_of_the_formula() {
        let g: Golden = serde_json::from_str(include_str!("../../golden/layers.json")).unwrap();
        assert_eq!(equalize(&g.balance.inputs, &g.balance.weights).unwrap(), g.balance.factors);
    }

    #[test]
    fn products_stay_the_same_to_the_last_bit() {
        let [x, w] = ["x", "w"].map(|n| bell(n, 50).into_iter().map(|v| v.powi(5) as f32).collect::<Vec<_>>());
        let magnitudes = |v: &[f32]| v.iter().map(|v| v.abs()).collect::<Vec<_>>();
        let factors = equalize(&magnitudes(&x), &magnitudes(&w)).unwrap();
        assert!(factors.iter().any(|s| *s > 1.0) && factors.iter().any(|s| *s < 1.0), "{factors:?}");
        for ((x, w), s) in x.iter().zip(&w).zip(&factors) {
            assert_eq!((x / s) * (w * s), x * w);
        }
        // The largest stays where it was, to half a power of two.
        let largest = |v: &mut dyn Iterator<Item = f32>| v.fold(0f32, |m, v| m.max(v.abs()));
        let (before, after) =
            (largest(&mut x.iter().copied()), largest(&mut x.iter().zip(&factors).map(|(x, s)| x / s)));
        assert!((before / 1.5..before * 1.5).contains(&after), "{before} {after}");
    }

    #[test]
    fn dead_and_extreme_channels_get_factors_within_bounds() {
        assert!(equalize(&[], &[]).unwrap().is_empty());
        assert_eq!(equalize(&[0.0, 0.0], &[0.0, 1.0]).unwrap(), [1.0, 1.0]);
        assert_eq!(equalize(&[7.0], &[0.01]).unwrap(), [1.0]);
        assert_eq!(equalize(&[2.0; 3], &[0.5; 3]).unwrap(), [1.0; 3]);
        let (low, high) = (2f32.powi(-13), 2f32.powi(13));
        assert_eq!(equalize(&[1.0, 1e-30, f32::MAX], &[1.0, 1e30, 1.0]).unwrap()[1], low);
        assert_eq!(equalize(&[1.0, 1.0], &[1.0, 1e-30]).unwrap(), [1.0, high]);
        for bad in [f32::NAN, f32::INFINITY, -1.0] {
            assert!(matches!(equalize(&[bad], &[1.0]), Err(QuantError::NotFinite(_))));
            assert!(matches!(equalize(&[1.0], &[bad]), Err(QuantError::NotFinite(_))));
        }
        assert!(matches!(equalize(&[1.0; 2], &[1.0; 3]), Err(QuantError::Shape { out: 2, len: 3 })));
    }
}
