//! Varied views of a training picture: what differs between two photographs of one thing.
//!
//! An [`Augmentation`] says how much of what; it is part of a run's record. All randomness comes from the generator
//! that the caller passes, drawn in the order of the fields, so a view follows from that generator's state alone. What
//! is switched off draws nothing.

use std::str::FromStr;

use graft_runtime::picture::{preprocess, resize_region};
use graft_zoo::Preprocessing;
use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::rng::Rng;

mod blur;
mod colour;
mod crop;
mod erasing;
mod geometry;
mod levels;
mod mix;
mod random;

pub use blur::Blur;
pub use colour::Jitter;
pub use crop::Crop;
pub use erasing::Erasing;
pub use mix::Mix;
pub use random::RandAugment;

/// How training pictures are varied. The default varies nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Which part of the picture is seen.
    pub crop: Crop,
    /// Probability of left and right changing sides.
    pub flip_horizontal: f32,
    /// Probability of top and bottom changing sides.
    pub flip_vertical: f32,
    /// Whether the view is turned by 0, 90, 180 or 270 degrees, each as likely as the others: for pictures without
    /// an up and down.
    pub quarter_turns: bool,
    /// Largest angle that the view is turned by to either side, in degrees.
    pub rotation: f32,
    /// Other light.
    pub jitter: Jitter,
    /// Out of focus.
    pub blur: Blur,
    /// A few of many steps.
    pub random: RandAugment,
    /// Something in front.
    pub erasing: Erasing,
}

/// Named augmentations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The centre crop, always the same.
    None,
    /// Squares of 65 to 100 % of the shorter side, perhaps mirrored, in slightly other light.
    Light,
    /// For pictures of crops and leaves, taken from any side: wide crops, all eight orientations, other light, now and
    /// then out of focus. Hue stays: the colour is the diagnosis.
    Field,
    /// RandAugment and random erasing, for many epochs on many pictures. Some of its steps change colours.
    Strong,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 4] = [Self::None, Self::Light, Self::Field, Self::Strong];

    /// Returns the name that [`Preset::from_str`] takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Light => "light",
            Self::Field => "field",
            Self::Strong => "strong",
        }
    }
}

impl FromStr for Preset {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|p| p.name() == name).ok_or_else(|| {
            anyhow::anyhow!("expected an augmentation of {}, found {name}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

impl From<Preset> for Augmentation {
    fn from(preset: Preset) -> Self {
        match preset {
            Preset::None => Self::default(),
            Preset::Light => Self {
                crop: Crop::Square { least: 0.65 },
                flip_horizontal: 0.5,
                jitter: Jitter { brightness: 0.15, contrast: 0.15, saturation: 0.15, hue: 0.0 },
                ..Self::default()
            },
            Preset::Field => Self {
                crop: Crop::Resized { area: (0.4, 1.0), aspect: (3.0 / 4.0, 4.0 / 3.0) },
                flip_horizontal: 0.5,
                flip_vertical: 0.5,
                quarter_turns: true,
                jitter: Jitter { brightness: 0.25, contrast: 0.2, saturation: 0.15, hue: 0.0 },
                blur: Blur { probability: 0.2, sigma: (0.3, 1.2) },
                ..Self::default()
            },
            Preset::Strong => Self {
                crop: Crop::Resized { area: (0.2, 1.0), aspect: (3.0 / 4.0, 4.0 / 3.0) },
                flip_horizontal: 0.5,
                random: RandAugment { steps: 2, magnitude: 9 },
                erasing: Erasing { probability: 0.25, area: (0.02, 0.33), aspect: (0.3, 3.3) },
                ..Self::default()
            },
        }
    }
}

impl Augmentation {
    /// Returns a varied view of a picture, `u8 [crop, crop, 3]`.
    pub fn view(&self, picture: &RgbImage, preprocessing: &Preprocessing, rng: &mut Rng) -> Vec<u8> {
        let pixels = match self.crop.region(picture.dimensions(), rng) {
            None => preprocess(picture, preprocessing),
            Some(region) => resize_region(picture, region, preprocessing.crop),
        };
        if pixels.is_empty() {
            return pixels;
        }
        let mut view = View { side: preprocessing.crop as usize, pixels };
        if happens(self.flip_horizontal, rng) {
            view.flip_horizontal();
        }
        if happens(self.flip_vertical, rng) {
            view.flip_vertical();
        }
        if self.quarter_turns {
            view.quarter_turn(rng.below(4));
        }
        if self.rotation > 0.0 {
            view.rotate(rng.range(-self.rotation, self.rotation));
        }
        self.jitter.apply(&mut view, rng);
        self.blur.apply(&mut view, rng);
        self.random.apply(&mut view, rng);
        self.erasing.apply(&mut view, preprocessing.mean, rng);
        view.pixels
    }
}

/// The square that the steps work on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct View {
    /// Pixels across and down, at least 1.
    side: usize,
    /// `u8 [side, side, 3]`.
    pixels: Vec<u8>,
}

/// Draws whether something of a given probability happens; what never does draws nothing.
fn happens(probability: f32, rng: &mut Rng) -> bool {
    probability > 0.0 && rng.unit() < probability
}

/// Rounds to the nearest level; several times as fast as `f32::round`, which is a call on plain x86-64.
fn level(value: f32) -> u8 {
    (value.clamp(0.0, 255.0) + 0.5) as u8
}

#[cfg(test)]
mod tests;
