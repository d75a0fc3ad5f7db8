//! What in a picture speaks for an answer: places are covered one after the other, and the network is asked again.
//!
//! # Source
//!
//! Zeiler and Fergus, *Visualizing and Understanding Convolutional Networks*, arXiv:1311.2901, section 4.2. It needs no gradients,
//! and so runs in the engine that ships, int8 as it may be.

use anyhow::Result;
use graft_runtime::Model;

/// Covers along a side.
const COVERS: usize = 8;
/// Sides of the picture that a cover hides; covers overlap by half.
const COVER: f32 = 2.0 / (COVERS + 1) as f32;
/// Runs of the network for a picture.
pub(super) const RUNS: usize = COVERS * COVERS + 1;

/// Returns the picture, `u8 [side, side, 3]`, dimmed and greyed but for what speaks for a class.
pub(super) fn marked(model: &Model, pixels: &[u8], class: usize) -> Result<Vec<u8>> {
    let side = model.preprocessing().crop as usize;
    let mean = mean(pixels);
    let before = odds(&model.logits(pixels)?, class);
    let mut falls = vec![0.0f32; COVERS * COVERS];
    for (at, fall) in falls.iter_mut().enumerate() {
        let mut covered = pixels.to_vec();
        let (rows, columns) = (covers(at / COVERS, side), covers(at % COVERS, side));
        for y in rows {
            for pixel in covered[(y * side + columns.start) * 3..(y * side + columns.end) * 3].chunks_exact_mut(3) {
                pixel.copy_from_slice(&mean);
            }
        }
        *fall = (before - odds(&model.logits(&covered)?, class)).max(0.0);
    }
    Ok(lit(pixels, side, &falls))
}

/// The pixels of a side that a cover hides.
fn covers(place: usize, side: usize) -> std::ops::Range<usize> {
    let (size, step) = (COVER * side as f32, 0.5 * COVER * side as f32);
    let begin = (place as f32 * step).round() as usize;
    begin..((begin as f32 + size).round() as usize).min(side)
}

/// Returns how much likelier a class is than all others together, as a logarithm: it tells something still where the
/// probability is 1 but for a hair.
fn odds(logits: &[f32], class: usize) -> f32 {
    let others = || logits.iter().enumerate().filter(|(c, _)| *c != class).map(|(_, z)| *z);
    let largest = others().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        return 0.0;
    }
    logits[class] - largest - others().map(|z| (z - largest).exp()).sum::<f32>().ln()
}

fn mean(pixels: &[u8]) -> [u8; 3] {
    let n = (pixels.len() / 3).max(1) as u64;
    let sum = |c: usize| pixels.iter().skip(c).step_by(3).map(|v| u64::from(*v)).sum::<u64>();
    [0, 1, 2].map(|c| (sum(c) / n) as u8)
}

/// Dims each pixel as far as covering it changes nothing. What a pixel is worth lies between the worths of the places about it.
fn lit(pixels: &[u8], side: usize, falls: &[f32]) -> Vec<u8> {
    let most = falls.iter().copied().fold(0.0, f32::max);
    let worth = |x: usize, y: usize| falls[y * COVERS + x];
    // The middle of the first cover is one step from the edge.
    let place = |v: usize| {
        let at = ((v as f32 + 0.5) / side as f32 / (0.5 * COVER) - 1.0).clamp(0.0, (COVERS - 1) as f32);
        let first = (at as usize).min(COVERS - 2);
        (first, at - first as f32)
    };
    let mut out = Vec::with_capacity(pixels.len());
    for (i, pixel) in pixels.chunks_exact(3).enumerate() {
        let ((x, fx), (y, fy)) = (place(i % side), place(i / side));
        let along = |y: usize| worth(x, y) * (1.0 - fx) + worth(x + 1, y) * fx;
        let worth = along(y) * (1.0 - fy) + along(y + 1) * fy;
        let light = if most > 0.0 { worth / most } else { 0.0 };
        let grey = pixel.iter().map(|v| f32::from(*v)).sum::<f32>() / 3.0;
        out.extend(pixel.iter().map(|v| {
            let colour = light * f32::from(*v) + (1.0 - light) * grey;
            (colour * (DIMMED + (1.0 - DIMMED) * light)).round() as u8
        }));
    }
    out
}

/// Light that is left where nothing speaks for the answer.
const DIMMED: f32 = 0.4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_reach_from_edge_to_edge_and_overlap_by_half() {
        for side in [96usize, 160, 224] {
            assert_eq!((covers(0, side).start, covers(COVERS - 1, side).end), (0, side));
            for place in 1..COVERS {
                let (a, b) = (covers(place - 1, side), covers(place, side));
                assert!(a.end.abs_diff(a.start + (b.start - a.start) * 2) <= 2, "{side} {place}");
            }
        }
    }

    #[test]
    fn what_speaks_for_the_answer_stays_as_it_was() {
        let (side, mut falls) = (90, vec![0.0; COVERS * COVERS]);
        falls[3 * COVERS + 5] = 2.0;
        let pixels: Vec<u8> = (0..side * side).flat_map(|_| [10, 200, 30]).collect();
        let lit = lit(&pixels, side, &falls);
        let at = |x: usize, y: usize| &lit[(y * side + x) * 3..][..3];
        // The middle of cover 5, 3: (5 + 1) / 9 and (3 + 1) / 9 of the side, between two pixels.
        assert!(at(60, 40)[1] > 165 && at(60, 40)[0] < 25, "{:?}", at(60, 40));
        assert_eq!(at(5, 85), [32; 3]);
    }

    #[test]
    fn odds_are_those_of_the_softmax() {
        let p: f32 = 0.665_240_96;
        assert!((odds(&[0.0, 2.0, 1.0], 1) - (p / (1.0 - p)).ln()).abs() < 1e-4);
        assert_eq!(odds(&[3.0], 0), 0.0);
    }
}
