//! Scales and integers of weights that keep what a layer answers, not each weight, as near as can be.

use super::{QuantError, weight_scales};

mod factor;
mod gram;
mod tiles;

pub use gram::Gram;
use tiles::{DEPTH, Panels, Part, product};

/// Rounds weights to int8 one after another, each making up for the errors of those before.
///
/// `weights` is `[out, k]`, `scales` has one step an output, `gram` the second moments of the `k` inputs; the result is
/// `[out, k]` in -127..=127. Minimises, greedily, the expected square of what the outputs change by, where rounding to
/// the nearest looks at each weight alone. Inputs of the largest second moment come first, as errors of the last ones
/// stay; one that is always zero is rounded to the nearest. A grouped layer is called once a group.
///
/// # Errors
///
/// [`QuantError::Shape`] if there are not `k` weights for each scale, [`QuantError::NotFinite`] if a weight or moment
/// is NaN or infinite, or a scale is not a positive number.
///
/// # Source
///
/// Frantar et al., *GPTQ*, arXiv:2210.17323, in the form of Chee et al., *QuIP*, arXiv:2307.13304, who show that both
/// give the same: errors are fed back by the factors of the moments, which need not be inverted.
pub fn round_compensated(weights: &[f32], scales: &[f32], gram: &Gram) -> Result<Vec<i8>, QuantError> {
    let (out, k) = (scales.len(), gram.inputs());
    if weights.len() != out * k {
        return Err(QuantError::Shape { out: out * k, len: weights.len() });
    }
    if weights.iter().any(|w| !w.is_finite()) {
        return Err(QuantError::NotFinite("the weights".into()));
    }
    if scales.iter().any(|s| !s.is_finite() || *s <= 0.0) {
        return Err(QuantError::NotFinite("the scales of the weights".into()));
    }
    // Last what is rounded first.
    let mut order: Vec<usize> = (0..k).rev().collect();
    order.sort_by(|&a, &b| gram.moment(a, a).total_cmp(&gram.moment(b, b)));
    let factors = feedback(gram, &order)?;
    let mut steps = in_steps(weights, scales, &order);
    let mut owed = vec![0.0; k * out];
    let mut rounded = vec![0; k * out];
    let mut end = k;
    while end > 0 {
        let start = end.saturating_sub(DEPTH);
        for t in (start..end).rev() {
            let (before, here) = owed.split_at_mut(t * out);
            // From here on what rounding leaves.
            let errors = &mut steps[t * out..(t + 1) * out];
            for (o, (x, owed)) in errors.iter_mut().zip(&*here).enumerate() {
                let q = (*x + owed).round_ties_even().clamp(-LIMIT, LIMIT);
                rounded[o * k + order[t]] = q as i8;
                *x -= q;
            }
            for (u, row) in before.chunks_exact_mut(out.max(1)).enumerate().skip(start) {
                let factor = factors[u * k + t];
                row.iter_mut().zip(&*errors).for_each(|(o, e)| *o += factor * e);
            }
        }
        let by = Panels::<f64, 4>::of_columns(&factors, k, 0..start, start..end);
        let errors = Panels::<f64, 4>::of_rows(&steps, out, start..end, 0..out);
        product(&by, &errors, Part::Whole, |row, column, tile| {
            for (i, values) in tile.iter().enumerate().take(start - row) {
                let to = &mut owed[(row + i) * out..][..out][column..];
                to.iter_mut().zip(values).for_each(|(o, v)| *o += v);
            }
        });
        end = start;
    }
    Ok(rounded)
}

/// Returns weights `[out, k]` in steps of their scale, as `[k, out]` and in an order of the inputs.
fn in_steps(weights: &[f32], scales: &[f32], order: &[usize]) -> Vec<f64> {
    let mut steps = Vec::with_capacity(weights.len());
    for input in order {
        let column = weights.iter().skip(*input).step_by(order.len());
        steps.extend(column.zip(scales).map(|(w, s)| f64::from(*w) / f64::from(*s)));
    }
    steps
}

