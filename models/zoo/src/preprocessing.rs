//! What is done to a picture before the network sees it: one definition for training, calibration and the device.
//!
//! Decode, orient, resize and crop are done by `graft-runtime`; scaling and normalisation are nodes of the exported
//! graph. The definition and its digest travel with every model.

use serde::{Deserialize, Serialize};

/// The preprocessing of a model. Pixels are RGB, 0 to 255.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// The shorter side after resizing (triangle filter, antialiased), in pixels.
    pub resize_shorter: u32,
    /// Side of the square that is cut from the centre, in pixels; the network's input size.
    pub crop: u32,
    /// Subtracted from each channel, on the 0..255 scale.
    pub mean: [f32; 3],
    /// Each channel is divided by this after the subtraction, on the 0..255 scale.
    pub std: [f32; 3],
}

impl Preprocessing {
    /// ImageNet mean and standard deviation (torchvision).
    pub const IMAGENET: ([f32; 3], [f32; 3]) = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]);
    /// The range -1..1 (TensorFlow's MobileNets).
    pub const UNIT: ([f32; 3], [f32; 3]) = ([127.5; 3], [127.5; 3]);

    /// The share of the shorter side that ImageNet networks are shown (256 and 224 pixels).
    pub const IMAGENET_SHARE: f32 = 0.875;

    /// Shows the central [`Preprocessing::IMAGENET_SHARE`] of the shorter side on a square of `crop` pixels.
    pub fn centre_crop(crop: u32, normalisation: ([f32; 3], [f32; 3])) -> Self {
        Self::showing(Self::IMAGENET_SHARE, crop, normalisation)
    }

    /// Shows the central `share` of the shorter side, above 0 and at most 1, on a square of `crop` pixels (timm's `crop_pct`).
    pub fn showing(share: f32, crop: u32, (mean, std): ([f32; 3], [f32; 3])) -> Self {
        // A share computed from a length must give that length again, whatever the division's rounding.
        Self { resize_shorter: (crop as f32 / share - 1e-3).ceil() as u32, crop, mean, std }
    }

    /// Returns the share of the shorter side that is shown.
    pub fn share(&self) -> f32 {
        self.crop as f32 / self.resize_shorter as f32
    }

    /// Returns the canonical JSON, the text that the digest is taken of.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain numbers always serialise")
    }

    /// Returns the BLAKE3 digest of the canonical JSON in hex.
    pub fn digest(&self) -> String {
        blake3::hash(self.to_json().as_bytes()).to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_reads_back_and_the_digest_follows_every_field() {
        let p = Preprocessing::centre_crop(224, Preprocessing::UNIT);
        assert_eq!((p.resize_shorter, p.crop), (256, 224));
        assert_eq!(serde_json::from_str::<Preprocessing>(&p.to_json()).unwrap(), p);
        let all = Preprocessing::showing(1.0, 200, Preprocessing::UNIT);
        assert_eq!((all.resize_shorter, all.crop, all.share()), (200, 200, 1.0));
        // What is read back shows the same.
        for crop in 32..=1024 {
            let p = Preprocessing::centre_crop(crop, Preprocessing::UNIT);
            assert_eq!(p.resize_shorter, (crop * 8).div_ceil(7));
            assert_eq!(Preprocessing::showing(p.share(), crop, Preprocessing::UNIT), p);
        }
        let other = Preprocessing { std: [127.5, 127.5, 128.0], ..p.clone() };
        assert_ne!(p.digest(), other.digest());
    }
}
