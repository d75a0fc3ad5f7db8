//! Mixtures of two pictures and of their targets.

use anyhow::{Result, ensure};
use graft_runtime::picture::Region;
use serde::{Deserialize, Serialize};

use super::level;
use crate::rng::Rng;

/// How the pictures of a batch are mixed; the default mixes nothing. Where both are on, each batch gets one of them.
///
/// # Source
///
/// Zhang et al., *mixup: Beyond Empirical Risk Minimization*, arXiv:1710.09412; Yun et al., *CutMix: Regularization
/// Strategy to Train Strong Classifiers with Localizable Features*, arXiv:1905.04899. As torchvision's `v2.MixUp` and
/// `v2.CutMix`, each picture is mixed with the one before it in the batch: the order is random already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// Both parameters of the Beta distribution of mixup's shares; 0 for none.
    pub mixup: f32,
    /// The same of CutMix.
    pub cutmix: f32,
}

impl Mix {
    /// Mixes a batch in place: pictures `u8 [side, side, 3]`, and for each a row of targets that adds up to 1.
    ///
    /// # Errors
    ///
    /// If pictures or targets differ in length or number.
    pub fn apply(&self, pictures: &mut [Vec<u8>], targets: &mut [Vec<f32>], side: usize, rng: &mut Rng) -> Result<()> {
        let (found, wanted) = (targets.len(), pictures.len());
        ensure!(found == wanted, "expected {wanted} rows of targets, one for each picture, found {found}");
        let len = side * side * 3;
        if let Some(found) = pictures.iter().map(Vec::len).find(|&found| found != len) {
            anyhow::bail!("expected pictures of {len} bytes, found one of {found}");
        }
        let classes = targets.first().map_or(0, Vec::len);
        if let Some(found) = targets.iter().map(Vec::len).find(|&found| found != classes) {
            anyhow::bail!("expected targets of {classes} classes, found a row of {found}");
        }
        let (mixup, cutmix) = (self.mixup > 0.0, self.cutmix > 0.0);
        if !mixup && !cutmix {
            return Ok(());
        }
        if cutmix && !(mixup && rng.unit() < 0.5) {
            let share = beta(f64::from(self.cutmix), rng);
            let centre = (rng.below(side), rng.below(side));
            paste(pictures, targets, side, cut(share, centre, side));
        } else {
            blend(pictures, targets, beta(f64::from(self.mixup), rng) as f32);
        }
        Ok(())
    }
}

/// Has each picture and target be `share` itself and else its predecessor, the first one the last one.
fn blend(pictures: &mut [Vec<u8>], targets: &mut [Vec<f32>], share: f32) {
    with_predecessor(pictures, |own, other| {
        own.iter_mut().zip(other).for_each(|(a, &b)| *a = level(f32::from(*a) * share + f32::from(b) * (1.0 - share)));
    });
    blend_targets(targets, share);
}

/// Puts a region of its predecessor into each picture; targets follow the areas.
fn paste(pictures: &mut [Vec<u8>], targets: &mut [Vec<f32>], side: usize, region: Region) {
    let (left, right) = (region.x as usize * 3, (region.x + region.width) as usize * 3);
    let lines = region.y as usize..(region.y + region.height) as usize;
    with_predecessor(pictures, |own, other| {
        for at in lines.clone().map(|y| y * side * 3) {
            own[at + left..at + right].copy_from_slice(&other[at + left..at + right]);
        }
    });
    let pasted = f64::from(region.width) * f64::from(region.height) / (side * side).max(1) as f64;
    blend_targets(targets, (1.0 - pasted) as f32);
}

fn blend_targets(targets: &mut [Vec<f32>], share: f32) {
    with_predecessor(targets, |own, other| {
        own.iter_mut().zip(other).for_each(|(a, b)| *a = *a * share + b * (1.0 - share));
    });
}

/// Calls `mix` with each item and the one before it as it was; before the first comes the last.
fn with_predecessor<T: Clone>(items: &mut [T], mix: impl Fn(&mut T, &T)) {
    let Some(last) = items.last().cloned() else { return };
    for i in (1..items.len()).rev() {
        let (before, own) = items.split_at_mut(i);
        mix(&mut own[0], &before[i - 1]);
    }
    mix(&mut items[0], &last);
}

/// Returns the region that leaves `share` of the picture, less what of it lies outside.
fn cut(share: f64, (x, y): (usize, usize), side: usize) -> Region {
    let half = (0.5 * (1.0 - share).max(0.0).sqrt() * side as f64) as usize;
    let range = |at: usize| (at.saturating_sub(half) as u32, (at + half).min(side) as u32);
    let ((x, right), (y, bottom)) = (range(x), range(y));
    Region { x, y, width: right - x, height: bottom - y }
}

/// Draws from the symmetric Beta distribution.
fn beta(alpha: f64, rng: &mut Rng) -> f64 {
    let (a, b) = (gamma(alpha, rng), gamma(alpha, rng));
    // Shapes near 0 give two zeros: all of one picture.
    if a + b > 0.0 { a / (a + b) } else { 1.0 }
}

