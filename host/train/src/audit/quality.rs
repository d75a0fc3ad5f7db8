//! Whether a picture is sharp, and lit so that something is to be seen on it.

use serde::Serialize;

use super::gray::Gray;

/// How sharp and how light a picture is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quality {
    /// From 0, sharp, to 1, blurred; none of pictures too small to tell.
    pub blur: Option<f32>,
    /// Two of 100 pixels are darker than this, of 255.
    pub darkest: f32,
    /// Two of 100 pixels are lighter than this, of 255.
    pub lightest: f32,
}

/// What may be wrong with a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Flaw {
    /// Nothing on it is sharp.
    Blurred,
    /// Nothing on it is light.
    Dark,
    /// Nothing on it is dark.
    Overexposed,
    /// All of it is nearly one grey.
    Flat,
}

impl Quality {
    /// Looks at a picture whose shorter side has [`SIDE`] pixels, or fewer.
    pub(super) fn of(picture: &Gray) -> Self {
        let is_large = picture.width.min(picture.height) >= SMALLEST;
        let mut sorted = picture.pixels.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let at = |share: f32| sorted.get((sorted.len() as f32 * share) as usize).copied().unwrap_or(0.0);
        Self { blur: is_large.then(|| blur(picture)).flatten(), darkest: at(0.02), lightest: at(0.98) }
    }

    /// Returns what is wrong with the picture.
    pub fn flaws(&self) -> Vec<Flaw> {
        let is_flat = self.lightest - self.darkest < FLAT;
        let checks = [
            // Where there is no structure, none is sharp.
            (Flaw::Blurred, !is_flat && self.blur.is_some_and(|b| b > BLURRED)),
            (Flaw::Dark, self.lightest < DARK),
            (Flaw::Overexposed, self.darkest > OVEREXPOSED),
            (Flaw::Flat, is_flat),
        ];
        checks.into_iter().filter(|(_, holds)| *holds).map(|(flaw, _)| flaw).collect()
    }
}

/// Side at which pictures are looked at: sharpness depends on it.
pub(super) const SIDE: usize = 256;
/// Pictures with a smaller side are not called sharp or blurred.
const SMALLEST: usize = 64;
/// More blur than this is too much.
///
/// Of the 3096 pictures of three sets (PlantVillage, coffee leaves, coffee symptoms) 11 are above it, and look blurred. Of 600 of them
/// after a Gaussian blur of 3 pixels at 256 nearly all are (scikit-image: 5 of 100 have less than 0.45 to 0.80, by set), of 2 pixels half
/// and more.
const BLURRED: f32 = 0.55;
/// No pixel is lighter than this, but for 2 of 100: dark.
const DARK: f32 = 64.0;
/// No pixel is darker than this, but for 2 of 100: overexposed.
const OVEREXPOSED: f32 = 200.0;
/// Less than this between the darkest and the lightest: flat.
const FLAT: f32 = 12.0;
/// Pixels over which the picture is blurred again, to see what that changes.
const AGAIN: usize = 11;

/// Returns how little of a picture's edges is lost by blurring it again, in the direction in which that is more; none where
/// it has no edges.
///
/// # Source
///
/// Crété et al., *The blur effect: perception and estimation with a new no-reference perceptual blur metric*, 2007, as
/// scikit-image's `measure.blur_effect(image, h_size=11)`.
fn blur(picture: &Gray) -> Option<f32> {
    let turned = picture.oriented(4);
    let of = |picture: &Gray| {
        let again = along(picture, AGAIN);
        let (sharp, soft) = (edges(picture), edges(&again));
        let inner = |y: usize, x: usize| (2..picture.height - 1).contains(&y) && (2..picture.width - 1).contains(&x);
        let (mut all, mut lost) = (0.0f64, 0.0f64);
        for (i, (a, b)) in sharp.iter().zip(&soft).enumerate() {
            if inner(i / picture.width, i % picture.width) {
                all += f64::from(*a);
                lost += f64::from((a - b).max(0.0));
            }
        }
        (all > 0.0).then(|| ((all - lost).abs() / all) as f32)
    };
    // A picture of lines all one way has edges in one direction alone.
    of(picture).into_iter().chain(of(&turned)).reduce(f32::max)
}

/// Returns the mean over `size` pixels of each row, which goes on mirrored at its ends.
fn along(picture: &Gray, size: usize) -> Gray {
    let reach = (size / 2) as isize;
    let pixels = picture.pixels.chunks_exact(picture.width).flat_map(|row| {
        let at = |i: isize| row[mirrored(i, row.len())];
        (0..row.len() as isize).map(move |x| (x - reach..=x + reach).map(at).sum::<f32>() / size as f32)
    });
    Gray { pixels: pixels.collect(), ..*picture }
}

/// Returns the size of Sobel's derivative along the rows.
fn edges(picture: &Gray) -> Vec<f32> {
    let (w, h) = (picture.width, picture.height);
    let at = |x: isize, y: isize| picture.pixels[mirrored(y, h) * w + mirrored(x, w)];
    let mut out = Vec::with_capacity(picture.pixels.len());
    for y in 0..h as isize {
        for x in 0..w as isize {
            let side = |x: isize| 0.25 * at(x, y - 1) + 0.5 * at(x, y) + 0.25 * at(x, y + 1);
            out.push((0.5 * (side(x + 1) - side(x - 1))).abs());
        }
    }
    out
}

/// The place of a pixel beyond the end, where the picture goes on mirrored with its last pixel twice.
fn mirrored(i: isize, len: usize) -> usize {
    let len = len as isize;
    let i = if i < 0 { -1 - i } else { i };
    let i = if i >= len { 2 * len - 1 - i } else { i };
    i.clamp(0, len - 1) as usize
}

#[cfg(test)]
mod tests {
    use super::super::gray::tests::drawn;
    use super::*;

    #[test]
    fn blur_is_that_of_scikit_image() {
        for (width, height, radius, expected) in BLUR {
            let picture = drawn(width, height);
            let picture = if radius == 0 { picture } else { along(&picture, 2 * radius + 1).oriented(4) };
            let found = blur(&picture).unwrap();
            assert!((found - expected).abs() < 1e-4, "{width} {height} {radius}: {found} {expected}");
        }
    }

    #[test]
    fn flaws_are_those_of_the_definition() {
        let of = |low: f32, high: f32| {
            let pixels = (0..80 * 80).map(|i| if (i / 8 + i / 640) % 2 == 0 { low } else { high }).collect();
            Quality::of(&Gray { width: 80, height: 80, pixels }).flaws()
        };
        assert_eq!(of(30.0, 220.0), []);
        assert_eq!(of(10.0, 60.0), [Flaw::Dark]);
        assert_eq!(of(205.0, 250.0), [Flaw::Overexposed]);
        assert_eq!(of(120.0, 125.0), [Flaw::Flat]);
        assert_eq!(of(0.0, 0.0), [Flaw::Dark, Flaw::Flat]);
        let ramp = Gray { width: 80, height: 80, pixels: (0..6400).map(|i| 40.0 + (i % 80) as f32).collect() };
        assert_eq!(Quality::of(&ramp).flaws(), [Flaw::Blurred]);
        let small = Gray { width: 8, height: 8, pixels: (0..64).map(|i| 3.0 * i as f32).collect() };
        assert_eq!(Quality::of(&small).blur, None);
    }

    // tests/golden/audit.py
    const BLUR: [(usize, usize, usize, f32); 4] =
        [(80, 64, 0, 0.192_674), (97, 70, 0, 0.178_599), (80, 64, 2, 0.259_073), (80, 64, 5, 0.414_534)];
}
