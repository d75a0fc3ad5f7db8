//! Resizing and cropping, bit for bit as Pillow does it.
//!
//! Networks are trained and compared with pictures that Pillow resized; a resize that differs by a rounding moves
//! every figure a little and hides real faults. The window is cut before the arithmetic, not after, so that a
//! picture of 8 by 12 million pixels costs no more than its window.
//!
//! # Source
//!
//! Pillow `src/libImaging/Resample.c` (`precompute_coeffs`, `normalize_coeffs_8bpc`,
//! `ImagingResampleHorizontal_8bpc`, `ImagingResampleVertical_8bpc`); torchvision `transforms.functional`
//! (`_compute_resized_output_size`, `center_crop`) for the sizes.

use graft_zoo::Preprocessing;
use image::RgbImage;

/// Resizes the shorter side (triangle filter, antialiased), cuts the centre and returns RGB, `u8 [crop, crop, 3]`.
///
/// Equal to `Image.resize(size, BILINEAR)` of Pillow with the longer side rounded down, followed by torchvision's
/// `CenterCrop`. A definition with `resize_shorter < crop` is taken as one with `resize_shorter = crop`.
pub fn preprocess(picture: &RgbImage, p: &Preprocessing) -> Vec<u8> {
    let (width, height) = (u64::from(picture.width()), u64::from(picture.height()));
    let crop = u64::from(p.crop);
    let shorter = u64::from(p.resize_shorter.max(p.crop));
    if crop == 0 || width == 0 || height == 0 {
        return Vec::new();
    }
    let short_side = width.min(height);
    let out = |side: u64| {
        if side == short_side { shorter } else { shorter * side / short_side }
    };
    let columns = taps(width, out(width), crop);
    let rows = taps(height, out(height), crop);
    resample(picture, (0, 0), &columns, &rows)
}

/// A rectangle of a picture, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Pixels to the left of it.
    pub x: u32,
    /// Pixels above it.
    pub y: u32,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

/// Resizes a region to a square (triangle filter, antialiased) and returns RGB, `u8 [side, side, 3]`.
///
/// Equal to `Image.crop(region).resize((side, side), BILINEAR)` of Pillow: what lies outside the region has no part
/// in it. What of the region lies outside the picture is left off; where nothing is left, nothing is returned.
pub fn resize_region(picture: &RgbImage, region: Region, side: u32) -> Vec<u8> {
    let width = region.width.min(picture.width().saturating_sub(region.x));
    let height = region.height.min(picture.height().saturating_sub(region.y));
    if side == 0 || width == 0 || height == 0 {
        return Vec::new();
    }
    let taps = |input: u32| taps(input.into(), side.into(), side.into());
    resample(picture, (region.x as usize, region.y as usize), &taps(width), &taps(height))
}

/// Returns one pixel for each column and row; their taps count from `x`, `y`.
fn resample(picture: &RgbImage, (x, y): (usize, usize), columns: &[Taps], rows: &[Taps]) -> Vec<u8> {
    // Only the input rows that the window reads pass the horizontal step.
    let first = rows.iter().map(|t| t.first).min().unwrap_or(0);
    let last = rows.iter().map(|t| t.first + t.weights.len()).max().unwrap_or(0);
    let stride = picture.width() as usize * 3;
    let raw = picture.as_raw();
    let line_len = columns.len() * 3;
    let mut middle = Vec::with_capacity((last - first) * line_len);
    for line in raw.chunks_exact(stride).skip(y + first).take(last - first) {
        for tap in columns {
            let mut sum = [HALF; 3];
            let pixels = line[(x + tap.first) * 3..].chunks_exact(3);
            for (pixel, &weight) in pixels.zip(&tap.weights) {
                for (s, &v) in sum.iter_mut().zip(pixel) {
                    *s += i32::from(v) * weight;
                }
            }
            middle.extend(sum.map(clip));
        }
    }
    let mut done = Vec::with_capacity(rows.len() * line_len);
    let mut sums = vec![HALF; line_len];
    for tap in rows {
        sums.fill(HALF);
        let lines = middle.chunks_exact(line_len).skip(tap.first - first);
        for (line, &weight) in lines.zip(&tap.weights) {
            for (s, &v) in sums.iter_mut().zip(line) {
                *s += i32::from(v) * weight;
            }
        }
        done.extend(sums.iter().map(|&s| clip(s)));
    }
    done
}

/// The input pixels that make one output pixel, with weights that add up to about `1 << PRECISION`.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Returns the taps of the `crop` centre pixels of a side that goes from `input` to `output` pixels.
fn taps(input: u64, output: u64, crop: u64) -> Vec<Taps> {
    let scale = input as f64 / output as f64;
    let filter_scale = scale.max(1.0);
    let (support, inverse) = (filter_scale, 1.0 / filter_scale);
    let begin = centre(output, crop);
    (begin..begin + crop)
        .map(|x| {
            let center = (x as f64 + 0.5) * scale;
            // C truncates towards zero, and so does `as` from a float.
            let first = (center - support + 0.5).max(0.0) as u64;
            let end = ((center + support + 0.5) as u64).min(input);
            let mut exact: Vec<f64> =
                (first..end).map(|i| (1.0 - ((i as f64 - center + 0.5) * inverse).abs()).max(0.0)).collect();
            let total: f64 = exact.iter().sum();
            if total != 0.0 {
                exact.iter_mut().for_each(|w| *w /= total);
            }
            let weights = exact.iter().map(|w| (0.5 + w * f64::from(1 << PRECISION)) as i32).collect();
            Taps { first: usize::try_from(first).unwrap_or(usize::MAX), weights }
        })
        .collect()
}

/// Returns where a window of `crop` in `side` begins: the half, rounded to even as Python's `round` does.
fn centre(side: u64, crop: u64) -> u64 {
    let spare = side.saturating_sub(crop);
    let half = spare / 2;
    if spare % 2 == 1 { half + half % 2 } else { half }
}

fn clip(sum: i32) -> u8 {
    u8::try_from((sum >> PRECISION).clamp(0, 255)).unwrap_or(u8::MAX)
}

/// Bits after the point. Weights add up to at most `1 << 22` plus half a step a tap, and a side of 10,000 pixels
/// (the shorter one of a picture of 100 million) gives no more than 20,000 taps: 255 times that fits 31 bits.
const PRECISION: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION - 1);
