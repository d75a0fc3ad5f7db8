//! Surfaces that fill the picture: stripes, waves, lattices, cracks, pebbles, mottle, marble, wood, soil, nets.

use super::{contrast, strew};
use crate::{
    exact::{cos, direction, floor, length, sin},
    ground,
    noise::{cells, fraction, octaves, step, value},
    picture::{Picture, mixed, scaled},
    rng::Rng,
};
use std::f32::consts::TAU;

/// Paints classes 12 to 24.
pub(super) fn scene(class: usize, size: usize, rng: &mut Rng) -> Picture {
    let mut scene = match class {
        12 => stripes(size, 0.0, rng),
        13 => {
            let bend = rng.range(0.04, 0.12);
            stripes(size, bend, rng)
        }
        14 => lattice(size, rng),
        15 => cellular(size, Cellular::Cracks, rng),
        16 => cellular(size, Cellular::Pebbles, rng),
        17 => {
            let scale = rng.range(3.0, 6.0);
            mottle(size, scale, rng)
        }
        18 => {
            let scale = rng.range(11.0, 20.0);
            mottle(size, scale, rng)
        }
        19 => marble(size, rng),
        20 => ground::boards(size, rng),
        21 => ground::soil(size, rng),
        22 => ground::grass(size, rng),
        23 => cellular(size, Cellular::Net, rng),
        _ => feather(size, rng),
    };
    if matches!(class, 20..=22) {
        recolour(&mut scene, rng);
    }
    strew(&mut scene, rng);
    scene
}

/// Turns the colours of a natural ground, so that brown need not mean soil nor green grass.
fn recolour(scene: &mut Picture, rng: &mut Rng) {
    if rng.chance(0.5) {
        return;
    }
    let (dark, light) = contrast(rng);
    let amount = rng.range(0.5, 1.0);
    for p in &mut scene.pixels {
        let tone = mixed(dark, light, crate::picture::luma(*p) * 1.5);
        *p = mixed(*p, tone, amount);
    }
}

fn stripes(size: usize, bend: f32, rng: &mut Rng) -> Picture {
    let (first, second) = contrast(rng);
    let (c, s) = direction(rng.range(0.0, TAU));
    let (count, share, waves) = (rng.range(3.0, 14.0), rng.range(0.25, 0.7), rng.range(1.5, 4.0));
    let (seed, wear) = (rng.seed(), rng.range(0.0, 0.3));
    Picture::paint(size, |x, y| {
        let (along, across) = (x * c + y * s, y * c - x * s);
        let t = (across + bend * sin(along * waves * TAU)) * count + 0.15 * value(along * 5.0, across * 5.0, seed);
        let saw = (2.0 * (t - floor(t)) - 1.0).abs();
        let tone = 1.0 - wear * octaves(x * 20.0, y * 20.0, seed, 2);
        scaled(mixed(first, second, step(share - 0.1, share + 0.1, saw)), tone)
    })
}

fn lattice(size: usize, rng: &mut Rng) -> Picture {
    let (first, second) = contrast(rng);
    let (c, s) = direction(rng.range(0.0, TAU));
    let (count, thin) = (rng.range(4.0, 11.0), rng.range(0.1, 0.3));
    let (is_checked, seed, wear) = (rng.chance(0.4), rng.seed(), rng.range(0.0, 0.3));
    Picture::paint(size, |x, y| {
        let (u, v) = ((x * c + y * s) * count, (y * c - x * s) * count);
        let (du, dv) = ((u - floor(u + 0.5)).abs(), (v - floor(v + 0.5)).abs());
        let share = if is_checked {
            let odd = (floor(u + 0.5) + floor(v + 0.5)) * 0.5;
            if odd - floor(odd) > 0.25 { 1.0 } else { 0.0 }
        } else {
            step(thin + 0.06, thin - 0.06, (0.5 - du).min(0.5 - dv))
        };
        scaled(mixed(first, second, share), 1.0 - wear * octaves(x * 20.0, y * 20.0, seed, 2))
    })
}

#[derive(Clone, Copy)]
enum Cellular {
    Cracks,
    Pebbles,
    Net,
}

