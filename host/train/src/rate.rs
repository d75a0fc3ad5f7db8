//! Looks for a learning rate: steps at rates that rise from far too low to far too high, and what the loss does.
//!
//! # Source
//!
//! Smith, *Cyclical Learning Rates for Training Neural Networks*, arXiv:1506.01186, section 3.3.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail, ensure};
use serde::Serialize;

use crate::fit::{Schedule, Source, pictures};
use crate::net::Net;
use crate::rng::Rng;

/// A step of the search.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Tried {
    /// The rate.
    pub rate: f64,
    /// The loss of the step's pictures before it.
    pub loss: f64,
    /// The mean of the losses so far, recent ones counting most.
    pub smooth: f64,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    /// Every step, rates rising.
    pub tried: Vec<Tried>,
    /// The rate at which the loss falls the fastest, or none where it never falls.
    pub steepest: Option<f64>,
}

/// The rates of a search.
pub const RATES: [f64; 2] = [1e-6, 1.0];
/// Weight of the past in the smoothed loss.
const PAST: f64 = 0.9;
/// A smoothed loss that is so many times the best ends the search.
const LOST: f64 = 4.0;
/// Steps before the smoothed loss says anything.
const FIRST: usize = 5;

/// Trains `net` for `steps` steps at rising rates; what it was before is lost.
///
/// # Errors
///
/// If there are too few steps, a picture cannot be read, or `stop` is raised.
pub fn find(
    net: &mut Net,
    source: &dyn Source,
    schedule: &Schedule,
    steps: usize,
    stop: &AtomicBool,
    mut progress: impl FnMut(usize, usize),
) -> Result<Found> {
    ensure!(steps > 2 * FIRST, "expected more than {} steps, found {steps}", 2 * FIRST);
    let targets = source.targets();
    ensure!(targets.len() > 0, "expected pictures to train on, found none");
    let (mut tried, mut past, mut best): (Vec<Tried>, f64, f64) = (vec![], 0.0, f64::INFINITY);
    let mut order = vec![];
    for at in 0..steps {
        if stop.load(Ordering::Relaxed) {
            bail!("stopped after {at} of {steps} steps");
        }
        let mut rows = vec![];
        while rows.len() < schedule.batch {
            if order.is_empty() {
                order = (0..targets.len()).collect();
                Rng::new(schedule.seed ^ at as u64).shuffle(&mut order);
            }
            rows.extend(order.pop());
        }
        let wanted: Vec<f32> = rows.iter().flat_map(|&r| targets.row(r)).collect();
        let count = net.outputs();
        let views = pictures(source, schedule.seed, at, &rows)?;
        let loss = net.learn(&views, &|outputs| schedule.loss.of(outputs, &wanted, count))?;
        let rate = RATES[0] * (RATES[1] / RATES[0]).powf(at as f64 / (steps - 1) as f64);
        past = PAST * past + (1.0 - PAST) * loss;
        let smooth = past / (1.0 - PAST.powi(i32::try_from(at + 1).unwrap_or(i32::MAX)));
        if !smooth.is_finite() || (at >= FIRST && smooth > LOST * best) {
            break;
        }
        tried.push(Tried { rate, loss, smooth });
        best = best.min(smooth);
        net.step(&schedule.step(rate, at as u64))?;
        progress(at + 1, steps);
    }
    let steepest = steepest(&tried);
    Ok(Found { tried, steepest })
}

/// Returns the rate at which the smoothed loss falls the fastest over the logarithm of the rate.
fn steepest(tried: &[Tried]) -> Option<f64> {
    let slope = |w: &&[Tried]| (w[2].smooth - w[0].smooth) / (w[2].rate / w[0].rate).ln();
    let falls = tried.get(FIRST..)?.windows(3).filter(|w| slope(w) < 0.0);
    falls.min_by(|a, b| slope(a).total_cmp(&slope(b))).map(|w| w[1].rate)
}

