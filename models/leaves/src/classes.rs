//! The classes of the demo and the scene that each picture shows.

use image::RgbImage;

use crate::{
    camera::develop,
    clutter, disease,
    ground::ground,
    leaf::{Leaf, Outline, Pose},
    picture::{Picture, hsv},
    rng::Rng,
};
use std::f32::consts::TAU;

/// What is wrong with a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeafClass {
    /// Nothing but wear.
    Healthy,
    /// Small orange pustules with yellow halos.
    Rust,
    /// Large brown areas from the margin, with concentric rings.
    Blight,
    /// White powdery blotches.
    Mildew,
    /// Small round dark spots with a pale middle or a halo.
    LeafSpot,
    /// Yellow and green mottling.
    Mosaic,
}

impl LeafClass {
    /// Every class, in the order of the labels.
    pub const ALL: [Self; 6] = [Self::Healthy, Self::Rust, Self::Blight, Self::Mildew, Self::LeafSpot, Self::Mosaic];

    /// The class's name, fit for a folder and a label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Rust => "rust",
            Self::Blight => "blight",
            Self::Mildew => "mildew",
            Self::LeafSpot => "leaf_spot",
            Self::Mosaic => "mosaic",
        }
    }

    fn tag(self) -> u64 {
        match self {
            Self::Healthy => 0x1eaf_0001,
            Self::Rust => 0x1eaf_0002,
            Self::Blight => 0x1eaf_0003,
            Self::Mildew => 0x1eaf_0004,
            Self::LeafSpot => 0x1eaf_0005,
            Self::Mosaic => 0x1eaf_0006,
        }
    }
}

impl std::fmt::Display for LeafClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Makes a photograph of a leaf: a square of `size` pixels, the same for the same arguments on every machine.
///
/// `size` is cut to `1..=4096`.
#[must_use]
pub fn leaf_picture(class: LeafClass, seed: u64, size: u32) -> RgbImage {
    let mut rng = Rng::new(class.tag(), seed);
    let mut scene = ground(side(size), &mut rng);
    let sun = (rng.range(-0.04, 0.04), rng.range(-0.04, 0.04));
    let shadow = Shadow { offset: sun, depth: rng.range(0.15, 0.6), soft: rng.range(0.01, 0.04) };
    let plant = Plant::draw(&mut rng);
    let severity = severity(&mut rng);

    if rng.chance(0.35) {
        for _ in 0..rng.count(1, 3) {
            let away = rng.range(0.35, 0.6);
            let toward = crate::exact::direction(rng.range(0.0, TAU));
            let pose = Pose {
                centre: (0.5 + away * toward.0, 0.5 + away * toward.1),
                angle: rng.range(0.0, TAU),
                length: rng.range(0.5, 0.9),
            };
            // A sick plant has sound leaves too, so what lies at the side need not show the label.
            let spread = if rng.chance(0.5) { severity * 0.7 } else { 0.0 };
            add_leaf(&mut scene, &plant, pose, class, spread, &shadow, &mut rng);
        }
    }
    let drift = if rng.chance(0.25) { 0.22 } else { 0.08 };
    let pose = Pose {
        centre: (0.5 + rng.range(-drift, drift), 0.5 + rng.range(-drift, drift)),
        angle: rng.range(0.0, TAU),
        length: rng.range(0.7, 1.2),
    };
    add_leaf(&mut scene, &plant, pose, class, severity, &shadow, &mut rng);
    develop(scene, &mut rng)
}

/// Cuts a requested side to what a picture can have.
pub(crate) fn side(size: u32) -> usize {
    size.clamp(1, 4096) as usize
}

/// What the leaves of one plant share.
struct Plant {
    outline: Outline,
    hue: f32,
    saturation: f32,
    value: f32,
}

impl Plant {
    fn draw(rng: &mut Rng) -> Self {
        let outline = match rng.count(0, 9) {
            0..=4 => Outline::Entire,
            5..=7 => Outline::Serrate,
            _ => Outline::Lobed,
        };
        Self { outline, hue: rng.range(76.0, 132.0), saturation: rng.range(0.38, 0.75), value: rng.range(0.26, 0.58) }
    }
}

struct Shadow {
    offset: (f32, f32),
    depth: f32,
    soft: f32,
}

/// From begun to heavy: photographs taken to ask "what is this?", by which time there is something to see.
fn severity(rng: &mut Rng) -> f32 {
    let unit = rng.unit();
    0.35 + 0.65 * unit
}