/// Returns `[k, k]`, upper: what a later input, of lower index, makes up for of an earlier one's error.
fn feedback(gram: &Gram, order: &[usize]) -> Result<Vec<f64>, QuantError> {
    let k = order.len();
    let mut matrix = Vec::with_capacity(k * k);
    for &a in order {
        matrix.extend(order.iter().map(|&b| f64::from(gram.moment(a, b))));
    }
    if matrix.iter().any(|m| !m.is_finite()) {
        return Err(QuantError::NotFinite("the second moments of the inputs".into()));
    }
    let mean = (0..k).map(|i| matrix[i * k + i]).sum::<f64>() / k.max(1) as f64;
    let damping = if mean > 0.0 { mean * DAMPING } else { 1.0 };
    for i in 0..k {
        matrix[i * k + i] += damping;
    }
    // No pivot is below the damping, rounding aside.
    factor::upper(&mut matrix, k, damping);
    for (i, row) in matrix.chunks_exact_mut(k.max(1)).enumerate() {
        let own = row[i];
        row[i..].iter_mut().for_each(|v| *v /= own);
    }
    Ok(matrix)
}

/// Returns a symmetric int8 scale for each output channel, that of the least squared error of its weights.
///
/// As [`weight_scales`], times the factor at which the summed squared error of rounding to the nearest is least: of
/// 0.5, 0.51, … 1, then of those a thousandth apart around the best. So that error is never above the one of
/// [`weight_scales`].
///
/// # Errors
///
/// As [`weight_scales`].
///
/// # Source
///
/// Nagel et al., *A White Paper on Neural Network Quantization*, arXiv:2106.08295, section 3.1.
pub fn weight_scales_mse(weights: &[f32], out: usize) -> Result<Vec<f32>, QuantError> {
    let mut scales = weight_scales(weights, out)?;
    let per = (weights.len() / out).max(1);
    for (channel, scale) in weights.chunks_exact(per).zip(&mut scales) {
        let full = *scale;
        let at = |thousandths: u16| full * (f32::from(thousandths) / 1000.0);
        let better = |best: (f64, u16), thousandths| {
            let error = squared_error(channel, at(thousandths));
            if error < best.0 { (error, thousandths) } else { best }
        };
        let coarse = (500..1000).step_by(10).rev().fold((squared_error(channel, full), 1000), better);
        let around = (coarse.1 - 9).max(500)..(coarse.1 + 10).min(1000);
        *scale = at(around.rev().fold(coarse, better).1);
    }
    Ok(scales)
}

/// Returns the summed squared error of rounding weights to the nearest multiple of a scale within -127..=127.
fn squared_error(weights: &[f32], scale: f32) -> f64 {
    let square = |w: f32| {
        let q = ((w / scale).clamp(-LIMIT as f32, LIMIT as f32) + ROUND) - ROUND;
        f64::from(w - q * scale).powi(2)
    };
    // Sums side by side, which need not wait for each other.
    let mut sums = [0.0; 8];
    let chunks = weights.chunks_exact(sums.len());
    let rest: f64 = chunks.remainder().iter().map(|w| square(*w)).sum();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(s, w)| *s += square(*w));
    }
    sums.iter().sum::<f64>() + rest
}

