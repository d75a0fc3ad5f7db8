//! Grey pictures, small enough to be compared by the thousand.

use image::RgbImage;

/// A grey picture, `f32 [height, width]` from 0 to 255.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gray {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) pixels: Vec<f32>,
}

impl Gray {
    /// Returns a picture's luma (ITU-R BT.601), made smaller so that its shorter side has at most `side` pixels; none is made
    /// larger.
    pub(super) fn of(picture: &RgbImage, side: usize) -> Self {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let shorter = width.min(height).max(1);
        let scaled = |of: usize| if shorter <= side { of } else { (of * side).div_ceil(shorter) };
        let luma = |row: usize| {
            let line = picture.as_raw().chunks_exact(3 * width.max(1)).nth(row).unwrap_or_default();
            line.as_chunks()
                .0
                .iter()
                .map(|[r, g, b]: &[u8; 3]| 0.299 * f32::from(*r) + 0.587 * f32::from(*g) + 0.114 * f32::from(*b))
        };
        resize(width, height, |row, line| line.extend(luma(row)), scaled(width), scaled(height))
    }

    /// Returns the picture in another size.
    pub(super) fn resized(&self, width: usize, height: usize) -> Self {
        let rows = |row: usize, line: &mut Vec<f32>| line.extend(&self.pixels[row * self.width..][..self.width]);
        resize(self.width, self.height, rows, width, height)
    }

    /// Returns the picture in its own proportions with about the area of a square of `side`; extreme proportions are softened.
    pub(super) fn thumb(&self, side: usize) -> Self {
        let aspect = (self.aspect().clamp(1.0 / MOST_ASPECT, MOST_ASPECT)).sqrt();
        let scaled = |factor: f32| ((side as f32 * factor).round() as usize).max(1);
        self.resized(scaled(aspect), scaled(1.0 / aspect))
    }

    /// Returns width over height.
    pub(super) fn aspect(&self) -> f32 {
        self.width as f32 / self.height.max(1) as f32
    }

    /// Returns the picture mirrored (1: left and right, 2: up and down) and then with its sides exchanged (4), as the bits of
    /// `orientation` say.
    pub(super) fn oriented(&self, orientation: u8) -> Self {
        let (w, h) = (self.width, self.height);
        let is_swapped = orientation & 4 != 0;
        let (width, height) = if is_swapped { (h, w) } else { (w, h) };
        let at = |x: usize, y: usize| {
            let (x, y) = if is_swapped { (y, x) } else { (x, y) };
            let x = if orientation & 1 != 0 { w - 1 - x } else { x };
            let y = if orientation & 2 != 0 { h - 1 - y } else { y };
            self.pixels[y * w + x]
        };
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| at(x, y)).collect();
        Self { width, height, pixels }
    }

    /// Returns what is finer than a box of `2 * radius + 1` pixels: light, shadow and the ground a leaf lies on are left off.
    pub(super) fn detail(&self, radius: usize) -> Self {
        let across = blurred(&self.pixels, self.width, radius);
        let turned = transposed(&across, self.width);
        let both = transposed(&blurred(&turned, self.height, radius), self.height);
        let pixels = self.pixels.iter().zip(both).map(|(p, m)| p - m).collect();
        Self { pixels, ..*self }
    }
}

/// Orientations of a picture: four turns, each mirrored or not.
pub(super) const ORIENTATIONS: u8 = 8;
/// Most of width over height that a thumbnail keeps.
const MOST_ASPECT: f32 = 3.0;

/// Resizes by a triangle filter that widens as it shrinks, row by row: no more than the result and a row is held.
fn resize(width: usize, height: usize, row: impl Fn(usize, &mut Vec<f32>), to_width: usize, to_height: usize) -> Gray {
    let mut pixels = vec![0.0; to_width * to_height];
    if width > 0 && height > 0 {
        let (columns, rows) = (taps(width, to_width), taps(height, to_height));
        let (mut line, mut short) = (Vec::with_capacity(width), vec![0.0; to_width]);
        for y in 0..height {
            let reads =
                |(first, weights): &(usize, Vec<f32>)| y.checked_sub(*first).and_then(|i| weights.get(i)).copied();
            if rows.iter().all(|r| reads(r).is_none()) {
                continue;
            }
            line.clear();
            row(y, &mut line);
            for (out, (first, weights)) in short.iter_mut().zip(&columns) {
                *out = line[*first..].iter().zip(weights).map(|(v, w)| v * w).sum();
            }
            for (target, weights) in pixels.chunks_exact_mut(to_width.max(1)).zip(&rows) {
                let Some(weight) = reads(weights) else { continue };
                target.iter_mut().zip(&short).for_each(|(t, s)| *t += weight * s);
            }
        }
    }
    Gray { width: to_width, height: to_height, pixels }
}

