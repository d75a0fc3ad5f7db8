//! What to ship.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::layers::LayerReport;
use super::trial::{Candidate, Measured, Trial};
use super::{Kind, Plan, Quantized, Stage};

/// What to ship, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The numbers to ship; float where fewer bits are worse, or slower where it was measured.
    pub ship: Kind,
    /// Why, as a sentence.
    pub why: String,
}

/// What is written.
pub(super) struct Chosen {
    pub(super) kind: Kind,
    pub(super) quantized: Quantized,
    /// Whether its weights were fine-tuned for it.
    pub(super) is_tuned: bool,
}

/// Tries networks in fewer bits until one is good enough.
pub(super) fn find(
    plan: &Plan<'_>,
    trial: &mut Trial<'_>,
    quantized: &Quantized,
    layers: &[LayerReport],
    is_pinned: bool,
    tune: &Tune<'_>,
    progress: &mut dyn FnMut(Stage, usize, usize),
) -> Result<(Verdict, Option<Chosen>)> {
    let chosen = |kind, quantized: &Quantized| Some(Chosen { kind, quantized: quantized.clone(), is_tuned: false });
    if let Some(kind) = plan.kind.filter(|k| *k != Kind::Mixed) {
        let float = trial.float.clone();
        let why = format!("as asked for; {}", told(trial.add(kind, quantized, &mut evaluating(progress))?, &float));
        return Ok((Verdict { ship: kind, why }, chosen(kind, quantized)));
    }
    let float = trial.float.clone();
    let told = |c: &Candidate| told(c, &float);
    let most = plan.budget_ms.unwrap_or(FASTER * float.deciding_ms());
    let is_fast = |c: &Candidate| c.measured.refused.is_none() && c.measured.deciding_ms() <= most;
    let is_good = |c: &Candidate| c.drop <= plan.budget + 1e-9;

    let all = quantized.quantization.layers.len() == quantized.layers.iter().count();
    let first = trial.add(if all { Kind::Int8 } else { Kind::Mixed }, quantized, &mut evaluating(progress))?.clone();
    if is_good(&first) && is_fast(&first) {
        return Ok((Verdict { ship: first.kind, why: told(&first) }, chosen(first.kind, quantized)));
    }
    let mut why = told(&first);
    if !is_good(&first)
        && let Some(tuned) = tune(progress)?
    {
        let found = trial.add_tuned(&tuned, &mut evaluating(progress))?.clone();
        why = format!("{}; {why}", told(&found));
        if is_good(&found) && is_fast(&found) {
            let chosen = Chosen { kind: Kind::Int8, quantized: tuned, is_tuned: true };
            return Ok((Verdict { ship: Kind::Int8, why }, Some(chosen)));
        }
    }
    if is_pinned && !is_good(&first) {
        why += "; these are the backbone's pinned parameters, and --afresh would choose others";
    } else if !is_good(&first) && is_fast(&first) {
        let mut noisiest: Vec<&LayerReport> = layers.iter().collect();
        noisiest.sort_by(|a, b| b.noise.total_cmp(&a.noise));
        let mut count = 1;
        while count < noisiest.len() {
            let float = |name: &str| noisiest[..count].iter().any(|l| l.name == name);
            let quantization = quantized.quantization.only(&|name| !float(name));
            let mixed = Quantized { layers: quantized.layers.clone(), quantization };
            let found = trial.add(Kind::Mixed, &mixed, &mut evaluating(progress))?.clone();
            if is_good(&found) && is_fast(&found) {
                let why = format!("{}; {why}", told(&found));
                return Ok((Verdict { ship: Kind::Mixed, why }, chosen(Kind::Mixed, &mixed)));
            }
            if !is_fast(&found) {
                break;
            }
            count *= 2;
        }
        why += "; no few layers in float mend that and stay fast enough";
    }
    let weights = trial.add(Kind::Weights, quantized, &mut evaluating(progress))?.clone();
    let is_taken = weights.measured.refused.is_none() && (plan.budget_ms.is_none() || is_fast(&weights));
    if is_good(&weights) && is_taken {
        let why = format!("{}; {why}", told(&weights));
        return Ok((Verdict { ship: Kind::Weights, why }, chosen(Kind::Weights, quantized)));
    }
    let late = plan.budget_ms.filter(|ms| float.deciding_ms() > *ms).map_or_else(String::new, |ms| {
        let (took, place) = (float.deciding_ms(), float.place());
        format!("; a smaller network is needed: float takes {took:.2} ms {place}, of {ms} that may be")
    });
    Ok((Verdict { ship: Kind::Float, why: format!("{why}; {}{late}", told(&weights)) }, None))
}

/// Fine-tunes for int8, if that is asked for.
pub(super) type Tune<'a> = dyn Fn(&mut dyn FnMut(Stage, usize, usize)) -> Result<Option<Quantized>> + 'a;

fn evaluating(progress: &mut dyn FnMut(Stage, usize, usize)) -> impl FnMut(usize, usize) {
    |done, of| progress(Stage::Evaluating, done, of)
}

/// Says what a candidate loses and saves.
fn told(c: &Candidate, float: &Measured) -> String {
    let what = match c.kind {
        Kind::Float => "float".to_owned(),
        Kind::Int8 if c.is_tuned => "int8 with its weights fine-tuned for it".to_owned(),
        Kind::Int8 => "int8".to_owned(),
        Kind::Mixed => format!("int8 with {} in float", c.float_layers.join(", ")),
        Kind::Weights => "8-bit weights alone".to_owned(),
        Kind::Half => "16-bit weights".to_owned(),
    };
    let change = match 100.0 * c.drop {
        d if d > 0.0 => format!("loses {d:.1} points"),
        d if d < 0.0 => format!("gains {:.1} points", -d),
        _ => "loses nothing".to_owned(),
    };
    if let Some(why) = &c.measured.refused {
        return format!("{what} {change}, but the board does not run it: {why}");
    }
    let (time, place) = (c.measured.deciding_ms() / float.deciding_ms(), float.place());
    let size = c.measured.bytes as f64 / float.bytes.max(1) as f64;
    format!("{what} {change}, takes {time:.2} of float's time {place} and {size:.2} of its bytes")
}

/// Less than this of float's time is faster.
const FASTER: f64 = 0.95;
