//! Something in front of the leaf.

use graft_runtime::picture::Region;
use serde::{Deserialize, Serialize};

use super::crop::rectangle;
use super::{View, happens, level};
use crate::rng::Rng;

/// A rectangle without content, now and then.
///
/// # Source
///
/// Zhong et al., *Random Erasing Data Augmentation*, arXiv:1708.04896; torchvision `transforms.RandomErasing`, whose
/// default value of 0 comes after the normalisation, so is the mean that is filled in here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erasing {
    /// How often.
    pub probability: f32,
    /// Least and largest share of the view.
    pub area: (f32, f32),
    /// Least and largest width by height, drawn evenly in its logarithm.
    pub aspect: (f32, f32),
}

impl Erasing {
    pub(super) fn apply(&self, view: &mut View, mean: [f32; 3], rng: &mut Rng) {
        if !happens(self.probability, rng) {
            return;
        }
        let side = u32::try_from(view.side).unwrap_or(u32::MAX);
        if let Some(region) = rectangle((side, side), self.area, self.aspect, rng) {
            view.fill(region, mean.map(level));
        }
    }
}

impl View {
    /// Fills a region that lies within.
    pub(super) fn fill(&mut self, region: Region, colour: [u8; 3]) {
        let (left, right) = (region.x as usize * 3, (region.x + region.width) as usize * 3);
        let lines = self.pixels.chunks_exact_mut(self.side * 3);
        for line in lines.skip(region.y as usize).take(region.height as usize) {
            line[left..right].chunks_exact_mut(3).for_each(|p| p.copy_from_slice(&colour));
        }
    }
}