/// Draws the losses over the rates, on a logarithmic axis, as an SVG picture.
pub fn plot(found: &Found) -> String {
    const SIZE: [f64; 2] = [640.0, 400.0];
    const MARGIN: f64 = 56.0;
    let losses = found.tried.iter().flat_map(|t| [t.loss, t.smooth]).filter(|l| l.is_finite());
    let (low, high) = losses.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let (low, high) = match (low.is_finite(), low < high) {
        (true, true) => (low, high),
        (true, false) => (low, low + 1.0),
        (false, _) => (0.0, 1.0),
    };
    let decades = RATES.map(f64::log10);
    let x = |rate: f64| MARGIN + (SIZE[0] - 2.0 * MARGIN) * (rate.log10() - decades[0]) / (decades[1] - decades[0]);
    let y = |loss: f64| SIZE[1] - MARGIN - (SIZE[1] - 2.0 * MARGIN) * (loss - low) / (high - low);
    let line = |of: fn(&Tried) -> f64, style: &str| {
        let points = found.tried.iter().map(|t| format!("{:.1},{:.1}", x(t.rate), y(of(t))));
        format!("<polyline fill=\"none\" {style} points=\"{}\"/>\n", points.collect::<Vec<_>>().join(" "))
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        SIZE[0], SIZE[1]
    );
    for decade in decades[0].round() as i32..=decades[1].round() as i32 {
        let at = x(10f64.powi(decade));
        svg += &format!(
            "<line x1=\"{at:.1}\" y1=\"{MARGIN}\" x2=\"{at:.1}\" y2=\"{0}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{1}\" text-anchor=\"middle\">1e{decade}</text>\n",
            SIZE[1] - MARGIN,
            SIZE[1] - MARGIN + 18.0
        );
    }
    for tick in 0..=4 {
        let loss = low + (high - low) * f64::from(tick) / 4.0;
        svg += &format!(
            "<line x1=\"{MARGIN}\" y1=\"{0:.1}\" x2=\"{1}\" y2=\"{0:.1}\" stroke=\"#ddd\"/><text x=\"{2}\" y=\"{3:.1}\" text-anchor=\"end\">{loss:.2}</text>\n",
            y(loss),
            SIZE[0] - MARGIN,
            MARGIN - 6.0,
            y(loss) + 4.0
        );
    }
    svg += &line(|t| t.loss, "stroke=\"#bcd\"");
    svg += &line(|t| t.smooth, "stroke=\"#05a\" stroke-width=\"2\"");
    if let Some(rate) = found.steepest {
        let at = x(rate);
        svg += &format!(
            "<line x1=\"{at:.1}\" y1=\"{MARGIN}\" x2=\"{at:.1}\" y2=\"{0}\" stroke=\"#c30\" stroke-dasharray=\"4 3\"/><text x=\"{at:.1}\" y=\"{1}\" text-anchor=\"middle\" fill=\"#c30\">{rate:.1e}</text>\n",
            SIZE[1] - MARGIN,
            MARGIN - 8.0
        );
    }
    svg += &format!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">learning rate</text><text x=\"14\" y=\"{2}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {2})\">training loss</text>\n</svg>\n",
        SIZE[0] / 2.0,
        SIZE[1] - 12.0,
        SIZE[1] / 2.0
    );
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steepest_fall_is_found_between_the_ends() {
        // A loss of 3 that falls as a logistic curve around 1e-3 and rises again beyond 1e-1.
        let tried: Vec<Tried> = (0..=60)
            .map(|i| {
                let rate = 1e-6 * 10f64.powf(f64::from(i) / 10.0);
                let fall = 2.0 / (1.0 + (-(rate / 1e-3).ln() * 2.0).exp());
                let smooth = 3.0 - fall + (rate / 0.1).powi(2).min(4.0);
                Tried { rate, loss: smooth, smooth }
            })
            .collect();
        let found = steepest(&tried).unwrap();
        assert!((found.log10() + 3.0).abs() < 0.15, "{found}");
        assert_eq!(steepest(&[]), None);
        let svg = plot(&Found { tried, steepest: Some(found) });
        assert!(svg.contains("polyline") && svg.contains("1e-3") && svg.ends_with("</svg>\n"));
        assert!(!plot(&Found { tried: vec![], steepest: None }).contains("NaN"));
    }
}