/// Returns, of each output pixel of a side, the first input pixel that it reads and the weights of those from there on.
fn taps(from: usize, to: usize) -> Vec<(usize, Vec<f32>)> {
    let scale = from as f32 / to.max(1) as f32;
    let reach = scale.max(1.0);
    let one = |x: usize| {
        let centre = (x as f32 + 0.5) * scale;
        let first = ((centre - reach).ceil().max(0.0) as usize).min(from - 1);
        let end = ((centre + reach).floor() as usize + 1).clamp(first + 1, from);
        let weight = |i: usize| (1.0 - (i as f32 + 0.5 - centre).abs() / reach).max(0.0);
        let weights: Vec<f32> = (first..end).map(weight).collect();
        let sum: f32 = weights.iter().sum();
        match sum > 0.0 {
            true => (first, weights.iter().map(|w| w / sum).collect()),
            false => (first, vec![1.0]),
        }
    };
    (0..to).map(one).collect()
}

/// Returns the mean of each pixel and its neighbours in its row; beyond the row's end its last pixel goes on.
fn blurred(pixels: &[f32], width: usize, radius: usize) -> Vec<f32> {
    let share = 1.0 / (2 * radius + 1) as f32;
    let mut out = Vec::with_capacity(pixels.len());
    for row in pixels.chunks_exact(width.max(1)) {
        let at = |i: isize| row[i.clamp(0, width as isize - 1) as usize];
        let reach = radius as isize;
        let mut sum: f32 = (-reach..=reach).map(at).sum();
        for x in 0..width as isize {
            out.push(sum * share);
            sum += at(x + reach + 1) - at(x - reach);
        }
    }
    out
}

fn transposed(pixels: &[f32], width: usize) -> Vec<f32> {
    let height = pixels.len() / width.max(1);
    (0..width).flat_map(|x| (0..height).map(move |y| pixels[y * width + x])).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A picture with structure of every size, as `tests/golden/audit.py` draws it.
    pub(in super::super) fn drawn(width: usize, height: usize) -> Gray {
        let value = |x: usize, y: usize| ((x * x / 7 + y * y / 5 + 3 * x * y / 11 + (x ^ y) * 5) % 256) as f32;
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| value(x, y))).collect();
        Gray { width, height, pixels }
    }

    #[test]
    fn eight_orientations_are_eight_pictures_and_some_undo_each_other() {
        let picture = drawn(5, 3);
        let all: Vec<Gray> = (0..ORIENTATIONS).map(|o| picture.oriented(o)).collect();
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b), "{i}");
            assert_eq!((a.width, a.height), if i < 4 { (5, 3) } else { (3, 5) });
        }
        assert!((0..5).all(|o| picture.oriented(o).oriented(o) == picture), "mirrors and the exchange of sides");
        assert_eq!(picture.oriented(1).pixels[0], picture.pixels[4]);
    }

    #[test]
    fn resizing_keeps_the_mean_and_a_ramp() {
        let ramp = Gray { width: 60, height: 2, pixels: (0..120).map(|i| (i % 60) as f32).collect() };
        let small = ramp.resized(20, 1);
        for (x, v) in small.pixels.iter().enumerate().skip(1).take(18) {
            assert!((v - (3.0 * x as f32 + 1.0)).abs() < 1e-3, "{x}: {v}");
        }
        let picture = drawn(97, 61);
        let mean = |g: &Gray| g.pixels.iter().sum::<f32>() / g.pixels.len() as f32;
        assert!((mean(&picture) - mean(&picture.resized(31, 20))).abs() < 2.0);
        assert_eq!(picture.resized(97, 61), picture);
        let one = Gray { width: 1, height: 1, pixels: vec![7.0] };
        assert_eq!(one.thumb(8).pixels, [7.0; 64]);
    }

    #[test]
    fn detail_is_what_scipys_box_filter_leaves() {
        let found = drawn(23, 17).detail(2);
        for (x, y, expected) in DETAIL {
            let v = found.pixels[y * 23 + x];
            assert!((v - expected).abs() < 1e-2, "{x} {y}: {v} {expected}");
        }
    }

    // tests/golden/audit.py
    const DETAIL: [(usize, usize, f32); 5] =
        [(0, 0, -4.84), (22, 16, 79.12), (11, 8, -19.0), (1, 15, -4.8), (20, 3, 15.92)];
}
