//! Marks on any surface: discs with and without halo, eye or rings, blots, powder, holes, drops, strokes.

use super::{against, any_colour, any_leaf, scatter, strew, surface};
use crate::{
    clutter,
    exact::{direction, floor},
    marks::{Ellipse, blot, stroke},
    noise::{octaves, step, value},
    picture::{Colour, Picture, mixed, scaled},
    rng::Rng,
};
use std::f32::consts::TAU;

/// Paints classes 0 to 11.
pub(super) fn scene(class: usize, size: usize, rng: &mut Rng) -> Picture {
    let mut scene = match class {
        8 => edge_stain(size, rng),
        _ => {
            let mut scene = surface(size, rng);
            let paint = match class {
                0 => small_discs,
                1 => large_discs,
                2 => haloed_discs,
                3 => eyed_discs,
                4 => targets,
                5 => ragged_blots,
                6 => powder,
                7 => dust,
                9 => holes,
                10 => drops,
                _ => strokes,
            };
            paint(&mut scene, rng);
            scene
        }
    };
    strew(&mut scene, rng);
    scene
}

fn discs(scene: &mut Picture, count: usize, radii: (f32, f32), rng: &mut Rng, mut fill: impl FnMut(&mut Colour, f32)) {
    for centre in scatter(count, rng) {
        let radius = rng.range(radii.0, radii.1);
        let axes = (radius * rng.range(0.8, 1.25), radius);
        let disc = Ellipse { centre, axes, along: direction(rng.range(0.0, TAU)) };
        disc.fill(scene, |_, r, inside, _, out| {
            let mut painted = *out;
            fill(&mut painted, r);
            *out = mixed(*out, painted, inside);
        });
    }
}

fn small_discs(scene: &mut Picture, rng: &mut Rng) {
    let (colour, count) = (against(scene, rng), rng.count(8, 90));
    let dome = rng.range(0.0, 0.4);
    discs(scene, count, (0.009, 0.022), rng, |out, r| *out = scaled(colour, 1.0 + dome * (0.5 - r)));
}

fn large_discs(scene: &mut Picture, rng: &mut Rng) {
    let (colour, count) = (against(scene, rng), rng.count(2, 12));
    let dome = rng.range(0.0, 0.5);
    discs(scene, count, (0.05, 0.13), rng, |out, r| *out = scaled(colour, 1.0 + dome * (0.5 - r)));
}

fn haloed_discs(scene: &mut Picture, rng: &mut Rng) {
    let (body, halo) = (against(scene, rng), against(scene, rng));
    let (count, largest) = (rng.count(4, 40), rng.range(0.03, 0.09));
    let (core, opacity) = (rng.range(0.3, 0.55), rng.range(0.4, 0.95));
    discs(scene, count, (0.5 * largest, largest), rng, |out, r| {
        *out = mixed(*out, halo, opacity * step(1.0, 0.6, r));
        *out = mixed(*out, body, step(core + 0.1, core - 0.1, r));
    });
}

fn eyed_discs(scene: &mut Picture, rng: &mut Rng) {
    let rim = against(scene, rng);
    let eye = if rng.chance(0.5) { mixed(rim, [1.0; 3], 0.7) } else { any_colour(rng) };
    let (count, largest) = (rng.count(4, 32), rng.range(0.025, 0.08));
    let core = rng.range(0.35, 0.65);
    discs(scene, count, (0.5 * largest, largest), rng, |out, r| {
        *out = mixed(eye, rim, step(core - 0.12, core + 0.12, r));
    });
}

fn targets(scene: &mut Picture, rng: &mut Rng) {
    let (first, second) = (against(scene, rng), any_colour(rng));
    let second = mixed(first, second, rng.range(0.35, 1.0));
    let rings = rng.range(2.5, 6.0);
    for centre in scatter(rng.count(1, 5), rng) {
        let (radius, seed) = (rng.range(0.1, 0.3), rng.seed());
        blot(scene, centre, radius, seed, |_, depth, out| {
            let wave = depth * rings;
            let ring = (2.0 * (wave - floor(wave)) - 1.0).abs();
            *out = mixed(*out, mixed(first, second, step(0.2, 0.8, ring)), step(-0.04, 0.06, depth));
        });
    }
}

fn ragged_blots(scene: &mut Picture, rng: &mut Rng) {
    let colour = against(scene, rng);
    let (front, strength) = (any_colour(rng), rng.range(0.0, 0.7));
    let grain = rng.seed();
    for centre in scatter(rng.count(1, 6), rng) {
        let (radius, seed) = (rng.range(0.07, 0.25), rng.seed());
        blot(scene, centre, radius, seed, |index, depth, out| {
            *out = mixed(*out, front, strength * step(-0.35, 0.0, depth));
            let rough = 0.9 + 0.2 * value(index as f32 * 0.37, depth * 20.0, grain);
            *out = mixed(*out, scaled(colour, rough), step(-0.04, 0.06, depth));
        });
    }
}

