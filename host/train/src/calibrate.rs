//! Static calibration: watches every activation on pictures and chooses the ranges that keep the answers best.

use anyhow::{Context, Result, ensure};
use graft_onnx::quantize::RangeMethod;
use graft_onnx::{Affine, Calibration, Observer, Outputs};
use graft_runtime::Model;
use rayon::prelude::*;

use crate::dataset::Sample;
use crate::evaluate::answers;
use crate::metrics::argmax;
use crate::pictures::{self, OnBad};
use crate::run::Run;

/// What came out of a calibration.
#[derive(Debug, Clone)]
pub struct Calibrated {
    /// Ranges of the chosen method.
    pub calibration: Calibration,
    /// Name of the chosen method.
    pub method: String,
    /// For each method tried: name, mean squared error of the logits against f32, share of equal top-1.
    pub tried: Vec<(String, f64, f64)>,
}

/// Pictures on which the methods are compared.
const COMPARED: usize = 96;

/// Calibrates `run` on `samples` and picks, of [`METHODS`], the one whose int8 logits are nearest to the f32 ones; with
/// `only`, that one. Ranges depend on backbone, pictures and method alone, so a new head keeps them.
///
/// # Errors
///
/// If no picture can be read, the model fails, or `only` is given and names no method.
pub fn calibrate(
    run: &Run,
    samples: &[Sample],
    only: Option<&str>,
    on_bad: OnBad,
    mut progress: impl FnMut(usize, usize),
) -> Result<Calibrated> {
    let mut methods = METHODS.to_vec();
    methods.retain(|(name, _)| only.is_none_or(|o| o == *name));
    ensure!(
        !methods.is_empty(),
        "expected one of {}, found {}",
        METHODS.map(|m| m.0).join(", "),
        only.unwrap_or_default()
    );
    // Spread over all classes: samples come sorted by class.
    let stride = samples.len().div_ceil(COMPARED).max(1);
    let compared: Vec<Sample> = samples.iter().step_by(stride).cloned().collect();
    let steps = samples.len() + compared.len() * (methods.len() + 1);
    let observers = observe(run, samples, on_bad, |done| progress(done, steps))?;
    let mut base = samples.len();
    let mut answer = |onnx: &[u8]| -> Result<Vec<Vec<f32>>> {
        let model = Model::from_onnx(onnx)?;
        let found = answers(&model, &compared, on_bad, |done, _| progress(base + done, steps))?.0;
        base += compared.len();
        Ok(found.into_iter().map(|a| a.logits).collect())
    };
    let float = answer(&run.float()?)?;
    let mut best: Option<(f64, Calibration, String)> = None;
    let mut tried = Vec::new();
    for (name, method) in methods {
        let mut calibration = Calibration::default();
        for (activation, observer) in &observers {
            let (low, high) = observer.range(method).with_context(|| format!("calibrating {activation}"))?;
            calibration.activations.insert(activation.clone(), Affine::from_range(low, high));
        }
        let int8 = answer(&run.int8(&calibration, name)?)?;
        let (mut error, mut count, mut equal) = (0.0, 0usize, 0usize);
        for (a, b) in float.iter().zip(&int8) {
            error += a.iter().zip(b).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>();
            count += a.len();
            equal += usize::from(argmax(a) == argmax(b));
        }
        let error = error / count.max(1) as f64;
        tried.push((name.to_owned(), error, equal as f64 / float.len().max(1) as f64));
        if best.as_ref().is_none_or(|b| error < b.0) {
            best = Some((error, calibration, name.to_owned()));
        }
    }
    let (_, calibration, method) = best.context("expected a calibration method, found none")?;
    Ok(Calibrated { calibration, method, tried })
}

/// The methods by name.
pub const METHODS: [(&str, RangeMethod); 4] = [
    ("min-max", RangeMethod::MinMax),
    ("percentile-99.999", RangeMethod::Percentile(1e-5)),
    ("percentile-99.99", RangeMethod::Percentile(1e-4)),
    ("percentile-99.9", RangeMethod::Percentile(1e-3)),
];

fn observe(
    run: &Run,
    samples: &[Sample],
    on_bad: OnBad,
    mut progress: impl FnMut(usize),
) -> Result<Vec<(String, Observer)>> {
    let export = run.export();
    let model = Model::from_onnx(&export.float(Outputs::Activations, &run.metadata())?)
        .context("loading the graph to calibrate")?;
    let names = export.activations();
    let outputs = model.outputs();
    let places: Vec<usize> = names
        .iter()
        .map(|n| outputs.iter().position(|o| o == n).with_context(|| format!("expected output {n}, found none")))
        .collect::<Result<_>>()?;
    let mut observers = vec![Observer::default(); names.len()];
    let mut used = 0;
    // Few at a time: the activations of one picture take tens of megabytes.
    for (index, chunk) in samples.chunks(4).enumerate() {
        let runs: Vec<Result<Option<Vec<Vec<f32>>>>> = chunk
            .par_iter()
            .map(|s| {
                Ok(pictures::read(s, model.preprocessing(), on_bad)?.ok().map(|p| model.run(&p.data)).transpose()?)
            })
            .collect();
        for found in runs {
            let Some(values) = found? else { continue };
            used += 1;
            observers
                .par_iter_mut()
                .zip(&names)
                .zip(&places)
                .try_for_each(|((o, name), &at)| o.observe(name, &values[at]))?;
        }
        progress(index * 4 + chunk.len());
    }
    ensure!(used > 0, "expected calibration pictures that can be read, found none among {}", samples.len());
    Ok(names.into_iter().zip(observers).collect())
}