fn cellular(size: usize, kind: Cellular, rng: &mut Rng) -> Picture {
    let (first, second) = contrast(rng);
    let scale = match kind {
        Cellular::Cracks => rng.range(3.0, 8.0),
        Cellular::Pebbles => rng.range(5.0, 14.0),
        Cellular::Net => rng.range(12.0, 22.0),
    };
    let (seed, warp, thin) = (rng.seed(), rng.range(0.0, 0.5), rng.range(0.05, 0.12));
    let (variety, squeeze) = (rng.range(0.2, 0.7), rng.range(0.6, 1.0));
    Picture::paint(size, |x, y| {
        let bend = warp * (octaves(x * 8.0, y * 8.0, seed ^ 5, 2) - 0.5);
        let cell = cells(x * scale + bend, (y * scale - bend) * squeeze, seed);
        let edge = cell.second - cell.nearest;
        let tone = 1.0 + variety * (fraction(cell.id, 1) - 0.5);
        match kind {
            Cellular::Cracks => {
                let grain = 0.9 + 0.2 * octaves(x * 24.0, y * 24.0, seed, 2);
                mixed(scaled(first, grain), second, step(thin, 0.3 * thin, edge))
            }
            Cellular::Pebbles => {
                let dome = scaled(first, tone * (1.25 - 0.9 * cell.nearest));
                mixed(scaled(second, 0.6), dome, step(0.05, 0.25, edge))
            }
            Cellular::Net => mixed(scaled(first, 0.5 + 0.5 * tone), second, step(3.0 * thin, thin, edge)),
        }
    })
}

fn mottle(size: usize, scale: f32, rng: &mut Rng) -> Picture {
    let (first, second) = contrast(rng);
    let (seed, soft, cut) = (rng.seed(), rng.range(0.02, 0.12), rng.range(0.4, 0.58));
    let shade = rng.range(0.0, 0.4);
    Picture::paint(size, |x, y| {
        let field = octaves(x * scale, y * scale, seed, 2);
        let tone = 1.0 - shade * octaves(x * 4.0, y * 4.0, seed ^ 3, 2);
        scaled(mixed(first, second, step(cut - soft, cut + soft, field)), tone)
    })
}

/// Thin bright lines where a noise field crosses its middle.
fn marble(size: usize, rng: &mut Rng) -> Picture {
    let (first, second) = contrast(rng);
    let (seed, scale, thin) = (rng.seed(), rng.range(2.0, 6.0), rng.range(0.03, 0.09));
    Picture::paint(size, |x, y| {
        let ridge = (octaves(x * scale, y * scale, seed, 4) - 0.5).abs();
        let cloud = 0.85 + 0.3 * octaves(x * 3.0, y * 3.0, seed ^ 9, 2);
        mixed(scaled(first, cloud), second, step(thin, 0.0, ridge))
    })
}

/// A midrib with side veins that fill the picture.
fn feather(size: usize, rng: &mut Rng) -> Picture {
    let (first, second) = contrast(rng);
    let (c, s) = direction(rng.range(0.0, TAU));
    let (at, slope, pairs) = (rng.range(-0.2, 0.2), rng.range(0.4, 1.4), rng.range(4.0, 10.0));
    let (curve, thin, relief) = (rng.range(-0.6, 0.9), rng.range(0.008, 0.02), rng.range(0.0, 0.2));
    let (seed, strength) = (rng.seed(), rng.range(0.5, 1.0));
    Picture::paint(size, |x, y| {
        let (u, v) = ((x - 0.5) * c + (y - 0.5) * s, (y - 0.5) * c - (x - 0.5) * s - at);
        let away = v.abs();
        let phase = (u - away * slope - away * away * curve) * pairs;
        let gap = (phase - floor(phase + 0.5)).abs() / (pairs * length(1.0, slope));
        let vein = step(2.4 * thin, thin, away).max(step(1.5 * thin, 0.4 * thin, gap));
        let tone = 0.8 + relief * cos(TAU * phase) + 0.4 * octaves(x * 6.0, y * 6.0, seed, 3);
        mixed(scaled(first, tone), second, strength * vein)
    })
}
