//! The visible signs of each disease, painted on the tissue of a leaf.

use crate::{
    exact::{floor, length},
    leaf::{Leaf, Tissue},
    marks::{Ellipse, blot},
    noise::{octaves, step, value},
    picture::{Picture, hsv, luma, mixed, scaled},
    rng::Rng,
};

/// Rust: many small raised orange pustules in yellow halos, in clusters and along veins.
pub(crate) fn rust(picture: &mut Picture, leaf: &Leaf, tissue: &Tissue, severity: f32, rng: &mut Rng) {
    let count = 5 + (80.0 * severity * severity) as usize + rng.count(0, 4);
    let hue = rng.range(15.0, 33.0);
    let size = rng.range(0.010, 0.019);
    let halo_opacity = rng.range(0.25, 0.75);
    let along_veins = rng.range(0.1, 0.8);
    let clusters: Vec<(f32, f32)> = (0..rng.count(1, 4)).map(|_| leaf.somewhere(rng)).collect();
    let clustered = rng.range(0.2, 0.8);
    for _ in 0..count {
        let (mut u, mut v) = if rng.chance(along_veins) { leaf.beside_vein(rng) } else { leaf.somewhere(rng) };
        if rng.chance(clustered) {
            let (cu, cv) = clusters[rng.count(0, clusters.len() - 1)];
            (u, v) = (cu + 0.07 * rng.normal(), cv + 0.05 * rng.normal());
        }
        let centre = leaf.place(u, v);
        let radius = leaf.length * size * rng.range(0.6, 1.5);
        let halo = hsv(rng.range(46.0, 60.0), rng.range(0.55, 0.8), rng.range(0.6, 0.85));
        Ellipse::disc(centre, radius * rng.range(2.0, 3.6)).fill(picture, |index, r, _, _, out| {
            *out = mixed(*out, halo, halo_opacity * step(1.0, 0.25, r) * tissue.cover(index));
        });
        let body = hsv(hue + rng.range(-5.0, 5.0), rng.range(0.75, 0.95), rng.range(0.5, 0.85));
        let along = crate::exact::direction(rng.range(0.0, 6.3));
        let pustule = Ellipse { centre, axes: (radius * rng.range(1.0, 1.5), radius), along };
        pustule.fill(picture, |index, r, inside, (_, y), out| {
            let lit = scaled(body, 1.05 - 0.3 * r - 0.2 * y);
            *out = mixed(*out, lit, 0.95 * inside * tissue.cover(index));
        });
    }
}

/// Blight: large dead brown areas that grow from the margin, ringed like a target, yellow at their front.
pub(crate) fn blight(picture: &mut Picture, leaf: &Leaf, tissue: &Tissue, severity: f32, rng: &mut Rng) {
    let areas = 1 + (rng.unit() * (0.6 + 2.6 * severity)) as usize;
    for _ in 0..areas {
        let u = rng.range(0.1, 1.0);
        let side = if rng.chance(0.5) { 1.0 } else { -1.0 };
        let v = side * leaf.half_width(u, side) * rng.range(0.75, 1.0);
        let radius = leaf.length * (0.075 + 0.2 * severity) * rng.range(0.75, 1.35);
        let dead = hsv(rng.range(20.0, 38.0), rng.range(0.35, 0.6), rng.range(0.2, 0.42));
        let pale = hsv(rng.range(28.0, 42.0), rng.range(0.25, 0.45), rng.range(0.4, 0.62));
        let front = hsv(rng.range(48.0, 66.0), rng.range(0.45, 0.7), rng.range(0.5, 0.75));
        let (rings, ring_depth) = (rng.range(2.5, 6.0), rng.range(0.25, 0.75));
        let (seed, grain) = (rng.seed(), rng.seed());
        let front_opacity = rng.range(0.3, 0.85);
        blot(picture, leaf.place(u, v), radius, seed, |index, depth, out| {
            let cover = tissue.cover(index);
            if cover == 0.0 {
                return;
            }
            let wave = depth * rings;
            let ring = (2.0 * (wave - floor(wave)) - 1.0).abs();
            let rough = value(index as f32 * 0.37, depth * 30.0, grain);
            let inside = mixed(dead, pale, ring_depth * ring + 0.2 * (rough - 0.5));
            let yellow = front_opacity * step(-0.38, 0.02, depth);
            *out = mixed(mixed(*out, front, yellow * cover), inside, 0.95 * step(-0.04, 0.06, depth) * cover);
        });
    }
}

