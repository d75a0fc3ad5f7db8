//! Whole things: leaves by outline, flowers, grains and berries, insects.

use super::{against, any_colour, one_leaf, pose, scatter, sheet, strew};
use crate::{
    clutter,
    exact::{angle, cos, direction, length},
    ground::ground,
    leaf::{Outline, Pose},
    marks::{Ellipse, stroke},
    noise::{octaves, step},
    picture::{Picture, mixed, scaled},
    rng::Rng,
};
use std::f32::consts::TAU;

/// Paints classes 25 to 31.
pub(super) fn scene(class: usize, size: usize, rng: &mut Rng) -> Picture {
    let mut scene = if rng.chance(0.7) { ground(size, rng) } else { sheet(size, rng) };
    match class {
        25 => leaves(&mut scene, Outline::Entire, rng),
        26 => leaves(&mut scene, Outline::Serrate, rng),
        27 => leaves(&mut scene, Outline::Lobed, rng),
        28 => compound(&mut scene, rng),
        29 => flower(&mut scene, rng),
        30 => grains(&mut scene, rng),
        _ => insects(&mut scene, rng),
    }
    strew(&mut scene, rng);
    scene
}

fn leaves(scene: &mut Picture, outline: Outline, rng: &mut Rng) {
    let flesh = any_colour(rng);
    let several = if rng.chance(0.4) { rng.count(1, 3) } else { 0 };
    for _ in 0..several {
        let pose = pose(0.35, 0.8, 0.4, rng);
        one_leaf(scene, outline, pose, mixed(flesh, any_colour(rng), 0.2), rng);
    }
    let pose = pose(0.6, 1.2, 0.15, rng);
    let (leaf, tissue) = one_leaf(scene, outline, pose, flesh, rng);
    let beneath = scene.clone();
    clutter::wear(scene, &beneath, &leaf, &tissue, rng);
}

/// Narrow or broad leaflets along a stalk.
fn compound(scene: &mut Picture, rng: &mut Rng) {
    let flesh = any_colour(rng);
    let spread = pose(0.7, 1.1, 0.1, rng);
    let outline = if rng.chance(0.5) { Outline::Narrow } else { Outline::Entire };
    let (c, s) = direction(spread.angle);
    let at =
        |u: f32| (spread.centre.0 + spread.length * (u - 0.5) * c, spread.centre.1 + spread.length * (u - 0.5) * s);
    stroke(scene, at(0.0), at(0.9), 0.018, scaled(flesh, 0.7), 1.0);
    let (pairs, splay) = (rng.count(3, 7), rng.range(0.6, 1.3));
    for pair in 0..=pairs {
        let u = 0.15 + 0.75 * pair as f32 / pairs as f32;
        let leaflet = spread.length * rng.range(0.3, 0.42) * (1.1 - 0.5 * u);
        let turns: &[f32] = if pair == pairs { &[0.0] } else { &[-1.0, 1.0] };
        for side in turns {
            let angle = spread.angle + side * splay;
            let (x, y) = at(u);
            let (dx, dy) = direction(angle);
            let pose = Pose { centre: (x + 0.5 * leaflet * dx, y + 0.5 * leaflet * dy), angle, length: leaflet };
            one_leaf(scene, outline, pose, scaled(flesh, rng.range(0.85, 1.15)), rng);
        }
    }
}

fn flower(scene: &mut Picture, rng: &mut Rng) {
    let blooms = if rng.chance(0.5) { 1 } else { rng.count(2, 6) };
    let (petal, eye) = (against(scene, rng), any_colour(rng));
    let (petals, depth) = (rng.count(4, 13) as f32, rng.range(0.25, 0.6));
    for centre in scatter(blooms, rng) {
        let radius = if blooms == 1 { rng.range(0.28, 0.48) } else { rng.range(0.1, 0.22) };
        let centre = if blooms == 1 { (0.3 + 0.4 * centre.0, 0.3 + 0.4 * centre.1) } else { centre };
        let (turn, heart) = (rng.range(0.0, TAU), rng.range(0.15, 0.35));
        let soft = 0.02 + 1.0 / (radius * scene.size as f32);
        scene.splat(centre, radius * 1.05, |_, dx, dy, out| {
            let r = length(dx, dy) / radius;
            let lobe = 0.5 + 0.5 * cos(petals * angle(dx, dy) + turn);
            let edge = 1.0 - depth * (1.0 - lobe) * (1.0 - lobe);
            let lit = scaled(petal, 0.7 + 0.25 * lobe + 0.2 * r);
            *out = mixed(*out, lit, step(edge, edge - soft, r));
            *out = mixed(*out, scaled(eye, 1.1 - 0.5 * r / heart), step(heart, heart - soft, r));
        });
    }
}

/// Berries, seeds and grains: shaded bodies, round or long.
fn grains(scene: &mut Picture, rng: &mut Rng) {
    let (colour, other) = (against(scene, rng), any_colour(rng));
    let (count, size, long) = (rng.count(8, 45), rng.range(0.03, 0.08), rng.range(1.0, 2.6));
    let (light, seed) = (direction(rng.range(0.0, TAU)), rng.seed());
    for centre in scatter(count, rng) {
        let along = direction(rng.range(0.0, TAU));
        let radius = size * rng.range(0.75, 1.2);
        let body = scaled(mixed(colour, other, 0.3 * rng.unit()), rng.range(0.8, 1.2));
        let shade = (centre.0 - 0.35 * radius * light.0, centre.1 - 0.35 * radius * light.1);
        let shadow = Ellipse { centre: shade, axes: (long * radius, radius), along };
        shadow.fill(scene, |_, r, _, _, out| *out = scaled(*out, 1.0 - 0.5 * step(1.0, 0.6, r)));
        let grain = Ellipse { centre, axes: (long * radius, radius), along };
        grain.fill(scene, |_, r, inside, (u, v), out| {
            let facing = (u * along.0 - v * along.1) * light.0 + (u * along.1 + v * along.0) * light.1;
            let skin = 0.9 + 0.2 * octaves(u * 3.0 + 9.0, v * 3.0 + 9.0, seed, 2);
            let glint = 0.4 * step(0.35, 0.0, length(r - 0.4, 1.2 * (facing - 0.4)));
            let lit = scaled(body, skin * (0.85 + 0.4 * facing - 0.25 * r * r));
            *out = mixed(*out, [lit[0] + glint, lit[1] + glint, lit[2] + glint], inside);
        });
    }
}

fn insects(scene: &mut Picture, rng: &mut Rng) {
    if rng.chance(0.5) {
        super::any_leaf(scene, rng);
    }
    let count = if rng.chance(0.4) { rng.count(1, 2) } else { rng.count(3, 9) };
    for centre in scatter(count, rng) {
        let size = if count < 3 { rng.range(0.1, 0.22) } else { rng.range(0.045, 0.1) };
        clutter::insect(scene, centre, size, rng);
    }
}
