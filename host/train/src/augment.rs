//! Varied views of a training picture: what differs between two photographs of one thing.

use graft_runtime::picture::preprocess;
use graft_zoo::Preprocessing;
use image::{RgbImage, imageops};

use crate::rng::Rng;

/// Returns `u8 [crop, crop, 3]`: a random square of the picture, perhaps mirrored, in slightly other light.
///
/// The square's side is 65 to 100 % of the shorter side. Colours keep their order of hue: for leaves the colour is
/// the diagnosis.
pub fn view(picture: &RgbImage, preprocessing: &Preprocessing, rng: &mut Rng) -> Vec<u8> {
    let (width, height) = picture.dimensions();
    let shorter = width.min(height);
    let side = ((shorter as f32 * rng.range(0.65, 1.0)).round() as u32).clamp(1, shorter.max(1));
    let place = |room: u32, rng: &mut Rng| u32::try_from(rng.below(room as usize + 1)).unwrap_or(0);
    let (x, y) = (place(width - side, rng), place(height - side, rng));
    let mut square = imageops::crop_imm(picture, x, y, side, side).to_image();
    if rng.unit() < 0.5 {
        imageops::flip_horizontal_in_place(&mut square);
    }
    let whole = Preprocessing { resize_shorter: preprocessing.crop, ..preprocessing.clone() };
    let mut pixels = preprocess(&square, &whole);
    let (brightness, contrast, saturation) = (rng.range(0.85, 1.15), rng.range(0.85, 1.15), rng.range(0.85, 1.15));
    for pixel in pixels.chunks_exact_mut(3) {
        let grey = 0.299 * f32::from(pixel[0]) + 0.587 * f32::from(pixel[1]) + 0.114 * f32::from(pixel[2]);
        for v in pixel {
            let coloured = grey + (f32::from(*v) - grey) * saturation;
            *v = (((coloured - 128.0) * contrast + 128.0) * brightness).round().clamp(0.0, 255.0) as u8;
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_differ_by_seed_and_stay_near_the_picture() {
        let picture = RgbImage::from_fn(90, 60, |x, y| image::Rgb([x as u8 * 2, y as u8 * 3, 100]));
        let p = Preprocessing::centre_crop(32, Preprocessing::UNIT);
        let (a, b) = (view(&picture, &p, &mut Rng::new(1)), view(&picture, &p, &mut Rng::new(2)));
        assert_eq!(a.len(), 32 * 32 * 3);
        assert_ne!(a, b);
        assert_eq!(a, view(&picture, &p, &mut Rng::new(1)));
        let blue = |v: &[u8]| v.iter().skip(2).step_by(3).map(|&b| f32::from(b)).sum::<f32>() / 1024.0;
        assert!((blue(&a) - 100.0).abs() < 40.0 && (blue(&b) - 100.0).abs() < 40.0);
    }

    #[test]
    fn the_smallest_pictures_have_views() {
        let p = Preprocessing::centre_crop(32, Preprocessing::UNIT);
        for (w, h) in [(8, 8), (8, 300), (300, 8)] {
            for seed in 0..20 {
                assert_eq!(view(&RgbImage::new(w, h), &p, &mut Rng::new(seed)).len(), 3072);
            }
        }
    }
}
