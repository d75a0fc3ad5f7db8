//! Small things painted on a picture: discs, ellipses, strokes and blobs, softened at their edges.
//!
//! Lengths are in units of the picture's side; angles come as unit vectors.

use crate::{
    exact::length,
    noise::{step, value},
    picture::{Colour, Picture, mixed},
};

/// An ellipse by its centre, half axes and the direction of its first axis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ellipse {
    pub(crate) centre: (f32, f32),
    pub(crate) axes: (f32, f32),
    pub(crate) along: (f32, f32),
}

impl Ellipse {
    pub(crate) fn disc(centre: (f32, f32), radius: f32) -> Self {
        Self { centre, axes: (radius, radius), along: (1.0, 0.0) }
    }

    /// Paints every pixel in reach; `paint` gets the pixel's number, the relative radius (1 at the edge),
    /// the share of the pixel inside, the position along both axes (-1 to 1) and the colour to change.
    pub(crate) fn fill(self, picture: &mut Picture, mut paint: impl FnMut(usize, f32, f32, (f32, f32), &mut Colour)) {
        let (a, b) = (self.axes.0.max(1e-4), self.axes.1.max(1e-4));
        let pixel = 1.0 / picture.size as f32;
        let reach = a.max(b) + pixel;
        let (c, s) = self.along;
        picture.splat(self.centre, reach, |index, dx, dy, colour| {
            let (u, v) = ((dx * c + dy * s) / a, (dy * c - dx * s) / b);
            let r = length(u, v);
            // A mark smaller than a pixel keeps its weight by being fainter, not by vanishing.
            let soft = 0.6 * pixel / a.min(b);
            let inside = step(1.0 + soft, 1.0 - soft, r);
            if inside > 0.0 {
                paint(index, r, inside, (u, v), colour);
            }
        });
    }

    /// Fills with one colour at an opacity, where `cover` lets it.
    pub(crate) fn tint(self, picture: &mut Picture, colour: Colour, opacity: f32, cover: impl Fn(usize) -> f32) {
        self.fill(picture, |index, _, inside, _, out| {
            *out = mixed(*out, colour, opacity * inside * cover(index));
        });
    }
}

/// A straight stroke with round ends.
pub(crate) fn stroke(
    picture: &mut Picture,
    from: (f32, f32),
    to: (f32, f32),
    width: f32,
    colour: Colour,
    opacity: f32,
) {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let span = length(dx, dy);
    let pixel = 1.0 / picture.size as f32;
    let half = 0.5 * width;
    let middle = (0.5 * (from.0 + to.0), 0.5 * (from.1 + to.1));
    let square = (span * span).max(1e-12);
    picture.splat(middle, 0.5 * span + half + pixel, |_, x, y, out| {
        let (px, py) = (x + 0.5 * dx, y + 0.5 * dy);
        let t = ((px * dx + py * dy) / square).clamp(0.0, 1.0);
        let away = length(px - t * dx, py - t * dy);
        *out = mixed(*out, colour, opacity * step(half + 0.6 * pixel, half - 0.6 * pixel, away));
    });
}

/// A blot with an uneven edge; `paint` gets the pixel's number, its depth and the colour to change.
///
/// The depth is 1 in the middle, 0 on the average edge and negative outside, down to -1.
pub(crate) fn blot(
    picture: &mut Picture,
    centre: (f32, f32),
    radius: f32,
    seed: u32,
    mut paint: impl FnMut(usize, f32, &mut Colour),
) {
    let radius = radius.max(1e-4);
    let lobes = 2.2 / radius;
    picture.splat(centre, radius * 2.0, |index, dx, dy, colour| {
        let r = length(dx, dy) / radius;
        let ragged = 0.7 * (value(dx * lobes + 40.0, dy * lobes + 40.0, seed) - 0.5)
            + 0.3 * (value(dx * lobes * 3.0, dy * lobes * 3.0, seed ^ 0x5bd1) - 0.5);
        let depth = 1.0 - r + ragged;
        if depth > -1.0 {
            paint(index, depth, colour);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disc_covers_its_area_and_nothing_outside() {
        let mut picture = Picture::paint(64, |_, _| [0.0; 3]);
        Ellipse::disc((0.5, 0.5), 0.25).tint(&mut picture, [1.0; 3], 1.0, |_| 1.0);
        let area = picture.pixels.iter().map(|p| p[0]).sum::<f32>() / 4096.0;
        assert!((area - std::f32::consts::PI / 16.0).abs() < 0.01, "area {area}");
        assert_eq!(picture.pixels[0], [0.0; 3]);
    }

    #[test]
    fn a_stroke_joins_its_ends() {
        let mut picture = Picture::paint(32, |_, _| [0.0; 3]);
        stroke(&mut picture, (0.1, 0.1), (0.9, 0.9), 0.1, [1.0; 3], 1.0);
        for i in 4..28 {
            assert!(picture.pixels[i * 32 + i][0] > 0.9);
        }
        assert_eq!(picture.pixels[31][0], 0.0);
    }
}
