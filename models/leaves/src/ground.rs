//! What lies behind a leaf: soil, grass, boards, a plain sheet.

use crate::{
    exact::{direction, floor},
    noise::{cells, fraction, octaves, step, value},
    picture::{Colour, Picture, hsv, mixed, scaled},
    rng::Rng,
};

/// Paints a background of a kind drawn from `rng`.
pub(crate) fn ground(size: usize, rng: &mut Rng) -> Picture {
    match rng.count(0, 9) {
        0..=2 => soil(size, rng),
        3..=4 => grass(size, rng),
        5 => boards(size, rng),
        6 => foliage(size, rng),
        _ => plain(size, rng),
    }
}

pub(crate) fn soil(size: usize, rng: &mut Rng) -> Picture {
    let hue = rng.range(14.0, 42.0);
    let dark = hsv(hue, rng.range(0.25, 0.6), rng.range(0.10, 0.25));
    let light = hsv(hue + rng.range(-6.0, 8.0), rng.range(0.15, 0.5), rng.range(0.35, 0.6));
    let (seed, stones) = (rng.seed(), rng.seed());
    let (scale, stone_scale) = (rng.range(5.0, 12.0), rng.range(8.0, 22.0));
    let stone_share = rng.range(0.0, 0.5);
    Picture::paint(size, |x, y| {
        let clods = octaves(x * scale, y * scale, seed, 4);
        let mut colour = mixed(dark, light, step(0.25, 0.8, clods));
        let stone = cells(x * stone_scale, y * stone_scale, stones);
        if fraction(stone.id, 0) < stone_share {
            let inside = step(0.42, 0.3, stone.nearest);
            let tone = 0.6 + 0.9 * fraction(stone.id, 1) - 0.6 * stone.nearest;
            colour = mixed(colour, scaled(light, tone), inside);
        }
        colour
    })
}

pub(crate) fn grass(size: usize, rng: &mut Rng) -> Picture {
    let hue = rng.range(65.0, 120.0);
    let deep = hsv(hue + 10.0, rng.range(0.4, 0.7), rng.range(0.08, 0.2));
    let blade = hsv(hue, rng.range(0.3, 0.65), rng.range(0.3, 0.6));
    let straw = hsv(rng.range(40.0, 58.0), rng.range(0.25, 0.5), rng.range(0.4, 0.65));
    let dry = rng.range(0.0, 0.45);
    let layers: Vec<(f32, f32, u32, f32)> = (0..4)
        .map(|_| {
            let angle = rng.range(-0.9, 0.9) + std::f32::consts::FRAC_PI_2;
            let (c, s) = direction(angle);
            (c, s, rng.seed(), rng.range(16.0, 34.0))
        })
        .collect();
    let wave = rng.seed();
    Picture::paint(size, |x, y| {
        let bend = 0.06 * value(x * 4.0, y * 4.0, wave);
        let mut colour = deep;
        for (depth, &(c, s, seed, scale)) in layers.iter().enumerate() {
            let along = (x * c + y * s) * 3.0;
            let across = (y * c - x * s + bend) * scale;
            let tuft = value(across, along, seed);
            let blades = step(0.55, 0.72, tuft);
            if blades > 0.0 {
                let tone = 0.45 + 0.2 * depth as f32;
                let tip = mixed(blade, straw, dry * 2.0 * value(across * 0.9, along * 0.5, seed ^ 7));
                colour = mixed(colour, scaled(tip, tone), blades);
            }
        }
        colour
    })
}

pub(crate) fn boards(size: usize, rng: &mut Rng) -> Picture {
    let hue = rng.range(18.0, 40.0);
    let base = hsv(hue, rng.range(0.15, 0.55), rng.range(0.3, 0.7));
    let (c, s) = direction(rng.range(0.0, std::f32::consts::TAU));
    let (seed, width) = (rng.seed(), rng.range(1.5, 4.0));
    Picture::paint(size, |x, y| {
        let (along, across) = (x * c + y * s, y * c - x * s);
        let grain = octaves(along * 2.5, across * 28.0, seed, 3);
        let board = across * width;
        let gap = (board - floor(board + 0.5)).abs() * 2.0;
        let tone = 0.65 + 0.6 * grain;
        scaled(base, tone * step(0.0, 0.06, gap).max(0.3))
    })
}

/// Out-of-focus greenery: soft blotches of light and shade.
fn foliage(size: usize, rng: &mut Rng) -> Picture {
    let hue = rng.range(70.0, 130.0);
    let dark = hsv(hue, rng.range(0.3, 0.7), rng.range(0.05, 0.2));
    let light = hsv(hue + rng.range(-25.0, 10.0), rng.range(0.25, 0.6), rng.range(0.4, 0.75));
    let (seed, scale) = (rng.seed(), rng.range(3.0, 7.0));
    Picture::paint(size, |x, y| {
        let shade = octaves(x * scale, y * scale, seed, 2);
        mixed(dark, light, step(0.3, 0.75, shade))
    })
}

fn plain(size: usize, rng: &mut Rng) -> Picture {
    let colour: Colour = match rng.count(0, 3) {
        0 => hsv(rng.range(30.0, 60.0), rng.range(0.0, 0.12), rng.range(0.65, 0.95)),
        1 => hsv(rng.range(190.0, 240.0), rng.range(0.1, 0.5), rng.range(0.3, 0.7)),
        2 => hsv(rng.range(0.0, 360.0), rng.range(0.0, 0.15), rng.range(0.08, 0.3)),
        _ => hsv(rng.range(0.0, 360.0), rng.range(0.05, 0.3), rng.range(0.35, 0.65)),
    };
    let (c, s) = direction(rng.range(0.0, std::f32::consts::TAU));
    let (seed, fall, weave) = (rng.seed(), rng.range(0.0, 0.35), rng.range(0.0, 0.12));
    Picture::paint(size, |x, y| {
        let slope = 1.0 - fall * (0.5 + (x - 0.5) * c + (y - 0.5) * s);
        scaled(colour, slope * (1.0 + weave * (octaves(x * 40.0, y * 40.0, seed, 2) - 0.5)))
    })
}
