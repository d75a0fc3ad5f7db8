//! The light a picture was taken in.

use serde::{Deserialize, Serialize};

use super::{View, level};
use crate::rng::Rng;

/// How far light and colours vary: each factor is drawn from `1 - x` to `1 + x`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jitter {
    /// Of all levels.
    pub brightness: f32,
    /// Of the distance from mid-grey.
    pub contrast: f32,
    /// Of the distance from the pixel's own grey.
    pub saturation: f32,
    /// Largest turn of the hue to either side, as a share of the full circle.
    pub hue: f32,
}

impl Jitter {
    pub(super) fn apply(&self, view: &mut View, rng: &mut Rng) {
        let mut factor = |spread: f32| if spread > 0.0 { rng.range(1.0 - spread, 1.0 + spread) } else { 1.0 };
        let brightness = factor(self.brightness);
        let contrast = factor(self.contrast);
        let saturation = factor(self.saturation);
        let tone = Tone { saturation, contrast, pivot: 128.0, brightness };
        if tone != Tone::PLAIN {
            view.tone(tone);
        }
        if self.hue > 0.0 {
            view.turn_hue(rng.range(-self.hue, self.hue));
        }
    }
}

/// Factors of saturation, contrast and brightness, applied in this order in one pass, rounded once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tone {
    pub(super) saturation: f32,
    pub(super) contrast: f32,
    /// The level that contrast leaves as it is.
    pub(super) pivot: f32,
    pub(super) brightness: f32,
}

impl Tone {
    /// Changes nothing.
    pub(super) const PLAIN: Self = Self { saturation: 1.0, contrast: 1.0, pivot: 128.0, brightness: 1.0 };
}

impl View {
    /// Changes saturation, contrast and brightness: Pillow's `ImageEnhance` `Color`, `Contrast`, `Brightness`.
    pub(super) fn tone(&mut self, t: Tone) {
        // Both lie on a straight line, so they are one multiplication and one addition.
        let (scale, offset) = (t.contrast * t.brightness, (1.0 - t.contrast) * t.pivot * t.brightness);
        for pixel in self.pixels.chunks_exact_mut(3) {
            let grey = grey(pixel);
            for v in pixel {
                let coloured = grey + (f32::from(*v) - grey) * t.saturation;
                *v = level(coloured * scale + offset);
            }
        }
    }

    /// Returns the mean luma as a whole level, which Pillow's `Contrast` leaves as it is.
    pub(super) fn mean_grey(&self) -> f32 {
        let sum: f64 = self.pixels.chunks_exact(3).map(|p| f64::from(grey(p).round())).sum();
        (sum / (self.side * self.side) as f64).round() as f32
    }

    /// Turns the hue by a share of the full circle; lightest and darkest channel, so value and chroma, stay.
    ///
    /// # Source
    ///
    /// torchvision `transforms.v2.functional.adjust_hue`; the hexcone of Smith, *Color Gamut Transform Pairs*, 1978.
    pub(super) fn turn_hue(&mut self, turn: f32) {
        for pixel in self.pixels.chunks_exact_mut(3) {
            let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(f32::from);
            let (most, least) = (r.max(g).max(b), r.min(g).min(b));
            let chroma = most - least;
            if chroma == 0.0 {
                continue;
            }
            let sixth = if most == r {
                (g - b) / chroma
            } else if most == g {
                2.0 + (b - r) / chroma
            } else {
                4.0 + (r - g) / chroma
            };
            let hue = sixth + 6.0 * turn;
            // Each channel falls off with the distance of the hue from its own: red 0, green 2, blue 4 sixths.
            for (v, own) in pixel.iter_mut().zip([0.0, 2.0, 4.0]) {
                let away = (hue - own + 3.0).rem_euclid(6.0) - 3.0;
                *v = level(least + chroma * (2.0 - away.abs()).clamp(0.0, 1.0));
            }
        }
    }
}

/// Returns a pixel's luma (ITU-R BT.601), 0 to 255.
fn grey(pixel: &[u8]) -> f32 {
    0.299 * f32::from(pixel[0]) + 0.587 * f32::from(pixel[1]) + 0.114 * f32::from(pixel[2])
}
