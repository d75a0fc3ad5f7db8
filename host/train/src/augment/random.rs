//! RandAugment: a few of many steps, drawn anew for each view.

use serde::{Deserialize, Serialize};

use super::View;
use super::colour::Tone;
use crate::rng::Rng;

/// How many steps, and how strong.
///
/// # Source
///
/// Cubuk et al., *RandAugment: Practical Automated Data Augmentation with a Reduced Search Space*, arXiv:1909.13719;
/// steps and strengths of torchvision `transforms.RandAugment` with 31 magnitudes. Unlike there, shears are about the
/// centre, pixels are taken bilinearly, and a view goes on beyond its edges as its mirror image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandAugment {
    /// Steps one after another; 0 for none.
    pub steps: u8,
    /// 0 to 30.
    pub magnitude: u8,
}

impl RandAugment {
    pub(super) fn apply(&self, view: &mut View, rng: &mut Rng) {
        for _ in 0..self.steps {
            let step = Step::ALL[rng.below(Step::ALL.len())];
            let sign = if rng.unit() < 0.5 { -1.0 } else { 1.0 };
            step.apply(view, sign, f32::from(self.magnitude.min(MAGNITUDES)) / f32::from(MAGNITUDES));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Identity,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Color,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
}

impl Step {
    const ALL: [Self; 14] = [
        Self::Identity,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
        Self::Rotate,
        Self::Brightness,
        Self::Color,
        Self::Contrast,
        Self::Sharpness,
        Self::Posterize,
        Self::Solarize,
        Self::AutoContrast,
        Self::Equalize,
    ];

    /// Returns how far the step goes at a share of its full strength, in its own unit.
    fn amount(self, share: f32, side: usize) -> f32 {
        match self {
            Self::Identity | Self::AutoContrast | Self::Equalize => 0.0,
            Self::ShearX | Self::ShearY => 0.3 * share,
            Self::TranslateX | Self::TranslateY => 150.0 / 331.0 * side as f32 * share,
            Self::Rotate => 30.0 * share,
            Self::Brightness | Self::Color | Self::Contrast | Self::Sharpness => 0.9 * share,
            Self::Posterize => 8.0 - (4.0 * share).round(),
            Self::Solarize => 255.0 * (1.0 - share),
        }
    }

    fn apply(self, view: &mut View, sign: f32, share: f32) {
        let amount = self.amount(share, view.side);
        let factor = 1.0 + sign * amount;
        match self {
            Self::Identity => (),
            Self::ShearX => view.warp([1.0, sign * amount, 0.0, 0.0, 1.0, 0.0]),
            Self::ShearY => view.warp([1.0, 0.0, 0.0, sign * amount, 1.0, 0.0]),
            Self::TranslateX => view.warp([1.0, 0.0, sign * amount, 0.0, 1.0, 0.0]),
            Self::TranslateY => view.warp([1.0, 0.0, 0.0, 0.0, 1.0, sign * amount]),
            Self::Rotate => view.rotate(sign * amount),
            Self::Brightness => view.tone(Tone { brightness: factor, ..Tone::PLAIN }),
            Self::Color => view.tone(Tone { saturation: factor, ..Tone::PLAIN }),
            Self::Contrast => view.tone(Tone { contrast: factor, pivot: view.mean_grey(), ..Tone::PLAIN }),
            Self::Sharpness => view.sharpen(factor),
            Self::Posterize => view.posterize(amount as u32),
            // Levels are whole, so one is at least the threshold if it is at least the next whole number.
            Self::Solarize => view.solarize(amount.ceil() as u8),
            Self::AutoContrast => view.autocontrast(),
            Self::Equalize => view.equalize(),
        }
    }
}

/// The strongest magnitude.
const MAGNITUDES: u8 = 30;

#[cfg(test)]
mod tests {
    use super::*;

    /// `RandAugment()._augmentation_space(31, (16, 16))` at two magnitudes, by `tests/golden/augment.py`.
    const STRENGTHS: [(u8, [f32; 14]); 2] = [
        (9, [0.0, 0.09, 0.09, 2.175_226_7, 2.175_226_7, 9.0, 0.27, 0.27, 0.27, 0.27, 7.0, 178.5, 0.0, 0.0]),
        (30, [0.0, 0.3, 0.3, 7.250_755, 7.250_755, 30.0, 0.9, 0.9, 0.9, 0.9, 4.0, 0.0, 0.0, 0.0]),
    ];

    #[test]
    fn strengths_are_those_of_torchvision() {
        for (magnitude, wanted) in STRENGTHS {
            for (step, wanted) in Step::ALL.into_iter().zip(wanted) {
                let found = step.amount(f32::from(magnitude) / f32::from(MAGNITUDES), 16);
                assert!((found - wanted).abs() < 1e-4, "{step:?} at {magnitude}: {found}, expected {wanted}");
            }
        }
    }

    #[test]
    fn every_step_but_the_first_changes_a_view() {
        let pixels: Vec<u8> = (0..48u8 * 3).flat_map(|i| (0..48).map(move |j| 30 + (i ^ j) % 200)).collect();
        let view = View { side: 48, pixels };
        for step in Step::ALL {
            for sign in [-1.0, 1.0] {
                let mut changed = view.clone();
                step.apply(&mut changed, sign, 0.5);
                assert_eq!(changed == view, step == Step::Identity, "{step:?}");
                let mut same = view.clone();
                step.apply(&mut same, sign, 0.0);
                let has_strength = !matches!(step, Step::AutoContrast | Step::Equalize);
                assert!(!has_strength || same == view, "{step:?} without strength");
            }
        }
    }
}
