//! Whether the engines give the same answer: fast and wrong does not count.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::Outcome;
use super::engine::Engine;
use super::setup::Bench;

/// How far one engine's answer is from ONNX Runtime's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Difference {
    pub(super) largest: f64,
    /// Pearson's.
    pub(super) correlation: f64,
}

/// Fills in the differences of all engines that left an answer; none can be had without ONNX Runtime's.
pub(super) fn compare(engines: &mut [Outcome], bench: &Bench) {
    // Only of those that ran: a file may be left of an earlier cell.
    let answer =
        |outcome: &Outcome| if outcome.turns.is_empty() { None } else { read(&bench.answer(outcome.engine)).ok() };
    let answers: Vec<Option<Vec<f32>>> = engines.iter().map(answer).collect();
    let references = [Engine::OnnxRuntime, Engine::OnnxRuntimeC];
    let given = |engine| engines.iter().zip(&answers).find(|(outcome, _)| outcome.engine == engine)?.1.as_ref();
    let Some(reference) = references.into_iter().find_map(given) else { return };
    for (outcome, answer) in engines.iter_mut().zip(&answers) {
        outcome.difference = answer.as_ref().and_then(|answer| difference(reference, answer).ok());
    }
}

fn read(file: &Path) -> Result<Vec<f32>> {
    let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let (values, rest) = bytes.as_chunks::<4>();
    ensure!(rest.is_empty(), "expected f32 values in {}, found {} bytes", file.display(), bytes.len());
    Ok(values.iter().map(|&value| f32::from_le_bytes(value)).collect())
}

fn difference(reference: &[f32], answer: &[f32]) -> Result<Difference> {
    ensure!(
        reference.len() == answer.len() && !answer.is_empty(),
        "expected {} values, found {}",
        reference.len(),
        answer.len()
    );
    let pairs = || reference.iter().zip(answer).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    // Not max(): that would pass over NaN.
    let largest = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, |most, d| if d <= most { most } else { d });
    let count = answer.len() as f64;
    let (mean_a, mean_b) = (pairs().map(|p| p.0).sum::<f64>() / count, pairs().map(|p| p.1).sum::<f64>() / count);
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in pairs().map(|(a, b)| (a - mean_a, b - mean_b)) {
        ab += a * b;
        aa += a * a;
        bb += b * b;
    }
    Ok(Difference { largest, correlation: ab / (aa * bb).sqrt() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference_of_equal_answers_is_none() {
        let d = difference(&[1.0, -2.0, 3.0], &[1.0, -2.0, 3.0]).unwrap();
        assert_eq!(d.largest, 0.0);
        assert!((d.correlation - 1.0).abs() < 1e-12);
    }

    #[test]
    fn difference_finds_the_largest_and_the_opposite() {
        let d = difference(&[1.0, 2.0, 3.0], &[-1.0, -2.0, -3.5]).unwrap();
        assert_eq!(d.largest, 6.5);
        assert!(d.correlation < -0.98);
    }

    #[test]
    fn difference_does_not_hide_a_nan() {
        let d = difference(&[1.0, 2.0, 3.0], &[1.0, f32::NAN, 3.0]).unwrap();
        assert!(d.largest.is_nan() || d.correlation.is_nan());
        assert!(d.correlation.is_nan());
    }

    #[test]
    fn difference_refuses_other_lengths_and_nothing() {
        assert!(difference(&[1.0], &[1.0, 2.0]).is_err());
        assert!(difference(&[], &[]).is_err());
    }
}
