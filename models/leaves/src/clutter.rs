//! What befalls every leaf, sick or not: holes, dirt, insects, dew, sun flecks, shade.

use crate::{
    exact::direction,
    leaf::{Leaf, Tissue},
    marks::{Ellipse, blot, stroke},
    noise::{octaves, step},
    picture::{Picture, hsv, mixed, scaled},
    rng::Rng,
};
use std::f32::consts::TAU;

/// Spoils a leaf before or besides any disease; `beneath` is the scene without this leaf.
pub(crate) fn wear(picture: &mut Picture, beneath: &Picture, leaf: &Leaf, tissue: &Tissue, rng: &mut Rng) {
    if rng.chance(0.3) {
        yellowing(picture, tissue, rng);
    }
    if rng.chance(0.35) {
        holes(picture, beneath, leaf, tissue, rng);
    }
    if rng.chance(0.45) {
        dirt(picture, leaf, tissue, rng);
    }
    if rng.chance(0.2) {
        scar(picture, leaf, tissue, rng);
    }
}

/// Adds what lies on the leaf or falls on it after all else.
pub(crate) fn visit(picture: &mut Picture, leaf: &Leaf, tissue: &Tissue, rng: &mut Rng) {
    if rng.chance(0.3) {
        dew(picture, leaf, tissue, rng);
    }
    if rng.chance(0.25) {
        for _ in 0..rng.count(1, 3) {
            let (u, v) = leaf.somewhere(rng);
            insect(picture, leaf.place(u, v), rng.range(0.018, 0.05), rng);
        }
    }
    if rng.chance(0.25) {
        sun_flecks(picture, rng);
    }
    if rng.chance(0.3) {
        shade(picture, rng);
    }
}

/// A pale or yellow margin, as want of a nutrient or age gives.
fn yellowing(picture: &mut Picture, tissue: &Tissue, rng: &mut Rng) {
    let yellow = hsv(rng.range(48.0, 75.0), rng.range(0.4, 0.7), rng.range(0.45, 0.75));
    let (depth, strength, from_tip) = (rng.range(0.03, 0.2), rng.range(0.15, 0.6), rng.chance(0.4));
    for (point, out) in tissue.points().iter().zip(&mut picture.pixels) {
        if point.cover > 0.0 {
            let away = if from_tip { 1.0 - point.u } else { point.margin };
            *out = mixed(*out, yellow, strength * step(depth, 0.0, away) * point.cover);
        }
    }
}

fn holes(picture: &mut Picture, beneath: &Picture, leaf: &Leaf, tissue: &Tissue, rng: &mut Rng) {
    let rim = hsv(rng.range(25.0, 60.0), rng.range(0.3, 0.6), rng.range(0.2, 0.55));
    for _ in 0..rng.count(1, 5) {
        let (u, v) = leaf.somewhere(rng);
        let radius = leaf.length * rng.range(0.015, 0.06);
        let rim_width = rng.range(0.1, 0.5);
        blot(picture, leaf.place(u, v), radius, rng.seed(), |index, depth, out| {
            let cover = tissue.cover(index);
            *out = mixed(*out, rim, 0.7 * step(-rim_width, 0.0, depth) * cover);
            if let Some(&below) = beneath.pixels.get(index) {
                *out = mixed(*out, scaled(below, 0.75), step(0.0, 0.15, depth) * cover);
            }
        });
    }
}

/// Specks of soil: brown and grey like lesions, but ragged, unhaloed and strewn at random.
fn dirt(picture: &mut Picture, leaf: &Leaf, tissue: &Tissue, rng: &mut Rng) {
    let count = rng.count(2, 22);
    let colour = hsv(rng.range(15.0, 45.0), rng.range(0.2, 0.7), rng.range(0.12, 0.5));
    for _ in 0..count {
        let (u, v) = leaf.somewhere(rng);
        let radius = leaf.length * rng.range(0.006, 0.024);
        let opacity = rng.range(0.4, 0.95);
        blot(picture, leaf.place(u, v), radius, rng.seed(), |index, depth, out| {
            *out = mixed(*out, colour, opacity * step(-0.15, 0.2, depth) * tissue.cover(index));
        });
    }
}

/// A dry tear at the margin or a pale scratch.
fn scar(picture: &mut Picture, leaf: &Leaf, tissue: &Tissue, rng: &mut Rng) {
    if rng.chance(0.5) {
        let (u, v) = leaf.somewhere(rng);
        let to = leaf.place(u + rng.range(-0.2, 0.2), v + rng.range(-0.12, 0.12));
        let colour = hsv(rng.range(35.0, 60.0), rng.range(0.2, 0.5), rng.range(0.35, 0.7));
        stroke(picture, leaf.place(u, v), to, 0.012 * leaf.length, colour, rng.range(0.4, 0.9));
        return;
    }
    let dry = hsv(rng.range(28.0, 45.0), rng.range(0.3, 0.55), rng.range(0.35, 0.6));
    let (depth, seed) = (rng.range(0.008, 0.03), rng.seed());
    for (point, out) in tissue.points().iter().zip(&mut picture.pixels) {
        if point.cover > 0.0 && point.margin < 2.0 * depth {
            let uneven = depth * 2.0 * octaves(point.u * 9.0, point.v * 9.0, seed, 2);
            *out = mixed(*out, dry, 0.8 * step(uneven, 0.6 * uneven, point.margin) * point.cover);
        }
    }
}

