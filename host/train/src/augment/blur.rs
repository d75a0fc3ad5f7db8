//! Out of focus, or sharper than it was.

use serde::{Deserialize, Serialize};

use super::{View, happens, level};
use crate::rng::Rng;

/// A Gaussian blur, now and then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blur {
    /// How often.
    pub probability: f32,
    /// Least and largest standard deviation, in pixels of the view.
    pub sigma: (f32, f32),
}

impl Blur {
    pub(super) fn apply(&self, view: &mut View, rng: &mut Rng) {
        if happens(self.probability, rng) {
            view.blur(rng.range(self.sigma.0, self.sigma.1));
        }
    }
}

impl View {
    /// Blurs by a Gaussian cut at three standard deviations; beyond its edges the view goes on as its mirror image
    /// about the outermost pixels.
    ///
    /// # Source
    ///
    /// torchvision `transforms.functional.gaussian_blur`.
    pub(super) fn blur(&mut self, sigma: f32) {
        let kernel = kernel(sigma, self.side - 1);
        let (radius, side, line) = (kernel.len() / 2, self.side, self.side * 3);
        if radius == 0 {
            return;
        }
        let mut across = vec![0.0; self.pixels.len()];
        let mut padded = vec![0.0; line + 6 * radius];
        for (to, from) in across.chunks_exact_mut(line).zip(self.pixels.chunks_exact(line)) {
            for (place, pixel) in padded.chunks_exact_mut(3).enumerate() {
                let at = reflected(place, radius, side) * 3;
                for (p, &v) in pixel.iter_mut().zip(&from[at..at + 3]) {
                    *p = f32::from(v);
                }
            }
            for (tap, &weight) in kernel.iter().enumerate() {
                add(to, &padded[tap * 3..tap * 3 + line], weight);
            }
        }
        let mut sums = vec![0.0; line];
        for (y, to) in self.pixels.chunks_exact_mut(line).enumerate() {
            sums.fill(0.0);
            for (tap, &weight) in kernel.iter().enumerate() {
                let at = reflected(y + tap, radius, side) * line;
                add(&mut sums, &across[at..at + line], weight);
            }
            to.iter_mut().zip(&sums).for_each(|(t, &s)| *t = level(s));
        }
    }
}

impl View {
    /// Goes away from the smoothed picture by a factor: 0 is smoothed, 1 as it was, above that sharper. The outermost
    /// pixels stay.
    ///
    /// # Source
    ///
    /// Pillow `ImageEnhance.Sharpness`, `ImageFilter.SMOOTH`.
    pub(super) fn sharpen(&mut self, factor: f32) {
        let (side, line, from) = (self.side, self.side * 3, self.pixels.clone());
        for y in 1..side.saturating_sub(1) {
            for x in 3..line.saturating_sub(3) {
                let at = y * line + x;
                let row = |at: usize| u32::from(from[at - 3]) + u32::from(from[at]) + u32::from(from[at + 3]);
                let sum = row(at - line) + row(at) + row(at + line) + 4 * u32::from(from[at]);
                let smooth = ((2 * sum + 13) / 26) as f32;
                self.pixels[at] = level(smooth + (f32::from(from[at]) - smooth) * factor);
            }
        }
    }
}

fn add(to: &mut [f32], from: &[f32], weight: f32) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t += f * weight);
}

/// Returns the weights of an odd number of taps, which add up to 1.
fn kernel(sigma: f32, most: usize) -> Vec<f32> {
    // Written so that a sigma that is no number gives no blur.
    let radius = if sigma > 0.0 { ((3.0 * sigma).ceil() as usize).min(most) } else { 0 };
    let weight = |i: usize| (-0.5 * ((i as f32 - radius as f32) / sigma).powi(2)).exp();
    let weights: Vec<f32> = (0..=2 * radius).map(weight).collect();
    let total: f32 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

/// Returns the place in `0..side` of a padded place, where a line goes on as its mirror image about its outermost
/// pixels; `radius` is below `side`.
fn reflected(place: usize, radius: usize, side: usize) -> usize {
    let at = place.abs_diff(radius);
    if at < side { at } else { 2 * (side - 1) - at }
}
