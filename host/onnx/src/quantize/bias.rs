//! What quantization shifts the mean of an output by, to be made up for in its bias.

use super::QuantError;

/// The shape of a convolution's weights beyond their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taps {
    /// Positions of the kernel: 9 for 3×3, 1 for a fully connected layer.
    pub spatial: usize,
    /// Groups of channels.
    pub groups: usize,
}

/// Returns for each output what to add to the bias: the mean of the float layer's output less the quantized one's.
///
/// `weights` and `quantized` (the integers times their scales) are `[out, in / groups, spatial]`; `mean_float` and
/// `mean_quantized` have the mean of each of the `in` channels of the input, in the float network and in the quantized
/// one. With the former given twice, only the error of the weights is made up for (analytic); with the latter from
/// the quantized network, also what errors before did to the input (empirical). Each tap is taken to see the
/// channel's mean: at the border, where some see padding, the correction is too large by their share.
///
/// # Errors
///
/// [`QuantError::Shape`] if the lengths do not go together, [`QuantError::NotFinite`] if a number is NaN or infinite.
///
/// # Source
///
/// Nagel et al., *Data-Free Quantization*, arXiv:1906.04721, section 4.2.
pub fn correction(
    weights: &[f32],
    quantized: &[f32],
    mean_float: &[f32],
    mean_quantized: &[f32],
    taps: Taps,
) -> Result<Vec<f32>, QuantError> {
    let Taps { spatial, groups } = taps;
    let inputs = mean_float.len();
    if groups == 0 || spatial == 0 || inputs == 0 || !inputs.is_multiple_of(groups) {
        return Err(QuantError::Shape { out: groups, len: inputs });
    }
    if mean_quantized.len() != inputs {
        return Err(QuantError::Shape { out: inputs, len: mean_quantized.len() });
    }
    let (channels, all) = (inputs / groups, inputs * spatial);
    if !weights.len().is_multiple_of(all) {
        return Err(QuantError::Shape { out: all, len: weights.len() });
    }
    if quantized.len() != weights.len() {
        return Err(QuantError::Shape { out: weights.len(), len: quantized.len() });
    }
    if [weights, quantized, mean_float, mean_quantized].into_iter().flatten().any(|v| !v.is_finite()) {
        return Err(QuantError::NotFinite("the weights and means of a layer".into()));
    }
    let per_output = channels * spatial;
    let outputs_a_group = weights.len() / all;
    let mean = |weights: &[f32], means: &[f32]| -> f64 {
        let of = |(taps, mean): (&[f32], &f32)| taps.iter().map(|w| f64::from(*w)).sum::<f64>() * f64::from(*mean);
        weights.chunks_exact(spatial).zip(means).map(of).sum()
    };
    let outputs = weights.chunks_exact(per_output).zip(quantized.chunks_exact(per_output)).enumerate();
    Ok(outputs
        .map(|(output, (float, quantized))| {
            let group = output / outputs_a_group;
            let of = group * channels..(group + 1) * channels;
            (mean(float, &mean_float[of.clone()]) - mean(quantized, &mean_quantized[of])) as f32
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::golden::{bell, draw};
    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        shift: Vec<Shift>,
    }

    #[derive(Deserialize)]
    struct Shift {
        name: String,
        out: usize,
        channels: usize,
        kernel: usize,
        groups: usize,
        pictures: usize,
        analytic: Vec<f64>,
        empirical: Vec<f64>,
    }

    /// Means of channels over pictures of one colour each.
    fn means(colours: &[f32], channels: usize) -> Vec<f32> {
        let mean = |c| {
            let of: Vec<f64> = colours.iter().skip(c).step_by(channels).map(|v| f64::from(*v)).collect();
            (of.iter().sum::<f64>() / of.len() as f64) as f32
        };
        (0..channels).map(mean).collect()
    }

    #[test]
    fn the_correction_is_what_onnxruntime_is_off_by() {
        let golden: Golden = serde_json::from_str(include_str!("../../golden/layers.json")).unwrap();
        for g in golden.shift {
            let taps = Taps { spatial: g.kernel * g.kernel, groups: g.groups };
            let len = g.out * g.channels / g.groups * taps.spatial;
            let weights: Vec<f32> = bell(&format!("{} weights", g.name), len).iter().map(|v| *v as f32).collect();
            let quantized: Vec<f32> = weights.iter().map(|w| (w * 4.0).round_ties_even() / 4.0).collect();
            let colours = draw(&format!("{} colours", g.name), g.pictures * g.channels);
            let colours: Vec<f32> = colours.into_iter().map(|c| c as f32).collect();
            let seen: Vec<f32> = colours.iter().map(|c| (c * 16.0).floor() / 16.0).collect();
            let (float, seen) = (means(&colours, g.channels), means(&seen, g.channels));
            for (what, expected, means) in [("analytic", &g.analytic, &float), ("empirical", &g.empirical, &seen)] {
                let found = correction(&weights, &quantized, &float, means, taps).unwrap();
                assert_eq!(found.len(), g.out);
                for (f, e) in found.iter().zip(expected) {
                    assert!(
                        (f64::from(*f) - e).abs() < 2e-5,
                        "{} {what}: expected {expected:?}, found {found:?}",
                        g.name
                    );
                }
            }
        }
    }

    #[test]
    fn equal_weights_and_means_need_no_correction() {
        let w = [1.5, -2.0, 0.25, 4.0];
        let taps = Taps { spatial: 1, groups: 1 };
        assert_eq!(correction(&w, &w, &[3.0, -1.0], &[3.0, -1.0], taps).unwrap(), [0.0, 0.0]);
        assert!(correction(&[], &[], &[1.0], &[1.0], taps).unwrap().is_empty());
    }

    #[test]
    fn lengths_that_do_not_go_together_are_refused() {
        let w = [0.0; 12];
        let taps = |spatial, groups| Taps { spatial, groups };
        // How many quantized weights, means, means in the quantized network.
        let cases = [
            ([12, 2, 2], taps(3, 0)),
            ([12, 2, 2], taps(0, 1)),
            ([12, 0, 0], taps(3, 1)),
            ([12, 3, 3], taps(1, 2)),
            ([12, 2, 3], taps(3, 1)),
            ([12, 5, 5], taps(1, 1)),
            ([11, 2, 2], taps(3, 1)),
        ];
        for (lengths, taps) in cases {
            let [quantized, float, seen] = lengths.map(|len| vec![0.0; len]);
            let error = correction(&w, &quantized, &float, &seen, taps).unwrap_err();
            assert!(matches!(error, QuantError::Shape { .. }), "{error}");
        }
        let error = correction(&w, &w, &[f32::NAN, 0.0], &[0.0; 2], taps(3, 1)).unwrap_err();
        assert!(matches!(error, QuantError::NotFinite(_)), "{error}");
    }
}