/// Mildew: white powder in soft blotches that lies on the leaf and its veins.
pub(crate) fn mildew(picture: &mut Picture, leaf: &Leaf, tissue: &Tissue, severity: f32, rng: &mut Rng) {
    let count = 2 + (9.0 * severity) as usize + rng.count(0, 2);
    let tone = rng.range(0.72, 0.95);
    let powder = [tone, tone * rng.range(0.98, 1.01), tone * rng.range(0.92, 1.0)];
    let opacity = rng.range(0.35, 0.6) + 0.3 * severity;
    let grain = rng.seed();
    let fineness = rng.range(0.35, 0.6) * picture.size.min(160) as f32;
    for _ in 0..count {
        let (u, v) = leaf.somewhere(rng);
        let radius = leaf.length * rng.range(0.035, 0.08 + 0.09 * severity);
        let (seed, centre, thick) = (rng.seed(), leaf.place(u, v), rng.range(0.55, 1.0));
        let size = picture.size;
        blot(picture, centre, radius, seed, |index, depth, out| {
            let (x, y) = ((index % size) as f32 / size as f32, (index / size) as f32 / size as f32);
            let dust = octaves(x * fineness, y * fineness, grain, 2);
            let veil = step(-0.45, 0.55, depth) * (0.45 + 0.9 * step(0.3, 0.7, dust));
            *out = mixed(*out, powder, opacity * thick * veil.min(1.0) * tissue.cover(index));
        });
    }
}

/// Leaf spot: separate round dark spots, pale in the middle or haloed or both.
pub(crate) fn leaf_spot(picture: &mut Picture, leaf: &Leaf, tissue: &Tissue, severity: f32, rng: &mut Rng) {
    let count = 3 + (20.0 * severity * severity) as usize + rng.count(0, 3);
    let size = rng.range(0.02, 0.04);
    let rim = hsv(rng.range(5.0, 30.0), rng.range(0.35, 0.65), rng.range(0.08, 0.24));
    let middle = hsv(rng.range(30.0, 48.0), rng.range(0.08, 0.32), rng.range(0.55, 0.82));
    let halo = hsv(rng.range(50.0, 70.0), rng.range(0.5, 0.75), rng.range(0.55, 0.8));
    let is_pale = rng.chance(0.75);
    let halo_opacity = if !is_pale || rng.chance(0.4) { rng.range(0.3, 0.8) } else { 0.0 };
    let eye = if is_pale { rng.range(0.35, 0.65) } else { 0.0 };
    for _ in 0..count {
        let (u, v) = leaf.somewhere(rng);
        let radius = leaf.length * size * rng.range(0.6, 1.4);
        let spread = rng.range(1.4, 1.9);
        let along = crate::exact::direction(rng.range(0.0, 6.3));
        let axes = (radius * rng.range(0.85, 1.2), radius);
        let centre = leaf.place(u, v);
        let outer = Ellipse { centre, axes: (axes.0 * spread, axes.1 * spread), along };
        outer.fill(picture, |index, r, _, _, out| {
            *out = mixed(*out, halo, halo_opacity * step(1.0, 0.55, r) * tissue.cover(index));
        });
        Ellipse { centre, axes, along }.fill(picture, |index, r, inside, _, out| {
            let colour = mixed(middle, rim, if eye > 0.0 { step(eye - 0.15, eye + 0.15, r) } else { 1.0 });
            *out = mixed(*out, colour, 0.95 * inside * tissue.cover(index));
        });
    }
}

/// Mosaic: yellow and green mottling of the whole leaf, with the veins cleared or left green.
pub(crate) fn mosaic(picture: &mut Picture, leaf: &Leaf, tissue: &Tissue, severity: f32, rng: &mut Rng) {
    let yellow = hsv(rng.range(54.0, 74.0), rng.range(0.45, 0.7), rng.range(0.6, 0.85));
    let (seed, warp) = (rng.seed(), rng.seed());
    let scale = rng.range(6.0, 13.0);
    let strength = 0.22 + 0.55 * severity;
    let cut = rng.range(0.42, 0.56);
    let clearing = rng.range(-0.35, 0.7);
    let patch = leaf.somewhere(rng);
    let reach = 0.3 + 0.9 * severity;
    for (point, out) in tissue.points().iter().zip(&mut picture.pixels) {
        if point.cover == 0.0 {
            continue;
        }
        let bend = 0.6 * value(point.u * scale * 0.7, point.v * scale * 0.7, warp);
        let field = octaves(point.u * scale + bend, point.v * scale - bend, seed, 2);
        let here = step(reach, 0.5 * reach, length(point.u - patch.0, point.v - patch.1));
        let mottle = step(cut - 0.07, cut + 0.07, field) + clearing * point.vein;
        // Keep the light and shade of the leaf: only its colour turns.
        let shade = (luma(*out) / 0.32).clamp(0.6, 1.2);
        let turned = strength * here * mottle.clamp(0.0, 1.0);
        *out = mixed(*out, scaled(yellow, shade * 0.85), turned * point.cover);
        let dark = 0.18 * severity * here * step(cut + 0.02, cut - 0.15, field);
        *out = scaled(*out, 1.0 - dark * point.cover);
    }
}
