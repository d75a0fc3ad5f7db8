//! Turns a painted scene into a photograph: light, white balance, lens, sensor.

use image::{Rgb, RgbImage};

use crate::{
    exact::exp2,
    picture::{Picture, luma},
    rng::Rng,
};

/// Develops a scene as a cheap camera in uncontrolled light would.
pub(crate) fn develop(mut scene: Picture, rng: &mut Rng) -> RgbImage {
    let exposure = exp2(rng.range(-0.35, 0.55));
    let warmth = rng.range(-0.13, 0.13);
    let tint = rng.range(-0.05, 0.05);
    let gains = [exposure * (1.0 + warmth), exposure * (1.0 + tint), exposure * (1.0 - warmth)];
    let contrast = rng.range(0.8, 1.2);
    let saturation = rng.range(0.7, 1.2);
    let vignette = rng.range(0.0, 0.35);
    let slope = (rng.range(-0.25, 0.25), rng.range(-0.25, 0.25));
    let haze = if rng.chance(0.2) { rng.range(0.02, 0.12) } else { 0.0 };
    // Blur is drawn for a picture of 128 pixels, so that a larger picture shows the same scene.
    let sharpness = scene.size as f32 / 128.0;
    let blur = if rng.chance(0.25) { rng.range(0.8, 1.7) } else { rng.range(0.2, 0.7) };
    scene.blur(blur * sharpness);

    let noise = if rng.chance(0.25) { rng.range(0.02, 0.05) } else { rng.range(0.004, 0.018) };
    let side = scene.size as f32;
    let mut photo = RgbImage::new(scene.size as u32, scene.size as u32);
    for (index, (pixel, out)) in scene.pixels.iter().zip(photo.pixels_mut()).enumerate() {
        let x = ((index % scene.size) as f32 + 0.5) / side - 0.5;
        let y = ((index / scene.size) as f32 + 0.5) / side - 0.5;
        let light = (1.0 - vignette * 2.0 * (x * x + y * y)) * (1.0 + slope.0 * x + slope.1 * y);
        let grey = luma(*pixel);
        let shared = rng.normal();
        let mut bytes = [0u8; 3];
        for c in 0..3 {
            let colour = grey + saturation * (pixel[c] - grey);
            let mut v = (colour * gains[c] * light).max(0.0);
            v = 0.42 + contrast * (v - 0.42) + haze;
            // A sensor is noisier where it is dark, after its curve is applied.
            v += noise * (1.2 - 0.6 * v.clamp(0.0, 1.0)) * (0.6 * shared + 0.8 * rng.normal());
            bytes[c] = (shoulder(v) * 255.0 + 0.5) as u8;
        }
        *out = Rgb(bytes);
    }
    photo
}

/// Rolls highlights off above 0.85 instead of cutting them at 1.
fn shoulder(v: f32) -> f32 {
    const KNEE: f32 = 0.85;
    if v <= KNEE {
        return v.max(0.0);
    }
    let over = (v - KNEE) / (1.0 - KNEE);
    KNEE + (1.0 - KNEE) * (over / (1.0 + over * 0.8)).min(1.0)
}