fn dew(picture: &mut Picture, leaf: &Leaf, tissue: &Tissue, rng: &mut Rng) {
    let light = direction(rng.range(0.0, TAU));
    for _ in 0..rng.count(3, 24) {
        let (u, v) = leaf.somewhere(rng);
        let radius = leaf.length * rng.range(0.008, 0.03);
        drop(picture, leaf.place(u, v), radius, light, |index| tissue.cover(index));
    }
}

/// A drop of water: dark where it faces the light, bright opposite, with a glint.
pub(crate) fn drop(
    picture: &mut Picture,
    centre: (f32, f32),
    radius: f32,
    (lx, ly): (f32, f32),
    cover: impl Fn(usize) -> f32,
) {
    Ellipse::disc(centre, radius).fill(picture, |index, r, inside, (x, y), out| {
        let facing = x * lx + y * ly;
        let tone = 1.0 - 0.28 * facing - 0.15 * step(0.7, 1.0, r);
        *out = mixed(*out, scaled(*out, tone), inside * cover(index));
    });
    let glint = (centre.0 + 0.4 * radius * lx, centre.1 + 0.4 * radius * ly);
    Ellipse::disc(glint, 0.3 * radius).tint(picture, [1.0; 3], 0.9, cover);
}

/// A small animal of three body parts and six legs.
pub(crate) fn insect(picture: &mut Picture, centre: (f32, f32), size: f32, rng: &mut Rng) {
    let along = direction(rng.range(0.0, TAU));
    let dark = hsv(rng.range(0.0, 360.0), rng.range(0.0, 0.6), rng.range(0.03, 0.22));
    let body =
        if rng.chance(0.3) { hsv(rng.range(0.0, 110.0), rng.range(0.5, 0.9), rng.range(0.3, 0.75)) } else { dark };
    let at =
        |u: f32, v: f32| (centre.0 + size * (u * along.0 - v * along.1), centre.1 + size * (u * along.1 + v * along.0));
    for leg in [-0.35, 0.0, 0.35] {
        for side in [-1.0, 1.0] {
            let knee = at(leg * 1.6, side * 0.75);
            stroke(picture, at(leg, 0.0), knee, 0.09 * size, dark, 0.85);
        }
    }
    let wide = rng.range(0.3, 0.5);
    for (u, a, b, colour) in [(-0.5, 0.55, wide, body), (0.2, 0.32, 0.8 * wide, dark), (0.62, 0.2, 0.6 * wide, dark)] {
        let part = Ellipse { centre: at(u, 0.0), axes: (a * size, b * size), along };
        part.fill(picture, |_, r, inside, (_, y), out| {
            *out = mixed(*out, scaled(colour, 1.2 - 0.5 * r - 0.2 * y), inside);
        });
    }
}

/// Overexposed flecks of sun through leaves above.
pub(crate) fn sun_flecks(picture: &mut Picture, rng: &mut Rng) {
    let gain = rng.range(1.35, 2.1);
    for _ in 0..rng.count(1, 5) {
        let centre = (rng.unit(), rng.unit());
        let axes = (rng.range(0.03, 0.14), rng.range(0.03, 0.1));
        let along = direction(rng.range(0.0, TAU));
        Ellipse { centre, axes, along }.fill(picture, |_, r, _, _, out| {
            let bright = scaled(*out, gain);
            let lifted = [bright[0] + 0.05, bright[1] + 0.05, bright[2] + 0.03];
            *out = mixed(*out, lifted, step(1.0, 0.55, r));
        });
    }
}

/// Shadow of something out of sight.
pub(crate) fn shade(picture: &mut Picture, rng: &mut Rng) {
    let (seed, scale) = (rng.seed(), rng.range(1.5, 5.0));
    let (depth, cut) = (rng.range(0.25, 0.6), rng.range(0.45, 0.65));
    let side = picture.size;
    for (index, out) in picture.pixels.iter_mut().enumerate() {
        let (x, y) = ((index % side) as f32 / side as f32, (index / side) as f32 / side as f32);
        let field = octaves(x * scale, y * scale, seed, 2);
        *out = scaled(*out, 1.0 - depth * step(cut - 0.06, cut + 0.06, field));
    }
}