/// Draws from the Gamma distribution of a shape and scale 1.
///
/// # Source
///
/// Marsaglia and Tsang, *A Simple Method for Generating Gamma Variables*, ACM TOMS 26 (2000).
fn gamma(shape: f64, rng: &mut Rng) -> f64 {
    if shape < 1.0 {
        let scale = (1.0 - f64::from(rng.unit())).powf(1.0 / shape);
        return gamma(shape + 1.0, rng) * scale;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = f64::from(rng.normal());
        let v = (1.0 + c * x).powi(3);
        let u = 1.0 - f64::from(rng.unit());
        if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SIDE, compare, golden, pattern};
    use super::*;

    /// What torchvision drew in `tests/golden/augment.py`: mixup's share, CutMix's region and the share that it leaves.
    const MIXUP: f32 = 0.655_667_9;
    const CUTMIX: (Region, f32) = (Region { x: 9, y: 0, width: 7, height: 7 }, 0.808_593_75);

    type Batch = (Vec<Vec<u8>>, Vec<Vec<f32>>);

    /// Three parts of one pattern, of three classes.
    fn batch() -> Batch {
        let side = SIDE as u32;
        let wide = pattern(3 * side, side);
        let part = |i: u32| image::imageops::crop_imm(&wide, i * side, 0, side, side).to_image().into_raw();
        let one_hot = |i: u32| (0..3).map(|c| if c == i { 1.0 } else { 0.0 }).collect();
        ((0..3).map(part).collect(), (0..3).map(one_hot).collect())
    }

    #[test]
    fn mixtures_are_those_of_torchvision() {
        let golden = golden();
        let at = golden.len() - 15;
        let (mut pictures, mut targets) = batch();
        blend(&mut pictures, &mut targets, MIXUP);
        for (found, wanted) in pictures.iter().zip(&golden[at..]) {
            compare("mixup", 1, found, wanted);
        }
        assert_eq!(targets, [[MIXUP, 0.0, 1.0 - MIXUP], [1.0 - MIXUP, MIXUP, 0.0], [0.0, 1.0 - MIXUP, MIXUP]]);
        let (mut pictures, mut targets) = batch();
        paste(&mut pictures, &mut targets, SIDE, CUTMIX.0);
        for (found, wanted) in pictures.iter().zip(&golden[at + 3..]) {
            compare("cutmix", 0, found, wanted);
        }
        for (target, own) in targets.iter().zip([0, 1, 2]) {
            assert!((target[own] - CUTMIX.1).abs() < 1e-6 && (target.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn a_cut_leaves_its_share_and_stays_within() {
        assert_eq!(cut(0.75, (8, 8), 16), Region { x: 4, y: 4, width: 8, height: 8 });
        assert_eq!(cut(0.75, (0, 15), 16), Region { x: 0, y: 11, width: 4, height: 5 });
        assert_eq!(cut(1.0, (3, 3), 16).width, 0);
        assert_eq!(cut(0.0, (8, 8), 16), Region { x: 0, y: 0, width: 16, height: 16 });
    }

    #[test]
    fn shares_are_distributed_as_beta() {
        for alpha in [0.2, 1.0, 2.5] {
            let mut rng = Rng::new(5);
            let drawn: Vec<f64> = (0..40_000).map(|_| beta(alpha, &mut rng)).collect();
            let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
            let variance = drawn.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / drawn.len() as f64;
            assert!((mean - 0.5).abs() < 0.01, "{alpha}: {mean}");
            assert!((variance - 0.25 / (2.0 * alpha + 1.0)).abs() < 0.005, "{alpha}: {variance}");
        }
    }

    #[test]
    fn a_mixed_batch_follows_from_its_generator_and_targets_add_up() {
        let mix = |mix: Mix, seed| {
            let (mut pictures, mut targets) = batch();
            mix.apply(&mut pictures, &mut targets, SIDE, &mut Rng::new(seed)).unwrap();
            (pictures, targets)
        };
        let both = Mix { mixup: 0.2, cutmix: 1.0 };
        for seed in 0..20 {
            let (pictures, targets) = mix(both, seed);
            assert_eq!((&pictures, &targets), (&mix(both, seed).0, &mix(both, seed).1));
            assert!(targets.iter().all(|t| (t.iter().sum::<f32>() - 1.0).abs() < 1e-5));
        }
        assert_eq!(mix(Mix::default(), 1), batch());
        assert_ne!(mix(both, 1), mix(both, 2));
    }

    #[test]
    fn a_batch_of_unequal_parts_is_refused() {
        let mix = Mix { mixup: 1.0, cutmix: 0.0 };
        let refused = |change: fn(&mut Batch)| {
            let mut batch = batch();
            change(&mut batch);
            mix.apply(&mut batch.0, &mut batch.1, SIDE, &mut Rng::new(1)).is_err()
        };
        assert!(refused(|b| b.0[1].truncate(5)) && refused(|b| b.1[2].clear()) && refused(|b| drop(b.1.pop())));
        assert!(mix.apply(&mut [], &mut [], SIDE, &mut Rng::new(1)).is_ok());
    }
}