fn powder(scene: &mut Picture, rng: &mut Rng) {
    let (colour, grain, size) = (against(scene, rng), rng.seed(), scene.size);
    let fineness = rng.range(0.3, 0.6) * size.min(160) as f32;
    let opacity = rng.range(0.5, 0.95);
    for centre in scatter(rng.count(2, 12), rng) {
        let (radius, seed) = (rng.range(0.05, 0.2), rng.seed());
        blot(scene, centre, radius, seed, |index, depth, out| {
            let (x, y) = ((index % size) as f32 / size as f32, (index / size) as f32 / size as f32);
            let dust = octaves(x * fineness, y * fineness, grain, 2);
            let veil = step(-0.45, 0.55, depth) * (0.35 + 0.9 * step(0.3, 0.7, dust));
            *out = mixed(*out, colour, opacity * veil.min(1.0));
        });
    }
}

fn dust(scene: &mut Picture, rng: &mut Rng) {
    let (colour, other) = (against(scene, rng), any_colour(rng));
    let blend = rng.range(0.0, 0.6);
    for centre in scatter(rng.count(150, 420), rng) {
        let tone = mixed(colour, other, blend * rng.unit());
        Ellipse::disc(centre, rng.range(0.003, 0.007)).tint(scene, tone, 0.9, |_| 1.0);
    }
}

/// A leaf or a blob whose margin has another colour, to an uneven depth.
fn edge_stain(size: usize, rng: &mut Rng) -> Picture {
    let mut scene = surface(size, rng);
    let colour = against(&scene, rng);
    let depth = rng.range(0.03, 0.1);
    let seed = rng.seed();
    if rng.chance(0.4) {
        let (body, radius) = (any_colour(rng), rng.range(0.25, 0.42));
        let centre = (rng.range(0.4, 0.6), rng.range(0.4, 0.6));
        blot(&mut scene, centre, radius, seed, |_, inside, out| {
            let stained = mixed(body, colour, step(depth * 5.0, depth * 2.5, inside));
            *out = mixed(*out, stained, step(-0.03, 0.05, inside));
        });
        return scene;
    }
    let (_, tissue) = any_leaf(&mut scene, rng);
    for (point, out) in tissue.points().iter().zip(&mut scene.pixels) {
        if point.cover > 0.0 {
            let reach = depth * 2.0 * octaves(point.u * 7.0 + 3.0, point.v * 7.0 + 3.0, seed, 2);
            *out = mixed(*out, colour, 0.95 * step(reach, 0.7 * reach, point.margin) * point.cover);
        }
    }
    scene
}

fn holes(scene: &mut Picture, rng: &mut Rng) {
    let beneath = surface(scene.size, rng);
    let (rim, rim_width) = (any_colour(rng), rng.range(0.1, 0.45));
    for centre in scatter(rng.count(3, 14), rng) {
        let (radius, seed) = (rng.range(0.025, 0.1), rng.seed());
        blot(scene, centre, radius, seed, |index, depth, out| {
            *out = mixed(*out, rim, 0.7 * step(-rim_width, 0.0, depth));
            if let Some(&below) = beneath.pixels.get(index) {
                *out = mixed(*out, scaled(below, 0.55 + 0.3 * step(0.1, 0.6, depth)), step(0.0, 0.15, depth));
            }
        });
    }
}

fn drops(scene: &mut Picture, rng: &mut Rng) {
    let (lx, ly) = direction(rng.range(0.0, TAU));
    let largest = rng.range(0.025, 0.08);
    for centre in scatter(rng.count(6, 45), rng) {
        clutter::drop(scene, centre, rng.range(0.3, 1.0) * largest, (lx, ly), |_| 1.0);
    }
}

fn strokes(scene: &mut Picture, rng: &mut Rng) {
    let colour = against(scene, rng);
    let (main, spread) = (rng.range(0.0, TAU), rng.range(0.1, 3.2));
    let width = rng.range(0.006, 0.022);
    for (x, y) in scatter(rng.count(5, 40), rng) {
        let (c, s) = direction(main + rng.range(-spread, spread));
        let half = rng.range(0.03, 0.18);
        let (from, to) = ((x - c * half, y - s * half), (x + c * half, y + s * half));
        stroke(scene, from, to, width * rng.range(0.6, 1.4), colour, 0.95);
    }
}
