//! Which part of a picture is seen.

use graft_runtime::picture::Region;
use serde::{Deserialize, Serialize};

use crate::rng::Rng;

/// How a view is cut from its picture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", deny_unknown_fields)]
pub enum Crop {
    /// As the network sees pictures later: resized, and the centre cut out.
    #[default]
    Centre,
    /// A square anywhere, of a side between `least` and all of the picture's shorter side.
    Square {
        /// Share of the shorter side.
        least: f32,
    },
    /// A rectangle anywhere, stretched to a square: torchvision's `RandomResizedCrop`.
    Resized {
        /// Least and largest share of the picture's area.
        area: (f32, f32),
        /// Least and largest width by height, drawn evenly in its logarithm.
        aspect: (f32, f32),
    },
}

impl Crop {
    /// Draws the region to look at, in a picture of `(width, height)`; none where it is the usual one.
    pub(super) fn region(&self, (width, height): (u32, u32), rng: &mut Rng) -> Option<Region> {
        match *self {
            Self::Centre => None,
            Self::Square { least } => {
                let shorter = width.min(height);
                let side = ((shorter as f32 * rng.range(least, 1.0)).round() as u32).clamp(1, shorter.max(1));
                Some(placed((width, height), (side, side), rng))
            }
            Self::Resized { area, aspect } => {
                Some(rectangle((width, height), area, aspect, rng).unwrap_or_else(|| central((width, height), aspect)))
            }
        }
    }
}

/// Draws a rectangle of a share of the picture's area and of an aspect; none if it does not fit in ten tries.
///
/// # Source
///
/// torchvision `transforms.RandomResizedCrop.get_params`.
pub(super) fn rectangle(
    (width, height): (u32, u32),
    area: (f32, f32),
    aspect: (f32, f32),
    rng: &mut Rng,
) -> Option<Region> {
    let whole = width as f32 * height as f32;
    for _ in 0..TRIES {
        let area = whole * rng.range(area.0, area.1);
        let aspect = rng.range(aspect.0.ln(), aspect.1.ln()).exp();
        let (w, h) = ((area * aspect).sqrt().round() as u32, (area / aspect).sqrt().round() as u32);
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            return Some(placed((width, height), (w, h), rng));
        }
    }
    None
}

/// Returns the largest region about the centre whose aspect is within bounds.
fn central((width, height): (u32, u32), aspect: (f32, f32)) -> Region {
    let (w, h) = (width as f32, height as f32);
    let (w, h) = if w / h < aspect.0 {
        (w, (w / aspect.0).round())
    } else if w / h > aspect.1 {
        ((h * aspect.1).round(), h)
    } else {
        (w, h)
    };
    let (w, h) = ((w as u32).clamp(1, width.max(1)), (h as u32).clamp(1, height.max(1)));
    Region { x: width.saturating_sub(w) / 2, y: height.saturating_sub(h) / 2, width: w, height: h }
}

/// Draws where a region of a size lies.
fn placed((width, height): (u32, u32), size: (u32, u32), rng: &mut Rng) -> Region {
    let mut place = |room: u32| u32::try_from(rng.below(room as usize + 1)).unwrap_or(0);
    let x = place(width.saturating_sub(size.0));
    let y = place(height.saturating_sub(size.1));
    Region { x, y, width: size.0, height: size.1 }
}

const TRIES: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    type Case = ((u32, u32), (f32, f32), [f64; 4]);

    /// Size, area, and the means of x, y, width and height over 50,000 draws of torchvision, by
    /// `tests/golden/augment.py`. In the last nothing fits.
    const RESIZED: [Case; 3] = [
        ((200, 150), (0.08, 1.0), [43.77, 20.86, 113.04, 108.27]),
        ((256, 256), (0.3, 1.0), [30.47, 30.30, 195.15, 195.18]),
        ((400, 100), (0.5, 1.0), [133.0, 0.0, 133.0, 100.0]),
    ];

    const DRAWS: usize = 50_000;

    #[test]
    fn resized_crops_are_distributed_as_those_of_torchvision() {
        for (size, area, wanted) in RESIZED {
            let crop = Crop::Resized { area, aspect: (3.0 / 4.0, 4.0 / 3.0) };
            let (mut rng, mut sums) = (Rng::new(1), [0.0; 4]);
            for _ in 0..DRAWS {
                let r = crop.region(size, &mut rng).unwrap();
                assert!(r.x + r.width <= size.0 && r.y + r.height <= size.1);
                for (sum, v) in sums.iter_mut().zip([r.x, r.y, r.width, r.height]) {
                    *sum += f64::from(v) / DRAWS as f64;
                }
            }
            for (found, wanted) in sums.iter().zip(wanted) {
                assert!((found - wanted).abs() < 0.5, "{size:?}: {sums:?}, expected {wanted}");
            }
        }
    }
}
