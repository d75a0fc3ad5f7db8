//! Each step beside Pillow's and torchvision's, and whole views.

use super::colour::Tone;
use super::*;
use graft_runtime::picture::Region;

pub(super) const SIDE: usize = 16;
/// `tests/golden/augment.py` made it: the picture after each step, below one another.
const GOLDEN: &[u8] = include_bytes!("../../tests/golden/augment.png");

pub(super) fn pattern(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let value = |c: u32| x * 7 + y * 13 + c * 31 + (x * y) % 251 + ((x * x + 3 * y * y) >> 4);
        image::Rgb([0, 1, 2].map(|c| (value(c) & 255) as u8))
    })
}

fn picture() -> View {
    View { side: SIDE, pixels: pattern(SIDE as u32, SIDE as u32).into_raw() }
}

/// Names the step, does it, and says by how much a level may differ: the references cut off what is behind the point
/// where this rounds.
type Case = (&'static str, i16, fn(&mut View));

const STEPS: [Case; 18] = [
    ("flip_horizontal", 0, View::flip_horizontal),
    ("flip_vertical", 0, View::flip_vertical),
    ("quarter_turn 1", 0, |v| v.quarter_turn(1)),
    ("quarter_turn 3", 0, |v| v.quarter_turn(3)),
    ("rotate", 1, |v| v.rotate(20.0)),
    ("shear", 1, |v| v.warp([1.0, 0.25, 0.0, 0.0, 1.0, 0.0])),
    ("shift", 1, |v| v.warp([1.0, 0.0, -3.5, 0.0, 1.0, 2.25])),
    ("brightness", 1, |v| v.tone(Tone { brightness: 1.3, ..Tone::PLAIN })),
    ("contrast about mid-grey", 1, |v| v.tone(Tone { contrast: 0.7, ..Tone::PLAIN })),
    ("contrast about the mean", 1, |v| v.tone(Tone { contrast: 1.4, pivot: v.mean_grey(), ..Tone::PLAIN })),
    ("saturation", 1, |v| v.tone(Tone { saturation: 0.6, ..Tone::PLAIN })),
    ("hue", 1, |v| v.turn_hue(0.1)),
    ("hue back", 1, |v| v.turn_hue(-0.35)),
    ("blur", 1, |v| v.blur(1.2)),
    ("sharpen", 1, |v| v.sharpen(1.8)),
    ("posterize", 0, |v| v.posterize(3)),
    ("solarize", 0, |v| v.solarize(100)),
    ("autocontrast", 0, |v| {
        dim(v);
        v.autocontrast();
    }),
];

fn dim(view: &mut View) {
    view.pixels.iter_mut().for_each(|v| *v = (*v >> 1) + 20);
}

pub(super) fn golden() -> Vec<Vec<u8>> {
    let strip = image::load_from_memory(GOLDEN).unwrap().into_rgb8().into_raw();
    strip.chunks_exact(SIDE * SIDE * 3).map(<[u8]>::to_vec).collect()
}

#[test]
fn every_step_is_that_of_pillow_or_torchvision() {
    let golden = golden();
    for ((name, tolerance, step), wanted) in STEPS.iter().zip(&golden) {
        let mut view = picture();
        step(&mut view);
        compare(name, *tolerance, &view.pixels, wanted);
        assert_ne!(view, picture(), "{name} changes nothing");
    }
    let region = Region { x: 3, y: 2, width: 33, height: 22 };
    compare("region", 0, &resize_region(&pattern(40, 30), region, SIDE as u32), &golden[STEPS.len()]);
    // Equalizing takes a picture of more pixels than levels: nine of the strip's are one.
    let mut large = View { side: 3 * SIDE, pixels: pattern(3 * SIDE as u32, 3 * SIDE as u32).into_raw() };
    dim(&mut large);
    large.equalize();
    compare("equalize", 0, &large.pixels, &golden[golden.len() - 9..].concat());
}

pub(super) fn compare(name: &str, tolerance: i16, found: &[u8], wanted: &[u8]) {
    assert_eq!(found.len(), wanted.len(), "{name}");
    let far = |(a, b): (&u8, &u8)| (i16::from(*a) - i16::from(*b)).abs();
    let furthest = found.iter().zip(wanted).map(far).max().unwrap();
    assert!(furthest <= tolerance, "{name}: levels differ by up to {furthest}");
}

#[test]
fn a_view_follows_from_its_generator_alone() {
    let (picture, p) = (pattern(90, 60), Preprocessing::centre_crop(32, Preprocessing::UNIT));
    for preset in Preset::ALL {
        let augmentation = Augmentation::from(preset);
        let views: Vec<Vec<u8>> = (0..50).map(|s| augmentation.view(&picture, &p, &mut Rng::new(s))).collect();
        assert_eq!(views[3], augmentation.view(&picture, &p, &mut Rng::new(3)));
        let differing = views.iter().filter(|v| **v != views[0]).count();
        assert_eq!(differing, if preset == Preset::None { 0 } else { 49 }, "{preset:?}");
    }
    assert_eq!(Augmentation::default().view(&picture, &p, &mut Rng::new(1)), preprocess(&picture, &p));
}

#[test]
fn a_field_view_keeps_the_hue() {
    let red = RgbImage::from_pixel(64, 64, image::Rgb([180, 90, 90]));
    let p = Preprocessing::centre_crop(32, Preprocessing::UNIT);
    for seed in 0..50 {
        for pixel in Augmentation::from(Preset::Field).view(&red, &p, &mut Rng::new(seed)).chunks_exact(3) {
            assert!(pixel[0] > pixel[1] && pixel[1].abs_diff(pixel[2]) <= 1, "{pixel:?}");
        }
    }
}

#[test]
fn an_erased_part_has_the_mean_and_its_share_of_the_view() {
    let p = Preprocessing::centre_crop(32, Preprocessing::IMAGENET);
    let erasing = Erasing { probability: 1.0, area: (0.1, 0.2), aspect: (0.5, 2.0) };
    let augmentation = Augmentation { erasing, ..Augmentation::default() };
    for seed in 0..50 {
        let view = augmentation.view(&RgbImage::new(64, 64), &p, &mut Rng::new(seed));
        let erased = view.chunks_exact(3).filter(|p| **p == [124, 116, 104]).count();
        let black = view.chunks_exact(3).filter(|p| **p == [0, 0, 0]).count();
        assert_eq!(erased + black, 1024);
        assert!((80..=230).contains(&erased), "{erased}");
    }
}

#[test]
fn the_smallest_pictures_have_views() {
    let p = |crop| Preprocessing::centre_crop(crop, Preprocessing::UNIT);
    for preset in Preset::ALL {
        for (w, h) in [(1, 1), (8, 8), (8, 300), (300, 8)] {
            for seed in 0..20 {
                for crop in [0, 1, 2, 32] {
                    let view = Augmentation::from(preset).view(&RgbImage::new(w, h), &p(crop), &mut Rng::new(seed));
                    assert_eq!(view.len(), (crop * crop * 3) as usize);
                }
            }
        }
    }
}

#[test]
fn an_augmentation_reads_back_from_json() {
    for preset in Preset::ALL {
        let augmentation = Augmentation::from(preset);
        let text = serde_json::to_string(&augmentation).unwrap();
        assert_eq!(serde_json::from_str::<Augmentation>(&text).unwrap(), augmentation, "{text}");
        assert_eq!(preset.name().parse::<Preset>().unwrap(), preset);
    }
    assert!("lite".parse::<Preset>().unwrap_err().to_string().contains("none, light, field, strong"));
}