/// Half of 2^24 and as much again: added, there is no room for a fraction, which is rounded half to even.
const ROUND: f32 = 12_582_912.0;
/// The largest magnitude of a weight's integer.
const LIMIT: f64 = 127.0;
/// What is added to each input's second moment, as a share of their mean; GPTQ's own.
const DAMPING: f64 = 0.01;

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::golden::{bell, draw};
    use super::super::quantize_weights;
    use super::*;

    /// What of `golden/layers.json` is read here.
    #[derive(Deserialize)]
    struct Golden {
        rounding: Vec<Rounding>,
        scales: Vec<Scales>,
    }

    #[derive(Deserialize)]
    struct Rounding {
        name: String,
        rows: usize,
        k: usize,
        out: usize,
        dead: Option<usize>,
        /// What the scales of [`weight_scales`] are multiplied by.
        times: f32,
        rounded: Vec<i8>,
        loss: f64,
        nearest_loss: f64,
    }

    #[derive(Deserialize)]
    struct Scales {
        name: String,
        out: usize,
        per: usize,
        power: i32,
        errors: Vec<f64>,
        full_errors: Vec<f64>,
    }

    fn golden() -> Golden {
        serde_json::from_str(include_str!("../../golden/layers.json")).unwrap()
    }

    fn floats(name: &str, len: usize) -> Vec<f32> {
        bell(name, len).into_iter().map(|v| v as f32).collect()
    }

    /// As `inputs` of `layers.py`.
    fn inputs(name: &str, rows: usize, k: usize) -> Vec<f32> {
        let sizes = draw(&format!("{name} sizes"), k);
        let mut mixed = bell(&format!("{name} rows"), rows * k);
        for row in mixed.chunks_exact_mut(k) {
            for back in [1, 2] {
                (back..k).rev().for_each(|j| row[j] += row[j - back]);
            }
        }
        mixed.iter().enumerate().map(|(i, v)| (v.max(0.0) * (0.25 + sizes[i % k])) as f32).collect()
    }

    /// Squared change of all outputs on all rows.
    fn loss(weights: &[f32], rounded: &[i8], scales: &[f32], rows: &[f32]) -> f64 {
        let k = weights.len() / scales.len();
        let change = |row: &[f32], o: usize| -> f64 {
            let of = o * k..(o + 1) * k;
            let weights = weights[of.clone()].iter().zip(&rounded[of]);
            weights.zip(row).map(|((w, q), x)| f64::from(f32::from(*q) * scales[o] - w) * f64::from(*x)).sum()
        };
        rows.chunks_exact(k).flat_map(|row| (0..scales.len()).map(move |o| change(row, o).powi(2))).sum()
    }

    #[test]
    fn weights_are_rounded_as_gptq_does() {
        for g in golden().rounding {
            let mut rows = inputs(&g.name, g.rows, g.k);
            if let Some(dead) = g.dead {
                rows.iter_mut().skip(dead).step_by(g.k).for_each(|v| *v = 0.0);
            }
            let weights = floats(&format!("{} weights", g.name), g.out * g.k);
            let scales: Vec<f32> = weight_scales(&weights, g.out).unwrap().iter().map(|s| s * g.times).collect();
            let mut gram = Gram::new(g.k);
            // However rows are cut.
            let (some, others) = rows.split_at(g.rows / 3 * g.k);
            gram.add(some).unwrap();
            gram.add(others).unwrap();
            let found = round_compensated(&weights, &scales, &gram).unwrap();
            assert_eq!(found, g.rounded, "{}", g.name);
            let nearest = quantize_weights(&weights, &scales);
            for (rounded, expected) in [(&found, g.loss), (&nearest, g.nearest_loss)] {
                let loss = loss(&weights, rounded, &scales, &rows);
                assert!((loss / expected - 1.0).abs() < 1e-4, "{}: expected {expected}, found {loss}", g.name);
            }
            if let Some(dead) = g.dead {
                let of = |all: &[i8]| all.iter().skip(dead).step_by(g.k).copied().collect::<Vec<_>>();
                assert_eq!(of(&found), of(&nearest), "{}", g.name);
            }
        }
    }

    #[test]
    fn moments_are_sums_of_products() {
        // Not a multiple of any tile, more rows and columns than are multiplied at once.
        let (n, k) = (150, 270);
        let rows = inputs("moments", n, k);
        let mut gram = Gram::new(k);
        gram.add(&rows).unwrap();
        for (a, b) in (0..k).flat_map(|a| (0..k).step_by(7).map(move |b| (a, b))) {
            let sum: f64 = rows.chunks_exact(k).map(|r| f64::from(r[a]) * f64::from(r[b])).sum();
            assert!((f64::from(gram.moment(a, b)) - sum).abs() <= sum * 1e-5, "{a} {b}: {} {sum}", gram.moment(a, b));
        }
        assert!(matches!(gram.add(&rows[1..]), Err(QuantError::Shape { out: 270, len: 40_499 })));
        assert!(matches!(gram.add(&[f32::NAN; 270]), Err(QuantError::NotFinite(_))));
        assert!(matches!(Gram::new(0).add(&[]), Err(QuantError::Shape { .. })));
    }

    #[test]
    fn without_inputs_weights_are_rounded_to_the_nearest() {
        let weights = floats("nearest", 35);
        let scales = weight_scales(&weights, 5).unwrap();
        let nearest = quantize_weights(&weights, &scales);
        assert_eq!(round_compensated(&weights, &scales, &Gram::new(7)).unwrap(), nearest);
        // Nor is there anything to make up for among inputs that have nothing to do with each other.
        let mut gram = Gram::new(7);
        let rows: Vec<f32> = (0..49).map(|i| if i % 8 == 0 { 2.0 } else { 0.0 }).collect();
        gram.add(&rows).unwrap();
        assert_eq!(round_compensated(&weights, &scales, &gram).unwrap(), nearest);
    }

    #[test]
    fn any_moments_give_weights_in_range() {
        let far: Vec<f32> = inputs("far", 40, 6).iter().enumerate().map(|(i, v)| v * [1.0, 1e6][i % 2]).collect();
        let cases: [(&str, &[f32]); 4] = [
            ("equal inputs", &[3.0; 60]),
            ("huge ones among small", &far),
            ("tiny", &[1e-20; 60]),
            ("one row", &[1.0; 6]),
        ];
        for (what, rows) in cases {
            let mut gram = Gram::new(6);
            gram.add(rows).unwrap();
            let weights = floats(what, 24);
            let scales = weight_scales(&weights, 4).unwrap();
            let found = round_compensated(&weights, &scales, &gram).unwrap();
            assert!(found.iter().all(|q| *q >= -127), "{what}: {found:?}");
            let (compensated, nearest) =
                [&found, &quantize_weights(&weights, &scales)].map(|q| loss(&weights, q, &scales, rows)).into();
            assert!(compensated <= nearest, "{what}: {compensated} {nearest}");
            assert_eq!(round_compensated(&[0.0; 24], &[1.0; 4], &gram).unwrap(), [0; 24], "{what}");
        }
    }

    #[test]
    fn rounding_refuses_what_does_not_fit() {
        let mut gram = Gram::new(2);
        gram.add(&[1.0, 2.0]).unwrap();
        assert!(round_compensated(&[], &[], &gram).unwrap().is_empty());
        assert!(matches!(round_compensated(&[0.0; 3], &[1.0], &gram), Err(QuantError::Shape { out: 2, len: 3 })));
        for (weight, scale) in [(f32::NAN, 1.0), (1.0, 0.0), (1.0, f32::INFINITY)] {
            assert!(matches!(round_compensated(&[weight; 2], &[scale], &gram), Err(QuantError::NotFinite(_))));
        }
        gram.add(&[f32::MAX, 0.0]).unwrap();
        assert!(matches!(round_compensated(&[0.0; 2], &[1.0], &gram), Err(QuantError::NotFinite(_))));
    }

    #[test]
    fn scales_are_as_good_as_trying_all() {
        for g in golden().scales {
            let weights: Vec<f32> =
                bell(&format!("{} weights", g.name), g.out * g.per).iter().map(|v| v.powi(g.power) as f32).collect();
            let full = weight_scales(&weights, g.out).unwrap();
            let found = weight_scales_mse(&weights, g.out).unwrap();
            for (c, channel) in weights.chunks_exact(g.per).enumerate() {
                let error = |scale: f32| -> f64 {
                    let back = quantize_weights(channel, &[scale]).into_iter().map(|q| f32::from(q) * scale);
                    back.zip(channel).map(|(b, w)| f64::from(b - w).powi(2)).sum()
                };
                for (scale, expected) in [(found[c], g.errors[c]), (full[c], g.full_errors[c])] {
                    let found = error(scale);
                    assert!(
                        (found / expected - 1.0).abs() < 0.01,
                        "{} {c}: expected {expected}, found {found}",
                        g.name
                    );
                }
            }
        }
        // So many evenly spread that one far from them is clipped: n f² / (12 * 127²) + (1 - f)² is least at this f.
        let n = 100_000;
        let many: Vec<f32> = (0..n).map(|i| (i as f32 / n as f32 - 0.5) * 0.6).chain([1.0]).collect();
        let factor = f64::from(weight_scales_mse(&many, 1).unwrap()[0]) * 127.0;
        let expected = 1.0 / (1.0 + f64::from(n) / (12.0 * 127.0 * 127.0));
        assert!((factor - expected).abs() < 0.03, "expected {expected}, found {factor}");
        assert_eq!(weight_scales_mse(&[0.0; 6], 2).unwrap(), [1.0; 2]);
        assert_eq!(weight_scales_mse(&[], 2).unwrap(), [1.0; 2]);
        assert_eq!(weight_scales_mse(&[-1.27], 1).unwrap(), [0.01]);
        assert!(matches!(weight_scales_mse(&[f32::INFINITY], 1), Err(QuantError::NotFinite(_))));
        assert!(matches!(weight_scales_mse(&[1.0; 3], 2), Err(QuantError::Shape { .. })));
    }
}
