//! A square picture of linear colours, the canvas that every generator paints on.

use crate::{exact::bell, noise::lerp};

/// Red, green, blue; 0 is black and 1 is white, values outside are cut when the picture is developed.
pub(crate) type Colour = [f32; 3];

/// A square of colours, addressed in pixels and painted in units of the picture's side.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    pub(crate) size: usize,
    pub(crate) pixels: Vec<Colour>,
}

impl Picture {
    /// Paints every pixel; `paint` gets the pixel's centre in units of the side, `[0, 1)`.
    pub(crate) fn paint(size: usize, mut paint: impl FnMut(f32, f32) -> Colour) -> Self {
        let mut pixels = Vec::with_capacity(size * size);
        let side = size as f32;
        for y in 0..size {
            for x in 0..size {
                pixels.push(paint((x as f32 + 0.5) / side, (y as f32 + 0.5) / side));
            }
        }
        Self { size, pixels }
    }

    /// Repaints the pixels whose centre lies within `radius` of a point (all in units of the side).
    ///
    /// `paint` gets the pixel's number, its offset from the point and the colour to change.
    pub(crate) fn splat(
        &mut self,
        (cx, cy): (f32, f32),
        radius: f32,
        mut paint: impl FnMut(usize, f32, f32, &mut Colour),
    ) {
        let side = self.size as f32;
        let first = |c: f32| ((c - radius) * side - 0.5).floor().clamp(0.0, side) as usize;
        let last = |c: f32| ((c + radius) * side + 0.5).ceil().clamp(0.0, side) as usize;
        for y in first(cy)..last(cy) {
            for x in first(cx)..last(cx) {
                let index = y * self.size + x;
                let dx = (x as f32 + 0.5) / side - cx;
                let dy = (y as f32 + 0.5) / side - cy;
                if let Some(colour) = self.pixels.get_mut(index) {
                    paint(index, dx, dy, colour);
                }
            }
        }
    }

    /// Blurs with a Gaussian whose deviation is given in pixels.
    pub(crate) fn blur(&mut self, sigma: f32) {
        if sigma < 0.2 || self.size < 2 {
            return;
        }
        let reach = ((sigma * 2.5).ceil() as usize).clamp(1, 64);
        let weights: Vec<f32> = (0..=reach).map(|i| bell(i as f32 / sigma)).collect();
        let total = weights[0] + 2.0 * weights[1..].iter().sum::<f32>();
        let weights: Vec<f32> = weights.iter().map(|w| w / total).collect();
        let size = self.size;
        let mut across = vec![[0.0; 3]; self.pixels.len()];
        for (from, to) in self.pixels.chunks_exact(size).zip(across.chunks_exact_mut(size)) {
            for (x, out) in to.iter_mut().enumerate() {
                let mut sum = scaled(from[x], weights[0]);
                for (i, &w) in weights.iter().enumerate().skip(1) {
                    let (a, b) = (from[x.saturating_sub(i)], from[(x + i).min(size - 1)]);
                    for c in 0..3 {
                        sum[c] += w * (a[c] + b[c]);
                    }
                }
                *out = sum;
            }
        }
        for y in 0..size {
            for x in 0..size {
                let mut sum = scaled(across[y * size + x], weights[0]);
                for (i, &w) in weights.iter().enumerate().skip(1) {
                    let a = across[y.saturating_sub(i) * size + x];
                    let b = across[(y + i).min(size - 1) * size + x];
                    for c in 0..3 {
                        sum[c] += w * (a[c] + b[c]);
                    }
                }
                self.pixels[y * size + x] = sum;
            }
        }
    }
}

/// Mixes two colours; `t` is cut to `[0, 1]`.
pub(crate) fn mixed(a: Colour, b: Colour, t: f32) -> Colour {
    let t = t.clamp(0.0, 1.0);
    [lerp(a[0], b[0], t), lerp(a[1], b[1], t), lerp(a[2], b[2], t)]
}

pub(crate) fn scaled(a: Colour, k: f32) -> Colour {
    [a[0] * k, a[1] * k, a[2] * k]
}

/// Perceived brightness.
pub(crate) fn luma(c: Colour) -> f32 {
    0.30 * c[0] + 0.59 * c[1] + 0.11 * c[2]
}

/// A colour from hue in degrees, saturation and value.
pub(crate) fn hsv(hue: f32, saturation: f32, value: f32) -> Colour {
    let channel = |n: f32| {
        let k = (n + hue / 60.0).rem_euclid(6.0);
        value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)
    };
    [channel(5.0), channel(3.0), channel(1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hsv_names_the_primaries() {
        assert_eq!(hsv(0.0, 1.0, 1.0), [1.0, 0.0, 0.0]);
        assert_eq!(hsv(120.0, 1.0, 0.5), [0.0, 0.5, 0.0]);
        assert_eq!(hsv(240.0, 1.0, 1.0), [0.0, 0.0, 1.0]);
    }

    #[test]
    fn blur_keeps_a_flat_picture_flat() {
        let mut picture = Picture::paint(9, |_, _| [0.25, 0.5, 0.75]);
        picture.blur(3.0);
        for p in &picture.pixels {
            assert!((p[0] - 0.25).abs() < 1e-5 && (p[2] - 0.75).abs() < 1e-5);
        }
    }
}