fn add_leaf(
    scene: &mut Picture,
    plant: &Plant,
    pose: Pose,
    class: LeafClass,
    severity: f32,
    shadow: &Shadow,
    rng: &mut Rng,
) {
    let flesh = hsv(
        plant.hue + rng.range(-8.0, 8.0),
        (plant.saturation + rng.range(-0.06, 0.06)).clamp(0.0, 1.0),
        plant.value * rng.range(0.85, 1.15),
    );
    let leaf = Leaf::grow(plant.outline, pose, flesh, rng);
    leaf.cast_shadow(scene, shadow.offset, shadow.depth, shadow.soft);
    let beneath = scene.clone();
    let tissue = leaf.paint(scene);
    clutter::wear(scene, &beneath, &leaf, &tissue, rng);
    if severity > 0.0 {
        match class {
            LeafClass::Healthy => {}
            LeafClass::Rust => disease::rust(scene, &leaf, &tissue, severity, rng),
            LeafClass::Blight => disease::blight(scene, &leaf, &tissue, severity, rng),
            LeafClass::Mildew => disease::mildew(scene, &leaf, &tissue, severity, rng),
            LeafClass::LeafSpot => disease::leaf_spot(scene, &leaf, &tissue, severity, rng),
            LeafClass::Mosaic => disease::mosaic(scene, &leaf, &tissue, severity, rng),
        }
    }
    clutter::visit(scene, &leaf, &tissue, rng);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// FNV-1a over the bytes of a picture.
    pub(crate) fn digest(picture: &RgbImage) -> u64 {
        picture.as_raw().iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
    }

    /// Mean share of pixels that `is_sign` holds for, over the same number of pictures of a class.
    fn share(class: LeafClass, is_sign: impl Fn([f32; 3]) -> bool) -> f32 {
        let mut hits = 0usize;
        for seed in 0..40 {
            let picture = leaf_picture(class, seed, 48);
            hits += picture.pixels().filter(|p| is_sign(p.0.map(f32::from))).count();
        }
        hits as f32 / (40.0 * 48.0 * 48.0)
    }

    #[test]
    fn a_picture_is_the_same_for_ever() {
        let digests: Vec<u64> = LeafClass::ALL.iter().map(|&class| digest(&leaf_picture(class, 1, 64))).collect();
        assert_eq!(digests, PINNED, "found {digests:#x?}; a new generator makes a new data set");
    }

    const PINNED: [u64; 6] = [
        0x7418_3e0c_d925_92bf,
        0xba65_1df9_e997_d39e,
        0x6f04_199b_f8db_0bf3,
        0x3cf0_86ae_a43f_fd6a,
        0xecdf_d94e_45bb_8dea,
        0x5c61_ba6d_fc66_3ff5,
    ];

    #[test]
    fn any_size_gives_a_square_of_it() {
        for size in [1, 2, 3, 5, 17, 33, 96, 128, 255, 512] {
            for class in LeafClass::ALL {
                let seed = u64::from(size);
                let picture = leaf_picture(class, seed, size);
                assert_eq!(picture.dimensions(), (size, size));
            }
        }
        assert_eq!(leaf_picture(LeafClass::Rust, 0, 0).dimensions(), (1, 1));
    }

    #[test]
    fn every_small_size_works() {
        for size in 1..=40 {
            for class in LeafClass::ALL {
                assert_eq!(leaf_picture(class, 9, size).dimensions(), (size, size));
            }
        }
    }

    #[test]
    fn extreme_seeds_give_different_pictures() {
        let seeds = [0, 1, u64::from(u32::MAX), 1 << 63, u64::MAX - 1, u64::MAX];
        for class in LeafClass::ALL {
            let mut digests: Vec<u64> = seeds.iter().map(|&s| digest(&leaf_picture(class, s, 24))).collect();
            digests.sort_unstable();
            digests.dedup();
            assert_eq!(digests.len(), seeds.len());
        }
    }

    #[test]
    fn rust_is_more_orange_than_health() {
        let is_orange = |[r, g, b]: [f32; 3]| r > 1.35 * g && g > 1.3 * b && r > 90.0;
        let (sick, sound) = (share(LeafClass::Rust, is_orange), share(LeafClass::Healthy, is_orange));
        assert!(sick > 1.5 * sound && sick > 0.01, "rust {sick}, healthy {sound}");
    }

    #[test]
    fn mildew_is_whiter_on_the_leaf_than_health() {
        // A leaf's green is what powder takes away; the ground of both classes is of the same kinds.
        let is_green = |[r, g, b]: [f32; 3]| g > 1.15 * r && g > 1.15 * b;
        let (sick, sound) = (share(LeafClass::Mildew, is_green), share(LeafClass::Healthy, is_green));
        assert!(sick < 0.85 * sound, "mildew {sick}, healthy {sound}");
    }

    #[test]
    fn mosaic_is_yellower_than_health() {
        let is_yellow = |[r, g, b]: [f32; 3]| r > 0.85 * g && g > 1.35 * b && g > 80.0;
        let (sick, sound) = (share(LeafClass::Mosaic, is_yellow), share(LeafClass::Healthy, is_yellow));
        assert!(sick > 1.2 * sound, "mosaic {sick}, healthy {sound}");
    }

    #[test]
    fn the_names_are_those_of_folders_and_all_different() {
        let mut names: Vec<&str> = LeafClass::ALL.iter().map(|class| class.name()).collect();
        assert!(names.iter().all(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), LeafClass::ALL.len());
    }
}
