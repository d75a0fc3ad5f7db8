//! The self-test: the gate a bundle passes on the device itself before it may run.
//!
//! Golden samples are pictures with the outputs the host's engine gave. They go through this device's own decoder,
//! preprocessing and engine; what differs by more than the bundle's tolerance, or in the best class, closes the
//! gate. Knows nothing of slots and bundles.

use std::time::Instant;

use graft_runtime::{Model, picture};

/// A picture and what the host's engine made of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Name of the picture, for messages.
    pub name: String,
    /// A JPEG or PNG file.
    pub image: Vec<u8>,
    /// The expected logits.
    pub logits: Vec<f32>,
}

/// What a self-test measured.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SelfTest {
    /// Samples run.
    pub samples: usize,
    /// What went wrong, a line for each sample; none if the gate is open.
    pub failures: Vec<String>,
    /// Largest difference of any logit to the expected one.
    pub max_abs_diff: f32,
    /// Median time of preprocessing and network for one sample, in milliseconds.
    pub latency_ms: f32,
}

impl SelfTest {
    /// Returns whether the bundle may run.
    pub fn passed(&self) -> bool {
        self.failures.is_empty() && self.samples > 0
    }

    /// Returns why it may not, in one line.
    pub fn reason(&self) -> String {
        match &self.failures[..] {
            [] if self.samples == 0 => NO_SAMPLES.to_owned(),
            [] => "none".to_owned(),
            [first] => first.clone(),
            [first, rest @ ..] => format!("{first}, and {} more", rest.len()),
        }
    }
}

/// Runs every sample; `progress` is called with the samples done and the number of samples.
pub fn self_test(
    model: &Model,
    samples: &[Sample],
    tolerance: f32,
    progress: &mut dyn FnMut(usize, usize),
) -> SelfTest {
    let mut report = SelfTest { samples: samples.len(), ..SelfTest::default() };
    let mut times = Vec::new();
    if samples.is_empty() {
        report.failures.push(NO_SAMPLES.to_owned());
    }
    for (done, sample) in samples.iter().enumerate() {
        match logits(model, &sample.image) {
            Ok((found, latency_ms)) => {
                times.push(latency_ms);
                let difference = max_abs_diff(&found, &sample.logits);
                report.max_abs_diff = report.max_abs_diff.max(difference);
                report.failures.extend(compare(sample, &found, difference, tolerance));
            }
            Err(reason) => report.failures.push(format!("{}: {reason}", sample.name)),
        }
        progress(done + 1, samples.len());
    }
    times.sort_by(f32::total_cmp);
    report.latency_ms = times.get(times.len() / 2).copied().unwrap_or(0.0);
    report
}

/// Returns the logits and the time of preprocessing and network in milliseconds.
fn logits(model: &Model, image: &[u8]) -> Result<(Vec<f32>, f32), String> {
    let picture = picture::decode(image).map_err(|e| e.to_string())?;
    let start = Instant::now();
    let pixels = picture::preprocess(&picture, model.preprocessing());
    let logits = model.logits(&pixels).map_err(|e| e.to_string())?;
    Ok((logits, start.elapsed().as_secs_f32() * 1e3))
}

/// Returns what is wrong with the found logits, if anything is.
fn compare(sample: &Sample, found: &[f32], difference: f32, tolerance: f32) -> Option<String> {
    let (name, expected) = (&sample.name, &sample.logits);
    if found.len() != expected.len() {
        let (wanted, got) = (expected.len(), found.len());
        return Some(format!("{name}: expected {wanted} logits, found {got}"));
    }
    // Written so that a tolerance or a difference that is no number closes the gate.
    let within = difference <= tolerance;
    if !within {
        return Some(format!(
            "{name}: expected logits within {tolerance} of the host's, found a difference of {difference}"
        ));
    }
    let (wanted, got) = (best(expected), best(found));
    (wanted != got).then(|| format!("{name}: expected class {wanted} as the best, found {got}"))
}

/// Returns the largest difference; infinite where one of the two is no number or the lengths differ.
fn max_abs_diff(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::INFINITY;
    }
    a.iter().zip(b).fold(0.0, |most, (a, b)| {
        let difference = (a - b).abs();
        if difference.is_nan() { f32::INFINITY } else { difference.max(most) }
    })
}

/// Returns the index of the largest value, the first of equals.
fn best(values: &[f32]) -> usize {
    let first = |best: usize, index: usize| {
        if values[index] > values[best] { index } else { best }
    };
    (0..values.len()).reduce(first).unwrap_or(0)
}

const NO_SAMPLES: &str = "expected golden samples in the bundle, found none; pack it with --golden";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiny;

    fn sample(rgb: [u8; 3], logits: &[f32]) -> Sample {
        Sample { name: "golden/00.png".into(), image: tiny::png(rgb), logits: logits.to_vec() }
    }

    fn run(samples: &[Sample], tolerance: f32) -> SelfTest {
        let model = Model::from_onnx(&tiny::mean_colour(["red", "green", "blue"])).unwrap();
        self_test(&model, samples, tolerance, &mut |_, _| ())
    }

    #[test]
    fn equal_answers_open_the_gate() {
        let samples = [sample([9, 1, 2], &[9.0, 1.0, 2.0]), sample([0, 0, 5], &[0.0, 0.0, 5.0])];
        let model = Model::from_onnx(&tiny::mean_colour(["red", "green", "blue"])).unwrap();
        let mut steps = Vec::new();
        let found = self_test(&model, &samples, 0.0, &mut |done, of| steps.push((done, of)));
        assert!(found.passed(), "{found:?}");
        assert_eq!((found.samples, found.max_abs_diff), (2, 0.0));
        assert!(found.latency_ms > 0.0);
        assert_eq!(steps, [(1, 2), (2, 2)]);
    }

    #[test]
    fn a_difference_within_the_tolerance_is_measured_and_passes() {
        let found = run(&[sample([9, 1, 2], &[9.0, 1.0, 2.25])], 0.25);
        assert!(found.passed());
        assert_eq!(found.max_abs_diff, 0.25);
    }

    #[test]
    fn every_reason_closes_the_gate() {
        let mut broken = sample([9, 1, 2], &[9.0, 1.0, 2.0]);
        broken.image.truncate(50);
        let cases = [
            (vec![], 1.0, "--golden"),
            (vec![sample([9, 1, 2], &[9.0, 1.0, 2.5])], 0.25, "a difference of 0.5"),
            (vec![sample([9, 1, 2], &[9.0, 1.0])], 1.0, "expected 2 logits, found 3"),
            (vec![sample([9, 1, 8], &[8.5, 1.0, 8.6])], 1.0, "expected class 2 as the best, found 0"),
            (vec![sample([9, 1, 2], &[9.0, 1.0, f32::NAN])], 1.0, "a difference of inf"),
            (vec![sample([9, 1, 2], &[9.0, 1.0, 2.0])], f32::NAN, "within NaN"),
            (vec![broken.clone(), broken], 1.0, "golden/00.png: expected the PNG file"),
        ];
        for (samples, tolerance, word) in cases {
            let found = run(&samples, tolerance);
            assert!(!found.passed() && found.reason().contains(word), "{word}: {found:?}");
        }
        assert!(!SelfTest::default().passed(), "a test that did not run is no passed one");
    }
}
